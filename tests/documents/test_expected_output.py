"""The comparison of printed with documented output: which differences it accepts and which it reports."""

from pathlib import Path

import pytest

from tests.documents.expected_output import find_mismatches
from tests.documents.markdown_page import CommandBlock, ExpectedOutput, find_command_blocks


def is_json_match(expected: str, printed: str) -> bool:
    return not find_mismatches([ExpectedOutput("json", expected)], printed)


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ('{"a": 1}', '{"a": 1, "b": 2}'),
        ('{"a": "…"}', '{"a": {"b": 1}}'),
        ('{"a": "run …"}', '{"a": "run 7"}'),
        ('{"a": [1, "…"]}', '{"a": [1, 2, 3]}'),
    ],
)
def test_an_expected_json_document_is_a_part_of_the_real_one(expected: str, printed: str) -> None:
    assert is_json_match(expected, printed)


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ('{"a": 1}', '{"b": 1}'),
        ('{"a": 1}', '{"a": 2}'),
        ('{"a": 1}', '{"a": 1} {"a": 1}'),
        ('{"a": [1]}', '{"a": [1, 2]}'),
        ('{"a": [1, 2, "…"]}', '{"a": [1]}'),
        ('{"a": null}', '{"a": {}}'),
    ],
)
def test_another_json_document_does_not_match(expected: str, printed: str) -> None:
    assert not is_json_match(expected, printed)


def test_lines_of_text_must_be_printed_in_their_order() -> None:
    expected = [ExpectedOutput("text", "first …\nthird\n")]
    assert not find_mismatches(expected, "first line\nsecond\n  third  \n")
    assert find_mismatches(expected, "third\nfirst line\n")


def test_output_belongs_to_the_commands_directly_before_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\nfirst  # exit code 3\n```\n\n```json\n{}\n```\n\n```sh\nsecond\n```\n\nAnd:\n\n```json\n[]\n```\n"
    )
    first, second = find_command_blocks(page)
    assert (first.commands, first.exit_code, len(first.outputs)) == ("first  # exit code 3\n", 3, 1)
    assert second == CommandBlock(9, "second\n", [])
