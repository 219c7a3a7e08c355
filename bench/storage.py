"""The emulator by itself: started for one figure, and spoken to without the client library where that would be what is
measured, or would take too long."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import aiohttp
from azure.core.credentials import AzureNamedKeyCredential
from azure.data.tables import AccountSasPermissions, ResourceTypes, generate_account_sas
from azure.data.tables.aio import TableServiceClient

from harness.processes import free_ports
from state_api.emulator import EmulatorPorts, storage_emulator
from state_api.settings import StorageSettings

ROWS_PER_TRANSACTION = 100
"""Rows of a full transaction (PLATFORM: Table storage)."""
_VERSION_HEADERS = {"x-ms-version": "2019-02-02", "DataServiceVersion": "3.0"}
_ACCEPTED_STATUS = 202

RowWrite = tuple[str, Mapping[str, Any]]
"""What a transaction does with a row: create, upsert, update or delete, as the client library calls it."""


@dataclass(frozen=True, slots=True)
class Emulator:
    """A running emulator: how it is reached, and its process."""

    settings: StorageSettings
    pid: int

    @property
    def connection(self) -> str:
        assert self.settings.connection_string is not None
        return self.settings.connection_string.get_secret_value()


@contextmanager
def run_emulator() -> Iterator[Emulator]:
    """A fresh one, in memory: no figure pays for the rows of another."""
    ports = EmulatorPorts(*free_ports(3))
    with storage_emulator(ports, None) as pid:
        yield Emulator(StorageSettings.model_validate({"connection_string": ports.connection_string()}), pid)


class RawTables:
    """Tables over plain HTTP, signed once for all requests."""

    def __init__(self, connection: str) -> None:
        self._connection = connection
        parts = dict(part.split("=", 1) for part in connection.split(";") if part)
        self._endpoint = parts["TableEndpoint"].rstrip("/")
        everything = AccountSasPermissions(
            read=True, write=True, add=True, update=True, delete=True, list=True, create=True
        )
        self._signature = generate_account_sas(
            AzureNamedKeyCredential(parts["AccountName"], parts["AccountKey"]),
            ResourceTypes(object=True, service=True),
            everything,
            datetime.now(UTC) + timedelta(hours=12),
        )
        # The emulator offers to keep connections and means it; a limit would hide how many are used.
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def __aenter__(self) -> "RawTables":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._http.close()

    async def make_table(self, table: str) -> None:
        # A signature for rows makes no tables.
        async with TableServiceClient.from_connection_string(self._connection) as service:
            await service.create_table(table)

    def build_transaction(self, table: str, writes: Sequence[RowWrite]) -> bytes:
        """The body of a transaction."""
        parts = [_build_part(f"{self._endpoint}/{table}", *write) for write in writes]
        inside = "".join(f"--changeset_1\r\n{part}\r\n" for part in parts)
        return (
            "--batch_1\r\nContent-Type: multipart/mixed; boundary=changeset_1\r\n\r\n"
            f"{inside}--changeset_1--\r\n--batch_1--\r\n"
        ).encode()

    async def submit_transaction(self, body: bytes, writes: int) -> None:
        """Send a transaction. Raises RuntimeError unless all of it was done."""
        headers = {**_VERSION_HEADERS, "Content-Type": "multipart/mixed; boundary=batch_1"}
        async with self._http.post(f"{self._endpoint}/$batch?{self._signature}", data=body, headers=headers) as answer:
            text = await answer.text()
            if answer.status != _ACCEPTED_STATUS or text.count(" 204 No Content") != writes:
                raise RuntimeError(f"the emulator refused a transaction: {answer.status} {text[:500]}")

    async def create_rows(self, table: str, rows: Sequence[Mapping[str, Any]], concurrency: int = 3) -> None:
        """Create rows, with as few requests as the emulator takes. Rows of several partitions in one transaction are
        fine with it, unlike with the service."""
        starts = iter(range(0, len(rows), ROWS_PER_TRANSACTION))

        async def worker() -> None:
            for start in starts:
                some = rows[start : start + ROWS_PER_TRANSACTION]
                await self.submit_transaction(
                    self.build_transaction(table, [("create", row) for row in some]), len(some)
                )

        await asyncio.gather(*(worker() for _ in range(concurrency)))

    async def exists(self, table: str, partition: str, row: str, property_name: str, value: str) -> bool:
        """Whether this row is there and has this value in a property."""
        keys = "PartitionKey='{}',RowKey='{}'".format(*(quote(key.replace("'", "''")) for key in (partition, row)))
        headers = {**_VERSION_HEADERS, "Accept": "application/json;odata=nometadata"}
        url = f"{self._endpoint}/{table}({keys})?{self._signature}"
        async with self._http.get(url, headers=headers) as answer:
            body = await answer.json(content_type=None)
            return answer.status == 200 and body.get(property_name) == value

    async def count(self, table: str, query: str) -> int:
        """How many rows a filter finds."""
        # Nor does it list.
        async with TableServiceClient.from_connection_string(self._connection) as service:
            rows = service.get_table_client(table).query_entities(query, select=["RowKey"])
            return len([row async for row in rows])


def _build_part(table: str, operation: str, row: Mapping[str, Any]) -> str:
    keys = "(PartitionKey='{}',RowKey='{}')".format(*(quote(str(row[key])) for key in ("PartitionKey", "RowKey")))
    method, place, condition = {
        "create": ("POST", table, ""),
        "upsert": ("PUT", table + keys, ""),
        "update": ("PUT", table + keys, "If-Match: *\r\n"),
        "delete": ("DELETE", table + keys, "If-Match: *\r\n"),
    }[operation]
    body = "" if operation == "delete" else json.dumps(row)
    return (
        "Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n"
        f"{method} {place} HTTP/1.1\r\nContent-Type: application/json\r\nAccept: application/json;odata=nometadata\r\n"
        f"Prefer: return-no-content\r\nDataServiceVersion: 3.0\r\n{condition}\r\n{body}"
    )
