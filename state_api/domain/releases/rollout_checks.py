"""What a rollout blocks: checks that the transitions of slots and releases make, and the refusal that they return."""

from state_api.domain.errors import RolloutInProgress
from state_api.domain.instants import Instant, format_instant, seconds
from state_api.domain.names import PRODUCTION, same_hub
from state_api.domain.readiness.evidence import OpenRollout
from state_api.domain.readiness.waiting import NO_END
from state_api.domain.releases.apps import App
from state_api.domain.releases.commands import SwapCommand
from state_api.domain.releases.refusals import Refusal, retry_after_seconds
from state_api.domain.rollouts.rollouts import Rollout, RolloutState, find_traffic_end
from state_api.domain.rollouts.waits import find_wait

_RETRY_AFTER_SECONDS = 60
"""The longest `retryAfterSeconds` of RolloutInProgress, because a rollout may be aborted at any time."""


def find_rollout_end(app: App, name: str) -> Instant | None:
    """Until when the last rollout keeps this slot or release from being Ready: NO_END while it is live. None if it does
    not.

    After the last visitor has left, a verdict must still rest on a probe that began later, or without a provider on
    events that have arrived since.
    """
    end = find_traffic_end(app.rollout, name)
    if end is None or end == NO_END:
        return end
    policy = app.policy
    return Instant(end + seconds(policy.settle_seconds if app.provider_config is None else policy.freshness_seconds))


def find_open_rollout(app: App, name: str, now: Instant) -> OpenRollout | None:
    """The rollout that may bring traffic to this slot or release, as a verdict reports it."""
    rollout, end = app.rollout, find_rollout_end(app, name)
    if rollout is None or end is None or end <= now:
        return None
    wait = find_wait(rollout, now)
    return OpenRollout(
        name,
        rollout.started_by,
        rollout.run_url,
        rollout.state.value,
        until=None if end == NO_END else end,
        wait=None if wait is None else wait.describe(),
    )


def check_no_live_rollout(app: App, *names: str) -> Refusal | None:
    """Refuse a change while a rollout is live. With `names`, only one of whose candidate or baseline is among them."""
    rollout = app.rollout
    if rollout is None or not rollout.is_live:
        return None
    if names and not {rollout.candidate, rollout.baseline} & set(names):
        return None
    return rollout_in_progress(app, rollout)


def check_no_rollout_traffic(app: App, name: str, now: Instant) -> Refusal | None:
    """Refuse a change of this slot while the last rollout may bring traffic to it."""
    rollout, end = app.rollout, find_rollout_end(app, name)
    if rollout is None or end is None or end <= now:
        return None
    return rollout_in_progress(app, rollout) if rollout.is_live else _visitors_pinned(app, rollout, end, now)


def check_swap_allowed(app: App, command: SwapCommand) -> Refusal | None:
    """Refuse every swap during a rollout, except the one with which it finishes, once the share is confirmed as 0 %."""
    rollout = app.rollout
    if rollout is None or not rollout.is_live or is_finishing_swap(app, command):
        return None
    return rollout_in_progress(app, rollout)


def is_finishing_swap(app: App, command: SwapCommand) -> bool:
    """Whether the swap is the one with which a rollout finishes."""
    rollout = app.rollout
    return (
        rollout is not None
        and rollout.state is RolloutState.FINISHING
        and rollout.cleared_at is not None
        and rollout.candidate == app.registered_slot_name(command.slot)
        and same_hub(rollout.candidate_hub, command.task_hub)
    )


def rollout_in_progress(app: App, rollout: Rollout) -> Refusal:
    """Refuses what would change the candidate, the baseline, or the traffic of a live rollout."""
    back = (
        "abort it with PostRollout"
        if rollout.baseline == PRODUCTION
        else f"give all requests back to {rollout.baseline} with PutRouting or abort it with PostRollout"
    )
    run = f" (run {rollout.run_url})" if rollout.run_url else ""
    return Refusal(
        RolloutInProgress,
        f"{rollout.started_by}{run} has been rolling out {rollout.candidate} of app {app.name} since "
        f"{format_instant(rollout.started_at)}, and the rollout is {rollout.state.value}. Wait until it has ended, or "
        f"{back}",
        _rollout_details(rollout, None, _RETRY_AFTER_SECONDS),
    )


def _visitors_pinned(app: App, rollout: Rollout, end: Instant, now: Instant) -> Refusal:
    """Refuses what would overwrite a slot to which visitors of an ended rollout may come."""
    return Refusal(
        RolloutInProgress,
        f"the rollout of slot {rollout.candidate} of app {app.name} is {rollout.state.value}, but visitors whom the "
        f"platform sends back to the slot may still start work there until {format_instant(end)}. Wait until then, or "
        "stage with force and a reason",
        _rollout_details(rollout, end, retry_after_seconds(end, now, longest=_RETRY_AFTER_SECONDS)),
    )


def _rollout_details(rollout: Rollout, end: Instant | None, retry_after_seconds: int) -> dict[str, object]:
    """The members of a problem document about a rollout."""
    return {
        "rollout": {
            "candidate": rollout.candidate,
            "baseline": rollout.baseline,
            "state": rollout.state.value,
            "startedAt": format_instant(rollout.started_at),
            "by": rollout.started_by,
            "runUrl": rollout.run_url,
            "until": None if end is None else format_instant(end),
        },
        "retryAfterSeconds": retry_after_seconds,
    }
