"""GetTimeline: starts and ends over time, and what has become of those that started in each period."""

from typing import Any

import httpx
import pytest

from state_api.app import StateServer
from state_api.domain.instants import Instant, format_instant, parse_instant, seconds
from state_api.domain.task_hubs.timeline import instant_of_minute
from state_api.services import timelines
from tests.builders import event
from tests.http.operations import assert_problem, post_events
from tests.storage.stored_timelines import check_timeline, this_minute

pytestmark = pytest.mark.anyio


def minutes_ago(minutes: float) -> str:
    """A time so many minutes before the present minute began."""
    return format_instant(Instant(instant_of_minute(this_minute()) - seconds(60 * minutes)))


async def get_timeline(http: httpx.AsyncClient, hub: str, **parameters: Any) -> dict[str, Any]:
    """The timeline of a task hub, from the API."""
    response = await http.get(f"/api/taskhubs/{hub}/timeline", params=parameters)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def record_two_functions(http: httpx.AsyncClient, hub: str) -> None:
    """Three orders, which end in different ways, and a bill that is active."""
    await post_events(
        http,
        *(event(hub, f"order-{n}", time=minutes_ago(30)) for n in range(3)),
        event(hub, "order-0", "Completed", time=minutes_ago(29)),
        event(hub, "order-1", "Failed", time=minutes_ago(20)),
        event(hub, "bill", time=minutes_ago(20), function="Bill"),
    )


async def test_the_timeline_counts_starts_and_ends_and_the_ends_of_each_cohort(
    http: httpx.AsyncClient, server: StateServer, hub: str
) -> None:
    start, late = minutes_ago(40), minutes_ago(0)
    await record_two_functions(http, hub)
    timeline = await get_timeline(http, hub, **{"from": start, "to": late, "step": 10})
    assert (timeline["taskHub"], timeline["from"], timeline["to"], timeline["stepMinutes"]) == (hub, start, late, 10)
    no_end = {"completed": 0, "failed": 0, "terminated": 0, "canceled": 0}
    first, bill, last = timeline["points"]
    assert first == {
        **no_end,
        "at": first["at"],
        "functionName": "ProcessOrder",
        "started": 3,
        "completed": 1,
        "cohort": {**no_end, "active": 1, "completed": 1, "failed": 1},
    }
    assert bill == {
        **no_end,
        "at": bill["at"],
        "functionName": "Bill",
        "started": 1,
        "cohort": {**no_end, "active": 1},
    }
    assert last == {
        **no_end,
        "at": bill["at"],
        "functionName": "ProcessOrder",
        "started": 0,
        "failed": 1,
        "cohort": {**no_end, "active": 0},
    }
    assert [(parse_instant(point["at"]) - parse_instant(start)) // seconds(60) for point in (first, bill)] == [10, 20]
    await check_timeline(server, hub)


async def test_one_function_can_be_asked_for(http: httpx.AsyncClient, hub: str) -> None:
    await record_two_functions(http, hub)
    (point,) = (await get_timeline(http, hub, functionName="Bill"))["points"]
    assert (point["functionName"], point["started"]) == ("Bill", 1)


async def test_without_a_period_the_last_hour_is_returned_with_the_present_minute(
    http: httpx.AsyncClient, hub: str
) -> None:
    await post_events(http, event(hub, "order-1"), event(hub, "order-2", time=minutes_ago(70)))
    timeline = await get_timeline(http, hub)
    assert [point["started"] for point in timeline["points"]] == [1]
    assert parse_instant(timeline["to"]) - parse_instant(timeline["from"]) == seconds(3600)


async def test_no_more_than_48_hours_are_returned(http: httpx.AsyncClient, hub: str) -> None:
    await post_events(
        http, event(hub, "order-1", time=minutes_ago(48 * 60 + 2)), event(hub, "order-2", time=minutes_ago(47 * 60))
    )
    timeline = await get_timeline(http, hub, **{"from": "2020-01-01", "to": "2099-01-01", "step": 1440})
    assert sum(point["started"] for point in timeline["points"]) == 1
    assert parse_instant(timeline["to"]) - parse_instant(timeline["from"]) == seconds(48 * 3600 + 60)


@pytest.mark.parametrize(
    "parameters",
    [
        {"from": "yesterday"},
        {"to": "yesterday"},
        {"from": "2099-01-01"},
        {"to": "2020-01-01"},
        {"step": 0},
        {"step": 1441},
        {"functionName": "x" * 257},
    ],
)
async def test_a_period_that_is_empty_or_cannot_be_read_is_refused(
    http: httpx.AsyncClient, hub: str, parameters: dict[str, str | int]
) -> None:
    await post_events(http, event(hub))
    response = await http.get(f"/api/taskhubs/{hub}/timeline", params=parameters)
    assert_problem(response, 400, "InvalidRequest")


async def test_too_many_points_are_refused(http: httpx.AsyncClient, hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timelines, "MAX_POINTS", 2)
    await record_two_functions(http, hub)
    problem = assert_problem(await http.get(f"/api/taskhubs/{hub}/timeline"), 400, "InvalidRequest")
    assert "has 4 points" in problem["detail"]
    assert (await get_timeline(http, hub, step=1440))["points"]


async def test_the_timeline_of_an_unknown_task_hub_is_not_found(http: httpx.AsyncClient, hub: str) -> None:
    assert_problem(await http.get(f"/api/taskhubs/{hub}/timeline"), 404, "TaskHubNotFound")
