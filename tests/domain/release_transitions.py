"""Apps with releases side by side and their transitions, with defaults for all that a test is not about.

As in the services, a refusal is raised as its error, and every transition publishes the routing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from state_api.domain.instants import Instant
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import App, Caller, Deployment, ProviderConfig, Transition
from state_api.domain.releases.commands import RegisterCommand, ReleaseAssignment
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.registration import RegisterEvidence, register_app
from state_api.domain.releases.side_by_side.adoption import AdoptionEvidence
from state_api.domain.releases.side_by_side.commands import (
    ForgetRouterCommand,
    RegisterReleaseCommand,
    RemovalOutcome,
    RemoveReleaseCommand,
    RouteCommand,
)
from state_api.domain.releases.side_by_side.documents import publish_routing
from state_api.domain.releases.side_by_side.registration import RegisterReleaseEvidence, register_release
from state_api.domain.releases.side_by_side.releases import (
    Model,
    Release,
    ReleaseTokens,
    RouterAcknowledgement,
    Routing,
    RoutingChange,
)
from state_api.domain.releases.side_by_side.removal import RemovalEvidence, remove_release
from state_api.domain.releases.side_by_side.routing import RoutingEvidence, change_routing, forget_router
from state_api.domain.task_hubs.ownership import ExistingArtifacts, OwnershipProof, ProviderUnavailable
from tests.domain.builders import ANNA, NOON, build_ready_verdict, noon_plus
from tests.domain.transitions import build_register_command, require_transition

READY = build_ready_verdict()
TOKENS = ReleaseTokens("a" * 32, "b" * 32)
HOUR = 3600
APP_REVISION = 3
"""The revision of the apps that tests begin with."""


def address_of(version: str) -> str:
    """The address of the release with this version."""
    return f"https://shop-{version.replace('.', '')}.example"


def hub_of(version: str) -> str:
    """The task hub of the release with this version."""
    return f"v{version.replace('.', '')}"


def registered_at(version: str) -> Instant:
    """When the release with this version was registered: an hour before noon, or a little later the greater its version
    is."""
    return noon_plus(-HOUR + int(version.replace(".", "")))


def build_staged_release(version: str = "1.5.0") -> Release:
    """A release that was registered an hour before noon, or a little later the greater its version is."""
    return Release(version, hub_of(version), address_of(version), TOKENS, registered_at(version))


def build_serving_release(version: str = "1.4.0") -> Release:
    """A release that got its first traffic half an hour before noon."""
    return replace(build_staged_release(version), first_traffic_at=noon_plus(-HOUR / 2))


def build_draining_release(version: str = "1.3.0", *, revision: int = 2, ended: float = -600) -> Release:
    """A release that lost its traffic `-ended` seconds before noon, in this routing revision."""
    return replace(build_serving_release(version), traffic_end=RoutingChange(revision, noon_plus(ended)))


def build_side_by_side_app(
    *releases: Release,
    active: str | None = None,
    split: Mapping[str, int] | None = None,
    policy: Policy | None = None,
    provider_config: ProviderConfig | None = None,
    deployment: Deployment | None = None,
) -> App:
    """An app with these releases, whose routing was set ten minutes before noon."""
    return App(
        "shop",
        model=Model.SIDE_BY_SIDE,
        releases={release.version: release for release in releases},
        routing=Routing(2, noon_plus(-600), active, split),
        policy=policy or Policy(),
        provider_config=provider_config,
        deployment=deployment,
        revision=APP_REVISION,
    )


def build_shop_app() -> App:
    """1.3.0 is draining, 1.4.0 is active, and 1.5.0 is staged."""
    return build_side_by_side_app(
        build_draining_release(), build_serving_release(), build_staged_release(), active="1.4.0"
    )


def build_acknowledgement(router: str = "envoy-1", revision: int = 2, since: float = -590) -> RouterAcknowledgement:
    """A router that has routed by this revision since `since` seconds after noon."""
    return RouterAcknowledgement(router, revision, noon_plus(since), noon_plus(since))


def publish_transition(app: App, result: Transition | Refusal, now: Instant) -> Transition:
    """The transition with its routing published, as the services write it. Raises the error of a refusal."""
    transition = require_transition(result)
    if not transition.changed:
        return transition
    after = publish_routing(app, transition.app, now)
    return replace(transition, app=replace(after, revision=app.revision + 1))


def assignment_of(version: str) -> ReleaseAssignment:
    """The release with this version as PutApp names it: its task hub and its address."""
    return ReleaseAssignment(hub_of(version), address_of(version))


def put_app(
    app: App,
    releases: Mapping[str, ReleaseAssignment] | None = None,
    *,
    model: Model | None = Model.SIDE_BY_SIDE,
    verdicts: Mapping[str, Verdict] | None = None,
    adoption: AdoptionEvidence | None = None,
    proof: OwnershipProof | None = None,
    now: Instant = NOON,
    **changes: Any,
) -> Transition:
    """PutApp with this model and these releases."""
    command: RegisterCommand = replace(build_register_command(**changes), model=model, releases=releases or {})
    tokens = AdoptionEvidence(tokens=dict.fromkeys(releases or {}, TOKENS))
    evidence = RegisterEvidence(verdicts or {}, proof=proof, adoption=adoption or tokens)
    return publish_transition(app, register_app(app, command, evidence, now), now)


def post_release(
    app: App,
    version: str = "1.6.0",
    *,
    caller: Caller = ANNA,
    task_hub: str | None = None,
    address: str | None = None,
    take_over: bool = False,
    reason: str | None = None,
    earlier_task_hub: str | None = None,
    used_before: bool = False,
    existing: ExistingArtifacts | ProviderUnavailable | None = None,
    now: Instant = NOON,
) -> Transition:
    """PostRelease."""
    command = RegisterReleaseCommand(
        caller=caller,
        reason=reason,
        version=version,
        task_hub=task_hub or hub_of(version),
        address=address or address_of(version),
        take_over=take_over,
    )
    evidence = RegisterReleaseEvidence(TOKENS, earlier_task_hub, used_before, existing)
    return publish_transition(app, register_release(app, command, evidence, now), now)


def put_routing(
    app: App,
    active: str,
    split: Mapping[str, int] | None = None,
    *,
    started: Mapping[str, bool | ProviderUnavailable] | None = None,
    now: Instant = NOON,
) -> Transition:
    """PutRouting."""
    command = RouteCommand(caller=ANNA, active=active, split=split)
    return publish_transition(app, change_routing(app, command, RoutingEvidence(started or {}), now), now)


def delete_release(
    app: App,
    version: str,
    outcome: RemovalOutcome = RemovalOutcome.PENDING,
    *,
    caller: Caller = ANNA,
    verdict: Verdict | None = READY,
    acknowledgements: Sequence[RouterAcknowledgement] = (),
    backend_id: str | None = None,
    missing_at: str | None = None,
    is_conditional: bool = False,
    now: Instant = NOON,
) -> Transition:
    """DeleteRelease."""
    command = RemoveReleaseCommand(caller=caller, version=version, outcome=outcome, is_conditional=is_conditional)
    evidence = RemovalEvidence(verdict, acknowledgements, backend_id, missing_at)
    return publish_transition(app, remove_release(app, command, evidence, now), now)


def forget_known_router(
    app: App, router: str, *acknowledgements: RouterAcknowledgement, now: Instant = NOON
) -> Transition:
    """ForgetRouter."""
    command = ForgetRouterCommand(caller=ANNA, router=router)
    return publish_transition(app, forget_router(app, command, acknowledgements, now), now)


def remember_forgotten(
    app: App, router: RouterAcknowledgement, *others: RouterAcknowledgement, now: Instant
) -> RouterAcknowledgement:
    """The acknowledgement that stands for all forgotten routers after this router was forgotten."""
    forgotten = forget_known_router(app, router.router, router, *others, now=now).forgotten_router
    assert forgotten is not None
    return forgotten.remembered
