"""Checks the server's responses against what was active at the provider."""

from dataclasses import dataclass, field
from typing import Any

from tests.simulator.activity_timeline import ActivityTimeline
from tests.simulator.event_grid import PublishedEvent
from tests.simulator.platform import SimulatedPlatform


class WrongVerdict(Exception):
    """A response of the server is wrong."""


class NeverReady(Exception):
    """The verdict stays NotReady although nothing is active any more."""


@dataclass(slots=True)
class VerdictChecker:
    """Checks the responses about one task hub.

    It uses no clock: `beganAt` identifies a probe, and a probe begins no earlier than the request whose response shows
    it first.
    """

    platform: SimulatedPlatform
    timeline: ActivityTimeline
    messages_unseen: bool = False
    _probe_began_at: dict[str, int] = field(default_factory=dict)
    _latest_delivered_event_at: dict[str, int] = field(default_factory=dict)
    _first_delivered_at: dict[int, int] = field(default_factory=dict)

    def record_delivery(self, published: PublishedEvent) -> None:
        """Record the delivery of an event. It has no effect if a later event of its instance was delivered before."""
        moment = self.timeline.next_moment()
        if published.occurred_at <= self._latest_delivered_event_at.get(published.instance_id, 0):
            return
        self._latest_delivered_event_at[published.instance_id] = published.occurred_at
        self._first_delivered_at.setdefault(published.execution, moment)
        if self.messages_unseen:
            self._apply_reported_start(published)

    def _apply_reported_start(self, published: PublishedEvent) -> None:
        """Let a start that is only a message count as active from the event that reports it to the event of its end.

        This is for task hubs whose messages cannot be seen."""
        execution = self.platform.executions.get(published.instance_id)
        if execution is None or not execution.is_scheduled:
            return
        if (published.execution, published.status) == (execution.number, "Running"):
            self.timeline.record_start(execution.instance_id)
        else:
            self.timeline.record_end(execution.instance_id)

    def check_verdict(self, requested_at: int, verdict: dict[str, Any], *, fresh: bool) -> int | None:
        """Check a response of GetStagingStatus at the moment at which it arrives. Raises WrongVerdict.

        Returns when its probe began; None if it rests on no complete probe.
        """
        probe = verdict["evidence"]["probe"]
        is_complete = probe is not None and probe["status"] == "Complete"
        probe_began_at = self._probe_began_at.setdefault(probe["beganAt"], requested_at) if is_complete else None
        if not verdict["ready"]:
            return probe_began_at
        if probe_began_at is None or verdict["assurance"] != "verified":
            raise WrongVerdict("Ready without a complete probe")
        if fresh and probe_began_at < requested_at:
            raise WrongVerdict("verify=fresh was answered by an earlier probe")
        self._check_idle_since(probe_began_at)
        if probe_began_at == requested_at:
            return probe_began_at
        for instance_id in self.timeline.active:
            execution = self.platform.executions[instance_id]
            first_delivered_at = self._first_delivered_at.get(execution.number)
            if first_delivered_at is not None and first_delivered_at < requested_at:
                raise WrongVerdict(
                    f"Ready by an earlier probe, but {instance_id} is active and an event has reported it since"
                )
        return probe_began_at

    def find_expected_active_ids(self) -> set[str]:
        """The ids of the instances that the records must show active.

        They are active at the provider, and their latest event has the status Running and was delivered."""
        return {
            execution.instance_id
            for execution in self.platform.executions.values()
            if execution.is_shown_active
            and execution.latest_event is not None
            and (execution.latest_event.execution, execution.latest_event.status) == (execution.number, "Running")
            and self._latest_delivered_event_at.get(execution.instance_id) == execution.latest_event.occurred_at
        }

    def check_staging(self, requested_at: int) -> None:
        """Check a PostStaging that succeeded. Raises WrongVerdict."""
        self._check_idle_since(requested_at)

    def _check_idle_since(self, probe_began_at: int) -> None:
        """Check the claim of a Ready: nothing was active at some moment since the probe began. Raises WrongVerdict.

        If the platform has not changed since, the claim is that nothing is active.
        """
        if not self.timeline.was_idle_since(probe_began_at):
            raise WrongVerdict("Ready, but at every moment since the probe began something was active")
        for instance_id, active_since in self.timeline.active.items():
            if active_since < probe_began_at:
                raise WrongVerdict(f"Ready, but {instance_id} has been active since before the probe began")
