"""Generated requests for every operation of the contract, against a live server: no 5xx, and no answer that its own
schema does not describe."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from harness.state_server import ServerProcess, run_server
from state_api.app import StateServer, openapi_document
from state_api.settings import StorageSettings, read_settings
from tests.hypothesis_profiles import example_count

DOCUMENT = openapi_document(StateServer(read_settings({"STATE_STORAGE": "UseDevelopmentStorage=true"})).api)
OPERATIONS = sorted((method, path) for path, operations in DOCUMENT["paths"].items() for method in operations)
OPERATIONS_WITH_INPUT = [
    (method, path)
    for method, path in OPERATIONS
    if "parameters" in DOCUMENT["paths"][path][method] or "requestBody" in DOCUMENT["paths"][path][method]
]
VALID_REQUESTS, INVALID_REQUESTS = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


@pytest.fixture(scope="module")
def server_process(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with run_server(storage, tmp_path_factory.mktemp("live")) as served:
        yield served


@pytest.fixture(scope="module")
def schema(server_process: ServerProcess) -> Any:
    """The contract as the server shows it."""
    return schemathesis.openapi.from_url(f"{server_process.url}/api/openapi.json")


@pytest.mark.parametrize(
    ("mode", "method", "path"),
    [(VALID_REQUESTS, *operation) for operation in OPERATIONS]
    + [(INVALID_REQUESTS, *operation) for operation in OPERATIONS_WITH_INPUT],
)
def test_every_answer_is_one_that_the_contract_describes(
    schema: Any, mode: schemathesis.GenerationMode, method: str, path: str
) -> None:
    """With requests that keep to the contract, and with ones that break it."""
    operation = schema[path][method.upper()]
    answered = 0

    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=example_count(by_default=15, fuzz=100),
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    def every_case(case: schemathesis.Case[Any]) -> None:
        nonlocal answered
        if isinstance((case.query or {}).get("wait"), int):
            # Allowed, but up to two minutes each.
            case.query["wait"] = 0
        # That a request keeps to the schema is not enough: slots must exist, tokens come from the server, force needs
        # a reason.
        case.call_and_validate(timeout=60, excluded_checks=[positive_data_acceptance])
        answered += 1

    every_case()
    assert answered
