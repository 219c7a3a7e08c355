"""Records which instances are active at the provider, for comparison with the server's verdicts."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class ActivityTimeline:
    """The instances that are active, and when there was last none.

    An instance counts as active from the completion of the write of its start to the beginning of the write of its end,
    so a reader cannot miss it. Moments are numbered, so that no clocks need to agree."""

    moment: int = 0
    active: dict[str, int] = field(default_factory=dict)
    """The moment since which each instance has been active without interruption."""
    _last_idle_moment: int = 0

    def next_moment(self) -> int:
        """A number for this moment, different from all others."""
        self.moment += 1
        return self.moment

    def record_start(self, instance_id: str) -> None:
        """Record an instance as active. Call this after the write of its start."""
        if not self.active:
            self._last_idle_moment = self.moment
        self.moment += 1
        self.active.setdefault(instance_id, self.moment)

    def record_end(self, instance_id: str) -> None:
        """Record an instance as not active. Call this before the write of its end."""
        self.moment += 1
        self.active.pop(instance_id, None)

    def was_idle_since(self, moment: int) -> bool:
        """Whether there was a moment, at `moment` or later, at which no instance was active."""
        return not self.active or self._last_idle_moment >= moment
