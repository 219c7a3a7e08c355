"""Follows the routing document of an app, and keeps Envoy's files up to date. The last document is on disk, so Envoy
goes on, and a follower that starts again continues, while the server is down."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from safe_deploy.client import RoutingResponse, StateServerClient
from safe_deploy.errors import CommandError, ServerUnavailable
from safe_deploy.routers.documents import RoutingDocument, end_sticky_visits, parse_routing_document
from safe_deploy.routers.envoy import EnvoyConfiguration, render_configuration
from safe_deploy.routers.envoy_admin import EnvoyUnclear, read_loaded_configuration
from safe_deploy.routers.envoy_folder import EnvoyFolder, KeptDocument
from safe_deploy.routers.envoy_placement import AwaitEnvoy, Placed, WriteClusters, WriteRoutes, plan_placement
from safe_deploy.routers.server_clock import ServerClock

WAIT_SECONDS = 30
"""How long the server may hold a request while the document does not change."""

_UNCONFIRMED_WAIT_SECONDS = 1
"""The same while Envoy is not known to route by the last document, so that Envoy is asked again soon."""

_PLACEMENT_SECONDS = 3
"""How long to wait for Envoy before the next document is asked for, which may be a rollback."""

_POLL_SECONDS = 0.1
_RETRY_SECONDS = 2
"""The pause after a request that failed. A change must reach Envoy within 5 s after the server is back."""

_STICKY_MARGIN = timedelta(seconds=8)
"""Visits end this much before the time at which the server lets the release be removed, and earlier by as much as the
bound of the server's time is ahead."""


