"""The commands of releases side by side: `release` and `promote`. `rollback` is in `deploy.py`, for both models."""

import typer

from safe_deploy.azure_function_apps import FunctionApps
from safe_deploy.ci import Terminal
from safe_deploy.durations import Seconds
from safe_deploy.errors import CommandError, Interrupted, UsageError
from safe_deploy.option_groups import DRAIN_TIMEOUT, CommonOptions, expand_option_groups
from safe_deploy.options import (
    AddressOption,
    OtherVersionOption,
    ReasonOption,
    ReleaseCommandArgument,
    ReleaseVersionOption,
    ResourceGroupOption,
    RetirementCommandArgument,
    SchedulerOption,
    TakeOverOption,
    TaskHubOption,
    TaskHubSettingOption,
    TimeoutOption,
    WaitOption,
)
from safe_deploy.scheduler_task_hubs import SchedulerTaskHubs
from safe_deploy.session import Session, open_session
from safe_deploy.side_by_side import rendering
from safe_deploy.side_by_side.app_state import SideBySideApp
from safe_deploy.side_by_side.function_apps import ReleaseFunctionApps
from safe_deploy.side_by_side.promotion import Promotion, check_quiescing, read_app
from safe_deploy.side_by_side.promotion_planner import only_ends_adopted_use
from safe_deploy.side_by_side.recorded_task_hubs import RecordedTaskHubs
from safe_deploy.side_by_side.release_deployment import NewRelease, ReleaseDeployment
from safe_deploy.side_by_side.retirement import Retirement, RetirementOptions
from safe_deploy.side_by_side.retirement_planner import RetirementResult, choose_releases, find_failure
from safe_deploy.side_by_side.rollback_planner import choose_rollback_version
from safe_deploy.side_by_side.routing_history import list_routing_changes

START_TIMEOUT = Seconds(600)
"""How long the Function App of a release may take to start."""

ROUTER_TIMEOUT = Seconds(60)
"""How long routers may take to confirm the routing. Envoy takes up to 5 s, and a router that restarts some more."""

release_commands = typer.Typer()


@release_commands.command()
@expand_option_groups
def release(
    common: CommonOptions,
    *,
    version: ReleaseVersionOption,
    task_hub: TaskHubOption,
    address: AddressOption,
    command: ReleaseCommandArgument = None,
    resource_group: ResourceGroupOption = "",
    task_hub_setting: TaskHubSettingOption = "TASK_HUB",
    scheduler: SchedulerOption = "",
    take_over: TakeOverOption = False,
    reason: ReasonOption = "",
    timeout: TimeoutOption = START_TIMEOUT,
) -> None:
    """Register a release side by side, run the command that deploys its Function App, and check that it has started."""
    session = open_session(common)
    if not command:
        raise UsageError("no command is given. Add the command that creates and deploys the Function App after --")
    new_release = NewRelease(
        version=version, task_hub=task_hub, address=address, take_over=take_over, reason=reason or None
    )
    app = ReleaseDeployment(
        server=session.server,
        release=new_release,
        command_line=command,
        function_apps=open_function_apps(session, resource_group, task_hub_setting),
        scheduler=open_scheduler(scheduler, resource_group),
        timeout_seconds=timeout,
        begin_wait=session.begin_wait,
        report=session.report,
        warn=session.warn,
    ).run()
    deployed = app["releases"][version]
    session.ci.set_outputs(rendering.release_outputs(version, deployed))
    _publish_override_token(session, version)
    session.print_result(
        app,
        rendering.RELEASE_COLUMNS,
        rendering.build_release_rows(app["releases"].items()),
        f"release {version} of app {app['app']} is deployed with task hub {deployed['taskHub']}",
    )


@release_commands.command()
@expand_option_groups
def promote(
    common: CommonOptions,
    *,
    version: ReleaseVersionOption,
    resource_group: ResourceGroupOption = "",
    timeout: TimeoutOption = ROUTER_TIMEOUT,
) -> None:
    """Give all requests to a release side by side, and wait until every router has confirmed it. Safe to repeat."""
    session = open_session(common)
    app = read_app(session.server)
    if not only_ends_adopted_use(app, version):
        check_quiescing(app, resource_group)
    elif app.quiesce_functions and not resource_group:
        session.warn(
            f"without --resource-group the functions {', '.join(app.quiesce_functions)} stay as they are, also in "
            f"release {', '.join(sorted(app.releases_with_unrouted_traffic))}, which may start work by them. "
            "To disable them there, run the same command again with --resource-group"
        )
    promotion = _build_promotion(session, resource_group, rollback=False, timeout_seconds=timeout)
    _make_active(session, promotion, app, version)


