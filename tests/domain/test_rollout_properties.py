"""No sequence of actions, health and clocks leads a rollout to a state in which traffic is lost, unseen, or stuck."""

from collections.abc import Callable

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from state_api.domain.errors import StateError
from state_api.domain.instants import Instant, seconds
from state_api.domain.names import same_hub
from state_api.domain.releases.apps import App, Caller, Transition
from state_api.domain.releases.rollout_checks import find_open_rollout
from state_api.domain.releases.side_by_side.commands import RemovalOutcome
from state_api.domain.rollouts.analysis import Analysis, OnUndecided, OnUnhealthy
from state_api.domain.rollouts.health import Health
from state_api.domain.rollouts.rollouts import Rollout, RolloutState, Step
from state_api.domain.rollouts.waits import find_wait
from tests.domain.builders import ANNA, BEN, CALLER_WITHOUT_RUN, NOON, build_ready_verdict, build_slot
from tests.domain.release_transitions import build_shop_app, delete_release, post_release, put_routing
from tests.domain.rollout_builders import (
    ACTIONS,
    HEALTHY,
    UNDECIDED,
    UNHEALTHY,
    advance,
    build_slots_app,
    confirm,
    post_rollout,
    put_rollout,
    require_rollout,
)
from tests.domain.transitions import (
    abandon_staging,
    begin_swap,
    build_register_command,
    build_stage_command,
    confirm_swap,
    register,
    revert_swap,
    stage,
    swap_at_once,
)

ANALYSES = st.builds(Analysis, on_unhealthy=st.sampled_from(OnUnhealthy), on_undecided=st.sampled_from(OnUndecided))
STEP_LISTS = st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True).map(
    lambda weights: [Step(weight, 5) for weight in sorted(weights)]
)
CALLERS = st.sampled_from([ANNA, BEN, CALLER_WITHOUT_RUN])
HEALTHS = st.sampled_from([HEALTHY, UNDECIDED, UNHEALTHY, None])
DURATIONS = st.sampled_from([1, 60, 300, 1500, 3600])
NEW_VISITORS, PINNED_VISITORS = 30, 3600
"""For how many seconds the platform still sends new and known visitors to a slot after its share was set to 0 %."""


class RolloutSequences(RuleBasedStateMachine):
    """What is common to both models: one app, whose rollout is advanced and changed at any time."""

    app: App

    def __init__(self) -> None:
        """Begin at noon."""
        super().__init__()
        self.now = NOON

    @property
    def minutes(self) -> float:
        """The present time in minutes after noon."""
        return (self.now - NOON) / seconds(60)

    @property
    def live_rollout(self) -> Rollout | None:
        """The rollout, if it has not ended."""
        rollout = self.app.rollout
        return rollout if rollout is not None and rollout.is_live else None

    def attempt(self, decide: Callable[[], Transition]) -> bool:
        """Make a transition, as far as it is allowed. An error that is not a StateError fails the test."""
        try:
            transition = decide()
        except StateError:
            return False
        assert transition.changed or transition.app == self.app
        self.app = transition.app
        return True

    @rule(duration=DURATIONS)
    def wait(self, duration: int) -> None:
        """Let time pass."""
        self.now = Instant(self.now + seconds(duration))

    @rule(steps=STEP_LISTS, analysis=ANALYSES, caller=CALLERS)
    def start(self, steps: list[Step], analysis: Analysis, caller: Caller) -> None:
        """Start a rollout, or repeat to."""
        before = self.app
        if self.attempt(lambda: put_rollout(before, steps=steps, analysis=analysis, caller=caller, now=self.now)):
            assert self.app is before or require_rollout(self.app).step_index == 0

    @rule(health=HEALTHS, skew=st.sampled_from([0, 0, -300, 300]))
    def advance(self, health: Health | None, skew: int) -> None:
        """Let a server decide whose clock differs from the others by up to 5 minutes."""
        before = self.app
        if before.rollout is None:
            return
        self.attempt(lambda: advance(before, health, self.minutes + skew / 60))
        after = require_rollout(self.app)
        assert after.step_index - before.rollout.step_index in (0, 1), "a decision takes at most one step"
        if health is None:
            assert after.weight == before.rollout.weight, "without a health, the share stays as it is"

    @rule(action=st.sampled_from(ACTIONS))
    def change(self, action: str) -> None:
        """Pause, resume, abort or finish. Doing it again has no further effect."""
        before = self.app
        if self.attempt(lambda: post_rollout(before, action, self.minutes)):
            assert not post_rollout(self.app, action, self.minutes).changed

    @invariant()
    def is_consistent(self) -> None:
        """The share is that of the step, or nothing, or everything; and times are in order."""
        rollout = self.app.rollout
        if rollout is None:
            return
        assert list(rollout.share_changes) == sorted(rollout.share_changes)
        weights = {
            RolloutState.RUNNING: rollout.steps[rollout.step_index].weight,
            RolloutState.PAUSED: rollout.steps[rollout.step_index].weight,
            RolloutState.FINISHED: 100 if self.app.releases else 0,
        }
        assert rollout.weight == weights.get(rollout.state, 0)
        assert not rollout.is_live or find_wait(rollout, self.now) is not None, "it says what it waits for"


