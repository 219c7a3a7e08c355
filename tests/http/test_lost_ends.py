"""Ends that no event has reported are found at the provider, also behind instances that stay active for long."""

from typing import Any

import httpx
import pytest

from state_api.app import StateServer
from state_api.domain.instants import Instant, seconds
from state_api.services.lost_ends import LongActive, StartPeriod
from tests.backends.azure_storage_task_hub import ControlQueue, ProviderTaskHub, control_message
from tests.builders import event, timestamp
from tests.http.operations import PROVIDER_CONFIG, list_instances, post_events, put_app

pytestmark = pytest.mark.anyio

TIMEOUT_SECONDS = 30


async def find_long_active(server: StateServer, app: str, hub: str, *, from_seconds_ago: float = 600) -> LongActive:
    """Look for what has been active for more than a minute."""
    now = server.tables.clock.now()
    period = StartPeriod(Instant(now - seconds(from_seconds_ago)), Instant(now - seconds(60)))
    state = await server.services.releases.get(app)
    return await server.services.readiness.find_long_active(state, hub, period, timeout_seconds=TIMEOUT_SECONDS)


@pytest.fixture
async def staged_hub(http: httpx.AsyncClient, app: str, provider_hub: ProviderTaskHub) -> ProviderTaskHub:
    """A task hub in the staging slot of an app with a provider."""
    await provider_hub.create()
    await put_app(http, app, slots={"staging": {"taskHub": provider_hub.hub}}, taskHubs=PROVIDER_CONFIG)
    return provider_hub


async def record_starts(http: httpx.AsyncClient, hub: str, **seconds_ago: float) -> None:
    """Record the starts of these instances."""
    await post_events(
        http, *(event(hub, instance_id, time=timestamp(-started)) for instance_id, started in seconds_ago.items())
    )


async def recorded_statuses(http: httpx.AsyncClient, hub: str) -> dict[str, Any]:
    """The recorded status of each instance."""
    return {name: instance["runtimeStatus"] for name, instance in (await list_instances(http, hub)).items()}


async def test_every_end_in_the_period_is_recorded_although_an_older_instance_is_active(
    http: httpx.AsyncClient, server: StateServer, app: str, staged_hub: ProviderTaskHub
) -> None:
    await record_starts(http, staged_hub.hub, running=300, failed=200, completed=100, recent=10)
    for instance_id, status in (("running", "Running"), ("failed", "Failed"), ("completed", "Completed")):
        await staged_hub.put(instance_id, status)
    long_active = await find_long_active(server, app, staged_hub.hub)
    assert (long_active.oldest is not None and long_active.oldest.instance_id, long_active.failure) == ("running", None)
    assert await recorded_statuses(http, staged_hub.hub) == {
        "running": "Running",
        "failed": "Failed",
        "completed": "Completed",
        "recent": "Running",
    }


async def test_instances_from_before_the_period_are_not_looked_up(
    http: httpx.AsyncClient, server: StateServer, app: str, staged_hub: ProviderTaskHub
) -> None:
    await record_starts(http, staged_hub.hub, earlier=900)
    await staged_hub.put("earlier", "Failed")
    assert await find_long_active(server, app, staged_hub.hub) == LongActive(None)
    assert await recorded_statuses(http, staged_hub.hub) == {"earlier": "Running"}


async def test_a_start_that_is_still_a_message_is_not_confirmed_and_does_not_end(
    http: httpx.AsyncClient, server: StateServer, app: str, staged_hub: ProviderTaskHub
) -> None:
    """A worker publishes the start before it writes the row."""
    await record_starts(http, staged_hub.hub, waiting=100, running=90)
    await staged_hub.put("running", "Running")
    async with ControlQueue(staged_hub) as queue:
        await queue.send(control_message("waiting"))
        long_active = await find_long_active(server, app, staged_hub.hub)
    assert long_active.oldest is not None
    assert long_active.oldest.instance_id == "running"
    assert await recorded_statuses(http, staged_hub.hub) == {"waiting": "Running", "running": "Running"}


async def test_the_ends_behind_many_active_instances_are_found_within_some_look_ups(
    http: httpx.AsyncClient,
    server: StateServer,
    app: str,
    staged_hub: ProviderTaskHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("state_api.services.lost_ends._OLDEST_COUNT", 2)
    monkeypatch.setattr("state_api.services.lost_ends._SAMPLE_COUNT", 2)
    await record_starts(http, staged_hub.hub, **{f"running{number}": 300 - number for number in range(6)}, ended=100)
    await staged_hub.put_many([f"running{number}" for number in range(6)], "Running")
    await staged_hub.put("ended", "Completed")
    for _ in range(200):
        long_active = await find_long_active(server, app, staged_hub.hub)
        assert long_active.oldest is not None
        assert long_active.oldest.instance_id == "running0"
        if (await recorded_statuses(http, staged_hub.hub))["ended"] == "Completed":
            return
    pytest.fail("the end was not found")


async def test_a_task_hub_that_cannot_be_read_is_reported_and_nothing_is_recorded(
    http: httpx.AsyncClient, server: StateServer, app: str, staged_hub: ProviderTaskHub
) -> None:
    await record_starts(http, staged_hub.hub, order=100)
    await staged_hub.delete()
    long_active = await find_long_active(server, app, staged_hub.hub)
    assert long_active.oldest is None
    assert long_active.failure is not None
    assert staged_hub.hub in long_active.failure
    assert await recorded_statuses(http, staged_hub.hub) == {"order": "Running"}


async def test_without_a_provider_the_oldest_instance_is_known_by_its_events(
    http: httpx.AsyncClient, server: StateServer, app: str, hub: str
) -> None:
    await put_app(http, app, slots={"staging": {"taskHub": hub}})
    await record_starts(http, hub, older=200, newer=100, recent=10)
    long_active = await find_long_active(server, app, hub)
    assert (long_active.oldest is not None and long_active.oldest.instance_id, long_active.failure) == ("older", None)
