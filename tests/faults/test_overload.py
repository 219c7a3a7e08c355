"""Ten times as many deliveries as the server can record. Refusals do not slow them down. Event Grid sends a delivery
again after 429 and 503, so a refusal loses no event. The server must not lose acknowledged events, stop answering
pipelines, or use more and more memory."""

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
"""How long a pipeline waits for a response."""
MAX_MEMORY_MB = 600


async def run_load_generator(plan: LoadPlan) -> dict[str, Any]:
    """Run the load generator in its own process. Returns its tally."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.load_generator", json.dumps(asdict(plan))),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    tally: dict[str, Any] = json.loads(output)
    return tally


async def poll_verdict(http: httpx.AsyncClient, app: str, durations: list[float], failures: list[str]) -> None:
    """Request the verdict continuously, as a pipeline does. Adds to `durations`, in seconds, and to `failures`."""
    while True:
        began_at = time.monotonic()
        try:
            response = await http.get(f"/api/apps/{app}/staging", headers=RUN_HEADERS, timeout=PIPELINE_TIMEOUT_SECONDS)
        except httpx.HTTPError as error:
            failures.append(type(error).__name__)
        else:
            if response.status_code != 200:
                failures.append(f"{response.status_code} {response.text[:200]}")
            elif response.json()["ready"]:
                failures.append("Ready while orders are active")
        durations.append(time.monotonic() - began_at)
        await asyncio.sleep(0.2)


def quantile(durations: list[float], share: float) -> float:
    """The duration below which this share of the durations lies."""
    return round(sorted(durations)[min(len(durations) - 1, int(share * len(durations)))], 2)


def acknowledged_ids(file: Path) -> set[str]:
    """The instance ids of the acknowledged events."""
    return set(file.read_text().split())


async def test_no_acknowledged_event_is_lost_under_ten_times_the_sustainable_load(
    storage: StorageSettings, tmp_path: Path, record_figures: Callable[..., None]
) -> None:
    calm_hub, flooded_hub, app = new_hub_name(), new_hub_name(), f"shop-{new_hub_name()}"
    with run_servers(storage, tmp_path) as group:
        address = group.addresses[0]
        await register_and_stage(address, app, flooded_hub, 0)
        files = [tmp_path / "calm", tmp_path / "flooded"]
        calm_plan = LoadPlan(address, calm_hub, str(files[0]), MEASURING_SECONDS, connections=16)
        calm_tally = await run_load_generator(calm_plan)
        sustainable_rate = calm_tally["acknowledged_deliveries"] / calm_tally["seconds"]
        durations: list[float] = []
        failures: list[str] = []
        async with httpx.AsyncClient(base_url=address, timeout=PIPELINE_TIMEOUT_SECONDS) as http:
            # An active instance, so that every Ready is wrong.
            assert (await http.post("/api/events", json=[event(flooded_hub, "before")])).status_code == 200
            polling = asyncio.create_task(poll_verdict(http, app, durations, failures))
            overload_plan = LoadPlan(
                address, flooded_hub, str(files[1]), OVERLOAD_SECONDS, CONNECTIONS, per_second=10 * sustainable_rate
            )
            tally = await run_load_generator(overload_plan)
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
            memory = group.update_peak_memory()
            overload_ended_at = time.monotonic()
            while (await http.post("/api/events", json=[event(flooded_hub, "after")])).status_code != 200:
                assert time.monotonic() < overload_ended_at + PIPELINE_TIMEOUT_SECONDS, "the server does not recover"
                await asyncio.sleep(0.2)
            recovered_after = round(time.monotonic() - overload_ended_at, 2)
        lost = 0
        for hub, file in zip((calm_hub, flooded_hub), files, strict=True):
            instances, active = await read_rows(storage, hub)
            lost += len(acknowledged_ids(file) - (instances.keys() & active.keys()))
        statuses = tally["statuses"]
        record_figures(
            sustainable_deliveries_per_second=round(sustainable_rate, 1),
            sustainable_events_per_second=round(calm_tally["acknowledged_events"] / calm_tally["seconds"], 1),
            offered=tally["offered"],
            sent=tally["sent"],
            most_waiting_in_the_generator=tally["max_waiting"],
            responses=json.dumps(statuses),
            unexpected_responses=len(tally["unexpected_responses"]),
            acknowledged_events=tally["acknowledged_events"],
            lost=lost,
            longest_response=round(tally["longest_response"], 1),
            status_requests=len(durations),
            status_p50=quantile(durations, 0.5),
            status_p99=quantile(durations, 0.99),
            status_max=quantile(durations, 1),
            status_failures=len(failures),
            peak_rss_mb=memory,
            recovered_after=recovered_after,
        )
        assert tally["offered"] >= 9 * sustainable_rate * OVERLOAD_SECONDS, "the generator was too slow"
        assert (tally["unexpected_responses"][:3], set(statuses) <= {"200", "429", "503"}) == ([], True), statuses
        assert (failures[:3], max(durations) < PIPELINE_TIMEOUT_SECONDS) == ([], True)
        assert memory < MAX_MEMORY_MB
        assert lost == 0
        assert tally["acknowledged_events"] > 0