class SideBySideRollouts(RolloutSequences):
    """Releases side by side, where the rollout changes the routing itself."""

    def __init__(self) -> None:
        """Begin with an active and a staged release."""
        super().__init__()
        self.app = build_shop_app()

    @rule(active=st.sampled_from(["1.3.0", "1.4.0", "1.5.0"]), other=st.sampled_from([None, "1.4.0", "1.5.0"]))
    def put_routing(self, active: str, other: str | None) -> None:
        """Set the routing past the rollout. While it is live, only its baseline can get all requests."""
        before, live = self.app, self.live_rollout
        split = None if other is None or other == active else {active: 60, other: 40}
        if self.attempt(lambda: put_routing(before, active, split, now=self.now)) and live is not None:
            assert (active, split) == (live.baseline, None)
            assert require_rollout(self.app).state is RolloutState.ABORTED

    @rule(version=st.sampled_from(["1.3.0", "1.4.0", "1.5.0"]), outcome=st.sampled_from(RemovalOutcome))
    def delete_release(self, version: str, outcome: RemovalOutcome) -> None:
        """Remove a release, or begin to."""
        before = self.app
        self.attempt(lambda: delete_release(before, version, outcome, now=self.now))

    @rule(version=st.sampled_from(["1.6.0"]))
    def post_release(self, version: str) -> None:
        """Register a release during the rollout of another one."""
        before = self.app
        self.attempt(lambda: post_release(before, version, now=self.now))

    @invariant()
    def routing_is_that_of_the_rollout(self) -> None:
        """While a rollout is live, its split is the routing, and both releases are there."""
        rollout, routing = self.live_rollout, self.app.routing
        assert all(self.app.releases[version].removal is None for version in routing.versions)
        if rollout is None:
            return
        assert routing.active == rollout.baseline
        assert routing.split == {rollout.baseline: 100 - rollout.weight, rollout.candidate: rollout.weight}
        assert find_open_rollout(self.app, rollout.candidate, self.now) is not None

    @invariant()
    def rolls_back(self) -> None:
        """The baseline can get all requests back at any time."""
        rollout = self.live_rollout
        if rollout is not None:
            aborted = put_routing(self.app, rollout.baseline, now=self.now).app
            assert require_rollout(aborted).state is RolloutState.ABORTED
            assert not aborted.releases[rollout.candidate].has_traffic

    @invariant()
    def is_not_stuck(self) -> None:
        """A rollout that runs goes on by itself, and a paused one when a person says so."""
        rollout = self.live_rollout
        if rollout is None:
            return
        app = self.app
        if rollout.state is RolloutState.PAUSED:
            app = post_rollout(app, "resume", self.minutes).app
        assert advance(app, HEALTHY, self.minutes + 60).changed


