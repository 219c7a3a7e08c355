"""Refusals of operations on releases side by side: the problem code, the message, and the facts that callers act on."""

from typing import Any

from state_api.domain.errors import (
    AddressNotAllowed,
    InvalidRequest,
    ReleaseExists,
    ReleaseInUse,
    ReleaseNotDeployed,
    ReleaseNotDrained,
    ReleaseNotFound,
    ReleaseRemoved,
    RemovalPending,
    RouterNotFound,
    TaskHubUnavailable,
    TooManyReleases,
    WrongModel,
)
from state_api.domain.instants import Instant, format_instant
from state_api.domain.readiness.reasons import ReadinessReason
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import App, Slot
from state_api.domain.releases.other_run_refusals import describe_owner
from state_api.domain.releases.refusals import Refusal, retry_after_seconds, verdict_details
from state_api.domain.releases.side_by_side.releases import MAX_RELEASES, Model, PendingRemoval, Release
from state_api.domain.task_hubs.ownership import ProviderUnavailable

_MAX_REMOVAL_RETRY_SECONDS = 60
"""The longest `retryAfterSeconds` of RemovalPending, because the other run may report an outcome at any time."""

_OPERATIONS = {
    Model.SLOTS: (
        "PostStaging, DeleteStaging, PostSwap, GetStagingStatus and the action confirm of PostRollout are for apps "
        "with slots"
    ),
    Model.SIDE_BY_SIDE: "operations on releases and routing are for apps with releases side by side",
}


# The model


def wrong_model(app: App, model: Model) -> Refusal:
    """For an operation on apps of this model."""
    return Refusal(
        WrongModel,
        f"app {app.name} has the model {app.model.value}, and {_OPERATIONS[model]}. GetApp shows the model. PutApp can "
        "change it while the app has no release and no task hub in a slot",
        {"app": app.name, "model": app.model.value},
    )


def slots_in_wrong_model(app: App) -> Refusal:
    """For a task hub that PutApp puts into a slot of an app with releases side by side."""
    return Refusal(
        WrongModel,
        f"app {app.name} has releases side by side, so it has no slots: name the task hub in releases, with the "
        "address of its Function App",
        {"app": app.name, "model": Model.SIDE_BY_SIDE.value},
    )


def slots_filled(app: App, slots: list[str]) -> Refusal:
    """For an app that cannot have releases side by side while these slots hold task hubs."""
    return Refusal(
        WrongModel,
        f"app {app.name} has task hubs in slots: {', '.join(slots)}. To change its model to sideBySide, name each of "
        "these task hubs in releases, or empty its slot in the same request",
        {"app": app.name, "model": app.model.value},
    )


def model_fixed(app: App) -> Refusal:
    """For a change to slots while the app has releases."""
    return Refusal(
        WrongModel,
        f"app {app.name} has the releases {', '.join(app.releases)}. Remove them with DeleteRelease before you change "
        "its model to slots",
        {"app": app.name, "model": app.model.value},
    )


def slot_may_carry_prior_hub(app: App, name: str, slot: Slot) -> Refusal:
    """For a slot whose task hub cannot become that of a release."""
    prior_hubs = ", ".join(prior.task_hub for prior in slot.prior_hubs)
    return Refusal(
        InvalidRequest,
        f"slot {name} of app {app.name} may still carry {prior_hubs}, so it is unknown which task hub a release with "
        "its address would have. Swap the slot, or empty it once it has drained, and retry",
    )


def provider_impossible(provider: str) -> Refusal:
    """For a provider that reads all task hubs through one Function App."""
    return Refusal(
        InvalidRequest,
        f"the provider {provider} reads task hubs through one Function App, and releases side by side are several. Use "
        "azureStorage or scheduler",
    )


# Which release


def release_not_found(app: App, version: str) -> Refusal:
    return Refusal(
        ReleaseNotFound,
        f"app {app.name} has no release {version}. ListReleases shows its releases. PostRelease registers a new one",
        {"app": app.name, "version": version},
    )


def release_removed(app: App, version: str) -> Refusal:
    """For a release that cannot get traffic or be changed any more."""
    removal = app.releases[version].removal if version in app.releases else None
    if removal is None:
        message = (
            f"release {version} of app {app.name} is removed. Register the code as a new release, with a new version "
            "and a new task hub"
        )
    else:
        message = (
            f"{describe_owner(removal)} has been removing release {version} of app {app.name} since "
            f"{format_instant(removal.change.at)}. If that run has ended, and the Function App still runs, send "
            "DeleteRelease with the outcome Failed and the ETag of GetApp in If-Match, and retry"
        )
    return Refusal(ReleaseRemoved, message, {"app": app.name, "version": version})


def router_not_found(app: App, router: str) -> Refusal:
    return Refusal(
        RouterNotFound,
        f"no router {router} has asked for the routing of app {app.name}. ListReleases shows its routers",
        {"app": app.name, "router": router},
    )


