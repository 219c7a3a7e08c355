"""The schema number of each kind of stored row. A row of another number was written by another version of this server.
It is refused as a whole: what its properties mean there is not known here.

Every row carries its number as the property `Schema`. Raise a number when a server that knows only the lower one would
read the row wrongly, or lose something when it writes the row back; read the lower number as well from then on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from state_api.domain.errors import UnsupportedSchema

SCHEMA = "Schema"
"""The property that holds the number."""


@dataclass(frozen=True, slots=True)
class RowSchema:
    """A kind of row, named as in messages, and the one number of it that this server reads and writes."""

    rows: str
    number: int

    @property
    def stamp(self) -> dict[str, Any]:
        """What every new row of this kind holds."""
        return {SCHEMA: self.number}

    def check(self, row: Mapping[str, Any]) -> None:
        """Raises UnsupportedSchema unless this server knows the row's schema. Call it before anything else of the row
        is read."""
        found = row.get(SCHEMA)
        if found == self.number and type(found) is int:
            return
        if found is None:
            message = (
                f"{self.rows} in the state storage have no schema number, because a version before the first release "
                "wrote them. Use an empty storage account, or delete the tables whose names begin with SafeDeploy"
            )
        else:
            message = (
                f"{self.rows} in the state storage have schema {str(found)[:20]}; this server supports schema "
                f"{self.number}. Run the server version that wrote them"
            )
        raise UnsupportedSchema(message, retry_after=60)


APP = RowSchema("apps", 1)
APP_NAME = RowSchema("entries in the list of apps", 1)
AUDIT = RowSchema("records of the audit log", 1)
TASK_HUB = RowSchema("entries in the registry of task hubs", 1)
INSTANCE = RowSchema("instances", 1)
"""Both rows of an instance, because one transaction under the ETag of the first writes both. A server that does not
know `ConfirmedBackend` may write the row back without it: then the start blocks until it is shown again, which is
safe."""
ACTIVITY = RowSchema("activity stamps", 1)
"""These rows are overwritten without being read, so their number is a part of their key, too."""
PROBE = RowSchema("probe results", 1)
"""Result and lease of a task hub, because one transaction under the ETag of the lease writes both."""
QUARANTINED = RowSchema("events in quarantine", 1)
