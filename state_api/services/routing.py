"""GetRouting: the routing of an app, for routers that wait for the next revision and acknowledge the one they have."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress

from state_api.domain.errors import StorageUnavailable
from state_api.domain.names import AppKey, app_key
from state_api.domain.releases.apps import App
from state_api.services.change_signals import ChangeSignals
from state_api.services.ports import Apps, Clock, Routers
from state_api.services.releases import Releases

_CONNECTION_CHECK_SECONDS = 1.0

POLL_INTERVAL_SECONDS = 2.0
"""How often the app is read while routers wait for its routing. A change in this process wakes them at once."""


_NONE_KNOWN = -1
"""The revision of an app that does not exist."""


class _RoutingWatch:
    """Knows the newest routing revision of an app while requests wait for it. One is enough for all of them."""

    def __init__(self, app_name: str, apps: Apps, signals: ChangeSignals, interval_seconds: float) -> None:
        """Begin to watch the routing of an app: changes of this process at once, those of others by polling."""
        self.waiter_count = 0
        self.revision = _NONE_KNOWN
        self._changed = asyncio.Event()
        self._app_name = app_name
        self._apps = apps
        self._interval_seconds = interval_seconds
        self._listening = ExitStack()
        self._listening.enter_context(signals.listen_to_app(app_name, self.note))
        self._task = asyncio.create_task(self._poll())

    def note(self, app: App | None) -> None:
        """Note an app as it was written or read; None if it was deleted. A read that ends late may show an older
        revision, which does not count."""
        revision = _NONE_KNOWN if app is None or app.deleted else app.routing.revision
        if revision > self.revision or (revision == _NONE_KNOWN and self.revision != _NONE_KNOWN):
            self.revision = revision
            self._changed.set()
            self._changed = asyncio.Event()

    async def wait_for_change(self) -> None:
        """Return once the routing revision has changed, or the app was created or deleted."""
        await self._changed.wait()

    async def close(self) -> None:
        """End the polling and the listening, when no request waits any more."""
        self._listening.close()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _poll(self) -> None:
        """Note what other processes have written."""
        while True:
            await asyncio.sleep(self._interval_seconds)
            # The requests that wait report a failure of the storage themselves, at their end.
            with suppress(StorageUnavailable):
                self.note(await self._apps.get(self._app_name))


class RoutingReader:
    """Reads the routing of apps. `stopping` ends waits early when the server shuts down."""

    def __init__(
        self,
        *,
        releases: Releases,
        apps: Apps,
        routers: Routers,
        signals: ChangeSignals,
        clock: Clock,
        stopping: asyncio.Event,
        poll_interval_seconds: float = POLL_INTERVAL_SECONDS,
    ) -> None:
        self._releases = releases
        self._apps = apps
        self._routers = routers
        self._signals = signals
        self._clock = clock
        self._stopping = stopping
        self._poll_interval_seconds = poll_interval_seconds
        self._watches: dict[AppKey, _RoutingWatch] = {}

    async def wait_for_routing(
        self,
        name: str,
        *,
        known_revision: int | None,
        router: str | None,
        wait_seconds: float,
        is_disconnected: Callable[[], Awaitable[bool]],
    ) -> App | None:
        """The app with its routing. If the caller has that revision already, waits for up to `wait_seconds` for another
        one; None if there is none.

        A `router` acknowledges the revision that it has: 0 for none, or for one that the app never had. Raises
        AppNotFound, WrongModel.
        """
        deadline = asyncio.get_running_loop().time() + wait_seconds
        app = await self._releases.get_with_releases(name)
        if router is not None:
            is_known = known_revision is not None and known_revision <= app.routing.revision
            revision = known_revision if known_revision is not None and is_known else 0
            await self._routers.acknowledge(app, router, revision, self._clock.now())
        if app.routing.revision != known_revision:
            return app
        if wait_seconds <= 0:
            return None
        async with self._watch(app) as watch:
            while watch.revision == known_revision:
                if not await self._wait(watch, deadline, is_disconnected):
                    break
        # Read again, because a signal says only that something has changed.
        app = await self._releases.get_with_releases(name)
        return app if app.routing.revision != known_revision else None

    async def _wait(
        self, watch: _RoutingWatch, deadline: float, is_disconnected: Callable[[], Awaitable[bool]]
    ) -> bool:
        """Wait for a change, for a short time. False if the request is to end."""
        remaining = deadline - asyncio.get_running_loop().time()
        if self._stopping.is_set() or remaining <= 0 or await is_disconnected():
            return False
        with suppress(TimeoutError):
            await asyncio.wait_for(watch.wait_for_change(), min(remaining, _CONNECTION_CHECK_SECONDS))
        return True

    @asynccontextmanager
    async def _watch(self, app: App) -> AsyncIterator[_RoutingWatch]:
        """Watch the app together with all requests that wait for its routing. The last one ends the watch."""
        key = app_key(app.name)
        watch = self._watches.get(key)
        if watch is None:
            watch = _RoutingWatch(app.name, self._apps, self._signals, self._poll_interval_seconds)
            self._watches[key] = watch
        watch.note(app)
        watch.waiter_count += 1
        try:
            yield watch
        finally:
            watch.waiter_count -= 1
            if watch.waiter_count == 0:
                del self._watches[key]
                await watch.close()
