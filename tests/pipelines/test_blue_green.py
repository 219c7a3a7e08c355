"""The blue-green workflows, run step by step: releases, failures, re-runs, rollbacks."""

import pytest

from tests.pipelines.ci_machine import RESOURCE_GROUP, Machine, PipelineApp
from tests.pipelines.workflow_releases import BLUE_GREEN, BLUE_GREEN_ROLLBACK, ReleaseRunner, job_logs, release_of


@pytest.fixture
def unreleased_app(pipeline_app: PipelineApp) -> PipelineApp:
    """A Function App without orchestrations, before its first release by the workflow."""
    pipeline_app.reset_azure({}, {})
    return pipeline_app


@pytest.mark.long
def test_a_blue_green_release_is_swapped_into_production(
    release_runner: ReleaseRunner, unreleased_app: PipelineApp
) -> None:
    run = release_runner.run(BLUE_GREEN)
    run.builds_for_real = True
    run.start()
    assert set(run.conclusions.values()) == {"success"}, job_logs(run)
    assert release_runner.deployed_releases() == (release_of(run), None)
    assert unreleased_app.fake_azure.package(unreleased_app.name) == "app.zip"
    assert unreleased_app.fake_azure.package(unreleased_app.name, "staging") == "first.zip"
    assert run.jobs["swap-back"].steps == {
        "Explain": "success",
        "azure/login": "skipped",
        "Swap back": "skipped",
    }


def test_running_the_job_swap_back_by_itself_rolls_back_and_running_it_again_changes_nothing(
    release_runner: ReleaseRunner, unreleased_app: PipelineApp
) -> None:
    first, second = release_runner.blue_green(), release_runner.blue_green()
    assert release_runner.deployed_releases() == (release_of(second), release_of(first))
    for _ in range(2):
        second.rerun("swap-back")
        assert second.conclusions["swap-back"] == "success", job_logs(second)
        assert release_runner.deployed_releases() == (release_of(first), release_of(second))
    assert unreleased_app.swap_count == 3


def test_the_very_first_release_can_be_rolled_back(release_runner: ReleaseRunner, unreleased_app: PipelineApp) -> None:
    run = release_runner.blue_green()
    run.rerun("swap-back")
    assert run.conclusions["swap-back"] == "success", job_logs(run)
    assert release_runner.deployed_releases() == (None, release_of(run))
    assert unreleased_app.fake_azure.package(unreleased_app.name) == "first.zip"


def test_after_a_rollback_the_job_swap_promotes_the_release_again(
    release_runner: ReleaseRunner, unreleased_app: PipelineApp
) -> None:
    first, second = release_runner.blue_green(), release_runner.blue_green()
    second.rerun("swap-back")
    second.rerun("swap")
    assert second.conclusions["swap"] == "success", job_logs(second)
    assert second.jobs["swap-back"].steps["Swap back"] == "skipped"
    assert release_runner.deployed_releases() == (release_of(second), release_of(first))
    assert unreleased_app.swap_count == 4


def test_running_the_blue_green_swap_again_after_it_succeeded_does_not_undo_it(
    release_runner: ReleaseRunner, unreleased_app: PipelineApp
) -> None:
    run = release_runner.blue_green()
    run.rerun("swap")
    assert run.conclusions["swap"] == "success"
    assert release_runner.deployed_releases() == (release_of(run), None)
    assert unreleased_app.swap_count == 1


def test_a_blue_green_swap_that_fails_is_done_when_its_job_is_run_again(
    release_runner: ReleaseRunner, unreleased_app: PipelineApp
) -> None:
    unreleased_app.fake_azure.set_fault("swap", call_count=1)
    run = release_runner.run(BLUE_GREEN).start()
    assert run.conclusions["swap"] == "failure"
    assert run.conclusions["swap-back"] == "skipped"
    assert release_runner.deployed_releases() == (None, release_of(run))
    run.rerun_failed()
    assert run.conclusions["swap"] == "success", job_logs(run)
    assert run.jobs["swap-back"].steps["Swap back"] == "skipped"
    assert release_runner.deployed_releases() == (release_of(run), None)


def test_a_blue_green_swap_that_succeeded_but_reported_a_failure_counts(
    release_runner: ReleaseRunner, unreleased_app: PipelineApp
) -> None:
    unreleased_app.fake_azure.set_fault("swap", takes_effect=True, call_count=1)
    run = release_runner.blue_green()
    assert "::warning::" in run.jobs["swap"].log
    assert release_runner.deployed_releases() == (release_of(run), None)


