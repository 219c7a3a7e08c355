"""The options of the commands, each with its environment variable. docs/cli.md has the table.

Options that several commands share are fields of an option group; see `option_groups.py`.
"""

import math
import os
import sys
from enum import StrEnum
from typing import Annotated

import typer

from safe_deploy.ci import detect_ci_system, report_warning

_MAX_SECONDS = 30 * 24 * 3600
"""30 days, longer than any job of a CI system."""


class OutputFormat(StrEnum):
    TABLE = "table"
    JSON = "json"


class VerificationMode(StrEnum):
    CACHED = "cached"
    FRESH = "fresh"
    NONE = "none"


class SwapOutcome(StrEnum):
    DONE = "done"
    FAILED = "failed"
    PENDING = "pending"


def environment_variable(name: str) -> str:
    """The environment variable from which an option is read that the command line leaves out."""
    return f"SAFE_DEPLOY_{name}"


def _warn_if_key_is_argument(context: typer.Context, key: str) -> str:
    """A callback of the option --key. Returns the key unchanged."""
    source = context.get_parameter_source("key")
    if source is not None and source.name == "COMMANDLINE":
        report_warning(
            detect_ci_system(os.environ, sys.stderr),
            sys.stderr,
            "the key was given as an argument, which process lists and shell histories show. Set SAFE_DEPLOY_KEY "
            "instead of --key, and replace this key if other people use this machine",
        )
    return key


def _require_number(value: float) -> float:
    """Refuse NaN, which passes every comparison with a limit."""
    if math.isnan(value):
        raise typer.BadParameter("it must be a number of seconds")
    return value


