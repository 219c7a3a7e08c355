"""The rules by which every router chooses the release of a request. This is their only complete definition: the
renderers express it in the language of each router, and all are tested on the same table of examples."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from safe_deploy.routers.documents import RoutedRelease, RoutingDocument

MANAGEMENT_PATH = "/runtime/webhooks/durabletask/"
"""The path of the management API of Durable Functions, without regard to case."""
STARTS_PATH = f"{MANAGEMENT_PATH}orchestrators/"
"""Requests below start orchestrations, which is new work."""
TASK_HUB_PARAMETER = "taskHub"
READING_METHODS = ("GET", "OPTIONS")
PURGE_PATTERN = f"{MANAGEMENT_PATH}instances(/[^/]*)?"
"""Matches a path in lower case. DELETE removes the history of instances that have ended there. Below `entities/` it
calls an entity, as POST does."""
# The calls for an instance that start no work: CONTROLS, and an event (EVENT_CONTROL). `restart` and `rewind` start it
# again.
CONTROLS = ("terminate", "suspend", "resume")
EVENT_CONTROL = "raiseevent/"
CONTROL_PATTERN = f"{MANAGEMENT_PATH}instances/(?!@)[^/]+/({'|'.join(CONTROLS)}|{EVENT_CONTROL}[^/]+)"
"""Matches the path of these calls in lower case. An id that begins with `@` is that of an entity, whose code can start
orchestrations."""

# An app, and what is before it, can take a backslash for a slash, and decode a path more than once. `%25` is `%`.
CODED_SEPARATOR = r"(?:\\|%(?:25)*(?:2f|5c))"
"""Matches a backslash, or a separator that is still encoded, in a path in lower case."""
_SEPARATOR = f"(?:/|{CODED_SEPARATOR})"
DOT_SEGMENT_PATTERN = rf"{_SEPARATOR}(?:\.|%(?:25)*2e){{1,2}}(?:{_SEPARATOR}|$)"
"""Is found in a decoded path in lower case if it has a segment `.` or `..`. Such a path leads elsewhere in the app than
it reads: `instances/../orchestrators/` starts orchestrations."""
BUCKETS = 100

GONE = 410
"""The status of a management call for an unknown task hub, because an app that got the call would create that task hub.
Also that of a call that can start work in a release that takes no new work, or may lead to another path in the app."""
UNAVAILABLE = 503
"""The status while no release is active."""


@dataclass(frozen=True, slots=True)
class RoutedRequest:
    """The parts of a request that routing depends on. `target` is path and query, as sent."""

    target: str
    headers: Sequence[tuple[str, str]] = ()
    method: str = "GET"


@dataclass(frozen=True, slots=True)
class Routed:
    """Where a request goes. Without `version`, the router responds with `status` itself. `set_cookie` is a header of
    the response."""

    version: str | None
    status: int | None = None
    set_cookie: str | None = None


def route(document: RoutingDocument, request: RoutedRequest, draw: Callable[[], int]) -> Routed:
    """Choose the release of a request.

    `document` must be current: see `documents.end_sticky_visits`. `draw` returns a random bucket, 0 to 99.
    """
    if has_dot_segment(request.target) and _read_task_hub(request.target) is not None:
        return Routed(None, GONE)
    task_hub = find_task_hub(request.target)
    if task_hub is not None:
        owner = _find_owner(document, task_hub)
        if owner is None or not (owner.takes_new_work or starts_nothing(request)):
            return Routed(None, GONE)
        if not (owner.takes_new_work and starts_orchestration(request.target)):
            return Routed(owner.version)
    overriding = _find_override(document, request)
    if overriding is not None:
        return Routed(overriding.version)
    visit = _find_visit(document, request)
    if visit is not None and not document.has_traffic(visit[0].version):
        return Routed(visit[0].version)
    if document.active is None:
        return Routed(None, UNAVAILABLE)
    if document.split is None:
        return Routed(document.active)
    if visit is None:
        bucket = draw()
        release = document.release_of_bucket(bucket)
        return Routed(release.version, set_cookie=format_sticky_cookie(document, release, bucket))
    # The cookie follows the bucket, so that the release that the visitor has left does not get them back later.
    last, bucket = visit
    release = document.release_of_bucket(bucket)
    moved = release.version != last.version
    return Routed(release.version, set_cookie=format_sticky_cookie(document, release, bucket) if moved else None)


def format_sticky_cookie(document: RoutingDocument, release: RoutedRelease, bucket: int) -> str:
    """The Set-Cookie header that keeps a visitor in a bucket. It has no `Secure`: the token gives no access, and a
    router can be behind a proxy that ends TLS."""
    return (
        f"{document.sticky_cookie}={format_visit(release, bucket)}; Max-Age={document.sticky_max_age_seconds}; "
        "Path=/; HttpOnly; SameSite=Lax"
    )


def format_visit(release: RoutedRelease, bucket: int) -> str:
    """The value of the sticky cookie."""
    return f"{release.sticky_token}.{bucket:02}"


def find_task_hub(target: str) -> str | None:
    """The task hub of a call to the management API; None for other requests."""
    return _read_task_hub(target) if _decode_path(target).startswith(MANAGEMENT_PATH) else None


def _read_task_hub(target: str) -> str | None:
    """The first parameter that names a task hub, without regard to the case of its name."""
    for parameter in target.partition("?")[2].split("&"):
        name, has_value, value = parameter.partition("=")
        if has_value and unquote(name).lower() == TASK_HUB_PARAMETER.lower():
            return unquote(value)
    return None


def starts_orchestration(target: str) -> bool:
    """Whether the request starts an orchestration by the management API."""
    return _decode_path(target).startswith(STARTS_PATH)


def has_dot_segment(target: str) -> bool:
    """Whether the path of a request can lead to another path in the app."""
    return re.search(DOT_SEGMENT_PATTERN, _decode_path(target)) is not None


def _decode_path(target: str) -> str:
    """The path of a request in lower case, without percent-encoding."""
    return unquote(_read_path(target)).lower()


def _read_path(target: str) -> str:
    """The path of a request as sent."""
    return target.partition("?")[0]


def starts_nothing(request: RoutedRequest) -> bool:
    """Whether a call to the management API reads, removes what has ended, or changes an instance that has not ended.
    Every other call can start work, also one that is not known here.

    Whether an encoded slash separates segments depends on the app. Reading with one is safe, and ids can have it."""
    if request.method in READING_METHODS:
        return True
    path = _decode_path(request.target)
    if any(re.search(CODED_SEPARATOR, text) for text in (_read_path(request.target).lower(), path)):
        return False
    is_purge = request.method == "DELETE" and re.fullmatch(PURGE_PATTERN, path) is not None
    return is_purge or re.fullmatch(CONTROL_PATTERN, path) is not None


def read_cookie(request: RoutedRequest, name: str) -> str | None:
    """The first cookie of this name. Quotes around its value are not a part of it."""
    for header, header_value in request.headers:
        if header.lower() != "cookie":
            continue
        for cookie in header_value.split(";"):
            cookie_name, has_value, value = cookie.lstrip(" ").partition("=")
            if has_value and cookie_name == name:
                is_quoted = len(value) >= 2 and value[0] == value[-1] == '"'
                return value[1:-1] if is_quoted else value
    return None


def _find_owner(document: RoutingDocument, task_hub: str) -> RoutedRelease | None:
    """The release with this task hub, in any case of its name; None if there is none."""
    return next(
        (release for release in document.releases.values() if release.task_hub.lower() == task_hub.lower()), None
    )


def _find_override(document: RoutingDocument, request: RoutedRequest) -> RoutedRelease | None:
    """The release whose override token the request has; headers come before the cookie. Of several headers with
    tokens, the one of the first release counts."""
    headers = {value.strip() for name, value in request.headers if name.lower() == document.override_header.lower()}
    for tokens in (headers, {read_cookie(request, document.override_cookie)}):
        for release in list_overridable_releases(document):
            if release.override_token in tokens:
                return release
    return None


def list_overridable_releases(document: RoutingDocument) -> list[RoutedRelease]:
    """The releases that an override token may choose."""
    return [release for release in document.releases.values() if release.is_overridable]


def list_sticky_releases(document: RoutingDocument) -> list[RoutedRelease]:
    """The releases without traffic that keep their visitors for some time."""
    return [
        release
        for release in document.releases.values()
        if release.sticky_until is not None and not document.has_traffic(release.version)
    ]


def _find_visit(document: RoutingDocument, request: RoutedRequest) -> tuple[RoutedRelease, int] | None:
    """The release and the bucket of the sticky cookie, if it counts: if its release has traffic or keeps visitors."""
    cookie = read_cookie(request, document.sticky_cookie)
    token, _, bucket = (cookie or "").rpartition(".")
    if not re.fullmatch("[0-9]{2}", bucket):
        return None
    releases = [document.releases[version] for version in document.releases if document.has_traffic(version)]
    return next(
        (
            (release, int(bucket))
            for release in [*releases, *list_sticky_releases(document)]
            if release.sticky_token == token
        ),
        None,
    )
