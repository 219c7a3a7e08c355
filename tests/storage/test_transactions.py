"""Entity group transactions as this project writes them, held against those of the library."""

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
"""Keys that the service takes as they are; the others are escaped before they get there (test_keys)."""


@dataclass
class RequestRecorder:
    """What went over the line to the storage, as it was sent."""

    sent: list[bytes] = field(default_factory=list)

    def last(self) -> tuple[Message, list[tuple[str, dict[str, str], dict[str, Any] | None]]]:
        """The last transaction: its head, and each request with its line, its headers and its content."""
        whole = b"".join(self.sent)
        start = whole.rindex(b"POST /devstoreaccount1/$batch")
        outer = email.message_from_bytes(whole[start:].partition(b"\r\n")[2])
        # The annotations of the email package do not know what a message is made of.
        changes: Any = outer.get_payload(0)
        requests = []
        for part in changes.get_payload():
            assert part["Content-Type"] == "application/http"
            assert part["Content-Transfer-Encoding"] == "binary"
            head, _, content = part.get_payload().replace("\r\n", "\n").partition("\n\n")
            line, *headers = head.split("\n")
            named = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in headers)}
            if content.strip():
                assert int(named.pop("content-length")) == len(content.rstrip("\n"))
            requests.append((line, named, json.loads(content) if content.strip() else None))
        return outer, requests


