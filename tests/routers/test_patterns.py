"""The regular expressions agree with the rules, which decode path and query."""

import re
from urllib.parse import unquote

from hypothesis import example, given
from hypothesis import strategies as st

from safe_deploy.routers.patterns import (
    build_coded_separator_pattern,
    build_control_pattern,
    build_dot_segment_pattern,
    build_management_path_pattern,
    build_purge_pattern,
    build_task_hub_pattern,
    encoded,
)
from safe_deploy.routers.rules import RoutedRequest, find_task_hub, has_dot_segment, starts_nothing
from tests.routers.examples import EXAMPLES, NAMES

_MANAGEMENT = re.compile(build_management_path_pattern())
_CONTROL = re.compile(build_control_pattern())
_PURGE = re.compile(build_purge_pattern())
_CODED_SEPARATOR = re.compile(build_coded_separator_pattern())
_DOT_SEGMENT = re.compile(build_dot_segment_pattern())
_ANY_TASK_HUB = re.compile(build_task_hub_pattern())
_TASK_HUBS = {name.lower(): re.compile(build_task_hub_pattern(name)) for name in NAMES.values()}

_ENCODED_LETTER = st.sampled_from("taskhubTASKHUB0").map(lambda letter: f"%{ord(letter):02X}")
_NAME_PARTS = st.one_of(st.sampled_from("taskhubTASKHUB%46=x"), _ENCODED_LETTER)
_ALMOST_TASK_HUB = st.lists(_NAME_PARTS, max_size=10).map("".join)
_NAMES = st.sampled_from(["taskHub", "TASKHUB", "task%48ub", "code", "taskHu", "taskHubs"])
_VALUES = st.sampled_from(["", "=", "=shop140", "=SHOP150", "=other", "=%73hop140", "==shop140"])
_PARAMETER = st.one_of(st.tuples(_NAMES, _VALUES).map("".join), _ALMOST_TASK_HUB)
_PATHS = st.sampled_from(
    [
        "/runtime/webhooks/durabletask/instances/a",
        "/Runtime/webhooks/durable%74ask/instances",
        "/runtime/webhooks/durabletask/orchestrators/a",
        "/runtime/webhooks/durabletask/",
        "/runtime/webhooks/durabletask",
        "/orders",
    ]
)
_TARGETS = st.tuples(_PATHS, st.lists(_PARAMETER, max_size=4).map("&".join)).map("?".join)


def _find_task_hub_by_patterns(target: str) -> str | None:
    """What routes of these patterns find: a known task hub, any other as empty text, or none."""
    if not _MANAGEMENT.fullmatch(target) or not _ANY_TASK_HUB.fullmatch(target):
        return None
    return next((name for name, pattern in _TASK_HUBS.items() if pattern.fullmatch(target)), "")


def _assert_same(target: str) -> None:
    """The patterns find the same task hub in a request as the rules do."""
    task_hub = find_task_hub(target)
    expected = None if task_hub is None else task_hub.lower() if task_hub.lower() in _TASK_HUBS else ""
    assert _find_task_hub_by_patterns(target) == expected


def test_the_patterns_find_the_task_hubs_of_the_examples() -> None:
    for row in EXAMPLES:
        _assert_same(row.target)


@given(_TARGETS)
@example("/runtime/webhooks/durabletask/instances?task%")
@example("/runtime/webhooks/durabletask/instances?%7&taskHub=shop140")
def test_the_patterns_find_the_same_task_hub_as_the_rules(target: str) -> None:
    _assert_same(target)


_SEPARATORS = st.sampled_from(["/", "/", "/", "/", "\\", "%2f", "%5C", "%252F", "%25255c", "%%32f", "%2%66"])
_SEGMENTS = st.one_of(
    st.sampled_from(["", "a", "@c@a", "%40c", "%4", "%", "%4a", "%25", "terminate", "Resum%65", "restart"]),
    st.sampled_from(["raiseEvent", "instances", ".", "..", "%2e", ".%2E", "%252e.", "%25%32%65", "...", ".a"]),
)
_CALLS = st.lists(st.tuples(_SEPARATORS, _SEGMENTS).map("".join), max_size=4).map(
    lambda segments: "".join(["/runtime/webhooks/durabletask/instances", *segments])
)
_QUERIES = st.sampled_from(["", "?", "?taskHub=shop140", "?x=/terminate", "?x=/../%2f"])


@given(_CALLS, _QUERIES, st.sampled_from(["POST", "DELETE"]))
@example("/runtime/webhooks/durabletask/instances/%/terminate", "", "POST")
@example("/runtime/webhooks/durabletask/instances/%4/terminate", "?taskHub=shop140", "POST")
@example("/runtime/webhooks/durabletask/instances/%40c@a/raiseEvent/op", "", "POST")
@example("/runtime/webhooks/durabletask/instances/", "", "DELETE")
def test_the_patterns_find_the_same_calls_that_start_nothing_as_the_rules(path: str, query: str, method: str) -> None:
    target = path + query
    is_known = _CONTROL.fullmatch(target) or (method == "DELETE" and _PURGE.fullmatch(target))
    is_safe = bool(is_known and not _CODED_SEPARATOR.fullmatch(target))
    assert is_safe == starts_nothing(RoutedRequest(target, method=method))


@given(_CALLS, _QUERIES)
@example("/runtime/webhooks/durabletask/instances/..", "")
@example("/runtime/webhooks/durabletask/instances/%25%32%65", "?taskHub=shop140")
def test_the_pattern_finds_the_same_dot_segments_as_the_rules(path: str, query: str) -> None:
    assert (_DOT_SEGMENT.fullmatch(path + query) is not None) == has_dot_segment(path + query)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=8))
def test_encoded_text_is_matched_in_every_encoding(text: str) -> None:
    fully_encoded = "".join(f"%{ord(character):02x}" for character in text.upper())
    pattern = re.compile(encoded(re.sub("[^a-z0-9/]", "", text)))
    assert pattern.fullmatch(re.sub("[^a-z0-9/]", "", text).upper())
    assert unquote(fully_encoded) == text.upper()
