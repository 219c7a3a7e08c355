"""The safe logrank test: evidence that one version fails more often than another, which may be read at any time.

The test is that of ter Schure, Pérez-Ortiz, Ly and Grünwald (2024). docs/rollout-health.md explains what is counted,
and where it differs from a clinical trial.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, log1p
from types import MappingProxyType

from state_api.domain.task_hubs.timeline import Cohort

RATIO_WEIGHTS: Mapping[float, float] = MappingProxyType({1.5: 0.2, 2.0: 0.4, 3.0: 0.2, 5.0: 0.1, 10.0: 0.1})
"""The failure rates that the evidence is for, as multiples of the tolerated rate, and the weight of each.

They are the result of simulations (`bench/rollouts.py`): most of the weight is on a doubled rate, and a tenfold one is
found after a few failures.
"""


@dataclass(frozen=True, slots=True)
class MinuteFailures:
    """The failures that ended in one minute, by version.

    `share` is the candidate's share of the instances that had started by the end of that minute. If both versions fail
    equally often, a failure is the candidate's with this probability.
    """

    candidate: int
    baseline: int
    share: float


def list_failures(candidate: Cohort, baseline: Cohort) -> list[MinuteFailures]:
    """The failures of a stratum in order of their ends. Within a stratum the share of the candidate is constant.

    All instances that have started count for the share, whether they have ended or not. So the test compares rates, and
    not how soon a version fails.
    """
    ends = [_count_by_end(cohort.failures) for cohort in (candidate, baseline)]
    starts = sorted(
        [(minute, count, count) for minute, count in candidate.started.items()]
        + [(minute, 0, count) for minute, count in baseline.started.items()],
        reverse=True,
    )
    candidate_started = started = 0
    failures = []
    for minute in sorted(ends[0] | ends[1]):
        while starts and starts[-1][0] <= minute:
            _, own_count, count = starts.pop()
            candidate_started += own_count
            started += count
        failures.append(MinuteFailures(ends[0][minute], ends[1][minute], candidate_started / started))
    return failures


def _count_by_end(failures: Mapping[tuple[int, int], int]) -> Counter[int]:
    """Failures by the minute of their end."""
    by_end: Counter[int] = Counter()
    for (_, end_minute), count in failures.items():
        by_end[end_minute] += count
    return by_end


def log_evidence_of_higher_rate(failures: Sequence[MinuteFailures], tolerated_ratio: float) -> float:
    """The natural logarithm of the evidence that the candidate fails more often than `tolerated_ratio` allows.

    While the ratio is tolerated, the evidence reaches 20 with a probability of 1/20 at most, however often it is read.
    """
    return mix_evidence(
        [
            sum(log_likelihood_ratio(minute, tolerated_ratio * ratio, tolerated_ratio) for minute in failures)
            for ratio in RATIO_WEIGHTS
        ]
    )


def log_evidence_of_lower_rate(failures: Sequence[MinuteFailures], tolerated_ratio: float) -> float:
    """The natural logarithm of the evidence that the candidate fails less often than `tolerated_ratio` allows."""
    return mix_evidence(
        [
            sum(log_likelihood_ratio(minute, tolerated_ratio / ratio, tolerated_ratio) for minute in failures)
            for ratio in RATIO_WEIGHTS
        ]
    )


def log_likelihood_ratio(minute: MinuteFailures, ratio: float, tolerated_ratio: float) -> float:
    """The natural logarithm of how much more probable the failures of a minute are with `ratio` than with
    `tolerated_ratio`, by whose they are."""
    return minute.candidate * log(ratio / tolerated_ratio) - (minute.candidate + minute.baseline) * (
        log1p((ratio - 1) * minute.share) - log1p((tolerated_ratio - 1) * minute.share)
    )


def mix_evidence(logs: Sequence[float]) -> float:
    """The logarithm of the mean of the evidence for each of RATIO_WEIGHTS, by their weights.

    The largest is taken out of the sum, so that thousands of failures overflow no float."""
    weighted = [log(weight) + value for weight, value in zip(RATIO_WEIGHTS.values(), logs, strict=True)]
    largest = max(weighted)
    return largest + log(sum(exp(value - largest) for value in weighted))
