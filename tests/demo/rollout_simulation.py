"""Simulates the rollouts of the demo: its orders, with the server's own timeline, health and state machine, without
processes."""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

from dev.demo_rollout.demo import FIRST, WARM_UP_ORDERS, Pace, build_order_id
from dev.demo_rollout.results import DeployedVersion
from durable_app.orders.payment import is_payment_defective
from safe_deploy.rollouts.steps import parse_steps
from state_api.domain.rollouts.analysis import Analysis
from state_api.domain.rollouts.health import Health, HealthEvidence, assess_health, split_strata
from state_api.domain.rollouts.rollouts import Rollout, RolloutState, Step
from state_api.domain.rollouts.transitions import advance_rollout
from state_api.domain.task_hubs.lifecycle import Finished, Instance, RuntimeStatus, Started
from state_api.domain.task_hubs.timeline import CounterKey, Timeline, add_up_counts, count_instance
from tests.domain.builders import noon_plus
from tests.domain.release_transitions import build_shop_app, publish_transition
from tests.domain.rollout_builders import put_rollout, require_rollout

_TIMER_SECONDS = 30
"""Time between two evaluations of the server's timer."""
_SHIPMENT_SECONDS = 0.2
_SECONDS_PER_MINUTE = 60


@dataclass(frozen=True, slots=True)
class SimulatedRollout:
    """How a rollout ended: in which step, from 1, and how many orders the candidate had got until then."""

    state: RolloutState
    step: int
    candidate_orders: int
    health: Health


@dataclass(slots=True)
class _TaskHub:
    """The orders of a version, and the counters of what has ended. Times are seconds after noon."""

    version: DeployedVersion
    orders: int = 0
    _active: list[tuple[float, Instance]] = field(default_factory=list)
    _ended: Counter[CounterKey] = field(default_factory=Counter)

    def start_order(self, order_id: str, at: float, seconds: float) -> None:
        """Start an order that takes so long. One that is charged is shipped, by an instance of its own."""
        self.orders += 1
        failed = is_payment_defective(order_id, self.version.failure_percent)
        self._start(order_id, "ProcessOrder", at, at + seconds, failed=failed)
        if not failed:
            end = at + seconds
            self._start(f"{order_id}-shipping", "ShipOrder", end - _SHIPMENT_SECONDS, end, failed=False)

    def _start(self, instance_id: str, function_name: str, start: float, end: float, *, failed: bool) -> None:
        """Start an instance."""
        outcome = RuntimeStatus.FAILED if failed else RuntimeStatus.COMPLETED
        started = Started(noon_plus(start), RuntimeStatus.RUNNING, function_name)
        self._active.append((end, Instance(instance_id, started, Finished(noon_plus(end), outcome, "", function_name))))

    def read_timeline(self, now: float) -> Timeline:
        """The timeline of what has happened until now."""
        for end, instance in self._active:
            if end <= now:
                self._ended.update(count_instance(instance))
        self._active = [(end, instance) for end, instance in self._active if end > now]
        started = (
            count_instance(Instance(instance.instance_id, instance.started))
            for _, instance in self._active
            if instance.started is not None and instance.started.at <= noon_plus(now)
        )
        return add_up_counts([self._ended, *started])


def simulate_rollout(candidate: DeployedVersion, steps: str, pace: Pace) -> SimulatedRollout:
    """Roll out a version beside the first one, with orders at this pace, until the server ends it.

    `pace.seed` decides which orders fail, which version gets them, and when the server's timer runs."""
    random = Random(pace.seed)
    baseline_hub, candidate_hub = _TaskHub(FIRST), _TaskHub(candidate)
    next_order_at = random.uniform(0, _SECONDS_PER_MINUTE)
    evaluated_at = next_order_at + WARM_UP_ORDERS / pace.orders_per_second
    app = put_rollout(build_shop_app(), steps=_convert_steps(steps), now=noon_plus(evaluated_at)).app
    number, share = 0, 0
    interval_seconds = pace.advance_seconds or _TIMER_SECONDS
    next_interval = random.uniform(0, interval_seconds)
    while True:
        while next_order_at < evaluated_at:
            task_hub = candidate_hub if random.uniform(0, 100) < share else baseline_hub
            number += 1
            task_hub.start_order(build_order_id(pace.seed, number), next_order_at, random.uniform(0.4, 1.2))
            next_order_at += 1 / pace.orders_per_second
        rollout = require_rollout(app)
        now = noon_plus(evaluated_at)
        if share:
            health = _assess(rollout, baseline_hub, candidate_hub, evaluated_at)
            app = publish_transition(app, advance_rollout(app, health, now), now).app
            rollout = require_rollout(app)
            if not rollout.is_live:
                return SimulatedRollout(rollout.state, rollout.step_index + 1, candidate_hub.orders, health)
        share = rollout.weight
        evaluated_at += next_interval
        next_interval = interval_seconds


def _convert_steps(text: str) -> tuple[Step, ...]:
    """The steps of `safe-deploy rollout start --steps` as the server has them."""
    return tuple(Step(step.weight, step.duration.total_seconds() / _SECONDS_PER_MINUTE) for step in parse_steps(text))


def _assess(rollout: Rollout, baseline: _TaskHub, candidate: _TaskHub, evaluated_at: float) -> Health:
    """The health of the candidate, by the timelines of both task hubs."""
    now = noon_plus(evaluated_at)
    strata = split_strata((rollout.started_at, *rollout.share_changes), now)
    candidate_cohorts, baseline_cohorts = (
        [timeline.cohort(first, end, ()) for first, end in strata]
        for timeline in (candidate.read_timeline(evaluated_at), baseline.read_timeline(evaluated_at))
    )
    evidence = HealthEvidence(candidate_cohorts, baseline_cohorts, configured_share=rollout.weight)
    return assess_health(evidence, Analysis(), now)
