"""`safe-deploy keys new`: keys that the server takes, made without a server."""

import hashlib
import json

import pytest

from safe_deploy.errors import ExitCode
from safe_deploy.keys import KeyRole
from state_api.settings import Role as ServerRole
from state_api.settings import read_settings
from tests.safe_deploy.processes import safe_deploy


def test_a_new_key_and_its_entry_are_printed_and_the_server_takes_the_entry() -> None:
    made = safe_deploy("keys", "new", "--name", "pipeline", "--app", "shop", "--app", "billing", "--output", "json")
    assert (made.code, made.stderr) == (ExitCode.DONE, "")
    key, entry = made.json()["key"], made.json()["entry"]
    assert len(key) >= 43
    settings = {"STATE_STORAGE": "UseDevelopmentStorage=true", "STATE_KEYS": json.dumps([entry])}
    (read,) = read_settings(settings).keys
    assert (read.name, read.role, read.apps) == ("pipeline", ServerRole.DEPLOYER, ("shop", "billing"))
    assert read.sha256 == hashlib.sha256(key.encode()).hexdigest()


def test_a_person_reads_the_key_and_the_entry_and_what_to_do_with_them() -> None:
    made = safe_deploy("keys", "new", "--role", "admin")
    key, entry = (line.split(":", 1)[1].strip() for line in made.stdout.splitlines())
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert json.loads(entry) == {"name": "admin", "role": "admin", "sha256": digest}
    assert "STATE_KEYS" in made.stderr
    assert key not in made.stderr


def test_no_two_keys_are_the_same() -> None:
    first, second = (safe_deploy("keys", "new", "--output", "json").json() for _ in range(2))
    assert first["key"] != second["key"]
    assert first["entry"]["sha256"] != second["entry"]["sha256"]


def test_without_a_name_a_key_is_named_by_its_role_and_app() -> None:
    made = safe_deploy("keys", "new", "--role", "reader", "--app", "shop", "--output", "json")
    assert made.json()["entry"]["name"] == "reader-shop"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--name", "a b"], "--name takes"),
        (["--app", "-shop"], "--app takes"),
        (["--role", "publisher", "--app", "shop"], "cannot be bound to apps"),
        (["--role", "king"], "'king' is not one of"),
    ],
)
def test_what_the_server_would_refuse_is_refused(options: list[str], reason: str) -> None:
    refused = safe_deploy("keys", "new", *options)
    assert (refused.code, refused.stdout) == (ExitCode.USAGE, "")
    assert reason in refused.stderr


def test_the_roles_are_those_of_the_server() -> None:
    assert [role.value for role in KeyRole] == [role.value for role in ServerRole]
