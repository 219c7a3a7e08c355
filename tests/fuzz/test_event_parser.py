"""The parser of events: whatever comes, it is understood, or the reason is one that is documented."""

import json
from bisect import bisect_left
from typing import Any

import pytest
from hypothesis import example, given, settings

from state_api.domain.instants import parse_instant
from state_api.domain.task_hubs.lifecycle import shorten_reason
from state_api.services.event_parser import QUARANTINE_CODES, InvalidEvent, parse_event
from tests.fuzz.event_strategies import ANY_EVENTS, MAX_INSTANCE_ID_LENGTH, invalid_events, utf16_length, valid_events
from tests.hypothesis_profiles import example_count

NOW = parse_instant("2026-11-21T00:00:00Z")
MANY_EXAMPLES = settings(max_examples=example_count(by_default=25, fuzz=5000), database=None)


def parse_error(event: Any) -> InvalidEvent | None:
    try:
        parse_event(event, NOW)
    except InvalidEvent as reason:
        return reason
    return None


def is_understood(event: Any) -> bool:
    """Whether an event is understood. What is understood can be stored, and what is not can be told to people."""
    if (reason := parse_error(event)) is not None:
        assert reason.code in QUARANTINE_CODES
        assert reason.message.isascii()
        assert reason.message.isprintable()
        assert len(reason.message) < 250
        return False
    found = parse_event(event, NOW)
    assert 0 < utf16_length(found.instance_id) <= MAX_INSTANCE_ID_LENGTH
    assert found.reason == shorten_reason(found.reason)
    for text in (found.function_name, found.reason):
        text.encode()
        assert len(text) <= 1000
    return True


@MANY_EXAMPLES
@given(ANY_EVENTS)
@example({"eventType": float("nan")})
def test_anything_is_understood_or_refused_for_a_documented_reason(event: Any) -> None:
    is_understood(event)


@MANY_EXAMPLES
@given(valid_events())
def test_good_events_are_understood(event: Any) -> None:
    assert is_understood(event)


@MANY_EXAMPLES
@given(invalid_events())
def test_bad_events_are_refused(event: Any) -> None:
    assert not is_understood(event)


EXTRA_FRAMES = 12
"""How much deeper than the reader of JSON the parser may be called: each host reads where it likes."""


def is_understood_at_depth(frames: int, event: Any) -> bool:
    return is_understood_at_depth(frames - 1, event) if frames else is_understood(event)


def parse_or_none(text: str) -> Any:
    """What the text says, or None where that is too deep for this interpreter."""
    try:
        return json.loads(text)
    except RecursionError:
        return None


@pytest.mark.parametrize(
    "place", ["eventType", "eventTime", "data", "hubName", "instanceId", "runtimeStatus", "reason"]
)
def test_what_the_reader_of_json_takes_is_never_too_deep(place: str) -> None:
    """How deep that is depends on the interpreter, so the last depths before it refuses are tried, every one."""
    data = {"hubName": "hub1", "instanceId": "order-1", "runtimeStatus": "Running"}
    event: dict[str, Any] = {"eventType": "orchestratorEvent", "eventTime": "2026-11-20T09:00:00Z", "data": data}
    (event if place in ("eventType", "eventTime", "data") else data)[place] = "DEEP"

    def at(depth: int) -> Any:
        return parse_or_none(json.dumps(event).replace('"DEEP"', "[" * depth + "]" * depth))

    first_refused = bisect_left(range(100_000), True, key=lambda depth: at(depth) is None)
    assert 100 < first_refused < 100_000
    for depth in range(first_refused - 60, first_refused):
        assert is_understood_at_depth(EXTRA_FRAMES, at(depth)) is (place == "reason")
