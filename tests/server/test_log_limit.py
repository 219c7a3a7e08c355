"""The limit on the log: which messages pass, which are counted, and when the counts are logged."""

import logging
from collections.abc import Awaitable, Callable, Iterator

import httpx
import pytest

from state_api.http.middleware import LOG_KIND
from state_api.services.administration import EXEMPT_FROM_LOG_LIMIT
from state_api.serving.log_limit import MAX_MESSAGE_KINDS, MAX_MESSAGES_PER_WINDOW, WINDOW_SECONDS, LogRateLimit
from tests.builders import event, timestamp
from tests.conftest import ShiftedClock
from tests.http.operations import post_events


class ListHandler(logging.Handler):
    """Collects the messages that reach it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class LimitedLog:
    """A log with a limit and a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.limit = LogRateLimit(lambda: self.now)
        self.handler = ListHandler()
        self.handler.addFilter(self.limit)

    def lines(self) -> list[str]:
        """The messages since the last call."""
        lines, self.handler.lines = self.handler.lines, []
        return lines


@pytest.fixture
def log() -> Iterator[LimitedLog]:
    limited = LimitedLog()
    root = logging.getLogger()
    root.addHandler(limited.handler)
    yield limited
    root.removeHandler(limited.handler)


def test_messages_over_the_limit_are_counted_and_the_count_is_logged_once_a_minute(log: LimitedLog) -> None:
    for number in range(MAX_MESSAGES_PER_WINDOW + 3):
        logging.warning("flood %d", number)
    logging.warning("something else")
    assert log.lines() == [*(f"flood {number}" for number in range(MAX_MESSAGES_PER_WINDOW)), "something else"]
    log.now = WINDOW_SECONDS - 1
    log.limit.report()
    assert log.lines() == []
    log.now = WINDOW_SECONDS
    log.limit.report()
    assert log.lines() == [f"3 more messages of root in 60 s are not shown, such as: flood {MAX_MESSAGES_PER_WINDOW}"]
    logging.warning("flood %d", 0)
    log.limit.report(at_end=True)
    assert log.lines() == ["flood 0"]


def test_messages_with_the_same_text_but_different_log_kinds_have_separate_limits(log: LimitedLog) -> None:
    for kind in ("GetApp 200", "None 404"):
        for _ in range(MAX_MESSAGES_PER_WINDOW):
            logging.warning("a request", extra={LOG_KIND: kind})
    assert len(log.lines()) == 2 * MAX_MESSAGES_PER_WINDOW


def test_an_exempt_message_always_passes_and_is_not_counted(log: LimitedLog) -> None:
    for number in range(MAX_MESSAGES_PER_WINDOW + 3):
        logging.warning("removed %d", number, extra={EXEMPT_FROM_LOG_LIMIT: True})
    assert log.lines() == [f"removed {number}" for number in range(MAX_MESSAGES_PER_WINDOW + 3)]
    log.limit.report(at_end=True)
    assert log.lines() == []


@pytest.mark.anyio
async def test_every_purge_of_the_quarantine_is_logged(
    log: LimitedLog, http: httpx.AsyncClient, anyio_backend: str
) -> None:
    """The log is the only record of it."""
    await assert_every_request_is_logged(
        log, lambda: http.delete("/api/quarantine", params={"before": "2018-01-01"}), "from quarantine"
    )


@pytest.mark.anyio
async def test_every_deletion_of_a_task_hub_is_logged(
    log: LimitedLog, http: httpx.AsyncClient, hub: str, clock: ShiftedClock, anyio_backend: str
) -> None:
    """The log is the only record of it."""
    await post_events(http, event(hub, time=timestamp(-60)), event(hub, status="Completed", time=timestamp(-50)))
    clock.advance(31)
    await assert_every_request_is_logged(
        log, lambda: http.delete(f"/api/taskhubs/{hub}"), f"removed the records of task hub {hub}"
    )


async def assert_every_request_is_logged(
    log: LimitedLog, send: Callable[[], Awaitable[httpx.Response]], logged: str
) -> None:
    """Send a request more often than the limit. The log must have a line for each."""
    for _ in range(MAX_MESSAGES_PER_WINDOW + 1):
        assert (await send()).status_code == 200
    assert sum(logged in line for line in log.lines()) == MAX_MESSAGES_PER_WINDOW + 1


def test_messages_with_ever_new_texts_share_one_limit(log: LimitedLog) -> None:
    for number in range(MAX_MESSAGE_KINDS + 2 * MAX_MESSAGES_PER_WINDOW):
        logging.warning(f"text {number}")
    assert len(log.lines()) == MAX_MESSAGE_KINDS + MAX_MESSAGES_PER_WINDOW
    log.limit.report(at_end=True)
    assert log.lines() == [
        (
            f"{MAX_MESSAGES_PER_WINDOW} more messages of root in 0 s are not shown, such as: "
            f"text {MAX_MESSAGE_KINDS + MAX_MESSAGES_PER_WINDOW}"
        )
    ]


def test_a_message_that_cannot_be_formatted_raises_no_error(log: LimitedLog) -> None:
    record = logging.LogRecord("library", logging.WARNING, "", 0, "%d of %d", ("odd",), None)
    error_record = logging.LogRecord("library", logging.WARNING, "", 0, OSError("port"), None, None)
    passed = [
        log.limit.filter(repeated) for repeated in (record, error_record) for _ in range(MAX_MESSAGES_PER_WINDOW + 1)
    ]
    assert passed.count(False) == 2
    log.limit.report(at_end=True)
    assert log.lines() == [
        "1 more messages of library in 0 s are not shown, such as: %d of %d",
        "1 more messages of library in 0 s are not shown, such as: port",
    ]
