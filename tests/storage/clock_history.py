"""A storage that responds to a machine whose clock gains or loses, and the clock that the responses show."""

from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime

from state_api.domain.instants import TICKS_PER_SECOND, instant_from
from state_api.storage.storage_clock import StorageClock

START = parsedate_to_datetime("Sat, 21 Nov 2026 00:00:00 GMT")


@dataclass
class ClockHistory:
    """A clock, the true time of the storage, and the monotonic clock of a machine, which gains or loses. All times are
    in seconds; the true time counts from START."""

    clock: StorageClock = field(default_factory=StorageClock)
    true_time: float = 0.0
    machine_time: float = 1000.0
    rate: float = 1.0
    gains: list[tuple[float, float]] = field(default_factory=list)
    """For each moment, the machine's time and by how much it is ahead of the true one."""

    def advance(self, duration_seconds: float, gain: float = 0.0) -> None:
        """Let this time pass, in which the machine gains as its rate says, and `gain` at once."""
        self.true_time += duration_seconds
        self.machine_time += duration_seconds * self.rate + gain
        self.gains.append((self.machine_time, self.machine_time - 1000.0 - self.true_time))

    def respond(self, there: float, back: float) -> None:
        """The storage responds to a request that takes so long to reach it, and its response so long to come back."""
        sent_at = self.machine_time
        self.advance(there)
        date = START + timedelta(seconds=int(self.true_time))
        self.advance(back)
        self.clock.observe_date(format_datetime(date, usegmt=True), sent_at)

    @property
    def ahead(self) -> float:
        """By how much the estimate is ahead of the true time."""
        return (self.clock.now() - instant_from(START)) / TICKS_PER_SECOND - self.true_time

    @property
    def bound_ahead(self) -> float:
        """By how much the upper bound is ahead of the true time."""
        return (self.clock.upper_bound() - instant_from(START)) / TICKS_PER_SECOND - self.true_time

    def gain_since(self, machine_time: float) -> float:
        """By how much the machine has gained, at most, from any moment since then to any later one."""
        lowest, most = None, 0.0
        for at, ahead in self.gains:
            if at >= machine_time:
                lowest = ahead if lowest is None else min(lowest, ahead)
                most = max(most, ahead - lowest)
        return most
