"""Steps, durations and the options of the analysis, as the command line has them."""

from datetime import timedelta

import pytest

from safe_deploy.errors import UsageError
from safe_deploy.rollouts.options import AnalysisOptions, OnUndecided, OnUnhealthy, name_refused_options
from safe_deploy.rollouts.steps import Step, parse_steps


def test_steps_are_shares_with_durations() -> None:
    assert parse_steps("10@15m, 50%@1.5h,99@2d") == (
        Step(10, timedelta(minutes=15)),
        Step(50, timedelta(minutes=90)),
        Step(99, timedelta(days=2)),
    )


def test_the_request_has_minutes() -> None:
    assert [step.to_json() for step in parse_steps("5@90s,10@15m")] == [
        {"weight": 5, "minutes": 1.5},
        {"weight": 10, "minutes": 15},
    ]


@pytest.mark.parametrize("text", ["", "10", "10@", "@15m", "10@15", "ten@15m", "-5@15m", "10@15m,", "1²@5m", "10@0m"])
def test_other_texts_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"such as (10@15m|90s)"):
        parse_steps(text)


def test_an_age_is_whole_minutes() -> None:
    with pytest.raises(UsageError, match="--maximum-active-age takes whole minutes"):
        AnalysisOptions(maximum_active_age="90s").to_json()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(UsageError, match="--confidence takes a number"):
        AnalysisOptions(confidence=value).to_json()
    with pytest.raises(UsageError, match="--tolerated-ratio takes a number"):
        AnalysisOptions(tolerated_ratio=value).to_json()


@pytest.mark.parametrize(
    ("member", "option"),
    [
        ("body.steps", "--steps"),
        ("body.steps.0.weight", "--steps, the share of step 1"),
        ("body.steps.1.minutes", "--steps, the minutes of step 2"),
        ("body.analysis.confidence", "--confidence"),
        ("body.analysis.maximumActiveAgeMinutes", "--maximum-active-age, in minutes"),
        ("body.version", "--version"),
        ("body.slot", "--slot"),
        ("header.X-Actor", "header.X-Actor"),
    ],
)
def test_a_refusal_of_the_server_names_the_option(member: str, option: str) -> None:
    errors = [{"field": member, "message": "too large"}, {"field": "body.analysis.minimumFinished", "message": "0"}]
    refused = name_refused_options(UsageError("body: …", {"code": "InvalidRequest", "errors": errors}))
    assert refused.message == f"InvalidRequest: {option}: too large; --minimum-finished: 0"
    assert refused.problem_code == "InvalidRequest"


def test_a_refusal_without_members_stays_as_it_is() -> None:
    error = UsageError("each step must give the candidate more", {"code": "InvalidRequest"})
    assert name_refused_options(error) is error


def test_only_options_that_are_set_are_sent() -> None:
    assert AnalysisOptions().to_json() == {}
    options = AnalysisOptions(
        tolerated_ratio=1.5,
        confidence=0.99,
        minimum_finished=20,
        maximum_active_age="90m",
        on_unhealthy=OnUnhealthy.PAUSE,
        on_undecided=OnUndecided.ABORT,
    )
    assert options.to_json() == {
        "toleratedRatio": 1.5,
        "confidence": 0.99,
        "minimumFinished": 20,
        "maximumActiveAgeMinutes": 90,
        "onUnhealthy": "pause",
        "onUndecided": "abort",
    }
