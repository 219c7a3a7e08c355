"""A limit on the log for each kind of message, so that a flood of requests cannot fill the disk."""

import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from state_api.http.middleware import LOG_KIND
from state_api.services.removal_log import EXEMPT_FROM_LOG_LIMIT

log = logging.getLogger(__name__)

MAX_MESSAGES_PER_WINDOW = 100
"""The number of messages of one kind that are logged in one window."""
WINDOW_SECONDS = 60
MAX_MESSAGE_KINDS = 200
"""Kinds that are counted separately in one window. Our own messages have fewer; a library that formats values into its
messages can have any number."""
_MAX_EXAMPLE_CHARACTERS = 300

_SUMMARY = "log_summary"
"""The attribute of the log records that this module writes itself."""

_MessageKind = tuple[str, int, str, Hashable]
"""Logger, level, message before formatting, and value of LOG_KIND."""


@dataclass(slots=True)
class _MessageCount:
    passed: int = 0
    dropped: int = 0
    example: str = ""


class LogRateLimit(logging.Filter):
    """Passes the first MAX_MESSAGES_PER_WINDOW messages of each kind in a window, and counts the others. Messages are
    of one kind if logger, level and message before formatting are the same. A record with the attribute
    EXEMPT_FROM_LOG_LIMIT always passes."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Begin a window in which no message is counted yet."""
        super().__init__()
        self._monotonic = monotonic
        self._counts: dict[_MessageKind, _MessageCount] = {}
        self._window_began_at = monotonic()
        # Loggers can be called from any thread.
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log the record. Counts the records that are dropped, and keeps the first of them as an example."""
        if hasattr(record, _SUMMARY) or getattr(record, EXEMPT_FROM_LOG_LIMIT, False):
            return True
        with self._lock:
            count = self._count_of(record)
            if count.passed < MAX_MESSAGES_PER_WINDOW:
                count.passed += 1
                return True
            if not count.dropped:
                count.example = _format_message(record)
            count.dropped += 1
            return False

    def report(self, *, at_end: bool = False) -> None:
        """Log the number of dropped messages if the window has ended, or in any case with `at_end`. Call it at least
        every second."""
        with self._lock:
            now = self._monotonic()
            elapsed_seconds = now - self._window_began_at
            if elapsed_seconds < WINDOW_SECONDS and not at_end:
                return
            counts, self._counts, self._window_began_at = self._counts, {}, now
        for (name, level, _, _), count in counts.items():
            if count.dropped:
                log.log(
                    level,
                    "%d more messages of %s in %.0f s are not shown, such as: %s",
                    count.dropped,
                    name,
                    elapsed_seconds,
                    count.example,
                    extra={_SUMMARY: True},
                )

    def _count_of(self, record: logging.LogRecord) -> _MessageCount:
        """The count of messages of this kind: same logger, level, text without arguments, and LOG_KIND."""
        text = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        kind: _MessageKind = (record.name, record.levelno, text, getattr(record, LOG_KIND, None))
        if kind not in self._counts and len(self._counts) >= MAX_MESSAGE_KINDS:
            # One kind for all further messages of this logger and level.
            kind = (record.name, record.levelno, "", None)
        return self._counts.setdefault(kind, _MessageCount())


def _format_message(record: logging.LogRecord) -> str:
    """The text of a message, cut to a length. Never raises."""
    try:
        return record.getMessage()[:_MAX_EXAMPLE_CHARACTERS]
    except Exception:  # noqa: BLE001 (a message that cannot be formatted must not fail its caller)
        return str(record.msg)[:_MAX_EXAMPLE_CHARACTERS]
