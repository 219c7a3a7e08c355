"""The verdict with a provider: which probes are valid, and what they prove."""

from dataclasses import replace

import pytest

from state_api.domain.readiness.evidence import ACTIVE_LIMIT, ActiveInstance, InstanceActivity, ProbeResult, ProbeStatus
from state_api.domain.readiness.policy import Assurance, Policy
from state_api.domain.readiness.reasons import ReasonCode
from state_api.domain.readiness.verdict import DEFAULT_RETRY_AFTER_SECONDS, Verdict, assess_readiness
from state_api.domain.task_hubs.lifecycle import EvidenceSource, RuntimeStatus
from tests.domain.builders import (
    build_active_instance,
    build_evidence,
    build_evidence_with_probe,
    build_probe_result,
    noon_plus,
)


def assess_probe(
    result: ProbeResult | None, activity: InstanceActivity | None = None, policy: Policy | None = None
) -> Verdict:
    """The verdict at noon on a task hub with a provider."""
    return assess_readiness(build_evidence_with_probe(result, activity), policy or Policy(), noon_plus())


def get_only_reason(verdict: Verdict) -> ReasonCode:
    (reason,) = verdict.reasons
    return reason.code


def test_a_complete_and_recent_probe_that_finds_nothing_verifies_that_a_task_hub_is_drained() -> None:
    verdict = assess_probe(build_probe_result(scanned=1180))
    assert verdict.ready
    assert verdict.assurance is Assurance.VERIFIED


def test_a_probe_satisfies_a_policy_that_requires_verification() -> None:
    verdict = assess_probe(build_probe_result(), policy=Policy(require_verification=True))
    assert verdict.ready
    assert verdict.assurance is Assurance.VERIFIED


def test_a_policy_that_requires_verification_is_never_satisfied_by_events_alone() -> None:
    verdict = assess_readiness(build_evidence(), Policy(require_verification=True), noon_plus())
    assert get_only_reason(verdict) is ReasonCode.VERIFICATION_REQUIRED
    assert verdict.assurance is Assurance.EVENTS
    assert verdict.retry_after_seconds == DEFAULT_RETRY_AFTER_SECONDS
    assert verdict.reasons[0].message.startswith("the app's policy requires verification, but no probe of")


@pytest.mark.parametrize("require_verification", [True, False])
def test_a_configured_probe_without_a_result_is_pending(*, require_verification: bool) -> None:
    verdict = assess_probe(None, policy=Policy(require_verification=require_verification))
    assert get_only_reason(verdict) is ReasonCode.PROBE_PENDING
    assert verdict.reasons[0].message == "task hub v41 has not been verified by azureStorage yet"
    assert verdict.assurance is Assurance.EVENTS
    assert verdict.retry_after_seconds == DEFAULT_RETRY_AFTER_SECONDS


REASON_BY_FAILURE = {
    ProbeStatus.FAILED: ReasonCode.PROBE_FAILED,
    ProbeStatus.DENIED: ReasonCode.PROBE_DENIED,
    ProbeStatus.THROTTLED: ReasonCode.PROBE_THROTTLED,
    ProbeStatus.MISSING: ReasonCode.TASK_HUB_MISSING,
}


def test_every_probe_status_except_complete_is_a_reason() -> None:
    assert set(ProbeStatus) - set(REASON_BY_FAILURE) == {ProbeStatus.COMPLETE, ProbeStatus.INCOMPLETE}


@pytest.mark.parametrize(("status", "code"), REASON_BY_FAILURE.items())
def test_a_failed_probe_fails_closed_and_says_what_to_fix(status: ProbeStatus, code: ReasonCode) -> None:
    verdict = assess_probe(build_probe_result(status=status, message="the connection STATE_TASKHUBS_SHOP is not set"))
    assert get_only_reason(verdict) is code
    assert verdict.reasons[0].message == "task hub v41 could not be read: the connection STATE_TASKHUBS_SHOP is not set"
    assert verdict.assurance is Assurance.EVENTS
    assert verdict.retry_after_seconds == DEFAULT_RETRY_AFTER_SECONDS


