"""A limit on the log. Whoever floods the server with requests must not fill its disk."""

import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from state_api.http.middleware import LOG_KIND
from state_api.services.administration import EXEMPT_FROM_LOG_LIMIT

log = logging.getLogger(__name__)

MAX_MESSAGES_PER_WINDOW = 100
"""Messages of one kind that are logged in one window."""
WINDOW_SECONDS = 60
MAX_MESSAGE_KINDS = 200
"""Kinds that are told apart. The texts of messages are a fixed number, unless a library puts values into them."""
_MAX_EXAMPLE_CHARACTERS = 300

_SUMMARY = "log_summary"


_Kind = tuple[str, int, str, Hashable]
"""Logger, level, text and value of LOG_KIND, of which there are few."""


@dataclass(slots=True)
class _Count:
    passed: int = 0
    dropped: int = 0
    example: str = ""


class LogRateLimit(logging.Filter):
    """Lets the first LINES messages of a kind pass in each window, and counts the rest. Two messages are of one kind
    if logger, level and text are the same, whatever the values in the text are. Messages with the attribute UNLIMITED
    always pass."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._counts: dict[_Kind, _Count] = {}
        self._window_began_at = monotonic()
        # Loggers are used from threads too.
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
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
        """Log how many messages were dropped, once at the end of each window, and when the server ends. To be called
        often."""
        with self._lock:
            now = self._monotonic()
            took = now - self._window_began_at
            if took < WINDOW_SECONDS and not at_end:
                return
            counts, self._counts, self._window_began_at = self._counts, {}, now
        for (name, level, _, _), count in counts.items():
            if count.dropped:
                log.log(
                    level,
                    "%d more messages of %s in %.0f s are not shown, such as: %s",
                    count.dropped,
                    name,
                    took,
                    count.example,
                    extra={_SUMMARY: True},
                )

    def _count_of(self, record: logging.LogRecord) -> _Count:
        text = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        key: _Kind = (record.name, record.levelno, text, getattr(record, LOG_KIND, None))
        if key not in self._counts and len(self._counts) >= MAX_MESSAGE_KINDS:
            key = (record.name, record.levelno, "", None)
        return self._counts.setdefault(key, _Count())


def _format_message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()[:_MAX_EXAMPLE_CHARACTERS]
    except Exception:  # noqa: BLE001 (a library's mistake in a message must not fail what it logs)
        return str(record.msg)[:_MAX_EXAMPLE_CHARACTERS]
