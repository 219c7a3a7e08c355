"""Questions to a person: on a pseudo-terminal, and where no question can be asked."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from safe_deploy.errors import ExitCode, UsageError
from safe_deploy.prompts import Prompts
from tests.safe_deploy.answering_person import answer_in_terminal
from tests.safe_deploy.processes import environment

_PROGRAM = """
import sys
from safe_deploy.azure_cli import require_valid_name
from safe_deploy.cli import cli, main
from safe_deploy.prompts import Prompts

@cli.command()
def question(*, yes: bool = False) -> None:
    prompts = Prompts(assume_yes=yes)
    print({question})

sys.argv = ["safe-deploy", "question", *sys.argv[1:]]
main()
"""
"""Asks one question as a command, and prints the answer to stdout."""

_CONFIRM = 'prompts.confirm("Write the file?")'
_ASK = 'prompts.ask("Name of the app", option="--app")'
_ASK_WITH_DEFAULT = 'prompts.ask("Name of the app", option="--app", default="shop")'
_ASK_WITH_CHECK = """prompts.ask(
    "Name of the app", option="--app", check=lambda answer: require_valid_name("function app", answer)
)"""


@dataclass(frozen=True, slots=True)
class Answered:
    """How the command ended: its exit code, the answer that it printed, and what the terminal showed."""

    code: int
    answer: str
    output: str


def ask_in_terminal(question: str, typed: str, *arguments: str, ctrl_c: bool = False, **variables: str) -> Answered:
    """Ask in a terminal in which `typed` is typed. With `ctrl_c`, interrupt the question once it is shown."""
    conversation = answer_in_terminal(
        [sys.executable, "-c", _PROGRAM.format(question=question), *arguments],
        typed,
        variables=environment(variables),
        interrupt_at=b"[y/N]" if ctrl_c else None,
    )
    return Answered(conversation.code, conversation.stdout.strip(), conversation.terminal)


def ask_without_terminal(question: str, *arguments: str, typed: str = "", **variables: str) -> Answered:
    """Ask with a pipe as stdin."""
    command: Sequence[str] = [sys.executable, "-c", _PROGRAM.format(question=question), *arguments]
    result = subprocess.run(
        command, env=environment(variables), input=typed, capture_output=True, text=True, timeout=60, check=False
    )
    return Answered(result.returncode, result.stdout.strip(), result.stderr)


@pytest.mark.parametrize(
    ("typed", "expected"), [("y\n", "True"), ("YES\n", "True"), ("n\n", "False"), ("no\n", "False"), ("\n", "False")]
)
def test_a_confirmation_is_yes_only_if_the_person_says_so(typed: str, expected: str) -> None:
    answered = ask_in_terminal(_CONFIRM, typed)
    assert (answered.code, answered.answer) == (ExitCode.DONE, expected)
    assert "Write the file? [y/N] " in answered.output


def test_a_confirmation_is_asked_again_until_it_is_answered() -> None:
    answered = ask_in_terminal(_CONFIRM, "maybe\ny\n")
    assert (answered.code, answered.answer) == (ExitCode.DONE, "True")
    assert answered.output.count("Write the file? [y/N] ") == 2
    assert "Answer y or n." in answered.output


def test_an_answer_is_asked_for_until_it_is_given() -> None:
    answered = ask_in_terminal(_ASK, "\n  store \n")
    assert (answered.code, answered.answer) == (ExitCode.DONE, "store")
    assert "An answer is needed." in answered.output


@pytest.mark.parametrize(("typed", "expected"), [("\n", "shop"), ("store\n", "store")])
def test_an_empty_answer_is_the_default_that_the_question_shows(typed: str, expected: str) -> None:
    answered = ask_in_terminal(_ASK_WITH_DEFAULT, typed)
    assert (answered.code, answered.answer) == (ExitCode.DONE, expected)
    assert "Name of the app [shop]: " in answered.output


def test_an_answer_that_is_not_valid_is_asked_for_again() -> None:
    answered = ask_in_terminal(_ASK_WITH_CHECK, "-shop\nshop\n")
    assert (answered.code, answered.answer) == (ExitCode.DONE, "shop")
    assert "'-shop' is not a valid name of a function app" in answered.output


def test_ctrl_c_at_a_question_ends_the_command() -> None:
    """The error message starts on a new line, not behind the question."""
    answered = ask_in_terminal(_CONFIRM, "", ctrl_c=True)
    assert answered.code == ExitCode.INTERRUPTED
    assert answered.answer == ""
    assert "Write the file? [y/N] \nerror: stopped" in answered.output


def test_the_end_of_the_input_at_a_question_is_as_no_terminal() -> None:
    """Ctrl-D on an empty line ends the input."""
    answered = ask_in_terminal(_CONFIRM, "\x04")
    assert (answered.code, answered.answer) == (ExitCode.USAGE, "")
    assert (
        "error: no question can be asked without a terminal, or in CI: Write the file? Give --yes to agree"
        in answered.output
    )


@pytest.mark.parametrize("question", [_CONFIRM, _ASK, _ASK_WITH_DEFAULT])
def test_nothing_is_asked_without_a_terminal(question: str) -> None:
    """What comes through the pipe is not read as an answer."""
    answered = ask_without_terminal(question, typed="y\n")
    assert (answered.code, answered.answer) == (ExitCode.USAGE, "")
    assert "--yes" in answered.output or "Give --app" in answered.output


@pytest.mark.parametrize("question", [_CONFIRM, _ASK, _ASK_WITH_DEFAULT])
def test_nothing_is_asked_in_a_terminal_of_a_ci_system(question: str) -> None:
    answered = ask_in_terminal(question, "y\n", CI="true")
    assert (answered.code, answered.answer) == (ExitCode.USAGE, "")
    assert "no question can be asked without a terminal, or in CI" in answered.output


@pytest.mark.parametrize(("question", "expected"), [(_CONFIRM, "True"), (_ASK_WITH_DEFAULT, "shop")])
def test_with_yes_nothing_is_asked(question: str, expected: str) -> None:
    """A confirmation is a yes, and an answer is the default, with a terminal and without one."""
    assert ask_without_terminal(question, "--yes") == Answered(ExitCode.DONE, expected, "")
    answered = ask_in_terminal(question, "", "--yes")
    assert (answered.code, answered.answer, answered.output) == (ExitCode.DONE, expected, "")


def test_with_yes_a_value_without_a_default_must_be_an_option() -> None:
    with pytest.raises(UsageError, match=r"--app \(Name of the app\) is missing") as caught:
        Prompts(assume_yes=True).ask("Name of the app", option="--app")
    assert caught.value.exit_code == ExitCode.USAGE


def test_with_yes_a_default_that_is_not_valid_is_refused() -> None:
    def refuse(answer: str) -> None:
        raise UsageError(f"{answer} is not valid")

    with pytest.raises(UsageError, match="shop is not valid"):
        Prompts(assume_yes=True).ask("Name of the app", option="--app", default="shop", check=refuse)


def test_a_question_cannot_act_on_the_terminal() -> None:
    """A name in a question may come from a server or a file."""
    answered = ask_in_terminal('prompts.confirm("Delete \\x1b[2J::error::x?")', "n\n")
    assert answered.answer == "False"
    assert "\x1b" not in answered.output
    assert "Delete \\x1b[2J" in answered.output
