"""The workflows for a durable app and the quickstart, run step by step: releases, failures, re-runs, rollbacks."""

from pathlib import Path

import pytest

from tests.conftest import new_hub_name
from tests.pipelines.ci_machine import PIPELINES_FOLDER, RESOURCE_GROUP, Machine, PipelineApp
from tests.pipelines.workflow_releases import DURABLE, DURABLE_ROLLBACK, ReleaseRunner, hub_of_run, job_logs

QUICKSTART = PIPELINES_FOLDER / "github" / "quickstart.yml"


def test_a_release_goes_through_the_slot_and_leaves_the_old_version_there(
    release_runner: ReleaseRunner, pipeline_app: PipelineApp
) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    run = release_runner.run(DURABLE)
    run.builds_for_real = True
    run.start()

    assert set(run.conclusions.values()) == {"success"}, job_logs(run)
    assert pipeline_app.task_hubs() == (hub_of_run(run), old_hub)
    assert pipeline_app.swap_count == 1
    assert pipeline_app.fake_azure.package(pipeline_app.name) == "app.zip"
    assert pipeline_app.fake_azure.is_running(pipeline_app.name, "staging")
    assert run.outputs["staging"] == {"task-hub": hub_of_run(run)}
    swap = next(record for record in pipeline_app.history() if record["operation"] == "PostSwap")
    assert (swap["runUrl"], swap["by"], swap["keyName"]) == (run.url, "octocat", "the-deployer")
    assert hub_of_run(run) in run.jobs["production"].summary


def test_a_gradual_rollout_ends_with_the_swap(release_runner: ReleaseRunner, pipeline_app: PipelineApp) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    run = release_runner.run(DURABLE)
    run.workflow["jobs"]["production"]["steps"][-1]["with"] |= {"command": "rollout start", "steps": "10@1s,50@1s"}
    run.start()
    assert set(run.conclusions.values()) == {"success"}, job_logs(run)
    assert pipeline_app.task_hubs() == (hub_of_run(run), old_hub)
    assert pipeline_app.fake_azure.count_calls("resource patch") == 3
    assert pipeline_app.fake_azure.ramp_up_rules(pipeline_app.name) == []


@pytest.mark.long
def test_the_slot_is_stopped_before_its_settings_change_and_gets_its_task_hub_before_its_code(
    release_runner: ReleaseRunner, pipeline_app: PipelineApp
) -> None:
    pipeline_app.register(new_hub_name())
    release_runner.durable()
    changes = [
        call[:4]
        for call in pipeline_app.fake_azure.calls
        if call[1] in {"stop", "start"} or "set" in call or "source" in call
    ]
    assert [" ".join(word for word in call if not word.startswith("-")) for call in changes] == [
        "functionapp stop " + RESOURCE_GROUP,
        "functionapp config appsettings set",
        "functionapp deployment source config-zip",
        "functionapp start " + RESOURCE_GROUP,
    ]


@pytest.mark.long
def test_the_next_release_waits_for_the_orchestrations_of_the_old_version(
    release_runner: ReleaseRunner, pipeline_app: PipelineApp
) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    pipeline_app.publish_event(old_hub, "Running")
    first = release_runner.durable()

    second = release_runner.run(DURABLE)
    second.workflow["jobs"]["staging"]["steps"][1]["with"]["timeout"] = "2"
    second.start()
    assert second.conclusions["staging"] == "failure"
    assert second.conclusions["production"] == "skipped"
    assert "InstancesActive" in second.jobs["staging"].summary or "is active" in second.jobs["staging"].log
    assert pipeline_app.task_hubs() == (hub_of_run(first), old_hub)
    assert pipeline_app.fake_azure.count_calls("functionapp stop") == 1

    pipeline_app.publish_event(old_hub, "Completed")
    second.rerun_failed()
    assert second.conclusions["production"] == "success", job_logs(second)
    assert pipeline_app.task_hubs() == (hub_of_run(second, attempt=2), hub_of_run(first))


def test_a_failed_swap_is_reverted_and_done_when_its_job_is_run_again(
    release_runner: ReleaseRunner, pipeline_app: PipelineApp
) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    pipeline_app.fake_azure.set_fault("swap", call_count=1)
    run = release_runner.run(DURABLE).start()
    assert run.conclusions == {"build": "success", "staging": "success", "production": "failure", "cleanup": "skipped"}
    assert pipeline_app.task_hubs() == (old_hub, hub_of_run(run))

    run.rerun_failed()
    assert run.conclusions["production"] == "success", job_logs(run)
    assert run.conclusions["cleanup"] == "success"
    assert pipeline_app.task_hubs() == (hub_of_run(run), old_hub)


@pytest.mark.long
def test_the_next_attempt_completes_a_job_that_was_cancelled_during_the_swap(
    release_runner: ReleaseRunner, pipeline_app: PipelineApp, machine: Machine
) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    pipeline_app.fake_azure.set_fault("swap", exit_code=None, delay_after_seconds=4, call_count=1)
    machine.cancel_when = lambda: (
        pipeline_app.swap_count == 1 and pipeline_app.fake_azure.settings(pipeline_app.name)["TASK_HUB"] != old_hub
    )
    run = release_runner.run(DURABLE).start()
    assert run.conclusions["production"] == "cancelled"

    run.rerun("production")
    assert run.conclusions["production"] == "success", job_logs(run)
    assert pipeline_app.task_hubs() == (hub_of_run(run), old_hub)
    assert pipeline_app.swap_count == 1


