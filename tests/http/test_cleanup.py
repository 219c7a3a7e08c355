"""Cleanup over HTTP: what it removes, what it keeps, and what becomes of events that come too late."""

import httpx
import pytest

from tests.builders import event
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import assert_problem, post_events, put_app, stage_and_swap

pytestmark = pytest.mark.anyio


async def test_cleanup_shows_first_what_it_would_do(http: httpx.AsyncClient, app: str) -> None:
    one, two, three = new_hub_name(), new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, one, two, three)
    shown = (await http.post(f"/api/apps/{app}/cleanup", json={"dryRun": True})).json()
    assert [(hub["taskHub"], hub["outcome"]) for hub in shown["taskHubs"]] == [(one, "WouldRemove")]
    assert [hub["taskHub"] for hub in shown["app"]["retired"]] == [one]
    assert_problem(await http.post(f"/api/apps/{app}/cleanup", json={"deleteTaskHubs": True}), 400, "InvalidRequest")
    await http.post(f"/api/apps/{app}/cleanup")
    assert (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"] == []


async def test_retention_keeps_the_last_and_the_young(http: httpx.AsyncClient, app: str, clock: ShiftedClock) -> None:
    hubs = [new_hub_name() for _ in range(4)]
    await put_app(http, app, policy={"retention": {"keepLast": 1, "keepForHours": 2}})
    await stage_and_swap(http, app, *hubs[:3])
    clock.advance(3 * 3600)
    await stage_and_swap(http, app, hubs[3])
    done = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert [(hub["taskHub"], hub["outcome"]) for hub in done] == [(hubs[0], "Removed"), (hubs[1], "Kept")]


async def test_an_event_for_a_hub_that_was_cleaned_up_goes_to_quarantine(http: httpx.AsyncClient, app: str) -> None:
    one, two, three = new_hub_name(), new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, one)
    await post_events(http, event(one, status="Completed"))
    await put_app(http, app, policy={"settleSeconds": 0})
    await stage_and_swap(http, app, two, three)
    assert (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"][0]["outcome"] == "Removed"
    assert await post_events(http, event(one, "late")) == {"recorded": 0, "unchanged": 0, "quarantined": 1}
    shown = (await http.get(f"/api/taskhubs/{one}")).json()
    assert (shown["closed"], shown["activeCount"]) == (True, 0)
    kept = (await http.get("/api/quarantine", params={"top": 30})).json()["events"]
    assert [event["code"] for event in kept if one in event["event"]] == ["TaskHubCleanedUp"]
