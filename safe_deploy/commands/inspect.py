"""The commands that show what the server has on record: `instances` and `history`."""

from typing import Annotated

import typer

from safe_deploy import rendering
from safe_deploy.client import Json
from safe_deploy.errors import UsageError
from safe_deploy.option_groups import CommonOptions, expand_option_groups
from safe_deploy.options import OptionalTaskHubOption, SlotOption, TopOption
from safe_deploy.session import open_session

inspect_commands = typer.Typer()


@inspect_commands.command()
@expand_option_groups
def instances(
    common: CommonOptions,
    *,
    task_hub: OptionalTaskHubOption = "",
    slot: SlotOption = "staging",
    include_finished: Annotated[bool, typer.Option("--all", help="Also show finished instances.")] = False,
    runtime_status: Annotated[
        str, typer.Option("--status", show_default=False, help="Show only instances with this runtime status.")
    ] = "",
    top: TopOption = 50,
) -> None:
    """Show the active instances of a task hub, by default of the slot's task hub."""
    session = open_session(common, slot=slot)
    hub = task_hub or _find_task_hub_of_slot(session.server.get_app()[0], slot)
    active = None if include_finished or runtime_status else "true"
    response = session.server.list_instances(hub, {"active": active, "status": runtime_status or None, "top": top})
    more = ", there are more" if response["continuationToken"] else ""
    session.print_result(
        response,
        rendering.INSTANCE_COLUMNS,
        rendering.build_instance_rows(response),
        f"{len(response['instances'])} on record for task hub {hub}{more}",
    )


@inspect_commands.command()
@expand_option_groups
def history(common: CommonOptions, *, top: TopOption = 50) -> None:
    """Show the audit log of the app, the newest entry first."""
    session = open_session(common)
    response = session.server.get_history(top)
    session.print_result(response, rendering.HISTORY_COLUMNS, rendering.build_history_rows(response))


def _find_task_hub_of_slot(app: Json, slot: str) -> str:
    """The name of the task hub that the slot holds. Raises UsageError if the slot is empty."""
    slots = {name.lower(): slot_json for name, slot_json in app["slots"].items()}
    slot_json = slots.get(slot.lower())
    if slot_json is None:
        raise UsageError(f"slot {slot} of app {app['app']} holds no task hub. Name a task hub with --task-hub")
    task_hub: str = slot_json["taskHub"]
    return task_hub
