"""The Event Grid trigger of function_app.py: which events it records, puts into quarantine, or leaves to a retry."""

import json
import typing
from typing import Any

import azure.functions as func
import pytest
from azure.functions.eventgrid import EventGridEventInConverter
from azure.functions.meta import Datum

import function_app
from state_api.domain.errors import StorageUnavailable, TooManyEvents
from state_api.services.admission import CAPACITY_BYTES
from tests.builders import cloud_event, event
from tests.functions.invocations import (
    EVENT_GRID_FUNCTION,
    deliver_event,
    deliver_text,
    indexed_functions,
    invoke,
    json_body,
    sample_delivery,
)

pytestmark = pytest.mark.anyio

DEEPLY_NESTED_JSON = "[" * 99_999


def test_the_worker_passes_the_event_to_the_trigger_as_text() -> None:
    """The worker passes text if the parameter has the annotation `str` and the binding has no implicit output."""
    handler = indexed_functions()[EVENT_GRID_FUNCTION].get_user_function()
    assert typing.get_type_hints(handler) == {"event": str, "return": type(None)}
    assert EventGridEventInConverter.has_implicit_output() is False


@pytest.mark.parametrize("time", ["2026-11-20T09:30:00+02:00", "2026-11-20 09:30:00Z", "yesterday", 5])
def test_the_converter_of_the_library_cannot_parse_some_times(time: Any) -> None:
    """Two of these times are valid in RFC 3339.

    Once the library parses them, this test fails, and the trigger can use `func.EventGridEvent`.
    """
    for member, event_json in (("eventTime", event("v41")), ("time", cloud_event("v41"))):
        with pytest.raises((ValueError, TypeError)):
            EventGridEventInConverter.decode(
                Datum(json.dumps(event_json | {member: time}), "json"), trigger_metadata={}
            )


def test_the_converter_of_the_library_returns_a_class_for_each_schema_and_cuts_times_to_microseconds() -> None:
    time = "2026-11-20T09:30:00.1234567Z"
    grid_event, cloud_schema_event = (
        EventGridEventInConverter.decode(Datum(json.dumps(event_json), "json"), trigger_metadata={})
        for event_json in (event("v41", time=time), cloud_event("v41") | {"time": time})
    )
    assert isinstance(grid_event, func.EventGridEvent)
    assert isinstance(cloud_schema_event, func.CloudEvent)
    assert not hasattr(cloud_schema_event, "event_time")
    assert grid_event.event_time == cloud_schema_event.time
    assert str(grid_event.event_time) == "2026-11-20 09:30:00.123456+00:00"


async def test_the_trigger_records_a_repeated_event_once_with_all_digits_of_its_time(
    function_app_settings: None, hub: str
) -> None:
    (running,) = sample_delivery("running", hub)
    for _ in range(2):
        await deliver_event(running)
    (instance,) = json_body(await invoke("ListInstances", hub=hub))["instances"]
    assert instance["instanceId"] == running["data"]["instanceId"]
    assert instance["startedAt"] == running["eventTime"]
    repeated_response = json_body(await invoke("PostEvents", [running]))
    assert repeated_response == {"recorded": 0, "unchanged": 1, "quarantined": 0}


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
    ("invalid_members", "code"),
    [
        ({"data": {"runtimeStatus": "Paused"}}, "UnknownStatus"),
        ({"eventTime": "yesterday"}, "BadTime"),
        ({"eventTime": 5}, "BadTime"),
        ({"data": None}, "NotAnEvent"),
        ({"eventType": "Microsoft.Storage.BlobCreated"}, "UnknownEventType"),
    ],
)
async def test_an_event_that_the_trigger_cannot_parse_goes_to_quarantine_and_is_not_retried(
    function_app_settings: None, hub: str, invalid_members: dict[str, Any], code: str
) -> None:
    event_json = event(hub)
    if data_members := invalid_members.get("data"):
        invalid_members = {"data": event_json["data"] | data_members}
    event_json |= invalid_members
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
    await deliver_text(text)
    after = json_body(await invoke("ListQuarantine", query={"top": 1000}))["events"]
    (added,) = [quarantined for quarantined in after if quarantined not in before]
    assert (added["code"], added["event"]) == ("NotAnEvent", stored_text)


async def test_the_trigger_raises_without_capacity_so_that_event_grid_delivers_the_event_again(
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


async def test_the_trigger_raises_without_storage_so_that_event_grid_delivers_the_event_again(
    unreachable_storage: None, hub: str
) -> None:
    with pytest.raises(StorageUnavailable):
        await deliver_event(event(hub))
