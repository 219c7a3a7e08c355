"""Invariants of an app after any sequence of transitions, by any callers, with any verdicts."""

from collections.abc import Callable
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from state_api.domain.errors import StateError
from state_api.domain.instants import Instant, seconds
from state_api.domain.names import HubKey, hub_key
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import App, Caller, Transition
from state_api.domain.releases.registration import find_replaced_slots
from state_api.domain.releases.staging import needs_verdict
from state_api.domain.releases.transition_checks import find_blocking_deployment
from tests.domain.builders import ANNA, BEN, CALLER_WITHOUT_RUN, NOON, build_not_ready_verdict, build_ready_verdict
from tests.domain.transitions import (
    abandon_staging,
    begin_swap,
    build_register_command,
    build_stage_command,
    forget_retired_hubs,
    register,
    revert_swap,
    stage,
    swap_at_once,
)

READY, NOT_READY = build_ready_verdict(), build_not_ready_verdict()

HUBS = st.sampled_from(["v41", "v42", "v43", "v44", "v45", "V41", "V45"])
SLOTS = st.sampled_from(["staging", "Staging", "canary", "production"])
CALLERS = st.sampled_from([ANNA, BEN, CALLER_WITHOUT_RUN])
VERDICTS = st.sampled_from([READY, NOT_READY])
MINUTES = st.sampled_from([0, 1, 30, 60])
OVERRIDES = st.sampled_from(["nothing", "force", "take over", "both"])
SLOT_CONTENTS = st.none() | st.tuples(HUBS, st.sampled_from([None, "1.0.0"]))


