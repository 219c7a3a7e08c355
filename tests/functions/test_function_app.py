"""function_app.py under the installed azure-functions: what it indexes, and what its functions do when invoked."""

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
from dev.local import free_port
from state_api.app import openapi_document
from state_api.domain.errors import StorageUnavailable, TooManyEvents
from state_api.http.middleware import security_headers
from state_api.http.problems import MEDIA_TYPE
from state_api.services.admission import CAPACITY
from state_api.services.background import INTERVAL_SECONDS
from state_api.settings import (
    DEVELOPMENT_STORAGE,
    KEYS,
    SHARDS,
    STORAGE,
    SettingsError,
    StorageSettings,
    emulator_connection,
)
from state_api.storage import tables, transactions
from tests import recordings
from tests.builders import at, cloud_event, event
from tests.functions.calls import ADMIN_KEY, HOST, TIMER, TRIGGER, call, content, deliver, functions, media_type
from tests.keys import key_entry
from tests.taskhubs.provider import ProviderHub

pytestmark = pytest.mark.anyio

REPOSITORY = Path(function_app.__file__).parent
SAMPLES = REPOSITORY / "tests" / "samples"
NESTED = "[" * 99_999

ISOLATED = """
import os, sys

def forbid(event, arguments):
    written = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if written or event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork")):
        raise RuntimeError(f"{event} {arguments}")

sys.addaudithook(forbid)
import function_app
print(len(function_app.app.get_functions()))
"""


def http_functions() -> dict[str, Any]:
    return {name: function for name, function in functions().items() if name not in (TRIGGER, TIMER)}


def sample(name: str, hub: str) -> Any:
    """A recorded delivery, or one of Event Grid's own, with its task hub renamed so that tests keep apart."""
    if name in {*recordings.DELIVERIES, "continue-as-new"}:
        return recordings.delivery(name, hub)
    return json.loads((SAMPLES / f"{name}.json").read_text().replace('"v41"', f'"{hub}"'))


# Indexing


async def test_the_functions_are_the_operations_of_the_contract_and_the_triggers(hosted: None) -> None:
    """Name, path and methods of each are those that OpenAPI shows; events takes the CloudEvents handshake too."""
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
    assert functions()[TRIGGER].get_trigger().type == "eventGridTrigger"
    assert functions()[TIMER].get_trigger().type == "timerTrigger"
    assert functions()[TIMER].get_trigger().schedule == f"*/{INTERVAL_SECONDS} * * * * *"


def test_every_name_and_every_pair_of_route_and_method_is_unique() -> None:
    names = Counter(name for name, _, _ in function_app.OPERATIONS)
    pairs = Counter((route, method) for _, methods, route in function_app.OPERATIONS for method in methods)
    assert set((names + pairs).values()) == {1}
    assert set(names) == set(http_functions())


def test_every_function_has_a_handler_of_its_own() -> None:
    handlers = {function.get_user_function() for function in functions().values()}
    assert len(handlers) == len(functions())


def test_every_http_function_is_anonymous_to_the_platform_because_the_servers_own_keys_decide() -> None:
    levels = {function.get_trigger().auth_level for function in http_functions().values()}
    assert levels == {func.AuthLevel.ANONYMOUS}


