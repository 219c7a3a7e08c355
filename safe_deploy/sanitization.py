"""Makes foreign text safe to print: on one line, without terminal escapes, and never a logging command of a CI system.

Ids, names, versions, actors, URLs and error messages come from events, servers and environment variables. The CLI
prints them only through this module.
"""

import re
import string
from collections.abc import Iterable

MAX_LINE_LENGTH = 10_000
MAX_CELL_LENGTH = 1_000
"""Characters of a text that are printed. `--output json` truncates nothing."""

# Python counts these characters as printable, but they have no width, and GitHub's runner and the agent of Azure
# Pipelines skip them when they look for a command: "#" + U+034F + "#[" is "##[" to both. The list is
# Default_Ignorable_Code_Point in Unicode's DerivedCoreProperties.txt; both programs compare strings by culture, as
# .NET's String.IndexOf(String) does.
_IGNORABLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")

# GitHub's runner reads a line as a command if it starts with `::` (after white space) and has a second `::`, or if it
# has `##[` anywhere. The agent of Azure Pipelines searches for `##vso[` anywhere, TeamCity for `##teamcity[`. A
# terminal may wrap a line at any character, so only the last `::` of a text stays.
_COMMAND = re.compile(r"(?<!\S):{2,}+|:{2,}+(?=.*::)|:{4,}|#{2,}(?=\w*\[|vso)", re.IGNORECASE | re.DOTALL)


def sanitize_line(text: str, max_length: int = MAX_LINE_LENGTH) -> str:
    """The text as one printable line of at most `max_length` characters.

    Unprintable characters become escapes such as `\\x1b`. A space is put inside anything that a CI system could read as
    a command.
    """
    return neutralize_ci_commands(escape_unprintable(truncate(text, max_length)))


def sanitize_cells(row: Iterable[str]) -> list[str]:
    """Sanitize the cells of a table row. Cells share a line, so at most one of them may keep a `::`."""
    cells = [sanitize_line(cell, MAX_CELL_LENGTH) for cell in row]
    if sum("::" in cell for cell in cells) > 1:
        cells = [re.sub(":(?=:)", ": ", cell) for cell in cells]
    return cells


def escape_unprintable(text: str) -> str:
    """The text with an escape such as `\\n` for every unprintable or ignorable character."""
    printable = text if text.isprintable() else "".join(map(_escape_if_unprintable, text))
    return _IGNORABLE.sub(lambda match: _escape_character(match[0]), printable)


def neutralize_ci_commands(text: str) -> str:
    """The text with a space inside anything that a CI system could read as a command."""
    return _COMMAND.sub(lambda match: " ".join(match[0]), text)


def truncate(text: str, max_length: int) -> str:
    """The text, cut to `max_length` characters. A cut text says how long it was."""
    return text if len(text) <= max_length else f"{text[:max_length]}... ({len(text)} characters)"


def escape_markdown(text: str) -> str:
    """The text for a Markdown cell or paragraph, so that nothing in it is markup, HTML, an entity, a link or a
    mention."""
    line = escape_unprintable(truncate(text, MAX_CELL_LENGTH))
    return "".join(f"\\{character}" if character in string.punctuation else character for character in line)


def _escape_if_unprintable(character: str) -> str:
    """The character itself if it is printable, otherwise its escape, such as `\\x1b`."""
    return character if character.isprintable() else _escape_character(character)


def _escape_character(character: str) -> str:
    return character.encode("unicode_escape").decode()
