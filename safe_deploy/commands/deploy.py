"""The commands of a deployment: `status`, `stage`, `deploy`, `swap`, `rollback` and `abandon`."""

import sys
from datetime import timedelta

import typer

from safe_deploy import deployment, rendering
from safe_deploy.ci import report_warning
from safe_deploy.client import Json
from safe_deploy.commands.release import ROUTER_TIMEOUT, roll_back_release
from safe_deploy.deployment import Deployment, StagingRequest, clean_up
from safe_deploy.durations import format_duration
from safe_deploy.errors import CommandError, NotReady, TimedOut, UsageError
from safe_deploy.option_groups import (
    AzureOptions,
    CommonOptions,
    OverrideOptions,
    SwapOptions,
    WaitingOptions,
    expand_option_groups,
)
from safe_deploy.options import (
    CreateOption,
    DeleteTaskHubsOption,
    DeployCommandOption,
    OptionalTaskHubOption,
    OtherVersionOption,
    SlotOption,
    StabilizationOption,
    SwapCommandOption,
    SwapOutcome,
    TaskHubOption,
    TimeoutOption,
    VersionOption,
    WaitOption,
)
from safe_deploy.session import (
    build_command,
    build_swap_executor,
    make_poll_options,
    open_session,
    resolve_deployment_slots,
)
from safe_deploy.side_by_side.app_state import SideBySideApp, is_side_by_side
from safe_deploy.subprocesses import Command, SignalGuard
from safe_deploy.swap_executor import STABILIZATION_SECONDS
from safe_deploy.swap_outcomes import report_rollback_by_hand, report_swap_by_hand
from safe_deploy.waiting import wait_until_ready

deploy_commands = typer.Typer()


@deploy_commands.command()
@expand_option_groups
def status(
    common: CommonOptions,
    waiting: WaitingOptions,
    *,
    slot: SlotOption = "staging",
    wait: WaitOption = False,
) -> None:
    """Show whether the slot may be overwritten. Exit code 0 if it may, 3 if not, 5 if --wait timed out."""
    session = open_session(common, slot=slot)
    if wait:
        try:
            verdict = wait_until_ready(
                session.server,
                slot,
                timeout_seconds=waiting.timeout,
                polling=make_poll_options(waiting, session),
            )
        except (TimedOut, NotReady) as error:
            if error.verdict is not None:
                session.print_verdict(error.verdict)
                if isinstance(error, TimedOut):
                    timeout = format_duration(timedelta(seconds=waiting.timeout))
                    reasons = rendering.list_reasons(error.verdict)
                    session.summarize(error, f"slot {slot} was not ready within {timeout}: {reasons}")
            raise
        session.print_verdict(verdict)
        return
    verdict = session.server.get_staging_status(slot, verify=waiting.verify)
    session.print_verdict(verdict)
    if not verdict["ready"]:
        refusal = NotReady(rendering.format_verdict(verdict))
        raise session.summarize(refusal, f"slot {slot} is not ready: {rendering.list_reasons(verdict)}")


@deploy_commands.command()
@expand_option_groups
def stage(
    common: CommonOptions,
    override: OverrideOptions,
    azure: AzureOptions,
    *,
    task_hub: TaskHubOption,
    version: VersionOption = "",
    slot: SlotOption = "staging",
    create: CreateOption = False,
) -> None:
    """Record a new task hub for the slot, which must have drained, and open a deployment for this run."""
    session = open_session(common, slot=slot)
    app = deployment.stage(
        session.server,
        _build_staging_request(override, task_hub=task_hub, version=version, slot=slot, create=create),
        deployment_slots=resolve_deployment_slots(azure, session),
        report=session.report,
    )
    session.print_app(
        app, task_hub=task_hub, title=f"task hub {task_hub} is staged into slot {slot} of app {app['app']}"
    )


@deploy_commands.command()
@expand_option_groups
def deploy(
    common: CommonOptions,
    waiting: WaitingOptions,
    override: OverrideOptions,
    azure: AzureOptions,
    *,
    task_hub: TaskHubOption,
    deploy_command: DeployCommandOption,
    swap_command: SwapCommandOption,
    version: VersionOption = "",
    slot: SlotOption = "staging",
    delete_task_hubs: DeleteTaskHubsOption = False,
    stabilization_window: StabilizationOption = STABILIZATION_SECONDS,
) -> None:
    """Wait until the slot has drained, stage, run the deploy command, swap, and clean up."""
    session = open_session(common, slot=slot)
    deploy_step = build_command(deploy_command, task_hub=task_hub, version=version)
    swap_step = build_command(swap_command, task_hub=task_hub, version=version)
    if deploy_step is None or swap_step is None:
        raise UsageError("--deploy-command and --swap-command must not be empty")
    deployment_slots = resolve_deployment_slots(azure, session, swap_step)
    guard = SignalGuard()
    app = Deployment(
        server=session.server,
        staging=_build_staging_request(override, task_hub=task_hub, version=version, slot=slot),
        polling=make_poll_options(waiting, session),
        wait_seconds=waiting.timeout,
        deploy_command=deploy_step,
        swap_command=swap_step,
        swap_executor=build_swap_executor(session, deployment_slots, stabilization_window, guard),
        deployment_slots=deployment_slots,
        guard=guard,
        report=session.report,
    ).run()
    session.print_app(app, task_hub=task_hub, title=_describe_production_task_hub(app))
    try:
        clean_up(
            session.server, slot, deployment_slots=deployment_slots, dry_run=False, delete_task_hubs=delete_task_hubs
        )
    except CommandError as error:
        # The deployment is done, and the next cleanup removes what this one has left.
        report_warning(session.ci, sys.stderr, f"cleanup: {error.message}")


