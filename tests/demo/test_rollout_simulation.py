"""Simulated rollouts of the demo: how often, and how soon, its bad version is stopped and its good one gets through."""

from collections import Counter
from dataclasses import replace

from dev.demo_rollout.demo import BAD, GOOD, Pace
from dev.demo_rollout.results import MAX_BAD_STEPS
from state_api.domain.rollouts.health import HealthCode
from state_api.domain.rollouts.rollouts import RolloutState
from tests.demo.rollout_simulation import simulate_rollout

_RUNS = 100
_PACE = Pace()


def test_the_bad_version_is_stopped_within_two_steps_in_at_least_96_of_100_runs() -> None:
    runs = [simulate_rollout(BAD, _PACE.bad_steps, replace(_PACE, seed=seed)) for seed in range(_RUNS)]
    stopped = [run for run in runs if run.state is RolloutState.ABORTED and run.step <= MAX_BAD_STEPS]
    assert len(stopped) >= 96
    assert {run.health.decided_by.code for run in stopped} == {HealthCode.FAILURE_RATE_HIGHER}
    assert sum(run.step == 1 for run in stopped) > _RUNS / 2
    assert max(run.candidate_orders for run in stopped) < _PACE.orders / 2


def test_the_good_version_gets_through_in_at_least_95_of_100_runs() -> None:
    states = Counter(simulate_rollout(GOOD, _PACE.good_steps, replace(_PACE, seed=seed)).state for seed in range(_RUNS))
    assert states[RolloutState.FINISHED] >= 95
    assert states.total() == states[RolloutState.FINISHED] + states[RolloutState.ABORTED] == _RUNS
