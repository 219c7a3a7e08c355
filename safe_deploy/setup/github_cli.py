"""Runs `gh`, the GitHub CLI: environments, secrets and variables of a repository. Hides its options and its output.

The value of a secret goes through stdin, because other users can see arguments. What `gh` prints never becomes a part
of a message.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from safe_deploy.errors import CommandError
from safe_deploy.subprocesses import command_environment

_SECONDS = 60
"""How long one call of `gh` may take. It normally takes one second."""

_LOGIN_REQUIRED_EXIT_CODE = 4


class GitHubUnavailable(CommandError):
    """GitHub cannot be read or changed through `gh`. The message is one line, and says what to do."""


class GitHubNotFound(GitHubUnavailable):
    """GitHub has no such thing, or the user of `gh` cannot see it."""


@dataclass(frozen=True, slots=True)
class GitHubRepository:
    """A repository as `gh` names it: `owner/name`, or `host/owner/name`."""

    name: str

    def require_login(self) -> None:
        """Raises GitHubUnavailable if `gh` is not installed or not logged in."""
        _run(["auth", "status", "--hostname", self._host], purpose="read the login", secret=None)

    def has_environment(self, environment: str) -> bool:
        """Whether the environment exists. Raises GitHubUnavailable."""
        try:
            self._call_api("GET", f"environments/{environment}", purpose=f"read the environment {environment}")
        except GitHubNotFound:
            return False
        return True

    def create_environment(self, environment: str, branch: str) -> None:
        """Create an environment whose secrets only jobs of one branch can read. Raises GitHubUnavailable."""
        purpose = f"create the environment {environment}"
        policy = {"protected_branches": False, "custom_branch_policies": True}
        path = f"environments/{environment}"
        self._call_api("PUT", path, {"deployment_branch_policy": policy}, purpose=purpose)
        try:
            self._call_api("POST", f"{path}/deployment-branch-policies", {"name": branch}, purpose=purpose)
        except GitHubUnavailable:
            # No branch could use it, and the next run would take it for complete.
            with suppress(GitHubUnavailable):
                self._call_api("DELETE", path, purpose=purpose)
            raise

    def has_secret(self, environment: str, secret: str) -> bool:
        """Whether the environment has the secret, whose value cannot be read. Raises GitHubUnavailable."""
        listed = self._list(
            ["secret", "list", "--env", environment, "--json", "name"], f"list secrets of {environment}"
        )
        return secret in {entry.get("name") for entry in listed}

    def set_secret(self, environment: str, secret: str, value: str) -> None:
        """Store a secret in an environment. Raises GitHubUnavailable."""
        arguments = ["secret", "set", secret, "--env", environment, "--repo", self.name]
        _run(arguments, purpose=f"store the secret {secret} in the environment {environment}", secret=value)

    def read_variables(self) -> dict[str, str]:
        """The variables of the repository, which are not secret. Raises GitHubUnavailable."""
        listed = self._list(["variable", "list", "--json", "name,value"], "list variables")
        return {str(entry.get("name")): str(entry.get("value")) for entry in listed}

    def set_variable(self, name: str, value: str) -> None:
        """Set a variable of the repository. Raises GitHubUnavailable."""
        arguments = ["variable", "set", name, "--body", value, "--repo", self.name]
        _run(arguments, purpose=f"set the variable {name}", secret=None)

    @property
    def _host(self) -> str:
        return self.name.split("/")[0] if self.name.count("/") == 2 else "github.com"

    def _list(self, arguments: Sequence[str], purpose: str) -> list[dict[str, Any]]:
        stdout = _run([*arguments, "--repo", self.name], purpose=purpose, secret=None)
        try:
            listed = json.loads(stdout or "[]")
        except ValueError:
            listed = None
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            raise GitHubUnavailable(f"gh printed unexpected JSON when it was asked to {purpose}. Update gh")
        return listed

    def _call_api(self, method: str, path: str, body: object = None, *, purpose: str) -> None:
        owner_and_name = "/".join(self.name.split("/")[-2:])
        arguments = ["api", "--hostname", self._host, "--method", method, f"repos/{owner_and_name}/{path}", "--silent"]
        if body is not None:
            arguments += ["--input", "-"]
        _run(arguments, purpose=purpose, secret=None if body is None else json.dumps(body))


def _run(arguments: Sequence[str], *, purpose: str, secret: str | None) -> str:
    """What `gh` prints. `secret` goes to its stdin. Raises GitHubUnavailable."""
    program = shutil.which("gh")
    if program is None:
        raise GitHubUnavailable("gh, the GitHub CLI, is not on the PATH")
    try:
        result = subprocess.run(  # noqa: S603  # no shell
            [program, *arguments],
            env=command_environment(GH_PROMPT_DISABLED="1", GH_NO_UPDATE_NOTIFIER="1", NO_COLOR="1"),
            input=secret or "",
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except OSError as error:
        raise GitHubUnavailable(f"{program} cannot be started: {error.strerror}. Reinstall the GitHub CLI") from None
    except subprocess.TimeoutExpired:
        raise GitHubUnavailable(f"gh did not answer within {_SECONDS} seconds when it was asked to {purpose}") from None
    if result.returncode != 0:
        raise _parse_failure(result.returncode, result.stderr, arguments, purpose)
    return result.stdout


def _parse_failure(code: int, stderr: str, arguments: Sequence[str], purpose: str) -> GitHubUnavailable:
    """The error for a failure of `gh`."""
    if "error connecting to" in stderr or "no such host" in stderr or "imeout trying to log in" in stderr:
        return GitHubUnavailable(f"gh cannot reach GitHub to {purpose}. Check the network and the proxy")
    status = re.search(r"\bHTTP (\d{3})\b", stderr)
    if code == _LOGIN_REQUIRED_EXIT_CODE or arguments[0] == "auth" or (status and status[1] == "401"):
        return GitHubUnavailable("gh is not logged in. Run gh auth login")
    if status and status[1] == "404":
        return GitHubNotFound(f"GitHub finds nothing when gh is asked to {purpose}, or the user may not see it")
    if status and status[1] == "403":
        return GitHubUnavailable(
            f"the user of gh is not allowed to {purpose}. An administrator of the repository can, with gh auth refresh "
            "--scopes repo where the token lacks the scope"
        )
    status_text = f" (HTTP {status[1]})" if status else ""
    return GitHubUnavailable(f"gh failed with exit code {code}{status_text} when it was asked to {purpose}")
