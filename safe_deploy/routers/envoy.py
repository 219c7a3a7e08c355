"""The routing document as configuration of Envoy (1.37 or newer, for cookie matchers). No code runs in Envoy: each
bucket of a split is a weighted entry with a Set-Cookie header of its own."""

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from safe_deploy.client import Json
from safe_deploy.routers.documents import RoutedRelease, RoutingDocument
from safe_deploy.routers.patterns import (
    build_coded_separator_pattern,
    build_control_pattern,
    build_dot_segment_pattern,
    build_management_path_pattern,
    build_purge_pattern,
    build_starts_pattern,
    build_task_hub_pattern,
)
from safe_deploy.routers.rules import (
    BUCKETS,
    GONE,
    READING_METHODS,
    UNAVAILABLE,
    format_sticky_cookie,
    format_visit,
    list_overridable_releases,
    list_sticky_releases,
)

ROUTE_CONFIGURATION = "routes"
"""The name by which the listener finds its routes."""

RESPONSE_TIMEOUT = "240s"
"""A little longer than Azure gives an HTTP function to respond (230 s)."""

_ROUTES_TYPE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_CLUSTER_TYPE = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
_TLS_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_PROTOCOL_TYPE = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_MANAGER_TYPE = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER_TYPE = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_SYSTEM_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
"""Where Envoy's images, which are Debian and Ubuntu, have the certificate authorities of the system."""


@dataclass(frozen=True, slots=True)
class EnvoyConfiguration:
    """What Envoy routes by. `clusters`: one for each release, by name. `with_traffic`: those to which visitors come."""

    revision: int
    routes: Json
    clusters: dict[str, Json]
    with_traffic: frozenset[str]

    @property
    def routes_version(self) -> str:
        """Differs between any two routes, so that Envoy's own report of it proves which ones are in use."""
        return f"{self.revision}-{_digest(self.routes)}"


def render_configuration(document: RoutingDocument) -> EnvoyConfiguration:
    """Render a current document: see `documents.end_sticky_visits`."""
    routes = {
        "@type": _ROUTES_TYPE,
        "name": ROUTE_CONFIGURATION,
        "virtual_hosts": [
            {
                "name": document.app,
                "domains": ["*"],
                "request_headers_to_remove": ["Forwarded"],
                "routes": list(_render_routes(document)),
            }
        ],
    }
    clusters = {release.version: _render_cluster(release) for release in document.releases.values()}
    with_traffic = frozenset(filter(document.has_traffic, clusters))
    return EnvoyConfiguration(document.revision, routes, clusters, with_traffic)


def render_routes_file(configuration: EnvoyConfiguration) -> Json:
    """The content of the file from which Envoy reads its routes. `version_info` lets Envoy's admin page show which it
    has."""
    return {"version_info": configuration.routes_version, "resources": [configuration.routes]}


def render_clusters_file(clusters: dict[str, Json]) -> Json:
    """The file with these clusters. Its version is a digest of them."""
    return {"version_info": _digest(clusters), "resources": [clusters[name] for name in sorted(clusters)]}


