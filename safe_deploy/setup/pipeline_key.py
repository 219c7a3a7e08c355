"""The pipeline's key for the state server: created once, stored as the secret STATE_KEY, and shown at most once.

First is decided what is done, and the person is asked; nothing changes before all is decided. The key goes to `gh`
through stdin, or to the person at the terminal. It is in no argument, log or file.
"""

import secrets
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from safe_deploy.client import Json
from safe_deploy.keys import CreatedKey, KeyRole, create_key
from safe_deploy.prompts import Prompts
from safe_deploy.sanitization import sanitize_line
from safe_deploy.setup.file_changes import StepResult, StepStatus
from safe_deploy.setup.github_cli import GitHubRepository, GitHubUnavailable

SECRET = "STATE_KEY"  # noqa: S105  # the name of the secret
_STEP = f"secret {SECRET}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyResult:
    """What became of the key: the steps, and its entry for STATE_KEYS if a key was created."""

    steps: tuple[StepResult, ...]
    entry: Json | None = None
    variables: frozenset[str] = frozenset()
    """The names of the variables that the repository has on GitHub."""


class KeyPlan(Protocol):
    """What was decided about the key."""

    def carry_out(self, *, dry_run: bool) -> KeyResult:
        """Do what was decided. With `dry_run`, only say what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GitHubTarget:
    """The repository, environments and branch of the pipeline on GitHub, and the variables that its workflow reads."""

    repository: GitHubRepository
    environments: Sequence[str]
    branch: str
    variables: Mapping[str, str]
    """Only the variables whose values are known already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GitHubPlan:
    """What the repository on GitHub has, and whether the rest is added. What exists is not replaced."""

    app: str
    target: GitHubTarget
    missing_environments: Sequence[str]
    environments_with_key: Sequence[str]
    existing_variables: Mapping[str, str]
    is_agreed: bool = True

    @property
    def environments_without_key(self) -> list[str]:
        """The environments that get a new key, among them the missing ones."""
        return [name for name in self.target.environments if name not in self.environments_with_key]

    @property
    def new_variables(self) -> dict[str, str]:
        """The variables that are set."""
        return {name: value for name, value in self.target.variables.items() if name not in self.existing_variables}

    def list_wishes(self) -> list[str]:
        """What would be changed, in words."""
        return [
            *(
                f"create the environment {name}, for the branch {self.target.branch} only"
                for name in self.missing_environments
            ),
            *(f"set the variable {name} to {value}" for name, value in self.new_variables.items()),
            *(f"store a new key as the secret {SECRET} of {name}" for name in self.environments_without_key),
        ]

    def carry_out(self, *, dry_run: bool) -> KeyResult:
        """Add what is missing. A failure leaves the rest to the person, and to the next run."""
        steps = list(self._describe_existing())
        wishes = self.list_wishes()
        if wishes and not self.is_agreed:
            steps.append(StepResult(step="GitHub", status=StepStatus.TO_DO, detail=f"not done: {'; '.join(wishes)}"))
            return self._build_result(steps, None)
        entry: Json | None = None
        try:
            for step, created in self._add_missing(dry_run=dry_run):
                steps.append(step)
                entry = created.entry if created else entry
        except GitHubUnavailable as error:
            detail = f"{error.message}. Run init again when that is resolved"
            if entry is None and self.environments_without_key:
                detail += f", or {format_paste_advice(self.app, f'the environment {self.environments_without_key[0]}')}"
            steps.append(StepResult(step="GitHub", status=StepStatus.TO_DO, detail=detail))
        return self._build_result(steps, entry)

    def _add_missing(self, *, dry_run: bool) -> Iterator[tuple[StepResult, CreatedKey | None]]:
        """Create the missing environments, variables and secrets, and yield each as a step. A dry run creates nothing.
        Raises GitHubUnavailable."""
        github = self.target.repository
        for name in self.missing_environments:
            if not dry_run:
                github.create_environment(name, self.target.branch)
            detail = f"for the branch {self.target.branch} only"
            yield StepResult(step=f"environment {name}", status=StepStatus.CREATED, detail=detail), None
        for name, value in self.new_variables.items():
            if not dry_run:
                github.set_variable(name, value)
            yield StepResult(step=f"variable {name}", status=StepStatus.CREATED, detail=value), None
        created = create_pipeline_key(self.app) if self.environments_without_key and not dry_run else None
        for name in self.environments_without_key:
            if created is not None:
                github.set_secret(name, SECRET, created.key)
            detail = f"a new key for app {self.app}, in the environment {name}"
            yield StepResult(step=_STEP, status=StepStatus.CREATED, detail=detail), created

    def _describe_existing(self) -> Iterator[StepResult]:
        """The variables and secrets that stay as they are."""
        for name, value in self.target.variables.items():
            existing = self.existing_variables.get(name)
            if existing == value:
                yield StepResult(step=f"variable {name}", status=StepStatus.UNCHANGED, detail=value)
            elif existing is not None:
                advice = f"gh variable set {name} --body {shlex.quote(value)}"
                detail = f"it is {existing}, and not {value}. If that is wrong: {advice}"
                yield StepResult(step=f"variable {name}", status=StepStatus.KEPT, detail=detail)
        if self.environments_with_key:
            names = ", ".join(self.environments_with_key)
            delete = f"gh secret delete {SECRET} --env {self.environments_with_key[0]}"
            detail = f"stored already in {names}. If the server does not accept it: {delete}, and init again"
            yield StepResult(step=_STEP, status=StepStatus.UNCHANGED, detail=detail)

    def _build_result(self, steps: Sequence[StepResult], entry: Json | None) -> KeyResult:
        variables = frozenset(self.existing_variables) | frozenset(self.target.variables)
        return KeyResult(steps=tuple(steps), entry=entry, variables=variables)


