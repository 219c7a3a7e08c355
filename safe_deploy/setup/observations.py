"""What `safe-deploy init` sees before it asks: the repository, earlier answers, Azure. A failure to see is a remark."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from safe_deploy.azure_cli import AzureUnavailable
from safe_deploy.setup.azure_apps import AzureAccount, AzureApps, SeenFunctionApp
from safe_deploy.setup.git_repository import Repository
from safe_deploy.setup.pipeline_files import WORKFLOW_FOLDER
from safe_deploy.setup.pipeline_settings import DeploymentModel, parse_head
from safe_deploy.setup.remotes import CiSystemName
from safe_deploy.setup.repository_files import RepositoryFiles

_SAFE_DEPLOY = re.compile(r"safe-deploy@|@safe-deploy\b|\bsafe-deploy (?:deploy|stage|release)\b")
"""The action, the templates, or the command line in a script."""

PIPELINE_FOLDERS = (WORKFLOW_FOLDER, ".azure-pipelines")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingPipelines:
    """The pipelines that a repository has."""

    written: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The answers in the heads of files that `safe-deploy init` has written, by the path of the file."""
    by_hand: tuple[str, ...] = ()
    """Files that use safe-deploy and were not written by `safe-deploy init`."""
    unguarded: tuple[str, ...] = ()
    """Workflows that deploy a Function App without safe-deploy."""

    def find_answers(self, folder: str | None) -> Mapping[str, str]:
        """The answers that belong to the app in a folder; of any app if the folder is not known yet."""
        for answers in self.written.values():
            if folder is None or answers.get("folder", "") == folder:
                return answers
        return {}

    def find_other_releases(self, folder: str) -> str | None:
        """An app in another folder that workflows of GitHub release side by side, or None."""
        kind = {"ci": CiSystemName.GITHUB, "model": DeploymentModel.SIDE_BY_SIDE}
        for answers in self.written.values():
            if kind.items() <= answers.items() and answers.get("folder", "") != folder:
                return answers.get("app")
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedAzure:
    """What `az` shows. Without `az` nothing."""

    account: AzureAccount | None = None
    function_apps: tuple[SeenFunctionApp, ...] = ()

    def find(self, name: str) -> SeenFunctionApp | None:
        """The Function App with this name, which Azure compares without case."""
        return next((app for app in self.function_apps if app.name.lower() == name.lower()), None)

    def find_by_host(self, host: str) -> SeenFunctionApp | None:
        """The Function App with this host name."""
        return next((app for app in self.function_apps if host.lower() in app.host_names), None)


def find_pipelines(files: RepositoryFiles) -> ExistingPipelines:
    """Read the workflows and pipelines of a repository."""
    written: dict[str, Mapping[str, str]] = {}
    by_hand, unguarded = [], []
    for path in [path for folder in PIPELINE_FOLDERS for path in files.list_files(folder)] + ["azure-pipelines.yml"]:
        text = files.read(path) or ""
        if answers := parse_head(text):
            written[path] = answers
        elif _SAFE_DEPLOY.search(text):
            by_hand.append(path)
        elif _deploys_function_app(text):
            unguarded.append(path)
    return ExistingPipelines(written=written, by_hand=tuple(by_hand), unguarded=tuple(unguarded))


def look_at_azure(apps: AzureApps, report: Callable[[str], None]) -> ObservedAzure:
    """Read the account and the Function Apps. What cannot be read is reported, and will be asked."""
    try:
        account = apps.read_account()
        report(f"Azure: subscription {account.subscription}")
        seen = apps.list_function_apps()
    except AzureUnavailable as error:
        report(f"Azure: not read, because {error.message}")
        return ObservedAzure()
    report(f"Azure: function apps {', '.join(app.name for app in seen) or 'none'}")
    return ObservedAzure(account=account, function_apps=tuple(seen))


def describe_repository(repository: Repository) -> str:
    """What was seen of the repository, for people."""
    remotes = ", ".join(map(str, repository.remotes)) or "none"
    return f"repository {repository.root}: remotes {remotes}; branch {repository.branch or 'none, HEAD is detached'}"


def _deploys_function_app(text: str) -> bool:
    """Whether a pipeline deploys a Function App by one of the usual ways."""
    marks = ("Azure/functions-action@", "azure/functions-action@", "AzureFunctionApp@", "functionapp deployment source")
    return any(mark in text for mark in marks)
