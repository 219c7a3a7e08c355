"""Decides the steps of a promotion or rollback, from the app as GetApp shows it. Pure: no I/O, no clock.

Every step can be repeated. A promotion that was interrupted after the routing has changed finds its release active, and
the plan then has only what is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from safe_deploy.quiescing import PromotionAction, order_actions
from safe_deploy.side_by_side.app_state import ReleaseState, SideBySideApp


@dataclass(frozen=True, slots=True)
class PromotionStep:
    """`version`: the release whose functions are disabled or enabled, or that gets all requests."""

    action: PromotionAction
    version: str


def is_promoted(app: SideBySideApp, version: str) -> bool:
    """Whether the release is active and gets all requests."""
    return app.routing.active == version and app.routing.split is None


def only_ends_adopted_use(app: SideBySideApp, version: str) -> bool:
    """Whether a promotion of this release moves no request. It only says that the visitors of an adopted release come
    through a router by now, or are gone."""
    return is_promoted(app, version) and bool(app.releases_with_unrouted_traffic)


def plan_promotion(
    app: SideBySideApp, version: str, *, quiesces: bool, rollback: bool = False
) -> Sequence[PromotionStep]:
    """The steps that make this release the only one with traffic. `quiesces`: Azure can be asked to disable the
    functions that only the active release may run.

    A release that does not exist or is being removed is refused by the server, so no Function App restarts for it. A
    rollback to the active release says nothing about the visitors of adopted ones, so it does not route again.
    """
    release = app.releases.get(version)
    quiesces = quiesces and release is not None and release.state != ReleaseState.REMOVING
    versions = {
        PromotionAction.QUIESCE: _list_others_with_traffic(app, version) if quiesces else [],
        PromotionAction.ROUTE: [version],
        PromotionAction.UNQUIESCE: [version] if quiesces else [],
    }
    had_traffic = release is not None and release.had_traffic
    actions = order_actions(app.quiesce_order, rollback=rollback, had_traffic=had_traffic)
    if is_promoted(app, version):
        routes_again = only_ends_adopted_use(app, version) and not rollback
        actions = actions[actions.index(PromotionAction.ROUTE) + (0 if routes_again else 1) :]
    return [PromotionStep(action, named) for action in actions for named in versions[action]]


def plan_correction(app: SideBySideApp, done: Sequence[PromotionStep]) -> Sequence[PromotionStep]:
    """The steps that leave the functions to the release that is active now, where a promotion has changed them.

    They are taken after the server has refused the change, or another caller has changed the routing. Empty if nothing
    is left to correct."""
    active = app.routing.active
    last_actions = {step.version: step.action for step in done if step.action is not PromotionAction.ROUTE}
    correction: list[PromotionStep] = []
    for version, action in reversed(last_actions.items()):
        if version not in app.releases:
            continue
        wanted = PromotionAction.UNQUIESCE if version == active else PromotionAction.QUIESCE
        if action is not wanted:
            correction.append(PromotionStep(wanted, version))
    return correction


def _list_others_with_traffic(app: SideBySideApp, version: str) -> list[str]:
    """The other releases that may have run the functions: those that had traffic. The active one comes first."""
    others = [
        release.version
        for release in app.releases.values()
        if release.version != version and release.had_traffic and release.state != ReleaseState.REMOVING
    ]
    return sorted(others, key=lambda other: other != app.routing.active)
