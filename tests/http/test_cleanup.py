"""Cleanup over HTTP: what it removes, what it keeps, and what happens to late events."""

import httpx
import pytest

from tests.builders import event
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import assert_problem, post_events, put_app, stage_and_swap

pytestmark = pytest.mark.anyio


async def test_a_dry_run_of_cleanup_shows_what_it_would_remove(http: httpx.AsyncClient, app: str) -> None:
    first_hub, second_hub, third_hub = new_hub_name(), new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, first_hub, second_hub, third_hub)
    dry_run = (await http.post(f"/api/apps/{app}/cleanup", json={"dryRun": True})).json()
    assert [(hub["taskHub"], hub["outcome"]) for hub in dry_run["taskHubs"]] == [(first_hub, "WouldRemove")]
    assert [hub["taskHub"] for hub in dry_run["app"]["retired"]] == [first_hub]
    assert_problem(await http.post(f"/api/apps/{app}/cleanup", json={"deleteTaskHubs": True}), 400, "InvalidRequest")
    await http.post(f"/api/apps/{app}/cleanup")
    assert (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"] == []


async def test_retention_keeps_the_last_and_the_recently_retired_hubs(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    hubs = [new_hub_name() for _ in range(4)]
    await put_app(http, app, policy={"retention": {"keepLast": 1, "keepForHours": 2}})
    await stage_and_swap(http, app, *hubs[:3])
    clock.advance(3 * 3600)
    await stage_and_swap(http, app, hubs[3])
    done = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert [(hub["taskHub"], hub["outcome"]) for hub in done] == [(hubs[0], "Removed"), (hubs[1], "Kept")]


async def test_an_event_for_a_hub_that_was_cleaned_up_goes_to_quarantine(http: httpx.AsyncClient, app: str) -> None:
    first_hub, second_hub, third_hub = new_hub_name(), new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, first_hub)
    await post_events(http, event(first_hub, status="Completed"))
    await put_app(http, app, policy={"settleSeconds": 0})
    await stage_and_swap(http, app, second_hub, third_hub)
    assert (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"][0]["outcome"] == "Removed"
    assert await post_events(http, event(first_hub, "late")) == {"recorded": 0, "unchanged": 0, "quarantined": 1}
    body = (await http.get(f"/api/taskhubs/{first_hub}")).json()
    assert (body["closed"], body["activeCount"]) == (True, 0)
    quarantined_events = (await http.get("/api/quarantine", params={"top": 30})).json()["events"]
    assert [event["code"] for event in quarantined_events if first_hub in event["event"]] == ["TaskHubCleanedUp"]
