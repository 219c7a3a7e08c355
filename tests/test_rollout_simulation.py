"""Simulated rollouts: few false alarms however often the health is looked at, and doubled failure rates that are found.

The seeds are fixed, so a result changes only with the method."""

from collections.abc import Sequence
from math import exp, inf
from pathlib import Path
from random import Random

import pytest

from bench import figures, rollouts
from bench.rollout_simulation import (
    Phase,
    Scenario,
    SimulatedInstance,
    draw_instances,
    find_alarms,
    instant_of,
    look_after_every_end,
    look_at_finished_instances,
    look_for_a_lower_rate,
    strata_of,
)
from bench.rollouts import EQUAL_VERSIONS, LIMITS, POWER, YOUNG, doubled_rate
from state_api.domain.rollouts.analysis import Analysis
from state_api.domain.rollouts.health import HealthEvidence, assess_health
from tests.domain.health_builders import cohort_of

RUNS = 100
MOST_FALSE_ALARMS = 10
"""Of a method with 5 % false alarms, 100 runs have more than this with a probability of 1.1 % (binomial)."""


def evidence_at(scenario: Scenario, instances: Sequence[SimulatedInstance], at: float) -> tuple[float, float]:
    """The evidence of a higher and of a lower rate that the server reports at this minute."""
    strata = strata_of(scenario)
    known = [
        (
            int(instance.started_at),
            int(instance.ended_at) if instance.failed and instance.ended_at <= at else None,
            instance.is_candidate,
        )
        for instance in instances
        if 0 <= instance.started_at <= at
    ]
    candidate, baseline = (
        [
            cohort_of((start, end) for start, end, own in known if own == is_candidate and first <= start < last)
            for first, last in strata
        ]
        for is_candidate in (True, False)
    )
    health = assess_health(
        HealthEvidence(candidate, baseline),
        Analysis(tolerated_ratio=scenario.tolerated_ratio),
        instant_of(scenario.minutes),
    )
    return health.evidence.unhealthy, health.evidence.healthy


@pytest.mark.parametrize("tolerated_ratio", [1.0, 1.5])
@pytest.mark.parametrize("seed", range(3))
def test_the_simulation_has_the_evidence_that_the_server_reports_at_every_look(
    seed: int, tolerated_ratio: float
) -> None:
    scenario = Scenario(
        "with changing shares",
        (Phase(4.5, 0.1, 0.2), Phase(3, 0.4, 0.3), Phase(3, 0.5, 0.1)),
        tolerated_ratio=tolerated_ratio,
        starts_per_minute=8,
        failure_minutes=2,
        minutes_before=3,
    )
    instances = draw_instances(scenario, Random(seed))
    looks = list(
        zip(look_after_every_end(scenario, instances), look_for_a_lower_rate(scenario, instances), strict=True)
    )
    assert len(looks) > 50
    for higher, lower in looks:
        expected = evidence_at(scenario, instances, higher.at)
        assert (exp(higher.log_evidence), exp(lower.log_evidence)) == pytest.approx(expected)


@pytest.mark.parametrize("scenario", EQUAL_VERSIONS, ids=lambda scenario: scenario.name)
def test_versions_that_fail_as_often_as_tolerated_are_rarely_called_unhealthy(scenario: Scenario) -> None:
    alarms = sum(alarm < inf for alarm in find_alarms(scenario, range(RUNS)))
    assert alarms <= MOST_FALSE_ALARMS


def test_a_comparison_of_finished_instances_would_call_most_young_candidates_unhealthy() -> None:
    """So the number of runs is large enough for a wrong method to fail."""
    alarms = sum(alarm < inf for alarm in find_alarms(YOUNG, range(RUNS), look_at_finished_instances))
    assert alarms > 5 * MOST_FALSE_ALARMS


@pytest.mark.parametrize(("failure_rate", "limit"), LIMITS.items())
def test_a_doubled_failure_rate_is_found_within_the_limit(failure_rate: float, limit: int) -> None:
    alarms = find_alarms(doubled_rate(failure_rate, share=0.25), range(RUNS))
    assert sum(alarm <= limit for alarm in alarms) >= POWER * RUNS


@pytest.mark.anyio
async def test_the_group_of_benchmarks_has_a_figure_for_each_aim_and_a_plot(tmp_path: Path) -> None:
    section = await rollouts.run(tmp_path, runs=2)
    aims = [figure["aim"] for figure in section["figures"] if "aim" in figure]
    assert aims == ["≤ 1"] * (len(EQUAL_VERSIONS) + 1 + len(LIMITS))
    assert "rollouts.svg" in figures.draw_plots({"rollouts": section})
