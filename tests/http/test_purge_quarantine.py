"""PurgeQuarantine: events that came before a day go, the others stay."""

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
"""Long before any event of another test."""
DAY = 86_400


def quarantined_event(received_at: int, event: str, hub: str | None = None) -> QuarantinedEvent:
    code = "TooManyTaskHubs" if hub else "BadTime"
    return QuarantinedEvent(Instant(received_at), code, "why", "webhook", f'"{event}"', task_hub=hub)


async def delete_quarantine(http: httpx.AsyncClient, before: str) -> tuple[int, bool]:
    answer = await http.delete("/api/quarantine", params={"before": before})
    assert answer.status_code == 200, answer.text
    content = answer.json()
    return content["removed"], content["hasMore"]


async def remaining_events(server: StateServer) -> list[str]:
    """The texts of the old events that are left, in the order of ListQuarantine."""
    store = QuarantineStore(server.tables)
    found: list[str] = []
    token: str | None = None
    while True:
        page = await store.list_page(1000, token)
        found += [one.event.strip('"') for one in page.items if one.received_at < NOON + seconds(100 * DAY)]
        token = page.continuation_token
        if token is None:
            return found


@pytest.fixture(autouse=True)
async def _purge_before_test(http: httpx.AsyncClient) -> None:
    """Other tests here leave events of that time behind."""
    await delete_quarantine(http, "2019-12-31")


async def test_what_came_before_goes_and_the_rest_stays(http: httpx.AsyncClient, server: StateServer) -> None:
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


async def test_no_time_before_the_first_event_removes_any(http: httpx.AsyncClient, server: StateServer) -> None:
    """Keys count down from a number of fixed length: an earlier time must not wrap around."""
    await QuarantineStore(server.tables).add([quarantined_event(NOON, "one")])
    for before in ("1970-01-01", "1970-01-01T00:00:00.0000001Z", "0001-01-01", "1969-12-31", "2019-06-15T12:00:00Z"):
        assert await delete_quarantine(http, before) == (0, False)
    assert await remaining_events(server) == ["one"]


async def test_one_call_is_bounded_and_says_that_there_is_more(
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


async def test_a_call_that_takes_too_long_removes_what_it_has_found(
    http: httpx.AsyncClient, server: StateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await QuarantineStore(server.tables).add([quarantined_event(NOON, "one")])
    monkeypatch.setattr(quarantine, "PURGE_TIMEOUT_SECONDS", 0.0)
    assert (await delete_quarantine(http, "2019-06-16"))[1] is True


async def test_several_at_once_remove_each_event_once(http: httpx.AsyncClient, server: StateServer) -> None:
    await QuarantineStore(server.tables).add([quarantined_event(NOON + number, f"{number}") for number in range(250)])
    results = await asyncio.gather(*(delete_quarantine(http, "2019-06-16") for _ in range(4)))
    assert sum(removed for removed, _ in results) == 250
    assert await remaining_events(server) == []


async def test_a_time_that_is_missing_unreadable_or_to_come_is_refused(
    http: httpx.AsyncClient, server: StateServer
) -> None:
    await QuarantineStore(server.tables).add([quarantined_event(NOON, "one")])
    tomorrow = format_instant(Instant(server.tables.clock.now() + seconds(DAY)))
    for before in ("", "yesterday", "2019-6-15", "2019-02-30", "15.06.2019", tomorrow, tomorrow[:10], "9999-12-31"):
        refused = assert_problem(await http.delete("/api/quarantine", params={"before": before}), 400, "InvalidRequest")
        assert "before" in refused["detail"]
    assert_problem(await http.delete("/api/quarantine"), 400, "InvalidRequest")
    assert await remaining_events(server) == ["one"]
