"""`safe-deploy init` with text that a shell, YAML or an editor could misread."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from safe_deploy.errors import ExitCode
from tests.safe_deploy.app_repository import ANSWERS, HOST_JSON, POLICY, WORKFLOW, AppRepository, create_app_repository


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[AppRepository]:
    yield from create_app_repository(tmp_path)


def read_command(repository: AppRepository, beginning: str) -> list[str]:
    """The words, as a shell reads them, of the command of a next step."""
    result = repository.init("--yes", *ANSWERS, "--output", "json")
    assert result.code == ExitCode.DONE, result.stderr
    (command,) = (step["command"] for step in result.json()["nextSteps"] if step["command"].startswith(beginning))
    return shlex.split(command)


@pytest.mark.parametrize("setting", ['X"; curl evil; "', "X Y", "A%B", "${{ secrets.STATE_KEY }}", "X\nY"])
def test_a_setting_that_would_be_a_command_is_refused_before_anything_is_written(
    repository: AppRepository, setting: str
) -> None:
    """Its name becomes a part of a script of the workflow."""
    before = repository.snapshot()
    result = repository.init("--yes", *ANSWERS, "--task-hub-setting", setting)
    assert (result.code, repository.snapshot()) == (ExitCode.USAGE, before)
    assert "is not a valid name of an app setting. Check --task-hub-setting" in result.stderr


def test_a_setting_in_the_head_of_a_workflow_is_checked_too(repository: AppRepository) -> None:
    repository.write("host.json", HOST_JSON.replace("%TASK_HUB%", "Orders"))
    repository.write(WORKFLOW, "# Written by: safe-deploy init --task-hub-setting 'X; curl evil'\n")
    result = repository.init("--yes", *ANSWERS)
    assert result.code == ExitCode.USAGE
    assert "is not a valid name of an app setting" in result.stderr


def test_the_policy_file_is_applied_as_it_is_written(repository: AppRepository) -> None:
    """Uppercase letters, nested members, lists and text that a shell would run as a command are kept."""
    policy = {
        "requireVerification": True,
        "addressPattern": "https://Shop-*.azurewebsites.net; echo hi",
        "retention": {"keepLast": 3},
        "quiesceFunctions": ["Start", "Poll"],
    }
    repository.write(POLICY, "\ufeff" + json.dumps(policy))
    command = read_command(repository, "safe-deploy policy set")
    assert command[-4:] == [
        "requireVerification=true",
        "addressPattern=https://Shop-*.azurewebsites.net; echo hi",
        "retention.keepLast=3",
        'quiesceFunctions=["Start", "Poll"]',
    ]


def test_a_task_hub_is_one_word_of_the_command_that_registers_it(repository: AppRepository) -> None:
    task_hub = "@Microsoft.KeyVault(SecretUri=https://vault/secrets/x); rm -r ."
    slots = {"production": {"settings": {"TASK_HUB": task_hub}}, "staging": {"settings": {}}}
    repository.fake_azure.reset({"shop-4711": {"resourceGroup": "shop(rg)", "slots": slots}})
    command = read_command(repository, "safe-deploy register")
    assert command[command.index("--task-hub") + 1] == task_hub


def test_only_the_written_files_are_to_be_committed(repository: AppRepository) -> None:
    """Others, such as local.settings.json, may hold secrets."""
    repository.write("local.settings.json", '{"Values": {"AzureWebJobsStorage": "AccountKey=secret"}}')
    command = read_command(repository, "git add")
    assert command == ["git", "add", "--", f":/{WORKFLOW}", ":/host.json", f":/{POLICY}", "&&", "git", "commit"]
    repository.git(*command[1:-3])


def test_a_byte_order_mark_is_no_change(repository: AppRepository) -> None:
    """Editors of Windows add it."""
    assert repository.init("--yes", *ANSWERS).code == ExitCode.DONE
    for path in (WORKFLOW, "host.json", POLICY):
        repository.write(path, "\ufeff" + repository.read(path).replace("\n", "\r\n"))
    before = repository.snapshot()
    result = repository.init("--yes")
    assert result.code == ExitCode.DONE, result.stderr
    assert "nothing has changed" in result.stdout
    assert repository.snapshot() == before


def test_a_host_json_of_countless_levels_is_refused(repository: AppRepository) -> None:
    repository.write("host.json", f'{{"version": "2.0", "x": {"[" * 20_000}{"]" * 20_000}}}')
    result = repository.init("--yes", *ANSWERS)
    assert result.code == ExitCode.USAGE
    assert "host.json cannot be read: its values are nested too deeply" in result.stderr


def test_a_branch_with_a_plus_is_one_branch(repository: AppRepository) -> None:
    """In GitHub's branch filters `+` repeats what is before it, unless a backslash is before it."""
    assert repository.init("--yes", *ANSWERS, "--branch", "release/1.x+beta").code == ExitCode.DONE
    # YAML 1.1 reads the key `on` as true.
    assert yaml.safe_load(repository.read(WORKFLOW))[True]["push"]["branches"] == [r"release/1.x\+beta"]
