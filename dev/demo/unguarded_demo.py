"""The demo without the guard: with a task hub for each version, and with one task hub for all versions."""

from dev.demo.demo_steps import APPROVAL_ORDER_IDS, approve_orders, build_release, place_orders, wait_until_finished
from dev.demo.environment import DemoPlatform, create_unguarded_environment
from dev.demo.output import DemoResult, report, report_heading, require
from dev.demo.pipeline import deploy_unguarded


def run_with_hub_per_version() -> DemoResult:
    """Deploy each version on a task hub of its own. The overwritten orders are orphaned. Raises UnexpectedResult."""
    with create_unguarded_environment() as platform:
        report_heading("WITHOUT THE GUARD, a task hub for every version.")
        deploy_two_releases(platform, "")
        report_heading("The approvals for version 1's orders come in. Its code is in no slot any more.")
        require(approve_orders(platform, 1) == 0, "no slot may accept an approval for version 1's orders")
        report("    an operator raises the approvals on the task hub directly")
        for order_id in APPROVAL_ORDER_IDS[1]:
            platform.app.raise_approval_event(order_id)
        approve_orders(platform, 2)
        wait_until_finished(platform)
        counts = platform.count_orders()
        require(counts.orphaned == len(APPROVAL_ORDER_IDS[1]), f"version 1's waiting orders must be orphaned: {counts}")
        require(counts.failed == 0, f"nothing fails: {counts}")
        report(
            "    version 1's orders are Running for ever: no slot is on their task hub, so nothing reads the approvals"
        )
        return DemoResult(counts, deployments=2, refused=0)


def run_with_one_hub() -> DemoResult:
    """Deploy all versions on one task hub. The overwritten orders end Failed. Raises UnexpectedResult."""
    with create_unguarded_environment() as platform:
        report_heading("WITHOUT THE GUARD, one task hub for all versions.")
        deploy_two_releases(platform, "orders")
        report_heading("The approvals for version 1's orders come in. Other code continues them.")
        approve_orders(platform, 1)
        approve_orders(platform, 2)
        wait_until_finished(platform)
        failed = [order for order in platform.orders.list_orders("orders") if order.status == "Failed"]
        broken = {order.order_id for order in failed if "NonDeterminismError" in order.output}
        require(broken.issuperset(APPROVAL_ORDER_IDS[1]), f"version 1's waiting orders must fail, and not {broken}")
        example = next(order for order in failed if order.order_id == APPROVAL_ORDER_IDS[1][0])
        report(f"    order {example.order_id} is Failed: {example.output}")
        return DemoResult(platform.count_orders(), deployments=2, refused=0)


def deploy_two_releases(platform: DemoPlatform, task_hub: str) -> None:
    """Let version 1 take orders. Then deploy version 2, let it take orders, and deploy version 3 over version 1."""
    first = build_release(1, task_hub)
    report(f"    version 1 is in production on task hub {first.task_hub}")
    platform.app.deploy("production", first.code, first.task_hub)
    place_orders(platform, 1)
    report_heading("Version 2 is deployed. Version 1 is swapped out.")
    deploy_unguarded(build_release(2, task_hub), platform.variables)
    place_orders(platform, 2)
    report_heading("Version 3 is deployed over version 1, under its waiting orders. No check prevents it.")
    deploy_unguarded(build_release(3, task_hub), platform.variables)
