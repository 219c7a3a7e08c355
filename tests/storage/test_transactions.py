"""Entity group transactions: the server's requests and errors are compared with those of the library."""

import asyncio
import email
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from email.message import Message
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.data.tables import TableTransactionError, UpdateMode
from azure.data.tables._table_batch import TableBatchOperations
from azure.data.tables.aio import TableClient, TableServiceClient

from state_api.settings import StorageSettings
from state_api.storage.tables import error_code, etag_of, is_write_conflict
from state_api.storage.transactions import TableOperation, is_cosmos, parse_etags, request_lines, send_transaction
from tests.conftest import new_hub_name
from tests.storage.test_instances import AWKWARD_IDS

pytestmark = pytest.mark.anyio

REPLACE = {"mode": UpdateMode.REPLACE}
KEYS = [*(key.replace("\t", " ") for key in AWKWARD_IDS if key.isprintable() and len(key) < 200 and "/" not in key)]
KEYS = [key for key in KEYS if not set(key) & set("\\#?")]
"""Keys that the service accepts without an escape. The server escapes all others (test_instance_keys.py)."""


@dataclass
class RequestRecorder:
    """The bytes that a client has sent to the storage."""

    sent: list[bytes] = field(default_factory=list)

    def parse_last_transaction(self) -> tuple[Message, list[tuple[str, dict[str, str], dict[str, Any] | None]]]:
        """The message of the last transaction, and the line, headers and content of each request in it."""
        sent = b"".join(self.sent)
        start = sent.rindex(b"POST /devstoreaccount1/$batch")
        outer = email.message_from_bytes(sent[start:].partition(b"\r\n")[2])
        # Any, because the annotations of the email package do not show the type of a payload.
        changes: Any = outer.get_payload(0)
        requests = []
        for part in changes.get_payload():
            assert part["Content-Type"] == "application/http"
            assert part["Content-Transfer-Encoding"] == "binary"
            head, _, body = part.get_payload().replace("\r\n", "\n").partition("\n\n")
            line, *headers = head.split("\n")
            named = {name.lower(): value.strip() for name, _, value in (header.partition(":") for header in headers)}
            if body.strip():
                assert int(named.pop("content-length")) == len(body.rstrip("\n"))
            requests.append((line, named, json.loads(body) if body.strip() else None))
        return outer, requests


@pytest.fixture
async def recorded_wire(storage: StorageSettings) -> AsyncIterator[tuple[RequestRecorder, TableClient, TableClient]]:
    """A recorder, a client of a table whose requests it records, and another client of the same table."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    endpoint = next(part for part in connection.split(";") if part.startswith("TableEndpoint="))
    port = urlsplit(endpoint.removeprefix("TableEndpoint=")).port
    assert port is not None
    recorder = RequestRecorder()
    tasks: set[asyncio.Task[None]] = set()

    async def forward_bytes(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, observe: Callable[[bytes], None]
    ) -> None:
        """Copy bytes from one connection to another until it is closed. `observe` sees them first."""
        while data := await reader.read(65536):
            observe(data)
            writer.write(data)
            await writer.drain()
        writer.close()

    async def relay_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect a client to the storage, and keep the bytes that it sends."""
        storage_reader, storage_writer = await asyncio.open_connection("127.0.0.1", port)
        tasks.add(asyncio.create_task(forward_bytes(storage_reader, writer, lambda data: None)))
        await forward_bytes(reader, storage_writer, recorder.sent.append)

    server = await asyncio.start_server(relay_connection, "127.0.0.1", 0)
    relayed_connection = connection.replace(f":{port}/", f":{server.sockets[0].getsockname()[1]}/")
    async with (
        TableServiceClient.from_connection_string(connection) as direct,
        TableServiceClient.from_connection_string(relayed_connection) as relayed,
    ):
        name = new_hub_name()
        await direct.create_table(name)
        yield recorder, relayed.get_table_client(name), direct.get_table_client(name)
    server.close()
    await asyncio.gather(*tasks)


def entity(key: str, **columns: Any) -> dict[str, Any]:
    """A row with values of several types, and these columns."""
    return {
        "PartitionKey": "00",
        "RowKey": key,
        "Text": 'it\'s "é" 😀 \u2028 \x7f',
        "Active": True,
        "Shards": 4,
        **columns,
    }


