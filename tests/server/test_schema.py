"""Generated requests to every operation of a running server: no response is a 5xx, and OpenAPI describes every one."""

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
    """A running server without keys, for all tests of this module."""
    with run_server(storage, tmp_path_factory.mktemp("live")) as server:
        yield server


@pytest.fixture(scope="module")
def schema(server_process: ServerProcess) -> Any:
    """The operations of the running server, as its OpenAPI document describes them."""
    return schemathesis.openapi.from_url(f"{server_process.url}/api/openapi.json")


@pytest.mark.parametrize(
    ("mode", "method", "path"),
    [(VALID_REQUESTS, *operation) for operation in OPERATIONS]
    + [(INVALID_REQUESTS, *operation) for operation in OPERATIONS_WITH_INPUT],
)
def test_openapi_describes_every_response(
    schema: Any, mode: schemathesis.GenerationMode, method: str, path: str
) -> None:
    """The generated requests are those that OpenAPI allows, or those that it does not allow."""
    operation = schema[path][method.upper()]
    response_count = 0

    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=example_count(by_default=15, fuzz=100),
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    def send_generated_request(case: schemathesis.Case[Any]) -> None:
        """Send a request that the schema allows. The response must be one that the schema describes."""
        nonlocal response_count
        if isinstance((case.query or {}).get("wait"), int):
            # Each of these requests could wait up to two minutes.
            case.query["wait"] = 0
        # A request that the schema allows can still be refused: the slot may not exist, force may lack a reason.
        case.call_and_validate(timeout=60, excluded_checks=[positive_data_acceptance])
        response_count += 1

    send_generated_request()
    assert response_count
