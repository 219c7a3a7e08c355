"""A rollout on the real extension: a candidate that fails is found by its orchestrations, gets no more requests,
drains, and is removed."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random

import httpx
import pytest

from harness.durable_host import DurableHost, run_durable_host
from state_api.settings import StorageSettings
from tests.http.operations import reason_codes
from tests.http.release_operations import (
    delete_release,
    get_release_status,
    get_routing,
    post_release,
    put_routing,
    put_side_by_side_app,
)
from tests.http.rollout_operations import get_health, get_rollout, put_rollout
from tests.platform.event_relay import run_event_relay
from tests.platform.state_server import STORAGE_PROVIDER_CONFIG, run_state_server

pytestmark = pytest.mark.anyio

ORDER_COUNT = 12
EVALUATION_TIMEOUT_SECONDS = 120
"""The server evaluates a rollout every 30 s; a busy machine takes longer."""


@asynccontextmanager
async def run_release(
    http: httpx.AsyncClient, app: str, version: str, connection: str, folder: Path, topic: str
) -> AsyncIterator[DurableHost]:
    """Register a release, and run a worker on its task hub."""
    task_hub = f"rollout{version}{uuid.uuid4().hex[:12]}"
    assert (await post_release(http, app, version, task_hub)).status_code == 200
    async with run_durable_host(task_hub, connection, folder, topic=topic) as worker:
        yield worker


async def place_orders(baseline: DurableHost, candidate: DurableHost) -> None:
    """Let both versions work on orders at the same time. Those of the candidate fail, and one stays open."""
    await candidate.start_orchestration("Wait", "open")
    for number in range(ORDER_COUNT):
        await baseline.start_orchestration("Chain", f"order-{number}")
        await candidate.start_orchestration("Fails", f"order-{number}")
    for number in range(ORDER_COUNT):
        await baseline.wait_for_status(f"order-{number}", "Completed")
        await candidate.wait_for_status(f"order-{number}", "Failed")


async def test_a_failing_candidate_is_aborted_by_the_server_itself_and_its_release_drains(
    storage: StorageSettings, tmp_path: Path, app: str
) -> None:
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    async with (
        run_event_relay(lambda: server.webhook, Random()) as relay,
        run_state_server(storage, tmp_path) as server,
        httpx.AsyncClient(base_url=server.url, timeout=150) as http,
    ):
        await put_side_by_side_app(http, app, taskHubs=STORAGE_PROVIDER_CONFIG)
        async with run_release(http, app, "1", connection, tmp_path, relay.url) as baseline, AsyncExitStack() as stack:
            assert (await put_routing(http, app, "1")).status_code == 200
            release = run_release(http, app, "2", connection, tmp_path, relay.url)
            candidate = await stack.enter_async_context(release)
            assert (await put_rollout(http, app, version="2")).status_code == 200
            await place_orders(baseline, candidate)

            # No request asks for it: the server evaluates the rollout by itself.
            async with asyncio.timeout(EVALUATION_TIMEOUT_SECONDS):
                while (await get_rollout(http, app))["state"] == "Running":
                    await asyncio.sleep(1)
            rollout = await get_rollout(http, app)
            assert (rollout["state"], rollout["lastDecision"]["code"]) == ("Aborted", "FailureRateHigher")
            routing = (await get_routing(http, app)).json()
            assert (routing["active"], routing["split"]) == ("1", None)
            health = await get_health(http, app)
            assert (health["candidate"]["failed"], health["candidate"]["active"]) == (ORDER_COUNT, 1)
            assert (health["baseline"]["finished"], health["baseline"]["failed"]) == (ORDER_COUNT, 0)

            # What has begun on the candidate ends there, and then its release is removed.
            assert "InstancesActive" in reason_codes(await get_release_status(http, app, "2"))
            await candidate.raise_go_event("open")
            await candidate.wait_for_status("open", "Completed")
            status = await get_release_status(http, app, "2", wait=120)
            assert status["ready"], status["reasons"]
            assert (await delete_release(http, app, "2", "Pending")).status_code == 200
