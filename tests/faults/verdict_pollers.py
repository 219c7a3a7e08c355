"""Who asks GetStagingStatus while faults happen, and what must never be answered."""

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
"""Whoever stages asks as the same run: to others its open deployment would be a reason against Ready."""


async def register_and_stage(address: str, app: str, hub: str, settle_seconds: int) -> None:
    """Register an app whose staging slot holds the hub, before it publishes anything. Events alone tell of it."""
    async with httpx.AsyncClient(base_url=address, timeout=60, headers=RUN_HEADERS) as http:
        policy = {"policy": {"settleSeconds": settle_seconds}}
        assert (await http.put(f"/api/apps/{app}", json=policy)).status_code == 200
        assert (await http.post(f"/api/apps/{app}/staging", json={"taskHub": hub})).status_code == 200


@dataclass
class VerdictPoller:
    """Asks whichever servers there are about an app. A question that a killed or paused server does not answer counts
    as unanswered and says nothing."""

    addresses: Sequence[str]
    app: str
    timeout: float = 5
    answered: int = 0
    not_ready: int = 0
    unanswered: Counter[str] = field(default_factory=Counter)
    durations: list[float] = field(default_factory=list)

    async def ask(self, http: httpx.AsyncClient, address: str) -> dict[str, Any] | None:
        began = time.monotonic()
        try:
            answer = await http.get(f"{address}/api/apps/{self.app}/staging", headers=RUN_HEADERS, timeout=self.timeout)
        except httpx.HTTPError as error:
            self.unanswered[type(error).__name__] += 1
            return None
        if answer.status_code != 200:
            self.unanswered[str(answer.status_code)] += 1
            return None
        self.answered += 1
        self.durations.append(time.monotonic() - began)
        verdict: dict[str, Any] = answer.json()
        self.not_ready += not verdict["ready"]
        return verdict


@dataclass
class WrongReadyWatcher(VerdictPoller):
    """Asks every server all the time. Wrong is a Ready while an order was surely active: its start acknowledged before
    the question, and its end not yet sent to anybody when the answer was there."""

    wrong: list[dict[str, Any]] = field(default_factory=list)

    async def watch(self, publisher: Publisher, every: float = 0.3) -> None:
        async with httpx.AsyncClient() as http:
            while True:
                for address in list(self.addresses):
                    before = set(publisher.known_active)
                    verdict = await self.ask(http, address)
                    if verdict is not None and verdict["ready"] and before & publisher.known_active:
                        self.wrong.append(verdict)
                await asyncio.sleep(every)

    async def wait_for_verdict(self, ready: bool, seconds: float = 60) -> float:
        """Wait until every server says so; how many seconds that took. Whoever waits for NotReady knows of active
        orders, and waits for an answer only: any other is a failure."""
        began = time.monotonic()
        async with httpx.AsyncClient() as http:
            for address in self.addresses:
                while (verdict := await self.ask(http, address)) is None or verdict["ready"] != ready:
                    assert verdict is None or ready, f"{address} says Ready while orders are active: {verdict}"
                    assert time.monotonic() < began + seconds, f"{address} does not say it after {seconds} s: {verdict}"
                    await asyncio.sleep(0.1)
        return round(time.monotonic() - began, 1)


@dataclass
class SingleOrderPoller(VerdictPoller):
    """A second app whose hub has one order and no settle window. The order starts, and once that is acknowledged every
    server that answers must say NotReady; it ends, and every server that answers must say Ready."""

    hub: str = ""
    wrong: list[tuple[str, Any]] = field(default_factory=list)
    rounds: int = 0

    async def run_rounds(self) -> None:
        async with httpx.AsyncClient() as http:
            while True:
                order = f"canary-{self.rounds}"
                for status in ("Running", "Completed"):
                    await self._publish(http, event(self.hub, order, status))
                    for address in list(self.addresses):
                        verdict = await self.ask(http, address)
                        if verdict is not None and verdict["ready"] != (status == "Completed"):
                            self.wrong.append((f"{order} {status} at {address}", verdict))
                self.rounds += 1

    async def _publish(self, http: httpx.AsyncClient, one: dict[str, Any]) -> None:
        """At one server after the other, until one acknowledges."""
        attempt = 0
        while True:
            address = self.addresses[(self.rounds + attempt) % len(self.addresses)]
            try:
                answer = await http.post(f"{address}/api/events", json=[one], timeout=self.timeout)
                if answer.status_code == 200:
                    if answer.json()["quarantined"]:
                        self.wrong.append(("quarantined", one))
                    return
            except httpx.HTTPError:
                pass
            attempt += 1
            await asyncio.sleep(0.1)


@asynccontextmanager
async def run_while(coroutines: Sequence[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """All of them ask while the block runs."""
    running = [asyncio.create_task(one) for one in coroutines]
    try:
        yield
        # A task that died would have watched nothing.
        assert not any(task.done() for task in running), running
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
