"""The demo with the guard: `safe-deploy` queries the state server, and no order fails or is orphaned."""

from dev.demo.app_processes import TopicEndpoint
from dev.demo.demo_steps import APPROVAL_ORDER_IDS, approve_orders, build_release, place_orders, wait_until_finished
from dev.demo.environment import GuardedEnvironment, create_guarded_environment
from dev.demo.output import DemoResult, report, report_heading, require
from dev.demo.pipeline import CommandProcess, Release
from dev.demo.processes import HOST
from harness.processes import free_port

SETTLE_SECONDS = 2
NOT_READY = 3
"""The exit code of `safe-deploy` for a slot that must not be overwritten."""


def run_guarded_demo(versions: int) -> DemoResult:
    """Deploy three versions, or four. The events of the second are lost, so the fourth needs a probe.

    Raises UnexpectedResult."""
    with create_guarded_environment(SETTLE_SECONDS) as environment:
        deploy_first_versions(environment, lose_events=versions > 3)
        deploy_third_version(environment)
        if versions > 3:
            deploy_fourth_version_without_events(environment)
        else:
            approve_orders(environment.platform, 2)
        wait_until_finished(environment.platform)
        counts = environment.platform.count_orders()
        require(
            counts.completed == counts.started == len(environment.platform.app.task_hub_by_order),
            f"not all Completed: {counts}",
        )
        if versions > 3:
            report_heading("Version 2 is in no slot any more. Cleanup removes its task hub.")
            cleaned = environment.pipeline.run(4, "cleanup", "--delete-task-hubs", role="admin")
            require("Removed" in cleaned, "its task hub must be removed")
        return DemoResult(counts, deployments=versions - 1, refused=versions - 2)


def deploy_first_versions(environment: GuardedEnvironment, *, lose_events: bool) -> None:
    """Put version 1 into production, then deploy version 2. Both have orders that wait for approval. With
    `lose_events`, no lifecycle event of version 2 is delivered."""
    first, second = build_release(1), build_release(2)
    report_heading("Version 1 is in production, on a task hub of its own. It is registered with the state server.")
    environment.platform.app.deploy("production", first.code, first.task_hub)
    provider_options = ["--provider", "azureStorage", "--connection", "STATE_STORAGE", "--require-verification"]
    environment.pipeline.run(1, "register", "--create", *first.release_options, *provider_options, role="admin")

    report_heading("Version 1 takes orders. Some wait for approval.")
    place_orders(environment.platform, 1)

    report_heading(
        "Version 2, with a breaking change, is deployed. Version 1 is swapped out, and its orders wait on there."
    )
    if lose_events:
        report("    (The topic for version 2's lifecycle events cannot be reached: every one of them will be lost.)")
        environment.platform.app.topic = TopicEndpoint(f"http://{HOST}:{free_port()}/api/events", "any")
    environment.pipeline.deploy(second).wait_and_report()
    environment.platform.app.topic = environment.topic
    place_orders(environment.platform, 2)


def deploy_third_version(environment: GuardedEnvironment) -> None:
    """Deploy version 3 over version 1: refused while orders of version 1 wait, and done as soon as they have ended."""
    third = build_release(3)
    report_heading(
        "Version 3 would overwrite version 1 under its waiting orders. It is refused, and the reasons name them."
    )
    expect_staging_refused(environment, third, APPROVAL_ORDER_IDS[1], "event")
    report_heading(
        "The pipeline waits. The approvals come in, the orders end, and the deployment goes through by itself."
    )
    approve_while_waiting(environment, environment.pipeline.deploy(third), 1)
    require(
        environment.platform.app.get_slot_task_hubs()["production"] == third.task_hub, "version 3 must be in production"
    )


def deploy_fourth_version_without_events(environment: GuardedEnvironment) -> None:
    """Deploy version 4 over version 2, whose events were lost: the server finds its waiting order by reading the task
    hub."""
    fourth = build_release(4)
    report_heading(
        "Version 4 would overwrite version 2. All events of its order were lost, but the server reads the task hub."
    )
    expect_staging_refused(environment, fourth, APPROVAL_ORDER_IDS[2], "probe")
    report_heading("The same in single steps: the pipeline waits, stages, deploys, swaps.")
    approve_while_waiting(environment, environment.pipeline.wait(fourth), 2)
    environment.pipeline.deploy_in_steps(fourth)
    require(
        environment.platform.app.get_slot_task_hubs()["production"] == fourth.task_hub,
        "version 4 must be in production",
    )


def expect_staging_refused(
    environment: GuardedEnvironment, new_release: Release, blocking_order_ids: tuple[str, ...], source: str
) -> None:
    """Check that staging is refused, and that the status lists the blocking orders with the source of their record.

    Raises UnexpectedResult."""
    environment.pipeline.run(new_release.number, "stage", *new_release.release_options, expected_exit_code=NOT_READY)
    status_output = environment.pipeline.run(new_release.number, "status", expected_exit_code=NOT_READY)
    rows = [line.split() for line in status_output.splitlines()]
    listed = {row[0] for row in rows if "ProcessOrder" in row and row[-1] == source}
    require(listed == set(blocking_order_ids), f"the status must list {blocking_order_ids}, and lists {listed}")


def approve_while_waiting(environment: GuardedEnvironment, waiting: CommandProcess, number: int) -> None:
    """Approve the orders of this version when the command reports that it waits for them."""
    waiting.wait_until("NotReady")
    accepted_count = approve_orders(environment.platform, number)
    require(accepted_count == len(APPROVAL_ORDER_IDS[number]), "every approval must reach its order")
    waiting.wait_and_report()
