"""The whole sequence of one deployment: wait until the slot is drained, stage, deploy, swap, clean up.

Every step can be repeated, so running the sequence again after whatever happened goes on where it stopped.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from safe_deploy.azure import Azure
from safe_deploy.client import Json, Server
from safe_deploy.commands import Guard
from safe_deploy.errors import CommandError, ConflictError, NotReady
from safe_deploy.promotion import Command, Promotion
from safe_deploy.swaps import Record, same
from safe_deploy.waiting import Look, wait_until_ready


@dataclass(frozen=True, slots=True)
class Staging:
    """What PostStaging is asked for."""

    task_hub: str
    version: str | None = None
    slot: str = "staging"
    force: bool = False
    take_over: bool = False
    reason: str | None = None

    def body(self) -> Json:
        return {
            "taskHub": self.task_hub,
            "version": self.version,
            "slot": self.slot,
            "force": self.force,
            "takeOver": self.take_over,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long to wait for Ready, and how often to ask; in seconds."""

    timeout: float
    interval: float
    verify: str
    report: Callable[[Look], None]


def stage(server: Server, staging: Staging, azure: Azure | None, say: Callable[[str], None]) -> Json:
    """Put the new hub on record for the slot, once the platform's slot carries what the server believes. Raises
    ConflictError where it does not: then the verdict would be about another hub than the one that is overwritten."""
    if azure is not None:
        _compare(server, staging, azure, say)
    return server.post_staging(staging.body())


def deploy(
    server: Server,
    staging: Staging,
    waiting: Waiting,
    deploy_command: Command,
    swap_command: Command,
    azure: Azure | None,
    say: Callable[[str], None],
) -> Json:
    """Everything up to the swap. Answers the app."""
    promotion = Promotion(server, staging.slot, azure, say)
    app, _ = server.get_app()
    record = Record.of(app, staging.slot)
    if (
        record.pending is not None
        and _is_of(server, record.pending.run_url)
        and not same(record.production, staging.task_hub)
    ):
        # An earlier attempt of this run, under another name, was cut off in its swap.
        record = Record.of(promotion.settle(record), staging.slot)
    if same(record.production, staging.task_hub):
        # An earlier run came as far as the swap.
        with Guard() as guard:
            return promotion.swap(staging.task_hub, swap_command, guard)
    _wait_and_stage(server, staging, waiting, azure, say)
    with Guard() as guard:
        say(f"task hub {staging.task_hub} is staged; running: {deploy_command}")
        try:
            ended = guard.run(deploy_command.what, deploy_command.env)
        except CommandError as error:
            raise type(error)(f"{error.message}. {_abandon(server, staging)}") from error
        if ended.interrupted:
            raise CommandError(
                f"the deploy command {ended}, as it was told to stop. The deployment stays open: Azure may go on with "
                "it. Run the same again, or let the next run take over"
            )
        if not ended.well:
            raise CommandError(f"the deploy command {ended}. {_abandon(server, staging)}")
        return promotion.swap(staging.task_hub, swap_command, guard)


def _abandon(server: Server, staging: Staging) -> str:
    """Whoever comes next need not wait for the deployment's timeout. Answers what became of it."""
    try:
        server.delete_staging(staging.task_hub, staging.slot)
    except CommandError as error:
        return f"Nothing was swapped. The deployment stays open until its time is over: {error.message}"
    return "The deployment is abandoned; nothing was swapped"


def _wait_and_stage(
    server: Server, staging: Staging, waiting: Waiting, azure: Azure | None, say: Callable[[str], None]
) -> None:
    deadline = time.monotonic() + waiting.timeout
    while True:
        app, _ = server.get_app()
        if not _is_own(server, app, staging):
            left = max(0.0, deadline - time.monotonic())
            wait_until_ready(server, staging.slot, left, waiting.interval, waiting.verify, waiting.report)
        try:
            stage(server, staging, azure, say)
            return
        except (NotReady, ConflictError) as error:
            # Between the verdict and the request an orchestration or another run can have begun.
            passing = isinstance(error, NotReady) or error.problem.get("code") == "DeploymentInProgress"
            if not passing or time.monotonic() >= deadline:
                raise
            say(f"{error.message}; waiting")
            time.sleep(min(waiting.interval, max(0.0, deadline - time.monotonic())))


def _is_own(server: Server, app: Json, staging: Staging) -> bool:
    """Whether this very run holds the open deployment of this hub: then there is nothing to wait for."""
    deployment = app["deployment"]
    return (
        deployment is not None
        and same(deployment["taskHub"], staging.task_hub)
        and _is_of(server, deployment["runUrl"])
    )


def _is_of(server: Server, run_url: str | None) -> bool:
    """Whether this is the address of this very run. Callers without one are not known to be the same."""
    return run_url is not None and run_url == server.caller.run_url


def _compare(server: Server, staging: Staging, azure: Azure, say: Callable[[str], None]) -> None:
    """Raises ConflictError, AzureUnavailable."""
    app, _ = server.get_app()
    record = Record.of(app, staging.slot)
    carried = azure.task_hub(staging.slot)
    if carried is None or same(carried, record.slot) or same(carried, staging.task_hub):
        return
    if same(carried, record.production) and record.slot is None:
        # A slot that was made with production's settings, before its first deployment.
        say(f"in Azure slot {staging.slot} carries production's task hub {carried}: keep it stopped until then")
        return
    if same(carried, record.production):
        raise ConflictError(
            f"in Azure slot {staging.slot} carries task hub {carried}, which the server has in production: a swap "
            "failed unseen, or the hub's setting is slot-sticky. Find out with safe-deploy doctor"
        )
    retired = any(same(one["taskHub"], carried) for one in app["retired"])
    if retired and server.task_hub(carried)["activeCount"] == 0:
        # A run before this one staged and did not come to its deployment.
        say(f"in Azure slot {staging.slot} still carries task hub {carried}, which is retired and has nothing active")
        return
    raise ConflictError(
        f"in Azure slot {staging.slot} carries task hub {carried}, but the server has "
        f"{record.slot or 'no task hub'} there, and it is {record.slot or 'an empty slot'} that it would judge. "
        "Tell the server what the slot holds, with PutApp, or swap the record: safe-deploy doctor says more"
    )
