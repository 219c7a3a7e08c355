"""Since when a router sends nothing to a release: later revisions do not begin that time anew, older ones do."""

from dataclasses import replace

import pytest

from state_api.domain.instants import Instant
from state_api.domain.readiness.policy import Policy
from state_api.domain.releases.apps import App
from state_api.domain.releases.side_by_side.acknowledgements import (
    acknowledge_revision,
    find_closing_change,
    find_stopped_since,
)
from state_api.domain.releases.side_by_side.releases import RouterAcknowledgement
from tests.domain.builders import noon_plus
from tests.domain.release_transitions import build_shop_app, post_release, put_routing, remember_forgotten

PROMOTED = put_routing(build_shop_app(), "1.5.0").app
"""At noon, routing revision 4 has taken the traffic of 1.4.0 away. 1.3.0 has lost it with revision 2."""
STICKY = put_routing(replace(build_shop_app(), policy=Policy(sticky_after_promotion=True)), "1.5.0").app
REGISTERED = post_release(PROMOTED, "1.6.0", now=noon_plus(3600)).app
"""Revision 5 adds a release, an hour later."""


def acknowledge(app: App, *requests: tuple[int, float]) -> RouterAcknowledgement:
    """What a router has acknowledged after requests with these revisions, so many seconds after noon."""
    acknowledgement: RouterAcknowledgement | None = None
    for revision, at in requests:
        acknowledgement = acknowledge_revision(app, acknowledgement, "envoy-1", revision, noon_plus(at))
    assert acknowledgement is not None
    return acknowledgement


def find_stop(app: App, version: str, acknowledgement: RouterAcknowledgement) -> Instant | None:
    """Since when the router sends nothing to the release."""
    release = app.releases[version]
    change = find_closing_change(release)
    assert change is not None
    return find_stopped_since(acknowledgement, release, change)


@pytest.mark.parametrize(
    ("version", "requests", "expected"),
    [
        ("1.4.0", [(4, 10)], 10),
        ("1.4.0", [(4, 10), (4, 500)], 10),
        ("1.4.0", [(4, 10), (5, 3700)], 10),
        ("1.4.0", [(3, 0), (5, 3700)], 3700),
        ("1.4.0", [(4, 10), (3, 20)], None),
        ("1.4.0", [(4, 10), (3, 20), (4, 30)], 30),
        ("1.4.0", [(5, 10), (4, 20), (5, 30)], 10),
        ("1.4.0", [(4, 10), (0, 20), (5, 30)], 30),
        ("1.3.0", [(2, -500), (4, 10), (3, 20), (5, 30)], -500),
        ("1.3.0", [(2, -500), (0, 20), (5, 30)], 30),
    ],
)
def test_only_an_older_revision_begins_the_time_anew(
    version: str, requests: list[tuple[int, float]], expected: float | None
) -> None:
    stop = find_stop(REGISTERED, version, acknowledge(REGISTERED, *requests))
    assert stop == (None if expected is None else noon_plus(expected))


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ([(4, 10)], None),
        ([(4, 10), (4, 3659)], None),
        ([(4, 10), (4, 3660)], 3660),
        ([(4, 10), (4, 3660), (4, 9000)], 3660),
        ([(4, 3700), (4, 9000)], 3700),
        ([(4, 3700), (3, 8000), (4, 9000)], 9000),
    ],
)
def test_a_router_must_ask_again_when_the_visitors_of_a_release_have_left(
    requests: list[tuple[int, float]], expected: float | None
) -> None:
    stop = find_stop(STICKY, "1.4.0", acknowledge(STICKY, *requests))
    assert stop == (None if expected is None else noon_plus(expected))


def test_a_release_that_got_traffic_again_begins_anew() -> None:
    acknowledgement = acknowledge(PROMOTED, (4, 10))
    back = put_routing(PROMOTED, "1.4.0", now=noon_plus(100)).app
    again = put_routing(back, "1.5.0", now=noon_plus(200)).app
    assert find_stop(again, "1.4.0", acknowledgement) is None
    acknowledgement = acknowledge_revision(again, acknowledgement, "envoy-1", 6, noon_plus(210))
    assert find_stop(again, "1.4.0", acknowledgement) == noon_plus(210)


