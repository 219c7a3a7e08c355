"""Reads a log as the programs do that look for commands in it: GitHub's runner (`ActionCommand.cs` in actions/runner),
the agent of Azure Pipelines (`Command.cs` in microsoft/azure-pipelines-agent), and a terminal."""

import re
import unicodedata
from dataclasses import dataclass

OWN_GITHUB_COMMANDS = {"error", "warning"}
OWN_AZURE_COMMANDS = {"task.setvariable", "task.logissue", "task.uploadsummary"}
"""The commands that the command line itself gives."""

_MORE_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)


@dataclass(frozen=True, slots=True)
class LoggingCommand:
    """A command in a log: its name, and the whole line."""

    name: str
    line: str


def split_lines(log: str) -> list[str]:
    """The lines as .NET's StreamReader.ReadLine reads them."""
    return re.split("\r\n|\r|\n", log)


def find_github_commands(log: str) -> list[LoggingCommand]:
    """What the runner takes for a command. Any name counts, also one that no runner knows yet."""
    found = []
    for line in split_lines(log):
        message = _compared(line).lstrip()
        if message.startswith("::") and "::" in message[2:]:
            found.append(LoggingCommand(message[2:].partition("::")[0].partition(" ")[0], line))
        elif match := re.search(r"##\[([^\]]*)\]?", message):
            found.append(LoggingCommand(match[1].partition(" ")[0], line))
    return found


def find_azure_commands(log: str) -> list[LoggingCommand]:
    """What the agent takes for a command, or for a colour, anywhere in a line and in any case; also what is hidden
    behind the first one of a line."""
    return [
        LoggingCommand(match[1].partition(" ")[0], line)
        for line in split_lines(log)
        for match in re.finditer(r"##(?:vso)?\[([^\]]*)\]?", _compared(line), re.IGNORECASE)
    ]


def _compared(line: str) -> str:
    """The line without the characters that a comparison by culture skips."""
    return "".join(one for one in _MORE_IGNORABLE.sub("", line) if unicodedata.category(one) != "Cf")


_STYLES = re.compile(r"\x1b\[[0-9;]*m")
_WINDOW = re.compile(r"\x1b\[(\?25[lh]|2K|1A|\?2026[lh])")
"""What Rich itself sends: styles; and while a table is kept up to date, cursor off and on, erase a line, go up one."""


def find_terminal_effects(shown: str, *, live: bool = False) -> list[str]:
    """The characters by which a text does more in a terminal than be read, beside line ends and styles."""
    plain = _STYLES.sub("", shown.replace("\r\n", "\n"))
    if live:
        plain = _WINDOW.sub("", plain).replace("\r", "")
    return [repr(one) for one in plain if one != "\n" and not one.isprintable()]
