"""What all stores have in common: the storage's clock, long texts in rows, an identity instead of a key."""

import time
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime

import pytest

from state_api.app import StateServer
from state_api.domain.instants import TICKS_PER_SECOND, instant_from, parse_instant
from state_api.settings import StorageSettings
from state_api.storage.tables import StorageClock, Tables, instance_table_name, join_property, split_property


@pytest.mark.anyio
async def test_every_answer_of_the_storage_sets_the_clock(server: StateServer, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = time.time() + 600
    monkeypatch.setattr(time, "time", lambda: wrong)
    clock = server.tables.clock
    assert abs(clock.now() / TICKS_PER_SECOND - wrong) < 1, "before the first answer there is only this machine's clock"
    await server.services.inspection.check_storage()
    ahead = wrong - clock.now() / TICKS_PER_SECOND
    assert 599 < ahead < 603


def test_the_clock_takes_what_is_furthest_ahead_because_dates_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert clock.now() == parse_instant("2026-11-21T00:40:00Z"), "a storage that corrects its clock is followed"


def test_an_answer_that_was_long_on_its_way_does_not_turn_the_clock_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a result of a moment ago would seem to be yet to come, and prove nothing."""
    clock = StorageClock()
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    clock.observe_date("Sat, 21 Nov 2026 00:46:30 GMT", 1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: 1005.0)
    clock.observe_date("Sat, 21 Nov 2026 00:46:30 GMT", 1000.0)
    assert clock.now() == parse_instant("2026-11-21T00:46:35Z")
    clock.observe_date("Sat, 21 Nov 2026 00:46:30 GMT", 1001.5)
    assert clock.now() == parse_instant("2026-11-21T00:46:35Z"), "cut to seconds, it may be from up to a second later"
    clock.observe_date("Sat, 21 Nov 2026 00:46:30 GMT", 1003.0)
    assert clock.now() == parse_instant("2026-11-21T00:46:30Z"), "it was told at 00:46:33 or later, as the clock was"


def test_a_machine_that_runs_fast_does_not_take_the_clock_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """One answer every ten seconds for a day, on a machine that gains a thousandth; dates are cut to seconds."""
    clock = StorageClock()
    start = parsedate_to_datetime("Sat, 21 Nov 2026 00:00:00 GMT")
    for passed in range(0, 86_400, 10):
        true = start + timedelta(seconds=passed + 0.3 * (passed % 3))
        monkeypatch.setattr(time, "monotonic", lambda passed=passed: 1000 + passed * 1.001)
        clock.observe_date(format_datetime(true.replace(microsecond=0), usegmt=True), 1000 + passed * 1.001)
        ahead = clock.now() - instant_from(start + timedelta(seconds=passed))
        assert -1.0 <= ahead / TICKS_PER_SECOND <= 0.61 + 0.12


@pytest.mark.anyio
async def test_the_clock_and_the_stamps_of_rows_agree(server: StateServer, hub: str) -> None:
    await server.services.inspection.check_storage()
    # The emulator runs on this machine, so all three clocks are one; the storage's is cut to seconds.
    behind = time.time() - server.services.clock.now() / TICKS_PER_SECOND
    assert -0.1 < behind < 1.5


@pytest.mark.parametrize("length", [0, 1, 29_999, 30_000, 30_001, 95_000])
def test_a_long_text_is_spread_over_properties_and_comes_back(length: int) -> None:
    text = "ü" * length
    spread = split_property("State", text)
    assert all(len(piece) <= 30_000 for piece in spread.values())
    assert join_property("State", spread) == text


def test_the_longest_hub_has_a_table_name_that_the_service_takes() -> None:
    assert len(instance_table_name("h" * 45)) == 63


@pytest.mark.parametrize("suffix", ["Instances", "History", "Partitions"])
def test_no_instance_table_has_the_name_of_a_task_hubs_own_table(suffix: str) -> None:
    assert not instance_table_name("v41").endswith(suffix)


@pytest.mark.anyio
async def test_an_identity_is_used_where_no_connection_string_is_set(anyio_backend: str) -> None:
    tables = Tables(StorageSettings(table_service_uri="https://state.table.core.windows.net", client_id="some-id"))
    assert tables.client("SafeDeployApps").url == "https://state.table.core.windows.net"
    await tables.close()


@pytest.mark.anyio
async def test_the_clients_that_were_used_last_are_kept(
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
