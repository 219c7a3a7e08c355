"""One run of `safe-deploy init`: looks, asks, decides, and then writes. Nothing is written before all is decided."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safe_deploy.azure_cli import AzureUnavailable, require_valid_name
from safe_deploy.client import Json
from safe_deploy.errors import UsageError
from safe_deploy.prompts import Prompts
from safe_deploy.sanitization import sanitize_line
from safe_deploy.setup.azure_apps import AzureApps
from safe_deploy.setup.file_changes import (
    DecidedChange,
    FileChange,
    StepResult,
    StepStatus,
    decide_change,
    make_change,
)
from safe_deploy.setup.git_repository import list_uncommitted, read_repository
from safe_deploy.setup.github_cli import GitHubRepository, GitHubUnavailable
from safe_deploy.setup.host_json import change_host_json, find_provider, read_host_json
from safe_deploy.setup.interview import Interview, choose_folder, choose_remote
from safe_deploy.setup.json_text import JsonTextError
from safe_deploy.setup.next_steps import NextStep, SetupOutcome, list_next_steps
from safe_deploy.setup.observations import (
    ExistingPipelines,
    ObservedAzure,
    describe_repository,
    find_pipelines,
    look_at_azure,
)
from safe_deploy.setup.options import AnswerOptions
from safe_deploy.setup.pipeline_files import build_pipeline_files, list_environments
from safe_deploy.setup.pipeline_key import GitHubTarget, KeyPlan, plan_key_on_github, plan_pasted_key
from safe_deploy.setup.pipeline_settings import DeploymentModel, PipelineSettings
from safe_deploy.setup.policy_file import POLICY_FILE, build_policy, format_policy, parse_policy
from safe_deploy.setup.remotes import CiSystemName, Remote
from safe_deploy.setup.repository_files import RepositoryFiles
from safe_deploy.setup.server_place import ServerPlace, find_server


@dataclass(frozen=True, slots=True, kw_only=True)
class HostJsonDecision:
    """How host.json names the task hub, and whether that is changed."""

    text: str
    literal_name: str | None
    """The task hub that host.json names itself, without an app setting."""
    setting: str
    """The app setting with the name of the task hub."""
    is_changed: bool
    """Whether host.json is changed to take the name from the setting."""
    is_open: bool
    """Whether host.json has the name itself, and stays so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitResult:
    """What was done, and what a person does next."""

    settings: PipelineSettings
    is_dry_run: bool
    """With it, the steps say what would be done."""
    steps: tuple[StepResult, ...]
    entry: Json | None
    next_steps: tuple[NextStep, ...]

    @property
    def kept(self) -> list[str]:
        """The steps that were not taken because a person has edited something."""
        return [step.step for step in self.steps if step.status is StepStatus.KEPT and step.step != POLICY_FILE]

    @property
    def has_changed(self) -> bool:
        """Whether a file, or something on GitHub, is other than before."""
        return any(step.status in {StepStatus.CREATED, StepStatus.CHANGED} for step in self.steps)

    def to_json(self) -> Json:
        """The result of the command. It holds no key."""
        return {
            "dryRun": self.is_dry_run,
            "steps": [step.to_json() for step in self.steps],
            "keyEntry": self.entry,
            "nextSteps": [step.to_json() for step in self.next_steps],
        }


