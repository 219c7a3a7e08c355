"""The command line: options and variables in, one result on stdout, everything else on stderr, an honest exit code."""

import os
import sys
import traceback
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer

from safe_deploy import rendering
from safe_deploy.ci import Terminal, detect, warn
from safe_deploy.client import PATIENCE_SECONDS, Json
from safe_deploy.commands import Command, Guard
from safe_deploy.deployment import Staging, Waiting, clean_up, deploy, stage
from safe_deploy.errors import CommandError, ExitCode, NotReady, TimedOut, UsageError
from safe_deploy.keys import keys
from safe_deploy.operations import operations
from safe_deploy.options import (
    ActorOption,
    AppOption,
    DeleteOption,
    ForceOption,
    FunctionAppOption,
    GroupOption,
    HubOption,
    HubSettingOption,
    IntervalOption,
    KeyOption,
    MaybeHubOption,
    Outcome,
    OutcomeOption,
    Output,
    OutputOption,
    ReasonOption,
    RunUrlOption,
    ServerOption,
    SettleOption,
    SlotOption,
    TakeOverOption,
    TimeoutOption,
    Verify,
    VerifyOption,
    VersionOption,
    WordsArgument,
    variable,
)
from safe_deploy.promotion import SETTLE_SECONDS, Promotion
from safe_deploy.session import azure_of, command_of, open_session, reporter, wait_for_ready
from safe_deploy.text import printable

