"""Decides what one transaction writes: updates merged into the rows of their instances, as many as fit. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from azure.data.tables import UpdateMode

from state_api.domain.instants import Instant
from state_api.domain.names import is_entity
from state_api.domain.task_hubs.lifecycle import Instance, merge_instances
from state_api.domain.task_hubs.timeline import CounterKey, Minute, count_change
from state_api.storage.instance_rows import active_row, active_row_key, instance_row
from state_api.storage.tables import if_match
from state_api.storage.timeline_rows import bucket_of
from state_api.storage.transactions import TableOperation

MAX_OPERATIONS = 100
"""Operations in one transaction (PLATFORM: Table storage)."""
MAX_REASON_CHARACTERS = 200_000
"""Characters of reasons in one transaction. A character takes up to twelve bytes in JSON, and a transaction must stay
under 4 MiB."""

_SHARED_STAMP = ""
"""The function name of the stamp for an instance id that several functions have used."""


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """An instance as it was last read or written, with the ETag for its next write. Both are None without a row."""

    instance: Instance | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class InstanceUpdate:
    """Changes that one caller brings for one instance, in order. Changes from lifecycle events stamp the activity of
    their function, so that the task hub has to settle again. Corrections by a probe do not."""

    instance_id: str
    changes: tuple[Instance, ...]
    stamps_activity: bool = True

    @property
    def only_starts(self) -> bool:
        """Whether no change ends an instance."""
        return all(change.finished is None for change in self.changes)


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """An instance to write. `operation_index` is the position of the operation that writes its `i|` row."""

    instance: Instance
    operation_index: int


@dataclass(frozen=True, slots=True)
class TransactionPlan:
    """One transaction.

    - `effective` has an entry for each planned update, in their order: whether each of its changes changed the record.
    - `activity_stamps` maps function names to the time of their latest event.
    - `counter_changes` says by how much each counter of the timeline changes.
    - `advances_epoch` is set when a correction ends an active instance.

    Each stamp, each row of counters and the epoch take one more operation than `operations` holds.
    """

    effective: Sequence[tuple[bool, ...]]
    rows: Sequence[PlannedRow]
    operations: Sequence[TableOperation]
    activity_stamps: Mapping[str, Instant]
    counter_changes: Mapping[CounterKey, int]
    advances_epoch: bool

    def instance_of_operation(self, operation_index: int) -> str | None:
        """The id of the instance that an operation writes; None for a row of counters and for a stamp."""
        rows = [row for row in self.rows if row.operation_index <= operation_index < len(self.operations)]
        return rows[-1].instance.instance_id if rows else None


@dataclass(slots=True)
class _InstanceWrite:
    """An instance as the transaction writes it. `function_names` are all names that the instance id has had."""

    instance: Instance
    operations: list[TableOperation]
    function_names: frozenset[str]
    activity_stamp: Instant | None
    counter_changes: Mapping[CounterKey, int]
    advances_epoch: bool

    @property
    def counter_buckets(self) -> frozenset[Minute]:
        """The rows of counters that the write changes."""
        return frozenset(bucket_of(key.minute) for key in self.counter_changes)

    @property
    def stamp_name(self) -> str | None:
        """The name under which the write stores its activity stamp: that of the function, or an empty one if several
        functions have used the instance id. None without a stamp."""
        if self.activity_stamp is None:
            return None
        return next(iter(self.function_names)) if len(self.function_names) == 1 else _SHARED_STAMP

    @property
    def reason_length(self) -> int:
        """The number of characters of the reason with which the instance ended."""
        return len(self.instance.finished.reason) if self.instance.finished is not None else 0


@dataclass(slots=True)
class _TransactionDraft:
    """The writes of the transaction so far, by instance id, and what they count towards its limits."""

    writes: dict[str, _InstanceWrite] = field(default_factory=dict)
    operation_count: int = 0
    reason_characters: int = 0
    stamp_names: Counter[str] = field(default_factory=Counter)
    """How many writes have a stamp under each name."""
    counter_buckets: Counter[Minute] = field(default_factory=Counter)
    """How many writes change each row of counters."""
    advances_epoch: bool = False

    def try_replace(self, before: _InstanceWrite | None, after: _InstanceWrite, *, is_first: bool) -> bool:
        """Replace `before` by `after`. False, and nothing changes, if it does not fit. The first write of a transaction
        always fits."""
        operation_count = self.operation_count + len(after.operations) - (len(before.operations) if before else 0)
        reason_characters = self.reason_characters + after.reason_length - (before.reason_length if before else 0)
        stamp_names = self.stamp_names.copy()
        if before is not None and before.stamp_name is not None:
            stamp_names[before.stamp_name] -= 1
        if after.stamp_name is not None:
            stamp_names[after.stamp_name] += 1
        stamp_names = +stamp_names
        counter_buckets = self.counter_buckets + Counter(after.counter_buckets)
        counter_buckets -= Counter(before.counter_buckets if before else ())
        advances_epoch = self.advances_epoch or after.advances_epoch
        fits = (
            operation_count + len(stamp_names) + len(counter_buckets) + advances_epoch <= MAX_OPERATIONS
            and reason_characters <= MAX_REASON_CHARACTERS
        )
        if not (fits or is_first):
            return False
        self.writes[after.instance.instance_id] = after
        self.operation_count, self.reason_characters = operation_count, reason_characters
        self.stamp_names, self.counter_buckets = stamp_names, counter_buckets
        self.advances_epoch = advances_epoch
        return True

    def to_plan(self, effective: Sequence[tuple[bool, ...]]) -> TransactionPlan:
        """The plan that writes what was collected. `effective` says which changes of each update have an effect."""
        operations: list[TableOperation] = []
        rows: list[PlannedRow] = []
        stamps: dict[str, Instant] = {}
        counter_changes: Counter[CounterKey] = Counter()
        for write in self.writes.values():
            rows.append(PlannedRow(write.instance, len(operations)))
            operations += write.operations
            counter_changes.update(write.counter_changes)
            function_name = write.stamp_name
            if function_name is not None and write.activity_stamp is not None:
                stamps[function_name] = max(stamps.get(function_name, Instant(0)), write.activity_stamp)
        changes = {key: change for key, change in counter_changes.items() if change}
        return TransactionPlan(effective, rows, operations, stamps, changes, self.advances_epoch)


def plan_transaction(
    shard: str, updates: Sequence[InstanceUpdate], stored: Mapping[str, StoredInstance], *, first_counted_minute: Minute
) -> TransactionPlan:
    """Plan as many updates as fit into one transaction, from the first on; at least one. `stored` has an entry for the
    instance id of each update. Minutes before `first_counted_minute` are not counted in the timeline."""
    draft = _TransactionDraft()
    effective: list[tuple[bool, ...]] = []
    for update in updates:
        before = draft.writes.get(update.instance_id)
        after, effects = _apply_update(shard, update, stored[update.instance_id], before, first_counted_minute)
        has_changed = after is not None and after is not before
        if after is not None and has_changed and not draft.try_replace(before, after, is_first=not effective):
            break
        effective.append(effects)
    return draft.to_plan(effective)


def _apply_update(
    shard: str,
    update: InstanceUpdate,
    stored: StoredInstance,
    before: _InstanceWrite | None,
    first_counted_minute: Minute,
) -> tuple[_InstanceWrite | None, tuple[bool, ...]]:
    """The write of the instance with this update added to `before`, and which of its changes changed the record.
    Returns `before` itself if none did."""
    merged = before.instance if before else stored.instance
    function_names = set(before.function_names) if before else ({merged.function_name} if merged else set())
    activity_stamp = before.activity_stamp if before else None
    advances_epoch = before.advances_epoch if before else False
    # An active entity does not block, so its changes do not make the task hub settle again.
    stamps_activity = update.stamps_activity and not is_entity(update.instance_id)
    effects: list[bool] = []
    for change in update.changes:
        after = change if merged is None else merge_instances(merged, change)
        effects.append(after != merged)
        if after != merged:
            function_names.add(change.function_name)
            if stamps_activity:
                activity_stamp = max(activity_stamp or Instant(0), change.last_event_at)
            ends_instance = merged is not None and merged.active and not after.active
            advances_epoch = advances_epoch or (ends_instance and not update.stamps_activity)
        merged = after
    if merged is None or not any(effects):
        return before, tuple(effects)
    changes = count_change(stored.instance, merged).items()
    write = _InstanceWrite(
        merged,
        _row_operations(shard, stored, merged),
        frozenset(function_names),
        activity_stamp,
        counter_changes={key: change for key, change in changes if key.minute >= first_counted_minute},
        advances_epoch=advances_epoch,
    )
    return write, tuple(effects)


def _row_operations(shard: str, stored: StoredInstance, merged: Instance) -> list[TableOperation]:
    """The operations that turn the rows of `stored` into those of `merged`. The first one writes the `i|` row."""
    row = instance_row(shard, merged)
    operations: list[TableOperation] = []
    if stored.etag is None:
        operations.append(("create", row))
    else:
        operations.append(("update", row, {**if_match(stored.etag), "mode": UpdateMode.REPLACE}))
    old_key = active_row_key(stored.instance) if stored.instance is not None and stored.instance.active else None
    new_key = active_row_key(merged) if merged.active else None
    if old_key is not None and old_key != new_key:
        operations.append(("delete", {"PartitionKey": shard, "RowKey": old_key}))
    if new_key is not None:
        operations.append(("upsert", active_row(shard, new_key, merged), {"mode": UpdateMode.REPLACE}))
    return operations
