"""Random histories of events, recorded in the storage emulator and compared with a simple model."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from state_api.app import StateServer
from state_api.domain.instants import Instant, format_instant, seconds
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.task_hubs.timeline import instant_of_minute
from state_api.settings import Settings, StorageSettings
from state_api.storage.tables import instance_table_name
from tests.builders import event
from tests.conftest import new_hub_name
from tests.hypothesis_profiles import example_count
from tests.storage.stored_rows import active_instance_ids, instance_store, task_hub_record
from tests.storage.stored_timelines import check_timeline, this_minute

BASE = Instant(instant_of_minute(this_minute()) - seconds(3600))
TICK = seconds(150)
"""Long enough that the ticks are in different rows of the timeline."""
# Few ids and few times, so that events of the same id and time occur, and events in the wrong order.
IDS = st.sampled_from(["order/1", "order#2", "monitor", "@counter@basket"])
TICKS = st.integers(0, 11)
SERVER_INDEXES = st.integers(0, 1)
RUNNING = "Running"
ENDS = ("Canceled", "Completed", "Failed", "Terminated")


@dataclass
class RecordModel:
    """What the records must show, computed from all events of each instance id."""

    events_by_id: dict[str, set[tuple[int, str]]] = field(default_factory=dict)

    def add_event(self, instance_id: str, tick: int, status: str) -> None:
        """Add an event. Its time is the base time plus this many times TICK."""
        self.events_by_id.setdefault(instance_id, set()).add((tick, status))

    def last_start(self, instance_id: str) -> int | None:
        """The tick of the last start event."""
        return max((tick for tick, status in self.events_by_id[instance_id] if status == RUNNING), default=None)

    def last_end(self, instance_id: str) -> tuple[int, str] | None:
        """The tick and the status of the last end event."""
        return max(
            ((tick, status) for tick, status in self.events_by_id[instance_id] if status != RUNNING), default=None
        )

    def active_ids(self) -> list[str]:
        """The ids of the instances that have started and not ended since then.

        An end at the time of a start counts as later. Entities are never active.
        """
        return sorted(
            instance_id
            for instance_id in self.events_by_id
            if not instance_id.startswith("@")
            and (start := self.last_start(instance_id)) is not None
            and ((end := self.last_end(instance_id)) is None or end[0] < start)
        )


class RecordedHistories(RuleBasedStateMachine):
    """Two servers record events of the same task hub. Each server can be restarted at any time."""

    storage: StorageSettings
    """The storage of both servers, which the test sets before the machine runs."""

    def __init__(self) -> None:
        """Begin with an empty task hub and two servers on the same storage."""
        super().__init__()
        self.runner = asyncio.Runner()
        self.hub = new_hub_name()
        self.model = RecordModel()
        self.sent: list[dict[str, Any]] = []
        self.servers = [self._start_server(), self._start_server()]

    def _start_server(self) -> StateServer:
        """A new state server on the same storage, with nothing cached."""

        # A server must be created while the event loop runs that it will use.
        async def create_server() -> StateServer:
            return StateServer(Settings(storage=self.storage))

        return self.runner.run(create_server())

    def _record(self, events: list[dict[str, Any]], server_index: int) -> None:
        """Record events through one of the servers."""
        self.runner.run(self.servers[server_index].services.recorder.record(events, "webhook"))

    def _new_event(self, instance_id: str, tick: int, status: str) -> dict[str, Any]:
        """An event that the model knows and that later steps may send again."""
        self.model.add_event(instance_id, tick, status)
        new_event = event(self.hub, instance_id, status, time=format_instant(Instant(BASE + TICK * tick)))
        self.sent.append(new_event)
        return new_event

    @rule(
        instance_id=IDS,
        tick=TICKS,
        status=st.sampled_from((RUNNING, RUNNING, *ENDS)),
        server_index=SERVER_INDEXES,
    )
    def deliver_one_event(self, instance_id: str, tick: int, status: str, server_index: int) -> None:
        self._record([self._new_event(instance_id, tick, status)], server_index)

    @rule(
        events=st.lists(st.tuples(IDS, TICKS, st.sampled_from((RUNNING, *ENDS))), max_size=12),
        server_index=SERVER_INDEXES,
    )
    def deliver_batch(self, events: list[tuple[str, int, str]], server_index: int) -> None:
        self._record([self._new_event(*event_parameters) for event_parameters in events], server_index)

    @rule(tick=TICKS, swapped=st.booleans(), ticks_apart=st.integers(0, 2), server_index=SERVER_INDEXES)
    def continue_as_new(self, *, tick: int, swapped: bool, ticks_apart: int, server_index: int) -> None:
        """Deliver Completed and then Running of the same id, in either order, with times that may be equal."""
        end_and_start = [
            self._new_event("monitor", tick, "Completed"),
            self._new_event("monitor", tick + ticks_apart, RUNNING),
        ]
        for new_event in reversed(end_and_start) if swapped else end_and_start:
            self._record([new_event], server_index)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), server_index=SERVER_INDEXES)
    def deliver_duplicates(self, data: st.DataObject, server_index: int) -> None:
        duplicates = data.draw(st.lists(st.sampled_from(self.sent), min_size=1, max_size=6))
        self._record(duplicates, server_index)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def deliver_to_both_servers_at_once(self, data: st.DataObject) -> None:
        """Deliver a start to one server and an end to the other, both with duplicates of earlier events."""
        duplicates = data.draw(st.lists(st.sampled_from(self.sent), min_size=1, max_size=6))
        start = self._new_event("order/1", data.draw(TICKS), RUNNING)
        end = self._new_event("order/1", data.draw(TICKS), "Completed")

        async def record_on_both() -> None:
            """Record through both servers at the same time."""
            first, second = (server.services.recorder for server in self.servers)
            await asyncio.gather(
                first.record([*duplicates, start], "webhook"), second.record([end, *duplicates], "webhook")
            )

        self.runner.run(record_on_both())

    @rule(server_index=SERVER_INDEXES)
    def restart_server(self, server_index: int) -> None:
        self.runner.run(self.servers[server_index].close())
        self.servers[server_index] = self._start_server()

    @invariant()
    def the_records_agree_with_the_model(self) -> None:
        """What is stored is what the events say, in any order and with any number of duplicates."""
        if self.model.events_by_id:
            self.runner.run(self._compare_records())

    async def _compare_records(self) -> None:
        """Fail unless the stored records are those of the model."""
        server = self.servers[0]
        store, record = instance_store(server), await task_hub_record(server, self.hub)
        expected = self.model.active_ids()
        assert await active_instance_ids(server, self.hub) == expected
        activity = (await store.read_records(record.name, Exemptions())).activity
        assert sorted(instance.instance_id for instance in activity.active) == expected
        await check_timeline(server, self.hub)
        for instance_id in self.model.events_by_id:
            stored = await store.get(record, instance_id)
            assert stored is not None
            start, end = self.model.last_start(instance_id), self.model.last_end(instance_id)
            assert ((stored.started.at - BASE) // TICK if stored.started else None) == start
            assert (((stored.finished.at - BASE) // TICK, stored.finished.outcome) if stored.finished else None) == end

    def teardown(self) -> None:
        """Delete the table of this history, and close the servers."""

        async def delete_table_and_close_servers() -> None:
            await self.servers[0].tables.delete_table(instance_table_name(self.hub))
            for server in self.servers:
                await server.close()

        self.runner.run(delete_table_and_close_servers())
        self.runner.close()


def test_any_history_is_recorded_as_the_model_says(storage: StorageSettings) -> None:
    class RecordedHistoriesOnEmulator(RecordedHistories):
        pass

    RecordedHistoriesOnEmulator.storage = storage
    machine = RecordedHistoriesOnEmulator
    machine.TestCase.settings = settings(
        max_examples=example_count(by_default=12, fuzz=60),
        stateful_step_count=25,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    machine.TestCase().runTest()