@release_commands.command()
@expand_option_groups
def retire(
    common: CommonOptions,
    *,
    command: RetirementCommandArgument = None,
    version: OtherVersionOption = "",
    wait: WaitOption = False,
    timeout: TimeoutOption = DRAIN_TIMEOUT,
    resource_group: ResourceGroupOption = "",
    task_hub_setting: TaskHubSettingOption = "TASK_HUB",
    scheduler: SchedulerOption = "",
) -> None:
    """Remove the releases side by side that have drained: run the command that deletes each one's Function App."""
    session = open_session(common)
    if not command:
        raise UsageError("no command is given. Add the command that deletes the Function App after --")
    app = read_app(session.server)
    check_quiescing(app, resource_group)
    task_hubs = open_scheduler(scheduler, resource_group)
    retirement = Retirement(
        server=session.server,
        options=RetirementOptions(
            command_line=command, respects_retention=not version, waits_for_drain=wait, timeout_seconds=timeout
        ),
        function_apps=open_function_apps(session, resource_group, task_hub_setting),
        task_hubs=RecordedTaskHubs(session.server, task_hubs, warn=session.warn) if task_hubs is not None else None,
        begin_wait=session.begin_wait,
        report=session.report,
    )
    try:
        retirement.run(choose_releases(app, version or None))
    except CommandError:
        if retirement.results:
            _print_retirement(session, app, list(retirement.results.values()))
        raise
    results = list(retirement.results.values())
    _print_retirement(session, app, results)
    failure = find_failure(results, named=bool(version), waited_seconds=timeout if wait else None)
    if failure is not None:
        raise Interrupted(failure.message) if retirement.interrupted else failure


def _print_retirement(session: Session, app: SideBySideApp, results: list[RetirementResult]) -> None:
    """Print what became of each release, and set the outputs for later steps of a pipeline."""
    session.ci.set_outputs(rendering.retirement_outputs(results))
    session.print_result(
        {"app": app.name, "releases": [result.to_json() for result in results]},
        rendering.RETIREMENT_COLUMNS,
        rendering.build_retirement_rows(results),
        "" if results else f"nothing is left to retire in app {app.name}",
    )


def roll_back_release(
    session: Session, app: SideBySideApp, *, requested_version: str, resource_group: str, timeout_seconds: float
) -> None:
    """Give all requests back to the release that was active before, or to `requested_version`."""
    version = choose_rollback_version(app, requested_version or None, list_routing_changes(session.server))
    session.report(f"rolling back to release {version}")
    if app.quiesce_functions and not resource_group:
        session.warn(
            f"without --resource-group the functions {', '.join(app.quiesce_functions)} stay enabled in the release "
            f"before, and disabled in release {version}. Run the same command again with --resource-group"
        )
    promotion = _build_promotion(session, resource_group, rollback=True, timeout_seconds=timeout_seconds)
    _make_active(session, promotion, app, version)


def open_function_apps(
    session: Session, resource_group: str, task_hub_setting: str = "TASK_HUB"
) -> ReleaseFunctionApps | None:
    """The Function Apps in Azure; None without a resource group."""
    if not resource_group:
        return None
    return ReleaseFunctionApps(FunctionApps(resource_group), task_hub_setting=task_hub_setting, report=session.report)


def open_scheduler(scheduler: str, resource_group: str) -> SchedulerTaskHubs | None:
    """The task hubs of the scheduler; None without one. Raises UsageError without a resource group."""
    if not scheduler:
        return None
    if not resource_group:
        raise UsageError("--scheduler needs the scheduler's resource group. Add --resource-group")
    return SchedulerTaskHubs(scheduler, resource_group)


def _build_promotion(session: Session, resource_group: str, *, rollback: bool, timeout_seconds: float) -> Promotion:
    """The promotion, or with `rollback` the way back, with the connections of this command."""
    return Promotion(
        server=session.server,
        function_apps=open_function_apps(session, resource_group),
        rollback=rollback,
        router_timeout_seconds=timeout_seconds,
        begin_wait=session.begin_wait,
        report=session.report,
        warn=session.warn,
    )


def _make_active(session: Session, promotion: Promotion, app: SideBySideApp, version: str) -> None:
    """Make a release active, wait for the routers, and print the releases. Raises TimedOut if a router is behind."""
    progress = promotion.make_active(app, version)
    releases = progress.releases
    session.ci.set_outputs(rendering.routing_outputs(releases, previous=app.routing.active, behind=progress.behind))
    session.print_result(
        releases,
        rendering.RELEASE_COLUMNS,
        rendering.build_listed_rows(releases),
        f"release {version} is active in app {releases['app']}",
    )
    progress.check(promotion.router_timeout_seconds)


def _publish_override_token(session: Session, version: str) -> None:
    """Show how to look at the release before its promotion. The token is a secret towards visitors, so a log never has
    it: a CI system gets it as a masked output, and only an interactive terminal prints it."""
    try:
        document, _ = session.server.read_routing()
    except CommandError as error:
        session.warn(f"the override token of release {version} is not known: {error.message}")
        return
    token = document["releases"][version]["overrideToken"]
    header, cookie = document["override"]["header"], document["override"]["cookie"]
    session.ci.set_secret_output("override-token", token)
    if type(session.ci) is Terminal and session.err.is_terminal:
        session.report("to look at the release before its promotion, send the router one of these, and keep it secret:")
        session.report(f"  header  {header}: {token}")
        session.report(f"  cookie  {cookie}={token}")
    else:
        session.report(
            f"to look at the release before its promotion, send the router its overrideToken from GetRouting in the "
            f"header {header}"
        )
