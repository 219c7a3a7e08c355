"""The command line: options and variables in, one result on stdout, everything else on stderr, an honest exit code."""

import os
import sys
from datetime import timedelta
from io import TextIOWrapper
from typing import Annotated, Literal, NoReturn

import typer

from safe_deploy import rendering
from safe_deploy.ci import detect
from safe_deploy.client import PATIENCE_SECONDS, Json
from safe_deploy.commands import Guard
from safe_deploy.deployment import Staging, Waiting, deploy, stage
from safe_deploy.doctor import PATIENCE_SECONDS as DOCTORS_PATIENCE
from safe_deploy.doctor import Purpose, Standing, examine
from safe_deploy.errors import CommandError, ExitCode, NotReady, TimedOut, UsageError
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
    Output,
    OutputOption,
    ReasonOption,
    RunUrlOption,
    ServerOption,
    SlotOption,
    TakeOverOption,
    TimeoutOption,
    TopOption,
    Verify,
    VerifyOption,
    VersionOption,
    WordsArgument,
    variable,
)
from safe_deploy.promotion import Promotion
from safe_deploy.session import Session, azure_of, command_of, open_session, reporter, wait_for_ready

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
    outcome: Annotated[
        Outcome | None, typer.Option("--outcome", help="Without a command: how the platform's swap went.")
    ] = None,
    version: VersionOption = "",
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = Output.TABLE,
    resource_group: GroupOption = "",
    function_app: FunctionAppOption = "",
    hub_setting: HubSettingOption = "TASK_HUB",
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Bring the slot's task hub into production: on record, by the command, and confirmed or taken back."""
    session = open_session(server, app, key, slot, output, actor, run_url)
    swapping = command_of(command, task_hub, version)
    if swapping is None:
        changed = session.server.post_swap(task_hub, slot, (outcome or Outcome.DONE).capitalize())
    elif outcome is not None:
        raise UsageError("--outcome is for a swap that somebody else runs: leave it out, or the command")
    else:
        azure = azure_of(resource_group, function_app, hub_setting, session, swapping)
        with Guard() as guard:
            changed = Promotion(session.server, slot, azure, session.say).swap(task_hub, swapping, guard)
    session.app(changed, task_hub, _in_production(changed))


