"""The whole sequence of one deployment: wait until the slot is drained, stage, deploy, swap, clean up.

Every step can be repeated, so running the sequence again after whatever happened goes on where it stopped.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from safe_deploy.azure import Azure
from safe_deploy.client import Json, Server
from safe_deploy.commands import Command, Guard
from safe_deploy.errors import CommandError, ConflictError, NotReady
from safe_deploy.promotion import Promotion
from safe_deploy.swaps import STICKY, Platform, Record, against_staging, same
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
    """Put the new hub on record for the slot, once the platform's slot carries what the server judges. Raises
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
    promotion: Promotion,
    azure: Azure | None,
    guard: Guard,
    say: Callable[[str], None],
) -> Json:
    """Everything up to the swap. Answers the app."""
    app, _ = server.get_app()
    record = Record.of(app, staging.slot, server.url)
    pending = record.pending
    if pending is not None and pending.is_of(server.caller.run_url) and not same(pending.task_hub, staging.task_hub):
        # An earlier attempt of this run, under another name, was cut off in its swap.
        with guard:
            app = promotion.settle(record)
        record = Record.of(app, staging.slot, server.url)
    if (done := promotion.done_by_this_run(record)) is not None:
        say(f"an earlier attempt of this run has brought task hub {done} into production: nothing is left to do")
        return app
    if same(record.production, staging.task_hub):
        # An earlier run came as far as the swap.
        with guard:
            return promotion.swap(staging.task_hub, swap_command)
    # Until here a signal may end this process at any point: nothing is half done.
    _wait_and_stage(server, app, staging, waiting, azure, say)
    with guard:
        return _deploy_and_swap(server, staging, deploy_command, swap_command, promotion, guard, say)


def _deploy_and_swap(
    server: Server,
    staging: Staging,
    deploy_command: Command,
    swap_command: Command,
    promotion: Promotion,
    guard: Guard,
    say: Callable[[str], None],
) -> Json:
    say(f"task hub {staging.task_hub} is staged; running {deploy_command}")
    try:
        ended = guard.run(deploy_command)
    except CommandError as error:
        raise type(error)(f"{error.message}. {_abandon(server, staging)}") from error
    if ended.interrupted:
        raise CommandError(
            f"the deploy command {ended}, as it was told to stop. The deployment stays open: Azure may go on with "
            "it. Run the same again, or let the next run take over"
        )
    if not ended.well:
        raise CommandError(f"the deploy command {ended}. {_abandon(server, staging)}")
    return promotion.swap(staging.task_hub, swap_command)


def _abandon(server: Server, staging: Staging) -> str:
    """Whoever comes next need not wait for the deployment's timeout. Answers what became of it."""
    try:
        server.delete_staging(staging.task_hub, staging.slot)
    except CommandError as error:
        return f"Nothing was swapped. The deployment stays open until its time is over: {error.message}"
    return "The deployment is abandoned; nothing was swapped"


def _wait_and_stage(
    server: Server,
    app: Json,
    staging: Staging,
    waiting: Waiting,
    azure: Azure | None,
    say: Callable[[str], None],
) -> None:
    deadline = time.monotonic() + waiting.timeout
    # Who overrides the verdict, or another run, or holds the deployment already, has nothing to wait for at first.
    asks_first = not (staging.force or staging.take_over or _is_own(server, app, staging))
    while True:
        if asks_first:
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
            asks_first = True
            say(f"{error.message}; waiting")
            time.sleep(min(waiting.interval, max(0.0, deadline - time.monotonic())))


def _is_own(server: Server, app: Json, staging: Staging) -> bool:
    """Whether this run holds the open deployment of this hub: staging it again changes nothing."""
    deployment = app["deployment"]
    return (
        deployment is not None
        and same(deployment["taskHub"], staging.task_hub)
        and deployment["runUrl"] == server.caller.run_url
    )


def _compare(server: Server, staging: Staging, azure: Azure, say: Callable[[str], None]) -> None:
    """Raises ConflictError, AzureUnavailable."""
    if azure.is_sticky():
        raise ConflictError(STICKY)
    try:
        app, _ = server.get_app()
    except CommandError as error:
        if error.problem.get("code") != "AppNotFound":
            raise
        app = {"app": server.app, "slots": {}}
    record = Record.of(app, staging.slot, server.url)
    platform = Platform(azure.task_hub("production"), azure.task_hub(staging.slot))
    against = against_staging(record, staging.task_hub, platform)
    if against is None:
        return
    if not staging.force:
        raise ConflictError(against)
    say(f"{against}. Staged all the same, by force")


def clean_up(server: Server, slot: str, azure: Azure | None, dry_run: bool, delete_task_hubs: bool) -> Json:
    """Remove retired hubs that are drained. Raises ConflictError where one that would be deleted is in a slot on the
    platform, whatever the server has on record."""
    if azure is not None and delete_task_hubs and not dry_run:
        retired = [one["taskHub"] for one in server.get_app()[0]["retired"]]
        for place in ("production", slot):
            carried = azure.task_hub(place)
            if any(same(carried, hub) for hub in retired):
                raise ConflictError(
                    f"task hub {carried} is retired, but in Azure {place} carries it: nothing was deleted. "
                    "safe-deploy doctor compares both"
                )
    return server.cleanup(dry_run, delete_task_hubs)
