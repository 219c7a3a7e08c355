"""Ten times as many deliveries as the server can take, whatever it answers. Event Grid comes again after 429 and 503,
so a refusal loses nothing; what must not happen is that the server promises what it does not keep, stops answering the
pipeline, or grows until it dies."""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest

from state_api.settings import StorageSettings
from tests.builders import event
from tests.conftest import new_hub
from tests.faults.load import Plan
from tests.faults.records import rows
from tests.faults.servers import servers
from tests.faults.sizes import part
from tests.faults.watch import RUN, stage
from tests.server.processes import ROOT

pytestmark = [pytest.mark.fault, pytest.mark.anyio]

MEASURED = part(8, least=4)
OVERLOAD = part(60, least=6)
CONNECTIONS = 1000
PIPELINE = 30
"""Seconds within which a pipeline must have its answer."""
MOST_MEMORY_MB = 600


async def generate(plan: Plan) -> dict[str, Any]:
    """Run the generator; its tally."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.load", json.dumps(asdict(plan))),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    tally: dict[str, Any] = json.loads(said)
    return tally


async def ask(http: httpx.AsyncClient, app: str, took: list[float], failed: list[str]) -> None:
    """As a pipeline does, all the time."""
    while True:
        began = time.monotonic()
        try:
            answer = await http.get(f"/api/apps/{app}/staging", headers=RUN, timeout=PIPELINE)
        except httpx.HTTPError as error:
            failed.append(type(error).__name__)
        else:
            if answer.status_code != 200:
                failed.append(f"{answer.status_code} {answer.text[:200]}")
            elif answer.json()["ready"]:
                failed.append("Ready while orders are active")
        took.append(time.monotonic() - began)
        await asyncio.sleep(0.2)


def at_share(took: list[float], share: float) -> float:
    return round(sorted(took)[min(len(took) - 1, int(share * len(took)))], 2)


def told(file: Path) -> set[str]:
    """The instance ids of the events that were acknowledged."""
    return set(file.read_text().split())


async def test_ten_times_too_much_is_refused_cleanly_and_nothing_acknowledged_is_lost(
    storage: StorageSettings, tmp_path: Path, figures: Callable[..., None]
) -> None:
    calm, flooded, app = new_hub(), new_hub(), f"shop-{new_hub()}"
    with servers(storage, tmp_path) as group:
        address = group.addresses[0]
        await stage(address, app, flooded, 0)
        kept = [tmp_path / "calm", tmp_path / "flooded"]
        measured = await generate(Plan(address, calm, str(kept[0]), MEASURED, connections=16))
        rate = measured["acknowledged_deliveries"] / measured["seconds"]
        took: list[float] = []
        failed: list[str] = []
        async with httpx.AsyncClient(base_url=address, timeout=PIPELINE) as http:
            # So that Ready is wrong from the first question on.
            assert (await http.post("/api/events", json=[event(flooded, "before")])).status_code == 200
            asking = asyncio.create_task(ask(http, app, took, failed))
            plan = Plan(address, flooded, str(kept[1]), OVERLOAD, CONNECTIONS, per_second=10 * rate)
            tally = await generate(plan)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            memory = group.note_memory()
            over = time.monotonic()
            while (await http.post("/api/events", json=[event(flooded, "after")])).status_code != 200:
                assert time.monotonic() < over + PIPELINE, "the server does not recover"
                await asyncio.sleep(0.2)
            recovered = round(time.monotonic() - over, 2)
        lost = 0
        for hub, file in zip((calm, flooded), kept, strict=True):
            instances, active = await rows(storage, hub)
            lost += len(told(file) - (instances.keys() & active.keys()))
        statuses = tally["statuses"]
        figures(
            sustainable_deliveries_per_second=round(rate, 1),
            sustainable_events_per_second=round(measured["acknowledged_events"] / measured["seconds"], 1),
            offered=tally["offered"],
            sent=tally["sent"],
            most_waiting_in_the_generator=tally["most_waiting"],
            answers=json.dumps(statuses),
            unclean=len(tally["unclean"]),
            acknowledged_events=tally["acknowledged_events"],
            lost=lost,
            longest_answer=round(tally["longest_answer"], 1),
            questions=len(took),
            question_p50=at_share(took, 0.5),
            question_p99=at_share(took, 0.99),
            question_max=at_share(took, 1),
            unanswered=len(failed),
            peak_rss_mb=memory,
            recovered_after=recovered,
        )
        assert tally["offered"] >= 9 * rate * OVERLOAD, "the generator kept the pace that it was told"
        assert (tally["unclean"][:3], set(statuses) <= {"200", "429", "503"}) == ([], True), statuses
        assert (failed[:3], max(took) < PIPELINE) == ([], True)
        assert memory < MOST_MEMORY_MB
        assert lost == 0
        assert tally["acknowledged_events"] > 0
