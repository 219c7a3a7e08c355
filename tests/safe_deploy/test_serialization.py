"""Results as JSON and YAML: printable ASCII, without commands, and with unchanged content for every text."""

import json
from enum import StrEnum
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safe_deploy.serialization import format_json, format_yaml
from tests.safe_deploy.logging_commands import find_azure_commands, find_github_commands
from tests.safe_deploy.test_sanitization import anything

numbers = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
results = st.dictionaries(anything, anything | numbers | st.lists(anything) | st.dictionaries(anything, anything))


class _Status(StrEnum):
    READY = "Ready"


def assert_that_no_log_reads_commands(text: str) -> None:
    """Printable ASCII, of which neither GitHub nor Azure Pipelines executes a line."""
    assert all(character == "\n" or " " <= character <= "~" for character in text)
    assert find_github_commands(text) == []
    assert find_azure_commands(text) == []


@settings(deadline=None)
@given(values=results)
def test_json_is_printable_ascii_without_commands_and_keeps_its_content(values: dict[str, object]) -> None:
    text = format_json(values)
    assert json.loads(text) == json.loads(json.dumps(values))
    assert_that_no_log_reads_commands(text)


@settings(deadline=None)
@given(values=results)
@example(values={"::error::" + "x" * 200: "##[error]"})  # a key so long that YAML puts its value on the next line
@example(values={"a": "one\n::error::two\n", "b": " x ", "c": "- x: y # z", "d": "###[", "e": "\\##vso["})
def test_yaml_is_printable_ascii_without_commands_and_keeps_its_content(values: dict[str, object]) -> None:
    text = format_yaml(values)
    assert yaml.safe_load(text) == json.loads(json.dumps(values))
    assert_that_no_log_reads_commands(text)


@settings(deadline=None)
@given(text=st.text())
def test_yaml_keeps_every_text_on_one_line(text: str) -> None:
    assert len(format_yaml([text]).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        *("yes", "No", "on", "null", "true", "y", "N", "~", "=", "<<", "-", ".inf"),
        *("150", "1.5.0", "12e34567", "0o17", "0x1f", "1_000", "1:30", "2026-11-27", "2026-11-27T12:00:00Z"),
    ],
)
def test_yaml_quotes_a_text_that_a_parser_could_take_for_something_else(text: str) -> None:
    """Parsers of YAML 1.1 and 1.2 differ. A commit such as 12e34567 is a number to some of them."""
    assert format_yaml({"version": text}) in (f"version: '{text}'\n", f'version: "{text}"\n')


def test_yaml_keeps_the_order_and_repeats_an_object_instead_of_referring_to_it() -> None:
    hub = {"taskHub": "shop42", "ready": True, "count": 3, "version": None}
    result: dict[str, Any] = {"status": _Status.READY, "hubs": [hub, hub]}
    assert format_yaml(result) == (
        "status: Ready\n"
        "hubs:\n"
        "- taskHub: shop42\n  ready: true\n  count: 3\n  version: null\n"
        "- taskHub: shop42\n  ready: true\n  count: 3\n  version: null\n"
    )
