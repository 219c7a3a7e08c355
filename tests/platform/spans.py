"""When something was surely active in a task hub, and whether a Ready answer contradicts it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Span:
    """A time in which something was surely active, from the answer to its start on. It ends at `end`, or once every
    instance in `waits_for` was asked to end: from then on the platform may end it at any moment."""

    what: str
    begin: float
    end: float | None = None
    waits_for: set[str] = field(default_factory=set)

    def close(self, now: float) -> None:
        """Something may end it from now on."""
        self.end = now if self.end is None else min(self.end, now)


@dataclass
class Spans:
    """The spans of one task hub."""

    spans: list[Span] = field(default_factory=list)

    def open(self, what: str, begin: float, *, waits_for: Iterable[str] = (), end: float | None = None) -> Span:
        """Raises ValueError for a span that nothing would ever end."""
        needs = set(waits_for)
        if end is None and not needs:
            raise ValueError(f"{what} waits for nothing and has no end")
        span = Span(what, begin, end, needs)
        self.spans.append(span)
        return span

    def release(self, instance_id: str, now: float) -> None:
        """An instance is about to be asked to end."""
        for span in self.spans:
            if instance_id in span.waits_for:
                span.waits_for.discard(instance_id)
                if not span.waits_for:
                    span.close(now)

    def covering(self, begin: float, end: float) -> list[str]:
        """What was active without a gap from `begin` to `end`, in turns; empty if there was a gap.

        An answer that was asked for at `begin` and given at `end` says that nothing was active at some moment between
        the two. It is false if something was active at every moment.
        """
        at, found = begin, []
        while True:
            reaching = [span for span in self.spans if span.begin <= at and (span.end is None or span.end > at)]
            if not reaching:
                return []
            furthest = max(reaching, key=lambda span: float("inf") if span.end is None else span.end)
            found.append(furthest.what)
            if furthest.end is None or furthest.end >= end:
                return found
            at = furthest.end