def _digest(value: Any) -> str:
    """A short text that identifies a part of the configuration, as its version."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _render_routes(document: RoutingDocument) -> Iterable[Json]:
    """The routes, in the order of the rules. Envoy takes the first one that matches."""
    yield from _render_management(document.releases.values())
    overridable = list_overridable_releases(document)
    for release in overridable:
        yield _route({"headers": [_match_header(document.override_header, {"exact": release.override_token})]}, release)
    for release in overridable:
        yield _route(_match_cookie(document.override_cookie, {"exact": release.override_token}), release)
    for release in list_sticky_releases(document):
        yield _route(_match_cookie(document.sticky_cookie, _visits(release, range(BUCKETS))), release)
    if document.active is None:
        yield _render_response({}, UNAVAILABLE, "No release is active.\n")
    elif document.split is None:
        yield _route({}, document.releases[document.active])
    else:
        yield from _render_split(document)


def _render_management(releases: Collection[RoutedRelease]) -> Iterable[Json]:
    """The routes of calls to the management API that name a task hub. Those that start orchestrations in a release that
    takes new work match none of them."""
    starts = _match_path(build_starts_pattern())
    with_new_work = [release for release in releases if release.takes_new_work]
    elsewhere = [_match_path(build_dot_segment_pattern()), _match_path(build_task_hub_pattern())]
    yield _render_response({"headers": elsewhere}, GONE, _GONE_TEXT)
    for release in releases:
        call = [_match_path(build_management_path_pattern()), _match_path(build_task_hub_pattern(release.task_hub))]
        for conditions in [[_invert(starts)]] if release.takes_new_work else _match_calls_that_start_nothing():
            yield _route({"headers": [*call, *conditions]}, release)
    unknown = [_match_path(build_management_path_pattern()), _match_path(build_task_hub_pattern())]
    known = [_invert(_match_path(build_task_hub_pattern(release.task_hub))) for release in with_new_work]
    yield _render_response({"headers": [*unknown, *known]}, GONE, _GONE_TEXT)


_GONE_TEXT = "No release with this task hub takes this call.\n"


def _match_calls_that_start_nothing() -> list[list[Json]]:
    """The conditions on calls to the management API, of which one list must be met, as `rules` decides it."""
    reading = _match_header(":method", {"safe_regex": {"regex": "|".join(READING_METHODS)}})
    deleting = _match_header(":method", {"exact": "DELETE"})
    purging, controlling = _match_path(build_purge_pattern()), _match_path(build_control_pattern())
    unambiguous = _invert(_match_path(build_coded_separator_pattern()))
    return [[reading], [deleting, purging, unambiguous], [controlling, unambiguous]]


def _render_split(document: RoutingDocument) -> Iterable[Json]:
    """The routes of a split: visitors whose cookie agrees with their bucket, new visitors, and those who move."""
    buckets = {bucket: document.release_of_bucket(bucket) for bucket in range(BUCKETS)}
    releases = [document.releases[version] for version in document.split or {}]
    for release in releases:
        own = [bucket for bucket, owner in buckets.items() if owner == release]
        yield _route(_match_cookie(document.sticky_cookie, _visits(release, own)), release)
    tokens = "|".join(release.sticky_token for release in releases)
    known = {"safe_regex": {"regex": f"(?:{tokens})\\.[0-9]{{2}}"}}
    entries = [
        {
            "name": release.version,
            "weight": 1,
            "host_rewrite_literal": release.authority,
            "request_headers_to_add": [_FORWARDED_HOST],
            "response_headers_to_add": [_set_cookie(document, release, bucket)],
        }
        for bucket, release in buckets.items()
    ]
    yield {
        "match": {"prefix": "/", "cookies": [_match_string(document.sticky_cookie, known) | {"invert_match": True}]},
        "route": {"weighted_clusters": {"clusters": entries}, **_ROUTE_OPTIONS},
    }
    for bucket, release in buckets.items():
        (left,) = (other for other in releases if other != release)
        match = _match_cookie(document.sticky_cookie, {"exact": format_visit(left, bucket)})
        yield _route(match, release) | {"response_headers_to_add": [_set_cookie(document, release, bucket)]}


_FORWARDED_HOST: Json = {
    "header": {"key": "X-Forwarded-Host", "value": "%REQ(:AUTHORITY)%"},
    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
}
"""The visitor's name for the router. A name that a visitor sends in this header or in `Forwarded` must not reach a
release, which may put it into status URLs together with a key."""

_ROUTE_OPTIONS: Json = {
    "timeout": RESPONSE_TIMEOUT,
    # Both conditions mean that the app has not received the request, so a retry cannot start work twice.
    "retry_policy": {"retry_on": "connect-failure,reset-before-request", "num_retries": 2},
}


def _route(match: Json, release: RoutedRelease) -> Json:
    """Requests that match go to this release, under its own host name, which Azure requires."""
    return {
        "match": {"prefix": "/", **match},
        "route": {
            "cluster": release.version,
            "host_rewrite_literal": release.authority,
            **_ROUTE_OPTIONS,
        },
        "request_headers_to_add": [_FORWARDED_HOST],
    }


def _render_response(match: Json, status: int, text: str) -> Json:
    """A route on which Envoy itself answers with this status and text."""
    return {
        "match": {"prefix": "/", **match},
        "direct_response": {"status": status, "body": {"inline_string": text}},
    }


def _match_path(pattern: str) -> Json:
    """The condition of a route on path and query."""
    return _match_header(":path", {"safe_regex": {"regex": pattern}})


def _invert(condition: Json) -> Json:
    """The condition that is met if the other one is not."""
    return condition | {"invert_match": True}


def _visits(release: RoutedRelease, buckets: Iterable[int]) -> Json:
    """Match the sticky cookies of a release with these buckets."""
    return {"safe_regex": {"regex": f"{release.sticky_token}\\.(?:{'|'.join(f'{bucket:02}' for bucket in buckets)})"}}


def _match_cookie(name: str, string_match: Json) -> Json:
    """The condition of a route on the value of a cookie."""
    return {"cookies": [_match_string(name, string_match)]}


def _match_header(name: str, string_match: Json) -> Json:
    """The condition of a route on the value of a header."""
    return _match_string(name, string_match)


def _match_string(name: str, string_match: Json) -> Json:
    """A condition on the value with this name, in the form that headers and cookies share."""
    return {"name": name, "string_match": string_match}


def _set_cookie(document: RoutingDocument, release: RoutedRelease, bucket: int) -> Json:
    """Add the Set-Cookie header that keeps the visitor at this release and in this bucket."""
    value = format_sticky_cookie(document, release, bucket)
    return {"header": {"key": "Set-Cookie", "value": value}, "append_action": "APPEND_IF_EXISTS_OR_ADD"}


_PROTOCOL_OPTIONS: Json = {
    "@type": _PROTOCOL_TYPE,
    "explicit_http_config": {"http_protocol_options": {}},
    # Azure closes idle connections after four minutes. A request that meets a closing one could fail.
    "common_http_protocol_options": {"idle_timeout": "60s"},
}


def _render_cluster(release: RoutedRelease) -> Json:
    """The cluster of a release: its host, reached by TLS with a checked certificate if the address has https."""
    cluster: Json = {
        "@type": _CLUSTER_TYPE,
        "name": release.version,
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {_PROTOCOL_TYPE.rpartition("/")[2]: _PROTOCOL_OPTIONS},
        "load_assignment": {
            "cluster_name": release.version,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket_address(release.host, release.port)}}]}],
        },
    }
    if release.is_encrypted:
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": _TLS_TYPE,
                "sni": release.host,
                "common_tls_context": {
                    "validation_context": {
                        "trusted_ca": {"filename": _SYSTEM_CERTIFICATES},
                        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": release.host}}],
                    }
                },
            },
        }
    return cluster


def _socket_address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def render_bootstrap(*, app: str, listen: tuple[str, int], folder: str) -> Json:
    """Envoy's own configuration, which never changes. `folder` has the files that change, by its absolute path."""
    return {
        "node": {"id": "safe-deploy-router", "cluster": app},
        # A socket in the folder, so that only those who can use the folder can ask Envoy what it has loaded.
        "admin": {"address": {"pipe": {"path": f"{folder}/{ADMIN_SOCKET}", "mode": 0o666}}},
        "layered_runtime": {"layers": [{"name": "limits", "static_layer": _RUNTIME_LIMITS}]},
        "dynamic_resources": {"cds_config": _watched_file(folder, CLUSTERS_FILE)},
        "static_resources": {"listeners": [_render_listener(listen, folder)]},
    }


