"""The story with the guard: `safe-deploy` asks the state server, and no order is harmed."""

from dev.demo.demo_steps import APPROVAL_ORDER_IDS, approve_orders, place_orders, release, wait_until_finished
from dev.demo.environment import GuardedEnvironment, create_guarded_environment
from dev.demo.local_function_app import TopicEndpoint
from dev.demo.output import DemoResult, report, report_heading, require
from dev.demo.pipeline import CommandProcess, Release
from dev.demo.processes import HOST
from harness.processes import free_port

SETTLE_SECONDS = 2
NOT_READY = 3
"""The exit code of `safe-deploy`."""


def run_guarded_demo(versions: int) -> DemoResult:
    """With three versions, or with a fourth that no lifecycle event helps to judge. Raises Unexpected."""
    with create_guarded_environment(SETTLE_SECONDS) as stage:
        begin(stage, lose_events=versions > 3)
        deploy_third_version(stage)
        if versions > 3:
            deploy_fourth_version_without_events(stage)
        else:
            approve_orders(stage.platform, 2)
        wait_until_finished(stage.platform)
        counts = stage.platform.count_orders()
        require(
            counts.completed == counts.started == len(stage.platform.app.task_hub_by_order),
            f"not all Completed: {counts}",
        )
        if versions > 3:
            report_heading("Version 2 is in no slot any more. Cleanup removes what it has left.")
            cleaned = stage.pipeline.run(4, "cleanup", "--delete-task-hubs", role="admin")
            require("Removed" in cleaned, "its task hub must be removed")
        return DemoResult(counts, deployments=versions - 1, refused=versions - 2)


def begin(stage: GuardedEnvironment, lose_events: bool) -> None:
    first, second = release(1), release(2)
    report_heading("Version 1 is in production, on a task hub of its own. The state server is told, once.")
    stage.platform.app.deploy("production", first.code, first.task_hub)
    source = ["--provider", "azureStorage", "--connection", "STATE_STORAGE", "--require-verification"]
    stage.pipeline.run(1, "register", *first.release_options, *source, role="admin")

    report_heading("Version 1 takes orders. Some wait for somebody's approval.")
    place_orders(stage.platform, 1)

    report_heading(
        "Version 2, with a breaking change, is deployed. Version 1 is swapped out, and its orders wait on there."
    )
    if lose_events:
        report("    (The topic for version 2's lifecycle events cannot be reached: every one of them will be lost.)")
        stage.platform.app.topic = TopicEndpoint(f"http://{HOST}:{free_port()}/api/events", "any")
    stage.pipeline.deploy(second).wait_and_report()
    stage.platform.app.topic = stage.topic
    place_orders(stage.platform, 2)


def deploy_third_version(stage: GuardedEnvironment) -> None:
    third = release(3)
    report_heading(
        "Version 3 would overwrite version 1 under its waiting orders. It is refused, and the reasons name them."
    )
    expect_staging_refused(stage, third, APPROVAL_ORDER_IDS[1], "event")
    report_heading(
        "The pipeline waits. The approvals come in, the orders end, and the deployment goes through by itself."
    )
    approve_while_waiting(stage, stage.pipeline.deploy(third), 1)
    require(stage.platform.app.slot_task_hubs()["production"] == third.task_hub, "version 3 must be in production")


def deploy_fourth_version_without_events(stage: GuardedEnvironment) -> None:
    fourth = release(4)
    report_heading(
        "Version 4 would overwrite version 2. No event ever told of its order, but the server reads the task hub."
    )
    expect_staging_refused(stage, fourth, APPROVAL_ORDER_IDS[2], "probe")
    report_heading("The same in single steps: the pipeline waits, stages, deploys, swaps.")
    approve_while_waiting(stage, stage.pipeline.wait(fourth), 2)
    stage.pipeline.deploy_in_steps(fourth)
    require(stage.platform.app.slot_task_hubs()["production"] == fourth.task_hub, "version 4 must be in production")


def expect_staging_refused(
    stage: GuardedEnvironment, one: Release, blocking_order_ids: tuple[str, ...], source: str
) -> None:
    """Staging it is refused, and the status names the orders that block it, and by what they are known."""
    stage.pipeline.run(one.number, "stage", *one.release_options, expected_exit_code=NOT_READY)
    shown = stage.pipeline.run(one.number, "status", expected_exit_code=NOT_READY)
    rows = [line.split() for line in shown.splitlines()]
    named = {row[0] for row in rows if "ProcessOrder" in row and row[-1] == source}
    require(named == set(blocking_order_ids), f"the reasons must name {blocking_order_ids}, and not {named}")


def approve_while_waiting(stage: GuardedEnvironment, waiting: CommandProcess, number: int) -> None:
    """The orders of this version are approved once the call has said what it waits for."""
    waiting.wait_until("NotReady")
    taken = approve_orders(stage.platform, number)
    require(taken == len(APPROVAL_ORDER_IDS[number]), "every approval must find its order")
    waiting.wait_and_report()
