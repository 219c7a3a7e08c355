"""The Azure Pipelines templates: their parameters, and releases with them, run step by step."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from safe_deploy.ci import detect_ci_system
from tests.conftest import new_hub_name
from tests.pipelines.azure_pipelines_runner import PROJECT, PipelineRun
from tests.pipelines.azure_pipelines_templates import TemplateError, bind_parameters, expand_pipeline
from tests.pipelines.ci_machine import KEYS, PIPELINES_FOLDER, RESOURCE_GROUP, Machine, PipelineApp, load_yaml
from tests.pipelines.shellcheck import run_shellcheck

FOLDER = PIPELINES_FOLDER / "azure-pipelines"
SAMPLE, ROLLBACK, QUICKSTART = (
    FOLDER / f"{name}.yml" for name in ("azure-pipelines", "azure-pipelines-rollback", "quickstart")
)
SIDE_BY_SIDE, *SIDE_BY_SIDE_OTHERS = (
    FOLDER / f"{name}.yml" for name in ("side-by-side", "side-by-side-rollback", "side-by-side-retire")
)
ROLLOUT_HEALTH = FOLDER / "rollout-health.yml"
PIPELINES = [SAMPLE, ROLLBACK, QUICKSTART, SIDE_BY_SIDE, *SIDE_BY_SIDE_OTHERS, ROLLOUT_HEALTH]
TEMPLATES = sorted([*(FOLDER / "steps").glob("*.yml"), *(FOLDER / "stages").glob("*.yml")])
REST_API_CHECK = FOLDER / "invoke-rest-api-check.json"

_run_numbers = iter(range(1_000_000, 2_000_000))


@pytest.fixture
def create_run(machine: Machine, pipeline_app: PipelineApp, tmp_path: Path) -> Callable[..., PipelineRun]:
    """Create a run of a pipeline, with the placeholders of the sample filled in."""

    def create_run_of_sample(file: Path, **parameters: str) -> PipelineRun:
        """A run of a sample pipeline, whose placeholders are replaced by the app and the server of the test."""
        text = file.read_text()
        for placeholder, value in {
            r"server: https://shop-state\.azurewebsites\.net": f"server: {pipeline_app.server}",
            r"app: shop\b": f"app: {pipeline_app.name}",
            r"functionApp: shop\b": f"functionApp: {pipeline_app.name}",
            r"resourceGroup: shop\b": f"resourceGroup: {RESOURCE_GROUP}",
            r"FUNCTION_APP: shop\b": f"FUNCTION_APP: {pipeline_app.name}",
        }.items():
            text, count = re.subn(rf"(?m)^(\s*){placeholder}", rf"\g<1>{value}", text)
            assert count == 1 or (count == 0 and placeholder.startswith("FUNCTION_APP"))
        copy = tmp_path / file.name
        copy.write_text(text)
        return PipelineRun(copy, machine, next(_run_numbers), parameters)

    return create_run_of_sample


CreateRun = Callable[..., PipelineRun]


def hub_of_run(run: PipelineRun, attempt: int = 1) -> str:
    """The task hub name that the sample pipeline computes in this attempt of its stage Staging."""
    return f"shop{run.number}x{attempt}"


def run_release(run: PipelineRun) -> PipelineRun:
    """Run all stages of the sample pipeline. Fails unless all succeed."""
    run.start()
    assert run.results == {"Build": "succeeded", "Staging": "succeeded", "Production": "succeeded"}, run.log
    return run


# --- the files ---


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        (SAMPLE, ["Build", "Staging", "Production"]),
        (QUICKSTART, ["Build", "Staging", "Production"]),
        (SIDE_BY_SIDE, ["Build", "Release", "Promote"]),
    ],
    ids=["azure-pipelines", "quickstart", "side-by-side"],
)
def test_a_sample_passes_exactly_the_declared_parameters_to_every_template(file: Path, stages: list[str]) -> None:
    assert [stage["stage"] for stage in expand_pipeline(file)["stages"]] == stages


def test_every_template_is_used_by_a_sample_or_by_another_template() -> None:
    texts = [file.read_text() for file in [*PIPELINES, *TEMPLATES]]
    for template in TEMPLATES:
        assert any(f"{template.parent.name}/{template.name}" in text for text in texts)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda file: file.stem)
def test_every_parameter_has_a_type_and_is_used(template: Path) -> None:
    text = template.read_text()
    for parameter in load_yaml(template)["parameters"]:
        assert parameter["type"] in {"string", "boolean", "number", "object"}
        assert f"${{{{ parameters.{parameter['name']} }}}}" in text


@pytest.mark.parametrize("file", [*PIPELINES, *TEMPLATES], ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_no_script_holds_a_parameter_or_a_macro(file: Path) -> None:
    for script in find_scripts(load_yaml(file)):
        assert "${{" not in script
        assert not re.search(r"\$\([A-Za-z]+[.\w]*\)", script)


@pytest.mark.parametrize(
    "file", [file for file in [*PIPELINES, *TEMPLATES] if file != QUICKSTART], ids=lambda file: file.stem
)
def test_every_script_ends_at_its_first_failure_and_shellcheck_finds_nothing_in_it(file: Path, tmp_path: Path) -> None:
    for script in find_scripts(load_yaml(file)):
        assert script.startswith("set -euo pipefail\n")
        run_shellcheck(script, tmp_path)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda file: file.stem)
def test_the_key_reaches_a_script_only_as_its_variable(template: Path) -> None:
    text = template.read_text()
    lines_with_key = re.findall(r".*parameters\.key.*", text)
    assert all(
        re.fullmatch(r" +(SAFE_DEPLOY_KEY|key): \$\{\{ parameters\.key \}\}( #.*)?", line) for line in lines_with_key
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "needs the parameter server"),
        ({"verify": "sometimes"}, "is not one of"),
        ({"wait": "yes"}, "is not a boolean"),
        ({"timeoutSeconds": "long"}, "is not a number"),
        ({"timeout": 3600}, "has no parameters"),
    ],
)
def test_an_invalid_parameter_is_refused_before_the_run(parameters: dict[str, Any], message: str) -> None:
    template = FOLDER / "steps" / "status.yml"
    required = {"server": "https://state.example", "app": "shop", "key": "$(STATE_KEY)"} if parameters else {}
    with pytest.raises(TemplateError, match=message):
        bind_parameters(load_yaml(template)["parameters"], {**required, **parameters}, template)


def find_scripts(template_part: Any) -> list[str]:
    """Every script in a template, or in a part of one."""
    if isinstance(template_part, list):
        return [script for item in template_part for script in find_scripts(item)]
    if not isinstance(template_part, dict):
        return []
    scripts = [template_part[key] for key in ("bash", "inlineScript") if key in template_part]
    return scripts + [script for value in template_part.values() for script in find_scripts(value)]


# --- releases ---


@pytest.mark.parametrize("file", [SAMPLE, QUICKSTART], ids=lambda file: file.stem)
def test_a_release_goes_through_the_slot(create_run: CreateRun, pipeline_app: PipelineApp, file: Path) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    run = create_run(file)
    run.builds_for_real = True
    run_release(run)
    assert pipeline_app.task_hubs() == (hub_of_run(run), old_hub)
    assert pipeline_app.swap_count == 1
    assert pipeline_app.fake_azure.package(pipeline_app.name) == "app.zip"
    assert pipeline_app.fake_azure.is_running(pipeline_app.name, "staging")
    swap = next(record for record in pipeline_app.history() if record["operation"] == "PostSwap")
    assert swap["runUrl"] == f"https://dev.azure.example/acme/{PROJECT}/_build/results?buildId={run.number}"
    assert swap["by"] == "Ada Lovelace"


def test_a_gradual_rollout_ends_with_the_swap(create_run: CreateRun, pipeline_app: PipelineApp) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    run = create_run(SAMPLE)
    [swap_step] = [
        step
        for step in run.stages["Production"]["jobs"][0]["strategy"]["runOnce"]["deploy"]["steps"]
        if step.get("name") == "safeDeploySwap"
    ]
    swap_step["env"]["ROLLOUT_STEPS"] = "10@1s,50@1s"
    run_release(run)
    assert pipeline_app.task_hubs() == (hub_of_run(run), old_hub)
    assert pipeline_app.fake_azure.count_calls("resource patch") == 3
    assert pipeline_app.fake_azure.ramp_up_rules(pipeline_app.name) == []
    assert run.jobs["Production"]["Swap"].outputs["safeDeploySwap.state"] == "Finished"


def test_the_steps_pass_on_the_outputs_of_the_commands(create_run: CreateRun, pipeline_app: PipelineApp) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    run = run_release(create_run(SAMPLE))
    deploy, swap = run.jobs["Staging"]["Deploy"].outputs, run.jobs["Production"]["Swap"].outputs
    assert (deploy["safeDeployStatus.ready"], deploy["safeDeployStatus.activeCount"]) == ("true", "0")
    assert deploy["safeDeployStage.stagingTaskHub"] == hub_of_run(run)
    assert (swap["safeDeploySwap.productionTaskHub"], swap["safeDeploySwap.stagingTaskHub"]) == (
        hub_of_run(run),
        old_hub,
    )
    assert run.jobs["Production"]["CleanUp"].outputs["safeDeployCleanup.removed"] == ""


@pytest.mark.long
def test_the_next_release_waits_for_the_orchestrations_of_the_old_version(
    create_run: CreateRun, pipeline_app: PipelineApp
) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    pipeline_app.publish_event(old_hub, "Running")
    first = run_release(create_run(SAMPLE))

    second = create_run(SAMPLE)
    [wait_step] = [
        step
        for step in second.stages["Staging"]["jobs"][1]["strategy"]["runOnce"]["deploy"]["steps"]
        if step.get("name") == "safeDeployStatus"
    ]
    wait_step["env"]["SAFE_DEPLOY_TIMEOUT"] = 2
    second.start()
    assert second.results == {"Build": "succeeded", "Staging": "failed", "Production": "skipped"}
    assert any("not ready within 2 s" in issue for issue in second.jobs["Staging"]["Deploy"].issues)
    assert pipeline_app.task_hubs() == (hub_of_run(first), old_hub)

    pipeline_app.publish_event(old_hub, "Completed")
    second.rerun_failed()
    assert second.results["Production"] == "succeeded", second.log
    # The job that computes the name had succeeded, so the name is the same.
    assert pipeline_app.task_hubs() == (hub_of_run(second), hub_of_run(first))


def test_a_failed_swap_is_reverted_and_done_when_its_job_is_run_again(
    create_run: CreateRun, pipeline_app: PipelineApp
) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    pipeline_app.fake_azure.set_fault("swap", call_count=1)
    run = create_run(SAMPLE).start()
    assert run.results["Production"] == "failed"
    assert run.jobs["Production"]["CleanUp"].result == "skipped"
    assert pipeline_app.task_hubs() == (old_hub, hub_of_run(run))
    run.rerun_failed()
    assert run.results["Production"] == "succeeded", run.log
    assert pipeline_app.task_hubs() == (hub_of_run(run), old_hub)


@pytest.mark.long
def test_the_next_attempt_completes_a_job_that_was_cancelled_during_the_swap(
    create_run: CreateRun, pipeline_app: PipelineApp, machine: Machine
) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    pipeline_app.fake_azure.set_fault("swap", exit_code=None, delay_after_seconds=4, call_count=1)
    machine.cancel_when = lambda: (
        pipeline_app.swap_count == 1 and pipeline_app.fake_azure.settings(pipeline_app.name)["TASK_HUB"] != old_hub
    )
    run = create_run(SAMPLE).start()
    assert run.results["Production"] == "canceled"
    run.rerun_failed()
    assert run.results["Production"] == "succeeded", run.log
    assert pipeline_app.task_hubs() == (hub_of_run(run), old_hub)
    assert pipeline_app.swap_count == 1


@pytest.mark.long
def test_a_deployment_that_fails_can_be_run_again(create_run: CreateRun, pipeline_app: PipelineApp) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    pipeline_app.fake_azure.set_fault("config-zip", call_count=1)
    run = create_run(SAMPLE).start()
    assert run.results["Staging"] == "failed"
    run.rerun_failed()
    assert run.results["Production"] == "succeeded", run.log
    assert pipeline_app.task_hubs() == (hub_of_run(run), old_hub)


@pytest.mark.long
def test_running_a_stage_again_that_succeeded_changes_nothing_in_production_and_is_a_new_release_in_staging(
    create_run: CreateRun, pipeline_app: PipelineApp
) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    run = run_release(create_run(SAMPLE))
    run.rerun("Production")
    assert pipeline_app.task_hubs() == (hub_of_run(run), old_hub)
    assert pipeline_app.swap_count == 1
    run.rerun("Staging")
    assert run.results["Production"] == "succeeded", run.log
    assert pipeline_app.task_hubs() == (hub_of_run(run, attempt=2), hub_of_run(run))


@pytest.mark.long
def test_the_rollback_pipeline_brings_the_old_version_back_and_running_it_twice_changes_nothing(
    create_run: CreateRun, pipeline_app: PipelineApp
) -> None:
    old_hub = new_hub_name()
    pipeline_app.register(old_hub)
    bad_run = run_release(create_run(SAMPLE))
    for _ in range(2):
        rollback_run = create_run(ROLLBACK, confirm=pipeline_app.name).start()
        assert rollback_run.results == {"RollBack": "succeeded"}, rollback_run.log
        assert pipeline_app.task_hubs() == (old_hub, hub_of_run(bad_run))
    assert pipeline_app.swap_count == 2


def test_the_rollback_pipeline_requires_the_name_of_the_app(create_run: CreateRun, pipeline_app: PipelineApp) -> None:
    pipeline_app.register(new_hub_name())
    run_release(create_run(SAMPLE))
    rollback_run = create_run(ROLLBACK, confirm="another-app").start()
    assert rollback_run.results == {"RollBack": "failed"}
    assert pipeline_app.swap_count == 1


@pytest.mark.parametrize("prefix", ["9lives", "shop-", "a" * 44])
def test_a_prefix_that_is_no_task_hub_name_is_refused(
    create_run: CreateRun, pipeline_app: PipelineApp, prefix: str
) -> None:
    pipeline_app.register(new_hub_name())
    run = create_run(SAMPLE)
    [name_step] = [step for step in run.stages["Staging"]["jobs"][0]["steps"] if "bash" in step]
    name_step["env"]["PREFIX"] = prefix
    run.start()
    assert run.results["Staging"] == "failed"
    assert run.jobs["Staging"]["Release"].issues


@pytest.mark.long
def test_the_installation_step_really_installs(create_run: CreateRun, pipeline_app: PipelineApp) -> None:
    pipeline_app.register(new_hub_name())
    run_release(create_run(SAMPLE))
    rollback_run = create_run(ROLLBACK, confirm=pipeline_app.name)
    rollback_run.installs_for_real = True
    rollback_run.start()
    assert rollback_run.results == {"RollBack": "succeeded"}, rollback_run.log


# --- the Invoke REST API check ---


def test_the_check_evaluates_the_verdict_of_the_server(pipeline_app: PipelineApp) -> None:
    check = json.loads(REST_API_CHECK.read_text())
    inputs = check["settings"]["inputs"]
    production_hub, staging_hub = new_hub_name(), new_hub_name()
    pipeline_app.put_app({"slots": {"production": {"taskHub": production_hub}, "staging": {"taskHub": staging_hub}}})
    headers = expand_headers(inputs["headers"])
    criterion = re.fullmatch(r"eq\(root\['(\w+)'\], '(\w+)'\)", inputs["successCriteria"])
    assert criterion is not None

    def is_check_passed() -> bool:
        """Ask the server as the check InvokeRESTAPI does, and compare the answer with the success criterion."""
        address = pipeline_app.server + inputs["urlSuffix"].replace("/shop/", f"/{pipeline_app.name}/")
        verdict = httpx.request(inputs["method"], address, headers=headers).raise_for_status().json()
        return bool(verdict[criterion[1]] == criterion[2])

    assert is_check_passed()
    pipeline_app.publish_event(staging_hub, "Running")
    assert not is_check_passed()
    pipeline_app.publish_event(staging_hub, "Completed")
    assert is_check_passed()


def test_the_check_has_the_run_url_of_the_steps_of_the_stage() -> None:
    headers = expand_headers(json.loads(REST_API_CHECK.read_text())["settings"]["inputs"]["headers"])
    environment = {
        "TF_BUILD": "True",
        "SYSTEM_COLLECTIONURI": "https://dev.azure.example/acme/",
        "SYSTEM_TEAMPROJECTID": PROJECT,
        "BUILD_BUILDID": "42",
    }
    assert headers["X-Run-Url"] == detect_ci_system(environment, sys.stderr).run_url


def expand_headers(text: str) -> dict[str, str]:
    """The headers as Azure DevOps sends them, with the variables that its documentation allows in them."""
    macros = {
        "STATE_KEY": KEYS["deployer"],
        "system.CollectionUri": "https://dev.azure.example/acme/",
        "system.TeamProjectId": PROJECT,
        "build.BuildId": "42",
    }
    filled = re.sub(r"\$\(([\w.]+)\)", lambda match: macros[match[1]], text)
    headers: dict[str, str] = json.loads(filled)
    return headers


def test_the_check_is_evaluated_at_most_ten_times_as_azure_devops_requires() -> None:
    check = json.loads(REST_API_CHECK.read_text())
    assert check["timeout"] / check["settings"]["retryInterval"] <= 10
    assert check["settings"]["inputs"]["waitForCompletion"] == "false"


# --- health ---


def test_the_check_of_the_health_succeeds_until_the_candidate_is_unhealthy(
    machine: Machine, pipeline_app: PipelineApp, tmp_path: Path
) -> None:
    pipeline_app.put_app({"slots": {slot: {"taskHub": new_hub_name()} for slot in ("production", "staging")}})
    text = ROLLOUT_HEALTH.read_text().replace("https://shop-state.azurewebsites.net", pipeline_app.server)
    copy = tmp_path / ROLLOUT_HEALTH.name
    copy.write_text(text.replace("app: shop #", f"app: {pipeline_app.name} #"))
    run = PipelineRun(copy, machine, next(_run_numbers), {})
    run.start()
    assert run.results == {"Health": "succeeded"}, run.log
    outputs = run.jobs["Health"]["Health"].outputs
    assert (outputs["safeDeployHealth.health"], outputs["safeDeployHealth.decidedBy"]) == (
        "Undecided",
        "TooFewFinished",
    )
