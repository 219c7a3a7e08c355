"""The sequence of `safe-deploy release`: register the release, create its task hub on a scheduler, run the user's
command, and check what it has deployed.

Every step can be repeated, so the same command continues wherever it was interrupted. Until its promotion, the release
stays staged.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safe_deploy.client import Json, StateServerClient
from safe_deploy.errors import CommandError, ConflictError, Interrupted, TimedOut
from safe_deploy.scheduler_task_hubs import SchedulerTaskHubs
from safe_deploy.side_by_side.app_state import Release, ReleaseState, SideBySideApp, explain_unknown_app
from safe_deploy.side_by_side.function_apps import ReleaseFunctionApps
from safe_deploy.side_by_side.release_commands import build_release_command
from safe_deploy.side_by_side.routing_history import is_registered_by_this_run
from safe_deploy.slot_task_hubs import is_same_task_hub
from safe_deploy.subprocesses import SignalGuard
from safe_deploy.wait_progress import BeginWait, WaitProgress, WaitStatus

_POLL_SECONDS = 5
"""How often the server is asked whether the task hub exists. Each answer reads the provider."""

_UNREADABLE = frozenset({"Failed", "Denied", "Throttled"})
"""Statuses of a probe that say nothing about whether the task hub exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRelease:
    """The body of PostRelease."""

    version: str
    task_hub: str
    address: str
    take_over: bool = False
    reason: str | None = None

    def to_json(self) -> Json:
        """The body of PostRelease."""
        return {
            "version": self.version,
            "taskHub": self.task_hub,
            "address": self.address,
            "takeOver": self.take_over,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseDeployment:
    """One release. `function_apps` is None if Azure is not asked, `scheduler` None if no task hub is to be created.
    `timeout_seconds`: how long the app may take to start."""

    server: StateServerClient
    release: NewRelease
    command_line: Sequence[str]
    function_apps: ReleaseFunctionApps | None
    scheduler: SchedulerTaskHubs | None
    timeout_seconds: float
    begin_wait: BeginWait
    report: Callable[[str], None]
    warn: Callable[[str], None]

    def run(self) -> Json:
        """Register and deploy the release. Returns the app as GetApp shows it."""
        try:
            response = self.server.post_release(self.release.to_json())
        except ConflictError as error:
            response = self._find_finished(error)
            self.report(
                f"an earlier attempt of this run has deployed release {self.release.version}, which had traffic since; "
                "the command was not run, because orchestrations of the release may be running"
            )
            return response
        except CommandError as error:
            raise explain_unknown_app(error) from error
        app = SideBySideApp.from_json(response)
        release = app.releases[self.release.version]
        self._deploy(release)
        if self.function_apps is not None:
            self.function_apps.check_task_hub(release)
            self.function_apps.quiesce(app, release)
        self._wait_for_start(app, release)
        return response

    def _find_finished(self, error: ConflictError) -> Json:
        """The app, if this run has deployed the release before, and it had traffic since. Raises `error` otherwise."""
        if error.problem_code != "ReleaseExists" or error.problem.get("version") != self.release.version:
            raise error
        response, _ = self.server.get_app()
        release = SideBySideApp.from_json(response).releases.get(self.release.version)
        is_same = (
            release is not None
            and is_same_task_hub(release.task_hub, self.release.task_hub)
            and release.had_traffic
            and release.state != ReleaseState.REMOVING
        )
        if not is_same or not is_registered_by_this_run(self.server, self.release.version):
            raise error
        return response

    def _deploy(self, release: Release) -> None:
        """Create the task hub on a scheduler, and run the user's command. Raises CommandError if it fails."""
        if self.scheduler is not None:
            self.report(f"creating task hub {release.task_hub} on the scheduler, unless it exists")
            self.scheduler.create(release.task_hub)
        command = build_release_command(self.command_line, release)
        self.report(f"release {release.version} with task hub {release.task_hub} is registered; running {command}")
        with SignalGuard() as guard:
            result = guard.run(command)
        if result.succeeded and not result.interrupted:
            return
        why = f"{result} after a request to stop" if result.interrupted else str(result)
        error_type = Interrupted if result.interrupted else CommandError
        raise error_type(
            f"the command {why}. Release {release.version} stays staged, without traffic, and its deployment stays "
            "open. Run the same command again to continue. To give the release up, run safe-deploy retire --version "
            f"{release.version} with the command that deletes its Function App"
        )

    def _wait_for_start(self, app: SideBySideApp, release: Release) -> None:
        """Wait until the task hub exists, which shows that the app has started. Raises TimedOut."""
        if not app.has_provider:
            self.warn(
                f"app {app.name} has no taskHubs, so the server cannot check whether release {release.version} has "
                f"started and uses task hub {release.task_hub}. Look at the Function App before you promote it"
            )
            return
        deadline = time.monotonic() + self.timeout_seconds
        subject = f"until release {release.version} of app {app.name} has started"
        with self.begin_wait(subject, self.timeout_seconds) as progress:
            self._poll_start(release, deadline, progress)
        self.report(f"task hub {release.task_hub} exists: release {release.version} has started")

    def _poll_start(self, release: Release, deadline: float, progress: WaitProgress) -> None:
        """Return when the task hub exists. Raises TimedOut.

        No reason ends this wait early: the command that was just run creates the app, and may give the server its role.
        """
        while True:
            verdict = self.server.get_release_status(release.version, verify="fresh")
            obstacle = find_start_obstacle(verdict)
            if obstacle is None:
                return
            progress.update(WaitStatus(obstacle, obstacle, obstacle))
            seconds_left = deadline - time.monotonic()
            if seconds_left <= 0:
                raise TimedOut(
                    f"release {release.version} has not started within {self.timeout_seconds:.10g} s: {obstacle}. It "
                    "stays staged. Check the log of its Function App, and its setting with the task hub name. Then run "
                    "the same command again"
                )
            time.sleep(min(_POLL_SECONDS, seconds_left))


def find_start_obstacle(verdict: Mapping[str, Any]) -> str | None:
    """Why the verdict does not show that the app has started; None if its task hub exists."""
    evidence = verdict["evidence"]
    probe = evidence["probe"]
    if probe is None:
        # While instances are active on record, or the task hub settles, the server reads nothing else of it. The name
        # of the task hub is new, so its events come from this app.
        has_events = verdict["hasRunning"] or evidence["lastRecordedAt"] is not None
        return None if has_events else "the server has not read its task hub yet"
    if probe["status"] == "Missing":
        return f"task hub {verdict['taskHub']} does not exist at its provider"
    return probe["message"] or f"the probe is {probe['status']}" if probe["status"] in _UNREADABLE else None
