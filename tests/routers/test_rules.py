"""The rules that choose the release of a request: the table of examples, and what holds for every request."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_deploy.routers.documents import RoutingDocument, end_sticky_visits, parse_routing_document
from safe_deploy.routers.rules import Routed, RoutedRequest, route
from tests.routers.examples import (
    DOCUMENTS,
    DOT_SEGMENT_TARGETS,
    DRAWN,
    EXAMPLES,
    Example,
    build_document,
    set_cookie,
    visit,
)

_NOW = datetime(2026, 11, 27, tzinfo=UTC)
_VISITED = ("1.5.0", "1.6.0")


def _current_document(name: str) -> RoutingDocument:
    """The example document with this name, as it is at the test's time."""
    return end_sticky_visits(parse_routing_document(DOCUMENTS[name]), _NOW)


def _split(share: int) -> RoutingDocument:
    """A document in which release 1.6.0 gets this share, in percent."""
    return parse_routing_document(build_document(split={"1.5.0": 100 - share, "1.6.0": share}))


def _draw_nothing() -> int:
    """Fail if a bucket is drawn."""
    raise AssertionError("a bucket is drawn although the request decides")


def _draw(bucket: int) -> Callable[[], int]:
    """A draw that always gives this bucket."""
    return lambda: bucket


def test_the_examples_have_names_of_their_own() -> None:
    assert len({example.name for example in EXAMPLES}) == len(EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_rules_route_the_example(example: Example) -> None:
    document = _current_document(example.document)
    request = RoutedRequest(example.target, example.headers, example.method)
    if example.set_cookie == DRAWN:
        for bucket in range(100):
            version = "1.6.0" if bucket < 10 else "1.5.0"
            if example.document == "next candidate":
                version = "1.7.0" if bucket < 10 else "1.5.0"
            expected = Routed(version, set_cookie=set_cookie(version, f"{bucket:02}"))
            assert route(document, request, _draw(bucket)) == expected
    else:
        expected = Routed(example.version, example.status, example.set_cookie)
        assert route(document, request, _draw_nothing) == expected


@pytest.mark.parametrize("target", DOT_SEGMENT_TARGETS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_call_leads_to_a_function_of_a_draining_release(target: str, method: str) -> None:
    request = RoutedRequest(target, method=method)
    assert route(_current_document("active"), request, _draw_nothing) == Routed(None, 410)


@given(
    shares=st.lists(st.integers(1, 99), min_size=2, max_size=5).map(sorted),
    bucket=st.integers(0, 99),
)
def test_growing_a_share_moves_no_visitor_back(shares: list[int], bucket: int) -> None:
    """The visitor sends back the cookie that the routers have set last."""
    cookie = ""
    versions = []
    for share in shares:
        request = RoutedRequest("/", [("Cookie", cookie)])
        routed = route(_split(share), request, _draw(bucket))
        cookie = (routed.set_cookie or cookie).partition(";")[0]
        versions.append(routed.version)
    assert versions == sorted(versions, key=lambda version: version == "1.6.0")


@given(share=st.integers(1, 99), bucket=st.integers(0, 99), token_of=st.sampled_from(_VISITED))
def test_a_bucket_has_the_same_release_with_every_cookie_and_when_it_is_drawn(
    share: int, bucket: int, token_of: str
) -> None:
    document = _split(share)
    drawn = route(document, RoutedRequest("/"), _draw(bucket))
    request = RoutedRequest("/", [("Cookie", visit(token_of, f"{bucket:02}"))])
    assert route(document, request, _draw_nothing).version == drawn.version


@given(share=st.integers(1, 99))
def test_a_split_gives_each_release_its_share_of_the_buckets(share: int) -> None:
    drawn = [route(_split(share), RoutedRequest("/"), _draw(bucket)).version for bucket in range(100)]
    assert (drawn.count("1.6.0"), drawn.count("1.5.0")) == (share, 100 - share)


@given(cookie=st.text(), header=st.text(), target=st.text())
def test_only_known_tokens_choose_a_release(cookie: str, header: str, target: str) -> None:
    request = RoutedRequest(target, [("Cookie", cookie), ("X-Release-Override", header)])
    assert route(_current_document("active"), request, _draw_nothing) in (Routed("1.5.0"), Routed(None, 410))


def test_a_visitor_who_has_moved_on_is_not_sent_back_when_the_old_release_keeps_its_visitors() -> None:
    """The cookie of the old release is replaced when the share grows. Otherwise the promotion would move them back."""
    at_20 = _split(20)
    moved = route(at_20, RoutedRequest("/", [("Cookie", visit("1.5.0", "15"))]), _draw_nothing)
    assert moved.set_cookie is not None
    promoted = build_document(active="1.6.0")
    promoted["releases"]["1.5.0"] |= {"state": "Draining", "stickyUntil": "2199-01-01T00:00:00.0000000Z"}
    request = RoutedRequest("/", [("Cookie", moved.set_cookie.partition(";")[0])])
    assert route(parse_routing_document(promoted), request, _draw_nothing).version == "1.6.0"