async def test_a_transaction_is_sent_as_the_library_sends_it(
    recorded_wire: tuple[RequestRecorder, TableClient, TableClient],
) -> None:
    """Each kind of operation, with each key: create, replace, merge, conditional update, delete."""
    recorder, client, _ = recorded_wire
    etag = "W/\"datetime'2026-11-20T09%3A00%3A00.0000000Z'\""
    condition = {"etag": etag, "match_condition": MatchConditions.IfNotModified}
    operations: list[TableOperation] = [("create", entity(key)) for key in KEYS]
    operations += [("upsert", entity(f"u{key}"), REPLACE) for key in KEYS]
    operations += [("upsert", entity(f"m{key}", Gone=None), {"mode": UpdateMode.MERGE}) for key in KEYS]
    operations += [("update", entity(f"c{key}"), {**condition, **REPLACE}) for key in KEYS]
    operations += [("update", entity("merged"), {**condition, "mode": UpdateMode.MERGE})]
    operations += [("delete", {"PartitionKey": "00", "RowKey": f"d{key}"}) for key in KEYS]
    operations += [("delete", entity("with an etag"), condition)]
    header_names, sent = [], []
    for send in (client.submit_transaction, lambda operations: send_transaction(client, operations)):
        recorder.sent.clear()
        # It fails, because the rows to update and delete do not exist. What was sent is complete all the same.
        with pytest.raises(TableTransactionError):
            await send(operations)
        message, requests = recorder.parse_last_transaction()
        header_names.append({name.lower() for name, _ in message.items()})
        sent.append(requests)
    library_requests, server_requests = sent
    # The headers of the whole transaction: those of the library, and those of the server.
    assert header_names[0] == header_names[1]
    assert len(server_requests) == len(operations)
    assert [line for line, _, _ in server_requests] == [line for line, _, _ in library_requests]
    assert [headers.get("if-match") for _, headers, _ in server_requests] == [
        headers.get("if-match") for _, headers, _ in library_requests
    ]
    # Where JSON shows the type of a value anyway, the server leaves out the type that the library adds.
    untyped = [
        body and {name: value for name, value in body.items() if not name.endswith("@odata.type")}
        for _, _, body in library_requests
    ]
    assert [body for _, _, body in server_requests] == untyped
    types = {value for _, _, body in library_requests for name, value in (body or {}).items() if name.endswith(".type")}
    assert types <= {"Edm.String"}


@pytest.mark.parametrize(
    "operation",
    [("upsert", entity("m"), {"mode": UpdateMode.MERGE}), ("update", entity("m"), {"mode": UpdateMode.MERGE})],
)
def test_a_merge_in_cosmos_db_is_sent_as_the_library_sends_it(operation: TableOperation) -> None:
    url = "https://shop.table.cosmos.azure.com"
    assert is_cosmos(url)
    assert not is_cosmos("https://shop.table.core.windows.net")
    library_batch = TableBatchOperations(SimpleNamespace(version="2019-02-02"), url, "rows", is_cosmos_endpoint=True)  # type: ignore[arg-type]  # the only attribute that it reads
    library_batch.add_operation(operation)
    (request,) = library_batch.requests
    line, *headers = request_lines(f"{url}/rows", operation, cosmos=True)
    assert line == f"{request.method} {request.url} HTTP/1.1"
    assert f"X-HTTP-Method: {request.headers['X-HTTP-Method']}" in headers


async def test_the_library_reads_what_a_transaction_wrote(
    recorded_wire: tuple[RequestRecorder, TableClient, TableClient],
) -> None:
    _, client, direct = recorded_wire
    etags = await send_transaction(client, [("create", entity(key)) for key in KEYS])
    for key, etag in zip(KEYS, etags, strict=True):
        row = await direct.get_entity("00", key)
        assert etag_of(row) == etag
        assert dict(row) == entity(key)
        assert type(row["Shards"]) is int


async def test_the_returned_etags_are_valid_for_the_next_write(
    recorded_wire: tuple[RequestRecorder, TableClient, TableClient],
) -> None:
    _, client, direct = recorded_wire
    first_etag, second_etag = await send_transaction(
        client, [("create", entity("first")), ("upsert", entity("second"), REPLACE)]
    )
    assert first_etag is not None
    assert second_etag is not None
    condition = {"match_condition": MatchConditions.IfNotModified}
    changed_etag, deleted_etag = await send_transaction(
        client,
        [
            ("update", entity("first", Text="new"), {**condition, **REPLACE, "etag": first_etag}),
            ("delete", entity("second"), {**condition, "etag": second_etag}),
        ],
    )
    assert deleted_etag is None
    assert changed_etag not in (None, first_etag)
    assert (await direct.get_entity("00", "first"))["Text"] == "new"
    assert [row["RowKey"] async for row in direct.list_entities()] == ["first"]


