"""The time of the server between two responses: never earlier than it is, and not much later."""

from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
from hypothesis import example, given

from safe_deploy.routers.server_clock import ServerClock

_NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
_PRECISION = 2
"""The time in a response is behind by less, in seconds."""


class _Machine:
    """A machine with a clock that measures durations, and a clock of the server."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.clock = ServerClock(lambda: self.seconds)

    @property
    def server_time(self) -> datetime:
        """The time at the server, which reads noon when the machine reads 1000 seconds."""
        return _NOON + timedelta(seconds=self.seconds - 1000)

    def ask(self, until_server: float, until_response: float, *, lag: float = 0) -> None:
        """Send a request, whose response the server writes and the network delivers after these times. `lag`: the
        seconds by which the time in the response is behind."""
        asked_at = self.clock.read_seconds()
        self.seconds += until_server
        server_time = self.server_time - timedelta(seconds=lag)
        self.seconds += until_response
        self.clock.observe(server_time, asked_at=asked_at)

    def read_lead(self) -> float:
        """How many seconds the bound is ahead of the server."""
        upper_bound = self.clock.upper_bound()
        assert upper_bound is not None
        return (upper_bound - self.server_time).total_seconds()


def test_nothing_is_known_before_the_first_response() -> None:
    assert ServerClock().upper_bound() is None


def test_the_clock_of_the_machine_measures_the_time_since_a_response() -> None:
    clock = ServerClock()
    clock.observe(_NOON, asked_at=clock.read_seconds())
    first, second = clock.upper_bound(), clock.upper_bound()
    assert first is not None
    assert second is not None
    assert _NOON <= first <= second


_REQUESTS = st.tuples(
    st.integers(0, 30).map(float),
    st.integers(0, 10),
    st.integers(0, 3600),
    st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.75]),
)


@given(requests=st.lists(_REQUESTS, min_size=1))
@example([(0.0, 0, 0, 1.0), (30.0, 0, 0, 0.0)])
def test_the_server_is_never_ahead_of_the_bound_and_the_fastest_response_sets_it(
    requests: list[tuple[float, int, int, float]],
) -> None:
    """Also if the time in each response is behind by another part of the precision."""
    machine = _Machine()
    for until_server, until_response, pause, lag in requests:
        machine.ask(until_server, until_response, lag=lag)
        machine.seconds += pause
    leads = [until_server + _PRECISION - lag for until_server, _, _, lag in requests]
    assert machine.read_lead() == min(leads)
    assert 0 < machine.read_lead() <= min(until_server for until_server, *_ in requests) + _PRECISION


def test_a_long_poll_does_not_replace_a_better_bound_because_its_time_is_less_behind() -> None:
    machine = _Machine()
    machine.ask(0, 0, lag=1)
    machine.ask(30, 0)
    assert machine.read_lead() == _PRECISION - 1


def test_a_response_corrects_a_machine_that_has_measured_too_little_time() -> None:
    machine = _Machine()
    machine.ask(0, 0)
    machine.clock.observe(machine.server_time + timedelta(minutes=5), asked_at=machine.seconds)
    assert machine.read_lead() == 300 + _PRECISION
