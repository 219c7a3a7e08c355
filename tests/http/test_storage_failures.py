"""Failures of the storage and defects of the server: clear errors without internal details, and no lost events."""

import asyncio
import logging
import time
from typing import Any

import httpx
import pytest

from harness.processes import free_port
from harness.storage_proxy import run_storage_proxy
from state_api.app import StateServer
from state_api.services import recording
from state_api.settings import Settings, StorageSettings, emulator_connection_string
from tests.builders import event
from tests.conftest import new_hub_name
from tests.http.operations import assert_problem, get_staging, post_events, post_staging, post_swap, put_app

pytestmark = pytest.mark.anyio


def client_for(server: StateServer) -> httpx.AsyncClient:
    """A client of a server in this process, which answers errors as a deployed server does."""
    transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://state", timeout=60)


async def test_every_operation_answers_503_while_the_storage_is_down(app: str, hub: str) -> None:
    unreachable = StorageSettings.model_validate(
        {"connection_string": emulator_connection_string("127.0.0.1", free_port())}
    )
    server = StateServer(Settings(storage=unreachable))
    async with client_for(server) as http:
        responses = [
            await http.get("/api/health/ready"),
            await http.get("/api/apps"),
            await http.get(f"/api/apps/{app}/staging"),
            await post_staging(http, app, hub),
            await http.get(f"/api/taskhubs/{hub}/instances"),
            await http.get("/api/quarantine"),
            await http.post("/api/events", json=[event(hub)]),
            await http.post("/api/events", json=[{"not": "an event"}]),
        ]
        assert (await http.get("/api/health")).status_code == 200
    await server.close()
    for response in responses:
        problem = assert_problem(response, 503, "StorageUnavailable")
        assert int(response.headers["retry-after"]) > 0
        assert "127.0.0.1" not in problem["detail"]


@pytest.mark.parametrize("status", [0, 403, 429, 500, 503])
async def test_no_acknowledged_event_is_lost_when_the_storage_fails(
    storage: StorageSettings, app: str, hub: str, status: int
) -> None:
    async with run_storage_proxy(storage) as proxy:
        server = StateServer(Settings(storage=proxy.settings))
        async with client_for(server) as http:
            assert (await post_staging(http, app, hub)).status_code == 200
            await post_events(http, event(hub, "before"))
            proxy.failure_status = lambda method, path: status if path.endswith("$batch") else None
            assert_problem(await http.post("/api/events", json=[event(hub, "during")]), 503, "StorageUnavailable")
            assert_problem(await http.post("/api/events", json=[{}]), 503, "StorageUnavailable")
            refused = await http.post(f"/api/apps/{app}/swap", json={"taskHub": hub})
            assert_problem(refused, 503, "StorageUnavailable")
            assert (await get_staging(http, app))["activeCount"] == 1
            proxy.failure_status = lambda method, path: None
            assert (await post_events(http, event(hub, "during")))["recorded"] == 1
            assert (await get_staging(http, app))["activeCount"] == 2
            assert (await http.get(f"/api/apps/{app}")).json()["slots"]["production"] is None
        await server.close()


async def test_a_verdict_without_readable_records_is_an_error_and_never_ready(
    storage: StorageSettings, app: str, hub: str
) -> None:
    async with run_storage_proxy(storage) as proxy:
        server = StateServer(Settings(storage=proxy.settings))
        async with client_for(server) as http:
            await post_staging(http, app, hub, {"X-Run-Url": "https://ci.example/1"})
            await post_events(http, event(hub))
            proxy.failure_status = lambda method, path: 500 if "State" in path else None
            assert_problem(await http.get(f"/api/apps/{app}/staging"), 503, "StorageUnavailable")
        await server.close()


