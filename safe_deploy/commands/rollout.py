"""The commands of a gradual rollout: `rollout start`, `status`, `pause`, `resume`, `abort` and `finish`."""

import typer

from safe_deploy import rendering
from safe_deploy.azure_slots import build_swap_command_line
from safe_deploy.client import Json
from safe_deploy.durations import Seconds
from safe_deploy.errors import CommandError, UsageError
from safe_deploy.option_groups import CommonOptions, RolloutSlotOptions, expand_option_groups
from safe_deploy.options import ReasonOption, TimeoutOption, VersionOption, WaitOption
from safe_deploy.rollouts import messages
from safe_deploy.rollouts.drivers import RolloutDriver
from safe_deploy.rollouts.options import AnalysisOptions, StepsOption, name_refused_options
from safe_deploy.rollouts.release_rollout import ReleaseRollout
from safe_deploy.rollouts.rollout_changes import change_rollout
from safe_deploy.rollouts.slot_rollout import SlotRollout
from safe_deploy.rollouts.slot_share import SlotShare
from safe_deploy.rollouts.slot_traffic import SlotTraffic
from safe_deploy.rollouts.steps import parse_steps
from safe_deploy.session import (
    Session,
    build_command,
    build_swap_executor,
    open_session,
    resolve_deployment_slots,
)
from safe_deploy.side_by_side.app_state import explain_unknown_app, is_side_by_side
from safe_deploy.slot_observer import SlotObserver
from safe_deploy.subprocesses import SignalGuard

FOLLOW_TIMEOUT = Seconds(86_400)
"""How long a rollout is followed: a day, which is longer than a job of most CI systems may take."""

rollout_group = typer.Typer(
    name="rollout", help="Give a new version its traffic step by step.", no_args_is_help=True, rich_markup_mode=None
)
rollout_commands = typer.Typer()
rollout_commands.add_typer(rollout_group)


@rollout_group.command()
@expand_option_groups
def start(
    common: CommonOptions,
    analysis: AnalysisOptions,
    slot_options: RolloutSlotOptions,
    *,
    steps: StepsOption,
    version: VersionOption = "",
    wait: WaitOption = False,
    timeout: TimeoutOption = FOLLOW_TIMEOUT,
) -> None:
    """Begin a rollout, and with --wait follow it to its end. With slots it is always followed, because this command
    sets the share in Azure, and swaps at the end. Running it again continues."""
    body: Json = {"steps": [step.to_json() for step in parse_steps(steps)], "analysis": analysis.to_json()}
    session = open_session(common, slot=slot_options.slot)
    app, etag = _read_app(session)
    driver = _open_driver(session, app, slot_options)
    try:
        rollout = driver.start(body | _name_candidate(session, app, version), app, etag)
    except UsageError as error:
        raise name_refused_options(error) from error
    if wait or not driver.advances_without_pipeline:
        rollout = driver.follow(rollout, timeout_seconds=timeout)
    _print_rollout(session, rollout)
    messages.check_outcome(rollout)


@rollout_group.command()
@expand_option_groups
def status(common: CommonOptions) -> None:
    """Show the rollout: its steps, what it waits for and until when, and what was decided last."""
    session = open_session(common)
    _print_rollout(session, session.server.get_rollout())


@rollout_group.command()
@expand_option_groups
def pause(common: CommonOptions, *, reason: ReasonOption = "") -> None:
    """Keep the candidate at its share until the rollout is resumed, finished or aborted."""
    _change_record(common, "pause", reason)


@rollout_group.command()
@expand_option_groups
def resume(common: CommonOptions, *, reason: ReasonOption = "") -> None:
    """Continue a paused rollout. The time of its step begins again."""
    _change_record(common, "resume", reason)


@rollout_group.command()
@expand_option_groups
def abort(common: CommonOptions, slot_options: RolloutSlotOptions, *, reason: ReasonOption = "") -> None:
    """Give all traffic back to the baseline. Instances of the candidate end where they began."""
    _end(common, slot_options, "abort", reason)


@rollout_group.command()
@expand_option_groups
def finish(common: CommonOptions, slot_options: RolloutSlotOptions, *, reason: ReasonOption = "") -> None:
    """Give all traffic to the candidate now, also an unhealthy one. With slots, swap."""
    _end(common, slot_options, "finish", reason)


def _change_record(common: CommonOptions, action: str, reason: str) -> None:
    """Pause or resume the rollout, and print it. The command that follows a rollout into a slot goes on by itself."""
    session = open_session(common)
    expected = session.server.get_rollout()
    rollout = change_rollout(session.server, expected, action, _build_body(reason), report=session.report)
    _print_rollout(session, rollout)
    if action == "resume" and rollout["model"] == "slots":
        session.report(
            "the command that follows the rollout continues it. If it has ended, run safe-deploy rollout start again "
            "with the same options"
        )


def _end(common: CommonOptions, slot_options: RolloutSlotOptions, action: str, reason: str) -> None:
    """Abort or finish the rollout, and print it."""
    session = open_session(common, slot=slot_options.slot)
    driver = _open_driver(session, _read_app(session)[0], slot_options)
    _print_rollout(session, driver.change(action, _build_body(reason)))


def _build_body(reason: str) -> Json:
    return {"reason": reason} if reason else {}


def _read_app(session: Session) -> tuple[Json, str]:
    """The app as GetApp shows it, and its ETag."""
    try:
        return session.server.get_app()
    except CommandError as error:
        raise explain_unknown_app(error) from error


def _open_driver(session: Session, app: Json, slot_options: RolloutSlotOptions) -> RolloutDriver:
    """What carries out a rollout of the app's model. Raises UsageError if Azure cannot be asked about a slot."""
    if is_side_by_side(app):
        return ReleaseRollout(session, app["policy"]["quiesceFunctions"])
    guard = SignalGuard()
    command = build_command(slot_options.command, task_hub="")
    deployment_slots = resolve_deployment_slots(slot_options.azure, session, command)
    if deployment_slots is None:
        raise UsageError(
            f"app {app['app']} has slots, whose share is set in Azure. Name the Function App with --resource-group, "
            "and with --function-app if it has another name"
        )
    return SlotRollout(
        server=session.server,
        slot=session.slot,
        share=SlotShare(SlotTraffic(deployment_slots.target, session.slot), guard=guard, report=session.report),
        observer=SlotObserver(deployment_slots, slot=session.slot, guard=guard, report=session.report),
        swap_executor=build_swap_executor(session, deployment_slots, slot_options.stabilization_window, guard),
        swap_command_line=slot_options.command or build_swap_command_line(deployment_slots.target, session.slot),
        guard=guard,
        begin_live_line=session.begin_live_line,
        report=session.report,
        warn=session.warn,
    )


def _name_candidate(session: Session, app: Json, version: str) -> Json:
    """The member of PutRollout that names the candidate. Raises UsageError if a release is not named."""
    if not is_side_by_side(app):
        return {"slot": session.slot}
    if not version:
        raise UsageError(f"app {app['app']} has releases side by side. Name the candidate with --version")
    return {"version": version}


def _print_rollout(session: Session, rollout: Json) -> None:
    """Print a rollout as the result, and set the outputs for later steps of a pipeline."""
    now = rendering.current_time()
    session.ci.set_outputs(messages.rollout_outputs(rollout))
    session.print_result(
        rollout,
        messages.STEP_COLUMNS,
        messages.build_step_rows(rollout, now),
        messages.describe_rollout(rollout),
        notes=messages.describe_progress(rollout, now),
    )
