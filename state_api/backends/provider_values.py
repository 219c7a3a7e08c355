"""Times and runtime statuses as the providers write them."""

from typing import Any

from state_api.domain.instants import Instant, instant_from, parse_instant
from state_api.domain.task_hubs.lifecycle import RuntimeStatus


def parse_column_instant(value: Any) -> Instant | None:
    """Return the time in a table's column, exact to 100 ns; None if the column contains no time."""
    # The library's datetime is cut to microseconds and carries the service's text along.
    precise_text = getattr(value, "tables_service_value", None)
    try:
        return parse_instant(precise_text or value) if precise_text or isinstance(value, str) else instant_from(value)
    except (ValueError, AttributeError, TypeError):
        return None


def parse_runtime_status(value: Any) -> RuntimeStatus:
    """Return the runtime status of this name. A missing or unknown status counts as Running."""
    try:
        return RuntimeStatus(value)
    except ValueError:
        return RuntimeStatus.RUNNING
