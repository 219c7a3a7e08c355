"""The commands for people: what is active, who changed what, what is where, and whether all is set up."""

from datetime import timedelta
from typing import Annotated, Literal

import typer

from safe_deploy import rendering
from safe_deploy.client import Json
from safe_deploy.diagnostics import RETRY_SECONDS as DIAGNOSTICS_RETRY_SECONDS
from safe_deploy.diagnostics import CheckStatus, KeyPurpose, run_checks
from safe_deploy.errors import CommandError, UsageError
from safe_deploy.options import (
    ActorOption,
    AppOption,
    FunctionAppOption,
    KeyOption,
    OptionalTaskHubOption,
    OutputFormat,
    OutputOption,
    ReasonOption,
    ResourceGroupOption,
    RunUrlOption,
    ServerOption,
    SlotOption,
    TaskHubOption,
    TaskHubSettingOption,
    TopOption,
    VersionOption,
    environment_variable,
)
from safe_deploy.session import open_session, resolve_deployment_slots

inspect_commands = typer.Typer()


@inspect_commands.command()
def instances(
    server: ServerOption,
    app: AppOption,
    task_hub: OptionalTaskHubOption = "",
    include_finished: Annotated[bool, typer.Option("--all", help="Finished ones, too.")] = False,
    runtime_status: Annotated[str, typer.Option("--status", show_default=False, help="Only of this status.")] = "",
    top: TopOption = 50,
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = OutputFormat.TABLE,
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """The instances that are on record for a task hub, by default the active ones of the slot's."""
    session = open_session(server, app, key, slot, output, actor, run_url)
    hub = task_hub or _get_task_hub_of_slot(session.server.get_app()[0], slot)
    active = None if include_finished or runtime_status else "true"
    answer = session.server.list_instances(hub, {"active": active, "status": runtime_status or None, "top": top})
    more = ", there are more" if answer["continuationToken"] else ""
    found = len(answer["instances"])
    session.print_result(
        answer,
        rendering.INSTANCE_COLUMNS,
        rendering.build_instance_rows(answer),
        f"{found} on record for task hub {hub}{more}",
    )


@inspect_commands.command()
def history(
    server: ServerOption,
    app: AppOption,
    top: TopOption = 50,
    key: KeyOption = "",
    output: OutputOption = OutputFormat.TABLE,
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Who changed what, newest first."""
    session = open_session(server, app, key, "staging", output, actor, run_url)
    answer = session.server.get_history(top)
    session.print_result(answer, rendering.HISTORY_COLUMNS, rendering.build_history_rows(answer))


@inspect_commands.command()
def waive(
    server: ServerOption,
    app: AppOption,
    task_hub: TaskHubOption,
    reason: ReasonOption,
    instance_id: Annotated[
        str, typer.Option("--instance-id", show_default=False, help="The instance that may stay active.")
    ] = "",
    unexplained_messages: Annotated[
        int,
        typer.Option(
            "--unexplained-messages",
            min=0,
            show_default=False,
            help="In place of an instance: how many invisible messages do not block.",
        ),
    ] = 0,
    hours: Annotated[float, typer.Option("--hours", min=0.01, max=90 * 24, help="How long it holds.")] = 24,
    key: KeyOption = "",
    output: OutputOption = OutputFormat.TABLE,
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Let one instance stay active, or messages that nothing explains not block, without holding up deployments."""
    if bool(instance_id) == bool(unexplained_messages):
        raise UsageError("give either --instance-id or --unexplained-messages: a waiver is for one of them")
    session = open_session(server, app, key, "staging", output, actor, run_url)
    expires = (rendering.current_time() + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
    what: Json = {"instanceId": instance_id} if instance_id else {"unexplainedMessages": unexplained_messages}
    changed = session.server.post_waiver({"taskHub": task_hub, **what, "reason": reason, "expiresAt": expires})
    session.print_result(
        changed,
        ("Task hub", "For", "Until", "By", "Reason"),
        [[w["taskHub"], _describe_waiver(w), w["expiresAt"], w["by"], w["reason"]] for w in changed["waivers"]],
        f"waived until {expires} in task hub {task_hub}: {_describe_waiver(what)}",
    )


def _describe_waiver(waiver: Json) -> str:
    """What a waiver is for."""
    if waiver.get("instanceId") is not None:
        return f"instance {waiver['instanceId']}"
    return f"{waiver['unexplainedMessages']} unexplained messages"


@inspect_commands.command()
def register(
    server: ServerOption,
    app: AppOption,
    task_hub: Annotated[
        str,
        typer.Option(
            "--task-hub", envvar=environment_variable("TASK_HUB"), help="The task hub that is in the slot now."
        ),
    ],
    version: VersionOption = "",
    slot: Annotated[str, typer.Option("--slot", help="The slot that holds it, whatever SAFE_DEPLOY_SLOT says.")] = (
        "production"
    ),
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
    missing_task_hub_is_drained: Annotated[
        bool,
        typer.Option(
            "--missing-task-hub-is-drained",
            help="A version that was staged and never started does not hold up the next one.",
        ),
    ] = False,
    key: KeyOption = "",
    output: OutputOption = OutputFormat.TABLE,
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
    if require_verification or missing_task_hub_is_drained:
        asked = {"requireVerification": require_verification, "missingTaskHubIsDrained": missing_task_hub_is_drained}
        body["policy"] = {name: True for name, value in asked.items() if value}
    session.print_app(session.server.put_app(body), task_hub, f"slot {slot} of app {app} holds task hub {task_hub}")


@inspect_commands.command()
def doctor(
    server: ServerOption,
    app: AppOption,
    purpose: Annotated[KeyPurpose, typer.Option("--for", help="What the key must be good for.")] = KeyPurpose.DEPLOY,
    key: KeyOption = "",
    slot: SlotOption = "staging",
    output: OutputOption = OutputFormat.TABLE,
    resource_group: ResourceGroupOption = "",
    function_app: FunctionAppOption = "",
    task_hub_setting: TaskHubSettingOption = "TASK_HUB",
    actor: ActorOption = "",
    run_url: RunUrlOption = "",
) -> None:
    """Is everything set up so that a deployment can rely on it?"""
    session = open_session(server, app, key, slot, output, actor, run_url, DIAGNOSTICS_RETRY_SECONDS)
    deployment_slots = resolve_deployment_slots(resource_group, function_app, task_hub_setting, session, None)
    findings = run_checks(session.server, slot, deployment_slots, purpose, rendering.current_time())
    session.print_result(
        [finding.to_json() for finding in findings],
        ("Status", "Check", "Message"),
        [[finding.status, finding.check, finding.message] for finding in findings],
    )
    wrong = [finding for finding in findings if finding.status is CheckStatus.FAILED]
    if wrong:
        error = CommandError("; ".join(f"{finding.check}: {finding.message}" for finding in wrong))
        error.exit_code = max(finding.exit_code for finding in wrong)
        raise error


def _get_task_hub_of_slot(app: Json, slot: str) -> str:
    held = {name.lower(): content for name, content in app["slots"].items()}.get(slot.lower())
    if held is None:
        raise UsageError(f"slot {slot} of app {app['app']} holds no task hub; name one with --task-hub")
    hub: str = held["taskHub"]
    return hub
