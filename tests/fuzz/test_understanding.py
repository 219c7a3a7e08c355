"""The parser of events: whatever comes, it is understood, or the reason is one that is documented."""

import json
from bisect import bisect_left
from typing import Any

import pytest
from hypothesis import example, given, settings

from state_api.domain.instants import parse_instant
from state_api.domain.lifecycle import short_reason
from state_api.services.envelopes import QUARANTINE_CODES, NotUnderstood, understand
from tests.fuzz.events import ANY_EVENTS, LONGEST_ID, bad_events, good_events, utf16
from tests.profiles import examples

NOW = parse_instant("2026-11-21T00:00:00Z")
MANY = settings(max_examples=examples(every_time=25, fuzz=5000), database=None)


def refusal(event: Any) -> NotUnderstood | None:
    try:
        understand(event, NOW)
    except NotUnderstood as reason:
        return reason
    return None


def understood(event: Any) -> bool:
    """Whether an event is understood. What is understood can be stored, and what is not can be told to people."""
    if (reason := refusal(event)) is not None:
        assert reason.code in QUARANTINE_CODES
        assert reason.message.isascii()
        assert reason.message.isprintable()
        assert len(reason.message) < 250
        return False
    found = understand(event, NOW)
    assert 0 < utf16(found.instance_id) <= LONGEST_ID
    assert found.reason == short_reason(found.reason)
    for text in (found.function_name, found.reason):
        text.encode()
        assert len(text) <= 1000
    return True


@MANY
@given(ANY_EVENTS)
@example({"eventType": float("nan")})
def test_anything_is_understood_or_refused_for_a_documented_reason(event: Any) -> None:
    understood(event)


@MANY
@given(good_events())
def test_good_events_are_understood(event: Any) -> None:
    assert understood(event)


@MANY
@given(bad_events())
def test_bad_events_are_refused(event: Any) -> None:
    assert not understood(event)


FRAMES = 12
"""How much deeper than the reader of JSON the parser may be called: each host reads where it likes."""


def deeper(frames: int, event: Any) -> bool:
    return deeper(frames - 1, event) if frames else understood(event)


def readable(text: str) -> Any:
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
        return readable(json.dumps(event).replace('"DEEP"', "[" * depth + "]" * depth))

    first_refused = bisect_left(range(100_000), True, key=lambda depth: at(depth) is None)
    assert 100 < first_refused < 100_000
    for depth in range(first_refused - 60, first_refused):
        assert deeper(FRAMES, at(depth)) is (place == "reason")
