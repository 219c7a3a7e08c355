"""What one transaction writes: evidence merged into the rows of its instances, as much as fits. Pure decisions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from azure.data.tables import UpdateMode

from state_api.domain.instants import Instant
from state_api.domain.lifecycle import Instance, merge
from state_api.domain.names import is_entity
from state_api.storage.instance_rows import active_key_of, active_row, instance_row
from state_api.storage.tables import unchanged_since
from state_api.storage.transactions import Operation

MAX_OPERATIONS = 100
"""PLATFORM: Table storage."""
MAX_REASONS = 200_000
"""Characters of reasons in one transaction. One takes up to twelve bytes in JSON, and all must stay under 4 MiB."""


@dataclass(frozen=True, slots=True)
class Known:
    """An instance as it was read or written last, with the ETag that its next write must match; None without a row."""

    instance: Instance | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one caller brings for one instance, piece by piece. Events make the function beat; what a probe has seen
    does not, so that nothing has to settle anew. An end that it has seen leaves a mark."""

    instance_id: str
    pieces: tuple[Instance, ...]
    beating: bool = True

    @property
    def only_starts(self) -> bool:
        return all(piece.finished is None for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Row:
    """An instance to be written, and which of the plan's operations writes its row."""

    instance: Instance
    operation: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One transaction. `effective` has an entry for each piece of evidence that is in it, from the first on: for each
    of its pieces, whether it changed anything. `beats` are functions and the times of their events; each takes one
    more operation, and so does `closes`."""

    effective: Sequence[tuple[bool, ...]]
    rows: Sequence[Row]
    operations: Sequence[Operation]
    beats: Mapping[str, Instant]
    closes: bool

    def culprit(self, operation: int) -> str | None:
        """The instance that an operation belongs to; None if it is a stamp."""
        owners = [row for row in self.rows if row.operation <= operation < len(self.operations)]
        return owners[-1].instance.instance_id if owners else None


@dataclass(slots=True)
class _Changed:
    """An instance that the transaction writes."""

    instance: Instance
    operations: list[Operation]
    names: set[str]
    beat: Instant | None
    closes: bool

    @property
    def beats_as(self) -> str | None:
        """The function that beats. An id that went from one function to another beats for all of them, under no
        name."""
        if self.beat is None:
            return None
        return next(iter(self.names)) if len(self.names) == 1 else ""

    @property
    def reason(self) -> int:
        """Characters of the reason in its row."""
        return len(self.instance.finished.reason) if self.instance.finished is not None else 0


def plan(shard: str, evidence: Sequence[Evidence], known: Mapping[str, Known]) -> Plan:
    """As much of the evidence, from the first on, as fits into one transaction; at least one."""
    changed: dict[str, _Changed] = {}
    beats: Counter[str] = Counter()
    effective: list[tuple[bool, ...]] = []
    closes = False
    size = reasons = 0
    for one in evidence:
        before = changed.get(one.instance_id)
        after, effects = _with(shard, one, known[one.instance_id], before)
        if after is not None and after is not before:
            more = len(after.operations) - (len(before.operations) if before else 0)
            following = beats.copy()
            if before is not None and before.beats_as is not None:
                following[before.beats_as] -= 1
            if after.beats_as is not None:
                following[after.beats_as] += 1
            following = +following
            text = reasons + after.reason - (before.reason if before else 0)
            stamps = len(following) + (closes or after.closes)
            if effective and (size + more + stamps > MAX_OPERATIONS or text > MAX_REASONS):
                break
            size, reasons, beats, changed[one.instance_id] = size + more, text, following, after
            closes = closes or after.closes
        effective.append(effects)
    operations: list[Operation] = []
    rows: list[Row] = []
    times: dict[str, Instant] = {}
    for written in changed.values():
        rows.append(Row(written.instance, len(operations)))
        operations += written.operations
        if written.beats_as is not None and written.beat is not None:
            times[written.beats_as] = max(times.get(written.beats_as, Instant(0)), written.beat)
    return Plan(effective, rows, operations, times, closes)


def _with(
    shard: str, evidence: Evidence, known: Known, before: _Changed | None
) -> tuple[_Changed | None, tuple[bool, ...]]:
    """The change after this evidence too, and which of its pieces changed anything."""
    merged = before.instance if before else known.instance
    names = set(before.names) if before else ({merged.function_name} if merged else set())
    beat = before.beat if before else None
    closes = before.closes if before else False
    effects: list[bool] = []
    # Entities never block, so nobody waits for them to settle.
    beating = evidence.beating and not is_entity(evidence.instance_id)
    for piece in evidence.pieces:
        after = piece if merged is None else merge(merged, piece)
        effects.append(after != merged)
        if effects[-1]:
            names.add(piece.function_name)
            if beating:
                beat = max(beat or Instant(0), piece.last_event_at)
            closes = closes or (not evidence.beating and merged is not None and merged.active and not after.active)
        merged = after
    if merged is None or not any(effects):
        return before, tuple(effects)
    return _Changed(merged, _operations(shard, known, merged), names, beat, closes), tuple(effects)


def _operations(shard: str, known: Known, merged: Instance) -> list[Operation]:
    """What turns the rows of `known` into those of `merged`; the instance's own row comes first."""
    row = instance_row(shard, merged)
    operations: list[Operation] = []
    if known.etag is None:
        operations.append(("create", row))
    else:
        operations.append(("update", row, {**unchanged_since(known.etag), "mode": UpdateMode.REPLACE}))
    old = active_key_of(known.instance) if known.instance is not None and known.instance.active else None
    new = active_key_of(merged) if merged.active else None
    if old is not None and old != new:
        operations.append(("delete", {"PartitionKey": shard, "RowKey": old}))
    if new is not None:
        operations.append(("upsert", active_row(shard, new, merged), {"mode": UpdateMode.REPLACE}))
    return operations
