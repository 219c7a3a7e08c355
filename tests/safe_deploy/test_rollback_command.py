"""Rollbacks, as pipelines run them: real processes, a real server, and a platform that does
what it is told, or does not. Whatever happens, record and platform agree in the end, or the swap is pending.
"""

import pytest

from tests.conftest import new_hub_name
from tests.safe_deploy.assertions import OTHER_RUN, assert_exit, find_outcome_command, make_touch_command
from tests.safe_deploy.deployment_fixture import (
    RESOURCE_GROUP,
    RUN,
    DeploymentFixture,
)


def test_a_rollback_brings_back_what_was_swapped_out_and_twice_is_as_once(swapped: DeploymentFixture) -> None:
    assert_exit(swapped.run(swapped.rollback()), 0)
    assert swapped.is_unswapped()
    assert_exit(swapped.run(swapped.rollback()), 0, "in production already")
    assert swapped.is_unswapped()
    assert swapped.count_swaps() == 1


def test_a_rollback_to_a_hub_by_name_does_not_go_forward_when_it_is_repeated(swapped: DeploymentFixture) -> None:
    arguments = swapped.rollback(options=["--task-hub", swapped.old])
    for _ in range(2):
        assert_exit(swapped.run(arguments), 0)
        assert swapped.is_unswapped()
    assert swapped.count_swaps() == 1


def test_a_rollback_of_a_first_deployment_has_nothing_to_go_back_to(deployment_fixture: DeploymentFixture) -> None:
    assert_exit(deployment_fixture.run(deployment_fixture.rollback()), 6, "nothing to roll back to")
    assert deployment_fixture.count_swaps() == 0


def test_a_hub_that_was_never_in_production_is_no_way_back(staged: DeploymentFixture) -> None:
    command, mark = make_touch_command(staged)
    assert_exit(staged.run(staged.rollback(*command)), 6, "was never in production")
    assert not mark.exists()
    assert staged.is_unswapped()
    assert staged.reported_outcomes() == []


def test_a_rollback_does_not_promote_what_was_staged_after_it(swapped: DeploymentFixture) -> None:
    assert_exit(swapped.run(swapped.rollback()), 0)
    third = new_hub_name()
    swapped.stage(third, OTHER_RUN)
    assert_exit(swapped.run(swapped.rollback()), 0, "in production already")
    assert swapped.recorded_hubs() == (swapped.old, third) == swapped.azure_hubs()


def test_a_rollback_that_fails_is_taken_back_and_can_be_repeated(swapped: DeploymentFixture) -> None:
    swapped.fake_azure.fault("swap", times=1)
    assert_exit(swapped.run(swapped.rollback()), 1, "is reverted")
    assert swapped.is_swapped()
    assert_exit(swapped.run(swapped.rollback()), 0)
    assert swapped.is_unswapped()


