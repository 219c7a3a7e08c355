"""The event parser: it parses any value as an event, or refuses it with a documented code."""

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


def find_parse_error(event: Any) -> InvalidEvent | None:
    """The error with which the parser refuses the event, or None."""
    try:
        parse_event(event, NOW)
    except InvalidEvent as error:
        return error
    return None


def is_valid(event: Any) -> bool:
    """Whether the parser accepts the event.

    Asserts that the storage can hold the parsed event, and that the message of an error can be shown.
    """
    if (error := find_parse_error(event)) is not None:
        assert error.code in QUARANTINE_CODES
        assert error.message.isascii()
        assert error.message.isprintable()
        assert len(error.message) < 250
        return False
    parsed = parse_event(event, NOW)
    assert 0 < utf16_length(parsed.instance_id) <= MAX_INSTANCE_ID_LENGTH
    assert parsed.reason == shorten_reason(parsed.reason)
    for text in (parsed.function_name, parsed.reason):
        text.encode()
        assert len(text) <= 1000
    return True


@MANY_EXAMPLES
@given(ANY_EVENTS)
@example({"eventType": float("nan")})
def test_any_value_is_parsed_or_refused_with_a_documented_code(event: Any) -> None:
    is_valid(event)


@MANY_EXAMPLES
@given(valid_events())
def test_valid_events_are_parsed(event: Any) -> None:
    assert is_valid(event)


@MANY_EXAMPLES
@given(invalid_events())
def test_invalid_events_are_refused(event: Any) -> None:
    assert not is_valid(event)


EXTRA_FRAMES = 12
"""How many stack frames deeper than the JSON parser the event parser may be called, which depends on the host."""


def is_valid_at_stack_depth(frames: int, event: Any) -> bool:
    """Whether the parser accepts the event when it is called this many stack frames deeper."""
    return is_valid_at_stack_depth(frames - 1, event) if frames else is_valid(event)


def parse_or_none(text: str) -> Any:
    """The parsed text; None if it is nested too deeply for this interpreter."""
    try:
        return json.loads(text)
    except RecursionError:
        return None


@pytest.mark.parametrize(
    "member", ["eventType", "eventTime", "data", "hubName", "instanceId", "runtimeStatus", "reason"]
)
def test_any_nesting_that_the_json_parser_accepts_is_handled(member: str) -> None:
    """The greatest depth depends on the interpreter, so the test finds it and tries the 60 depths before it."""
    data = {"hubName": "hub1", "instanceId": "order-1", "runtimeStatus": "Running"}
    event: dict[str, Any] = {"eventType": "orchestratorEvent", "eventTime": "2026-11-20T09:00:00Z", "data": data}
    (event if member in ("eventType", "eventTime", "data") else data)[member] = "DEEP"

    def build_nested_event(depth: int) -> Any:
        return parse_or_none(json.dumps(event).replace('"DEEP"', "[" * depth + "]" * depth))

    first_refused = bisect_left(range(100_000), 1, key=lambda depth: int(build_nested_event(depth) is None))
    assert 100 < first_refused < 100_000
    for depth in range(first_refused - 60, first_refused):
        assert is_valid_at_stack_depth(EXTRA_FRAMES, build_nested_event(depth)) is (member == "reason")
