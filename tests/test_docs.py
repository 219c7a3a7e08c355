"""Compares the tables, limits, examples and links of the documentation with the code."""

import ast
import asyncio
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import SecretStr, TypeAdapter

from state_api import __main__ as command
from state_api.app import StateServer, openapi_document
from state_api.backends import azure_storage, scheduler_connection
from state_api.backends.registry import PROVIDERS
from state_api.domain import names
from state_api.domain.errors import StateError
from state_api.domain.readiness import evidence, plan
from state_api.domain.readiness.plan import VerificationMode
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.reasons import REASON_DESCRIPTIONS
from state_api.domain.releases import waivers
from state_api.domain.releases.apps import ProviderConfig
from state_api.domain.releases.commands import SwapOutcome
from state_api.domain.task_hubs import reconciliation
from state_api.http import events, middleware, problems, requests
from state_api.http.auth import ANONYMOUS_PATHS
from state_api.http.responses.apps import PendingSwapResponse, PolicyResponse
from state_api.http.responses.history import TaskHubCleanupResponse
from state_api.http.responses.verdicts import MAX_LISTED_INSTANCES, ProbeResponse, VerdictResponse
from state_api.services import admission, background, cleanup, probe_leases, recording, verification
from state_api.services.cleanup import CleanupOutcome
from state_api.services.event_parser import QUARANTINE_CODES
from state_api.serving import connections, log_limit
from state_api.settings import (
    DEFAULT_UNCLAIMED_TASK_HUBS,
    DOCUMENTED_SETTINGS,
    PUBLISHED_KEYS,
    AccessKey,
    Role,
    Settings,
    SettingsError,
    StorageSettings,
    TaskHubConnections,
    read_settings,
    sha256_of,
)
from state_api.settings import emulator_connection_string as connection
from state_api.storage import quarantine, tables
from state_api.storage.unclaimed_limit import COUNT_MAX_AGE_SECONDS
from tests.documents.page_tables import (
    CODE,
    FENCE,
    PAGES,
    ROOT,
    each_page,
    list_make_targets,
    read_first_column,
    read_section,
    read_table_rows,
    remove_markup,
)

CONTRIBUTING = ROOT / "CONTRIBUTING.md"
ARCHITECTURE, HTTP_API, SETTINGS, REASON_CODES, CONCEPTS, AZURE, OPERATIONS, SECURITY = (
    ROOT / "docs" / f"{name}.md"
    for name in ("architecture", "http-api", "settings", "reasons", "concepts", "azure", "operations", "security")
)

