"""The regular expressions agree with the rules, which decode path and query."""

import re
from urllib.parse import unquote

from hypothesis import example, given
from hypothesis import strategies as st

from safe_deploy.routers.patterns import (
    build_management_path_pattern,
    build_starts_pattern,
    build_task_hub_pattern,
    encoded,
)
from safe_deploy.routers.rules import find_task_hub
from tests.routers.examples import EXAMPLES, NAMES

_MANAGEMENT = re.compile(build_management_path_pattern())
_STARTS = re.compile(build_starts_pattern())
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
    if not _MANAGEMENT.fullmatch(target) or _STARTS.fullmatch(target) or not _ANY_TASK_HUB.fullmatch(target):
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


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=8))
def test_encoded_text_is_matched_in_every_encoding(text: str) -> None:
    fully_encoded = "".join(f"%{ord(character):02x}" for character in text.upper())
    pattern = re.compile(encoded(re.sub("[^a-z0-9/]", "", text)))
    assert pattern.fullmatch(re.sub("[^a-z0-9/]", "", text).upper())
    assert unquote(fully_encoded) == text.upper()
