"""The results of the checks, and how what a check has found can be repaired."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from safe_deploy.client import Json
from safe_deploy.errors import CommandError, ExitCode


class CheckStatus(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """It cannot be seen from here. The message says what to look at."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What repairs a failed check.

    - `question`: what will be done and what follows from it, such as a restart, as a question to a person.
    - `run`: makes the repair. Returns what it did, as a sentence without a full stop. Raises CommandError.
    - `check_again`: the check whose result has this repair, and checks that only its success makes possible.
    """

    question: str
    run: Callable[[], str]
    check_again: Callable[[], Iterator["CheckResult"]]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check. `exit_code` counts only if the check has failed."""

    check: str
    status: CheckStatus
    message: str
    exit_code: ExitCode = ExitCode.FAILURE
    repair: Repair | None = None
    repaired: str = ""
    """What a repair did before this result, empty without one."""

    @property
    def text(self) -> str:
        """The message for a table, with what was repaired."""
        return f"{self.message}. Repaired: {self.repaired}" if self.repaired else self.message

    def to_json(self) -> Json:
        """The result as `doctor --output json` prints it."""
        return {
            "check": self.check,
            "status": self.status.value,
            "message": self.message,
            "repair": self.repair.question if self.repair else None,
            "repaired": self.repaired or None,
        }


def withhold_repairs(results: Iterable[CheckResult], reason: str) -> Iterator[CheckResult]:
    """The results without their repairs, and with the reason for that."""
    for result in results:
        if result.repair is None:
            yield result
        else:
            yield replace(result, message=f"{result.message}. --fix does not repair it now: {reason}", repair=None)


class ErrorFilter:
    """Reports each error of `az` by the first check that meets it, and not again by the others."""

    def __init__(self) -> None:
        self._reported: set[str] = set()

    def run(self, check: str, run_check: Callable[[], Iterator[CheckResult]]) -> Iterator[CheckResult]:
        """The results of a check. An error that ends it becomes a result."""
        try:
            yield from run_check()
        except CommandError as error:
            if error.message not in self._reported:
                self._reported.add(error.message)
                yield CheckResult(check, CheckStatus.FAILED, error.message, error.exit_code)
