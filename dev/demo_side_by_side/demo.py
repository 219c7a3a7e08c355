"""The demo from beginning to end: three releases, customers who never stop, and the numbers."""

from contextlib import closing
from dataclasses import dataclass

from dev.demo.output import report_heading
from dev.demo_side_by_side.customers import Customer, customers_under_way
from dev.demo_side_by_side.environment import run_environment
from dev.demo_side_by_side.release_commands import Release, ReleaseCommands
from dev.demo_side_by_side.results import DemoOutcome, build_outcome
from dev.demo_side_by_side.story import Story

_VISIT_SECONDS = 0.15
_VISITS_PER_ORDER = 8
_RELEASES = (("1.0.0", "v1"), ("1.1.0", "v2"), ("1.2.0", "v1"))
"""Version 1.2.0 reverts the change of 1.1.0: the sample app has two versions of its code."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How many customers of each kind are under way, and how many seconds they have between two steps."""

    with_cookies: int = 6
    without_cookies: int = 3
    pause_seconds: float = 2


def run_demo(pace: Pace) -> DemoOutcome:
    """Run all steps. Raises UnexpectedResult for a step that does not succeed."""
    with run_environment() as environment, closing(Customer(environment.router_url, "buyer")) as buyer:
        commands = ReleaseCommands(environment.pipeline)
        first, second, third = releases = [
            Release(run, version, f"orders{version.replace('.', '')}", code, environment.apps.choose_address())
            for run, (version, code) in enumerate(_RELEASES, 1)
        ]
        report_heading("Release 1.0.0 is deployed: a Function App of its own, on a task hub of its own.")
        commands.release(first)
        commands.promote(first)
        with customers_under_way(
            environment.router_url,
            with_cookies=pace.with_cookies,
            without_cookies=pace.without_cookies,
            visit_seconds=_VISIT_SECONDS,
            visits_per_order=_VISITS_PER_ORDER,
        ) as customers:
            story = Story(environment, commands, buyer, pace.pause_seconds, [*customers, buyer.record])
            replace_first_release(story, first, second)
            roll_back_third_release(story, second, third)
            retire_first_release(story, first)
            report_heading("The customers leave when their orders have ended.")
        return build_outcome(
            {release.version: release.task_hub for release in releases},
            story.customers,
            {release.task_hub: environment.orders.list_orders(release.task_hub) for release in releases},
            environment.watch.changes,
            story.switches,
            split_end=story.split_end,
            retired_at=story.retired_at,
        )


def replace_first_release(story: Story, first: Release, second: Release) -> None:
    """Deploy the second release, look at it, give it half of the visitors, promote it."""
    report_heading("Customers visit the shop and place orders. Two orders wait for approval.")
    story.place_approval_orders(first)
    report_heading("Release 1.1.0, with a breaking change, is deployed beside it. Customers do not get it yet.")
    story.commands.release(second)
    report_heading("Staff looks at the staged release.")
    story.look_at(second)
    report_heading("Half of the visitors get 1.1.0. A cookie pins each of them to a half.")
    story.split(second, first)
    story.pause()
    report_heading("Release 1.1.0 is promoted. The orders of 1.0.0 go on where they began.")
    story.end_split(second, first)
    story.place_approval_orders(second)


def roll_back_third_release(story: Story, second: Release, third: Release) -> None:
    """Deploy and promote the third release, and roll back."""
    report_heading("Release 1.2.0 is deployed, looked at, and promoted.")
    story.commands.release(third)
    story.look_at(third)
    story.promote(third, second)
    story.place_approval_orders(third)
    story.pause()
    report_heading("Roll back: new orders begin on 1.1.0 again, and those of 1.2.0 go on there.")
    story.roll_back(third, second)
    story.pause()
    report_heading("Approvals reach the release of their order, with traffic or without.")
    story.approve_orders(third)
    story.approve_orders(second)


def retire_first_release(story: Story, first: Release) -> None:
    """Retire the first release, while its last orders wait for approval."""
    report_heading("Release 1.0.0 is retired as soon as no router can send to it and its last order has ended.")
    with story.retiring(first):
        report_heading("Only its orders keep release 1.0.0. They are approved.")
        story.approve_orders(first)
