"""function_app.py with the installed azure-functions library: the functions that it defines, and their invocation."""

import asyncio
import json
import subprocess
import sys
import typing
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import azure.functions as func
import pytest
from azure.functions.eventgrid import EventGridEventInConverter
from azure.functions.meta import Datum

import function_app
from harness.processes import free_port
from state_api.app import openapi_document
from state_api.domain.errors import StorageUnavailable, TooManyEvents
from state_api.http.middleware import security_headers
from state_api.http.problems import PROBLEM_MEDIA_TYPE
from state_api.services.admission import CAPACITY_BYTES
from state_api.services.background import INTERVAL_SECONDS
from state_api.settings import (
    DEVELOPMENT_STORAGE,
    STATE_KEYS,
    STATE_SHARDS,
    STATE_STORAGE,
    SettingsError,
    StorageSettings,
    emulator_connection_string,
)
from state_api.storage import tables, transactions
from tests import recordings
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import cloud_event, event, timestamp
from tests.functions.invocations import (
    ADMIN_KEY,
    EVENT_GRID_FUNCTION,
    HOST_URL,
    TIMER_FUNCTION,
    deliver_event,
    indexed_functions,
    invoke,
    json_body,
    media_type,
)
from tests.keys import key_entry

pytestmark = pytest.mark.anyio

REPOSITORY = Path(function_app.__file__).parent
SAMPLES = REPOSITORY / "tests" / "samples"
DEEPLY_NESTED_JSON = "[" * 99_999

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


def http_functions() -> dict[str, Any]:
    return {
        name: function
        for name, function in indexed_functions().items()
        if name not in (EVENT_GRID_FUNCTION, TIMER_FUNCTION)
    }


def sample_delivery(name: str, hub: str) -> Any:
    """A recorded delivery or one from Event Grid's documentation, with the task hub of the test."""
    if name in {*recordings.DELIVERIES, "continue-as-new"}:
        return recordings.recorded_delivery(name, hub)
    return json.loads((SAMPLES / f"{name}.json").read_text().replace('"v41"', f'"{hub}"'))


# Indexing


async def test_the_functions_are_the_operations_of_the_api_and_two_triggers(function_app_settings: None) -> None:
    """Each HTTP function has the name, path and methods of its operation in OpenAPI. PostEvents also accepts OPTIONS,
    for the CloudEvents handshake."""
    contract = {
        operation["operationId"]: (path, {method.upper()})
        for path, operations in openapi_document(function_app.server().api)["paths"].items()
        for method, operation in operations.items()
    }
    contract["PostEvents"][1].add("OPTIONS")
    indexed = {
        name: (f"/api/{function.get_trigger().route}", {method.value for method in function.get_trigger().methods})
        for name, function in http_functions().items()
    }
    assert indexed == contract
    assert indexed_functions()[EVENT_GRID_FUNCTION].get_trigger().type == "eventGridTrigger"
    assert indexed_functions()[TIMER_FUNCTION].get_trigger().type == "timerTrigger"
    assert indexed_functions()[TIMER_FUNCTION].get_trigger().schedule == f"*/{INTERVAL_SECONDS} * * * * *"


def test_function_names_and_pairs_of_route_and_method_are_unique() -> None:
    names = Counter(name for name, _, _ in function_app.OPERATIONS)
    pairs = Counter((route, method) for _, methods, route in function_app.OPERATIONS for method in methods)
    assert set((names + pairs).values()) == {1}
    assert set(names) == set(http_functions())


def test_every_function_has_its_own_handler() -> None:
    handlers = {function.get_user_function() for function in indexed_functions().values()}
    assert len(handlers) == len(indexed_functions())


def test_every_http_function_is_anonymous_because_the_server_checks_its_own_keys() -> None:
    levels = {function.get_trigger().auth_level for function in http_functions().values()}
    assert levels == {func.AuthLevel.ANONYMOUS}