ServerOption = Annotated[
    str, typer.Option("--server", envvar=environment_variable("SERVER"), help="URL of the state server.")
]
AppOption = Annotated[
    str, typer.Option("--app", envvar=environment_variable("APP"), help="Name of the app on the server.")
]
KeyOption = Annotated[
    str,
    typer.Option(
        "--key",
        envvar=environment_variable("KEY"),
        show_default=False,
        callback=_warn_if_key_is_argument,
        help="Key for the server. Prefer the variable: other users can see arguments.",
    ),
]
SlotOption = Annotated[
    str, typer.Option("--slot", envvar=environment_variable("SLOT"), help="Deployment slot of the new version.")
]
OutputOption = Annotated[
    OutputFormat, typer.Option("--output", envvar=environment_variable("OUTPUT"), help="Format of the result.")
]
ActorOption = Annotated[
    str,
    typer.Option(
        "--actor",
        envvar=environment_variable("ACTOR"),
        show_default=False,
        help="Caller's name for the audit log. Detected in CI.",
    ),
]
RunUrlOption = Annotated[
    str,
    typer.Option(
        "--run-url",
        envvar=environment_variable("RUN_URL"),
        show_default=False,
        help="URL of the pipeline run. Detected in CI.",
    ),
]
TaskHubOption = Annotated[
    str, typer.Option("--task-hub", envvar=environment_variable("TASK_HUB"), help="Name of the task hub.")
]
OptionalTaskHubOption = Annotated[
    str,
    typer.Option(
        "--task-hub", envvar=environment_variable("TASK_HUB"), show_default=False, help="Name of the task hub."
    ),
]
VersionOption = Annotated[
    str,
    typer.Option(
        "--version", envvar=environment_variable("VERSION"), show_default=False, help="Version, shown to people."
    ),
]
ReleaseVersionOption = Annotated[
    str,
    typer.Option("--version", envvar=environment_variable("VERSION"), show_default=False, help="Version of a release."),
]
OtherVersionOption = Annotated[
    str,
    typer.Option("--version", show_default=False, help="Version of the release. Ignores SAFE_DEPLOY_VERSION."),
]
"""Without a variable: a pipeline may set SAFE_DEPLOY_VERSION to the version that it deploys, and these commands are
about another one."""
AddressOption = Annotated[
    str,
    typer.Option(
        "--address",
        envvar=environment_variable("ADDRESS"),
        help="Address of the release's Function App, without a path.",
    ),
]
SchedulerOption = Annotated[
    str,
    typer.Option(
        "--scheduler",
        envvar=environment_variable("SCHEDULER"),
        show_default=False,
        help="Scheduler (Durable Task Scheduler) in the resource group that has the release's task hub.",
    ),
]
ResourceGroupOption = Annotated[
    str,
    typer.Option(
        "--resource-group",
        envvar=environment_variable("RESOURCE_GROUP"),
        show_default=False,
        help="Resource group of the Function App. With it, `az` reads the app in Azure.",
    ),
]
FunctionAppOption = Annotated[
    str,
    typer.Option(
        "--function-app",
        envvar=environment_variable("FUNCTION_APP"),
        show_default="the app",
        help="Name of the Function App.",
    ),
]
TaskHubSettingOption = Annotated[
    str,
    typer.Option(
        "--task-hub-setting",
        envvar=environment_variable("TASK_HUB_SETTING"),
        help="App setting with the task hub name.",
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout",
        min=0,
        max=_MAX_SECONDS,
        callback=_require_number,
        envvar=environment_variable("TIMEOUT"),
        help="How long to wait, in seconds.",
    ),
]
StabilizationOption = Annotated[
    float,
    typer.Option(
        "--stabilization-window",
        min=0,
        max=_MAX_SECONDS,
        callback=_require_number,
        envvar=environment_variable("STABILIZATION_WINDOW"),
        help="How long to watch Azure after a failed or interrupted swap before it is reverted, in seconds.",
    ),
]
IntervalOption = Annotated[
    float,
    typer.Option(
        "--interval",
        min=1,
        max=120,
        envvar=environment_variable("INTERVAL"),
        help="How long one request waits at the server, in seconds.",
    ),
]
VerifyOption = Annotated[
    VerificationMode,
    typer.Option("--verify", envvar=environment_variable("VERIFY"), help="How the server verifies its verdict."),
]
ReasonOption = Annotated[
    str,
    typer.Option("--reason", envvar=environment_variable("REASON"), show_default=False, help="For the audit log."),
]
TopOption = Annotated[int, typer.Option("--top", min=1, max=1000, help="Maximum number of entries.")]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force",
        envvar=environment_variable("FORCE"),
        help="Stage although the slot is not ready. Needs --reason.",
    ),
]
TakeOverOption = Annotated[
    bool,
    typer.Option(
        "--take-over",
        envvar=environment_variable("TAKE_OVER"),
        help="Take over the deployment of a run that has ended. Needs --reason.",
    ),
]
DeleteTaskHubsOption = Annotated[
    bool,
    typer.Option(
        "--delete-task-hubs",
        envvar=environment_variable("DELETE_TASK_HUBS"),
        help="Also delete the task hubs from the app's storage.",
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run", envvar=environment_variable("DRY_RUN"), help="Show what would be removed, and remove nothing."
    ),
]
WaitOption = Annotated[
    bool,
    typer.Option(
        "--wait",
        envvar=environment_variable("WAIT"),
        help="Wait until the slot is ready, or releases have drained.",
    ),
]
DeployCommandOption = Annotated[
    str,
    typer.Option(
        "--deploy-command",
        envvar=environment_variable("DEPLOY_COMMAND"),
        help="Shell command that deploys the new version into the slot.",
    ),
]
SwapCommandOption = Annotated[
    str,
    typer.Option(
        "--swap-command", envvar=environment_variable("SWAP_COMMAND"), help="Shell command that swaps the slots."
    ),
]
OutcomeOption = Annotated[
    SwapOutcome | None,
    typer.Option("--outcome", help="Outcome of a swap that is made without safe-deploy. Replaces the command."),
]
ReleaseCommandArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="-- COMMAND...", help="Command that deploys the Function App, after two hyphens."),
]
RetirementCommandArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="-- COMMAND...", help="Command that deletes the Function App, after two hyphens."),
]
SwapCommandArgument = Annotated[
    list[str] | None, typer.Argument(metavar="-- COMMAND...", help="Command that swaps the slots, after two hyphens.")
]
