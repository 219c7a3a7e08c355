"""The code blocks of a Markdown page, in order, and which of them are commands and which are expected output."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w+)\n(?P<body>.*?)^ *```$", re.MULTILINE | re.DOTALL)
_EXIT_CODE = re.compile(r"# exit code (\d+)\s*$", re.MULTILINE)
_OUTPUT_LANGUAGES = ("json", "text")


@dataclass(frozen=True, slots=True)
class ExpectedOutput:
    """What a page says that the commands before it print: `language` is `json` or `text`."""

    language: str
    body: str


@dataclass(frozen=True, slots=True)
class CommandBlock:
    """A block of shell commands. `outputs` are the blocks that follow it with nothing but blank lines between."""

    line: int
    commands: str
    outputs: list[ExpectedOutput] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, unless a comment such as `# exit code 3` ends a line of the block."""
        codes = _EXIT_CODE.findall(self.commands)
        return int(codes[-1]) if codes else 0


def find_section_blocks(page: Path, title: str) -> Iterator[CommandBlock]:
    """The command blocks under a heading of the second level, up to the next one."""
    lines = page.read_text().splitlines()
    start = lines.index(f"## {title}") + 1
    following = (number for number, line in enumerate(lines[start:], start + 1) if line.startswith("## "))
    end = next(following, len(lines) + 1)
    return (block for block in find_command_blocks(page) if start < block.line < end)


def list_section_titles(page: Path) -> list[str]:
    """The headings of the second level under which there are commands."""
    titles = [line.removeprefix("## ") for line in page.read_text().splitlines() if line.startswith("## ")]
    return [title for title in titles if any(find_section_blocks(page, title))]


def find_command_blocks(page: Path) -> Iterator[CommandBlock]:
    """Every `sh` block of the page, with its expected output."""
    text = page.read_text()
    block: CommandBlock | None = None
    end = 0
    for match in _BLOCK.finditer(text):
        directly_after = text[end : match.start()].strip() == ""
        end = match.end()
        body = re.sub(f"^{match['indent']}", "", match["body"], flags=re.MULTILINE)
        if match["language"] == "sh":
            if block is not None:
                yield block
            block = CommandBlock(text.count("\n", 0, match.start()) + 1, body)
        elif block is not None and directly_after and match["language"] in _OUTPUT_LANGUAGES:
            block.outputs.append(ExpectedOutput(match["language"], body))
        elif block is not None:
            yield block
            block = None
    if block is not None:
        yield block
