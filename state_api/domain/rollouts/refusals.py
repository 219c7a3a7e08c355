"""Refusals of operations on rollouts. That of what a live rollout blocks is in `releases/rollout_checks.py`."""

from state_api.domain.errors import InvalidRequest, ReleaseInUse, RolloutEnded, RolloutNotFound, WeightChanged
from state_api.domain.releases.apps import App
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.side_by_side.releases import Release
from state_api.domain.rollouts.rollouts import MAX_STEP_MINUTES, MAX_STEPS, Rollout


def rollout_not_found(app: App) -> Refusal:
    return Refusal(RolloutNotFound, f"app {app.name} has never had a rollout. PutRollout starts one", {"app": app.name})


# PutRollout


def steps_count_invalid(count: int) -> Refusal:
    return Refusal(InvalidRequest, f"a rollout has 1 to {MAX_STEPS} steps, and steps has {count}")


def step_weight_invalid(weight: int) -> Refusal:
    return Refusal(
        InvalidRequest,
        f"the weight {weight} of a step is not a whole percentage from 1 to 99. The candidate gets all requests when "
        "the rollout finishes after its last step",
    )


def step_minutes_invalid(minutes: float) -> Refusal:
    return Refusal(
        InvalidRequest, f"the minutes of a step must be more than 0 and at most {MAX_STEP_MINUTES}, not {minutes:g}"
    )


def weights_not_rising(before: int, after: int) -> Refusal:
    return Refusal(
        InvalidRequest,
        f"each step must give the candidate more than the step before it, and {after} follows {before}. To stay longer "
        "at a share, give its step more minutes",
    )


def version_required(app: App) -> Refusal:
    """For a rollout that names a slot of an app with releases side by side, or nothing."""
    return Refusal(
        InvalidRequest,
        f"app {app.name} has releases side by side: name the release to roll out in version, and no slot",
    )


def version_in_slots(app: App) -> Refusal:
    """For a rollout that names a version of an app with slots."""
    return Refusal(InvalidRequest, f"app {app.name} has slots: name the slot to roll out in slot, and no version")


def no_baseline(app: App) -> Refusal:
    """For an app whose requests no release gets yet."""
    return Refusal(
        InvalidRequest,
        f"app {app.name} has no active release that a new one could be compared with. Promote the first release with "
        "PutRouting",
    )


def candidate_is_active(app: App, version: str) -> Refusal:
    return Refusal(
        InvalidRequest,
        f"release {version} is the active release of app {app.name}, so it cannot be rolled out. Name another release",
    )


def candidate_has_unrouted_traffic(app: App, release: Release) -> Refusal:
    """For an adopted release whose visitors a rollout cannot count. If it were aborted, they would be forgotten."""
    return Refusal(
        ReleaseInUse,
        f"release {release.version} of app {app.name} was adopted and the routing has not been set since, so it may "
        "get requests that do not come through the router, and a rollout cannot take them away. When its visitors come "
        "through the router or are gone, set the routing with PutRouting, also if the same release stays active, and "
        "retry",
        {"app": app.name, "version": release.version, "taskHub": release.task_hub},
    )


def production_is_baseline() -> Refusal:
    return Refusal(
        InvalidRequest, "production is what a rollout compares with: name the slot that holds the new version"
    )


def slot_empty(app: App, slot: str) -> Refusal:
    return Refusal(
        InvalidRequest,
        f"slot {slot} of app {app.name} holds no task hub, and a rollout needs one in production and one in the slot. "
        "Register them with PutApp, or stage the new version with PostStaging",
    )


# PostRollout


def rollout_ended(app: App, rollout: Rollout, action: str) -> Refusal:
    """For an action that the state of the rollout does not allow any more."""
    return Refusal(
        RolloutEnded,
        f"the rollout of {rollout.candidate} in app {app.name} is {rollout.state.value}, so it is too late to {action} "
        "it. GetRollout shows what decided. A new rollout starts with PutRollout",
        {"app": app.name, "state": rollout.state.value},
    )


def weight_changed(app: App, rollout: Rollout, weight: int) -> Refusal:
    """For a confirmed share that is not the present one."""
    return Refusal(
        WeightChanged,
        f"the rollout of slot {rollout.candidate} in app {app.name} is {rollout.state.value} and needs "
        f"{rollout.weight} % there, not {weight} %. Set that share in Azure, read it back, and confirm it",
        {"app": app.name, "state": rollout.state.value, "weight": rollout.weight},
    )
