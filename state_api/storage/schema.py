"""The schema number of each kind of stored row. A row of another number was written by another version of this server.
It is refused as a whole: what its properties mean there is not known here.

Every row carries its number as the property `Schema`. Raise a number when a server that knows only the lower one would
read the row wrongly, or lose something when it writes the row back; read the lower number as well from then on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from state_api.domain.errors import UnsupportedSchema

SCHEMA_PROPERTY = "Schema"
"""The property that holds the number."""


@dataclass(frozen=True, slots=True)
class RowSchema:
    """A kind of row, named as in messages, and the one number of it that this server reads and writes."""

    row_kind: str
    number: int

    @property
    def schema_property(self) -> dict[str, Any]:
        """What every new row of this kind holds."""
        return {SCHEMA_PROPERTY: self.number}

    def check(self, row: Mapping[str, Any]) -> None:
        """Raises UnsupportedSchema unless this server knows the row's schema. Call it before anything else of the row
        is read."""
        found = row.get(SCHEMA_PROPERTY)
        if found == self.number and type(found) is int:
            return
        if found is None:
            message = (
                f"{self.row_kind} in the state storage have no schema number, because a version before the first "
                "release wrote them. Use an empty storage account, or delete the tables whose names begin with "
                "SafeDeploy"
            )
        else:
            message = (
                f"{self.row_kind} in the state storage have schema {str(found)[:20]}; this server supports schema "
                f"{self.number}. Run the server version that wrote them"
            )
        raise UnsupportedSchema(message, retry_after=60)


APP_SCHEMA = RowSchema("apps", 1)
APP_INDEX_SCHEMA = RowSchema("entries in the list of apps", 1)
AUDIT_SCHEMA = RowSchema("records of the audit log", 1)
TASK_HUB_SCHEMA = RowSchema("entries in the registry of task hubs", 1)
INSTANCE_SCHEMA = RowSchema("instances", 1)
"""Both rows of an instance, because one transaction under the ETag of the first writes both. A server that does not
know `ConfirmedBackend` may write the row back without it: then the start blocks until it is shown again, which is
safe."""
ACTIVITY_SCHEMA = RowSchema("activity stamps", 1)
"""These rows are overwritten without being read, so their number is a part of their key, too."""
PROBE_SCHEMA = RowSchema("probe results", 1)
"""Result and lease of a task hub, because one transaction under the ETag of the lease writes both."""
QUARANTINE_SCHEMA = RowSchema("events in quarantine", 1)
