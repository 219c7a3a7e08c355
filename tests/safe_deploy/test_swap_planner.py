"""What a swap does next: the decisions as tables, and as a model in which everything can fail or be killed anywhere."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_deploy.errors import ConflictError
from safe_deploy.swap_planner import (
    ObservedSlots,
    PendingSwap,
    RecordedSlots,
    SwapAttempt,
    SwapStep,
    choose_rollback_task_hub,
    describe_interrupted_swap,
    find_staging_mismatch,
    is_same_task_hub,
    plan_after_command,
    plan_interrupted_swap,
    plan_swap,
)

PENDING = PendingSwap("v42", "v41", "staging", False, "ann", "2026-11-21T10:00:00Z", "https://ci.example/runs/1")
STAGED = RecordedSlots("shop", "staging", "v41", "v42")
BEGUN = RecordedSlots("shop", "staging", "v42", "v41", PENDING)
SWAPPED = RecordedSlots("shop", "staging", "v42", "v41")
FIRST = RecordedSlots("shop", "staging", None, "v42")

UNSWAPPED = ObservedSlots("v41", "v42")
DONE = ObservedSlots("v42", "v41")


RUN = "https://ci.example/runs/1"


def find_refusal(
    recorded: RecordedSlots, observed: ObservedSlots | None, task_hub: str = "v42", run_url: str | None = RUN
) -> str:
    with pytest.raises(ConflictError) as caught:
        plan_swap(recorded, task_hub, observed, run_url)
    assert caught.value.exit_code == 6
    return caught.value.message


def answer(**members: Any) -> dict[str, Any]:
    """An app as the server answers it, as far as a record is made from it."""
    slots = {"production": {"taskHub": "v41"}, "staging": {"taskHub": "v42"}}
    return {"app": "shop", "slots": slots, "pendingSwap": None, **members}


PENDING_ANSWER = {
    "taskHub": "v42",
    "swappedOut": "v41",
    "slot": "staging",
    "rollback": False,
    "by": "ann",
    "startedAt": "2026-11-21T10:00:00Z",
    "runUrl": "https://ci.example/runs/1",
}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("v42", "v42", True), ("v42", "V42", True), ("v42", "v41", False), (None, "v42", False), (None, None, False)],
)
def test_names_mean_one_hub_whatever_their_case_and_no_hub_is_like_nothing(
    one: str | None, other: str | None, expected: bool
) -> None:
    assert is_same_task_hub(one, other) is expected


@pytest.mark.parametrize(
    ("app", "slot", "expected"),
    [
        (answer(), "staging", STAGED),
        (answer(), "Staging", replace(STAGED, slot_name="Staging")),
        (answer(), "canary", RecordedSlots("shop", "canary", "v41", None)),
        (answer(slots={"production": None, "staging": {"taskHub": "v42"}}), "staging", FIRST),
        (answer(slots={}), "staging", RecordedSlots("shop", "staging", None, None)),
        (answer(pendingSwap=PENDING_ANSWER), "staging", replace(STAGED, pending_swap=PENDING)),
    ],
)
def test_a_record_is_what_the_server_answers(app: dict[str, Any], slot: str, expected: RecordedSlots) -> None:
    assert RecordedSlots.from_app(app, slot) == expected


@pytest.mark.parametrize(
    ("recorded", "observed", "step"),
    [
        # Nothing is pending.
        (STAGED, None, SwapStep.BEGIN),
        (STAGED, UNSWAPPED, SwapStep.BEGIN),
        (STAGED, ObservedSlots("V41", "V42"), SwapStep.BEGIN),
        (STAGED, DONE, SwapStep.CONFIRM),
        (SWAPPED, None, SwapStep.ALREADY_SWAPPED),
        (SWAPPED, DONE, SwapStep.ALREADY_SWAPPED),
        # The first deployment: nothing on record is in production, whatever the platform has there.
        (FIRST, None, SwapStep.BEGIN),
        (FIRST, ObservedSlots(None, "v42"), SwapStep.BEGIN),
        (FIRST, ObservedSlots("v42", None), SwapStep.CONFIRM),
        # Not in the slot: the server refuses, and says what is where.
        (RecordedSlots("shop", "staging", "v41", "v43"), UNSWAPPED, SwapStep.BEGIN),
        (RecordedSlots("shop", "staging", "v41", None), None, SwapStep.BEGIN),
        # A swap that was cut off.
        (BEGUN, UNSWAPPED, SwapStep.RESUME),
        (BEGUN, DONE, SwapStep.CONFIRM),
        (BEGUN, ObservedSlots("V42", "V41"), SwapStep.CONFIRM),
        (replace(BEGUN, slot_name="STAGING"), UNSWAPPED, SwapStep.RESUME),
    ],
)
def test_what_a_swap_begins_with(recorded: RecordedSlots, observed: ObservedSlots | None, step: SwapStep) -> None:
    assert plan_swap(recorded, "v42", observed, RUN) is step


@pytest.mark.parametrize("observed", [None, UNSWAPPED, DONE])
def test_a_pending_swap_of_another_hub_or_slot_stops_everything(observed: ObservedSlots | None) -> None:
    assert "has not said how it went" in find_refusal(BEGUN, observed, "v43")
    assert "has not said how it went" in find_refusal(replace(BEGUN, slot_name="canary"), observed)


def test_a_pending_swap_is_not_run_again_where_nobody_can_look() -> None:
    assert "--outcome failed" in find_refusal(BEGUN, None)


@pytest.mark.parametrize("run_url", [None, "https://ci.example/runs/2"])
@pytest.mark.parametrize("began", [None, RUN])
def test_only_the_run_that_began_a_swap_runs_it_again_and_anybody_may_confirm_it(
    run_url: str | None, began: str | None
) -> None:
    recorded = replace(BEGUN, pending_swap=replace(PENDING, run_url=began))
    assert "wait for it" in find_refusal(recorded, UNSWAPPED, run_url=run_url)
    assert plan_swap(recorded, "v42", DONE, run_url) is SwapStep.CONFIRM


@pytest.mark.parametrize(
    ("recorded", "observed", "said"),
    [
        (SWAPPED, UNSWAPPED, "production carries v41"),
        (SWAPPED, ObservedSlots(None, None), "production carries no task hub"),
        (STAGED, ObservedSlots("v40", "v42"), "production carries v40"),
        (STAGED, ObservedSlots(None, "v42"), "production carries no task hub"),
        (STAGED, ObservedSlots("v41", "v40"), "slot staging carries v40"),
        (STAGED, ObservedSlots("v41", None), "slot staging carries no task hub"),
        (STAGED, ObservedSlots("v41", "v41"), "slot staging carries v41"),
        # A hub in both places proves no swap.
        (STAGED, ObservedSlots("v42", "v42"), "production carries v42"),
        (STAGED, ObservedSlots("v42", "v40"), "production carries v42, and the slot v40"),
        (BEGUN, ObservedSlots("v42", "v42"), "production carries v42"),
        # After a swap the slot would hold what the server knows nothing of.
        (FIRST, ObservedSlots("v40", "v42"), "safe-deploy register --app shop --task-hub v40"),
        (BEGUN, ObservedSlots("v40", "v42"), "production carries v40"),
        (BEGUN, ObservedSlots("v41", "v40"), "slot staging carries v40"),
    ],
)
def test_where_server_and_platform_disagree_nothing_is_begun(
    recorded: RecordedSlots, observed: ObservedSlots, said: str
) -> None:
    assert said in find_refusal(recorded, observed)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    ("observed", "step"),
    [
        (DONE, SwapStep.CONFIRM),
        (ObservedSlots("V42", "V41"), SwapStep.CONFIRM),
        # Deployed straight into production: nothing was swapped.
        (ObservedSlots("v42", None), SwapStep.LEAVE_PENDING),
        (ObservedSlots("v42", "v40"), SwapStep.LEAVE_PENDING),
        (UNSWAPPED, SwapStep.REVERT),
        (ObservedSlots("v40", "v42"), SwapStep.LEAVE_PENDING),
        (ObservedSlots("v42", "v42"), SwapStep.LEAVE_PENDING),
        (ObservedSlots(None, None), SwapStep.LEAVE_PENDING),
        (None, SwapStep.LEAVE_PENDING),
    ],
)
def test_how_a_swap_that_was_cut_off_ended(observed: ObservedSlots | None, step: SwapStep, own: bool) -> None:
    # Another run may still be at it, so it is not for others to say that it failed.
    expected = SwapStep.LEAVE_PENDING if step is SwapStep.REVERT and not own else step
    assert plan_interrupted_swap(BEGUN, PENDING, observed, RUN if own else None) is expected
    assert plan_interrupted_swap(replace(BEGUN, slot_name="canary"), PENDING, observed, RUN) is SwapStep.LEAVE_PENDING


WELL = SwapAttempt(succeeded=True, interrupted=False, is_observable=True)
FAILED = replace(WELL, succeeded=False)


@pytest.mark.parametrize(
    ("attempt", "observed", "step"),
    [
        # What the platform shows counts more than an exit code.
        (WELL, DONE, SwapStep.CONFIRM),
        (FAILED, DONE, SwapStep.CONFIRM),
        (replace(FAILED, interrupted=True), DONE, SwapStep.CONFIRM),
        # It said that it has swapped, and nothing shows: that may change.
        (WELL, UNSWAPPED, SwapStep.LEAVE_PENDING),
        # It was watched for long after it failed.
        (FAILED, UNSWAPPED, SwapStep.REVERT),
        # A swap that may still be under way.
        (replace(FAILED, interrupted=True), UNSWAPPED, SwapStep.LEAVE_PENDING),
        # Neither of the two.
        (WELL, ObservedSlots("v40", "v42"), SwapStep.LEAVE_PENDING),
        (FAILED, ObservedSlots(None, "v42"), SwapStep.LEAVE_PENDING),
        (FAILED, ObservedSlots("v41", None), SwapStep.LEAVE_PENDING),
        (FAILED, ObservedSlots("v42", "v42"), SwapStep.LEAVE_PENDING),
        # It could be looked at before, and cannot now.
        (WELL, None, SwapStep.CONFIRM),
        # It was told to stop, and says that all went well.
        (replace(WELL, interrupted=True), None, SwapStep.LEAVE_PENDING),
        (FAILED, None, SwapStep.LEAVE_PENDING),
        (replace(FAILED, interrupted=True), None, SwapStep.LEAVE_PENDING),
        # It never could.
        (replace(WELL, is_observable=False), None, SwapStep.CONFIRM),
        (replace(FAILED, is_observable=False), None, SwapStep.LEAVE_PENDING),
    ],
)
def test_what_follows_the_platforms_swap(attempt: SwapAttempt, observed: ObservedSlots | None, step: SwapStep) -> None:
    assert plan_after_command(attempt, observed, "v42", "v41") is step


@pytest.mark.parametrize("production", [None, "v40"])
def test_a_first_swap_is_taken_back_while_the_hub_waits_in_the_slot(production: str | None) -> None:
    assert plan_after_command(FAILED, ObservedSlots(production, "v42"), "v42", None) is SwapStep.REVERT
    assert plan_after_command(FAILED, ObservedSlots("v42", production), "v42", None) is SwapStep.CONFIRM


OUT = RecordedSlots("shop", "staging", "v42", "v41", promoted=True)
EMPTY = RecordedSlots("shop", "staging", "v42", None)


@pytest.mark.parametrize(
    ("recorded", "observed", "said"),
    [
        (OUT, ObservedSlots("v42", "V41"), None),
        (OUT, ObservedSlots("v42", "v43"), None),
        # Nothing was ever deployed there, or it was only staged.
        (EMPTY, ObservedSlots("v42", None), None),
        (STAGED, ObservedSlots("v41", None), None),
        (RecordedSlots("shop", "staging", None, None), ObservedSlots(None, None), None),
        # A slot that was made with production's settings.
        (EMPTY, ObservedSlots("v42", "v42"), None),
        # The deployment of what was staged failed.
        (replace(STAGED, prior_hubs=("v40", "v39")), ObservedSlots("v41", "V39"), None),
        (STAGED, ObservedSlots("v41", "v40"), "stage with --force and a reason"),
        (EMPTY, ObservedSlots("v42", "v40"), "the server has no task hub there"),
        (OUT, ObservedSlots("v42", None), "Check --task-hub-setting"),
        (OUT, ObservedSlots("v42", "v42"), "only if it is stopped"),
        (OUT, ObservedSlots("v41", "v42"), "somebody swapped or deployed without telling it"),
        (EMPTY, ObservedSlots("v40", "v42"), "somebody swapped or deployed without telling it"),
        (OUT, ObservedSlots(None, "v41"), "production carries no task hub"),
        (
            RecordedSlots("shop", "staging", None, None),
            ObservedSlots("v40", None),
            "safe-deploy register --app shop --task-hub v40",
        ),
    ],
)
def test_the_slot_must_carry_what_the_server_judges(
    recorded: RecordedSlots, observed: ObservedSlots, said: str | None
) -> None:
    against = find_staging_mismatch(recorded, "v43", observed)
    assert (against is None) if said is None else (against is not None and said in against)


FORWARD = {"operation": "PostSwap", "details": {"production": "v42", "swappedOut": "v41"}}
BACK = {"operation": "PostSwap", "details": {"production": "v41", "swappedOut": "v42", "rollback": True}}
ROLLED_BACK = RecordedSlots("shop", "staging", "v41", "v42")


@pytest.mark.parametrize(
    ("recorded", "asked", "last_swap", "expected"),
    [
        (SWAPPED, None, FORWARD, "v41"),
        (SWAPPED, None, None, "v41"),
        (SWAPPED, "v40", FORWARD, "v40"),
        (ROLLED_BACK, None, BACK, "v41"),
        (ROLLED_BACK, "v41", BACK, "v41"),
        # A rollback, and a deployment since then: the way back is from that one.
        (RecordedSlots("shop", "staging", "v43", "v41"), None, BACK, "v41"),
        # A rollback that was cut off goes on.
        (replace(ROLLED_BACK, pending_swap=replace(PENDING, task_hub="v41", rollback=True)), None, FORWARD, "v41"),
    ],
)
def test_what_a_rollback_brings_back(
    recorded: RecordedSlots, asked: str | None, last_swap: dict[str, Any] | None, expected: str
) -> None:
    assert choose_rollback_task_hub(recorded, asked, last_swap) == expected


def test_a_rollback_of_an_empty_slot_has_nothing_to_go_back_to() -> None:
    with pytest.raises(ConflictError, match="nothing to roll back to"):
        choose_rollback_task_hub(RecordedSlots("shop", "staging", "v42", None), None, None)


def test_a_rollback_to_what_a_deployment_has_brought_into_production_is_refused() -> None:
    with pytest.raises(ConflictError, match="goes back to another"):
        choose_rollback_task_hub(SWAPPED, "V42", FORWARD)


def test_what_was_cut_off_is_told_with_who_when_and_what_to_type() -> None:
    told = describe_interrupted_swap(BEGUN, PENDING)
    for part in ("ann", "https://ci.example/runs/1", "2026-11-21T10:00:00Z", "v42, not v41", "--outcome failed"):
        assert part in told
    assert "safe-deploy swap --app shop --slot staging --task-hub v42 --outcome done" in told
    assert "(run" not in describe_interrupted_swap(BEGUN, replace(PENDING, run_url=None))
    assert "not v41" not in describe_interrupted_swap(BEGUN, replace(PENDING, swapped_out=None))
    there = replace(BEGUN, server="https://state.example")
    assert "safe-deploy swap --server https://state.example --app shop" in describe_interrupted_swap(there, PENDING)


# --- the model ---


@dataclass(frozen=True, slots=True)
class RunConditions:
    """What happens to one run. `steps` of it are carried out before it is killed; None for all. A killed run's `az`
    still `finishes` what it has begun, or not. `works`: the platform swaps. `code`: the command's word for it. A swap
    that the platform has accepted may come `late`, after the command has ended. `stopped`: by a signal.
    `unreadable`: the
    look before and the look after fail."""

    steps: int | None
    finishes: bool
    works: bool
    code: int
    stopped: bool
    late: bool
    unreadable: tuple[bool, bool]


NO_FAILURE = RunConditions(
    None, finishes=True, works=True, code=0, stopped=False, late=False, unreadable=(False, False)
)


@dataclass
class SimulatedSwap:
    """Server and platform, and what becomes of them."""

    is_observable: bool
    production: str | None = "v41"
    slot: str | None = "v42"
    pending_swap: PendingSwap | None = None
    carried: ObservedSlots = UNSWAPPED
    swaps: int = 0
    late: bool = False
    trail: list[SwapStep] = field(default_factory=list)

    @property
    def recorded(self) -> RecordedSlots:
        return RecordedSlots("shop", "staging", self.production, self.slot, self.pending_swap)

    @property
    def agrees(self) -> bool:
        return (self.production, self.slot) == (self.carried.production, self.carried.slot)

    def seen(self, unreadable: bool) -> ObservedSlots | None:
        return self.carried if self.is_observable and not unreadable else None

    def exchange(self) -> None:
        self.production, self.slot = self.slot, self.production

    def swap(self) -> None:
        self.carried = ObservedSlots(self.carried.slot, self.carried.production)
        self.swaps += 1

    def watch(self) -> bool:
        """Look for long: what the platform has accepted comes by then. Whether something came."""
        came, self.late = self.late, False
        if came:
            self.swap()
        return came

    def tell(self, step: SwapStep) -> None:
        """As the server does it: what is said twice changes nothing."""
        self.trail.append(step)
        if step is SwapStep.REVERT and self.pending_swap is not None:
            self.exchange()
        if step is SwapStep.CONFIRM and self.pending_swap is None and is_same_task_hub(self.slot, "v42"):
            self.exchange()
        if step in (SwapStep.CONFIRM, SwapStep.REVERT):
            self.pending_swap = None


def simulate_run_steps(simulated: SimulatedSwap, conditions: RunConditions) -> Iterator[None]:
    """One run, as `promotion.py` carries it out; between two yields it can be killed."""
    yield
    if simulated.is_observable and conditions.unreadable[0]:
        return
    step = plan_swap(simulated.recorded, "v42", simulated.seen(unreadable=False), RUN)
    yield
    if step is SwapStep.RESUME and simulated.watch():
        # It was waited for whether what was cut off comes.
        step = SwapStep.CONFIRM
    if step is SwapStep.ALREADY_SWAPPED:
        return
    if step is SwapStep.CONFIRM:
        simulated.tell(step)
        return
    assert step in (SwapStep.BEGIN, SwapStep.RESUME)
    swapped_out = simulated.pending_swap.swapped_out if simulated.pending_swap else simulated.production
    if simulated.pending_swap is None:
        simulated.exchange()
        simulated.pending_swap = PENDING
    yield
    simulated.late = conditions.works and conditions.finishes
    yield
    simulated.late = False
    if conditions.works:
        if conditions.late:
            simulated.late = True
        else:
            simulated.swap()
    yield
    if conditions.code and not conditions.stopped and simulated.is_observable:
        simulated.watch()
    attempt = SwapAttempt(conditions.code == 0, conditions.stopped, simulated.is_observable)
    step = plan_after_command(attempt, simulated.seen(conditions.unreadable[1]), "v42", swapped_out)
    yield
    simulated.tell(step)


def simulate_run(simulated: SimulatedSwap, conditions: RunConditions) -> bool:
    """Whether it came to its end; otherwise it was killed. What the platform has accepted may come while the next run
    is at it already."""
    ended = True
    try:
        for done, _ in enumerate(simulate_run_steps(simulated, conditions)):
            if done == conditions.steps:
                ended = False
                break
    except ConflictError:
        pass
    if ended and simulated.pending_swap is None:
        assert not simulated.late, "what may still come must be pending"
    return ended


def run_conditions(is_observable: bool) -> st.SearchStrategy[RunConditions]:
    def honest(conditions: RunConditions) -> RunConditions:
        # Where nobody looks, an exit code is all there is, and it must be right.
        unseen = not is_observable or conditions.unreadable[1]
        late = conditions.late and conditions.works
        code = (0 if conditions.works and not late else 1) if unseen else conditions.code
        return replace(conditions, code=1 if late else code)

    return st.builds(
        RunConditions,
        steps=st.none() | st.integers(0, 7),
        finishes=st.booleans(),
        works=st.booleans(),
        code=st.sampled_from([0, 1]),
        stopped=st.booleans(),
        late=st.booleans(),
        unreadable=st.tuples(st.booleans(), st.booleans()),
    ).map(honest)


@settings(max_examples=600, deadline=None)
@given(st.lists(run_conditions(is_observable=True), min_size=1, max_size=6))
def test_however_runs_fail_and_are_killed_server_and_platform_agree_or_the_swap_is_pending(
    history: list[RunConditions],
) -> None:
    simulated = SimulatedSwap(is_observable=True)
    for conditions in history:
        ended = simulate_run(simulated, conditions)
        assert simulated.agrees or simulated.pending_swap is not None, (
            f"ended: {ended}; a killed run, too, leaves its trace"
        )
        assert simulated.swaps <= 1, "the platform is never swapped twice for one target"
    assert simulate_run(simulated, NO_FAILURE)
    assert simulated.agrees
    assert simulated.pending_swap is None
    assert (simulated.production, simulated.swaps) == ("v42", 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(run_conditions(is_observable=False), min_size=1, max_size=6))
def test_where_nobody_can_look_a_killed_run_stays_pending_and_the_platform_is_never_swapped_twice(
    history: list[RunConditions],
) -> None:
    simulated = SimulatedSwap(is_observable=False)
    for conditions in history:
        simulate_run(simulated, conditions)
        assert simulated.agrees or simulated.pending_swap is not None
        assert simulated.swaps <= 1
    simulate_run(simulated, NO_FAILURE)
    if simulated.pending_swap is None:
        assert simulated.agrees


@settings(max_examples=200, deadline=None)
@given(run_conditions(is_observable=True))
def test_a_rollback_settles_what_a_killed_run_has_left(conditions: RunConditions) -> None:
    simulated = SimulatedSwap(is_observable=True)
    simulate_run(simulated, conditions)
    if simulated.pending_swap is not None:
        step = plan_interrupted_swap(simulated.recorded, simulated.pending_swap, simulated.seen(unreadable=False), RUN)
        assert step is not SwapStep.LEAVE_PENDING
        simulated.tell(SwapStep.CONFIRM if step is SwapStep.REVERT and simulated.watch() else step)
    assert simulated.agrees
