"""The commands of administrators: `register`, `waive`, `cleanup` and the group `keys`."""

import json
import sys
from datetime import timedelta
from typing import Annotated, Literal

import typer

from safe_deploy import rendering
from safe_deploy.client import Json
from safe_deploy.deployment import clean_up
from safe_deploy.errors import UsageError
from safe_deploy.keys import KeyRole, create_key
from safe_deploy.option_groups import AzureOptions, CommonOptions, expand_option_groups
from safe_deploy.options import (
    DeleteTaskHubsOption,
    DryRunOption,
    OutputFormat,
    ReasonOption,
    SlotOption,
    TaskHubOption,
    VersionOption,
)
from safe_deploy.sanitization import format_json
from safe_deploy.session import open_session, resolve_deployment_slots

administer_commands = typer.Typer()
key_commands = typer.Typer(
    name="keys", help="Access keys for a state server.", no_args_is_help=True, rich_markup_mode=None
)
administer_commands.add_typer(key_commands)


@administer_commands.command()
@expand_option_groups
def register(
    common: CommonOptions,
    *,
    task_hub: TaskHubOption,
    version: VersionOption = "",
    slot: Annotated[
        str, typer.Option("--slot", help="Slot that has the task hub. Ignores SAFE_DEPLOY_SLOT.")
    ] = "production",
    provider: Annotated[
        Literal["azureStorage", "scheduler", "managementApi"] | None,
        typer.Option("--provider", help="Provider of the app's task hubs. Enables verification."),
    ] = None,
    connection: Annotated[
        str,
        typer.Option(
            "--connection", show_default=False, help="Name of the server's setting with the provider's connection."
        ),
    ] = "",
    require_verification: Annotated[
        bool, typer.Option("--require-verification", help="Never report Ready without a probe of the task hub.")
    ] = False,
    missing_task_hub_is_drained: Annotated[
        bool,
        typer.Option(
            "--missing-task-hub-is-drained",
            help="Count a task hub that does not exist as drained: its version was staged and never started.",
        ),
    ] = False,
) -> None:
    """Record which task hub a slot has now, and where the app's task hubs live. Needs an admin's key."""
    session = open_session(common)
    if bool(provider) != bool(connection):
        raise UsageError("--provider and --connection belong together: give both or neither")
    body: Json = {"slots": {slot: {"taskHub": task_hub, "version": version or None}}}
    if provider:
        body["taskHubs"] = {"provider": provider, "connection": connection}
    policy = {
        **({"requireVerification": True} if require_verification else {}),
        **({"missingTaskHubIsDrained": True} if missing_task_hub_is_drained else {}),
    }
    if policy:
        body["policy"] = policy
    app = session.server.put_app(body)
    session.print_app(app, task_hub=task_hub, title=f"slot {slot} of app {common.app} holds task hub {task_hub}")


@administer_commands.command()
@expand_option_groups
def waive(
    common: CommonOptions,
    *,
    task_hub: TaskHubOption,
    reason: ReasonOption,
    instance_id: Annotated[
        str, typer.Option("--instance-id", show_default=False, help="Instance that may stay active.")
    ] = "",
    unexplained_messages: Annotated[
        int,
        typer.Option(
            "--unexplained-messages",
            min=0,
            show_default=False,
            help="Number of invisible messages that do not block. Replaces --instance-id.",
        ),
    ] = 0,
    hours: Annotated[float, typer.Option("--hours", min=0.01, max=90 * 24, help="How long the waiver is valid.")] = 24,
) -> None:
    """Keep one active instance, or a number of unexplained messages, from blocking deployments."""
    if bool(instance_id) == bool(unexplained_messages):
        raise UsageError(
            "a waiver is for an instance or for messages: give either --instance-id or --unexplained-messages"
        )
    session = open_session(common)
    expires_at = (rendering.current_time() + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
    waived: Json = {"instanceId": instance_id} if instance_id else {"unexplainedMessages": unexplained_messages}
    app = session.server.post_waiver({"taskHub": task_hub, **waived, "reason": reason, "expiresAt": expires_at})
    session.print_result(
        app,
        rendering.WAIVER_COLUMNS,
        rendering.build_waiver_rows(app),
        f"waived until {expires_at} in task hub {task_hub}: {rendering.describe_waived(waived)}",
    )


@administer_commands.command()
@expand_option_groups
def cleanup(
    common: CommonOptions,
    azure: AzureOptions,
    *,
    slot: SlotOption = "staging",
    dry_run: DryRunOption = False,
    delete_task_hubs: DeleteTaskHubsOption = False,
) -> None:
    """Remove the retired task hubs that have drained."""
    session = open_session(common, slot=slot)
    response = clean_up(
        session.server,
        slot,
        deployment_slots=resolve_deployment_slots(azure, session),
        dry_run=dry_run,
        delete_task_hubs=delete_task_hubs,
    )
    session.ci.set_outputs(rendering.cleanup_outputs(response))
    rows = rendering.build_cleanup_rows(response)
    session.print_result(response, rendering.CLEANUP_COLUMNS, rows, "" if rows else "no task hub is retired")


@key_commands.callback()
def _keep_group() -> None:
    """Access keys for a state server."""
    # Without a callback, Typer would collapse a group of one command into that command.


@key_commands.command("new")
def new_key(
    *,
    name: Annotated[
        str, typer.Option("--name", show_default="role and app", help="Name of the key in the server's audit log.")
    ] = "",
    role: Annotated[KeyRole, typer.Option("--role", help="What the key permits.")] = KeyRole.DEPLOYER,
    apps: Annotated[
        list[str] | None,
        typer.Option("--app", help="App that the key is limited to; repeat for several. Default: all apps."),
    ] = None,
    output: Annotated[
        OutputFormat, typer.Option("--output", help="Format of the key and its entry.")
    ] = OutputFormat.TABLE,
) -> None:
    """Print a new key and its STATE_KEYS entry. Neither is stored."""
    created = create_key(name=name, role=role, apps=apps or [])
    if output is OutputFormat.JSON:
        sys.stdout.write(format_json({"key": created.key, "entry": created.entry}) + "\n")
        return
    sys.stdout.write(f"key:   {created.key}\nentry: {json.dumps(created.entry)}\n")
    sys.stderr.write(
        "The key is not shown again. Put it into the secret store of the pipeline or person that will use it. Add the "
        "entry to the JSON list in the server's setting STATE_KEYS and restart the server.\n"
    )
