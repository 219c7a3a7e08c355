"""One removal of a release, from its beginning on record to its outcome. An outcome is recorded for this very removal
only: another run may have ended it or taken it over meanwhile, also while a lost response was waited for."""

from dataclasses import dataclass
from typing import Self

from safe_deploy.client import StateServerClient
from safe_deploy.errors import ConflictError
from safe_deploy.side_by_side.app_state import Release, SideBySideApp

MAX_ATTEMPTS = 10
"""How often a request is made again because other callers have changed the app since it was read."""


class RemovalLost(ConflictError):
    """This command's removal has ended, or another run has taken it over. `is_removed`: the release is removed."""

    def __init__(self, message: str, *, is_removed: bool = False) -> None:
        super().__init__(message)
        self.is_removed = is_removed


@dataclass(slots=True, kw_only=True)
class ReleaseRemoval:
    """A removal that this command has begun or taken over.

    - `app`: the app as it was read last, after the removal began.
    - `release`: the release that is removed, in that app.
    - `function_app`: the name of its Function App; None without one, or if Azure is not asked.
    - `continued`: an earlier attempt began the removal, so its command may have run.
    """

    server: StateServerClient
    app: SideBySideApp
    release: Release
    function_app: str | None
    continued: bool
    _etag: str

    @classmethod
    def begin(
        cls,
        server: StateServerClient,
        release: Release,
        *,
        function_app: str | None,
        continued: bool,
        etag: str,
    ) -> Self:
        """Record the removal as pending, if the app still has the ETag with which the release was read. Otherwise
        raises ConflictError with the code PreconditionFailed. The removal is on record already if the response to a
        first attempt was lost."""
        try:
            response, new_etag = server.delete_release(release.version, outcome="Pending", etag=etag)
            app = SideBySideApp.from_json(response)
        except ConflictError as error:
            if continued or not error.is_repeated or error.problem_code != "PreconditionFailed":
                raise
            response, new_etag = server.get_app()
            app = SideBySideApp.from_json(response)
            if not _is_removed_by(app, release.version, server.caller.run_url):
                raise
        return cls(
            server=server,
            app=app,
            release=app.get_release(release.version),
            function_app=function_app,
            continued=continued,
            _etag=new_etag,
        )

    def refresh(self) -> bool:
        """Read the app again. Returns whether something has changed that decides what is deleted, and how. Raises
        RemovalLost."""
        earlier = self.app
        self.require_pending("the command was not run")
        return _list_deletion_inputs(self.app) != _list_deletion_inputs(earlier)

    def require_pending(self, done_so_far: str) -> None:
        """Read the app again. Raises RemovalLost, with what this command has done so far, if the removal has ended or
        is another run's."""
        self._require_own(self._read_release(), done_so_far)

    def give_back(self, done_so_far: str) -> None:
        """Record that nothing was deleted: the release is as it was before. Raises RemovalLost, with what this command
        has done, if another run is removing the release now or has removed it."""
        self._record("Failed", done_so_far)

    def finish(self, done_so_far: str) -> None:
        """Record that the release is removed. Raises RemovalLost, with what this command has done, if another caller
        has ended the removal as failed or is removing the release now."""
        self._record("Done", done_so_far)

    def _record(self, outcome: str, done_so_far: str) -> None:
        """Record the outcome of this removal. It is on record already if the response to a first attempt was lost."""
        for _ in range(MAX_ATTEMPTS):
            try:
                self.server.delete_release(self.release.version, outcome=outcome, etag=self._etag)
                return
            except ConflictError as error:
                if error.problem_code != "PreconditionFailed":
                    raise
            release = self._read_release()
            if release is None and outcome == "Done":
                return
            if release is not None and release.removal is None and outcome == "Failed":
                return
            self._require_own(release, done_so_far)
        raise ConflictError(
            f"{done_so_far}, and the outcome {outcome} was not recorded, because other callers changed app "
            f"{self.app.name} {MAX_ATTEMPTS} times at that moment. The release stays Removing. Run the same command "
            "again"
        )

    def _read_release(self) -> Release | None:
        """Read the app again. Returns the release, None if it is removed."""
        response, self._etag = self.server.get_app()
        self.app = SideBySideApp.from_json(response)
        return self.app.releases.get(self.release.version)

    def _require_own(self, release: Release | None, done_so_far: str) -> None:
        """Keep what was read of the release, None if it is removed. Raises RemovalLost if its removal is not this
        one."""
        if release is not None and release.removal == self.release.removal:
            self.release = release
            return
        if release is None:
            raise RemovalLost(f"{done_so_far}, and another run has removed the release meanwhile", is_removed=True)
        if release.removal is None:
            raise RemovalLost(
                f"{done_so_far}, and another caller has ended its removal with the outcome Failed, so that it may get "
                "traffic again. To remove it, give it no traffic, and run the same command again"
            )
        raise RemovalLost(
            f"{done_so_far}, and another run is removing the release now: {release.removal.owner}. No outcome was "
            "recorded. Wait for that run. If it has ended, run the same command again after the policy's "
            "deploymentTimeoutMinutes"
        )


def _is_removed_by(app: SideBySideApp, version: str, run_url: str | None) -> bool:
    """Whether the run with this URL is removing the release. A run without a URL cannot be identified."""
    release = app.releases.get(version)
    removal = release.removal if release is not None else None
    return removal is not None and run_url is not None and removal.run_url == run_url


def _list_deletion_inputs(app: SideBySideApp) -> object:
    """Which Function Apps the releases have, and which functions must be disabled in the one that is deleted."""
    releases = {release.version: (release.address, release.task_hub) for release in app.releases.values()}
    return releases, app.quiesce_functions
