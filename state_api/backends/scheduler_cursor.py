"""The position of a scan of a scheduler: which created times to ask for next. Pure. Hides the format of cursors."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from state_api.domain.instants import Instant

_FULL_PAGE_SIZE = 100
"""A page with this many instances counts as full even if more were asked for: a scheduler may have a limit of its
own."""
_RANGE_OVERLAP_TICKS = 10
"""Ticks by which a range overlaps the one before, in case the scheduler excludes the lower bound. They are one
microsecond, the precision of the in-memory engine."""
_MAX_CURSOR_BOUNDS = 50
"""Upper bounds that a cursor contains at most, so that it stays short. A bound that is dropped is found again."""


@dataclass(frozen=True, slots=True)
class SchedulerCursor:
    """A range of created times within a pass, and how far its pages have been read.

    A range with more than a page of instances is split in two, and each half is asked for anew, until every response
    contains the whole of its range. Continuation tokens could lose instances: the in-memory engine's token is a
    position in a list that is filtered anew for each page. Instances that end between two pages then move others across
    the border of the pages. Tokens are followed only where a split is impossible: through instances that were created
    at the same time, and after pages that are short for the scheduler's own reasons.

    Ranges are read from the oldest on. An instance is older than those that it starts, and older than itself when it is
    started again under its id. So both are in a range that is still to be read.
    """

    is_recent_pass: bool = False
    """Whether this pass reads what was created since the scan began; the first pass reads active instances."""
    lower_bound: Instant | None = None
    upper_bounds: tuple[Instant, ...] = ()
    """The end of this range is last; before it are the ends of the ranges that follow. Without any, the range is
    open."""
    token: str | None = None

    @property
    def upper_bound(self) -> Instant | None:
        """The end of the range that is being read; None if the range is open."""
        return self.upper_bounds[-1] if self.upper_bounds else None

    def next_cursor(
        self, created_times: Sequence[Instant], token: str | None, page_size: int
    ) -> "SchedulerCursor | None":
        """Return where to read on after a page with instances of these created times; None at the end of the scan.
        `token` is the page's continuation token, None if there is none."""
        if token is None:
            if self.upper_bound is not None:
                return SchedulerCursor(
                    self.is_recent_pass, Instant(self.upper_bound - _RANGE_OVERLAP_TICKS), self.upper_bounds[:-1]
                )
            return None if self.is_recent_pass else SchedulerCursor(is_recent_pass=True)
        is_full = len(created_times) >= min(page_size, _FULL_PAGE_SIZE)
        if self.token is None and is_full and (split := self._find_split_time(created_times)) is not None:
            return replace(self, upper_bounds=(*self.upper_bounds, split)[-_MAX_CURSOR_BOUNDS:])
        return replace(self, token=token)

    def _find_split_time(self, created_times: Sequence[Instant]) -> Instant | None:
        """Return a time that divides this range and the instances of its first page; None if they were created at the
        same time."""
        ordered = sorted(created_times)
        # A split at a bound would leave one of the halves as large as the range.
        floor = ordered[0] if self.lower_bound is None else max(ordered[0], self.lower_bound + _RANGE_OVERLAP_TICKS)
        split = next((time for time in ordered[len(ordered) // 2 :] if time > floor), None)
        return None if split is None or (self.upper_bound is not None and split >= self.upper_bound) else split

    def encode(self) -> str:
        """The cursor as text, as a scan stores it between two requests."""
        return json.dumps([self.is_recent_pass, self.lower_bound, self.upper_bounds, self.token])

    @classmethod
    def decode(cls, cursor: str) -> "SchedulerCursor":
        """The cursor that `encode` returned as text."""
        is_recent_pass, lower_bound, upper_bounds, token = json.loads(cursor)
        return cls(is_recent_pass, lower_bound, tuple(upper_bounds), token)
