"""Values of table columns as the provider writes them."""

from typing import Any

from state_api.domain.instants import Instant, instant_from, parse_instant


def parse_column_instant(value: Any) -> Instant | None:
    """The time in a column, to 100 ns; None if it holds none."""
    precise = getattr(value, "tables_service_value", None)
    try:
        return parse_instant(precise or value) if precise or isinstance(value, str) else instant_from(value)
    except (ValueError, AttributeError, TypeError):
        return None
