"""Random histories through the real store, against a model that a reader can check by eye."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from state_api.app import StateServer
from state_api.domain.instants import Instant, format_instant, parse_instant
from state_api.domain.readiness.exemptions import Exemptions
from state_api.settings import Settings, StorageSettings
from state_api.storage.tables import instance_table_name
from tests.builders import event
from tests.conftest import new_hub_name
from tests.hypothesis_profiles import example_count
from tests.storage.stored_rows import active_instance_ids, instance_store, task_hub_record

BASE = parse_instant("2026-11-20T09:00:00Z")
# Few ids and few times, so that events meet: of the same id, at the same time, in the wrong order.
IDS = st.sampled_from(["order/1", "order#2", "monitor", "@counter@basket"])
TICKS = st.integers(0, 11)
RUNNING = "Running"
ENDS = ("Canceled", "Completed", "Failed", "Terminated")


@dataclass
class Model:
    """What must be known, in the plainest terms: for each id all events ever seen."""

    events_by_id: dict[str, set[tuple[int, str]]] = field(default_factory=dict)

    def add(self, instance_id: str, tick: int, status: str) -> None:
        self.events_by_id.setdefault(instance_id, set()).add((tick, status))

    def last_start(self, instance_id: str) -> int | None:
        return max((tick for tick, status in self.events_by_id[instance_id] if status == RUNNING), default=None)

    def last_end(self, instance_id: str) -> tuple[int, str] | None:
        return max((one for one in self.events_by_id[instance_id] if one[1] != RUNNING), default=None)

    def active(self) -> list[str]:
        """Started, and no end at or after the last start; entities never."""
        return sorted(
            instance_id
            for instance_id in self.events_by_id
            if not instance_id.startswith("@")
            and (start := self.last_start(instance_id)) is not None
            and ((end := self.last_end(instance_id)) is None or end[0] < start)
        )


def state_machine_on(storage: StorageSettings) -> type[RuleBasedStateMachine]:
    class Histories(RuleBasedStateMachine):
        """Two servers record the same hub; either can be restarted at any time."""

        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            self.hub = new_hub_name()
            self.model = Model()
            self.sent: list[dict[str, Any]] = []
            self.servers = [self._server(), self._server()]

        def _server(self) -> StateServer:
            async def start() -> StateServer:
                return StateServer(Settings(storage=storage))

            return self.runner.run(start())

        def _record(self, events: list[dict[str, Any]], which: int) -> None:
            self.runner.run(self.servers[which].services.recorder.record(events, "webhook"))

        def _event(self, instance_id: str, tick: int, status: str) -> dict[str, Any]:
            self.model.add(instance_id, tick, status)
            made = event(self.hub, instance_id, status, time=format_instant(Instant(BASE + tick)))
            self.sent.append(made)
            return made

        @rule(instance_id=IDS, tick=TICKS, status=st.sampled_from((RUNNING, RUNNING, *ENDS)), which=st.integers(0, 1))
        def one_event(self, instance_id: str, tick: int, status: str, which: int) -> None:
            self._record([self._event(instance_id, tick, status)], which)

        @rule(
            events=st.lists(st.tuples(IDS, TICKS, st.sampled_from((RUNNING, *ENDS))), max_size=12),
            which=st.integers(0, 1),
        )
        def a_batch(self, events: list[tuple[str, int, str]], which: int) -> None:
            self._record([self._event(*one) for one in events], which)

        @rule(tick=TICKS, swapped=st.booleans(), apart=st.integers(0, 2), which=st.integers(0, 1))
        def continue_as_new(self, tick: int, swapped: bool, apart: int, which: int) -> None:
            """Completed and then Running of the same id, perhaps in the other order, perhaps at the same time."""
            pair = [self._event("monitor", tick, "Completed"), self._event("monitor", tick + apart, RUNNING)]
            for one in reversed(pair) if swapped else pair:
                self._record([one], which)

        @precondition(lambda self: self.sent)
        @rule(data=st.data(), which=st.integers(0, 1))
        def delivered_again(self, data: st.DataObject, which: int) -> None:
            again = data.draw(st.lists(st.sampled_from(self.sent), min_size=1, max_size=6))
            self._record(again, which)

        @precondition(lambda self: self.sent)
        @rule(data=st.data())
        def both_servers_at_once(self, data: st.DataObject) -> None:
            again = data.draw(st.lists(st.sampled_from(self.sent), min_size=1, max_size=6))
            first = self._event("order/1", data.draw(TICKS), RUNNING)
            last = self._event("order/1", data.draw(TICKS), "Completed")

            async def meet() -> None:
                one, other = (server.services.recorder for server in self.servers)
                await asyncio.gather(one.record([*again, first], "webhook"), other.record([last, *again], "webhook"))

            self.runner.run(meet())

        @rule(which=st.integers(0, 1))
        def restart(self, which: int) -> None:
            self.runner.run(self.servers[which].close())
            self.servers[which] = self._server()

        @invariant()
        def the_store_knows_what_the_model_knows(self) -> None:
            if self.model.events_by_id:
                self.runner.run(self._compare())

        async def _compare(self) -> None:
            server = self.servers[0]
            store, record = instance_store(server), await task_hub_record(server, self.hub)
            expected = self.model.active()
            assert await active_instance_ids(server, self.hub) == expected
            activity = await store.read_activity(record, Exemptions())
            assert sorted(one.instance_id for one in activity.active) == expected
            for instance_id in self.model.events_by_id:
                known = await store.get(record, instance_id)
                assert known is not None
                start, end = self.model.last_start(instance_id), self.model.last_end(instance_id)
                assert (known.started.at - BASE if known.started else None) == start
                assert ((known.finished.at - BASE, known.finished.outcome) if known.finished else None) == end

        def teardown(self) -> None:
            async def end() -> None:
                await self.servers[0].tables.delete_table(instance_table_name(self.hub))
                for server in self.servers:
                    await server.close()

            self.runner.run(end())
            self.runner.close()

    return Histories


def test_any_history_leaves_what_a_plain_model_says(storage: StorageSettings) -> None:
    machine = state_machine_on(storage)
    machine.TestCase.settings = settings(
        max_examples=example_count(by_default=12, fuzz=60),
        stateful_step_count=25,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    machine.TestCase().runTest()