def test_importing_and_indexing_need_no_settings_and_no_io() -> None:
    """Runs in a process without environment, where opening a socket, starting a process or writing a file fails."""
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
async def test_with_a_wrong_setting_health_succeeds_and_all_other_operations_report_the_setting(
    no_settings: None, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], reason: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    health = await invoke("Health")
    assert (health.status_code, json_body(health)) == (200, {"status": "Healthy"})
    for name in http_functions().keys() - {"Health"}:
        response = await invoke(name, app="shop", hub="v41")
        assert (response.status_code, response.mimetype) == (503, PROBLEM_MEDIA_TYPE)
        assert json_body(response)["code"] == "SettingsInvalid"
        assert reason in json_body(response)["detail"]
        assert int(response.headers["Retry-After"]) > 0
        assert security_headers("http").items() <= dict(response.headers).items()
    with pytest.raises(SettingsError, match=reason):
        await deliver_event(event("v41"))


async def test_wrong_settings_are_read_again_at_the_next_invocation(
    no_settings: None, storage: StorageSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await invoke("Ready")).status_code == 503
    assert storage.connection_string is not None
    monkeypatch.setenv(STATE_STORAGE, storage.connection_string.get_secret_value())
    assert (await invoke("Ready")).status_code == 200
    await function_app.server().close()


@pytest.mark.parametrize("keys", ["", "[]"])
async def test_without_keys_only_health_and_the_event_grid_trigger_work(
    function_app_settings: None, hub: str, monkeypatch: pytest.MonkeyPatch, keys: str
) -> None:
    monkeypatch.setenv(STATE_KEYS, keys)
    assert (await invoke("Health")).status_code == 200
    for name in http_functions().keys() - {"Health"}:
        response = await invoke(name, app="shop", hub=hub)
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


# HTTP functions


async def test_a_whole_deployment_runs_through_the_functions(
    function_app_settings: None, storage: StorageSettings, app: str
) -> None:
    """Calls every operation once, through the function with its name."""
    old, new = f"{app.replace('-', '')}v1", f"{app.replace('-', '')}v2"
    slots = {"production": {"taskHub": old, "version": "1"}, "staging": None}
    called = set()

    async def call(name: str, *arguments: Any, **options: Any) -> Any:
        called.add(name)
        response = await invoke(name, *arguments, **options)
        assert response.status_code == 200, response.get_body()
        assert media_type(response) == "application/json"
        return json_body(response)

    assert await call("Health") == {"status": "Healthy"}
    assert await call("Ready") == {"status": "Ready"}
    assert (await call("GetOpenApi"))["info"]["title"] == "Task hub state server"
    registered = await call("PutApp", {"slots": slots, "policy": {"settleSeconds": 0}}, app=app)
    assert registered["slots"]["production"]["taskHub"] == old
    assert await call("PostEvents", [event(old, "order-1")]) == {"recorded": 1, "unchanged": 0, "quarantined": 0}
    assert (await call("GetTaskHub", hub=old))["activeCount"] == 1
    assert [instance["instanceId"] for instance in (await call("ListInstances", hub=old))["instances"]] == ["order-1"]
    staged = await call("PostStaging", {"taskHub": new, "version": "2"}, app=app)
    assert staged["deployment"]["taskHub"] == new
    assert (await call("DeleteStaging", query={"taskHub": new}, app=app))["deployment"] is None
    swapped = await call("PostSwap", {"taskHub": new}, app=app)
    assert {name: slot["taskHub"] for name, slot in swapped["slots"].items()} == {"production": new, "staging": old}
    verdict = await call("GetStagingStatus", app=app)
    assert (verdict["taskHub"], verdict["ready"], verdict["activeCount"]) == (old, False, 1)
    waiver = {"taskHub": old, "instanceId": "order-1", "reason": "stuck", "expiresAt": timestamp(3600)}
    assert (await call("PostWaiver", waiver, app=app))["waivers"][0]["instanceId"] == "order-1"
    assert (await call("DeleteWaiver", query={"taskHub": old, "instanceId": "order-1"}, app=app))["waivers"] == []
    async with ProviderTaskHub(storage, old) as provider:
        await (await provider.create()).put("order-1", "Running", version="1.0")
    await call("PutApp", {"taskHubs": {"provider": "azureStorage", "connection": STATE_STORAGE}}, app=app)
    assert (await call("GetVersions", hub=old))["versions"][0]["version"] == "1.0"
    assert (await call("Cleanup", {"dryRun": True}, app=app))["taskHubs"] == []
    assert (await call("GetApp", app=app))["slots"] == swapped["slots"]
    assert app in [listed["app"] for listed in (await call("ListApps", query={"top": 1000}))["apps"]]
    assert len((await call("GetHistory", app=app))["history"]) == 7
    assert "events" in await call("ListQuarantine")
    await call("PostEvents", [event(f"{old}unclaimed", "order-1", "Completed", time=timestamp(-3600))])
    assert (await invoke("DeleteTaskHub", hub=f"{old}unclaimed")).status_code == 409, "the task hub is still settling"
    assert (await invoke("DeleteApp", app=app)).status_code == 409, "an instance is active"
    called |= {"DeleteTaskHub", "DeleteApp"}
    assert "removed" in await call("PurgeQuarantine", query={"before": "2020-01-01"})
    assert called == set(http_functions())


