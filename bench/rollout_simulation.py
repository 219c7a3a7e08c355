"""Simulated rollouts: instances of two versions, whose health is looked at after every end.

Nothing here is measured in time. The same seed always gives the same result."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf, log
from random import Random
from typing import NamedTuple

from state_api.domain.instants import Instant, seconds
from state_api.domain.rollouts.analysis import Analysis
from state_api.domain.rollouts.health import split_strata
from state_api.domain.rollouts.logrank import RATIO_WEIGHTS, MinuteFailures, log_likelihood_ratio, mix_evidence

STARTS_PER_MINUTE = 20.0
"""Starts of both versions together, unless a scenario has its own rate."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A time in which the candidate's share and the failure rate of the baseline are constant."""

    minutes: float
    share: float
    failure_rate: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """Two versions that work side by side. The candidate fails `ratio` times as often as the baseline.

    Durations are exponential, with these means. `candidate_failure_minutes` is None if it is that of the baseline. The
    baseline has worked for `minutes_before` already.
    """

    name: str
    phases: tuple[Phase, ...]
    ratio: float = 1.0
    tolerated_ratio: float = 1.0
    starts_per_minute: float = STARTS_PER_MINUTE
    success_minutes: float = 1.0
    failure_minutes: float = 1.0
    candidate_failure_minutes: float | None = None
    minutes_before: float = 0.0

    @property
    def minutes(self) -> float:
        """How long the candidate is looked at."""
        return sum(phase.minutes for phase in self.phases)

    def mean_minutes(self, *, is_candidate: bool, failed: bool) -> float:
        """The mean duration of such instances."""
        if not failed:
            return self.success_minutes
        if is_candidate and self.candidate_failure_minutes is not None:
            return self.candidate_failure_minutes
        return self.failure_minutes


class SimulatedInstance(NamedTuple):
    """One instance. Times are in minutes since the comparison began."""

    started_at: float
    ended_at: float
    is_candidate: bool
    failed: bool


def draw_instances(scenario: Scenario, random: Random) -> list[SimulatedInstance]:
    """The instances in order of their starts. Those that started before 0 are all of the baseline."""
    phase_ends = list(accumulate(phase.minutes for phase in scenario.phases))
    instances = []
    at = -scenario.minutes_before + random.expovariate(scenario.starts_per_minute)
    while at < scenario.minutes:
        phase = scenario.phases[bisect_right(phase_ends, at)]
        is_candidate = at >= 0 and random.random() < phase.share
        failed = random.random() < phase.failure_rate * (scenario.ratio if is_candidate else 1)
        mean_minutes = scenario.mean_minutes(is_candidate=is_candidate, failed=failed)
        ended_at = at + (random.expovariate(1 / mean_minutes) if mean_minutes else 0)
        instances.append(SimulatedInstance(at, ended_at, is_candidate, failed))
        at += random.expovariate(scenario.starts_per_minute)
    return instances


def strata_of(scenario: Scenario) -> list[tuple[int, int]]:
    """The strata of the scenario, as the server splits them."""
    changes = [0.0, *accumulate(phase.minutes for phase in scenario.phases[:-1])]
    return split_strata([instant_of(change) for change in changes], instant_of(scenario.minutes))


def instant_of(minutes: float) -> Instant:
    """The time of a simulation at which these minutes are over."""
    return Instant(seconds(60 * minutes))


@dataclass(slots=True)
class _Stratum:
    """What has started in a stratum, and its failures that ended in `minute`."""

    started: int = 0
    candidate_started: int = 0
    minute: int = 0
    candidate_failures: int = 0
    baseline_failures: int = 0

    @property
    def has_failures(self) -> bool:
        """Whether any instance has failed in `minute`."""
        return self.candidate_failures + self.baseline_failures > 0


