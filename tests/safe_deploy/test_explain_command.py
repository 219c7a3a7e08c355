"""`safe-deploy explain`: the section of a code, without a server, in a terminal, a pipe and a CI log."""

import re

import pytest
import yaml

from safe_deploy.code_reference import find_close_codes, find_section, parse_sections, read_sections
from safe_deploy.errors import ExitCode
from state_api.domain.readiness.reasons import ReasonCode, WarningCode
from state_api.http.problems import PROBLEM_CODES
from tests.documents.page_tables import REASON_CODES
from tests.safe_deploy.in_process import InProcessResult, run_in_process
from tests.safe_deploy.terminal import run_to_end_in_terminal

EVERY_CODE = sorted({*ReasonCode, *WarningCode, *PROBLEM_CODES})
ESCAPE = re.compile(r"\x1b\[[?\d;]*[a-zA-Z]")


def explain(*arguments: str, **variables: str) -> InProcessResult:
    """Run the command without a server's address, in a pipe."""
    return run_in_process(["explain", *arguments], variables)


def explain_in_terminal(*arguments: str, columns: int, **variables: str) -> str:
    """What the command prints in a terminal of so many columns, with its escape sequences."""
    code, text = run_to_end_in_terminal(["explain", *arguments], variables, columns=columns)
    assert code == ExitCode.DONE
    return text


@pytest.mark.parametrize("code", EVERY_CODE)
def test_every_code_that_the_server_gives_is_explained(code: str) -> None:
    section = find_section(read_sections(), code)
    assert section is not None
    assert section.code == code


def test_a_code_is_explained_without_a_server() -> None:
    result = explain("TaskHubMissing")
    assert (result.code, result.err) == (ExitCode.DONE, "")
    heading, meaning, why, what_to_do, pages = result.out.strip().split("\n\n")
    assert heading == "TaskHubMissing (reason code)"
    assert meaning == "The task hub does not exist at the app's provider."
    assert why.startswith("Why: ")
    assert what_to_do.startswith("What to do: ")
    assert "safe-deploy stage --force" in what_to_do
    assert pages.startswith("See also: docs/concepts.md#")


@pytest.mark.parametrize("code", ["taskhubmissing", "TASKHUBMISSING", " TaskHubMissing "])
def test_the_case_of_a_code_does_not_matter(code: str) -> None:
    assert explain(code).out == explain("TaskHubMissing").out


@pytest.mark.parametrize(
    ("text", "close"),
    [
        ("TaskHubMising", "TaskHubMissing"),
        ("InstanceActive", "InstancesActive"),
        ("throttled", "ProbeThrottled"),
        ("pending", "SwapPending"),
    ],
)
def test_an_unknown_code_is_an_error_that_lists_close_ones(text: str, close: str) -> None:
    result = explain(text)
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    assert result.err.startswith(f"error: there is no code {text}. Codes that are close: ")
    assert close in result.err


@pytest.mark.parametrize("text", ["zzz", "%", "-", "\x1b[2J", "::error::x", "x" * 20_000])
def test_a_text_that_is_like_no_code_leads_to_the_list(text: str) -> None:
    result = explain("--", text)
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    assert "safe-deploy explain lists all codes" in result.err or len(result.err) > 10_000
    assert "\x1b" not in result.err
    assert len(result.err.splitlines()) == 1


def test_without_a_code_each_has_one_line() -> None:
    lines = explain().out.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert listed == [section.code for section in read_sections()]
    assert [line for line in lines if not line.startswith("  ")] == [
        "Reason codes",
        "Warning codes",
        "Problem codes",
        "Quarantine codes",
        "Cleanup outcomes",
    ]


def test_json_and_yaml_have_the_whole_section() -> None:
    section = find_section(read_sections(), "ProbeDenied")
    assert section is not None
    result = yaml.safe_load(explain("probedenied", "-o", "yaml").out)
    assert result == yaml.safe_load(explain("ProbeDenied", "-o", "json").out)
    assert result["code"] == "ProbeDenied"
    assert result["kind"] == "Reason codes"
    assert result["text"] == section.text
    assert "docs/azure.md#verification" in result["seeAlso"]


def test_json_has_all_codes() -> None:
    listed = yaml.safe_load(explain("-o", "json").out)["codes"]
    assert [code["code"] for code in listed] == [section.code for section in read_sections()]


def test_quiet_leaves_out_where_to_read_more() -> None:
    assert "See also" not in explain("TaskHubMissing", "--quiet").out


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("code", ["StartsPending", "SwapPending"])
def test_a_terminal_gets_text_that_fits_and_is_highlighted(code: str, columns: int) -> None:
    text = explain_in_terminal(code, columns=columns)
    lines = [line.rstrip() for line in ESCAPE.sub("", text).splitlines()]
    assert max(map(len, lines)) <= min(columns, 100)
    assert lines[0] == f"{code} (reason code)"
    assert lines[1] == ""
    assert "\x1b[" in text
    assert "`" not in text


@pytest.mark.parametrize("columns", [60, 80])
def test_a_terminal_gets_a_list_that_does_not_wrap(columns: int) -> None:
    lines = ESCAPE.sub("", explain_in_terminal(columns=columns)).splitlines()
    assert len(lines) == len(explain().out.splitlines())
    assert max(map(len, lines)) <= columns


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"CI": "true"}, {"GITHUB_ACTIONS": "true"}], ids=str)
def test_a_log_gets_plain_text(variables: dict[str, str]) -> None:
    text = explain_in_terminal("StartsPending", columns=60, **variables).replace("\r\n", "\n")
    assert text == explain("StartsPending").out
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100


# --- the page ---


def test_links_become_text_and_a_list_of_pages() -> None:
    links = "See [a page](a.md#b), [here](#two) and [again](a.md#b)."
    page = f"# T\n\n## Kind\n\nIntro.\n\n### One\n\n{links}\n\n### Two\n\nX.\n"
    first, second = parse_sections(page)
    assert first.text == "See a page, here and again."
    assert first.see_also == ("a.md#b",)
    assert (second.code, second.kind, second.text, second.see_also) == ("Two", "Kind", "X.", ())


def test_the_sections_are_those_of_the_page_in_the_repository() -> None:
    assert list(read_sections()) == parse_sections(REASON_CODES.read_text())


def test_no_text_is_close_to_nothing() -> None:
    assert find_close_codes(read_sections(), " ") == []
