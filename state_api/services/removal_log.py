"""The log of what administrators remove that belongs to no app, and so has no place in the audit log of one."""

import logging

from state_api.domain.releases.apps import Caller

log = logging.getLogger(__name__)

EXEMPT_FROM_LOG_LIMIT = "unlimited"
"""The attribute of a log record that the log limit (serving/log_limit) never drops."""


def log_removal(caller: Caller, removed: str) -> None:
    """Log who removed what. `removed` completes the sentence, such as `the records of task hub shop42`."""
    log.warning("%s removed %s", ascii(caller.name), removed, extra={EXEMPT_FROM_LOG_LIMIT: True})
