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
    _probes: dict[str, int] = field(default_factory=dict)
    _latest: dict[str, int] = field(default_factory=dict)
    _first_delivery: dict[int, int] = field(default_factory=dict)

    def record_delivery(self, published: PublishedEvent) -> None:
        """An event was accepted. It informs the server about its instance unless a later one was delivered before."""
        moment = self.timeline.next_moment()
        if published.occurred_at <= self._latest.get(published.instance_id, 0):
            return
        self._latest[published.instance_id] = published.occurred_at
        self._first_delivery.setdefault(published.execution, moment)
        if self.messages_unseen:
            self._know(published)

    def _know(self, published: PublishedEvent) -> None:
        """Where messages cannot be seen, a start that is only a message counts from the event that reports it until a
        later event reports its end."""
        execution = self.platform.executions.get(published.instance_id)
        if execution is None or not execution.in_flight:
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
        began = self._probes.setdefault(probe["beganAt"], requested_at) if is_complete else None
        if not verdict["ready"]:
            return began
        if began is None or verdict["assurance"] != "verified":
            raise WrongVerdict("Ready without a complete probe")
        if fresh and began < requested_at:
            raise WrongVerdict("verify=fresh was answered by an earlier probe")
        self._check_idle_since(began)
        if began == requested_at:
            return began
        for instance_id in self.timeline.active:
            execution = self.platform.executions[instance_id]
            heard = self._first_delivery.get(execution.number)
            if heard is not None and heard < requested_at:
                raise WrongVerdict(
                    f"Ready by an earlier probe, but {instance_id} is active and an event has reported it since"
                )
        return began

    def expected_active(self) -> set[str]:
        """The instances that the records must show active: those that are active at the provider and whose latest event
        says Running and was delivered."""
        return {
            execution.instance_id
            for execution in self.platform.executions.values()
            if execution.is_shown_active
            and execution.latest_event is not None
            and (execution.latest_event.execution, execution.latest_event.status) == (execution.number, "Running")
            and self._latest.get(execution.instance_id) == execution.latest_event.occurred_at
        }

    def check_staging(self, requested_at: int) -> None:
        """Check a PostStaging that succeeded. Raises WrongVerdict."""
        self._check_idle_since(requested_at)

    def _check_idle_since(self, began: int) -> None:
        """Ready claims that nothing was active at some moment since the probe began.

        While the platform does not change, it claims that nothing is active.
        """
        if not self.timeline.was_idle_since(began):
            raise WrongVerdict("Ready, but at every instant since the probe began something was active")
        for instance_id, since in self.timeline.active.items():
            if since < began:
                raise WrongVerdict(f"Ready, but {instance_id} has been active since before the probe began")