@pytest.mark.parametrize("status", REASON_BY_FAILURE)
@pytest.mark.parametrize(("asked", "retry_after"), [(None, 10), (0, 10), (9, 10), (11, 11), (300, 300), (301, 300)])
def test_retry_after_is_what_the_storage_asks_up_to_a_limit(
    status: ProbeStatus, asked: int | None, retry_after: int
) -> None:
    assert assess_probe(build_probe_result(status=status, retry_after_seconds=asked)).retry_after_seconds == retry_after


def test_retry_after_is_what_the_storage_asks_while_the_task_hub_settles_too() -> None:
    verdict = assess_probe(
        build_probe_result(status=ProbeStatus.THROTTLED, retry_after_seconds=60),
        InstanceActivity(last_recorded_at=noon_plus(-10)),
    )
    assert [reason.code for reason in verdict.reasons] == [ReasonCode.SETTLING, ReasonCode.PROBE_THROTTLED]
    assert verdict.retry_after_seconds == 60


def test_an_incomplete_probe_fails_closed_and_says_how_far_it_came() -> None:
    verdict = assess_probe(
        build_probe_result(status=ProbeStatus.INCOMPLETE, scanned=5000, message="it took longer than 20 s")
    )
    assert get_only_reason(verdict) is ReasonCode.PROBE_INCOMPLETE
    assert verdict.reasons[0].message == "the probe of task hub v41 is not complete: it took longer than 20 s"
    assert verdict.assurance is Assurance.EVENTS


@pytest.mark.parametrize(("began", "is_ready"), [(-119.9999999, True), (-120, False), (-121, False)])
def test_a_probe_must_be_younger_than_the_freshness(began: float, *, is_ready: bool) -> None:
    assert assess_probe(build_probe_result(began=began)).ready is is_ready


def test_an_app_sets_its_own_freshness() -> None:
    assert assess_probe(build_probe_result(began=-300), policy=Policy(freshness_seconds=301)).ready
    assert not assess_probe(build_probe_result(began=-300), policy=Policy(freshness_seconds=300)).ready


def test_a_stale_probe_says_when_it_began_and_verifies_nothing() -> None:
    verdict = assess_probe(build_probe_result(began=-180))
    assert get_only_reason(verdict) is ReasonCode.PROBE_STALE
    assert verdict.reasons[0].message == (
        "the last complete probe of task hub v41 began at 2026-11-20T11:57:00.0000000Z; "
        "it must be younger than 120 s and have begun after the last event"
    )
    assert verdict.assurance is Assurance.EVENTS


@pytest.mark.parametrize("taken", [0, 119])
def test_a_stale_probe_that_was_read_quickly_suggests_no_other_setting(taken: int) -> None:
    verdict = assess_probe(build_probe_result(began=-360, taken=taken))
    assert verdict.reasons[0].message.endswith("and have begun after the last event")


@pytest.mark.parametrize("taken", [120, 121, 360])
def test_a_probe_that_took_longer_than_the_freshness_says_what_to_change(taken: int) -> None:
    verdict = assess_probe(build_probe_result(began=-360, taken=taken))
    assert get_only_reason(verdict) is ReasonCode.PROBE_STALE
    assert verdict.reasons[0].message.endswith(
        f"begun after the last event. Reading this task hub took {taken} s: set freshnessSeconds well above that, or "
        "purge finished instances"
    )


@pytest.mark.parametrize(
    ("before", "since", "is_ready"), [("", "", True), ("a", "a", True), ("", "a", False), ("a", "b", False)]
)
def test_a_probe_must_have_begun_after_the_last_look_up_that_closed_an_instance(
    before: str, since: str, *, is_ready: bool
) -> None:
    """An instance that ended without an event may have started another one before. The correction epoch shows that."""
    verdict = assess_probe(
        replace(build_probe_result(began=-9), correction_epoch=before), InstanceActivity(correction_epoch=since)
    )
    assert verdict.ready is is_ready
    assert is_ready or get_only_reason(verdict) is ReasonCode.PROBE_STALE
    assert is_ready or verdict.reasons[0].message.endswith(
        "after the last event, and since then a look-up has closed instances whose end no event reported"
    )


