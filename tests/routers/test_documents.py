"""The routing document is parsed as the server sends it, and refused where a router could be misled."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from safe_deploy.client import Json
from safe_deploy.routers.documents import InvalidRoutingDocument, end_sticky_visits, parse_routing_document
from state_api.http.responses.releases import RoutingDocumentResponse
from tests.routers.examples import AT_10, KEEPING, build_document, sticky_token


def test_a_document_is_parsed_with_its_releases() -> None:
    document = parse_routing_document(AT_10)
    assert (document.app, document.revision, document.active, document.split) == (
        "shop",
        12,
        "1.5.0",
        {"1.5.0": 90, "1.6.0": 10},
    )
    release = document.releases["1.6.0"]
    assert (release.address, release.authority, release.task_hub) == (
        "https://shop160.azurewebsites.net",
        "shop160.azurewebsites.net",
        "shop160",
    )
    assert document.candidate == "1.6.0"


def test_the_members_are_those_of_the_response_of_the_server() -> None:
    response = RoutingDocumentResponse.model_validate(AT_10)
    assert RoutingDocumentResponse.model_fields.keys() == response.model_fields_set
    assert parse_routing_document(response.model_dump(mode="json", by_alias=True)) == parse_routing_document(AT_10)


def test_unknown_members_are_ignored() -> None:
    body = build_document() | {"added": 1}
    body["releases"]["1.5.0"]["added"] = 2
    assert parse_routing_document(body) == parse_routing_document(build_document())


@pytest.mark.parametrize("address", ["http://127.0.0.1:8080", "https://SHOP.example:444", "http://[::1]:80"])
def test_an_origin_is_an_address(address: str) -> None:
    body = build_document()
    body["releases"]["1.5.0"]["address"] = address
    assert parse_routing_document(body).releases["1.5.0"].address.lower() == address.lower()


def _with_release(**members: object) -> Callable[[Json], object]:
    """A change of the document: these members of release 1.5.0."""
    return lambda body: body["releases"]["1.5.0"].update(members)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda body: body.pop("app"), id="no app"),
        pytest.param(lambda body: body.update(app="shop/../other"), id="app that is a path"),
        pytest.param(lambda body: body.update(revision="12"), id="revision that is text"),
        pytest.param(lambda body: body.update(revision=True), id="revision that is a truth value"),
        pytest.param(lambda body: body.update(active="9.9.9"), id="active release that does not exist"),
        pytest.param(lambda body: body.update(split={"1.5.0": 90, "9.9.9": 10}), id="split with an unknown release"),
        pytest.param(lambda body: body.update(split={"1.5.0": 90, "1.6.0": 20}), id="split beyond 100"),
        pytest.param(lambda body: body.update(split={"1.5.0": 100}), id="split of one"),
        pytest.param(lambda body: body.update(split={"1.5.0": 100, "1.6.0": 0}), id="split with nothing"),
        pytest.param(lambda body: body.update(split={"1.6.0": 90, "1.7.0": 10}), id="split without the active release"),
        pytest.param(lambda body: body.update(split=[1]), id="split that is a list"),
        pytest.param(lambda body: body.update(releases=[]), id="releases that are a list"),
        pytest.param(lambda body: body["sticky"].update(cookie="a; b"), id="cookie name with a separator"),
        pytest.param(lambda body: body["sticky"].update(maxAgeSeconds="1; Domain=x"), id="age with an attribute"),
        pytest.param(lambda body: body["override"].update(header="X\r\nY"), id="header name with a line break"),
        pytest.param(_with_release(state="Sleeping"), id="unknown state"),
        pytest.param(_with_release(address="ftp://shop.example"), id="address of another scheme"),
        pytest.param(_with_release(address="https://shop.example/path"), id="address with a path"),
        pytest.param(_with_release(address="https://user@shop.example"), id="address with a user"),
        pytest.param(_with_release(address="https://shop.example:99999"), id="address with a wrong port"),
        pytest.param(_with_release(address="https://shop.example\r\nX: y"), id="address with a line break"),
        pytest.param(_with_release(address=None), id="no address"),
        pytest.param(_with_release(taskHub="a.*"), id="task hub that is a pattern"),
        pytest.param(_with_release(taskHub="SHOP140"), id="task hub of another release"),
        pytest.param(_with_release(stickyToken="short"), id="short token"),
        pytest.param(_with_release(stickyToken="a" * 20 + "\r\n"), id="token with a line break"),
        pytest.param(_with_release(stickyToken=sticky_token("1.6.0")), id="token of another release"),
        pytest.param(_with_release(stickyUntil="soon"), id="time that is none"),
        pytest.param(lambda body: body["releases"].update({"a b": body["releases"]["1.5.0"]}), id="wrong version"),
    ],
)
def test_a_wrong_member_is_refused(change: Callable[[Json], object]) -> None:
    body = build_document()
    change(body)
    with pytest.raises(InvalidRoutingDocument):
        parse_routing_document(body)


def test_the_message_about_a_wrong_token_does_not_show_it() -> None:
    body = build_document()
    _with_release(overrideToken="secret-token!")(body)
    with pytest.raises(InvalidRoutingDocument) as refused:
        parse_routing_document(body)
    assert "secret" not in refused.value.message


def test_sticky_visits_end_at_their_time() -> None:
    document = parse_routing_document(KEEPING)
    until = document.releases["1.4.0"].sticky_until
    assert until == datetime(2199, 1, 1, tzinfo=UTC)
    assert end_sticky_visits(document, datetime(2198, 1, 1, tzinfo=UTC)) == document
    assert end_sticky_visits(document, until).releases["1.4.0"].sticky_until is None
