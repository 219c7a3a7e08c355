"""The results of the checks."""

from dataclasses import dataclass
from enum import StrEnum

from safe_deploy.client import Json
from safe_deploy.errors import ExitCode


class CheckStatus(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check. `exit_code` counts only if the check has failed."""

    check: str
    status: CheckStatus
    message: str
    exit_code: ExitCode = ExitCode.FAILURE

    def to_json(self) -> Json:
        """The result as `doctor --json` prints it."""
        return {"check": self.check, "status": self.status.value, "message": self.message}