@pytest.mark.parametrize(
    ("settle", "began", "is_ready"),
    [
        (30, -58, False),
        (30, -57.9999999, True),
        (2, -58, False),
        (1, -59, False),
        (1, -58.9999999, True),
        (0, -60.0000001, False),
        (0, -60, False),
        (0, -59.9999999, True),
    ],
)
def test_a_probe_must_have_begun_after_the_last_event_was_recorded(
    settle: int, began: float, *, is_ready: bool
) -> None:
    """Stamps and the time that the storage reports may differ by two seconds."""
    policy = Policy(settle_seconds=settle)
    verdict = assess_probe(
        build_probe_result(began=began), InstanceActivity(last_recorded_at=noon_plus(-60)), policy=policy
    )
    assert verdict.ready is is_ready
    assert is_ready or get_only_reason(verdict) is ReasonCode.PROBE_STALE


def test_a_verified_task_hub_still_has_to_settle() -> None:
    verdict = assess_probe(build_probe_result(began=-5), InstanceActivity(last_recorded_at=noon_plus(-10)))
    assert get_only_reason(verdict) is ReasonCode.SETTLING
    assert verdict.assurance is Assurance.VERIFIED
    assert verdict.retry_after_seconds == 20


RESULTS_THAT_REQUIRE_A_PROBE = pytest.mark.parametrize(
    "result",
    [None, build_probe_result(status=ProbeStatus.INCOMPLETE), build_probe_result(began=-500)],
    ids=["pending", "incomplete", "stale"],
)
"""Results after which a task hub must be read, or read again."""


@RESULTS_THAT_REQUIRE_A_PROBE
def test_a_settling_task_hub_reports_when_it_will_be_read(result: ProbeResult | None) -> None:
    verdict = assess_probe(result, InstanceActivity(last_recorded_at=noon_plus(-10)))
    assert get_only_reason(verdict) is ReasonCode.SETTLING
    assert verdict.assurance is Assurance.EVENTS
    assert verdict.retry_after_seconds == 20


@RESULTS_THAT_REQUIRE_A_PROBE
def test_a_task_hub_with_active_instances_need_not_be_read(result: ProbeResult | None) -> None:
    verdict = assess_probe(result, InstanceActivity(active=(build_active_instance(),)))
    assert get_only_reason(verdict) is ReasonCode.INSTANCES_ACTIVE
    assert verdict.retry_after_seconds == DEFAULT_RETRY_AFTER_SECONDS


@RESULTS_THAT_REQUIRE_A_PROBE
def test_a_quiet_task_hub_that_was_not_read_is_not_ready(result: ProbeResult | None) -> None:
    verdict = assess_probe(result, InstanceActivity(last_recorded_at=noon_plus(-60)))
    assert get_only_reason(verdict) in {ReasonCode.PROBE_PENDING, ReasonCode.PROBE_INCOMPLETE, ReasonCode.PROBE_STALE}


@pytest.mark.parametrize(
    "activity", [InstanceActivity(active=(build_active_instance(),)), InstanceActivity(last_recorded_at=noon_plus(-10))]
)
@pytest.mark.parametrize(("status", "code"), REASON_BY_FAILURE.items())
def test_a_failed_read_is_reported_before_the_task_hub_is_quiet(
    status: ProbeStatus, code: ReasonCode, activity: InstanceActivity
) -> None:
    verdict = assess_probe(build_probe_result(status=status), activity)
    assert [reason.code for reason in verdict.reasons[1:]] == [code]
    assert verdict.retry_after_seconds == DEFAULT_RETRY_AFTER_SECONDS


def test_a_missing_probe_is_reported_before_the_task_hub_is_quiet_if_the_policy_requires_one() -> None:
    busy = build_evidence(activity=InstanceActivity(active=(build_active_instance(),)))
    verdict = assess_readiness(busy, Policy(require_verification=True), noon_plus())
    assert [reason.code for reason in verdict.reasons] == [
        ReasonCode.INSTANCES_ACTIVE,
        ReasonCode.VERIFICATION_REQUIRED,
    ]


@pytest.mark.parametrize("status", ProbeStatus)
def test_an_instance_that_a_probe_finds_blocks_regardless_of_the_probe_status(status: ProbeStatus) -> None:
    verdict = assess_probe(build_probe_result(build_active_instance("lost"), status=status))
    assert verdict.reasons[0].code is ReasonCode.INSTANCES_ACTIVE
    assert verdict.has_running
    assert [instance.instance_id for instance in verdict.active] == ["lost"]


