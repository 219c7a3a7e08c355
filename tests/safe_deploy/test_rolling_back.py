"""Rollbacks, as pipelines run them: real processes, a real server, and a platform that does
what it is told, or does not. Whatever happens, record and platform agree in the end, or the swap is pending.
"""

import pytest

from tests.conftest import new_hub
from tests.safe_deploy.endings import OTHER_RUN, ends, touch, typed
from tests.safe_deploy.shop import (
    GROUP,
    RUN,
    Shop,
)


def test_a_rollback_brings_back_what_was_swapped_out_and_twice_is_as_once(swapped: Shop) -> None:
    ends(swapped.run(swapped.rollback()), 0)
    assert swapped.is_as_before()
    ends(swapped.run(swapped.rollback()), 0, "in production already")
    assert swapped.is_as_before()
    assert swapped.swaps() == 1


def test_a_rollback_to_a_hub_by_name_does_not_go_forward_when_it_is_repeated(swapped: Shop) -> None:
    arguments = swapped.rollback(options=["--task-hub", swapped.old])
    for _ in range(2):
        ends(swapped.run(arguments), 0)
        assert swapped.is_as_before()
    assert swapped.swaps() == 1


def test_a_rollback_of_a_first_deployment_has_nothing_to_go_back_to(shop: Shop) -> None:
    ends(shop.run(shop.rollback()), 6, "nothing to roll back to")
    assert shop.swaps() == 0


def test_a_hub_that_was_never_in_production_is_no_way_back(staged: Shop) -> None:
    command, mark = touch(staged)
    ends(staged.run(staged.rollback(*command)), 6, "was never in production")
    assert not mark.exists()
    assert staged.is_as_before()
    assert staged.told() == []


def test_a_rollback_does_not_promote_what_was_staged_after_it(swapped: Shop) -> None:
    ends(swapped.run(swapped.rollback()), 0)
    third = new_hub()
    swapped.stage(third, OTHER_RUN)
    ends(swapped.run(swapped.rollback()), 0, "in production already")
    assert swapped.recorded() == (swapped.old, third) == swapped.carried()


def test_a_rollback_that_fails_is_taken_back_and_can_be_repeated(swapped: Shop) -> None:
    swapped.cloud.fault("swap", times=1)
    ends(swapped.run(swapped.rollback()), 1, "swapped back")
    assert swapped.is_swapped()
    ends(swapped.run(swapped.rollback()), 0)
    assert swapped.is_as_before()


@pytest.mark.long
@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("platform_swapped", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_a_rollback_after_a_swap_that_was_cut_off_ends_in_the_old_hub_unless_another_run_may_be_at_it(
    staged: Shop, platform_swapped: bool, by_name: bool, own: bool
) -> None:
    staged.tell(staged.new, "Pending")
    if platform_swapped:
        staged.carry(production=staged.new, staging=staged.old)
    options = ["--task-hub", staged.old] if by_name else []
    ended = staged.run(staged.rollback(options=options), run_url=RUN if own else OTHER_RUN)
    if platform_swapped:
        ends(ended, 0)
        assert staged.is_as_before()
        assert staged.swaps() == 1
    elif own:
        # Nothing was ever swapped: the record is right again.
        ends(ended, 0)
        assert staged.is_as_before()
        assert staged.swaps() == 0
    else:
        ends(ended, 6, "If that run is still at it, wait for it")
        assert staged.pending() == staged.new


def test_a_rollback_after_a_swap_that_was_cut_off_does_nothing_in_the_dark(staged: Shop) -> None:
    staged.tell(staged.new, "Pending")
    command, mark = touch(staged)
    ends(staged.run(staged.rollback(*command)), 6, "has not said how it went", "--outcome failed")
    assert not mark.exists()
    assert staged.pending() == staged.new


def test_a_rollback_of_another_slot_leaves_a_swap_that_was_cut_off_alone(staged: Shop) -> None:
    staged.tell(staged.new, "Pending")
    group = ["--resource-group", GROUP, "--slot", "canary"]
    hubs = {"production": staged.old, "staging": staged.new, "canary": new_hub()}
    slots = {slot: {"settings": {"TASK_HUB": hub}} for slot, hub in hubs.items()}
    staged.cloud.make({staged.app: {"resourceGroup": GROUP, "slots": slots}})
    ended = staged.run(staged.rollback("true", options=group))
    ends(ended, 6, "has not said how it went")
    assert "--slot staging" in typed(ended, "done")
    assert staged.pending() == staged.new


def test_a_rollback_without_a_command_changes_the_record_only(swapped: Shop) -> None:
    for _ in range(2):
        ends(swapped.run(["rollback", "--outcome", "done"]), 0)
        assert swapped.recorded() == (swapped.old, swapped.new)
    assert swapped.carried() == (swapped.new, swapped.old)
    assert swapped.swaps() == 0


def test_production_goes_back_under_a_version_that_was_staged_and_not_deployed(swapped: Shop) -> None:
    third = new_hub()
    swapped.stage(third, OTHER_RUN)
    swapped.carry(staging=swapped.old)
    command, mark = touch(swapped)
    ends(swapped.run(swapped.rollback(*command)), 6, f"may still carry {swapped.old}")
    ends(swapped.run(swapped.rollback(*command, options=["--task-hub", swapped.old])), 6, "swap there")
    assert not mark.exists()
    assert swapped.recorded() == (swapped.new, third)
    swapped.carry(production=swapped.old, staging=swapped.new)
    for _ in range(2):
        ends(swapped.run(["rollback", "--task-hub", swapped.old, "--outcome", "done"]), 0)
        assert swapped.is_as_before()
    assert [one["taskHub"] for one in swapped.record()["retired"]] == [third]


def look_and_tell(shop: Shop, hub: str) -> None:
    """A swap that looks at Azure, and finds there that it is done."""
    command, mark = touch(shop)
    ended = shop.run(["swap", "--task-hub", hub, "--resource-group", GROUP, "--", *command])
    ends(ended, 0, "the command was not run")
    assert not mark.exists()


def test_what_somebody_swapped_back_by_hand_is_put_on_record_by_whoever_looks(swapped: Shop) -> None:
    """And is no rollback on record: the next rollback goes back from it."""
    swapped.carry(production=swapped.old, staging=swapped.new)
    look_and_tell(swapped, swapped.old)
    assert swapped.is_as_before()
    ends(swapped.run(swapped.rollback()), 0)
    assert swapped.is_swapped()


def test_a_rollback_works_again_after_the_version_came_back_by_hand(swapped: Shop) -> None:
    ends(swapped.run(swapped.rollback()), 0)
    swapped.carry(production=swapped.new, staging=swapped.old)
    ends(swapped.run(["swap", "--task-hub", swapped.new, "--outcome", "done"]), 6, "without an outcome")
    look_and_tell(swapped, swapped.new)
    assert swapped.is_swapped()
    ends(swapped.run(swapped.rollback()), 0)
    assert swapped.is_as_before()