@pytest.fixture
async def recorded_wire(storage: StorageSettings) -> AsyncIterator[tuple[RequestRecorder, TableClient, TableClient]]:
    """A table through a line that is listened to, and the same one directly."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    endpoint = next(part for part in connection.split(";") if part.startswith("TableEndpoint="))
    port = urlsplit(endpoint.removeprefix("TableEndpoint=")).port
    assert port is not None
    heard = RequestRecorder()
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: Callable[[bytes], None]) -> None:
        while data := await reader.read(65536):
            note(data)
            writer.write(data)
            await writer.drain()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, back = await asyncio.open_connection("127.0.0.1", port)
        tasks.add(asyncio.create_task(pump(onward, writer, lambda data: None)))
        await pump(reader, back, heard.sent.append)

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    through = connection.replace(f":{port}/", f":{server.sockets[0].getsockname()[1]}/")
    async with (
        TableServiceClient.from_connection_string(connection) as direct,
        TableServiceClient.from_connection_string(through) as listened,
    ):
        name = new_hub_name()
        await direct.create_table(name)
        yield heard, listened.get_table_client(name), direct.get_table_client(name)
    server.close()
    await asyncio.gather(*tasks)


def entity(key: str, **more: Any) -> dict[str, Any]:
    return {
        "PartitionKey": "00",
        "RowKey": key,
        "Text": 'it\'s "é" 😀 \u2028 \x7f',
        "Active": True,
        "Shards": 4,
        **more,
    }


async def test_a_transaction_is_what_the_library_would_send(
    recorded_wire: tuple[RequestRecorder, TableClient, TableClient],
) -> None:
    heard, client, _ = recorded_wire
    etag = "W/\"datetime'2026-11-20T09%3A00%3A00.0000000Z'\""
    condition = {"etag": etag, "match_condition": MatchConditions.IfNotModified}
    operations: list[TableOperation] = [("create", entity(key)) for key in KEYS]
    operations += [("upsert", entity(f"u{key}"), REPLACE) for key in KEYS]
    operations += [("upsert", entity(f"m{key}", Gone=None), {"mode": UpdateMode.MERGE}) for key in KEYS]
    operations += [("update", entity(f"c{key}"), {**condition, **REPLACE}) for key in KEYS]
    operations += [("update", entity("merged"), {**condition, "mode": UpdateMode.MERGE})]
    operations += [("delete", {"PartitionKey": "00", "RowKey": f"d{key}"}) for key in KEYS]
    operations += [("delete", entity("with an etag"), condition)]
    heads, sent = [], []
    for send in (client.submit_transaction, lambda operations: send_transaction(client, operations)):
        heard.sent.clear()
        with pytest.raises(TableTransactionError):
            await send(operations)
        head, requests = heard.last()
        heads.append({name.lower() for name, _ in head.items()})
        sent.append(requests)
    theirs, ours = sent
    assert heads[0] == heads[1]
    assert len(ours) == len(operations)
    assert [line for line, _, _ in ours] == [line for line, _, _ in theirs]
    assert [headers.get("if-match") for _, headers, _ in ours] == [headers.get("if-match") for _, headers, _ in theirs]
    untyped = [
        content and {name: value for name, value in content.items() if not name.endswith("@odata.type")}
        for _, _, content in theirs
    ]
    assert [content for _, _, content in ours] == untyped
    # All types that the library spells out are those that JSON has anyway.
    types = {value for _, _, content in theirs for name, value in (content or {}).items() if name.endswith(".type")}
    assert types <= {"Edm.String"}


@pytest.mark.parametrize(
    "operation",
    [("upsert", entity("m"), {"mode": UpdateMode.MERGE}), ("update", entity("m"), {"mode": UpdateMode.MERGE})],
)
def test_cosmos_is_asked_to_merge_as_the_library_asks_it(operation: TableOperation) -> None:
    url = "https://shop.table.cosmos.azure.com"
    assert is_cosmos(url)
    assert not is_cosmos("https://shop.table.core.windows.net")
    theirs = TableBatchOperations(SimpleNamespace(version="2019-02-02"), url, "rows", is_cosmos_endpoint=True)  # type: ignore[arg-type]  # all that it takes of it
    theirs.add_operation(operation)
    (request,) = theirs.requests
    line, *headers = request_lines(f"{url}/rows", operation, cosmos=True)
    assert line == f"{request.method} {request.url} HTTP/1.1"
    assert f"X-HTTP-Method: {request.headers['X-HTTP-Method']}" in headers


async def test_what_is_written_is_read_back_by_the_library(
    recorded_wire: tuple[RequestRecorder, TableClient, TableClient],
) -> None:
    _, client, direct = recorded_wire
    etags = await send_transaction(client, [("create", entity(key)) for key in KEYS])
    for key, etag in zip(KEYS, etags, strict=True):
        found = await direct.get_entity("00", key)
        assert etag_of(found) == etag
        assert dict(found) == entity(key)
        assert type(found["Shards"]) is int


async def test_the_etags_hold_for_the_next_write(
    recorded_wire: tuple[RequestRecorder, TableClient, TableClient],
) -> None:
    _, client, direct = recorded_wire
    one, two = await send_transaction(client, [("create", entity("one")), ("upsert", entity("two"), REPLACE)])
    assert one is not None
    assert two is not None
    condition = {"match_condition": MatchConditions.IfNotModified}
    changed, gone = await send_transaction(
        client,
        [
            ("update", entity("one", Text="new"), {**condition, **REPLACE, "etag": one}),
            ("delete", entity("two"), {**condition, "etag": two}),
        ],
    )
    assert gone is None
    assert changed not in (None, one)
    assert (await direct.get_entity("00", "one"))["Text"] == "new"
    assert [row["RowKey"] async for row in direct.list_entities()] == ["one"]


@pytest.mark.parametrize(
    "bad",
    [
        ("create", entity("there")),
        ("update", entity("there"), {"etag": 'W/"old"', "match_condition": MatchConditions.IfNotModified, **REPLACE}),
        ("update", entity("not there"), REPLACE),
        ("delete", {"PartitionKey": "00", "RowKey": "not there"}),
        ("upsert", entity("long", Text="x" * 40_000), REPLACE),
    ],
)
async def test_it_fails_as_the_library_does_and_writes_nothing(
    recorded_wire: tuple[RequestRecorder, TableClient, TableClient], bad: TableOperation
) -> None:
    _, client, direct = recorded_wire
    await send_transaction(client, [("create", entity("there", Text="first"))])
    operations: list[TableOperation] = [("create", entity("before")), bad, ("create", entity("after"))]
    told = []
    for send in (client.submit_transaction, lambda operations: send_transaction(client, operations)):
        with pytest.raises(TableTransactionError) as failed:
            await send(operations)
        error = failed.value
        told.append((type(error), error.status_code, error_code(error), error.index, is_write_conflict(error)))
    assert told[0] == told[1]
    assert [row["RowKey"] async for row in direct.list_entities()] == ["there"]


async def test_a_table_that_is_not_there_is_told_as_the_library_tells_it(storage: StorageSettings) -> None:
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    async with TableServiceClient.from_connection_string(connection) as service:
        client = service.get_table_client(new_hub_name())
        for send in (client.submit_transaction, lambda operations: send_transaction(client, operations)):
            with pytest.raises(HttpResponseError) as failed:
                await send([("create", entity("one"))])
            assert error_code(failed.value) == "TableNotFound"


async def test_a_wrong_key_is_told_as_what_it_is(storage: StorageSettings) -> None:
    assert storage.connection_string is not None
    wrong = storage.connection_string.get_secret_value().replace("AccountKey=E", "AccountKey=F")
    async with TableServiceClient.from_connection_string(wrong) as service:
        with pytest.raises(ClientAuthenticationError):
            await send_transaction(service.get_table_client("any"), [("create", entity("one"))])


# Answers in the service's form that the emulator does not give.

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
    return SimpleNamespace(status_code=status, reason="", headers={}, request=None, content_type=None)


def test_an_entity_that_comes_back_is_not_taken_for_an_answer() -> None:
    assert parse_etags(batch_response(), NO_CONTENT_PART + CREATED_PART + NO_CONTENT_PART, 3) == [
        'W/"one"',
        'W/"two"',
        'W/"one"',
    ]


@pytest.mark.parametrize(
    "content",
    [b"", NO_CONTENT_PART, NO_CONTENT_PART + NO_CONTENT_PART + NO_CONTENT_PART, b"<html>a proxy's page</html>"],
)
def test_an_answer_of_another_length_is_no_success(content: bytes) -> None:
    with pytest.raises(TableTransactionError) as failed:
        parse_etags(batch_response(), content, 2)
    assert not is_write_conflict(failed.value)
    assert error_code(failed.value) == ""


@pytest.mark.parametrize("body", [b"", b"[]", b'{"odata.error": 1}', b'{"odata.error": {"message": 3}}', b"{"])
def test_an_error_that_says_nothing_is_still_one(body: bytes) -> None:
    part = NO_CONTENT_PART.replace(b"204 No Content", b"409 Conflict") + body
    with pytest.raises(TableTransactionError) as failed:
        parse_etags(batch_response(), part, 1)
    assert failed.value.status_code == 409
    assert is_write_conflict(failed.value), "a second look costs a read"