class RolloutsInSlots(RolloutSequences):
    """An app with slots. A pipeline sets the share of the slot staging in Azure, and can be killed at any time."""

    def __init__(self) -> None:
        """Begin with a task hub in each slot. `share` is what Azure has."""
        super().__init__()
        self.app = build_slots_app(more_slots={"canary": build_slot("v99")})
        self.share = 0
        self.last_share_at: Instant | None = None
        self.hub_count = 0
        self.had_traffic: set[str] = set()

    @property
    def visitors_may_come(self) -> bool:
        """Whether the platform may send a visitor to the slot now."""
        if self.share or self.last_share_at is None:
            return self.share > 0
        return self.now < self.last_share_at + seconds(NEW_VISITORS + PINNED_VISITORS)

    @precondition(lambda self: self.live_rollout is not None)
    @rule(confirms=st.booleans())
    def set_share(self, *, confirms: bool) -> None:
        """The pipeline sets the share that the rollout needs. It is killed before it confirms, or it confirms."""
        rollout = require_rollout(self.app)
        if self.share:
            self.last_share_at = self.now
        self.share = rollout.weight
        if self.share:
            self.last_share_at = self.now
            self.had_traffic.add(rollout.candidate_hub)
        before = self.app
        if confirms:
            assert self.attempt(lambda: confirm(before, self.share, self.minutes))

    @rule(caller=CALLERS, force=st.booleans(), new=st.booleans())
    def post_staging(self, caller: Caller, *, force: bool, new: bool) -> None:
        """Stage a task hub over one that has drained, or the present one again."""
        before, slot = self.app, self.app.slot("staging")
        self.hub_count += 1
        task_hub = f"hub{self.hub_count}" if new or slot is None else slot.task_hub
        reason = "hotfix" if force else None
        command = build_stage_command(task_hub, caller=caller, force=force, take_over=force, reason=reason)
        live, may_come = self.live_rollout, self.visitors_may_come
        if self.attempt(lambda: stage(before, command, verdict=build_ready_verdict(), now=self.now)):
            assert live is None, "force does not help while the rollout is live"
            assert force or not may_come
            assert task_hub not in self.had_traffic, "other code would meet the work of customers"

    @rule(hub=st.sampled_from(["production", "staging", "canary"]), slot=st.sampled_from(["staging", "canary"]))
    def swap(self, hub: str, slot: str) -> None:
        """Swap at once. During a rollout, only when the slot is cleared to finish."""
        before, live, holder = self.app, self.live_rollout, self.app.slot(hub)
        if holder is None:
            return
        if self.attempt(lambda: swap_at_once(before, holder.task_hub, self.now, slot=slot)):
            self.check_swap(before, live)

    @rule(step=st.sampled_from([begin_swap, confirm_swap]), slot=st.sampled_from(["staging", "canary"]))
    def swap_in_two_steps(self, step: Callable[..., Transition], slot: str) -> None:
        """Begin to swap what is in the slot, or report the outcome Done of the pending swap."""
        before, live, pending = self.app, self.live_rollout, self.app.pending_swap
        holder = self.app.slot(slot)
        task_hub = pending.task_hub if pending is not None else holder.task_hub if holder is not None else "none"
        if self.attempt(lambda: step(before, task_hub, self.now, slot=slot)):
            self.check_swap(before, live)

    def check_swap(self, before: App, live: Rollout | None) -> None:
        """A swap that changes slots during a rollout is the one with which it finishes."""
        if live is None or self.app.slots == before.slots:
            return
        assert live.state is RolloutState.FINISHING
        assert live.cleared_at is not None
        assert self.share == 0
        assert same_hub(self.app.task_hubs_by_slot()["production"] or "", live.candidate_hub)

    @precondition(lambda self: self.app.pending_swap is not None)
    @rule()
    def fail_swap(self) -> None:
        """The swap has failed in Azure."""
        before, pending = self.app, self.app.pending_swap
        assert pending is not None
        assert self.attempt(lambda: revert_swap(before, pending.task_hub, slot=pending.slot))

    @rule()
    def abandon(self) -> None:
        """Close the open deployment."""
        before, slot = self.app, self.app.slot("staging")
        if slot is not None:
            self.attempt(lambda: abandon_staging(before, slot.task_hub, self.now))

    @rule(name=st.sampled_from(["production", "staging"]))
    def empty_slot(self, name: str) -> None:
        """PutApp empties a slot that has drained. During a rollout that is refused."""
        before, live = self.app, self.live_rollout
        command, verdicts = build_register_command({name: None}), {name: build_ready_verdict()}
        # While visitors may come, the slot has no verdict Ready.
        if find_open_rollout(before, name, self.now) is None or live is not None:
            self.attempt(lambda: register(before, command, verdicts=verdicts, now=self.now))
        assert live is None or self.app.slots == before.slots

    @invariant()
    def traffic_is_known(self) -> None:
        """While a visitor may come to the slot, it has the reason RolloutInProgress."""
        assert not self.visitors_may_come or find_open_rollout(self.app, "staging", self.now) is not None

    @invariant()
    def task_hubs_stay(self) -> None:
        """The task hubs of a live rollout are in their slots, so that Cleanup does not remove them."""
        rollout = self.live_rollout
        if rollout is None:
            return
        assert {rollout.candidate_hub, rollout.baseline_hub} == {
            self.app.task_hubs_by_slot()["production"],
            self.app.task_hubs_by_slot()["staging"],
        }
        assert not {rollout.candidate_hub, rollout.baseline_hub} & {retired.task_hub for retired in self.app.retired}

    @invariant()
    def is_not_stuck(self) -> None:
        """A pipeline that is run again, or a person, brings every live rollout to its end."""
        app, rollout = self.app, self.live_rollout
        if rollout is None:
            return
        if app.pending_swap is not None:
            assert require_rollout(confirm_swap(app, rollout.candidate_hub).app).state is RolloutState.FINISHED
            return
        if rollout.state in (RolloutState.RUNNING, RolloutState.PAUSED):
            app = post_rollout(app, "finish", self.minutes).app
        app = confirm(app, 0, self.minutes).app
        if rollout.state is not RolloutState.ABORTING:
            app = swap_at_once(app, rollout.candidate_hub, self.now).app
        assert not require_rollout(app).is_live


_SETTINGS = settings(max_examples=40, stateful_step_count=40)
"""Fewer than by default, because the invariants make transitions of their own."""

TestSideBySideRollouts = SideBySideRollouts.TestCase
TestSideBySideRollouts.settings = _SETTINGS
TestRolloutsInSlots = RolloutsInSlots.TestCase
TestRolloutsInSlots.settings = _SETTINGS
