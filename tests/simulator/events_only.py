"""The verdict by events alone: the same deliveries applied by the domain, without a read of the task hub."""

import time
from dataclasses import dataclass, field

from state_api.domain.instants import TICKS_PER_SECOND, Instant
from state_api.domain.names import is_entity
from state_api.domain.readiness.evidence import ActiveInstance, Evidence, InstanceActivity
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.verdict import assess_readiness
from state_api.domain.task_hubs.lifecycle import Instance, LifecycleEvent, RuntimeStatus, apply_event
from tests.simulator.event_grid import PublishedEvent


@dataclass(slots=True)
class EventsOnlyVerdict:
    """The verdict on one task hub that follows from its events, without corrections by probes."""

    hub: str
    policy: Policy
    _instances: dict[str, Instance] = field(default_factory=dict)
    _recorded_at: Instant | None = None

    def record_event(self, published: PublishedEvent) -> None:
        """Merge a delivered event into the record of its instance."""
        event = LifecycleEvent(
            self.hub,
            published.instance_id,
            published.event["data"]["functionName"],
            RuntimeStatus(published.status),
            "",
            published.occurred_at,
        )
        known = self._instances.get(event.instance_id)
        merged = apply_event(known, event)
        if merged != known:
            self._instances[event.instance_id] = merged
            if not is_entity(event.instance_id):
                self._recorded_at = _now()

    @property
    def ready(self) -> bool:
        """Whether the verdict is Ready now."""
        active = tuple(
            ActiveInstance.from_instance(instance) for instance in self._instances.values() if instance.active
        )
        activity = InstanceActivity(active, last_recorded_at=self._recorded_at)
        return assess_readiness(Evidence(self.hub, activity), self.policy, _now()).ready


def _now() -> Instant:
    """The present time."""
    return Instant(int(time.time() * TICKS_PER_SECOND))
