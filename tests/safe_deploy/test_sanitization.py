"""What is printable, and how: for every text, not only for known attacks."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_deploy.sanitization import (
    MAX_CELL_LENGTH,
    MAX_LINE_LENGTH,
    escape_markdown,
    escape_unprintable,
    format_json,
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
    ("text", "shown"),
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
def test_a_text_is_shown_on_one_line_and_is_not_obeyed(text: str, shown: str) -> None:
    assert sanitize_line(text) == shown


@settings(deadline=None)
@given(text=anything, start=st.integers(0, 40), end=st.integers(0, 40))
def test_no_part_of_a_printable_text_is_a_command_or_moves_a_cursor_wherever_a_terminal_wraps_it(
    text: str, start: int, end: int
) -> None:
    shown = sanitize_line(text)
    for part in (shown, shown[start:], shown[start : start + end], *shown.split()):
        assert find_github_commands(part) == []
        assert find_azure_commands(part) == []
    assert find_terminal_effects(shown) == []
    assert "\n" not in shown
    assert sanitize_line(shown) == shown


@settings(deadline=None)
@given(row=st.lists(anything, min_size=1, max_size=4))
def test_the_cells_of_a_row_are_no_command_together_either(row: list[str]) -> None:
    shown = sanitize_cells(row)
    assert len(shown) == len(row)
    text = "  ".join(shown)
    for start in range(min(len(text), 60)):
        assert find_github_commands(text[start:]) == []
    assert find_azure_commands(text) == []


def test_two_cells_with_colons_are_no_command_together() -> None:
    assert sanitize_cells(["order:::1", "a::b"]) == ["order: : :1", "a: :b"]
    assert sanitize_cells(["order::1", "b"]) == ["order::1", "b"]


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_printable_by_itself_stays_as_it_is(text: str) -> None:
    plain = re.sub(r"[:#\\]", "", text)
    if plain.isprintable() and escape_unprintable(plain) == plain and len(plain) < MAX_LINE_LENGTH:
        assert sanitize_line(plain) == plain


def test_a_long_text_is_cut_off_and_says_how_long_it_was() -> None:
    assert (
        sanitize_line("o" * (MAX_LINE_LENGTH + 1)) == f"{'o' * MAX_LINE_LENGTH}... ({MAX_LINE_LENGTH + 1} characters)"
    )
    assert sanitize_cells(["o" * 2000]) == [f"{'o' * MAX_CELL_LENGTH}... (2000 characters)"]
    assert sanitize_line("o" * MAX_LINE_LENGTH) == "o" * MAX_LINE_LENGTH


@settings(deadline=None)
@given(content=st.dictionaries(anything, anything | st.lists(anything)))
def test_json_is_printable_ascii_without_commands_and_loses_nothing(content: dict[str, object]) -> None:
    text = format_json(content)
    assert json.loads(text) == json.loads(json.dumps(content))
    assert all(character == "\n" or " " <= character <= "~" for character in text)
    assert find_github_commands(text) == []
    assert find_azure_commands(text) == []


@settings(deadline=None)
@given(text=anything)
def test_markdown_is_one_line_in_which_every_punctuation_is_escaped(text: str) -> None:
    shown = escape_markdown(text)
    assert find_terminal_effects(shown) == []
    assert "\n" not in shown
    assert re.search(r"[!-/:-@\[-`{-~]", re.sub(r"\\[!-/:-@\[-`{-~]", "", shown)) is None


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
def test_markdown_holds_no_markup(text: str) -> None:
    assert not re.search(r"(?<!\\)[<>|\[\]()`&:.@]", escape_markdown(text))