@pytest.mark.long
@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("platform_swapped", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_a_rollback_after_a_swap_that_was_cut_off_ends_in_the_old_hub_unless_another_run_may_be_at_it(
    staged: DeploymentFixture, platform_swapped: bool, by_name: bool, own: bool
) -> None:
    staged.report_swap(staged.new, "Pending")
    if platform_swapped:
        staged.set_slot_task_hubs(production=staged.new, staging=staged.old)
    options = ["--task-hub", staged.old] if by_name else []
    ended = staged.run(staged.rollback(options=options), run_url=RUN if own else OTHER_RUN)
    if platform_swapped:
        assert_exit(ended, 0)
        assert staged.is_unswapped()
        assert staged.count_swaps() == 1
    elif own:
        # Nothing was ever swapped: the record is right again.
        assert_exit(ended, 0)
        assert staged.is_unswapped()
        assert staged.count_swaps() == 0
    else:
        assert_exit(ended, 6, "If that run is still active, wait for it")
        assert staged.pending_hub() == staged.new


def test_a_rollback_after_a_swap_that_was_cut_off_does_nothing_in_the_dark(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending")
    command, mark = make_touch_command(staged)
    assert_exit(staged.run(staged.rollback(*command)), 6, "has not reported its outcome", "--outcome failed")
    assert not mark.exists()
    assert staged.pending_hub() == staged.new


def test_a_rollback_of_another_slot_leaves_a_swap_that_was_cut_off_alone(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending")
    group = ["--resource-group", RESOURCE_GROUP, "--slot", "canary"]
    hubs = {"production": staged.old, "staging": staged.new, "canary": new_hub_name()}
    slots = {slot: {"settings": {"TASK_HUB": hub}} for slot, hub in hubs.items()}
    staged.fake_azure.reset({staged.app: {"resourceGroup": RESOURCE_GROUP, "slots": slots}})
    ended = staged.run(staged.rollback("true", options=group))
    assert_exit(ended, 6, "has not reported its outcome")
    assert "--slot staging" in find_outcome_command(ended, "done")
    assert staged.pending_hub() == staged.new


def test_a_rollback_without_a_command_changes_the_record_only(swapped: DeploymentFixture) -> None:
    for _ in range(2):
        assert_exit(swapped.run(["rollback", "--outcome", "done"]), 0)
        assert swapped.recorded_hubs() == (swapped.old, swapped.new)
    assert swapped.azure_hubs() == (swapped.new, swapped.old)
    assert swapped.count_swaps() == 0


def test_production_goes_back_under_a_version_that_was_staged_and_not_deployed(swapped: DeploymentFixture) -> None:
    third = new_hub_name()
    swapped.stage(third, OTHER_RUN)
    swapped.set_slot_task_hubs(staging=swapped.old)
    command, mark = make_touch_command(swapped)
    assert_exit(swapped.run(swapped.rollback(*command)), 6, f"may still carry {swapped.old}")
    assert_exit(swapped.run(swapped.rollback(*command, options=["--task-hub", swapped.old])), 6, "swap there")
    assert not mark.exists()
    assert swapped.recorded_hubs() == (swapped.new, third)
    swapped.set_slot_task_hubs(production=swapped.old, staging=swapped.new)
    for _ in range(2):
        assert_exit(swapped.run(["rollback", "--task-hub", swapped.old, "--outcome", "done"]), 0)
        assert swapped.is_unswapped()
    assert [one["taskHub"] for one in swapped.get_app()["retired"]] == [third]


def check_and_report(deployment_fixture: DeploymentFixture, hub: str) -> None:
    """A swap that looks at Azure, and finds there that it is done."""
    command, mark = make_touch_command(deployment_fixture)
    ended = deployment_fixture.run(["swap", "--task-hub", hub, "--resource-group", RESOURCE_GROUP, "--", *command])
    assert_exit(ended, 0, "the command was not run")
    assert not mark.exists()


def test_what_somebody_swapped_back_by_hand_is_put_on_record_by_whoever_looks(swapped: DeploymentFixture) -> None:
    """And is no rollback on record: the next rollback goes back from it."""
    swapped.set_slot_task_hubs(production=swapped.old, staging=swapped.new)
    check_and_report(swapped, swapped.old)
    assert swapped.is_unswapped()
    assert_exit(swapped.run(swapped.rollback()), 0)
    assert swapped.is_swapped()


def test_a_rollback_works_again_after_the_version_came_back_by_hand(swapped: DeploymentFixture) -> None:
    assert_exit(swapped.run(swapped.rollback()), 0)
    swapped.set_slot_task_hubs(production=swapped.new, staging=swapped.old)
    assert_exit(swapped.run(["swap", "--task-hub", swapped.new, "--outcome", "done"]), 6, "without an outcome")
    check_and_report(swapped, swapped.new)
    assert swapped.is_swapped()
    assert_exit(swapped.run(swapped.rollback()), 0)
    assert swapped.is_unswapped()
