"""The pipeline's key: stored by `gh` or shown once, and never in a log, an argument or a file."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safe_deploy.errors import ExitCode
from tests.safe_deploy.app_repository import ANSWERS, WORKFLOW, AppRepository, create_app_repository

REPOSITORY = "acme/shop"


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[AppRepository]:
    yield from create_app_repository(tmp_path)


def read_key(repository: AppRepository, environment: str = "production") -> str:
    """The key that was stored on GitHub."""
    return repository.fake_github.secrets(REPOSITORY, environment)["STATE_KEY"]


def find_step(result: Any, name: str) -> Any:
    """The step with this name in the result."""
    [step] = [step for step in result["steps"] if step["step"] == name]
    return step


def test_one_key_for_the_app_is_stored_and_its_entry_is_named(repository: AppRepository) -> None:
    """The entry has the SHA-256 of the key. Only jobs of the released branch can read the key."""
    result = repository.init("--yes", *ANSWERS, "--output", "json")
    assert result.code == ExitCode.DONE, result.stderr
    entry = result.json()["keyEntry"]
    assert entry["role"] == "deployer"
    assert entry["apps"] == ["shop-4711"]
    assert entry["sha256"] == hashlib.sha256(read_key(repository).encode()).hexdigest()
    assert repository.fake_github.branches(REPOSITORY) == {"production": ["main"]}
    [command] = [step["command"] for step in result.json()["nextSteps"] if "STATE_KEYS" in step["text"]]
    assert json.dumps(entry) in command


def test_the_key_is_in_no_argument_no_output_and_no_file(repository: AppRepository) -> None:
    result = repository.init("--yes", *ANSWERS)
    key = read_key(repository)
    assert len(key) > 40
    assert key not in result.stdout + result.stderr
    assert all(key not in argument for call in repository.fake_github.calls for argument in call)
    assert all(key.encode() not in body for body in repository.snapshot().values())


def test_a_key_that_is_stored_already_is_not_replaced(repository: AppRepository) -> None:
    assert repository.init("--yes", *ANSWERS).code == ExitCode.DONE
    key = read_key(repository)
    result = repository.init("--yes", "--output", "json")
    assert find_step(result.json(), "secret STATE_KEY")["status"] == "Unchanged"
    assert result.json()["keyEntry"] is None
    assert read_key(repository) == key


@pytest.mark.parametrize(
    ("reference", "vault"),
    [
        ("@Microsoft.KeyVault(SecretUri=https://shop-vault.vault.azure.net/secrets/state-keys/0a1b)", "shop-vault"),
        ("@Microsoft.KeyVault(SecretUri=https://shop-vault.vault.azure.net/secrets/state-keys)", "shop-vault"),
        ("@Microsoft.KeyVault(VaultName=shop-vault;SecretName=state-keys)", "shop-vault"),
        ("[]", "$VAULT"),
    ],
)
def test_the_command_for_the_entry_names_the_server_that_was_seen(
    repository: AppRepository, reference: str, vault: str
) -> None:
    """The server is not taken for the app that is deployed."""
    server = {"resourceGroup": "state-rg", "slots": {"production": {"settings": {"STATE_KEYS": reference}}}}
    app = {"resourceGroup": "shop-rg", "slots": {"production": {"settings": {}}, "staging": {"settings": {}}}}
    repository.fake_azure.reset({"shop-state": server, "shop-4711": app})
    result = repository.init("--yes", *ANSWERS, "--output", "json")
    assert result.code == ExitCode.DONE, result.stderr
    command = result.json()["nextSteps"][0]["command"]
    assert f"az keyvault secret set --vault-name {vault} --name state-keys --file" in command
    assert "az functionapp config appsettings set --resource-group state-rg --name shop-state" in command
    assert "--name shop-4711 --slot staging" in repository.read(WORKFLOW)


def test_a_variable_with_another_value_stays(repository: AppRepository) -> None:
    repository.fake_github.set_variable(REPOSITORY, "STATE_SERVER", "https://other.example")
    result = repository.init("--yes", *ANSWERS)
    assert result.code == ExitCode.CONFLICT
    assert "error: variable STATE_SERVER: kept as it is" in result.stderr
    assert repository.fake_github.variables(REPOSITORY)["STATE_SERVER"] == "https://other.example"


def test_the_client_id_is_set_if_it_is_given(repository: AppRepository) -> None:
    assert "gh variable set CLIENT" in repository.init("--yes", *ANSWERS).stderr
    result = repository.init("--yes", "--client-id", "0815")
    assert repository.fake_github.variables(REPOSITORY)["CLIENT"] == "0815"
    assert "gh variable set CLIENT" not in result.stderr
    assert "gh variable set CLIENT" not in repository.init("--yes").stderr


def test_a_person_may_refuse_changes_on_github(repository: AppRepository) -> None:
    conversation = repository.answer("\ny\nn\n", *ANSWERS)
    assert conversation.code == ExitCode.DONE, conversation.terminal
    assert "not done: create the environment production" in conversation.stdout
    assert repository.fake_github.branches(REPOSITORY) == {}
    assert "notifications" in repository.read("host.json")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"login": ""}, "gh is not logged in"),
        ({"network": False}, "gh cannot reach GitHub"),
        ({"repositories": {}}, "GitHub finds nothing when gh is asked to list variables"),
    ],
    ids=["not logged in", "no network", "no repository"],
)
def test_without_github_the_files_are_written_and_the_command_for_the_key_is_named(
    repository: AppRepository, state: dict[str, Any], reason: str
) -> None:
    """No key is created: the output of a script may be a log."""
    repository.fake_github.change(**state)
    result = repository.init("--yes", *ANSWERS, "--output", "json")
    assert result.code == ExitCode.DONE, result.stderr
    step = find_step(result.json(), "secret STATE_KEY")
    assert step["status"] == "ToDo"
    assert step["detail"].startswith(reason)
    assert "safe-deploy keys new --role deployer --app shop-4711 --name pipeline-shop-4711-" in step["detail"]
    assert result.json()["keyEntry"] is None
    assert "notifications" in repository.read("host.json")


def test_without_the_permission_the_rest_is_done_and_the_next_run_completes_it(repository: AppRepository) -> None:
    repository.fake_github.change(mayWrite=False)
    result = repository.init("--yes", *ANSWERS, "--output", "json")
    assert result.code == ExitCode.DONE, result.stderr
    detail = find_step(result.json(), "GitHub")["detail"]
    assert "is not allowed to create the environment production" in detail
    assert result.json()["keyEntry"] is None
    repository.fake_github.change(mayWrite=True)
    assert repository.init("--yes").code == ExitCode.DONE
    assert read_key(repository)


def test_an_environment_that_no_branch_could_use_does_not_stay(repository: AppRepository) -> None:
    """The next run would take it for complete."""
    repository.fake_github.change(failingMethod="POST")
    result = repository.init("--yes", *ANSWERS, "--output", "json")
    assert "gh failed with exit code 1 (HTTP 502)" in find_step(result.json(), "GitHub")["detail"]
    assert repository.fake_github.branches(REPOSITORY) == {}
    repository.fake_github.change(failingMethod="")
    assert repository.init("--yes").code == ExitCode.DONE
    assert repository.fake_github.branches(REPOSITORY) == {"production": ["main"]}


def test_the_subscription_of_another_app_is_not_written(repository: AppRepository) -> None:
    result = repository.init("--yes", *ANSWERS, "--function-app", "mail", "--resource-group", "rg", "--model", "slots")
    assert result.code == ExitCode.DONE, result.stderr
    assert "mail is not in subscription" in result.stderr
    assert set(repository.fake_github.variables(REPOSITORY)) == {"STATE_SERVER"}


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_person_gets_the_key_on_the_terminal_if_it_cannot_be_stored(
    repository: AppRepository, *, is_installed: bool
) -> None:
    """Once, and nowhere else."""
    if is_installed:
        repository.fake_github.change(login="")
    else:
        repository.uninstall("gh")
    conversation = repository.answer("\ny\ny\n", *ANSWERS, "--output", "json")
    assert conversation.code == ExitCode.DONE, conversation.terminal
    result = json.loads(conversation.stdout)
    digest = result["keyEntry"]["sha256"]
    lines = [line for line in conversation.terminal.splitlines() if hashlib.sha256(line.encode()).hexdigest() == digest]
    assert len(lines) == 1
    assert lines[0] not in conversation.stdout
    assert all(lines[0].encode() not in body for body in repository.snapshot().values())


def test_a_person_who_has_a_key_gets_no_new_one(repository: AppRepository) -> None:
    repository.uninstall("gh")
    conversation = repository.answer("\ny\nn\n", *ANSWERS, "--output", "json")
    assert conversation.code == ExitCode.DONE, conversation.terminal
    assert json.loads(conversation.stdout)["keyEntry"] is None
