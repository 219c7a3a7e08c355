"""The rows that hold the probes of a task hub: its lease with an unfinished scan, its last result, and what is
remembered of its messages. They are separate rows because each can be long. All are in the first shard of the task
hub's instance table."""

import logging
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from state_api.domain.instants import Instant, format_instant, parse_instant
from state_api.domain.readiness.evidence import ProbeResult
from state_api.domain.readiness.messages import MessageState
from state_api.domain.readiness.scans import Scan
from state_api.services.ports import ProbeRecord
from state_api.storage.instance_keys import FIRST_SHARD
from state_api.storage.instance_rows import HUB_ROWS_FROM
from state_api.storage.schema import PROBE_SCHEMA
from state_api.storage.stored_message_states import StoredMessageState
from state_api.storage.stored_probe_results import StoredProbeResult
from state_api.storage.stored_scans import StoredScan
from state_api.storage.tables import join_property, split_property

log = logging.getLogger(__name__)


class ProbeRowKind(StrEnum):
    """The last part of a row's key."""

    LEASE = "lease"
    RESULT = "result"
    MESSAGES = "messages"


PROBE_ROWS_FROM = HUB_ROWS_FROM + ProbeRowKind.LEASE
PROBE_ROWS_TO = "0}"
"""The range of the keys, from the first one to an end that is no key itself. The row of the task hub's state sorts
before the range."""


def _probe_row(kind: ProbeRowKind, **columns: Any) -> dict[str, Any]:
    key = HUB_ROWS_FROM + kind
    return {"PartitionKey": FIRST_SHARD, "RowKey": key, **PROBE_SCHEMA.schema_property, **columns}


def held_lease_row(lease_owner: str, until: Instant, scan: Scan | None) -> dict[str, Any]:
    """The row of a lease that a worker holds, with the scan that it has come to so far."""
    return _probe_row(
        ProbeRowKind.LEASE,
        LeaseOwner=lease_owner,
        LeasedUntil=format_instant(until),
        **_scan_columns(scan),
    )


def released_lease_row(scan: Scan | None) -> dict[str, Any]:
    """A lease row that any worker can take at once. It keeps an unfinished scan, so that the next worker continues
    it."""
    return _probe_row(ProbeRowKind.LEASE, **_scan_columns(scan))


def renewed_lease_row(until: Instant) -> dict[str, Any]:
    """The columns to merge into a held lease. The scan stays as it is, because writing it again takes long."""
    return _probe_row(ProbeRowKind.LEASE, LeasedUntil=format_instant(until))


def result_row(result: ProbeResult) -> dict[str, Any]:
    """The row that holds the result of a probe."""
    text = StoredProbeResult.from_domain(result).to_json()
    return _probe_row(ProbeRowKind.RESULT, **split_property("Result", text))


def message_state_row(state: MessageState) -> dict[str, Any]:
    """The row that holds what was seen of a task hub's messages."""
    text = StoredMessageState.from_domain(state).to_json()
    return _probe_row(ProbeRowKind.MESSAGES, **split_property("MessageState", text))


def probe_row_kind(row: Mapping[str, Any]) -> str:
    """What the row holds of a probe, as a ProbeRowKind names it. Raises UnsupportedSchema."""
    PROBE_SCHEMA.check(row)
    return str(row["RowKey"]).removeprefix(HUB_ROWS_FROM)


def probe_record_from_rows(rows: Mapping[str, Mapping[str, Any]]) -> ProbeRecord:
    """The record in a task hub's `rows`, which are keyed by their kind. JSON that cannot be read counts as missing,
    because the next probe replaces it."""
    lease: Mapping[str, Any] = rows.get(ProbeRowKind.LEASE, {})
    leased_until = lease.get("LeasedUntil")
    return ProbeRecord(
        result=_parse_result(join_property("Result", rows.get(ProbeRowKind.RESULT, {}))),
        scan=_parse_scan(join_property("Scan", lease)),
        leased_until=parse_instant(leased_until) if leased_until else None,
        lease_owner=lease.get("LeaseOwner", ""),
        message_state=_parse_message_state(join_property("MessageState", rows.get(ProbeRowKind.MESSAGES, {}))),
    )


def _scan_columns(scan: Scan | None) -> dict[str, str]:
    """The columns that hold a scan, as JSON in parts that fit into a property; none without a scan."""
    return split_property("Scan", StoredScan.from_domain(scan).to_json()) if scan is not None else {}


def _parse_result(text: str) -> ProbeResult | None:
    """The stored result of a probe. None if there is none, or none that this version can read: the task hub is read
    again."""
    try:
        return StoredProbeResult.from_json(text).to_domain() if text else None
    except ValueError as error:
        _log_unreadable("probe result", error)
        return None


def _parse_scan(text: str) -> Scan | None:
    """The stored scan. None if there is none, or none that this version can read: the scan begins anew."""
    try:
        return StoredScan.from_json(text).to_domain() if text else None
    except ValueError as error:
        _log_unreadable("scan", error)
        return None


def _parse_message_state(text: str) -> MessageState:
    """What is remembered of the messages. Empty if nothing is stored that this version can read."""
    try:
        return StoredMessageState.from_json(text).to_domain() if text else MessageState()
    except ValueError as error:
        _log_unreadable("message state", error)
        return MessageState()


def _log_unreadable(stored_object: str, error: ValueError) -> None:
    """Log that a stored object was ignored, which another version of the server has written."""
    # The error's own text is left out, because it shows the stored values.
    log.warning("a stored %s cannot be read: %s", stored_object, type(error).__name__)
