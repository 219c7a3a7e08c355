"""The routing document of an app, parsed from the server's JSON. Its texts become cookies, headers and regular
expressions of routers, so each is checked against a pattern."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from safe_deploy.errors import CommandError

_APP_NAME = re.compile(r"[A-Za-z0-9-]{1,60}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TASK_HUB = re.compile(r"[A-Za-z][A-Za-z0-9]{2,44}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}")
_FIELD_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_STATES = ("Staged", "Serving", "Draining", "Removing")
_OVERRIDABLE_STATES = ("Staged", "Serving")


class InvalidRoutingDocument(CommandError):
    """The server's routing document has a member that no router may use."""


@dataclass(frozen=True, slots=True)
class RoutedRelease:
    """A release as a router sees it.

    - `is_overridable`: whether its override token may choose it. It is staged, or has traffic from this router, or from
      the time before it was adopted.
    - `sticky_until`: until then its visitors stay, although it has no traffic. None if its sticky token does not count.
    """

    version: str
    address: str
    task_hub: str
    is_overridable: bool
    sticky_token: str = field(repr=False)
    override_token: str = field(repr=False)
    sticky_until: datetime | None = None

    @property
    def takes_new_work(self) -> bool:
        """Whether requests may start work in the release. If not, the server lets it be removed once its task hub has
        drained, so nothing may start there between the last verdict and the deletion of its Function App."""
        return self.is_overridable or self.sticky_until is not None

    @property
    def authority(self) -> str:
        """The host of the address, with its port if the address has one."""
        return urlsplit(self.address).netloc

    @property
    def host(self) -> str:
        return urlsplit(self.address).hostname or ""

    @property
    def port(self) -> int:
        """The port of the address, or the default of its scheme."""
        return urlsplit(self.address).port or (443 if self.is_encrypted else 80)

    @property
    def is_encrypted(self) -> bool:
        return self.address.startswith("https:")


@dataclass(frozen=True, slots=True)
class RoutingDocument:
    """How to route the requests of an app. `releases` are all that are not removed, by version."""

    app: str
    revision: int
    active: str | None
    split: Mapping[str, int] | None
    sticky_cookie: str
    sticky_max_age_seconds: int
    override_cookie: str
    override_header: str
    releases: Mapping[str, RoutedRelease]

    @property
    def app_key(self) -> str:
        """The name of the app as it is compared: see `build_app_key`."""
        return build_app_key(self.app)

    @property
    def candidate(self) -> str | None:
        """The release that a split gives the lower buckets to."""
        return next((version for version in self.split or {} if version != self.active), None)

    def has_traffic(self, version: str) -> bool:
        """Whether new visitors can come to this release."""
        return version == self.active or version in (self.split or {})

    def release_of_bucket(self, bucket: int) -> RoutedRelease:
        """The release of a visitor's bucket, 0 to 99. Only for a document with a split."""
        assert self.split is not None
        assert self.candidate is not None
        assert self.active is not None
        return self.releases[self.candidate if bucket < self.split[self.candidate] else self.active]


def build_app_key(app: str) -> str:
    """The name of an app in the form in which names are compared. The server knows an app in any case of its name. Its
    document has the case in which the app was created last."""
    return app.lower()


def end_sticky_visits(document: RoutingDocument, now: datetime) -> RoutingDocument:
    """The document at this time: without `sticky_until` of releases whose visitors no longer stay with them."""
    releases = {
        version: replace(release, sticky_until=None)
        if release.sticky_until is not None and release.sticky_until <= now
        else release
        for version, release in document.releases.items()
    }
    return replace(document, releases=releases)


