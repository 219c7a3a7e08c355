"""The routing revisions that routers have acknowledged. Each router has a row of its own in the partition of the app.
Its requests therefore do not conflict with changes of the app. One more row stands for all forgotten routers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.data.tables import UpdateMode

from state_api.domain.errors import StorageUnavailable
from state_api.domain.instants import Instant, format_instant, parse_instant, seconds
from state_api.domain.names import app_key
from state_api.domain.releases.apps import App
from state_api.domain.releases.side_by_side.acknowledgements import acknowledge_revision
from state_api.domain.releases.side_by_side.releases import RouterAcknowledgement, TrafficStop
from state_api.services.change_signals import ChangeSignals
from state_api.storage.schema import ROUTER_SCHEMA
from state_api.storage.stored_json import StoredModel, format_optional_instant, parse_optional_instant
from state_api.storage.tables import (
    APPS_TABLE,
    Tables,
    etag_of,
    if_match,
    is_write_conflict,
    submit_transaction,
    translate_storage_errors,
)
from state_api.storage.transactions import TableOperation

ROUTER_KEY_PREFIX = "router|"
_ROUTER_KEYS_TO = "router}"
_SEEN_INTERVAL = seconds(300)
"""A router that acknowledges the same revision again and again is written at this interval only."""
_MAX_ATTEMPTS = 5
"""How often an acknowledgement is written anew because another one under the same name was faster."""
_REPLACE = {"mode": UpdateMode.REPLACE}


class StoredTrafficStop(StoredModel):
    revision: int
    visits_end: str | None
    since: str


class StoredTrafficStops(StoredModel):
    """The JSON of `RouterAcknowledgement.stops`: at most one for each of the 50 releases of an app, some kilobytes."""

    stops: tuple[StoredTrafficStop, ...]

    @classmethod
    def from_domain(cls, stops: Sequence[TrafficStop]) -> Self:
        """The stored form of these stops."""
        return cls(
            stops=tuple(
                StoredTrafficStop(
                    revision=stop.revision,
                    visits_end=format_optional_instant(stop.visits_end),
                    since=format_instant(stop.since),
                )
                for stop in stops
            )
        )

    def to_domain(self) -> tuple[TrafficStop, ...]:
        """The stops that are stored."""
        return tuple(
            TrafficStop(stop.revision, parse_optional_instant(stop.visits_end), parse_instant(stop.since))
            for stop in self.stops
        )


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
        "Stops": StoredTrafficStops.from_domain(acknowledgement.stops).to_json(),
    }


def acknowledgement_from_row(row: Mapping[str, Any]) -> RouterAcknowledgement:
    """The acknowledgement in a row of a router. Raises UnsupportedSchema."""
    ROUTER_SCHEMA.check(row)
    return RouterAcknowledgement(
        router=row["Router"],
        revision=row["Revision"],
        since=parse_instant(row["Since"]),
        seen_at=parse_instant(row["SeenAt"]),
        stops=StoredTrafficStops.from_json(row["Stops"]).to_domain(),
    )


class RouterStore:
    """Reads and writes what routers have acknowledged."""

    def __init__(self, tables: Tables, signals: ChangeSignals) -> None:
        self._table = tables.client(APPS_TABLE)
        self._signals = signals

    async def list_acknowledgements(self, app_name: str) -> tuple[RouterAcknowledgement, ...]:
        """What every router of the app that asks under a name has acknowledged last, by name. Then the acknowledgement
        that stands for the forgotten routers, if there is one.

        In several pages, the row of a router that is forgotten meanwhile may be missing. Then the last page has what is
        remembered of it."""
        query = "PartitionKey eq @partition and RowKey ge @from and RowKey lt @to"
        parameters = {"partition": app_key(app_name), "from": ROUTER_KEY_PREFIX, "to": _ROUTER_KEYS_TO}
        async with translate_storage_errors():
            rows = [row async for row in self._table.query_entities(query, parameters=parameters)]
        return tuple(map(acknowledgement_from_row, rows))

    async def acknowledge(self, app: App, router: str, revision: int, now: Instant) -> None:
        """Record that a router routes by this revision of the app's routing. The app must exist.

        Two instances of a router may ask under one name at the same time. So the row is written only as it was read:
        otherwise one of them could overwrite that the other has gone back to an older revision. Raises
        StorageUnavailable if others are faster again and again.
        """
        for _ in range(_MAX_ATTEMPTS):
            async with translate_storage_errors():
                try:
                    row = await self._table.get_entity(app_key(app.name), router_row_key(router))
                except ResourceNotFoundError:
                    row = None
                stored = acknowledgement_from_row(row) if row is not None else None
                updated = acknowledge_revision(app, stored, router, revision, now)
                is_same = stored is not None and replace(updated, seen_at=stored.seen_at) == stored
                if stored is not None and is_same and 0 <= now - stored.seen_at < _SEEN_INTERVAL:
                    return
                write: TableOperation = ("create", router_row(app.name, updated))
                if row is not None:
                    write = ("update", router_row(app.name, updated), {**if_match(etag_of(row)), **_REPLACE})
                try:
                    await submit_transaction(self._table, [write])
                except HttpResponseError as error:
                    if not is_write_conflict(error):
                        raise
                    continue
            if not is_same:
                self._signals.signal_acknowledgement(app.name)
            return
        raise StorageUnavailable(
            f"several routers ask under the name {router} at the same time: give each one a name of its own",
            retry_after=5,
        )
