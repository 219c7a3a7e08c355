"""The commands that show what is on record, against a real server: apps, releases, versions, and lists in pages."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from durable_app.local.task_hub_storage import InstanceRow, TaskHubStorageWriter
from harness.state_server import ServerProcess
from safe_deploy.errors import ExitCode
from safe_deploy.paging import collect_items
from state_api.settings import StorageSettings
from tests.builders import event
from tests.conftest import new_hub_name
from tests.safe_deploy.app_client import RUN, AppClient
from tests.safe_deploy.assertions import assert_exit
from tests.safe_deploy.ci_systems import github_environment
from tests.safe_deploy.connection_proxy import ConnectionProxy, Request
from tests.safe_deploy.injections import (
    AppWithInjections,
    find_forged_azure_commands,
    find_forged_github_commands,
    run_command,
)
from tests.safe_deploy.logging_commands import find_terminal_effects
from tests.safe_deploy.processes import server_key_entries, state_server
from tests.safe_deploy.release_fixture import ReleaseFixture
from tests.safe_deploy.terminal import run_to_end_in_terminal


def lines_of(text: str) -> list[str]:
    """The lines with single spaces between the words."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def own_server(own_storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose apps are only those of this module."""
    with state_server(own_storage, tmp_path_factory.mktemp("server"), server_key_entries()) as server:
        yield server


# --- apps and show ---


def test_apps_are_listed_in_pages(own_server: ServerProcess) -> None:
    client = AppClient(own_server.url, "ignored")
    assert client.run_cli("apps").stdout == "the server has no app that this key may see\n"
    for name in ("alpha", "beta", "gamma"):
        AppClient(own_server.url, name).register()
    AppClient(own_server.url, "beta").stage(new_hub_name(), run_number=1)
    table = lines_of(client.run_cli("apps", role="reader").stdout)
    assert table[0] == "App Model Production In progress Changed By"
    assert [line.split()[0] for line in table[2:]] == ["alpha", "beta", "gamma"]
    assert re.fullmatch(r"alpha slots h\w+ \(version 1\) \d+ s test", table[2])
    assert re.search(r"\(version 1\) deployment of h\w+ \d+ s test", table[3])
    first = client.run_cli("apps", "--top", "2")
    assert len(lines_of(first.stdout)) == 5
    (token,) = re.findall(r"there are more: give a larger --top, or --continuation-token (\S+)", first.stdout)
    rest = client.run_cli("apps", "--continuation-token", token, "--output", "json").json()
    assert [app["app"] for app in rest["apps"]] == ["gamma"]
    assert rest["continuationToken"] is None


def test_a_list_goes_on_after_an_empty_page() -> None:
    """The server may return a short page with a token."""
    pages = {None: ([1], "a"), "a": ([], "b"), "b": ([2, 3], "c"), "c": ([4], None)}
    sizes = []

    def fetch_page(size: int, token: str | None) -> dict[str, object]:
        sizes.append(size)
        items, following = pages[token]
        return {"items": items[:size], "continuationToken": following}

    assert collect_items(fetch_page, "items", top=3, token="") == {"items": [1, 2, 3], "continuationToken": "c"}
    assert sizes == [3, 2, 2]
    assert collect_items(fetch_page, "items", top=50, token="")["continuationToken"] is None


def test_show_has_all_that_is_on_record_of_an_app(app_client: AppClient) -> None:
    app_client.register(
        policy={"settleSeconds": 5, "ignoreFunctions": ["Nightly*"]},
        taskHubs={"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"},
    )
    app_client.publish(event(app_client.hub, "order-1"))
    hub = app_client.stage(new_hub_name(), run_number=7)
    waive = ("waive", "--task-hub", app_client.hub, "--instance-id", "order-9", "--reason", "stuck")
    assert app_client.run_cli(*waive).code == ExitCode.DONE
    result = app_client.run_cli("show", role="reader")
    assert result.code == ExitCode.DONE
    shown_lines = lines_of(result.stdout)
    assert re.fullmatch(rf"app {app_client.app} \(slots\), changed \d+ s ago by \S+", shown_lines[0])
    assert shown_lines[1] == "Slot Task hub Version Since Active"
    assert re.fullmatch(rf"production {app_client.hub} 1 \d+ s 1", shown_lines[3])
    assert re.fullmatch(rf"staging {hub} \d+ s 0", shown_lines[4])
    notes = "\n".join(shown_lines[5:])
    assert re.search(rf"open deployment of task hub {hub} into slot staging, begun \d+ s ago by test, {RUN}7", notes)
    assert "provider: azureStorage by STATE_TASKHUBS_SHOP" in notes
    assert "policy: settleSeconds 5, ignoreFunctions Nightly*" in notes
    assert re.search(rf"waived in task hub {app_client.hub}: instance order-9, for 1 d more, by \S+: stuck", notes)
    assert app_client.run_cli("show", "--output", "json").json() == app_client.request_json("GET")


