"""The managementApi backend on every answer that the real extension gave, and the stand-in for the app held against
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
    function_app,
    no_key_in_the_log,
    open_management_backend,
    serve_http,
)
from tests.backends.test_recorded_rows import ACTIVE_BY_SNAPSHOT

__all__ = ["function_app", "no_key_in_the_log"]  # fixtures

pytestmark = pytest.mark.anyio

CONTINUATION_HEADER = "x-ms-continuation-token"
RECORDED_READS = [one for one in recordings.read_lines("management") if one["method"] == "GET"]


def query_of(recorded: dict[str, Any]) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(recorded["path"]).query))


def path_of(recorded: dict[str, Any]) -> str:
    return urlsplit(str(recorded["path"])).path


RECORDED_LISTS = [one for one in RECORDED_READS if path_of(one) == "/instances" and one["hub"] == recordings.HUB]
ALL_INSTANCES = next(
    one["body"] for one in RECORDED_LISTS if "top" not in query_of(one) and "instanceIdPrefix" not in query_of(one)
)
"""Every instance, as the API listed them when the recordings were made; `timer-long` was still running."""


async def respond_as_recorded(request: web.Request) -> web.StreamResponse:
    """The recorded answer to a request of this kind: the list of active instances page by page, the list by time, a
    single instance. Without instances for other prefixes than the recorded one."""
    query = request.query
    path = request.raw_path.partition("?")[0].removeprefix(API_PATH)
    # On its way through HTTP a token loses the blank at its end.
    token = request.headers.get(CONTINUATION_HEADER, "")
    for recorded in RECORDED_READS:
        asked = query_of(recorded)
        if asked["taskHub"] != query["taskHub"] or path_of(recorded) != path:
            continue
        if path == "/instances" and (
            (asked["taskHub"] == recordings.HUB and ("runtimeStatus" in asked) != ("runtimeStatus" in query))
            or asked.get("instanceIdPrefix") != query.get("instanceIdPrefix")
            or recorded["requestHeaders"].get(CONTINUATION_HEADER, "").strip() != token
            or asked.get("top") == "3"
        ):
            continue
        headers = {name: value for name, value in recorded["headers"].items() if name.lower() == CONTINUATION_HEADER}
        if not isinstance(recorded["body"], dict | list):
            return web.Response(status=recorded["status"])
        return web.json_response(recorded["body"], status=recorded["status"], headers=headers)
    assert "instanceIdPrefix" in query, f"no answer to {request.path_qs} was recorded"
    return web.json_response([], headers={CONTINUATION_HEADER: ""})


@asynccontextmanager
async def backend_of_recordings() -> AsyncIterator[ManagementApiBackend]:
    async with (
        serve_http(respond_as_recorded) as origin,
        open_management_backend(origin, storage_connection="Storage") as backend,
    ):
        yield backend


async def scan(backend: ManagementApiBackend, hub: str) -> list[ObservedInstance]:
    start = await backend.begin_scan(hub)
    cursors, found = list(start.cursors), list[ObservedInstance]()
    while cursors:
        page = await backend.read_page(hub, start.changed_since, cursors.pop(0))
        found += page.instances
        cursors += page.cursors
    return found


async def test_the_recorded_pages_show_what_was_active() -> None:
    """Page by page, after tokens with a trailing blank; an entity among them is no orchestration."""
    async with backend_of_recordings() as backend:
        found = await scan(backend, recordings.HUB)
    active = {one.instance_id: str(one.runtime_status) for one in found if one.active}
    assert active == ACTIVE_BY_SNAPSHOT["odd ids running", recordings.HUB]
    listed = {one["instanceId"] for one in ALL_INSTANCES if not one["instanceId"].startswith("@")}
    assert {one.instance_id for one in found} == listed


async def test_a_task_hub_that_does_not_exist_was_answered_with_an_empty_list() -> None:
    async with backend_of_recordings() as backend:
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
async def test_a_recorded_instance_is_found_by_its_address(instance_id: str, status: str) -> None:
    async with backend_of_recordings() as backend:
        found = (await backend.find_instances(recordings.HUB, [instance_id]))[instance_id]
    assert found is not None
    assert found.runtime_status == status


async def send_recorded(function_app: FakeFunctionApp, recorded: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
    address = (
        function_app.origin + API_PATH + recorded["path"].replace("code=KEY", f"code={quote(SYSTEM_KEY, safe='')}")
    )
    async with (
        aiohttp.ClientSession() as session,
        session.get(URL(address, encoded=True), headers=recorded["requestHeaders"]) as answer,
    ):
        content = await answer.json() if answer.content_type == "application/json" else None
        return answer.status, dict(answer.headers), content


BY_PATH = [one for one in RECORDED_READS if path_of(one).startswith("/instances/")]


@pytest.mark.parametrize("recorded", BY_PATH, ids=path_of)
async def test_the_stand_in_finds_the_instances_that_the_extension_found(
    function_app: FakeFunctionApp, recorded: dict[str, Any]
) -> None:
    """Ids with %, + or & cannot be asked for by path, and an instance that runs is answered with 202."""
    function_app.connection = "Storage"
    function_app.hubs[recordings.HUB.lower()] = {one["instanceId"]: one for one in ALL_INSTANCES}
    status, headers, content = await send_recorded(function_app, recorded)
    assert status == recorded["status"]
    assert ("Location" in headers) == ("Location" in recorded["headers"])
    if isinstance(recorded["body"], dict):
        for name in ("instanceId", "name", "runtimeStatus", "createdTime", "lastUpdatedTime"):
            assert content[name] == recorded["body"][name]


@pytest.mark.parametrize("recorded", RECORDED_LISTS, ids=lambda one: urlsplit(one["path"]).query[40:])
async def test_the_stand_in_lists_as_the_extension_listed(
    function_app: FakeFunctionApp, recorded: dict[str, Any]
) -> None:
    function_app.connection = "Storage"
    function_app.hubs[recordings.HUB.lower()] = {one["instanceId"]: one for one in ALL_INSTANCES}
    status, headers, content = await send_recorded(function_app, recorded)
    assert status == recorded["status"]
    assert [one["instanceId"] for one in content] == [one["instanceId"] for one in recorded["body"]]
    assert bool(headers[CONTINUATION_HEADER]) == bool(recorded["headers"][CONTINUATION_HEADER])
