"""GetRolloutHealth: compares what became of the instances of a candidate and of a baseline. Before each step, a rollout
asks the same."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from state_api.domain.instants import Instant, seconds
from state_api.domain.readiness.evidence import ActiveInstance
from state_api.domain.releases.apps import App
from state_api.domain.releases.refusals import Refusal
from state_api.domain.rollouts.comparison import ComparedSide, Comparison, ComparisonQuestion, find_comparison
from state_api.domain.rollouts.health import Health, HealthEvidence, assess_health, split_strata
from state_api.domain.task_hubs.timeline import Cohort, Timeline
from state_api.services.lost_ends import LongActive, StartPeriod
from state_api.services.ports import Clock, Instances, TaskHubs
from state_api.services.readiness import Readiness
from state_api.services.releases import Releases

LOOK_UP_AFTER_SECONDS = 60
"""How long an instance is active before its provider is asked whether it has ended."""

LOOK_UP_TIMEOUT_SECONDS = 20.0
"""How long one comparison may ask the provider. It is below the 30 s between two evaluations of a rollout."""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The health of a candidate, compared with the baseline.

    - `oldest_active`: the candidate's oldest active instance that started since the comparison began.
    - `read_failures`: why task hubs could not be read at their provider, one line each. Instances whose end no event
      reported may then count as active.
    """

    app: App
    comparison: Comparison
    health: Health
    oldest_active: ActiveInstance | None
    read_failures: tuple[str, ...]
    assessed_at: Instant


class RolloutHealth:
    """Compares what became of the instances of a candidate with what became of those of a baseline."""

    def __init__(
        self, *, releases: Releases, task_hubs: TaskHubs, instances: Instances, readiness: Readiness, clock: Clock
    ) -> None:
        self._releases = releases
        self._task_hubs = task_hubs
        self._instances = instances
        self._readiness = readiness
        self._clock = clock

    async def get_health(self, name: str, question: ComparisonQuestion) -> HealthReport:
        """The health of the candidate that the question is about. Raises AppNotFound and what `find_comparison`
        refuses."""
        app = await self._releases.get(name)
        comparison = find_comparison(app, question, self._clock.now())
        if isinstance(comparison, Refusal):
            raise comparison.to_error()
        return await self.compare(app, comparison)

    async def compare(self, app: App, comparison: Comparison) -> HealthReport:
        """The health of the candidate. The timelines are read after the provider was asked, so that they contain the
        ends that it has shown."""
        candidate_active, baseline_active = await asyncio.gather(
            self._find_long_active(app, comparison, comparison.candidate),
            self._find_long_active(app, comparison, comparison.baseline),
        )
        now = self._clock.now()
        # The clock of the server that began the rollout may be ahead of this one.
        strata = split_strata(comparison.changes, max(now, comparison.since))
        candidate, baseline = await asyncio.gather(
            self._read_cohorts(app, comparison.candidate, strata), self._read_cohorts(app, comparison.baseline, strata)
        )
        evidence = HealthEvidence(candidate, baseline, candidate_active.oldest, comparison.configured_share)
        failures = {active.failure for active in (candidate_active, baseline_active) if active.failure is not None}
        return HealthReport(
            app,
            comparison,
            assess_health(evidence, comparison.analysis, now),
            candidate_active.oldest,
            tuple(sorted(failures)),
            now,
        )

    async def _find_long_active(self, app: App, comparison: Comparison, side: ComparedSide) -> LongActive:
        """Look up at the provider what has been active for long since the comparison began."""
        period = StartPeriod(comparison.since, Instant(self._clock.now() - seconds(LOOK_UP_AFTER_SECONDS)))
        return await self._readiness.find_long_active(
            app, side.task_hub, period, timeout_seconds=LOOK_UP_TIMEOUT_SECONDS
        )

    async def _read_cohorts(self, app: App, side: ComparedSide, strata: Sequence[tuple[int, int]]) -> list[Cohort]:
        """The instances of one version that started in each of these periods, given as first minute and end minute."""
        hub = await self._task_hubs.get(side.task_hub)
        first_minute, end_minute = strata[0][0], strata[-1][1]
        # A task hub that is not on record has never been claimed, and no event of it was recorded.
        timeline = Timeline({}) if hub is None else await self._instances.read_timeline(hub, first_minute, end_minute)
        return [timeline.cohort(first, end, app.policy.ignore_functions) for first, end in strata]
