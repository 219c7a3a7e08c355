"""The command line: options and variables in, one result on stdout, everything else on stderr, an honest exit code."""

import os
import sys
import traceback
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer

from safe_deploy import rendering
from safe_deploy.ci import Terminal, detect_ci_system, report_warning
from safe_deploy.client import RETRY_SECONDS, Json
from safe_deploy.deployment import StagingOptions, WaitOptions, clean_up, deploy, stage
from safe_deploy.errors import CommandError, ExitCode, NotReady, TimedOut, UsageError
from safe_deploy.inspect_commands import inspect_commands
from safe_deploy.keys import keys
from safe_deploy.options import (
    ActorOption,
    AppOption,
    DeleteTaskHubsOption,
    ForceOption,
    FunctionAppOption,
    IntervalOption,
    KeyOption,
    OptionalTaskHubOption,
    OutcomeOption,
    OutputFormat,
    OutputOption,
    ReasonOption,
    ResourceGroupOption,
    RunUrlOption,
    ServerOption,
    SlotOption,
    StabilizationOption,
    SwapCommandArgument,
    SwapOutcome,
    TakeOverOption,
    TaskHubOption,
    TaskHubSettingOption,
    TimeoutOption,
    VerificationMode,
    VerifyOption,
    VersionOption,
    environment_variable,
)
from safe_deploy.sanitization import sanitize_line
from safe_deploy.session import (
    build_command,
    make_poll_reporter,
    open_session,
    resolve_deployment_slots,
    wait_with_progress,
)
from safe_deploy.subprocesses import Command, SignalGuard
from safe_deploy.swap_executor import STABILIZATION_SECONDS, SwapExecutor

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
    output: OutputOption = OutputFormat.TABLE,
    wait: Annotated[
        bool, typer.Option("--wait", envvar=environment_variable("WAIT"), help="Wait until it is ready.")
    ] = False,
    timeout: TimeoutOption = 3600,
    interval: IntervalOption = 30,
    verify: VerifyOption = VerificationMode.CACHED,
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """May the slot be overwritten? Exit code 0 if so, 3 if not; 5 if it was not within the time of --wait."""
    session = open_session(server, app, key, slot, output, actor, run_url)
    if wait:
        try:
            session.print_verdict(wait_with_progress(session, timeout, interval, verify))
        except TimedOut as late:
            if late.verdict is not None:
                session.print_verdict(late.verdict)
            raise
        return
    verdict = session.server.get_staging_status(slot, 0, verify, RETRY_SECONDS)
    session.print_verdict(verdict)
    if not verdict["ready"]:
        raise NotReady(rendering.format_verdict(verdict))


