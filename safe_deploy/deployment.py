"""The whole sequence of one deployment: wait until the slot is drained, stage, deploy, swap, clean up.

Every step can be repeated, so running the sequence again after whatever happened goes on where it stopped.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from safe_deploy.client import Json, StateServerClient
from safe_deploy.deployment_slots import DeploymentSlots
from safe_deploy.errors import CommandError, ConflictError, NotReady
from safe_deploy.subprocesses import Command, SignalGuard
from safe_deploy.swap_executor import SwapExecutor
from safe_deploy.swap_planner import (
    STICKY_SETTING_MESSAGE,
    ObservedSlots,
    RecordedSlots,
    find_staging_mismatch,
    is_same_task_hub,
)
from safe_deploy.waiting import PollResult, wait_until_ready


@dataclass(frozen=True, slots=True)
class StagingOptions:
    """What PostStaging is asked for."""

    task_hub: str
    version: str | None = None
    slot: str = "staging"
    force: bool = False
    take_over: bool = False
    reason: str | None = None

    def to_json(self) -> Json:
        return {
            "taskHub": self.task_hub,
            "version": self.version,
            "slot": self.slot,
            "force": self.force,
            "takeOver": self.take_over,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class WaitOptions:
    """How long to wait for Ready, and how often to ask; in seconds."""

    timeout: float
    interval: float
    verify: str
    on_poll: Callable[[PollResult], None]


def stage(
    server: StateServerClient,
    staging: StagingOptions,
    deployment_slots: DeploymentSlots | None,
    report: Callable[[str], None],
) -> Json:
    """Put the new hub on record for the slot, once the platform's slot carries what the server judges. Raises
    ConflictError where it does not: then the verdict would be about another hub than the one that is overwritten."""
    if deployment_slots is not None:
        _require_slots_match(server, staging, deployment_slots, report)
    return server.post_staging(staging.to_json())


def deploy(
    server: StateServerClient,
    staging: StagingOptions,
    waiting: WaitOptions,
    deploy_command: Command,
    swap_command: Command,
    swap_executor: SwapExecutor,
    deployment_slots: DeploymentSlots | None,
    guard: SignalGuard,
    report: Callable[[str], None],
) -> Json:
    """Everything up to the swap. Answers the app."""
    app, _ = server.get_app()
    recorded = RecordedSlots.from_app(app, staging.slot, server.url)
    pending_swap = recorded.pending_swap
    if (
        pending_swap is not None
        and pending_swap.belongs_to_run(server.caller.run_url)
        and not is_same_task_hub(pending_swap.task_hub, staging.task_hub)
    ):
        # An earlier attempt of this run, under another name, was cut off in its swap.
        with guard:
            app = swap_executor.finish_interrupted_swap(recorded)
        recorded = RecordedSlots.from_app(app, staging.slot, server.url)
    if (done := swap_executor.find_hub_swapped_by_this_run(recorded)) is not None:
        report(f"an earlier attempt of this run has brought task hub {done} into production: nothing is left to do")
        return app
    if is_same_task_hub(recorded.production, staging.task_hub):
        # An earlier run came as far as the swap.
        with guard:
            return swap_executor.swap(staging.task_hub, swap_command)
    # Until here a signal may end this process at any point: nothing is half done.
    _wait_and_stage(server, app, staging, waiting, deployment_slots, report)
    with guard:
        return _deploy_and_swap(server, staging, deploy_command, swap_command, swap_executor, guard, report)


def _deploy_and_swap(
    server: StateServerClient,
    staging: StagingOptions,
    deploy_command: Command,
    swap_command: Command,
    swap_executor: SwapExecutor,
    guard: SignalGuard,
    report: Callable[[str], None],
) -> Json:
    report(f"task hub {staging.task_hub} is staged; running {deploy_command}")
    try:
        result = guard.run(deploy_command)
    except CommandError as error:
        raise type(error)(f"{error.message}. {_abandon_deployment(server, staging)}") from error
    if result.interrupted:
        raise CommandError(
            f"the deploy command {result}, as it was told to stop. The deployment stays open: Azure may go on with "
            "it. Run the same again, or let the next run take over"
        )
    if not result.succeeded:
        raise CommandError(f"the deploy command {result}. {_abandon_deployment(server, staging)}")
    return swap_executor.swap(staging.task_hub, swap_command)


def _abandon_deployment(server: StateServerClient, staging: StagingOptions) -> str:
    """Whoever comes next need not wait for the deployment's timeout. Answers what became of it."""
    try:
        server.delete_staging(staging.task_hub, staging.slot)
    except CommandError as error:
        return f"Nothing was swapped. The deployment stays open until its time is over: {error.message}"
    return "The deployment is abandoned; nothing was swapped"