class RunningEvidence:
    """The evidence of `assess_health`, kept up to date from one instance to the next."""

    def __init__(self, strata: Sequence[tuple[int, int]], ratios: Sequence[float], tolerated_ratio: float) -> None:
        self._first_minutes = [first for first, _ in strata]
        self._strata = [_Stratum() for _ in strata]
        self._tolerated_ratio = tolerated_ratio
        self._ratios = ratios
        self._logs_of_past_minutes = [0.0] * len(ratios)
        self._log_evidence: float | None = 0.0

    def add_start(self, minute: int, *, is_candidate: bool) -> None:
        """Count an instance that starts in this minute."""
        stratum = self._stratum_of(minute, now=minute)
        stratum.started += 1
        stratum.candidate_started += is_candidate
        if stratum.has_failures:
            self._log_evidence = None

    def add_failure(self, start_minute: int, end_minute: int, *, is_candidate: bool) -> None:
        """Count a failure. Starts up to its minute have been counted before."""
        stratum = self._stratum_of(start_minute, now=end_minute)
        stratum.candidate_failures += is_candidate
        stratum.baseline_failures += not is_candidate
        self._log_evidence = None

    def log_evidence(self) -> float:
        """The logarithm of the evidence for these ratios, by what has been counted so far."""
        if self._log_evidence is None:
            logs = list(self._logs_of_past_minutes)
            for stratum in self._strata:
                self._add_failures(stratum, logs)
            self._log_evidence = mix_evidence(logs)
        return self._log_evidence

    def _stratum_of(self, start_minute: int, *, now: int) -> _Stratum:
        """The stratum of instances that start in this minute. Its failures before the present minute are past."""
        stratum = self._strata[bisect_right(self._first_minutes, start_minute) - 1]
        if stratum.minute < now:
            self._add_failures(stratum, self._logs_of_past_minutes)
            stratum.minute, stratum.candidate_failures, stratum.baseline_failures = now, 0, 0
        return stratum

    def _add_failures(self, stratum: _Stratum, logs: list[float]) -> None:
        """Add the failures of the stratum's present minute to the logarithm for each ratio."""
        if not stratum.has_failures:
            return
        share = stratum.candidate_started / stratum.started
        minute = MinuteFailures(stratum.candidate_failures, stratum.baseline_failures, share)
        for position, ratio in enumerate(self._ratios):
            logs[position] += log_likelihood_ratio(minute, ratio, self._tolerated_ratio)


class Look(NamedTuple):
    """What a look at the health shows, after an instance has ended."""

    at: float
    candidate_started: int
    log_evidence: float


def look_after_every_end(scenario: Scenario, instances: Sequence[SimulatedInstance]) -> Iterator[Look]:
    """The evidence of a higher rate after each end of an instance that started since 0."""
    return _look_at_cohort(scenario, instances, _higher_ratios(scenario))


def look_for_a_lower_rate(scenario: Scenario, instances: Sequence[SimulatedInstance]) -> Iterator[Look]:
    """The evidence of a lower rate, after each end of an instance that started since 0."""
    ratios = [scenario.tolerated_ratio / ratio for ratio in RATIO_WEIGHTS]
    return _look_at_cohort(scenario, instances, ratios)


def _higher_ratios(scenario: Scenario) -> list[float]:
    """The ratios that the evidence of a higher rate is for."""
    return [scenario.tolerated_ratio * ratio for ratio in RATIO_WEIGHTS]


def _look_at_cohort(
    scenario: Scenario, instances: Sequence[SimulatedInstance], ratios: Sequence[float]
) -> Iterator[Look]:
    """The evidence for these ratios after each end of an instance that started since 0."""
    evidence = RunningEvidence(strata_of(scenario), ratios, scenario.tolerated_ratio)
    cohort = [instance for instance in instances if instance.started_at >= 0]
    started = candidate_started = 0
    for ended in sorted(cohort, key=lambda instance: instance.ended_at):
        if ended.ended_at > scenario.minutes:
            return
        while started < len(cohort) and cohort[started].started_at <= ended.ended_at:
            instance = cohort[started]
            evidence.add_start(int(instance.started_at), is_candidate=instance.is_candidate)
            candidate_started += instance.is_candidate
            started += 1
        if ended.failed:
            evidence.add_failure(int(ended.started_at), int(ended.ended_at), is_candidate=ended.is_candidate)
        yield Look(ended.ended_at, candidate_started, evidence.log_evidence())


def look_at_finished_instances(scenario: Scenario, instances: Sequence[SimulatedInstance]) -> Iterator[Look]:
    """What the server does not do: the same evidence by the instances that have finished since 0, whenever they
    started."""
    evidence = RunningEvidence([(0, int(scenario.minutes) + 1)], _higher_ratios(scenario), scenario.tolerated_ratio)
    candidate_started = 0
    for ended in sorted(instances, key=lambda instance: instance.ended_at):
        if not 0 <= ended.ended_at <= scenario.minutes:
            continue
        minute = int(ended.ended_at)
        evidence.add_start(minute, is_candidate=ended.is_candidate)
        candidate_started += ended.is_candidate
        if ended.failed:
            evidence.add_failure(minute, minute, is_candidate=ended.is_candidate)
        yield Look(ended.ended_at, candidate_started, evidence.log_evidence())


def find_alarms(
    scenario: Scenario,
    runs: Iterable[int],
    look: Callable[[Scenario, Sequence[SimulatedInstance]], Iterator[Look]] = look_after_every_end,
) -> list[float]:
    """For each run, the candidate's instances that had started when the evidence first reached the threshold.

    It is infinite if the evidence never did. The name of the scenario and the number of the run are the seed."""
    threshold = log(Analysis().threshold)
    alarms = []
    for run in runs:
        instances = draw_instances(scenario, Random(f"{scenario.name} {run}"))
        looks = look(scenario, instances)
        alarms.append(next((state.candidate_started for state in looks if state.log_evidence >= threshold), inf))
    return alarms
