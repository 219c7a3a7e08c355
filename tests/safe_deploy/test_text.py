"""What is printable, and how: for every text, not only for known attacks."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_deploy.text import LONGEST_CELL, LONGEST_LINE, as_json, as_markdown, cells, printable, visible
from tests.safe_deploy.log_commands import azure_commands, github_commands, terminal_effects

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
    assert printable(text) == shown


@settings(deadline=None)
@given(text=anything, start=st.integers(0, 40), end=st.integers(0, 40))
def test_no_part_of_a_printable_text_is_a_command_or_moves_a_cursor_wherever_a_terminal_wraps_it(
    text: str, start: int, end: int
) -> None:
    shown = printable(text)
    for part in (shown, shown[start:], shown[start : start + end], *shown.split()):
        assert github_commands(part) == []
        assert azure_commands(part) == []
    assert terminal_effects(shown) == []
    assert "\n" not in shown
    assert printable(shown) == shown


@settings(deadline=None)
@given(row=st.lists(anything, min_size=1, max_size=4))
def test_the_cells_of_a_row_are_no_command_together_either(row: list[str]) -> None:
    shown = cells(row)
    assert len(shown) == len(row)
    text = "  ".join(shown)
    for start in range(min(len(text), 60)):
        assert github_commands(text[start:]) == []
    assert azure_commands(text) == []


def test_two_cells_with_colons_are_no_command_together() -> None:
    assert cells(["order:::1", "a::b"]) == ["order: : :1", "a: :b"]
    assert cells(["order::1", "b"]) == ["order::1", "b"]


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_printable_by_itself_stays_as_it_is(text: str) -> None:
    plain = re.sub(r"[:#\\]", "", text)
    if plain.isprintable() and visible(plain) == plain and len(plain) < LONGEST_LINE:
        assert printable(plain) == plain


def test_a_long_text_is_cut_off_and_says_how_long_it_was() -> None:
    assert printable("o" * (LONGEST_LINE + 1)) == f"{'o' * LONGEST_LINE}... ({LONGEST_LINE + 1} characters)"
    assert cells(["o" * 2000]) == [f"{'o' * LONGEST_CELL}... (2000 characters)"]
    assert printable("o" * LONGEST_LINE) == "o" * LONGEST_LINE


@settings(deadline=None)
@given(content=st.dictionaries(anything, anything | st.lists(anything)))
def test_json_is_printable_ascii_without_commands_and_loses_nothing(content: dict[str, object]) -> None:
    text = as_json(content)
    assert json.loads(text) == json.loads(json.dumps(content))
    assert all(character == "\n" or " " <= character <= "~" for character in text)
    assert github_commands(text) == []
    assert azure_commands(text) == []


@settings(deadline=None)
@given(text=anything)
def test_markdown_is_one_line_in_which_every_punctuation_is_escaped(text: str) -> None:
    shown = as_markdown(text)
    assert terminal_effects(shown) == []
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
    assert not re.search(r"(?<!\\)[<>|\[\]()`&:.@]", as_markdown(text))
