"""When the routing of the app changed, as seen by a client that waits for it at the state server."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from harness.processes import wait_until

_WAIT_SECONDS = 2
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class RoutingChange:
    """A change of the traffic. `seen_at` is in seconds of `time.monotonic`, later than the change by the time that the
    server's response took. `shares` are percents by version."""

    seen_at: float
    active: str | None
    shares: dict[str, int]


@dataclass(slots=True)
class RoutingWatch:
    """The changes of the traffic so far."""

    changes: list[RoutingChange] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict)
    """The last routing document."""

    def wait_for(self, shares: dict[str, int]) -> RoutingChange:
        """Wait until the traffic is divided like this. Returns the last such change."""
        wait_until(lambda: bool(self.changes) and self.changes[-1].shares == shares, f"the routing is {shares}")
        return self.changes[-1]

    def update(self, document: dict[str, Any], seen_at: float) -> None:
        """Keep a new routing document, and the change if it divides the traffic in another way."""
        active = document["active"]
        shares = document["split"] or ({active: 100} if active else {})
        self.document = document
        if not self.changes or self.changes[-1].shares != shares:
            self.changes.append(RoutingChange(seen_at, active, shares))


@contextmanager
def watch_routing(url: str, app: str, key: str) -> Iterator[RoutingWatch]:
    """Watch until the block ends, as a router without a name, for which no release waits. Raises the watcher's error at
    the end."""
    watch, is_done = RoutingWatch(), threading.Event()
    failures: list[Exception] = []

    def follow() -> None:
        """Wait for the next routing document again and again."""
        etag = ""
        try:
            with httpx.Client(base_url=url, headers={"x-functions-key": key}, timeout=_TIMEOUT_SECONDS) as client:
                while not is_done.is_set():
                    response = client.get(
                        f"/api/apps/{app}/routing",
                        params={"wait": _WAIT_SECONDS},
                        headers={"If-None-Match": etag} if etag else {},
                    )
                    if response.status_code != httpx.codes.NOT_MODIFIED:
                        watch.update(response.raise_for_status().json(), time.monotonic())
                        etag = response.headers["ETag"]
        except Exception as error:  # noqa: BLE001  # raised at the end of the block
            failures.append(error)

    thread = threading.Thread(target=follow, name="routing-watch")
    thread.start()
    try:
        yield watch
    finally:
        is_done.set()
        thread.join()
        if failures:
            raise failures[0]
