"""Stores signal what they have recorded, once it is durable."""

import pytest

from state_api.app import StateServer
from state_api.domain.instants import Instant, parse_instant
from state_api.domain.readiness.waiting import InstanceChange, RecordedChanges
from state_api.domain.releases.apps import App
from state_api.domain.task_hubs.lifecycle import (
    EvidenceSource,
    Finished,
    Instance,
    LifecycleEvent,
    RuntimeStatus,
)
from state_api.services.change_signals import ChangeSignals
from state_api.services.ports import AuditRecord
from state_api.storage.apps import AppStore
from state_api.storage.instances import InstanceStore
from state_api.storage.routers import RouterStore
from state_api.storage.task_hubs import TaskHubStore

pytestmark = pytest.mark.anyio

START = parse_instant("2026-11-20T09:00:00Z")


def build_event(hub: str, status: str, tick: int = 0, instance_id: str = "order-1") -> LifecycleEvent:
    """An event of an order, `tick` ticks after the start of all of them."""
    return LifecycleEvent(hub, instance_id, "ProcessOrder", RuntimeStatus(status), "", Instant(START + tick))


async def test_recorded_events_and_corrections_say_which_instances_are_active_now(
    server: StateServer, hub: str
) -> None:
    record = await TaskHubStore(server.tables, shards=1).get_or_create(hub)
    signals, heard = ChangeSignals(), list[RecordedChanges]()
    store = InstanceStore(server.tables, signals)
    with signals.listen_to_task_hub(hub.upper(), heard.append):
        await store.record(record, [build_event(hub, "Running")])
        await store.record(record, [build_event(hub, "Running")])
        await store.record(record, [build_event(hub, "Completed", 5), build_event(hub, "Running", 1, "order-2")])
        end = Finished(Instant(START + 9), RuntimeStatus.COMPLETED, "", "ProcessOrder", EvidenceSource.PROBE)
        await store.record_corrections(record, [Instance("order-2", finished=end)])
    await store.record(record, [build_event(hub, "Running", 20)])
    await store.close()
    instances = {
        (change.instance_id, change.active, bool(changes.stamped_functions))
        for changes in heard
        for change in changes.instances
    }
    assert instances == {
        ("order-1", True, True),
        ("order-1", False, True),
        ("order-2", True, True),
        ("order-2", False, False),
    }, "a repeated event changes nothing, and the listener is gone at the end"
    assert InstanceChange("order-1", "ProcessOrder", active=True) in heard[0].instances


async def test_the_time_of_a_signal_is_not_later_than_the_stamp(server: StateServer, hub: str) -> None:
    record = await TaskHubStore(server.tables, shards=1).get_or_create(hub)
    signals, heard = ChangeSignals(), list[RecordedChanges]()
    store = InstanceStore(server.tables, signals)
    with signals.listen_to_task_hub(hub, heard.append):
        await store.record(record, [build_event(hub, "Running")])
    activity = (await server.services.readiness.read_activity(hub, App("shop").policy)).last_recorded_at
    await store.close()
    assert activity is not None
    assert heard[0].recorded_at <= activity


async def test_only_another_revision_that_a_router_acknowledges_is_signalled(server: StateServer, app: str) -> None:
    await AppStore(server.tables, ChangeSignals()).commit(
        App(app), App(app, revision=1), AuditRecord(1, START, "PutApp", "anna", None, None, None)
    )
    signals, heard = ChangeSignals(), list[str]()
    store = RouterStore(server.tables, signals)
    with signals.listen_to_acknowledgements(app.upper(), lambda: heard.append("acknowledged")):
        for revision in (1, 1, 2, 1):
            await store.acknowledge(App(app), "envoy-1", revision, START)
        assert len(heard) == 3, "the second request repeats the first one"
    await store.acknowledge(App(app), "envoy-1", 3, START)
    assert len(heard) == 3, "the listener is gone at the end"


async def test_a_written_app_is_passed_on_and_a_refused_write_is_not(server: StateServer, app: str) -> None:
    signals, heard = ChangeSignals(), list[App]()
    store = AppStore(server.tables, signals)
    first = App(app, revision=1)
    audit = AuditRecord(1, START, "PutApp", "anna", None, None, None)
    with signals.listen_to_app(app.upper(), heard.append):
        assert await store.commit(App(app), first, audit)
        assert not await store.commit(App(app), first, audit)
    assert [changed.revision for changed in heard] == [1]