async def test_the_timer_probes_task_hubs_that_are_draining(
    function_app_settings: None, storage: StorageSettings, app: str, hub: str
) -> None:
    async with ProviderTaskHub(storage, hub) as provider:
        await provider.create()
    slots = {"staging": {"taskHub": hub}}
    provider_config = {"provider": "azureStorage", "connection": STATE_STORAGE}
    await invoke("PutApp", {"slots": slots, "taskHubs": provider_config}, app=app)
    await indexed_functions()[TIMER_FUNCTION].get_user_function()(timer=None)
    verdict = json_body(await invoke("GetStagingStatus", query={"verify": "none"}, app=app))
    assert (verdict["ready"], verdict["assurance"]) == (True, "verified")


async def test_the_audit_log_names_the_caller(function_app_settings: None, app: str) -> None:
    headers = {"X-Actor": "anna", "X-Run-Url": "https://ci.example/7"}
    await invoke("PutApp", {"slots": {}}, headers=headers, app=app)
    (record,) = json_body(await invoke("GetHistory", app=app))["history"]
    assert (record["by"], record["runUrl"], record["keyName"]) == ("anna", "https://ci.example/7", "the-admin")


async def test_a_problem_document_keeps_its_media_type_and_headers(function_app_settings: None, app: str) -> None:
    """AsgiMiddleware would otherwise set the media type to text/plain."""
    response = await invoke("GetApp", app=app)
    assert (response.status_code, json_body(response)["code"]) == (404, "AppNotFound")
    assert media_type(response) == response.mimetype == PROBLEM_MEDIA_TYPE
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("escaped", ["x%2Fhistory", "x%2fstaging"])
async def test_a_path_with_an_escaped_slash_reaches_no_other_operation(
    function_app_settings: None, escaped: str
) -> None:
    request = func.HttpRequest("GET", f"{HOST_URL}/api/apps/{escaped}", body=b"", route_params={"app": escaped})
    context = cast("func.Context", SimpleNamespace(function_name="GetApp", invocation_id="0"))
    response = await indexed_functions()["GetApp"].get_user_function()(req=request, context=context)
    assert (response.status_code, json_body(response)["code"]) == (404, "NotFound")
    assert security_headers("http").items() <= dict(response.headers).items()


async def test_a_path_that_is_not_utf_8_is_refused_with_a_problem_document(function_app_settings: None) -> None:
    request = func.HttpRequest("GET", f"{HOST_URL}/api/apps/%FF", body=b"", route_params={"app": "%FF"})
    context = cast("func.Context", SimpleNamespace(function_name="GetApp", invocation_id="0"))
    response = await indexed_functions()["GetApp"].get_user_function()(req=request, context=context)
    assert (response.status_code, response.mimetype) == (400, "application/problem+json")
    assert json_body(response)["detail"] == "the address is not UTF-8"


async def test_the_cloudevents_handshake_succeeds(function_app_settings: None) -> None:
    origin = {"WebHook-Request-Origin": "eventgrid.azure.net"}
    response = await invoke("PostEvents", method="OPTIONS", headers=origin)
    assert (response.status_code, response.get_body()) == (200, b"")
    assert response.headers["WebHook-Allowed-Origin"] == "eventgrid.azure.net"
    assert response.headers["WebHook-Allowed-Rate"] == "*"