cli = typer.Typer(
    name="safe-deploy",
    help="Deploy Azure Durable Functions only when nothing runs on the slot's task hub.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@cli.command()
def status(
    server: ServerOption,
    app: AppOption,
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = Output.TABLE,
    wait: Annotated[bool, typer.Option("--wait", envvar=variable("WAIT"), help="Wait until it is ready.")] = False,
    timeout: TimeoutOption = 3600,
    interval: IntervalOption = 30,
    verify: VerifyOption = Verify.CACHED,
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """May the slot be overwritten? Exit code 0 if so, 3 if not; 5 if it was not within the time of --wait."""
    session = open_session(server, app, key, slot, output, actor, run_url)
    if wait:
        try:
            session.verdict(wait_for_ready(session, timeout, interval, verify))
        except TimedOut as late:
            if late.verdict is not None:
                session.verdict(late.verdict)
            raise
        return
    verdict = session.server.staging_status(slot, 0, verify, PATIENCE_SECONDS)
    session.verdict(verdict)
    if not verdict["ready"]:
        raise NotReady(rendering.verdict_line(verdict))


@cli.command("stage")
def stage_command(
    server: ServerOption,
    app: AppOption,
    task_hub: HubOption,
    version: VersionOption = "",
    force: ForceOption = False,
    take_over: TakeOverOption = False,
    reason: ReasonOption = "",
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = Output.TABLE,
    resource_group: GroupOption = "",
    function_app: FunctionAppOption = "",
    hub_setting: HubSettingOption = "TASK_HUB",
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Put a new task hub into the slot, which must be drained, and open a deployment for this run."""
    session = open_session(server, app, key, slot, output, actor, run_url)
    azure = azure_of(resource_group, function_app, hub_setting, session, None)
    staging = Staging(task_hub, version or None, slot, force, take_over, reason or None)
    changed = stage(session.server, staging, azure, session.say)
    session.app(changed, task_hub, f"task hub {task_hub} is staged into slot {slot} of app {changed['app']}")


@cli.command()
def swap(
    server: ServerOption,
    app: AppOption,
    task_hub: HubOption,
    command: WordsArgument = None,
    outcome: OutcomeOption = None,
    version: VersionOption = "",
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = Output.TABLE,
    resource_group: GroupOption = "",
    function_app: FunctionAppOption = "",
    hub_setting: HubSettingOption = "TASK_HUB",
    settle: SettleOption = SETTLE_SECONDS,
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Bring the slot's task hub into production: on record, by the command, and confirmed or taken back."""
    session = open_session(server, app, key, slot, output, actor, run_url)
    swapping = command_of(command, task_hub, version)
    _require_one(swapping, outcome)
    azure = azure_of(resource_group, function_app, hub_setting, session, swapping)
    with Guard() as guard:
        promotion = Promotion(session.server, slot, azure, settle, guard, session.say)
        changed = promotion.swap(task_hub, swapping) if swapping else promotion.tell(task_hub, _word(outcome))
    session.app(changed, task_hub, _in_production(changed))


@cli.command()
def rollback(
    server: ServerOption,
    app: AppOption,
    command: WordsArgument = None,
    outcome: OutcomeOption = None,
    task_hub: MaybeHubOption = "",
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = Output.TABLE,
    resource_group: GroupOption = "",
    function_app: FunctionAppOption = "",
    hub_setting: HubSettingOption = "TASK_HUB",
    settle: SettleOption = SETTLE_SECONDS,
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Swap back to the task hub that was swapped out and is still in the slot. Twice is as once."""
    session = open_session(server, app, key, slot, output, actor, run_url)
    swapping = command_of(command, task_hub, "")
    _require_one(swapping, outcome)
    azure = azure_of(resource_group, function_app, hub_setting, session, swapping)
    with Guard() as guard:
        promotion = Promotion(session.server, slot, azure, settle, guard, session.say)
        if swapping is None:
            changed = promotion.tell_rolled_back(task_hub or None, _word(outcome))
        else:
            changed = promotion.roll_back(task_hub or None, swapping)
    session.app(changed, (changed["slots"]["production"] or {}).get("taskHub", ""), _in_production(changed))


@cli.command()
def abandon(
    server: ServerOption,
    app: AppOption,
    task_hub: HubOption,
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = Output.TABLE,
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Close this run's open deployment without a swap, so that the next run need not wait for its timeout."""
    session = open_session(server, app, key, slot, output, actor, run_url)
    changed = session.server.delete_staging(task_hub, slot)
    session.app(changed, task_hub, f"the deployment of task hub {task_hub} into app {changed['app']} is closed")


@cli.command()
def cleanup(
    server: ServerOption,
    app: AppOption,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar=variable("DRY_RUN"), help="Say what would be removed.")
    ] = False,
    delete_task_hubs: DeleteOption = False,
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = Output.TABLE,
    resource_group: GroupOption = "",
    function_app: FunctionAppOption = "",
    hub_setting: HubSettingOption = "TASK_HUB",
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Remove the retired task hubs that are drained."""
    session = open_session(server, app, key, slot, output, actor, run_url)
    azure = azure_of(resource_group, function_app, hub_setting, session, None)
    answer = clean_up(session.server, slot, azure, dry_run, delete_task_hubs)
    session.ci.outputs(rendering.cleanup_outputs(answer))
    rows = rendering.cleaned_up(answer)
    session.result(answer, rendering.CLEANED_UP, rows, "" if rows else "no task hub is retired")


@cli.command("deploy")
def deploy_command(
    server: ServerOption,
    app: AppOption,
    task_hub: HubOption,
    deploy_command: Annotated[
        str,
        typer.Option("--deploy-command", envvar=variable("DEPLOY_COMMAND"), help="Deploys into the slot."),
    ],
    swap_command: Annotated[
        str, typer.Option("--swap-command", envvar=variable("SWAP_COMMAND"), help="The platform's swap.")
    ],
    version: VersionOption = "",
    timeout: TimeoutOption = 3600,
    interval: IntervalOption = 30,
    verify: VerifyOption = Verify.CACHED,
    force: ForceOption = False,
    take_over: TakeOverOption = False,
    reason: ReasonOption = "",
    delete_task_hubs: DeleteOption = False,
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = Output.TABLE,
    resource_group: GroupOption = "",
    function_app: FunctionAppOption = "",
    hub_setting: HubSettingOption = "TASK_HUB",
    settle: SettleOption = SETTLE_SECONDS,
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """The whole sequence: wait until the slot is drained, stage, deploy, swap, clean up."""
    session = open_session(server, app, key, slot, output, actor, run_url)
    deploying, swapping = (command_of(text, task_hub, version) for text in (deploy_command, swap_command))
    if deploying is None or swapping is None:
        raise UsageError("the deploy command and the swap command must not be empty")
    azure = azure_of(resource_group, function_app, hub_setting, session, swapping)
    staging = Staging(task_hub, version or None, slot, force, take_over, reason or None)
    waiting = Waiting(timeout, interval, verify, reporter(session, None))
    guard = Guard()
    promotion = Promotion(session.server, slot, azure, settle, guard, session.say)
    changed = deploy(session.server, staging, waiting, deploying, swapping, promotion, azure, guard, session.say)
    session.app(changed, task_hub, _in_production(changed))
    try:
        clean_up(session.server, slot, azure, False, delete_task_hubs)
    except CommandError as error:
        # The deployment itself is done; a later cleanup makes up for this one.
        warn(session.ci, sys.stderr, f"cleanup: {error.message}")


cli.add_typer(operations)
cli.add_typer(keys)


def _require_one(command: Command | None, outcome: Outcome | None) -> None:
    if command is None and outcome is None:
        raise UsageError(
            "give the command that swaps the slots, after --; or with --outcome how a swap went that somebody else "
            "carries out"
        )
    if command is not None and outcome is not None:
        raise UsageError("--outcome is for a swap that somebody else carries out: leave it out, or the command")


def _word(outcome: Outcome | None) -> str:
    assert outcome is not None, "it or a command is required"
    return outcome.capitalize()


def _in_production(app: Json) -> str:
    production = app["slots"].get("production") or {}
    pending = " (pending)" if app.get("pendingSwap") else ""
    return f"task hub {production.get('taskHub', '')} is in production of app {app['app']}{pending}"


def main() -> NoReturn:
    """The entry point: every error is one line on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A log that cannot hold a letter is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli(standalone_mode=False)
    except CommandError as error:
        hint = ". Tell it what is in production now: safe-deploy register" if _is_unknown_app(error) else ""
        _fail(f"{error.message}{hint}")
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001  # the last resort of the program: nothing is swallowed
        if hasattr(error, "format_message"):
            # Of click, which Typer brings under a name of its own.
            _show_usage(error)
            detect(os.environ, sys.stderr).error("safe-deploy was called wrongly; the log says how")
            sys.exit(ExitCode.USAGE)
        # The log gets all of it, the page of the run a line.
        _show_trace(error)
        _fail(f"unexpected trouble, {type(error).__name__}: the log says where")
        sys.exit(ExitCode.FAILURE)
    if code == _STOPPED:
        _fail("stopped")
        sys.exit(ExitCode.FAILURE)
    sys.exit(code)


_STOPPED = 130
"""What Typer makes of Ctrl-C."""


def _is_unknown_app(error: CommandError) -> bool:
    return error.problem.get("code") == "AppNotFound"


def _show_usage(error: Any) -> None:
    """What click says about a wrong call, with the arguments and variables in it made printable."""
    message = error.format_message()
    if error.ctx is None or message == error.ctx.get_help():
        # Called without a command: the message is the help.
        error.show()
        return
    usage = f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help."
    sys.stderr.write("".join(f"{printable(line)}\n" for line in [*usage.splitlines(), "", f"Error: {message}"]))


def _show_trace(error: BaseException) -> None:
    """Where the error and what it came from were raised. The lines are of this program, but the messages may hold
    anything."""
    earlier = error.__cause__ or error.__context__
    if earlier is not None:
        _show_trace(earlier)
    sys.stderr.write("Traceback (most recent call last):\n")
    sys.stderr.writelines(traceback.format_tb(error.__traceback__))
    sys.stderr.write(f"{printable(f'{type(error).__name__}: {error}')}\n")


def _fail(message: str) -> None:
    ci = detect(os.environ, sys.stderr)
    if isinstance(ci, Terminal):
        sys.stderr.write(f"error: {printable(message)}\n")
    ci.error(message)