def test_importing_and_indexing_needs_no_settings_and_does_no_io() -> None:
    """In a process without environment that may open no socket, start no process and write no file."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", ISOLATED], cwd=REPOSITORY, env={}, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == (str(len(functions())), "")


WRONG_SETTINGS = [
    ({}, "set STATE_STORAGE"),
    ({STORAGE: "no connection string"}, "STATE_STORAGE is not a storage connection string"),
    ({STORAGE: "AccountName=state"}, "lacks an account or a key"),
    ({f"{STORAGE}__tableServiceUri": "state"}, "must be the address of a table service"),
    ({STORAGE: DEVELOPMENT_STORAGE, KEYS: "[{}]"}, "STATE_KEYS must be a JSON list"),
    ({STORAGE: DEVELOPMENT_STORAGE, KEYS: "@Microsoft.KeyVault(SecretUri=https://v.vault.azure.net/s)"}, "Key Vault"),
    ({STORAGE: "@Microsoft.KeyVault(VaultName=v;SecretName=s)"}, "STATE_STORAGE is a Key Vault reference"),
    ({STORAGE: DEVELOPMENT_STORAGE, SHARDS: "none"}, "STATE_SHARDS must be a number"),
]


@pytest.mark.parametrize(("settings", "reason"), WRONG_SETTINGS)
async def test_with_a_wrong_setting_health_answers_and_everything_else_says_what_is_wrong(
    unset: None, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], reason: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    health = await call("Health")
    assert (health.status_code, content(health)) == (200, {"status": "Healthy"})
    for name in http_functions().keys() - {"Health"}:
        answer = await call(name, app="shop", hub="v41")
        assert (answer.status_code, answer.mimetype) == (503, MEDIA_TYPE)
        assert content(answer)["code"] == "SettingsInvalid"
        assert reason in content(answer)["detail"]
        assert int(answer.headers["Retry-After"]) > 0
        assert security_headers("http").items() <= dict(answer.headers).items()
    with pytest.raises(SettingsError, match=reason):
        await deliver(event("v41"))


async def test_settings_that_were_wrong_are_read_again(
    unset: None, storage: StorageSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await call("Ready")).status_code == 503
    assert storage.connection_string is not None
    monkeypatch.setenv(STORAGE, storage.connection_string.get_secret_value())
    assert (await call("Ready")).status_code == 200
    await function_app.server().close()


@pytest.mark.parametrize("keys", ["", "[]"])
async def test_without_keys_every_operation_but_health_is_refused_and_events_of_the_trigger_are_recorded(
    hosted: None, hub: str, monkeypatch: pytest.MonkeyPatch, keys: str
) -> None:
    monkeypatch.setenv(KEYS, keys)
    assert (await call("Health")).status_code == 200
    for name in http_functions().keys() - {"Health"}:
        answer = await call(name, app="shop", hub=hub)
        assert (answer.status_code, content(answer)["code"]) == (503, "KeysNotConfigured")
        assert "set the app setting STATE_KEYS" in content(answer)["detail"]
    (running,) = sample("running", hub)
    await deliver(running)
    await function_app.server().close()
    function_app.server.cache_clear()
    monkeypatch.setenv(KEYS, json.dumps([key_entry(ADMIN_KEY, "admin")]))
    assert content(await call("GetTaskHub", hub=hub))["activeCount"] == 1


async def test_a_key_that_the_server_does_not_know_is_refused_by_the_server_itself(hosted: None) -> None:
    for key in ("", "a-host-key-of-the-function-app"):
        answer = await call("ListApps", key=key)
        assert (answer.status_code, content(answer)["code"]) == (401, "Unauthorized")


# HTTP functions


async def test_a_whole_release_runs_through_the_functions(hosted: None, storage: StorageSettings, app: str) -> None:
    """Every operation of an app once, each through the function of its name."""
    old, new = f"{app.replace('-', '')}v1", f"{app.replace('-', '')}v2"
    slots = {"production": {"taskHub": old, "version": "1"}, "staging": None}
    seen = set()

    async def ask(name: str, *arguments: Any, **named: Any) -> Any:
        seen.add(name)
        answer = await call(name, *arguments, **named)
        assert answer.status_code == 200, answer.get_body()
        assert media_type(answer) == "application/json"
        return content(answer)

    assert await ask("Health") == {"status": "Healthy"}
    assert await ask("Ready") == {"status": "Ready"}
    assert (await ask("GetOpenApi"))["info"]["title"] == "Task hub state"
    registered = await ask("PutApp", {"slots": slots, "policy": {"settleSeconds": 0}}, app=app)
    assert registered["slots"]["production"]["taskHub"] == old
    assert await ask("PostEvents", [event(old, "order-1")]) == {"recorded": 1, "unchanged": 0, "quarantined": 0}
    assert (await ask("GetTaskHub", hub=old))["activeCount"] == 1
    assert [one["instanceId"] for one in (await ask("ListInstances", hub=old))["instances"]] == ["order-1"]
    staged = await ask("PostStaging", {"taskHub": new, "version": "2"}, app=app)
    assert staged["deployment"]["taskHub"] == new
    assert (await ask("DeleteStaging", query={"taskHub": new}, app=app))["deployment"] is None
    swapped = await ask("PostSwap", {"taskHub": new}, app=app)
    assert {name: slot["taskHub"] for name, slot in swapped["slots"].items()} == {"production": new, "staging": old}
    verdict = await ask("GetStagingStatus", app=app)
    assert (verdict["taskHub"], verdict["ready"], verdict["activeCount"]) == (old, False, 1)
    waiver = {"taskHub": old, "instanceId": "order-1", "reason": "stuck", "expiresAt": at(3600)}
    assert (await ask("PostWaiver", waiver, app=app))["waivers"][0]["instanceId"] == "order-1"
    assert (await ask("DeleteWaiver", query={"taskHub": old, "instanceId": "order-1"}, app=app))["waivers"] == []
    async with ProviderHub(storage, old) as provider:
        await (await provider.create()).put("order-1", "Running", version="1.0")
    await ask("PutApp", {"taskHubs": {"provider": "azureStorage", "connection": STORAGE}}, app=app)
    assert (await ask("GetVersions", hub=old))["versions"][0]["version"] == "1.0"
    assert (await ask("Cleanup", {"dryRun": True}, app=app))["taskHubs"] == []
    assert (await ask("GetApp", app=app))["slots"] == swapped["slots"]
    assert app in [one["app"] for one in (await ask("ListApps", query={"top": 1000}))["apps"]]
    assert len((await ask("GetHistory", app=app))["history"]) == 7
    assert "events" in await ask("ListQuarantine")
    await ask("PostEvents", [event(f"{old}unclaimed", "order-1", "Completed", at(-3600))])
    assert (await call("DeleteTaskHub", hub=f"{old}unclaimed")).status_code == 409, "it is settling"
    assert (await call("DeleteApp", app=app)).status_code == 409, "an instance is active"
    seen |= {"DeleteTaskHub", "DeleteApp"}
    assert "removed" in await ask("PurgeQuarantine", query={"before": "2020-01-01"})
    assert seen == set(http_functions())


async def test_the_timer_probes_what_is_draining(hosted: None, storage: StorageSettings, app: str, hub: str) -> None:
    async with ProviderHub(storage, hub) as provider:
        await provider.create()
    slots = {"staging": {"taskHub": hub}}
    source = {"provider": "azureStorage", "connection": STORAGE}
    await call("PutApp", {"slots": slots, "taskHubs": source}, app=app)
    await functions()[TIMER].get_user_function()(timer=None)
    verdict = content(await call("GetStagingStatus", query={"verify": "none"}, app=app))
    assert (verdict["ready"], verdict["assurance"]) == (True, "verified")


async def test_who_calls_reaches_the_audit_log(hosted: None, app: str) -> None:
    headers = {"X-Actor": "anna", "X-Run-Url": "https://ci.example/7"}
    await call("PutApp", {"slots": {}}, headers=headers, app=app)
    (record,) = content(await call("GetHistory", app=app))["history"]
    assert (record["by"], record["runUrl"], record["keyName"]) == ("anna", "https://ci.example/7", "the-admin")


async def test_a_problem_document_keeps_its_media_type_and_headers(hosted: None, app: str) -> None:
    """AsgiMiddleware would otherwise make it text/plain."""
    answer = await call("GetApp", app=app)
    assert (answer.status_code, content(answer)["code"]) == (404, "AppNotFound")
    assert media_type(answer) == answer.mimetype == MEDIA_TYPE
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("escaped", ["x%2Fhistory", "x%2fstaging"])
async def test_an_escaped_slash_leads_to_no_other_operation(hosted: None, escaped: str) -> None:
    request = func.HttpRequest("GET", f"{HOST}/api/apps/{escaped}", body=b"", route_params={"app": escaped})
    context = cast("func.Context", SimpleNamespace(function_name="GetApp", invocation_id="0"))
    answer = await functions()["GetApp"].get_user_function()(req=request, context=context)
    assert (answer.status_code, content(answer)["code"]) == (404, "NotFound")
    assert security_headers("http").items() <= dict(answer.headers).items()


async def test_an_address_that_is_not_utf_8_is_refused_as_a_problem(hosted: None) -> None:
    request = func.HttpRequest("GET", f"{HOST}/api/apps/%FF", body=b"", route_params={"app": "%FF"})
    context = cast("func.Context", SimpleNamespace(function_name="GetApp", invocation_id="0"))
    answer = await functions()["GetApp"].get_user_function()(req=request, context=context)
    assert (answer.status_code, answer.mimetype) == (400, "application/problem+json")
    assert content(answer)["detail"] == "the address is not UTF-8"


async def test_the_cloudevents_handshake_is_answered(hosted: None) -> None:
    origin = {"WebHook-Request-Origin": "eventgrid.azure.net"}
    answer = await call("PostEvents", method="OPTIONS", headers=origin)
    assert (answer.status_code, answer.get_body()) == (200, b"")
    assert answer.headers["WebHook-Allowed-Origin"] == "eventgrid.azure.net"
    assert answer.headers["WebHook-Allowed-Rate"] == "*"


async def test_the_event_grid_handshake_is_answered(hosted: None, hub: str) -> None:
    delivery = sample("validation", hub)
    answer = await call("PostEvents", delivery, headers={"aeg-event-type": "SubscriptionValidation"})
    assert content(answer) == {"validationResponse": delivery[0]["data"]["validationCode"]}


@pytest.mark.parametrize(
    ("name", "recorded", "active"),
    [("running", 1, 1), ("completed", 1, 0), ("failed", 1, 0), ("continue-as-new", 3, 1), ("entity", 1, 0)],
)
async def test_recorded_deliveries_are_taken(hosted: None, hub: str, name: str, recorded: int, active: int) -> None:
    assert content(await call("PostEvents", sample(name, hub)))["recorded"] == recorded
    assert content(await call("GetTaskHub", hub=hub))["activeCount"] == active


async def test_a_recorded_cloudevent_is_taken(hosted: None, hub: str) -> None:
    headers = {"content-type": "application/cloudevents+json; charset=utf-8"}
    answer = await call("PostEvents", sample("cloudevent-running", hub), headers=headers)
    assert content(answer) == {"recorded": 1, "unchanged": 0, "quarantined": 0}


# The Event Grid trigger


def test_the_worker_hands_the_trigger_the_event_as_text() -> None:
    """Both conditions under which it does so: the annotation, and a binding type without output of its own."""
    handler = functions()[TRIGGER].get_user_function()
    assert typing.get_type_hints(handler) == {"event": str, "return": type(None)}
    assert EventGridEventInConverter.has_implicit_output() is False


@pytest.mark.parametrize("time", ["2026-11-20T09:30:00+02:00", "2026-11-20 09:30:00Z", "yesterday", 5])
def test_the_converter_that_the_trigger_avoids_raises_on_times_it_cannot_read(time: Any) -> None:
    """Two of them are RFC 3339. When the library reads them, `func.EventGridEvent` can be thought of again."""
    for name, made in (("eventTime", event("v41")), ("time", cloud_event("v41"))):
        with pytest.raises((ValueError, TypeError)):
            EventGridEventInConverter.decode(Datum(json.dumps(made | {name: time}), "json"), trigger_metadata={})


def test_the_converter_that_the_trigger_avoids_has_a_type_for_each_schema_and_cuts_times() -> None:
    time = "2026-11-20T09:30:00.1234567Z"
    grid, cloud = (
        EventGridEventInConverter.decode(Datum(json.dumps(made), "json"), trigger_metadata={})
        for made in (event("v41", time=time), cloud_event("v41") | {"time": time})
    )
    assert isinstance(grid, func.EventGridEvent)
    assert isinstance(cloud, func.CloudEvent)
    assert not hasattr(cloud, "event_time")
    assert grid.event_time == cloud.time
    assert str(grid.event_time) == "2026-11-20 09:30:00.123456+00:00"


async def test_the_trigger_records_an_event_once_with_all_digits_of_its_time(hosted: None, hub: str) -> None:
    (running,) = sample("running", hub)
    for _ in range(2):
        await deliver(running)
    (instance,) = content(await call("ListInstances", hub=hub))["instances"]
    assert instance["instanceId"] == running["data"]["instanceId"]
    assert instance["startedAt"] == running["eventTime"]
    again = content(await call("PostEvents", [running]))
    assert again == {"recorded": 0, "unchanged": 1, "quarantined": 0}


@pytest.mark.parametrize("time", ["2026-11-20T09:30:00.1234567Z", "2026-11-20T11:30:00.1234567+02:00"])
async def test_the_trigger_records_a_cloudevent(hosted: None, hub: str, time: str) -> None:
    await deliver(sample("cloudevent-running", hub) | {"time": time})
    (instance,) = content(await call("ListInstances", hub=hub))["instances"]
    assert instance["startedAt"] == "2026-11-20T09:30:00.1234567Z"


async def test_the_trigger_records_an_entity_that_is_never_active(hosted: None, hub: str) -> None:
    (entity,) = sample("entity", hub)
    await deliver(entity)
    (instance,) = content(await call("ListInstances", hub=hub))["instances"]
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
async def test_what_the_trigger_cannot_understand_goes_to_quarantine_and_does_not_come_back(
    hosted: None, hub: str, unreadable: dict[str, Any], code: str
) -> None:
    made = event(hub)
    made |= unreadable | ({"data": made["data"] | unreadable["data"]} if unreadable.get("data") else {})
    await deliver(made)
    kept = content(await call("ListQuarantine", query={"top": 1000}))["events"]
    (found,) = [one for one in kept if made["id"] in one["event"]]
    assert (found["code"], found["source"]) == (code, "trigger")
    assert json.loads(found["event"]) == made


@pytest.mark.parametrize(
    ("text", "kept_as"), [("", '""'), ("no JSON", '"no JSON"'), (NESTED, f'"{NESTED}"'), ("[]", "[]")]
)
async def test_what_is_no_event_at_all_goes_to_quarantine_too(hosted: None, text: str, kept_as: str) -> None:
    before = content(await call("ListQuarantine", query={"top": 1000}))["events"]
    await functions()[TRIGGER].get_user_function()(event=text)
    after = content(await call("ListQuarantine", query={"top": 1000}))["events"]
    (kept,) = [one for one in after if one not in before]
    assert (kept["code"], kept["event"]) == ("NotAnEvent", kept_as)


# More than there is capacity for


async def test_without_room_the_trigger_raises_so_that_event_grid_delivers_again(hosted: None, hub: str) -> None:
    intake = function_app.server().admission
    with intake.admitted(CAPACITY):
        with pytest.raises(TooManyEvents):
            await deliver(event(hub))
        answer = await call("PostEvents", [event(hub)])
        assert (answer.status_code, content(answer)["code"]) == (429, "TooManyEvents")
        assert (await call("Ready")).status_code == 200
    await deliver(event(hub))


# Many at once


async def test_single_invocations_share_transactions(hosted: None, hub: str) -> None:
    await deliver(event(hub, "first"))
    sent = 0

    async def submit(*given: Any, **options: Any) -> list[str | None]:
        nonlocal sent
        sent += 1
        return await transactions.submit(*given, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tables, "submit", submit)
        await asyncio.gather(*(deliver(event(hub, f"order-{number}")) for number in range(64)))
    # One that each of the four shards began with, and one for what came meanwhile.
    assert 1 <= sent <= 2 * 4
    page = content(await call("ListInstances", hub=hub, query={"top": 100}))
    assert len(page["instances"]) == 65


# Storage that is down


@pytest.fixture
async def storage_down(unset: None, monkeypatch: pytest.MonkeyPatch, anyio_backend: str) -> typing.AsyncIterator[None]:
    monkeypatch.setenv(STORAGE, emulator_connection("127.0.0.1", free_port()))
    yield
    await function_app.server().close()


async def test_without_storage_the_trigger_raises_so_that_event_grid_delivers_again(
    storage_down: None, hub: str
) -> None:
    with pytest.raises(StorageUnavailable):
        await deliver(event(hub))


async def test_without_storage_the_functions_answer_503_and_say_when_to_try_again(storage_down: None, hub: str) -> None:
    for answer in (await call("PostEvents", [event(hub)]), await call("Ready")):
        assert (answer.status_code, content(answer)["code"]) == (503, "StorageUnavailable")
        assert media_type(answer) == MEDIA_TYPE
        assert int(answer.headers["Retry-After"]) > 0
    assert (await call("Health")).status_code == 200
