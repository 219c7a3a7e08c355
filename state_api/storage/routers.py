"""The routing revisions that routers have acknowledged. Each router has a row of its own in the partition of the app.
Its requests therefore do not conflict with changes of the app."""

from collections.abc import Mapping
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.data.tables import UpdateMode

from state_api.domain.instants import Instant, format_instant, parse_instant, seconds
from state_api.domain.names import app_key
from state_api.domain.releases.side_by_side.releases import RouterAcknowledgement
from state_api.services.change_signals import ChangeSignals
from state_api.storage.schema import ROUTER_SCHEMA
from state_api.storage.tables import APPS_TABLE, Tables, submit_transaction, translate_storage_errors

ROUTER_KEY_PREFIX = "router|"
_ROUTER_KEYS_TO = "router}"
_SEEN_INTERVAL = seconds(300)
"""A router that acknowledges the same revision again and again is written at this interval only."""


def router_row_key(router: str) -> str:
    return f"{ROUTER_KEY_PREFIX}{router}"


def router_row(app_name: str, acknowledgement: RouterAcknowledgement) -> dict[str, Any]:
    """The row that holds which revision of the routing a router has acknowledged last."""
    return {
        "PartitionKey": app_key(app_name),
        "RowKey": router_row_key(acknowledgement.router),
        **ROUTER_SCHEMA.schema_property,
        "Router": acknowledgement.router,
        "Revision": acknowledgement.revision,
        "Since": format_instant(acknowledgement.since),
        "SeenAt": format_instant(acknowledgement.seen_at),
    }


def acknowledgement_from_row(row: Mapping[str, Any]) -> RouterAcknowledgement:
    """The acknowledgement in a row of a router. Raises UnsupportedSchema."""
    ROUTER_SCHEMA.check(row)
    return RouterAcknowledgement(
        router=row["Router"],
        revision=row["Revision"],
        since=parse_instant(row["Since"]),
        seen_at=parse_instant(row["SeenAt"]),
    )


class RouterStore:
    """Reads and writes what routers have acknowledged."""

    def __init__(self, tables: Tables, signals: ChangeSignals) -> None:
        self._table = tables.client(APPS_TABLE)
        self._signals = signals

    async def list_acknowledgements(self, app_name: str) -> tuple[RouterAcknowledgement, ...]:
        """What every router of the app that asks under a name has acknowledged last, by name."""
        query = "PartitionKey eq @partition and RowKey ge @from and RowKey lt @to"
        parameters = {"partition": app_key(app_name), "from": ROUTER_KEY_PREFIX, "to": _ROUTER_KEYS_TO}
        async with translate_storage_errors():
            rows = [row async for row in self._table.query_entities(query, parameters=parameters)]
        return tuple(map(acknowledgement_from_row, rows))

    async def acknowledge(
        self, app_name: str, router: str, revision: int, now: Instant, *, again_after: Instant | None
    ) -> None:
        """Record that a router routes by this revision. The app must exist.

        An acknowledgement from before `again_after` does not count any more: the router acknowledges the same revision
        anew.

        The last request counts, also with an older revision than before: the router may be restored from an older copy.
        A router has one request at a time, so no condition is needed.
        """
        async with translate_storage_errors():
            try:
                row = await self._table.get_entity(app_key(app_name), router_row_key(router))
            except ResourceNotFoundError:
                row = None
            stored = acknowledgement_from_row(row) if row is not None else None
            is_same = (
                stored is not None
                and stored.revision == revision
                and (again_after is None or stored.since >= again_after)
            )
            if stored is not None and is_same and 0 <= now - stored.seen_at < _SEEN_INTERVAL:
                return
            since = stored.since if stored is not None and is_same else now
            acknowledgement = RouterAcknowledgement(router, revision, since, now)
            await submit_transaction(
                self._table, [("upsert", router_row(app_name, acknowledgement), {"mode": UpdateMode.REPLACE})]
            )
        if not is_same:
            self._signals.signal_acknowledgement(app_name)
