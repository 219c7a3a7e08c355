"""A real Envoy routes every example of the table as the rules do."""

import functools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.envoy import run_envoy, validate
from harness.processes import free_port
from safe_deploy.client import Json
from safe_deploy.routers.documents import parse_routing_document
from safe_deploy.routers.envoy import CLUSTERS_FILE, render_configuration
from safe_deploy.routers.rules import RoutedRequest, route
from tests.routers.certificates import build_server_context, create_certificate
from tests.routers.envoy_process import run_envoy_for, write_configuration
from tests.routers.examples import (
    ACTIVE,
    BUCKET_COOKIES,
    DOCUMENTS,
    DOT_SEGMENT_TARGETS,
    DRAWN,
    EXAMPLES,
    NAMES,
    Example,
    build_document,
    set_cookie,
    visit,
)
from tests.routers.upstreams import Reply, run_release, run_releases, send, with_addresses


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, str]]:
    """The addresses of running upstreams, one for each release."""
    with run_releases(list(NAMES)) as running:
        yield running


def _describe_difference(example: Example, document: Json, reply: Reply) -> str | None:
    """How the reply differs from the example; None if it does not."""
    if example.set_cookie == DRAWN:
        bucket = int((reply.set_cookies or ("=x.00;",))[0].partition(";")[0].rpartition(".")[2])
        routed = route(
            parse_routing_document(document),
            RoutedRequest(example.target, example.headers, example.method),
            functools.partial(int, bucket),
        )
    else:
        routed = None
    version = routed.version if routed else example.version
    set_cookie = routed.set_cookie if routed else example.set_cookie
    expected = (example.status or 200, version, (set_cookie,) if set_cookie else ())
    actual = (reply.status, reply.release, reply.set_cookies)
    return None if actual == expected else f"{example.name}: {actual}, expected {expected}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_envoy_routes_the_examples_of_a_document(name: str, addresses: dict[str, str], tmp_path: Path) -> None:
    document = with_addresses(DOCUMENTS[name], addresses)
    examples = [example for example in EXAMPLES if example.document == name]
    assert examples
    with run_envoy_for(document, tmp_path) as running:
        replies = [send(running.port, example.target, example.headers, method=example.method) for example in examples]
    differences = [
        _describe_difference(example, document, reply) for example, reply in zip(examples, replies, strict=True)
    ]
    assert [difference for difference in differences if difference] == []


def test_no_call_leads_to_a_function_of_a_draining_release(addresses: dict[str, str], tmp_path: Path) -> None:
    with run_envoy_for(with_addresses(ACTIVE, addresses), tmp_path) as running:
        replies = {target: send(running.port, target, method="GET").status for target in DOT_SEGMENT_TARGETS}
    assert replies == dict.fromkeys(DOT_SEGMENT_TARGETS, 410)


@pytest.mark.parametrize("name", ["at 10", "at 50"])
def test_a_bucket_has_the_same_release_as_by_the_rules(name: str, addresses: dict[str, str], tmp_path: Path) -> None:
    document = with_addresses(DOCUMENTS[name], addresses)
    parsed = parse_routing_document(document)
    routed = [route(parsed, RoutedRequest("/", [("Cookie", cookie)]), lambda: 0) for cookie in BUCKET_COOKIES]
    with run_envoy_for(document, tmp_path) as running:
        replies = [send(running.port, "/", [("Cookie", cookie)]) for cookie in BUCKET_COOKIES]
    assert [(reply.release, next(iter(reply.set_cookies), None)) for reply in replies] == [
        (expected.version, expected.set_cookie) for expected in routed
    ]


def test_envoy_draws_all_buckets_alike(addresses: dict[str, str], tmp_path: Path) -> None:
    document = with_addresses(DOCUMENTS["at 20"], addresses)
    with run_envoy_for(document, tmp_path) as running:
        replies = [send(running.port, "/") for _ in range(500)]
    shares = Counter(reply.release for reply in replies)
    # With a share of 20 %, a number outside is drawn less than once in a million runs.
    assert 55 <= shares["1.6.0"] <= 148
    assert len({reply.set_cookies for reply in replies}) > 80


