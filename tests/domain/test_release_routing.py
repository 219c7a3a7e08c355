"""PutRouting: which releases may get traffic, what a change records, and when the routing document changes."""

import re
from collections.abc import Mapping
from dataclasses import replace

import pytest

from state_api.domain.errors import (
    AddressNotAllowed,
    InvalidRequest,
    ReleaseNotDeployed,
    ReleaseNotFound,
    ReleaseRemoved,
    RouterNotFound,
    StateError,
    TaskHubUnavailable,
    WrongModel,
)
from state_api.domain.names import ROUTER_PATTERN
from state_api.domain.readiness.policy import Policy
from state_api.domain.releases.side_by_side.commands import RemovalOutcome, RouteCommand
from state_api.domain.releases.side_by_side.documents import build_document, publish_routing
from state_api.domain.releases.side_by_side.releases import (
    FORGOTTEN_ROUTERS,
    ReleaseState,
    Routing,
    RoutingChange,
    find_state,
)
from state_api.domain.releases.side_by_side.routing import find_unproven_releases
from state_api.domain.task_hubs.ownership import ProviderUnavailable
from tests.domain.builders import ANNA, NOON, build_app, noon_plus
from tests.domain.release_transitions import (
    build_acknowledgement,
    build_draining_release,
    build_serving_release,
    build_shop_app,
    build_side_by_side_app,
    build_staged_release,
    delete_release,
    forget_known_router,
    put_routing,
)

CANARY = {"1.4.0": 90, "1.5.0": 10}


def test_a_promotion_gives_all_requests_to_the_new_release() -> None:
    transition = put_routing(build_shop_app(), "1.5.0")
    app = transition.app
    assert app.routing == Routing(4, NOON, "1.5.0")
    assert app.releases["1.5.0"] == replace(build_staged_release("1.5.0"), first_traffic_at=NOON)
    assert app.releases["1.4.0"] == replace(build_serving_release("1.4.0"), traffic_end=RoutingChange(4, NOON))
    assert app.releases["1.3.0"] == build_draining_release("1.3.0")
    assert transition.details == {"from": {"active": "1.4.0"}, "to": {"active": "1.5.0"}}


def test_a_split_divides_the_requests_and_takes_none_away() -> None:
    transition = put_routing(build_shop_app(), "1.4.0", CANARY)
    app = transition.app
    assert app.routing == Routing(4, NOON, "1.4.0", CANARY)
    assert [app.routing.share_of(version) for version in ("1.3.0", "1.4.0", "1.5.0", "9")] == [0, 90, 10, 0]
    assert app.releases["1.4.0"] == build_serving_release("1.4.0")
    assert transition.details["to"] == {"active": "1.4.0", "split": CANARY}


def test_an_aborted_canary_drains_from_the_revision_that_aborted_it() -> None:
    app = put_routing(put_routing(build_shop_app(), "1.4.0", CANARY).app, "1.4.0", now=noon_plus(60)).app
    assert app.releases["1.5.0"].traffic_end == RoutingChange(5, noon_plus(60))
    assert app.releases["1.5.0"].first_traffic_at == NOON
    assert find_state(app.releases["1.5.0"], app.routing) is ReleaseState.DRAINING


def test_a_rollback_gives_traffic_to_a_draining_release_without_asking_the_provider() -> None:
    promoted = put_routing(build_shop_app(), "1.5.0").app
    assert find_unproven_releases(promoted, RouteCommand(caller=ANNA, active="1.4.0")) == ()
    rolled_back = put_routing(promoted, "1.4.0", now=noon_plus(60)).app
    assert rolled_back.releases["1.4.0"] == build_serving_release("1.4.0")
    assert rolled_back.releases["1.5.0"].traffic_end == RoutingChange(5, noon_plus(60))


@pytest.mark.parametrize("split", [None, {"1.4.0": 100}])
def test_the_same_routing_changes_nothing(split: Mapping[str, int] | None) -> None:
    app = build_shop_app()
    transition = put_routing(app, "1.4.0", split)
    assert not transition.changed
    assert transition.app is app


