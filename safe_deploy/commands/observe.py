"""The commands that show how orchestrations end: `timeline` and `health`."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer

from safe_deploy import rendering
from safe_deploy.durations import parse_duration, parse_whole_minutes
from safe_deploy.errors import NotReady, UsageError
from safe_deploy.option_groups import CommonOptions, expand_option_groups
from safe_deploy.options import DURATION, OptionalTaskHubOption, ReleaseOption, SlotOption
from safe_deploy.rollouts import health_report, timeline_chart
from safe_deploy.session import Session, open_session
from safe_deploy.side_by_side.app_state import SideBySideApp, is_side_by_side
from safe_deploy.slot_task_hubs import find_task_hub_of_slot

observe_commands = typer.Typer()


class FailOn(StrEnum):
    UNHEALTHY = "unhealthy"
    UNDECIDED = "undecided"


_FAILING_STATUSES = {
    None: frozenset[str](),
    FailOn.UNHEALTHY: frozenset({"Unhealthy"}),
    FailOn.UNDECIDED: frozenset({"Unhealthy", "Undecided"}),
}

SinceOption = Annotated[
    str, typer.Option("--since", metavar=DURATION, help="How far back to look, such as 90m or 2h; at most 48h.")
]


@observe_commands.command()
@expand_option_groups
def timeline(
    common: CommonOptions,
    *,
    task_hub: OptionalTaskHubOption = "",
    slot: SlotOption = "staging",
    release: ReleaseOption = "",
    function: Annotated[
        str, typer.Option("--function", show_default=False, help="Show only instances of this orchestrator function.")
    ] = "",
    since: SinceOption = "1h",
    step: Annotated[
        str,
        typer.Option(
            "--step",
            metavar=DURATION,
            show_default="24 lines at most",
            help="Time of a line of the chart, in whole minutes, such as 5m.",
        ),
    ] = "",
) -> None:
    """Draw how many instances of a task hub started over time, and what became of them."""
    period = parse_duration(since, option="--since")
    step_minutes = parse_whole_minutes(step, option="--step") if step else timeline_chart.choose_step_minutes(period)
    session = open_session(common, slot=slot)
    hub = find_task_hub(session, task_hub=task_hub, release=release)
    begin = timeline_chart.align_start(rendering.current_time(), period, step_minutes)
    query = {"from": _format_instant(begin), "step": step_minutes, "functionName": function or None}
    response = session.server.get_timeline(hub, query)
    columns, rows = timeline_chart.build_function_table(timeline_chart.count_by_function(response))
    title = timeline_chart.describe_timeline(response, function)
    notes = [] if rows else ["no instance started in this time"]
    session.print_result(response, columns, rows, title, notes=notes)
    if rows:
        steps = timeline_chart.count_by_step(response)
        session.print_chart(lambda width, style: timeline_chart.draw_chart(steps, width, style))


@observe_commands.command()
@expand_option_groups
def health(
    common: CommonOptions,
    *,
    candidate: Annotated[
        str,
        typer.Option(
            "--candidate", show_default="that of the rollout", help="Version of the release, or slot, that is judged."
        ),
    ] = "",
    baseline: Annotated[
        str,
        typer.Option(
            "--baseline", show_default="that of the rollout", help="Version or slot that it is compared with."
        ),
    ] = "",
    since: Annotated[
        str,
        typer.Option(
            "--since",
            metavar=DURATION,
            show_default="the last change of the share",
            help="How far back instances started that are compared, such as 2h; at most 48h.",
        ),
    ] = "",
    fail_on: Annotated[
        FailOn | None,
        typer.Option(
            "--fail-on", show_default=False, help="Status that ends with exit code 3. undecided includes unhealthy."
        ),
    ] = None,
) -> None:
    """Compare how the instances of a candidate end with those of the baseline."""
    period = parse_duration(since, option="--since") if since else None
    session = open_session(common)
    response = session.server.get_rollout_health(
        candidate=candidate or None,
        baseline=baseline or None,
        since=_format_instant(rendering.current_time() - period) if period else None,
    )
    session.ci.set_outputs(health_report.health_outputs(response))
    session.print_warnings(response)
    title = health_report.describe_health(response)
    session.print_result(
        response, health_report.build_health_columns(response), health_report.build_health_rows(response), title
    )
    if response["status"] in _FAILING_STATUSES[fail_on]:
        raise session.summarize(NotReady(title), f"the candidate is {response['status']}")


def find_task_hub(session: Session, *, task_hub: str, release: str) -> str:
    """The task hub of the release, or the one that is named, or that of the slot or of the active release."""
    if task_hub and not release:
        return task_hub
    app, _ = session.server.get_app()
    if not is_side_by_side(app):
        if release:
            raise UsageError(f"app {app['app']} has slots. Name the task hub by --slot or --task-hub")
        return find_task_hub_of_slot(app, session.slot)
    releases = SideBySideApp.from_json(app)
    version = release or releases.routing.active
    if version is None:
        raise UsageError(f"app {releases.name} has no active release. Name one with --release")
    return releases.get_release(version).task_hub


def _format_instant(moment: datetime) -> str:
    """A time as the server reads it."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}Z"
