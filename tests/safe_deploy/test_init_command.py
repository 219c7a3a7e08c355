"""`safe-deploy init` in a repository of a durable app: what it writes, and that it never overwrites a change."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from safe_deploy.cli import cli
from safe_deploy.errors import ExitCode
from tests.safe_deploy.app_repository import (
    ANSWERS,
    HOST_JSON,
    POLICY,
    SERVER,
    WORKFLOW,
    AppRepository,
    create_app_repository,
)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[AppRepository]:
    yield from create_app_repository(tmp_path)


def test_a_script_sets_up_a_repository_with_the_answers_that_cannot_be_seen(repository: AppRepository) -> None:
    """The rest is seen: the CI system, the app, its resource group and model, the task hub's setting, the branch."""
    result = repository.init("--yes", *ANSWERS, "--output", "json")
    assert result.code == ExitCode.DONE, result.stderr
    statuses = {step["step"]: step["status"] for step in result.json()["steps"]}
    assert result.json()["dryRun"] is False
    assert statuses == {
        WORKFLOW: "Created",
        "host.json": "Changed",
        POLICY: "Created",
        "variable STATE_SERVER": "Created",
        "variable TENANT": "Created",
        "variable SUBSCRIPTION": "Created",
        "environment production": "Created",
        "secret STATE_KEY": "Created",
    }
    workflow = repository.read(WORKFLOW)
    assert '--resource-group shop-rg --name shop-4711 --slot staging"' in workflow
    assert "SAFE_DEPLOY_APP: shop-4711" in workflow
    assert repository.read_json("host.json")["extensions"]["durableTask"]["notifications"]["eventGrid"] == {
        "topicEndpoint": "%LIFECYCLE_TOPIC_ENDPOINT%",
        "keySettingName": "LIFECYCLE_TOPIC_KEY",
        "publishRetryCount": 2,
        "publishRetryInterval": "00:00:00.500",
        "publishRetryHttpStatus": [408, 429, 500, 502, 503, 504],
    }
    assert repository.read_json(POLICY) == {"requireVerification": True, "missingTaskHubIsDrained": True}
    assert repository.fake_github.variables("acme/shop")["STATE_SERVER"] == SERVER


def test_running_it_again_changes_nothing_and_says_so(repository: AppRepository) -> None:
    """The second run takes its answers from the head of the workflow."""
    assert repository.init("--yes", *ANSWERS).code == ExitCode.DONE
    before, secrets = repository.snapshot(), repository.fake_github.secrets("acme/shop", "production")
    result = repository.init("--yes")
    assert result.code == ExitCode.DONE, result.stderr
    assert "set-up of app shop-4711: nothing has changed" in result.stdout
    assert repository.snapshot() == before
    assert repository.fake_github.secrets("acme/shop", "production") == secrets


def test_a_dry_run_prints_a_diff_and_changes_nothing(repository: AppRepository, tmp_path: Path) -> None:
    """The diff can be applied: it leads to the same files as a run."""
    before = repository.snapshot()
    result = repository.init("--yes", "--dry-run", *ANSWERS)
    assert result.code == ExitCode.DONE, result.stderr
    assert repository.snapshot() == before
    assert repository.fake_github.branches("acme/shop") == {}
    assert f"would create {WORKFLOW}" in result.stderr
    assert "would create secret STATE_KEY" in result.stderr
    assert "This was a dry run: nothing was changed" in result.stderr
    patch = tmp_path / "init.diff"
    patch.write_text(result.stdout)
    repository.git("apply", str(patch))
    applied = repository.snapshot()
    assert repository.init("--yes", *ANSWERS).code == ExitCode.DONE
    assert repository.snapshot() == applied


def test_with_yes_a_changed_workflow_stays_and_the_exit_code_says_so(repository: AppRepository) -> None:
    assert repository.init("--yes", *ANSWERS).code == ExitCode.DONE
    changed = repository.read(WORKFLOW).replace("zip --quiet", "zip")
    repository.write(WORKFLOW, changed)
    result = repository.init("--yes")
    assert result.code == ExitCode.CONFLICT
    assert f"error: {WORKFLOW}: kept as it is" in result.stderr
    assert repository.read(WORKFLOW) == changed