@pytest.mark.parametrize("name", ["active", "at 10", "keeping visitors"])
def test_a_release_gets_its_own_name_as_host_and_the_visitors_name_beside_it(
    name: str, addresses: dict[str, str], tmp_path: Path
) -> None:
    with run_envoy_for(with_addresses(DOCUMENTS[name], addresses), tmp_path) as running:
        reply = send(running.port, "/orders?a=%2F..%20b", method="POST")
    assert reply.release is not None
    assert reply.received["headers"]["host"] == addresses[reply.release].removeprefix("http://")
    assert reply.received["headers"]["x-forwarded-host"] == "shop.example"
    assert reply.received["target"] == "/orders?a=%2F..%20b"


@pytest.mark.parametrize("name", ["active", "at 10", "keeping visitors"])
def test_a_visitor_cannot_choose_the_name_that_a_release_sees(
    name: str, addresses: dict[str, str], tmp_path: Path
) -> None:
    """A release may put it into status URLs, with the key of the management API."""
    forged = [("X-Forwarded-Host", "attacker.example"), ("Forwarded", "host=attacker.example;proto=https")]
    with run_envoy_for(with_addresses(DOCUMENTS[name], addresses), tmp_path) as running:
        reply = send(running.port, "/orders", forged, method="POST")
    assert reply.received["headers"]["x-forwarded-host"] == "shop.example"
    assert "forwarded" not in reply.received["headers"]


def test_envoy_routes_an_app_with_the_most_releases(addresses: dict[str, str], tmp_path: Path) -> None:
    document = with_addresses(build_document(split={"1.5.0": 99, "1.6.0": 1}), addresses)
    for number in range(50 - len(document["releases"])):
        document["releases"][f"2.{number}.0"] = document["releases"]["1.7.0"] | {
            "taskHub": f"t{number:044}",
            "stickyToken": f"sticky-2{number:030}",
            "overrideToken": f"override-2{number:030}",
        }
    with run_envoy_for(document, tmp_path) as running:
        management = send(running.port, f"/runtime/webhooks/durabletask/instances/a?taskHub=t{45:044}")
        moved = send(running.port, "/", [("Cookie", visit("1.6.0", "99"))])
    assert management.release == "1.7.0"
    assert moved.set_cookies == (set_cookie("1.5.0", "99"),)


def test_envoy_accepts_its_own_configuration_without_warnings_of_deprecation(tmp_path: Path) -> None:
    write_configuration(tmp_path, DOCUMENTS["at 10"], port=8080)
    result = validate(tmp_path)
    assert result.returncode == 0, result.stderr
    assert "deprecated" not in result.stderr.lower()


def test_the_certificates_of_the_system_are_trusted() -> None:
    clusters = render_configuration(parse_routing_document(build_document())).clusters
    assert Path(_validation_of(clusters["1.5.0"])["trusted_ca"]["filename"]).name == "ca-certificates.crt"


def _validation_of(cluster: Json) -> Json:
    """How the cluster checks the certificate of its release."""
    validation: Json = cluster["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"]
    return validation


def test_idle_connections_end_before_azure_ends_them() -> None:
    (options,) = (
        render_configuration(parse_routing_document(ACTIVE))
        .clusters["1.5.0"]["typed_extension_protocol_options"]
        .values()
    )
    assert options["common_http_protocol_options"] == {"idle_timeout": "60s"}


@pytest.mark.parametrize(("host", "status"), [("localhost", 200), ("other.example", 503)])
def test_an_https_release_must_have_a_certificate_of_its_own_name(
    host: str, status: int, addresses: dict[str, str], tmp_path: Path
) -> None:
    certificate = create_certificate(tmp_path, host)
    with run_release("1.5.0", build_server_context(certificate)) as address:
        port = free_port()
        write_configuration(tmp_path, with_addresses(ACTIVE, addresses | {"1.5.0": address}), port=port)
        clusters = json.loads((tmp_path / CLUSTERS_FILE).read_text())
        (secured,) = (cluster for cluster in clusters["resources"] if "transport_socket" in cluster)
        # The test's certificate in the place of those of the system.
        _validation_of(secured)["trusted_ca"]["filename"] = str(certificate)
        (tmp_path / CLUSTERS_FILE).write_text(json.dumps(clusters))
        with run_envoy(tmp_path, port):
            reply = send(port, "/")
    assert reply.status == status
    if status == 200:
        assert reply.received["headers"]["host"] == address.removeprefix("https://")