EN_DASH = "\N{EN DASH}"
ADDRESS = re.compile(r"(?:http://127\.0\.0\.1:7071|https://\$HOST|\$server)(/api[^\s\"'?`]*)")
EXAMPLE = re.compile(r"^(Request|Response) ?(?:\((\d{3})\))?[^\n]*:\n\n```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def api() -> FastAPI:
    """The application. No test sends a request, so its storage need not exist."""
    storage = StorageSettings(connection_string=SecretStr(connection("127.0.0.1", 1)))
    return StateServer(Settings(storage=storage)).api


def routes(api: FastAPI) -> dict[str, APIRoute]:
    """The routes of the operations, by operation id."""
    all_routes = [context.original_route for context in iter_route_contexts(api.routes)]
    by_operation = {
        route.operation_id: route for route in all_routes if isinstance(route, APIRoute) and route.operation_id
    }
    assert by_operation.keys() == {operation["operationId"] for _, _, operation in operations(api)}
    return by_operation


def operations(api: FastAPI) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, method and OpenAPI description of each operation."""
    for path, methods in openapi_document(api)["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


class RecordingEnvironment(dict[str, str]):
    """An environment that records the names of the variables that are read."""

    def __init__(self, **variables: str) -> None:
        super().__init__(variables)
        self.requested: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.requested.add(key)
        return super().get(key, default)


def test_every_setting_is_documented_and_no_other() -> None:
    empty, sufficient = RecordingEnvironment(), RecordingEnvironment(STATE_STORAGE="UseDevelopmentStorage=true")
    with pytest.raises(SettingsError):
        read_settings(empty)
    read_settings(sufficient)
    actual = empty.requested | sufficient.requested | set(DOCUMENTED_SETTINGS)
    assert sorted(read_first_column(SETTINGS, "Environment", "Setting")) == sorted(actual)


def test_every_sample_key_is_one_that_servers_refuse() -> None:
    """A server that others reach must not start with a key from the documentation."""
    texts = [page.read_text() for page in (*PAGES, *ROOT.glob("*/README.md"), *ROOT.glob("*.example.json"))]
    digests = {match for text in texts for match in re.findall(r'"sha256": *"([0-9a-fA-F]{64})"', text)}
    keys = {match for text in texts for match in re.findall(r'"role": *"\w+", *"key": *"([^"]+)"', text)}
    assert digests | keys
    assert {*digests, *map(sha256_of, keys)} <= PUBLISHED_KEYS


def test_every_provider_is_documented_and_no_other() -> None:
    assert read_first_column(HTTP_API, "PutApp", "Provider") == list(PROVIDERS)
    assert read_first_column(CONCEPTS, "Providers", "Provider") == list(PROVIDERS)
    assert set(read_first_column(SETTINGS, "Task hubs", "Provider")) == set(PROVIDERS)
    assert set(read_first_column(AZURE, "Verification", "Provider")) == {"any", *PROVIDERS}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_part_of_a_task_hubs_setting_is_documented_and_no_other(provider: str) -> None:
    required = {
        "azureStorage": {"NAME__accountName": "shopdurable"},
        "scheduler": {"NAME": "Endpoint=http://localhost:8080;Authentication=None"},
        "managementApi": {"NAME__endpoint": "https://shop.example", "NAME__key": "0123456789abcdef"},
    }
    environment = RecordingEnvironment(**required[provider])
    connections = TaskHubConnections({})
    connections._environment = environment
    PROVIDERS[provider](connections, ProviderConfig(provider, "NAME"))
    parts = [
        remove_markup(cells[1])
        for cells in read_table_rows(SETTINGS, "Task hubs", "Provider")
        if remove_markup(cells[0]) == provider
    ]
    assert sorted(parts) == sorted(environment.requested)


def test_every_part_of_the_schedulers_connection_string_is_documented_and_no_other() -> None:
    (cells,) = [
        cells for cells in read_table_rows(SETTINGS, "Task hubs", "Part") if remove_markup(cells[0]) == "Authentication"
    ]
    assert CODE.findall(cells[1]) == list(scheduler_connection.AUTHENTICATION_TYPES)
    parts = {part.lower() for cell in read_first_column(SETTINGS, "Task hubs", "Part") for part in cell.split(", ")}
    parsed = re.findall(r"""options(?:\.get\(|\[)"(\w+)\"""", inspect.getsource(scheduler_connection))
    assert parts == {"endpoint", "authentication", *parsed}


def test_every_command_line_argument_is_documented_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["serve", "--help"])
    arguments = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert set(read_first_column(SETTINGS, "Command line", "Argument")) == arguments


def test_every_exit_code_is_documented_and_no_other() -> None:
    tree = ast.parse(inspect.getsource(command.main))
    returned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value is not None]
    values = [inner for value in returned for inner in ast.walk(value)]
    codes = {value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, int)}
    codes |= {vars(command)[value.id] for value in values if isinstance(value, ast.Name) and value.id.isupper()}
    assert {int(code) for code in read_first_column(SETTINGS, "Exit codes", "Exit code")} == codes


def test_every_operation_is_documented_with_its_method_and_path_and_no_other(api: FastAPI) -> None:
    actual = {operation["operationId"]: f"{method} {path}" for path, method, operation in operations(api)}
    assert {
        remove_markup(cells[0]): remove_markup(cells[1])
        for cells in read_table_rows(HTTP_API, "Operations", "Operation")
    } == actual


def test_every_parameter_and_member_of_an_operation_is_documented_in_its_section_and_no_other(api: FastAPI) -> None:
    schemas = openapi_document(api)["components"]["schemas"]
    wrong, headers = [], {"content-type"}
    for _, _, operation in operations(api):
        name, parameters = operation["operationId"], operation.get("parameters", [])
        text = read_section(HTTP_API, name)
        actual = {parameter["name"] for parameter in parameters if parameter["in"] != "header"}
        actual |= body_members(operation, schemas)
        headers |= {parameter["name"].lower() for parameter in parameters if parameter["in"] == "header"}
        wrong += [f"{name} does not describe {member}" for member in sorted(actual - set(CODE.findall(text)))]
        for first in ("Parameter", "Member"):
            rows = read_table_rows(HTTP_API, name, first) if f"| {first} |" in text else []
            documented = {member for cells in rows for member in CODE.findall(cells[0])}
            wrong += [f"{name} has no {member}" for member in sorted(documented - actual)]
    assert not wrong
    assert {name.lower() for name in read_first_column(HTTP_API, "Headers", "Header")} == headers