def test_show_prints_the_warnings_of_the_verdicts_and_each_once(app_client: AppClient) -> None:
    app_client.register()
    app_client.stage(new_hub_name())
    result = app_client.run_cli("show")
    assert result.stderr.count("EventsOnly") == 1
    assert "provider: none, so verdicts rest on lifecycle events alone" in result.stdout


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("arguments", [["show"], ["policy", "get"], ["history"]])
def test_tables_fit_the_terminal(app_client: AppClient, columns: int, arguments: list[str]) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub, "order-" + "1" * 40, function="ProcessOrderOfACustomer"))
    code, text = run_to_end_in_terminal(arguments, app_client.build_environment(), columns=columns)
    assert code == ExitCode.DONE
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    rule = next(number for number, line in enumerate(lines) if "───" in line)
    table = [line for line in lines[rule - 1 :] if line.startswith(" ")]
    assert len(table) > 2
    assert all(len(line) <= columns for line in table), table


# --- releases ---


def test_releases_are_shown_with_states_traffic_and_routers(releases: ReleaseFixture) -> None:
    releases.register_and_promote("1.4.0", "1.5.0")
    releases.acknowledge("envoy-1", releases.request("GET", "/releases")["routing"]["revision"])
    result = releases.run(["releases"])
    assert result.code == ExitCode.DONE
    table = lines_of(result.stdout)
    assert table[0] == "Version Task hub State Traffic Registered Address"
    assert re.fullmatch(r"1\.4\.0 \w+ \w+ 0 % \d+ s https://shop-1-4-0\.azurewebsites\.net", table[2])
    assert re.fullmatch(r"1\.5\.0 \w+ Serving 100 % \d+ s https://\S+", table[3])
    assert re.fullmatch(r"router envoy-1 has revision \d+ of \d+, and asked \d+ \w+ ago", table[4])
    printed = lines_of(releases.run(["show"]).stdout)
    assert printed[0].startswith(f"app {releases.app} (sideBySide), changed")
    assert printed[1] == table[0]
    assert any(line.startswith("router envoy-1 has revision") for line in printed)
    listed = lines_of(releases.run(["apps", "--top", "1000"]).stdout)
    assert any(line.startswith(f"{releases.app} sideBySide release 1.5.0") for line in listed)


def test_instances_and_versions_are_those_of_the_active_release(releases: ReleaseFixture) -> None:
    releases.register_and_promote("1.4.0", "1.5.0")
    releases.publish("1.4.0", "old", "Running")
    releases.publish("1.5.0", "new", "Running")
    listed = releases.run(["instances", "--output", "json"]).json()["instances"]
    assert [instance["instanceId"] for instance in listed] == ["new"]
    listed = releases.run(["instances", "--release", "1.4.0", "--output", "json"]).json()["instances"]
    assert [instance["instanceId"] for instance in listed] == ["old"]


def test_a_router_that_is_gone_is_forgotten_after_a_question(releases: ReleaseFixture) -> None:
    releases.register_and_promote("1.4.0")
    releases.acknowledge("envoy-1", 1)
    client = AppClient(releases.cli.url, releases.app)
    unknown = releases.run(["forget-router", "--name", "envoy-2", "--yes"])
    assert unknown.code == ExitCode.FAILURE
    assert "Its routers: envoy-1" in unknown.stderr
    refused = releases.run(["forget-router", "--name", "envoy-1"])
    assert refused.code == ExitCode.USAGE
    assert "router envoy-1 has revision 1" in refused.stderr
    assert releases.request("GET", "/releases")["routers"]
    done = client.run_cli("forget-router", "--name", "envoy-1", "--yes")
    assert (done.code, done.stdout) == (ExitCode.DONE, f"router envoy-1 of app {releases.app} is forgotten\n")
    assert releases.request("GET", "/releases")["routers"] == []


