"""The codes of reasons, problems, quarantine and cleanup in the documentation, compared with the code."""

from collections.abc import Iterator

from safe_deploy.code_reference import read_sections
from state_api.domain.errors import StateError
from state_api.domain.readiness.reasons import REASON_DESCRIPTIONS, WARNING_DESCRIPTIONS
from state_api.http import problems
from state_api.services.cleanup_results import CleanupOutcome
from state_api.services.event_parser import QUARANTINE_CODES
from tests.documents.page_tables import (
    CONCEPTS,
    HTTP_API,
    REASON_CODES,
    read_first_column,
    read_section,
    read_subheadings,
    read_table_rows,
    remove_markup,
)


def error_classes(base: type[StateError]) -> Iterator[type[StateError]]:
    """The subclasses of `base` in the server, without those that other tests define."""
    for child in base.__subclasses__():
        if child.__module__.startswith("state_api."):
            yield child
            yield from error_classes(child)


def test_every_reason_code_is_documented_and_no_other() -> None:
    assert read_subheadings(REASON_CODES, "Reason codes") == [reason.value for reason in REASON_DESCRIPTIONS]


def test_every_warning_code_is_documented_and_no_other() -> None:
    assert read_subheadings(REASON_CODES, "Warning codes") == [warning.value for warning in WARNING_DESCRIPTIONS]


def test_every_problem_code_is_documented_and_no_other() -> None:
    reasons_too = problems.PROBLEM_CODES.keys() & {reason.value for reason in REASON_DESCRIPTIONS}
    documented = [*read_subheadings(REASON_CODES, "Problem codes"), *reasons_too]
    assert sorted(documented) == sorted(problems.PROBLEM_CODES)
    introduction = read_section(REASON_CODES, "Problem codes").partition("\n###")[0]
    assert {code for code in reasons_too if f"[{code}](#{code.lower()})" not in introduction} == set()
    assert sorted(read_first_column(HTTP_API, "Problems", "Code")) == sorted(problems.PROBLEM_CODES)


def test_every_problem_is_documented_with_its_status() -> None:
    documented = {remove_markup(cells[0]): int(cells[1]) for cells in read_table_rows(HTTP_API, "Problems", "Code")}
    actual = {
        error_class.__name__: problems.problem_from_error(error_class("")).status_code
        for error_class in error_classes(StateError)
    }
    assert {code: status for code, status in documented.items() if code in actual} == {
        code: status for code, status in actual.items() if code in documented
    }
    assert actual.keys() - documented.keys() == {"Refused", "Unavailable"}


def test_every_quarantine_code_is_documented_and_no_other() -> None:
    assert read_subheadings(REASON_CODES, "Quarantine codes") == list(QUARANTINE_CODES)


def test_every_outcome_of_cleanup_is_documented_and_no_other() -> None:
    assert sorted(read_subheadings(REASON_CODES, "Cleanup outcomes")) == sorted(CleanupOutcome)
    assert sorted(read_first_column(CONCEPTS, "Retire and cleanup", "Outcome")) == sorted(CleanupOutcome)


def test_every_code_has_a_section_that_says_what_to_do() -> None:
    """`safe-deploy explain` prints a section alone, so that each must be complete."""
    sections = read_sections()
    assert [section.code for section in sections if not section.meaning.endswith(".")] == []
    assert [section.code for section in sections if "\n\nWhat to do: " not in section.text] == []
    assert len({section.code.lower() for section in sections}) == len(sections)
