"""The times in which something was certainly active in a task hub, and whether they contradict a Ready response. Pure.
All times are in seconds by `time.monotonic`."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class ActivePeriod:
    """A time in which something was certainly active, from the response to its start on.

    It ends at `end`, or when every instance in `blocked_by` has been asked to end. From then on the platform may end
    the activity at any moment."""

    name: str
    begin: float
    end: float | None = None
    blocked_by: set[str] = field(default_factory=set)

    def limit_end(self, now: float) -> None:
        """Note that the period may have ended at any time from `now` on."""
        self.end = now if self.end is None else min(self.end, now)


@dataclass
class ActivePeriods:
    """The active periods of one task hub."""

    periods: list[ActivePeriod] = field(default_factory=list)

    def add_period(
        self, name: str, begin: float, *, blocked_by: Iterable[str] = (), end: float | None = None
    ) -> ActivePeriod:
        """Add a period. Raises ValueError for a period without an end and without instances that end it."""
        blocking_ids = set(blocked_by)
        if end is None and not blocking_ids:
            raise ValueError(f"{name} waits for nothing and has no end")
        period = ActivePeriod(name, begin, end, blocking_ids)
        self.periods.append(period)
        return period

    def mark_released(self, instance_id: str, now: float) -> None:
        """Note that an instance is about to be asked to end."""
        for period in self.periods:
            if instance_id in period.blocked_by:
                period.blocked_by.discard(instance_id)
                if not period.blocked_by:
                    period.limit_end(now)

    def find_covering(self, begin: float, end: float) -> list[str]:
        """Return names of periods that together cover the time from `begin` to `end`; empty if there is a gap.

        A Ready response to a request at `begin`, received at `end`, says that nothing was active at some moment between
        the two. It is wrong if something was active at every moment.
        """
        covered_until, names = begin, []
        while True:
            overlapping = [
                period
                for period in self.periods
                if period.begin <= covered_until and (period.end is None or period.end > covered_until)
            ]
            if not overlapping:
                return []
            longest = max(overlapping, key=lambda period: float("inf") if period.end is None else period.end)
            names.append(longest.name)
            if longest.end is None or longest.end >= end:
                return names
            covered_until = longest.end
