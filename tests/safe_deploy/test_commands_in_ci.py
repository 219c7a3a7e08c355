"""Commands in CI systems: outputs, summaries and annotations, also with hostile names."""

import re
from pathlib import Path

import pytest

from safe_deploy.errors import ExitCode
from tests.builders import event
from tests.conftest import new_hub_name
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.ci_systems import AZURE, AZURE_RUN, GITHUB_RUN, github_environment, read_outputs

INJECTION = "[red]x[/nope] ##vso[task.setvariable variable=a]b\n::error::c|d\x1b[2J:heart:\r##[error]\u202e\\"
"""An instance id with markup, commands of CI systems, a table row and terminal escapes."""


def test_on_github_run_url_outputs_and_summary_are_written(app_client: AppClient, tmp_path: Path) -> None:
    app_client.register()
    hub = new_hub_name()
    result = app_client.run_cli(
        "stage", "--task-hub", hub, "--version", "2", role="deployer", **github_environment(tmp_path)
    )
    assert result.code == ExitCode.DONE
    assert result.stderr == ""
    assert read_outputs(tmp_path) == {
        "task-hub": hub,
        "production-task-hub": app_client.hub,
        "production-version": "1",
        "staging-task-hub": hub,
        "staging-version": "2",
    }
    assert "| Slot | Task hub | Version | Since |" in (tmp_path / "summary").read_text()
    newest = app_client.history()[0]
    assert (newest["by"], newest["runUrl"], newest["keyName"]) == ("octocat", GITHUB_RUN, "the-deployer")


def test_on_github_a_verdict_becomes_outputs_and_a_failure_an_annotation(app_client: AppClient, tmp_path: Path) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub))
    for options, code in (([], ExitCode.NOT_READY), (["--wait", "--timeout", "0"], ExitCode.TIMED_OUT)):
        result = app_client.run_cli("status", "--slot", "production", *options, **github_environment(tmp_path))
        assert result.code == code
        assert re.search(
            r"^::error title=safe-deploy::.*1 orchestration instance is active", result.stderr, re.MULTILINE
        )
        assert "::error" not in result.stdout
        assert read_outputs(tmp_path) == {
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


def test_on_github_cleanup_outputs_what_was_removed_and_kept(app_client: AppClient, tmp_path: Path) -> None:
    app_client.register(policy={"settleSeconds": 0})
    kept, gone = (app_client.stage(new_hub_name(), run_number=1) for _ in range(2))
    app_client.swap(app_client.stage(new_hub_name(), run_number=1))
    app_client.publish(event(kept))
    result = app_client.run_cli("cleanup", **github_environment(tmp_path))
    assert result.code == ExitCode.DONE
    assert read_outputs(tmp_path) == {"removed": gone, "kept": kept}, result.stdout


def test_on_github_a_usage_error_is_an_annotation(app_client: AppClient, tmp_path: Path) -> None:
    result = app_client.run_cli("status", "--nonsense", **github_environment(tmp_path))
    assert result.code == ExitCode.USAGE
    assert "::error title=safe-deploy::" in result.stderr


def test_in_azure_pipelines_run_url_outputs_and_summary_are_written(app_client: AppClient, tmp_path: Path) -> None:
    app_client.register()
    hub = new_hub_name()
    result = app_client.run_cli("stage", "--task-hub", hub, role="deployer", AGENT_TEMPDIRECTORY=str(tmp_path), **AZURE)
    assert result.code == ExitCode.DONE
    assert f"##vso[task.setvariable variable=stagingTaskHub;isOutput=true]{hub}" in result.stderr.splitlines()
    assert "##vso[task.setvariable variable=productionVersion;isOutput=true]1" in result.stderr.splitlines()
    (summary,) = tmp_path.iterdir()
    assert f"##vso[task.uploadsummary]{summary}" in result.stderr.splitlines()
    assert "##vso" not in result.stdout
    newest = app_client.history()[0]
    assert (newest["by"], newest["runUrl"]) == ("anna@shop.example", AZURE_RUN)


def test_in_azure_pipelines_a_failure_is_an_annotation(app_client: AppClient, tmp_path: Path) -> None:
    result = app_client.run_cli("status", AGENT_TEMPDIRECTORY=str(tmp_path), **AZURE)
    assert result.code == ExitCode.FAILURE
    assert f"##vso[task.logissue type=error]AppNotFound: the server has no app {app_client.app}" in result.stderr


def test_outside_ci_the_audit_log_names_the_logged_in_user(app_client: AppClient) -> None:
    app_client.register()
    for number, actor in enumerate(({"LOGNAME": "anna"}, {"LOGNAME": "Zoë"}, {"SAFE_DEPLOY_ACTOR": "Łucja\nx"})):
        assert (
            app_client.run_cli(
                "register", "--yes", "--task-hub", app_client.hub, "--version", f"1.{number}", **actor
            ).code
            == ExitCode.DONE
        )
    assert [entry["by"] for entry in reversed(app_client.history())][1:] == ["anna", "Zoe", "?ucja x"]


# --- hostile names ---


@pytest.mark.parametrize("system", ["github", "azure"])
def test_hostile_names_are_not_read_as_markup_commands_or_rows(
    app_client: AppClient, tmp_path: Path, system: str
) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub, INJECTION, function=INJECTION))
    variables = github_environment(tmp_path) if system == "github" else AZURE | {"AGENT_TEMPDIRECTORY": str(tmp_path)}
    for arguments in (["status"], ["instances"], ["status", "--output", "json"], ["status", "--wait", "--timeout=0"]):
        result = app_client.run_cli(*arguments, "--slot", "production", **variables)
        logged = result.stdout + re.sub(
            r"^(::(error|warning) title=safe-deploy::|##vso\[task\.)", "", result.stderr, flags=re.MULTILINE
        )
        assert "##vso" not in logged
        assert "##[" not in logged
        assert not any(line.lstrip().startswith("::") for line in logged.splitlines())
        assert all(character.isprintable() or character == "\n" for character in logged)
        if "json" in arguments:
            assert result.json()["active"][0]["instanceId"] == INJECTION
        else:
            # The whole id is on one line of the log.
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
