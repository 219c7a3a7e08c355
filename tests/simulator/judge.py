"""Whether the server's answers are right, by what was active at the source meanwhile."""

from dataclasses import dataclass, field
from typing import Any

from tests.simulator.platform import Platform
from tests.simulator.timeline import Timeline
from tests.simulator.transport import Published


class Wrong(Exception):
    """The server said what is not so."""


class Stuck(Exception):
    """The server does not say Ready although nothing is active any more."""


@dataclass(slots=True)
class Judge:
    """Judges the answers on one task hub. It trusts no clock: probes are known by their `checkedAt`, and begin no
    earlier than the question in whose answer they show first."""

    platform: Platform
    timeline: Timeline
    _probes: dict[str, int] = field(default_factory=dict)
    _latest: dict[str, int] = field(default_factory=dict)
    _heard: dict[int, int] = field(default_factory=dict)

    def delivered(self, published: Published) -> None:
        """An event was accepted. It tells the server of its instance unless a later one was delivered before."""
        moment = self.timeline.mark()
        if published.occurred_at <= self._latest.get(published.instance_id, 0):
            return
        self._latest[published.instance_id] = published.occurred_at
        self._heard.setdefault(published.execution, moment)

    def verdict(self, asked: int, verdict: dict[str, Any], fresh: bool) -> int | None:
        """Judge an answer of GetStagingStatus at the moment it comes; since when its probe has begun, None if it rests
        on no complete one. Raises Wrong."""
        probe = verdict["evidence"]["probe"]
        is_complete = probe is not None and probe["status"] == "Complete"
        began = self._probes.setdefault(probe["checkedAt"], asked) if is_complete else None
        if not verdict["ready"]:
            return began
        if began is None or verdict["assurance"] != "verified":
            raise Wrong("Ready without a complete probe")
        if fresh and began < asked:
            raise Wrong("verify=fresh was answered by an earlier probe")
        self._certified(began)
        if began == asked:
            return began
        for instance_id in self.timeline.active:
            execution = self.platform.executions[instance_id]
            heard = self._heard.get(execution.number)
            if heard is not None and heard < asked:
                raise Wrong(f"Ready by an earlier probe, but {instance_id} is active and an event has told so since")
        return began

    def started_and_heard(self) -> set[str]:
        """What the records must show active, whatever a probe has seen before: instances that are active at the source
        and whose latest event says Running and was delivered."""
        return {
            one.instance_id
            for one in self.platform.executions.values()
            if one.blocks
            and one.latest is not None
            and (one.latest.execution, one.latest.status) == (one.number, "Running")
            and self._latest.get(one.instance_id) == one.latest.occurred_at
        }

    def staged(self, asked: int) -> None:
        """Judge a PostStaging that was let through. Raises Wrong."""
        self._certified(asked)

    def _certified(self, began: int) -> None:
        """Ready says that at some instant since the probe began nothing was active. While the world stands still that
        is: nothing is."""
        if not self.timeline.idle_since(began):
            raise Wrong("Ready, but at every instant since the probe began something was active")
        for instance_id, since in self.timeline.active.items():
            if since < began:
                raise Wrong(f"Ready, but {instance_id} has been active since before the probe began")
