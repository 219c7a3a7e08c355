"""The Event Grid trigger on the real host: what it takes, what it answers, and what it does to instance ids."""

import json
from typing import Any

import httpx
import pytest

from tests.builders import cloud_event, event
from tests.conftest import new_hub_name
from tests.platform.function_app.server_keys import KEYS
from tests.platform.functions_host import DURABLE_TASK_KEY, EVENT_GRID_KEY, FUNCTION_KEY, MASTER_KEY

WEBHOOK = "/runtime/webhooks/EventGrid"
FUNCTION = "RecordLifecycleEvent"
JSON = "application/json"
CLOUD_EVENT = "application/cloudevents+json; charset=utf-8"
CLOUD_EVENTS = "application/cloudevents-batch+json; charset=utf-8"
VALIDATION = {
    "id": "1",
    "topic": "t",
    "subject": "",
    "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
    "eventTime": "2026-11-20T09:30:00Z",
    "data": {"validationCode": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6"},
    "dataVersion": "1",
    "metadataVersion": "1",
}

REWRITTEN = {
    "2026-11-27T00:00:00+02:00": "2026-11-26T22:00:00+00:00",
    "2026-11-27T00:00:00.10Z": "2026-11-27T00:00:00.1Z",
    "/Date(1234656000000)/": "2009-02-15T00:00:00Z",
}
"""Instance ids that the trigger changes, and what arrives."""
KEPT = ("2026-11-27", "2026-11-27T00:00:00Z", "2026-11-27T00:00:00.1234567Z", "2026-11-27 00:00:00Z", "20261127")


def deliver(
    client: httpx.Client,
    body: Any,
    kind: str = "Notification",
    code: str | None = EVENT_GRID_KEY,
    content_type: str = JSON,
    function: str = FUNCTION,
) -> httpx.Response:
    """Send a delivery as Event Grid does."""
    return client.post(
        WEBHOOK,
        params={"functionName": function} | ({} if code is None else {"code": code}),
        content=json.dumps(body),
        headers={"content-type": content_type, "aeg-event-type": kind},
    )


def recorded(admin: httpx.Client, hub: str) -> list[str]:
    """The ids of the instances on record."""
    page = admin.get(f"/api/taskhubs/{hub}/instances", params={"top": 1000})
    if page.status_code == 404:
        return []
    return sorted(instance["instanceId"] for instance in page.json()["instances"])


def test_a_single_event_and_a_batch_are_recorded_before_they_are_acknowledged(
    admin: httpx.Client, anonymous: httpx.Client, hub: str
) -> None:
    answer = deliver(anonymous, [event(hub, "single")])
    assert (answer.status_code, answer.content) == (202, b"")
    assert recorded(admin, hub) == ["single"]
    many = [event(hub, f"order-{number}") for number in range(500)]
    assert deliver(anonymous, many).status_code == 202
    assert recorded(admin, hub) == sorted(["single", *(one["data"]["instanceId"] for one in many)])


def test_cloudevents_are_recorded_one_by_one_and_in_batches(
    admin: httpx.Client, anonymous: httpx.Client, hub: str
) -> None:
    assert deliver(anonymous, cloud_event(hub, "one"), content_type=CLOUD_EVENT).status_code == 202
    batch = [cloud_event(hub, "two"), cloud_event(hub, "three")]
    assert deliver(anonymous, batch, content_type=CLOUD_EVENTS).status_code == 202
    assert recorded(admin, hub) == ["one", "three", "two"]


def test_a_delivery_without_its_type_is_refused(admin: httpx.Client, anonymous: httpx.Client, hub: str) -> None:
    params = {"functionName": FUNCTION, "code": EVENT_GRID_KEY}
    assert anonymous.post(WEBHOOK, params=params, json=[event(hub)]).status_code == 400
    assert recorded(admin, hub) == []


def test_the_host_answers_both_handshakes_itself(anonymous: httpx.Client) -> None:
    answer = deliver(anonymous, [VALIDATION], "SubscriptionValidation")
    assert (answer.status_code, answer.json()) == (200, {"validationResponse": VALIDATION["data"]["validationCode"]})  # type: ignore[index]
    params = {"functionName": FUNCTION, "code": EVENT_GRID_KEY}
    options = anonymous.options(WEBHOOK, params=params, headers={"WebHook-Request-Origin": "eventgrid.azure.net"})
    assert (options.status_code, options.headers["webhook-allowed-origin"]) == (200, "eventgrid.azure.net")


def test_only_the_platforms_system_key_and_its_master_key_open_the_trigger(
    admin: httpx.Client, anonymous: httpx.Client, hub: str
) -> None:
    for key in (None, "", "not-a-key", *KEYS.values()):
        refused = deliver(anonymous, [event(hub)], code=key)
        assert (refused.status_code, refused.content) == (401, b"")
        assert deliver(anonymous, [VALIDATION], "SubscriptionValidation", key).status_code == 401
    for key in (FUNCTION_KEY, DURABLE_TASK_KEY):
        refused = deliver(anonymous, [event(hub)], code=key)
        assert (refused.status_code, refused.content) == (403, b"")
    assert recorded(admin, hub) == []
    assert deliver(anonymous, [event(hub, "by-master-key")], code=MASTER_KEY).status_code == 202
    assert recorded(admin, hub) == ["by-master-key"]


def test_no_other_function_takes_deliveries(anonymous: httpx.Client) -> None:
    for function in ("PostEvents", "PutApp", "ProbeTaskHubs", "Nothing"):
        assert deliver(anonymous, [event(new_hub_name())], function=function).status_code == 404


def test_what_cannot_be_understood_is_acknowledged_and_goes_to_quarantine(
    admin: httpx.Client, anonymous: httpx.Client, hub: str
) -> None:
    unknown = event(hub)
    unknown["data"]["runtimeStatus"] = "Paused"
    assert deliver(anonymous, [unknown]).status_code == 202
    kept = admin.get("/api/quarantine", params={"top": 1000}).json()["events"]
    (found,) = [one for one in kept if unknown["id"] in one["event"]]
    assert (found["code"], found["endpointType"]) == ("UnknownStatus", "trigger")


@pytest.mark.parametrize("schema", ["Event Grid", "CloudEvents"])
def test_the_trigger_changes_ids_that_look_like_dates(
    admin: httpx.Client, anonymous: httpx.Client, hub: str, schema: str
) -> None:
    """The host parses the event before the server gets it: docs/azure.md recommends the webhook for such apps."""
    for instance_id in (*REWRITTEN, *KEPT):
        if schema == "CloudEvents":
            answer = deliver(anonymous, cloud_event(hub, instance_id), content_type=CLOUD_EVENT)
        else:
            answer = deliver(anonymous, [event(hub, instance_id)])
        assert answer.status_code == 202
    assert recorded(admin, hub) == sorted([*REWRITTEN.values(), *KEPT])


@pytest.mark.parametrize("schema", ["Event Grid", "CloudEvents"])
def test_the_webhook_records_ids_that_look_like_dates_as_they_come(admin: httpx.Client, hub: str, schema: str) -> None:
    made = cloud_event if schema == "CloudEvents" else event
    key_header = [made(hub, instance_id) for instance_id in (*REWRITTEN, *KEPT)]
    content_type = CLOUD_EVENTS if schema == "CloudEvents" else JSON
    answer = admin.post("/api/events", content=json.dumps(key_header), headers={"content-type": content_type})
    assert answer.json() == {"recorded": len(key_header), "unchanged": 0, "quarantined": 0}
    assert recorded(admin, hub) == sorted([*REWRITTEN, *KEPT])