@cli.command()
def rollback(
    server: ServerOption,
    app: AppOption,
    command: WordsArgument = None,
    task_hub: MaybeHubOption = "",
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = Output.TABLE,
    resource_group: GroupOption = "",
    function_app: FunctionAppOption = "",
    hub_setting: HubSettingOption = "TASK_HUB",
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Swap back to the task hub that was swapped out and is still in the slot. Twice is as once."""
    session = open_session(server, app, key, slot, output, actor, run_url)
    swapping = command_of(command, task_hub, "")
    azure = azure_of(resource_group, function_app, hub_setting, session, swapping)
    with Guard() as guard:
        changed = Promotion(session.server, slot, azure, session.say).roll_back(task_hub or None, swapping, guard)
    session.app(changed, (changed["slots"]["production"] or {}).get("taskHub", ""), _in_production(changed))


@cli.command()
def cleanup(
    server: ServerOption,
    app: AppOption,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar=variable("DRY_RUN"), help="Say what would be removed.")
    ] = False,
    delete_task_hubs: DeleteOption = False,
    key: KeyOption = "",
    output: OutputOption = Output.TABLE,
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Remove the retired task hubs that are drained."""
    session = open_session(server, app, key, "staging", output, actor, run_url)
    _clean_up(session, dry_run, delete_task_hubs)


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
    changed = deploy(session.server, staging, waiting, deploying, swapping, azure, session.say)
    session.app(changed, task_hub, _in_production(changed))
    try:
        session.server.cleanup(dry_run=False, delete_task_hubs=delete_task_hubs)
    except CommandError as error:
        # The deployment itself is done; a later cleanup makes up for this one.
        session.say(f"cleanup: {error.message}")
        session.ci.warning(f"cleanup: {error.message}")


@cli.command()
def instances(
    server: ServerOption,
    app: AppOption,
    task_hub: MaybeHubOption = "",
    everything: Annotated[bool, typer.Option("--all", help="Finished ones, too.")] = False,
    runtime_status: Annotated[str, typer.Option("--status", show_default=False, help="Only of this status.")] = "",
    top: TopOption = 50,
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = Output.TABLE,
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """The instances that are on record for a task hub, by default the active ones of the slot's."""
    session = open_session(server, app, key, slot, output, actor, run_url)
    hub = task_hub or _held(session.server.get_app()[0], slot)
    active = None if everything or runtime_status else "true"
    answer = session.server.instances(hub, {"active": active, "status": runtime_status or None, "top": top})
    more = ", there are more" if answer["continuationToken"] else ""
    found = len(answer["instances"])
    session.result(
        answer, rendering.INSTANCES, rendering.instances(answer), f"{found} on record for task hub {hub}{more}"
    )


@cli.command()
def history(
    server: ServerOption,
    app: AppOption,
    top: TopOption = 50,
    key: KeyOption = "",
    output: OutputOption = Output.TABLE,
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Who changed what, newest first."""
    session = open_session(server, app, key, "staging", output, actor, run_url)
    answer = session.server.history(top)
    session.result(answer, rendering.HISTORY, rendering.history(answer))


@cli.command()
def waive(
    server: ServerOption,
    app: AppOption,
    task_hub: HubOption,
    instance_id: Annotated[str, typer.Option("--instance-id", help="The instance that may stay active.")],
    reason: ReasonOption,
    hours: Annotated[float, typer.Option("--hours", min=0.01, max=90 * 24, help="How long it holds.")] = 24,
    key: KeyOption = "",
    output: OutputOption = Output.TABLE,
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Let one instance stay active without holding up deployments."""
    session = open_session(server, app, key, "staging", output, actor, run_url)
    expires = (rendering.now() + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = {"taskHub": task_hub, "instanceId": instance_id, "reason": reason, "expiresAt": expires}
    changed = session.server.post_waiver(body)
    session.result(
        changed,
        ("Task hub", "Instance", "Until", "By", "Reason"),
        [[w["taskHub"], w["instanceId"], w["expiresAt"], w["by"], w["reason"]] for w in changed["waivers"]],
        f"instance {instance_id} of task hub {task_hub} is waived until {expires}",
    )


@cli.command()
def register(
    server: ServerOption,
    app: AppOption,
    task_hub: Annotated[
        str, typer.Option("--task-hub", envvar=variable("TASK_HUB"), help="The task hub that is in the slot now.")
    ],
    version: VersionOption = "",
    slot: Annotated[str, typer.Option("--slot", help="The slot that holds it.")] = "production",
    provider: Annotated[
        Literal["azureStorage", "scheduler", "managementApi"] | None,
        typer.Option("--provider", help="Where the app's task hubs live: switches verification on."),
    ] = None,
    connection: Annotated[
        str, typer.Option("--connection", show_default=False, help="The server's setting that leads there, by name.")
    ] = "",
    require_verification: Annotated[
        bool, typer.Option("--require-verification", help="Never say Ready without a look at the task hub.")
    ] = False,
    key: KeyOption = "",
    output: OutputOption = Output.TABLE,
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Tell the server what is in a slot now, and where the app's task hubs live. Needs a key that may administer."""
    session = open_session(server, app, key, "staging", output, actor, run_url)
    if bool(provider) != bool(connection):
        raise UsageError("--provider and --connection belong together")
    body: Json = {"slots": {slot: {"taskHub": task_hub, "version": version or None}}}
    if provider:
        body["taskHubs"] = {"provider": provider, "connection": connection}
    if require_verification:
        body["policy"] = {"requireVerification": True}
    session.app(session.server.put_app(body), task_hub, f"slot {slot} of app {app} holds task hub {task_hub}")


@cli.command()
def doctor(
    server: ServerOption,
    app: AppOption,
    purpose: Annotated[Purpose, typer.Option("--for", help="What the key must be good for.")] = Purpose.DEPLOY,
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = Output.TABLE,
    resource_group: GroupOption = "",
    function_app: FunctionAppOption = "",
    hub_setting: HubSettingOption = "TASK_HUB",
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Is everything set up so that a deployment can rely on it?"""
    session = open_session(server, app, key, slot, output, actor, run_url, DOCTORS_PATIENCE)
    azure = azure_of(resource_group, function_app, hub_setting, session, None)
    findings = examine(session.server, slot, azure, purpose, rendering.now())
    session.result(
        [finding.as_json() for finding in findings],
        ("", "Question", "Finding"),
        [[finding.standing, finding.question, finding.said] for finding in findings],
    )
    wrong = [finding for finding in findings if finding.standing is Standing.WRONG]
    if wrong:
        error = CommandError("; ".join(f"{finding.question}: {finding.said}" for finding in wrong))
        error.exit_code = max(finding.exit_code for finding in wrong)
        raise error


def _clean_up(session: Session, dry_run: bool, delete_task_hubs: bool) -> None:
    answer = session.server.cleanup(dry_run, delete_task_hubs)
    session.ci.outputs(rendering.cleanup_outputs(answer))
    rows = rendering.cleaned_up(answer)
    session.result(answer, rendering.CLEANED_UP, rows, "" if rows else "no task hub is retired")


def _held(app: Json, slot: str) -> str:
    held = {name.lower(): content for name, content in app["slots"].items()}.get(slot.lower())
    if held is None:
        raise UsageError(f"slot {slot} of app {app['app']} holds no task hub; name one with --task-hub")
    hub: str = held["taskHub"]
    return hub


def _in_production(app: Json) -> str:
    production = app["slots"].get("production") or {}
    pending = " (pending)" if app["pendingSwap"] else ""
    return f"task hub {production.get('taskHub', '')} is in production of app {app['app']}{pending}"


def main() -> NoReturn:
    """The entry point: every error is one line on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A log that cannot hold a letter is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    try:
        cli()
    except CommandError as error:
        hint = ". Tell it what is in production now: safe-deploy register" if _is_unknown_app(error) else ""
        _fail(f"{error.message}{hint}")
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if ended.code == _STOPPED:
            _fail("stopped")
            sys.exit(ExitCode.FAILURE)
        if ended.code == ExitCode.USAGE:
            detect(os.environ, sys.stderr).error("safe-deploy was called wrongly; the log says how")
        raise
    raise AssertionError("the command line ends with an exit code")


_STOPPED = 130
"""What Typer makes of Ctrl-C."""


def _is_unknown_app(error: CommandError) -> bool:
    return error.problem.get("code") == "AppNotFound"


def _fail(message: str) -> None:
    ci = detect(os.environ, sys.stderr)
    if ci.name == "terminal":
        sys.stderr.write(f"error: {rendering.shown(message)}\n")
    # Names in it come from events: no control characters, and nothing that the CI system takes for a command.
    ci.error(rendering.shown(message))
