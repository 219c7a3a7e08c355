"""A storage that is slow, fails, or cuts connections at a share of all requests, while events come in and
GetStagingStatus is asked all the time: no wrong verdict, nothing acknowledged is lost, and all is well soon after."""

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
"""The fault ends after so many requests to the storage, about half of what there are, and not before it has struck
twice: a time would be little work on a busy machine."""
_SINGLE_ORDER_POLLERS = 2
_RECOVERS_SECONDS = 30
_MAY_GROW_MIB = 80
"""What a server may need more than before. A queue without a bound would pass it, and so would what is left behind of
each failed request."""


@asynccontextmanager
async def run_server_in_thread(storage: StorageSettings, folder: Path) -> AsyncIterator[ServerProcess]:
    """A server in a process of its own. Its storage is reached through this process, which must not stand still."""
    context = run_server(storage, folder)
    server = await asyncio.to_thread(context.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


@dataclass
class Recovery:
    """Seconds from the end of the fault to the first delivery and the first verdict that were answered with 200."""

    delivery: float
    verdict: float


async def measure_recovery(address: str, app: str, one: dict[str, Any]) -> Recovery:
    """Deliver this event and ask, both again and again until they succeed."""
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=address, timeout=_RECOVERS_SECONDS) as http:

        async def first(method: str, path: str, body: Any) -> float:
            while True:
                answer = await http.request(method, path, json=body, headers=RUN_HEADERS)
                if answer.status_code == 200:
                    return round(time.monotonic() - began, 2)
                assert answer.status_code in (429, 503), answer.text
                assert time.monotonic() < began + _RECOVERS_SECONDS, answer.text
                await asyncio.sleep(0.05)

        return Recovery(
            *await asyncio.gather(first("POST", "/api/events", [one]), first("GET", f"/api/apps/{app}/staging", None))
        )


def memory_mebibytes(server: ServerProcess) -> dict[str, float]:
    """What the server needs of memory now, and has needed at the most, in MiB."""
    told = dict(line.split(":", 1) for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines())
    return {"now": int(told["VmRSS"].split()[0]) / 1024, "most": int(told["VmHWM"].split()[0]) / 1024}


@pytest.mark.parametrize("fault", StorageFault, ids=str)
async def test_a_bad_storage_makes_no_wrong_verdict_and_loses_nothing(
    storage: StorageSettings, tmp_path: Path, seed: int, record_figures: Callable[..., None], fault: StorageFault
) -> None:
    async with run_storage_proxy(storage) as proxy, run_server_in_thread(proxy.settings, tmp_path) as server:
        flaky = FaultInjector(fault, seed)
        flaky.attach_to(proxy)
        sizes: list[float] = []
        for share in _FAILURE_RATES:
            numbers = await run_scenario(server, storage, flaky, share)
            sizes.append(memory_mebibytes(server)["now"])
            record_figures(share=share, **numbers, rss_mib=round(sizes[-1]))
        # The first round loads what a server needs once.
        assert memory_mebibytes(server)["most"] - sizes[0] < _MAY_GROW_MIB
        assert "Traceback" not in server.read_log()


async def wait_for_faults(flaky: FaultInjector) -> None:
    """Return when there was enough of it."""
    async with asyncio.timeout(60):
        while flaky.request_count < _FAULT_REQUESTS or flaky.failure_count < 2:
            await asyncio.sleep(0.02)


async def run_scenario(
    server: ServerProcess, storage: StorageSettings, flaky: FaultInjector, share: float
) -> dict[str, Any]:
    """Publish while a share of all requests to the storage goes wrong, and after; the numbers of it."""
    hub, app = new_hub_name(), f"shop-{new_hub_name()}"
    seed = flaky.seed * 100 + round(share * 100)
    truth = generate_orders(hub, _EVENTS, seed)
    publisher = Publisher([server.url], seed, max_batch=20, duplicate_share=0.15)
    watcher = WrongReadyWatcher([server.url], app, timeout=_RECOVERS_SECONDS)
    canaries = [
        SingleOrderPoller([server.url], f"{app}-{number}", timeout=_RECOVERS_SECONDS, hub=new_hub_name())
        for number in range(_SINGLE_ORDER_POLLERS)
    ]
    await register_and_stage(server.url, app, hub, 0)
    for canary in canaries:
        await register_and_stage(server.url, canary.app, canary.hub, 0)
    async with run_while([watcher.watch(publisher, 0.1), *(canary.run_rounds() for canary in canaries)]):
        flaky.request_count = flaky.failure_count = 0
        flaky.failure_rate = share
        async with publish_in_background(publisher, truth.events):
            await wait_for_faults(flaky)
            in_time, requests = len(publisher.acknowledged), flaky.request_count
            flaky.stop()
            calm = time.monotonic()
            recovered = await measure_recovery(server.url, app, truth.events[0])
        delivered = round(time.monotonic() - calm, 2)
        still_active = len(truth.active)
        assert publisher.known_active == set(truth.active) != set()
        await watcher.wait_for_verdict(ready=False, seconds=_RECOVERS_SECONDS)
        await publisher.run(truth.end_active())
        ready = await watcher.wait_for_verdict(ready=True, seconds=_RECOVERS_SECONDS)
    compared = await compare_records(server.url, storage, truth, publisher.acknowledged_events)
    unanswered = sum((one.unanswered for one in (watcher, *canaries)), publisher.retried.copy())
    assert unanswered.keys() <= {"503", "429"}, unanswered
    assert (publisher.dropped, publisher.quarantined) == ({}, 0)
    assert len(publisher.acknowledged) == len(truth.events)
    assert (compared.lost[:3], compared.wrong[:3]) == ([], [])
    assert watcher.wrong[:3] == []
    assert [canary.wrong[:3] for canary in canaries] == [[]] * _SINGLE_ORDER_POLLERS
    assert watcher.not_ready > 0
    assert still_active > 0
    return {
        "storage_requests_during_the_fault": requests,
        "struck": flaky.failure_count,
        **publisher.summary(),
        "acknowledged_during_the_fault": in_time,
        "verdicts": watcher.answered,
        "canary_verdicts": sum(canary.answered for canary in canaries),
        "verdicts_503": sum(one.unanswered.total() for one in (watcher, *canaries)),
        "first_delivery_after": recovered.delivery,
        "first_verdict_after": recovered.verdict,
        "all_delivered_after": delivered,
        "ready_after": ready,
    }
