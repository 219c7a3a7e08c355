"""Sanitized text: examples of known attacks, and properties of every text."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_deploy.sanitization import (
    MAX_CELL_LENGTH,
    MAX_LINE_LENGTH,
    escape_markdown,
    escape_unprintable,
    sanitize_cells,
    sanitize_line,
)
from tests.safe_deploy.logging_commands import find_azure_commands, find_github_commands, find_terminal_effects

commands = ["::", "::error::", "::set-output name=a::b", "##[", "##VSO[", "##vso[task.complete]", "##teamcity["]
hidden = ["#\u034f#vso[", "#\ufe0f#[", ":\u115f:error::", "\U000e0100", "\u00ad", "\u200b"]
controls = [
    "\r",
    "\n",
    "\r\n",
    "\t",
    "\x1b[2J",
    "\x9b31m",
    "\x7f",
    "\x85",
    "\u2028",
    "\u2029",
    "\u202e",
    "\u2066",
    "\0",
]
pieces = [*commands, *hidden, *controls, " ", ":", "#", "[", "]", "vso", "error", "\ud800", "[red]", "a"]
anything = st.text(st.characters()) | st.lists(st.sampled_from(pieces)).map("".join)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("order-1", "order-1"),
        ("José 田中 ✓", "José 田中 ✓"),
        ("order::123 at ::1, # [x] ## heading: 10:30", "order: :123 at : :1, # [x] ## heading: 10:30"),
        ("order::123", "order::123"),
        ("::error::no", ": :error::no"),
        ("a::error::b", "a: :error::b"),
        ("a::::b", "a: : : :b"),
        (":::error::no", ": : :error::no"),
        ("##vso[task.complete result=Succeeded;]", "# #vso[task.complete result=Succeeded;]"),
        ("id ##VSO[x]", "id # #VSO[x]"),
        ("id###[error]no", "id# # #[error]no"),
        ("##teamcity[buildStop]", "# #teamcity[buildStop]"),
        ("#\u034f#[error]", "#\\u034f#[error]"),
        ("one\ntwo\r\n", "one\\ntwo\\r\\n"),
        ("\x1b[2J\x07\x9b\x7f", "\\x1b[2J\\x07\\x9b\\x7f"),
        ("\u202e\u2066\u200f\u2028\u2029\ufeff", "\\u202e\\u2066\\u200f\\u2028\\u2029\\ufeff"),
        ("\ud800", "\\ud800"),
    ],
)
def test_a_text_is_printed_on_one_line_without_commands(text: str, printed: str) -> None:
    assert sanitize_line(text) == printed


@settings(deadline=None)
@given(text=anything, start=st.integers(0, 40), end=st.integers(0, 40))
def test_no_part_of_a_sanitized_line_is_a_command_or_moves_the_cursor(text: str, start: int, end: int) -> None:
    printed = sanitize_line(text)
    for part in (printed, printed[start:], printed[start : start + end], *printed.split()):
        assert find_github_commands(part) == []
        assert find_azure_commands(part) == []
    assert find_terminal_effects(printed) == []
    assert "\n" not in printed
    assert sanitize_line(printed) == printed


@settings(deadline=None)
@given(row=st.lists(anything, min_size=1, max_size=4))
def test_the_cells_of_a_row_together_are_not_a_command(row: list[str]) -> None:
    printed = sanitize_cells(row)
    assert len(printed) == len(row)
    text = "  ".join(printed)
    for start in range(min(len(text), 60)):
        assert find_github_commands(text[start:]) == []
    assert find_azure_commands(text) == []


def test_only_one_cell_of_a_row_keeps_its_colons() -> None:
    assert sanitize_cells(["order:::1", "a::b"]) == ["order: : :1", "a: :b"]
    assert sanitize_cells(["order::1", "b"]) == ["order::1", "b"]


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_printable_text_stays_unchanged(text: str) -> None:
    plain = re.sub(r"[:#\\]", "", text)
    if plain.isprintable() and escape_unprintable(plain) == plain and len(plain) < MAX_LINE_LENGTH:
        assert sanitize_line(plain) == plain


def test_a_long_text_is_truncated_and_shows_its_length() -> None:
    assert (
        sanitize_line("o" * (MAX_LINE_LENGTH + 1)) == f"{'o' * MAX_LINE_LENGTH}... ({MAX_LINE_LENGTH + 1} characters)"
    )
    assert sanitize_cells(["o" * 2000]) == [f"{'o' * MAX_CELL_LENGTH}... (2000 characters)"]
    assert sanitize_line("o" * MAX_LINE_LENGTH) == "o" * MAX_LINE_LENGTH


@settings(deadline=None)
@given(text=anything)
def test_escaped_markdown_is_one_line_with_all_punctuation_escaped(text: str) -> None:
    printed = escape_markdown(text)
    assert find_terminal_effects(printed) == []
    assert "\n" not in printed
    assert re.search(r"[!-/:-@\[-`{-~]", re.sub(r"\\[!-/:-@\[-`{-~]", "", printed)) is None


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x>",
        "a|b",
        "[x](y)",
        "`code`",
        "&#x202e;",
        "https://evil.example",
        "www.evil.example",
        "@octocat",
        "1. a",
    ],
)
def test_escaped_markdown_contains_no_markup(text: str) -> None:
    assert not re.search(r"(?<!\\)[<>|\[\]()`&:.@]", escape_markdown(text))
