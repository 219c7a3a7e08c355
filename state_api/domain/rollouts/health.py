"""Whether the candidate of a rollout is healthy, compared with the baseline that works at the same time."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from math import exp, log

from state_api.domain.instants import Instant, format_duration, seconds
from state_api.domain.readiness.evidence import ActiveInstance
from state_api.domain.rollouts.analysis import Analysis
from state_api.domain.rollouts.durations import Durations, summarize_durations
from state_api.domain.rollouts.intervals import Interval, estimate_rate
from state_api.domain.rollouts.logrank import list_failures, log_evidence_of_higher_rate, log_evidence_of_lower_rate
from state_api.domain.task_hubs.timeline import Cohort, minute_of

MAX_EVIDENCE = 1e300
"""The largest evidence that is reported. JSON has no number for what a float cannot hold."""


class HealthStatus(StrEnum):
    """Whether the candidate fails more often than its rollout tolerates."""

    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"
    UNDECIDED = "Undecided"


class HealthCode(StrEnum):
    """What decided the status."""

    FAILURE_RATE_HIGHER = "FailureRateHigher"
    FAILURE_RATE_NOT_HIGHER = "FailureRateNotHigher"
    ACTIVE_TOO_LONG = "ActiveTooLong"
    TOO_FEW_FINISHED = "TooFewFinished"
    EVIDENCE_INCONCLUSIVE = "EvidenceInconclusive"


@dataclass(frozen=True, slots=True)
class HealthEvidence:
    """What is known of the candidate and the baseline since the comparison began.

    - `candidate`, `baseline`: one pair of cohorts for each stratum of `split_strata`, in order of time.
    - `oldest_active`: the candidate's oldest active instance that started since then, as its provider confirmed.
    - `configured_share`: the percentage of the work that the candidate is meant to get now; None if unknown.
    """

    candidate: Sequence[Cohort]
    baseline: Sequence[Cohort]
    oldest_active: ActiveInstance | None = None
    configured_share: int | None = None


@dataclass(frozen=True, slots=True)
class DecidedBy:
    """The rule that decided, and the message for people."""

    code: HealthCode
    message: str


@dataclass(frozen=True, slots=True)
class SideHealth:
    """The instances of one version that started since the comparison began, and what became of them.

    `rate` is failed of finished instances, and `interval` its Wilson score interval. Both are None while none has
    finished, as are `durations`.
    """

    started: int
    finished: int
    failed: int
    terminated: int
    canceled: int
    active: int
    rate: float | None
    interval: Interval | None
    durations: Durations | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence for and against a higher failure rate, and the threshold at which either decides.

    1 is no evidence. It is MAX_EVIDENCE at most.
    """

    unhealthy: float
    healthy: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Health:
    """The health of a candidate. `observed_share` is its percentage of the starts since the share last changed; None
    without starts."""

    status: HealthStatus
    decided_by: DecidedBy
    candidate: SideHealth
    baseline: SideHealth
    evidence: Evidence
    configured_share: int | None
    observed_share: float | None


def split_strata(changes: Sequence[Instant], until: Instant) -> list[tuple[int, int]]:
    """The periods in which the candidate's share was constant, as first minute and end minute, in order of time.

    `changes` are the beginning of the comparison and each change of the share since then. A minute in which the share
    changed is a stratum of its own. The minute of `until` is part of the last one.
    """
    end = minute_of(until) + 1
    changed_minutes = sorted({minute for minute in map(minute_of, changes) if minute < end})
    strata = []
    for minute, next_change in pairwise([*changed_minutes, end]):
        strata.append((minute, minute + 1))
        if minute + 1 < next_change:
            strata.append((minute + 1, next_change))
    return strata


def assess_health(evidence: HealthEvidence, analysis: Analysis, now: Instant) -> Health:
    """The health of the candidate by this evidence.

    The evidence of all strata counts together, so that its probability of a false alarm holds for the whole rollout.
    Raises ValueError if the candidate and the baseline have different strata.
    """
    failures = [
        minute
        for candidate, baseline in zip(evidence.candidate, evidence.baseline, strict=True)
        for minute in list_failures(candidate, baseline)
    ]
    candidate = _summarize(evidence.candidate, analysis.confidence)
    baseline = _summarize(evidence.baseline, analysis.confidence)
    figures = Evidence(
        unhealthy=_limit(log_evidence_of_higher_rate(failures, analysis.tolerated_ratio)),
        healthy=_limit(log_evidence_of_lower_rate(failures, analysis.tolerated_ratio)),
        threshold=analysis.threshold,
    )
    status, decided_by = _decide_by_rates(candidate, baseline, figures, analysis)
    overdue = _find_overdue(evidence, analysis, now)
    if status is not HealthStatus.UNHEALTHY and overdue is not None:
        status, decided_by = HealthStatus.UNHEALTHY, overdue
    return Health(
        status=status,
        decided_by=decided_by,
        candidate=candidate,
        baseline=baseline,
        evidence=figures,
        configured_share=evidence.configured_share,
        observed_share=_observe_share(evidence),
    )


