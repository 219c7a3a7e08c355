"""Finds commands in a log as the programs that read it do: GitHub's runner (`ActionCommand.cs` in actions/runner), the
agent of Azure Pipelines (`Command.cs` in microsoft/azure-pipelines-agent), and a terminal."""

import re
import unicodedata
from dataclasses import dataclass

OWN_GITHUB_COMMANDS = {"error", "warning", "add-mask"}
OWN_AZURE_COMMANDS = {"task.setvariable", "task.logissue", "task.uploadsummary"}
"""The commands that the CLI itself writes."""

_MORE_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)


@dataclass(frozen=True, slots=True)
class LoggingCommand:
    """A command in a log: its name, and its line."""

    name: str
    line: str


def split_lines(log: str) -> list[str]:
    """The lines as .NET's StreamReader.ReadLine reads them."""
    return re.split("\r\n|\r|\n", log)


def find_github_commands(log: str) -> list[LoggingCommand]:
    """The commands that the runner reads. Unknown command names count, too."""
    commands = []
    for line in split_lines(log):
        message = _comparable_text(line).lstrip()
        if message.startswith("::") and "::" in message[2:]:
            commands.append(LoggingCommand(message[2:].partition("::")[0].partition(" ")[0], line))
        elif match := re.search(r"##\[([^\]]*)\]?", message):
            commands.append(LoggingCommand(match[1].partition(" ")[0], line))
    return commands


def find_azure_commands(log: str) -> list[LoggingCommand]:
    """The commands and colours that the agent reads, anywhere in a line and in any case, also after the first one."""
    return [
        LoggingCommand(match[1].partition(" ")[0], line)
        for line in split_lines(log)
        for match in re.finditer(r"##(?:vso)?\[([^\]]*)\]?", _comparable_text(line), re.IGNORECASE)
    ]


def _comparable_text(line: str) -> str:
    """The line without the characters that .NET skips when it compares strings by culture."""
    return "".join(character for character in _MORE_IGNORABLE.sub("", line) if unicodedata.category(character) != "Cf")


_STYLES = re.compile(r"\x1b\[[0-9;]*m")
_WINDOW = re.compile(r"\x1b\[(\?25[lh]|2K|1A|\?2026[lh])")
"""What Rich itself sends: styles, and for a live table: hide and show the cursor, erase a line, move up a line."""


def find_terminal_effects(output: str, *, live: bool = False) -> list[str]:
    """The unprintable characters of an output, except line ends and styles; with `live` also except a live table."""
    plain = _STYLES.sub("", output.replace("\r\n", "\n"))
    if live:
        plain = _WINDOW.sub("", plain).replace("\r", "")
    return [repr(character) for character in plain if character != "\n" and not character.isprintable()]
