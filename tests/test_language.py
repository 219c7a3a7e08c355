"""The language check finds words, names and sentences that the contributing guide rules out."""

import pytest

from dev.check_language import (
    GUIDE,
    WordList,
    check_document,
    check_python,
    check_sentences,
    find_problems,
    list_checked_files,
    read_word_list,
)

WORDS = WordList(in_text={"beneath": "under", "told": "reported"}, as_names={"one": "the thing"})


def messages(source: str) -> list[str]:
    """The messages about this Python source."""
    return [problem.message for problem in check_python("module.py", source, WORDS)]


def test_the_words_are_read_from_the_tables_of_the_guide() -> None:
    words = read_word_list(GUIDE.read_text())
    assert words.in_text["healing"] == "reconcile, reconciliation"
    assert words.as_names["one"] == "the thing, such as `hub`"
    assert "one" not in words.in_text


@pytest.mark.parametrize(
    "source",
    [
        "one = 1",
        "for one in hubs: pass",
        "hubs = [one for one in ()]",
        "def read(one): pass",
        "def one(): pass",
        "class A:\n    one: int = 1",
        "with open('x') as one: pass",
        "import os as one",
    ],
)
def test_a_name_to_avoid_is_found_wherever_a_name_is_defined(source: str) -> None:
    assert messages(source) == ["'one' is no name: write the thing"]


def test_a_name_to_avoid_may_be_a_part_of_a_name_and_a_word_of_a_text() -> None:
    assert messages('one_hub = 1  # one hub\n"""One hub."""') == []


@pytest.mark.parametrize("name", ["beneath", "hub_beneath", "HubBeneath", "_BENEATH"])
def test_a_word_to_avoid_is_found_in_every_part_of_a_name(name: str) -> None:
    [message] = messages(f"{name} = 1")
    assert message.endswith("write under")


@pytest.mark.parametrize("source", ['"""It is told."""', "# told", 'raise ValueError("told")', 'print(f"told {1}")'])
def test_a_word_to_avoid_is_found_in_docstrings_comments_and_messages(source: str) -> None:
    assert messages(source) == ["'told': write reported"]


def test_code_in_a_text_is_not_checked() -> None:
    assert messages('"""The field `told`."""') == []
    assert list(check_document("a.md", "```\ntold\n```\nUse `told`.", WORDS)) == []


def test_a_problem_has_the_line_of_its_word() -> None:
    [problem] = check_document("docs/a.md", "# Title\n\nIt lies\nbeneath.", WORDS)
    assert str(problem) == "docs/a.md:4: 'beneath': write under"


def test_a_sentence_of_a_docstring_has_at_most_30_words() -> None:
    assert list(check_sentences("a.py", "word " * 29 + "word. Another one.")) == []
    [problem] = check_sentences("a.py", "Short.\n" + "Word " * 31 + "end.", first_line=5)
    assert (problem.line, "a sentence of 32 words" in problem.message) == (6, True)
    assert list(check_sentences("a.py", "Word " * 20 + "\n\n- " + "word " * 20 + "\n- " + "word " * 20)) == []


def test_every_file_of_the_repository_passes() -> None:
    problems = find_problems(list_checked_files(), read_word_list(GUIDE.read_text()))
    assert [str(problem) for problem in problems] == []
