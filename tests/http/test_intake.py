"""More events than there is room for: they are refused cleanly, and come again."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from state_api.app import StateServer
from state_api.domain.errors import TooManyEvents
from state_api.http import middleware
from state_api.services.intake import LATE_SECONDS, LEAST, Intake
from state_api.settings import Settings, StorageSettings
from tests.builders import event
from tests.proxy import StorageProxy, storage_proxy

pytestmark = pytest.mark.anyio


def test_there_is_room_until_it_is_taken() -> None:
    intake = Intake(3 * LEAST)
    with intake.admitted(1), intake.admitted(2 * LEAST), pytest.raises(TooManyEvents), intake.admitted(1):
        pytest.fail("there was no room")
    # One alone always has room, however big; nothing beside it.
    with intake.admitted(100 * LEAST), pytest.raises(TooManyEvents), intake.admitted(1):
        pytest.fail("there was no room")
    # What comes bit by bit holds what has come.
    with intake.room() as slow:
        slow.take(LEAST // 2)
        with intake.admitted(2 * LEAST), pytest.raises(TooManyEvents):
            slow.take(LEAST)
        slow.take(LEAST // 2)
        with intake.admitted(LEAST):
            pass
    with pytest.raises(RuntimeError), intake.admitted(3 * LEAST):
        raise RuntimeError
    with intake.admitted(3 * LEAST):
        pass


def test_nothing_is_let_in_while_much_is_late() -> None:
    now = 0.0
    intake = Intake(100 * LEAST, late=2 * LEAST, monotonic=lambda: now)
    with intake.admitted(2 * LEAST):
        now = LATE_SECONDS + 1
        # One that is slow for a reason of its own stops nobody; nor does one that is still being sent.
        with intake.admitted(1), intake.room() as sending:
            sending.take(10 * LEAST)
            now += LATE_SECONDS + 1
            with pytest.raises(TooManyEvents), intake.room():
                pytest.fail("two of those that were let in are late")
        with intake.room():
            pass


@pytest.fixture
async def proxy(storage: StorageSettings) -> AsyncIterator[StorageProxy]:
    async with storage_proxy(storage) as between:
        yield between


@pytest.fixture
async def held(
    proxy: StorageProxy, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server with room for four small deliveries."""
    server = StateServer(Settings(storage=proxy.settings))
    server.intake._capacity = 4 * LEAST
    monkeypatch.setattr(middleware, "REFUSAL_SECONDS", 0.5)
    transport = httpx.ASGITransport(server.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=60) as client:
        yield client
    await server.close()


async def test_what_there_is_no_room_for_is_refused_and_comes_again(
    proxy: StorageProxy, held: httpx.AsyncClient, hub: str
) -> None:
    go_on = asyncio.Event()

    async def wait(method: str, path: str) -> None:
        await go_on.wait()

    async def post(number: int) -> httpx.Response:
        return await held.post("/api/events", json=[event(hub, f"order-{number}")])

    proxy.before = wait
    waiting = [asyncio.create_task(post(number)) for number in range(4)]
    await asyncio.sleep(0.2)
    began = time.monotonic()
    refused = await post(4)
    assert time.monotonic() - began >= 0.5, "a refusal takes a moment"
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["code"] == "TooManyEvents"
    # Everything else still has room.
    asking = asyncio.create_task(held.get("/api/apps/nobody/staging"))
    go_on.set()
    assert (await asking).status_code == 404
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * 4
    assert (await post(4)).status_code == 200
    listed = (await held.get(f"/api/taskhubs/{hub}/instances")).json()["instances"]
    assert sorted(one["instanceId"] for one in listed) == [f"order-{number}" for number in range(5)]


async def test_a_body_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, held: httpx.AsyncClient, hub: str
) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.2)

    async def slow() -> AsyncIterator[bytes]:
        yield b"["
        await asyncio.sleep(5)
        yield b"]"

    for path in ("/api/events", "/api/apps/shop/cleanup"):
        late = await held.post(path, content=slow(), headers={"Content-Type": "application/json"})
        assert (late.status_code, late.json()["code"]) == (408, "RequestTimeout")
    assert (await held.post("/api/events", json=[event(hub)])).status_code == 200