def _decide_by_rates(
    candidate: SideHealth, baseline: SideHealth, figures: Evidence, analysis: Analysis
) -> tuple[HealthStatus, DecidedBy]:
    """The status by the failures of both versions, as a table from the strongest rule to the weakest."""
    counts = (
        f"{candidate.failed} of {candidate.finished} finished instances of the candidate failed, and "
        f"{baseline.failed} of {baseline.finished} of the baseline."
    )
    comparison = _describe_comparison(analysis.tolerated_ratio)
    if figures.unhealthy >= figures.threshold:
        return HealthStatus.UNHEALTHY, DecidedBy(
            HealthCode.FAILURE_RATE_HIGHER,
            f"{counts} The evidence that the candidate fails {comparison} is {figures.unhealthy:.3g}, and "
            f"{figures.threshold:g} decides.",
        )
    if candidate.finished < analysis.minimum_finished:
        return HealthStatus.UNDECIDED, DecidedBy(
            HealthCode.TOO_FEW_FINISHED,
            f"{counts} At least {analysis.minimum_finished} instances of the candidate must have finished.",
        )
    if figures.healthy >= figures.threshold:
        return HealthStatus.HEALTHY, DecidedBy(
            HealthCode.FAILURE_RATE_NOT_HIGHER,
            f"{counts} The evidence that the candidate does not fail {comparison} is {figures.healthy:.3g}, and "
            f"{figures.threshold:g} decides.",
        )
    return HealthStatus.UNDECIDED, DecidedBy(
        HealthCode.EVIDENCE_INCONCLUSIVE,
        f"{counts} The evidence that the candidate fails {comparison} is {figures.unhealthy:.3g}, and that it does "
        f"not, {figures.healthy:.3g}; {figures.threshold:g} decides.",
    )


def _describe_comparison(tolerated_ratio: float) -> str:
    """How often the candidate may not fail, for people."""
    if tolerated_ratio == 1:
        return "more often than the baseline"
    return f"more than {tolerated_ratio:g} times as often as the baseline"


def _find_overdue(evidence: HealthEvidence, analysis: Analysis, now: Instant) -> DecidedBy | None:
    """Why the candidate is unhealthy, if an instance has been active for longer than the analysis allows."""
    oldest, limit = evidence.oldest_active, analysis.maximum_active_age_minutes
    if oldest is None or limit is None or now - oldest.started_at <= seconds(60 * limit):
        return None
    return DecidedBy(
        HealthCode.ACTIVE_TOO_LONG,
        f"Instance {oldest.instance_id} of {oldest.function_name or 'an unknown function'} has been active for "
        f"{format_duration(now - oldest.started_at)}; the analysis allows {limit} min.",
    )


def _summarize(cohorts: Sequence[Cohort], confidence: float) -> SideHealth:
    """The figures of one version, over all strata."""
    started = sum(sum(cohort.started.values()) for cohort in cohorts)
    failed = sum(sum(cohort.failures.values()) for cohort in cohorts)
    terminated = sum(cohort.terminated for cohort in cohorts)
    canceled = sum(cohort.canceled for cohort in cohorts)
    finished = failed + terminated + canceled + sum(cohort.completed for cohort in cohorts)
    return SideHealth(
        started=started,
        finished=finished,
        failed=failed,
        terminated=terminated,
        canceled=canceled,
        active=started - finished,
        rate=failed / finished if finished else None,
        interval=estimate_rate(failed, finished, confidence),
        durations=summarize_durations(cohort.duration_counts for cohort in cohorts),
    )


def _limit(log_evidence: float) -> float:
    """The evidence with this logarithm, at most MAX_EVIDENCE."""
    return exp(min(log_evidence, log(MAX_EVIDENCE)))


def _observe_share(evidence: HealthEvidence) -> float | None:
    """The candidate's percentage of the instances that started in the last stratum."""
    if not evidence.candidate:
        return None
    candidate, baseline = (sum(side[-1].started.values()) for side in (evidence.candidate, evidence.baseline))
    return 100 * candidate / (candidate + baseline) if candidate + baseline else None
