"""Checks of every page: links, headings, JSON and make commands."""

import json
import re
from pathlib import Path

from tests.documents.page_tables import (
    CODE,
    FENCE,
    HEADING,
    build_heading_anchor,
    each_page,
    list_make_targets,
    remove_code_blocks,
)

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@each_page
def test_every_make_command_on_a_page_exists(page: Path) -> None:
    text = page.read_text()
    code = [
        *CODE.findall(remove_code_blocks(text)),
        *(line for _, body in FENCE.findall(text) for line in body.splitlines()),
    ]
    assert {match[1] for line in code if (match := re.match(r"make ([\w-]+)", line))} <= list_make_targets()


@each_page
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for target in LINK.findall(remove_code_blocks(page.read_text())):
        name, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (page.parent / name).resolve() if name else page
        if not file.is_file() or (anchor and anchor not in list_anchors(file)):
            broken.append(target)
    assert not broken


def list_anchors(page: Path) -> set[str]:
    """The anchors of all headings of a page."""
    return {build_heading_anchor(title) for _, title in HEADING.findall(remove_code_blocks(page.read_text()))}


@each_page
def test_no_page_has_the_same_heading_twice(page: Path) -> None:
    titles = [title for _, title in HEADING.findall(remove_code_blocks(page.read_text()))]
    assert len({build_heading_anchor(title) for title in titles}) == len(titles)


@each_page
def test_every_json_block_of_a_page_is_valid_json(page: Path) -> None:
    for language, body in FENCE.findall(page.read_text()):
        if language == "json":
            json.loads(body)