@deploy_commands.command()
@expand_option_groups
def swap(
    common: CommonOptions,
    swap_options: SwapOptions,
    azure: AzureOptions,
    *,
    task_hub: TaskHubOption,
    version: VersionOption = "",
    slot: SlotOption = "staging",
) -> None:
    """Bring the slot's task hub into production: record the swap, run the command, then confirm or revert."""
    session = open_session(common, slot=slot)
    command = build_command(swap_options.command, task_hub=task_hub, version=version)
    outcome = _require_command_or_outcome(command, swap_options.outcome)
    deployment_slots = resolve_deployment_slots(azure, session, command)
    with SignalGuard() as guard:
        if command is None:
            app = report_swap_by_hand(session.server, task_hub, slot=slot, outcome=outcome)
        else:
            executor = build_swap_executor(session, deployment_slots, swap_options.stabilization_window, guard)
            app = executor.swap(task_hub, command)
    session.print_app(app, task_hub=task_hub, title=_describe_production_task_hub(app))


@deploy_commands.command()
@expand_option_groups
def rollback(
    common: CommonOptions,
    swap_options: SwapOptions,
    azure: AzureOptions,
    *,
    task_hub: OptionalTaskHubOption = "",
    slot: SlotOption = "staging",
    version: OtherVersionOption = "",
    timeout: TimeoutOption = ROUTER_TIMEOUT,
) -> None:
    """Swap back to the task hub that was swapped out, or give all requests back to the release that was active before.
    Safe to repeat."""
    session = open_session(common, slot=slot)
    app, _ = session.server.get_app()
    if is_side_by_side(app):
        if swap_options.command or swap_options.outcome:
            raise UsageError(
                f"app {app['app']} has releases side by side, which no command swaps: omit the command and --outcome"
            )
        roll_back_release(
            session,
            SideBySideApp.from_json(app),
            requested_version=version,
            resource_group=azure.resource_group,
            timeout_seconds=timeout,
        )
        return
    if version:
        raise UsageError(f"app {app['app']} has slots. Name what to roll back to with --task-hub instead of --version")
    command = build_command(swap_options.command, task_hub=task_hub)
    outcome = _require_command_or_outcome(command, swap_options.outcome)
    deployment_slots = resolve_deployment_slots(azure, session, command)
    with SignalGuard() as guard:
        if command is None:
            app = report_rollback_by_hand(session.server, task_hub or None, slot=slot, outcome=outcome)
        else:
            executor = build_swap_executor(session, deployment_slots, swap_options.stabilization_window, guard)
            app = executor.roll_back(task_hub or None, command)
    production_hub = (app["slots"]["production"] or {}).get("taskHub", "")
    session.print_app(app, task_hub=production_hub, title=_describe_production_task_hub(app))


@deploy_commands.command()
@expand_option_groups
def abandon(common: CommonOptions, *, task_hub: TaskHubOption, slot: SlotOption = "staging") -> None:
    """Close this run's open deployment without a swap, so that the next run need not wait for its timeout."""
    session = open_session(common, slot=slot)
    app = session.server.delete_staging(task_hub, slot)
    session.print_app(
        app, task_hub=task_hub, title=f"the deployment of task hub {task_hub} into app {app['app']} is closed"
    )


def _build_staging_request(
    override: OverrideOptions, *, task_hub: str, version: str, slot: str, create: bool = False
) -> StagingRequest:
    """What the options of a command say about staging."""
    return StagingRequest(
        task_hub=task_hub,
        version=version or None,
        slot=slot,
        force=override.force,
        take_over=override.take_over,
        reason=override.reason or None,
        create=create,
    )


def _require_command_or_outcome(command: Command | None, outcome: SwapOutcome | None) -> str:
    """The outcome as the server spells it, empty with a command. Raises UsageError for both or neither."""
    if command is None and outcome is None:
        raise UsageError(
            "neither a swap command nor --outcome is given. Add the command that swaps the slots after --, or, if the "
            "slots are swapped without safe-deploy, --outcome pending before the swap and done or failed after it"
        )
    if command is not None and outcome is not None:
        raise UsageError(
            "both a swap command and --outcome are given. --outcome is for a swap that is made without safe-deploy: "
            "omit it or the command"
        )
    return outcome.capitalize() if outcome else ""


def _describe_production_task_hub(app: Json) -> str:
    """A line about the task hub in production, for people."""
    production = app["slots"].get("production") or {}
    pending = " (pending)" if app.get("pendingSwap") else ""
    return f"task hub {production.get('taskHub', '')} is in production of app {app['app']}{pending}"
