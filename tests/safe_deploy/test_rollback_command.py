"""Rollbacks as pipelines run them, with real processes, a real server and a fake `az` that may fail.

However a run ends, server and Azure agree, or the swap is pending.
"""

import pytest

from safe_deploy.errors import ExitCode
from tests.conftest import new_hub_name
from tests.safe_deploy.assertions import OTHER_RUN, assert_exit, find_outcome_command, make_touch_command
from tests.safe_deploy.deployment_fixture import (
    RESOURCE_GROUP,
    RUN,
    DeploymentFixture,
)


def test_a_rollback_brings_back_the_swapped_out_version_and_repeating_it_has_no_effect(
    swapped: DeploymentFixture,
) -> None:
    assert_exit(swapped.run(swapped.rollback()), ExitCode.DONE)
    assert swapped.is_unswapped()
    assert_exit(swapped.run(swapped.rollback()), ExitCode.DONE, "in production already")
    assert swapped.is_unswapped()
    assert swapped.count_swaps() == 1


def test_a_repeated_rollback_to_a_named_task_hub_does_not_roll_forward(swapped: DeploymentFixture) -> None:
    arguments = swapped.rollback(options=["--task-hub", swapped.old])
    for _ in range(2):
        assert_exit(swapped.run(arguments), ExitCode.DONE)
        assert swapped.is_unswapped()
    assert swapped.count_swaps() == 1


def test_a_rollback_of_a_first_deployment_is_refused(deployment_fixture: DeploymentFixture) -> None:
    assert_exit(deployment_fixture.run(deployment_fixture.rollback()), ExitCode.CONFLICT, "nothing to roll back to")
    assert deployment_fixture.count_swaps() == 0


def test_a_rollback_to_a_version_that_was_never_in_production_is_refused(staged: DeploymentFixture) -> None:
    command, touched_file = make_touch_command(staged)
    assert_exit(staged.run(staged.rollback(*command)), ExitCode.CONFLICT, "was never in production")
    assert not touched_file.exists()
    assert staged.is_unswapped()
    assert staged.reported_outcomes() == []


def test_a_repeated_rollback_does_not_promote_a_version_staged_since(swapped: DeploymentFixture) -> None:
    assert_exit(swapped.run(swapped.rollback()), ExitCode.DONE)
    third_hub = new_hub_name()
    swapped.stage(third_hub, OTHER_RUN)
    assert_exit(swapped.run(swapped.rollback()), ExitCode.DONE, "in production already")
    assert swapped.recorded_hubs() == (swapped.old, third_hub) == swapped.azure_hubs()


def test_a_failed_rollback_is_reverted_and_can_be_repeated(swapped: DeploymentFixture) -> None:
    swapped.fake_azure.set_fault("swap", call_count=1)
    assert_exit(swapped.run(swapped.rollback()), ExitCode.FAILURE, "is reverted")
    assert swapped.is_swapped()
    assert_exit(swapped.run(swapped.rollback()), ExitCode.DONE)
    assert swapped.is_unswapped()


