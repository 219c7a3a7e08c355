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


def plan_promotion(
    app: SideBySideApp, version: str, *, quiesces: bool, rollback: bool = False
) -> Sequence[PromotionStep]:
    """The steps that make this release the only one with traffic. `quiesces`: Azure can be asked to disable the
    functions that only the active release may run.

    A release that does not exist or is being removed is refused by the server, so no Function App restarts for it.
    """
    release = app.releases.get(version)
    quiesces = quiesces and release is not None and release.state != ReleaseState.REMOVING
    versions = {
        PromotionAction.QUIESCE: _list_others_with_traffic(app, version) if quiesces else [],
        PromotionAction.ROUTE: [] if is_promoted(app, version) else [version],
        PromotionAction.UNQUIESCE: [version] if quiesces else [],
    }
    had_traffic = release is not None and release.had_traffic
    actions = order_actions(app.quiesce_order, rollback=rollback, had_traffic=had_traffic)
    return [PromotionStep(action, named) for action in actions for named in versions[action]]


def plan_undo(app: SideBySideApp, done: Sequence[PromotionStep]) -> Sequence[PromotionStep]:
    """The steps that give the functions back to the active release after the server has refused the change."""
    active = app.routing.active
    undo: list[PromotionStep] = []
    for step in reversed(done):
        if step.action is PromotionAction.QUIESCE and step.version == active:
            undo.append(PromotionStep(PromotionAction.UNQUIESCE, step.version))
        elif step.action is PromotionAction.UNQUIESCE and step.version != active:
            undo.append(PromotionStep(PromotionAction.QUIESCE, step.version))
    return undo


def _list_others_with_traffic(app: SideBySideApp, version: str) -> list[str]:
    """The other releases that may have run the functions: those that had traffic. The active one comes first."""
    others = [
        release.version
        for release in app.releases.values()
        if release.version != version and release.had_traffic and release.state != ReleaseState.REMOVING
    ]
    return sorted(others, key=lambda other: other != app.routing.active)
