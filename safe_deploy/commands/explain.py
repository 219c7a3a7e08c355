"""The command `explain`: what a code of the server means, and what to do. Asks no server."""

import itertools
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from rich.markdown import Markdown

from safe_deploy.ci import detect_ci_system
from safe_deploy.code_reference import CodeSection, find_close_codes, find_section, read_sections
from safe_deploy.errors import UsageError
from safe_deploy.options import OutputFormat, OutputOption, QuietOption
from safe_deploy.serialization import serialize
from safe_deploy.session import make_console, wants_plain_output

MAX_WIDTH = 100
"""Columns of a text in a log, and in a wide terminal: longer lines are hard to read."""

explain_commands = typer.Typer()


@explain_commands.command()
def explain(
    *,
    code: Annotated[
        str,
        typer.Argument(
            metavar="[CODE]", help="A code, in any case, such as InstancesActive. Without it all are listed."
        ),
    ] = "",
    output: OutputOption = OutputFormat.TABLE,
    quiet: QuietOption = False,
) -> None:
    """Explain a code of the server: what it means, why it is there, and what to do. Asks no server."""
    sections = read_sections()
    section = find_section(sections, code)
    if code and section is None:
        raise UsageError(_describe_unknown_code(code, find_close_codes(sections, code)))
    if output is not OutputFormat.TABLE:
        result = {"codes": [_to_json(listed) for listed in sections]} if section is None else _to_json(section)
        sys.stdout.write(serialize(result, output))
        return
    ci = detect_ci_system(os.environ, sys.stderr)
    console = make_console(ci, stderr=False)
    is_plain = wants_plain_output(ci) or not console.is_terminal
    lines = list_codes(sections) if section is None else format_section(section, with_pages=not quiet)
    width = MAX_WIDTH if is_plain else min(MAX_WIDTH, console.width)
    for line in lines:
        if section is None:
            # One line each: a log is as wide as its longest line.
            console.print(line, no_wrap=True, overflow="ignore" if is_plain else "ellipsis", crop=not is_plain)
        elif is_plain:
            console.print(textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False), soft_wrap=True)
        else:
            console.print(Markdown(line) if line else "", width=width)


def list_codes(sections: Sequence[CodeSection]) -> Iterator[str]:
    """A line for each code, below a line for each kind."""
    code_width = max(len(section.code) for section in sections)
    for kind, members in itertools.groupby(sections, key=lambda section: section.kind):
        yield kind
        for section in members:
            yield f"  {section.code:{code_width}}  {section.summary}"


def format_section(section: CodeSection, *, with_pages: bool) -> Iterator[str]:
    """The paragraphs of a section, with a blank line between them, and the pages that say more."""
    yield f"{section.code} ({section.kind.lower().removesuffix('s')})"
    for paragraph in section.text.split("\n\n"):
        yield ""
        yield " ".join(paragraph.split())
    if with_pages and section.see_also:
        yield ""
        yield f"See also: {', '.join(f'docs/{page}' for page in section.see_also)}"


def _to_json(section: CodeSection) -> dict[str, object]:
    """A section as `--output json` prints it. `text` is Markdown."""
    pages = [f"docs/{page}" for page in section.see_also]
    return {
        "code": section.code,
        "kind": section.kind,
        "meaning": section.meaning,
        "text": section.text,
        "seeAlso": pages,
    }


def _describe_unknown_code(code: str, close: Sequence[str]) -> str:
    """The message about a code that is not on the page, with the codes that are close."""
    hint = f"Codes that are close: {', '.join(close)}" if close else "safe-deploy explain lists all codes"
    return f"there is no code {code}. {hint}"
