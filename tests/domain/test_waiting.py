"""When a request that waits for Ready asks again: never after the moment at which a verdict can be Ready."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.instants import Instant, seconds
from state_api.domain.readiness.evidence import Evidence, InstanceActivity, ProbeResult, ProbeStatus
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.messages import MessageEvidence
from state_api.domain.readiness.plan import RecordedState
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.requirements import is_scan_useful
from state_api.domain.readiness.validity import has_settled
from state_api.domain.readiness.verdict import Verdict, assess_readiness
from state_api.domain.readiness.waiting import (
    InstanceChange,
    KnownActivity,
    NextVerification,
    RecordedChanges,
    VerificationIntervals,
    earliest_ready_at,
    plan_next_verification,
)
from tests.domain.builders import (
    build_active_instance,
    build_evidence,
    build_open_deployment,
    build_probe_result,
    build_waiver,
    noon_plus,
)

POLICY = Policy(settle_seconds=30)
NO_EXEMPTIONS = Exemptions()
INTERVALS = VerificationIntervals(look_up=5, longest=30)
FUNCTION = "ProcessOrder"


def build_changes(
    instance_id: str = "order-1",
    *,
    active: bool,
    at: float = 0,
    function_name: str = FUNCTION,
    stamps_activity: bool = True,
) -> RecordedChanges:
    """What an event, or a correction without a stamp, has changed `at` seconds after noon."""
    stamped = {function_name} if stamps_activity else set()
    return RecordedChanges([InstanceChange(instance_id, function_name, active)], stamped, noon_plus(at))


def build_state(*active_ids: str) -> RecordedState:
    """Records in which these instances are active."""
    active = tuple(build_active_instance(instance_id) for instance_id in active_ids)
    return RecordedState(InstanceActivity(active=active), seen_before=True)


def know_activity(activity: InstanceActivity, exemptions: Exemptions = NO_EXEMPTIONS) -> KnownActivity:
    """What is known after one read."""
    known = KnownActivity()
    known.end_read(known.begin_read(), RecordedState(activity, seen_before=True), exemptions)
    return known


def find_earliest(
    known: KnownActivity, now: float = 0, policy: Policy = POLICY, *, is_verified: bool = False
) -> object:
    """When the task hub can be Ready at the earliest. `now` is in seconds after noon."""
    return earliest_ready_at([known], policy, noon_plus(now), is_verified=is_verified)


# The earliest moment


def test_nothing_can_be_ready_while_an_instance_is_known_to_be_active() -> None:
    known = know_activity(InstanceActivity(active=(build_active_instance(),), last_recorded_at=noon_plus(-900)))
    assert find_earliest(known) is None


def test_a_task_hub_without_records_can_be_ready_at_any_time() -> None:
    assert find_earliest(know_activity(InstanceActivity())) == Instant(0)


def test_a_drained_task_hub_can_be_ready_when_the_settle_window_has_run_out() -> None:
    known = know_activity(InstanceActivity(last_recorded_at=noon_plus(-10)))
    assert find_earliest(known) == noon_plus(20)
    assert find_earliest(known, policy=Policy(settle_seconds=0)) == noon_plus(-10)


def test_the_last_of_several_task_hubs_decides() -> None:
    settled, settling = (know_activity(InstanceActivity(last_recorded_at=noon_plus(at))) for at in (-100, -5))
    active = know_activity(InstanceActivity(active=(build_active_instance(),)))
    assert earliest_ready_at([settled, settling], POLICY, noon_plus(), is_verified=False) == noon_plus(25)
    assert earliest_ready_at([settled, active], POLICY, noon_plus(), is_verified=False) is None


def test_a_verified_verdict_waits_until_a_scan_can_begin_that_no_event_supersedes() -> None:
    known = know_activity(InstanceActivity(last_recorded_at=noon_plus()))
    for policy in (Policy(settle_seconds=0), Policy(settle_seconds=1), POLICY):
        earliest = earliest_ready_at([known], policy, noon_plus(), is_verified=True)
        assert earliest is not None
        assert is_scan_useful(known.activity, policy, earliest)
        assert not is_scan_useful(known.activity, policy, Instant(earliest - 1))


# What is known


def test_a_recorded_end_makes_a_task_hub_drained_and_begins_the_settle_window_again() -> None:
    known = know_activity(InstanceActivity(active=(build_active_instance("order-1"),), last_recorded_at=noon_plus(-60)))
    known.add_changes(build_changes("order-1", active=False, at=0))
    assert (known.is_active, known.is_exact, find_earliest(known)) == (False, False, noon_plus(30))


def test_a_correction_does_not_begin_the_settle_window_again() -> None:
    known = know_activity(InstanceActivity(active=(build_active_instance("order-1"),), last_recorded_at=noon_plus(-60)))
    known.add_changes(build_changes("order-1", active=False, stamps_activity=False))
    assert (known.is_exact, find_earliest(known)) == (True, noon_plus(-30))


def test_a_recorded_start_makes_a_drained_task_hub_active() -> None:
    known = know_activity(InstanceActivity())
    known.add_changes(build_changes("order-2", active=True))
    assert known.is_active


def test_what_is_ignored_or_waived_changes_nothing() -> None:
    exemptions = Exemptions(("Monitor*",), (build_waiver("stuck"),))
    known = know_activity(InstanceActivity(last_recorded_at=noon_plus(-60)), exemptions)
    known.add_changes(build_changes("monitor-1", active=True, function_name="MonitorOrders"))
    assert (known.is_active, known.is_exact) == (False, True)
    known.add_changes(build_changes("stuck", active=True, stamps_activity=False))
    assert not known.is_active


def test_changes_before_the_first_read_are_known_as_far_as_they_go() -> None:
    known = KnownActivity()
    known.add_changes(build_changes(active=True))
    assert not known.is_active, "only a read shows what else is active, so it must not be put off"
    assert find_earliest(known) == noon_plus(30)


def test_changes_that_are_recorded_during_a_read_are_added_to_its_result() -> None:
    known = KnownActivity()
    read = known.begin_read()
    known.add_changes(build_changes("order-1", active=False, at=0))
    known.add_changes(build_changes("order-2", active=True, at=1))
    known.end_read(read, build_state("order-1"), NO_EXEMPTIONS)
    known.add_changes(build_changes("order-2", active=False, at=2))
    assert (known.is_active, find_earliest(known, now=2)) == (False, noon_plus(32))


def test_a_read_that_began_before_another_does_not_replace_its_result() -> None:
    known = KnownActivity()
    early, late = known.begin_read(), known.begin_read()
    known.end_read(late, build_state(), NO_EXEMPTIONS)
    known.end_read(early, build_state("order-1"), NO_EXEMPTIONS)
    assert not known.is_active


def test_a_failed_read_changes_nothing() -> None:
    known = know_activity(InstanceActivity(active=(build_active_instance(),)))
    known.end_read(known.begin_read(), None, NO_EXEMPTIONS)
    assert known.is_active


def test_the_version_changes_with_what_is_known_and_with_the_probe() -> None:
    known = KnownActivity()

    def read_again(change_token: str, probe_version: str | None = None) -> int:
        """Read records with this change token, and return the version of what is known afterwards."""
        state = replace(build_state(), change_token=change_token, probe_version=probe_version)
        known.end_read(known.begin_read(), state, NO_EXEMPTIONS)
        return known.version

    assert read_again("token 1") == read_again("token 1")
    assert read_again("token 1") < read_again("token 2") < read_again("token 2", "etag 1")
    assert read_again("token 2", "etag 1") < read_again("token 2", "etag 2")
    before = known.version
    known.add_changes(build_changes(active=True))
    assert known.version > before


@dataclass
class RecordedHistory:
    """The records of a task hub as they really are, and what a process knows of them."""

    known: KnownActivity = field(default_factory=KnownActivity)
    active_ids: set[str] = field(default_factory=set)
    last_recorded_at: Instant | None = None
    now: Instant = noon_plus()
    open_reads: list[tuple[int, InstanceActivity | None]] = field(default_factory=list)
    is_stale: bool = False
    """Whether another process has recorded something since the last read began."""
    remote_changes: int = 0
    begun_after: dict[int, int] = field(default_factory=dict)

    def snapshot(self) -> InstanceActivity:
        active = tuple(build_active_instance(instance_id) for instance_id in sorted(self.active_ids))
        return InstanceActivity(active=active, last_recorded_at=self.last_recorded_at)

    def record(self, number: int, *, active: bool, stamps_activity: bool, elsewhere: bool) -> None:
        """A server records an event or a correction: this one, or `elsewhere` another one, whose changes only a read
        shows."""
        instance_id = f"order-{number}"
        (self.active_ids.add if active else self.active_ids.discard)(instance_id)
        if stamps_activity:
            self.last_recorded_at = self.now
        if elsewhere:
            self.remote_changes += 1
            self.is_stale = True
        else:
            stamped = {FUNCTION} if stamps_activity else set()
            self.known.add_changes(
                RecordedChanges([InstanceChange(instance_id, FUNCTION, active)], stamped, recorded_at=self.now)
            )

    def begin_read(self) -> None:
        """Begin a read, which shows at least what was recorded before."""
        number = self.known.begin_read()
        self.open_reads.append((number, None))
        self.begun_after[number] = self.remote_changes

    def reach_storage(self, index: int) -> None:
        """The storage makes the response of a read."""
        if self.open_reads:
            number, snapshot = self.open_reads[index % len(self.open_reads)]
            self.open_reads[index % len(self.open_reads)] = (number, snapshot or self.snapshot())

    def end_read(self, index: int) -> None:
        """The response of a read arrives, perhaps after that of a later one."""
        if self.open_reads:
            number, snapshot = self.open_reads.pop(index % len(self.open_reads))
            is_last = all(number > other for other in self.begun_after if other != number and self._has_ended(other))
            state = RecordedState(snapshot or self.snapshot(), seen_before=True)
            self.known.end_read(number, state, NO_EXEMPTIONS)
            if is_last:
                self.is_stale = self.begun_after[number] != self.remote_changes

    def _has_ended(self, number: int) -> bool:
        return all(number != open_number for open_number, _ in self.open_reads)


STEPS = st.one_of(
    st.tuples(
        st.just("record"), st.integers(0, 3), st.booleans(), st.booleans(), st.sampled_from([False, False, True])
    ),
    st.tuples(st.just("begin read")),
    st.tuples(st.just("reach storage"), st.integers(0, 2)),
    st.tuples(st.just("end read"), st.integers(0, 2)),
    st.tuples(st.just("wait"), st.sampled_from([0.0000001, 0.5, 29.9999999, 30, 31])),
)


@given(st.lists(STEPS, max_size=30), st.sampled_from([0, 1, 30]), st.booleans())
def test_no_order_of_changes_and_reads_hides_a_moment_at_which_a_verdict_can_be_ready(
    steps: list[tuple[object, ...]],
    settle_seconds: int,
    is_verified: bool,
) -> None:
    """A change that another process records is known after the next read. All others are known at once."""
    policy = Policy(settle_seconds=settle_seconds)
    history = RecordedHistory()
    history.begin_read()
    history.end_read(0)
    for step in steps:
        match step:
            case ("record", int(number), bool(active), bool(stamps), bool(elsewhere)):
                history.record(number, active=active, stamps_activity=stamps, elsewhere=elsewhere)
            case ("begin read",):
                history.begin_read()
            case ("reach storage", int(index)):
                history.reach_storage(index)
            case ("end read", int(index)):
                history.end_read(index)
            case ("wait", duration):
                assert isinstance(duration, float | int)
                history.now = Instant(history.now + seconds(duration))
        if history.is_stale:
            continue
        truth = history.snapshot()
        earliest = earliest_ready_at([history.known], policy, history.now, is_verified=is_verified)
        can_be_ready = has_settled(truth, policy, history.now) and not truth.active
        if is_verified:
            can_be_ready = can_be_ready and is_scan_useful(truth, policy, history.now)
        if can_be_ready:
            assert earliest is not None, "the task hub has drained, and the caller would go on waiting"
            assert earliest <= history.now
        elif not truth.active:
            assert earliest is not None, "the settle window alone ends the wait"


# When the task hub is read again


def build_verdict(
    probe: ProbeResult | None = None, activity: InstanceActivity | None = None, *, now: float = 0
) -> Verdict:
    """The verdict on a task hub of Azure Storage. `now` is in seconds after noon."""
    evidence = replace(build_evidence(activity=activity), provider="azureStorage", probe=probe)
    return assess_readiness(evidence, POLICY, noon_plus(now))


def build_probe_with_messages(visible: int = 1, unblocks_at: Instant | None = None) -> ProbeResult:
    """A probe that has seen messages, one of which it cannot explain before `unblocks_at`."""
    messages = MessageEvidence(noon_plus(), visible=visible, unexplained_count=1, unblocks_at=unblocks_at)
    return replace(build_probe_result(), messages=messages)


def test_active_instances_are_looked_up_at_a_fixed_interval() -> None:
    verdict = build_verdict(activity=InstanceActivity(active=(build_active_instance(),)))
    first = plan_next_verification(verdict, None, INTERVALS, read_seconds=0.1)
    assert first == NextVerification(5)
    assert plan_next_verification(verdict, first, INTERVALS, read_seconds=0.1) == NextVerification(5)


def test_a_task_hub_that_shows_the_same_is_read_more_and_more_rarely() -> None:
    verdict = build_verdict(build_probe_with_messages())
    planned: NextVerification | None = None
    intervals = []
    for _ in range(5):
        planned = plan_next_verification(verdict, planned, INTERVALS, read_seconds=0.1)
        assert planned is not None
        intervals.append(planned.interval_seconds)
    assert intervals == [5, 10, 20, 30, 30]
    changed = plan_next_verification(
        build_verdict(build_probe_with_messages(visible=2)), planned, INTERVALS, read_seconds=0.1
    )
    assert changed is not None
    assert changed.interval_seconds == 5, "it shows something else now"
    failed = plan_next_verification(
        build_verdict(build_probe_result(status=ProbeStatus.FAILED)), planned, INTERVALS, read_seconds=0.1
    )
    assert failed is not None
    assert failed.interval_seconds == 5


def test_a_long_read_is_followed_by_as_long_a_pause() -> None:
    verdict = build_verdict(build_probe_with_messages())
    planned = plan_next_verification(verdict, None, INTERVALS, read_seconds=40)
    assert planned is not None
    assert planned.interval_seconds == 40


def test_a_scan_that_was_interrupted_is_continued_without_a_growing_pause() -> None:
    verdict = build_verdict(build_probe_result(status=ProbeStatus.INCOMPLETE))
    planned: NextVerification | None = None
    for _ in range(3):
        planned = plan_next_verification(verdict, planned, INTERVALS, read_seconds=7)
        assert planned == NextVerification(7)


@pytest.mark.parametrize(("unblocks_at", "interval"), [(2, 2), (300, 5), (-1, 0)])
def test_messages_that_stop_to_block_are_read_again_at_that_moment(unblocks_at: float, interval: float) -> None:
    verdict = build_verdict(build_probe_with_messages(unblocks_at=noon_plus(unblocks_at)))
    planned = plan_next_verification(verdict, None, INTERVALS, read_seconds=0)
    assert planned is not None
    assert planned.interval_seconds == interval


def test_the_task_hub_is_not_read_again_where_that_cannot_change_the_verdict() -> None:
    settling = build_verdict(activity=InstanceActivity(last_recorded_at=noon_plus()))
    assert plan_next_verification(settling, None, INTERVALS, read_seconds=0) is None
    deploying = assess_readiness(
        Evidence("v41", provider="azureStorage", probe=build_probe_result(), deployment=build_open_deployment()),
        POLICY,
        noon_plus(),
    )
    assert not deploying.ready
    assert plan_next_verification(deploying, None, INTERVALS, read_seconds=0) is None


def test_an_active_instance_is_compared_by_its_id() -> None:
    """A read that shows the same instance under another name does not make it active twice."""
    known = know_activity(InstanceActivity(active=(build_active_instance("order-1"),)))
    renamed = InstanceActivity(active=(build_active_instance("order-1", "ShipOrder"),))
    known.end_read(known.begin_read(), RecordedState(renamed, seen_before=True), NO_EXEMPTIONS)
    known.add_changes(build_changes("order-1", active=False))
    assert not known.is_active
