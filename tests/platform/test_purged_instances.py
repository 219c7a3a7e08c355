"""An instance is purged and its end is lost, where messages cannot be seen: it does not block if a probe has shown it
before."""

import uuid
from pathlib import Path
from random import Random

import pytest

from state_api.settings import StorageSettings
from tests.platform.durable_host import run_durable_host
from tests.platform.event_relay import run_event_relay
from tests.platform.state_server import MANAGEMENT_API_PROVIDER_CONFIG, STORAGE_PROVIDER_CONFIG, run_state_server
from tests.platform.task_hub_storage import TaskHubReader
from tests.platform.verdict_poller import VerdictPoller

pytestmark = pytest.mark.anyio

SEEN_SECONDS = 3.5
"""A start is confirmed by a look that begins a second after it at the earliest, by a clock that may be a second
behind."""


@pytest.mark.parametrize(
    ("provider", "policy"),
    [(MANAGEMENT_API_PROVIDER_CONFIG, {}), (STORAGE_PROVIDER_CONFIG, {"ignoreMessages": True})],
    ids=["managementApi", "azureStorage-without-messages"],
)
async def test_an_instance_that_a_probe_has_shown_does_not_block_once_it_is_purged(
    storage: StorageSettings, tmp_path: Path, provider: dict[str, str], policy: dict[str, bool]
) -> None:
    """The event of its start arrives, that of its end is lost. Before, it blocked until it was ten minutes old."""
    assert storage.connection_string is not None
    connection, task_hub = storage.connection_string.get_secret_value(), f"purged{uuid.uuid4().hex[:16]}"
    looked_at = TaskHubReader(connection, task_hub)
    try:
        async with (
            run_event_relay(lambda: server.webhook, Random()) as relay,
            run_durable_host(task_hub, connection, tmp_path, topic=relay.url) as worker,
            run_state_server(storage, tmp_path, worker.url) as server,
        ):
            watch = VerdictPoller(server, f"app-{task_hub}", looked_at)
            await server.put_app(watch.app, task_hub, provider, **policy)
            for instance_id in ("order-1", "order-2"):
                await worker.start_orchestration("Wait", instance_id)
                await worker.wait_for_status(instance_id, "Running")
            await watch.poll_until(lambda: relay.delivered_count >= 2)
            await watch.poll_for(SEEN_SECONDS)
            assert watch.ready == []
            relay.loss_rate = 1.0
            for instance_id in ("order-1", "order-2"):
                await worker.raise_go_event(instance_id)
                await worker.wait_for_status(instance_id, "Completed")
                await worker.send_operation("purge", instance_id)
                assert await worker.status(instance_id) is None
            assert (relay.posted_count, relay.lost_count, relay.delivered_count) == (4, 2, 2)
            await watch.wait_until_ready()
    finally:
        await looked_at.close()
