"""Makes text from outside printable: on one line, without moving the cursor, and never a command of a CI system.

Ids, names, versions, actors, addresses and error texts come from events, servers and variables. The command line prints
none of them except through this module.
"""

import json
import re
import string
from collections.abc import Iterable
from typing import Any

LONGEST_LINE = 10_000
LONGEST_CELL = 1_000
"""Characters of a text that are printed. With `--output json` nothing is cut off."""

# These count as printable, but have no width and are skipped when GitHub's runner and the agent of Azure Pipelines look
# for a command: with one between them, two hashes are still two hashes (Default_Ignorable_Code_Point in Unicode's
# DerivedCoreProperties.txt; both compare by culture, as String.IndexOf(String) does in .NET).
_IGNORABLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")

# GitHub's runner takes a line for a command if it begins with `::`, after white space, and has a second `::`; or if it
# has `##[` anywhere. The agent of Azure Pipelines looks for `##vso[` anywhere, TeamCity for `##teamcity[`. A terminal
# wraps lines, so that every character may be the first of a line: of several `::` only the last is left as it is.
_COMMAND = re.compile(r"(?<!\S):{2,}+|:{2,}+(?=.*::)|:{4,}|#{2,}(?=\w*\[|vso)", re.IGNORECASE | re.DOTALL)


def printable(text: str, longest: int = LONGEST_LINE) -> str:
    """The text on one line: what is not printable as an escape such as `\\x1b`, commands of CI systems with a space in
    them, and no more than so many characters of it."""
    return without_commands(visible(clipped(text, longest)))


def cells(row: Iterable[str]) -> list[str]:
    """The cells of a table's row, printable. They share their lines, so no two of them may hold a `::`."""
    printed = [printable(cell, LONGEST_CELL) for cell in row]
    if sum("::" in cell for cell in printed) > 1:
        printed = [re.sub(":(?=:)", ": ", cell) for cell in printed]
    return printed


def visible(text: str) -> str:
    """The text with an escape such as `\\n` in place of each character that is not printable by itself."""
    shown = text if text.isprintable() else "".join(map(_visible, text))
    return _IGNORABLE.sub(lambda found: _escape(found[0]), shown)


def without_commands(text: str) -> str:
    """The text with a space in whatever a CI system could take for a command."""
    return _COMMAND.sub(lambda found: " ".join(found[0]), text)


def clipped(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"


def as_json(content: Any) -> str:
    """JSON in printable ASCII, which every encoding of a log can hold. No line of it begins with `::`, and two hashes,
    which could begin a command, are only ever inside of a text."""
    return json.dumps(content, indent=2).replace("##", "#\\u0023").replace("\x7f", "\\u007f")


def as_markdown(text: str) -> str:
    """Text for markdown in which nothing is read as markup, as HTML, as an entity or as a link."""
    line = visible(clipped(text, LONGEST_CELL))
    return "".join(f"\\{character}" if character in string.punctuation else character for character in line)


def _visible(character: str) -> str:
    return character if character.isprintable() else _escape(character)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
