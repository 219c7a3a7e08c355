"""Pollers of GetStagingStatus during faults, which find wrong verdicts."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.builders import event
from tests.faults.publisher import Publisher

RUN_HEADERS = {"X-Actor": "pipeline", "X-Run-Url": "https://ci.example/runs/1"}
"""The headers of the run that stages. For another run, its open deployment would be a reason for NotReady."""


async def register_and_stage(address: str, app: str, hub: str, settle_seconds: int) -> None:
    """Register an app without a provider, and stage the task hub before it has events."""
    async with httpx.AsyncClient(base_url=address, timeout=60, headers=RUN_HEADERS) as http:
        policy = {"policy": {"settleSeconds": settle_seconds}}
        assert (await http.put(f"/api/apps/{app}", json=policy)).status_code == 200
        assert (await http.post(f"/api/apps/{app}/staging", json={"taskHub": hub})).status_code == 200


@dataclass
class VerdictPoller:
    """Requests the status of an app at several servers. A request that fails, for example at a killed or paused server,
    is counted as unanswered. `timeout` and `durations` are in seconds."""

    addresses: Sequence[str]
    app: str
    timeout: float = 5
    answered: int = 0
    not_ready: int = 0
    unanswered: Counter[str] = field(default_factory=Counter)
    durations: list[float] = field(default_factory=list)

    async def get_verdict(self, http: httpx.AsyncClient, address: str) -> dict[str, Any] | None:
        """The verdict of one server, or None if it does not answer 200. Counts both, and the duration of a request."""
        began_at = time.monotonic()
        try:
            response = await http.get(
                f"{address}/api/apps/{self.app}/staging", headers=RUN_HEADERS, timeout=self.timeout
            )
        except httpx.HTTPError as error:
            self.unanswered[type(error).__name__] += 1
            return None
        if response.status_code != 200:
            self.unanswered[str(response.status_code)] += 1
            return None
        self.answered += 1
        self.durations.append(time.monotonic() - began_at)
        verdict: dict[str, Any] = response.json()
        self.not_ready += not verdict["ready"]
        return verdict


@dataclass
class WrongReadyWatcher(VerdictPoller):
    """Polls every server continuously. A Ready is wrong if an order was certainly active: its start was acknowledged
    before the request, and its end had not been sent when the response arrived."""

    wrong: list[dict[str, Any]] = field(default_factory=list)

    async def watch(self, publisher: Publisher, interval_seconds: float = 0.3) -> None:
        """Ask every server in turn. A verdict is wrong if it is Ready and an instance was known to be active throughout
        the request."""
        async with httpx.AsyncClient() as http:
            while True:
                for address in list(self.addresses):
                    active_before = set(publisher.known_active)
                    verdict = await self.get_verdict(http, address)
                    if verdict is not None and verdict["ready"] and active_before & publisher.known_active:
                        self.wrong.append(verdict)
                await asyncio.sleep(interval_seconds)

    async def wait_for_verdict(self, *, ready: bool, timeout_seconds: float = 60) -> float:
        """Wait until every server gives this verdict. Returns the seconds that it took. For NotReady, orders must be
        active: then a Ready fails the test at once."""
        began_at = time.monotonic()
        async with httpx.AsyncClient() as http:
            for address in self.addresses:
                while (verdict := await self.get_verdict(http, address)) is None or verdict["ready"] != ready:
                    assert verdict is None or ready, f"{address} says Ready while orders are active: {verdict}"
                    assert time.monotonic() < began_at + timeout_seconds, (
                        f"{address} does not say so after {timeout_seconds} s: {verdict}"
                    )
                    await asyncio.sleep(0.1)
        return round(time.monotonic() - began_at, 1)


@dataclass
class SingleOrderPoller(VerdictPoller):
    """Polls an app without a settle window whose task hub has one order at a time. When the start of the order is
    acknowledged, every server that responds must say NotReady; when its end is acknowledged, Ready."""

    hub: str = ""
    wrong: list[tuple[str, Any]] = field(default_factory=list)
    rounds: int = 0

    async def run_rounds(self) -> None:
        """Start and end one order after the other. After each event that was acknowledged, every server must say what
        it means."""
        async with httpx.AsyncClient() as http:
            while True:
                order = f"canary-{self.rounds}"
                for status in ("Running", "Completed"):
                    await self._publish(http, event(self.hub, order, status))
                    for address in list(self.addresses):
                        verdict = await self.get_verdict(http, address)
                        if verdict is not None and verdict["ready"] != (status == "Completed"):
                            self.wrong.append((f"{order} {status} at {address}", verdict))
                self.rounds += 1

    async def _publish(self, http: httpx.AsyncClient, lifecycle_event: dict[str, Any]) -> None:
        """Send the event to one server after the other until one acknowledges it."""
        attempt = 0
        while True:
            address = self.addresses[(self.rounds + attempt) % len(self.addresses)]
            try:
                response = await http.post(f"{address}/api/events", json=[lifecycle_event], timeout=self.timeout)
                if response.status_code == 200:
                    if response.json()["quarantined"]:
                        self.wrong.append(("quarantined", lifecycle_event))
                    return
            except httpx.HTTPError:
                pass
            attempt += 1
            await asyncio.sleep(0.1)


@asynccontextmanager
async def run_while(coroutines: Sequence[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Run all coroutines while the block runs. Fails if one of them ends before the block does."""
    running = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
        assert not any(task.done() for task in running), running
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