class EnvoyFollower:
    """Keeps the files in a folder in agreement with the server. `router` is the name under which it acknowledges
    documents. `report` receives a line whenever something changes."""

    def __init__(
        self,
        server: StateServerClient,
        folder: EnvoyFolder,
        *,
        router: str,
        report: Callable[[str], None],
        clock: Callable[[], datetime] | None = None,
        server_clock: ServerClock | None = None,
    ) -> None:
        """Prepare to follow the routing of an app under the name `router`, beginning with the document that the folder
        has kept."""
        self._server = server
        self._folder = folder
        self._router = router
        self._report = report
        self._read_clock = clock or _read_clock
        self._server_clock = server_clock or ServerClock()
        self._kept = folder.read_document()
        self._failures = {"server": "", "envoy": ""}
        self._reported_revision = -1
        self._has_bootstrap = False
        self._has_not_reported_kept_document = self._kept is not None

    def place_once(self) -> RoutingDocument:
        """Get the document, and place it without acknowledging it. Raises the errors of `errors.py`."""
        response = self._get_routing(wait_seconds=0, etag=None, router=None)
        assert response.document is not None
        self._keep(*response.document)
        assert self._kept is not None
        self._place(self._kept)
        return parse_routing_document(self._kept.body)

    def run(self) -> None:
        """Follow until the process is stopped. Raises the server's refusal if it has never sent a document."""
        if self._kept is not None:
            self._learn_time(self._kept)
        while True:
            is_confirmed = self._place_kept()
            try:
                self._fetch(is_confirmed=is_confirmed)
                self._failures["server"] = ""
            except CommandError as error:
                if self._kept is None and not isinstance(error, ServerUnavailable):
                    raise
                self._report_failure("server", error)
                time.sleep(_RETRY_SECONDS)

    def _learn_time(self, kept: KeptDocument) -> None:
        """Ask for the server's time before any visit is ended by it.

        A newer document in the response is dropped here: the next request first acknowledges the kept one, by which
        Envoy has routed until now."""
        try:
            self._get_routing(wait_seconds=0, etag=kept.etag, router=None)
        except CommandError as error:
            self._report_failure("server", error)

    def _place_kept(self) -> bool:
        """Whether Envoy routes by the last document. A failure is reported, and the next call tries again."""
        if self._kept is None:
            return False
        try:
            is_confirmed = self._place(self._kept)
        except CommandError as error:
            self._report_failure("envoy", error)
            return False
        self._failures["envoy"] = ""
        return is_confirmed

    def _fetch(self, *, is_confirmed: bool) -> None:
        """Wait for the next document. Only a confirmed one is acknowledged."""
        etag = self._kept.etag if self._kept else None
        if self._kept is not None and self._server_clock.upper_bound() is None:
            self._get_routing(wait_seconds=0, etag=etag, router=None)
            return
        wait_seconds, router = _UNCONFIRMED_WAIT_SECONDS, None
        if is_confirmed:
            wait_seconds, router = self._choose_wait(), self._router
        elif self._has_not_reported_kept_document:
            # Envoy may route by the kept document soon, which may be an old one, before the server could learn of it.
            etag, router = None, self._router
        response = self._get_routing(wait_seconds=wait_seconds, etag=etag, router=router)
        self._has_not_reported_kept_document = False
        if response.document is None:
            return
        if response.document[1] == etag:
            # Something between changes or removes ETags, so the server did not wait.
            time.sleep(_RETRY_SECONDS)
        self._keep(*response.document)

    def _get_routing(self, *, wait_seconds: int, etag: str | None, router: str | None) -> RoutingResponse:
        """Send one request, and note the time of the server in its response."""
        asked_at = self._server_clock.read_seconds()
        response = self._server.get_routing(wait_seconds=wait_seconds, etag=etag, router=router)
        self._server_clock.observe(response.server_time, asked_at=asked_at)
        return response

    def _keep(self, body: dict[str, object], etag: str) -> None:
        """Keep a document on disk. Raises InvalidRoutingDocument, and keeps the previous one."""
        parse_routing_document(body)
        document = KeptDocument(etag, body)
        self._folder.keep_document(document)
        self._kept = document

    def _choose_wait(self) -> int:
        """How long the next request may wait: at most until visitors of a release no longer stay with it."""
        assert self._kept is not None
        now = self._find_visits_end()
        releases = parse_routing_document(self._kept.body).releases.values()
        ends = [release.sticky_until for release in releases if release.sticky_until and release.sticky_until > now]
        return int(max(1, min([WAIT_SECONDS, *((end - now).total_seconds() for end in ends)])))

    def _find_visits_end(self) -> datetime:
        """Visits that were to end by this time have ended. Before the first response, this is the time of the machine,
        and nothing is acknowledged."""
        return (self._server_clock.upper_bound() or self._read_clock()) + _STICKY_MARGIN

    def _place(self, kept: KeptDocument) -> bool:
        """Replace the files in their order. Returns whether Envoy routes by them; False also if it is not running."""
        document = end_sticky_visits(parse_routing_document(kept.body), self._find_visits_end())
        configuration = render_configuration(document)
        deadline = time.monotonic() + _PLACEMENT_SECONDS
        while True:
            step = plan_placement(
                configuration, self._folder.read_files(), read_loaded_configuration(self._folder.admin_socket)
            )
            match step:
                case WriteClusters(clusters):
                    self._folder.write_clusters(clusters)
                case WriteRoutes():
                    self._folder.write_routes(configuration)
                case Placed(is_confirmed):
                    if not self._has_bootstrap:
                        self._folder.write_bootstrap()
                        self._has_bootstrap = True
                    self._report_placed(configuration, document, is_confirmed=is_confirmed)
                    return is_confirmed
                case AwaitEnvoy(subject):
                    if time.monotonic() > deadline:
                        raise EnvoyUnclear(
                            f"Envoy has not loaded {subject} of revision {document.revision}: see its log"
                        )
                    time.sleep(_POLL_SECONDS)

    def _report_placed(
        self, configuration: EnvoyConfiguration, document: RoutingDocument, *, is_confirmed: bool
    ) -> None:
        """Report once that Envoy has confirmed a revision of the routing."""
        if is_confirmed and self._reported_revision != configuration.revision:
            self._reported_revision = configuration.revision
            self._report(f"Envoy routes by revision {configuration.revision}: {_describe_shares(document)}")

    def _report_failure(self, source: str, error: CommandError) -> None:
        """Report a failure of the server or of Envoy once, until it changes or has ended."""
        if error.message != self._failures[source]:
            self._failures[source] = error.message
            self._report(f"{error.message}; Envoy keeps its last routes, and the follower tries again")


def _describe_shares(document: RoutingDocument) -> str:
    """The share of the traffic that each release gets, for a message."""
    if document.active is None:
        return "no release is active"
    shares = document.split or {document.active: 100}
    return ", ".join(f"{version} {share} %" for version, share in shares.items())


def _read_clock() -> datetime:
    return datetime.now(UTC)
