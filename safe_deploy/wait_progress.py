"""Shows that a command waits, for what, and since when: one line that lives in a terminal, lines in a log.

A log gets a line when something changes, and a heartbeat each minute, because CI systems end jobs that print nothing,
and people take them for dead.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from safe_deploy.durations import format_duration
from safe_deploy.rendering import current_time, format_seconds
from safe_deploy.sanitization import sanitize_line

HEARTBEAT_SECONDS = 60.0
"""How long a log gets no line at most."""

_TICK_SECONDS = 1.0
"""How often the line in a terminal is drawn again."""

_MIN_STATUS_WIDTH = 20
"""Columns of a line in a terminal that say what blocks, however narrow the terminal is."""


@dataclass(frozen=True, slots=True)
class WaitStatus:
    """What blocks at the moment, in one line: `text` for a log, `short` for a terminal, the most important first.

    `key`: a log gets another line when it differs from the previous one."""

    text: str
    short: str
    key: object


class WaitProgress(Protocol):
    """Shows the progress of a command that waits."""

    def update(self, status: WaitStatus) -> None:
        """Show what blocks now."""

    def pause(self) -> AbstractContextManager[None]:
        """Show nothing until the block ends, because a command of the user prints meanwhile."""


BeginWait = Callable[[str, float], AbstractContextManager[WaitProgress]]
"""Begins to show a wait: for what, as the end of the sentence `waiting …`, and for how many seconds at most."""


class SilentProgress:
    """Shows nothing, for --quiet."""

    def update(self, status: WaitStatus) -> None:
        """Show nothing."""

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Go on showing nothing."""
        yield


@dataclass(kw_only=True)
class WaitClock:
    """The times of one wait. `read` gives seconds that only grow, `now` the time of day."""

    timeout_seconds: float
    read: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = current_time
    _began_at: float = field(init=False)

    def __post_init__(self) -> None:
        """The wait begins now."""
        self._began_at = self.read()

    def describe(self) -> str:
        """How long the wait has lasted, and how long it still may."""
        elapsed = self.read() - self._began_at
        left = max(0.0, self.timeout_seconds - elapsed)
        return f"waited {format_seconds(elapsed)}, {format_seconds(math.ceil(left), with_rest=False)} left"


@dataclass(kw_only=True)
class LogProgress:
    """Prints a line when the status changes, and a heartbeat when nothing was printed for HEARTBEAT_SECONDS. `tick` is
    called from another thread than `update`."""

    subject: str
    clock: WaitClock
    report: Callable[[str], None]
    _printed_at: float = field(init=False)
    _status: WaitStatus | None = None
    _since: datetime | None = None
    _is_paused: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Say what is waited for."""
        self._print(f"waiting {self.subject}, for at most {_format_timeout(self.clock)}")

    def update(self, status: WaitStatus) -> None:
        """Print a status that differs from the previous one."""
        with self._lock:
            is_changed = self._status is None or self._status.key != status.key
            self._status = status
            if is_changed:
                self._since = self.clock.now()
                self._print(status.text)

    def tick(self) -> None:
        """Print the heartbeat if it is time for it."""
        with self._lock:
            if not self._is_paused and self.clock.read() - self._printed_at >= HEARTBEAT_SECONDS:
                unchanged = "no answer yet"
                if self._status is not None:
                    unchanged = f"unchanged since {self._since:%H:%M:%S}: {self._status.text}"
                self._print(f"still waiting {self.subject} ({self.clock.describe()}); {unchanged}")

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Print no heartbeat until the block ends."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    def _print(self, line: str) -> None:
        """Print a line with the time of day."""
        self._printed_at = self.clock.read()
        self.report(f"{self.clock.now():%H:%M:%S} {line}")


@dataclass(kw_only=True)
class LiveProgress:
    """Keeps one line of a terminal up to date. `tick` is called from another thread than `update`."""

    subject: str
    clock: WaitClock
    live: Live
    _status: WaitStatus | None = None
    _is_paused: bool = False

    def update(self, status: WaitStatus) -> None:
        """Show another status."""
        self._status = status
        self.tick()

    def tick(self) -> None:
        """Draw the line again, with how long the wait has lasted."""
        if not self._is_paused:
            self.live.update(self.build_line(), refresh=True)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Remove the line until the block ends."""
        self._is_paused = True
        self.live.stop()
        try:
            yield
        finally:
            self.live.start()
            self._is_paused = False

    def build_line(self) -> Text:
        """The line, not longer than the terminal is wide: what blocks is cut, the times are not."""
        times = self.clock.describe()
        if self._status is None:
            text = Text(sanitize_line(f"waiting {self.subject}"))
        else:
            text = Text(sanitize_line(self._status.short))
        text.truncate(max(_MIN_STATUS_WIDTH, self.live.console.width - len(times) - 3), overflow="ellipsis")
        line = Text.assemble(text, f" ({times})", no_wrap=True, overflow="ellipsis")
        line.truncate(self.live.console.width, overflow="ellipsis")
        return line


def _format_timeout(clock: WaitClock) -> str:
    """The time that a wait may take. What is left of a longer time is no whole number of seconds."""
    seconds = clock.timeout_seconds
    return format_duration(timedelta(seconds=seconds if seconds < 1 else round(seconds)))


@contextmanager
def show_in_log(subject: str, timeout_seconds: float, report: Callable[[str], None]) -> Iterator[WaitProgress]:
    """Show a wait as lines of a log, until the block ends."""
    progress = LogProgress(subject=subject, clock=WaitClock(timeout_seconds=timeout_seconds), report=report)
    with _call_regularly(progress.tick):
        yield progress


@contextmanager
def show_in_terminal(subject: str, timeout_seconds: float, console: Console) -> Iterator[WaitProgress]:
    """Show a wait as a line that lives, until the block ends. The line disappears then, because the result follows."""
    with (
        _interrupt_on_sigterm(),
        Live(console=console, auto_refresh=False, transient=True) as live,
    ):
        progress = LiveProgress(subject=subject, clock=WaitClock(timeout_seconds=timeout_seconds), live=live)
        progress.tick()
        with _call_regularly(progress.tick):
            yield progress


@contextmanager
def _interrupt_on_sigterm() -> Iterator[None]:
    """Have SIGTERM raise KeyboardInterrupt, so that the terminal's cursor is restored.

    A command that handles the signal itself is left alone."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def show_nothing() -> Iterator[WaitProgress]:
    """Wait in silence, for --quiet."""
    yield SilentProgress()


@contextmanager
def _call_regularly(tick: Callable[[], None]) -> Iterator[None]:
    """Call a function every _TICK_SECONDS in another thread, until the block ends."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(_TICK_SECONDS):
            tick()

    thread = threading.Thread(target=run, name="wait progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
