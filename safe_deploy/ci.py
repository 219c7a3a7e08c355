"""Which CI system runs this command: whose run it is, and how a step hands on outputs, a summary and annotations.
It hides the systems' variables, file formats and logging commands."""

import re
import unicodedata
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO
from urllib.parse import quote

from safe_deploy.sanitization import escape_unprintable, neutralize_commands, sanitize_line

_RUN_URL_PATTERN = r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?([/?][A-Za-z0-9._~:/?#\[\]!$&'()*+,;=%-]*)?"
_MAX_RUN_URL_LENGTH = 2000
_MAX_ACTOR_LENGTH = 200
# It may hold a password, so it is not shown.
_RUN_URL_REFUSED_MESSAGE = "the server does not take the address of this run, so it is not told which run deploys"


class CiSystem(Protocol):
    """What a command tells the system that runs it. None of it fails a deployment: what cannot be told is a warning."""

    @property
    def name(self) -> str: ...

    @property
    def run_url(self) -> str | None:
        """The address of the run, as the server takes it: the same for every step, job and attempt."""

    @property
    def actor(self) -> str | None:
        """Who started the run, in printable ASCII: it is sent as a header."""

    def set_outputs(self, values: Mapping[str, str]) -> None:
        """Hand values on to later steps. The names are in kebab-case. Values are handed on as one printable line."""

    def write_summary(self, markdown: str) -> None:
        """Show this on the page of the run."""

    def error(self, message: str) -> None: ...

    def warning(self, message: str) -> None: ...


def detect_ci_system(environment: Mapping[str, str], stderr: TextIO) -> CiSystem:
    """The system that these variables tell of; it speaks through stderr. An empty variable counts as not set."""
    known = {name: value for name, value in environment.items() if value}
    found: GitHubActions | AzurePipelines
    if known.get("GITHUB_ACTIONS", "").lower() == "true":
        address = _github_run_url(known)
        found = GitHubActions(
            stderr,
            _normalize_run_url(address),
            _github_actor(known),
            _find_path(known, "GITHUB_OUTPUT"),
            _find_path(known, "GITHUB_STEP_SUMMARY"),
        )
    elif known.get("TF_BUILD", "").lower() == "true":
        address = _azure_run_url(known)
        found = AzurePipelines(
            stderr, _normalize_run_url(address), _azure_actor(known), _find_path(known, "AGENT_TEMPDIRECTORY")
        )
    else:
        return _detect_other_system(known, stderr)
    if address and not found.run_url:
        found.warning(_RUN_URL_REFUSED_MESSAGE)
    return found


@dataclass(frozen=True)
class Terminal:
    """No CI system: nobody to tell, and whoever typed the command sees what it prints."""

    name: str = "terminal"
    run_url: str | None = None
    actor: str | None = None

    def set_outputs(self, values: Mapping[str, str]) -> None:
        pass

    def write_summary(self, markdown: str) -> None:
        pass

    def error(self, message: str) -> None:
        pass

    def warning(self, message: str) -> None:
        pass


class OtherCiSystem(Terminal):
    """A CI system of which no more is known than whose run it is: it takes no outputs, and its log is a terminal."""


@dataclass(frozen=True)
class GitHubActions:
    """Files take outputs and summaries; commands are lines that begin with `::`."""

    stderr: TextIO
    run_url: str | None
    actor: str | None
    output_file: Path | None
    summary_file: Path | None
    name: str = "GitHub Actions"

    def set_outputs(self, values: Mapping[str, str]) -> None:
        lines = [f"{name}={escape_unprintable(value)}\n" for name, value in values.items()]
        self._append_to_file("GITHUB_OUTPUT", self.output_file, "".join(lines))

    def write_summary(self, markdown: str) -> None:
        self._append_to_file("GITHUB_STEP_SUMMARY", self.summary_file, f"{markdown}\n")

    def error(self, message: str) -> None:
        _write_line(self.stderr, f"::error title=safe-deploy::{_escape_github_data(sanitize_line(message))}")

    def warning(self, message: str) -> None:
        _write_line(self.stderr, f"::warning title=safe-deploy::{_escape_github_data(sanitize_line(message))}")

    def _append_to_file(self, variable: str, file: Path | None, text: str) -> None:
        if file is None:
            self.warning(f"{variable} is not set")
            return
        try:
            with file.open("a", encoding="utf-8", errors="replace", newline="") as opened:
                opened.write(text)
        except OSError as error:
            self.warning(f"cannot write to the file of {variable}: {error}")


@dataclass(frozen=True)
class AzurePipelines:
    """Everything is a command: a line with `##vso[`."""

    stderr: TextIO
    run_url: str | None
    actor: str | None
    temp_directory: Path | None
    name: str = "Azure Pipelines"

    def set_outputs(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            line = neutralize_commands(escape_unprintable(value))
            self._write_logging_command("task.setvariable", line, variable=_camel_case(name), isOutput="true")

    def write_summary(self, markdown: str) -> None:
        if self.temp_directory is None:
            self.warning("AGENT_TEMPDIRECTORY is not set")
            return
        # The agent uploads it some time later, and clears the folder itself when the job is over.
        file = self.temp_directory / f"safe-deploy-{uuid.uuid4().hex}.md"
        try:
            file.write_text(f"{markdown}\n", encoding="utf-8", errors="replace", newline="")
        except OSError as error:
            self.warning(f"cannot write a summary into AGENT_TEMPDIRECTORY: {error}")
        else:
            self._write_logging_command("task.uploadsummary", str(file))

    def error(self, message: str) -> None:
        self._write_logging_command("task.logissue", sanitize_line(message), type="error")

    def warning(self, message: str) -> None:
        self._write_logging_command("task.logissue", sanitize_line(message), type="warning")

    def _write_logging_command(self, command: str, data: str, **properties: str) -> None:
        listed = ";".join(f"{name}={_escape_azure_property(value)}" for name, value in properties.items())
        _write_line(self.stderr, f"##vso[{f'{command} {listed}'.strip()}]{_escape_azure_data(data)}")


def report_warning(system: CiSystem, stderr: TextIO, message: str) -> None:
    """A warning for whoever reads the log, and an annotation of the run where the CI system has such."""
    if isinstance(system, Terminal):
        _write_line(stderr, f"warning: {sanitize_line(message)}")
    system.warning(message)


def _write_line(stderr: TextIO, line: str) -> None:
    # A child process may write to the same stream next.
    print(line, file=stderr, flush=True)


def _find_path(known: Mapping[str, str], variable: str) -> Path | None:
    return Path(known[variable]) if variable in known else None


def _github_run_url(known: Mapping[str, str]) -> str | None:
    # Without the attempt: a run whose failed jobs are run again goes on with the deployment that it has open.
    server, repository, run = map(known.get, ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID"))
    return f"{server.rstrip('/')}/{repository}/actions/runs/{run}" if server and repository and run else None


def _github_actor(known: Mapping[str, str]) -> str | None:
    # GITHUB_ACTOR stays the one who started the run first, whoever runs it again.
    return _find_ascii_name(known, "GITHUB_TRIGGERING_ACTOR", "GITHUB_ACTOR")


def _escape_github_data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _azure_run_url(known: Mapping[str, str]) -> str | None:
    # In a classic release the variables of the build are those of the artifact.
    if release := known.get("RELEASE_RELEASEWEBURL"):
        return release
    # By the project's id, not its name: a check on an environment must write the same address, and cannot escape.
    collection, project, build = map(known.get, ("SYSTEM_COLLECTIONURI", "SYSTEM_TEAMPROJECTID", "BUILD_BUILDID"))
    return (
        f"{collection.rstrip('/')}/{project}/_build/results?buildId={build}"
        if collection and project and build
        else None
    )


def _azure_actor(known: Mapping[str, str]) -> str | None:
    who = "RELEASE_DEPLOYMENT_REQUESTEDFOR" if "RELEASE_RELEASEWEBURL" in known else "BUILD_REQUESTEDFOR"
    return _find_ascii_name(known, f"{who}EMAIL", who, f"{who}ID")


def _detect_other_system(known: Mapping[str, str], stderr: TextIO) -> CiSystem:
    for name, (mark, run, actor) in _OTHER_SYSTEMS.items():
        if mark in known:
            address = run(known)
            run_url = _normalize_run_url(address)
            if address and not run_url:
                _write_line(stderr, f"warning: {_RUN_URL_REFUSED_MESSAGE}")
            return OtherCiSystem(name, run_url, _find_ascii_name(known, *actor))
    return Terminal()


def _bitbucket_run_url(known: Mapping[str, str]) -> str | None:
    repository, number = map(known.get, ("BITBUCKET_REPO_FULL_NAME", "BITBUCKET_BUILD_NUMBER"))
    return f"https://bitbucket.org/{repository}/pipelines/results/{number}" if repository and number else None


_OTHER_SYSTEMS: Mapping[str, tuple[str, Callable[[Mapping[str, str]], str | None], Sequence[str]]] = {
    "GitLab CI": ("GITLAB_CI", lambda known: known.get("CI_PIPELINE_URL"), ["GITLAB_USER_LOGIN"]),
    "Buildkite": ("BUILDKITE", lambda known: known.get("BUILDKITE_BUILD_URL"), ["BUILDKITE_BUILD_CREATOR"]),
    "Bitbucket Pipelines": ("BITBUCKET_BUILD_NUMBER", _bitbucket_run_url, ["BITBUCKET_STEP_TRIGGERER_UUID"]),
    # A build that is started again, also from one of its stages, is another run. `retry` within a build is the same.
    "Jenkins": ("JENKINS_URL", lambda known: known.get("BUILD_URL"), []),
}
"""By what variable each is known, the address of the run, which is the same for a job that is run again, and who
started it. CircleCI is not here: what it runs again is another workflow with another address."""


def _escape_azure_data(text: str) -> str:
    return text.replace("%", "%AZP25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_azure_property(text: str) -> str:
    return _escape_azure_data(text).replace("]", "%5D").replace(";", "%3B")


def _camel_case(name: str) -> str:
    first, *others = name.split("-")
    return first + "".join(map(str.capitalize, others))


def _normalize_run_url(address: str | None) -> str | None:
    """The address with what no address may hold written as %XX; None if the server would refuse it all the same."""
    escaped = quote(address or "", safe="%:/?#[]!$&'()*+,;=~", errors="replace")
    return escaped if len(escaped) <= _MAX_RUN_URL_LENGTH and re.fullmatch(_RUN_URL_PATTERN, escaped) else None


def _find_ascii_name(known: Mapping[str, str], *variables: str) -> str | None:
    """The first of these that says something in ASCII."""
    return next(filter(None, (to_ascii_name(known.get(variable, "")) for variable in variables)), None)


def to_ascii_name(name: str) -> str | None:
    """A name in printable ASCII, if anything of it is left: `José` becomes `Jose`, and `Łukasz` becomes `?ukasz`."""
    letters = (one for one in unicodedata.normalize("NFKD", name) if not unicodedata.combining(one))
    text = " ".join("".join(letters).encode("ascii", "replace").decode().split())
    sanitize_line = "".join(filter(str.isprintable, text))[:_MAX_ACTOR_LENGTH].strip()
    return sanitize_line if any(map(str.isalnum, sanitize_line)) else None
