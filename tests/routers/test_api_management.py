"""The policy of API Management routes every example of the table as the rules do, and when the server fails, by the
last document that it knows."""

import functools
from pathlib import Path
from xml.etree import ElementTree

from safe_deploy.client import Json
from safe_deploy.routers.api_management import MAX_POLICY_BYTES, render_policy
from safe_deploy.routers.documents import parse_routing_document
from safe_deploy.routers.rules import RoutedRequest, route
from tests.routers.examples import (
    ACTIVE,
    AT_10,
    BUCKET_COOKIES,
    DOCUMENTS,
    DOT_SEGMENT_TARGETS,
    DRAWN,
    EXAMPLES,
    NONE_ACTIVE,
    Example,
    build_document,
    override_token,
    visit,
)
from tests.routers.policy_check import SERVER, PolicyResult, build_case, run_policy

_MANAGEMENT = "/runtime/webhooks/durabletask/instances/a?taskHub="
_OTHER_ACTIVE = build_document(active="1.6.0")


def _policy(document: Json = ACTIVE) -> str:
    """The policy for this routing document."""
    return render_policy(parse_routing_document(document), server_url=SERVER)


def _address(version: str) -> str:
    """The address of the release with this version."""
    address: str = ACTIVE["releases"][version]["address"]
    return address


def _respond(document: Json) -> Json:
    """The state server's response with this routing document."""
    return {"status": 200, "body": document}


def _describe_difference(example: Example, result: PolicyResult) -> str | None:
    """How the result differs from the example; None if it does not."""
    version, set_cookie = example.version, example.set_cookie
    if set_cookie == DRAWN:
        bucket = int((result.set_cookies or ("=x.00;",))[0].partition(";")[0].rpartition(".")[2])
        document = parse_routing_document(DOCUMENTS[example.document])
        routed = route(
            document, RoutedRequest(example.target, example.headers, example.method), functools.partial(int, bucket)
        )
        version, set_cookie = routed.version, routed.set_cookie
    expected = (example.status, _address(version) if version else None, (set_cookie,) if set_cookie else ())
    actual = (result.status, result.address, result.set_cookies)
    return None if actual == expected else f"{example.name}: {actual}, expected {expected}"


def test_the_policy_routes_the_examples(tmp_path: Path) -> None:
    cases = [
        # The cache of the previous request has expired.
        build_case(
            100 * number, _respond(DOCUMENTS[example.document]), example.target, example.headers, method=example.method
        )
        for number, example in enumerate(EXAMPLES)
    ]
    results = run_policy(_policy(), cases, tmp_path)
    differences = [_describe_difference(example, result) for example, result in zip(EXAMPLES, results, strict=True)]
    assert [difference for difference in differences if difference] == []


def test_no_call_leads_to_a_function_of_a_draining_release(tmp_path: Path) -> None:
    cases = [build_case(0, _respond(ACTIVE), target) for target in DOT_SEGMENT_TARGETS]
    results = run_policy(_policy(), cases, tmp_path)
    assert len(results) == len(DOT_SEGMENT_TARGETS)
    assert _address("1.4.0") not in {result.address for result in results}


def test_a_bucket_has_the_same_release_as_by_the_rules(tmp_path: Path) -> None:
    document = parse_routing_document(DOCUMENTS["at 50"])
    routed = [route(document, RoutedRequest("/", [("Cookie", cookie)]), lambda: 0) for cookie in BUCKET_COOKIES]
    cases = [build_case(0, _respond(DOCUMENTS["at 50"]), "/", [("Cookie", cookie)]) for cookie in BUCKET_COOKIES]
    results = run_policy(_policy(), cases, tmp_path)
    assert [(result.address, next(iter(result.set_cookies), None)) for result in results] == [
        (_address(expected.version or ""), expected.set_cookie) for expected in routed
    ]


def test_the_policy_draws_all_buckets_alike(tmp_path: Path) -> None:
    results = run_policy(_policy(), [build_case(0, _respond(DOCUMENTS["at 20"]))] * 500, tmp_path)
    # With a share of 20 %, a number outside is drawn less than once in a million runs.
    assert 55 <= sum(result.address == _address("1.6.0") for result in results) <= 148
    assert len({result.set_cookies for result in results}) > 80


def test_the_document_is_fetched_once_in_fifteen_seconds(tmp_path: Path) -> None:
    cases = [build_case(now, _respond(ACTIVE if now < 14 else _OTHER_ACTIVE)) for now in (0, 1, 14, 16, 17)]
    results = run_policy(_policy(), cases, tmp_path)
    assert [result.has_fetched for result in results] == [True, False, False, True, False]
    assert [result.address for result in results] == [_address("1.5.0")] * 3 + [_address("1.6.0")] * 2


_FAILURES: dict[str, Json | None] = {
    "gone or slow": None,
    "failing": {"status": 503, "body": {"code": "StorageUnavailable"}},
    "refusing": {"status": 401, "body": {}},
    "another page": {"status": 200, "body": "<html>Sign in</html>"},
    "a list": {"status": 200, "body": "[]"},
    "another app": {"status": 200, "body": {"app": "other", "releases": {}}},
    "no app": {"status": 200, "body": {"releases": {}}},
    "no releases": {"status": 200, "body": {"app": "shop", "releases": None}},
}
"""How a server fails. All are tested in one run, which compiles the policy once; two days are between them."""
_TWO_DAYS = 2 * 86_400