@pytest.mark.parametrize("lost_transaction", range(4))
async def test_a_write_whose_response_is_lost_is_not_repeated(
    storage: StorageSettings, app: str, hub: str, lost_transaction: int
) -> None:
    """The library sends the transaction again and gets a conflict, and the server recognizes its own write."""
    transaction_count = 0

    def drop_response_of_chosen_transaction(method: str, path: str) -> bool:
        """Lose the response of one transaction, which the emulator has carried out."""
        nonlocal transaction_count
        transaction_count += path.endswith("$batch")
        return path.endswith("$batch") and transaction_count == lost_transaction + 1

    async with run_storage_proxy(storage) as proxy:
        server = StateServer(Settings(storage=proxy.settings))
        async with client_for(server) as http:
            proxy.drops_response = drop_response_of_chosen_transaction
            assert (await post_staging(http, app, hub)).status_code == 200
            recorded = await post_events(http, event(hub))
            assert transaction_count >= lost_transaction + 1, "a response was lost"
            assert recorded["quarantined"] == 0
            assert (await get_staging(http, app))["activeCount"] == 1
            assert len((await http.get(f"/api/apps/{app}/history")).json()["history"]) == 1
            assert (await http.get(f"/api/taskhubs/{hub}/instances")).json()["instances"][0]["active"]
        await server.close()


async def test_a_request_whose_body_is_cut_off_has_no_effect(
    http: httpx.AsyncClient, server: StateServer, app: str
) -> None:
    """Without its body, a dry run of Cleanup would delete records."""
    await put_app(http, app, policy={"settleSeconds": 0})
    for hub in (new_hub_name(), new_hub_name(), new_hub_name()):
        await post_staging(http, app, hub)
        await post_swap(http, app, hub)
    messages: list[Any] = [
        {"type": "http.request", "body": b'{"dryRun"', "more_body": True},
        {"type": "http.disconnect"},
    ]
    for cut_off in (messages, messages[1:]):
        sent: list[Any] = []
        unread = list(cut_off)

        async def receive_next_message(unread: list[Any] = unread) -> Any:
            return unread.pop(0)

        async def record_message(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": f"/api/apps/{app}/cleanup",
            "root_path": "",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        await server.application(scope, receive_next_message, record_message)
        assert sent == []
    assert len((await http.get(f"/api/apps/{app}")).json()["retired"]) == 1


@pytest.mark.parametrize("deadline_seconds", [25, 1])
async def test_a_delivery_fails_before_event_grid_stops_waiting_when_the_storage_hangs(
    storage: StorageSettings, hub: str, deadline_seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either the library's timeouts end it, or the deadline of the whole delivery."""
    async with run_storage_proxy(storage) as proxy:
        server = StateServer(Settings(storage=proxy.settings))
        async with client_for(server) as http:
            await post_events(http, event(hub, "before"))
            storage_responds = asyncio.Event()

            async def wait_until_storage_responds(method: str, path: str) -> None:
                await storage_responds.wait()

            proxy.before_request = wait_until_storage_responds
            with monkeypatch.context() as patched:
                patched.setattr(recording, "_RECORD_TIMEOUT_SECONDS", deadline_seconds)
                began_at = time.monotonic()
                assert_problem(await http.post("/api/events", json=[event(hub)]), 503, "StorageUnavailable")
                assert time.monotonic() - began_at < deadline_seconds + 5, "Event Grid waits 30 s"
            storage_responds.set()
            # The server works again once the storage responds.
            assert (await post_events(http, event(hub)))["quarantined"] == 0
        await server.close()


async def test_a_defect_is_logged_in_detail_and_answered_without_details(
    server: StateServer, http: httpx.AsyncClient, app: str, caplog: pytest.LogCaptureFixture
) -> None:
    class DefectiveAppStore:
        async def get(self, name: str) -> None:
            raise RuntimeError("secret detail")

    server.services.releases._apps = DefectiveAppStore()  # type: ignore[assignment]  # the defect of this test
    with caplog.at_level(logging.ERROR):
        problem = assert_problem(await http.get(f"/api/apps/{app}"), 500, "InternalError")
    assert "secret" not in str(problem)
    assert problem["traceId"] in caplog.text
    assert "secret detail" in caplog.text


async def test_many_concurrent_status_requests_are_answered(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await post_staging(http, app, hub)
    await post_events(http, event(hub))
    verdicts = await asyncio.gather(*(get_staging(http, app) for _ in range(100)))
    assert {verdict["activeCount"] for verdict in verdicts} == {1}
