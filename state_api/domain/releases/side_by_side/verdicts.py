"""The verdict on a release: may it be removed? That is when no router sends requests to it and its task hub has
drained."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from state_api.domain.instants import Instant, format_duration, format_instant, seconds
from state_api.domain.names import same_hub
from state_api.domain.readiness.policy import Assurance
from state_api.domain.readiness.reasons import (
    ReadinessReason,
    ReasonCode,
    ceil_seconds,
    deployment_in_progress_reason,
    rollout_in_progress_reason,
)
from state_api.domain.readiness.verdict import DEFAULT_RETRY_AFTER_SECONDS, Verdict
from state_api.domain.readiness.waiting import NO_END
from state_api.domain.releases.apps import App, Deployment
from state_api.domain.releases.rollout_checks import find_open_rollout
from state_api.domain.releases.side_by_side.acknowledgements import (
    find_closing_change,
    find_delay_end,
    find_stopped_since,
)
from state_api.domain.releases.side_by_side.releases import (
    Release,
    ReleaseState,
    RouterAcknowledgement,
    Routing,
    RoutingChange,
    find_state,
)
from state_api.domain.releases.transition_checks import find_blocking_deployment

_ACKNOWLEDGEMENT_INTERVAL_SECONDS = 5
"""How often requests that wait look at acknowledgements that another process may have recorded."""

_MAX_NAMED_ROUTERS = 3


def find_use(release: Release, routing: Routing, now: Instant) -> ReadinessReason | None:
    """The reason ReleaseInUse: the release has traffic, from a router or past it, or visitors stay with it."""
    share = routing.share_of(release.version)
    if share:
        message = f"release {release.version} gets {share} % of the requests. Give them to another one with PutRouting"
    elif release.has_traffic:
        message = (
            f"release {release.version} was adopted and the routing has not been set since, so it may get requests "
            "that do not come through the router. When its visitors come through a router or are gone, set the routing "
            "with PutRouting, also if the same release stays active. If the whole app is given up, an administrator "
            "deletes it with DeleteApp"
        )
    elif release.sticky_until is not None and release.is_sticky(now):
        message = (
            f"visitors stay with release {release.version} until {format_instant(release.sticky_until)}, by the policy "
            "stickyAfterPromotion"
        )
    else:
        return None
    return ReadinessReason(ReasonCode.RELEASE_IN_USE, message)


def _find_settle_end(app: App, release: Release, acknowledgements: Sequence[RouterAcknowledgement]) -> Instant | None:
    """When the events of what routers had sent before they acknowledged the change have arrived. None if a probe shows
    it, and for a removal that was allowed to begin after that."""
    change = find_closing_change(release)
    is_settled = release.removal is not None and release.traffic_end is not None
    if change is None or is_settled or app.provider_config is not None:
        return None
    stops = _list_stop_times(release, change, acknowledgements)
    return Instant(max(stops) + seconds(app.policy.settle_seconds)) if stops else None


def _find_late_events(
    app: App, release: Release, acknowledgements: Sequence[RouterAcknowledgement], now: Instant
) -> ReadinessReason | None:
    """The reason RoutersBehind for events that may not have arrived yet."""
    settle_end = _find_settle_end(app, release, acknowledgements)
    if settle_end is None or settle_end <= now:
        return None
    return ReadinessReason(
        ReasonCode.ROUTERS_BEHIND,
        f"less than {app.policy.settle_seconds} s ago, a router has confirmed that it sends nothing to release "
        f"{release.version}, or was forgotten, so events of what it had sent may still arrive",
    )


def _list_stop_times(
    release: Release, change: RoutingChange, acknowledgements: Sequence[RouterAcknowledgement]
) -> list[Instant]:
    """Since when each router that has stopped, and those that are forgotten, send nothing to the release."""
    stops = [find_stopped_since(router, release, change) for router in acknowledgements]
    return [stop for stop in stops if stop is not None]


def find_quiet_since(release: Release, acknowledgements: Sequence[RouterAcknowledgement]) -> Instant | None:
    """The time from which on no router sends a request to the release, if every named router has acknowledged the
    change. A probe must begin after it. None for a staged release."""
    change = find_closing_change(release)
    if change is None:
        return None
    return max([find_delay_end(release, change), *_list_stop_times(release, change, acknowledgements)])


def find_lagging_routers(
    release: Release, acknowledgements: Sequence[RouterAcknowledgement], now: Instant
) -> ReadinessReason | None:
    """The reason RoutersBehind: a router may still send requests to the release."""
    change = find_closing_change(release)
    if change is None:
        return None
    routers = [router for router in acknowledgements if not router.is_forgotten]
    behind = [router.router for router in routers if router.revision < change.revision]
    if behind:
        return _lagging_routers_reason(
            f"these routers have not confirmed routing revision {change.revision}, without release {release.version}",
            behind,
        )
    remaining = find_delay_end(release, change) - now
    if remaining <= 0:
        keeping = [router.router for router in routers if find_stopped_since(router, release, change) is None]
        return (
            _lagging_routers_reason(
                f"these routers have not asked since the visitors of release {release.version} should have left it, "
                "and may send them back",
                keeping,
            )
            if keeping
            else None
        )
    message = (
        f"routers may send requests to release {release.version} for {format_duration(remaining)} more, because they "
        "read the routing at intervals"
    )
    return ReadinessReason(ReasonCode.ROUTERS_BEHIND, message)


def _lagging_routers_reason(problem: str, routers: Sequence[str]) -> ReadinessReason:
    """The reason RoutersBehind with the names of these routers."""
    names = ", ".join(routers[:_MAX_NAMED_ROUTERS])
    if len(routers) > _MAX_NAMED_ROUTERS:
        names += f" and {len(routers) - _MAX_NAMED_ROUTERS} more"
    return ReadinessReason(
        ReasonCode.ROUTERS_BEHIND,
        f"{problem}: {names}. Wait until they ask again; an administrator can remove one that is gone with "
        "ForgetRouter",
    )


def find_blocking_release_deployment(app: App, release: Release, run_id: str | None, now: Instant) -> Deployment | None:
    """The open deployment of this release by another run than this one. None as `run_id` stands for a caller that has
    no run."""
    deployment = find_blocking_deployment(app, run_id, now)
    return deployment if deployment is not None and same_hub(deployment.task_hub, release.task_hub) else None


@dataclass(frozen=True, slots=True)
class ReleaseUse:
    """What is known of the use of a release, besides the app.

    - `acknowledgements`: those of the app's routers.
    - `deployment`: the open deployment of the release by another run.
    - `known_at`: when the app and the acknowledgements were read.
    - `missing_at`: identifies the backend that has just said that nothing of the task hub exists. None if it has
      something, could not be asked, or was not asked.
    """

    acknowledgements: Sequence[RouterAcknowledgement]
    deployment: Deployment | None
    known_at: Instant
    missing_at: str | None = None


def needs_missing_backend(release: Release, verdict: Verdict) -> bool:
    """Whether the verdict on the release depends on `ReleaseUse.missing_at`."""
    return release.drained_backend is not None and any(
        reason.code is ReasonCode.TASK_HUB_MISSING for reason in verdict.reasons
    )


def _accept_deleted_task_hub(release: Release, use: ReleaseUse, verdict: Verdict) -> Verdict:
    """The verdict without the reason TaskHubMissing if a removal has deleted the task hub before it failed.

    A missing task hub alone proves nothing: the connection may lead to another place, or the app may never have
    started. So the same backend must have shown the task hub drained when the removal began, and the release must have
    got no traffic since. An app that still runs creates its task hub again, which is then read like any other."""
    is_deleted = use.missing_at is not None and use.missing_at == release.drained_backend
    if not is_deleted or release.has_traffic:
        return verdict
    reasons = tuple(reason for reason in verdict.reasons if reason.code is not ReasonCode.TASK_HUB_MISSING)
    if reasons:
        return replace(verdict, reasons=reasons)
    return replace(verdict, ready=True, assurance=Assurance.VERIFIED, reasons=(), retry_after_seconds=None)


def assess_release(app: App, release: Release, use: ReleaseUse, verdict: Verdict) -> Verdict:
    """The verdict on a release from the one on its task hub.

    The task hub must be read after what `use` says, so that it contains what routers have sent until then."""
    acknowledgements, now = use.acknowledgements, use.known_at
    verdict = _accept_deleted_task_hub(release, use, verdict)
    deployment = use.deployment.to_open_deployment() if use.deployment is not None else None
    rollout = find_open_rollout(app, release.version, now)
    reasons = [
        reason
        for reason in (
            rollout_in_progress_reason(rollout) if rollout is not None else None,
            deployment_in_progress_reason(deployment, now) if deployment is not None else None,
            find_use(release, app.routing, now),
            find_lagging_routers(release, acknowledgements, now)
            or _find_late_events(app, release, acknowledgements, now),
            _find_early_probe(release, acknowledgements, verdict),
        )
        if reason is not None
    ]
    if not reasons:
        return verdict
    return replace(
        verdict,
        ready=False,
        reasons=(*reasons, *verdict.reasons),
        retry_after_seconds=max(_retry_after_seconds(app, release, use), verdict.retry_after_seconds or 0),
    )


def find_blocked_until(app: App, release: Release, use: ReleaseUse) -> Instant | None:
    """Until when something else than its task hub prevents the removal of a release; None if nothing else does.

    Traffic ends with a change of the app. Acknowledgements change without one, so they are looked at again soon.
    """
    now, ends = use.known_at, list[Instant]()
    if release.has_traffic:
        ends.append(NO_END)
    if use.deployment is not None:
        ends.append(app.deployment_expires_at(use.deployment))
    change = find_closing_change(release)
    if change is not None:
        ends.append(find_delay_end(release, change))
        ends.append(_find_settle_end(app, release, use.acknowledgements) or now)
        routers = [router for router in use.acknowledgements if not router.is_forgotten]
        if any(find_stopped_since(router, release, change) is None for router in routers):
            ends.append(Instant(now + seconds(_ACKNOWLEDGEMENT_INTERVAL_SECONDS)))
    return max((end for end in ends if end > now), default=None)


def _find_early_probe(
    release: Release, acknowledgements: Sequence[RouterAcknowledgement], verdict: Verdict
) -> ReadinessReason | None:
    """The reason ProbeStale: the verdict is Ready by a probe that began while routers could still send requests."""
    probe, quiet_since = verdict.evidence.probe, find_quiet_since(release, acknowledgements)
    if not verdict.ready or probe is None or quiet_since is None:
        return None
    if probe.began_at >= quiet_since:
        return None
    return ReadinessReason(
        ReasonCode.PROBE_STALE,
        f"the last probe of task hub {release.task_hub} began at {format_instant(probe.began_at)}, when "
        f"routers could still send requests to release {release.version}. It must begin after "
        f"{format_instant(quiet_since)}",
    )


def _retry_after_seconds(app: App, release: Release, use: ReleaseUse) -> int:
    """When the reason can end by itself at the earliest; a default if that is unknown."""
    change = find_closing_change(release)
    if change is None:
        return DEFAULT_RETRY_AFTER_SECONDS
    delay_end = find_delay_end(release, change)
    settle_end = _find_settle_end(app, release, use.acknowledgements) or delay_end
    remaining = ceil_seconds(max(delay_end, settle_end) - use.known_at)
    return remaining if remaining > 0 else DEFAULT_RETRY_AFTER_SECONDS


def find_assessed_state(app: App, release: Release, verdict: Verdict | None) -> ReleaseState:
    """The state of a release with its verdict; None if it was not assessed."""
    state = find_state(release, app.routing)
    if state is ReleaseState.DRAINING and verdict is not None and verdict.ready:
        return ReleaseState.DRAINED
    return state
