"""Turns options, earlier answers and what was seen into the settings of a pipeline, and asks for the rest.

An option comes first, then the answer of an earlier run, then what was seen. A question is asked only if none of them
answers it, apart from names of which there may be another one.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from safe_deploy.azure_cli import AzureUnavailable, require_valid_name
from safe_deploy.client import normalize_server_url
from safe_deploy.errors import UsageError
from safe_deploy.keys import require_app_name
from safe_deploy.prompts import Prompts
from safe_deploy.setup.azure_apps import AzureApps, SeenFunctionApp
from safe_deploy.setup.git_repository import Repository, find_commit_of_tag
from safe_deploy.setup.observations import ObservedAzure
from safe_deploy.setup.pipeline_settings import DeploymentModel, PipelineSettings
from safe_deploy.setup.remotes import CiSystemName, Remote
from safe_deploy.setup.templates import read_release_tag

_ACTION_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+(@[A-Za-z0-9._/-]+)?")
_COMMIT_PATTERN = re.compile(r"[0-9a-f]{7,40}")
_FOLDER_PATTERN = re.compile(r"(?!/)(?!.*(?:^|/)\.\.(?:/|$))[\w .@+/-]+")
_ENVIRONMENT_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_BRANCH_PATTERN = re.compile(r"(?!-)[\w./@+-]{1,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interview:
    """The sources of answers for one run."""

    options: Mapping[str, str]
    """The options of the command line that are given, by the names of the settings."""
    earlier: Mapping[str, str]
    """The answers of an earlier run."""
    repository: Repository
    remote: Remote | None
    azure: ObservedAzure
    apps: AzureApps
    prompts: Prompts
    report: Callable[[str], None]

    def ask_settings(self, *, folder: str, task_hub_setting: str) -> PipelineSettings:
        """All settings. Raises UsageError for an answer that is not valid, and if one is missing and no question can
        be asked."""
        ci = self._choose_ci_system()
        model, function_app = self._choose_model()
        is_slots = model is DeploymentModel.SLOTS
        if is_slots and function_app is None:
            function_app = self._choose_function_app()
        seen = self.azure.find(function_app) if function_app else None
        resource_group = self._answer(
            "resource_group",
            "Resource group of the function app" if is_slots else "Resource group of the releases",
            seen=seen.resource_group if seen else "",
            check=lambda name: require_valid_name("resource group", name),
        )
        app = self._answer(
            "app", "Name of the app on the state server", default=function_app or "", check=require_app_name
        )
        server = normalize_server_url(
            self._answer("server", "Address of the state server (https://...)", check=normalize_server_url)
        )
        action, action_tag = self._choose_action(ci)
        branch = self._answer(
            "branch", "Branch that is released", seen=self._find_branch(), check=_matcher("branch", _BRANCH_PATTERN)
        )
        environment = ""
        if ci is CiSystemName.GITHUB and is_slots:
            # Two apps of a repository have two keys, so they need two environments.
            usual = f"production-{app}" if folder else "production"
            check = _matcher("environment", _ENVIRONMENT_PATTERN)
            environment = self._answer("environment", "Environment of the workflow", seen=usual, check=check)
        place = {} if is_slots else self._ask_place(seen)
        return PipelineSettings(
            ci=ci,
            model=model,
            app=app,
            server=server,
            resource_group=resource_group,
            function_app=function_app or "" if is_slots else "",
            branch=branch,
            folder=folder,
            task_hub_setting=task_hub_setting,
            action=action,
            action_tag=action_tag,
            environment=environment,
            **place,
        )

    def _choose_ci_system(self) -> CiSystemName:
        seen = self.remote.ci_system if self.remote else None
        names = ", ".join(CiSystemName)
        answer = self._answer(
            "ci", f"CI system ({names})", seen=seen or "", check=_chooser("ci", [name.value for name in CiSystemName])
        )
        return CiSystemName(answer)

    def _choose_model(self) -> tuple[DeploymentModel, str | None]:
        """The model, and the Function App if that was needed to see the model."""
        known = self.options.get("model") or self.earlier.get("model")
        if known:
            _chooser("model", [model.value for model in DeploymentModel])(known)
            return DeploymentModel(known), None
        function_app = self._choose_function_app()
        seen = self.azure.find(function_app)
        answer = self._answer(
            "model",
            "How versions are deployed: slots, or side-by-side (each version into a function app of its own)",
            seen=self._see_model(seen) if seen else "",
            check=_chooser("model", [model.value for model in DeploymentModel]),
        )
        return DeploymentModel(answer), function_app

    def _see_model(self, seen: SeenFunctionApp) -> str:
        """The model that an app's plan allows. Flex Consumption has no slots."""
        if seen.is_flex_consumption:
            self.report(f"{seen.name} is on Flex Consumption, which has no slots: releases are side by side")
            return DeploymentModel.SIDE_BY_SIDE
        try:
            slots = self.apps.list_slots(seen)
        except AzureUnavailable as error:
            self.report(f"the slots of {seen.name} are not read, because {error.message}")
            return ""
        self.report(f"{seen.name} has the slots production{''.join(f', {slot}' for slot in slots)}")
        if "staging" not in slots:
            self.report("it has no slot staging yet: docs/azure.md, The staging slot, says how to create it")
        return DeploymentModel.SLOTS

    def _choose_function_app(self) -> str:
        group = self.options.get("resource_group", self.earlier.get("resource_group", "")).lower()
        apps = [app for app in self.azure.function_apps if group in {"", app.resource_group.lower()}]
        names = [app.name for app in apps if app.name != self._find_server_app()]
        listed = f" ({', '.join(names)})" if names else ""
        return self._answer(
            "function_app",
            f"Function app that is deployed{listed}",
            seen=names[0] if len(names) == 1 else "",
            check=lambda name: require_valid_name("function app", name),
        )

    def _find_server_app(self) -> str | None:
        """The Function App of the state server, which is not the one that is deployed."""
        host = urlsplit(self.options.get("server", self.earlier.get("server", ""))).hostname
        seen = self.azure.find_by_host(host) if host else None
        return seen.name if seen else None

    def _choose_action(self, ci: CiSystemName) -> tuple[str, str]:
        """The action with its commit or tag, and the tag of that commit where it is known."""
        answer = self._answer(
            "action",
            "GitHub repository with the action and templates of safe-deploy (OWNER/NAME, or OWNER/NAME@COMMIT)",
            check=_matcher("action", _ACTION_PATTERN),
        )
        _, _, reference = answer.partition("@")
        if reference:
            if ci is CiSystemName.AZURE_PIPELINES and _COMMIT_PATTERN.fullmatch(reference):
                raise UsageError("--action takes a tag for Azure Pipelines, which names no commits: OWNER/NAME@TAG")
            return answer, self.earlier.get("action_tag", "") if answer == self.earlier.get("action") else ""
        tag = read_release_tag()
        if tag is None:
            raise UsageError(
                f"--action {answer} needs a commit, because this safe-deploy is no installed release. "
                f"Give --action {answer}@COMMIT"
            )
        if ci is CiSystemName.AZURE_PIPELINES:
            return f"{answer}@{tag}", ""
        commit = find_commit_of_tag(f"https://github.com/{answer}", tag)
        if commit is None:
            self.report(
                f"the tag {tag} of {answer} could not be read, so the workflow names the tag. Replace it by the commit "
                "that you have reviewed, because a tag can move"
            )
            return f"{answer}@{tag}", ""
        return f"{answer}@{commit}", tag

    def _ask_place(self, seen: SeenFunctionApp | None) -> dict[str, str]:
        """What is needed to create the Function App of a release."""
        return {
            "location": self._answer(
                "location",
                "Region of the releases, such as westeurope",
                seen=re.sub(r"\s", "", seen.location).lower() if seen else "",
                check=_matcher("location", re.compile(r"[a-z0-9]{2,40}")),
            ),
            "storage_account": self._answer(
                "storage_account",
                "Storage account of the releases",
                check=_matcher("storage-account", re.compile(r"[a-z0-9]{3,24}")),
            ),
            "router_address": self._answer(
                "router_address",
                "Addresses from which the router calls releases, such as 203.0.113.7/32",
                check=_matcher("router-address", re.compile(r"[0-9a-fA-F.:/,]{2,200}")),
            ),
        }

    def _find_branch(self) -> str:
        if self.remote is None:
            return self.repository.branch or "main"
        return self.repository.find_default_branch(self.remote.name)

    def _answer(
        self, name: str, question: str, *, seen: str = "", default: str = "", check: Callable[[str], object]
    ) -> str:
        """One answer: an option, that of an earlier run, what was seen, or the person's. `default` is proposed to the
        person."""
        for source in (self.options, self.earlier, {name: seen}):
            if answer := source.get(name, ""):
                check(answer)
                return answer

        def check_answer(answer: str) -> None:
            check(answer)

        return self.prompts.ask(question, option=_option(name), default=default, check=check_answer)


