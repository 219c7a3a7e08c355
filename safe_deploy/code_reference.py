"""The sections of docs/reasons.md, one for each code that the server gives. Knows the form of the page.

The page exists once in the repository. An installed package has a copy of it, which the build makes.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

_HEADING = re.compile(r"^(##|###) (.+)$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
_MAX_CLOSE_CODES = 5
_MIN_SIMILARITY = 0.6
"""Similarity of two codes by `difflib`, from which on one is offered for the other. 0.6 is difflib's own default."""


@dataclass(frozen=True, slots=True)
class CodeSection:
    """What the page says about one code. `kind`: the heading of its group, such as `Reason codes`. `text`: Markdown
    without links. `see_also`: the pages that its links lead to, without those of this page."""

    code: str
    kind: str
    text: str
    see_also: Sequence[str]

    @property
    def meaning(self) -> str:
        """The first paragraph, on one line."""
        return " ".join(self.text.partition("\n\n")[0].split())

    @property
    def summary(self) -> str:
        """The first sentence."""
        return re.split(r"(?<=\.) ", self.meaning, maxsplit=1)[0]


@cache
def read_sections() -> Sequence[CodeSection]:
    """All sections of the page, in its order."""
    return parse_sections(_read_page())


def _read_page() -> str:
    """The page, from the installed package or from the repository."""
    installed = resources.files("safe_deploy") / "pages" / "reasons.md"
    if installed.is_file():
        return installed.read_text(encoding="utf-8")
    return (Path(__file__).parent.parent / "docs" / "reasons.md").read_text(encoding="utf-8")


def parse_sections(page: str) -> list[CodeSection]:
    """The sections with a heading of the third level, each with the heading of the second level above it."""
    headings = list(_HEADING.finditer(page))
    ends = [heading.start() for heading in headings[1:]] + [len(page)]
    sections: list[CodeSection] = []
    kind = ""
    for heading, end in zip(headings, ends, strict=True):
        if heading[1] == "##":
            kind = heading[2]
            continue
        body = page[heading.end() : end].strip()
        targets = [target for _, target in _LINK.findall(body) if not target.startswith("#")]
        sections.append(CodeSection(heading[2], kind, _LINK.sub(r"\1", body), tuple(dict.fromkeys(targets))))
    return sections


def find_section(sections: Sequence[CodeSection], code: str) -> CodeSection | None:
    """The section of a code, compared without case."""
    return next((section for section in sections if section.code.lower() == code.strip().lower()), None)


def find_close_codes(sections: Sequence[CodeSection], text: str) -> list[str]:
    """The codes that look like `text` or contain it, the closest first."""
    codes = {section.code.lower(): section.code for section in sections}
    wanted = text.strip().lower()
    containing = [lower for lower in codes if wanted and (wanted in lower or lower in wanted)]
    similar = difflib.get_close_matches(wanted, codes, n=_MAX_CLOSE_CODES, cutoff=_MIN_SIMILARITY)
    return [codes[lower] for lower in dict.fromkeys([*similar, *containing])][:_MAX_CLOSE_CODES]