def parse_routing_document(body: Mapping[str, Any]) -> RoutingDocument:
    """Parse the JSON of GetRouting. Unknown members are ignored. Raises InvalidRoutingDocument."""
    try:
        document = _parse_document(body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _invalid_document(f"{type(error).__name__}: {error}") from None
    _check_routing(document)
    return document


def _parse_document(body: Mapping[str, Any]) -> RoutingDocument:
    """The routing document in a response of the server. Raises ValueError, KeyError or TypeError if it is not one."""
    sticky, override = body["sticky"], body["override"]
    return RoutingDocument(
        app=_match(_APP_NAME, body["app"], "app"),
        revision=_parse_whole_number(body["revision"], "revision"),
        active=None if body["active"] is None else _match(_VERSION, body["active"], "active"),
        split=None if body["split"] is None else _parse_split(body["split"]),
        sticky_cookie=_match(_FIELD_NAME, sticky["cookie"], "sticky.cookie"),
        sticky_max_age_seconds=_parse_whole_number(sticky["maxAgeSeconds"], "sticky.maxAgeSeconds"),
        override_cookie=_match(_FIELD_NAME, override["cookie"], "override.cookie"),
        override_header=_match(_FIELD_NAME, override["header"], "override.header"),
        releases={version: _parse_release(version, release) for version, release in body["releases"].items()},
    )


def _parse_release(version: str, body: Mapping[str, Any]) -> RoutedRelease:
    """One release of the document. Each value is checked, because it becomes part of a router's configuration."""
    if body["state"] not in _STATES:
        raise ValueError(f"state of release {version!r}")
    return RoutedRelease(
        version=_match(_VERSION, version, "version"),
        address=_parse_origin(body["address"]),
        task_hub=_match(_TASK_HUB, body["taskHub"], "taskHub"),
        is_overridable=body["state"] in _OVERRIDABLE_STATES,
        sticky_token=_match(_TOKEN, body["stickyToken"], "stickyToken"),
        override_token=_match(_TOKEN, body["overrideToken"], "overrideToken"),
        sticky_until=_parse_time(body.get("stickyUntil")),
    )


def _parse_split(body: Mapping[str, Any]) -> dict[str, int]:
    """The share of each version in a split, in percent."""
    return {_match(_VERSION, version, "split"): _parse_whole_number(share, "split") for version, share in body.items()}


def _check_routing(document: RoutingDocument) -> None:
    """Raises InvalidRoutingDocument for members that contradict each other."""
    releases, split = document.releases, document.split
    if document.active is not None and document.active not in releases:
        raise _invalid_document("the active release is not among the releases")
    if split is not None and (
        len(split) != 2
        or document.active not in split
        or not split.keys() <= releases.keys()
        or sum(split.values()) != 100
        or min(split.values()) < 1
    ):
        raise _invalid_document("the split is not between the active release and one other, or does not sum to 100")
    tokens = [token for release in releases.values() for token in (release.sticky_token, release.override_token)]
    if len({release.task_hub.lower() for release in releases.values()}) != len(releases):
        raise _invalid_document("two releases have the same task hub")
    if len(set(tokens)) != len(tokens):
        raise _invalid_document("two tokens are the same")


def _match(pattern: re.Pattern[str], value: Any, member: str) -> str:
    """Raises ValueError without the value, which can be a token."""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(member)
    return value


def _parse_whole_number(value: Any, member: str) -> int:
    """The number, if it is an integer of at least 0. Raises ValueError with the name of the member."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(member)
    return value


def _parse_origin(value: Any) -> str:
    """The address of a release, if it is an origin: scheme, host and port only. Raises ValueError."""
    parts = urlsplit(value)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[A-Za-z0-9.-]+|[0-9a-f:]+", host):
        raise ValueError("address")
    authority = f"[{host}]" if ":" in host else host
    origin = f"{parts.scheme}://{authority}{'' if parts.port is None else f':{parts.port}'}"
    if value.lower() != origin.lower():
        raise ValueError("address")
    return origin


def _parse_time(value: Any) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value).astimezone(UTC)


def _invalid_document(problem: str) -> InvalidRoutingDocument:
    """The error for a document that this version of safe-deploy does not understand."""
    return InvalidRoutingDocument(
        f"the server's routing document cannot be used ({problem}). Update safe-deploy to the version of the server"
    )
