"""The demo end to end, with real processes: storage emulator, state server, sample app in two slots, `safe-deploy`."""

import sys

import pytest

from dev.demo import unguarded_demo as unguarded
from dev.demo.demo_steps import wait_until_finished
from dev.demo.environment import DemoPlatform, create_guarded_environment, create_unguarded_environment
from dev.demo.output import UnexpectedResult
from dev.demo.pipeline import Release, run_command
from harness.processes import wait_until
from tests.demo.background_users import BackgroundUsers


def get_hub_of_release(number: int) -> str:
    """The task hub of the demo's release with this number."""
    return f"ordersv{number}"


def wait_until_order_waits(platform: DemoPlatform, order_id: str, task_hub: str) -> None:
    wait_until(lambda: order_id in platform.orders.list_waiting_order_ids(task_hub), "the order waits for approval")


@pytest.mark.parametrize("deployments", [pytest.param(count, marks=pytest.mark.long) for count in (5, 20)])
def test_with_the_guard_no_order_fails_or_is_orphaned_in_many_deployments_in_a_row(deployments: int) -> None:
    """Customers place orders all the time. Every version is swapped out while an order on it waits for approval.

    The next deployment would overwrite that version. It waits until the operator has approved the order."""
    with create_guarded_environment(settle_seconds=1) as environment:
        platform, pipeline = environment.platform, environment.pipeline
        platform.app.deploy("production", "v1", get_hub_of_release(1))
        source = ["--provider", "azureStorage", "--connection", "STATE_STORAGE"]
        pipeline.run(
            1, "register", "--create", "--task-hub", get_hub_of_release(1), "--version", "1.0.0", *source, role="admin"
        )
        people = BackgroundUsers(platform)
        with people.run_in_background():
            for number in range(2, deployments + 2):
                order, before = f"waiting-{number - 1}", get_hub_of_release(number - 1)
                platform.app.place_order(order, approvalNeeded=True)
                wait_until_order_waits(platform, order, before)

                release = Release(number, "v1" if number % 2 else "v2", get_hub_of_release(number))
                deploying = pipeline.deploy(release, interval_seconds=1)
                if number > 2:
                    deploying.wait_until("NotReady")
                    assert platform.app.get_slot_task_hubs()["staging"] == get_hub_of_release(number - 2), (
                        "nothing was overwritten"
                    )
                    assert f"active on task hub {get_hub_of_release(number - 2)}" in deploying.read_output(), (
                        "the deployment waits for orders"
                    )
                    people.approve_orders_on(get_hub_of_release(number - 2))
                deploying.wait_for_exit()
                assert platform.app.get_slot_task_hubs() == {
                    "production": get_hub_of_release(number),
                    "staging": before,
                }
                assert order in platform.orders.list_waiting_order_ids(before), (
                    "the version was swapped out while an order waits"
                )
            people.approve_orders_on(get_hub_of_release(deployments))
            wait_until(
                lambda: not platform.orders.list_waiting_order_ids(get_hub_of_release(deployments)),
                "the last order is approved",
            )
        wait_until_finished(platform)
        counts = platform.count_orders()
        ended = {
            order.order_id: order.status
            for task_hub in platform.app.task_hubs
            for order in platform.orders.list_orders(task_hub)
        }
    assert ended == dict.fromkeys(platform.app.task_hub_by_order, "Completed")
    assert (counts.failed, counts.orphaned, counts.still_open) == (0, 0, 0)
    assert counts.completed == counts.started == len(platform.app.task_hub_by_order) > 2 * deployments


@pytest.mark.long
def test_without_the_guard_and_with_a_hub_per_version_overwritten_orders_are_orphaned() -> None:
    outcome = unguarded.run_with_hub_per_version()
    assert outcome.counts.orphaned > 0
    assert (outcome.deployments, outcome.refused) == (2, 0)


@pytest.mark.long
def test_without_the_guard_and_with_one_hub_orders_end_failed_with_non_determinism() -> None:
    outcome = unguarded.run_with_one_hub()
    assert outcome.counts.non_deterministic > 0
    assert (outcome.deployments, outcome.refused) == (2, 0)


def test_a_command_fails_if_a_slot_is_empty_or_does_not_exist() -> None:
    with create_unguarded_environment() as platform:
        with pytest.raises(UnexpectedResult, match="a slot is empty"):
            run_command(f"{sys.executable} -m dev.demo.slot_command swap", platform.variables)
        with pytest.raises(UnexpectedResult, match="there is no slot elsewhere"):
            run_command(
                f"{sys.executable} -m dev.demo.slot_command deploy elsewhere v1 --task-hub h1", platform.variables
            )