class TransitionSequences(RuleBasedStateMachine):
    """Attempts transitions in any order. A refused transition leaves the app unchanged, as in the services."""

    def __init__(self) -> None:
        """Begin at noon with an app of three empty slots."""
        super().__init__()
        self.app = App("shop", slots={"production": None, "staging": None, "canary": None})
        self.now: Instant = NOON
        self.ever_in_slot: set[HubKey] = set()
        self.removed: set[HubKey] = set()

    def attempt(self, decide: Callable[[], Transition], *, may_end_swap: bool = False) -> bool:
        """Make a transition. Returns whether it was allowed.

        An error that is not a StateError fails the test."""
        try:
            transition = decide()
        except StateError:
            return False
        assert transition.changed or transition.app == self.app
        new = {hub_key(hub) for hub in transition.new_hubs}
        assert not new & self.ever_in_slot, "a hub enters a slot for the first time only once"
        assert self.hubs_in_slots(transition.app) - self.hubs_in_slots(self.app) == new
        if self.app.pending_swap is not None and not may_end_swap:
            assert transition.app.pending_swap is not None, "nothing but its outcome ends a pending swap"
            assert transition.app.pending_swap.started_at == self.app.pending_swap.started_at
            assert transition.app.slots == self.app.slots, "no slot changes while a swap is pending"
        self.ever_in_slot |= new
        self.app = transition.app
        return True

    @staticmethod
    def hubs_in_slots(app: App) -> set[HubKey]:
        """The task hubs that the slots hold."""
        return {hub_key(slot.task_hub) for slot in app.slots.values() if slot is not None}

    @rule(minutes=MINUTES)
    def let_time_pass(self, minutes: int) -> None:
        self.now = Instant(self.now + seconds(60 * minutes))

    @rule(hub=HUBS, slot=SLOTS, caller=CALLERS, verdict=VERDICTS, override=OVERRIDES)
    def post_staging(self, hub: str, slot: str, caller: Caller, verdict: Verdict, override: str) -> None:
        """A caller stages. Neither another run's deployment nor a slot that has not drained gives way without an
        override."""
        command = build_stage_command(
            hub,
            caller=caller,
            slot=slot,
            force=override in {"force", "both"},
            take_over=override in {"take over", "both"},
            reason="hotfix",
        )
        before, now = self.app, self.now
        other_deployment = find_blocking_deployment(before, caller.run_id(hub), now)
        evidence_verdict = verdict if needs_verdict(before, command, now) else None
        used = hub_key(hub) in self.ever_in_slot
        if not self.attempt(lambda: stage(before, command, verdict=evidence_verdict, used_before=used, now=now)):
            return
        assert other_deployment is None or command.take_over, "another run's deployment is only ever taken over"
        assert evidence_verdict is not NOT_READY or command.force, "a slot that has not drained is only ever forced"
        assert self.app.slots["production"] == before.slots["production"]
        assert find_blocking_deployment(self.app, caller.run_id(hub), now) is None
        assert self.app.get_open_deployment(now) is not None

    @rule(hub=HUBS, slot=SLOTS, caller=CALLERS)
    def delete_staging(self, hub: str, slot: str, caller: Caller) -> None:
        """A caller abandons a deployment: the slots stay as they are."""
        before, now = self.app, self.now
        if self.attempt(lambda: abandon_staging(before, hub, now, slot=slot, caller=caller)):
            assert self.app.slots == before.slots
            open_deployment = self.app.get_open_deployment(now)
            assert open_deployment is None or open_deployment.slot != before.registered_slot_name(slot)

    @rule(hub=HUBS, slot=SLOTS)
    def post_swap(self, hub: str, slot: str) -> None:
        """A caller records a swap in one step: production holds the task hub, and no task hub retires."""
        before, now = self.app, self.now
        if self.attempt(lambda: swap_at_once(before, hub, now, slot=slot), may_end_swap=True):
            assert self.app.pending_swap is None
            assert self.app.slot_holding(hub) == "production"
            assert self.app.retired == before.retired
            assert self.hubs_in_slots(self.app) == self.hubs_in_slots(before)

    @rule(hub=HUBS, slot=SLOTS, caller=CALLERS, rollback=st.booleans())
    def begin_swap(self, hub: str, slot: str, caller: Caller, *, rollback: bool) -> None:
        """A caller begins a swap in two steps. Reverting it restores the app."""
        before, now = self.app, self.now
        if not self.attempt(lambda: begin_swap(before, hub, now, slot=slot, caller=caller, rollback=rollback)):
            return
        assert self.app.slot_holding(hub) == "production"
        pending = self.app.pending_swap
        if pending is None:
            assert self.app == before, "production already holds the hub"
        elif before.pending_swap is not None:
            assert pending.run_id == caller.run_id(hub), "no run joins the swap of another run"
        else:
            before_slot = before.slot(slot)
            assert before_slot is not None
            assert before_slot.promoted or not rollback
            reverted = revert_swap(self.app, hub, slot=slot).app
            # A deployment whose time is over is not kept.
            assert reverted == replace(before, deployment=before.get_open_deployment(now))

    @rule(hub=HUBS, slot=SLOTS)
    def revert_swap_in_slot(self, hub: str, slot: str) -> None:
        """A caller reports that a swap has failed: the slots are as they were before it."""
        before = self.app
        if self.attempt(lambda: revert_swap(before, hub, slot=slot), may_end_swap=True):
            assert self.app.pending_swap is None
            assert self.app.slot_holding(hub) == before.registered_slot_name(slot)
            if before.pending_swap is not None:
                assert self.app.slots == {**before.slots, **before.pending_swap.slots_before}

    @precondition(lambda self: self.app.pending_swap)
    @rule(outcome=st.sampled_from(["done", "failed"]))
    def end_swap(self, outcome: str) -> None:
        """Any caller can end a pending swap by reporting its outcome."""
        pending, before, now = self.app.pending_swap, self.app, self.now
        assert pending is not None
        if outcome == "done":
            assert self.attempt(
                lambda: swap_at_once(before, pending.task_hub, now, slot=pending.slot), may_end_swap=True
            )
            assert self.app == replace(before, pending_swap=None)
        else:
            assert self.attempt(lambda: revert_swap(before, pending.task_hub, slot=pending.slot), may_end_swap=True)
            assert self.app.slot_holding(pending.task_hub) == pending.slot

    @rule(
        slots=st.dictionaries(st.sampled_from(["production", "Staging", "canary", "qa"]), SLOT_CONTENTS),
        verdict=VERDICTS,
    )
    def put_app(self, slots: dict[str, tuple[str, str | None] | None], verdict: Verdict) -> None:
        """An administrator assigns slots. A task hub retires only if its slot has drained."""
        before, now = self.app, self.now
        registration = build_register_command(slots)
        verdicts = dict.fromkeys(find_replaced_slots(before, registration), verdict)
        used = frozenset(self.ever_in_slot)
        if self.attempt(lambda: register(before, registration, verdicts=verdicts, used_hub_keys=used, now=now)):
            assert verdict.ready or self.app.retired == before.retired

    @precondition(lambda self: self.app.retired)
    @rule(data=st.data())
    def clean_up(self, data: st.DataObject) -> None:
        """Cleanup forgets one retired task hub, whose name must never be used again."""
        hub = data.draw(st.sampled_from(self.app.retired)).task_hub
        before = self.app
        assert self.attempt(lambda: forget_retired_hubs(before, [hub]))
        self.removed.add(hub_key(hub))

    @invariant()
    def no_hub_is_in_two_slots_or_also_retired(self) -> None:
        hubs = [hub_key(slot.task_hub) for slot in self.app.slots.values() if slot is not None]
        hubs += [hub_key(retired.task_hub) for retired in self.app.retired]
        hubs += self.removed
        assert len(hubs) == len(set(hubs))

    @invariant()
    def no_hub_is_lost(self) -> None:
        retired = {hub_key(hub.task_hub) for hub in self.app.retired}
        assert self.ever_in_slot == self.hubs_in_slots(self.app) | retired | self.removed

    @invariant()
    def production_and_the_slot_hold_the_task_hubs_of_a_pending_swap(self) -> None:
        """The record shows the slots as they are after the swap, and keeps how they were before."""
        pending = self.app.pending_swap
        if pending is None:
            return
        slots = self.app.slots["production"], self.app.slots[pending.slot]
        assert [slot.task_hub if slot else None for slot in slots] == [pending.task_hub, pending.swapped_out]
        assert pending.slots_before.keys() == {"production", pending.slot}
        deployment = self.app.deployment
        assert deployment is None or deployment.slot != pending.slot, (
            "the deployment is closed, or kept in the pending swap in case that fails"
        )

    @invariant()
    def no_two_slots_have_the_same_name(self) -> None:
        assert len({name.lower() for name in self.app.slots}) == len(self.app.slots)

    @invariant()
    def the_hub_in_production_is_promoted(self) -> None:
        production = self.app.slots["production"]
        assert production is None or production.promoted

    @invariant()
    def the_slot_holds_the_hub_of_an_open_deployment(self) -> None:
        deployment = self.app.get_open_deployment(self.now)
        assert deployment is None or self.app.slot_holding(deployment.task_hub) == deployment.slot


TestNoSequenceOfTransitionsLosesAHubOrPutsItIntoTwoSlots = TransitionSequences.TestCase
