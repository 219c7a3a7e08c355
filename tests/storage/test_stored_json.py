"""Every object that is stored as JSON survives a round trip with any values of its members."""

import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from state_api.domain.instants import Instant, parse_instant
from state_api.domain.readiness.evidence import ProbeResult
from state_api.domain.readiness.messages import MessageState
from state_api.domain.readiness.scans import Scan
from state_api.domain.releases.apps import App
from state_api.services.ports import AuditRecord, ProbeRecord, TaskHubRecord
from state_api.storage.app_rows import app_from_row, app_row, audit_record_from_row, audit_row
from state_api.storage.probe_rows import (
    ProbeRowKind,
    held_lease_row,
    message_state_row,
    probe_record_from_rows,
    result_row,
)
from state_api.storage.stored_apps import StoredApp, StoredAuditRecord
from state_api.storage.stored_message_states import StoredMessageState
from state_api.storage.stored_probe_results import StoredProbeResult
from state_api.storage.stored_scans import StoredScan
from state_api.storage.task_hub_rows import task_hub_record_from_row, task_hub_row
from state_api.storage.task_hub_state_rows import TaskHubState, task_hub_state_from_row, task_hub_state_row

INSTANTS = st.integers(parse_instant("0001-01-01T00:00:00Z"), parse_instant("9999-12-31T23:59:59.9999999Z")).map(
    Instant
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=5,
)
PRIMITIVES: dict[Any, st.SearchStrategy[Any]] = {
    Instant: INSTANTS,
    Any: JSON_VALUES,
    str: st.text(max_size=20),
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    types.NoneType: st.none(),
}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of this type. All fields of a dataclass vary, also those with a default, so that a field that the storage
    does not know fails these tests."""
    if hint in PRIMITIVES:
        return PRIMITIVES[hint]
    if isinstance(hint, type) and is_dataclass(hint):
        hints = get_type_hints(hint)
        return st.builds(hint, **{field.name: values_of(hints[field.name]) for field in fields(hint)})
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        return st.one_of(*(values_of(argument) for argument in arguments))
    if origin in (dict, Mapping):
        return st.dictionaries(values_of(arguments[0]), values_of(arguments[1]), max_size=3)
    if origin is tuple and arguments[-1] is not ...:
        return st.tuples(*(values_of(argument) for argument in arguments))
    if origin in (list, tuple):
        return st.lists(values_of(arguments[0]), max_size=3).map(origin)
    raise AssertionError(f"no values for {hint}")


def build_values(kind: Any) -> Any:
    """A strategy for values of a class."""
    return st.deferred(lambda: values_of(kind))


@given(build_values(App))
def test_an_app_survives_a_round_trip(app: App) -> None:
    assert app_from_row(app_row(app)) == app


@given(build_values(AuditRecord))
def test_an_audit_record_survives_a_round_trip(record: AuditRecord) -> None:
    assert audit_record_from_row(audit_row("shop", record)) == record


@given(build_values(ProbeResult), build_values(Scan), build_values(MessageState), INSTANTS)
def test_a_probe_record_survives_a_round_trip(
    result: ProbeResult, scan: Scan, message_state: MessageState, leased_until: Instant
) -> None:
    rows: dict[str, dict[str, Any]] = {
        ProbeRowKind.LEASE: held_lease_row("owner", leased_until, scan),
        ProbeRowKind.RESULT: result_row(result),
        ProbeRowKind.MESSAGES: message_state_row(message_state),
    }
    assert probe_record_from_rows(rows) == ProbeRecord(result, scan, leased_until, "owner", message_state)


@given(build_values(TaskHubState))
def test_the_state_of_a_task_hub_survives_a_round_trip(state: TaskHubState) -> None:
    stored = {name: value for name, value in task_hub_state_row(state).items() if value is not None}
    assert task_hub_state_from_row(stored) == state


@given(build_values(TaskHubRecord))
def test_a_registered_task_hub_survives_a_round_trip(record: TaskHubRecord) -> None:
    stored = {name: value for name, value in task_hub_row(record).items() if value is not None}
    assert task_hub_record_from_row(stored) == record


Reader = Callable[[str], object]


@pytest.mark.parametrize(
    "read",
    [
        StoredApp.from_json,
        StoredAuditRecord.from_json,
        StoredProbeResult.from_json,
        StoredScan.from_json,
        StoredMessageState.from_json,
    ],
)
@pytest.mark.parametrize("text", ["", "{", "null", "[]", "{}", '{"status": "Superb"}'])
def test_json_without_the_members_of_its_schema_is_refused(read: Reader, text: str) -> None:
    with pytest.raises(ValidationError):
        read(text)


def test_a_member_that_this_schema_does_not_know_is_refused() -> None:
    text = StoredApp.from_domain(App("shop")).to_json()
    assert StoredApp.from_json(text).to_domain() == App("shop")
    with pytest.raises(ValidationError):
        StoredApp.from_json(text.removesuffix("}") + ',"newMember":1}')
