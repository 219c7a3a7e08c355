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

from harness.state_server import ROOT
from state_api.settings import StorageSettings
from tests.builders import event
from tests.conftest import new_hub_name
from tests.faults.load_generator import LoadPlan
from tests.faults.record_comparison import read_rows
from tests.faults.scale import scaled
from tests.faults.server_group import run_servers
from tests.faults.verdict_pollers import RUN_HEADERS, register_and_stage

pytestmark = [pytest.mark.fault, pytest.mark.anyio]

MEASURING_SECONDS = scaled(8, minimum=4)
OVERLOAD_SECONDS = scaled(60, minimum=6)
CONNECTIONS = 1000
PIPELINE_TIMEOUT_SECONDS = 30
"""Seconds within which a pipeline must have its answer."""
MAX_MEMORY_MB = 600


async def run_load_generator(plan: LoadPlan) -> dict[str, Any]:
    """Run the generator; its tally."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.load_generator", json.dumps(asdict(plan))),
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


async def poll_verdict(http: httpx.AsyncClient, app: str, took: list[float], failed: list[str]) -> None:
    """As a pipeline does, all the time."""
    while True:
        began = time.monotonic()
        try:
            answer = await http.get(f"/api/apps/{app}/staging", headers=RUN_HEADERS, timeout=PIPELINE_TIMEOUT_SECONDS)
        except httpx.HTTPError as error:
            failed.append(type(error).__name__)
        else:
            if answer.status_code != 200:
                failed.append(f"{answer.status_code} {answer.text[:200]}")
            elif answer.json()["ready"]:
                failed.append("Ready while orders are active")
        took.append(time.monotonic() - began)
        await asyncio.sleep(0.2)


def quantile(took: list[float], share: float) -> float:
    return round(sorted(took)[min(len(took) - 1, int(share * len(took)))], 2)


def acknowledged_ids(file: Path) -> set[str]:
    """The instance ids of the events that were acknowledged."""
    return set(file.read_text().split())


async def test_ten_times_too_much_is_refused_cleanly_and_nothing_acknowledged_is_lost(
    storage: StorageSettings, tmp_path: Path, record_figures: Callable[..., None]
) -> None:
    calm, flooded, app = new_hub_name(), new_hub_name(), f"shop-{new_hub_name()}"
    with run_servers(storage, tmp_path) as group:
        address = group.addresses[0]
        await register_and_stage(address, app, flooded, 0)
        kept = [tmp_path / "calm", tmp_path / "flooded"]
        measured = await run_load_generator(LoadPlan(address, calm, str(kept[0]), MEASURING_SECONDS, connections=16))
        rate = measured["acknowledged_deliveries"] / measured["seconds"]
        took: list[float] = []
        failed: list[str] = []
        async with httpx.AsyncClient(base_url=address, timeout=PIPELINE_TIMEOUT_SECONDS) as http:
            # So that Ready is wrong from the first question on.
            assert (await http.post("/api/events", json=[event(flooded, "before")])).status_code == 200
            asking = asyncio.create_task(poll_verdict(http, app, took, failed))
            plan = LoadPlan(address, flooded, str(kept[1]), OVERLOAD_SECONDS, CONNECTIONS, per_second=10 * rate)
            tally = await run_load_generator(plan)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            memory = group.update_peak_memory()
            over = time.monotonic()
            while (await http.post("/api/events", json=[event(flooded, "after")])).status_code != 200:
                assert time.monotonic() < over + PIPELINE_TIMEOUT_SECONDS, "the server does not recover"
                await asyncio.sleep(0.2)
            recovered = round(time.monotonic() - over, 2)
        lost = 0
        for hub, file in zip((calm, flooded), kept, strict=True):
            instances, active = await read_rows(storage, hub)
            lost += len(acknowledged_ids(file) - (instances.keys() & active.keys()))
        statuses = tally["statuses"]
        record_figures(
            sustainable_deliveries_per_second=round(rate, 1),
            sustainable_events_per_second=round(measured["acknowledged_events"] / measured["seconds"], 1),
            offered=tally["offered"],
            sent=tally["sent"],
            most_waiting_in_the_generator=tally["max_waiting"],
            answers=json.dumps(statuses),
            unclean=len(tally["unexpected_responses"]),
            acknowledged_events=tally["acknowledged_events"],
            lost=lost,
            longest_answer=round(tally["longest_response"], 1),
            questions=len(took),
            question_p50=quantile(took, 0.5),
            question_p99=quantile(took, 0.99),
            question_max=quantile(took, 1),
            unanswered=len(failed),
            peak_rss_mb=memory,
            recovered_after=recovered,
        )
        assert tally["offered"] >= 9 * rate * OVERLOAD_SECONDS, "the generator kept the pace that it was told"
        assert (tally["unexpected_responses"][:3], set(statuses) <= {"200", "429", "503"}) == ([], True), statuses
        assert (failed[:3], max(took) < PIPELINE_TIMEOUT_SECONDS) == ([], True)
        assert memory < MAX_MEMORY_MB
        assert lost == 0
        assert tally["acknowledged_events"] > 0