async def test_the_event_grid_handshake_succeeds(function_app_settings: None, hub: str) -> None:
    delivery = sample_delivery("validation", hub)
    response = await invoke("PostEvents", delivery, headers={"aeg-event-type": "SubscriptionValidation"})
    assert json_body(response) == {"validationResponse": delivery[0]["data"]["validationCode"]}


@pytest.mark.parametrize(
    ("name", "recorded", "active"),
    [("running", 1, 1), ("completed", 1, 0), ("failed", 1, 0), ("continue-as-new", 3, 1), ("entity", 1, 0)],
)
async def test_recorded_deliveries_are_accepted(
    function_app_settings: None, hub: str, name: str, recorded: int, active: int
) -> None:
    assert json_body(await invoke("PostEvents", sample_delivery(name, hub)))["recorded"] == recorded
    assert json_body(await invoke("GetTaskHub", hub=hub))["activeCount"] == active


async def test_a_recorded_cloudevent_is_accepted(function_app_settings: None, hub: str) -> None:
    headers = {"content-type": "application/cloudevents+json; charset=utf-8"}
    response = await invoke("PostEvents", sample_delivery("cloudevent-running", hub), headers=headers)
    assert json_body(response) == {"recorded": 1, "unchanged": 0, "quarantined": 0}


# The Event Grid trigger


def test_the_worker_passes_the_event_to_the_trigger_as_text() -> None:
    """The worker does so if the parameter has the annotation `str` and the binding has no implicit output."""
    handler = indexed_functions()[EVENT_GRID_FUNCTION].get_user_function()
    assert typing.get_type_hints(handler) == {"event": str, "return": type(None)}
    assert EventGridEventInConverter.has_implicit_output() is False


@pytest.mark.parametrize("time", ["2026-11-20T09:30:00+02:00", "2026-11-20 09:30:00Z", "yesterday", 5])
def test_the_converter_of_the_library_raises_on_times_that_it_cannot_parse(time: Any) -> None:
    """Two of these times are valid RFC 3339. If the library parses them, the trigger can use `func.EventGridEvent`."""
    for member, event_json in (("eventTime", event("v41")), ("time", cloud_event("v41"))):
        with pytest.raises((ValueError, TypeError)):
            EventGridEventInConverter.decode(
                Datum(json.dumps(event_json | {member: time}), "json"), trigger_metadata={}
            )


def test_the_converter_of_the_library_returns_a_type_per_schema_and_cuts_times_to_microseconds() -> None:
    time = "2026-11-20T09:30:00.1234567Z"
    grid, cloud = (
        EventGridEventInConverter.decode(Datum(json.dumps(event_json), "json"), trigger_metadata={})
        for event_json in (event("v41", time=time), cloud_event("v41") | {"time": time})
    )
    assert isinstance(grid, func.EventGridEvent)
    assert isinstance(cloud, func.CloudEvent)
    assert not hasattr(cloud, "event_time")
    assert grid.event_time == cloud.time
    assert str(grid.event_time) == "2026-11-20 09:30:00.123456+00:00"


async def test_the_trigger_records_a_repeated_event_once_with_all_digits_of_its_time(
    function_app_settings: None, hub: str
) -> None:
    (running,) = sample_delivery("running", hub)
    for _ in range(2):
        await deliver_event(running)
    (instance,) = json_body(await invoke("ListInstances", hub=hub))["instances"]
    assert instance["instanceId"] == running["data"]["instanceId"]
    assert instance["startedAt"] == running["eventTime"]
    again = json_body(await invoke("PostEvents", [running]))
    assert again == {"recorded": 0, "unchanged": 1, "quarantined": 0}


@pytest.mark.parametrize("time", ["2026-11-20T09:30:00.1234567Z", "2026-11-20T11:30:00.1234567+02:00"])
async def test_the_trigger_records_a_cloudevent(function_app_settings: None, hub: str, time: str) -> None:
    await deliver_event(sample_delivery("cloudevent-running", hub) | {"time": time})
    (instance,) = json_body(await invoke("ListInstances", hub=hub))["instances"]
    assert instance["startedAt"] == "2026-11-20T09:30:00.1234567Z"