def test_a_valid_probe_that_finds_active_instances_verifies_that_the_task_hub_is_not_ready() -> None:
    verdict = assess_probe(build_probe_result(build_active_instance("lost")))
    assert get_only_reason(verdict) is ReasonCode.INSTANCES_ACTIVE
    assert verdict.assurance is Assurance.VERIFIED


def test_a_probe_that_finds_nothing_does_not_overrule_an_event_that_shows_an_instance_running() -> None:
    verdict = assess_probe(
        build_probe_result(), InstanceActivity(active=(build_active_instance(),), last_recorded_at=noon_plus(-600))
    )
    assert get_only_reason(verdict) is ReasonCode.INSTANCES_ACTIVE


@pytest.mark.parametrize(
    ("result", "activity"),
    [
        (
            build_probe_result(build_active_instance("lost"), unlisted_count=3, began=-500),
            InstanceActivity(last_recorded_at=noon_plus(-600)),
        ),
        (
            build_probe_result(build_active_instance("lost"), unlisted_count=3, began=-60),
            InstanceActivity(last_recorded_at=noon_plus(-60)),
        ),
        (build_probe_result(build_active_instance("lost"), unlisted_count=3, began=1), InstanceActivity()),
    ],
    ids=["too old", "overtaken by an event", "ahead of the clock"],
)
def test_a_stale_probes_instances_do_not_count(result: ProbeResult, activity: InstanceActivity) -> None:
    verdict = assess_probe(replace(result, ignored_count=2), activity)
    assert get_only_reason(verdict) is ReasonCode.PROBE_STALE
    assert (verdict.active, verdict.active_count, verdict.ignored_count) == ((), 0, 0)
    assert not verdict.active_count_is_lower_bound
    assert not verdict.has_running


@pytest.mark.parametrize("status", [ProbeStatus.INCOMPLETE, *REASON_BY_FAILURE])
def test_an_incomplete_or_failed_probes_instances_count_regardless_of_age(status: ProbeStatus) -> None:
    verdict = assess_probe(
        build_probe_result(build_active_instance("lost"), status=status, began=-86_400),
        InstanceActivity(last_recorded_at=noon_plus(-60)),
    )
    assert verdict.reasons[0].code is ReasonCode.INSTANCES_ACTIVE
    assert verdict.has_running


def test_an_instance_that_events_and_probe_both_show_counts_once() -> None:
    activity = InstanceActivity(
        active=(build_active_instance("both", since=-40), build_active_instance("by-event", since=-30))
    )
    verdict = assess_probe(
        build_probe_result(build_active_instance("both", since=-50), build_active_instance("by-probe", since=-60)),
        activity,
    )
    assert verdict.active_count == 3
    assert [instance.instance_id for instance in verdict.active] == ["by-probe", "both", "by-event"]


def test_an_instance_in_both_has_status_and_version_of_the_probe_and_the_rest_of_the_events() -> None:
    by_probe = replace(
        build_active_instance("both", since=-50),
        runtime_status=RuntimeStatus.SUSPENDED,
        last_event_at=noon_plus(-20),
        source=EvidenceSource.PROBE,
        version="1.4.0",
    )
    by_event = build_active_instance("both", since=-40)
    verdict = assess_probe(build_probe_result(by_probe), InstanceActivity(active=(by_event,)))
    assert verdict.active == (replace(by_event, runtime_status=RuntimeStatus.SUSPENDED, version="1.4.0"),)


@pytest.mark.parametrize("result", [None, build_probe_result(began=-500)], ids=["no probe", "a stale one"])
def test_an_instance_in_events_alone_has_the_status_of_the_events(result: ProbeResult | None) -> None:
    by_event = replace(build_active_instance(), runtime_status=RuntimeStatus.PENDING)
    assert assess_probe(result, InstanceActivity(active=(by_event,))).active == (by_event,)


def test_an_instance_with_another_name_in_the_probe_is_listed_as_in_the_probe() -> None:
    by_probe = replace(build_active_instance("both", "ShipOrder", since=-50), source=EvidenceSource.PROBE)
    verdict = assess_probe(
        build_probe_result(by_probe), InstanceActivity(active=(build_active_instance("both", "ProcessOrder"),))
    )
    assert verdict.active == (by_probe,)


