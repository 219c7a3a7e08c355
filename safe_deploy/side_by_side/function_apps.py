"""The Function Apps of releases in one resource group of Azure, as the commands of releases use them."""

import time
from collections.abc import Callable

from safe_deploy.app_settings import TaskHubNameUnknown
from safe_deploy.azure_function_apps import FunctionAppNotFound, FunctionApps
from safe_deploy.errors import ConflictError
from safe_deploy.quiescing import ReleaseFunctions
from safe_deploy.side_by_side.app_state import Release, SideBySideApp
from safe_deploy.slot_task_hubs import is_same_task_hub

DELETION_SECONDS = 60
"""How long Azure may show a Function App after the command that deleted it has succeeded."""

_POLL_SECONDS = 5

_REMOVE_RECORD_ONLY = (
    "To remove this release without its Function App, send DeleteRelease with the outcome Pending, and then Done"
)


class FunctionAppNotOwned(ConflictError):
    """The Function App must not be deleted with the release: it is also another release's, or it runs on another task
    hub."""


class ReleaseFunctionApps:
    """Finds the Function App of each release by its address, and keeps the functions that only the active release may
    run disabled in the others. Raises FunctionAppNotFound and AzureUnavailable."""

    def __init__(self, function_apps: FunctionApps, *, task_hub_setting: str, report: Callable[[str], None]) -> None:
        self._function_apps = function_apps
        self._task_hub_setting = task_hub_setting
        self._report = report

    def find(self, release: Release) -> str | None:
        """The name of the release's Function App, None if it does not exist."""
        try:
            return self.require(release)
        except FunctionAppNotFound:
            return None

    def require_own(self, app: SideBySideApp, release: Release) -> str:
        """The name of the Function App that may be deleted with the release. Raises FunctionAppNotFound if it does not
        exist, and FunctionAppNotOwned if it is also another release's or runs on another task hub."""
        function_app = self.require(release)
        self._check_sharing(app, release, function_app)
        self._check_task_hub_setting(app, release, function_app)
        return function_app

    def _check_sharing(self, app: SideBySideApp, release: Release, function_app: str) -> None:
        """Raises FunctionAppNotOwned if the address of another release leads to the Function App."""
        others = {other.address: other for other in app.releases.values() if other.version != release.version}
        shared = self._function_apps.list_own_addresses(function_app, others)
        if shared:
            versions = " and ".join(others[address].version for address in shared)
            raise FunctionAppNotOwned(
                f"its Function App {function_app} also has the address of release {versions} ({', '.join(shared)}), so "
                f"it must not be deleted. Deploy each release as a Function App of its own. {_REMOVE_RECORD_ONLY}"
            )

    def _check_task_hub_setting(self, app: SideBySideApp, release: Release, function_app: str) -> None:
        """Raises FunctionAppNotOwned if the Function App runs on another task hub, about which the release's verdict
        says nothing, or may run on another one. An app without the setting has the name in its host.json."""
        setting = self._task_hub_setting
        try:
            task_hub = self._function_apps.read_task_hub(function_app, setting)
        except TaskHubNameUnknown as error:
            raise FunctionAppNotOwned(
                f"its Function App {function_app} may run on another task hub than {release.task_hub}, so it must not "
                f"be deleted: {error.message} If it does run on that task hub, and the setting must stay as it is, "
                f"{_name_unchecked_removal(app, release)}"
            ) from error
        if task_hub is not None and not is_same_task_hub(task_hub, release.task_hub):
            raise FunctionAppNotOwned(
                f"its Function App {function_app} has {task_hub} in its app setting {setting} instead of "
                f"{release.task_hub}, so it must not be deleted: orchestrations on task hub {task_hub} may be running "
                f"in it. Check --task-hub-setting, and what was deployed there. {_REMOVE_RECORD_ONLY}"
            )

    def require(self, release: Release) -> str:
        """The name of the release's Function App. Raises FunctionAppNotFound if it does not exist."""
        return self._function_apps.find_by_address(release.address)

    def is_deleted(self, release: Release) -> bool:
        """Whether the release's Function App is gone. Waits for a while until Azure does not show it any more."""
        deadline = time.monotonic() + DELETION_SECONDS
        while self.find(release) is not None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def check_task_hub(self, release: Release) -> None:
        """Raises ConflictError if the release's Function App would run on another task hub than the release's."""
        function_app = self._function_apps.find_by_address(release.address)
        setting = self._task_hub_setting
        task_hub = self._function_apps.read_task_hub(function_app, setting)
        if is_same_task_hub(task_hub, release.task_hub):
            return
        if task_hub is None:
            difference = f"has no app setting {setting}, so it does not run on task hub {release.task_hub}"
        else:
            difference = (
                f"has {task_hub} in its app setting {setting} instead of {release.task_hub}: it would run on another "
                "release's task hub, and replay that release's orchestrations with this code"
            )
        raise ConflictError(
            f"Function App {function_app} of release {release.version} {difference}. Stop it now, with az functionapp "
            f"stop --resource-group {self._function_apps.resource_group} --name {function_app}. Set the setting to "
            f"{release.task_hub} in the command that deploys it, and check that host.json reads the task hub name from "
            "it. Then run the same command again"
        )

    def quiesce(self, app: SideBySideApp, release: Release) -> None:
        """Disable the functions that only the active release may run. They may start work until the Function App has
        restarted."""
        if app.quiesce_functions:
            self._functions_of(app).quiesce(release)

    def unquiesce(self, app: SideBySideApp, release: Release) -> None:
        """Enable the functions that only the active release may run."""
        if app.quiesce_functions:
            self._functions_of(app).unquiesce(release)

    def _functions_of(self, app: SideBySideApp) -> ReleaseFunctions:
        """The functions of the app that must run in one release only, by its policy."""
        return ReleaseFunctions(self._function_apps, app.quiesce_functions, report=self._report)


def _name_unchecked_removal(app: SideBySideApp, release: Release) -> str:
    """How to remove a release without a look at the settings of its Function App."""
    if app.quiesce_functions:
        # Without a resource group, no function could be disabled.
        return (
            "send DeleteRelease with the outcome Pending, delete the Function App once GetReleaseStatus says Ready, "
            "and send DeleteRelease with the outcome Done"
        )
    return (
        f"run safe-deploy retire --version {release.version} without --resource-group, with a command that names the "
        "Function App"
    )
