"""What a follower does over time, with a server whose clock the test advances: visits end, failures are reported."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from safe_deploy.client import Json, RoutingResponse, StateServerClient
from safe_deploy.errors import ServerUnavailable
from safe_deploy.routers import follower
from safe_deploy.routers.documents import InvalidRoutingDocument
from safe_deploy.routers.envoy_admin import EnvoyUnclear
from safe_deploy.routers.envoy_folder import EnvoyFolder, KeptDocument
from safe_deploy.routers.envoy_placement import LoadedConfiguration
from safe_deploy.routers.follower import WAIT_SECONDS, EnvoyFollower
from safe_deploy.routers.server_clock import ServerClock
from tests.routers.examples import build_document, sticky_token

_END = datetime(2026, 11, 27, 12, tzinfo=UTC)


class _Stopped(Exception):
    """Ends the follower, which otherwise follows for ever."""


class _SteppedServer:
    """Sends the document, and then nothing new. Every request advances the clock by the time that it may wait.

    It cannot be reached any more after the first `reachable` requests. Then each request takes 10 seconds.
    """

    def __init__(self, document: Json, start: datetime, requests: int, *, reachable: int | None = None) -> None:
        self.now = start
        self.waits: list[int] = []
        self.routers: list[str | None] = []
        self.acknowledged: list[str | None] = []
        self._document = document
        self._remaining = requests
        self._reachable = requests if reachable is None else reachable

    def get_routing(self, *, wait_seconds: int, etag: str | None, router: str | None) -> RoutingResponse:
        """Return the document to a follower that does not have it. Otherwise let the whole waiting time pass without a
        change."""
        if not self._remaining:
            raise _Stopped
        self._remaining -= 1
        self._reachable -= 1
        if self._reachable < 0:
            self.now += timedelta(seconds=10)
            raise ServerUnavailable("the server cannot be reached")
        self.routers.append(router)
        if router is not None:
            self.acknowledged.append(etag)
        if etag != '"12"':
            return RoutingResponse((self._document, '"12"'), self.now)
        self.waits.append(wait_seconds)
        self.now += timedelta(seconds=wait_seconds)
        return RoutingResponse(None, self.now)

    def read_seconds(self) -> float:
        """The clock of the follower's machine that measures durations."""
        return (self.now - _END).total_seconds()


def _follow(
    folder: Path,
    start: datetime,
    requests: int,
    *,
    reachable: int | None = None,
    machine_is_ahead_by: timedelta = timedelta(0),
) -> tuple[_SteppedServer, list[str]]:
    """Run a follower without Envoy, on a machine whose clock is ahead of the server's. Returns the server, and what was
    reported."""
    server = _SteppedServer(build_document(sticky_until=_END.isoformat()), start, requests, reachable=reachable)
    lines: list[str] = []
    envoy_follower = EnvoyFollower(
        cast("StateServerClient", server),
        EnvoyFolder(folder, app="shop", listen=("127.0.0.1", 8080)),
        router="envoy",
        report=lines.append,
        clock=lambda: server.now + machine_is_ahead_by,
        server_clock=ServerClock(server.read_seconds),
    )
    with pytest.raises(_Stopped):
        envoy_follower.run()
    return server, lines


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The follower does not sleep between requests that fail: the server advances the clock."""
    monkeypatch.setattr(follower, "_RETRY_SECONDS", 0)


def _load_at_once(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Let an Envoy have loaded the files as soon as they are written."""
    folder = EnvoyFolder(path, app="shop", listen=("127.0.0.1", 8080))

    def read_loaded(_: Path) -> LoadedConfiguration:
        files = folder.read_files()
        return LoadedConfiguration(files.routes_version, files.clusters_version, frozenset(files.clusters))

    monkeypatch.setattr(follower, "read_loaded_configuration", read_loaded)


def _keep_document(path: Path, etag: str) -> None:
    """Leave a document in the folder, as a follower that has ended does."""
    document = build_document(active="1.4.0" if etag != '"12"' else "1.5.0", sticky_until=_END.isoformat())
    EnvoyFolder(path, app="shop", listen=("127.0.0.1", 8080)).keep_document(KeptDocument(etag, document))


def _keeps_visitors(folder: Path) -> bool:
    """Whether Envoy's routes still lead visitors of release 1.4.0 back to it."""
    return sticky_token("1.4.0") in (folder / "routes.yaml").read_text()


def test_visitors_stay_until_ten_seconds_before_the_release_may_be_removed(tmp_path: Path) -> None:
    _follow(tmp_path, _END - timedelta(seconds=15), requests=4)
    assert _keeps_visitors(tmp_path)


