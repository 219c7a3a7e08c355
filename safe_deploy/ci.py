"""The CI system that runs this command: its run, and how a step publishes outputs, a summary and annotations. Hides the
systems' environment variables, file formats and logging commands."""

import re
import unicodedata
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO
from urllib.parse import quote

from safe_deploy.sanitization import escape_unprintable, neutralize_ci_commands, sanitize_line

_RUN_URL_PATTERN = r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?([/?][A-Za-z0-9._~:/?#\[\]!$&'()*+,;=%-]*)?"
_MAX_RUN_URL_LENGTH = 2000
_MAX_ACTOR_LENGTH = 200
_RUN_URL_REFUSED_MESSAGE = (
    "the server does not accept the URL of this run, so the audit log will not name the run. Set --run-url or "
    "SAFE_DEPLOY_RUN_URL to an http or https URL without a password"
)
"""Does not show the URL, because it may hold a password."""


class CiSystem(Protocol):
    """What a command publishes to the CI system. A failure to publish is a warning; it never fails the command."""

    @property
    def name(self) -> str: ...

    @property
    def run_url(self) -> str | None:
        """The URL of the run in a form that the server accepts. All steps, jobs and attempts of a run share it."""

    @property
    def actor(self) -> str | None:
        """Who started the run, in printable ASCII, because it is sent as a header."""

    def set_outputs(self, values: Mapping[str, str]) -> None:
        """Publish values to later steps, each as one printable line. Names are in kebab-case."""

    def set_secret_output(self, name: str, value: str) -> None:
        """Publish a value that the log must not show. A system that cannot mask it in the log does not get it."""

    def write_summary(self, markdown: str) -> None:
        """Add Markdown to the page of the run."""

    def error(self, message: str) -> None: ...

    def warning(self, message: str) -> None: ...


def detect_ci_system(environment: Mapping[str, str], stderr: TextIO) -> CiSystem:
    """The CI system that these environment variables describe. An empty variable counts as not set. Logging commands
    and warnings go to `stderr`."""
    variables = {name: value for name, value in environment.items() if value}
    system: GitHubActions | AzurePipelines
    if variables.get("GITHUB_ACTIONS", "").lower() == "true":
        run_url = _github_run_url(variables)
        system = GitHubActions(
            stderr=stderr,
            run_url=_normalize_run_url(run_url),
            actor=_github_actor(variables),
            output_file=_find_path(variables, "GITHUB_OUTPUT"),
            summary_file=_find_path(variables, "GITHUB_STEP_SUMMARY"),
        )
    elif variables.get("TF_BUILD", "").lower() == "true":
        run_url = _azure_run_url(variables)
        system = AzurePipelines(
            stderr=stderr,
            run_url=_normalize_run_url(run_url),
            actor=_azure_actor(variables),
            temp_directory=_find_path(variables, "AGENT_TEMPDIRECTORY"),
        )
    else:
        return _detect_other_system(variables, stderr)
    if run_url and not system.run_url:
        system.warning(_RUN_URL_REFUSED_MESSAGE)
    return system


@dataclass(frozen=True)
class Terminal:
    """No CI system: outputs, summaries and annotations have no receiver."""

    name: str = "terminal"
    run_url: str | None = None
    actor: str | None = None

    def set_outputs(self, values: Mapping[str, str]) -> None:
        """Does nothing."""

    def set_secret_output(self, name: str, value: str) -> None:
        """Does nothing."""

    def write_summary(self, markdown: str) -> None:
        """Does nothing."""

    def error(self, message: str) -> None:
        """Does nothing."""

    def warning(self, message: str) -> None:
        """Does nothing."""


class OtherCiSystem(Terminal):
    """A CI system of which only the run is known. It takes no outputs, summaries or annotations."""


@dataclass(frozen=True)
class GitHubActions:
    """Outputs and summaries are appended to files. Annotations are lines that start with `::`."""

    stderr: TextIO
    run_url: str | None
    actor: str | None
    output_file: Path | None
    summary_file: Path | None
    name: str = "GitHub Actions"

    def set_outputs(self, values: Mapping[str, str]) -> None:
        """Set outputs of the step, which later steps read."""
        lines = [f"{name}={escape_unprintable(value)}\n" for name, value in values.items()]
        self._append_to_file("GITHUB_OUTPUT", self.output_file, "".join(lines))

    def set_secret_output(self, name: str, value: str) -> None:
        # The runner masks the value in this line, too.
        _write_line(self.stderr, f"::add-mask::{_escape_github_data(sanitize_line(value))}")
        self.set_outputs({name: value})

    def write_summary(self, markdown: str) -> None:
        """Add Markdown to the summary of the job."""
        # The blank line ends a table, so that the next summary of the same step is not another row of it.
        self._append_to_file("GITHUB_STEP_SUMMARY", self.summary_file, f"{markdown}\n\n")

    def error(self, message: str) -> None:
        _write_line(self.stderr, f"::error title=safe-deploy::{_escape_github_data(sanitize_line(message))}")

    def warning(self, message: str) -> None:
        _write_line(self.stderr, f"::warning title=safe-deploy::{_escape_github_data(sanitize_line(message))}")

    def _append_to_file(self, variable: str, file: Path | None, text: str) -> None:
        """Write to a file that the runner names in a variable. A failure is a warning, because the command itself has
        succeeded."""
        if file is None:
            self.warning(f"{variable} is not set, so nothing was written to it")
            return
        try:
            with file.open("a", encoding="utf-8", errors="replace", newline="") as stream:
                stream.write(text)
        except OSError as error:
            self.warning(f"cannot write to the file of {variable}: {error}")


@dataclass(frozen=True)
class AzurePipelines:
    """Outputs, summaries and annotations are logging commands: lines that start with `##vso[`."""

    stderr: TextIO
    run_url: str | None
    actor: str | None
    temp_directory: Path | None
    name: str = "Azure Pipelines"

    def set_outputs(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self._set_variable(name, value)

    def set_secret_output(self, name: str, value: str) -> None:
        self._set_variable(name, value, issecret="true")

    def _set_variable(self, name: str, value: str, **properties: str) -> None:
        """Set an output variable of the step."""
        line = neutralize_ci_commands(escape_unprintable(value))
        self._write_logging_command("task.setvariable", line, variable=_camel_case(name), isOutput="true", **properties)

    def write_summary(self, markdown: str) -> None:
        """Have the agent show a summary on the page of the run. A summary that cannot be written is only a warning."""
        if self.temp_directory is None:
            self.warning("AGENT_TEMPDIRECTORY is not set, so no summary was written")
            return
        # The agent uploads the file later, and deletes the directory at the end of the job.
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
        """Write a logging command of Azure Pipelines, which the agent reads from the output."""
        property_list = ";".join(f"{name}={_escape_azure_property(value)}" for name, value in properties.items())
        _write_line(self.stderr, f"##vso[{f'{command} {property_list}'.strip()}]{_escape_azure_data(data)}")


def report_warning(system: CiSystem, stderr: TextIO, message: str) -> None:
    """Write a warning to the log. GitHub Actions and Azure Pipelines also show it as an annotation of the run."""
    if isinstance(system, Terminal):
        _write_line(stderr, f"warning: {sanitize_line(message)}")
    system.warning(message)


def _write_line(stderr: TextIO, line: str) -> None:
    # Flushed, because a child process may write to the same stream next.
    print(line, file=stderr, flush=True)


def _find_path(variables: Mapping[str, str], variable: str) -> Path | None:
    """The path in an environment variable; None if the variable is not set."""
    return Path(variables[variable]) if variable in variables else None


def _github_run_url(variables: Mapping[str, str]) -> str | None:
    """The URL of the run on GitHub, or None if the variables do not name it."""
    # The URL has no attempt number: a run whose failed jobs are run again continues its open deployment.
    server, repository, run = map(variables.get, ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID"))
    return f"{server.rstrip('/')}/{repository}/actions/runs/{run}" if server and repository and run else None


def _github_actor(variables: Mapping[str, str]) -> str | None:
    # GITHUB_ACTOR names who started the run first. GITHUB_TRIGGERING_ACTOR names who started this attempt.
    return _find_ascii_name(variables, "GITHUB_TRIGGERING_ACTOR", "GITHUB_ACTOR")


def _escape_github_data(text: str) -> str:
    """The message of a workflow command, escaped as GitHub demands, so that it stays one line."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _azure_run_url(variables: Mapping[str, str]) -> str | None:
    """The URL of the run in Azure Pipelines, or None if the variables do not name it."""
    # In a classic release, BUILD_* variables describe the build of the artifact, not the release.
    if release := variables.get("RELEASE_RELEASEWEBURL"):
        return release
    # The project's id instead of its name: a check on an environment must compute the same URL, and cannot escape.
    collection, project, build = map(variables.get, ("SYSTEM_COLLECTIONURI", "SYSTEM_TEAMPROJECTID", "BUILD_BUILDID"))
    return (
        f"{collection.rstrip('/')}/{project}/_build/results?buildId={build}"
        if collection and project and build
        else None
    )


def _azure_actor(variables: Mapping[str, str]) -> str | None:
    """Who requested this run of Azure Pipelines. Classic release pipelines have other variables than builds."""
    prefix = "RELEASE_DEPLOYMENT_REQUESTEDFOR" if "RELEASE_RELEASEWEBURL" in variables else "BUILD_REQUESTEDFOR"
    return _find_ascii_name(variables, f"{prefix}EMAIL", prefix, f"{prefix}ID")


def _detect_other_system(variables: Mapping[str, str], stderr: TextIO) -> CiSystem:
    """The first CI system, of those without logging commands, whose variable is set; a terminal if there is none."""
    for system in _OTHER_SYSTEMS:
        if system.marker in variables:
            run_url = system.find_run_url(variables)
            normalized = _normalize_run_url(run_url)
            if run_url and not normalized:
                _write_line(stderr, f"warning: {_RUN_URL_REFUSED_MESSAGE}")
            return OtherCiSystem(system.name, normalized, _find_ascii_name(variables, *system.actor_variables))
    return Terminal()


def _bitbucket_run_url(variables: Mapping[str, str]) -> str | None:
    """The URL of the run in Bitbucket Pipelines, or None if the variables do not name it."""
    repository, number = map(variables.get, ("BITBUCKET_REPO_FULL_NAME", "BITBUCKET_BUILD_NUMBER"))
    return f"https://bitbucket.org/{repository}/pipelines/results/{number}" if repository and number else None


@dataclass(frozen=True, kw_only=True)
class _OtherSystem:
    """How to detect a CI system: `marker` is a variable that only this system sets. Its run URL must be the same for a
    job that is run again."""

    name: str
    marker: str
    find_run_url: Callable[[Mapping[str, str]], str | None]
    actor_variables: Sequence[str]


# CircleCI is missing because its reruns are new workflows with new URLs. In Jenkins, restarting a build (also from a
# stage) is a new run; `retry` inside a build is the same run.
_OTHER_SYSTEMS = (
    _OtherSystem(
        name="GitLab CI",
        marker="GITLAB_CI",
        find_run_url=lambda variables: variables.get("CI_PIPELINE_URL"),
        actor_variables=["GITLAB_USER_LOGIN"],
    ),
    _OtherSystem(
        name="Buildkite",
        marker="BUILDKITE",
        find_run_url=lambda variables: variables.get("BUILDKITE_BUILD_URL"),
        actor_variables=["BUILDKITE_BUILD_CREATOR"],
    ),
    _OtherSystem(
        name="Bitbucket Pipelines",
        marker="BITBUCKET_BUILD_NUMBER",
        find_run_url=_bitbucket_run_url,
        actor_variables=["BITBUCKET_STEP_TRIGGERER_UUID"],
    ),
    _OtherSystem(
        name="Jenkins",
        marker="JENKINS_URL",
        find_run_url=lambda variables: variables.get("BUILD_URL"),
        actor_variables=[],
    ),
)


def _escape_azure_data(text: str) -> str:
    """The message of a logging command, escaped as Azure Pipelines demands, so that it stays one line."""
    return text.replace("%", "%AZP25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_azure_property(text: str) -> str:
    """The value of a property of a logging command. A bracket or semicolon would end it."""
    return _escape_azure_data(text).replace("]", "%5D").replace(";", "%3B")


def _camel_case(name: str) -> str:
    """The name of an output as Azure Pipelines allows it, such as `taskHub` for `task-hub`."""
    first, *others = name.split("-")
    return first + "".join(map(str.capitalize, others))


def _normalize_run_url(run_url: str | None) -> str | None:
    """The URL with invalid characters percent-encoded, or None if the server would still refuse it."""
    escaped = quote(run_url or "", safe="%:/?#[]!$&'()*+,;=~", errors="replace")
    return escaped if len(escaped) <= _MAX_RUN_URL_LENGTH and re.fullmatch(_RUN_URL_PATTERN, escaped) else None


def _find_ascii_name(variables: Mapping[str, str], *names: str) -> str | None:
    """The first of these variables whose value can be written in ASCII."""
    return next(filter(None, (to_ascii_name(variables.get(name, "")) for name in names)), None)


def to_ascii_name(name: str) -> str | None:
    """The name in printable ASCII, None if no letter or digit is left: `José` becomes `Jose`, `Łukasz` becomes
    `?ukasz`."""
    letters = (letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    words = "".join(letters).encode("ascii", "replace").decode().split()
    ascii_name = "".join(filter(str.isprintable, " ".join(words)))[:_MAX_ACTOR_LENGTH].strip()
    return ascii_name if any(map(str.isalnum, ascii_name)) else None
