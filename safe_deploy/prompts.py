"""Asks the person at the terminal: for a confirmation, or for a value. Hides when no question can be asked.

A question goes to stderr, because stdout is for results. Ctrl-C at a question raises KeyboardInterrupt as everywhere
else: what comes after the question is not done.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TextIO

from safe_deploy.errors import UsageError
from safe_deploy.sanitization import sanitize_line

AnswerCheck = Callable[[str], None]
"""Raises UsageError for an answer that is not valid. The question is then asked again."""

_NO_QUESTIONS = "no question can be asked without a terminal, or in CI"


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The questions of one command. With `assume_yes` (`--yes`) nothing is asked.

    No question can be asked if stdin is no terminal, if stdin has ended, or in a CI system, which sets `CI`.
    """

    assume_yes: bool

    def confirm(self, question: str) -> bool:
        """Whether the person agrees. An empty answer is a no. With `--yes` it is a yes.

        Raises UsageError if no question can be asked.
        """
        if self.assume_yes:
            return True
        refusal = f"{_NO_QUESTIONS}: {question} Give --yes to agree to every question"
        while True:
            answer = _read_answer(f"{question} [y/N]", refusal=refusal).lower()
            if answer in {"y", "yes"}:
                return True
            if answer in {"", "n", "no"}:
                return False
            _print_line("Answer y or n.")

    def ask(self, question: str, *, option: str, default: str = "", check: AnswerCheck | None = None) -> str:
        """The answer, without surrounding white space. An empty answer is the default. A colon follows the question.

        `option` is the option of the command line that answers the question. With `--yes` the default is the answer.
        Raises UsageError that names the option if there is no default then, or if no question can be asked.
        """
        if self.assume_yes:
            if not default:
                raise UsageError(
                    f"{option} ({question}) is missing: --yes asks nothing, and there is no default. Give {option}"
                )
            _check_answer(default, check)
            return default
        advice = f"Give {option}, or --yes to take {default}" if default else f"Give {option}"
        refusal = f"{option} ({question}) is missing, and {_NO_QUESTIONS}. {advice}"
        while True:
            answer = _read_answer(f"{question} [{default}]:" if default else f"{question}:", refusal=refusal) or default
            if not answer:
                _print_line("An answer is needed.")
                continue
            try:
                _check_answer(answer, check)
            except UsageError as error:
                _print_line(f"{error.message}.")
            else:
                return answer


def can_ask(stdin: TextIO | None, environment: Mapping[str, str]) -> bool:
    """Whether a person can answer a question. A CI system sets CI, and some give a step a terminal."""
    return stdin is not None and not environment.get("CI") and stdin.isatty()


def _check_answer(answer: str, check: AnswerCheck | None) -> None:
    if check is not None:
        check(answer)


def _read_answer(question: str, *, refusal: str) -> str:
    """Print a question and read one line. Raises UsageError with the text `refusal` if no question can be asked."""
    if not can_ask(sys.stdin, os.environ):
        raise UsageError(refusal)
    sys.stderr.write(f"{sanitize_line(question)} ")
    sys.stderr.flush()
    try:
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        _print_line("")
        raise
    if not line:
        # The next message starts on a line of its own.
        _print_line("")
        raise UsageError(refusal)
    return line.strip()


def _print_line(line: str) -> None:
    sys.stderr.write(f"{sanitize_line(line)}\n")
    sys.stderr.flush()
