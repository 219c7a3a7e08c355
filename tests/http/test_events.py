"""PostEvents: both schemas, both handshakes, and invalid events."""

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from state_api.app import StateServer
from state_api.domain.instants import Instant
from state_api.domain.task_hubs.lifecycle import LifecycleEvent
from state_api.services import event_parser, recording
from tests import recordings
from tests.builders import as_cloud_event, cloud_event, event, timestamp
from tests.conftest import new_hub_name
from tests.http.operations import assert_problem, post_events

pytestmark = pytest.mark.anyio

SAMPLES = Path(__file__).parent.parent / "samples"
CLOUD_EVENT_HEADERS = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
CLOUD_EVENT_BATCH_HEADERS = {"Content-Type": "application/cloudevents-batch+json"}


async def deliver(http: httpx.AsyncClient, body: Any, headers: dict[str, str] | None = None) -> Any:
    """Post a delivery of Event Grid to the webhook, and return the response's JSON."""
    response = await http.post(
        "/api/events", content=json.dumps(body), headers=headers or {"Content-Type": "application/json"}
    )
    assert response.status_code == 200, response.text
    return response.json()


async def list_instances(http: httpx.AsyncClient, hub: str) -> dict[str, Any]:
    """The instances of the task hub by their id."""
    response = await http.get(f"/api/taskhubs/{hub}/instances")
    assert response.status_code == 200, response.text
    return {instance["instanceId"]: instance for instance in response.json()["instances"]}


async def test_events_of_the_durable_functions_extension_are_recorded(http: httpx.AsyncClient, hub: str) -> None:
    assert await deliver(http, recordings.recorded_delivery("running", hub)) == {
        "recorded": 1,
        "unchanged": 0,
        "quarantined": 0,
    }
    assert (await list_instances(http, hub))["chain-3"] == {
        "instanceId": "chain-3",
        "functionName": "Chain",
        "active": True,
        "runtimeStatus": "Running",
        "startedAt": "2026-11-27T01:05:49.9919075Z",
        "finishedAt": None,
        "outcome": None,
        "reason": None,
        "lastEventAt": "2026-11-27T01:05:49.9919075Z",
        "source": "event",
    }
    # The same event as a CloudEvent is a duplicate.
    (running,) = recordings.recorded_delivery("running", hub)
    assert await deliver(http, as_cloud_event(running), CLOUD_EVENT_HEADERS) == {
        "recorded": 0,
        "unchanged": 1,
        "quarantined": 0,
    }
    for name in ("completed", "failed", "entity"):
        await deliver(http, recordings.recorded_delivery(name, hub))
    instances = await list_instances(http, hub)
    assert (instances["chain-3"]["active"], instances["chain-3"]["finishedAt"]) == (
        False,
        "2026-11-27T01:05:50.5221672Z",
    )
    assert instances["wait-fails"]["outcome"] == "Failed"
    assert instances["wait-fails"]["reason"].startswith("first line")
    assert (instances["@counter@a"]["active"], instances["@counter@a"]["runtimeStatus"]) == (False, "Running")


@pytest.mark.parametrize("backwards", [False, True])
async def test_an_instance_that_continues_as_new_stays_active_in_any_order_of_its_events(
    http: httpx.AsyncClient, hub: str, *, backwards: bool
) -> None:
    batch = recordings.recorded_delivery("continue-as-new", hub)
    for delivered in reversed(batch) if backwards else batch:
        await deliver(http, [delivered])
    assert (await list_instances(http, hub))["eternal-5"]["active"]


@pytest.mark.parametrize("form", ["array", "single", "cloud", "cloud batch", "cloud as json"])
async def test_an_event_is_recorded_in_every_form_of_delivery(http: httpx.AsyncClient, hub: str, form: str) -> None:
    bodies: dict[str, tuple[Any, dict[str, str] | None]] = {
        "array": ([event(hub)], None),
        "single": (event(hub), None),
        "cloud": (cloud_event(hub), CLOUD_EVENT_HEADERS),
        "cloud batch": ([cloud_event(hub)], CLOUD_EVENT_BATCH_HEADERS),
        "cloud as json": ([cloud_event(hub)], None),
    }
    assert await deliver(http, *bodies[form]) == {"recorded": 1, "unchanged": 0, "quarantined": 0}
    assert (await list_instances(http, hub))["order-1"]["active"]


