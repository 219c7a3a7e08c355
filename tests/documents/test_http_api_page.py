"""docs/http-api.md: operations, their members, limits and examples, compared with the code."""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from state_api.app import openapi_document
from state_api.backends import azure_storage
from state_api.domain import names
from state_api.domain.readiness import evidence
from state_api.domain.readiness.reasons import REASON_DESCRIPTIONS
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.releases import waivers
from state_api.domain.releases.commands import SwapOutcome
from state_api.http import events, middleware, problems, requests
from state_api.http.responses.apps import PendingSwapResponse
from state_api.http.responses.history import TaskHubCleanupResponse
from state_api.http.responses.verdicts import MAX_LISTED_INSTANCES, ProbeResponse, VerdictResponse
from state_api.services import admission, cleanup, recording, verification
from state_api.settings import (
    DEFAULT_UNCLAIMED_TASK_HUBS,
)
from state_api.storage import quarantine, tables
from state_api.storage.unclaimed_limit import COUNT_MAX_AGE_SECONDS
from tests.documents.api_contract import operations, routes
from tests.documents.page_tables import (
    CODE,
    CONCEPTS,
    HTTP_API,
    each_page,
    read_first_column,
    read_section,
    read_table_rows,
    remove_markup,
)

_EXAMPLE_URL = re.compile(r"(?:http://127\.0\.0\.1:7071|https://\$HOST|\$server)(/api[^\s\"'?`]*)")
_EXAMPLE_BODY = re.compile(
    r"^(Request|Response) ?(?:\((\d{3})\))?[^\n]*:\n\n```json\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


def json_member(field: str) -> str:
    """The name of a Python field in JSON, which is in camel case."""
    first, *others = field.split("_")
    return first + "".join(word.title() for word in others)


def body_members(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> set[str]:
    """The members of an operation's request body, if OpenAPI names them."""
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    choices = [schema, *schema.get("anyOf", [])]
    named = [schemas[choice["$ref"].rpartition("/")[2]] for choice in choices if "$ref" in choice]
    return {name for schema in named for name in schema["properties"]}


def test_every_operation_is_documented_with_its_method_and_path_and_no_other(api: FastAPI) -> None:
    actual = {operation["operationId"]: f"{method} {path}" for path, method, operation in operations(api)}
    assert {
        remove_markup(cells[0]): remove_markup(cells[1])
        for cells in read_table_rows(HTTP_API, "Operations", "Operation")
    } == actual


def test_every_parameter_and_member_of_an_operation_is_documented_in_its_section_and_no_other(api: FastAPI) -> None:
    schemas = openapi_document(api)["components"]["schemas"]
    differences, headers = [], {"content-type"}
    for _, _, operation in operations(api):
        name, parameters = operation["operationId"], operation.get("parameters", [])
        text = read_section(HTTP_API, name)
        actual = {parameter["name"] for parameter in parameters if parameter["in"] != "header"}
        actual |= body_members(operation, schemas)
        headers |= {parameter["name"].lower() for parameter in parameters if parameter["in"] == "header"}
        differences += [f"{name} does not describe {member}" for member in sorted(actual - set(CODE.findall(text)))]
        for column in ("Parameter", "Member"):
            rows = read_table_rows(HTTP_API, name, column) if f"| {column} |" in text else []
            documented = {member for cells in rows for member in CODE.findall(cells[0])}
            differences += [f"{name} has no {member}" for member in sorted(documented - actual)]
    assert not differences
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
    cleanup_members = [cells[0].strip("`") for cells in read_table_rows(HTTP_API, "Cleanup", "Response member")]
    own_members = {json_member(field) for field in TaskHubCleanupResponse.model_fields} - {
        "taskHub",
        "version",
        "retiredAt",
    }
    assert {member.removeprefix("taskHubs[].") for member in cleanup_members} == own_members


def test_every_member_of_task_hubs_is_documented_and_no_other() -> None:
    known = {json_member(field) for field in requests.ProviderConfigRequest.model_fields}
    assert set(read_first_column(HTTP_API, "PutApp", "In `taskHubs`")) == known


def test_every_outcome_of_a_swap_and_every_member_of_a_pending_swap_is_documented_and_no_other() -> None:
    assert sorted(read_first_column(HTTP_API, "PostSwap", "Outcome")) == sorted(SwapOutcome)
    documented = {
        member
        for cells in read_table_rows(HTTP_API, "PostSwap", "In `pendingSwap`")
        for member in CODE.findall(cells[0])
    }
    assert documented == {json_member(field) for field in PendingSwapResponse.model_fields}


def test_the_documented_limits_and_table_names_are_those_of_the_code() -> None:
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


@each_page
def test_every_url_in_an_example_is_that_of_an_operation(page: Path, api: FastAPI) -> None:
    paths = [re.sub(r"\{\w+\}", "[^/]+", path) for path in openapi_document(api)["paths"]]
    urls = _EXAMPLE_URL.findall(page.read_text())
    assert [url for url in urls if not any(re.fullmatch(path, url) for path in paths)] == []


def test_every_example_of_a_request_or_a_response_matches_openapi(api: FastAPI) -> None:
    operation_routes = routes(api)
    checked_count = 0
    for name, route in operation_routes.items():
        for kind, status, text in _EXAMPLE_BODY.findall(read_section(HTTP_API, name)):
            if kind == "Request":
                model: Any = inspect.signature(route.endpoint).parameters["body"].annotation
            else:
                model = route.response_model if status == "200" else problems.Problem
            TypeAdapter(model).validate_json(text)
            checked_count += 1
    assert checked_count >= len(operation_routes)
