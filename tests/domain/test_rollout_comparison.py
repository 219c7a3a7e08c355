"""Which two task hubs are compared, and since when."""

from dataclasses import replace

import pytest

from state_api.domain.instants import Instant
from state_api.domain.releases.apps import App
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.side_by_side.releases import Routing
from state_api.domain.rollouts.analysis import Analysis, OnUnhealthy
from state_api.domain.rollouts.comparison import (
    ComparedSide,
    Comparison,
    ComparisonQuestion,
    compare_rollout,
    find_comparison,
    needs_health,
)
from state_api.domain.rollouts.rollouts import RolloutState
from tests.domain.builders import NOON, build_app, build_production_slot, build_slot, noon_plus
from tests.domain.release_transitions import HOUR, build_shop_app, put_routing
from tests.domain.rollout_builders import (
    MINUTE,
    UNDECIDED,
    advance,
    build_rollout,
    build_slots_app,
    post_rollout,
    put_rollout,
    require_rollout,
    start_in_slots,
)

NOW = noon_plus(HOUR)
CANDIDATE, BASELINE = ComparedSide("1.5.0", "v150"), ComparedSide("1.4.0", "v140")
ANALYSIS = Analysis(tolerated_ratio=1.5)


def compare(app: App, now: Instant = NOW, **question: object) -> Comparison:
    """The comparison that the question is about. Fails if it is refused."""
    comparison = find_comparison(app, ComparisonQuestion(**question), now)  # type: ignore[arg-type]
    assert isinstance(comparison, Comparison), comparison
    return comparison


def refused_code(app: App, **question: object) -> str:
    """The code with which the question is refused."""
    refusal = find_comparison(app, ComparisonQuestion(**question), NOW)  # type: ignore[arg-type]
    assert isinstance(refusal, Refusal)
    return refusal.to_error().code


def build_split_app() -> App:
    """An app whose requests were divided at noon."""
    app = build_shop_app()
    return replace(app, routing=replace(app.routing, split={"1.4.0": 80, "1.5.0": 20}, updated_at=NOON))


def test_a_rollout_is_compared_since_its_beginning_by_its_analysis() -> None:
    app = advance(put_rollout(build_shop_app(), analysis=ANALYSIS).app, UNDECIDED, minutes=15).app
    changes = (NOON, noon_plus(15 * MINUTE))
    assert compare(app) == Comparison(CANDIDATE, BASELINE, changes, 50, ANALYSIS)
    assert compare(app) == compare_rollout(require_rollout(app), NOW)


def test_a_comparison_begins_when_the_question_says_and_knows_the_later_changes_of_the_share() -> None:
    app = advance(put_rollout(build_shop_app()).app, UNDECIDED, minutes=15).app
    step = noon_plus(15 * MINUTE)
    assert compare(app, since=noon_plus(-MINUTE)).changes == (noon_plus(-MINUTE), NOON, step)
    assert compare(app, since=noon_plus(MINUTE)).changes == (noon_plus(MINUTE), step)
    assert compare(app, since=NOW).since == NOW


def test_a_comparison_begins_no_earlier_than_the_timeline() -> None:
    days_later = noon_plus(72 * HOUR)
    app = put_rollout(build_shop_app()).app
    assert compare(app, days_later).changes == (noon_plus(24 * HOUR),)
    assert compare(build_split_app(), days_later).changes == (noon_plus(24 * HOUR),)
    assert compare(build_split_app(), days_later, since=NOON).changes == (noon_plus(24 * HOUR),)


def test_without_a_rollout_the_releases_of_a_split_are_compared_since_the_routing_changed() -> None:
    assert compare(build_split_app()) == Comparison(CANDIDATE, BASELINE, (NOON,), 20, Analysis())


def test_named_releases_are_compared_also_without_a_split() -> None:
    comparison = compare(build_shop_app(), candidate="1.5.0", baseline="1.4.0")
    assert (comparison.candidate, comparison.baseline, comparison.configured_share) == (CANDIDATE, BASELINE, 0)
    assert compare(build_shop_app(), candidate="1.5.0").baseline == BASELINE, "the active release is the baseline"


