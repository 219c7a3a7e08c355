"""Reads a job summary back as GitHub renders it: CommonMark with tables, by the library markdown-it."""

from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token


@dataclass(frozen=True, slots=True)
class RenderedTable:
    """The text of the cells, as a reader sees it."""

    header: list[str]
    rows: list[list[str]]


def render_html(markdown: str) -> str:
    html: str = MarkdownIt("commonmark").enable("table").render(markdown)
    return html


def parse_tables(markdown: str) -> list[RenderedTable]:
    """All tables of a summary. Fails if a cell holds anything but plain text: markup, a link, an image or HTML."""
    tables: list[RenderedTable] = []
    row: list[str] = []
    for token, is_cell in _list_tokens(markdown):
        if token.type == "table_open":
            tables.append(RenderedTable([], []))
        elif token.type == "tr_open":
            row = []
        elif is_cell:
            assert {child.type for child in token.children or []} <= {"text"}, token.content
            row.append("".join(child.content for child in token.children or []))
        elif token.type == "tr_close" and not tables[-1].header:
            tables[-1].header.extend(row)
        elif token.type == "tr_close":
            tables[-1].rows.append(row)
    return tables


def _list_tokens(markdown: str) -> list[tuple[Token, bool]]:
    """Every token, with whether it is the content of a table cell."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    previous_types = ["", *(token.type for token in tokens)]
    return [
        (token, previous in ("th_open", "td_open")) for token, previous in zip(tokens, previous_types, strict=False)
    ]