def test_ignored_functions_may_be_active_in_a_probe_too() -> None:
    verdict = assess_probe(
        build_probe_result(build_active_instance("sync", "NightlySync")), policy=Policy(ignore_functions=("Nightly*",))
    )
    assert verdict.ready
    assert verdict.assurance is Assurance.VERIFIED
    assert verdict.ignored_count == 1


def test_a_result_of_a_probe_that_is_no_longer_configured_verifies_nothing() -> None:
    verdict = assess_readiness(replace(build_evidence(), probe=build_probe_result()), Policy(), noon_plus())
    assert verdict.ready
    assert verdict.assurance is Assurance.EVENTS


@pytest.mark.parametrize(
    ("by_probe", "by_event"), [("ProcessOrder", "NightlySync"), ("NightlySync", "ProcessOrder"), ("", "NightlySync")]
)
def test_an_instance_blocks_if_events_or_the_probe_name_a_function_that_is_not_ignored(
    by_probe: str, by_event: str
) -> None:
    policy = Policy(ignore_functions=("NightlySync",))
    verdict = assess_probe(
        build_probe_result(build_active_instance("x", by_probe)),
        InstanceActivity(active=(build_active_instance("x", by_event),)),
        policy,
    )
    assert get_only_reason(verdict) is ReasonCode.INSTANCES_ACTIVE
    assert [instance.function_name for instance in verdict.active] == [({by_probe, by_event} - {"NightlySync"}).pop()]


def test_an_ignored_instance_that_events_and_probe_show_is_counted_once() -> None:
    policy = Policy(ignore_functions=("NightlySync",))
    verdict = assess_readiness(
        build_evidence_with_probe(
            build_probe_result(build_active_instance("x", "NightlySync")), InstanceActivity(ignored_count=1)
        ),
        policy,
        noon_plus(),
    )
    assert (verdict.ready, verdict.ignored_count) == (True, 1)


def test_a_probe_dated_in_the_future_is_not_valid() -> None:
    evidence = build_evidence_with_probe(replace(build_probe_result(), began_at=noon_plus(3600)))
    verdict = assess_readiness(evidence, Policy(), noon_plus())
    assert [reason.code for reason in verdict.reasons] == [ReasonCode.PROBE_STALE]


def test_a_probe_with_more_instances_than_the_limit_gives_a_lower_bound_too() -> None:
    evidence = build_evidence_with_probe(
        build_probe_result(*(build_active_instance(f"x{n}", "ProcessOrder") for n in range(ACTIVE_LIMIT + 1)))
    )
    verdict = assess_readiness(evidence, Policy(), noon_plus())
    assert (verdict.active_count, verdict.active_count_is_lower_bound) == (ACTIVE_LIMIT, True)


def test_the_count_is_exact_if_events_show_as_many_instances_as_the_probe_counted() -> None:
    three = tuple(build_active_instance(instance_id) for instance_id in "abc")
    verdict = assess_probe(
        build_probe_result(build_active_instance("a"), unlisted_count=2), InstanceActivity(active=three)
    )
    assert (verdict.active_count, verdict.active_count_is_lower_bound) == (3, False)
    verdict = assess_probe(
        build_probe_result(build_active_instance("a"), unlisted_count=3), InstanceActivity(active=three)
    )
    assert (verdict.active_count, verdict.active_count_is_lower_bound) == (3, True)


def test_exempt_instances_do_not_count_as_listed_by_the_probe() -> None:
    result = build_probe_result(
        build_active_instance("sync", "NightlySync"), build_active_instance("order"), unlisted_count=1
    )
    verdict = assess_probe(
        result, InstanceActivity(active=(build_active_instance("x"),)), Policy(ignore_functions=("NightlySync",))
    )
    assert (verdict.active_count, verdict.active_count_is_lower_bound) == (2, False)


def test_a_probe_that_lists_only_some_blocking_instances_gives_a_lower_bound() -> None:
    verdict = assess_probe(
        build_probe_result(build_active_instance("a"), build_active_instance("b"), unlisted_count=300)
    )
    assert get_only_reason(verdict) is ReasonCode.INSTANCES_ACTIVE
    assert (verdict.active_count, verdict.active_count_is_lower_bound) == (2, True)
    assert verdict.reasons[0].message.startswith("at least 2 orchestration instances are active")


