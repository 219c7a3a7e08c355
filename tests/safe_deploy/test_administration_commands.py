"""`unwaive`, `task-hub` and `quarantine` against a real server: what they list, ask and remove."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from harness.state_server import ServerProcess
from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.builders import event
from tests.conftest import new_hub_name
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.injections import INJECTIONS, find_forged_azure_commands, find_forged_github_commands
from tests.safe_deploy.logging_commands import find_terminal_effects
from tests.safe_deploy.processes import server_key_entries, state_server


def lines_of(text: str) -> list[str]:
    """The lines with single spaces between the words."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def own_server(own_storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose quarantine has only the events of this module."""
    with state_server(own_storage, tmp_path_factory.mktemp("server"), server_key_entries()) as server:
        yield server


def test_a_waiver_is_removed(app_client: AppClient) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub, "order-1"))
    waiver = ("--task-hub", app_client.hub, "--instance-id", "order-1")
    assert app_client.run_cli("waive", *waiver, "--reason", "why").code == ExitCode.DONE
    messages = ("--task-hub", app_client.hub, "--unexplained-messages")
    assert app_client.run_cli("waive", *messages, "3", "--reason", "why").code == ExitCode.DONE
    removed = app_client.run_cli("unwaive", *waiver, role="deployer")
    assert removed.code == ExitCode.DONE
    assert lines_of(removed.stdout)[0] == f"the waiver in task hub {app_client.hub} is removed: instance order-1"
    assert app_client.run_cli("unwaive", *messages, role="deployer").code == ExitCode.DONE
    assert app_client.request_json("GET")["waivers"] == []
    assert app_client.run_cli("unwaive", *waiver).code == ExitCode.FAILURE
    for options in ((), ("--instance-id", "x", "--unexplained-messages")):
        assert app_client.run_cli("unwaive", "--task-hub", app_client.hub, *options).code == ExitCode.USAGE


def test_the_records_of_a_task_hub_are_removed_after_a_question(own_server: ServerProcess) -> None:
    client = AppClient(own_server.url)
    hub = new_hub_name()
    assert client.run_cli("task-hub", "show", "--task-hub", hub).code == ExitCode.FAILURE
    client.publish(event(hub, "order-1"), event(hub, "order-2", "Completed"))
    printed = lines_of(client.run_cli("task-hub", "show", "--task-hub", hub, role="reader").stdout)
    assert printed[0] == "Task hub App Place Active Last event Belongs to the app"
    assert re.fullmatch(rf"{hub} none 1 \d+ s not proven", printed[2])
    refused = client.run_cli("task-hub", "delete", "--task-hub", hub)
    assert refused.code == ExitCode.USAGE
    assert any(line.startswith(f"{hub} none 1") for line in lines_of(refused.stderr))
    active = client.run_cli("task-hub", "delete", "--task-hub", hub, "--yes")
    assert active.code == ExitCode.CONFLICT
    assert client.request_json("GET", f"/api/taskhubs/{hub}")["closed"] is False


def test_a_task_hub_that_an_app_has_claimed_is_not_removed(app_client: AppClient) -> None:
    app_client.register()
    result = app_client.run_cli("task-hub", "delete", "--task-hub", app_client.hub, "--yes")
    assert result.code == ExitCode.CONFLICT
    assert f"safe-deploy cleanup --app {app_client.app}" in result.stderr


def test_quarantine_is_listed_and_purged_after_a_question(own_server: ServerProcess) -> None:
    client = AppClient(own_server.url)
    assert client.run_cli("quarantine", "list").stdout == "no event is in quarantine\n"
    hostile: list[Any] = [event("no", text, function=text) for text in INJECTIONS.values()]
    client.request_json("POST", "/api/events", hostile)
    listed = client.run_cli("quarantine", "list")
    assert listed.code == ExitCode.DONE
    assert lines_of(listed.stdout)[0] == "Received Code Message Event"
    assert len(lines_of(listed.stdout)) == 2 + len(hostile)
    page = client.run_cli("quarantine", "list", "--top", "2", "-o", "json").json()
    assert len(page["events"]) == 2
    assert page["continuationToken"]
    assert client.run_cli("quarantine", "purge", "--before", "2020-01-01").stdout == (
        "no event in quarantine was received before 2020-01-01\n"
    )
    limit = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
    refused = client.run_cli("quarantine", "purge", "--before", limit)
    assert (refused.code, refused.stdout) == (ExitCode.USAGE, "")
    assert f"{len(hostile)} events in quarantine were received before {limit}" in refused.stderr
    assert "--yes" in refused.stderr
    for text in (listed.stdout, refused.stderr):
        assert find_forged_github_commands(text) == find_forged_azure_commands(text) == []
        assert find_terminal_effects(text) == []
    assert len(client.request_json("GET", "/api/quarantine")["events"]) == len(hostile)
    purged = client.run_cli("quarantine", "purge", "--before", limit, "--yes", "--output", "json")
    assert purged.json() == {"removed": len(hostile)}
    assert client.request_json("GET", "/api/quarantine")["events"] == []


@pytest.mark.parametrize("before", ["yesterday", "2026-13-01", "9999-01-01", "2026-11-01 :x", "", "20261101"])
def test_an_invalid_time_purges_nothing(own_server: ServerProcess, before: str) -> None:
    result = AppClient(own_server.url).run_cli("quarantine", "purge", "--before", before, "--yes")
    assert (result.code, result.stdout) == (ExitCode.USAGE, "")
    assert "--before" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["quarantine", "list"],
        ["quarantine", "purge", "--before", "2020-01-01"],
        ["task-hub", "delete", "--task-hub", "OWN", "--yes"],
        ["unregister", "--yes"],
        ["adopt", "--task-hub", "OWN"],
    ],
)
def test_what_only_administrators_may_do_is_refused_to_others(app_client: AppClient, arguments: list[str]) -> None:
    app_client.register()
    named = [app_client.hub if word == "OWN" else word for word in arguments]
    result = app_client.run_cli(*named, role="deployer")
    assert result.code in (ExitCode.NOT_ALLOWED, ExitCode.CONFLICT)
    assert app_client.request_json("GET")["slots"]["production"]["taskHub"] == app_client.hub
