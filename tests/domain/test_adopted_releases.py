"""Adopted releases may get requests past the router, so they count as in use until the routing is set."""

import pytest

from state_api.domain.errors import ReleaseExists, ReleaseInUse, ReleaseNotDeployed, ReleaseNotDrained
from state_api.domain.readiness.waiting import NO_END
from state_api.domain.releases.apps import App
from state_api.domain.releases.side_by_side.adoption import AdoptionEvidence
from state_api.domain.releases.side_by_side.commands import RemovalOutcome, RouteCommand
from state_api.domain.releases.side_by_side.documents import build_document
from state_api.domain.releases.side_by_side.releases import ReleaseState, RoutingChange, find_state
from state_api.domain.releases.side_by_side.routing import find_unproven_releases
from state_api.domain.releases.side_by_side.verdicts import ReleaseUse, find_blocked_until
from tests.domain.builders import ANNA, NOON, build_app, build_production_slot, build_slot, noon_plus
from tests.domain.release_transitions import (
    TOKENS,
    assignment_of,
    build_acknowledgement,
    build_shop_app,
    delete_release,
    post_release,
    put_app,
    put_routing,
)
from tests.domain.rollout_builders import UNDECIDED, advance, post_rollout, put_rollout, require_rollout

ADOPTION = {"1.4.0": assignment_of("1.4.0")}


def adopt_again() -> App:
    """An app that was deleted, and is created again with its release."""
    adoption = AdoptionEvidence(tokens={"1.4.0": TOKENS}, earlier_task_hubs={"1.4.0": "V140"})
    return put_app(build_app(), ADOPTION, adoption=adoption).app


ADOPTED = [
    pytest.param(put_app(build_app(), ADOPTION).app, id="an app without slots"),
    pytest.param(put_app(build_app(build_production_slot("v140")), ADOPTION).app, id="production in a slot"),
    pytest.param(adopt_again(), id="a deleted app"),
]


@pytest.mark.parametrize("app", ADOPTED)
@pytest.mark.parametrize("outcome", [RemovalOutcome.PENDING, RemovalOutcome.DONE])
def test_an_adopted_release_is_in_use_while_the_app_has_no_routing(app: App, outcome: RemovalOutcome) -> None:
    assert find_state(app.releases["1.4.0"], app.routing) is ReleaseState.SERVING
    assert build_document(app).releases["1.4.0"].state is ReleaseState.SERVING
    with pytest.raises(ReleaseInUse, match=r"release 1\.4\.0 was adopted .* PutRouting.* DeleteApp"):
        delete_release(app, "1.4.0", outcome, now=noon_plus(86_400))
    assert find_blocked_until(app, app.releases["1.4.0"], ReleaseUse((), None, NOON)) == NO_END


@pytest.mark.parametrize("app", ADOPTED)
def test_an_adopted_release_drains_from_the_first_routing_without_it(app: App) -> None:
    promoted = put_routing(post_release(app, "1.5.0").app, "1.5.0").app
    assert promoted.releases["1.4.0"].traffic_end == RoutingChange(promoted.routing.revision, NOON)
    assert find_state(promoted.releases["1.4.0"], promoted.routing) is ReleaseState.DRAINING
    with pytest.raises(ReleaseNotDrained, match="for 1 s more"):
        delete_release(promoted, "1.4.0", now=noon_plus(59))
    behind = build_acknowledgement("envoy-1", app.routing.revision)
    with pytest.raises(ReleaseNotDrained, match="envoy-1"):
        delete_release(promoted, "1.4.0", acknowledgements=[behind], now=noon_plus(60))
    assert delete_release(promoted, "1.4.0", now=noon_plus(60)).changed


def test_the_first_routing_ends_the_traffic_of_every_adopted_release_without_a_share() -> None:
    app = put_app(build_app(), {version: assignment_of(version) for version in ("1.3.0", "1.4.0")}).app
    routed = put_routing(app, "1.4.0").app
    states = {version: find_state(release, routed.routing) for version, release in routed.releases.items()}
    assert states == {"1.3.0": ReleaseState.DRAINING, "1.4.0": ReleaseState.SERVING}
    assert put_routing(routed, "1.3.0").app.routing.active == "1.3.0", "a rollback to it is possible"


