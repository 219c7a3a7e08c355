"""What one transaction writes: evidence merged into the rows of its instances, as much as fits. Pure decisions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from azure.data.tables import UpdateMode

from state_api.domain.instants import Instant
from state_api.domain.names import is_entity
from state_api.domain.task_hubs.lifecycle import Instance, merge_instances
from state_api.storage.instance_rows import active_row, active_row_key, instance_row
from state_api.storage.tables import if_match
from state_api.storage.transactions import TableOperation

MAX_OPERATIONS = 100
"""PLATFORM: Table storage."""
MAX_REASON_CHARACTERS = 200_000
"""Characters of reasons in one transaction. One takes up to twelve bytes in JSON, and all must stay under 4 MiB."""


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """An instance as it was read or written last, with the ETag that its next write must match; None without a row."""

    instance: Instance | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class InstanceUpdate:
    """What one caller brings for one instance, piece by piece. Events make the function beat; what a probe has seen
    does not, so that nothing has to settle anew. An end that it has seen leaves a mark."""

    instance_id: str
    changes: tuple[Instance, ...]
    stamps_activity: bool = True

    @property
    def only_starts(self) -> bool:
        return all(piece.finished is None for piece in self.changes)


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """An instance to be written, and which of the plan's operations writes its row."""

    instance: Instance
    operation_index: int


@dataclass(frozen=True, slots=True)
class TransactionPlan:
    """One transaction. `effective` has an entry for each piece of evidence that is in it, from the first on: for each
    of its pieces, whether it changed anything. `activity_stamps` are functions and the times of their events; each
    takes one more operation, and so does `advances_epoch`."""

    effective: Sequence[tuple[bool, ...]]
    rows: Sequence[PlannedRow]
    operations: Sequence[TableOperation]
    activity_stamps: Mapping[str, Instant]
    advances_epoch: bool

    def instance_of_operation(self, operation_index: int) -> str | None:
        """The instance that an operation belongs to; None if it is a stamp."""
        owners = [row for row in self.rows if row.operation_index <= operation_index < len(self.operations)]
        return owners[-1].instance.instance_id if owners else None


@dataclass(slots=True)
class _InstanceWrite:
    """An instance that the transaction writes."""

    instance: Instance
    operations: list[TableOperation]
    names: set[str]
    activity_stamp: Instant | None
    advances_epoch: bool

    @property
    def stamped_function(self) -> str | None:
        """The function that beats. An id that went from one function to another beats for all of them, under no
        name."""
        if self.activity_stamp is None:
            return None
        return next(iter(self.names)) if len(self.names) == 1 else ""

    @property
    def reason(self) -> int:
        """Characters of the reason in its row."""
        return len(self.instance.finished.reason) if self.instance.finished is not None else 0


def plan_transaction(
    shard: str, evidence: Sequence[InstanceUpdate], stored: Mapping[str, StoredInstance]
) -> TransactionPlan:
    """As much of the evidence, from the first on, as fits into one transaction; at least one."""
    changed: dict[str, _InstanceWrite] = {}
    activity_stamps: Counter[str] = Counter()
    effective: list[tuple[bool, ...]] = []
    advances_epoch = False
    size = reasons = 0
    for one in evidence:
        before = changed.get(one.instance_id)
        after, effects = _apply_update(shard, one, stored[one.instance_id], before)
        if after is not None and after is not before:
            more = len(after.operations) - (len(before.operations) if before else 0)
            following = activity_stamps.copy()
            if before is not None and before.stamped_function is not None:
                following[before.stamped_function] -= 1
            if after.stamped_function is not None:
                following[after.stamped_function] += 1
            following = +following
            text = reasons + after.reason - (before.reason if before else 0)
            stamps = len(following) + (advances_epoch or after.advances_epoch)
            if effective and (size + more + stamps > MAX_OPERATIONS or text > MAX_REASON_CHARACTERS):
                break
            size, reasons, activity_stamps, changed[one.instance_id] = size + more, text, following, after
            advances_epoch = advances_epoch or after.advances_epoch
        effective.append(effects)
    operations: list[TableOperation] = []
    rows: list[PlannedRow] = []
    times: dict[str, Instant] = {}
    for written in changed.values():
        rows.append(PlannedRow(written.instance, len(operations)))
        operations += written.operations
        if written.stamped_function is not None and written.activity_stamp is not None:
            times[written.stamped_function] = max(
                times.get(written.stamped_function, Instant(0)), written.activity_stamp
            )
    return TransactionPlan(effective, rows, operations, times, advances_epoch)


def _apply_update(
    shard: str, evidence: InstanceUpdate, stored: StoredInstance, before: _InstanceWrite | None
) -> tuple[_InstanceWrite | None, tuple[bool, ...]]:
    """The change after this evidence too, and which of its pieces changed anything."""
    merged = before.instance if before else stored.instance
    names = set(before.names) if before else ({merged.function_name} if merged else set())
    activity_stamp = before.activity_stamp if before else None
    advances_epoch = before.advances_epoch if before else False
    effects: list[bool] = []
    # Entities never block, so nobody waits for them to settle.
    stamps_activity = evidence.stamps_activity and not is_entity(evidence.instance_id)
    for piece in evidence.changes:
        after = piece if merged is None else merge_instances(merged, piece)
        effects.append(after != merged)
        if effects[-1]:
            names.add(piece.function_name)
            if stamps_activity:
                activity_stamp = max(activity_stamp or Instant(0), piece.last_event_at)
            advances_epoch = advances_epoch or (
                not evidence.stamps_activity and merged is not None and merged.active and not after.active
            )
        merged = after
    if merged is None or not any(effects):
        return before, tuple(effects)
    return _InstanceWrite(merged, _row_operations(shard, stored, merged), names, activity_stamp, advances_epoch), tuple(
        effects
    )


def _row_operations(shard: str, stored: StoredInstance, merged: Instance) -> list[TableOperation]:
    """What turns the rows of `stored` into those of `merged`; the instance's own row comes first."""
    row = instance_row(shard, merged)
    operations: list[TableOperation] = []
    if stored.etag is None:
        operations.append(("create", row))
    else:
        operations.append(("update", row, {**if_match(stored.etag), "mode": UpdateMode.REPLACE}))
    old = active_row_key(stored.instance) if stored.instance is not None and stored.instance.active else None
    new = active_row_key(merged) if merged.active else None
    if old is not None and old != new:
        operations.append(("delete", {"PartitionKey": shard, "RowKey": old}))
    if new is not None:
        operations.append(("upsert", active_row(shard, new, merged), {"mode": UpdateMode.REPLACE}))
    return operations
