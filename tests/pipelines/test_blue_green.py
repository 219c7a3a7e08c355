"""The blue-green workflows, run step by step: releases, failures, re-runs, rollbacks."""

import pytest

from tests.pipelines.harness import GROUP, Machine, Shop
from tests.pipelines.releases import BLUE_GREEN, BLUE_GREEN_ROLLBACK, Release, logs, mark_of


@pytest.fixture
def plain(shop: Shop) -> Shop:
    """A Function App without orchestrations that no release of the workflow has reached yet."""
    shop.make({}, {})
    return shop


@pytest.mark.long
def test_a_blue_green_release_is_swapped_into_production(release: Release, plain: Shop) -> None:
    run = release.run(BLUE_GREEN)
    run.build_really = True
    run.start()
    assert set(run.conclusions.values()) == {"success"}, logs(run)
    assert release.marks() == (mark_of(run), None)
    assert plain.cloud.package(plain.name) == "app.zip"
    assert plain.cloud.package(plain.name, "staging") == "first.zip"
    assert run.jobs["swap-back"].steps == {
        "Explain": "success",
        "azure/login": "skipped",
        "Swap back": "skipped",
    }


def test_running_the_job_swap_back_by_itself_rolls_back_and_running_it_again_changes_nothing(
    release: Release, plain: Shop
) -> None:
    first, second = release.blue_green(), release.blue_green()
    assert release.marks() == (mark_of(second), mark_of(first))
    for _ in range(2):
        second.rerun("swap-back")
        assert second.conclusions["swap-back"] == "success", logs(second)
        assert release.marks() == (mark_of(first), mark_of(second))
    assert plain.swaps == 3


def test_the_very_first_release_can_be_rolled_back(release: Release, plain: Shop) -> None:
    run = release.blue_green()
    run.rerun("swap-back")
    assert run.conclusions["swap-back"] == "success", logs(run)
    assert release.marks() == (None, mark_of(run))
    assert plain.cloud.package(plain.name) == "first.zip"


def test_after_a_rollback_the_job_swap_promotes_the_release_again(release: Release, plain: Shop) -> None:
    first, second = release.blue_green(), release.blue_green()
    second.rerun("swap-back")
    second.rerun("swap")
    assert second.conclusions["swap"] == "success", logs(second)
    assert second.jobs["swap-back"].steps["Swap back"] == "skipped"
    assert release.marks() == (mark_of(second), mark_of(first))
    assert plain.swaps == 4


def test_running_the_blue_green_swap_again_after_it_succeeded_does_not_undo_it(release: Release, plain: Shop) -> None:
    run = release.blue_green()
    run.rerun("swap")
    assert run.conclusions["swap"] == "success"
    assert release.marks() == (mark_of(run), None)
    assert plain.swaps == 1


def test_a_blue_green_swap_that_fails_is_done_when_its_job_is_run_again(release: Release, plain: Shop) -> None:
    plain.cloud.fault("swap", times=1)
    run = release.run(BLUE_GREEN).start()
    assert run.conclusions["swap"] == "failure"
    assert run.conclusions["swap-back"] == "skipped"
    assert release.marks() == (None, mark_of(run))
    run.rerun_failed()
    assert run.conclusions["swap"] == "success", logs(run)
    assert run.jobs["swap-back"].steps["Swap back"] == "skipped"
    assert release.marks() == (mark_of(run), None)


def test_a_blue_green_swap_that_happened_although_it_reported_a_failure_counts(release: Release, plain: Shop) -> None:
    plain.cloud.fault("swap", done=True, times=1)
    run = release.blue_green()
    assert "::warning::" in run.jobs["swap"].log
    assert release.marks() == (mark_of(run), None)


def test_a_blue_green_swap_that_was_cut_off_after_it_happened_is_not_undone_by_its_next_attempt(
    release: Release, plain: Shop, machine: Machine
) -> None:
    plain.cloud.fault("swap", code=None, delay_after=2, times=1)
    machine.cancel_when = lambda: release.marks()[0] is not None
    run = release.run(BLUE_GREEN).start()
    assert run.conclusions["swap"] == "cancelled"
    run.rerun_failed()
    assert run.conclusions["swap"] == "success", logs(run)
    assert release.marks() == (mark_of(run), None)
    assert plain.swaps == 1


def test_a_blue_green_swap_refuses_what_somebody_else_has_deployed_meanwhile(release: Release, plain: Shop) -> None:
    plain.cloud.fault("swap", times=1)
    late = release.run(BLUE_GREEN).start()
    newer = release.blue_green()
    late.rerun_failed()
    assert late.conclusions["swap"] == "failure"
    assert "something else was deployed" in late.jobs["swap"].log
    assert release.marks() == (mark_of(newer), None)


def test_an_old_release_cannot_be_swapped_back_once_another_one_followed(release: Release, plain: Shop) -> None:
    first, second = release.blue_green(), release.blue_green()
    first.rerun("swap-back")
    assert first.conclusions["swap-back"] == "failure"
    assert release.marks() == (mark_of(second), mark_of(first))


def test_running_all_blue_green_jobs_again_is_a_new_release(release: Release, plain: Shop) -> None:
    run = release.blue_green()
    run.rerun_all()
    assert set(run.conclusions.values()) == {"success"}, logs(run)
    assert release.marks() == (mark_of(run, attempt=2), mark_of(run))


def test_the_blue_green_button_rolls_back_once(release: Release, plain: Shop) -> None:
    first, second = release.blue_green(), release.blue_green()
    button = release.run(BLUE_GREEN_ROLLBACK, confirm=plain.name).start()
    assert button.conclusions == {"rollback": "success"}, logs(button)
    assert release.marks() == (mark_of(first), mark_of(second))
    again = release.run(BLUE_GREEN_ROLLBACK, confirm=plain.name).start()
    assert again.conclusions == {"rollback": "failure"}
    assert release.marks() == (mark_of(first), mark_of(second))


@pytest.mark.parametrize("confirm", ["", "another-app"])
def test_the_blue_green_button_wants_the_name_of_the_app(release: Release, plain: Shop, confirm: str) -> None:
    release.blue_green()
    button = release.run(BLUE_GREEN_ROLLBACK, confirm=confirm).start()
    assert button.conclusions == {"rollback": "failure"}
    assert plain.swaps == 1


def test_the_blue_green_button_does_not_promote_what_was_never_in_production(release: Release, plain: Shop) -> None:
    fresh = release.run(BLUE_GREEN_ROLLBACK, confirm=plain.name).start()
    assert fresh.conclusions == {"rollback": "failure"}
    first = release.blue_green()
    plain.cloud.fault("swap", times=1)
    staged = release.run(BLUE_GREEN).start()
    button = release.run(BLUE_GREEN_ROLLBACK, confirm=plain.name).start()
    assert button.conclusions == {"rollback": "failure"}
    assert release.marks() == (mark_of(first), mark_of(staged))


def test_a_mark_that_stays_with_the_slot_is_noticed(release: Release, plain: Shop) -> None:
    plain.cloud.make(
        {
            plain.name: {
                "resourceGroup": GROUP,
                "sticky": ["RELEASE", "PREVIOUS_RELEASE"],
                "slots": {"production": {"settings": {}}, "staging": {"settings": {}}},
            }
        }
    )
    run = release.run(BLUE_GREEN).start()
    assert run.conclusions["swap"] == "failure"
    assert "slot-sticky" in run.jobs["swap"].log