def test_a_release_that_is_adopted_while_others_are_routed_is_in_use_until_the_routing_is_set_again() -> None:
    app = put_app(build_shop_app(), {"1.2.0": assignment_of("1.2.0")}).app
    with pytest.raises(ReleaseInUse):
        delete_release(app, "1.2.0")
    routed = put_routing(app, "1.4.0")
    assert routed.changed
    assert routed.app.releases["1.2.0"].traffic_end == RoutingChange(routed.app.routing.revision, NOON)
    assert not put_routing(routed.app, "1.4.0").changed


@pytest.mark.parametrize("end", ["abort", "finish"])
def test_a_rollout_does_not_end_the_traffic_of_a_release_that_was_adopted_meanwhile(end: str) -> None:
    """No caller has set the routing since, so it is not known that the adopted release gets no requests any more."""
    app = put_app(put_rollout(build_shop_app()).app, {"1.2.0": assignment_of("1.2.0")}, now=noon_plus(60)).app
    adopted = app.releases["1.2.0"]
    app = advance(app, UNDECIDED, 16).app
    assert require_rollout(app).step_index == 1
    for routed in (app, post_rollout(app, end, 17).app):
        assert routed.releases["1.2.0"] == adopted
        with pytest.raises(ReleaseInUse):
            delete_release(routed, "1.2.0", now=noon_plus(7200))
    ended = post_rollout(app, end, 17).app
    active = ended.routing.active
    assert active is not None
    assert put_routing(ended, active, now=noon_plus(1080)).app.releases["1.2.0"].traffic_end is not None


def test_a_rollout_begins_without_ending_the_traffic_of_an_adopted_release() -> None:
    app = put_app(build_shop_app(), {"1.2.0": assignment_of("1.2.0")}).app
    assert put_rollout(app).app.releases["1.2.0"] == app.releases["1.2.0"]


def test_an_adopted_release_is_rolled_out_only_after_the_routing_was_set() -> None:
    """An abort would end its traffic, also that which does not come through the router."""
    app = put_app(build_shop_app(), {"1.2.0": assignment_of("1.2.0")}).app
    with pytest.raises(ReleaseInUse, match=r"release 1\.2\.0 of app shop was adopted .* with PutRouting") as caught:
        put_rollout(app, version="1.2.0")
    assert caught.value.details == {"app": "shop", "version": "1.2.0", "taskHub": "v120"}
    started = put_rollout(put_routing(app, "1.4.0").app, version="1.2.0").app
    assert started.releases["1.2.0"].first_traffic_at == NOON
    assert post_rollout(started, "abort").app.releases["1.2.0"].traffic_end is not None


@pytest.mark.parametrize("app", ADOPTED)
def test_an_adopted_release_gets_traffic_from_a_router_only_if_its_task_hub_exists(app: App) -> None:
    command = RouteCommand(caller=ANNA, active="1.4.0")
    assert find_unproven_releases(app, command) == (app.releases["1.4.0"],)
    with pytest.raises(ReleaseNotDeployed):
        put_routing(app, "1.4.0", started={"1.4.0": False})
    promoted = put_routing(app, "1.4.0").app
    assert promoted.releases["1.4.0"].first_traffic_at == NOON
    assert find_unproven_releases(put_routing(post_release(promoted, "1.5.0").app, "1.5.0").app, command) == ()


def test_an_adopted_release_that_was_never_routed_is_asked_for_although_it_drains() -> None:
    app = put_app(build_app(), {version: assignment_of(version) for version in ("1.3.0", "1.4.0")}).app
    routed = put_routing(app, "1.4.0").app
    assert find_unproven_releases(routed, RouteCommand(caller=ANNA, active="1.3.0")) == (routed.releases["1.3.0"],)


def test_nothing_is_deployed_over_an_adopted_release() -> None:
    with pytest.raises(ReleaseExists):
        post_release(put_app(build_app(), ADOPTION).app, "1.4.0")


def test_a_release_from_a_slot_that_was_never_in_production_is_staged() -> None:
    moved = put_app(build_app(None, build_slot("v150")), {"1.5.0": assignment_of("1.5.0")}).app
    assert find_state(moved.releases["1.5.0"], moved.routing) is ReleaseState.STAGED
    assert delete_release(moved, "1.5.0").changed
