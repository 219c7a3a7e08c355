"""The story with the guard: `safe-deploy` asks the state server, and no order is harmed."""

from dev.local import free_port
from dev.story.function_app import Topic
from dev.story.pipeline import Call, Release
from dev.story.plot import WAITING, approve, finish, place_orders, release
from dev.story.processes import HOST
from dev.story.stage import Guarded, guarded_stage
from dev.story.telling import Outcome, chapter, insist, say

SETTLE_SECONDS = 2
NOT_READY = 3
"""The exit code of `safe-deploy`."""


def play(versions: int) -> Outcome:
    """With three versions, or with a fourth that no lifecycle event helps to judge. Raises Unexpected."""
    with guarded_stage(SETTLE_SECONDS) as stage:
        begin(stage, events_are_lost=versions > 3)
        refused_until_drained(stage)
        if versions > 3:
            refused_though_unheard(stage)
        else:
            approve(stage.platform, 2)
        finish(stage.platform)
        counts = stage.platform.counts()
        insist(counts.completed == counts.started == len(stage.platform.app.started), f"not all Completed: {counts}")
        if versions > 3:
            chapter("Version 2 is in no slot any more. Cleanup removes what it has left.")
            cleaned = stage.pipeline.run(4, "cleanup", "--delete-task-hubs", role="admin")
            insist("Removed" in cleaned, "its task hub must be removed")
        return Outcome(counts, deployments=versions - 1, refused=versions - 2)


def begin(stage: Guarded, events_are_lost: bool) -> None:
    first, second = release(1), release(2)
    chapter("Version 1 is in production, on a task hub of its own. The state server is told, once.")
    stage.platform.app.deploy("production", first.code, first.task_hub)
    source = ["--provider", "azureStorage", "--connection", "STATE_STORAGE", "--require-verification"]
    stage.pipeline.run(1, "register", *first.hub_and_version, *source, role="admin")

    chapter("Version 1 takes orders. Some wait for somebody's approval.")
    place_orders(stage.platform, 1)

    chapter("Version 2, with a breaking change, is deployed. Version 1 is swapped out, and its orders wait on there.")
    if events_are_lost:
        say("    (The topic for version 2's lifecycle events cannot be reached: every one of them will be lost.)")
        stage.platform.app.topic = Topic(f"http://{HOST}:{free_port()}/api/events", "any")
    stage.pipeline.deploy(second).show()
    stage.platform.app.topic = stage.topic
    place_orders(stage.platform, 2)


def refused_until_drained(stage: Guarded) -> None:
    third = release(3)
    chapter("Version 3 would overwrite version 1 under its waiting orders. It is refused, and the reasons name them.")
    is_refused(stage, third, WAITING[1], "event")
    chapter("The pipeline waits. The approvals come in, the orders end, and the deployment goes through by itself.")
    approved_while_it_waits(stage, stage.pipeline.deploy(third), 1)
    insist(stage.platform.app.carries()["production"] == third.task_hub, "version 3 must be in production")


def refused_though_unheard(stage: Guarded) -> None:
    fourth = release(4)
    chapter("Version 4 would overwrite version 2. No event ever told of its order, but the server reads the task hub.")
    is_refused(stage, fourth, WAITING[2], "probe")
    chapter("The same in single steps: the pipeline waits, stages, deploys, swaps.")
    approved_while_it_waits(stage, stage.pipeline.wait(fourth), 2)
    stage.pipeline.step_by_step(fourth)
    insist(stage.platform.app.carries()["production"] == fourth.task_hub, "version 4 must be in production")


def is_refused(stage: Guarded, one: Release, blockers: tuple[str, ...], source: str) -> None:
    """Staging it is refused, and the status names the orders that block it, and by what they are known."""
    stage.pipeline.run(one.number, "stage", *one.hub_and_version, expect=NOT_READY)
    shown = stage.pipeline.run(one.number, "status", expect=NOT_READY)
    rows = [line.split() for line in shown.splitlines()]
    named = {row[0] for row in rows if "ProcessOrder" in row and row[-1] == source}
    insist(named == set(blockers), f"the reasons must name {blockers}, and not {named}")


def approved_while_it_waits(stage: Guarded, waiting: Call, number: int) -> None:
    """The orders of this version are approved once the call has said what it waits for."""
    waiting.until("NotReady")
    taken = approve(stage.platform, number)
    insist(taken == len(WAITING[number]), "every approval must find its order")
    waiting.show()
