"""PostEvents: both schemas, both handshakes, and what becomes of events that cannot be understood."""

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
    answer = await http.post(
        "/api/events", content=json.dumps(body), headers=headers or {"Content-Type": "application/json"}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


async def list_instances(http: httpx.AsyncClient, hub: str) -> dict[str, Any]:
    answer = await http.get(f"/api/taskhubs/{hub}/instances")
    assert answer.status_code == 200, answer.text
    return {one["instanceId"]: one for one in answer.json()["instances"]}


async def test_what_the_extension_posts_is_recorded_as_it_is(http: httpx.AsyncClient, hub: str) -> None:
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
    # The same event as a CloudEvent says nothing new.
    (running,) = recordings.recorded_delivery("running", hub)
    assert await deliver(http, as_cloud_event(running), CLOUD_EVENT_HEADERS) == {
        "recorded": 0,
        "unchanged": 1,
        "quarantined": 0,
    }
    for name in ("completed", "failed", "entity"):
        await deliver(http, recordings.recorded_delivery(name, hub))
    known = await list_instances(http, hub)
    assert (known["chain-3"]["active"], known["chain-3"]["finishedAt"]) == (False, "2026-11-27T01:05:50.5221672Z")
    assert known["wait-fails"]["outcome"] == "Failed"
    assert known["wait-fails"]["reason"].startswith("first line")
    assert (known["@counter@a"]["active"], known["@counter@a"]["runtimeStatus"]) == (False, "Running")


@pytest.mark.parametrize("backwards", [False, True])
async def test_continue_as_new_stays_active_in_any_order(http: httpx.AsyncClient, hub: str, backwards: bool) -> None:
    batch = recordings.recorded_delivery("continue-as-new", hub)
    for one in reversed(batch) if backwards else batch:
        await deliver(http, [one])
    assert (await list_instances(http, hub))["eternal-5"]["active"]


@pytest.mark.parametrize("source", ["array", "single", "cloud", "cloud batch", "cloud as json"])
async def test_every_way_of_writing_an_event_is_the_same_event(http: httpx.AsyncClient, hub: str, source: str) -> None:
    bodies: dict[str, tuple[Any, dict[str, str] | None]] = {
        "array": ([event(hub)], None),
        "single": (event(hub), None),
        "cloud": (cloud_event(hub), CLOUD_EVENT_HEADERS),
        "cloud batch": ([cloud_event(hub)], CLOUD_EVENT_BATCH_HEADERS),
        "cloud as json": ([cloud_event(hub)], None),
    }
    assert await deliver(http, *bodies[source]) == {"recorded": 1, "unchanged": 0, "quarantined": 0}
    assert (await list_instances(http, hub))["order-1"]["active"]


async def test_a_binary_cloud_event_has_its_attributes_in_headers(http: httpx.AsyncClient, hub: str) -> None:
    whole = cloud_event(hub)
    headers = {f"ce-{name}": str(value) for name, value in whole.items() if name != "data"}
    headers["Content-Type"] = "application/json"
    assert (await deliver(http, whole["data"], headers))["recorded"] == 1
    answer = await http.post("/api/events", content=b"\xff not json", headers=headers)
    assert (answer.status_code, answer.json()["quarantined"]) == (200, 1)


async def test_a_cloud_event_may_carry_its_data_encoded(http: httpx.AsyncClient, hub: str) -> None:
    whole = cloud_event(hub)
    whole["data_base64"] = base64.b64encode(json.dumps(whole.pop("data")).encode()).decode()
    assert (await deliver(http, whole, CLOUD_EVENT_HEADERS))["recorded"] == 1
    # A number that Python does not take costs the event as little here as it does in plain data.
    odd = cloud_event(hub, "odd")
    text = json.dumps({**odd.pop("data"), "more": 0}).replace('"more": 0', '"more": ' + "9" * 5000)
    odd["data_base64"] = base64.b64encode(text.encode()).decode()
    assert (await deliver(http, odd, CLOUD_EVENT_HEADERS))["recorded"] == 1
    whole["data_base64"] = "no base64"
    assert (await deliver(http, whole, CLOUD_EVENT_HEADERS))["quarantined"] == 1


async def test_event_grids_handshake_is_answered(http: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json", "aeg-event-type": "SubscriptionValidation"}
    answer = await http.post("/api/events", content=(SAMPLES / "validation.json").read_bytes(), headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"validationResponse": "0f4e8a52-77c1-4a0b-9f53-d1b6c2e8a940"})
    broken = [{"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {}}]
    assert_problem(await http.post("/api/events", json=broken), 400, "InvalidRequest")


async def test_the_handshake_of_cloud_events_is_answered(http: httpx.AsyncClient) -> None:
    answer = await http.options("/api/events", headers={"WebHook-Request-Origin": "eventgrid.azure.net"})
    assert answer.status_code == 200
    assert answer.headers["WebHook-Allowed-Origin"] == "eventgrid.azure.net"
    assert answer.headers["WebHook-Allowed-Rate"] == "*"
    assert_problem(await http.options("/api/events"), 400, "InvalidRequest")


def event_without_member(hub: str, *path: str) -> dict[str, Any]:
    whole = event(hub)
    place = whole
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    return whole


@pytest.mark.parametrize(
    ("make", "code"),
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
async def test_what_cannot_be_understood_is_kept_and_holds_nothing_up(
    http: httpx.AsyncClient, hub: str, make: Any, code: str
) -> None:
    bad = make(hub)
    body = json.dumps([event(hub, "before"), bad, event(hub, "after")])
    answer = await http.post("/api/events", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()) == (200, {"recorded": 2, "unchanged": 0, "quarantined": 1})
    assert set(await list_instances(http, hub)) == {"before", "after"}
    kept = [one for one in await list_newest_quarantined(http) if json.loads(one["event"]) == bad]
    assert [(one["code"], one["endpointType"], one["truncated"]) for one in kept] == [(code, "webhook", False)]


async def test_an_event_that_trips_the_parser_itself_holds_nothing_up(
    http: httpx.AsyncClient, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such event is known; this breaks the parser to show what would happen."""

    def parse_event(one: Any, now: Instant) -> LifecycleEvent:
        if one["data"]["instanceId"] == "tripping":
            raise ZeroDivisionError
        return event_parser.parse_event(one, now)

    monkeypatch.setattr(recording, "parse_event", parse_event)
    counts = await post_events(http, event(hub, "before"), event(hub, "tripping"), event(hub, "after"))
    assert counts == {"recorded": 2, "unchanged": 0, "quarantined": 1}
    kept = [one for one in await list_newest_quarantined(http) if hub in one["event"]]
    assert [one["code"] for one in kept] == ["UnexpectedError"]


async def test_a_clock_that_stood_still_does_not_reject_what_happened_meanwhile(
    server: StateServer, http: httpx.AsyncClient, hub: str
) -> None:
    """A suspended machine wakes up; the first thing that it hears is an event."""
    await post_events(http, event(hub, "before"))
    assert server.tables.clock._offset is not None
    server.tables.clock._offset -= 3600
    counts = await post_events(http, event(hub, "after"), event(hub, "nonsense", time="9999-01-01T00:00:00Z"))
    assert counts == {"recorded": 1, "unchanged": 0, "quarantined": 1}


async def list_newest_quarantined(http: httpx.AsyncClient) -> Any:
    """More than one: servers agree on the time to a second, and so on what is newest."""
    return (await http.get("/api/quarantine", params={"top": 30})).json()["events"]


async def test_minutes_ahead_are_a_clock_and_not_a_mistake(http: httpx.AsyncClient, hub: str) -> None:
    assert (await post_events(http, event(hub, time=timestamp(4 * 60))))["recorded"] == 1


@pytest.mark.parametrize("number", ["9" * 5000, "NaN", "-Infinity", "1e999"])
async def test_one_odd_number_does_not_lose_the_events_around_it(
    http: httpx.AsyncClient, hub: str, number: str
) -> None:
    body = f'[{json.dumps(event(hub))}, {{"hub": "{hub}", "number": {number}}}]'
    answer = await http.post("/api/events", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()) == (200, {"recorded": 1, "unchanged": 0, "quarantined": 1})
    assert (await http.get("/api/quarantine", params={"top": 1})).status_code == 200


async def test_an_instance_of_many_names_is_recorded_with_its_neighbours(http: httpx.AsyncClient, hub: str) -> None:
    """A transaction takes a hundred operations, whatever the publisher sends."""
    many = [event(hub, "one", time=timestamp(n / 1e4), function=f"F{n}") for n in range(120)]
    each = [event(hub, f"other-{n}", function=f"G{n}") for n in range(200)]
    assert (await post_events(http, *many, *each))["recorded"] == 320
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 201
    restarted = [event(hub, f"other-{n}", function=f"H{n}") for n in range(200)]
    assert (await post_events(http, *restarted))["recorded"] == 200
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 201


async def test_a_batch_for_many_hubs_is_recorded(http: httpx.AsyncClient) -> None:
    hubs = [new_hub_name() for _ in range(40)]
    assert (await post_events(http, *(event(hub) for hub in hubs)))["recorded"] == 40
    counts = [(await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] for hub in hubs]
    assert counts == [1] * 40


async def test_the_quarantine_is_listed_page_by_page(http: httpx.AsyncClient, hub: str) -> None:
    mark = f"mark-{hub}"
    for number in range(7):
        await post_events(http, {"mark": mark, "number": number})
    numbers: list[int] = []
    token = None
    while len(numbers) < 7:
        parameters = {"top": "3"} | ({"continuationToken": token} if token else {})
        page = (await http.get("/api/quarantine", params=parameters)).json()
        numbers += [json.loads(one["event"])["number"] for one in page["events"] if mark in one["event"]]
        token = page["continuationToken"]
        assert token or len(numbers) == 7
    assert numbers == list(reversed(range(7)))


async def test_a_huge_event_is_kept_as_far_as_it_fits(http: httpx.AsyncClient) -> None:
    huge = [{"eventType": "huge", "filling": "ü" * 200_000}] * 3
    assert (await deliver(http, huge))["quarantined"] == 3
    kept = [one for one in await list_newest_quarantined(http) if one["truncated"]]
    assert [len(one["event"]) for one in kept] == [300_000] * 3


async def test_a_batch_of_only_poison_is_done_with(http: httpx.AsyncClient) -> None:
    assert await post_events(http, *[{"poison": n} for n in range(250)]) == {
        "recorded": 0,
        "unchanged": 0,
        "quarantined": 250,
    }


async def test_an_empty_delivery_is_a_delivery(http: httpx.AsyncClient) -> None:
    assert await post_events(http) == {"recorded": 0, "unchanged": 0, "quarantined": 0}


async def test_names_and_reasons_are_cut_and_cleaned_the_same_way_each_time(http: httpx.AsyncClient, hub: str) -> None:
    one = event(hub, status="Failed", function="F" * 300, reason="boom\x00\x1b[31m" + "x" * 5000)
    assert (await post_events(http, one))["recorded"] == 1
    assert (await post_events(http, one))["unchanged"] == 1
    shown = (await list_instances(http, hub))["order-1"]
    assert shown["functionName"] == "F" * 256
    assert shown["reason"].startswith("boom\ufffd\ufffd[31m")
    assert len(shown["reason"]) == 1000


async def test_only_the_first_line_of_a_failure_is_kept(http: httpx.AsyncClient, hub: str) -> None:
    trace = "Activity 'Ship' failed: out of stock\n  File \"/home/site/wwwroot/ship.py\", line 7\n    customer='Anna'"
    failed, ended = event(hub, status="Failed", reason=trace), event(hub, "order-2", "Terminated", reason=" \n")
    # With nothing but the first line, the same event is still the same event.
    for one in (failed, failed | {"data": failed["data"] | {"reason": trace.partition("\n")[0]}}, ended):
        await post_events(http, one)
    shown = await list_instances(http, hub)
    assert {name: one["reason"] for name, one in shown.items()} == {
        "order-1": "Activity 'Ship' failed: out of stock",
        "order-2": "",
    }


async def test_hub_names_that_differ_in_case_are_one_hub(http: httpx.AsyncClient, hub: str) -> None:
    await post_events(http, event(hub.upper(), "one"), event(hub, "two"))
    assert set(await list_instances(http, hub)) == {"one", "two"}
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 2


async def test_a_large_batch_is_recorded_whole(http: httpx.AsyncClient, hub: str) -> None:
    """Event Grid's largest: more than a megabyte of valid events."""
    batch = [
        event(hub, f"order-{n % 1000}", "Completed" if n >= 1000 else "Running", time=timestamp(n / 1e4))
        for n in range(2500)
    ]
    assert len(json.dumps(batch)) > 1_048_576
    assert await post_events(http, *batch) == {"recorded": 2500, "unchanged": 0, "quarantined": 0}
    shown = (await http.get(f"/api/taskhubs/{hub}")).json()
    assert shown["activeCount"] == 0
    assert await post_events(http, *batch) == {"recorded": 0, "unchanged": 2500, "quarantined": 0}