@pytest.mark.parametrize("status", ProbeStatus)
def test_instances_that_a_probe_only_counted_block_too(status: ProbeStatus) -> None:
    verdict = assess_probe(build_probe_result(status=status, unlisted_count=1))
    assert verdict.reasons[0].code is ReasonCode.INSTANCES_ACTIVE
    assert (verdict.active, verdict.active_count, verdict.active_count_is_lower_bound) == ((), 1, True)


def test_instances_that_the_probe_counts_as_ignored_are_reported_with_those_that_it_lists() -> None:
    result = replace(build_probe_result(build_active_instance("sync", "NightlySync")), ignored_count=2)
    verdict = assess_probe(result, InstanceActivity(ignored_count=1), Policy(ignore_functions=("NightlySync",)))
    assert (verdict.ready, verdict.ignored_count) == (True, 3)


# Instances that the task hub has just confirmed


@pytest.mark.parametrize("result", [None, build_probe_result(began=-500)], ids=["no result", "a stale one"])
def test_an_active_instance_that_the_task_hub_has_just_shown_verifies_not_ready(result: ProbeResult | None) -> None:
    evidence = replace(
        build_evidence_with_probe(result, InstanceActivity(active=(build_active_instance(),))),
        active_instance_seen=True,
    )
    verdict = assess_readiness(evidence, Policy(), noon_plus())
    assert get_only_reason(verdict) is ReasonCode.INSTANCES_ACTIVE
    assert verdict.assurance is Assurance.VERIFIED


def test_an_active_instance_that_only_events_show_is_not_verified() -> None:
    assert assess_probe(None, InstanceActivity(active=(build_active_instance(),))).assurance is Assurance.EVENTS


def assess_after_lookup(
    *seen: ActiveInstance, activity: InstanceActivity, result: ProbeResult | None = None
) -> Verdict:
    """The verdict at noon on a task hub that has just shown these of the reported instances."""
    evidence = replace(build_evidence_with_probe(result, activity), looked_up_instances=seen, active_instance_seen=True)
    return assess_readiness(evidence, Policy(ignore_functions=("NightlySync",)), noon_plus())


def test_an_instance_that_was_looked_up_has_the_status_and_version_that_the_task_hub_shows_now() -> None:
    by_event = build_active_instance("x", since=-40)
    by_probe = replace(by_event, runtime_status=RuntimeStatus.PENDING, version="1.4.0")
    seen = replace(
        build_active_instance("x", since=-50),
        runtime_status=RuntimeStatus.SUSPENDED,
        version="2.0",
        source=EvidenceSource.PROBE,
    )
    verdict = assess_after_lookup(
        seen, activity=InstanceActivity(active=(by_event,)), result=build_probe_result(by_probe)
    )
    assert verdict.active == (replace(by_event, runtime_status=RuntimeStatus.SUSPENDED, version="2.0"),)


def test_instances_that_were_not_looked_up_are_listed_as_recorded() -> None:
    recorded = build_active_instance("x", since=-40), build_active_instance("y", since=-30)
    verdict = assess_after_lookup(replace(recorded[0], version="2.0"), activity=InstanceActivity(active=recorded))
    assert verdict.active == (replace(recorded[0], version="2.0"), recorded[1])


def test_an_instance_with_an_ignored_name_in_the_look_up_blocks_under_its_recorded_name() -> None:
    verdict = assess_after_lookup(
        build_active_instance("x", "NightlySync"),
        activity=InstanceActivity(active=(build_active_instance("x", "ProcessOrder"),)),
    )
    assert [instance.function_name for instance in verdict.active] == ["ProcessOrder"]


@pytest.mark.parametrize("known_as", ["ProcessOrder", ""])
@pytest.mark.parametrize("result", [None, build_probe_result()], ids=["no result", "a result without it"])
def test_an_instance_with_another_name_in_the_look_up_blocks_under_that_name(
    known_as: str, result: ProbeResult | None
) -> None:
    """Its id was used again and the events of that were lost, or its event named no function."""
    seen = replace(build_active_instance("x", "ShipOrder"), source=EvidenceSource.PROBE)
    verdict = assess_after_lookup(
        seen, activity=InstanceActivity(active=(build_active_instance("x", known_as),)), result=result
    )
    assert (verdict.ready, verdict.has_running, verdict.active) == (False, True, (seen,))