def test_a_confirmed_revision_counts_for_a_release_that_was_not_known_then() -> None:
    """The app was read before its release lost its traffic, and the acknowledgement was written after that."""
    acknowledgement = RouterAcknowledgement("envoy-1", 4, noon_plus(10), noon_plus(10))
    assert find_stop(PROMOTED, "1.4.0", acknowledgement) == noon_plus(10)


def test_nothing_is_kept_of_releases_that_are_gone() -> None:
    acknowledgement = acknowledge(PROMOTED, (4, 10))
    assert {stop.revision for stop in acknowledgement.stops} == {2, 4}
    removed = replace(PROMOTED, releases={"1.5.0": PROMOTED.releases["1.5.0"]})
    assert acknowledge_revision(removed, acknowledgement, "envoy-1", 4, noon_plus(20)).stops == ()


# Forgotten routers


@pytest.mark.parametrize(
    ("app", "version", "requests", "expected"),
    [
        (PROMOTED, "1.4.0", [(4, 10)], 10),
        (PROMOTED, "1.4.0", [(3, 10)], 500),
        (PROMOTED, "1.4.0", [(4, 10), (3, 20)], 500),
        (PROMOTED, "1.3.0", [(2, -500), (3, 10)], -500),
        (PROMOTED, "1.3.0", [(0, 10)], 500),
        (STICKY, "1.4.0", [(4, 10)], 500),
    ],
)
def test_a_router_that_had_not_stopped_may_have_sent_requests_until_it_was_forgotten(
    app: App, version: str, requests: list[tuple[int, float]], expected: float
) -> None:
    remembered = remember_forgotten(app, acknowledge(app, *requests), now=noon_plus(500))
    assert find_stop(app, version, remembered) == noon_plus(expected)


def test_the_last_of_all_forgotten_routers_counts() -> None:
    """Each release has a time of its own, so one that has drained does not wait again."""
    behind = replace(acknowledge(PROMOTED, (3, 10)), router="envoy-0")
    remembered = remember_forgotten(PROMOTED, behind, now=noon_plus(500))
    assert (find_stop(PROMOTED, "1.4.0", remembered), find_stop(PROMOTED, "1.3.0", remembered)) == (
        noon_plus(500),
        noon_plus(10),
    )
    stopped_earlier = remember_forgotten(PROMOTED, acknowledge(PROMOTED, (4, 20)), remembered, now=noon_plus(600))
    assert find_stop(PROMOTED, "1.4.0", stopped_earlier) == noon_plus(500)
    stopped_later = remember_forgotten(
        PROMOTED, acknowledge(PROMOTED, (4, 550)), remembered, behind, now=noon_plus(600)
    )
    assert find_stop(PROMOTED, "1.4.0", stopped_later) == noon_plus(550)


def test_routers_that_were_forgotten_before_a_change_leave_no_time_for_it() -> None:
    remembered = remember_forgotten(build_shop_app(), acknowledge(build_shop_app(), (0, -10)), now=noon_plus(-5))
    assert find_stop(build_shop_app(), "1.3.0", remembered) == noon_plus(-5)
    assert find_stop(PROMOTED, "1.4.0", remembered) is None


def test_no_time_is_kept_for_releases_that_are_gone_or_have_traffic() -> None:
    remembered = remember_forgotten(PROMOTED, acknowledge(PROMOTED, (0, 10)), now=noon_plus(500))
    assert {stop.revision for stop in remembered.stops} == {2, 4}
    removed = replace(PROMOTED, releases={"1.5.0": PROMOTED.releases["1.5.0"]})
    assert remember_forgotten(removed, acknowledge(removed, (0, 10)), remembered, now=noon_plus(600)).stops == ()