async def test_the_trigger_records_an_entity_as_never_active(function_app_settings: None, hub: str) -> None:
    (entity,) = sample_delivery("entity", hub)
    await deliver_event(entity)
    (instance,) = json_body(await invoke("ListInstances", hub=hub))["instances"]
    assert (instance["instanceId"], instance["active"]) == ("@counter@a", False)


@pytest.mark.parametrize(
    ("unreadable", "code"),
    [
        ({"data": {"runtimeStatus": "Paused"}}, "UnknownStatus"),
        ({"eventTime": "yesterday"}, "BadTime"),
        ({"eventTime": 5}, "BadTime"),
        ({"data": None}, "NotAnEvent"),
        ({"eventType": "Microsoft.Storage.BlobCreated"}, "UnknownEventType"),
    ],
)
async def test_an_event_that_the_trigger_cannot_parse_goes_to_quarantine_and_is_not_retried(
    function_app_settings: None, hub: str, unreadable: dict[str, Any], code: str
) -> None:
    event_json = event(hub)
    event_json |= unreadable | ({"data": event_json["data"] | unreadable["data"]} if unreadable.get("data") else {})
    await deliver_event(event_json)
    quarantine = json_body(await invoke("ListQuarantine", query={"top": 1000}))["events"]
    (quarantined_event,) = [quarantined for quarantined in quarantine if event_json["id"] in quarantined["event"]]
    assert (quarantined_event["code"], quarantined_event["endpointType"]) == (code, "trigger")
    assert json.loads(quarantined_event["event"]) == event_json


@pytest.mark.parametrize(
    ("text", "stored_text"),
    [("", '""'), ("no JSON", '"no JSON"'), (DEEPLY_NESTED_JSON, f'"{DEEPLY_NESTED_JSON}"'), ("[]", "[]")],
)
async def test_text_that_is_not_an_event_goes_to_quarantine(
    function_app_settings: None, text: str, stored_text: str
) -> None:
    before = json_body(await invoke("ListQuarantine", query={"top": 1000}))["events"]
    await indexed_functions()[EVENT_GRID_FUNCTION].get_user_function()(event=text)
    after = json_body(await invoke("ListQuarantine", query={"top": 1000}))["events"]
    (added,) = [quarantined for quarantined in after if quarantined not in before]
    assert (added["code"], added["event"]) == ("NotAnEvent", stored_text)


# Admission control


async def test_without_capacity_the_trigger_raises_so_that_event_grid_delivers_the_event_again(
    function_app_settings: None, hub: str
) -> None:
    admission = function_app.server().admission
    with admission.reserve(CAPACITY_BYTES):
        with pytest.raises(TooManyEvents):
            await deliver_event(event(hub))
        response = await invoke("PostEvents", [event(hub)])
        assert (response.status_code, json_body(response)["code"]) == (429, "TooManyEvents")
        assert (await invoke("Ready")).status_code == 200
    await deliver_event(event(hub))


# Concurrent invocations


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


# Unavailable storage


@pytest.fixture
async def unreachable_storage(
    no_settings: None, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> typing.AsyncIterator[None]:
    monkeypatch.setenv(STATE_STORAGE, emulator_connection_string("127.0.0.1", free_port()))
    yield
    await function_app.server().close()


async def test_without_storage_the_trigger_raises_so_that_event_grid_delivers_the_event_again(
    unreachable_storage: None, hub: str
) -> None:
    with pytest.raises(StorageUnavailable):
        await deliver_event(event(hub))


async def test_without_storage_the_functions_respond_with_503_and_retry_after(
    unreachable_storage: None, hub: str
) -> None:
    for response in (await invoke("PostEvents", [event(hub)]), await invoke("Ready")):
        assert (response.status_code, json_body(response)["code"]) == (503, "StorageUnavailable")
        assert media_type(response) == PROBLEM_MEDIA_TYPE
        assert int(response.headers["Retry-After"]) > 0
    assert (await invoke("Health")).status_code == 200
