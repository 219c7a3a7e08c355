"""The storage is slow, fails, or cuts connections at a share of all requests, while events are published and verdicts
are polled. No verdict is wrong, no acknowledged event is lost, and the server recovers."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.state_server import ServerProcess, run_server
from harness.storage_proxy import run_storage_proxy
from state_api.settings import StorageSettings
from tests.conftest import new_hub_name
from tests.faults.event_stream import generate_orders
from tests.faults.publisher import Publisher, publish_in_background
from tests.faults.record_comparison import compare_records
from tests.faults.scale import IS_FULL_SCALE, scaled
from tests.faults.storage_faults import FaultInjector, StorageFault
from tests.faults.verdict_pollers import (
    RUN_HEADERS,
    SingleOrderPoller,
    WrongReadyWatcher,
    register_and_stage,
    run_while,
)

pytestmark = [pytest.mark.anyio, pytest.mark.fault]

_FAILURE_RATES = (0.01, 0.1, 0.5) if IS_FULL_SCALE else (0.5,)
_EVENTS = 160
_FAULT_REQUESTS = scaled(300, minimum=100)
"""The fault ends after this many requests to the storage, about half of all requests, but not before two requests have
failed. Ending it after a time would test little on a busy machine."""
_SINGLE_ORDER_POLLERS = 2
_RECOVERY_TIMEOUT_SECONDS = 30
_MAX_MEMORY_GROWTH_MIB = 80
"""How much more memory a server may use than after the first round. An unbounded queue would exceed it, and so would
memory that each failed request leaks."""


@asynccontextmanager
async def run_server_in_thread(storage: StorageSettings, folder: Path) -> AsyncIterator[ServerProcess]:
    """Run a server process. The proxy to its storage runs in this process, so starting the server must not block it."""
    context = run_server(storage, folder)
    server = await asyncio.to_thread(context.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


@dataclass
class Recovery:
    """Seconds from the end of the fault to the first successful delivery and the first verdict."""

    delivery: float
    verdict: float


async def measure_recovery(address: str, app: str, lifecycle_event: dict[str, Any]) -> Recovery:
    """Deliver an event and request a verdict repeatedly until both succeed."""
    began_at = time.monotonic()
    async with httpx.AsyncClient(base_url=address, timeout=_RECOVERY_TIMEOUT_SECONDS) as http:

        async def seconds_until_success(method: str, path: str, body: Any) -> float:
            """Repeat the request until it succeeds. Returns the seconds since the storage works again."""
            while True:
                response = await http.request(method, path, json=body, headers=RUN_HEADERS)
                if response.status_code == 200:
                    return round(time.monotonic() - began_at, 2)
                assert response.status_code in (429, 503), response.text
                assert time.monotonic() < began_at + _RECOVERY_TIMEOUT_SECONDS, response.text
                await asyncio.sleep(0.05)

        return Recovery(
            *await asyncio.gather(
                seconds_until_success("POST", "/api/events", [lifecycle_event]),
                seconds_until_success("GET", f"/api/apps/{app}/staging", None),
            )
        )


def memory_mebibytes(server: ServerProcess) -> dict[str, float]:
    """The memory that the server uses `now`, and its `peak`, in MiB."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines())
    return {"now": int(status["VmRSS"].split()[0]) / 1024, "peak": int(status["VmHWM"].split()[0]) / 1024}


@pytest.mark.parametrize("fault", StorageFault, ids=str)
async def test_storage_faults_cause_no_wrong_verdict_and_lose_no_event(
    storage: StorageSettings, tmp_path: Path, seed: int, record_figures: Callable[..., None], fault: StorageFault
) -> None:
    async with run_storage_proxy(storage) as proxy, run_server_in_thread(proxy.settings, tmp_path) as server:
        injector = FaultInjector(fault, seed)
        injector.attach_to(proxy)
        memory: list[float] = []
        for share in _FAILURE_RATES:
            figures = await run_scenario(server, storage, injector, share)
            memory.append(memory_mebibytes(server)["now"])
            record_figures(share=share, **figures, rss_mib=round(memory[-1]))
        # The memory after the first round includes what a server allocates once.
        assert memory_mebibytes(server)["peak"] - memory[0] < _MAX_MEMORY_GROWTH_MIB
        assert "Traceback" not in server.read_log()


