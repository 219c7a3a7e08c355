"""Commands within CI systems: outputs, summaries and annotations, and names that would like to be markup."""

import re
from pathlib import Path

import pytest

from safe_deploy.errors import ExitCode
from tests.builders import event
from tests.conftest import new_hub_name
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.ci_systems import AZURE, AZURE_RUN, GITHUB_RUN, github, outputs

INJECTION = "[red]x[/nope] ##vso[task.setvariable variable=a]b\n::error::c|d\x1b[2J:heart:\r##[error]\u202e\\"
"""An instance id that would like to be markup, a command of a CI system, a row and a terminal's command."""


def test_on_github_a_run_is_known_and_its_outputs_and_summary_are_written(
    app_client: AppClient, tmp_path: Path
) -> None:
    app_client.register()
    hub = new_hub_name()
    ended = app_client.run_cli("stage", "--task-hub", hub, "--version", "2", role="deployer", **github(tmp_path))
    assert ended.code == 0
    assert ended.stderr == ""
    assert outputs(tmp_path) == {
        "task-hub": hub,
        "production-task-hub": app_client.hub,
        "production-version": "1",
        "staging-task-hub": hub,
        "staging-version": "2",
    }
    assert "| Slot | Task hub | Version | Since |" in (tmp_path / "summary").read_text()
    newest = app_client.history()[0]
    assert (newest["by"], newest["runUrl"], newest["keyName"]) == ("octocat", GITHUB_RUN, "the-deployer")


def test_on_github_a_verdict_is_an_output_and_a_failure_an_annotation(app_client: AppClient, tmp_path: Path) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub))
    for options, code in (([], ExitCode.NOT_READY), (["--wait", "--timeout", "0"], ExitCode.TIMED_OUT)):
        ended = app_client.run_cli("status", "--slot", "production", *options, **github(tmp_path))
        assert ended.code == code
        assert re.search(
            r"^::error title=safe-deploy::.*1 orchestration instance is active", ended.stderr, re.MULTILINE
        )
        assert "::error" not in ended.stdout
        assert outputs(tmp_path) == {
            "ready": "false",
            "status": "NotReady",
            "has-running": "true",
            "active-count": "1",
            "reasons": "InstancesActive",
            "task-hub": app_client.hub,
            "version": "1",
            "assurance": "events",
        }
        assert "| order\\-1 | ProcessOrder |" in (tmp_path / "summary").read_text()
        (tmp_path / "output").unlink()


def test_on_github_cleanup_says_what_is_gone_and_what_is_kept(app_client: AppClient, tmp_path: Path) -> None:
    app_client.register(policy={"settleSeconds": 0})
    kept, gone = (app_client.stage(new_hub_name(), 1) for _ in range(2))
    app_client.swap(app_client.stage(new_hub_name(), 1))
    app_client.publish(event(kept))
    ended = app_client.run_cli("cleanup", **github(tmp_path))
    assert ended.code == 0
    assert outputs(tmp_path) == {"removed": gone, "kept": kept}, ended.stdout


def test_on_github_a_call_that_is_wrong_is_annotated_too(app_client: AppClient, tmp_path: Path) -> None:
    ended = app_client.run_cli("status", "--nonsense", **github(tmp_path))
    assert ended.code == ExitCode.USAGE
    assert "::error title=safe-deploy::" in ended.stderr


def test_in_azure_pipelines_a_run_is_known_and_outputs_are_set(app_client: AppClient, tmp_path: Path) -> None:
    app_client.register()
    hub = new_hub_name()
    ended = app_client.run_cli("stage", "--task-hub", hub, role="deployer", AGENT_TEMPDIRECTORY=str(tmp_path), **AZURE)
    assert ended.code == 0
    assert f"##vso[task.setvariable variable=stagingTaskHub;isOutput=true]{hub}" in ended.stderr.splitlines()
    assert "##vso[task.setvariable variable=productionVersion;isOutput=true]1" in ended.stderr.splitlines()
    (summary,) = tmp_path.iterdir()
    assert f"##vso[task.uploadsummary]{summary}" in ended.stderr.splitlines()
    assert "##vso" not in ended.stdout
    newest = app_client.history()[0]
    assert (newest["by"], newest["runUrl"]) == ("anna@shop.example", AZURE_RUN)


def test_in_azure_pipelines_a_failure_is_an_issue(app_client: AppClient, tmp_path: Path) -> None:
    ended = app_client.run_cli("status", AGENT_TEMPDIRECTORY=str(tmp_path), **AZURE)
    assert ended.code == ExitCode.FAILURE
    assert f"##vso[task.logissue type=error]there is no app {app_client.app}" in ended.stderr


def test_outside_ci_the_audit_log_names_whoever_is_logged_in(app_client: AppClient) -> None:
    app_client.register()
    for number, actor in enumerate(({"LOGNAME": "anna"}, {"LOGNAME": "Zoë"}, {"SAFE_DEPLOY_ACTOR": "Łucja\nx"})):
        assert (
            app_client.run_cli("register", "--task-hub", app_client.hub, "--version", f"1.{number}", **actor).code == 0
        )
    assert [one["by"] for one in reversed(app_client.history())][1:] == ["anna", "Zoe", "?ucja x"]


# --- names that would like to be more ---


@pytest.mark.parametrize("system", ["github", "azure"])
def test_names_are_neither_markup_nor_commands_nor_rows(app_client: AppClient, tmp_path: Path, system: str) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub, INJECTION, function=INJECTION))
    given = github(tmp_path) if system == "github" else AZURE | {"AGENT_TEMPDIRECTORY": str(tmp_path)}
    for arguments in (["status"], ["instances"], ["status", "--output", "json"], ["status", "--wait", "--timeout=0"]):
        ended = app_client.run_cli(*arguments, "--slot", "production", **given)
        logged = ended.stdout + re.sub(
            r"^(::(error|warning) title=safe-deploy::|##vso\[task\.)", "", ended.stderr, flags=re.MULTILINE
        )
        assert "##vso" not in logged
        assert "##[" not in logged
        assert not any(line.lstrip().startswith("::") for line in logged.splitlines())
        assert all(character.isprintable() or character == "\n" for character in logged)
        if "json" in arguments:
            assert ended.json()["active"][0]["instanceId"] == INJECTION
        else:
            # All of it is on one line of the log.
            assert any(
                "[red]x[/nope] # #vso[task" in line and ":heart:" in line and line.count("\\u202e")
                for line in logged.splitlines()
            )
    for file in tmp_path.iterdir():
        if file.name == "output":
            continue
        text = file.read_text()
        assert "\x1b" not in text
        for row in (line for line in text.splitlines() if line.startswith("|")):
            assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) in (7, 8)
            assert not re.search(r"(?<!\\)(?:\\\\)*\[red", row)