@dataclass(frozen=True, slots=True, kw_only=True)
class PastePlan:
    """The key cannot be stored: it is shown once on the terminal, or a command is named that creates one."""

    app: str
    place: str
    """Where the key must be stored."""
    reason: str
    is_asked: bool
    is_agreed: bool = False

    def carry_out(self, *, dry_run: bool) -> KeyResult:
        """Show a new key, if the person has agreed."""
        if not self.is_asked or dry_run:
            advice = format_paste_advice(self.app, self.place)
            step = StepResult(
                step=_STEP, status=StepStatus.TO_DO, detail=f"{self.reason}. If it is not stored yet, {advice}"
            )
            return KeyResult(steps=(step,))
        if not self.is_agreed:
            step = StepResult(step=_STEP, status=StepStatus.UNCHANGED, detail="no key was created")
            return KeyResult(steps=(step,))
        created = create_pipeline_key(self.app)
        # To the terminal only: what goes through the other functions may end in a log.
        sys.stderr.write(f"\n{created.key}\n\n")
        sys.stderr.flush()
        detail = f"shown above, and not again: paste it as the secret {SECRET} into {self.place}"
        step = StepResult(step=_STEP, status=StepStatus.TO_DO, detail=detail)
        return KeyResult(steps=(step,), entry=created.entry)


def plan_key_on_github(target: GitHubTarget, app: str, prompts: Prompts, *, dry_run: bool) -> GitHubPlan:
    """Read what the repository on GitHub has, and ask whether the rest may be added. Raises GitHubUnavailable."""
    github = target.repository
    github.require_login()
    missing = [name for name in target.environments if not github.has_environment(name)]
    with_key = [name for name in target.environments if name not in missing and github.has_secret(name, SECRET)]
    plan = GitHubPlan(
        app=app,
        target=target,
        missing_environments=missing,
        environments_with_key=with_key,
        existing_variables=github.read_variables(),
    )
    wishes = plan.list_wishes()
    if dry_run or not wishes:
        return plan
    if not prompts.assume_yes:
        lines = [f"{github.name} on GitHub gets these changes:", *(f"  {wish}" for wish in wishes)]
        sys.stderr.write("".join(f"{sanitize_line(line)}\n" for line in lines))
    if prompts.confirm(f"Make these changes in {github.name}?"):
        return plan
    return replace(plan, is_agreed=False)


def plan_pasted_key(app: str, place: str, prompts: Prompts, *, reason: str, dry_run: bool) -> PastePlan:
    """Ask whether a key shall be shown. With `--yes` none is shown, because the output may be a log."""
    if dry_run or prompts.assume_yes or not sys.stderr.isatty():
        return PastePlan(app=app, place=place, reason=reason, is_asked=False)
    question = f"{reason}. Show a new key now, to be pasted into {place}? Answer n if it has one."
    return PastePlan(app=app, place=place, reason=reason, is_asked=True, is_agreed=prompts.confirm(question))


def create_pipeline_key(app: str) -> CreatedKey:
    """A new key with the role of a pipeline, for one app."""
    return create_key(name=_make_key_name(app), role=KeyRole.DEPLOYER, apps=[app])


def format_paste_advice(app: str, place: str) -> str:
    """How a person creates the key, and where it goes."""
    name = _make_key_name(app)
    command = f"safe-deploy keys new --role {KeyRole.DEPLOYER} --app {shlex.quote(app)} --name {name}"
    return f"create a key with {command}, and store it as the secret {SECRET} in {place}"


def _make_key_name(app: str) -> str:
    """Names of keys are unique on a server, so it ends with random digits."""
    return f"pipeline-{app[:48]}-{secrets.token_hex(3)}"
