"""What was certainly active at the provider at each moment."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class ActivityTimeline:
    """An instance counts from the completion of the write that makes it active to the beginning of the write that ends
    it, so a reader cannot miss it. Moments are numbered, so that no clocks need to agree."""

    moment: int = 0
    active: dict[str, int] = field(default_factory=dict)
    """The moment since which each instance has been active without interruption."""
    _last_idle: int = 0

    def next_moment(self) -> int:
        """A number for this moment, different from all others."""
        self.moment += 1
        return self.moment

    def record_start(self, instance_id: str) -> None:
        if not self.active:
            self._last_idle = self.moment
        self.moment += 1
        self.active.setdefault(instance_id, self.moment)

    def record_end(self, instance_id: str) -> None:
        self.moment += 1
        self.active.pop(instance_id, None)

    def was_idle_since(self, moment: int) -> bool:
        """Whether nothing was active at some moment since then."""
        return not self.active or self._last_idle >= moment
