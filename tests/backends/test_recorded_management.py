"""The backend `managementApi` on every recorded response of the real extension, and the fake function app compared with
them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from state_api.backends.management_api import ManagementApiBackend
from state_api.domain.task_hubs.observations import ObservedInstance
from tests import recordings
from tests.backends.fake_function_app import (
    API_PATH,
    SYSTEM_KEY,
    FakeFunctionApp,
    fail_if_the_key_is_logged,
    function_app,
    open_management_backend,
    serve_http,
)
from tests.backends.test_recorded_rows import ACTIVE_BY_SNAPSHOT

__all__ = ["fail_if_the_key_is_logged", "function_app"]  # fixtures

pytestmark = pytest.mark.anyio

CONTINUATION_HEADER = "x-ms-continuation-token"
RECORDED_READS = [recorded for recorded in recordings.read_lines("management") if recorded["method"] == "GET"]


def parse_query(recorded: dict[str, Any]) -> dict[str, str]:
    """The query parameters of a recorded request."""
    return dict(parse_qsl(urlsplit(recorded["path"]).query))


def parse_path(recorded: dict[str, Any]) -> str:
    return urlsplit(str(recorded["path"])).path


RECORDED_LISTS = [
    recorded
    for recorded in RECORDED_READS
    if parse_path(recorded) == "/instances" and recorded["hub"] == recordings.HUB
]
ALL_INSTANCES = next(
    recorded["body"]
    for recorded in RECORDED_LISTS
    if "top" not in parse_query(recorded) and "instanceIdPrefix" not in parse_query(recorded)
)
"""All instances as the API listed them at the end of the recording. `timer-long` was still running."""


async def respond_as_recorded(request: web.Request) -> web.StreamResponse:
    """Answer with the recorded response: a page of active instances, the list by time, or a single instance. The list
    by prefix is empty unless that prefix was recorded."""
    query = request.query
    path = request.raw_path.partition("?")[0].removeprefix(API_PATH)
    # HTTP removes the blank at the end of a token.
    token = request.headers.get(CONTINUATION_HEADER, "")
    for recorded in RECORDED_READS:
        recorded_query = parse_query(recorded)
        if recorded_query["taskHub"] != query["taskHub"] or parse_path(recorded) != path:
            continue
        has_other_status = ("runtimeStatus" in recorded_query) != ("runtimeStatus" in query)
        if path == "/instances" and (
            (recorded_query["taskHub"] == recordings.HUB and has_other_status)
            or recorded_query.get("instanceIdPrefix") != query.get("instanceIdPrefix")
            or recorded["requestHeaders"].get(CONTINUATION_HEADER, "").strip() != token
            or recorded_query.get("top") == "3"
        ):
            continue
        headers = {name: value for name, value in recorded["headers"].items() if name.lower() == CONTINUATION_HEADER}
        if not isinstance(recorded["body"], dict | list):
            return web.Response(status=recorded["status"])
        return web.json_response(recorded["body"], status=recorded["status"], headers=headers)
    assert "instanceIdPrefix" in query, f"no response to {request.path_qs} was recorded"
    return web.json_response([], headers={CONTINUATION_HEADER: ""})


@asynccontextmanager
async def open_backend_of_recordings() -> AsyncIterator[ManagementApiBackend]:
    """Open a backend whose app answers with the recorded responses."""
    async with (
        serve_http(respond_as_recorded) as origin,
        open_management_backend(origin, storage_connection="Storage") as backend,
    ):
        yield backend


async def scan(backend: ManagementApiBackend, hub: str) -> list[ObservedInstance]:
    """The instances that a whole scan reads, the oldest cursor first."""
    start = await backend.begin_scan(hub)
    cursors, instances = list(start.cursors), list[ObservedInstance]()
    while cursors:
        page = await backend.read_page(hub, start.changed_since, cursors.pop(0))
        instances += page.instances
        cursors += page.cursors
    return instances


async def test_the_recorded_pages_show_what_was_active() -> None:
    """The pages follow tokens with a trailing blank, and contain an entity."""
    async with open_backend_of_recordings() as backend:
        instances = await scan(backend, recordings.HUB)
    active = {observed.instance_id: str(observed.runtime_status) for observed in instances if observed.active}
    assert active == ACTIVE_BY_SNAPSHOT["odd ids running", recordings.HUB]
    orchestrations = {instance["instanceId"] for instance in ALL_INSTANCES if instance["instanceId"][0] != "@"}
    assert {observed.instance_id for observed in instances} == orchestrations


async def test_the_recorded_list_of_a_nonexistent_task_hub_is_empty() -> None:
    async with open_backend_of_recordings() as backend:
        assert await scan(backend, "Nonexistent") == []


@pytest.mark.parametrize(
    ("instance_id", "status"),
    [
        ("chain-3", "Completed"),
        ("launched", "Completed"),
        ("large", "Completed"),
        ("it's", "Running"),
        ("日本語", "Running"),
        ("eternal-5", "Completed"),
    ],
)
async def test_a_recorded_instance_is_found_by_its_path(instance_id: str, status: str) -> None:
    async with open_backend_of_recordings() as backend:
        instance = (await backend.find_instances(recordings.HUB, [instance_id]))[instance_id]
    assert instance is not None
    assert instance.runtime_status == status


async def send_recorded_request(
    function_app: FakeFunctionApp, recorded: dict[str, Any]
) -> tuple[int, dict[str, str], Any]:
    """Send a recorded request to the fake function app. Return the status, headers and JSON of its response."""
    address = (
        function_app.origin + API_PATH + recorded["path"].replace("code=KEY", f"code={quote(SYSTEM_KEY, safe='')}")
    )
    async with (
        aiohttp.ClientSession() as session,
        session.get(URL(address, encoded=True), headers=recorded["requestHeaders"]) as response,
    ):
        body = await response.json() if response.content_type == "application/json" else None
        return response.status, dict(response.headers), body


RECORDED_LOOKUPS = [recorded for recorded in RECORDED_READS if parse_path(recorded).startswith("/instances/")]


@pytest.mark.parametrize("recorded", RECORDED_LOOKUPS, ids=parse_path)
async def test_the_fake_finds_the_instances_that_the_extension_found(
    function_app: FakeFunctionApp, recorded: dict[str, Any]
) -> None:
    """The extension does not find ids with %, + or & by path, and answers 202 for an instance that runs."""
    function_app.connection = "Storage"
    function_app.hubs[recordings.HUB.lower()] = {instance["instanceId"]: instance for instance in ALL_INSTANCES}
    status, headers, body = await send_recorded_request(function_app, recorded)
    assert status == recorded["status"]
    assert ("Location" in headers) == ("Location" in recorded["headers"])
    if isinstance(recorded["body"], dict):
        for name in ("instanceId", "name", "runtimeStatus", "createdTime", "lastUpdatedTime"):
            assert body[name] == recorded["body"][name]


@pytest.mark.parametrize("recorded", RECORDED_LISTS, ids=lambda recorded: urlsplit(recorded["path"]).query[40:])
async def test_the_fake_lists_the_instances_that_the_extension_listed(
    function_app: FakeFunctionApp, recorded: dict[str, Any]
) -> None:
    function_app.connection = "Storage"
    function_app.hubs[recordings.HUB.lower()] = {instance["instanceId"]: instance for instance in ALL_INSTANCES}
    status, headers, body = await send_recorded_request(function_app, recorded)
    assert status == recorded["status"]
    assert [instance["instanceId"] for instance in body] == [instance["instanceId"] for instance in recorded["body"]]
    assert bool(headers[CONTINUATION_HEADER]) == bool(recorded["headers"][CONTINUATION_HEADER])