@pytest.mark.parametrize(
    ("active", "split", "message"),
    [
        ("1.4.0", {"1.3.0": 50, "1.5.0": 50}, r"the active release 1\.4\.0 is not in split"),
        ("1.4.0", {}, r"the active release 1\.4\.0 is not in split"),
        ("1.4.0", {"1.4.0": 90, "1.5.0": 5, "1.3.0": 5}, "name two releases"),
        ("1.4.0", {"1.4.0": 90, "1.5.0": 11}, "90, 11: use whole numbers from 1 that sum to 100"),
        ("1.4.0", {"1.4.0": 100, "1.5.0": 0}, "use whole numbers from 1"),
        ("1.4.0", {"1.4.0": 101, "1.5.0": -1}, "use whole numbers from 1"),
        ("1.4.0", {"1.4.0": 99}, "sum to 100"),
    ],
)
def test_a_split_that_is_not_whole_percents_of_two_releases_is_invalid(
    active: str, split: Mapping[str, int], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        put_routing(build_shop_app(), active, split)


REMOVING = delete_release(build_shop_app(), "1.3.0").app
REMOVED = delete_release(REMOVING, "1.3.0", RemovalOutcome.DONE).app


@pytest.mark.parametrize(
    ("app", "active", "started", "error", "message"),
    [
        (build_app(), "1.4.0", {}, WrongModel, "has the model slots"),
        (build_shop_app(), "1.6.0", {}, ReleaseNotFound, r"app shop has no release 1\.6\.0"),
        (REMOVING, "1.3.0", {}, ReleaseRemoved, r"anna \(run https://ci\.example/runs/7\) has been removing"),
        (REMOVED, "1.3.0", {}, ReleaseRemoved, r"release 1\.3\.0 of app shop is removed"),
        (build_shop_app(), "1.5.0", {"1.5.0": False}, ReleaseNotDeployed, "task hub v150 does not exist"),
        (build_shop_app(), "1.5.0", {"1.5.0": ProviderUnavailable("denied", 9)}, TaskHubUnavailable, r"\(denied\)"),
        (
            replace(build_shop_app(), policy=Policy(address_pattern="https://shop-*.contoso.com")),
            "1.5.0",
            {},
            AddressNotAllowed,
            "allows only addresses",
        ),
    ],
)
def test_traffic_is_refused_to(
    app: object, active: str, started: Mapping[str, bool | ProviderUnavailable], error: type[StateError], message: str
) -> None:
    with pytest.raises(error, match=message):
        put_routing(app, active, started=started)  # type: ignore[arg-type]


def test_a_release_with_traffic_keeps_it_although_the_policy_does_not_allow_its_address_any_more() -> None:
    app = replace(build_shop_app(), policy=Policy(address_pattern="https://shop-150.example"))
    assert put_routing(app, "1.4.0", CANARY).app.routing.split == CANARY


def test_only_releases_without_any_traffic_before_must_be_shown_to_have_started() -> None:
    command = RouteCommand(caller=ANNA, active="1.4.0", split=CANARY)
    assert [release.version for release in find_unproven_releases(build_shop_app(), command)] == ["1.5.0"]
    unknown = RouteCommand(caller=ANNA, active="9.9")
    assert find_unproven_releases(build_shop_app(), unknown) == ()


# The routing document


def test_the_document_has_all_releases_that_are_not_removed_with_their_states() -> None:
    document = build_document(delete_release(put_routing(build_shop_app(), "1.4.0", CANARY).app, "1.3.0").app)
    assert (document.app, document.active, document.split) == ("shop", "1.4.0", CANARY)
    assert {version: release.state for version, release in document.releases.items()} == {
        "1.3.0": ReleaseState.REMOVING,
        "1.4.0": ReleaseState.SERVING,
        "1.5.0": ReleaseState.SERVING,
    }


def test_the_document_of_an_app_with_nothing_active_sends_requests_nowhere() -> None:
    document = build_document(build_side_by_side_app(build_staged_release()))
    assert (document.active, document.split) == (None, None)
    assert build_side_by_side_app(build_staged_release()).routing.versions == ()


def test_the_revision_grows_only_if_the_document_changes() -> None:
    app = build_shop_app()
    assert publish_routing(app, replace(app, policy=Policy(settle_seconds=1)), NOON).routing == app.routing
    changed = publish_routing(app, replace(app, releases={}), NOON)
    assert (changed.routing.revision, changed.routing.updated_at) == (app.revision + 1, NOON)


def test_an_app_that_gets_releases_side_by_side_publishes_its_first_document() -> None:
    before = build_app()
    assert publish_routing(before, replace(build_side_by_side_app(), routing=Routing()), NOON).routing.revision == 4
    assert publish_routing(before, before, NOON) is before


# Routers


def test_a_router_is_forgotten_on_record() -> None:
    known = build_acknowledgement("envoy-1")
    transition = forget_known_router(build_shop_app(), "envoy-1", build_acknowledgement("envoy-0"), known)
    assert transition.forgotten_router is not None
    assert transition.forgotten_router.last == known
    assert transition.forgotten_router.remembered.is_forgotten
    assert transition.details == {"router": "envoy-1", "revision": 2}


def test_a_router_that_never_asked_cannot_be_forgotten() -> None:
    with pytest.raises(RouterNotFound, match="no router envoy-2"):
        forget_known_router(build_shop_app(), "envoy-2", build_acknowledgement("envoy-1"))
    with pytest.raises(WrongModel):
        forget_known_router(build_app(), "envoy-1", build_acknowledgement("envoy-1"))


def test_what_is_remembered_of_forgotten_routers_cannot_be_forgotten() -> None:
    remembered = build_acknowledgement(FORGOTTEN_ROUTERS)
    with pytest.raises(RouterNotFound, match="no router ~"):
        forget_known_router(build_shop_app(), FORGOTTEN_ROUTERS, remembered)
    assert re.fullmatch(ROUTER_PATTERN, FORGOTTEN_ROUTERS) is None, "no router can ask under this name"
