"""A fake `gh`: a program whose output and exit codes are those of the GitHub CLI 2.80, as far as they are documented.

Its GitHub is a JSON file:

    {"login": "octocat", "network": true, "mayWrite": true, "calls": [["secret", "set", "STATE_KEY", ...]],
     "repositories": {"acme/shop": {"variables": {"TENANT": "..."}, "environments": {
        "production": {"branches": ["main"], "secrets": {"STATE_KEY": "..."}}}}}}

An empty `login` is a user who is not logged in. Calls of `gh api` with the `failingMethod` fail."""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

_ROOT = Path(__file__).parents[2]
_LOGIN_REQUIRED = """To get started with GitHub CLI, please run:  gh auth login
Alternatively, populate the GH_TOKEN environment variable with a GitHub API authentication token."""
_NO_NETWORK = "error connecting to api.github.com\ncheck your internet connection or https://githubstatus.com"


class FakeGitHub:
    """The GitHub behind the fake `gh`, as a test sets and reads it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def reset(self, *repositories: str, **members: Any) -> None:
        """A GitHub with these repositories, each empty, and with members of the state that differ from the usual."""
        state = {"login": "octocat", "network": True, "mayWrite": True, "calls": [], "repositories": {}}
        state["repositories"] = {name: {"variables": {}, "environments": {}} for name in repositories}
        self._file.write_text(json.dumps(state | members))

    def change(self, **members: Any) -> None:
        """Change members of the state."""
        self._file.write_text(json.dumps(self._read() | members))

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of all calls."""
        calls: list[list[str]] = self._read()["calls"]
        return calls

    def secrets(self, repository: str, environment: str) -> dict[str, str]:
        """The secrets of an environment, with their values."""
        secrets: dict[str, str] = self._environments(repository)[environment]["secrets"]
        return secrets

    def branches(self, repository: str) -> dict[str, list[str]]:
        """The branches that may use each environment."""
        return {name: environment["branches"] for name, environment in self._environments(repository).items()}

    def variables(self, repository: str) -> dict[str, str]:
        """The variables of a repository."""
        variables: dict[str, str] = self._read()["repositories"][repository]["variables"]
        return variables

    def set_variable(self, repository: str, name: str, value: str) -> None:
        """Set a variable without a call of `gh`."""
        state = self._read()
        state["repositories"][repository]["variables"][name] = value
        self._file.write_text(json.dumps(state))

    def _environments(self, repository: str) -> dict[str, Any]:
        environments: dict[str, Any] = self._read()["repositories"][repository]["environments"]
        return environments

    def _read(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self._file.read_text())
        return state


def install_fake_gh(folder: Path, file: Path) -> None:
    """Write the program `gh` into a folder. It keeps its GitHub in `file` and needs no environment variables."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "gh"
    program.write_text(
        f"#!{sys.executable} -IS\nimport sys\nsys.path.append({str(_ROOT)!r})\n"
        "from tests.pipelines import fake_gh\n"
        f"raise SystemExit(fake_gh.main(sys.argv[1:], {str(file.resolve())!r}))\n"
    )
    program.chmod(0o755)


class GhError(Exception):
    """An error as the real `gh` reports it: a message and an exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class _Parser(argparse.ArgumentParser):
    """The flags of a command. As in `gh`, the exit code of an error is 1."""

    def error(self, message: str) -> NoReturn:
        raise GhError(f"unknown flag or argument: {message}")


def main(arguments: list[str], file: str) -> int:
    """Run one call of `gh`. Returns its exit code."""
    path = Path(file)
    state: dict[str, Any] = json.loads(path.read_text())
    state["calls"].append(arguments)
    try:
        output = _run(state, arguments)
    except GhError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.code
    finally:
        path.write_text(json.dumps(state))
    if output is not None:
        print(output)
    return 0


def _run(state: dict[str, Any], arguments: list[str]) -> str | None:
    """What the call prints. Raises GhError."""
    command = COMMANDS.get(" ".join(arguments[:2])) or COMMANDS.get(arguments[0] if arguments else "")
    if command is None:
        raise GhError(f'unknown command "{" ".join(arguments[:2])}" for "gh"')
    if arguments[:2] == ["auth", "status"]:
        return command(state, arguments[2:])
    if not state["login"]:
        raise GhError(_LOGIN_REQUIRED, 4)
    if not state["network"]:
        raise GhError(_NO_NETWORK)
    return command(state, arguments[1 if arguments[0] == "api" else 2 :])


def _show_login(state: dict[str, Any], arguments: list[str]) -> str:
    """`gh auth status`"""
    parser = _Parser()
    parser.add_argument("--hostname", default="github.com")
    host = parser.parse_args(arguments).hostname
    if not state["login"]:
        raise GhError("You are not logged into any GitHub hosts. To log in, run: gh auth login")
    if not state["network"]:
        raise GhError(f"{host}\n  X Timeout trying to log in to {host} account {state['login']} (keyring)")
    return f"{host}\n  Logged in to {host} account {state['login']} (keyring)"


