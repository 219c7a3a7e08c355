"""Builders of cohorts and of evidence about a candidate, with defaults."""

from collections import Counter
from collections.abc import Iterable, Mapping

from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import ActiveInstance
from state_api.domain.rollouts.analysis import Analysis
from state_api.domain.rollouts.health import Health, HealthEvidence, assess_health
from state_api.domain.task_hubs.timeline import Cohort
from tests.domain.builders import noon_plus

StartAndEnd = tuple[int, int | None]
"""The minute in which an instance started, and the minute in which it failed; None if it did not fail."""


def build_cohort(
    started: int | Mapping[int, int] = 0,
    failures: int | Mapping[tuple[int, int], int] = 0,
    *,
    active: int = 0,
    terminated: int = 0,
    canceled: int = 0,
    duration_counts: Mapping[int, int] | None = None,
) -> Cohort:
    """Instances that started, by default in minute 0. Those that are in no other state have completed."""
    starts = {0: started} if isinstance(started, int) else started
    failed = {(0, 0): failures} if isinstance(failures, int) else failures
    completed = sum(starts.values()) - sum(failed.values()) - active - terminated - canceled
    assert completed >= 0
    return Cohort(starts, failed, completed, terminated, canceled, duration_counts or {})


def cohort_of(instances: Iterable[StartAndEnd]) -> Cohort:
    """The cohort of these instances, of which the others have completed."""
    known = list(instances)
    failures = Counter((start, end) for start, end in known if end is not None)
    return build_cohort(Counter(start for start, _ in known), failures)


def assess(
    candidate: Cohort,
    baseline: Cohort,
    analysis: Analysis | None = None,
    *,
    oldest_active: ActiveInstance | None = None,
    now: Instant | None = None,
) -> Health:
    """The health by one stratum, at noon by default."""
    evidence = HealthEvidence([candidate], [baseline], oldest_active)
    return assess_health(evidence, analysis or Analysis(), noon_plus() if now is None else now)
