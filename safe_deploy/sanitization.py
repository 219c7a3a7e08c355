"""Makes text from outside printable: on one line, without moving the cursor, and never a command of a CI system.

Ids, names, versions, actors, addresses and error texts come from events, servers and variables. The command line prints
none of them except through this module.
"""

import json
import re
import string
from collections.abc import Iterable
from typing import Any

MAX_LINE_LENGTH = 10_000
MAX_CELL_LENGTH = 1_000
"""Characters of a text that are printed. With `--output json` nothing is cut off."""

# These count as printable, but have no width and are skipped when GitHub's runner and the agent of Azure Pipelines look
# for a command: with one between them, two hashes are still two hashes (Default_Ignorable_Code_Point in Unicode's
# DerivedCoreProperties.txt; both compare by culture, as String.IndexOf(String) does in .NET).
_IGNORABLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")

# GitHub's runner takes a line for a command if it begins with `::`, after white space, and has a second `::`; or if it
# has `##[` anywhere. The agent of Azure Pipelines looks for `##vso[` anywhere, TeamCity for `##teamcity[`. A terminal
# wraps lines, so that every character may be the first of a line: of several `::` only the last is left as it is.
_COMMAND = re.compile(r"(?<!\S):{2,}+|:{2,}+(?=.*::)|:{4,}|#{2,}(?=\w*\[|vso)", re.IGNORECASE | re.DOTALL)


def sanitize_line(text: str, max_length: int = MAX_LINE_LENGTH) -> str:
    """The text on one line: what is not printable as an escape such as `\\x1b`, commands of CI systems with a space in
    them, and no more than so many characters of it."""
    return neutralize_commands(escape_unprintable(truncate(text, max_length)))


def sanitize_cells(row: Iterable[str]) -> list[str]:
    """The cells of a table's row, printable. They share their lines, so no two of them may hold a `::`."""
    printed = [sanitize_line(cell, MAX_CELL_LENGTH) for cell in row]
    if sum("::" in cell for cell in printed) > 1:
        printed = [re.sub(":(?=:)", ": ", cell) for cell in printed]
    return printed


def escape_unprintable(text: str) -> str:
    """The text with an escape such as `\\n` in place of each character that is not printable by itself."""
    shown = text if text.isprintable() else "".join(map(_escape_if_unprintable, text))
    return _IGNORABLE.sub(lambda found: _escape_character(found[0]), shown)


def neutralize_commands(text: str) -> str:
    """The text with a space in whatever a CI system could take for a command."""
    return _COMMAND.sub(lambda found: " ".join(found[0]), text)


def truncate(text: str, max_length: int) -> str:
    return text if len(text) <= max_length else f"{text[:max_length]}... ({len(text)} characters)"


def format_json(content: Any) -> str:
    """JSON in printable ASCII, which every encoding of a log can hold. No line of it begins with `::`, and two hashes,
    which could begin a command, are only ever inside of a text."""
    return json.dumps(content, indent=2).replace("##", "#\\u0023").replace("\x7f", "\\u007f")


def escape_markdown(text: str) -> str:
    """Text for markdown in which nothing is read as markup, as HTML, as an entity or as a link."""
    line = escape_unprintable(truncate(text, MAX_CELL_LENGTH))
    return "".join(f"\\{character}" if character in string.punctuation else character for character in line)


def _escape_if_unprintable(character: str) -> str:
    return character if character.isprintable() else _escape_character(character)


def _escape_character(character: str) -> str:
    return character.encode("unicode_escape").decode()