def test_the_other_way_round_a_rollout_is_not_its_own_comparison() -> None:
    app = put_rollout(build_shop_app(), analysis=ANALYSIS).app
    comparison = compare(app, candidate="1.4.0", baseline="1.5.0")
    assert (comparison.configured_share, comparison.analysis) == (90, Analysis())


def test_without_a_rollout_staging_is_compared_with_production_since_either_was_filled() -> None:
    app = build_app(build_production_slot(), replace(build_slot("v42"), since=noon_plus(MINUTE)))
    comparison = compare(app)
    assert (comparison.candidate, comparison.baseline) == (
        ComparedSide("staging", "v42"),
        ComparedSide("production", "v41"),
    )
    assert (comparison.changes, comparison.configured_share) == ((noon_plus(MINUTE),), None)
    assert compare(app, candidate="STAGING").candidate.name == "staging"


def test_an_ended_rollout_is_compared_until_the_app_gives_up_one_of_its_task_hubs() -> None:
    app = post_rollout(start_in_slots(analysis=ANALYSIS), "abort").app
    assert compare(app).analysis == ANALYSIS
    staged = replace(app, slots={**app.slots, "staging": build_slot("v43")})
    assert (compare(staged).candidate, compare(staged).analysis) == (ComparedSide("staging", "v43"), Analysis())


@pytest.mark.parametrize("action", ["abort", "finish"])
def test_a_split_after_the_end_of_a_rollout_is_compared_since_it_was_made(action: str) -> None:
    """The rollout knows neither the share nor when it changed."""
    ended = post_rollout(put_rollout(build_shop_app(), analysis=ANALYSIS).app, action).app
    assert compare(ended).analysis == ANALYSIS
    split = put_routing(ended, "1.4.0", {"1.4.0": 70, "1.5.0": 30}, now=noon_plus(30 * MINUTE)).app
    assert compare(split) == Comparison(CANDIDATE, BASELINE, (noon_plus(30 * MINUTE),), 30, Analysis())


@pytest.mark.parametrize(
    ("app", "question", "code"),
    [
        (build_shop_app(), {}, "InvalidRequest"),
        (replace(build_shop_app(), routing=Routing()), {"candidate": "1.5.0"}, "InvalidRequest"),
        (build_shop_app(), {"candidate": "9.9.9"}, "ReleaseNotFound"),
        (build_shop_app(), {"candidate": "1.5.0", "baseline": "9.9.9"}, "ReleaseNotFound"),
        (build_shop_app(), {"candidate": "1.5.0", "baseline": "1.5.0"}, "InvalidRequest"),
        (build_split_app(), {"since": noon_plus(2 * HOUR)}, "InvalidRequest"),
        (build_slots_app(), {"candidate": "beta"}, "SlotNotFound"),
        (build_app(build_production_slot(), None), {}, "InvalidRequest"),
    ],
)
def test_a_question_about_nothing_comparable_is_refused(app: App, question: dict[str, object], code: str) -> None:
    assert refused_code(app, **question) == code


@pytest.mark.parametrize(
    ("state", "on_unhealthy", "expected"),
    [
        (RolloutState.RUNNING, OnUnhealthy.PAUSE, True),
        (RolloutState.PAUSED, OnUnhealthy.ABORT, True),
        (RolloutState.PAUSED, OnUnhealthy.PAUSE, False),
        (RolloutState.ABORTING, OnUnhealthy.ABORT, False),
        (RolloutState.FINISHED, OnUnhealthy.ABORT, False),
    ],
)
def test_health_is_needed_only_while_it_can_decide(
    state: RolloutState, on_unhealthy: OnUnhealthy, *, expected: bool
) -> None:
    assert needs_health(build_rollout(state, analysis=Analysis(on_unhealthy=on_unhealthy))) is expected
