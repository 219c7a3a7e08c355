"""The counter rows that this worker writes, in the transactions that change the counted instances.

A transaction has its counter rows for itself. They are taken from the cache, and return to it with their new ETags once
the transaction is known to have been written. So transactions of one shard can be in flight at the same time, and each
change is in exactly one row.

After any other outcome the rows are not written again, because it is unknown what they hold. For example, the first
attempt of a request can have been written although the second one conflicts. The next transaction then begins new rows,
and needs no read.
"""

import secrets
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from azure.data.tables import UpdateMode

from state_api.domain.task_hubs.timeline import CounterKey, Minute
from state_api.storage.tables import if_match
from state_api.storage.timeline_rows import (
    RowCounts,
    StoredCounts,
    add_counts,
    bucket_of,
    timeline_row,
    timeline_row_key,
)
from state_api.storage.transactions import TableOperation

MAX_CACHED_ROWS = 300
"""Cached rows, at most about 100 kB each. 30 busy task hubs with four shards write 120, and more for instances that end
later than in the ten minutes of their start. A row that is not cached costs no request, but one more row."""
MAX_ROW_CHARACTERS = 8_000
"""A row with more JSON text is not written again, so that no transaction grows with the number of functions. That is
about 1,000 counters. A transaction of 49 instances, each with the longest row and the longest names, stays below the
service's 4 MiB."""
_MAX_WATCHED_SHARDS = 1_000

_Place = tuple[str, str, Minute]
"""A table, one of its partitions, and the first minute of a row."""


@dataclass(slots=True)
class CounterRow:
    """A row that belongs to one transaction or to the cache. Without an ETag it was never written."""

    place: _Place
    key: str
    counts: RowCounts = field(default_factory=dict)
    etag: str | None = None
    characters: int = 0

    def build_write(self) -> TableOperation:
        """The operation that writes the row."""
        counts_json = StoredCounts.model_construct(counts=self.counts).to_json()
        self.characters = len(counts_json)
        row = timeline_row(self.place[1], self.key, counts_json)
        if self.etag is None:
            return ("create", row)
        return ("update", row, {**if_match(self.etag), "mode": UpdateMode.REPLACE})


class TimelineCounters:
    """Caches the MAX_CACHED_ROWS counter rows that were written last and are in no transaction now."""

    def __init__(self) -> None:
        # The least recently written row comes first. Several rows have the same place if they were in transactions at
        # the same time.
        self._rows: OrderedDict[str, CounterRow] = OrderedDict()
        self._keys_by_place: defaultdict[_Place, list[str]] = defaultdict(list)
        self._latest_buckets: OrderedDict[tuple[str, str], Minute] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def take_rows(self, table: str, shard: str, changes: Mapping[CounterKey, int]) -> list[CounterRow]:
        """Rows with these changes added to what they hold. They leave the cache."""
        by_bucket: dict[Minute, list[tuple[CounterKey, int]]] = defaultdict(list)
        for key, change in changes.items():
            by_bucket[bucket_of(key.minute)].append((key, change))
        rows = []
        for bucket, bucket_changes in by_bucket.items():
            row = self._take((table, shard, bucket))
            add_counts(row.counts, bucket_changes)
            rows.append(row)
        return rows

    def return_rows(self, rows: Sequence[CounterRow], etags: Sequence[str | None]) -> None:
        """Cache rows that were written, with their new ETags."""
        for row, etag in zip(rows, etags, strict=True):
            if etag is None or row.characters > MAX_ROW_CHARACTERS:
                continue
            row.etag = etag
            if len(self._rows) >= MAX_CACHED_ROWS:
                self._remove(next(iter(self._rows)))
            self._rows[row.key] = row
            self._keys_by_place[row.place].append(row.key)

    def begins_bucket(self, table: str, shard: str, rows: Sequence[CounterRow]) -> bool:
        """Whether the rows have later minutes than all rows of the shard that this worker has asked about before."""
        latest = max((row.place[2] for row in rows), default=None)
        if latest is None or latest <= self._latest_buckets.get((table, shard), latest - 1):
            return False
        if len(self._latest_buckets) >= _MAX_WATCHED_SHARDS:
            self._latest_buckets.popitem(last=False)
        self._latest_buckets[(table, shard)] = latest
        return True

    def invalidate_cache(self, table: str) -> None:
        """Forget all rows of a table that was deleted."""
        for key in [row.key for row in self._rows.values() if row.place[0] == table]:
            self._remove(key)

    def _take(self, place: _Place) -> CounterRow:
        """A row of this place, which leaves the cache; a new one if none is cached."""
        if place in self._keys_by_place:
            return self._remove(self._keys_by_place[place][-1])
        return CounterRow(place, timeline_row_key(place[2], secrets.token_hex(8)))

    def _remove(self, key: str) -> CounterRow:
        """Remove a row from the cache, and return it."""
        row = self._rows.pop(key)
        keys = self._keys_by_place[row.place]
        keys.remove(key)
        if not keys:
            del self._keys_by_place[row.place]
        return row