def _wait_and_stage(
    server: StateServerClient,
    app: Json,
    staging: StagingOptions,
    waiting: WaitOptions,
    deployment_slots: DeploymentSlots | None,
    report: Callable[[str], None],
) -> None:
    deadline = time.monotonic() + waiting.timeout
    # Who overrides the verdict, or another run, or holds the deployment already, has nothing to wait for at first.
    asks_first = not (staging.force or staging.take_over or _is_own_deployment(server, app, staging))
    while True:
        if asks_first:
            left = max(0.0, deadline - time.monotonic())
            wait_until_ready(server, staging.slot, left, waiting.interval, waiting.verify, waiting.on_poll)
        try:
            stage(server, staging, deployment_slots, report)
            return
        except (NotReady, ConflictError) as error:
            # Between the verdict and the request an orchestration or another run can have begun.
            passing = isinstance(error, NotReady) or error.problem.get("code") == "DeploymentInProgress"
            if not passing or time.monotonic() >= deadline:
                raise
            asks_first = True
            report(f"{error.message}; waiting")
            time.sleep(min(waiting.interval, max(0.0, deadline - time.monotonic())))


def _is_own_deployment(server: StateServerClient, app: Json, staging: StagingOptions) -> bool:
    """Whether this run holds the open deployment of this hub: staging it again changes nothing."""
    deployment = app["deployment"]
    return (
        deployment is not None
        and is_same_task_hub(deployment["taskHub"], staging.task_hub)
        and deployment["runUrl"] == server.caller.run_url
    )


def _require_slots_match(
    server: StateServerClient, staging: StagingOptions, deployment_slots: DeploymentSlots, report: Callable[[str], None]
) -> None:
    """Raises ConflictError, AzureUnavailable."""
    if deployment_slots.is_task_hub_setting_sticky():
        raise ConflictError(STICKY_SETTING_MESSAGE)
    try:
        app, _ = server.get_app()
    except CommandError as error:
        if error.problem.get("code") != "AppNotFound":
            raise
        app = {"app": server.app, "slots": {}}
    recorded = RecordedSlots.from_app(app, staging.slot, server.url)
    observed = ObservedSlots(deployment_slots.task_hub("production"), deployment_slots.task_hub(staging.slot))
    against = find_staging_mismatch(recorded, staging.task_hub, observed)
    if against is None:
        return
    if not staging.force:
        raise ConflictError(against)
    report(f"{against}. Staged all the same, by force")


def clean_up(
    server: StateServerClient,
    slot: str,
    deployment_slots: DeploymentSlots | None,
    dry_run: bool,
    delete_task_hubs: bool,
) -> Json:
    """Remove retired hubs that are drained. Raises ConflictError where one that would be deleted is in a slot on the
    platform, whatever the server has on record."""
    if deployment_slots is not None and delete_task_hubs and not dry_run:
        retired = [one["taskHub"] for one in server.get_app()[0]["retired"]]
        for place in ("production", slot):
            carried = deployment_slots.task_hub(place)
            if any(is_same_task_hub(carried, hub) for hub in retired):
                raise ConflictError(
                    f"task hub {carried} is retired, but in Azure {place} carries it: nothing was deleted. "
                    "safe-deploy doctor compares both"
                )
    return server.post_cleanup(dry_run, delete_task_hubs)