@pytest.mark.long
def test_running_the_swap_again_after_it_succeeded_changes_nothing(
    release_runner: ReleaseRunner, pipeline_app: PipelineApp
) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    run = release_runner.durable()
    run.rerun("production")
    assert run.conclusions["production"] == "success"
    assert pipeline_app.task_hubs() == (hub_of_run(run), old_hub)
    assert pipeline_app.swap_count == 1


@pytest.mark.long
def test_running_all_jobs_again_is_a_new_release_with_a_task_hub_of_its_own(
    release_runner: ReleaseRunner, pipeline_app: PipelineApp
) -> None:
    pipeline_app.register(new_hub_name())
    run = release_runner.durable()
    run.rerun_all()
    assert set(run.conclusions.values()) == {"success"}, job_logs(run)
    assert pipeline_app.task_hubs() == (hub_of_run(run, attempt=2), hub_of_run(run, attempt=1))


@pytest.mark.long
def test_a_deployment_that_fails_can_be_run_again(release_runner: ReleaseRunner, pipeline_app: PipelineApp) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    pipeline_app.fake_azure.set_fault("config-zip", call_count=1)
    run = release_runner.run(DURABLE).start()
    assert run.jobs["staging"].steps["Deploy"] == "failure"
    assert not pipeline_app.fake_azure.is_running(pipeline_app.name, "staging")

    run.rerun_failed()
    assert run.conclusions["production"] == "success", job_logs(run)
    assert pipeline_app.task_hubs() == (hub_of_run(run, attempt=2), old_hub)


@pytest.mark.long
def test_the_rollback_workflow_restores_the_old_version_and_has_no_effect_the_second_time(
    release_runner: ReleaseRunner, pipeline_app: PipelineApp
) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    bad = release_runner.durable()
    for _ in range(2):
        rollback_run = release_runner.run(DURABLE_ROLLBACK, confirm=pipeline_app.name).start()
        assert rollback_run.conclusions == {"rollback": "success"}, job_logs(rollback_run)
        assert pipeline_app.task_hubs() == (old_hub, hub_of_run(bad))
    assert pipeline_app.swap_count == 2


def test_the_rollback_workflow_requires_the_name_of_the_app(
    release_runner: ReleaseRunner, pipeline_app: PipelineApp
) -> None:
    pipeline_app.register(new_hub_name())
    release_runner.durable()
    rollback_run = release_runner.run(DURABLE_ROLLBACK, confirm="another-app").start()
    assert rollback_run.conclusions == {"rollback": "failure"}
    assert pipeline_app.swap_count == 1


@pytest.mark.long
def test_the_rollback_workflow_does_not_promote_a_version_that_was_only_staged(
    release_runner: ReleaseRunner, pipeline_app: PipelineApp
) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    pipeline_app.fake_azure.set_fault("swap", call_count=1)
    staged = release_runner.run(DURABLE).start()
    assert pipeline_app.task_hubs() == (old_hub, hub_of_run(staged))
    rollback_run = release_runner.run(DURABLE_ROLLBACK, confirm=pipeline_app.name).start()
    assert rollback_run.conclusions == {"rollback": "failure"}
    assert "never in production" in rollback_run.jobs["rollback"].log
    assert pipeline_app.task_hubs() == (old_hub, hub_of_run(staged))
    assert pipeline_app.swap_count == 1


@pytest.fixture
def quickstart(pipeline_app: PipelineApp, tmp_path: Path) -> Path:
    """The quickstart with its placeholders filled in."""
    text = QUICKSTART.read_text()
    for mark, own in {
        "--resource-group shop --name shop ": f"--resource-group {RESOURCE_GROUP} --name {pipeline_app.name} ",
        "SAFE_DEPLOY_APP: shop,": f"SAFE_DEPLOY_APP: {pipeline_app.name},",
        "resource-group: shop #": f"resource-group: {RESOURCE_GROUP} #",
    }.items():
        assert text.count(mark) == 1
        text = text.replace(mark, own)
    copy = tmp_path / "quickstart.yml"
    copy.write_text(text)
    return copy


def test_the_quickstart_releases_and_its_next_release_waits_until_the_slot_has_drained(
    release_runner: ReleaseRunner, pipeline_app: PipelineApp, quickstart: Path
) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    run = release_runner.run(quickstart).start()
    assert run.conclusions == {"release": "success"}, job_logs(run)
    assert pipeline_app.task_hubs() == (hub_of_run(run), old_hub)
    assert pipeline_app.fake_azure.package(pipeline_app.name) == "app.zip"

    pipeline_app.publish_event(old_hub, "Running")
    late = release_runner.run(quickstart)
    [wait] = [step for step in late.workflow["jobs"]["release"]["steps"] if step.get("with", {}).get("wait")]
    wait["with"]["timeout"] = "2"
    late.start()
    assert late.conclusions == {"release": "failure"}
    # A login before the wait would expire.
    assert late.jobs["release"].steps["azure/login"] == "skipped"
    assert pipeline_app.task_hubs() == (hub_of_run(run), old_hub)


@pytest.mark.long
def test_a_failed_quickstart_deployment_is_not_swapped(
    release_runner: ReleaseRunner, pipeline_app: PipelineApp, quickstart: Path
) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    pipeline_app.fake_azure.set_fault("config-zip", call_count=1)
    run = release_runner.run(quickstart).start()
    assert run.conclusions == {"release": "failure"}
    assert pipeline_app.swap_count == 0
    run.rerun_failed()
    assert run.conclusions == {"release": "success"}, job_logs(run)
    assert pipeline_app.task_hubs() == (hub_of_run(run, attempt=2), old_hub)
