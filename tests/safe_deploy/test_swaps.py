"""What a swap does next: the decisions as tables, and as a model in which everything can fail or be killed anywhere."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_deploy.errors import ConflictError
from safe_deploy.swaps import (
    Attempt,
    Pending,
    Platform,
    Record,
    Step,
    after,
    against_staging,
    before,
    cut_off,
    rollback_target,
    same,
    settled,
)

PENDING = Pending("v42", "v41", "staging", False, "ann", "2026-11-21T10:00:00Z", "https://ci.example/runs/1")
STAGED = Record("shop", "staging", "v41", "v42")
BEGUN = Record("shop", "staging", "v42", "v41", PENDING)
SWAPPED = Record("shop", "staging", "v42", "v41")
FIRST = Record("shop", "staging", None, "v42")

UNSWAPPED = Platform("v41", "v42")
DONE = Platform("v42", "v41")


RUN = "https://ci.example/runs/1"


def refused(record: Record, platform: Platform | None, target: str = "v42", run_url: str | None = RUN) -> str:
    with pytest.raises(ConflictError) as caught:
        before(record, target, platform, run_url)
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
    assert same(one, other) is expected


@pytest.mark.parametrize(
    ("app", "slot", "expected"),
    [
        (answer(), "staging", STAGED),
        (answer(), "Staging", replace(STAGED, slot_name="Staging")),
        (answer(), "canary", Record("shop", "canary", "v41", None)),
        (answer(slots={"production": None, "staging": {"taskHub": "v42"}}), "staging", FIRST),
        (answer(slots={}), "staging", Record("shop", "staging", None, None)),
        (answer(pendingSwap=PENDING_ANSWER), "staging", replace(STAGED, pending=PENDING)),
    ],
)
def test_a_record_is_what_the_server_answers(app: dict[str, Any], slot: str, expected: Record) -> None:
    assert Record.of(app, slot) == expected


@pytest.mark.parametrize(
    ("record", "platform", "step"),
    [
        # Nothing is pending.
        (STAGED, None, Step.BEGIN),
        (STAGED, UNSWAPPED, Step.BEGIN),
        (STAGED, Platform("V41", "V42"), Step.BEGIN),
        (STAGED, DONE, Step.CONFIRM),
        (SWAPPED, None, Step.DONE),
        (SWAPPED, DONE, Step.DONE),
        # The first deployment: nothing on record is in production, whatever the platform has there.
        (FIRST, None, Step.BEGIN),
        (FIRST, Platform(None, "v42"), Step.BEGIN),
        (FIRST, Platform("v42", None), Step.CONFIRM),
        # Not in the slot: the server refuses, and says what is where.
        (Record("shop", "staging", "v41", "v43"), UNSWAPPED, Step.BEGIN),
        (Record("shop", "staging", "v41", None), None, Step.BEGIN),
        # A swap that was cut off.
        (BEGUN, UNSWAPPED, Step.RUN),
        (BEGUN, DONE, Step.CONFIRM),
        (BEGUN, Platform("V42", "V41"), Step.CONFIRM),
        (replace(BEGUN, slot_name="STAGING"), UNSWAPPED, Step.RUN),
    ],
)
def test_what_a_swap_begins_with(record: Record, platform: Platform | None, step: Step) -> None:
    assert before(record, "v42", platform, RUN) is step


@pytest.mark.parametrize("platform", [None, UNSWAPPED, DONE])
def test_a_pending_swap_of_another_hub_or_slot_stops_everything(platform: Platform | None) -> None:
    assert "has not said how it went" in refused(BEGUN, platform, "v43")
    assert "has not said how it went" in refused(replace(BEGUN, slot_name="canary"), platform)


def test_a_pending_swap_is_not_run_again_where_nobody_can_look() -> None:
    assert "--outcome failed" in refused(BEGUN, None)


@pytest.mark.parametrize("run_url", [None, "https://ci.example/runs/2"])
@pytest.mark.parametrize("began", [None, RUN])
def test_only_the_run_that_began_a_swap_runs_it_again_and_anybody_may_confirm_it(
    run_url: str | None, began: str | None
) -> None:
    record = replace(BEGUN, pending=replace(PENDING, run_url=began))
    assert "wait for it" in refused(record, UNSWAPPED, run_url=run_url)
    assert before(record, "v42", DONE, run_url) is Step.CONFIRM


@pytest.mark.parametrize(
    ("record", "platform", "said"),
    [
        (SWAPPED, UNSWAPPED, "production carries v41"),
        (SWAPPED, Platform(None, None), "production carries no task hub"),
        (STAGED, Platform("v40", "v42"), "production carries v40"),
        (STAGED, Platform(None, "v42"), "production carries no task hub"),
        (STAGED, Platform("v41", "v40"), "slot staging carries v40"),
        (STAGED, Platform("v41", None), "slot staging carries no task hub"),
        (STAGED, Platform("v41", "v41"), "slot staging carries v41"),
        # A hub in both places proves no swap.
        (STAGED, Platform("v42", "v42"), "production carries v42"),
        (STAGED, Platform("v42", "v40"), "production carries v42, and the slot v40"),
        (BEGUN, Platform("v42", "v42"), "production carries v42"),
        # After a swap the slot would hold what the server knows nothing of.
        (FIRST, Platform("v40", "v42"), "safe-deploy register --app shop --task-hub v40"),
        (BEGUN, Platform("v40", "v42"), "production carries v40"),
        (BEGUN, Platform("v41", "v40"), "slot staging carries v40"),
    ],
)
def test_where_server_and_platform_disagree_nothing_is_begun(record: Record, platform: Platform, said: str) -> None:
    assert said in refused(record, platform)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    ("platform", "step"),
    [
        (DONE, Step.CONFIRM),
        (Platform("V42", "V41"), Step.CONFIRM),
        # Deployed straight into production: nothing was swapped.
        (Platform("v42", None), Step.LEAVE),
        (Platform("v42", "v40"), Step.LEAVE),
        (UNSWAPPED, Step.TAKE_BACK),
        (Platform("v40", "v42"), Step.LEAVE),
        (Platform("v42", "v42"), Step.LEAVE),
        (Platform(None, None), Step.LEAVE),
        (None, Step.LEAVE),
    ],
)
def test_how_a_swap_that_was_cut_off_ended(platform: Platform | None, step: Step, own: bool) -> None:
    # Another run may still be at it, so it is not for others to say that it failed.
    expected = Step.LEAVE if step is Step.TAKE_BACK and not own else step
    assert settled(BEGUN, PENDING, platform, RUN if own else None) is expected
    assert settled(replace(BEGUN, slot_name="canary"), PENDING, platform, RUN) is Step.LEAVE


WELL = Attempt(went_well=True, interrupted=False, looks=True)
FAILED = replace(WELL, went_well=False)


@pytest.mark.parametrize(
    ("attempt", "platform", "step"),
    [
        # What the platform shows counts more than an exit code.
        (WELL, DONE, Step.CONFIRM),
        (FAILED, DONE, Step.CONFIRM),
        (replace(FAILED, interrupted=True), DONE, Step.CONFIRM),
        # It said that it has swapped, and nothing shows: that may change.
        (WELL, UNSWAPPED, Step.LEAVE),
        # It was watched for long after it failed.
        (FAILED, UNSWAPPED, Step.TAKE_BACK),
        # A swap that may still be under way.
        (replace(FAILED, interrupted=True), UNSWAPPED, Step.LEAVE),
        # Neither of the two.
        (WELL, Platform("v40", "v42"), Step.LEAVE),
        (FAILED, Platform(None, "v42"), Step.LEAVE),
        (FAILED, Platform("v41", None), Step.LEAVE),
        (FAILED, Platform("v42", "v42"), Step.LEAVE),
        # It could be looked at before, and cannot now.
        (WELL, None, Step.CONFIRM),
        # It was told to stop, and says that all went well.
        (replace(WELL, interrupted=True), None, Step.LEAVE),
        (FAILED, None, Step.LEAVE),
        (replace(FAILED, interrupted=True), None, Step.LEAVE),
        # It never could.
        (replace(WELL, looks=False), None, Step.CONFIRM),
        (replace(FAILED, looks=False), None, Step.LEAVE),
    ],
)
def test_what_follows_the_platforms_swap(attempt: Attempt, platform: Platform | None, step: Step) -> None:
    assert after(attempt, platform, "v42", "v41") is step


@pytest.mark.parametrize("production", [None, "v40"])
def test_a_first_swap_is_taken_back_while_the_hub_waits_in_the_slot(production: str | None) -> None:
    assert after(FAILED, Platform(production, "v42"), "v42", None) is Step.TAKE_BACK
    assert after(FAILED, Platform("v42", production), "v42", None) is Step.CONFIRM


OUT = Record("shop", "staging", "v42", "v41", promoted=True)
EMPTY = Record("shop", "staging", "v42", None)


@pytest.mark.parametrize(
    ("record", "platform", "said"),
    [
        (OUT, Platform("v42", "V41"), None),
        (OUT, Platform("v42", "v43"), None),
        # Nothing was ever deployed there, or it was only staged.
        (EMPTY, Platform("v42", None), None),
        (STAGED, Platform("v41", None), None),
        (Record("shop", "staging", None, None), Platform(None, None), None),
        # A slot that was made with production's settings.
        (EMPTY, Platform("v42", "v42"), None),
        # The deployment of what was staged failed.
        (replace(STAGED, beneath=("v40", "v39")), Platform("v41", "V39"), None),
        (STAGED, Platform("v41", "v40"), "stage with --force and a reason"),
        (EMPTY, Platform("v42", "v40"), "the server has no task hub there"),
        (OUT, Platform("v42", None), "Check --hub-setting"),
        (OUT, Platform("v42", "v42"), "only if it is stopped"),
        (OUT, Platform("v41", "v42"), "somebody swapped or deployed without telling it"),
        (EMPTY, Platform("v40", "v42"), "somebody swapped or deployed without telling it"),
        (OUT, Platform(None, "v41"), "production carries no task hub"),
        (
            Record("shop", "staging", None, None),
            Platform("v40", None),
            "safe-deploy register --app shop --task-hub v40",
        ),
    ],
)
def test_the_slot_must_carry_what_the_server_judges(record: Record, platform: Platform, said: str | None) -> None:
    against = against_staging(record, "v43", platform)
    assert (against is None) if said is None else (against is not None and said in against)


FORWARD = {"operation": "PostSwap", "details": {"production": "v42", "swappedOut": "v41"}}
BACK = {"operation": "PostSwap", "details": {"production": "v41", "swappedOut": "v42", "rollback": True}}
ROLLED_BACK = Record("shop", "staging", "v41", "v42")


@pytest.mark.parametrize(
    ("record", "asked", "last_swap", "expected"),
    [
        (SWAPPED, None, FORWARD, "v41"),
        (SWAPPED, None, None, "v41"),
        (SWAPPED, "v40", FORWARD, "v40"),
        (ROLLED_BACK, None, BACK, "v41"),
        (ROLLED_BACK, "v41", BACK, "v41"),
        # A rollback, and a deployment since then: the way back is from that one.
        (Record("shop", "staging", "v43", "v41"), None, BACK, "v41"),
        # A rollback that was cut off goes on.
        (replace(ROLLED_BACK, pending=replace(PENDING, task_hub="v41", rollback=True)), None, FORWARD, "v41"),
    ],
)
def test_what_a_rollback_brings_back(
    record: Record, asked: str | None, last_swap: dict[str, Any] | None, expected: str
) -> None:
    assert rollback_target(record, asked, last_swap) == expected


def test_a_rollback_of_an_empty_slot_has_nothing_to_go_back_to() -> None:
    with pytest.raises(ConflictError, match="nothing to roll back to"):
        rollback_target(Record("shop", "staging", "v42", None), None, None)


def test_a_rollback_to_what_a_deployment_has_brought_into_production_is_refused() -> None:
    with pytest.raises(ConflictError, match="goes back to another"):
        rollback_target(SWAPPED, "V42", FORWARD)


def test_what_was_cut_off_is_told_with_who_when_and_what_to_type() -> None:
    told = cut_off(BEGUN, PENDING)
    for part in ("ann", "https://ci.example/runs/1", "2026-11-21T10:00:00Z", "v42, not v41", "--outcome failed"):
        assert part in told
    assert "safe-deploy swap --app shop --slot staging --task-hub v42 --outcome done" in told
    assert "(run" not in cut_off(BEGUN, replace(PENDING, run_url=None))
    assert "not v41" not in cut_off(BEGUN, replace(PENDING, swapped_out=None))
    there = replace(BEGUN, server="https://state.example")
    assert "safe-deploy swap --server https://state.example --app shop" in cut_off(there, PENDING)


# --- the model ---


@dataclass(frozen=True, slots=True)
class Luck:
    """What happens to one run. `steps` of it are carried out before it is killed; None for all. A killed run's `az`
    still `finishes` what it has begun, or not. `works`: the platform swaps. `code`: the command's word for it. A swap
    that the platform has accepted may come `late`, after the command has ended. `stopped`: by a signal. `dark`: the
    look before and the look after fail."""

    steps: int | None
    finishes: bool
    works: bool
    code: int
    stopped: bool
    late: bool
    dark: tuple[bool, bool]


SMOOTH = Luck(None, finishes=True, works=True, code=0, stopped=False, late=False, dark=(False, False))


@dataclass
class World:
    """Server and platform, and what becomes of them."""

    looks: bool
    production: str | None = "v41"
    slot: str | None = "v42"
    pending: Pending | None = None
    carried: Platform = UNSWAPPED
    swaps: int = 0
    late: bool = False
    trail: list[Step] = field(default_factory=list)

    @property
    def record(self) -> Record:
        return Record("shop", "staging", self.production, self.slot, self.pending)

    @property
    def agrees(self) -> bool:
        return (self.production, self.slot) == (self.carried.production, self.carried.slot)

    def seen(self, dark: bool) -> Platform | None:
        return self.carried if self.looks and not dark else None

    def exchange(self) -> None:
        self.production, self.slot = self.slot, self.production

    def swap(self) -> None:
        self.carried = Platform(self.carried.slot, self.carried.production)
        self.swaps += 1

    def watch(self) -> bool:
        """Look for long: what the platform has accepted comes by then. Whether something came."""
        came, self.late = self.late, False
        if came:
            self.swap()
        return came

    def tell(self, step: Step) -> None:
        """As the server does it: what is said twice changes nothing."""
        self.trail.append(step)
        if step is Step.TAKE_BACK and self.pending is not None:
            self.exchange()
        if step is Step.CONFIRM and self.pending is None and same(self.slot, "v42"):
            self.exchange()
        if step in (Step.CONFIRM, Step.TAKE_BACK):
            self.pending = None


def attempted(world: World, luck: Luck) -> Iterator[None]:
    """One run, as `promotion.py` carries it out; between two yields it can be killed."""
    yield
    if world.looks and luck.dark[0]:
        return
    step = before(world.record, "v42", world.seen(dark=False), RUN)
    yield
    if step is Step.RUN and world.watch():
        # It was waited for whether what was cut off comes.
        step = Step.CONFIRM
    if step is Step.DONE:
        return
    if step is Step.CONFIRM:
        world.tell(step)
        return
    assert step in (Step.BEGIN, Step.RUN)
    swapped_out = world.pending.swapped_out if world.pending else world.production
    if world.pending is None:
        world.exchange()
        world.pending = PENDING
    yield
    world.late = luck.works and luck.finishes
    yield
    world.late = False
    if luck.works:
        if luck.late:
            world.late = True
        else:
            world.swap()
    yield
    if luck.code and not luck.stopped and world.looks:
        world.watch()
    attempt = Attempt(luck.code == 0, luck.stopped, world.looks)
    step = after(attempt, world.seen(luck.dark[1]), "v42", swapped_out)
    yield
    world.tell(step)


def run(world: World, luck: Luck) -> bool:
    """Whether it came to its end; otherwise it was killed. What the platform has accepted may come while the next run
    is at it already."""
    ended = True
    try:
        for done, _ in enumerate(attempted(world, luck)):
            if done == luck.steps:
                ended = False
                break
    except ConflictError:
        pass
    if ended and world.pending is None:
        assert not world.late, "what may still come must be pending"
    return ended


def lucks(looks: bool) -> st.SearchStrategy[Luck]:
    def honest(luck: Luck) -> Luck:
        # Where nobody looks, an exit code is all there is, and it must be right.
        unseen = not looks or luck.dark[1]
        late = luck.late and luck.works
        code = (0 if luck.works and not late else 1) if unseen else luck.code
        return replace(luck, code=1 if late else code)

    return st.builds(
        Luck,
        steps=st.none() | st.integers(0, 7),
        finishes=st.booleans(),
        works=st.booleans(),
        code=st.sampled_from([0, 1]),
        stopped=st.booleans(),
        late=st.booleans(),
        dark=st.tuples(st.booleans(), st.booleans()),
    ).map(honest)


@settings(max_examples=600, deadline=None)
@given(st.lists(lucks(looks=True), min_size=1, max_size=6))
def test_however_runs_fail_and_are_killed_server_and_platform_agree_or_the_swap_is_pending(history: list[Luck]) -> None:
    world = World(looks=True)
    for luck in history:
        ended = run(world, luck)
        assert world.agrees or world.pending is not None, f"ended: {ended}; a killed run, too, leaves its trace"
        assert world.swaps <= 1, "the platform is never swapped twice for one target"
    assert run(world, SMOOTH)
    assert world.agrees
    assert world.pending is None
    assert (world.production, world.swaps) == ("v42", 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(lucks(looks=False), min_size=1, max_size=6))
def test_where_nobody_can_look_a_killed_run_stays_pending_and_the_platform_is_never_swapped_twice(
    history: list[Luck],
) -> None:
    world = World(looks=False)
    for luck in history:
        run(world, luck)
        assert world.agrees or world.pending is not None
        assert world.swaps <= 1
    run(world, SMOOTH)
    if world.pending is None:
        assert world.agrees


@settings(max_examples=200, deadline=None)
@given(lucks(looks=True))
def test_a_rollback_settles_what_a_killed_run_has_left(luck: Luck) -> None:
    world = World(looks=True)
    run(world, luck)
    if world.pending is not None:
        step = settled(world.record, world.pending, world.seen(dark=False), RUN)
        assert step is not Step.LEAVE
        world.tell(Step.CONFIRM if step is Step.TAKE_BACK and world.watch() else step)
    assert world.agrees