async def test_a_binary_cloud_event_has_its_attributes_in_headers(http: httpx.AsyncClient, hub: str) -> None:
    cloud = cloud_event(hub)
    headers = {f"ce-{name}": str(value) for name, value in cloud.items() if name != "data"}
    headers["Content-Type"] = "application/json"
    assert (await deliver(http, cloud["data"], headers))["recorded"] == 1
    response = await http.post("/api/events", content=b"\xff not json", headers=headers)
    assert (response.status_code, response.json()["quarantined"]) == (200, 1)


async def test_the_data_of_a_cloud_event_may_be_in_base64(http: httpx.AsyncClient, hub: str) -> None:
    cloud = cloud_event(hub)
    cloud["data_base64"] = base64.b64encode(json.dumps(cloud.pop("data")).encode()).decode()
    assert (await deliver(http, cloud, CLOUD_EVENT_HEADERS))["recorded"] == 1
    # A number that Python cannot parse does not invalidate the event, as in plain data.
    with_long_number = cloud_event(hub, "long-number")
    text = json.dumps({**with_long_number.pop("data"), "more": 0}).replace('"more": 0', '"more": ' + "9" * 5000)
    with_long_number["data_base64"] = base64.b64encode(text.encode()).decode()
    assert (await deliver(http, with_long_number, CLOUD_EVENT_HEADERS))["recorded"] == 1
    cloud["data_base64"] = "no base64"
    assert (await deliver(http, cloud, CLOUD_EVENT_HEADERS))["quarantined"] == 1


