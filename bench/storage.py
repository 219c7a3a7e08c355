"""The storage emulator for benchmarks, and table requests over plain HTTP.

Plain HTTP is faster than the client library, whose own time would otherwise be measured too."""

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
from state_api.settings import Settings, StorageSettings

ROWS_PER_TRANSACTION = 100
"""Rows of a full transaction (PLATFORM: Table storage)."""
SHARD_COUNT: int = Settings.model_fields["shards"].default
"""The server's default number of shards. What the server is compared with writes to as many partitions."""
_VERSION_HEADERS = {"x-ms-version": "2019-02-02", "DataServiceVersion": "3.0"}
_ACCEPTED_STATUS = 202

RowWrite = tuple[str, Mapping[str, Any]]
"""One operation of a transaction (create, upsert, update or delete, as in the client library) and its row."""


@dataclass(frozen=True, slots=True)
class Emulator:
    """A running emulator: the settings that connect to it, and its process id."""

    settings: StorageSettings
    pid: int

    @property
    def connection(self) -> str:
        assert self.settings.connection_string is not None
        return self.settings.connection_string.get_secret_value()


@contextmanager
def run_emulator() -> Iterator[Emulator]:
    """Start an empty emulator in memory, so that no figure is slowed down by the rows of another."""
    ports = EmulatorPorts(*free_ports(3))
    with storage_emulator(ports, None) as pid:
        yield Emulator(StorageSettings.model_validate({"connection_string": ports.connection_string()}), pid)


class RawTables:
    """A table client over plain HTTP, which signs once for all requests."""

    def __init__(self, connection: str) -> None:
        """Prepare requests to the emulator without the library of Azure. One signature is valid for all of them."""
        self._connection = connection
        parts = dict(part.split("=", 1) for part in connection.split(";") if part)
        self._endpoint = parts["TableEndpoint"].rstrip("/")
        all_permissions = AccountSasPermissions(
            read=True, write=True, add=True, update=True, delete=True, list=True, create=True
        )
        self._signature = generate_account_sas(
            AzureNamedKeyCredential(parts["AccountName"], parts["AccountKey"]),
            ResourceTypes(object=True, service=True),
            all_permissions,
            datetime.now(UTC) + timedelta(hours=12),
        )
        # No limit on connections: it would slow down requests that run at once. The emulator closes connections that
        # were idle for 5 s, and a request that meets one of them would fail.
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2))

    async def __aenter__(self) -> "RawTables":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._http.close()

    async def create_table(self, table: str) -> None:
        # The signature permits operations on rows, not on tables.
        async with TableServiceClient.from_connection_string(self._connection) as service:
            await service.create_table(table)

    async def delete_table(self, table: str) -> None:
        async with TableServiceClient.from_connection_string(self._connection) as service:
            await service.delete_table(table)

    def build_transaction(self, table: str, writes: Sequence[RowWrite]) -> bytes:
        """The body of a transaction."""
        parts = [_build_operation(f"{self._endpoint}/{table}", *write) for write in writes]
        inside = "".join(f"--changeset_1\r\n{part}\r\n" for part in parts)
        return (
            "--batch_1\r\nContent-Type: multipart/mixed; boundary=changeset_1\r\n\r\n"
            f"{inside}--changeset_1--\r\n--batch_1--\r\n"
        ).encode()

    async def submit_transaction(self, body: bytes, writes: int) -> None:
        """Send a transaction of this many writes. Raises RuntimeError unless all of them succeed."""
        headers = {**_VERSION_HEADERS, "Content-Type": "multipart/mixed; boundary=batch_1"}
        async with self._http.post(f"{self._endpoint}/$batch?{self._signature}", data=body, headers=headers) as answer:
            text = await answer.text()
            if answer.status != _ACCEPTED_STATUS or text.count(" 204 No Content") != writes:
                raise RuntimeError(f"the emulator refused a transaction: {answer.status} {text[:500]}")

    async def create_rows(self, table: str, rows: Sequence[Mapping[str, Any]], concurrency: int = 3) -> None:
        """Create rows in full transactions. Unlike the service, the emulator accepts several partitions in one."""
        starts = iter(range(0, len(rows), ROWS_PER_TRANSACTION))

        async def create_next_chunks() -> None:
            """Write chunks of rows until none is left. Several of these tasks run at once and take from the same
            chunks."""
            for start in starts:
                chunk = rows[start : start + ROWS_PER_TRANSACTION]
                await self.submit_transaction(
                    self.build_transaction(table, [("create", row) for row in chunk]), len(chunk)
                )

        await asyncio.gather(*(create_next_chunks() for _ in range(concurrency)))

    async def read_property(self, table: str, partition: str, row: str, property_name: str) -> str | None:
        """The value of a property; None if the row does not exist."""
        keys = "PartitionKey='{}',RowKey='{}'".format(*(quote(key.replace("'", "''")) for key in (partition, row)))
        headers = {**_VERSION_HEADERS, "Accept": "application/json;odata=nometadata"}
        url = f"{self._endpoint}/{table}({keys})?{self._signature}"
        async with self._http.get(url, headers=headers) as answer:
            body = await answer.json(content_type=None)
            return body.get(property_name) if answer.status == 200 else None

    async def count_rows(self, table: str, query: str) -> int:
        """The number of rows that match a filter."""
        # The signature does not permit queries.
        async with TableServiceClient.from_connection_string(self._connection) as service:
            rows = service.get_table_client(table).query_entities(query, select=["RowKey"])
            return len([row async for row in rows])


def _build_operation(table_url: str, operation: str, row: Mapping[str, Any]) -> str:
    """One operation of a transaction, as a part of its multipart body."""
    keys = "(PartitionKey='{}',RowKey='{}')".format(*(quote(str(row[key])) for key in ("PartitionKey", "RowKey")))
    method, url, condition = {
        "create": ("POST", table_url, ""),
        "upsert": ("PUT", table_url + keys, ""),
        "update": ("PUT", table_url + keys, "If-Match: *\r\n"),
        "delete": ("DELETE", table_url + keys, "If-Match: *\r\n"),
    }[operation]
    body = "" if operation == "delete" else json.dumps(row)
    return (
        "Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n"
        f"{method} {url} HTTP/1.1\r\nContent-Type: application/json\r\nAccept: application/json;odata=nometadata\r\n"
        f"Prefer: return-no-content\r\nDataServiceVersion: 3.0\r\n{condition}\r\n{body}"
    )