# PostRelease and PutApp


def release_exists(app: App, release: Release) -> Refusal:
    return Refusal(
        ReleaseExists,
        f"app {app.name} already has release {release.version}, with task hub {release.task_hub} at {release.address}. "
        "Deploy new code as a new release, with a new version and a new task hub",
        _exists_details(app, release.version, release.task_hub),
    )


def version_used(app: App, version: str, task_hub: str) -> Refusal:
    return Refusal(
        ReleaseExists,
        f"version {version} of app {app.name} was used before, with task hub {task_hub}. A version is used only once: "
        "deploy with a new version",
        _exists_details(app, version, task_hub),
    )


def address_used(app: App, release: Release) -> Refusal:
    return Refusal(
        ReleaseExists,
        f"release {release.version} of app {app.name} has the address {release.address}. Deploy each release as a "
        "Function App of its own, with an address of its own",
        _exists_details(app, release.version, release.task_hub),
    )


def release_named_twice(name: str) -> Refusal:
    """For a request that gives two releases the same task hub or address."""
    return Refusal(InvalidRequest, f"{name} cannot belong to two releases: name it for one release only")


def _exists_details(app: App, version: str, task_hub: str) -> dict[str, Any]:
    """The members of a problem document about a release that exists already, or existed before."""
    return {"app": app.name, "version": version, "taskHub": task_hub}


def address_not_allowed(app: App, address: str) -> Refusal:
    return Refusal(
        AddressNotAllowed,
        f"the policy of app {app.name} allows only addresses that match {app.policy.address_pattern}, and {address} "
        "does not. Correct the address, or ask an administrator to change addressPattern with PutApp",
        {"app": app.name, "address": address, "addressPattern": app.policy.address_pattern},
    )


def too_many_releases(app: App) -> Refusal:
    limit = app.policy.max_releases
    source = f"its policy (maxReleases) allows {limit}" if limit is not None else f"an app has at most {MAX_RELEASES}"
    return Refusal(
        TooManyReleases,
        f"app {app.name} has {len(app.releases)} releases, and {source}. Remove a drained release with DeleteRelease",
        {"app": app.name, "releases": list(app.releases)},
    )


# PutRouting


def split_invalid(message: str) -> Refusal:
    return Refusal(InvalidRequest, message)


def release_not_deployed(app: App, release: Release) -> Refusal:
    return Refusal(
        ReleaseNotDeployed,
        f"release {release.version} of app {app.name} must not get traffic: its task hub {release.task_hub} does not "
        "exist at its provider, so its Function App has not started. Start it, and check its task hub name",
        {"app": app.name, "version": release.version, "taskHub": release.task_hub},
    )


def start_unknown(app: App, release: Release, provider: ProviderUnavailable) -> Refusal:
    return Refusal(
        TaskHubUnavailable,
        f"release {release.version} of app {app.name} got no traffic: the server could not check whether its task hub "
        f"{release.task_hub} exists at its provider ({provider.message}). Retry later",
        {"retry_after": provider.retry_after_seconds, "taskHub": release.task_hub},
    )


# DeleteRelease


def release_in_use(app: App, release: Release, reason: ReadinessReason) -> Refusal:
    return Refusal(
        ReleaseInUse,
        f"release {release.version} of app {app.name} must not be removed: {reason.message}",
        {"app": app.name, "version": release.version, "taskHub": release.task_hub},
    )


def release_not_drained(app: App, release: Release, verdict: Verdict) -> Refusal:
    messages = "; ".join(reason.message for reason in verdict.reasons)
    return Refusal(
        ReleaseNotDrained,
        f"release {release.version} of app {app.name} must not be removed: {messages}. Retry once GetReleaseStatus "
        "says Ready",
        {"app": app.name, "version": release.version, **verdict_details(release.task_hub, verdict)},
    )


def removal_pending(app: App, release: Release, removal: PendingRemoval, now: Instant) -> Refusal:
    """For a run that wants to remove what another run is removing, or reports an outcome without naming the revision
    that it has read."""
    expires_at = app.removal_expires_at(removal)
    return Refusal(
        RemovalPending,
        f"{describe_owner(removal)} has been removing release {release.version} of app {app.name} since "
        f"{format_instant(removal.change.at)}. Wait for that run. If it has ended, look up whether the Function App "
        "still exists, and send DeleteRelease with the outcome Done or Failed, and with the ETag of GetApp in "
        f"If-Match. From {format_instant(expires_at)} on, any run can continue the removal with the outcome Pending",
        {
            "app": app.name,
            "version": release.version,
            "removal": {
                "startedAt": format_instant(removal.change.at),
                "by": removal.started_by,
                "runUrl": removal.run_url,
            },
            "retryAfterSeconds": retry_after_seconds(expires_at, now, longest=_MAX_REMOVAL_RETRY_SECONDS),
        },
    )
