"""The benchmark of the time from publication to visibility: events at a pace, and what they are compared with."""

import asyncio
import time
from pathlib import Path

import pytest

from bench import visibility
from bench.event_stream import DeliveriesInTurns, EventStream
from bench.group_commit_alone import GroupCommitAlone
from bench.paced_events import UNCOUNTED_SECONDS, Pace, plan_events, publish_when_due
from bench.storage import RawTables
from state_api.settings import StorageSettings
from tests.backends.storage_account import connection_string_of


@pytest.mark.anyio
async def test_events_are_published_when_they_are_due_although_earlier_ones_are_not_acknowledged() -> None:
    paced_events = plan_events(EventStream("paced", lag=100), Pace(events_per_second=2000, seconds=0.1, seed=1))
    published: list[int] = []
    all_are_published = asyncio.Event()

    async def publish(index: int) -> None:
        """Publish no event before all are due: fails if the events are published one after another."""
        published.append(index)
        if len(published) == len(paced_events):
            all_are_published.set()
        await all_are_published.wait()

    delays = await publish_when_due(paced_events, publish, begins_at=time.perf_counter())
    assert published == list(range(len(paced_events)))
    counted = [event for event in paced_events if event.due_seconds >= UNCOUNTED_SECONDS]
    assert 0 < len(counted) < len(paced_events)
    assert len(delays.sent) == len(delays.acknowledged) == len(counted)


def test_the_same_seed_gives_the_same_times_and_instances_at_the_rate_that_was_asked_for() -> None:
    pace = Pace(events_per_second=500, seconds=4, seed=3)
    first, second = (plan_events(EventStream("paced", lag=100), pace) for _ in range(2))
    assert [event.due_seconds for event in first] == [event.due_seconds for event in second]
    assert [event.body["data"]["instanceId"] for event in first] == [
        event.body["data"]["instanceId"] for event in second
    ]
    assert 2000 <= len(first) <= 2500
    assert all(0 < event.due_seconds < UNCOUNTED_SECONDS + pace.seconds for event in first)


@pytest.mark.anyio
async def test_a_group_commit_without_a_server_writes_every_event(storage: StorageSettings) -> None:
    async with RawTables(connection_string_of(storage)) as raw:
        alone = GroupCommitAlone(raw)
        await alone.create_table()
        pace = Pace(events_per_second=100, seconds=0.5, seed=1)
        delays = await alone.run(pace)
        rows = await raw.count_rows("GroupCommitAlone", "RowKey ge 'i|' and RowKey lt 'i}'")
    # Fewer events than an orchestration takes to end, so each is a start.
    assert rows == len(plan_events(EventStream("alone", lag=100), pace)) > len(delays.acknowledged) > 25


@pytest.mark.anyio
async def test_visibility_is_measured_by_the_webhook_and_the_trigger(tmp_path: Path) -> None:
    section = await visibility.run(tmp_path, rounds=1, seconds=0.3)
    subjects = [figure["subject"] for figure in section["figures"]]
    for source in ("webhook", "trigger"):
        assert f"published to seen in the table by the {source} at half of its possible rate, p99" in subjects
    assert section["awaited"] > 0
    assert sum("aim" in figure for figure in section["figures"]) == 2


def test_deliveries_come_from_each_task_hub_in_turn() -> None:
    deliveries = DeliveriesInTurns([EventStream(hub, lag=100) for hub in ("first", "second")])
    hubs = [{event_body["data"]["hubName"] for event_body in deliveries.next_events(3)} for _ in range(4)]
    assert hubs == [{"first"}, {"second"}, {"first"}, {"second"}]
