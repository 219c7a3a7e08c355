"""What all stores share: the storage's clock, long texts in rows, credentials and cached clients."""

import time
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime

import pytest

from state_api.app import StateServer
from state_api.domain.instants import TICKS_PER_SECOND, instant_from, parse_instant
from state_api.settings import StorageSettings
from state_api.storage.tables import StorageClock, Tables, instance_table_name, join_property, split_property


@pytest.mark.anyio
async def test_a_response_of_the_storage_sets_the_clock(server: StateServer, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_time = time.time() + 600
    monkeypatch.setattr(time, "time", lambda: wrong_time)
    clock = server.tables.clock
    assert abs(clock.now() / TICKS_PER_SECOND - wrong_time) < 1, "the time of this machine"
    await server.services.task_hub_queries.check_storage()
    ahead = wrong_time - clock.now() / TICKS_PER_SECOND
    assert 599 < ahead < 603


def test_the_clock_uses_the_latest_date_because_dates_are_cut_to_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = StorageClock()
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    clock.observe_date("Sat, 21 Nov 2026 00:46:30 GMT", 1000.0)
    clock.observe_date("Sat, 21 Nov 2026 00:46:29 GMT", 1000.0)
    assert clock.now() == parse_instant("2026-11-21T00:46:30Z")
    clock.observe_date("Sat, 21 Nov 2026 00:46:31 GMT", 1000.0)
    assert clock.now() == parse_instant("2026-11-21T00:46:31Z")
    clock.observe_date("no date at all", 1000.0)
    assert clock.now() == parse_instant("2026-11-21T00:46:31Z")
    clock.observe_date("Sat, 21 Nov 2026 00:40:00 GMT", 1000.0)
    assert clock.now() == parse_instant("2026-11-21T00:40:00Z"), "the storage's clock was set back"


def test_the_clock_knows_how_long_ago_the_storage_has_responded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = StorageClock()
    assert not clock.had_response_within(3600)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    clock.observe_date("no date at all", 1000.0)
    assert not clock.had_response_within(3600), "such a response does not show the storage's time"
    clock.observe_date("Sat, 21 Nov 2026 00:46:30 GMT", 1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: 1600.0)
    assert clock.had_response_within(600)
    assert not clock.had_response_within(599)


def test_a_delayed_response_does_not_set_the_clock_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it did, a probe result from a moment ago would be in the future, and not count."""
    clock = StorageClock()
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    clock.observe_date("Sat, 21 Nov 2026 00:46:30 GMT", 1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: 1005.0)
    clock.observe_date("Sat, 21 Nov 2026 00:46:30 GMT", 1000.0)
    assert clock.now() == parse_instant("2026-11-21T00:46:35Z")
    clock.observe_date("Sat, 21 Nov 2026 00:46:30 GMT", 1001.5)
    assert clock.now() == parse_instant("2026-11-21T00:46:35Z"), "the true time may be up to a second later"
    clock.observe_date("Sat, 21 Nov 2026 00:46:30 GMT", 1003.0)
    assert clock.now() == parse_instant("2026-11-21T00:46:30Z"), (
        "the request was sent at 00:46:33 by the clock, so the storage's clock was set back"
    )


def test_a_fast_machine_does_not_move_the_clock_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A response every ten seconds for a day, on a machine whose clock runs 0.1 % fast. Dates are cut to seconds."""
    clock = StorageClock()
    start = parsedate_to_datetime("Sat, 21 Nov 2026 00:00:00 GMT")
    for elapsed in range(0, 86_400, 10):
        latency_seconds = 0.3 * (elapsed % 3)
        storage_time = start + timedelta(seconds=elapsed + latency_seconds)
        monkeypatch.setattr(time, "monotonic", lambda elapsed=elapsed: 1000 + elapsed * 1.001)
        clock.observe_date(format_datetime(storage_time.replace(microsecond=0), usegmt=True), 1000 + elapsed * 1.001)
        ahead = clock.now() - instant_from(start + timedelta(seconds=elapsed))
        longest_latency, gain_in_two_windows = 0.61, 0.12
        assert -1.0 <= ahead / TICKS_PER_SECOND <= longest_latency + gain_in_two_windows


@pytest.mark.anyio
async def test_the_clock_agrees_with_the_emulators_clock(server: StateServer, hub: str) -> None:
    await server.services.task_hub_queries.check_storage()
    # The emulator runs on this machine. Its dates are cut to seconds.
    behind = time.time() - server.services.clock.now() / TICKS_PER_SECOND
    assert -0.1 < behind < 1.5


@pytest.mark.parametrize("length", [0, 1, 29_999, 30_000, 30_001, 95_000])
def test_a_long_text_is_split_into_properties_and_joined_again(length: int) -> None:
    text = "ü" * length
    columns = split_property("State", text)
    assert all(len(piece) <= 30_000 for piece in columns.values())
    assert join_property("State", columns) == text


def test_the_longest_task_hub_name_gives_a_valid_table_name() -> None:
    assert len(instance_table_name("h" * 45)) == 63


@pytest.mark.parametrize("suffix", ["Instances", "History", "Partitions"])
def test_no_instance_table_has_the_name_of_a_providers_table(suffix: str) -> None:
    assert not instance_table_name("v41").endswith(suffix)


@pytest.mark.anyio
async def test_a_managed_identity_is_used_without_a_connection_string(anyio_backend: str) -> None:
    tables = Tables(StorageSettings(table_service_uri="https://state.table.core.windows.net", client_id="some-id"))
    assert tables.client("SafeDeployApps").url == "https://state.table.core.windows.net"
    await tables.close()


@pytest.mark.anyio
async def test_the_clients_that_were_used_last_stay_cached(
    storage: StorageSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("state_api.storage.tables._MAX_CACHED_CLIENTS", 2)
    tables = Tables(storage)
    first, second = tables.client("one"), tables.client("two")
    assert tables.client("one") is first
    third = tables.client("three")
    assert (tables.client("three"), tables.client("one")) == (third, first)
    assert tables.client("two") is not second
    await tables.close()
