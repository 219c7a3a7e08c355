"""The commands that create, correct and delete an app on the server: `register`, `adopt` and `unregister`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from safe_deploy import rendering
from safe_deploy.administration import Administration
from safe_deploy.app_report import (
    CONTENT_COLUMNS,
    TASK_HUB_COLUMNS,
    build_content_rows,
    build_task_hub_rows,
    print_registered_app,
)
from safe_deploy.client import Json
from safe_deploy.errors import CommandError, ConflictError, UsageError
from safe_deploy.option_groups import CommonOptions, expand_option_groups
from safe_deploy.options import (
    AddressOption,
    CreateOption,
    OptionalTaskHubOption,
    TaskHubOption,
    VersionOption,
    YesOption,
)
from safe_deploy.prompts import Prompts
from safe_deploy.questions import require_confirmation, show_before_question
from safe_deploy.registration import CHANGE_COLUMNS, AppChange, find_app, plan_changes, write_app
from safe_deploy.session import Session, open_session

register_commands = typer.Typer()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderOptions:
    """Where the task hubs of the app are, and what their verdicts need."""

    provider: Annotated[
        Literal["azureStorage", "scheduler", "managementApi"] | None,
        typer.Option("--provider", help="Provider of the app's task hubs. Enables verification."),
    ] = None
    connection: Annotated[
        str,
        typer.Option(
            "--connection", show_default=False, help="Name of the server's setting with the provider's connection."
        ),
    ] = ""
    tracking_connection: Annotated[
        str,
        typer.Option(
            "--tracking-connection", show_default=False, help="Name of the server's setting for a tracking store."
        ),
    ] = ""
    tracking_prefix: Annotated[
        str,
        typer.Option("--tracking-prefix", show_default=False, help="Prefix of the tables in the tracking store."),
    ] = ""
    require_verification: Annotated[
        bool, typer.Option("--require-verification", help="Never report Ready without a probe of the task hub.")
    ] = False
    missing_task_hub_is_drained: Annotated[
        bool,
        typer.Option(
            "--missing-task-hub-is-drained",
            help="Count a task hub that does not exist as drained: its version was staged and never started.",
        ),
    ] = False

    def to_members(self) -> Json:
        """The members of PutApp. Raises UsageError for an option without the one that it belongs to."""
        if bool(self.provider) != bool(self.connection):
            raise UsageError("--provider and --connection belong together: give both or neither")
        if (self.tracking_connection or self.tracking_prefix) and not self.provider:
            raise UsageError("--tracking-connection and --tracking-prefix need --provider and --connection")
        tracking = {"trackingConnection": self.tracking_connection, "trackingPrefix": self.tracking_prefix}
        policy = {
            "requireVerification": self.require_verification,
            "missingTaskHubIsDrained": self.missing_task_hub_is_drained,
        }
        members: Json = {"policy": {name: True for name, is_given in policy.items() if is_given}}
        if self.provider:
            tracking_members = {name: value for name, value in tracking.items() if value}
            members["taskHubs"] = {"provider": self.provider, "connection": self.connection, **tracking_members}
        return {name: value for name, value in members.items() if value}


@register_commands.command()
@expand_option_groups
def register(
    common: CommonOptions,
    providing: ProviderOptions,
    *,
    task_hub: OptionalTaskHubOption = "",
    version: VersionOption = "",
    slot: Annotated[
        str, typer.Option("--slot", help="Slot that has the task hub. Ignores SAFE_DEPLOY_SLOT.")
    ] = "production",
    empty: Annotated[bool, typer.Option("--empty", help="Record that the slot has no task hub.")] = False,
    address: AddressOption = "",
    model: Annotated[
        Literal["slots", "sideBySide"] | None,
        typer.Option("--model", help="Whether the app has slots, or releases side by side."),
    ] = None,
    create: CreateOption = False,
    yes: YesOption = False,
) -> None:
    """Record what an app has now: the task hub of a slot, or a release, and where its task hubs are. Shows what is
    replaced, and asks. Needs an admin's key."""
    members = providing.to_members()
    members |= {"model": model} if model else {}
    members |= _build_content(task_hub=task_hub, version=version, slot=slot, address=address, empty=empty)
    if not members and not create:
        raise UsageError(
            "nothing is given to register. Give --task-hub, --empty, --model, or --provider and --connection"
        )
    session = open_session(common)
    app, etag = find_app(session.server) if create else session.server.get_app()
    changes = plan_changes(app, members)
    _confirm_replacements(session, changes, Prompts(assume_yes=yes))
    written = write_app(session.server, members, etag=etag, is_done=lambda current: not plan_changes(current, members))
    place = f"slot {slot} of app {written['app']} holds task hub {task_hub}" if task_hub and not address else ""
    title = _describe_registration(app, changes, place or f"app {written['app']}")
    print_registered_app(session, written, task_hub=task_hub, title=title)


