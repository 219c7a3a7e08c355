"""Reads the headings, tables and code spans of Markdown pages, for tests that compare the pages with the code."""

import itertools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

CONTRIBUTING = ROOT / "CONTRIBUTING.md"
ARCHITECTURE, HTTP_API, SETTINGS, REASON_CODES, CONCEPTS, AZURE, OPERATIONS, SECURITY = (
    ROOT / "docs" / f"{name}.md"
    for name in ("architecture", "http-api", "settings", "reasons", "concepts", "azure", "operations", "security")
)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
"""Runs a test once for each page; its parameter is `page`."""

HEADING = re.compile(r"^(#{1,6}) (.+?)\s*$", re.MULTILINE)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")


def remove_code_blocks(text: str) -> str:
    """The text without its fenced blocks."""
    return FENCE.sub("", text)


def build_heading_anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def read_section(page: Path, title: str) -> str:
    """The text under a heading, up to the next heading of the same or a higher level."""
    text = page.read_text()
    # Blocks are blanked and not removed: a comment in a shell example is no heading, and positions must not change.
    headings = list(HEADING.finditer(FENCE.sub(lambda fence: " " * len(fence[0]), text)))
    start = next(heading for heading in headings if heading[2] == title)
    ends = (other.start() for other in headings if other.start() > start.start() and len(other[1]) <= len(start[1]))
    return text[start.end() : next(ends, len(text))]


def read_subheadings(page: Path, title: str) -> list[str]:
    """The headings of the next lower level under a heading."""
    headings = [(len(marks), heading) for marks, heading in HEADING.findall(remove_code_blocks(page.read_text()))]
    level = next(level for level, heading in headings if heading == title)
    below = itertools.islice(itertools.dropwhile(lambda heading: heading != (level, title), headings), 1, None)
    section = itertools.takewhile(lambda heading: heading[0] > level, below)
    return [heading for sub_level, heading in section if sub_level == level + 1]


def read_table_rows(page: Path, title: str, first_heading: str) -> list[list[str]]:
    """The cells of each row of the tables under a heading whose first column has the heading `first_heading`."""
    rows: list[list[str]] = []
    in_table = False
    for line in read_section(page, title).splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            in_table = False
        elif cells[0] == first_heading:
            in_table = True
        elif in_table and not set(cells[0]) <= {"-", ":"}:
            rows.append(cells)
    assert rows, f"{page.name} has no table {first_heading} under {title}"
    return rows


def read_first_column(page: Path, title: str, first_heading: str) -> list[str]:
    """The first column of the tables that `read_table_rows` finds, without markup."""
    return [remove_markup(cells[0]) for cells in read_table_rows(page, title, first_heading)]


def remove_markup(cell: str) -> str:
    """The text of a cell, without backquotes and link targets."""
    return re.sub(r"`|\[|\]\([^)]*\)", "", cell)


def list_make_targets() -> set[str]:
    """The names of all targets of the Makefile."""
    phony = re.search(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    return set(phony[1].split())