@pytest.mark.parametrize(("typed", "is_replaced"), [("y\n", True), ("n\n", False)])
def test_a_person_sees_the_difference_before_a_changed_workflow_is_replaced(
    repository: AppRepository, typed: str, *, is_replaced: bool
) -> None:
    assert repository.init("--yes", *ANSWERS).code == ExitCode.DONE
    written = repository.read(WORKFLOW)
    changed = written.replace("zip --quiet", "zip")
    repository.write(WORKFLOW, changed)
    conversation = repository.answer(typed)
    assert conversation.code == ExitCode.DONE, conversation.terminal
    assert "-      - run: zip --recurse-paths" in conversation.terminal
    assert f"Change {WORKFLOW} as shown? [y/N]" in conversation.terminal
    assert repository.read(WORKFLOW) == (written if is_replaced else changed)


def test_a_workflow_with_line_breaks_of_windows_is_unchanged(repository: AppRepository) -> None:
    """Git may check files out so."""
    assert repository.init("--yes", *ANSWERS).code == ExitCode.DONE
    checked_out = repository.read(WORKFLOW).replace("\n", "\r\n")
    repository.write(WORKFLOW, checked_out)
    assert repository.init("--yes").code == ExitCode.DONE
    assert repository.read(WORKFLOW) == checked_out


def test_the_policy_file_belongs_to_the_person_once_it_exists(repository: AppRepository) -> None:
    """The next steps apply what it says."""
    assert repository.init("--yes", *ANSWERS).code == ExitCode.DONE
    repository.write(POLICY, '{"deploymentTimeoutMinutes": 240}')
    result = repository.init("--yes")
    assert result.code == ExitCode.DONE, result.stderr
    assert repository.read(POLICY) == '{"deploymentTimeoutMinutes": 240}'
    assert f"safe-deploy policy set --server {SERVER} --app shop-4711 deploymentTimeoutMinutes=240" in result.stderr


def test_without_a_terminal_a_missing_answer_names_its_option_and_nothing_is_written(
    repository: AppRepository,
) -> None:
    before = repository.snapshot()
    for arguments, option in (((), "--app"), (("--yes",), "--server")):
        result = repository.init(*arguments)
        assert result.code == ExitCode.USAGE
        assert f"error: {option}" in result.stderr
    assert repository.snapshot() == before
    assert repository.fake_github.branches("acme/shop") == {}


def test_a_person_is_asked_for_what_cannot_be_seen(repository: AppRepository) -> None:
    """Enter accepts the name of the Function App, which is proposed as the name of the app on the state server."""
    conversation = repository.answer(f"\n{SERVER}/\nyour-org/safe-deploy@COMMIT\ny\ny\n")
    assert conversation.code == ExitCode.DONE, conversation.terminal
    assert "Name of the app on the state server [shop-4711]: " in conversation.terminal
    assert "Change host.json as shown? [y/N]" in conversation.terminal
    assert "  create the environment production, for the branch main only\n" in conversation.terminal
    assert f"--server {SERVER} " in repository.read(WORKFLOW)


def test_ctrl_c_at_a_question_leaves_everything_as_it_was(repository: AppRepository) -> None:
    """The question about host.json comes after all the others, and still nothing is written."""
    before = repository.snapshot()
    conversation = repository.answer("\n", *ANSWERS, interrupt_at=b"as shown? [y/N]")
    assert conversation.code == ExitCode.INTERRUPTED
    assert "error: stopped" in conversation.terminal
    assert repository.snapshot() == before


