"""The verdict on a release: what its traffic, its routers and a probe say about its removal."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from state_api.domain.instants import format_instant
from state_api.domain.readiness.evidence import ProbeStatus
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.verdict import Verdict, assess_readiness
from state_api.domain.readiness.waiting import NO_END
from state_api.domain.releases.apps import App
from state_api.domain.releases.side_by_side.acknowledgements import find_closing_change
from state_api.domain.releases.side_by_side.commands import RemovalOutcome
from state_api.domain.releases.side_by_side.releases import (
    ReleaseState,
    RouterAcknowledgement,
    RoutingChange,
)
from state_api.domain.releases.side_by_side.verdicts import (
    ReleaseUse,
    assess_release,
    find_assessed_state,
    find_blocked_until,
    find_blocking_release_deployment,
    find_quiet_since,
)
from tests.domain.builders import (
    ANNA,
    BEN,
    NOON,
    PROVIDER_CONFIG,
    build_evidence_with_probe,
    build_not_ready_verdict,
    build_probe_result,
    build_ready_verdict,
    noon_plus,
)
from tests.domain.release_transitions import (
    build_acknowledgement,
    build_draining_release,
    build_serving_release,
    build_shop_app,
    build_side_by_side_app,
    build_staged_release,
    delete_release,
    post_release,
    put_routing,
    remember_forgotten,
)


def assess_release_at(
    app: App,
    version: str,
    *acknowledgements: RouterAcknowledgement,
    verdict: Verdict | None = None,
    now: float = 0,
) -> Verdict:
    """The verdict on a release `now` seconds after noon, with the task hub drained unless `verdict` is given."""
    release = app.releases[version]
    use = ReleaseUse(acknowledgements, None, noon_plus(now))
    return assess_release(app, release, use, verdict or build_ready_verdict())


def reason_codes(verdict: Verdict) -> list[str]:
    return [reason.code.value for reason in verdict.reasons]


PROMOTED = put_routing(build_shop_app(), "1.5.0").app
"""At noon, routing revision 4 has taken the traffic of 1.4.0 away."""
STICKY = put_routing(replace(build_shop_app(), policy=Policy(sticky_after_promotion=True)), "1.5.0").app
REMOVING_STAGED = delete_release(build_shop_app(), "1.5.0").app
"""At noon, routing revision 4 shows the staged 1.5.0 as Removing."""
CANARY = put_routing(build_shop_app(), "1.4.0", {"1.4.0": 90, "1.5.0": 10}).app

BEHIND, CURRENT = build_acknowledgement("behind", 3), build_acknowledgement("current", 4, since=2)


@pytest.mark.parametrize(
    ("app", "version", "acknowledgements", "now", "expected"),
    [
        (build_shop_app(), "1.4.0", (), 0, ["ReleaseInUse"]),
        (CANARY, "1.5.0", (), 0, ["ReleaseInUse"]),
        (build_shop_app(), "1.3.0", (), 0, []),
        (build_shop_app(), "1.5.0", (), 0, []),
        (build_shop_app(), "1.5.0", (BEHIND,), 0, []),
        (PROMOTED, "1.4.0", (), 0, ["RoutersBehind"]),
        (PROMOTED, "1.4.0", (), 59.9, ["RoutersBehind"]),
        (PROMOTED, "1.4.0", (), 60, []),
        (PROMOTED, "1.4.0", (CURRENT,), 59.9, ["RoutersBehind"]),
        (PROMOTED, "1.4.0", (CURRENT,), 60, []),
        (PROMOTED, "1.4.0", (CURRENT, BEHIND), 60, ["RoutersBehind"]),
        (PROMOTED, "1.4.0", (BEHIND,), 86_400, ["RoutersBehind"]),
        (STICKY, "1.4.0", (CURRENT,), 3599, ["ReleaseInUse", "RoutersBehind"]),
        (STICKY, "1.4.0", (CURRENT,), 3600, ["RoutersBehind"]),
        (STICKY, "1.4.0", (), 3660, []),
        (STICKY, "1.4.0", (CURRENT,), 3660, ["RoutersBehind"]),
        (STICKY, "1.4.0", (build_acknowledgement("early", 4, since=3659),), 3660, ["RoutersBehind"]),
        (STICKY, "1.4.0", (build_acknowledgement("current", 4, since=3660),), 3690, []),
        (REMOVING_STAGED, "1.5.0", (CURRENT,), 59, ["RoutersBehind"]),
        (REMOVING_STAGED, "1.5.0", (BEHIND,), 60, ["RoutersBehind"]),
        (REMOVING_STAGED, "1.5.0", (CURRENT,), 60, []),
    ],
)
def test_a_drained_release_may_be_removed_once_no_router_sends_to_it(
    app: App, version: str, acknowledgements: Sequence[RouterAcknowledgement], now: float, expected: list[str]
) -> None:
    verdict = assess_release_at(app, version, *acknowledgements, now=now)
    assert reason_codes(verdict) == expected
    assert verdict.ready == (not expected)
    assert (verdict.retry_after_seconds is None) == verdict.ready


def test_what_is_active_is_a_reason_after_those_of_the_release() -> None:
    verdict = assess_release_at(PROMOTED, "1.4.0", verdict=build_not_ready_verdict())
    assert reason_codes(verdict) == ["RoutersBehind", "InstancesActive"]
    assert verdict.has_running


def test_a_verdict_without_reasons_of_the_release_stays_as_it_is() -> None:
    task_hub_verdict = build_not_ready_verdict()
    assert assess_release_at(build_shop_app(), "1.3.0", verdict=task_hub_verdict) is task_hub_verdict


def test_messages_say_what_is_in_use_and_who_is_behind() -> None:
    (in_use,) = assess_release_at(CANARY, "1.5.0").reasons
    assert in_use.message == "release 1.5.0 gets 10 % of the requests. Give them to another one with PutRouting"
    sticky, _ = assess_release_at(STICKY, "1.4.0").reasons
    assert format_instant(noon_plus(3600)) in sticky.message
    (waiting,) = assess_release_at(PROMOTED, "1.4.0").reasons
    assert "for 1 min more" in waiting.message
    (behind,) = assess_release_at(
        PROMOTED, "1.4.0", *(build_acknowledgement(f"envoy-{number}") for number in range(5))
    ).reasons
    assert "not confirmed routing revision 4" in behind.message
    assert "envoy-0, envoy-1, envoy-2 and 2 more." in behind.message
    (single,) = assess_release_at(PROMOTED, "1.4.0", BEHIND).reasons
    assert "behind. Wait" in single.message


def test_the_wait_ends_when_the_last_reason_can_end() -> None:
    assert assess_release_at(PROMOTED, "1.4.0", now=12).retry_after_seconds == 48
    assert assess_release_at(PROMOTED, "1.4.0", BEHIND, now=600).retry_after_seconds == 10
    assert assess_release_at(CANARY, "1.5.0").retry_after_seconds == 10
    assert assess_release_at(STICKY, "1.4.0").retry_after_seconds == 3660
    assert (
        assess_release_at(
            PROMOTED, "1.4.0", verdict=replace(build_not_ready_verdict(), retry_after_seconds=90)
        ).retry_after_seconds
        == 90
    )


def test_only_the_run_that_deploys_a_release_may_remove_it() -> None:
    app = post_release(build_shop_app(), "1.6.0", caller=BEN).app
    release = app.releases["1.6.0"]
    for run_id in (ANNA.run_id("v160"), None):
        assert find_blocking_release_deployment(app, release, run_id, NOON) == app.deployment
    assert find_blocking_release_deployment(app, release, BEN.run_id("v160"), NOON) is None
    assert find_blocking_release_deployment(app, app.releases["1.3.0"], None, NOON) is None
    verdict = assess_release(app, release, ReleaseUse((), app.deployment, NOON), build_ready_verdict())
    assert reason_codes(verdict) == ["DeploymentInProgress"]


# The probe


def build_verdict_by_probe(began: float) -> Verdict:
    """A verdict on the task hub by a probe that began `began` seconds after noon."""
    policy = Policy(freshness_seconds=86_400)
    return assess_readiness(build_evidence_with_probe(build_probe_result(began=began)), policy, noon_plus(1000))


@pytest.mark.parametrize(
    ("acknowledgements", "began", "expected"),
    [
        ((), 59.9, ["ProbeStale"]),
        ((), 60, []),
        ((build_acknowledgement("late", 4, since=500),), 499, ["ProbeStale"]),
        ((build_acknowledgement("late", 4, since=500),), 500, []),
    ],
)
def test_a_probe_counts_only_if_it_began_after_the_last_router_had_stopped(
    acknowledgements: Sequence[RouterAcknowledgement], began: float, expected: list[str]
) -> None:
    verdict = assess_release_at(PROMOTED, "1.4.0", *acknowledgements, verdict=build_verdict_by_probe(began), now=1000)
    assert reason_codes(verdict) == expected


def test_a_probe_that_found_no_task_hub_while_it_could_be_reached_does_not_count() -> None:
    policy = Policy(freshness_seconds=86_400, missing_task_hub_is_drained=True)
    probe = replace(build_probe_result(began=59), status=ProbeStatus.MISSING)
    evidence = replace(build_evidence_with_probe(probe), seen_before=False)
    missing = assess_readiness(evidence, policy, noon_plus(1000))
    assert missing.ready
    assert reason_codes(assess_release_at(REMOVING_STAGED, "1.5.0", verdict=missing, now=1000)) == ["ProbeStale"]


def test_a_probe_that_shows_something_active_is_not_called_stale() -> None:
    verdict = assess_release_at(PROMOTED, "1.4.0", verdict=replace(build_verdict_by_probe(0), ready=False), now=1000)
    assert reason_codes(verdict) == []


def test_a_staged_release_can_be_reached_until_its_removal_begins() -> None:
    assert find_quiet_since(build_staged_release(), [CURRENT]) is None
    assert find_closing_change(build_staged_release()) is None
    assert assess_release_at(build_shop_app(), "1.5.0", verdict=build_verdict_by_probe(-3000), now=1000).ready
    assert find_closing_change(REMOVING_STAGED.releases["1.5.0"]) == RoutingChange(4, noon_plus())
    assert find_quiet_since(REMOVING_STAGED.releases["1.5.0"], [CURRENT, BEHIND]) == noon_plus(60)


# Events alone

LATE = build_acknowledgement("late", 4, since=500)
WITH_PROVIDER = replace(PROMOTED, provider_config=PROVIDER_CONFIG)
REMOVING_DRAINED = delete_release(PROMOTED, "1.4.0", now=noon_plus(100)).app


@pytest.mark.parametrize(
    ("app", "version", "now", "expected"),
    [
        (PROMOTED, "1.4.0", 500, ["RoutersBehind"]),
        (PROMOTED, "1.4.0", 529.9, ["RoutersBehind"]),
        (PROMOTED, "1.4.0", 530, []),
        (WITH_PROVIDER, "1.4.0", 500, []),
        (REMOVING_STAGED, "1.5.0", 529.9, ["RoutersBehind"]),
        (REMOVING_DRAINED, "1.4.0", 500, []),
    ],
)
def test_without_a_provider_the_events_of_what_a_late_router_had_sent_are_waited_for(
    app: App, version: str, now: float, expected: list[str]
) -> None:
    """Without a probe, a start is known only when its event has arrived."""
    verdict = assess_release_at(app, version, LATE, now=now)
    assert reason_codes(verdict) == expected
    assert (verdict.retry_after_seconds is None) == verdict.ready


def test_a_request_that_waits_asks_again_when_the_events_of_a_late_router_have_arrived() -> None:
    verdict = assess_release_at(PROMOTED, "1.4.0", LATE, now=510)
    assert "less than 30 s ago, a router has confirmed" in verdict.reasons[0].message
    assert verdict.retry_after_seconds == 20
    use = ReleaseUse([LATE], None, noon_plus(510))
    assert find_blocked_until(PROMOTED, PROMOTED.releases["1.4.0"], use) == noon_plus(530)


# Forgotten routers

FORGOTTEN = remember_forgotten(PROMOTED, BEHIND, now=noon_plus(500))
FORGOTTEN_WITH_VISITORS = remember_forgotten(STICKY, CURRENT, now=noon_plus(500))
FORGOTTEN_IN_REMOVAL = remember_forgotten(REMOVING_STAGED, BEHIND, now=noon_plus(500))
FORGOTTEN_BEFORE = remember_forgotten(build_shop_app(), build_acknowledgement("gone", 0), now=noon_plus(-5))


@pytest.mark.parametrize(
    ("forgotten", "began", "expected"),
    [
        (FORGOTTEN, 499, ["ProbeStale"]),
        (FORGOTTEN, 500, []),
        (FORGOTTEN_BEFORE, 60, []),
    ],
)
def test_a_probe_counts_only_if_it_began_after_a_router_that_had_not_stopped_was_forgotten(
    forgotten: RouterAcknowledgement, began: float, expected: list[str]
) -> None:
    verdict = assess_release_at(PROMOTED, "1.4.0", forgotten, verdict=build_verdict_by_probe(began), now=1000)
    assert reason_codes(verdict) == expected


@pytest.mark.parametrize(
    ("app", "version", "forgotten", "now", "expected"),
    [
        (PROMOTED, "1.4.0", FORGOTTEN, 529.9, ["RoutersBehind"]),
        (PROMOTED, "1.4.0", FORGOTTEN, 530, []),
        (PROMOTED, "1.3.0", FORGOTTEN, 500, []),
        (WITH_PROVIDER, "1.4.0", FORGOTTEN, 500, []),
        (REMOVING_STAGED, "1.5.0", FORGOTTEN_IN_REMOVAL, 529.9, ["RoutersBehind"]),
        (REMOVING_STAGED, "1.5.0", FORGOTTEN_IN_REMOVAL, 530, []),
        (STICKY, "1.4.0", FORGOTTEN_WITH_VISITORS, 3659, ["RoutersBehind"]),
        (STICKY, "1.4.0", FORGOTTEN_WITH_VISITORS, 3660, []),
        (PROMOTED, "1.4.0", FORGOTTEN_BEFORE, 59, ["RoutersBehind"]),
        (PROMOTED, "1.4.0", FORGOTTEN_BEFORE, 60, []),
    ],
)
def test_without_a_provider_the_events_of_what_a_forgotten_router_had_sent_are_waited_for(
    app: App, version: str, forgotten: RouterAcknowledgement, now: float, expected: list[str]
) -> None:
    """Nothing waits for a forgotten router to ask again."""
    verdict = assess_release_at(app, version, forgotten, now=now)
    assert reason_codes(verdict) == expected
    assert (verdict.retry_after_seconds is None) == verdict.ready


def test_a_request_that_waits_asks_again_when_the_events_of_a_forgotten_router_have_arrived() -> None:
    verdict = assess_release_at(PROMOTED, "1.4.0", FORGOTTEN, now=510)
    assert "or was forgotten, so events" in verdict.reasons[0].message
    assert verdict.retry_after_seconds == 20
    release = PROMOTED.releases["1.4.0"]
    assert find_blocked_until(PROMOTED, release, ReleaseUse([FORGOTTEN], None, noon_plus(510))) == noon_plus(530)
    assert find_blocked_until(PROMOTED, release, ReleaseUse([FORGOTTEN], None, noon_plus(530))) is None
    assert find_blocked_until(PROMOTED, release, ReleaseUse([FORGOTTEN_BEFORE], None, noon_plus(60))) is None


# States


@pytest.mark.parametrize(
    ("release", "verdict", "expected"),
    [
        (build_staged_release("1.4.1"), build_ready_verdict(), ReleaseState.STAGED),
        (build_serving_release("1.4.0"), build_ready_verdict(), ReleaseState.SERVING),
        (build_draining_release("1.3.0"), None, ReleaseState.DRAINING),
        (build_draining_release("1.3.0"), build_not_ready_verdict(), ReleaseState.DRAINING),
        (build_draining_release("1.3.0"), build_ready_verdict(), ReleaseState.DRAINED),
    ],
)
def test_only_a_draining_release_with_a_ready_verdict_is_drained(
    release: object, verdict: Verdict | None, expected: ReleaseState
) -> None:
    app = build_side_by_side_app(release, active="1.4.0")  # type: ignore[arg-type]
    assert find_assessed_state(app, release, verdict) is expected  # type: ignore[arg-type]


def test_a_release_is_removing_until_its_removal_ends() -> None:
    app = delete_release(build_shop_app(), "1.3.0").app
    assert find_assessed_state(app, app.releases["1.3.0"], build_ready_verdict()) is ReleaseState.REMOVING
    reverted = delete_release(app, "1.3.0", RemovalOutcome.FAILED).app
    assert find_assessed_state(reverted, reverted.releases["1.3.0"], None) is ReleaseState.DRAINING


# Waiting


@pytest.mark.parametrize(
    ("app", "version", "acknowledgements", "now", "expected"),
    [
        (CANARY, "1.5.0", (), 0, NO_END),
        (build_shop_app(), "1.5.0", (), 0, None),
        (PROMOTED, "1.4.0", (), 10, noon_plus(60)),
        (PROMOTED, "1.4.0", (CURRENT,), 60, None),
        (PROMOTED, "1.4.0", (BEHIND,), 58, noon_plus(63)),
        (PROMOTED, "1.4.0", (BEHIND,), 600, noon_plus(605)),
        (STICKY, "1.4.0", (), 10, noon_plus(3660)),
        (REMOVING_STAGED, "1.5.0", (CURRENT,), 10, noon_plus(60)),
    ],
)
def test_a_request_that_waits_asks_again_when_something_else_than_the_task_hub_may_have_ended(
    app: App, version: str, acknowledgements: Sequence[RouterAcknowledgement], now: float, expected: object
) -> None:
    use = ReleaseUse(acknowledgements, None, noon_plus(now))
    assert find_blocked_until(app, app.releases[version], use) == expected


def test_a_request_that_waits_for_a_release_of_another_run_asks_again_when_its_deployment_expires() -> None:
    app = post_release(build_shop_app(), "1.6.0", caller=BEN).app
    use = ReleaseUse((), app.deployment, noon_plus(10))
    assert find_blocked_until(app, app.releases["1.6.0"], use) == noon_plus(3600)
