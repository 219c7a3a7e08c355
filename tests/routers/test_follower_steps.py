"""What a follower does over time, with a server whose clock the test advances: visits end, failures are reported."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from safe_deploy.client import Json, StateServerClient
from safe_deploy.routers import follower
from safe_deploy.routers.documents import InvalidRoutingDocument
from safe_deploy.routers.envoy_admin import EnvoyUnclear
from safe_deploy.routers.envoy_folder import EnvoyFolder
from safe_deploy.routers.envoy_placement import LoadedConfiguration
from safe_deploy.routers.follower import WAIT_SECONDS, EnvoyFollower
from tests.routers.examples import build_document, sticky_token

_END = datetime(2026, 11, 27, 12, tzinfo=UTC)


class _Stopped(Exception):
    """Ends the follower, which otherwise follows for ever."""


class _SteppedServer:
    """Sends the document, and then nothing new. Every request advances the clock by the time that it may wait."""

    def __init__(self, document: Json, start: datetime, requests: int) -> None:
        self.now = start
        self.waits: list[int] = []
        self.routers: list[str | None] = []
        self._document = document
        self._remaining = requests

    def get_routing(self, *, wait_seconds: int, etag: str | None, router: str | None) -> tuple[Json, str] | None:
        """Return the document to a follower that has none. Otherwise let the whole waiting time pass without a
        change."""
        if not self._remaining:
            raise _Stopped
        self._remaining -= 1
        self.routers.append(router)
        if etag is None:
            return self._document, '"12"'
        self.waits.append(wait_seconds)
        self.now += timedelta(seconds=wait_seconds)
        return None


def _follow(folder: Path, start: datetime, requests: int) -> tuple[_SteppedServer, list[str]]:
    """Run a follower without Envoy. Returns the server, and what was reported."""
    server = _SteppedServer(build_document(sticky_until=_END.isoformat()), start, requests)
    lines: list[str] = []
    envoy_follower = EnvoyFollower(
        cast("StateServerClient", server),
        EnvoyFolder(folder, app="shop", listen=("127.0.0.1", 8080)),
        router="envoy",
        report=lines.append,
        clock=lambda: server.now,
    )
    with pytest.raises(_Stopped):
        envoy_follower.run()
    return server, lines


def _keeps_visitors(folder: Path) -> bool:
    """Whether Envoy's routes still lead visitors of release 1.4.0 back to it."""
    return sticky_token("1.4.0") in (folder / "routes.yaml").read_text()


def test_visitors_stay_until_ten_seconds_before_the_release_may_be_removed(tmp_path: Path) -> None:
    _follow(tmp_path, _END - timedelta(seconds=15), requests=4)
    assert _keeps_visitors(tmp_path)


def test_the_routes_are_written_again_when_the_visits_have_ended(tmp_path: Path) -> None:
    _follow(tmp_path, _END - timedelta(seconds=15), requests=8)
    assert not _keeps_visitors(tmp_path)


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
    folder = EnvoyFolder(tmp_path, app="shop", listen=("127.0.0.1", 8080))

    def load_at_once(_: Path) -> LoadedConfiguration:
        """An Envoy that has loaded the files as soon as they are written."""
        files = folder.read_files()
        return LoadedConfiguration(files.routes_version, files.clusters_version, frozenset(files.clusters))

    monkeypatch.setattr(follower, "read_loaded_configuration", load_at_once)
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
