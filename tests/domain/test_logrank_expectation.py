"""The safe logrank test is right about every possible outcome of small comparisons, each with its probability.

The share alone decides which version an instance is of. When it starts and whether it fails does not depend on that. So
the versions fail equally often, and evidence of the opposite must be rare.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import exp, prod

from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.rollouts.logrank import (
    MinuteFailures,
    list_failures,
    log_evidence_of_higher_rate,
    log_evidence_of_lower_rate,
    log_likelihood_ratio,
)
from state_api.domain.task_hubs.timeline import Cohort
from tests.domain.health_builders import StartAndEnd, cohort_of

comparisons = st.lists(
    st.tuples(st.integers(0, 5), st.none() | st.integers(0, 5)).map(
        lambda drawn: (drawn[0], None if drawn[1] is None else drawn[0] + drawn[1])
    ),
    min_size=1,
    max_size=7,
)
"""Up to seven instances of both versions: the minute of the start, and the minute of the failure of those that fail."""
shares = st.sampled_from([0.05, 0.25, 0.5, 0.9])
kinds_of_evidence = st.sampled_from(["a higher rate", "a lower rate", "twice the rate", "ten times the rate"])


def log_evidence(kind: str, failures: Sequence[MinuteFailures]) -> float:
    """The evidence that the server calculates, or that for a single ratio."""
    match kind:
        case "a higher rate":
            return log_evidence_of_higher_rate(failures, tolerated_ratio=1)
        case "a lower rate":
            return log_evidence_of_lower_rate(failures, tolerated_ratio=1)
        case "twice the rate":
            return sum(log_likelihood_ratio(minute, 2, 1) for minute in failures)
        case _:
            return sum(log_likelihood_ratio(minute, 10, 1) for minute in failures)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One assignment of the instances to the versions: its probability, and the evidence after each minute."""

    probability: float
    evidence: Sequence[float]


def assign(instances: Sequence[StartAndEnd], shares: Sequence[float]) -> Iterator[tuple[float, Cohort, Cohort]]:
    """Each way in which the instances can belong to candidate and baseline, with its probability.

    `shares` has the probability for each instance that it is the candidate's.
    """
    for is_candidate in product((True, False), repeat=len(instances)):
        candidate, baseline = (
            cohort_of(instance for instance, own in zip(instances, is_candidate, strict=True) if own == version)
            for version in (True, False)
        )
        probability = prod(share if own else 1 - share for own, share in zip(is_candidate, shares, strict=True))
        yield probability, candidate, baseline


def list_outcomes(instances: Sequence[StartAndEnd], share: float, kind: str) -> list[Outcome]:
    """All outcomes of a comparison with a constant share."""
    outcomes = []
    for probability, candidate, baseline in assign(instances, [share] * len(instances)):
        failures = list_failures(candidate, baseline)
        evidence = [exp(log_evidence(kind, failures[:count])) for count in range(1, len(failures) + 1)]
        outcomes.append(Outcome(probability, evidence))
    return outcomes


@given(comparisons, shares, kinds_of_evidence)
def test_evidence_has_a_mean_of_one_at_most_after_every_minute(
    instances: Sequence[StartAndEnd], share: float, kind: str
) -> None:
    outcomes = list_outcomes(instances, share, kind)
    for after_minute in zip(*(outcome.evidence for outcome in outcomes), strict=True):
        mean = sum(outcome.probability * evidence for outcome, evidence in zip(outcomes, after_minute, strict=True))
        assert mean <= 1 + 1e-9


@given(comparisons, shares, kinds_of_evidence)
def test_evidence_ever_reaches_a_threshold_with_a_probability_of_its_reciprocal_at_most(
    instances: Sequence[StartAndEnd], share: float, kind: str
) -> None:
    outcomes = list_outcomes(instances, share, kind)
    for threshold in (1.5, 2, 3, 5, 10, 20):
        probability = sum(outcome.probability for outcome in outcomes if max(outcome.evidence, default=1) >= threshold)
        assert probability <= 1 / threshold + 1e-9


@given(comparisons, shares, kinds_of_evidence)
def test_a_rollout_that_stops_at_the_threshold_has_evidence_with_a_mean_of_one_at_most(
    instances: Sequence[StartAndEnd], share: float, kind: str
) -> None:
    outcomes = list_outcomes(instances, share, kind)
    mean = sum(
        outcome.probability
        * next((evidence for evidence in outcome.evidence if evidence >= 20), (outcome.evidence or [1])[-1])
        for outcome in outcomes
    )
    assert mean <= 1 + 1e-9


@given(comparisons, comparisons, shares, shares, kinds_of_evidence)
def test_evidence_of_two_strata_with_different_shares_has_a_mean_of_one_at_most(
    early: Sequence[StartAndEnd], late: Sequence[StartAndEnd], early_share: float, late_share: float, kind: str
) -> None:
    early, late = early[:4], late[:4]
    mean = sum(
        early_probability
        * late_probability
        * exp(log_evidence(kind, list_failures(*early_cohorts) + list_failures(*late_cohorts)))
        for early_probability, *early_cohorts in assign(early, [early_share] * len(early))
        for late_probability, *late_cohorts in assign(late, [late_share] * len(late))
    )
    assert mean <= 1 + 1e-9


def test_without_strata_a_share_that_grows_with_the_failure_rate_would_be_evidence() -> None:
    """Nothing fails while the share is 5 %, and half of the instances fail once it is 90 %: of both versions alike."""
    instances: list[StartAndEnd] = [(0, None)] * 4 + [(5, 5), (5, None)] * 2
    shares_of_instances = [0.05] * 4 + [0.9] * 4
    mean = sum(
        probability * exp(log_evidence_of_higher_rate(list_failures(candidate, baseline), tolerated_ratio=1))
        for probability, candidate, baseline in assign(instances, shares_of_instances)
    )
    assert mean > 1.2
