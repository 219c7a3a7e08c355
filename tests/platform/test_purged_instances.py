"""Instances that are purged and whose ends are lost, on the real extension, where the server sees no messages. They do
not block if a probe has seen them before."""

import uuid
from pathlib import Path
from random import Random

import pytest

from harness.durable_host import run_durable_host
from state_api.settings import StorageSettings
from tests.platform.event_relay import run_event_relay
from tests.platform.state_server import MANAGEMENT_API_PROVIDER_CONFIG, STORAGE_PROVIDER_CONFIG, run_state_server
from tests.platform.task_hub_storage import TaskHubReader
from tests.platform.verdict_poller import VerdictPoller

pytestmark = pytest.mark.anyio

CONFIRMATION_SECONDS = 3.5
"""How long a probe may take to confirm a start: it must begin a second after the start at the earliest, by a clock that
may be a second slow."""


@pytest.mark.parametrize(
    ("provider", "policy"),
    [(MANAGEMENT_API_PROVIDER_CONFIG, {}), (STORAGE_PROVIDER_CONFIG, {"ignoreMessages": True})],
    ids=["managementApi", "azureStorage-without-messages"],
)
async def test_an_instance_that_a_probe_has_seen_does_not_block_after_its_purge(
    storage: StorageSettings, tmp_path: Path, provider: dict[str, str], policy: dict[str, bool]
) -> None:
    """The events of the starts arrive, and those of the ends are lost."""
    assert storage.connection_string is not None
    connection, task_hub = storage.connection_string.get_secret_value(), f"purged{uuid.uuid4().hex[:16]}"
    task_hub_storage = TaskHubReader(connection, task_hub)
    try:
        async with (
            run_event_relay(lambda: server.webhook, Random()) as relay,
            run_durable_host(task_hub, connection, tmp_path, topic=relay.url) as worker,
            run_state_server(storage, tmp_path, worker.url) as server,
        ):
            poller = VerdictPoller(server, f"app-{task_hub}", task_hub_storage)
            await server.put_app(poller.app, task_hub, provider, **policy)
            for instance_id in ("order-1", "order-2"):
                await worker.start_orchestration("Wait", instance_id)
                await worker.wait_for_status(instance_id, "Running")
            await poller.poll_until(lambda: relay.posted_count >= 2 and relay.is_idle)
            await poller.poll_for(CONFIRMATION_SECONDS)
            assert poller.ready_responses == []
            relay.loss_rate = 1.0
            for instance_id in ("order-1", "order-2"):
                await worker.raise_go_event(instance_id)
                await worker.wait_for_status(instance_id, "Completed")
                await worker.send_operation("purge", instance_id)
                assert await worker.status(instance_id) is None
            # The relay delivers some events twice, so the deliveries are not counted.
            assert (relay.posted_count, relay.lost_count) == (4, 2)
            await poller.wait_until_ready()
    finally:
        await task_hub_storage.close()
