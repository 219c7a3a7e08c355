"""The limit on deliveries that the server records at once: which deliveries it refuses and which it revokes."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.app import StateServer
from state_api.domain.errors import TooManyEvents
from state_api.http import middleware
from state_api.services import admission
from state_api.services.admission import (
    LATE_SECONDS,
    MIN_DELIVERY_BYTES,
    SMALL_DELIVERY_BYTES,
    UNFINISHED_SECONDS,
    AdmissionController,
)
from state_api.settings import Settings, StorageSettings
from tests.builders import event

pytestmark = pytest.mark.anyio


def test_deliveries_are_admitted_until_the_capacity_is_used() -> None:
    controller = AdmissionController(3 * MIN_DELIVERY_BYTES)
    with (
        controller.reserve(1),
        controller.reserve(2 * MIN_DELIVERY_BYTES),
        pytest.raises(TooManyEvents),
        controller.reserve(1),
    ):
        pytest.fail("there was no capacity")
    # A single delivery is always admitted, however large it is, but no other one beside it.
    with controller.reserve(100 * MIN_DELIVERY_BYTES), pytest.raises(TooManyEvents), controller.reserve(1):
        pytest.fail("there was no capacity")
    # A delivery that arrives in parts holds the bytes that have arrived.
    with controller.reserve_arriving() as slow:
        slow.add_bytes(MIN_DELIVERY_BYTES // 2)
        with controller.reserve(2 * MIN_DELIVERY_BYTES), pytest.raises(TooManyEvents):
            slow.add_bytes(MIN_DELIVERY_BYTES)
        slow.add_bytes(MIN_DELIVERY_BYTES // 2)
        with controller.reserve(MIN_DELIVERY_BYTES):
            pass
    with pytest.raises(RuntimeError), controller.reserve(3 * MIN_DELIVERY_BYTES):
        raise RuntimeError
    with controller.reserve(3 * MIN_DELIVERY_BYTES):
        pass


def test_no_delivery_is_admitted_while_too_many_bytes_are_late() -> None:
    now = 0.0
    controller = AdmissionController(
        100 * MIN_DELIVERY_BYTES, max_late_bytes=2 * MIN_DELIVERY_BYTES, monotonic=lambda: now
    )
    with controller.reserve(2 * MIN_DELIVERY_BYTES):
        now = LATE_SECONDS + 1
        # A single late delivery does not stop others, and neither does one that is still arriving.
        with controller.reserve(1), controller.reserve_arriving() as arriving:
            arriving.add_bytes(10 * MIN_DELIVERY_BYTES)
            now += LATE_SECONDS + 1
            with pytest.raises(TooManyEvents), controller.reserve_arriving():
                pytest.fail("two admitted deliveries are late")
        with controller.reserve_arriving():
            pass


def test_large_unfinished_deliveries_share_half_of_the_capacity_and_are_revoked_when_they_are_slow() -> None:
    now = 0.0
    controller = AdmissionController(20 * SMALL_DELIVERY_BYTES, monotonic=lambda: now)
    revoked: list[str] = []
    with controller.reserve_arriving() as first, controller.reserve_arriving() as second:
        first.on_revoked = lambda: revoked.append("first")
        second.on_revoked = lambda: revoked.append("second")
        first.add_bytes(8 * SMALL_DELIVERY_BYTES)
        second.add_bytes(4 * SMALL_DELIVERY_BYTES)
        with pytest.raises(TooManyEvents):
            second.add_bytes(SMALL_DELIVERY_BYTES)
        # Small deliveries are still admitted, and so is a large one that has arrived.
        with controller.reserve_arriving() as small, controller.reserve(3 * SMALL_DELIVERY_BYTES):
            small.add_bytes(SMALL_DELIVERY_BYTES)
            now = UNFINISHED_SECONDS - 0.1
            with pytest.raises(TooManyEvents):
                small.add_bytes(1)
            now = UNFINISHED_SECONDS
            small.add_bytes(SMALL_DELIVERY_BYTES)
        assert revoked == ["first"]
        with pytest.raises(TooManyEvents):
            first.add_bytes(1)
    # Both have released their bytes.
    with controller.reserve(19 * SMALL_DELIVERY_BYTES), controller.reserve(SMALL_DELIVERY_BYTES):
        pass


def test_a_delivery_that_has_arrived_is_not_revoked() -> None:
    now = 0.0
    controller = AdmissionController(4 * SMALL_DELIVERY_BYTES, monotonic=lambda: now)
    with controller.reserve_arriving() as complete:
        complete.add_bytes(4 * SMALL_DELIVERY_BYTES)
        complete.finish_arrival()
        now = UNFINISHED_SECONDS
        with pytest.raises(TooManyEvents), controller.reserve_arriving():
            pytest.fail("there was no capacity")


@pytest.fixture
async def proxy(storage: StorageSettings) -> AsyncIterator[StorageProxy]:
    """A proxy in front of the emulator, in which a test can hold up requests."""
    async with run_storage_proxy(storage) as storage_proxy:
        yield storage_proxy


@pytest.fixture
async def limited_client(
    proxy: StorageProxy, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server with capacity for four small deliveries."""
    server = StateServer(Settings(storage=proxy.settings))
    server.admission._capacity_bytes = 4 * MIN_DELIVERY_BYTES
    monkeypatch.setattr(middleware, "REFUSAL_DELAY_SECONDS", 0.5)
    transport = httpx.ASGITransport(server.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=60) as client:
        yield client
    await server.close()


