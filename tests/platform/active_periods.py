"""When something was surely active in a task hub, and whether a Ready answer contradicts it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class ActivePeriod:
    """A time in which something was surely active, from the answer to its start on. It ends at `end`, or once every
    instance in `blocked_by` was asked to end: from then on the platform may end it at any moment."""

    name: str
    begin: float
    end: float | None = None
    blocked_by: set[str] = field(default_factory=set)

    def end_by(self, now: float) -> None:
        """Something may end it from now on."""
        self.end = now if self.end is None else min(self.end, now)


@dataclass
class ActivePeriods:
    """The spans of one task hub."""

    periods: list[ActivePeriod] = field(default_factory=list)

    def open(
        self, name: str, begin: float, *, blocked_by: Iterable[str] = (), end: float | None = None
    ) -> ActivePeriod:
        """Raises ValueError for a span that nothing would ever end."""
        needs = set(blocked_by)
        if end is None and not needs:
            raise ValueError(f"{name} waits for nothing and has no end")
        span = ActivePeriod(name, begin, end, needs)
        self.periods.append(span)
        return span

    def mark_released(self, instance_id: str, now: float) -> None:
        """An instance is about to be asked to end."""
        for span in self.periods:
            if instance_id in span.blocked_by:
                span.blocked_by.discard(instance_id)
                if not span.blocked_by:
                    span.end_by(now)

    def find_covering(self, begin: float, end: float) -> list[str]:
        """What was active without a gap from `begin` to `end`, in turns; empty if there was a gap.

        An answer that was asked for at `begin` and given at `end` says that nothing was active at some moment between
        the two. It is false if something was active at every moment.
        """
        at, found = begin, []
        while True:
            reaching = [span for span in self.periods if span.begin <= at and (span.end is None or span.end > at)]
            if not reaching:
                return []
            furthest = max(reaching, key=lambda span: float("inf") if span.end is None else span.end)
            found.append(furthest.name)
            if furthest.end is None or furthest.end >= end:
                return found
            at = furthest.end