_RUNTIME_LIMITS: Json = {"re2.max_program_size.error_level": 10_000, "re2.max_program_size.warn_level": 10_000}
"""Envoy stops at regular expressions of more than 100 instructions. Those for task hubs in any encoding have more."""

BOOTSTRAP_FILE = "envoy.yaml"
CLUSTERS_FILE = "clusters.yaml"
ROUTES_FILE = "routes.yaml"
"""The files are JSON, which is YAML too."""
ADMIN_SOCKET = "admin.sock"


def _watched_file(folder: str, name: str) -> Json:
    """A file from which Envoy reads a part of its configuration, again after each rename in its folder."""
    return {
        "resource_api_version": "V3",
        "path_config_source": {"path": f"{folder}/{name}", "watched_directory": {"path": folder}},
    }


def _render_listener(listen: tuple[str, int], folder: str) -> Json:
    """The listener for requests, whose routes come from a file that changes while Envoy runs."""
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": _ROUTER_TYPE,
            "suppress_envoy_headers": True,
        },
    }
    manager = {
        "@type": _MANAGER_TYPE,
        "stat_prefix": "router",
        "server_header_transformation": "PASS_THROUGH",
        "rds": {"route_config_name": ROUTE_CONFIGURATION, "config_source": _watched_file(folder, ROUTES_FILE)},
        "http_filters": [router],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {"name": "requests", "address": _socket_address(*listen), "filter_chains": [{"filters": filters}]}
