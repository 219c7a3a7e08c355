"""Visitors stay with a release after a promotion, and never after a rollback or an abort."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from state_api.domain.readiness.policy import Policy
from state_api.domain.releases.apps import App
from state_api.domain.releases.side_by_side.documents import build_document
from state_api.domain.releases.side_by_side.releases import STICKY_MAX_AGE_SECONDS, RoutingChange
from tests.domain.builders import NOON, build_app, noon_plus
from tests.domain.release_transitions import (
    assignment_of,
    build_draining_release,
    build_serving_release,
    build_shop_app,
    build_side_by_side_app,
    build_staged_release,
    post_release,
    put_app,
    put_routing,
)

STICKY_POLICY = Policy(sticky_after_promotion=True)
SHOP = replace(build_shop_app(), policy=STICKY_POLICY)
"""1.3.0 is draining, 1.4.0 is active, and 1.5.0 is staged."""
KEPT_UNTIL = noon_plus(STICKY_MAX_AGE_SECONDS)


def list_kept(app: App) -> list[str]:
    """The releases whose sticky tokens still count without traffic, by the routing document."""
    return [version for version, release in build_document(app).releases.items() if release.sticky_until is not None]


def put_routings(app: App, *routings: tuple[str, Mapping[str, int] | None]) -> App:
    """The app after these changes of its routing, in order."""
    for active, split in routings:
        app = put_routing(app, active, split).app
    return app


def test_visitors_stay_for_the_age_of_the_cookie_if_the_policy_says_so() -> None:
    promoted = put_routing(SHOP, "1.5.0").app
    assert promoted.releases["1.4.0"].sticky_until == KEPT_UNTIL
    assert build_document(promoted).releases["1.4.0"].sticky_until == KEPT_UNTIL
    assert list_kept(put_routing(build_shop_app(), "1.5.0").app) == []


def test_a_later_change_of_the_policy_does_not_shorten_a_time_that_routers_know() -> None:
    changed = replace(put_routing(SHOP, "1.5.0").app, policy=Policy())
    assert changed.releases["1.4.0"].is_sticky(noon_plus(STICKY_MAX_AGE_SECONDS - 1))
    assert not changed.releases["1.4.0"].is_sticky(KEPT_UNTIL)


WITH_1_6 = build_side_by_side_app(
    build_draining_release("1.3.0"),
    build_serving_release("1.4.0"),
    build_staged_release("1.5.0"),
    build_staged_release("1.6.0"),
    active="1.4.0",
    policy=STICKY_POLICY,
)
CANARY = {"1.4.0": 90, "1.5.0": 10}


@pytest.mark.parametrize(
    ("routings", "kept"),
    [
        pytest.param([("1.5.0", None)], ["1.4.0"], id="a promotion"),
        pytest.param([("1.4.0", CANARY), ("1.5.0", None)], ["1.4.0"], id="a promotion after a split"),
        pytest.param([("1.4.0", CANARY), ("1.4.0", None)], [], id="an abort"),
        pytest.param([("1.4.0", CANARY), ("1.6.0", None)], ["1.4.0"], id="a candidate is left out, a newer one wins"),
        pytest.param([("1.5.0", None), ("1.4.0", None)], [], id="a rollback"),
        pytest.param([("1.5.0", {"1.5.0": 50, "1.4.0": 50}), ("1.5.0", None)], [], id="an older candidate is aborted"),
        pytest.param([("1.5.0", None), ("1.3.0", None)], [], id="a rollback past a release that keeps visitors"),
        pytest.param([("1.5.0", None), ("1.6.0", None)], ["1.4.0", "1.5.0"], id="two promotions"),
        pytest.param([("1.6.0", None), ("1.5.0", None)], ["1.4.0"], id="a rollback to one that is newer still"),
        pytest.param([("1.3.0", None)], [], id="a rollback of the first active release"),
    ],
)
def test_visitors_are_kept_only_by_a_release_that_a_newer_one_has_replaced(
    routings: list[tuple[str, Mapping[str, int] | None]], kept: list[str]
) -> None:
    assert list_kept(put_routings(WITH_1_6, *routings)) == kept


def test_a_rollback_past_a_release_that_keeps_visitors_ends_its_traffic_anew() -> None:
    promoted = put_routing(WITH_1_6, "1.5.0").app
    rolled_back = put_routing(promoted, "1.3.0", now=noon_plus(600)).app
    change = RoutingChange(rolled_back.routing.revision, noon_plus(600))
    assert rolled_back.releases["1.4.0"].traffic_end == change
    later = put_routing(promoted, "1.3.0", now=KEPT_UNTIL).app
    assert later.releases["1.4.0"].traffic_end == promoted.releases["1.4.0"].traffic_end, "they had left before"


def test_the_age_of_an_adopted_release_is_unknown_so_that_it_keeps_no_visitors_of_others() -> None:
    late = put_app(SHOP, {"1.2.0": assignment_of("1.2.0")}).app
    assert list_kept(put_routing(late, "1.2.0").app) == []


def test_an_adopted_release_keeps_its_visitors_after_the_promotion_of_a_registered_one() -> None:
    adopted = put_app(build_app(), {"1.4.0": assignment_of("1.4.0")}, update_policy=lambda policy: STICKY_POLICY).app
    routed = put_routing(adopted, "1.4.0").app
    registered = post_release(routed, "1.5.0", now=noon_plus(1)).app
    assert list_kept(put_routing(registered, "1.5.0", now=noon_plus(2)).app) == ["1.4.0"]
    unrouted = post_release(adopted, "1.5.0", now=noon_plus(1)).app
    assert list_kept(put_routing(unrouted, "1.5.0", now=noon_plus(2)).app) == [], "no router has given them cookies"


def test_traffic_ends_a_sticky_time() -> None:
    rolled_back = put_routing(put_routing(SHOP, "1.5.0").app, "1.4.0", now=noon_plus(1)).app
    assert rolled_back.releases["1.4.0"].sticky_until is None
    assert rolled_back.routing.updated_at > NOON
