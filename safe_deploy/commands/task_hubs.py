"""The commands of the group `task-hub`: what the server has on record of a task hub, and how to remove that."""

import typer

from safe_deploy import rendering
from safe_deploy.administration import Administration
from safe_deploy.app_report import TASK_HUB_COLUMNS, build_task_hub_rows, list_task_hub_notes
from safe_deploy.errors import ConflictError
from safe_deploy.option_groups import ServerOptions, expand_option_groups
from safe_deploy.options import TaskHubOption, YesOption
from safe_deploy.prompts import Prompts
from safe_deploy.questions import require_confirmation, show_before_question
from safe_deploy.session import open_session

task_hub_commands = typer.Typer(
    name="task-hub",
    help="What the server has on record of a task hub.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@task_hub_commands.command("show")
@expand_option_groups
def show_task_hub(common: ServerOptions, *, task_hub: TaskHubOption) -> None:
    """Show the app that has claimed a task hub, where it is, and how much is active in it."""
    session = open_session(common)
    response = session.server.get_task_hub(task_hub)
    rows = build_task_hub_rows(response, rendering.current_time())
    session.print_result(response, TASK_HUB_COLUMNS, rows, notes=list_task_hub_notes(response))


@task_hub_commands.command("delete")
@expand_option_groups
def delete_task_hub(common: ServerOptions, *, task_hub: TaskHubOption, yes: YesOption = False) -> None:
    """Remove the records of a task hub that no app has claimed, and close its name. Nothing is deleted in Azure. Needs
    an admin's key for all apps."""
    session = open_session(common)
    response = session.server.get_task_hub(task_hub)
    name, app = response["taskHub"], response["app"]
    if app is not None:
        raise ConflictError(
            f"app {app} has claimed task hub {name}. Put another task hub into its slot, and run safe-deploy cleanup "
            f"--app {app}"
        )
    rows = build_task_hub_rows(response, rendering.current_time())
    show_before_question(
        session, TASK_HUB_COLUMNS, rows, "the server has on record:", notes=list_task_hub_notes(response)
    )
    require_confirmation(
        Prompts(assume_yes=yes), f"Remove the records of task hub {name}? No app can use this name then."
    )
    session.report(f"removing the records of task hub {name}, which takes about 12 seconds")
    deleted = Administration(session.server).delete_task_hub(task_hub)
    session.print_result(deleted, (), (), f"the records of task hub {name} are removed, and its name is closed")
