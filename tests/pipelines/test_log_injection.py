"""Names and texts that look like commands of a CI system, printed by the scripts in `pipelines/`."""

import json

import pytest

from safe_deploy.errors import ExitCode
from tests.builders import event
from tests.conftest import new_hub_name
from tests.pipelines.ci_machine import PipelineApp
from tests.pipelines.deploy_script import DeployScript
from tests.pipelines.workflow_releases import BLUE_GREEN, BLUE_GREEN_ROLLBACK, ReleaseRunner, job_logs
from tests.safe_deploy.fault_proxy import CannedResponse, run_fault_proxy
from tests.safe_deploy.injections import INJECTIONS, VERSION_LENGTH
from tests.safe_deploy.logging_commands import find_azure_commands, find_github_commands, find_terminal_effects


def assert_no_commands(log: str) -> None:
    """The output is printable text without commands of any CI system."""
    assert find_github_commands(log) == find_azure_commands(log) == []
    assert find_terminal_effects(log) == []


def test_the_shell_script_shows_no_name_as_a_command(deploy_script: DeployScript, pipeline_app: PipelineApp) -> None:
    """Each name belongs to an instance in the slot and to one in a retired task hub, and is the slot's version."""
    old_hub, slot_hub = new_hub_name(), new_hub_name()
    pipeline_app.put_app(
        {
            "slots": {
                "production": {"taskHub": old_hub},
                "staging": {"taskHub": slot_hub, "version": INJECTIONS["azure"][:VERSION_LENGTH]},
            }
        }
    )
    events = [event(hub, name, function=name) for hub in (old_hub, slot_hub) for name in INJECTIONS.values()]
    pipeline_app.admin.post("/api/events", json=events).raise_for_status()

    calls: list[tuple[str, dict[str, str]]] = [
        ("status", {}),
        ("status", {"wait": "true", "timeout": "1"}),
        ("stage", {"task_hub": new_hub_name()}),
        ("cleanup", {"dry_run": "true"}),
    ]
    outputs = [
        (deploy_script.run(command, **variables), deploy_script.stderr, deploy_script.exit_code)
        for command, variables in calls
    ]
    assert [code for _, _, code in outputs] == [
        ExitCode.NOT_READY,
        ExitCode.TIMED_OUT,
        ExitCode.NOT_READY,
        ExitCode.DONE,
    ]
    for result, output, _ in outputs:
        assert_no_commands(result)
        assert_no_commands(output)
    verdict = json.loads(outputs[0][0])
    assert {instance["instanceId"] for instance in verdict["active"]} == set(INJECTIONS.values())
    # Each fact is one line, also if the name has line breaks.
    assert all(line.startswith("deploy.sh: ") for line in "".join(output for _, output, _ in outputs).splitlines())


@pytest.mark.parametrize("status", [403, 409, 500, 503])
def test_the_shell_script_shows_no_text_of_a_server_as_a_command(deploy_script: DeployScript, status: int) -> None:
    text = " ".join(INJECTIONS.values()).replace("\0", "")
    with run_fault_proxy() as proxy:
        proxy.always_inject(CannedResponse(status, json.dumps({"code": text, "detail": text}).encode()))
        deploy_script.run("status", server=proxy.url, retry_for="1")
        assert_no_commands(deploy_script.stderr)
        assert "# #vso[task.complete" in deploy_script.stderr or status == 503
        proxy.always_inject(CannedResponse(200, text.encode()))
        deploy_script.run("status", server=proxy.url)
    assert_no_commands(deploy_script.stderr)


def test_the_shell_script_shows_what_a_person_types_as_shell_words(
    deploy_script: DeployScript, pipeline_app: PipelineApp
) -> None:
    """A hostile server must not choose what the operator runs: its texts are quoted in the printed command."""
    hub = "h1;touch${IFS}gone"
    pending = {"taskHub": hub, "slot": "$(touch gone)", "by": "a::error::b", "startedAt": "\x1b[2J", "rollback": False}
    app = {"app": "shop", "slots": {}, "pendingSwap": pending}
    with run_fault_proxy() as proxy:
        proxy.always_inject(CannedResponse(200, json.dumps(app).encode()))
        deploy_script.run("swap", "--", "true", task_hub="h12", server=proxy.url)
    assert deploy_script.exit_code == ExitCode.CONFLICT
    assert_no_commands(deploy_script.stderr)
    assert r"SAFE_DEPLOY_SLOT=\$\(touch\ gone\) SAFE_DEPLOY_TASK_HUB=h1\;touch\$\{IFS\}gone " in deploy_script.stderr


@pytest.mark.parametrize("name", INJECTIONS)
def test_a_blue_green_workflow_shows_no_release_name_as_a_command(
    release_runner: ReleaseRunner, pipeline_app: PipelineApp, name: str
) -> None:
    """Any identity that may write the app's settings can write the app setting RELEASE."""
    hostile_name = INJECTIONS[name].replace("\0", "")
    for file, inputs in ((BLUE_GREEN, {}), (BLUE_GREEN_ROLLBACK, {"confirm": pipeline_app.name})):
        pipeline_app.reset_azure(
            {"RELEASE": hostile_name, "PREVIOUS_RELEASE": hostile_name},
            {"RELEASE": hostile_name + "x", "PREVIOUS_RELEASE": hostile_name},
        )
        run = release_runner.run(file, **inputs).start()
        for line in job_logs(run).splitlines():
            commands = find_github_commands(line)
            assert all(command.name in ("error", "warning") and line.startswith("::") for command in commands), line
        assert find_azure_commands(job_logs(run)) == []
        assert find_terminal_effects(job_logs(run)) == []
        for job in run.jobs.values():
            assert find_terminal_effects(job.summary) == []
            assert "[" not in job.summary
            assert "<" not in job.summary
