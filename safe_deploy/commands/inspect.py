"""The commands that show what the server has on record: `apps`, `show`, `releases`, `instances`, `versions` and
`history`."""

from typing import Annotated, Literal

import typer

from safe_deploy import app_report, rendering
from safe_deploy.administration import Administration
from safe_deploy.client import Json
from safe_deploy.commands.observe import find_task_hub
from safe_deploy.errors import CommandError
from safe_deploy.option_groups import CommonOptions, ServerOptions, expand_option_groups
from safe_deploy.options import ContinuationTokenOption, OptionalTaskHubOption, ReleaseOption, SlotOption, TopOption
from safe_deploy.paging import collect_items, list_more_notes
from safe_deploy.session import Session, open_session
from safe_deploy.side_by_side.app_state import explain_unknown_app, is_side_by_side

inspect_commands = typer.Typer()


@inspect_commands.command()
@expand_option_groups
def apps(common: ServerOptions, *, top: TopOption = 50, continuation_token: ContinuationTokenOption = "") -> None:
    """Show the apps on the server, by name. A key that is bound to apps sees only these."""
    session = open_session(common)
    response = collect_items(session.server.list_apps, "apps", top=top, token=continuation_token)
    session.print_result(
        response,
        app_report.APP_COLUMNS,
        app_report.build_app_rows(response["apps"], rendering.current_time()),
        "" if response["apps"] else "the server has no app that this key may see",
        notes=list_more_notes(response),
    )


@inspect_commands.command()
@expand_option_groups
def show(common: CommonOptions) -> None:
    """Show an app: its slots or releases, what is in progress, where its task hubs are, its policy and its waivers."""
    session = open_session(common)
    app, _ = session.server.get_app()
    now = rendering.current_time()
    title, notes = app_report.describe_app(app, now), app_report.list_app_notes(app, now)
    if is_side_by_side(app):
        releases = session.server.list_releases()
        rows = app_report.build_app_release_rows(releases, now)
        notes = [*app_report.describe_routers(releases, now), *notes]
        session.print_result(app, app_report.APP_RELEASE_COLUMNS, rows, title, notes=notes)
        return
    rows = app_report.build_app_slot_rows(app, _count_active(session, app), now)
    session.print_result(app, app_report.APP_SLOT_COLUMNS, rows, title, notes=notes)


@inspect_commands.command()
@expand_option_groups
def releases(
    common: CommonOptions,
    *,
    with_removed: Annotated[bool, typer.Option("--all", help="Also show the releases that were removed last.")] = False,
) -> None:
    """Show the releases side by side with their states and their traffic, and the routers."""
    session = open_session(common)
    try:
        response = session.server.list_releases()
    except CommandError as error:
        raise explain_unknown_app(error) from error
    now = rendering.current_time()
    rows = app_report.build_app_release_rows(response, now, with_removed=with_removed)
    session.print_result(
        response,
        app_report.APP_RELEASE_COLUMNS,
        rows,
        "" if rows else f"app {response['app']} has no release",
        notes=app_report.describe_routers(response, now),
    )


@inspect_commands.command()
@expand_option_groups
def instances(
    common: CommonOptions,
    *,
    task_hub: OptionalTaskHubOption = "",
    slot: SlotOption = "staging",
    release: ReleaseOption = "",
    include_finished: Annotated[bool, typer.Option("--all", help="Also show finished instances.")] = False,
    runtime_status: Annotated[
        str, typer.Option("--status", show_default=False, help="Show only instances with this runtime status.")
    ] = "",
    top: TopOption = 50,
    continuation_token: ContinuationTokenOption = "",
) -> None:
    """Show the active instances of a task hub, by default of the slot's task hub or the active release's."""
    session = open_session(common, slot=slot)
    hub = find_task_hub(session, task_hub=task_hub, release=release)
    active = None if include_finished or runtime_status else "true"

    def fetch_page(size: int, token: str | None) -> Json:
        query = {"active": active, "status": runtime_status or None, "top": size, "continuationToken": token}
        return session.server.list_instances(hub, query)

    response = collect_items(fetch_page, "instances", top=top, token=continuation_token)
    more = ", there are more" if response["continuationToken"] else ""
    session.print_result(
        response,
        rendering.INSTANCE_COLUMNS,
        rendering.build_instance_rows(response, rendering.current_time()),
        f"{len(response['instances'])} on record for task hub {hub}{more}",
        notes=list_more_notes(response),
    )


@inspect_commands.command()
@expand_option_groups
def versions(
    common: CommonOptions,
    *,
    task_hub: OptionalTaskHubOption = "",
    slot: SlotOption = "staging",
    release: ReleaseOption = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="Read the task hub now.")] = False,
) -> None:
    """Count the active instances of a task hub by orchestration version, as the task hub itself shows them."""
    session = open_session(common, slot=slot)
    hub = find_task_hub(session, task_hub=task_hub, release=release)
    verify: Literal["fresh", "cached"] = "fresh" if fresh else "cached"
    response = Administration(session.server).get_versions(hub, verify=verify)
    rows = rendering.build_version_rows(response, rendering.current_time())
    notes = [] if response["complete"] else ["the task hub is not read to its end yet: run the same command again"]
    title = "" if rows else f"no instance is active on task hub {response['taskHub']}"
    session.print_result(response, rendering.VERSION_COLUMNS, rows, title, notes=notes)


@inspect_commands.command()
@expand_option_groups
def history(common: CommonOptions, *, top: TopOption = 50, continuation_token: ContinuationTokenOption = "") -> None:
    """Show the audit log of the app, the newest entry first."""
    session = open_session(common)
    response = collect_items(session.server.get_history, "history", top=top, token=continuation_token)
    session.print_result(
        response,
        rendering.HISTORY_COLUMNS,
        rendering.build_history_rows(response, rendering.current_time()),
        notes=list_more_notes(response),
    )


def _count_active(session: Session, app: Json) -> dict[str, str]:
    """How many instances are active in each slot, as far as the server knows, and print the warnings of its
    verdicts."""
    counts: dict[str, str] = {}
    for name, slot in app["slots"].items():
        if slot is None:
            continue
        verdict = session.server.get_staging_status(name, verify="none")
        counts[name] = rendering.format_active_count(verdict)
        session.print_warnings(verdict)
    return counts
