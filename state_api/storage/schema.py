"""The schema number of each kind of stored row.

Every row carries the number of its kind as the property `Schema`. Another version of the server wrote a row of another
number, and this version does not know what its columns mean, so the whole row is refused.

Raise a number whenever columns or JSON members of that kind are added, renamed or removed, or change their meaning.
From the first release on, also keep reading the number before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from state_api.domain.errors import UnsupportedSchema

SCHEMA_PROPERTY = "Schema"
_RETRY_AFTER_SECONDS = 60


@dataclass(frozen=True, slots=True)
class RowSchema:
    """A kind of row, as messages name it, and the only schema number of it that this server reads and writes."""

    row_kind: str
    number: int

    @property
    def schema_property(self) -> dict[str, Any]:
        """The property that every new row of this kind holds."""
        return {SCHEMA_PROPERTY: self.number}

    def check(self, row: Mapping[str, Any]) -> None:
        """Raises UnsupportedSchema unless the row has this schema number. Call it before reading any other column."""
        stored_number = row.get(SCHEMA_PROPERTY)
        # True and 1.0 equal 1, but the server never writes them.
        if type(stored_number) is int and stored_number == self.number:
            return
        if stored_number is None:
            message = (
                f"{self.row_kind} in the state storage have no schema number, because a version before the first "
                "release wrote them. Use an empty storage account, or delete the tables whose names begin with "
                "SafeDeploy"
            )
        else:
            message = (
                f"{self.row_kind} in the state storage have schema {str(stored_number)[:20]}; this server supports "
                f"schema {self.number}. Run the server version that wrote them"
            )
        raise UnsupportedSchema(message, retry_after=_RETRY_AFTER_SECONDS)


APP_SCHEMA = RowSchema("apps", 6)
APP_INDEX_SCHEMA = RowSchema("entries in the list of apps", 1)
VERSION_SCHEMA = RowSchema("used versions of releases", 1)
ROUTER_SCHEMA = RowSchema("acknowledgements of routers", 2)
AUDIT_SCHEMA = RowSchema("records of the audit log", 2)
TASK_HUB_SCHEMA = RowSchema("entries in the registry of task hubs", 4)
TASK_HUB_STATE_SCHEMA = RowSchema("states of task hubs", 1)
INSTANCE_SCHEMA = RowSchema("instances", 3)
"""Both rows of an instance have the same schema number, because one transaction writes both under one ETag. Number 3
has the columns of number 2, and also says that every change is counted in the timeline: a server that does not count
must not record."""
ACTIVITY_SCHEMA = RowSchema("activity stamps", 2)
"""The server overwrites these rows without reading them, so their key also contains the number."""
TIMELINE_SCHEMA = RowSchema("counters of timelines", 1)
PROBE_SCHEMA = RowSchema("probe results", 4)
"""All rows of a task hub's probes have the same schema number, because one transaction writes them under one ETag."""
DELIVERY_CHECK_SCHEMA = RowSchema("delivery checks", 1)
QUARANTINE_SCHEMA = RowSchema("events in quarantine", 2)
