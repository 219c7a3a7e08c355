"""The options of the command line, each with its variable; docs/cli.md has the table."""

import math
import os
import sys
from enum import StrEnum
from typing import Annotated

import typer

from safe_deploy.ci import detect_ci_system, report_warning


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
    return f"SAFE_DEPLOY_{name}"


ServerOption = Annotated[
    str, typer.Option("--server", envvar=environment_variable("SERVER"), help="The state server's address.")
]
AppOption = Annotated[
    str, typer.Option("--app", envvar=environment_variable("APP"), help="The app, by its name on the server.")
]


def _warn_if_argument(context: typer.Context, key: str) -> str:
    source = context.get_parameter_source("key")
    if source is not None and source.name == "COMMANDLINE":
        report_warning(
            detect_ci_system(os.environ, sys.stderr),
            sys.stderr,
            "the key was given as an argument, which process lists and shell histories show. Set SAFE_DEPLOY_KEY "
            "instead of --key, and replace this key if others use this machine",
        )
    return key


KeyOption = Annotated[
    str,
    typer.Option(
        "--key",
        envvar=environment_variable("KEY"),
        show_default=False,
        callback=_warn_if_argument,
        help="The server's key. Use the variable: others see arguments.",
    ),
]
SlotOption = Annotated[
    str, typer.Option("--slot", envvar=environment_variable("SLOT"), help="The slot to deploy into.")
]
OutputOption = Annotated[
    OutputFormat, typer.Option("--output", envvar=environment_variable("OUTPUT"), help="How results are printed.")
]
ActorOption = Annotated[
    str,
    typer.Option(
        "--actor",
        envvar=environment_variable("ACTOR"),
        show_default=False,
        help="Who asks, for the audit log. Known in CI.",
    ),
]
RunUrlOption = Annotated[
    str,
    typer.Option(
        "--run-url",
        envvar=environment_variable("RUN_URL"),
        show_default=False,
        help="The run that deploys. Known in CI.",
    ),
]
TaskHubOption = Annotated[
    str, typer.Option("--task-hub", envvar=environment_variable("TASK_HUB"), help="The task hub's name.")
]
OptionalTaskHubOption = Annotated[
    str,
    typer.Option(
        "--task-hub", envvar=environment_variable("TASK_HUB"), show_default=False, help="The task hub's name."
    ),
]
VersionOption = Annotated[
    str,
    typer.Option(
        "--version", envvar=environment_variable("VERSION"), show_default=False, help="The version, for people."
    ),
]
ResourceGroupOption = Annotated[
    str,
    typer.Option(
        "--resource-group",
        envvar=environment_variable("RESOURCE_GROUP"),
        show_default=False,
        help="The Function App's resource group: with it, `az` is used to look at the slots.",
    ),
]
FunctionAppOption = Annotated[
    str,
    typer.Option(
        "--function-app",
        envvar=environment_variable("FUNCTION_APP"),
        show_default="the app",
        help="The Function App's name.",
    ),
]
TaskHubSettingOption = Annotated[
    str,
    typer.Option(
        "--task-hub-setting",
        envvar=environment_variable("TASK_HUB_SETTING"),
        help="The app setting with the task hub name.",
    ),
]


def _require_number(value: float) -> float:
    """Refuses what is a number in writing alone: no limit holds for it."""
    if math.isnan(value):
        raise typer.BadParameter("it must be a number of seconds")
    return value


_MAX_SECONDS = 30 * 24 * 3600
"""No job of a CI system lasts longer."""

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
        help="After a swap that failed or was cut off: how long Azure is watched before it is believed, in seconds.",
    ),
]
IntervalOption = Annotated[
    float,
    typer.Option(
        "--interval",
        min=1,
        max=120,
        envvar=environment_variable("INTERVAL"),
        help="How long one question waits, in seconds.",
    ),
]
VerifyOption = Annotated[
    VerificationMode,
    typer.Option("--verify", envvar=environment_variable("VERIFY"), help="How the server verifies its verdict."),
]
ReasonOption = Annotated[
    str,
    typer.Option("--reason", envvar=environment_variable("REASON"), show_default=False, help="Why; goes on record."),
]
TopOption = Annotated[int, typer.Option("--top", min=1, max=1000, help="How many at the most.")]
ForceOption = Annotated[
    bool,
    typer.Option("--force", envvar=environment_variable("FORCE"), help="Stage over a task hub that is not drained."),
]
TakeOverOption = Annotated[
    bool,
    typer.Option(
        "--take-over", envvar=environment_variable("TAKE_OVER"), help="Take the deployment of a run that is dead."
    ),
]
DeleteTaskHubsOption = Annotated[
    bool,
    typer.Option(
        "--delete-task-hubs",
        envvar=environment_variable("DELETE_TASK_HUBS"),
        help="Also delete what the task hubs left in the app's storage.",
    ),
]
OutcomeOption = Annotated[
    SwapOutcome | None, typer.Option("--outcome", help="Without a command: how the platform's swap went.")
]
SwapCommandArgument = Annotated[
    list[str] | None, typer.Argument(metavar="-- COMMAND...", help="The platform's swap, after two hyphens.")
]
