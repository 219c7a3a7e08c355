"""Waits until routers have acknowledged a routing revision. Those without a name acknowledge nothing."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from safe_deploy.client import Json, StateServerClient
from safe_deploy.errors import TimedOut
from safe_deploy.rendering import format_instant
from safe_deploy.wait_progress import BeginWait, WaitProgress, WaitStatus

_POLL_SECONDS = 1
"""A router has each change within five seconds, so a look every second costs a few requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterProgress:
    """Which routers still route by a document before `revision`. `releases` is the last response of ListReleases."""

    releases: Json
    revision: int
    behind: tuple[str, ...]

    @classmethod
    def of(cls, releases: Json, revision: int) -> "RouterProgress":
        """How far the routers in a response of ListReleases are with this routing revision."""
        behind = tuple(router["router"] for router in releases["routers"] if router["revision"] < revision)
        return cls(releases=releases, revision=revision, behind=behind)

    def check(self, timeout_seconds: float) -> None:
        """Raises TimedOut, which names the routers that are behind."""
        if not self.behind:
            return
        seen_at = {router["router"]: router["seenAt"] for router in self.releases["routers"]}
        names = ", ".join(f"{name} (asked last at {format_instant(seen_at[name])})" for name in self.behind)
        raise TimedOut(
            f"the routing is changed, but these routers have not confirmed revision {self.revision} within "
            f"{timeout_seconds:.10g} s, and may send requests by an older one: {names}. Run the same command again to "
            "wait for them. An administrator removes a router that is gone with ForgetRouter"
        )


def wait_for_routers(
    server: StateServerClient,
    revision: int,
    *,
    timeout_seconds: float,
    begin_wait: BeginWait,
    report: Callable[[str], None],
) -> RouterProgress:
    """Wait until no router is behind `revision`, for at most `timeout_seconds`."""
    with begin_wait(f"until the routers confirm routing revision {revision}", timeout_seconds) as wait:
        progress = _poll_routers(server, revision, timeout_seconds, wait)
    if not progress.behind:
        report(_describe_acknowledgements(progress.releases, revision))
    return progress


def _poll_routers(
    server: StateServerClient, revision: int, timeout_seconds: float, wait: WaitProgress
) -> RouterProgress:
    """Ask the server which routers have an older revision, until none has or `timeout_seconds` are over."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        progress = RouterProgress.of(server.list_releases(), revision)
        seconds_left = deadline - time.monotonic()
        if not progress.behind or seconds_left <= 0:
            return progress
        behind = f"{len(progress.behind)} behind: {', '.join(progress.behind)}"
        wait.update(WaitStatus(behind, behind, progress.behind))
        time.sleep(min(_POLL_SECONDS, seconds_left))


def _describe_acknowledgements(releases: Mapping[str, Any], revision: int) -> str:
    """A message that all routers have confirmed the revision, or that none of them would."""
    names = ", ".join(router["router"] for router in releases["routers"])
    if names:
        return f"all routers that ask under a name have confirmed routing revision {revision}: {names}"
    return (
        "no router asks under a name. Those that read the routing at intervals, such as API Management, follow in 20 s"
    )