def test_an_app_that_is_created_again_in_another_case_is_followed(tmp_path: Path) -> None:
    """The server knows it in any case, and its document has the new one. So has a policy that is rendered again, and
    that must find the document of the one before."""
    created_again = _OTHER_ACTIVE | {"app": "SHOP"}
    results = run_policy(
        _policy(), [build_case(0, _respond(ACTIVE)), build_case(3600, _respond(created_again))], tmp_path
    )
    assert [result.address for result in results] == [_address("1.5.0"), _address("1.6.0")]
    assert _policy(ACTIVE | {"app": "SHOP"}) == _policy().replace("/apps/shop/", "/apps/SHOP/")


def test_a_failure_is_remembered_for_five_seconds(tmp_path: Path) -> None:
    cases = [
        build_case(number * _TWO_DAYS + now, failure)
        for number, failure in enumerate(_FAILURES.values())
        for now in (0, 1, 4, 6)
    ]
    results = run_policy(_policy(), cases, tmp_path)
    assert [result.has_fetched for result in results] == [True, False, False, True] * len(_FAILURES)
    assert {result.address for result in results} == {_address("1.5.0")}


def test_the_last_document_is_used_for_a_day(tmp_path: Path) -> None:
    expected = ["1.6.0", "1.6.0", "1.7.0", "1.6.0", "1.5.0", "1.6.0"]
    cases: list[Json] = []
    for number, failure in enumerate(_FAILURES.values()):
        start = number * _TWO_DAYS * 2
        cases += [
            build_case(start, _respond(_OTHER_ACTIVE)),
            build_case(start + 16, failure),
            build_case(start + 17, failure, "/", [("X-Release-Override", override_token("1.7.0"))]),
            build_case(start + 86_000, failure),
            build_case(start + 86_401, failure),
            build_case(start + 86_420, _respond(_OTHER_ACTIVE)),
        ]
    results = run_policy(_policy(), cases, tmp_path)
    addresses = {
        name: [result.address for result in results[6 * number : 6 * number + 6]]
        for number, name in enumerate(_FAILURES)
    }
    assert addresses == {name: [_address(version) for version in expected] for name in _FAILURES}


def test_without_a_document_the_active_release_of_the_rendering_gets_all_but_foreign_task_hubs(tmp_path: Path) -> None:
    """Those are unknown rather than gone: a client that gets 410 gives up."""
    cases = [
        build_case(0, None, "/orders", [("Cookie", visit("1.6.0", "05"))]),
        build_case(1, None, "/orders", [("X-Release-Override", override_token("1.7.0"))]),
        build_case(2, None, f"{_MANAGEMENT}SHOP150"),
        build_case(3, None, f"{_MANAGEMENT}shop140"),
    ]
    results = run_policy(_policy(AT_10), cases, tmp_path)
    assert [result.address for result in results] == [_address("1.5.0")] * 3 + [None]
    assert [result.status for result in results] == [None, None, None, 503]
    assert {result.set_cookies for result in results} == {()}


def test_without_a_document_and_an_active_release_the_policy_responds_unavailable(tmp_path: Path) -> None:
    (result,) = run_policy(_policy(NONE_ACTIVE), [build_case(0, None)], tmp_path)
    assert result.status == 503


def test_the_release_learns_the_name_that_the_visitor_has_used(tmp_path: Path) -> None:
    (result,) = run_policy(_policy(), [build_case(0, _respond(ACTIVE))], tmp_path)
    assert result.request_headers["X-Forwarded-Host"] == ["api.example"]


def test_a_visitor_cannot_choose_the_name_that_the_release_learns(tmp_path: Path) -> None:
    forged = [("X-Forwarded-Host", "attacker.example"), ("Forwarded", "host=attacker.example")]
    (result,) = run_policy(_policy(), [build_case(0, _respond(ACTIVE), "/orders", forged)], tmp_path)
    assert result.request_headers["X-Forwarded-Host"] == ["api.example"]
    assert "Forwarded" not in result.request_headers


def test_the_policy_is_small_and_has_neither_key_nor_tokens() -> None:
    largest = build_document(active="v" * 64)
    largest["releases"]["v" * 64] = largest["releases"].pop("1.5.0") | {
        "address": f"https://{'a' * 200}.azurewebsites.net",
        "state": "Serving",
    }
    policy = _policy(largest | {"app": "a" * 60})
    assert len(policy.encode()) <= MAX_POLICY_BYTES
    assert "sticky-" not in policy
    assert "override-1" not in policy
    assert "<value>{{safe-deploy-router-key}}</value>" in policy


def test_the_policy_is_xml_with_its_limits_of_time() -> None:
    root = ElementTree.fromstring(_policy())  # noqa: S314  # our own text
    (fetch,) = root.iter("send-request")
    assert (fetch.get("timeout"), fetch.get("ignore-error")) == ("2", "true")