@pytest.mark.parametrize("returns", [False, True])
def test_a_router_is_forgotten_once_although_the_response_is_lost(
    releases: ReleaseFixture, releases_proxy: ConnectionProxy, *, returns: bool
) -> None:
    """A router that has come back before the request is sent again may send requests, so it must count."""
    releases.register_and_promote("1.4.0")
    releases.acknowledge("envoy-1", 1)

    def lose_response(number: int, request: Request) -> bool:
        """Break the connection after the server has forgotten the router for the first time."""
        is_first = [method for method, _ in releases_proxy.requests] == ["GET", "GET", "DELETE"]
        if is_first and returns:
            releases.acknowledge("envoy-1", 1)
        return is_first

    releases_proxy.cut_before_response = lose_response
    result = AppClient(releases.cli.url, releases.app).run_cli("forget-router", "--name", "envoy-1", "--yes")
    known = [router["router"] for router in releases.request("GET", "/releases")["routers"]]
    if returns:
        assert_exit(result, ExitCode.CONFLICT, "Router envoy-1 was not forgotten, or it was and has asked again")
        assert known == ["envoy-1"]
    else:
        assert_exit(result, ExitCode.DONE)
        assert result.stdout == f"router envoy-1 of app {releases.app} is forgotten\n"
        assert known == []
    assert len(releases.history("ForgetRouter")) == 1


def test_releases_of_an_app_with_slots_are_refused_with_the_right_commands(app_client: AppClient) -> None:
    app_client.register()
    result = app_client.run_cli("releases")
    assert result.code == ExitCode.CONFLICT
    assert "with slots they are status" in result.stderr


# --- instances, versions and history ---


def test_instances_go_on_after_a_page(app_client: AppClient) -> None:
    app_client.register()
    app_client.publish(*(event(app_client.hub, f"order-{number}") for number in range(5)))
    arguments = ("instances", "--slot", "production")
    first = app_client.run_cli(*arguments, "--top", "3", "--output", "json").json()
    rest = app_client.run_cli(*arguments, "--continuation-token", first["continuationToken"], "-o", "json").json()
    ids = [instance["instanceId"] for page in (first, rest) for instance in page["instances"]]
    assert sorted(ids) == [f"order-{number}" for number in range(5)]
    table = lines_of(app_client.run_cli(*arguments).stdout)
    assert re.fullmatch(r"order-\d ProcessOrder Running yes \d+ s event", table[3])


def test_a_token_of_another_list_is_a_usage_error(app_client: AppClient) -> None:
    app_client.register()
    result = app_client.run_cli("history", "--continuation-token", "abc")
    assert result.code == ExitCode.USAGE


def test_versions_are_counted_as_the_task_hub_shows_them(app_client: AppClient, storage: StorageSettings) -> None:
    assert storage.connection_string is not None
    app_client.register(taskHubs={"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"})
    writer = TaskHubStorageWriter(storage.connection_string.get_secret_value(), app_client.hub)
    writer.create()
    try:
        empty = app_client.run_cli("versions", "--slot", "production", "--fresh")
        assert (empty.code, empty.stdout) == (
            ExitCode.DONE,
            f"no instance is active on task hub {app_client.hub}\n",
        )
        now = datetime.now(UTC)
        writer.upsert(InstanceRow("order-1", "execution", "ProcessOrder", "Running", now, now, version="1.0"))
        result = app_client.run_cli("versions", "--slot", "production", "--fresh", role="reader")
        assert result.code == ExitCode.DONE
        table = lines_of(result.stdout)
        assert table[0] == "Version Active Oldest"
        assert re.fullmatch(r"1\.0 1 \d+ \w+", table[2])
    finally:
        writer.close()


def test_versions_without_a_provider_are_refused(app_client: AppClient) -> None:
    app_client.register()
    assert app_client.run_cli("versions", "--slot", "production").code == ExitCode.CONFLICT


# --- hostile names ---


@pytest.mark.parametrize(
    "arguments", [["show"], ["apps", "--top", "1000"], ["history"], ["unregister"]], ids=lambda arguments: arguments[0]
)
def test_hostile_texts_on_record_are_no_commands(
    app_with_injections: AppWithInjections, tmp_path: Path, arguments: list[str]
) -> None:
    app_client = app_with_injections.app_client
    variables = app_client.build_environment() | github_environment(tmp_path)
    result = run_command(*arguments, variables=variables, in_new_process=True)
    assert result.code == (ExitCode.USAGE if arguments == ["unregister"] else ExitCode.DONE), result.stderr
    for text in (result.stdout, result.stderr):
        assert find_forged_github_commands(text) == find_forged_azure_commands(text) == []
        assert find_terminal_effects(text) == []
