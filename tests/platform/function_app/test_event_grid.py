"""The Event Grid trigger on the real Functions host: deliveries, handshakes, keys, and changed instance ids."""

import json
from typing import Any

import httpx
import pytest

from harness.functions_host import DURABLE_TASK_KEY, EVENT_GRID_KEY, FUNCTION_KEY, MASTER_KEY
from tests.builders import cloud_event, event
from tests.conftest import new_hub_name
from tests.platform.function_app.server_keys import KEYS_BY_ROLE

WEBHOOK = "/runtime/webhooks/EventGrid"
FUNCTION = "RecordLifecycleEvent"
JSON = "application/json"
CLOUD_EVENT = "application/cloudevents+json; charset=utf-8"
CLOUD_EVENTS = "application/cloudevents-batch+json; charset=utf-8"
VALIDATION: dict[str, Any] = {
    "id": "1",
    "topic": "t",
    "subject": "",
    "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
    "eventTime": "2026-11-20T09:30:00Z",
    "data": {"validationCode": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6"},
    "dataVersion": "1",
    "metadataVersion": "1",
}

REWRITTEN_IDS = {
    "2026-11-27T00:00:00+02:00": "2026-11-26T22:00:00+00:00",
    "2026-11-27T00:00:00.10Z": "2026-11-27T00:00:00.1Z",
    "/Date(1234656000000)/": "2009-02-15T00:00:00Z",
}
"""Instance ids that the trigger changes, with what arrives."""
UNCHANGED_IDS = (
    "2026-11-27",
    "2026-11-27T00:00:00Z",
    "2026-11-27T00:00:00.1234567Z",
    "2026-11-27 00:00:00Z",
    "20261127",
)


def deliver(
    client: httpx.Client,
    body: Any,
    *,
    delivery_type: str = "Notification",
    code: str | None = EVENT_GRID_KEY,
    content_type: str = JSON,
    function: str = FUNCTION,
) -> httpx.Response:
    """Send a delivery as Event Grid does. Without a `code` it has no key."""
    return client.post(
        WEBHOOK,
        params={"functionName": function} | ({} if code is None else {"code": code}),
        content=json.dumps(body),
        headers={"content-type": content_type, "aeg-event-type": delivery_type},
    )


def list_recorded_ids(admin: httpx.Client, hub: str) -> list[str]:
    """Return the ids of the instances that the server has recorded."""
    page = admin.get(f"/api/taskhubs/{hub}/instances", params={"top": 1000})
    if page.status_code == 404:
        return []
    return sorted(instance["instanceId"] for instance in page.json()["instances"])


def test_a_single_event_and_a_batch_are_recorded_before_they_are_acknowledged(
    admin: httpx.Client, anonymous: httpx.Client, hub: str
) -> None:
    response = deliver(anonymous, [event(hub, "single")])
    assert (response.status_code, response.content) == (202, b"")
    assert list_recorded_ids(admin, hub) == ["single"]
    many = [event(hub, f"order-{number}") for number in range(500)]
    assert deliver(anonymous, many).status_code == 202
    assert list_recorded_ids(admin, hub) == sorted(["single", *(sent["data"]["instanceId"] for sent in many)])


def test_cloudevents_are_recorded_one_by_one_and_in_batches(
    admin: httpx.Client, anonymous: httpx.Client, hub: str
) -> None:
    assert deliver(anonymous, cloud_event(hub, "one"), content_type=CLOUD_EVENT).status_code == 202
    batch = [cloud_event(hub, "two"), cloud_event(hub, "three")]
    assert deliver(anonymous, batch, content_type=CLOUD_EVENTS).status_code == 202
    assert list_recorded_ids(admin, hub) == ["one", "three", "two"]


def test_a_delivery_without_the_type_header_is_refused(admin: httpx.Client, anonymous: httpx.Client, hub: str) -> None:
    params = {"functionName": FUNCTION, "code": EVENT_GRID_KEY}
    assert anonymous.post(WEBHOOK, params=params, json=[event(hub)]).status_code == 400
    assert list_recorded_ids(admin, hub) == []


def test_the_host_answers_both_handshakes_itself(anonymous: httpx.Client) -> None:
    response = deliver(anonymous, [VALIDATION], delivery_type="SubscriptionValidation")
    assert (response.status_code, response.json()) == (
        200,
        {"validationResponse": VALIDATION["data"]["validationCode"]},
    )
    params = {"functionName": FUNCTION, "code": EVENT_GRID_KEY}
    options = anonymous.options(WEBHOOK, params=params, headers={"WebHook-Request-Origin": "eventgrid.azure.net"})
    assert (options.status_code, options.headers["webhook-allowed-origin"]) == (200, "eventgrid.azure.net")


def test_the_trigger_accepts_only_the_platforms_system_key_and_master_key(
    admin: httpx.Client, anonymous: httpx.Client, hub: str
) -> None:
    for key in (None, "", "not-a-key", *KEYS_BY_ROLE.values()):
        refused = deliver(anonymous, [event(hub)], code=key)
        assert (refused.status_code, refused.content) == (401, b"")
        handshake = deliver(anonymous, [VALIDATION], delivery_type="SubscriptionValidation", code=key)
        assert handshake.status_code == 401
    for key in (FUNCTION_KEY, DURABLE_TASK_KEY):
        refused = deliver(anonymous, [event(hub)], code=key)
        assert (refused.status_code, refused.content) == (403, b"")
    assert list_recorded_ids(admin, hub) == []
    assert deliver(anonymous, [event(hub, "by-master-key")], code=MASTER_KEY).status_code == 202
    assert list_recorded_ids(admin, hub) == ["by-master-key"]


def test_no_other_function_accepts_deliveries(anonymous: httpx.Client) -> None:
    for function in ("PostEvents", "PutApp", "ProbeTaskHubs", "Nothing"):
        assert deliver(anonymous, [event(new_hub_name())], function=function).status_code == 404


def test_an_invalid_event_is_acknowledged_and_goes_to_quarantine(
    admin: httpx.Client, anonymous: httpx.Client, hub: str
) -> None:
    unknown = event(hub)
    unknown["data"]["runtimeStatus"] = "Paused"
    assert deliver(anonymous, [unknown]).status_code == 202
    quarantined = admin.get("/api/quarantine", params={"top": 1000}).json()["events"]
    (entry,) = [entry for entry in quarantined if unknown["id"] in entry["event"]]
    assert (entry["code"], entry["endpointType"]) == ("UnknownStatus", "trigger")


@pytest.mark.parametrize("schema", ["Event Grid", "CloudEvents"])
def test_the_trigger_changes_ids_that_look_like_dates(
    admin: httpx.Client, anonymous: httpx.Client, hub: str, schema: str
) -> None:
    """The host parses the event before the server receives it. docs/azure.md recommends the webhook for such apps."""
    for instance_id in (*REWRITTEN_IDS, *UNCHANGED_IDS):
        if schema == "CloudEvents":
            response = deliver(anonymous, cloud_event(hub, instance_id), content_type=CLOUD_EVENT)
        else:
            response = deliver(anonymous, [event(hub, instance_id)])
        assert response.status_code == 202
    assert list_recorded_ids(admin, hub) == sorted([*REWRITTEN_IDS.values(), *UNCHANGED_IDS])


@pytest.mark.parametrize("schema", ["Event Grid", "CloudEvents"])
def test_the_webhook_does_not_change_ids_that_look_like_dates(admin: httpx.Client, hub: str, schema: str) -> None:
    build_event = cloud_event if schema == "CloudEvents" else event
    events = [build_event(hub, instance_id) for instance_id in (*REWRITTEN_IDS, *UNCHANGED_IDS)]
    content_type = CLOUD_EVENTS if schema == "CloudEvents" else JSON
    response = admin.post("/api/events", content=json.dumps(events), headers={"content-type": content_type})
    assert response.json() == {"recorded": len(events), "unchanged": 0, "quarantined": 0}
    assert list_recorded_ids(admin, hub) == sorted([*REWRITTEN_IDS, *UNCHANGED_IDS])
