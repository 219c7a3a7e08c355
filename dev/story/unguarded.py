"""The same story without the guard, in the two ways in which it goes wrong."""

from dev.story.pipeline import unguarded
from dev.story.plot import WAITING, approve, finish, place_orders, release
from dev.story.stage import Platform, unguarded_stage
from dev.story.telling import Outcome, chapter, insist, say


def play_hub_per_version() -> Outcome:
    """The overwritten orders are orphaned. Raises Unexpected."""
    with unguarded_stage() as platform:
        chapter("WITHOUT THE GUARD, a task hub for every version.")
        two_releases(platform, "")
        chapter("The approvals for version 1's orders come in. Its code is in no slot any more.")
        insist(approve(platform, 1) == 0, "nobody can take an approval for version 1's orders")
        say("    an operator puts the approvals into the task hub itself")
        for order_id in WAITING[1]:
            platform.app.put_approval(order_id)
        approve(platform, 2)
        finish(platform)
        counts = platform.counts()
        insist(counts.orphaned == len(WAITING[1]), f"version 1's waiting orders must be orphaned: {counts}")
        insist(counts.failed == 0, f"nothing fails: {counts}")
        say("    version 1's orders are Running for ever: no slot is on their task hub, so nothing reads the approvals")
        return Outcome(counts, deployments=2, refused=0)


def play_one_hub() -> Outcome:
    """The orders end Failed. Raises Unexpected."""
    with unguarded_stage() as platform:
        chapter("WITHOUT THE GUARD, one task hub for all versions.")
        two_releases(platform, "orders")
        chapter("The approvals for version 1's orders come in. Other code continues them.")
        approve(platform, 1)
        approve(platform, 2)
        finish(platform)
        failed = [order for order in platform.orders.on("orders") if order.status == "Failed"]
        broken = {order.order_id for order in failed if "NonDeterminismError" in order.output}
        insist(broken.issuperset(WAITING[1]), f"version 1's waiting orders must fail, and not {broken}")
        example = next(order for order in failed if order.order_id == WAITING[1][0])
        say(f"    order {example.order_id} is Failed: {example.output}")
        return Outcome(platform.counts(), deployments=2, refused=0)


def two_releases(platform: Platform, task_hub: str) -> None:
    """Version 1 takes orders; versions 2 and 3 are deployed on top of each other."""
    first = release(1, task_hub)
    say(f"    version 1 is in production on task hub {first.task_hub}")
    platform.app.deploy("production", first.code, first.task_hub)
    place_orders(platform, 1)
    chapter("Version 2 is deployed. Version 1 is swapped out.")
    unguarded(release(2, task_hub), platform.variables)
    place_orders(platform, 2)
    chapter("Version 3 is deployed over version 1, under its waiting orders. Nobody says no.")
    unguarded(release(3, task_hub), platform.variables)
