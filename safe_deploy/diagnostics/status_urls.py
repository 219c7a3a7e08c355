"""Which name the status URLs of an app have: that of the router, or that of the release itself.

It depends on the SDK and its settings, and no app can be asked for it without starting an orchestration. So a person
gives a URL that the app has returned through the router."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

import httpx

from safe_deploy.client import Json
from safe_deploy.diagnostics.keys import NONEXISTENT_TASK_HUB
from safe_deploy.diagnostics.results import CheckResult, CheckStatus
from safe_deploy.errors import ExitCode, UsageError
from safe_deploy.routers.rules import GONE, MANAGEMENT_PATH, TASK_HUB_PARAMETER, find_task_hub, starts_orchestration

CHECK = "status URLs"
_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class StatusUrl:
    """A status URL without its key."""

    origin: str
    task_hub: str
    has_key: bool
    """Whether the URL was given with its key."""


def parse_status_url(text: str) -> StatusUrl:
    """Raises UsageError, without the text, which can contain a key."""
    try:
        parts = urlsplit(text.strip())
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    target = f"{parts.path}?{parts.query}" if is_url else ""
    task_hub = find_task_hub(target)
    if task_hub is None or starts_orchestration(target):
        raise UsageError(
            f"--status-url takes a URL of the management API, with its {TASK_HUB_PARAMETER}, such as the "
            "statusQueryGetUri that a starter returns"
        )
    # Without a user and password.
    origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return StatusUrl(origin, task_hub, has_key="code" in parse_qs(parts.query))


def check_status_url(url: StatusUrl | None, releases: Sequence[Json], removed: Sequence[Json]) -> CheckResult:
    """Report which name the URL has. `releases` and `removed` are those of ListReleases."""
    if url is None:
        message = "not checked. Add --status-url with a statusQueryGetUri that the app has returned through the router"
        return CheckResult(CHECK, CheckStatus.WARNING, message)
    owner = _find_by_task_hub(releases, url.task_hub)
    if owner is None:
        gone = _find_by_task_hub(removed, url.task_hub)
        reason = f"release {gone['version']} was removed" if gone else "no release has this task hub"
        message = f"routers answer 410 for task hub {url.task_hub}: {reason}"
        return CheckResult(CHECK, CheckStatus.FAILED, message, ExitCode.CONFLICT)
    named = next((release for release in releases if _has_same_host(release["address"], url.origin)), None)
    if named is None:
        return _check_router(url.origin)
    if named["version"] != owner["version"]:
        message = (
            f"the URL names release {named['version']}, but its task hub {url.task_hub} is registered for release "
            f"{owner['version']}. Correct the app setting with the task hub name of one of them"
        )
        return CheckResult(CHECK, CheckStatus.FAILED, message, ExitCode.CONFLICT)
    message = (
        f"the app returns the name of release {named['version']} itself, {url.origin}, so the URL leads past the "
        "router. Clients that may not call the release must use its path and query with the router's name"
    )
    return CheckResult(CHECK, CheckStatus.WARNING, message)


def _find_by_task_hub(releases: Sequence[Json], task_hub: str) -> Mapping[str, Any] | None:
    """The release with this task hub, in any case of its name; None if there is none."""
    return next((release for release in releases if release["taskHub"].lower() == task_hub.lower()), None)


def _has_same_host(first: str, second: str) -> bool:
    """Whether two origins are of one host, also if one is http and the other https: SDKs confuse them in Linux."""
    return _split_authority(urlsplit(first)) == _split_authority(urlsplit(second))


def _split_authority(parts: SplitResult) -> tuple[str | None, int | None]:
    """Host and port of a URL; None for the default port of http or https."""
    return parts.hostname, None if parts.port in (80, 443) else parts.port


def _check_router(origin: str) -> CheckResult:
    """Whether a router has this name. An app would refuse this request, which has no key, so it changes nothing."""
    url = f"{origin}{MANAGEMENT_PATH}instances?{TASK_HUB_PARAMETER}={NONEXISTENT_TASK_HUB}"
    try:
        status = httpx.get(url, timeout=_TIMEOUT_SECONDS).status_code
    except httpx.HTTPError as error:
        message = f"{origin}, the name in the URL, cannot be reached: {type(error).__name__}"
        return CheckResult(CHECK, CheckStatus.FAILED, message)
    if status == GONE:
        message = f"the app returns the router's name, {origin}"
        return CheckResult(CHECK, CheckStatus.OK, message)
    message = (
        f"{origin}, the name in the URL, is neither that of a release nor that of a router: it answers {status} for a "
        f"task hub that no release has, where a router answers {GONE}"
    )
    return CheckResult(CHECK, CheckStatus.FAILED, message)