def test_the_next_steps_end_with_doctor(repository: AppRepository) -> None:
    result = repository.init("--yes", *ANSWERS)
    *_, last = result.stderr.strip().splitlines()
    assert last.strip() == (f"safe-deploy doctor --fix --server {SERVER} --app shop-4711 --resource-group shop-rg")
    assert "--task-hub v41" in result.stderr, "it has read the task hub of production"
    assert repository.init("--yes", "--quiet").stderr == ""


def test_files_of_an_earlier_run_that_are_not_committed_are_named_again(repository: AppRepository) -> None:
    def read_commit_commands() -> list[str]:
        """The commands of the steps that commit the written files."""
        result = repository.init("--yes", *ANSWERS, "--output", "json")
        return [step["command"] for step in result.json()["nextSteps"] if "git commit" in step["command"]]

    (first,) = read_commit_commands()
    assert ":/host.json" in first
    assert read_commit_commands() == [first]
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message", "guarded")
    assert read_commit_commands() == []


def test_a_file_that_a_person_keeps_is_a_step_that_is_left(repository: AppRepository) -> None:
    conversation = repository.answer(f"\n{SERVER}/\nyour-org/safe-deploy@COMMIT\nn\ny\n")
    assert conversation.code == ExitCode.DONE, conversation.terminal
    assert "host.json is as it was, and the set-up needs its change" in conversation.terminal
    assert ":/host.json" not in conversation.terminal


def test_a_task_hub_that_host_json_names_is_named_in_the_next_steps(repository: AppRepository) -> None:
    repository.write("host.json", HOST_JSON.replace('"hubName": "%TASK_HUB%"', '"hubName": "Shop"'))
    repository.uninstall("az")
    names = ("--function-app", "shop-4711", "--resource-group", "shop-rg", "--model", "slots")
    result = repository.init("--yes", *ANSWERS, *names, "--task-hub-setting", "TASK_HUB", "--output", "json")
    commands = " ".join(step["command"] for step in result.json()["nextSteps"])
    assert "--settings TASK_HUB=Shop " in commands
    assert "--task-hub Shop " in commands


def test_the_commands_of_the_next_steps_exist_with_their_options(repository: AppRepository) -> None:
    """They can be pasted. `STATE_TASKHUBS_NAME` and the like are replaced by a person."""
    result = repository.init("--yes", *ANSWERS, "--output", "json")
    commands = [shlex.split(step["command"]) for step in result.json()["nextSteps"]]
    own_commands = [words[1:] for words in commands if words[:1] == ["safe-deploy"]]
    assert [words[0] for words in own_commands] == ["register", "policy", "doctor"]
    for words in own_commands:
        command: Any = typer.main.get_command(cli)
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("hub_name", ['"hubName": "Shop"', '"maxQueuePollingInterval": "00:00:05"'])
def test_with_yes_a_task_hub_without_a_setting_stays_because_running_work_could_be_stranded(
    repository: AppRepository, hub_name: str
) -> None:
    """Only a person knows that the setting has the name of today. The option says so."""
    repository.write("host.json", HOST_JSON.replace('"hubName": "%TASK_HUB%"', hub_name))
    result = repository.init("--yes", *ANSWERS)
    assert result.code == ExitCode.CONFLICT
    assert "Give --task-hub-setting TASK_HUB" in result.stdout
    assert "%TASK_HUB%" not in repository.read("host.json")
    result = repository.init("--yes", "--task-hub-setting", "TASK_HUB")
    assert result.code == ExitCode.DONE, result.stderr
    assert repository.read_json("host.json")["extensions"]["durableTask"]["hubName"] == "%TASK_HUB%"


def test_another_setting_of_the_task_hub_reaches_the_workflow(repository: AppRepository) -> None:
    repository.write("host.json", HOST_JSON.replace("%TASK_HUB%", "%SHOP_HUB%"))
    assert repository.init("--yes", *ANSWERS).code == ExitCode.DONE
    workflow = repository.read(WORKFLOW)
    assert "SAFE_DEPLOY_TASK_HUB_SETTING: SHOP_HUB" in workflow
    assert '"SHOP_HUB=$SAFE_DEPLOY_TASK_HUB"' in workflow