@cli.command("stage")
def stage_command(
    server: ServerOption,
    app: AppOption,
    task_hub: TaskHubOption,
    version: VersionOption = "",
    force: ForceOption = False,
    take_over: TakeOverOption = False,
    reason: ReasonOption = "",
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = OutputFormat.TABLE,
    resource_group: ResourceGroupOption = "",
    function_app: FunctionAppOption = "",
    task_hub_setting: TaskHubSettingOption = "TASK_HUB",
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Put a new task hub into the slot, which must be drained, and open a deployment for this run."""
    session = open_session(server, app, key, slot, output, actor, run_url)
    deployment_slots = resolve_deployment_slots(resource_group, function_app, task_hub_setting, session, None)
    staging = StagingOptions(task_hub, version or None, slot, force, take_over, reason or None)
    changed = stage(session.server, staging, deployment_slots, session.report)
    session.print_app(changed, task_hub, f"task hub {task_hub} is staged into slot {slot} of app {changed['app']}")


@cli.command()
def swap(
    server: ServerOption,
    app: AppOption,
    task_hub: TaskHubOption,
    command: SwapCommandArgument = None,
    outcome: OutcomeOption = None,
    version: VersionOption = "",
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = OutputFormat.TABLE,
    resource_group: ResourceGroupOption = "",
    function_app: FunctionAppOption = "",
    task_hub_setting: TaskHubSettingOption = "TASK_HUB",
    stabilization_seconds: StabilizationOption = STABILIZATION_SECONDS,
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Bring the slot's task hub into production: on record, by the command, and confirmed or taken back."""
    session = open_session(server, app, key, slot, output, actor, run_url)
    swapping = build_command(command, task_hub, version)
    _require_command_or_outcome(swapping, outcome)
    deployment_slots = resolve_deployment_slots(resource_group, function_app, task_hub_setting, session, swapping)
    with SignalGuard() as guard:
        swap_executor = SwapExecutor(
            session.server, slot, deployment_slots, stabilization_seconds, guard, session.report
        )
        changed = (
            swap_executor.swap(task_hub, swapping)
            if swapping
            else swap_executor.report_swap_outcome(task_hub, _outcome_member(outcome))
        )
    session.print_app(changed, task_hub, _describe_production(changed))


@cli.command()
def rollback(
    server: ServerOption,
    app: AppOption,
    command: SwapCommandArgument = None,
    outcome: OutcomeOption = None,
    task_hub: OptionalTaskHubOption = "",
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = OutputFormat.TABLE,
    resource_group: ResourceGroupOption = "",
    function_app: FunctionAppOption = "",
    task_hub_setting: TaskHubSettingOption = "TASK_HUB",
    stabilization_seconds: StabilizationOption = STABILIZATION_SECONDS,
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Swap back to the task hub that was swapped out and is still in the slot. Twice is as once."""
    session = open_session(server, app, key, slot, output, actor, run_url)
    swapping = build_command(command, task_hub, "")
    _require_command_or_outcome(swapping, outcome)
    deployment_slots = resolve_deployment_slots(resource_group, function_app, task_hub_setting, session, swapping)
    with SignalGuard() as guard:
        swap_executor = SwapExecutor(
            session.server, slot, deployment_slots, stabilization_seconds, guard, session.report
        )
        if swapping is None:
            changed = swap_executor.report_rollback_outcome(task_hub or None, _outcome_member(outcome))
        else:
            changed = swap_executor.roll_back(task_hub or None, swapping)
    session.print_app(changed, (changed["slots"]["production"] or {}).get("taskHub", ""), _describe_production(changed))


@cli.command()
def abandon(
    server: ServerOption,
    app: AppOption,
    task_hub: TaskHubOption,
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = OutputFormat.TABLE,
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Close this run's open deployment without a swap, so that the next run need not wait for its timeout."""
    session = open_session(server, app, key, slot, output, actor, run_url)
    changed = session.server.delete_staging(task_hub, slot)
    session.print_app(changed, task_hub, f"the deployment of task hub {task_hub} into app {changed['app']} is closed")


@cli.command()
def cleanup(
    server: ServerOption,
    app: AppOption,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar=environment_variable("DRY_RUN"), help="Say what would be removed.")
    ] = False,
    delete_task_hubs: DeleteTaskHubsOption = False,
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = OutputFormat.TABLE,
    resource_group: ResourceGroupOption = "",
    function_app: FunctionAppOption = "",
    task_hub_setting: TaskHubSettingOption = "TASK_HUB",
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Remove the retired task hubs that are drained."""
    session = open_session(server, app, key, slot, output, actor, run_url)
    deployment_slots = resolve_deployment_slots(resource_group, function_app, task_hub_setting, session, None)
    answer = clean_up(session.server, slot, deployment_slots, dry_run, delete_task_hubs)
    session.ci.set_outputs(rendering.cleanup_outputs(answer))
    rows = rendering.build_cleanup_rows(answer)
    session.print_result(answer, rendering.CLEANUP_COLUMNS, rows, "" if rows else "no task hub is retired")


@cli.command("deploy")
def deploy_command(
    server: ServerOption,
    app: AppOption,
    task_hub: TaskHubOption,
    deploy_command: Annotated[
        str,
        typer.Option("--deploy-command", envvar=environment_variable("DEPLOY_COMMAND"), help="Deploys into the slot."),
    ],
    swap_command: Annotated[
        str, typer.Option("--swap-command", envvar=environment_variable("SWAP_COMMAND"), help="The platform's swap.")
    ],
    version: VersionOption = "",
    timeout: TimeoutOption = 3600,
    interval: IntervalOption = 30,
    verify: VerifyOption = VerificationMode.CACHED,
    force: ForceOption = False,
    take_over: TakeOverOption = False,
    reason: ReasonOption = "",
    delete_task_hubs: DeleteTaskHubsOption = False,
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = OutputFormat.TABLE,
    resource_group: ResourceGroupOption = "",
    function_app: FunctionAppOption = "",
    task_hub_setting: TaskHubSettingOption = "TASK_HUB",
    stabilization_seconds: StabilizationOption = STABILIZATION_SECONDS,
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """The whole sequence: wait until the slot is drained, stage, deploy, swap, clean up."""
    session = open_session(server, app, key, slot, output, actor, run_url)
    deploying, swapping = (build_command(text, task_hub, version) for text in (deploy_command, swap_command))
    if deploying is None or swapping is None:
        raise UsageError("the deploy command and the swap command must not be empty")
    deployment_slots = resolve_deployment_slots(resource_group, function_app, task_hub_setting, session, swapping)
    staging = StagingOptions(task_hub, version or None, slot, force, take_over, reason or None)
    waiting = WaitOptions(timeout, interval, verify, make_poll_reporter(session, None))
    guard = SignalGuard()
    swap_executor = SwapExecutor(session.server, slot, deployment_slots, stabilization_seconds, guard, session.report)
    changed = deploy(
        session.server, staging, waiting, deploying, swapping, swap_executor, deployment_slots, guard, session.report
    )
    session.print_app(changed, task_hub, _describe_production(changed))
    try:
        clean_up(session.server, slot, deployment_slots, False, delete_task_hubs)
    except CommandError as error:
        # The deployment itself is done; a later cleanup makes up for this one.
        report_warning(session.ci, sys.stderr, f"cleanup: {error.message}")


cli.add_typer(inspect_commands)
cli.add_typer(keys)


def _require_command_or_outcome(command: Command | None, outcome: SwapOutcome | None) -> None:
    if command is None and outcome is None:
        raise UsageError(
            "give the command that swaps the slots, after --; or with --outcome how a swap went that somebody else "
            "carries out"
        )
    if command is not None and outcome is not None:
        raise UsageError("--outcome is for a swap that somebody else carries out: leave it out, or the command")


def _outcome_member(outcome: SwapOutcome | None) -> str:
    assert outcome is not None, "it or a command is required"
    return outcome.capitalize()


def _describe_production(app: Json) -> str:
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
        hint = ". Tell it what is in production now: safe-deploy register" if _is_app_not_found(error) else ""
        _print_error(f"{error.message}{hint}")
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001  # the last resort of the program: nothing is swallowed
        if hasattr(error, "format_message"):
            # Of click, which Typer brings under a name of its own.
            _print_usage_error(error)
            detect_ci_system(os.environ, sys.stderr).error("safe-deploy was called wrongly; the log says how")
            sys.exit(ExitCode.USAGE)
        # The log gets all of it, the page of the run a line.
        _print_traceback(error)
        _print_error(f"unexpected trouble, {type(error).__name__}: the log says where")
        sys.exit(ExitCode.FAILURE)
    if code == _INTERRUPTED_EXIT_CODE:
        _print_error("stopped")
        sys.exit(ExitCode.FAILURE)
    sys.exit(code)


_INTERRUPTED_EXIT_CODE = 130
"""What Typer makes of Ctrl-C."""


def _is_app_not_found(error: CommandError) -> bool:
    return error.problem.get("code") == "AppNotFound"


def _print_usage_error(error: Any) -> None:
    """What click says about a wrong call, with the arguments and variables in it made printable."""
    message = error.format_message()
    if error.ctx is None or message == error.ctx.get_help():
        # Called without a command: the message is the help.
        error.show()
        return
    usage = f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help."
    sys.stderr.write("".join(f"{sanitize_line(line)}\n" for line in [*usage.splitlines(), "", f"Error: {message}"]))


def _print_traceback(error: BaseException) -> None:
    """Where the error and what it came from were raised. The lines are of this program, but the messages may hold
    anything."""
    earlier = error.__cause__ or error.__context__
    if earlier is not None:
        _print_traceback(earlier)
    sys.stderr.write("Traceback (most recent call last):\n")
    sys.stderr.writelines(traceback.format_tb(error.__traceback__))
    sys.stderr.write(f"{sanitize_line(f'{type(error).__name__}: {error}')}\n")


def _print_error(message: str) -> None:
    ci = detect_ci_system(os.environ, sys.stderr)
    if isinstance(ci, Terminal):
        sys.stderr.write(f"error: {sanitize_line(message)}\n")
    ci.error(message)
