"""Figure 9: false alarms about versions that fail equally often, and how soon a doubled failure rate is found."""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import inf
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.comparison import Aim, Figure, percentile, round_significant
from bench.rollout_simulation import (
    STARTS_PER_MINUTE,
    Look,
    Phase,
    Scenario,
    SimulatedInstance,
    find_alarms,
    look_after_every_end,
    look_at_finished_instances,
    look_for_a_lower_rate,
)

RUNS = 1000
RUNS_AT_A_TIME = 50
"""Runs that a process does before it returns: short enough that all processes end together."""
ALLOWED_FALSE_ALARMS = 0.05
POWER = 0.8
"""The share of runs that must find a doubled failure rate."""
LIMITS: Mapping[float, int] = {0.1: 250, 0.05: 500, 0.02: 1200}
"""Candidate instances within which a doubled failure rate is to be found, by the failure rate of the baseline."""
LIMITED_SHARE = 0.25
"""The highest share of the candidate to which the limits apply."""
LOOKED_AT = 1.5
"""How long a run goes on, as a multiple of the limit."""

_Looks = Callable[[Scenario, Sequence[SimulatedInstance]], Iterator[Look]]

YOUNG = Scenario(
    "a young candidate, successes 30 times as long as failures",
    (Phase(120, 0.1, 0.1),),
    success_minutes=30,
    minutes_before=240,
)
TOLERATED = Scenario("twice the rate, which is tolerated", (Phase(100, 0.25, 0.1),), ratio=2, tolerated_ratio=2)
EQUAL_VERSIONS = (
    Scenario("10 % fail, share 25 %", (Phase(100, 0.25, 0.1),)),
    YOUNG,
    Scenario("failures 30 times as long as successes", (Phase(120, 0.25, 0.1),), failure_minutes=30),
    Scenario(
        "share 5, 25, 50 %, while 2, 10, 20 % fail",
        (Phase(40.5, 0.05, 0.02), Phase(40, 0.25, 0.1), Phase(40, 0.5, 0.2)),
    ),
    Scenario("50 % fail at once, share 5 %", (Phase(60, 0.05, 0.5),), success_minutes=0, failure_minutes=0),
    Scenario("one start a minute, share 10 %", (Phase(1000, 0.1, 0.1),), starts_per_minute=1),
    TOLERATED,
)
SOONER = Scenario(
    "its failures come after 1 min instead of 5 min",
    (Phase(100, 0.25, 0.1),),
    failure_minutes=5,
    candidate_failure_minutes=1,
)
"""As many fail, but sooner. The method is not meant for it, and docs/rollout-health.md says so."""


def doubled_rate(failure_rate: float, share: float) -> Scenario:
    """A candidate that fails twice as often as a baseline with this failure rate."""
    minutes = LOOKED_AT * LIMITS[failure_rate] / share / STARTS_PER_MINUTE
    return Scenario(
        f"twice {_percent(failure_rate)} fail, share {_percent(share)}", (Phase(minutes, share, failure_rate),), ratio=2
    )


def _percent(share: float) -> str:
    """A share for people, such as `25 %`."""
    return f"{100 * share:g} %"


async def run(folder: Path, runs: int = RUNS, shares: Sequence[float] = (LIMITED_SHARE,)) -> dict[str, Any]:
    """Simulate the scenarios, with as many processes as there are cores. `folder` stays empty."""
    doubled = {(rate, share): doubled_rate(rate, share) for share in shares for rate in LIMITS}
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        simulations = _Simulations(pool, runs)
        equal, healthy, by_finished, sooner, doubled_alarms = await asyncio.gather(
            asyncio.gather(*(simulations.run(scenario) for scenario in EQUAL_VERSIONS)),
            simulations.run(TOLERATED, look_for_a_lower_rate),
            simulations.run(YOUNG, look_at_finished_instances),
            simulations.run(SOONER),
            asyncio.gather(*(simulations.run(scenario) for scenario in doubled.values())),
        )
    alarms_of_doubled = dict(zip(doubled, doubled_alarms, strict=True))
    figures = [
        *(
            compare_false_alarms(scenario.name, alarms, Aim(maximum=1))
            for scenario, alarms in zip(EQUAL_VERSIONS, equal, strict=True)
        ),
        compare_false_alarms(f"{TOLERATED.name}, called healthy", healthy, Aim(maximum=1)),
        compare_false_alarms(f"{YOUNG.name}, if finished instances were compared", by_finished),
        compare_false_alarms(SOONER.name, sooner),
        *(compare_power(rate, share, alarms) for (rate, share), alarms in alarms_of_doubled.items()),
    ]
    return {
        "figures": [figure.as_json() for figure in figures],
        "notes": [
            f"Each figure is of {runs:,} simulated rollouts with fixed seeds, looked at after every instance that ends."
        ],
        "runs": runs,
        "found": {
            f"{_percent(rate)} of the baseline fail, share {_percent(share)}": share_found_by_instances(
                alarms, round(LIMITS[rate] * LOOKED_AT)
            )
            for (rate, share), alarms in alarms_of_doubled.items()
        },
    }


@dataclass(frozen=True, slots=True)
class _Simulations:
    """Simulations that share a pool of processes, with so many runs of each scenario."""

    pool: ProcessPoolExecutor
    runs: int

    async def run(self, scenario: Scenario, look: _Looks = look_after_every_end) -> list[float]:
        """What `find_alarms` returns for all runs of a scenario."""
        loop = asyncio.get_running_loop()
        parts = await asyncio.gather(
            *(
                loop.run_in_executor(
                    self.pool, find_alarms, scenario, range(first, min(first + RUNS_AT_A_TIME, self.runs)), look
                )
                for first in range(0, self.runs, RUNS_AT_A_TIME)
            )
        )
        return [alarm for part in parts for alarm in part]


def compare_false_alarms(name: str, alarms: Sequence[float], aim: Aim | None = None) -> Figure:
    """The share of runs in which a candidate was called unhealthy that is not, against the share that is allowed."""
    share = sum(alarm < inf for alarm in alarms) / len(alarms)
    return Figure(f"false alarms: {name}", "5 % of the rollouts", (share / ALLOWED_FALSE_ALARMS,), aim)


def compare_power(failure_rate: float, share: float, alarms: Sequence[float]) -> Figure:
    """The candidate instances after which 80 % of the runs found a doubled rate, against the limit.

    A run that did not find it counts as if it had at its end."""
    limit = LIMITS[failure_rate]
    needed = min(percentile(alarms, POWER), limit * LOOKED_AT)
    return Figure(
        f"candidate instances until 80 % found twice {_percent(failure_rate)} of failures, share {_percent(share)}",
        f"{limit:,} instances",
        (needed / limit,),
        Aim(maximum=1) if share <= LIMITED_SHARE else None,
    )


def share_found_by_instances(alarms: Sequence[float], last: int, points: int = 24) -> list[tuple[int, float]]:
    """The share of runs that had found the doubled rate, by the candidate's instances."""
    counts = [round(last * number / points) for number in range(1, points + 1)]
    return [(count, round_significant(sum(alarm <= count for alarm in alarms) / len(alarms))) for count in counts]