class Initialization:
    """One run. `report` prints a line of progress."""

    def __init__(
        self, options: AnswerOptions, prompts: Prompts, report: Callable[[str], None], *, dry_run: bool
    ) -> None:
        self._options = options.list_given()
        self._prompts = prompts
        self._report = report
        self._dry_run = dry_run
        self._apps = AzureApps()

    def run(self, directory: Path) -> InitResult:
        """Set up the repository of a directory.

        Raises UsageError if an answer is missing or not valid, before anything is written, and CommandError if a file
        cannot be written.
        """
        repository = read_repository(directory)
        self._report(describe_repository(repository))
        files = RepositoryFiles(repository.root)
        pipelines = find_pipelines(files)
        if len(repository.host_json_folders) > 1:
            # Of several apps, another one may be deployed by a pipeline that was written by hand.
            pipelines = replace(pipelines, by_hand=())
        folder = choose_folder(self._options, repository, pipelines.find_answers(None), self._prompts)
        earlier = pipelines.find_answers(folder)
        remote = choose_remote(self._options.get("remote", ""), repository, self._prompts)
        host_json = self._decide_host_json(files, _join(folder, "host.json"), earlier.get("task_hub_setting", ""))
        azure = look_at_azure(self._apps, self._report)
        settings = Interview(
            options=self._options,
            earlier=earlier,
            repository=repository,
            remote=remote,
            azure=azure,
            apps=self._apps,
            prompts=self._prompts,
            report=self._report,
        ).ask_settings(folder=folder, task_hub_setting=host_json.setting)
        _require_own_variables(settings, pipelines)
        azure = self._require_same_subscription(settings, azure)
        decided, remarks = self._decide_files(files, settings, host_json, pipelines)
        task_hub = self._read_task_hub(settings, azure)
        key_plan = self._plan_key(settings, remote, azure)
        if not self._dry_run:
            for change in decided:
                if change.is_made:
                    files.require_writable(change.change.path)
        steps = [*remarks, *(make_change(change, files, dry_run=self._dry_run) for change in decided)]
        if host_json.is_open:
            steps.append(_describe_open_host_json(host_json, _join(folder, "host.json")))
        key = key_plan.carry_out(dry_run=self._dry_run)
        policy_text = files.read(_join(folder, POLICY_FILE))
        outcome = SetupOutcome(
            settings=settings,
            policy=parse_policy(policy_text) if policy_text else build_policy(settings.model, host_json.text),
            entry=key.entry,
            task_hub=task_hub,
            named_task_hub=host_json.literal_name,
            provider=find_provider(host_json.text),
            has_client_id=bool(key.variables & {"CLIENT", "AZURE_CLIENT_ID"}),
            uncommitted_files=self._list_uncommitted(repository.root, decided),
            kept_files=tuple(change.change.path for change in decided if change.is_refused),
            server_place=find_server(settings.server, azure, self._apps, self._report) if key.entry else ServerPlace(),
        )
        return InitResult(
            settings=settings,
            is_dry_run=self._dry_run,
            steps=(*steps, *key.steps),
            entry=key.entry,
            next_steps=tuple(list_next_steps(outcome)),
        )

    def _decide_host_json(self, files: RepositoryFiles, path: str, earlier_setting: str) -> HostJsonDecision:
        """Whether host.json takes the task hub from an app setting. A person is asked, because the setting must have
        the name of today before the file is deployed."""
        text = files.read(path) or ""
        try:
            host_json = read_host_json(text)
        except JsonTextError as error:
            raise UsageError(f"{path} cannot be read: {error}. Correct it, and run the command again") from None
        wanted = self._options.get("task_hub_setting", "")
        if wanted or earlier_setting:
            # It becomes a part of the pipeline's commands.
            require_valid_name("app setting", wanted or earlier_setting)
        existing = host_json.task_hub_setting
        if existing is not None:
            is_changed = bool(wanted) and wanted != existing
            setting = wanted or existing
            return HostJsonDecision(text=text, literal_name=None, setting=setting, is_changed=is_changed, is_open=False)
        setting = wanted or earlier_setting or "TASK_HUB"
        named = HostJsonDecision(
            text=text, literal_name=host_json.hub_name, setting=setting, is_changed=bool(wanted), is_open=not wanted
        )
        if wanted or self._prompts.assume_yes:
            return named
        names = f"names the task hub {host_json.hub_name} itself" if host_json.hub_name else "names no task hub"
        agreed = self._prompts.confirm(
            f"{path} {names}. Each version needs a new task hub, so its name must come from an app setting. Take "
            f"it from {setting}? Set {setting} in production to the name of today before you deploy this file."
        )
        return replace(named, is_changed=agreed, is_open=not agreed)

    def _decide_files(
        self,
        files: RepositoryFiles,
        settings: PipelineSettings,
        host_json: HostJsonDecision,
        pipelines: ExistingPipelines,
    ) -> tuple[list[DecidedChange], list[StepResult]]:
        """Which files are written, and remarks about those that are there."""
        remarks = [
            StepResult(
                step=path,
                status=StepStatus.TO_DO,
                detail="it deploys a function app without waiting. Remove that part, so that only one pipeline deploys",
            )
            for path in pipelines.unguarded
        ]
        remarks += [
            StepResult(step=path, status=StepStatus.UNCHANGED, detail="it uses safe-deploy already")
            for path in pipelines.by_hand
        ]
        pipeline_files = [] if pipelines.by_hand else build_pipeline_files(settings)
        changes = [FileChange(path=file.path, before=files.read(file.path), after=file.text) for file in pipeline_files]
        path = _join(settings.folder, "host.json")
        try:
            changed = change_host_json(
                host_json.text, task_hub_setting=settings.task_hub_setting if host_json.is_changed else None
            )
        except JsonTextError as error:
            raise UsageError(f"{path} cannot be changed: {error}. Correct it, and run the command again") from None
        changes.append(FileChange(path=path, before=host_json.text, after=changed.text, is_addition=True))
        remarks += [StepResult(step=path, status=StepStatus.TO_DO, detail=remark) for remark in changed.remarks]
        policy_path = _join(settings.folder, POLICY_FILE)
        policy = format_policy(build_policy(settings.model, host_json.text))
        changes.append(FileChange(path=policy_path, before=files.read(policy_path), after=policy, replaceable=False))
        prompts = Prompts(assume_yes=True) if self._dry_run else self._prompts
        return [decide_change(change, prompts, _show_diff) for change in changes], remarks

    def _list_uncommitted(self, root: Path, decided: Sequence[DecidedChange]) -> tuple[str, ...]:
        """The files of the set-up that are not committed yet. Of a dry run, those that it would write."""
        if self._dry_run:
            return tuple(change.change.path for change in decided if change.is_made)
        paths = [change.change.path for change in decided if not change.is_refused]
        uncommitted = list_uncommitted(root, paths)
        return tuple(path for path in paths if path in uncommitted)

    def _require_same_subscription(self, settings: PipelineSettings, azure: ObservedAzure) -> ObservedAzure:
        """What was seen of Azure, without the account if that has no such Function App: the app is in another one."""
        if azure.account is None or not settings.function_app or azure.find(settings.function_app):
            return azure
        self._report(
            f"{settings.function_app} is not in subscription {azure.account.subscription}, so the subscription is not "
            "written anywhere. Choose the right one with az account set"
        )
        return replace(azure, account=None)

    def _read_task_hub(self, settings: PipelineSettings, azure: ObservedAzure) -> str | None:
        """The task hub of production, if `az` shows it."""
        if settings.model is DeploymentModel.SIDE_BY_SIDE or azure.account is None:
            return None
        try:
            return self._apps.read_setting(settings.resource_group, settings.function_app, settings.task_hub_setting)
        except AzureUnavailable as error:
            self._report(f"the app setting {settings.task_hub_setting} is not read, because {error.message}")
            return None

    def _plan_key(self, settings: PipelineSettings, remote: Remote | None, azure: ObservedAzure) -> KeyPlan:
        """What is done about the key: it is stored on GitHub, or shown."""
        if settings.ci is CiSystemName.AZURE_PIPELINES:
            reason = "safe-deploy cannot store a secret in Azure DevOps"
            place = "the variable group safe-deploy"
            return plan_pasted_key(settings.app, place, self._prompts, reason=reason, dry_run=self._dry_run)
        environments = list_environments(settings)
        place = f"the environment {environments[0]} of the repository on GitHub"
        repository = remote.github_repository if remote else None
        if repository is None:
            reason = "the git remote names no repository on GitHub"
            return plan_pasted_key(settings.app, place, self._prompts, reason=reason, dry_run=self._dry_run)
        target = GitHubTarget(
            repository=GitHubRepository(repository),
            environments=environments,
            branch=settings.branch,
            variables=_list_variables(settings, azure, self._options.get("client_id", "")),
        )
        try:
            return plan_key_on_github(target, settings.app, self._prompts, dry_run=self._dry_run)
        except GitHubUnavailable as error:
            return plan_pasted_key(settings.app, place, self._prompts, reason=error.message, dry_run=self._dry_run)