def choose_folder(
    options: Mapping[str, str], repository: Repository, earlier: Mapping[str, str], prompts: Prompts
) -> str:
    """The folder of the app, from the root of the repository. Raises UsageError if there is no host.json in it."""
    app_folders = repository.host_json_folders
    if "folder" in options:
        folder = options["folder"].replace("\\", "/").strip("/").removeprefix("./")
        folder = "" if folder == "." else folder
    elif repository.folder in app_folders:
        folder = repository.folder
    elif len(app_folders) == 1:
        folder = app_folders[0]
    elif not app_folders:
        raise UsageError(
            "the repository has no host.json, so no app is seen. Run safe-deploy init in the repository of the "
            "durable app"
        )
    else:
        listed = ", ".join(folder or "." for folder in app_folders)
        folder = prompts.ask(
            f"Folder of the app, of those that have a host.json ({listed})",
            option="--folder",
            default=earlier.get("folder", ""),
        ).strip("/")
        folder = "" if folder == "." else folder
    if folder and _FOLDER_PATTERN.fullmatch(folder) is None:
        raise UsageError("--folder takes a path from the root of the repository, of letters, digits, blanks and _.@+/-")
    if folder not in app_folders:
        raise UsageError(f"--folder {folder or '.'} has no host.json that git lists")
    return folder