async def wait_for_faults(injector: FaultInjector) -> None:
    """Wait until enough requests were sent and at least two have failed."""
    async with asyncio.timeout(60):
        while injector.request_count < _FAULT_REQUESTS or injector.failure_count < 2:
            await asyncio.sleep(0.02)


async def run_scenario(
    server: ServerProcess, storage: StorageSettings, injector: FaultInjector, share: float
) -> dict[str, Any]:
    """Publish events during the fault and after it. Returns the measurements."""
    hub, app = new_hub_name(), f"shop-{new_hub_name()}"
    seed = injector.seed * 100 + round(share * 100)
    expected = generate_orders(hub, _EVENTS, seed)
    publisher = Publisher([server.url], seed, max_batch=20, duplicate_share=0.15)
    watcher = WrongReadyWatcher([server.url], app, timeout=_RECOVERY_TIMEOUT_SECONDS)
    canaries = [
        SingleOrderPoller([server.url], f"{app}-{number}", timeout=_RECOVERY_TIMEOUT_SECONDS, hub=new_hub_name())
        for number in range(_SINGLE_ORDER_POLLERS)
    ]
    await register_and_stage(server.url, app, hub, 0)
    for canary in canaries:
        await register_and_stage(server.url, canary.app, canary.hub, 0)
    async with run_while([watcher.watch(publisher, 0.1), *(canary.run_rounds() for canary in canaries)]):
        injector.request_count = injector.failure_count = 0
        injector.failure_rate = share
        async with publish_in_background(publisher, expected.events):
            await wait_for_faults(injector)
            acknowledged_during_fault, request_count = len(publisher.acknowledged), injector.request_count
            injector.stop()
            fault_ended_at = time.monotonic()
            recovery = await measure_recovery(server.url, app, expected.events[0])
        all_delivered_after = round(time.monotonic() - fault_ended_at, 2)
        still_active = len(expected.active)
        assert publisher.known_active == set(expected.active) != set()
        await watcher.wait_for_verdict(ready=False, timeout_seconds=_RECOVERY_TIMEOUT_SECONDS)
        await publisher.run(expected.end_active())
        ready_after = await watcher.wait_for_verdict(ready=True, timeout_seconds=_RECOVERY_TIMEOUT_SECONDS)
    compared = await compare_records(server.url, storage, expected, publisher.acknowledged_events)
    unanswered = sum((poller.unanswered for poller in (watcher, *canaries)), publisher.retried.copy())
    assert unanswered.keys() <= {"503", "429"}, unanswered
    assert (publisher.dropped, publisher.quarantined) == ({}, 0)
    assert len(publisher.acknowledged) == len(expected.events)
    assert (compared.lost[:3], compared.differences[:3]) == ([], [])
    assert watcher.wrong[:3] == []
    assert [canary.wrong[:3] for canary in canaries] == [[]] * _SINGLE_ORDER_POLLERS
    assert watcher.not_ready > 0
    assert still_active > 0
    return {
        "storage_requests_during_the_fault": request_count,
        "failed_requests": injector.failure_count,
        **publisher.summary(),
        "acknowledged_during_the_fault": acknowledged_during_fault,
        "verdicts": watcher.answered,
        "canary_verdicts": sum(canary.answered for canary in canaries),
        "verdicts_503": sum(poller.unanswered.total() for poller in (watcher, *canaries)),
        "first_delivery_after": recovery.delivery,
        "first_verdict_after": recovery.verdict,
        "all_delivered_after": all_delivered_after,
        "ready_after": ready_after,
    }
