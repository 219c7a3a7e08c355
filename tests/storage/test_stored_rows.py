"""What is stored of one example of every object. `stored_rows.json` records the rows; in it, a column that holds JSON
text is shown as that JSON.

When a change makes these tests fail, raise the schema number of that kind of row in state_api/storage/schema.py. Keep
the number if no version with it was released. Then record the new rows.
"""

import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from state_api.domain.readiness.evidence import ActiveInstance
from state_api.services.ports import ProbeRecord
from state_api.storage.app_rows import (
    app_from_row,
    app_index_row,
    app_row,
    audit_record_from_row,
    audit_row,
    task_hub_from_version_row,
    version_row,
)
from state_api.storage.delivery_checks import delivery_checks_from_row, delivery_checks_row
from state_api.storage.instance_rows import (
    active_instance_from_row,
    active_row,
    active_row_key,
    activity_stamp_row,
    correction_epoch_row,
    instance_from_row,
    instance_row,
)
from state_api.storage.probe_rows import (
    ProbeRowKind,
    held_lease_row,
    message_state_row,
    probe_record_from_rows,
    released_lease_row,
    result_row,
)
from state_api.storage.quarantine_rows import quarantine_row, quarantined_event_from_row
from state_api.storage.routers import acknowledgement_from_row, router_row
from state_api.storage.schema import SCHEMA_PROPERTY
from state_api.storage.task_hub_rows import task_hub_record_from_row, task_hub_row
from state_api.storage.task_hub_state_rows import task_hub_state_from_row, task_hub_state_row
from state_api.storage.timeline_rows import (
    RowCounts,
    StoredCounts,
    add_counts,
    counts_from_row,
    timeline_row,
    timeline_row_key,
)
from tests.storage import stored_examples as examples

Row = dict[str, Any]

_RECORDED = Path(__file__).parent / "stored_rows.json"
_LEASED_UNTIL = examples.noon_plus(60)


@pytest.fixture(autouse=True)
def constant_random_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some keys and columns end in random digits."""
    monkeypatch.setattr(secrets, "token_hex", lambda byte_count: "00" * byte_count)


def example_rows() -> dict[str, Row]:
    """The rows of all examples, by a name for each."""
    restarted = examples.RESTARTED_INSTANCE
    rows = {
        "app": app_row(examples.APP),
        "audit record": audit_row(examples.APP.name, examples.AUDIT_RECORD),
        "entry in the list of apps": app_index_row(examples.APP.name),
        "used version": version_row(examples.APP.name, "2.0.0", "shop20"),
        "router": router_row(examples.APP.name, examples.ROUTER_ACKNOWLEDGEMENT),
        "task hub": task_hub_row(examples.TASK_HUB),
        "state of a task hub": task_hub_state_row(examples.TASK_HUB_STATE),
        "held lease": held_lease_row("owner", _LEASED_UNTIL, examples.SCAN),
        "released lease": released_lease_row(None),
        "probe result": result_row(examples.PROBE_RESULT),
        "message state": message_state_row(examples.MESSAGE_STATE),
        "instance": instance_row("00", restarted),
        "active instance": active_row("00", active_row_key(restarted), restarted),
        "activity stamp": activity_stamp_row("00", "Fulfill", examples.NOON),
        "correction epoch": correction_epoch_row("00"),
        "counters of a timeline": example_timeline_row(),
        "delivery checks": delivery_checks_row(examples.DELIVERY_CHECKS),
        "event in quarantine": quarantine_row(examples.QUARANTINED_EVENT),
    }
    return {name: {column: value for column, value in row.items() if value is not None} for name, row in rows.items()}


def example_timeline_row() -> Row:
    """The row of the example counters."""
    counts: RowCounts = {}
    add_counts(counts, examples.COUNTS.items())
    key = timeline_row_key(examples.COUNTED_MINUTES, secrets.token_hex(8))
    return timeline_row("00", key, StoredCounts(counts=counts).to_json())


def parse_json_columns(row: Row) -> Row:
    """The row with its JSON columns as objects, so that the order of members does not matter."""
    return {name: json.loads(value) if str(value).startswith("{") else value for name, value in row.items()}


def recorded_rows() -> dict[str, Row]:
    """The rows that tests/storage keeps of the present schema, with JSON columns as text."""
    rows: dict[str, Row] = json.loads(_RECORDED.read_text())
    return {
        name: {column: json.dumps(value) if isinstance(value, dict) else value for column, value in row.items()}
        for name, row in rows.items()
    }


def test_the_rows_are_as_recorded() -> None:
    stored = {name: parse_json_columns(row) for name, row in example_rows().items()}
    assert stored == json.loads(_RECORDED.read_text()), "raise the schema number of every kind of row that differs"


def test_the_recorded_rows_have_the_current_schema_numbers() -> None:
    rows = example_rows()
    assert {name: row[SCHEMA_PROPERTY] for name, row in recorded_rows().items()} == {
        name: row[SCHEMA_PROPERTY] for name, row in rows.items()
    }


def test_the_recorded_rows_are_read_as_the_examples() -> None:
    rows = recorded_rows()
    assert app_from_row(rows["app"]) == examples.APP
    assert audit_record_from_row(rows["audit record"]) == examples.AUDIT_RECORD
    assert task_hub_from_version_row(rows["used version"]) == "shop20"
    assert acknowledgement_from_row(rows["router"]) == examples.ROUTER_ACKNOWLEDGEMENT
    assert task_hub_record_from_row(rows["task hub"]) == examples.TASK_HUB
    assert task_hub_state_from_row(rows["state of a task hub"]) == examples.TASK_HUB_STATE
    assert instance_from_row(rows["instance"]) == examples.RESTARTED_INSTANCE
    active = ActiveInstance.from_instance(active_instance_from_row(rows["active instance"]))
    assert active == ActiveInstance.from_instance(examples.RESTARTED_INSTANCE)
    assert counts_from_row(rows["counters of a timeline"]) == examples.COUNTS
    assert delivery_checks_from_row(rows["delivery checks"]) == examples.DELIVERY_CHECKS
    event = quarantined_event_from_row(rows["event in quarantine"])
    assert (event.event, event.task_hub, event.code) == ('{"id": 1}', "Shop1", "TooManyTaskHubs")


def test_the_recorded_probe_rows_are_read_as_the_examples() -> None:
    rows = recorded_rows()
    by_kind: dict[str, Row] = {
        ProbeRowKind.LEASE: rows["held lease"],
        ProbeRowKind.RESULT: rows["probe result"],
        ProbeRowKind.MESSAGES: rows["message state"],
    }
    assert probe_record_from_rows(by_kind) == ProbeRecord(
        result=examples.PROBE_RESULT,
        scan=examples.SCAN,
        leased_until=_LEASED_UNTIL,
        lease_owner="owner",
        message_state=examples.MESSAGE_STATE,
    )
    assert probe_record_from_rows({ProbeRowKind.LEASE: rows["released lease"]}) == ProbeRecord()