def test_every_verification_mode_is_documented_and_no_other() -> None:
    assert sorted(read_first_column(HTTP_API, "GetStagingStatus", "`verify`")) == sorted(VerificationMode)


def test_every_status_of_a_probe_is_documented_with_its_reason_and_no_other() -> None:
    documented = {
        remove_markup(cells[0]): set(CODE.findall(cells[2]))
        for cells in read_table_rows(HTTP_API, "GetStagingStatus", "Status")
    }
    assert list(documented) == list(evidence.ProbeStatus)
    assert set().union(*documented.values()) == {
        reason for reason in REASON_DESCRIPTIONS if reason.startswith(("Probe", "TaskHub")) and reason != "ProbePending"
    }


def test_every_member_of_a_verdict_is_documented_and_no_other() -> None:
    documented = {
        member
        for cells in read_table_rows(CONCEPTS, "The verdict", "Field")
        for member in CODE.findall(cells[0] if remove_markup(cells[0]) != "activeCount" else " ".join(cells))
    }
    known = {json_member(field) for field in VerdictResponse.model_fields}
    assert documented <= known
    assert known - documented == {"app", "slot", "taskHub", "version", "checkedAt"}
    last_parts = {
        member.rpartition(".")[2] for member in read_first_column(HTTP_API, "GetStagingStatus", "Response member")
    }
    assert {json_member(field) for field in ProbeResponse.model_fields} <= last_parts
    of_cleanup = [cells[0].strip("`") for cells in read_table_rows(HTTP_API, "Cleanup", "Response member")]
    own = {json_member(field) for field in TaskHubCleanupResponse.model_fields} - {"taskHub", "version", "retiredAt"}
    assert {member.removeprefix("taskHubs[].") for member in of_cleanup} == own


def test_every_member_of_task_hubs_is_documented_and_no_other() -> None:
    known = {json_member(field) for field in requests.ProviderConfigRequest.model_fields}
    assert set(read_first_column(HTTP_API, "PutApp", "In `taskHubs`")) == known


def test_every_outcome_of_a_swap_and_every_member_of_a_pending_one_is_documented_and_no_other() -> None:
    assert sorted(read_first_column(HTTP_API, "PostSwap", "Outcome")) == sorted(SwapOutcome)
    documented = {
        member
        for cells in read_table_rows(HTTP_API, "PostSwap", "In `pendingSwap`")
        for member in CODE.findall(cells[0])
    }
    assert documented == {json_member(field) for field in PendingSwapResponse.model_fields}


def json_member(field: str) -> str:
    """The name of a field in JSON."""
    first, *others = field.split("_")
    return first + "".join(word.title() for word in others)


