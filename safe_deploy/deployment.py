"""The sequence of one deployment: wait until the slot has drained, stage, deploy, swap, clean up.

Every step is safe to repeat, so running the sequence again continues it, wherever it was interrupted.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from safe_deploy.azure_slots import PRODUCTION, DeploymentSlots
from safe_deploy.client import Json, StateServerClient
from safe_deploy.durations import format_duration
from safe_deploy.errors import CommandError, ConflictError, Interrupted, NotReady, TimedOut
from safe_deploy.rollouts.remaining_share import describe_remaining_share
from safe_deploy.side_by_side.app_state import SIDE_BY_SIDE
from safe_deploy.slot_task_hubs import ObservedSlots, RecordedSlots, is_same_task_hub
from safe_deploy.subprocesses import Command, SignalGuard
from safe_deploy.swap_executor import SwapExecutor
from safe_deploy.swap_history import find_hub_swapped_by_this_run
from safe_deploy.swap_messages import STICKY_SETTING_MESSAGE
from safe_deploy.swap_planner import find_staging_mismatch
from safe_deploy.waiting import PollOptions, wait_until_ready


@dataclass(frozen=True, slots=True, kw_only=True)
class StagingRequest:
    """The body of PostStaging. With `create`, an app that the server does not know is created."""

    task_hub: str
    version: str | None = None
    slot: str = "staging"
    force: bool = False
    take_over: bool = False
    reason: str | None = None
    create: bool = False

    def to_json(self) -> Json:
        """The body of PostStaging."""
        return {
            "taskHub": self.task_hub,
            "version": self.version,
            "slot": self.slot,
            "force": self.force,
            "takeOver": self.take_over,
            "reason": self.reason,
        }


def stage(
    server: StateServerClient,
    staging: StagingRequest,
    *,
    deployment_slots: DeploymentSlots | None,
    report: Callable[[str], None],
) -> Json:
    """Record the new task hub for the slot. Returns the app.

    With `deployment_slots`, raises ConflictError if the slot in Azure has a task hub that the server's verdict does not
    cover, and AzureUnavailable if Azure does not answer.
    """
    if deployment_slots is not None:
        _require_slots_match(server, staging, deployment_slots, report)
    return server.post_staging(staging.to_json(), create=staging.create)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A deployment: waits until the slot can be staged, stages the task hub, runs the deploy command, and swaps.

    Cleanup is a separate step, because its failure must not fail the deployment.
    """

    server: StateServerClient
    staging: StagingRequest
    polling: PollOptions
    wait_seconds: float
    """How long to wait until the slot can be staged."""
    deploy_command: Command
    swap_command: Command
    swap_executor: SwapExecutor
    deployment_slots: DeploymentSlots | None
    guard: SignalGuard
    report: Callable[[str], None]

    def run(self) -> Json:
        """Wait, stage, deploy and swap, or continue where an earlier attempt stopped. Returns the app."""
        app, etag = self.server.get_app()
        recorded = self._read_recorded_slots(app, etag)
        if self._is_own_swap_of_another_hub_pending(recorded):
            with self.guard:
                app = self.swap_executor.finish_interrupted_swap(recorded)
            recorded = self._read_recorded_slots(app)
        if (task_hub := find_hub_swapped_by_this_run(self.server, recorded)) is not None:
            self.report(
                f"an earlier attempt of this run has brought task hub {task_hub} into production: nothing is left to do"
            )
            return app
        if is_same_task_hub(recorded.production, self.staging.task_hub):
            # An earlier attempt recorded the swap. The executor finishes it if necessary.
            with self.guard:
                return self.swap_executor.swap(self.staging.task_hub, self.swap_command)
        # Before staging, a signal may end this process at any point: nothing has changed yet.
        self._wait_and_stage(app)
        with self.guard:
            return self._deploy_and_swap()

    def _read_recorded_slots(self, app: Json, etag: str = "") -> RecordedSlots:
        """What the server has recorded of production and of the slot that is staged."""
        return RecordedSlots.from_app(app, self.staging.slot, self.server.url, etag=etag)

    def _is_own_swap_of_another_hub_pending(self, recorded: RecordedSlots) -> bool:
        """Whether an earlier attempt of this run, with another task hub name, was interrupted in its swap."""
        pending_swap = recorded.pending_swap
        return (
            pending_swap is not None
            and pending_swap.belongs_to_run(self.server.caller.run_url)
            and not is_same_task_hub(pending_swap.task_hub, self.staging.task_hub)
        )

    def _deploy_and_swap(self) -> Json:
        """Run the deploy command, and swap. If the command fails, the deployment is abandoned. Raises CommandError."""
        self.report(f"task hub {self.staging.task_hub} is staged; running {self.deploy_command}")
        try:
            result = self.guard.run(self.deploy_command)
        except CommandError as error:
            raise type(error)(f"{error.message}. {self._abandon()}") from error
        if result.interrupted:
            raise Interrupted(
                f"the deploy command {result} after a request to stop. The deployment stays open, because Azure may "
                "continue it. Run safe-deploy deploy again, or let the next run take over with --take-over"
            )
        if not result.succeeded:
            raise CommandError(f"the deploy command {result}. {self._abandon()}")
        return self.swap_executor.swap(self.staging.task_hub, self.swap_command)

    def _abandon(self) -> str:
        """Close the deployment, so that the next run need not wait for its timeout. Returns what became of it."""
        try:
            self.server.delete_staging(self.staging.task_hub, self.staging.slot)
        except CommandError as error:
            return f"Nothing was swapped. The deployment stays open until it times out: {error.message}"
        return "The deployment is abandoned; nothing was swapped"

    def _wait_and_stage(self, app: Json) -> None:
        """Wait until the slot is ready, and stage. Waits again if something has started in between. Raises TimedOut."""
        deadline = time.monotonic() + self.wait_seconds
        # Staging is tried at once if it overrides the verdict or another run, or repeats this run's own staging.
        waits_first = not (self.staging.force or self.staging.take_over or self._is_own_deployment(app))
        while True:
            if waits_first:
                seconds_left = max(0.0, deadline - time.monotonic())
                wait_until_ready(self.server, self.staging.slot, timeout_seconds=seconds_left, polling=self.polling)
            try:
                stage(self.server, self.staging, deployment_slots=self.deployment_slots, report=self.report)
                return
            except (NotReady, ConflictError) as error:
                # An orchestration or another run may have started since the verdict. Both end by themselves.
                is_temporary = isinstance(error, NotReady) or error.problem_code == "DeploymentInProgress"
                if not is_temporary:
                    raise
                if time.monotonic() >= deadline:
                    raise self._describe_end(error) from error
                waits_first = True
                self.report(f"{error.message}; waiting")
                time.sleep(min(self.polling.interval_seconds, max(0.0, deadline - time.monotonic())))

    def _describe_end(self, error: CommandError) -> CommandError:
        """What a refusal means when the time is up. A slot that is not ready has then the exit code of every wait."""
        if not isinstance(error, NotReady):
            return error
        within = format_duration(timedelta(seconds=self.wait_seconds))
        return TimedOut(f"slot {self.staging.slot} was not ready within {within}: {error.message}", error.problem)

    def _is_own_deployment(self, app: Json) -> bool:
        """Whether this run has the deployment of this task hub open already."""
        deployment = app["deployment"]
        return (
            deployment is not None
            and is_same_task_hub(deployment["taskHub"], self.staging.task_hub)
            and deployment["runUrl"] == self.server.caller.run_url
        )