@pytest.mark.parametrize(
    "failing",
    [
        ("create", entity("there")),
        ("update", entity("there"), {"etag": 'W/"old"', "match_condition": MatchConditions.IfNotModified, **REPLACE}),
        ("update", entity("not there"), REPLACE),
        ("delete", {"PartitionKey": "00", "RowKey": "not there"}),
        ("upsert", entity("long", Text="x" * 40_000), REPLACE),
    ],
)
async def test_a_failed_transaction_raises_the_error_of_the_library_and_writes_nothing(
    recorded_wire: tuple[RequestRecorder, TableClient, TableClient], failing: TableOperation
) -> None:
    _, client, direct = recorded_wire
    await send_transaction(client, [("create", entity("there", Text="first"))])
    operations: list[TableOperation] = [("create", entity("before")), failing, ("create", entity("after"))]
    errors = []
    for send in (client.submit_transaction, lambda operations: send_transaction(client, operations)):
        with pytest.raises(TableTransactionError) as raised:
            await send(operations)
        error = raised.value
        errors.append((type(error), error.status_code, error_code(error), error.index, is_write_conflict(error)))
    assert errors[0] == errors[1]
    assert [row["RowKey"] async for row in direct.list_entities()] == ["there"]


async def test_a_missing_table_is_reported_with_the_code_of_the_library(storage: StorageSettings) -> None:
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    async with TableServiceClient.from_connection_string(connection) as service:
        client = service.get_table_client(new_hub_name())
        for send in (client.submit_transaction, lambda operations: send_transaction(client, operations)):
            with pytest.raises(HttpResponseError) as raised:
                await send([("create", entity("one"))])
            assert error_code(raised.value) == "TableNotFound"


async def test_a_wrong_account_key_is_an_authentication_error(storage: StorageSettings) -> None:
    assert storage.connection_string is not None
    wrong_connection = storage.connection_string.get_secret_value().replace("AccountKey=E", "AccountKey=F")
    async with TableServiceClient.from_connection_string(wrong_connection) as service:
        with pytest.raises(ClientAuthenticationError):
            await send_transaction(service.get_table_client("any"), [("create", entity("one"))])


# Responses of the service that the emulator does not send.

NO_CONTENT_PART = (
    b"--changesetresponse_1\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    b"HTTP/1.1 204 No Content\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-cache\r\n"
    b'Preference-Applied: return-no-content\r\nDataServiceVersion: 3.0;\r\nETag: W/"one"\r\n\r\n\r\n'
)
CREATED_PART = (
    b"--changesetresponse_1\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    b'HTTP/1.1 201 Created\r\nContent-Type: application/json;odata=minimalmetadata\r\nETag: W/"two"\r\n\r\n'
    b'{"odata.etag":"W/\\"three\\"","Reason":"said HTTP/1.1 409 Conflict\\r\\nETag: W/four"}\r\n'
)


def batch_response(status: int = 202) -> Any:
    """The head of a response to a transaction, without the parts that `parse_etags` gets separately."""
    return SimpleNamespace(status_code=status, reason="", headers={}, request=None, content_type=None)


def test_an_entity_in_a_response_is_not_read_as_a_part_of_the_response() -> None:
    assert parse_etags(batch_response(), NO_CONTENT_PART + CREATED_PART + NO_CONTENT_PART, 3) == [
        'W/"one"',
        'W/"two"',
        'W/"one"',
    ]


@pytest.mark.parametrize(
    "response_body",
    [b"", NO_CONTENT_PART, NO_CONTENT_PART + NO_CONTENT_PART + NO_CONTENT_PART, b"<html>a proxy's page</html>"],
)
def test_a_response_with_another_number_of_parts_is_an_error(response_body: bytes) -> None:
    with pytest.raises(TableTransactionError) as raised:
        parse_etags(batch_response(), response_body, 2)
    assert not is_write_conflict(raised.value)
    assert error_code(raised.value) == ""


@pytest.mark.parametrize("body", [b"", b"[]", b'{"odata.error": 1}', b'{"odata.error": {"message": 3}}', b"{"])
def test_an_error_without_a_readable_body_is_an_error(body: bytes) -> None:
    part = NO_CONTENT_PART.replace(b"204 No Content", b"409 Conflict") + body
    with pytest.raises(TableTransactionError) as raised:
        parse_etags(batch_response(), part, 1)
    assert raised.value.status_code == 409
    assert is_write_conflict(raised.value), "a mistaken conflict only costs another read"