def test_the_routes_are_written_again_when_the_visits_have_ended(tmp_path: Path) -> None:
    _follow(tmp_path, _END - timedelta(seconds=15), requests=8)
    assert not _keeps_visitors(tmp_path)


@pytest.mark.parametrize("ahead_by", [timedelta(minutes=-10), timedelta(minutes=10)])
def test_visits_end_by_the_time_of_the_server_when_the_clock_of_the_machine_is_wrong(
    tmp_path: Path, ahead_by: timedelta
) -> None:
    _follow(tmp_path, _END - timedelta(seconds=15), requests=4, machine_is_ahead_by=ahead_by)
    assert _keeps_visitors(tmp_path)
    _follow(tmp_path, _END - timedelta(seconds=15), requests=8, machine_is_ahead_by=ahead_by)
    assert not _keeps_visitors(tmp_path)


@pytest.mark.usefixtures("without_pauses")
def test_visits_end_in_time_while_the_server_cannot_be_reached(tmp_path: Path) -> None:
    behind = timedelta(minutes=-10)
    _follow(tmp_path, _END - timedelta(seconds=40), requests=3, reachable=1, machine_is_ahead_by=behind)
    assert _keeps_visitors(tmp_path)
    _follow(tmp_path, _END - timedelta(seconds=40), requests=6, reachable=1, machine_is_ahead_by=behind)
    assert not _keeps_visitors(tmp_path)


@pytest.mark.usefixtures("without_pauses")
def test_a_follower_that_starts_while_the_server_cannot_be_reached_ends_visits_by_the_clock_of_its_machine(
    tmp_path: Path,
) -> None:
    _keep_document(tmp_path, '"12"')
    _follow(tmp_path, _END - timedelta(seconds=35), requests=2, reachable=0)
    assert _keeps_visitors(tmp_path)
    _follow(tmp_path, _END - timedelta(seconds=35), requests=4, reachable=0)
    assert not _keeps_visitors(tmp_path)


@pytest.mark.usefixtures("without_pauses")
def test_nothing_is_acknowledged_before_the_server_has_said_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _keep_document(tmp_path, '"12"')
    _load_at_once(monkeypatch, tmp_path)
    server, _ = _follow(tmp_path, _END, requests=3, machine_is_ahead_by=timedelta(minutes=-10))
    assert server.routers == [None, "envoy", "envoy"]
    assert not _keeps_visitors(tmp_path)


def test_a_follower_that_starts_with_an_old_document_lets_the_server_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Envoy has routed by the old document, so a release that has lost its traffic since got requests again."""
    _keep_document(tmp_path, '"11"')
    _load_at_once(monkeypatch, tmp_path)
    server, _ = _follow(tmp_path, _END, requests=3)
    assert server.acknowledged == ['"11"', '"12"']


def test_a_follower_that_starts_before_envoy_acknowledges_that_nothing_is_known_of_it(tmp_path: Path) -> None:
    """Envoy may begin with the old routes in the folder while the follower already has the new document."""
    _keep_document(tmp_path, '"11"')
    server, _ = _follow(tmp_path, _END, requests=4)
    assert server.routers == [None, "envoy", None, None]
    assert server.acknowledged == [None]


def test_a_document_that_cannot_be_used_ends_a_follower_that_has_none(tmp_path: Path) -> None:
    server = _SteppedServer(build_document() | {"revision": "12"}, _END, requests=1)
    envoy_follower = EnvoyFollower(
        cast("StateServerClient", server),
        EnvoyFolder(tmp_path, app="shop", listen=("127.0.0.1", 8080)),
        router="envoy",
        report=lambda _: None,
    )
    with pytest.raises(InvalidRoutingDocument):
        envoy_follower.run()
    assert not (tmp_path / "routing.json").exists()


def test_a_request_of_a_confirmed_router_waits_no_longer_than_visits_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _load_at_once(monkeypatch, tmp_path)
    server, lines = _follow(tmp_path, _END - timedelta(seconds=15), requests=3)
    assert server.waits == [5, WAIT_SECONDS], "the first wait ends ten seconds before the visits do"
    assert server.routers == [None, "envoy", "envoy"]
    assert lines == ["Envoy routes by revision 12: 1.5.0 100 %"]


def test_a_failure_of_envoy_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> LoadedConfiguration:
        """An Envoy whose admin interface does not respond."""
        raise EnvoyUnclear("Envoy does not respond")

    monkeypatch.setattr(follower, "read_loaded_configuration", refuse)
    server, lines = _follow(tmp_path, _END, requests=4)
    assert server.routers == [None] * 4
    assert lines == ["Envoy does not respond; Envoy keeps its last routes, and the follower tries again"]
