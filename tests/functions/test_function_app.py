"""function_app.py with the installed azure-functions library: the functions that it defines, and its settings."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest

import function_app
from state_api.app import openapi_document
from state_api.http.home import HOME_PAGE, HOME_PAGE_HEADERS
from state_api.http.middleware import security_headers
from state_api.http.problems import PROBLEM_MEDIA_TYPE
from state_api.services import background, rollouts
from state_api.settings import (
    DEVELOPMENT_STORAGE,
    STATE_KEYS,
    STATE_SHARDS,
    STATE_STORAGE,
    SettingsError,
    StorageSettings,
)
from state_api.storage import tables, transactions
from tests.builders import event
from tests.functions.invocations import (
    ADMIN_KEY,
    EVENT_GRID_FUNCTION,
    PROBE_TIMER,
    ROLLOUT_TIMER,
    deliver_event,
    indexed_functions,
    invoke,
    json_body,
    operation_functions,
    sample_delivery,
)
from tests.keys import key_entry

pytestmark = pytest.mark.anyio

REPOSITORY = Path(function_app.__file__).parent

INDEX_WITHOUT_IO = """
import os, sys

def forbid_io(event, arguments):
    writes_file = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if writes_file or event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork")):
        raise RuntimeError(f"{event} {arguments}")