def test_an_instance_that_was_looked_up_and_has_ended_since_is_not_shown() -> None:
    assert (
        assess_after_lookup(build_active_instance("x"), activity=InstanceActivity(), result=build_probe_result()).active
        == ()
    )


# Task hubs that do not exist

DRAINED_IF_MISSING = Policy(missing_task_hub_is_drained=True)


def assess_missing_hub(*, known: bool = False, policy: Policy = DRAINED_IF_MISSING, began: float = -10) -> Verdict:
    """The verdict on a task hub that does not exist at its provider."""
    result = build_probe_result(status=ProbeStatus.MISSING, message="there is no table v41Instances", began=began)
    return assess_readiness(replace(build_evidence_with_probe(result), seen_before=known), policy, noon_plus())


def test_a_task_hub_that_never_existed_is_drained_but_not_verified_if_the_policy_says_so() -> None:
    verdict = assess_missing_hub()
    assert verdict.ready
    assert verdict.assurance is Assurance.EVENTS


def test_a_task_hub_that_does_not_exist_is_not_ready_unless_the_policy_says_so() -> None:
    verdict = assess_missing_hub(policy=Policy())
    assert get_only_reason(verdict) is ReasonCode.TASK_HUB_MISSING
    assert verdict.reasons[0].message == (
        "task hub v41 could not be read: there is no table v41Instances. If a version that was staged and never "
        "started may be overwritten, set missingTaskHubIsDrained in the app's policy"
    )


@pytest.mark.parametrize("policy", [Policy(), DRAINED_IF_MISSING])
def test_a_task_hub_that_was_seen_before_is_missing_regardless_of_the_policy(policy: Policy) -> None:
    verdict = assess_missing_hub(known=True, policy=policy)
    assert get_only_reason(verdict) is ReasonCode.TASK_HUB_MISSING
    assert verdict.reasons[0].message == "task hub v41 could not be read: there is no table v41Instances"
    assert verdict.assurance is Assurance.EVENTS


def test_a_task_hub_counts_as_seen_before_by_default() -> None:
    assert build_evidence().seen_before


@pytest.mark.parametrize(("began", "is_ready"), [(-119.9999999, True), (-120, False), (0, True), (0.0000001, False)])
def test_a_probe_that_found_no_task_hub_must_be_recent(began: float, *, is_ready: bool) -> None:
    verdict = assess_missing_hub(began=began)
    assert verdict.ready is is_ready
    assert is_ready or get_only_reason(verdict) is ReasonCode.TASK_HUB_MISSING


def test_a_task_hub_that_does_not_exist_while_events_come_from_it_is_not_ready() -> None:
    result = build_probe_result(status=ProbeStatus.MISSING, began=-60)
    late = replace(
        build_evidence_with_probe(result, InstanceActivity(last_recorded_at=noon_plus(-60))), seen_before=False
    )
    assert get_only_reason(assess_readiness(late, DRAINED_IF_MISSING, noon_plus())) is ReasonCode.TASK_HUB_MISSING
    active_there = replace(
        build_evidence_with_probe(
            build_probe_result(status=ProbeStatus.MISSING), InstanceActivity(active=(build_active_instance(),))
        ),
        seen_before=False,
    )
    assert (
        get_only_reason(assess_readiness(active_there, DRAINED_IF_MISSING, noon_plus())) is ReasonCode.INSTANCES_ACTIVE
    )


@pytest.mark.parametrize("status", [ProbeStatus.FAILED, ProbeStatus.DENIED, ProbeStatus.THROTTLED])
def test_a_failed_read_does_not_count_as_a_missing_task_hub(status: ProbeStatus) -> None:
    verdict = assess_readiness(
        replace(build_evidence_with_probe(build_probe_result(status=status)), seen_before=False),
        DRAINED_IF_MISSING,
        noon_plus(),
    )
    assert get_only_reason(verdict) is REASON_BY_FAILURE[status]
