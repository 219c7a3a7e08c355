"""What GetRolloutHealth compares: which two task hubs, since when, and by which analysis."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from state_api.domain.errors import InvalidRequest
from state_api.domain.instants import Instant, seconds
from state_api.domain.names import PRODUCTION, STAGING, same_hub
from state_api.domain.releases import slot_refusals
from state_api.domain.releases.apps import App
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.side_by_side import refusals as release_refusals
from state_api.domain.releases.side_by_side.releases import Model
from state_api.domain.rollouts.analysis import Analysis, OnUnhealthy
from state_api.domain.rollouts.rollouts import Rollout, RolloutState
from state_api.domain.task_hubs.timeline import TIMELINE_MINUTES


@dataclass(frozen=True, slots=True)
class ComparedSide:
    """One side of a comparison: a version or a slot, by its name, and its task hub."""

    name: str
    task_hub: str


@dataclass(frozen=True, slots=True)
class ComparisonQuestion:
    """What a caller wants to compare. None stands for what the app itself suggests."""

    candidate: str | None = None
    baseline: str | None = None
    since: Instant | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two task hubs to compare.

    - `changes`: when the comparison begins, and each change of the share since then.
    - `configured_share`: the percentage of the requests that the candidate shall get now; None if it is unknown.
    """

    candidate: ComparedSide
    baseline: ComparedSide
    changes: tuple[Instant, ...]
    configured_share: int | None
    analysis: Analysis

    @property
    def since(self) -> Instant:
        """When the comparison begins."""
        return self.changes[0]


def needs_health(rollout: Rollout) -> bool:
    """Whether the next decision on the rollout depends on its candidate's health."""
    if rollout.state is RolloutState.PAUSED:
        return rollout.analysis.on_unhealthy is OnUnhealthy.ABORT
    return rollout.state is RolloutState.RUNNING


def compare_rollout(rollout: Rollout, now: Instant) -> Comparison:
    """The comparison on which the next step of a rollout depends."""
    return Comparison(
        ComparedSide(rollout.candidate, rollout.candidate_hub),
        ComparedSide(rollout.baseline, rollout.baseline_hub),
        _list_changes(rollout.started_at, rollout.share_changes, now),
        rollout.weight,
        rollout.analysis,
    )


def find_comparison(app: App, question: ComparisonQuestion, now: Instant) -> Comparison | Refusal:
    """What the question compares. Without names these are the two sides of the last rollout, while the app has both;
    else the two releases of a split, or the slots staging and production.

    Refusals: InvalidRequest, SlotNotFound, ReleaseNotFound.
    """
    if question.since is not None and question.since > now:
        return Refusal(InvalidRequest, "since is in the future: name a time of the last 48 hours, or leave it out")
    rollout = _find_last_rollout(app)
    candidate, baseline = _suggest_sides(app, rollout)
    if question.candidate is not None:
        candidate = _find_side(app, question.candidate)
    if question.baseline is not None:
        baseline = _find_side(app, question.baseline)
    for side in (candidate, baseline):
        if isinstance(side, Refusal):
            return side
    if not isinstance(candidate, ComparedSide) or not isinstance(baseline, ComparedSide):
        return _names_required(app)
    if same_hub(candidate.task_hub, baseline.task_hub):
        return Refusal(InvalidRequest, f"candidate and baseline are both {candidate.name}: name two different ones")
    if rollout is not None and _is_about(rollout, candidate, baseline):
        comparison = compare_rollout(rollout, now)
        share_changes = rollout.share_changes
    else:
        share = app.routing.share_of(candidate.name) if app.model is Model.SIDE_BY_SIDE else None
        comparison = Comparison(candidate, baseline, (_last_change(app, now),), share, Analysis())
        share_changes = ()
    if question.since is None:
        return comparison
    return replace(comparison, changes=_list_changes(question.since, share_changes, now))


def _list_changes(begin: Instant, share_changes: Iterable[Instant], now: Instant) -> tuple[Instant, ...]:
    """The beginning of a comparison, which is not before that of the timeline, and the later changes of the share."""
    begin = max(begin, Instant(now - seconds(60 * TIMELINE_MINUTES)))
    return (begin, *(change for change in share_changes if change > begin))


def _find_last_rollout(app: App) -> Rollout | None:
    """The last rollout, unless the app has given up one of its task hubs since, or PutRouting has divided the requests
    since its end."""
    rollout = app.rollout
    if rollout is not None and not rollout.is_live and app.routing.split is not None:
        return None
    if rollout is None or not app.find_holder(rollout.candidate_hub) or not app.find_holder(rollout.baseline_hub):
        return None
    return rollout


def _is_about(rollout: Rollout, candidate: ComparedSide, baseline: ComparedSide) -> bool:
    """Whether the rollout brings requests to this candidate, and compares it with this baseline."""
    return same_hub(rollout.candidate_hub, candidate.task_hub) and same_hub(rollout.baseline_hub, baseline.task_hub)


def _suggest_sides(
    app: App, rollout: Rollout | None
) -> tuple[ComparedSide | Refusal | None, ComparedSide | Refusal | None]:
    """The candidate and the baseline for a question without names; None where that is unclear."""
    if rollout is not None:
        return ComparedSide(rollout.candidate, rollout.candidate_hub), ComparedSide(
            rollout.baseline, rollout.baseline_hub
        )
    if app.model is Model.SLOTS:
        return _find_side(app, STAGING), _find_side(app, PRODUCTION)
    active, *others = app.routing.versions or (None,)
    return (_find_side(app, others[0]) if others else None, None if active is None else _find_side(app, active))


def _find_side(app: App, name: str) -> ComparedSide | Refusal:
    """The release or the slot with this name.

    Refusals: SlotNotFound, ReleaseNotFound, InvalidRequest for an empty slot."""
    if app.model is Model.SIDE_BY_SIDE:
        release = app.releases.get(name)
        return (
            release_refusals.release_not_found(app, name) if release is None else ComparedSide(name, release.task_hub)
        )
    if not app.has_slot(name):
        return slot_refusals.slot_not_found(app, name)
    slot = app.slot(name)
    if slot is None:
        return Refusal(
            InvalidRequest,
            f"slot {name} of app {app.name} is empty, so nothing can be compared: stage a version with PostStaging, or "
            "name another slot",
        )
    return ComparedSide(app.registered_slot_name(name), slot.task_hub)


def _names_required(app: App) -> Refusal:
    """For a question without names about an app whose requests are not divided."""
    return Refusal(
        InvalidRequest,
        f"app {app.name} has no rollout and no split, so it is unclear what to compare: name two of its releases as "
        "candidate and baseline",
    )


def _last_change(app: App, now: Instant) -> Instant:
    """When the share changed last, as far as it is known without a rollout: when the routing document changed, or when
    a slot got its task hub."""
    since = [slot.since for slot in app.slots.values() if slot is not None]
    return _list_changes(max((app.routing.updated_at, *since)), (), now)[0]