sys.addaudithook(forbid_io)
import function_app
print(len(function_app.app.get_functions()))
"""


async def assert_home_page_is_served() -> None:
    """Assert that the function of `/` sends the page with its security headers, without a key."""
    response = await invoke(function_app.HOME_FUNCTION, key="")
    assert (response.status_code, response.get_body().decode()) == (200, HOME_PAGE)
    assert (response.mimetype.partition(";")[0], response.charset) == ("text/html", "utf-8")
    for name, value in (security_headers("http") | HOME_PAGE_HEADERS).items():
        assert response.headers[name] == value


async def test_the_home_page_is_served_by_a_function(function_app_settings: None) -> None:
    await assert_home_page_is_served()


async def test_the_functions_are_the_operations_of_the_api_the_home_page_and_three_triggers(
    function_app_settings: None,
) -> None:
    """Each HTTP function has the name, path and methods of its operation in OpenAPI.

    PostEvents also accepts OPTIONS, for the CloudEvents handshake.
    """
    documented = {
        operation["operationId"]: (path, {method.upper()})
        for path, operations in openapi_document(function_app.server().api)["paths"].items()
        for method, operation in operations.items()
    }
    documented["PostEvents"][1].add("OPTIONS")
    indexed = {
        name: (f"/{function.get_trigger().route}", {method.value for method in function.get_trigger().methods})
        for name, function in operation_functions().items()
    }
    assert indexed == documented
    home = indexed_functions()[function_app.HOME_FUNCTION].get_trigger()
    assert (home.route, [method.value for method in home.methods]) == ("{nothing:maxlength(0)?}", ["GET"])
    assert len(indexed_functions()) == len(indexed) + 4
    assert indexed_functions()[EVENT_GRID_FUNCTION].get_trigger().type == "eventGridTrigger"
    for name, interval_seconds in (
        (PROBE_TIMER, background.INTERVAL_SECONDS),
        (ROLLOUT_TIMER, rollouts.INTERVAL_SECONDS),
    ):
        trigger = indexed_functions()[name].get_trigger()
        assert (trigger.type, trigger.schedule) == ("timerTrigger", f"*/{interval_seconds} * * * * *")


def test_function_names_and_pairs_of_route_and_method_are_unique() -> None:
    names = Counter(name for name, _, _ in function_app.OPERATIONS)
    pairs = Counter((route, method) for _, methods, route in function_app.OPERATIONS for method in methods)
    assert set((names + pairs).values()) == {1}
    assert set(names) == set(operation_functions())


def test_every_function_has_its_own_handler() -> None:
    handlers = {function.get_user_function() for function in indexed_functions().values()}
    assert len(handlers) == len(indexed_functions())


def test_every_http_function_is_anonymous_because_the_server_checks_its_own_keys() -> None:
    home = indexed_functions()[function_app.HOME_FUNCTION]
    levels = {function.get_trigger().auth_level for function in [home, *operation_functions().values()]}
    assert levels == {func.AuthLevel.ANONYMOUS}


def test_importing_and_indexing_need_no_settings_and_no_io() -> None:
    """The functions are indexed in a process without settings, where using a network, a process or a file fails."""
    process = subprocess.run(
        [sys.executable, "-B", "-c", INDEX_WITHOUT_IO],
        cwd=REPOSITORY,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.stdout.strip(), process.stderr) == (str(len(indexed_functions())), "")


WRONG_SETTINGS = [
    ({}, "set STATE_STORAGE"),
    ({STATE_STORAGE: "no connection string"}, "STATE_STORAGE is not a storage connection string"),
    ({STATE_STORAGE: "AccountName=state"}, "lacks an account or a key"),
    ({f"{STATE_STORAGE}__tableServiceUri": "state"}, "must be the address of a table service"),
    ({STATE_STORAGE: DEVELOPMENT_STORAGE, STATE_KEYS: "[{}]"}, "STATE_KEYS must be a JSON list"),
    (
        {STATE_STORAGE: DEVELOPMENT_STORAGE, STATE_KEYS: "@Microsoft.KeyVault(SecretUri=https://v.vault.azure.net/s)"},
        "Key Vault",
    ),
    ({STATE_STORAGE: "@Microsoft.KeyVault(VaultName=v;SecretName=s)"}, "STATE_STORAGE is a Key Vault reference"),
    ({STATE_STORAGE: DEVELOPMENT_STORAGE, STATE_SHARDS: "none"}, "STATE_SHARDS must be a number"),
]


@pytest.mark.parametrize(("settings", "reason"), WRONG_SETTINGS)
async def test_with_a_wrong_setting_health_and_home_page_succeed_and_all_other_operations_report_the_setting(
    no_settings: None, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], reason: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    health = await invoke("Health")
    assert (health.status_code, json_body(health)) == (200, {"status": "Healthy"})
    await assert_home_page_is_served()
    for name in operation_functions().keys() - {"Health"}:
        response = await invoke(name, app="shop", hub="v41", version="1.5.0", router="envoy-1", action="pause")
        assert (response.status_code, response.mimetype) == (503, PROBLEM_MEDIA_TYPE)
        assert json_body(response)["code"] == "SettingsInvalid"
        assert reason in json_body(response)["detail"]
        assert int(response.headers["Retry-After"]) > 0
        assert security_headers("http").items() <= dict(response.headers).items()
    with pytest.raises(SettingsError, match=reason):
        await deliver_event(event("v41"))


async def test_corrected_settings_take_effect_at_the_next_invocation(
    no_settings: None, storage: StorageSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await invoke("Ready")).status_code == 503
    assert storage.connection_string is not None
    monkeypatch.setenv(STATE_STORAGE, storage.connection_string.get_secret_value())
    assert (await invoke("Ready")).status_code == 200
    await function_app.server().close()


@pytest.mark.parametrize("keys", ["", "[]"])
async def test_without_keys_only_health_the_home_page_and_the_event_grid_trigger_work(
    function_app_settings: None, hub: str, monkeypatch: pytest.MonkeyPatch, keys: str
) -> None:
    monkeypatch.setenv(STATE_KEYS, keys)
    assert (await invoke("Health")).status_code == 200
    await assert_home_page_is_served()
    for name in operation_functions().keys() - {"Health"}:
        response = await invoke(name, app="shop", hub=hub, version="1.5.0", router="envoy-1", action="pause")
        assert (response.status_code, json_body(response)["code"]) == (503, "KeysNotConfigured")
        assert "set the app setting STATE_KEYS" in json_body(response)["detail"]
    (running,) = sample_delivery("running", hub)
    await deliver_event(running)
    await function_app.server().close()
    function_app.server.cache_clear()
    monkeypatch.setenv(STATE_KEYS, json.dumps([key_entry(ADMIN_KEY, "admin")]))
    assert json_body(await invoke("GetTaskHub", hub=hub))["activeCount"] == 1


async def test_the_server_itself_refuses_an_unknown_key(function_app_settings: None) -> None:
    for key in ("", "a-host-key-of-the-function-app"):
        response = await invoke("ListApps", key=key)
        assert (response.status_code, json_body(response)["code"]) == (401, "Unauthorized")


async def test_concurrent_invocations_share_transactions(function_app_settings: None, hub: str) -> None:
    await deliver_event(event(hub, "first"))
    transaction_count = 0

    async def count_transaction(*arguments: Any, **options: Any) -> list[str | None]:
        nonlocal transaction_count
        transaction_count += 1
        return await transactions.send_transaction(*arguments, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tables, "send_transaction", count_transaction)
        await asyncio.gather(*(deliver_event(event(hub, f"order-{number}")) for number in range(64)))
    # The first transaction holds the first event, and the second all events that arrived meanwhile.
    assert 1 <= transaction_count <= 2
    page = json_body(await invoke("ListInstances", hub=hub, query={"top": 100}))
    assert len(page["instances"]) == 65