def body_members(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> set[str]:
    """The members of an operation's request body, if OpenAPI names them."""
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    choices = [schema, *schema.get("anyOf", [])]
    named = [schemas[choice["$ref"].rpartition("/")[2]] for choice in choices if "$ref" in choice]
    return {name for schema in named for name in schema["properties"]}


def test_the_table_of_roles_says_what_each_role_may_do(api: FastAPI) -> None:
    actual: dict[str, list[str]] = {}
    for name, route in routes(api).items():
        may = ["yes" if is_allowed(route, role) else "no" for role in Role]
        actual[name] = [*may, "yes" if route.path in ANONYMOUS_PATHS else "no"]
    table = read_section(SETTINGS, "Keys and roles")
    header = next(line for line in table.splitlines() if line.startswith("| Operation"))
    assert [remove_markup(cell.strip()) for cell in header.strip("|").split("|")][1:] == [*Role, "no key"]
    assert {
        remove_markup(cells[0]): cells[1:] for cells in read_table_rows(SETTINGS, "Keys and roles", "Operation")
    } == actual


def is_allowed(route: APIRoute, role: Role) -> bool:
    key = AccessKey(name="test", role=role, sha256="0" * 64)
    request = Request({"type": "http", "state": {"key": key}})
    try:
        for dependency in route.dependencies:
            assert dependency.dependency is not None
            asyncio.run(dependency.dependency(request))
    except problems.Forbidden:
        return False
    return True


def test_every_reason_code_is_documented_and_no_other() -> None:
    assert read_first_column(REASON_CODES, "Reason codes", "Code") == [reason.value for reason in REASON_DESCRIPTIONS]


def test_every_problem_code_is_documented_and_no_other() -> None:
    assert sorted(read_first_column(REASON_CODES, "Problem codes", "Code")) == sorted(problems.PROBLEM_CODES)
    assert sorted(read_first_column(HTTP_API, "Problems", "Code")) == sorted(problems.PROBLEM_CODES)


def test_every_problem_is_documented_with_its_status() -> None:
    documented = {remove_markup(cells[0]): int(cells[1]) for cells in read_table_rows(HTTP_API, "Problems", "Code")}
    actual = {
        error_class.__name__: problems.problem_from_error(error_class("")).status_code
        for error_class in error_classes(StateError)
    }
    assert {code: status for code, status in documented.items() if code in actual} == {
        code: status for code, status in actual.items() if code in documented
    }
    assert actual.keys() - documented.keys() == {"Refused", "Unavailable"}


def error_classes(base: type[StateError]) -> Iterator[type[StateError]]:
    """The subclasses of `base` in the server, without those that other tests define."""
    for child in base.__subclasses__():
        if child.__module__.startswith("state_api."):
            yield child
            yield from error_classes(child)


def test_every_quarantine_code_is_documented_and_no_other() -> None:
    assert read_first_column(REASON_CODES, "Quarantine codes", "Code") == list(QUARANTINE_CODES)


def test_every_outcome_of_cleanup_is_documented_and_no_other() -> None:
    assert sorted(read_first_column(REASON_CODES, "Cleanup outcomes", "Outcome")) == sorted(CleanupOutcome)
    assert sorted(read_first_column(CONCEPTS, "Retire and cleanup", "Outcome")) == sorted(CleanupOutcome)


def test_the_limits_and_tables_that_the_documentation_names_are_the_real_ones() -> None:
    limits = {remove_markup(cells[0]): cells[1] for cells in read_table_rows(HTTP_API, "Limits", "What")}
    assert limits["body of PostEvents"] == f"{middleware.MAX_EVENTS_BODY_BYTES} bytes"
    assert limits["any other body"] == f"{middleware.MAX_BODY_BYTES} bytes"
    assert limits["time for a body to arrive"] == f"{middleware.BODY_TIMEOUT_SECONDS} seconds"
    assert limits["pause in a body"] == f"{middleware.BODY_STALL_TIMEOUT_SECONDS} seconds"
    assert limits["deliveries being recorded at the same time"].startswith(f"{admission.CAPACITY_BYTES} bytes")
    shared = f"unfinished deliveries, counted beyond {admission.SMALL_DELIVERY_BYTES} bytes each"
    assert limits[shared] == f"{admission.CAPACITY_BYTES // 2} bytes"
    assert limits["events in one delivery"] == str(events.MAX_EVENTS)
    assert limits["time to read a task hub for one request"] == f"{verification.PROBE_TIMEOUT_SECONDS:g} seconds"
    assert limits["time to read and delete task hubs in one Cleanup"] == f"{cleanup._CLEANUP_TIMEOUT_SECONDS:g} seconds"
    assert limits["events that one PurgeQuarantine removes"] == str(quarantine.MAX_PURGED_EVENTS)
    assert limits["time to find the events of one PurgeQuarantine"] == f"{quarantine.PURGE_TIMEOUT_SECONDS:g} seconds"
    assert (
        limits["time to record events from quarantine in one request"] == f"{recording._REPLAY_TIMEOUT_SECONDS} seconds"
    )
    unclaimed = read_section(CONCEPTS, "Unclaimed task hubs")
    assert f"`STATE_UNCLAIMED_TASK_HUBS` ({DEFAULT_UNCLAIMED_TASK_HUBS})" in unclaimed
    assert f"every {COUNT_MAX_AGE_SECONDS:g} seconds at most" in unclaimed
    assert f"longer than {recording._REPLAY_TIMEOUT_SECONDS} seconds" in unclaimed
    assert f"longer than {recording._MAX_WAITING_EVENT_CHARACTERS // 1024} KiB" in read_section(
        HTTP_API, "ListQuarantine"
    )
    assert limits["active instances that a verdict counts"] == str(evidence.ACTIVE_LIMIT)
    assert limits["active instances that a verdict lists"] == str(MAX_LISTED_INSTANCES)
    assert limits["unexpired waivers of one app"] == str(waivers.MAX_WAIVERS)
    assert limits["duration of a waiver"] == f"{waivers.MAX_WAIVER_DAYS} days"
    assert limits["instance id"] == f"{names.MAX_INSTANCE_ID_LENGTH} characters"
    documented = read_section(CONCEPTS, "Waivers")
    assert f"at most {waivers.MAX_WAIVER_DAYS} days" in documented
    assert f"at most {waivers.MAX_WAIVERS} waivers" in documented
    assert f"`{azure_storage.DEFAULT_TRACKING_PREFIX}`" in read_section(HTTP_API, "PutApp")
    stored = [tables.APPS_TABLE, tables.TASK_HUBS_TABLE, tables.QUARANTINE_TABLE, tables.instance_table_name("…")]
    assert read_first_column(CONCEPTS, "What is stored", "Table") == stored


def test_the_limits_of_the_server_outside_azure_are_the_real_ones() -> None:
    limits = {remove_markup(cells[0]): cells[1] for cells in read_table_rows(SETTINGS, "Connections and log", "What")}
    others = connections._ACCEPTED_DESCRIPTORS + connections.OTHER_DESCRIPTORS
    assert limits["open connections"].startswith(f"{connections.MAX_CONNECTIONS}, or the limit on open files")
    assert f"minus {others} if that is less" in limits["open connections"]
    assert limits["connections that wait to be accepted"] == str(connections.BACKLOG)
    assert limits["time for a request head"].startswith(f"{connections.HEAD_TIMEOUT_SECONDS:g} seconds")
    assert limits["time in which no byte of a response is read"] == f"{connections.UNREAD_TIMEOUT_SECONDS:g} seconds"
    assert limits["log lines of one kind"].startswith(f"{log_limit.MAX_MESSAGES_PER_WINDOW} a minute")


def test_the_times_of_verification_that_the_documentation_names_are_the_real_ones() -> None:
    second = 10_000_000
    assert {remove_markup(cells[0]): cells[1] for cells in read_table_rows(CONCEPTS, "In the background", "What")} == {
        "one request reads a task hub for at most": f"{verification.PROBE_TIMEOUT_SECONDS:g} s",
        "one Cleanup reads and deletes for at most": f"{cleanup._CLEANUP_TIMEOUT_SECONDS:g} s",
        "time between two rounds in the background": f"{background.INTERVAL_SECONDS} s",
        "one round in the background reads task hubs for at most": f"{background._ROUND_TIMEOUT_SECONDS:g} s",
        "a published start that the task hub does not show blocks, where messages cannot be seen, for at most": (
            f"{reconciliation.START_GRACE_PERIOD // second} s"
        ),
        "clocks of workers and storage may differ by": f"{reconciliation.CLOCK_SKEW // second} s",
        "a task hub that takes longer to read is not read again from the beginning for every request": (
            f"{plan.LARGE_HUB_READ_SECONDS:g} s"
        ),
    }
    assert f"for up to {probe_leases.LEASE_DURATION_SECONDS} s: a request" in read_section(
        CONCEPTS, "In the background"
    )
    assert probe_leases.LEASE_DURATION_SECONDS < 15, "a server that is killed delays the next reader by at most 15 s"
    timer = read_section(OPERATIONS, "The timer")
    (schedule,) = re.findall(r'timer_trigger\(schedule="([^"]+)"', (ROOT / "function_app.py").read_text())
    assert schedule == f"*/{background.INTERVAL_SECONDS} * * * * *"
    assert f"every {background.INTERVAL_SECONDS} seconds (`{schedule}`)" in timer
    assert f"at most {background._ROUND_TIMEOUT_SECONDS:g} seconds" in timer
    host = json.loads((ROOT / "host.json").read_text())
    assert f'`"functionTimeout": "{host["functionTimeout"]}"`' in timer


def test_the_policy_is_documented_with_its_defaults_and_ranges() -> None:
    default = PolicyResponse.of(Policy()).model_dump(by_alias=True)
    default |= {f"retention.{name}": value for name, value in default.pop("retention").items()}
    documented = {remove_markup(cells[0]): cells for cells in read_table_rows(CONCEPTS, "Policy", "Member")}
    formatted = {name: "none" if value == [] else json.dumps(value) for name, value in default.items()}
    assert {name: cells[1] for name, cells in documented.items()} == formatted
    schema = requests.PolicyRequest.model_json_schema()
    properties = schema["properties"]
    properties |= {
        f"retention.{name}": member for name, member in schema["$defs"]["RetentionRequest"]["properties"].items()
    }
    numbers = {name: member["anyOf"][0] for name, member in properties.items() if "anyOf" in member}
    ranges = {
        name: f"{number['minimum']}{EN_DASH}{number['maximum']}"
        for name, number in numbers.items()
        if "minimum" in number
    }
    assert {name: cells[2] for name, cells in documented.items() if EN_DASH in cells[2]} == ranges
    assert documented["ignoreFunctions"][2] == f"up to {numbers['ignoreFunctions']['maxItems']}"


def test_every_operation_that_needs_a_key_is_allowed_to_one_of_the_keys_of_the_azure_guide(api: FastAPI) -> None:
    roles = {remove_markup(cells[1]) for cells in read_table_rows(AZURE, "Keys", "Caller")}
    assert set(re.findall(r"safe-deploy keys new .*--role (\w+)", read_section(AZURE, "Keys"))) == roles
    keyed = {name: route for name, route in routes(api).items() if route.path not in ANONYMOUS_PATHS}
    assert [name for name, route in keyed.items() if not any(is_allowed(route, Role(role)) for role in roles)] == []


def test_the_security_headers_that_the_documentation_names_are_the_real_ones() -> None:
    documented = {
        remove_markup(cells[0]): remove_markup(cells[1]) for cells in read_table_rows(SECURITY, "Headers", "Header")
    }
    assert documented == middleware.security_headers("https")


def test_every_test_that_the_threat_model_points_at_exists() -> None:
    named = {path for path in CODE.findall(SECURITY.read_text()) if path.startswith("tests/")}
    assert named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_a_stolen_key_is_described_for_every_role() -> None:
    assert set(Role) <= set(read_first_column(SECURITY, "A stolen key", "Key of"))


def test_every_make_target_is_documented_and_no_other() -> None:
    assert set(read_first_column(CONTRIBUTING, "Make targets", "Target")) == {
        f"make {name}" for name in list_make_targets()
    }


@each_page
def test_every_address_in_an_example_is_one_of_the_contract(page: Path, api: FastAPI) -> None:
    paths = [re.sub(r"\{\w+\}", "[^/]+", path) for path in openapi_document(api)["paths"]]
    addresses = ADDRESS.findall(page.read_text())
    assert [address for address in addresses if not any(re.fullmatch(path, address) for path in paths)] == []


def test_every_example_of_a_request_or_a_response_matches_openapi(api: FastAPI) -> None:
    known = routes(api)
    checked = 0
    for name, route in known.items():
        for kind, status, text in EXAMPLE.findall(read_section(HTTP_API, name)):
            if kind == "Request":
                model: Any = inspect.signature(route.endpoint).parameters["body"].annotation
            else:
                model = route.response_model if status == "200" else problems.Problem
            TypeAdapter(model).validate_json(text)
            checked += 1
    assert checked >= len(known)


def test_every_key_in_the_example_of_the_settings_is_one() -> None:
    (example,) = [
        body for language, body in FENCE.findall(read_section(SETTINGS, "Keys and roles")) if language == "json"
    ]
    environment = {"STATE_STORAGE": "UseDevelopmentStorage=true", "STATE_KEYS": example}
    assert {key.role for key in read_settings(environment).keys} == set(Role)


def test_every_path_that_the_architecture_names_exists() -> None:
    named = {path for path in CODE.findall(ARCHITECTURE.read_text()) if "/" in path or path.endswith(".py")}
    under_root = {path if (ROOT / path).exists() else f"state_api/{path}" for path in named}
    assert len(named) > 20
    assert sorted(path for path in under_root if not (ROOT / path).exists()) == []