@register_commands.command()
@expand_option_groups
def adopt(common: CommonOptions, *, task_hub: TaskHubOption) -> None:
    """Declare that a task hub belongs to the app at its provider, so that cleanup may delete it once it has drained.
    Needs an admin's key."""
    session = open_session(common)
    app, etag = session.server.get_app()
    write_app(session.server, {"adoptTaskHubs": [task_hub]}, etag=etag, is_done=lambda current: False)
    response = session.server.get_task_hub(task_hub)
    title = f"task hub {response['taskHub']} belongs to app {app['app']}"
    session.print_result(response, TASK_HUB_COLUMNS, build_task_hub_rows(response, rendering.current_time()), title)


@register_commands.command()
@expand_option_groups
def unregister(common: CommonOptions, *, yes: YesOption = False) -> None:
    """Delete the app on the server, but nothing in Azure. Its slots and releases must have drained. Needs an admin's
    key."""
    session = open_session(common)
    app, etag = session.server.get_app()
    show_before_question(session, CONTENT_COLUMNS, build_content_rows(app), f"app {app['app']} has:")
    require_confirmation(
        Prompts(assume_yes=yes),
        f"Delete app {app['app']} on the server? Its audit log stays, and no other app can ever use its task hubs.",
    )
    try:
        response = Administration(session.server).delete_app(etag=etag)
    except ConflictError as error:
        if error.problem_code != "PreconditionFailed":
            raise
        raise ConflictError(f"app {app['app']} was changed meanwhile, and was not deleted", error.problem) from error
    session.print_result(response, (), (), f"app {response['app']} is deleted on the server")


def _build_content(*, task_hub: str, version: str, slot: str, address: str, empty: bool) -> Json:
    """The slots and releases of PutApp. Raises UsageError for options that contradict each other."""
    members: Json = {}
    if address:
        if not (task_hub and version):
            raise UsageError("--address is that of a release. Give its --version and --task-hub too")
        members["releases"] = {version: {"taskHub": task_hub, "address": address}}
    elif empty and task_hub:
        raise UsageError(f"--empty says that slot {slot} has no task hub, and --task-hub names one. Omit one of them")
    elif task_hub:
        members["slots"] = {slot: {"taskHub": task_hub, "version": version or None}}
    if empty:
        members["slots"] = {slot: None}
    return members


def _confirm_replacements(session: Session, changes: Sequence[AppChange], prompts: Prompts) -> None:
    """Show what is replaced, and ask. Asks nothing if nothing is. Raises CommandError if the person declines."""
    replacements = [change for change in changes if change.replaces]
    if not replacements:
        return
    notes = [_describe_activity(session, change.vacated_slot) for change in replacements if change.vacated_slot]
    rows = [change.to_row() for change in replacements]
    show_before_question(session, CHANGE_COLUMNS, rows, f"app {session.server.app}: this is replaced", notes=notes)
    require_confirmation(prompts, f"Replace this in app {session.server.app}?")


def _describe_activity(session: Session, slot: str) -> str:
    """Whether the task hub that leaves the slot has drained. The server decides again before it replaces it."""
    try:
        verdict = session.server.get_staging_status(slot, retry_seconds=0)
    except CommandError as error:
        return f"whether slot {slot} has drained is not known: {error.message}"
    refusal = "" if verdict["ready"] else ". The server replaces it only once it has drained"
    return f"{rendering.format_verdict(verdict)}{refusal}"


def _describe_registration(before: Json | None, changes: Sequence[AppChange], result: str) -> str:
    """What the command has done, in a line. `result` is what holds now."""
    subjects = ", ".join(change.subject for change in changes)
    if before is None:
        return f"{result}; the app is created"
    if not changes:
        return f"{result}; nothing has changed"
    return f"{result}; changed: {subjects}"