def test_the_next_attempt_does_not_undo_a_blue_green_swap_that_was_interrupted_after_it_happened(
    release_runner: ReleaseRunner, unreleased_app: PipelineApp, machine: Machine
) -> None:
    unreleased_app.fake_azure.set_fault("swap", exit_code=None, delay_after_seconds=2, call_count=1)
    machine.cancel_when = lambda: release_runner.deployed_releases()[0] is not None
    run = release_runner.run(BLUE_GREEN).start()
    assert run.conclusions["swap"] == "cancelled"
    run.rerun_failed()
    assert run.conclusions["swap"] == "success", job_logs(run)
    assert release_runner.deployed_releases() == (release_of(run), None)
    assert unreleased_app.swap_count == 1


def test_a_blue_green_swap_refuses_a_release_of_another_run(
    release_runner: ReleaseRunner, unreleased_app: PipelineApp
) -> None:
    unreleased_app.fake_azure.set_fault("swap", call_count=1)
    late = release_runner.run(BLUE_GREEN).start()
    newer = release_runner.blue_green()
    late.rerun_failed()
    assert late.conclusions["swap"] == "failure"
    assert "something else was deployed" in late.jobs["swap"].log
    assert release_runner.deployed_releases() == (release_of(newer), None)


def test_an_old_release_cannot_be_swapped_back_once_another_one_followed(
    release_runner: ReleaseRunner, unreleased_app: PipelineApp
) -> None:
    first, second = release_runner.blue_green(), release_runner.blue_green()
    first.rerun("swap-back")
    assert first.conclusions["swap-back"] == "failure"
    assert release_runner.deployed_releases() == (release_of(second), release_of(first))


def test_running_all_blue_green_jobs_again_is_a_new_release(
    release_runner: ReleaseRunner, unreleased_app: PipelineApp
) -> None:
    run = release_runner.blue_green()
    run.rerun_all()
    assert set(run.conclusions.values()) == {"success"}, job_logs(run)
    assert release_runner.deployed_releases() == (release_of(run, attempt=2), release_of(run))


def test_the_blue_green_rollback_has_no_effect_the_second_time(
    release_runner: ReleaseRunner, unreleased_app: PipelineApp
) -> None:
    first, second = release_runner.blue_green(), release_runner.blue_green()
    rollback_run = release_runner.run(BLUE_GREEN_ROLLBACK, confirm=unreleased_app.name).start()
    assert rollback_run.conclusions == {"rollback": "success"}, job_logs(rollback_run)
    assert release_runner.deployed_releases() == (release_of(first), release_of(second))
    again = release_runner.run(BLUE_GREEN_ROLLBACK, confirm=unreleased_app.name).start()
    assert again.conclusions == {"rollback": "failure"}
    assert release_runner.deployed_releases() == (release_of(first), release_of(second))


@pytest.mark.parametrize("confirm", ["", "another-app"])
def test_the_blue_green_rollback_requires_the_name_of_the_app(
    release_runner: ReleaseRunner, unreleased_app: PipelineApp, confirm: str
) -> None:
    release_runner.blue_green()
    rollback_run = release_runner.run(BLUE_GREEN_ROLLBACK, confirm=confirm).start()
    assert rollback_run.conclusions == {"rollback": "failure"}
    assert unreleased_app.swap_count == 1


def test_the_blue_green_rollback_does_not_promote_a_release_that_was_never_in_production(
    release_runner: ReleaseRunner, unreleased_app: PipelineApp
) -> None:
    early_rollback_run = release_runner.run(BLUE_GREEN_ROLLBACK, confirm=unreleased_app.name).start()
    assert early_rollback_run.conclusions == {"rollback": "failure"}
    first = release_runner.blue_green()
    unreleased_app.fake_azure.set_fault("swap", call_count=1)
    staged = release_runner.run(BLUE_GREEN).start()
    rollback_run = release_runner.run(BLUE_GREEN_ROLLBACK, confirm=unreleased_app.name).start()
    assert rollback_run.conclusions == {"rollback": "failure"}
    assert release_runner.deployed_releases() == (release_of(first), release_of(staged))


def test_a_slot_sticky_release_setting_is_refused(release_runner: ReleaseRunner, unreleased_app: PipelineApp) -> None:
    unreleased_app.fake_azure.reset(
        {
            unreleased_app.name: {
                "resourceGroup": RESOURCE_GROUP,
                "sticky": ["RELEASE", "PREVIOUS_RELEASE"],
                "slots": {"production": {"settings": {}}, "staging": {"settings": {}}},
            }
        }
    )
    run = release_runner.run(BLUE_GREEN).start()
    assert run.conclusions["swap"] == "failure"
    assert "slot-sticky" in run.jobs["swap"].log
