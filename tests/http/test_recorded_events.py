"""The recorded events of the Durable Functions extension, parsed and recorded by the server."""

import itertools
from typing import Any

import httpx
import pytest

from state_api.domain.instants import Instant, parse_instant
from state_api.services.event_parser import parse_event
from tests import recordings
from tests.conftest import new_hub_name
from tests.http.operations import post_events

pytestmark = pytest.mark.anyio

LATER = parse_instant("2027-01-01T00:00:00Z")

WAITS_WITH_ODD_IDS = {
    *("Case", "case", "[brackets]", "a+b&c=d", "it's", "per%cent", "semi;colon", "z" * 100),
    *("ünï cödé", "日本語"),
}

ACTIVE_BY_EVENTS = {
    # Rewinding an instance publishes no event, so by its events `mends-not` has ended although it is active.
    "Recorded": {"parent-terminated:0", "parent-terminated:1", *WAITS_WITH_ODD_IDS},
    "RecordedV2": {"versioned-parent", "versioned-parent:0", "versioned-waits"},
    "RecordedSessions": set[str](),
}
"""The instances that are active by the events of each task hub."""


@pytest.mark.parametrize("number", range(len(recordings.read_events())))
def test_every_recorded_event_is_parsed(number: int) -> None:
    event = recordings.read_events()[number]
    parsed = parse_event(event, LATER)
    data = event["data"]
    assert (parsed.task_hub, parsed.instance_id) == (data["hubName"], data["instanceId"])
    assert (parsed.function_name, parsed.runtime_status) == (data["functionName"], data["runtimeStatus"])
    assert parsed.occurred_at == parse_instant(event["eventTime"])
    assert event["subject"] == f"durable/orchestrator/{data['runtimeStatus']}"


def test_every_recorded_event_has_the_documented_members() -> None:
    for event in recordings.read_events():
        assert set(event) == {
            *("id", "topic", "subject", "data", "eventType", "eventTime", "metadataVersion", "dataVersion")
        }
        assert set(event["data"]) == {"hubName", "functionName", "instanceId", "reason", "runtimeStatus"}
        assert (event["topic"], event["metadataVersion"], event["dataVersion"]) == (None, None, "1.0")


async def list_active_ids(http: httpx.AsyncClient, hub: str) -> set[str]:
    """The ids of all active instances of the task hub, which must fit on one page."""
    response = await http.get(f"/api/taskhubs/{hub}/instances", params={"active": "true", "top": 1000})
    assert response.status_code == 200, response.text
    assert response.json()["continuationToken"] is None
    return {instance["instanceId"] for instance in response.json()["instances"]}


def recorded_events_for(recorded_hub: str, hub: str) -> list[Any]:
    """The recorded events of one task hub, changed into events of `hub`."""
    events = [event for event in recordings.read_events() if event["data"]["hubName"] == recorded_hub]
    for event in events:
        event["data"]["hubName"] = hub
    return events


@pytest.mark.parametrize("order", ["as posted", "backwards", "twice"])
@pytest.mark.parametrize("recorded_hub", ACTIVE_BY_EVENTS)
async def test_the_recorded_events_give_the_same_active_instances_in_any_order(
    http: httpx.AsyncClient, recorded_hub: str, order: str
) -> None:
    hub = new_hub_name()
    events = recorded_events_for(recorded_hub, hub)
    for event in {"as posted": events, "backwards": events[::-1], "twice": [*events, *events]}[order]:
        await post_events(http, event)
    assert await list_active_ids(http, hub) == ACTIVE_BY_EVENTS[recorded_hub]


def test_continue_as_new_publishes_an_end_and_a_start_within_5_milliseconds() -> None:
    times: list[tuple[str, Instant]] = [
        (event["data"]["runtimeStatus"], parse_instant(event["eventTime"]))
        for event in recordings.read_events()
        if event["data"]["instanceId"] == "eternal-5"
    ]
    pairs = [(end, start) for (first, end), (second, start) in itertools.pairwise(times) if first != second]
    gaps = [(start - end) / 10_000 for end, start in pairs[1::2]]
    assert len(gaps) == 4
    assert all(0 <= gap < 5 for gap in gaps)