def _require_own_variables(settings: PipelineSettings, pipelines: ExistingPipelines) -> None:
    """Raises UsageError for workflows that would read the variables of another app, and release this one as that."""
    if settings.ci is not CiSystemName.GITHUB or settings.model is not DeploymentModel.SIDE_BY_SIDE:
        return
    other = pipelines.find_other_releases(settings.folder)
    if other is not None:
        raise UsageError(
            f"app {other} of this repository has releases side by side already. Its workflows read the variable APP "
            f"and others of the repository, so {settings.app} would be released as {other}. Move one of the apps to a "
            "repository of its own"
        )


def _list_variables(settings: PipelineSettings, azure: ObservedAzure, client_id: str) -> dict[str, str]:
    """The variables that the workflows read, as far as they are known."""
    account = azure.account
    tenant, subscription = (account.tenant, account.subscription) if account else ("", "")
    if settings.model is DeploymentModel.SLOTS:
        variables = {"CLIENT": client_id, "TENANT": tenant, "SUBSCRIPTION": subscription}
    else:
        variables = {
            "AZURE_CLIENT_ID": client_id,
            "AZURE_TENANT_ID": tenant,
            "AZURE_SUBSCRIPTION_ID": subscription,
            "APP": settings.app,
            "RESOURCE_GROUP": settings.resource_group,
            "LOCATION": settings.location,
            "STORAGE_ACCOUNT": settings.storage_account,
            "ROUTER_ADDRESS": settings.router_address,
        }
    return {name: value for name, value in {"STATE_SERVER": settings.server, **variables}.items() if value}


def _describe_open_host_json(host_json: HostJsonDecision, path: str) -> StepResult:
    return StepResult(
        step=f"{path} hubName",
        status=StepStatus.KEPT,
        detail="the name of the task hub does not come from an app setting, which every version needs. Give "
        f"--task-hub-setting {host_json.setting}, and set {host_json.setting} in production to the name of today "
        "before you deploy host.json",
    )


def _show_diff(diff: str) -> None:
    """Print a diff to stderr, before the question about it."""
    sys.stderr.write("".join(f"{sanitize_line(line)}\n" for line in diff.splitlines()))


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
