"""`safe-deploy keys new` creates keys that the server accepts, without contacting a server."""

import hashlib
import json

import pytest
import yaml

from safe_deploy.errors import ExitCode
from safe_deploy.keys import KeyRole
from state_api.settings import Role as ServerRole
from state_api.settings import read_settings
from tests.safe_deploy.processes import run_safe_deploy


def test_the_server_accepts_the_entry_of_a_new_key() -> None:
    result = run_safe_deploy(
        "keys", "new", "--name", "pipeline", "--app", "shop", "--app", "billing", "--output", "json"
    )
    assert (result.code, result.stderr) == (ExitCode.DONE, "")
    key, entry = result.json()["key"], result.json()["entry"]
    assert len(key) >= 43
    settings = {"STATE_STORAGE": "UseDevelopmentStorage=true", "STATE_KEYS": json.dumps([entry])}
    (read,) = read_settings(settings).keys
    assert (read.name, read.role, read.apps) == ("pipeline", ServerRole.DEPLOYER, ("shop", "billing"))
    assert read.sha256 == hashlib.sha256(key.encode()).hexdigest()


def test_key_entry_and_instructions_are_printed() -> None:
    result = run_safe_deploy("keys", "new", "--role", "admin")
    key, entry = (line.split(":", 1)[1].strip() for line in result.stdout.splitlines())
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert json.loads(entry) == {"name": "admin", "role": "admin", "sha256": digest}
    assert "STATE_KEYS" in result.stderr
    assert key not in result.stderr


def test_a_new_key_is_printed_as_yaml_and_quietly() -> None:
    result = run_safe_deploy("keys", "new", "--role", "admin", "-o", "yaml", "-q")
    printed = yaml.safe_load(result.stdout)
    assert printed["entry"]["sha256"] == hashlib.sha256(printed["key"].encode()).hexdigest()
    quiet = run_safe_deploy("keys", "new", "--quiet")
    assert (len(quiet.stdout.splitlines()), quiet.stderr) == (2, "")


def test_two_keys_differ() -> None:
    first, second = (run_safe_deploy("keys", "new", "--output", "json").json() for _ in range(2))
    assert first["key"] != second["key"]
    assert first["entry"]["sha256"] != second["entry"]["sha256"]


def test_the_default_name_of_a_key_is_its_role_and_app() -> None:
    result = run_safe_deploy("keys", "new", "--role", "reader", "--app", "shop", "--output", "json")
    assert result.json()["entry"]["name"] == "reader-shop"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--name", "a b"], "--name takes"),
        (["--app", "-shop"], "--app takes"),
        (["--role", "publisher", "--app", "shop"], "cannot be bound to apps"),
        (["--role", "king"], "'king' is not one of"),
    ],
)
def test_options_that_the_server_would_refuse_are_a_usage_error(options: list[str], reason: str) -> None:
    refused = run_safe_deploy("keys", "new", *options)
    assert (refused.code, refused.stdout) == (ExitCode.USAGE, "")
    assert reason in refused.stderr


def test_the_roles_are_those_of_the_server() -> None:
    assert [role.value for role in KeyRole] == [role.value for role in ServerRole]