def _call_api(state: dict[str, Any], arguments: list[str]) -> str | None:
    """`gh api`: environments and the branches that may use them."""
    parser = _Parser()
    parser.add_argument("path")
    parser.add_argument("--hostname", default="github.com")
    parser.add_argument("--method", "-X", default="GET")
    parser.add_argument("--input")
    parser.add_argument("--silent", action="store_true")
    options = parser.parse_args(arguments)
    body = json.loads(sys.stdin.read()) if options.input == "-" else {}
    match = re.fullmatch(r"repos/([^/]+/[^/]+)/environments/([^/]+)(/deployment-branch-policies)?", options.path)
    if match is None or match[1] not in state["repositories"]:
        raise GhError("gh: Not Found (HTTP 404)")
    environments = state["repositories"][match[1]]["environments"]
    if options.method != "GET" and not state["mayWrite"]:
        raise GhError("gh: Must have admin rights to Repository. (HTTP 403)")
    if options.method == state.get("failingMethod"):
        raise GhError("gh: Server Error (HTTP 502)")
    if options.method == "PUT":
        environments.setdefault(match[2], {"branches": [], "secrets": {}})
    elif match[2] not in environments:
        raise GhError("gh: Not Found (HTTP 404)")
    elif options.method == "DELETE":
        del environments[match[2]]
    elif options.method == "POST":
        environments[match[2]]["branches"].append(body["name"])
    return None if options.silent else json.dumps({"name": match[2]})


def _list_secrets(state: dict[str, Any], arguments: list[str]) -> str:
    """`gh secret list`"""
    parser = _Parser()
    parser.add_argument("--env", "-e", required=True)
    parser.add_argument("--repo", "-R", required=True)
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    environment = _find_environment(state, options.repo, options.env, "failed to get secrets")
    return json.dumps([{"name": name} for name in environment["secrets"]])


def _set_secret(state: dict[str, Any], arguments: list[str]) -> None:
    """`gh secret set`: reads the value from stdin, as the real `gh` does without --body if stdin is not a terminal."""
    parser = _Parser()
    parser.add_argument("name")
    parser.add_argument("--env", "-e", required=True)
    parser.add_argument("--repo", "-R", required=True)
    options = parser.parse_args(arguments)
    environment = _find_environment(state, options.repo, options.env, "failed to fetch public key")
    if not state["mayWrite"]:
        raise GhError(
            "failed to fetch public key: HTTP 403: Resource not accessible by personal access token "
            f"(https://api.github.com/repos/{options.repo}/environments/{options.env}/secrets/public-key)"
        )
    environment["secrets"][options.name] = sys.stdin.read()


def _list_variables(state: dict[str, Any], arguments: list[str]) -> str:
    """`gh variable list`"""
    parser = _Parser()
    parser.add_argument("--repo", "-R", required=True)
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    repository = _find_repository(state, options.repo, "failed to get variables")
    return json.dumps([{"name": name, "value": value} for name, value in repository["variables"].items()])


def _set_variable(state: dict[str, Any], arguments: list[str]) -> None:
    """`gh variable set`"""
    parser = _Parser()
    parser.add_argument("name")
    parser.add_argument("--body", "-b", required=True)
    parser.add_argument("--repo", "-R", required=True)
    options = parser.parse_args(arguments)
    repository = _find_repository(state, options.repo, "failed to set variable")
    if not state["mayWrite"]:
        raise GhError(
            f'failed to set variable "{options.name}": HTTP 403: Resource not accessible by personal access token '
            f"(https://api.github.com/repos/{options.repo}/actions/variables)"
        )
    repository["variables"][options.name] = options.body


def _find_repository(state: dict[str, Any], name: str, failure: str) -> dict[str, Any]:
    repository: dict[str, Any] | None = state["repositories"].get(name)
    if repository is None:
        raise GhError(f"{failure}: HTTP 404: Not Found (https://api.github.com/repos/{name})")
    return repository


def _find_environment(state: dict[str, Any], repository: str, name: str, failure: str) -> dict[str, Any]:
    environments = _find_repository(state, repository, failure)["environments"]
    if name not in environments:
        url = f"https://api.github.com/repos/{repository}/environments/{name}/secrets"
        raise GhError(f"{failure}: HTTP 404: Not Found ({url})")
    environment: dict[str, Any] = environments[name]
    return environment


COMMANDS: dict[str, Callable[[dict[str, Any], list[str]], str | None]] = {
    "auth status": _show_login,
    "api": _call_api,
    "secret list": _list_secrets,
    "secret set": _set_secret,
    "variable list": _list_variables,
    "variable set": _set_variable,
}
"""The effect of each command. It returns what `gh` prints."""
