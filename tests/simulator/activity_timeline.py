"""What was active at the source, moment by moment, as far as it is certain."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class ActivityTimeline:
    """An instance counts from when the write that made it active is done until before the write that ends it begins:
    what a reader cannot have missed. Moments are counted, not timed, so that no two clocks need to agree."""

    moment: int = 0
    active: dict[str, int] = field(default_factory=dict)
    """Since when each instance has been active without a break."""
    _last_idle: int = 0

    def next_moment(self) -> int:
        """This moment, told apart from all before and after it."""
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
        """Whether there was an instant since then at which nothing was active."""
        return not self.active or self._last_idle >= moment
