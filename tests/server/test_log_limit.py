"""The limit on the log: which messages it lets pass, which it counts, and when it logs the counts."""

import logging
from collections.abc import Awaitable, Callable, Iterator

import httpx
import pytest

from state_api.domain.readiness.policy import Policy
from state_api.http.middleware import LOG_KIND
from state_api.services.removal_log import EXEMPT_FROM_LOG_LIMIT
from state_api.serving.log_limit import MAX_MESSAGE_KINDS, MAX_MESSAGES_PER_WINDOW, WINDOW_SECONDS, LogRateLimit
from tests.builders import event, timestamp
from tests.conftest import ShiftedClock
from tests.http.operations import post_events


class CollectingHandler(logging.Handler):
    """A log handler that keeps the messages in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Add the text of the message to the list."""
        self.messages.append(record.getMessage())


class LimitedLog:
    """The messages that pass the limit on the log. The limit's clock shows `now`, in seconds, which a test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.limit = LogRateLimit(lambda: self.now)
        self.handler = CollectingHandler()
        self.handler.addFilter(self.limit)

    def take_messages(self) -> list[str]:
        """Return the messages that have passed since the last call."""
        messages, self.handler.messages = self.handler.messages, []
        return messages


@pytest.fixture
def log() -> Iterator[LimitedLog]:
    """A limited log that receives the messages of all loggers."""
    limited_log = LimitedLog()
    root = logging.getLogger()
    root.addHandler(limited_log.handler)
    yield limited_log
    root.removeHandler(limited_log.handler)


def test_messages_over_the_limit_are_counted_and_the_count_is_logged_once_a_minute(log: LimitedLog) -> None:
    for number in range(MAX_MESSAGES_PER_WINDOW + 3):
        logging.warning("flood %d", number)
    logging.warning("something else")
    assert log.take_messages() == [*(f"flood {number}" for number in range(MAX_MESSAGES_PER_WINDOW)), "something else"]
    log.now = WINDOW_SECONDS - 1
    log.limit.report()
    assert log.take_messages() == []
    log.now = WINDOW_SECONDS
    log.limit.report()
    assert log.take_messages() == [
        f"3 more messages of root in 60 s are not shown, such as: flood {MAX_MESSAGES_PER_WINDOW}"
    ]
    logging.warning("flood %d", 0)
    log.limit.report(at_end=True)
    assert log.take_messages() == ["flood 0"]


def test_messages_with_the_same_text_but_different_log_kinds_have_separate_limits(log: LimitedLog) -> None:
    for kind in ("GetApp 200", "None 404"):
        for _ in range(MAX_MESSAGES_PER_WINDOW):
            logging.warning("a request", extra={LOG_KIND: kind})
    assert len(log.take_messages()) == 2 * MAX_MESSAGES_PER_WINDOW


def test_an_exempt_message_always_passes_and_is_not_counted(log: LimitedLog) -> None:
    for number in range(MAX_MESSAGES_PER_WINDOW + 3):
        logging.warning("removed %d", number, extra={EXEMPT_FROM_LOG_LIMIT: True})
    assert log.take_messages() == [f"removed {number}" for number in range(MAX_MESSAGES_PER_WINDOW + 3)]
    log.limit.report(at_end=True)
    assert log.take_messages() == []


@pytest.mark.anyio
async def test_every_purge_of_the_quarantine_is_logged(
    log: LimitedLog, http: httpx.AsyncClient, anyio_backend: str
) -> None:
    """A purge has no audit record, so the log is its only record."""
    await assert_every_request_is_logged(
        log, lambda: http.delete("/api/quarantine", params={"before": "2018-01-01"}), "from quarantine"
    )


@pytest.mark.anyio
async def test_every_deletion_of_a_task_hub_is_logged(
    log: LimitedLog, http: httpx.AsyncClient, hub: str, clock: ShiftedClock, anyio_backend: str
) -> None:
    """The deletion has no audit record, so the log is its only record."""
    await post_events(http, event(hub, time=timestamp(-60)), event(hub, status="Completed", time=timestamp(-50)))
    clock.advance(Policy().settle_seconds + 1)
    await assert_every_request_is_logged(
        log, lambda: http.delete(f"/api/taskhubs/{hub}"), f"removed the records of task hub {hub}"
    )


async def assert_every_request_is_logged(
    log: LimitedLog, send_request: Callable[[], Awaitable[httpx.Response]], message_part: str
) -> None:
    """Send a request more often than the limit, and assert that each has a log message with `message_part`."""
    request_count = MAX_MESSAGES_PER_WINDOW + 1
    for _ in range(request_count):
        assert (await send_request()).status_code == 200
    assert sum(message_part in message for message in log.take_messages()) == request_count


def test_messages_of_more_kinds_than_are_counted_share_one_limit(log: LimitedLog) -> None:
    for number in range(MAX_MESSAGE_KINDS + 2 * MAX_MESSAGES_PER_WINDOW):
        logging.warning(f"text {number}")
    assert len(log.take_messages()) == MAX_MESSAGE_KINDS + MAX_MESSAGES_PER_WINDOW
    log.limit.report(at_end=True)
    assert log.take_messages() == [
        (
            f"{MAX_MESSAGES_PER_WINDOW} more messages of root in 0 s are not shown, such as: "
            f"text {MAX_MESSAGE_KINDS + MAX_MESSAGES_PER_WINDOW}"
        )
    ]


def test_a_message_that_cannot_be_formatted_is_limited_like_others(log: LimitedLog) -> None:
    record = logging.LogRecord("library", logging.WARNING, "", 0, "%d of %d", ("odd",), None)
    error_record = logging.LogRecord("library", logging.WARNING, "", 0, OSError("port"), None, None)
    repeated_records = [record] * (MAX_MESSAGES_PER_WINDOW + 1) + [error_record] * (MAX_MESSAGES_PER_WINDOW + 1)
    passes = [log.limit.filter(repeated_record) for repeated_record in repeated_records]
    assert passes.count(False) == 2
    log.limit.report(at_end=True)
    assert log.take_messages() == [
        "1 more messages of library in 0 s are not shown, such as: %d of %d",
        "1 more messages of library in 0 s are not shown, such as: port",
    ]
