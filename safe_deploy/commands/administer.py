"""The commands of administrators: `waive`, `unwaive`, `forget-router`, `cleanup` and the group `keys`. Those that
register and delete apps are in `register.py`."""

import json
import sys
from datetime import timedelta
from typing import Annotated

import typer

from safe_deploy import rendering
from safe_deploy.administration import Administration
from safe_deploy.app_report import describe_routers
from safe_deploy.client import Json
from safe_deploy.deployment import clean_up
from safe_deploy.durations import Seconds, duration_parser
from safe_deploy.errors import CommandError, UsageError
from safe_deploy.keys import KeyRole, create_key
from safe_deploy.option_groups import AzureOptions, CommonOptions, expand_option_groups
from safe_deploy.options import (
    DURATION,
    DeleteTaskHubsOption,
    DryRunOption,
    OutputFormat,
    QuietOption,
    ReasonOption,
    SlotOption,
    TaskHubOption,
    YesOption,
)
from safe_deploy.prompts import Prompts
from safe_deploy.questions import require_confirmation, show_before_question
from safe_deploy.serialization import serialize
from safe_deploy.session import open_session, resolve_deployment_slots

ExpiresInOption = Annotated[
    float,
    typer.Option(
        "--expires-in",
        parser=duration_parser(Seconds(60), Seconds(90 * 24 * 3600)),
        metavar=DURATION,
        help="How long the waiver is valid, such as 12h or 7d.",
    ),
]
_WAIVER_DURATION = Seconds(24 * 3600)

administer_commands = typer.Typer()
key_commands = typer.Typer(
    name="keys", help="Access keys for a state server.", no_args_is_help=True, rich_markup_mode=None
)
administer_commands.add_typer(key_commands)


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
    expires_in: ExpiresInOption = _WAIVER_DURATION,
) -> None:
    """Keep one active instance, or a number of unexplained messages, from blocking deployments."""
    if bool(instance_id) == bool(unexplained_messages):
        raise UsageError(
            "a waiver is for an instance or for messages: give either --instance-id or --unexplained-messages"
        )
    session = open_session(common)
    expires_at = (rendering.current_time() + timedelta(seconds=expires_in)).strftime("%Y-%m-%dT%H:%M:%SZ")
    waived: Json = {"instanceId": instance_id} if instance_id else {"unexplainedMessages": unexplained_messages}
    app = session.server.post_waiver({"taskHub": task_hub, **waived, "reason": reason, "expiresAt": expires_at})
    session.print_result(
        app,
        rendering.WAIVER_COLUMNS,
        rendering.build_waiver_rows(app, rendering.current_time()),
        f"waived until {expires_at} in task hub {task_hub}: {rendering.describe_waived(waived)}",
    )


@administer_commands.command()
@expand_option_groups
def unwaive(
    common: CommonOptions,
    *,
    task_hub: TaskHubOption,
    instance_id: Annotated[str, typer.Option("--instance-id", show_default=False, help="Instance of the waiver.")] = "",
    unexplained_messages: Annotated[
        bool, typer.Option("--unexplained-messages", help="The waiver for messages. Replaces --instance-id.")
    ] = False,
) -> None:
    """Remove a waiver, so that the instance or the messages block again."""
    if bool(instance_id) == unexplained_messages:
        raise UsageError(
            "a waiver is for an instance or for messages: give either --instance-id or --unexplained-messages"
        )
    session = open_session(common)
    waived: Json = {"instanceId": instance_id} if instance_id else {"unexplainedMessages": "true"}
    app = Administration(session.server).delete_waiver({"taskHub": task_hub, **waived})
    removed = f"instance {instance_id}" if instance_id else "unexplained messages"
    session.print_result(
        app,
        rendering.WAIVER_COLUMNS,
        rendering.build_waiver_rows(app, rendering.current_time()),
        f"the waiver in task hub {task_hub} is removed: {removed}",
    )


@administer_commands.command("forget-router")
@expand_option_groups
def forget_router(
    common: CommonOptions,
    *,
    name: Annotated[str, typer.Option("--name", help="Name under which the router asks.")],
    yes: YesOption = False,
) -> None:
    """Forget a router that is gone, so that releases do not wait for it. Needs an admin's key."""
    session = open_session(common)
    _, etag = session.server.get_app()
    response = session.server.list_releases()
    routers = [router for router in response["routers"] if router["router"] == name]
    if not routers:
        known = ", ".join(router["router"] for router in response["routers"]) or "none"
        raise CommandError(f"no router has asked for app {response['app']} under the name {name}. Its routers: {known}")
    now = rendering.current_time()
    show_before_question(session, (), (), describe_routers({**response, "routers": routers}, now)[0])
    require_confirmation(
        Prompts(assume_yes=yes),
        f"Forget router {name}? If it still runs, it may send requests to a release that is then removed.",
    )
    app = Administration(session.server).forget_router(name, etag=etag)
    session.print_result(app, (), (), f"router {name} of app {app['app']} is forgotten")


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
        OutputFormat, typer.Option("--output", "-o", help="Format of the key and its entry.")
    ] = OutputFormat.TABLE,
    quiet: QuietOption = False,
) -> None:
    """Print a new key and its STATE_KEYS entry. Neither is stored."""
    created = create_key(name=name, role=role, apps=apps or [])
    if output is not OutputFormat.TABLE:
        sys.stdout.write(serialize({"key": created.key, "entry": created.entry}, output))
        return
    sys.stdout.write(f"key:   {created.key}\nentry: {json.dumps(created.entry)}\n")
    if not quiet:
        sys.stderr.write(
            "The key is not shown again. Put it into the secret store of the pipeline or person that will use it. Add "
            "the entry to the JSON list in the server's setting STATE_KEYS and restart the server.\n"
        )
