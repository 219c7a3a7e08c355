"""Rollbacks and reported outcomes with `pipelines/shell/deploy.sh`."""

import pytest

from safe_deploy.errors import ExitCode
from tests.conftest import new_hub_name
from tests.pipelines.ci_machine import PipelineApp
from tests.pipelines.deploy_script import DeployScript


def test_a_swap_without_a_command_needs_an_outcome(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    old_hub, new_hub = staged
    deploy_script.run("swap", "--outcome", "pending", task_hub=new_hub)
    assert pipeline_app.get_app()["pendingSwap"]["taskHub"] == new_hub
    deploy_script.run("swap", "--outcome", "pending", task_hub=new_hub)
    assert deploy_script.exit_code == ExitCode.CONFLICT, "a second swap would bring the old version back"
    deploy_script.run("rollback", "--outcome", "failed")
    assert deploy_script.exit_code == ExitCode.CONFLICT, "it is not a rollback that is pending"
    deploy_script.run("swap", "--outcome", "done", task_hub=new_hub)
    deploy_script.run("swap", "--outcome", "pending", task_hub=new_hub)
    assert (deploy_script.exit_code, "Do not swap the slots" in deploy_script.stderr) == (ExitCode.CONFLICT, True)
    for outcome in ("pending", "failed", "pending", "done", "done"):
        deploy_script.run("rollback", "--outcome", outcome)
        assert deploy_script.exit_code == ExitCode.DONE, deploy_script.stderr
    slots = pipeline_app.get_app()["slots"]
    assert (slots["production"]["taskHub"], slots["staging"]["taskHub"]) == (old_hub, new_hub)
    assert pipeline_app.history()[0]["details"]["rollback"] is True


def test_a_rollback_brings_the_old_version_back_and_doing_it_twice_changes_nothing(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    old_hub, new_hub = staged
    deploy_script.run("swap", *deploy_script.swap_arguments(), task_hub=new_hub)
    for _ in range(2):
        deploy_script.run("rollback", *deploy_script.swap_arguments())
        assert deploy_script.exit_code == ExitCode.DONE, deploy_script.stderr
        assert pipeline_app.task_hubs() == (old_hub, new_hub)
    assert pipeline_app.swap_count == 2


@pytest.mark.long
def test_a_rollback_to_the_version_in_production_is_a_conflict_unless_a_rollback_put_it_there(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    old_hub, new_hub = staged
    deploy_script.run("swap", *deploy_script.swap_arguments(), task_hub=new_hub)
    deploy_script.run("rollback", *deploy_script.swap_arguments(), task_hub=new_hub)
    assert deploy_script.exit_code == ExitCode.CONFLICT
    assert "not because of a rollback" in deploy_script.stderr
    for _ in range(2):
        deploy_script.run("rollback", *deploy_script.swap_arguments(), task_hub=old_hub, slot="Staging")
        assert deploy_script.exit_code == ExitCode.DONE, deploy_script.stderr
    assert pipeline_app.task_hubs() == (old_hub, new_hub)
    assert pipeline_app.swap_count == 2


@pytest.mark.long
def test_a_rollback_finds_its_slots_last_swap_however_far_back_it_is(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    old_hub, new_hub = staged
    deploy_script.run("swap", "--outcome", "done", task_hub=new_hub)
    other = new_hub_name()
    pipeline_app.put_app({"slots": {"blue": {"taskHub": other}}})
    deploy_script.run("swap", "--outcome", "done", task_hub=other, slot="blue")
    # The swap record of the other slot does not count for this slot.
    deploy_script.run("rollback", "--outcome", "done", slot="BLUE")
    assert pipeline_app.get_app()["slots"]["production"]["taskHub"] == new_hub
    deploy_script.replace_curl('exec /usr/bin/curl "${@/top=200/top=1}"')
    for _ in range(2):
        deploy_script.run("rollback", "--outcome", "done", slot="STAGING")
        assert deploy_script.exit_code == ExitCode.DONE, deploy_script.stderr
        assert pipeline_app.get_app()["slots"]["production"]["taskHub"] == old_hub
        pipeline_app.put_app({"policy": {"settleSeconds": 1}})


def test_a_rollback_does_not_promote_a_version_that_was_only_staged(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    deploy_script.run("rollback", *deploy_script.swap_arguments())
    assert deploy_script.exit_code == ExitCode.CONFLICT
    assert "never in production" in deploy_script.stderr
    assert pipeline_app.task_hubs() == staged
    assert pipeline_app.swap_count == 0