def _require_slots_match(
    server: StateServerClient,
    staging: StagingRequest,
    deployment_slots: DeploymentSlots,
    report: Callable[[str], None],
) -> None:
    """The slots in Azure must be those that the server's verdict covers, and get visitors only as the server knows.
    Raises ConflictError and AzureUnavailable."""
    if deployment_slots.is_task_hub_setting_sticky():
        raise ConflictError(STICKY_SETTING_MESSAGE)
    try:
        app, _ = server.get_app()
    except CommandError as error:
        if error.problem_code != "AppNotFound" or not staging.create:
            raise
        app = {"app": server.app, "slots": {}}
    recorded = RecordedSlots.from_app(app, staging.slot, server.url)
    observed = ObservedSlots(deployment_slots.get_task_hub(PRODUCTION), deployment_slots.get_task_hub(staging.slot))
    mismatch = find_staging_mismatch(recorded, observed, task_hub=staging.task_hub) or describe_remaining_share(
        app, staging.slot, deployment_slots
    )
    if mismatch is None:
        return
    if not staging.force:
        raise ConflictError(mismatch)
    report(f"{mismatch}. Staging anyway, because of --force")


def clean_up(
    server: StateServerClient,
    slot: str,
    *,
    deployment_slots: DeploymentSlots | None,
    dry_run: bool,
    delete_task_hubs: bool,
) -> Json:
    """Remove retired task hubs that have drained. Returns the response of Cleanup.

    Raises ConflictError if a task hub that would be deleted is still in a slot in Azure, even if the server has the
    slot on record as empty. An app with releases side by side has no slots to compare.
    """
    if deployment_slots is not None and delete_task_hubs and not dry_run:
        app = server.get_app()[0]
        if app["model"] != SIDE_BY_SIDE:
            _check_not_in_slots(app, (PRODUCTION, slot), deployment_slots)
    return server.post_cleanup(dry_run=dry_run, delete_task_hubs=delete_task_hubs)


def _check_not_in_slots(app: Json, slots: Sequence[str], deployment_slots: DeploymentSlots) -> None:
    """Raise ConflictError if a slot in Azure has a task hub that is retired on the server."""
    for slot in slots:
        observed = deployment_slots.get_task_hub(slot)
        if any(is_same_task_hub(observed, retired["taskHub"]) for retired in app["retired"]):
            raise ConflictError(
                f"task hub {observed} is retired on the server, but in Azure {slot} still has it: nothing was "
                "deleted. Run safe-deploy doctor to compare server and Azure"
            )
