"""How a wait looks in a log and in a terminal. Clocks are passed in."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console
from rich.live import Live

from safe_deploy.wait_progress import LiveProgress, LogProgress, WaitClock, WaitStatus

BEGIN = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
SUBJECT = "until slot staging of app shop is ready"


class Watch:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def build(self, timeout_seconds: float = 3600) -> WaitClock:
        """A wait's times by this clock."""
        return WaitClock(
            timeout_seconds=timeout_seconds,
            read=lambda: self.seconds,
            now=lambda: BEGIN + timedelta(seconds=self.seconds),
        )


def status(text: str, key: object = None) -> WaitStatus:
    """A status whose key is its text, unless another one is given."""
    return WaitStatus(text, text, key or text)


class Log:
    """A wait that is shown in a log."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.lines: list[str] = []
        self.progress = LogProgress(subject=SUBJECT, clock=self.watch.build(), report=self.lines.append)

    def pass_seconds(self, seconds: int) -> None:
        """Let time pass, with a tick each second."""
        for _ in range(seconds):
            self.watch.seconds += 1
            self.progress.tick()


def test_a_log_says_at_once_what_is_waited_for() -> None:
    assert Log().lines == [f"12:00:00 waiting {SUBJECT}, for at most 1 h"]


@pytest.mark.parametrize(("seconds", "text"), [(119.999995, "2 min"), (89.7, "90 s"), (0.25, "0.25 s")])
def test_what_is_left_of_a_timeout_is_shown_in_whole_seconds(seconds: float, text: str) -> None:
    lines: list[str] = []
    LogProgress(subject=SUBJECT, clock=Watch().build(seconds), report=lines.append)
    assert lines == [f"12:00:00 waiting {SUBJECT}, for at most {text}"]


def test_a_log_has_a_line_for_each_change_and_none_for_repetitions() -> None:
    log = Log()
    for text in ("2 active", "2 active", "1 active", "1 active", "2 active"):
        log.progress.update(status(text))
    assert [line[9:] for line in log.lines[1:]] == ["2 active", "1 active", "2 active"]


def test_a_change_of_the_text_alone_is_no_change() -> None:
    """The age of an instance changes all the time."""
    log = Log()
    log.progress.update(status("1 active, for 5 s", "1"))
    log.progress.update(status("1 active, for 6 s", "1"))
    assert len(log.lines) == 2


def test_a_log_has_a_heartbeat_each_minute_with_the_newest_text() -> None:
    log = Log()
    log.progress.update(status("1 active, for 5 s", "1"))
    log.pass_seconds(59)
    assert len(log.lines) == 2
    log.progress.update(status("1 active, for 64 s", "1"))
    log.pass_seconds(61)
    assert log.lines[2:] == [
        f"12:01:00 still waiting {SUBJECT} (waited 1 min, 59 min left); unchanged since 12:00:00: 1 active, for 64 s",
        f"12:02:00 still waiting {SUBJECT} (waited 2 min, 58 min left); unchanged since 12:00:00: 1 active, for 64 s",
    ]


def test_a_change_postpones_the_heartbeat() -> None:
    log = Log()
    log.pass_seconds(50)
    log.progress.update(status("2 active"))
    log.pass_seconds(59)
    assert len(log.lines) == 2
    log.pass_seconds(1)
    assert log.lines[-1].endswith("unchanged since 12:00:50: 2 active")


def test_a_server_that_does_not_answer_has_heartbeats_too() -> None:
    log = Log()
    log.pass_seconds(120)
    assert [line.partition("; ")[2] for line in log.lines[1:]] == ["no answer yet"] * 2


def test_an_hour_without_a_change_is_sixty_lines() -> None:
    log = Log()
    log.progress.update(status("1 active"))
    log.pass_seconds(3600)
    assert len(log.lines) == 62


def test_no_heartbeat_is_printed_into_the_output_of_a_command() -> None:
    log = Log()
    with log.progress.pause():
        log.pass_seconds(300)
    assert len(log.lines) == 1
    log.pass_seconds(1)
    assert len(log.lines) == 2


# --- a terminal ---


def draw(
    text: str | None, columns: int, *, waited: float = 185, timeout_seconds: float = 3600, subject: str = SUBJECT
) -> str:
    """The line in a terminal of so many columns."""
    watch = Watch()
    console = Console(file=io.StringIO(), force_terminal=True, width=columns)
    progress = LiveProgress(subject=subject, clock=watch.build(timeout_seconds), live=Live(console=console))
    watch.seconds = waited
    if text is not None:
        progress.update(status(text))
    return progress.build_line().plain


def test_before_the_first_answer_the_line_names_what_is_waited_for() -> None:
    assert draw(None, 80, waited=0) == f"waiting {SUBJECT} (waited 0 s, 1 h left)"


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (200, "InstancesActive: 3, oldest order-17 (ProcessOrder) for 2 h (waited 3 min 5 s, 56 min left)"),
        (80, "InstancesActive: 3, oldest order-17 (ProcessOrd… (waited 3 min 5 s, 56 min left)"),
        (60, "InstancesActive: 3, oldest … (waited 3 min 5 s, 56 min left)"),
    ],
)
def test_a_narrow_terminal_cuts_what_blocks_and_keeps_the_times(columns: int, line: str) -> None:
    text = draw("InstancesActive: 3, oldest order-17 (ProcessOrder) for 2 h", columns)
    assert text == line
    assert len(text) <= columns


@pytest.mark.parametrize("columns", [10, 20, 30, 40, 60, 80])
@pytest.mark.parametrize("text", ["x" * 500, "InstancesActive: 3", "漢字" * 60], ids=["long", "short", "wide"])
def test_the_line_is_never_wider_than_the_terminal(columns: int, text: str) -> None:
    """A line that wraps could not be erased."""
    watch = Watch()
    console = Console(file=io.StringIO(), force_terminal=True, width=columns)
    progress = LiveProgress(subject=SUBJECT, clock=watch.build(), live=Live(console=console))
    progress.update(status(text))
    assert progress.build_line().cell_len <= columns


def test_text_of_others_cannot_act_on_the_terminal() -> None:
    assert "\x1b" not in draw("order-\x1b[2J", 80)
    assert "\n" not in draw("order-\n", 80)


def test_after_the_timeout_no_time_is_left() -> None:
    assert draw("1 active", 80, waited=65, timeout_seconds=60).endswith("(waited 1 min 5 s, 0 s left)")
