"""PurgeQuarantine over HTTP: events that were received before a given time are removed, the others stay."""

import asyncio

import httpx
import pytest

from state_api.app import StateServer
from state_api.domain.instants import Instant, format_instant, parse_instant, seconds
from state_api.services.ports import QuarantinedEvent
from state_api.storage import quarantine
from state_api.storage.quarantine import QuarantineStore
from tests.conftest import new_hub_name
from tests.http.operations import assert_problem

pytestmark = pytest.mark.anyio

NOON = parse_instant("2019-06-15T12:00:00Z")
"""A time long before any event of another test."""
DAY = 86_400


def quarantined_event(received_at: int, event: str, hub: str | None = None) -> QuarantinedEvent:
    """An event in quarantine: one that could not be parsed, or one that waits for a task hub."""
    code = "TooManyTaskHubs" if hub else "BadTime"
    return QuarantinedEvent(Instant(received_at), code, "why", "webhook", f'"{event}"', task_hub=hub)


async def delete_quarantine(http: httpx.AsyncClient, before: str) -> tuple[int, bool]:
    """Call PurgeQuarantine. Returns how many events were removed, and whether there are more."""
    response = await http.delete("/api/quarantine", params={"before": before})
    assert response.status_code == 200, response.text
    body = response.json()
    return body["removed"], body["hasMore"]


async def remaining_events(server: StateServer) -> list[str]:
    """The texts of the remaining old events, in the order of ListQuarantine."""
    store = QuarantineStore(server.tables)
    events: list[str] = []
    token: str | None = None
    while True:
        page = await store.list_page(1000, token)
        events += [
            quarantined.event.strip('"')
            for quarantined in page.items
            if quarantined.received_at < NOON + seconds(100 * DAY)
        ]
        token = page.continuation_token
        if token is None:
            return events


@pytest.fixture(autouse=True)
async def _purge_before_test(http: httpx.AsyncClient) -> None:
    """Remove the events that other tests here have left."""
    await delete_quarantine(http, "2019-12-31")


async def test_purging_removes_older_events_and_keeps_the_rest(http: httpx.AsyncClient, server: StateServer) -> None:
    store, hub = QuarantineStore(server.tables), new_hub_name()
    await store.add([quarantined_event(NOON + seconds(DAY * day), f"day {day}") for day in range(4)])
    await store.add([quarantined_event(NOON + seconds(DAY * day), f"waiting {day}", hub) for day in range(4)])
    assert await remaining_events(server) == [f"day {day}" for day in (3, 2, 1, 0)] + [
        f"waiting {day}" for day in (3, 2, 1, 0)
    ]
    assert await delete_quarantine(http, "2019-06-17") == (4, False)
    assert await remaining_events(server) == ["day 3", "day 2", "waiting 3", "waiting 2"]
    assert await delete_quarantine(http, "2019-06-17T12:00:00Z") == (0, False), "that very moment is not before"
    assert await delete_quarantine(http, "2019-06-17T14:00:00.0000001+02:00") == (2, False)
    assert await remaining_events(server) == ["day 3", "waiting 3"]
    assert await delete_quarantine(http, "2019-06-17T14:00:00.0000001+02:00") == (0, False)


async def test_purging_before_the_first_event_removes_nothing(http: httpx.AsyncClient, server: StateServer) -> None:
    """Row keys count down from a number of fixed length, and an early time must not wrap around."""
    await QuarantineStore(server.tables).add([quarantined_event(NOON, "first")])
    for before in ("1970-01-01", "1970-01-01T00:00:00.0000001Z", "0001-01-01", "1969-12-31", "2019-06-15T12:00:00Z"):
        assert await delete_quarantine(http, before) == (0, False)
    assert await remaining_events(server) == ["first"]


async def test_one_call_removes_a_limited_number_and_reports_more(
    http: httpx.AsyncClient, server: StateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "MAX_PURGED_EVENTS", 150)
    store, hub = QuarantineStore(server.tables), new_hub_name()
    await store.add(
        [quarantined_event(NOON + number, f"{number}", hub if number % 2 else None) for number in range(400)]
    )
    assert await delete_quarantine(http, "2019-06-16") == (150, True)
    assert await delete_quarantine(http, "2019-06-16") == (150, True)
    assert await delete_quarantine(http, "2019-06-16") == (100, False)
    assert await remaining_events(server) == []


async def test_a_call_at_its_time_limit_removes_what_it_has_read(
    http: httpx.AsyncClient, server: StateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await QuarantineStore(server.tables).add([quarantined_event(NOON, "first")])
    monkeypatch.setattr(quarantine, "PURGE_TIMEOUT_SECONDS", 0.0)
    assert (await delete_quarantine(http, "2019-06-16"))[1] is True


async def test_concurrent_calls_remove_each_event_once(http: httpx.AsyncClient, server: StateServer) -> None:
    await QuarantineStore(server.tables).add([quarantined_event(NOON + number, f"{number}") for number in range(250)])
    results = await asyncio.gather(*(delete_quarantine(http, "2019-06-16") for _ in range(4)))
    assert sum(removed for removed, _ in results) == 250
    assert await remaining_events(server) == []


async def test_a_missing_invalid_or_future_time_is_refused(http: httpx.AsyncClient, server: StateServer) -> None:
    await QuarantineStore(server.tables).add([quarantined_event(NOON, "first")])
    tomorrow = format_instant(Instant(server.tables.clock.now() + seconds(DAY)))
    for before in ("", "yesterday", "2019-6-15", "2019-02-30", "15.06.2019", tomorrow, tomorrow[:10], "9999-12-31"):
        refused = assert_problem(await http.delete("/api/quarantine", params={"before": before}), 400, "InvalidRequest")
        assert "before" in refused["detail"]
    assert_problem(await http.delete("/api/quarantine"), 400, "InvalidRequest")
    assert await remaining_events(server) == ["first"]