@pytest.mark.long
@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("azure_swapped", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_a_rollback_after_an_interrupted_swap_ends_with_the_old_version_unless_another_run_may_be_swapping(
    staged: DeploymentFixture, *, azure_swapped: bool, by_name: bool, own: bool
) -> None:
    staged.report_swap(staged.new, "Pending")
    if azure_swapped:
        staged.set_slot_task_hubs(production=staged.new, staging=staged.old)
    options = ["--task-hub", staged.old] if by_name else []
    result = staged.run(staged.rollback(options=options), run_url=RUN if own else OTHER_RUN)
    if azure_swapped:
        assert_exit(result, ExitCode.DONE)
        assert staged.is_unswapped()
        assert staged.count_swaps() == 1
    elif own:
        # Azure has not swapped, so reverting the record is the rollback.
        assert_exit(result, ExitCode.DONE)
        assert staged.is_unswapped()
        assert staged.count_swaps() == 0
    else:
        assert_exit(result, ExitCode.CONFLICT, "If that run is still active, wait for it")
        assert staged.pending_hub() == staged.new


def test_a_rollback_after_an_interrupted_swap_is_refused_without_access_to_azure(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending")
    command, touched_file = make_touch_command(staged)
    assert_exit(
        staged.run(staged.rollback(*command)), ExitCode.CONFLICT, "has not reported its outcome", "--outcome failed"
    )
    assert not touched_file.exists()
    assert staged.pending_hub() == staged.new


def test_a_rollback_of_another_slot_does_not_end_an_interrupted_swap(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending")
    azure_options = ["--resource-group", RESOURCE_GROUP, "--slot", "canary"]
    hubs = {"production": staged.old, "staging": staged.new, "canary": new_hub_name()}
    slots = {slot: {"settings": {"TASK_HUB": hub}} for slot, hub in hubs.items()}
    staged.fake_azure.reset({staged.app: {"resourceGroup": RESOURCE_GROUP, "slots": slots}})
    result = staged.run(staged.rollback("true", options=azure_options))
    assert_exit(result, ExitCode.CONFLICT, "has not reported its outcome")
    assert "--slot staging" in find_outcome_command(result, "done")
    assert staged.pending_hub() == staged.new


def test_a_rollback_with_an_outcome_changes_only_the_record(swapped: DeploymentFixture) -> None:
    for _ in range(2):
        assert_exit(swapped.run(["rollback", "--outcome", "done"]), ExitCode.DONE)
        assert swapped.recorded_hubs() == (swapped.old, swapped.new)
    assert swapped.azure_hubs() == (swapped.new, swapped.old)
    assert swapped.count_swaps() == 0


def test_a_rollback_is_possible_after_a_version_was_staged_and_not_deployed(swapped: DeploymentFixture) -> None:
    third_hub = new_hub_name()
    swapped.stage(third_hub, OTHER_RUN)
    swapped.set_slot_task_hubs(staging=swapped.old)
    command, touched_file = make_touch_command(swapped)
    assert_exit(swapped.run(swapped.rollback(*command)), ExitCode.CONFLICT, f"may still carry {swapped.old}")
    assert_exit(
        swapped.run(swapped.rollback(*command, options=["--task-hub", swapped.old])), ExitCode.CONFLICT, "swap there"
    )
    assert not touched_file.exists()
    assert swapped.recorded_hubs() == (swapped.new, third_hub)
    swapped.set_slot_task_hubs(production=swapped.old, staging=swapped.new)
    for _ in range(2):
        assert_exit(swapped.run(["rollback", "--task-hub", swapped.old, "--outcome", "done"]), ExitCode.DONE)
        assert swapped.is_unswapped()
    assert [task_hub["taskHub"] for task_hub in swapped.get_app()["retired"]] == [third_hub]


def run_swap_that_azure_has_made(deployment_fixture: DeploymentFixture, hub: str) -> None:
    """Run a swap that Azure has made already."""
    command, touched_file = make_touch_command(deployment_fixture)
    result = deployment_fixture.run(["swap", "--task-hub", hub, "--resource-group", RESOURCE_GROUP, "--", *command])
    assert_exit(result, ExitCode.DONE, "the command was not run")
    assert not touched_file.exists()


def test_a_swap_back_by_hand_is_recorded_by_the_next_swap_command(swapped: DeploymentFixture) -> None:
    """The swap command does not record it as a rollback, so the next rollback swaps again."""
    swapped.set_slot_task_hubs(production=swapped.old, staging=swapped.new)
    run_swap_that_azure_has_made(swapped, swapped.old)
    assert swapped.is_unswapped()
    assert_exit(swapped.run(swapped.rollback()), ExitCode.DONE)
    assert swapped.is_swapped()


def test_a_rollback_works_again_after_the_version_was_swapped_in_by_hand(swapped: DeploymentFixture) -> None:
    assert_exit(swapped.run(swapped.rollback()), ExitCode.DONE)
    swapped.set_slot_task_hubs(production=swapped.new, staging=swapped.old)
    refused = swapped.run(["swap", "--task-hub", swapped.new, "--outcome", "done"])
    assert_exit(refused, ExitCode.CONFLICT, "with the command that swaps, which is not run if Azure has swapped")
    run_swap_that_azure_has_made(swapped, swapped.new)
    assert swapped.is_swapped()
    assert_exit(swapped.run(swapped.rollback()), ExitCode.DONE)
    assert swapped.is_unswapped()
