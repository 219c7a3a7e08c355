"""What a verdict by events alone would say: the same deliveries through the domain, without a look at the task hub."""

import time
from dataclasses import dataclass, field

from state_api.domain.evidence import ActiveInstance, Activity, Evidence
from state_api.domain.instants import TICKS_PER_SECOND, Instant
from state_api.domain.lifecycle import Instance, LifecycleEvent, RuntimeStatus, apply
from state_api.domain.names import is_entity
from state_api.domain.readiness import Policy, assess
from tests.simulator.transport import Published


@dataclass(slots=True)
class EventsAlone:
    """The records of one task hub that nobody ever corrects."""

    hub: str
    policy: Policy
    _instances: dict[str, Instance] = field(default_factory=dict)
    _recorded_at: Instant | None = None

    def record(self, published: Published) -> None:
        event = LifecycleEvent(
            self.hub,
            published.instance_id,
            published.event["data"]["functionName"],
            RuntimeStatus(published.status),
            "",
            published.occurred_at,
        )
        known = self._instances.get(event.instance_id)
        merged = apply(known, event)
        if merged != known:
            self._instances[event.instance_id] = merged
            if not is_entity(event.instance_id):
                self._recorded_at = _now()

    @property
    def ready(self) -> bool:
        active = tuple(ActiveInstance.of(one) for one in self._instances.values() if one.active)
        activity = Activity(active, last_recorded_at=self._recorded_at)
        return assess(Evidence(self.hub, activity), self.policy, _now()).ready


def _now() -> Instant:
    return Instant(int(time.time() * TICKS_PER_SECOND))
