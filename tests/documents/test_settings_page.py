"""docs/settings.md, compared with the code: settings, command line, roles, keys, and limits outside Azure."""

import ast
import inspect
import re
from typing import Any

import pytest
from fastapi import FastAPI

from state_api import __main__ as command
from state_api.backends import scheduler_connection
from state_api.backends.registry import PROVIDERS
from state_api.domain.instants import Instant
from state_api.domain.releases.apps import ProviderConfig
from state_api.http.auth import ANONYMOUS_PATHS
from state_api.serving import connections, log_limit
from state_api.settings import (
    DOCUMENTED_SETTINGS,
    PUBLISHED_KEYS,
    Role,
    SettingsError,
    TaskHubConnections,
    read_settings,
    sha256_of,
)
from tests.documents.api_contract import is_allowed, routes
from tests.documents.page_tables import (
    AZURE,
    CODE,
    FENCE,
    PAGES,
    ROOT,
    SETTINGS,
    read_first_column,
    read_section,
    read_table_rows,
    remove_markup,
)


class RecordingEnvironment(dict[str, str]):
    """An environment that records the names of the variables that are read."""

    def __init__(self, **variables: str) -> None:
        super().__init__(variables)
        self.requested: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """Return the setting, and keep its name: the page must document every setting that the server reads."""
        self.requested.add(key)
        return super().get(key, default)


def test_every_setting_is_documented_and_no_other() -> None:
    empty, sufficient = RecordingEnvironment(), RecordingEnvironment(STATE_STORAGE="UseDevelopmentStorage=true")
    with pytest.raises(SettingsError):
        read_settings(empty)
    read_settings(sufficient)
    actual = empty.requested | sufficient.requested | set(DOCUMENTED_SETTINGS)
    assert sorted(read_first_column(SETTINGS, "Environment", "Setting")) == sorted(actual)


def test_servers_refuse_every_key_that_the_documentation_shows() -> None:
    """A server that other machines can reach must not start with a key from the documentation."""
    texts = [page.read_text() for page in (*PAGES, *ROOT.glob("*/README.md"), *ROOT.glob("*.example.json"))]
    digests = {match for text in texts for match in re.findall(r'"sha256": *"([0-9a-fA-F]{64})"', text)}
    keys = {match for text in texts for match in re.findall(r'"role": *"\w+", *"key": *"([^"]+)"', text)}
    assert digests | keys
    assert {*digests, *map(sha256_of, keys)} <= PUBLISHED_KEYS


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_part_of_a_task_hubs_setting_is_documented_and_no_other(provider: str) -> None:
    required = {
        "azureStorage": {"NAME__accountName": "shopdurable"},
        "scheduler": {"NAME": "Endpoint=http://localhost:8080;Authentication=None"},
        "managementApi": {"NAME__endpoint": "https://shop.example", "NAME__key": "0123456789abcdef"},
    }
    environment = RecordingEnvironment(**required[provider])
    connections = TaskHubConnections({})
    connections._environment = environment
    PROVIDERS[provider](connections, ProviderConfig(provider, "NAME"), lambda: Instant(0))
    parts = [
        remove_markup(cells[1])
        for cells in read_table_rows(SETTINGS, "Task hubs", "Provider")
        if remove_markup(cells[0]) == provider
    ]
    assert sorted(parts) == sorted(environment.requested)


def test_every_part_of_the_schedulers_connection_string_is_documented_and_no_other() -> None:
    (cells,) = [
        cells for cells in read_table_rows(SETTINGS, "Task hubs", "Part") if remove_markup(cells[0]) == "Authentication"
    ]
    assert CODE.findall(cells[1]) == list(scheduler_connection.AUTHENTICATION_TYPES)
    parts = {part.lower() for cell in read_first_column(SETTINGS, "Task hubs", "Part") for part in cell.split(", ")}
    parsed = re.findall(r"""options(?:\.get\(|\[)"(\w+)\"""", inspect.getsource(scheduler_connection))
    assert parts == {"endpoint", "authentication", *parsed}


def test_every_command_line_argument_is_documented_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["serve", "--help"])
    arguments = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert set(read_first_column(SETTINGS, "Command line", "Argument")) == arguments


def test_every_exit_code_is_documented_and_no_other() -> None:
    tree = ast.parse(inspect.getsource(command.main))
    returned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value is not None]
    nodes = [node for value in returned for node in ast.walk(value)]
    codes = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, int)}
    codes |= {vars(command)[node.id] for node in nodes if isinstance(node, ast.Name) and node.id.isupper()}
    assert {int(code) for code in read_first_column(SETTINGS, "Exit codes", "Exit code")} == codes


def test_the_table_of_roles_shows_which_operations_each_role_may_call(api: FastAPI) -> None:
    actual: dict[str, list[str]] = {}
    for name, route in routes(api).items():
        permissions = ["yes" if is_allowed(route, role) else "no" for role in Role]
        actual[name] = [*permissions, "yes" if route.path in ANONYMOUS_PATHS else "no"]
    table = read_section(SETTINGS, "Keys and roles")
    header = next(line for line in table.splitlines() if line.startswith("| Operation"))
    assert [remove_markup(cell.strip()) for cell in header.strip("|").split("|")][1:] == [*Role, "no key"]
    assert {
        remove_markup(cells[0]): cells[1:] for cells in read_table_rows(SETTINGS, "Keys and roles", "Operation")
    } == actual


def test_the_documented_limits_of_a_server_outside_azure_are_those_of_the_code() -> None:
    limits = {remove_markup(cells[0]): cells[1] for cells in read_table_rows(SETTINGS, "Connections and log", "What")}
    other_files = connections._ACCEPTED_DESCRIPTORS + connections.OTHER_DESCRIPTORS
    assert limits["open connections"].startswith(f"{connections.MAX_CONNECTIONS}, or the limit on open files")
    assert f"minus {other_files} if that is less" in limits["open connections"]
    assert limits["connections that wait to be accepted"] == str(connections.BACKLOG)
    assert limits["time for a request head"].startswith(f"{connections.HEAD_TIMEOUT_SECONDS:g} seconds")
    assert limits["time in which no byte of a response is read"] == f"{connections.UNREAD_TIMEOUT_SECONDS:g} seconds"
    assert limits["log lines of one kind"].startswith(f"{log_limit.MAX_MESSAGES_PER_WINDOW} a minute")


def test_the_keys_of_the_azure_guide_allow_every_operation_that_needs_a_key(api: FastAPI) -> None:
    roles = {remove_markup(cells[1]) for cells in read_table_rows(AZURE, "Keys", "Caller")}
    assert set(re.findall(r"safe-deploy keys new .*--role (\w+)", read_section(AZURE, "Keys"))) == roles
    operations_with_key = {name: route for name, route in routes(api).items() if route.path not in ANONYMOUS_PATHS}
    assert [
        name for name, route in operations_with_key.items() if not any(is_allowed(route, Role(role)) for role in roles)
    ] == []


def test_the_example_of_the_setting_of_keys_is_valid_and_has_every_role() -> None:
    (example,) = [
        body for language, body in FENCE.findall(read_section(SETTINGS, "Keys and roles")) if language == "json"
    ]
    environment = {"STATE_STORAGE": "UseDevelopmentStorage=true", "STATE_KEYS": example}
    assert {key.role for key in read_settings(environment).keys} == set(Role)