def choose_remote(name: str, repository: Repository, prompts: Prompts) -> Remote | None:
    """The remote to which the pipeline belongs: the one that is named, or the only one, or `origin`; else the person
    chooses. None without remotes."""
    remotes = {remote.name: remote for remote in repository.remotes}
    if name:
        if name not in remotes:
            raise UsageError(
                f"--remote {name} is no remote of the repository, which has {', '.join(remotes) or 'none'}"
            )
        return remotes[name]
    if len(remotes) <= 1 or "origin" in remotes:
        return remotes.get("origin") or next(iter(remotes.values()), None)
    answer = prompts.ask(
        f"Remote of the pipeline ({', '.join(remotes)})", option="--remote", check=_chooser("remote", list(remotes))
    )
    return remotes[answer]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _chooser(option: str, choices: list[str]) -> Callable[[str], None]:
    """A check that accepts only these answers."""

    def check(answer: str) -> None:
        if answer not in choices:
            raise UsageError(f"--{option} takes {' or '.join(choices)}")

    return check


def _matcher(option: str, pattern: re.Pattern[str]) -> Callable[[str], None]:
    """A check that accepts only answers that match."""

    def check(answer: str) -> None:
        if pattern.fullmatch(answer) is None:
            raise UsageError(f"--{option} does not take {answer!r}")

    return check
