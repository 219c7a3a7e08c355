"""The action in a job: its installation, outputs, refusals, and the environment of the commands that it runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.state_server import ROOT
from tests.conftest import new_hub_name
from tests.pipelines.ci_machine import Machine, PipelineApp, load_yaml
from tests.pipelines.github_actions_runner import ACTION, WorkflowRun, copy_safe_deploy_repository
from tests.pipelines.workflow_releases import job_logs, run_numbers


class ActionWorkflow:
    """A workflow with one job that uses the action."""

    def __init__(self, machine: Machine, pipeline_app: PipelineApp, folder: Path) -> None:
        self.machine, self.pipeline_app, self.file = machine, pipeline_app, folder / "workflow.yml"

    def __call__(
        self, *inputs_of_uses: dict[str, str], env: dict[str, str] | None = None, installs_for_real: bool = False
    ) -> WorkflowRun:
        """Run the workflow. Its job uses the action once for each of `inputs_of_uses`, with the outputs of the last."""
        common_inputs = {
            "server": self.pipeline_app.server,
            "app": self.pipeline_app.name,
            "key": "${{ secrets.STATE_KEY }}",
        }
        steps = [
            {"name": f"Use {number}", "id": f"use{number}", "uses": ACTION, "with": {**common_inputs, **inputs}}
            for number, inputs in enumerate(inputs_of_uses)
        ]
        job = {"permissions": {}, "timeout-minutes": 5, "runs-on": "ubuntu-24.04", "steps": steps}
        workflow: dict[str, Any] = {"on": {}, "permissions": {}, "env": env or {}, "jobs": {"use": job}}
        last = steps[-1]["id"]
        workflow["jobs"]["use"]["outputs"] = {
            name: f"${{{{ steps.{last}.outputs.{name} }}}}" for name in load_yaml(ROOT / "action.yml")["outputs"]
        }
        self.file.write_text(json.dumps(workflow))
        run = WorkflowRun(self.file, self.machine, self.pipeline_app, next(run_numbers))
        run.installs_for_real = installs_for_real
        return run.start()


@pytest.fixture
def run_action(machine: Machine, pipeline_app: PipelineApp, tmp_path: Path) -> ActionWorkflow:
    """Runs the action in a workflow of one job."""
    return ActionWorkflow(machine, pipeline_app, tmp_path)


@pytest.mark.long
def test_the_action_installs_itself_once_in_a_job(run_action: ActionWorkflow, pipeline_app: PipelineApp) -> None:
    pipeline_app.register(new_hub_name())
    run = run_action({"command": "status"}, {"command": "status"}, installs_for_real=True)
    assert run.conclusions == {"use": "success"}, job_logs(run)
    assert run.outputs["use"]["ready"] == "true"
    [venv] = run_action.machine.folder.glob("jobs/*-use/temp/safe-deploy")
    created = (venv / "pyvenv.cfg").stat().st_mtime_ns
    assert (venv / "installed").stat().st_mtime_ns > created
    assert len(run.jobs["use"].steps) == 2


def test_the_action_passes_on_the_outputs_of_the_command(run_action: ActionWorkflow, pipeline_app: PipelineApp) -> None:
    hub = new_hub_name()
    pipeline_app.put_app(
        {"slots": {"production": {"taskHub": new_hub_name()}, "staging": {"taskHub": hub, "version": "1.4.0"}}}
    )
    run = run_action({"command": "status"})
    outputs = run.outputs["use"]
    assert outputs | {"ready": "true", "status": "Ready", "task-hub": hub, "version": "1.4.0"} == outputs
    assert outputs | {"has-running": "false", "active-count": "0", "reasons": "", "assurance": "events"} == outputs


def test_the_action_compares_the_slot_with_production(run_action: ActionWorkflow, pipeline_app: PipelineApp) -> None:
    candidate, baseline = new_hub_name(), new_hub_name()
    pipeline_app.put_app({"slots": {"production": {"taskHub": baseline}, "staging": {"taskHub": candidate}}})
    run = run_action({"command": "health", "fail-on": "unhealthy"})
    assert run.conclusions == {"use": "success"}, job_logs(run)
    outputs = run.outputs["use"]
    assert outputs | {"health": "Undecided", "decided-by": "TooFewFinished", "candidate-rate": ""} == outputs
    undecided = run_action({"command": "health", "fail-on": "undecided"})
    assert undecided.conclusions == {"use": "failure"}


def test_the_action_begins_a_rollout(run_action: ActionWorkflow, pipeline_app: PipelineApp) -> None:
    releases = {
        version: {"taskHub": new_hub_name(), "address": f"https://shop-{version[-1]}.azurewebsites.net"}
        for version in ("1.0", "1.1")
    }
    pipeline_app.put_app({"model": "sideBySide", "releases": releases})
    assert run_action({"command": "promote", "version": "1.0"}).conclusions == {"use": "success"}
    run = run_action({"command": "rollout start", "version": "1.1", "steps": "10@15m,50@30m"})
    assert run.conclusions == {"use": "success"}, job_logs(run)
    outputs = run.outputs["use"]
    assert outputs | {"state": "Running", "candidate": "1.1", "baseline": "1.0", "step": "1", "weight": "10"} == outputs


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"command": "stauts"}, "there is no such command"),
        ({"command": "status; echo hacked"}, "there is no such command"),
        ({"command": "status", "run": "true"}, "status takes neither of the inputs run and outcome"),
        ({"command": "deploy", "outcome": "done"}, "deploy takes neither of the inputs run and outcome"),
        ({"command": "promote", "run": "true"}, "promote takes neither of the inputs run and outcome"),
        (
            {"command": "rollout start", "steps": "10@1m", "outcome": "done"},
            "the input outcome is for swap and rollback",
        ),
        ({"command": "swap"}, "swap needs the input run, with the commands that swap the slots, or the input outcome"),
        (
            {"command": "release"},
            "release needs the input run, with the commands that create or delete the Function App",
        ),
        ({"command": "retire", "run": "true", "outcome": "done"}, "the input outcome is for swap and rollback alone"),
        ({"command": "swap", "run": "true", "outcome": "done"}, "swap takes run or outcome, not both"),
        ({"command": "swap", "outcome": "perhaps"}, "outcome is pending, done or failed"),
        ({"command": "rollout start"}, "rollout start needs the input steps"),
        ({"command": "promote", "steps": "10@15m"}, "the input steps is for rollout start alone"),
        ({"command": "status", "fail-on": "unhealthy"}, "the input fail-on is for health alone"),
        ({"command": "swap", "run": "true", "swap-command": "true"}, "the inputs deploy-command and swap-command are"),
        ({"command": "stage", "deploy-command": "true"}, "the inputs deploy-command and swap-command are for deploy"),
    ],
)
def test_the_action_refuses_invalid_inputs_before_it_installs_anything(
    run_action: ActionWorkflow, inputs: dict[str, str], message: str
) -> None:
    run = run_action(inputs, installs_for_real=True)
    assert run.conclusions == {"use": "failure"}
    assert f"::error::safe-deploy: {message}" in run.jobs["use"].log
    assert not list(run_action.machine.folder.glob("jobs/*-use/temp/safe-deploy"))


def test_an_old_python_is_refused_by_its_version(
    run_action: ActionWorkflow, pipeline_app: PipelineApp, machine: Machine
) -> None:
    (machine.tools / "python3").write_text("#!/bin/sh\nexit 1\n")
    run = run_action({"command": "status"}, installs_for_real=True)
    assert run.conclusions == {"use": "failure"}
    assert "::error::safe-deploy: python3 must be Python 3.11 or newer" in run.jobs["use"].log


def test_the_text_of_an_input_is_never_executed(
    run_action: ActionWorkflow, pipeline_app: PipelineApp, tmp_path: Path
) -> None:
    pipeline_app.register(new_hub_name())
    trace = tmp_path / "hacked"
    evil = '$(touch $T)`touch $T`"; touch $T; echo "\'; touch $T #'
    run = run_action(
        {"command": "stage", "task-hub": new_hub_name(), "version": evil, "reason": evil}, env={"T": str(trace)}
    )
    assert run.conclusions == {"use": "success"}, job_logs(run)
    assert run.outputs["use"]["staging-version"] == evil
    assert not trace.exists()


def test_an_input_wins_over_the_variable_of_the_job(run_action: ActionWorkflow, pipeline_app: PipelineApp) -> None:
    pipeline_app.register(new_hub_name())
    env = {"SAFE_DEPLOY_TASK_HUB": new_hub_name(), "SAFE_DEPLOY_VERSION": "of the job"}
    hub = new_hub_name()
    run = run_action({"command": "stage", "task-hub": hub}, env=env)
    assert (run.outputs["use"]["task-hub"], run.outputs["use"]["staging-version"]) == (hub, "of the job")


def test_the_platforms_commands_run_with_the_jobs_variables_and_without_the_key(
    run_action: ActionWorkflow, pipeline_app: PipelineApp
) -> None:
    hub = new_hub_name()
    pipeline_app.put_app({"slots": {"production": {"taskHub": new_hub_name()}, "staging": {"taskHub": hub}}})
    run_text = 'echo "said: $WORD"\necho "key: ${SAFE_DEPLOY_KEY-none}"\nfalse\necho "not reached"'
    run = run_action({"command": "swap", "task-hub": hub, "run": run_text}, env={"WORD": "a b"})
    log = run.jobs["use"].log
    assert run.conclusions == {"use": "failure"}
    assert "said: a b\nkey: none\n" in log
    assert "\nnot reached" not in log
    # Without a resource group, Azure cannot be queried here.
    assert "--outcome failed" in log
    assert pipeline_app.get_app()["pendingSwap"]["taskHub"] == hub


def test_a_swap_without_a_command_needs_an_outcome(run_action: ActionWorkflow, pipeline_app: PipelineApp) -> None:
    old_hub, new_hub = new_hub_name(), new_hub_name()
    pipeline_app.put_app({"slots": {"production": {"taskHub": old_hub}, "staging": {"taskHub": new_hub}}})
    swap = {"command": "swap", "task-hub": new_hub}
    run = run_action({**swap, "outcome": "pending"}, {**swap, "outcome": "failed"})
    assert run.conclusions == {"use": "success"}, job_logs(run)
    assert run.outputs["use"]["production-task-hub"] == old_hub
    app = pipeline_app.get_app()
    assert (app["pendingSwap"], app["slots"]["production"]["taskHub"]) == (None, old_hub)


def test_a_job_ends_no_swap_of_another_run(run_action: ActionWorkflow, pipeline_app: PipelineApp) -> None:
    hub = new_hub_name()
    pipeline_app.put_app({"slots": {"production": {"taskHub": new_hub_name()}, "staging": {"taskHub": hub}}})
    swap = {"command": "swap", "task-hub": hub}
    first = run_action({**swap, "outcome": "pending"})
    other = run_action({**swap, "outcome": "failed"})
    assert other.conclusions == {"use": "failure"}
    assert f"--run-url {first.url}" in other.jobs["use"].log
    assert pipeline_app.get_app()["pendingSwap"]["taskHub"] == hub


def test_the_action_fails_with_an_annotation_if_the_slot_is_not_ready(
    run_action: ActionWorkflow, pipeline_app: PipelineApp
) -> None:
    hub = new_hub_name()
    pipeline_app.put_app({"slots": {"production": {"taskHub": new_hub_name()}, "staging": {"taskHub": hub}}})
    pipeline_app.publish_event(hub, "Running")
    run = run_action({"command": "status"})
    assert run.conclusions == {"use": "failure"}
    assert "::error" in run.jobs["use"].log


def test_the_files_that_an_installation_checks_out_exist(tmp_path: Path) -> None:
    copy_safe_deploy_repository(tmp_path / "action")
    assert (tmp_path / "action" / "safe_deploy" / "cli.py").exists()
