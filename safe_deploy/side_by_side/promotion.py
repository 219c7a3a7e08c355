"""Carries out a promotion or a rollback: disables and enables functions in the order of the policy, and changes the
routing in one conditional write.

However it is interrupted, the same command continues: every step can be repeated, and the write is made only if the
requests are still divided as they were read.
"""

from collections.abc import Callable
from dataclasses import dataclass

from safe_deploy.azure_function_apps import FunctionAppNotFound
from safe_deploy.client import StateServerClient
from safe_deploy.errors import CommandError, ConflictError, ServerUnavailable, UsageError
from safe_deploy.quiescing import PromotionAction
from safe_deploy.side_by_side.app_state import SideBySideApp, explain_unknown_app, parse_routing
from safe_deploy.side_by_side.function_apps import ReleaseFunctionApps
from safe_deploy.side_by_side.promotion_planner import (
    PromotionStep,
    is_promoted,
    plan_promotion,
    plan_undo,
)
from safe_deploy.side_by_side.routers import RouterProgress, wait_for_routers

_ROLLBACK_REASON = "safe-deploy rollback"
"""What the audit log shows."""

_MAX_ATTEMPTS = 5
"""How often the routing is written again because its document has changed, but not how it divides the requests: when
another release was registered, for example."""


def read_app(server: StateServerClient) -> SideBySideApp:
    """The app as it is now. Raises ConflictError for an app with slots."""
    try:
        app, _ = server.get_app()
    except CommandError as error:
        raise explain_unknown_app(error) from error
    return SideBySideApp.from_json(app)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """Makes a release active. Without `function_apps` no function is disabled or enabled. `rollback` decides the order
    of the steps. `router_timeout_seconds`: how long routers may take to confirm the routing."""

    server: StateServerClient
    function_apps: ReleaseFunctionApps | None
    rollback: bool
    router_timeout_seconds: float
    report: Callable[[str], None]
    warn: Callable[[str], None]

    def make_active(self, app: SideBySideApp, version: str) -> RouterProgress:
        """Give all requests to this release, and wait for the routers. Returns which of them are behind.

        `app` is what the caller has decided on. Raises ConflictError if the requests are divided otherwise by now.
        """
        is_routed = is_promoted(app, version)
        if is_routed:
            self.report(f"release {version} is active already; the routing was not changed")
        revision = app.routing.revision
        quiesces = self.function_apps is not None and bool(app.quiesce_functions)
        progress: RouterProgress | None = None
        done: list[PromotionStep] = []
        for step in plan_promotion(app, version, quiesces=quiesces, rollback=self.rollback):
            if step.action is PromotionAction.ROUTE:
                revision = self._route(app, version, done)
                is_routed = True
            else:
                if is_routed and progress is None and self._restarts_without_traffic(app, step):
                    progress = self._wait_for_routers(revision, self.router_timeout_seconds)
                self._quiesce_or_undo(app, step, done, is_routed=is_routed)
            done.append(step)
        if progress is None:
            return self._wait_for_routers(revision, self.router_timeout_seconds)
        return self._wait_for_routers(revision, 0) if progress.behind else progress

    def _restarts_without_traffic(self, app: SideBySideApp, step: PromotionStep) -> bool:
        """Whether the step is to restart the old release only when routers send it nothing more.

        A router that does not confirm in time delays the step, and does not prevent it. It may be gone, and two
        releases would run the functions until it is removed. A rollback does not wait, because its old release is a
        bad one.
        """
        return step.action is PromotionAction.QUIESCE and app.quiesce_order == "overlap" and not self.rollback

    def _wait_for_routers(self, revision: int, timeout_seconds: float) -> RouterProgress:
        """Wait until all routers that ask under a name have confirmed the routing."""
        return wait_for_routers(self.server, revision, timeout_seconds=timeout_seconds, report=self.report)

    def _quiesce_or_undo(
        self, app: SideBySideApp, step: PromotionStep, done: list[PromotionStep], *, is_routed: bool
    ) -> None:
        """Disable or enable the functions in a release. If that fails before the routing has changed, the active
        release gets its functions back, because the next attempt may fail in the same way."""
        try:
            self._quiesce(app, step)
        except CommandError:
            if not is_routed:
                self._undo([*done, step])
            raise

    def _quiesce(self, app: SideBySideApp, step: PromotionStep) -> None:
        """Disable or enable the functions in a release. A Function App that is gone is no obstacle, unless its release
        is the active one or is to be."""
        assert self.function_apps is not None, "planned only if Azure can be asked"
        release = app.releases[step.version]
        if step.action is PromotionAction.UNQUIESCE:
            self.function_apps.unquiesce(app, release)
            return
        try:
            self.function_apps.quiesce(app, release)
        except FunctionAppNotFound as error:
            if step.version == app.routing.active:
                raise
            self.warn(f"the functions of release {step.version} were not disabled: {error.message}")

    def _route(self, app: SideBySideApp, version: str, done: list[PromotionStep]) -> int:
        """Change the routing. Returns its revision. If the server refuses the change, the active release gets its
        functions back."""
        try:
            return self._write_routing(app, version)
        except ServerUnavailable as error:
            if error.problem_code != "TaskHubUnavailable":
                raise ServerUnavailable(
                    f"{error.message}. Whether the routing was changed is unknown. Run the same command again"
                ) from error
            self._undo(done)
            raise
        except CommandError:
            self._undo(done)
            raise

    def _write_routing(self, app: SideBySideApp, version: str) -> int:
        """Make the release active, and return the routing revision. Raises ConflictError if another caller has divided
        the requests differently since the app was read."""
        reason = _ROLLBACK_REASON if self.rollback else None
        current = app
        for _ in range(_MAX_ATTEMPTS):
            try:
                document = self.server.put_routing({"active": version, "reason": reason}, etag=current.routing.etag)
                return parse_routing(document).revision
            except ConflictError as error:
                if error.problem_code != "PreconditionFailed":
                    raise
            current = read_app(self.server)
            if is_promoted(current, version):
                # The response to an earlier attempt was lost, or another caller wanted the same.
                return current.routing.revision
            if not current.routing.divides_as(app.routing):
                raise ConflictError(
                    f"another caller has changed the routing of app {app.name} meanwhile: release "
                    f"{current.routing.active} is active now. Nothing was changed. If release {version} is still to "
                    "get all requests, run the same command again"
                )
        raise ConflictError(
            f"the routing document of app {app.name} was changed by other callers {_MAX_ATTEMPTS} times while it was "
            "to be written. Nothing was changed. Run the same command again"
        )

    def _undo(self, done: list[PromotionStep]) -> None:
        """Give the functions back to the release that is active now, which another caller may have changed. A failure
        is a warning, so that the error of the routing is the one that is reported."""
        if not done:
            return
        try:
            current = read_app(self.server)
            for step in plan_undo(current, done):
                self.report(f"the routing was not changed, so release {step.version} gets its functions as before")
                self._quiesce(current, step)
        except CommandError as error:
            self.warn(f"functions may be disabled in the active release. Run safe-deploy unquiesce: {error.message}")


def check_quiescing(app: SideBySideApp, resource_group: str) -> None:
    """Raises UsageError if the policy names functions to disable and Azure cannot be asked to do it."""
    if app.quiesce_functions and not resource_group:
        raise UsageError(
            f"the policy of app {app.name} has quiesceFunctions ({', '.join(app.quiesce_functions)}), which only the "
            "active release may run. Add --resource-group, so that safe-deploy can disable them in the others"
        )