async def test_a_delivery_above_the_limit_is_refused_and_recorded_when_it_is_sent_again(
    proxy: StorageProxy, limited_client: httpx.AsyncClient, hub: str
) -> None:
    storage_responds = asyncio.Event()

    async def wait_until_storage_responds(method: str, path: str) -> None:
        await storage_responds.wait()

    async def post_order(number: int) -> httpx.Response:
        return await limited_client.post("/api/events", json=[event(hub, f"order-{number}")])

    proxy.before_request = wait_until_storage_responds
    waiting = [asyncio.create_task(post_order(number)) for number in range(4)]
    await asyncio.sleep(0.2)
    began = time.monotonic()
    refused = await post_order(4)
    assert time.monotonic() - began >= 0.5, "a refusal is delayed"
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["code"] == "TooManyEvents"
    # Other operations are not limited.
    status_request = asyncio.create_task(limited_client.get("/api/apps/unregistered/staging"))
    storage_responds.set()
    assert (await status_request).status_code == 404
    assert [response.status_code for response in await asyncio.gather(*waiting)] == [200] * 4
    assert (await post_order(4)).status_code == 200
    listed = (await limited_client.get(f"/api/taskhubs/{hub}/instances")).json()["instances"]
    assert sorted(instance["instanceId"] for instance in listed) == [f"order-{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("limit", "pause_seconds"), [("BODY_TIMEOUT_SECONDS", 0.02), ("BODY_STALL_TIMEOUT_SECONDS", 5)]
)
async def test_a_body_that_stalls_or_takes_too_long_is_refused(
    monkeypatch: pytest.MonkeyPatch, limited_client: httpx.AsyncClient, hub: str, limit: str, pause_seconds: float
) -> None:
    monkeypatch.setattr(middleware, limit, 0.2)

    async def send_space_after_each_pause() -> AsyncIterator[bytes]:
        """A body of which one byte arrives at a time."""
        yield b"["
        for _ in range(100):
            await asyncio.sleep(pause_seconds)
            yield b" "

    for path in ("/api/events", "/api/apps/shop/cleanup"):
        refused = await limited_client.post(
            path, content=send_space_after_each_pause(), headers={"Content-Type": "application/json"}
        )
        assert (refused.status_code, refused.json()["code"]) == (408, "RequestTimeout")
    assert (await limited_client.post("/api/events", json=[event(hub)])).status_code == 200


async def test_a_send_begin_of_body_is_revoked_for_another_delivery(
    monkeypatch: pytest.MonkeyPatch, limited_client: httpx.AsyncClient, hub: str
) -> None:
    """Its request is refused at once, so that the publisher can send it again."""
    monkeypatch.setattr(admission, "UNFINISHED_SECONDS", 0)
    begun, ended = asyncio.Event(), asyncio.Event()

    async def send_begin_of_body() -> AsyncIterator[bytes]:
        """A body that begins, and goes on only when the test ends."""
        yield b"[" + b" " * (4 * MIN_DELIVERY_BYTES - 1)
        begun.set()
        await ended.wait()

    slow_request = asyncio.create_task(
        limited_client.post("/api/events", content=send_begin_of_body(), headers={"Content-Type": "application/json"})
    )
    await begun.wait()
    assert (await limited_client.post("/api/events", json=[event(hub)])).status_code == 200
    refused = await slow_request
    assert (refused.status_code, refused.json()["code"]) == (429, "TooManyEvents")
