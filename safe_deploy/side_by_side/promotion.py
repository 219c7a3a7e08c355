"""Carries out a promotion or a rollback: disables and enables functions in the order of the policy, and changes the
routing in one conditional write.

However it is interrupted, the same command continues: every step can be repeated, and the write is made only if the
requests are still divided as they were read. Another promotion can run at the same time. So after the write, the
routing is read before each change of functions, and again after the last one. Each promotion also sets all functions
after its own write. Then the later one of two promotions sees what the earlier one has done.
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
    plan_correction,
    plan_promotion,
)
from safe_deploy.side_by_side.routers import RouterProgress, wait_for_routers
from safe_deploy.wait_progress import BeginWait

_ROLLBACK_REASON = "safe-deploy rollback"
"""What the audit log shows."""

_MAX_ATTEMPTS = 5
"""How often the routing is written again because its document has changed, but not how it divides the requests: when
another release was registered, for example. Also how often functions are corrected while other callers change the
active release."""


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
    begin_wait: BeginWait
    report: Callable[[str], None]
    warn: Callable[[str], None]

    def make_active(self, app: SideBySideApp, version: str) -> RouterProgress:
        """Give all requests to this release, and wait for the routers. Returns which of them are behind.

        `app` is what the caller has decided on. Raises ConflictError if the requests are divided otherwise by now, or
        if another release becomes active before the functions are changed.
        """
        is_routed = is_promoted(app, version)
        revision = app.routing.revision
        quiesces = self.function_apps is not None and bool(app.quiesce_functions)
        steps = plan_promotion(app, version, quiesces=quiesces, rollback=self.rollback)
        if is_routed:
            routes_again = any(step.action is PromotionAction.ROUTE for step in steps)
            consequence = "and keeps all requests" if routes_again else "so the routing was not changed"
            self.report(f"release {version} is active already, {consequence}")
        progress: RouterProgress | None = None
        done: list[PromotionStep] = []
        for step in steps:
            if step.action is PromotionAction.ROUTE:
                revision = self._route(app, version, done)
                is_routed = True
            else:
                if is_routed and progress is None and self._restarts_without_traffic(app, step):
                    progress = self._wait_for_routers(revision, self.router_timeout_seconds)
                if is_routed:
                    self._check_active(version, done)
                self._change_functions(app, step, done)
            done.append(step)
        if quiesces:
            self._check_active(version, done)
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
        return wait_for_routers(
            self.server, revision, timeout_seconds=timeout_seconds, begin_wait=self.begin_wait, report=self.report
        )

    def _check_active(self, version: str, done: list[PromotionStep]) -> None:
        """Raises ConflictError if another release has become active. What this promotion has changed is corrected
        first."""
        current = read_app(self.server)
        if current.routing.active == version:
            return
        self._correct_functions(done)
        raise ConflictError(
            f"another caller has made release {current.routing.active} of app {current.name} active meanwhile, so the "
            f"functions run there and not in release {version}. If release {version} is still to get all requests, run "
            "the same command again"
        )

    def _change_functions(self, app: SideBySideApp, step: PromotionStep, done: list[PromotionStep]) -> None:
        """Disable or enable the functions in a release. If that fails, the active release keeps its functions or gets
        them back, because the next attempt may fail in the same way."""
        try:
            self._quiesce(app, step)
        except CommandError:
            self._correct_functions([*done, step])
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
            revision = self._write_routing(app, version)
        except ServerUnavailable as error:
            if error.problem_code != "TaskHubUnavailable":
                raise ServerUnavailable(
                    f"{error.message}. Whether the routing was changed is unknown. Run the same command again"
                ) from error
            self._correct_functions(done)
            raise
        except CommandError:
            self._correct_functions(done)
            raise
        for adopted in sorted(app.releases_with_unrouted_traffic - {version}):
            self.report(
                f"release {adopted}, which was adopted, counts as without traffic from now on. The server does not see "
                "visitors who still use its own address"
            )
        return revision

    def _write_routing(self, app: SideBySideApp, version: str) -> int:
        """Make the release active, and return the routing revision. This also ends the use of the adopted releases that
        the caller has seen. Raises ConflictError if another caller has divided the requests differently since the app
        was read."""
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
            if (
                is_promoted(current, version)
                and not current.releases_with_unrouted_traffic & app.releases_with_unrouted_traffic
            ):
                # The response to an earlier attempt was lost, or another caller wanted the same.
                return current.routing.revision
            _check_traffic_unchanged(app, current, version)
        raise ConflictError(
            f"the routing document of app {app.name} was changed by other callers {_MAX_ATTEMPTS} times while it was "
            "to be written. Nothing was changed. Run the same command again"
        )

    def _correct_functions(self, done: list[PromotionStep]) -> None:
        """Leave the functions that this promotion has changed to the release that is active now. A failure is a
        warning, so that the error of the promotion is the one that is reported."""
        if not done:
            return
        changes = list(done)
        try:
            for _ in range(_MAX_ATTEMPTS):
                current = read_app(self.server)
                steps = plan_correction(current, changes)
                if not steps:
                    return
                for step in steps:
                    self.report(_describe_correction(step))
                    self._quiesce(current, step)
                changes += steps
            problem = f"the active release has changed {_MAX_ATTEMPTS} times meanwhile"
        except CommandError as error:
            problem = error.message
        self.warn(
            "functions may be disabled in the active release, or enabled in another one. Run safe-deploy unquiesce or "
            f"quiesce: {problem}"
        )


def _describe_correction(step: PromotionStep) -> str:
    """Why the functions of a release are changed again."""
    if step.action is PromotionAction.UNQUIESCE:
        return f"release {step.version} is active, so it gets its functions as before"
    return f"release {step.version} is not active, so its functions are disabled again"


def _check_traffic_unchanged(app: SideBySideApp, current: SideBySideApp, version: str) -> None:
    """Raises ConflictError if the requests were divided in another way since the caller decided. Also if a release was
    adopted meanwhile: its visitors do not come through a router yet."""
    retry = f"If release {version} is still to get all requests, run the same command again"
    if not current.has_kept_traffic_since(app):
        raise ConflictError(
            f"another caller has changed the routing of app {app.name} meanwhile: release {current.routing.active} is "
            f"active now, and stays so. {retry}"
        )
    adopted = current.releases_with_unrouted_traffic - app.releases_with_unrouted_traffic
    if adopted:
        raise ConflictError(
            f"an administrator has adopted release {', '.join(sorted(adopted))} of app {app.name} meanwhile. Its "
            "visitors may use its own address, and after a change of the routing it counts as without traffic. Let "
            f"them come through a router first. The routing was not changed. {retry}"
        )


def check_quiescing(app: SideBySideApp, resource_group: str) -> None:
    """Raises UsageError if the policy names functions to disable and Azure cannot be asked to do it."""
    if app.quiesce_functions and not resource_group:
        raise UsageError(
            f"the policy of app {app.name} has quiesceFunctions ({', '.join(app.quiesce_functions)}), which only the "
            "active release may run. Add --resource-group, so that safe-deploy can disable them in the others"
        )
