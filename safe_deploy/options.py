"""The options of the commands, each with its environment variable. docs/cli.md has the table.

Options that several commands share are fields of an option group; see `option_groups.py`.
"""

import os
import sys
from enum import StrEnum
from typing import Annotated

import typer

from safe_deploy.ci import detect_ci_system, report_warning
from safe_deploy.durations import Seconds, duration_parser

_MAX_WAIT = Seconds(30 * 24 * 3600)
"""30 days, longer than any job of a CI system."""

DURATION = "DURATION"
"""How --help calls a value such as `10m`."""


class OutputFormat(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


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
    # Shell completion parses the options without running the command.
    if source is not None and source.name == "COMMANDLINE" and not context.resilient_parsing:
        report_warning(
            detect_ci_system(os.environ, sys.stderr),
            sys.stderr,
            "the key was given as an argument, which process lists and shell histories show. Set SAFE_DEPLOY_KEY "
            "instead of --key, and replace this key if other people use this machine",
        )
    return key


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
    OutputFormat, typer.Option("--output", "-o", envvar=environment_variable("OUTPUT"), help="Format of the result.")
]
QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        envvar=environment_variable("QUIET"),
        help="Print the result, warnings and errors, and neither progress nor next steps.",
    ),
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
        parser=duration_parser(Seconds(0), _MAX_WAIT),
        metavar=DURATION,
        envvar=environment_variable("TIMEOUT"),
        help="How long to wait, such as 90s, 10m or 2h.",
    ),
]
StabilizationOption = Annotated[
    float,
    typer.Option(
        "--stabilization-window",
        parser=duration_parser(Seconds(0), _MAX_WAIT),
        metavar=DURATION,
        envvar=environment_variable("STABILIZATION_WINDOW"),
        help="How long to watch Azure after a failed or interrupted swap before it is reverted, such as 5m.",
    ),
]
IntervalOption = Annotated[
    float,
    typer.Option(
        "--interval",
        parser=duration_parser(Seconds(1), Seconds(120)),
        metavar=DURATION,
        envvar=environment_variable("INTERVAL"),
        help="How long one request waits at the server, at most 2m.",
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
ReleaseOption = Annotated[
    str, typer.Option("--release", show_default="the active one", help="Release whose task hub is shown.")
]
TopOption = Annotated[int, typer.Option("--top", min=1, max=1000, help="Maximum number of entries.")]
ContinuationTokenOption = Annotated[
    str,
    typer.Option(
        "--continuation-token", show_default=False, help="Go on after the page whose continuationToken this is."
    ),
]
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
CreateOption = Annotated[bool, typer.Option("--create", help="Create the app if the server does not know it.")]
"""Without a variable: a variable that is always set would create an app for every mistyped name."""
YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Ask nothing: agree to every question, and take the defaults.")
]
"""Without a variable: a variable that is forgotten would agree to what no person has read."""
WaitOption = Annotated[
    bool,
    typer.Option(
        "--wait",
        envvar=environment_variable("WAIT"),
        help="Wait until the slot is ready, releases have drained, or the rollout has ended.",
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
