"""The estimate of the storage's clock: two bounds from the Date headers of responses."""

import random
import time
from collections.abc import Iterator
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_api.app import StateServer
from state_api.domain.instants import TICKS_PER_SECOND, instant_from, parse_instant
from state_api.storage.storage_clock import StorageClock
from tests.storage.clock_history import START, ClockHistory


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


def test_the_clock_stands_still_when_its_best_response_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it went back, a request that is woken at its moment would be answered with NotReady, and sleep on."""
    clock = StorageClock()
    start = parsedate_to_datetime("Sat, 21 Nov 2026 00:00:00 GMT")
    readings = []
    for elapsed in range(0, 600, 5):
        # The first date is exact. The others are cut by a second.
        storage_time = start + timedelta(seconds=elapsed - (1 if elapsed else 0))
        monkeypatch.setattr(time, "monotonic", lambda elapsed=elapsed: 1000.0 + elapsed)
        clock.observe_date(format_datetime(storage_time, usegmt=True), 1000.0 + elapsed - 0.01)
        for later in (0.0, 0.5, 4.9):
            monkeypatch.setattr(time, "monotonic", lambda elapsed=elapsed, later=later: 1000.0 + elapsed + later)
            readings.append(clock.now())
    assert readings == sorted(readings)
    behind = (instant_from(start) - readings[-1]) / TICKS_PER_SECOND + 599.9
    assert behind == pytest.approx(1.0), "the first response counts no longer"


def test_the_upper_bound_is_right_after_a_response_that_an_earlier_request_was_suspended_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two requests are sent. The response to the second arrives, and then the machine is suspended for 100 s.
    After that the storage answers the first one."""
    clock = StorageClock()
    monkeypatch.setattr(time, "monotonic", lambda: 1001.0)
    clock.observe_date("Sat, 21 Nov 2026 00:46:30 GMT", 1000.5)
    clock.observe_date("Sat, 21 Nov 2026 00:48:10 GMT", 1000.0)
    assert clock.upper_bound() >= parse_instant("2026-11-21T00:48:10.9Z"), "the date is cut to a second"


@pytest.mark.anyio
async def test_the_clock_agrees_with_the_emulators_clock(server: StateServer, hub: str) -> None:
    await server.services.task_hub_queries.check_storage()
    # The emulator runs on this machine. Its dates are cut to seconds.
    behind = time.time() - server.services.clock.now() / TICKS_PER_SECOND
    assert -0.1 < behind < 1.5


@pytest.fixture
def history() -> Iterator[ClockHistory]:
    """A history with a machine that keeps time."""
    with pytest.MonkeyPatch.context() as patch:
        history = ClockHistory()
        patch.setattr(time, "monotonic", lambda: history.machine_time)
        yield history


@pytest.mark.parametrize(("gain", "latency"), [(1.9, 0.01), (2.5, 0.6), (2.9, 1.0)])
def test_what_the_machine_gains_while_idle_counts_no_longer_after_a_response(
    history: ClockHistory, gain: float, latency: float
) -> None:
    """A scan that began in the future would count as later than an event that it has missed."""
    history.respond(0.01, 0.01)
    history.advance(21_600, gain)
    assert history.ahead > gain - 0.1, "a request asks for the time before the storage has responded"
    for _ in range(5):
        history.respond(latency, 0.01)
        assert history.ahead <= 0
        history.advance(0.9)


def test_the_upper_bound_is_never_behind_after_a_suspension(history: ClockHistory) -> None:
    """The clock of a machine stands still while it is suspended."""
    history.respond(0.2, 0.2)
    history.advance(3600, gain=-3600)
    assert history.bound_ahead < -3500
    history.respond(0.2, 0.2)
    assert history.bound_ahead >= 0


def test_a_late_response_from_before_a_suspension_does_not_put_the_upper_bound_behind(history: ClockHistory) -> None:
    history.respond(0.01, 0.01)
    sent_before = history.machine_time
    date = format_datetime(START + timedelta(seconds=int(history.true_time)), usegmt=True)
    history.advance(30, gain=-29.9)
    history.respond(0.01, 0.01)
    history.clock.observe_date(date, sent_before)
    assert history.bound_ahead >= 0


def test_before_the_first_response_both_bounds_are_the_time_of_this_machine() -> None:
    clock = StorageClock()
    before = time.time()
    assert before * TICKS_PER_SECOND - 1 <= clock.now() <= clock.upper_bound() + TICKS_PER_SECOND
    assert not clock.synchronized


LATENCY_SECONDS = st.floats(0.001, 5.0)
PAUSE_SECONDS = st.sampled_from([0.01, 0.3, 1.0, 5.0, 30.0, 70.0, 130.0, 600.0])
STEP = st.tuples(PAUSE_SECONDS, st.none() | st.tuples(LATENCY_SECONDS, LATENCY_SECONDS))


@given(
    steps=st.lists(STEP, min_size=1, max_size=60),
    rate=st.sampled_from([1.0, 1.0 + 1e-5, 1.0 - 1e-5, 1.001, 0.999]),
    gain_seed=st.none() | st.integers(0, 1000),
)
def test_the_clock_is_between_its_bounds_in_every_history_of_responses(
    steps: list[tuple[float, tuple[float, float] | None]], rate: float, gain_seed: int | None
) -> None:
    """The storage's clock is never set back here. With a `gain_seed`, the machine's clock also gains at once."""
    gains = random.Random(gain_seed)
    with pytest.MonkeyPatch.context() as patch:
        history = ClockHistory(rate=rate)
        patch.setattr(time, "monotonic", lambda: history.machine_time)
        history.advance(0)
        history.respond(0.01, 0.01)
        last_response, reading = history.machine_time, history.clock.now()
        for pause, latencies in steps:
            jump = gains.choice([0.0, 0.0, 0.4, 2.0]) if gain_seed is not None else 0.0
            history.advance(pause, jump)
            assert history.ahead <= history.gain_since(last_response - 300) + 1e-5
            assert history.clock.now() >= reading, "without a response the estimate never goes back"
            reading = history.clock.now()
            if latencies is None:
                continue
            history.respond(*latencies)
            silence, last_response = history.machine_time - last_response, history.machine_time
            assert history.ahead <= min(2.0 + sum(latencies), history.gain_since(last_response - 300)) + 1e-3
            assert history.bound_ahead >= -0.01 * sum(latencies) - 1e-5
            assert history.bound_ahead <= 1.0 + sum(latencies) * 1.01 + max(0.0, history.ahead)
            if silence < 60 and rate <= 1 and gain_seed is None:
                assert history.clock.now() >= reading, "the clock of the machine has not gained"
            reading = history.clock.now()


@given(seconds_back=st.floats(7.0, 86_400.0), latency=LATENCY_SECONDS)
def test_the_estimate_follows_a_storage_clock_that_is_set_back(seconds_back: float, latency: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        history = ClockHistory(true_time=100_000.0)
        patch.setattr(time, "monotonic", lambda: history.machine_time)
        history.respond(0.01, 0.01)
        history.true_time -= seconds_back
        history.respond(latency, 0.01)
        assert -1.02 <= history.ahead <= 0
        assert 0 <= history.bound_ahead <= 1.0 + latency