async def test_the_validation_request_of_event_grid_is_answered(http: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json", "aeg-event-type": "SubscriptionValidation"}
    response = await http.post("/api/events", content=(SAMPLES / "validation.json").read_bytes(), headers=headers)
    assert (response.status_code, response.json()) == (
        200,
        {"validationResponse": "0f4e8a52-77c1-4a0b-9f53-d1b6c2e8a940"},
    )
    broken = [{"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {}}]
    assert_problem(await http.post("/api/events", json=broken), 400, "InvalidRequest")


async def test_the_validation_request_of_cloud_events_is_answered(http: httpx.AsyncClient) -> None:
    response = await http.options("/api/events", headers={"WebHook-Request-Origin": "eventgrid.azure.net"})
    assert response.status_code == 200
    assert response.headers["WebHook-Allowed-Origin"] == "eventgrid.azure.net"
    assert response.headers["WebHook-Allowed-Rate"] == "*"
    assert_problem(await http.options("/api/events"), 400, "InvalidRequest")


def event_without_member(hub: str, *path: str) -> dict[str, Any]:
    """A lifecycle event without the member at this path of names."""
    changed = event(hub)
    container = changed
    for name in path[:-1]:
        container = container[name]
    del container[path[-1]]
    return changed


@pytest.mark.parametrize(
    ("make_event", "code"),
    [
        (lambda hub: f"not an object of {hub}", "NotAnEvent"),
        (lambda hub: [None, hub], "NotAnEvent"),
        (lambda hub: event_without_member(hub, "data"), "NotAnEvent"),
        (lambda hub: event(hub) | {"data": "text"}, "NotAnEvent"),
        (lambda hub: event(hub) | {"eventType": "Microsoft.Storage.BlobCreated"}, "UnknownEventType"),
        (lambda hub: event_without_member(hub, "eventType"), "UnknownEventType"),
        (lambda hub: event(hub, status="Paused"), "UnknownStatus"),
        (lambda hub: event(hub, status="running"), "UnknownStatus"),
        (lambda hub: event_without_member(hub, "data", "runtimeStatus"), "UnknownStatus"),
        (lambda hub: event_without_member(hub, "data", "hubName"), "BadTaskHub"),
        (lambda hub: event("ab"), "BadTaskHub"),
        (lambda hub: event("9hub"), "BadTaskHub"),
        (lambda hub: event("hub' or PartitionKey ne '"), "BadTaskHub"),
        (lambda hub: event("h" * 46), "BadTaskHub"),
        (lambda hub: event(hub, ""), "BadInstanceId"),
        (lambda hub: event(hub, "x" * 257), "BadInstanceId"),
        (lambda hub: event(hub, "\ud800"), "BadInstanceId"),
        (lambda hub: event_without_member(hub, "data", "instanceId"), "BadInstanceId"),
        (lambda hub: event_without_member(hub, "eventTime"), "BadTime"),
        (lambda hub: event(hub, time="yesterday"), "BadTime"),
        (lambda hub: event(hub, time="2026-13-45T99:00:00Z"), "BadTime"),
        (lambda hub: event(hub, time="0001-01-01T00:00:00"), "BadTime"),
        (lambda hub: event(hub, time="9999-12-31T23:59:59.9999999Z"), "BadTime"),
        (lambda hub: event(hub, time="0001-01-01T00:00:00+14:00"), "BadTime"),
        (lambda hub: event(hub, time="9999-12-31T23:59:59-14:00"), "BadTime"),
        (lambda hub: event(hub, time=timestamp(6 * 60)), "BadTime"),
        (lambda hub: event(hub) | {"eventTime": {"deep": [[[[[[[[[[hub]]]]]]]]]]}}, "BadTime"),
        (lambda hub: event(hub) | {"eventTime": 1763700000}, "BadTime"),
    ],
)
async def test_an_invalid_event_goes_to_quarantine_and_the_others_are_recorded(
    http: httpx.AsyncClient, hub: str, make_event: Any, code: str
) -> None:
    invalid = make_event(hub)
    body = json.dumps([event(hub, "before"), invalid, event(hub, "after")])
    response = await http.post("/api/events", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()) == (200, {"recorded": 2, "unchanged": 0, "quarantined": 1})
    assert set(await list_instances(http, hub)) == {"before", "after"}
    # The text of a truncated event, which another test may have sent, is no JSON.
    complete = [kept for kept in await list_newest_quarantined(http) if not kept["truncated"]]
    matching = [kept for kept in complete if json.loads(kept["event"]) == invalid]
    assert [(kept["code"], kept["endpointType"], kept["truncated"]) for kept in matching] == [(code, "webhook", False)]


async def test_a_defect_of_the_parser_affects_only_its_own_event(
    http: httpx.AsyncClient, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No event is known to have this effect, so the test makes the parser fail."""

    def parse_event(event: Any, now: Instant) -> LifecycleEvent:
        """Parse an event as the server does, with a defect for one of them."""
        if event["data"]["instanceId"] == "defect":
            raise ZeroDivisionError
        return event_parser.parse_event(event, now)

    monkeypatch.setattr(recording, "parse_event", parse_event)
    counts = await post_events(http, event(hub, "before"), event(hub, "defect"), event(hub, "after"))
    assert counts == {"recorded": 2, "unchanged": 0, "quarantined": 1}
    quarantined = [kept for kept in await list_newest_quarantined(http) if hub in kept["event"]]
    assert [kept["code"] for kept in quarantined] == ["UnexpectedError"]


async def test_an_event_is_recorded_although_the_clock_of_the_server_is_behind(
    server: StateServer, http: httpx.AsyncClient, hub: str
) -> None:
    """As after a suspended machine resumes, when an event is the first request."""
    await post_events(http, event(hub, "before"))
    assert server.tables.clock._offset is not None
    server.tables.clock._offset -= 3600
    counts = await post_events(http, event(hub, "after"), event(hub, "invalid", time="9999-01-01T00:00:00Z"))
    assert counts == {"recorded": 1, "unchanged": 0, "quarantined": 1}


async def list_newest_quarantined(http: httpx.AsyncClient) -> Any:
    """The newest 30 events. Servers agree on the time to a second, so the last event need not be the first here."""
    return (await http.get("/api/quarantine", params={"top": 30})).json()["events"]


async def test_an_event_may_be_four_minutes_ahead(http: httpx.AsyncClient, hub: str) -> None:
    assert (await post_events(http, event(hub, time=timestamp(4 * 60))))["recorded"] == 1


@pytest.mark.parametrize("number", ["9" * 5000, "NaN", "-Infinity", "1e999"])
async def test_a_number_that_python_cannot_parse_affects_only_its_own_event(
    http: httpx.AsyncClient, hub: str, number: str
) -> None:
    body = f'[{json.dumps(event(hub))}, {{"hub": "{hub}", "number": {number}}}]'
    response = await http.post("/api/events", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()) == (200, {"recorded": 1, "unchanged": 0, "quarantined": 1})
    assert (await http.get("/api/quarantine", params={"top": 1})).status_code == 200


async def test_events_of_very_many_functions_are_all_recorded(http: httpx.AsyncClient, hub: str) -> None:
    """Every function takes an operation of a transaction, which can have 100."""
    many_functions = [event(hub, "order", time=timestamp(n / 1e4), function=f"F{n}") for n in range(120)]
    many_instances = [event(hub, f"other-{n}", function=f"G{n}") for n in range(200)]
    assert (await post_events(http, *many_functions, *many_instances))["recorded"] == 320
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 201
    restarted = [event(hub, f"other-{n}", function=f"H{n}") for n in range(200)]
    assert (await post_events(http, *restarted))["recorded"] == 200
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 201


async def test_a_batch_for_many_task_hubs_is_recorded(http: httpx.AsyncClient) -> None:
    hubs = [new_hub_name() for _ in range(40)]
    assert (await post_events(http, *(event(hub) for hub in hubs)))["recorded"] == 40
    counts = [(await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] for hub in hubs]
    assert counts == [1] * 40


async def test_the_quarantine_is_listed_page_by_page(http: httpx.AsyncClient, hub: str) -> None:
    marker = f"marker-{hub}"
    for number in range(7):
        await post_events(http, {"marker": marker, "number": number})
    numbers: list[int] = []
    token = None
    while len(numbers) < 7:
        parameters = {"top": "3"} | ({"continuationToken": token} if token else {})
        page = (await http.get("/api/quarantine", params=parameters)).json()
        numbers += [json.loads(kept["event"])["number"] for kept in page["events"] if marker in kept["event"]]
        token = page["continuationToken"]
        assert token or len(numbers) == 7
    assert numbers == list(reversed(range(7)))


async def test_a_huge_event_is_truncated_in_quarantine(http: httpx.AsyncClient) -> None:
    huge = [{"eventType": "huge", "filling": "ü" * 200_000}] * 3
    assert (await deliver(http, huge))["quarantined"] == 3
    truncated = [kept for kept in await list_newest_quarantined(http) if kept["truncated"]]
    assert [len(kept["event"]) for kept in truncated] == [300_000] * 3


async def test_a_batch_of_invalid_events_only_is_accepted(http: httpx.AsyncClient) -> None:
    assert await post_events(http, *[{"invalid": n} for n in range(250)]) == {
        "recorded": 0,
        "unchanged": 0,
        "quarantined": 250,
    }


async def test_an_empty_delivery_is_accepted(http: httpx.AsyncClient) -> None:
    assert await post_events(http) == {"recorded": 0, "unchanged": 0, "quarantined": 0}


async def test_function_names_and_reasons_are_shortened_and_duplicates_stay_duplicates(
    http: httpx.AsyncClient, hub: str
) -> None:
    failed = event(hub, status="Failed", function="F" * 300, reason="boom\x00\x1b[31m" + "x" * 5000)
    assert (await post_events(http, failed))["recorded"] == 1
    assert (await post_events(http, failed))["unchanged"] == 1
    instance = (await list_instances(http, hub))["order-1"]
    assert instance["functionName"] == "F" * 256
    assert instance["reason"].startswith("boom\ufffd\ufffd[31m")
    assert len(instance["reason"]) == 1000


async def test_only_the_first_line_of_a_reason_is_recorded(http: httpx.AsyncClient, hub: str) -> None:
    trace = "Activity 'Ship' failed: out of stock\n  File \"/home/site/wwwroot/ship.py\", line 7\n    customer='Anna'"
    failed, ended = event(hub, status="Failed", reason=trace), event(hub, "order-2", "Terminated", reason=" \n")
    # The second event is a duplicate of the first, because their first lines are equal.
    first_line_only = failed | {"data": failed["data"] | {"reason": trace.partition("\n")[0]}}
    for delivered in (failed, first_line_only, ended):
        await post_events(http, delivered)
    instances = await list_instances(http, hub)
    assert {instance_id: instance["reason"] for instance_id, instance in instances.items()} == {
        "order-1": "Activity 'Ship' failed: out of stock",
        "order-2": "",
    }


async def test_task_hub_names_that_differ_in_case_are_one_task_hub(http: httpx.AsyncClient, hub: str) -> None:
    await post_events(http, event(hub.upper(), "order-1"), event(hub, "order-2"))
    assert set(await list_instances(http, hub)) == {"order-1", "order-2"}
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 2


async def test_a_batch_of_the_largest_size_is_recorded(http: httpx.AsyncClient, hub: str) -> None:
    """More than 1 MiB of valid events, the most that Event Grid sends."""
    batch = [
        event(hub, f"order-{n % 1000}", "Completed" if n >= 1000 else "Running", time=timestamp(n / 1e4))
        for n in range(2500)
    ]
    assert len(json.dumps(batch)) > 1_048_576
    assert await post_events(http, *batch) == {"recorded": 2500, "unchanged": 0, "quarantined": 0}
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 0
    assert await post_events(http, *batch) == {"recorded": 0, "unchanged": 2500, "quarantined": 0}
