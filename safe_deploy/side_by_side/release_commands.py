"""The user's command for one release, with the release in its environment."""

from collections.abc import Sequence

from safe_deploy.side_by_side.app_state import Release
from safe_deploy.subprocesses import Command, command_environment


def build_release_command(command_line: Sequence[str], release: Release, function_app: str | None = None) -> Command:
    """The command with the release in SAFE_DEPLOY_VERSION, SAFE_DEPLOY_TASK_HUB and SAFE_DEPLOY_ADDRESS.

    SAFE_DEPLOY_FUNCTION_APP is set only if Azure was asked: empty stands for a Function App that does not exist.
    """
    variables = {
        "SAFE_DEPLOY_VERSION": release.version,
        "SAFE_DEPLOY_TASK_HUB": release.task_hub,
        "SAFE_DEPLOY_ADDRESS": release.address,
    }
    if function_app is not None:
        variables["SAFE_DEPLOY_FUNCTION_APP"] = function_app
    return Command(command_line, command_environment(**variables))
