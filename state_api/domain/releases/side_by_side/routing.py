"""PutRouting and ForgetRouter: give traffic to releases, and stop waiting for a router."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from state_api.domain.instants import Instant, seconds
from state_api.domain.names import same_hub
from state_api.domain.releases.apps import App, Transition
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.rollout_checks import rollout_in_progress
from state_api.domain.releases.side_by_side import refusals
from state_api.domain.releases.side_by_side.acknowledgements import merge_forgotten_router
from state_api.domain.releases.side_by_side.commands import ForgetRouterCommand, RouteCommand
from state_api.domain.releases.side_by_side.documents import next_routing_revision
from state_api.domain.releases.side_by_side.registration import check_address_allowed
from state_api.domain.releases.side_by_side.releases import (
    STICKY_MAX_AGE_SECONDS,
    ForgottenRouter,
    Model,
    Release,
    RouterAcknowledgement,
    Routing,
    RoutingChange,
)
from state_api.domain.releases.transition_checks import check_model
from state_api.domain.rollouts.rollouts import Decision, DecisionAction, Rollout, RolloutState
from state_api.domain.task_hubs.ownership import ProviderUnavailable

_RELEASES_IN_SPLIT = 2


@dataclass(frozen=True, slots=True)
class RoutingEvidence:
    """Whether the releases of `find_unproven_releases` have started, by version: whether the task hub of each exists,
    or why its provider is unavailable."""

    started: Mapping[str, bool | ProviderUnavailable] = field(default_factory=dict)


def find_unproven_releases(app: App, command: RouteCommand) -> tuple[Release, ...]:
    """The releases that may not run: those that get traffic from a router for the first time, and those whose removal
    has failed, which may have deleted their apps. Any other has started, so a rollback does not depend on the
    provider."""
    routing = _new_routing(app, command)
    releases = (app.releases.get(version) for version in routing.versions)
    return tuple(
        release
        for release in releases
        if release is not None
        and not app.routing.share_of(release.version)
        and (release.first_traffic_at is None or release.drained_backend is not None)
    )


def change_routing(app: App, command: RouteCommand, evidence: RoutingEvidence, now: Instant) -> Transition | Refusal:
    """Give traffic to the releases that the command names, and to no other.

    During a rollout, its baseline can get all requests back, which aborts the rollout.

    Refusals: WrongModel, InvalidRequest, RolloutInProgress, ReleaseNotFound, ReleaseRemoved, AddressNotAllowed,
    ReleaseNotDeployed, TaskHubUnavailable.
    """
    if refusal := check_model(app, Model.SIDE_BY_SIDE) or _check_split(command):
        return refusal
    routing = _new_routing(app, command)
    rollout = app.rollout
    if rollout is None or not rollout.is_live:
        return apply_routing(app, routing, evidence, now)
    if routing.active != rollout.baseline or routing.split is not None:
        return rollout_in_progress(app, rollout)
    aborted_app = replace(app, rollout=_abort(rollout, command, now))
    return apply_routing(aborted_app, routing, evidence, now)


def _abort(rollout: Rollout, command: RouteCommand, now: Instant) -> Rollout:
    """The rollout after PutRouting has given all requests back to its baseline."""
    message = f"{command.caller.name} gave all requests back to {rollout.baseline} with PutRouting"
    cleared = rollout.with_weight(0, now, confirmed=True)
    decision = Decision(rollout.no_earlier(now), DecisionAction.ABORT, "Requested", message)
    return replace(cleared, state=RolloutState.ABORTED, last_decision=decision)


def apply_routing(
    app: App, routing: Routing, evidence: RoutingEvidence, now: Instant, *, by_rollout: bool = False
) -> Transition | Refusal:
    """Divide the requests as this routing says.

    A change `by_rollout` is about candidate and baseline alone. It says nothing about requests that come past the
    router, so adopted releases, which cannot be the candidate, keep their traffic until a caller sets the routing.

    Refusals: ReleaseNotFound, ReleaseRemoved, AddressNotAllowed, ReleaseNotDeployed, TaskHubUnavailable.
    """
    for version in routing.versions:
        if refusal := check_release_routable(app, version, evidence):
            return refusal
    active = app.releases[routing.versions[0]]
    releases = {
        version: release
        if by_rollout and release.has_unrouted_traffic
        else _with_routing(app, release, routing, active, now)
        for version, release in app.releases.items()
    }
    if routing == app.routing and releases == app.releases:
        return Transition(app, "PutRouting", changed=False)
    deployment = app.get_open_deployment(now)
    if deployment is not None and any(
        routing.share_of(release.version) and same_hub(release.task_hub, deployment.task_hub)
        for release in releases.values()
    ):
        deployment = None
    updated_app = replace(app, routing=routing, releases=releases, deployment=deployment)
    return Transition(
        updated_app, "PutRouting", {"from": _routing_details(app.routing), "to": _routing_details(routing)}
    )


def _new_routing(app: App, command: RouteCommand) -> Routing:
    """The routing of the command. A split that gives all to one release is none."""
    split = command.split if command.split is not None and len(command.split) > 1 else None
    return replace(app.routing, active=command.active, split=None if split is None else dict(split))


def _check_split(command: RouteCommand) -> Refusal | None:
    """Refuse a split that is not between the active release and one other, in percents that sum to 100."""
    split = command.split
    if split is None:
        return None
    if command.active not in split:
        return refusals.split_invalid(
            f"the active release {command.active} is not in split: add it, or leave out split"
        )
    if len(split) > _RELEASES_IN_SPLIT:
        return refusals.split_invalid(
            "split divides the requests between the active release and one other: name two releases"
        )
    if any(percent < 1 for percent in split.values()) or sum(split.values()) != 100:
        return refusals.split_invalid(
            f"the percents in split are {', '.join(map(str, split.values()))}: use whole numbers from 1 that sum to 100"
        )
    return None


def check_release_routable(app: App, version: str, evidence: RoutingEvidence) -> Refusal | None:
    """Refuse traffic for a release unless it is registered, is not being removed, and has started."""
    release = app.releases.get(version)
    if release is None:
        if any(removed.version == version for removed in app.removed_releases):
            return refusals.release_removed(app, version)
        return refusals.release_not_found(app, version)
    if release.removal is not None:
        return refusals.release_removed(app, version)
    if app.routing.share_of(version):
        return None
    if refusal := check_address_allowed(app, release.address):
        return refusal
    started = evidence.started.get(version, True)
    if isinstance(started, ProviderUnavailable):
        return refusals.start_unknown(app, release, started)
    return None if started else refusals.release_not_deployed(app, release)


def _with_routing(app: App, release: Release, routing: Routing, active: Release, now: Instant) -> Release:
    """The release with its times of traffic as a change to this routing leaves them.

    Visitors stay with a release only if a newer one takes its place. Those of a candidate whose share is taken back
    leave at once, and so do those of a release that is rolled back."""
    if routing.share_of(release.version):
        first = now if release.first_traffic_at is None else release.first_traffic_at
        return replace(release, first_traffic_at=first, traffic_end=None, sticky_until=None, drained_backend=None)
    end = RoutingChange(next_routing_revision(app), now)
    if release.has_traffic:
        was_active = release.version == app.routing.active
        keeps_visitors = app.policy.sticky_after_promotion and was_active and active.was_registered_after(release)
        # Kept on the release, so that a later change of the policy cannot shorten a time that routers know.
        until = Instant(now + seconds(STICKY_MAX_AGE_SECONDS)) if keeps_visitors else None
        return replace(release, traffic_end=end, sticky_until=until)
    if release.is_sticky(now) and not active.was_registered_after(release):
        return replace(release, traffic_end=end, sticky_until=None)
    return release


def _routing_details(routing: Routing) -> dict[str, Any]:
    """The routing for the audit log."""
    details: dict[str, Any] = {"active": routing.active}
    return details if routing.split is None else details | {"split": dict(routing.split)}


def forget_router(
    app: App, command: ForgetRouterCommand, acknowledgements: Sequence[RouterAcknowledgement], now: Instant
) -> Transition | Refusal:
    """Stop waiting for this router to acknowledge the routing. A router that requests the routing again is waited for
    again. The time until which it may have sent requests is kept, because a probe must begin after it.

    `acknowledgements` were read after the app. Refusals: WrongModel, RouterNotFound."""
    if refusal := check_model(app, Model.SIDE_BY_SIDE):
        return refusal
    known = next((router for router in acknowledgements if router.router == command.router), None)
    if known is None or known.is_forgotten:
        return refusals.router_not_found(app, command.router)
    details = {"router": known.router, "revision": known.revision}
    forgotten = ForgottenRouter(known, merge_forgotten_router(app, known, acknowledgements, now))
    return Transition(app, "ForgetRouter", details, forgotten_router=forgotten)
