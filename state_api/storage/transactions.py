"""Builds the requests of entity group transactions and parses their responses. The library (azure-data-tables 12.7)
uses Python's email package for both, which takes longer than all other work for an event (docs/performance.md). The
request still goes through the library's pipeline, with its credentials, retries and transport. A test compares the
requests with those of the library."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

from azure.core import MatchConditions
from azure.core.exceptions import ClientAuthenticationError
from azure.core.rest import AsyncHttpResponse, HttpRequest
from azure.data.tables import TableTransactionError, UpdateMode
from azure.data.tables.aio import TableClient

TableOperation = tuple[str, Mapping[str, Any]] | tuple[str, Mapping[str, Any], Mapping[str, Any]]
"""An operation on a row: a verb (create, update, upsert or delete), the row, and optionally the condition. A row holds
texts, booleans and 32-bit integers, whose types JSON shows. Properties that are None are left out."""

_OPERATION_HEADERS = ("Accept: application/json;odata=minimalmetadata", "DataServiceVersion: 3.0")
_ACCEPTED = 202
_PART = re.compile(rb"^HTTP/1\.1 (\d{3})[^\r\n]*\r?\n((?:[^\r\n]+\r?\n)*)", re.MULTILINE)
_ETAG = re.compile(rb"^etag: *([^\r\n]+)", re.MULTILINE | re.IGNORECASE)
_ERROR = re.compile(rb'\{\s*"odata\.error"\s*:.*\}', re.DOTALL)


async def send_transaction(
    client: TableClient, operations: Sequence[TableOperation], **options: Any
) -> list[str | None]:
    """Write rows of one partition, all or none. Returns the new ETag of each; None for a row that was deleted. Raises
    TableTransactionError and the errors of the library's pipeline."""
    base, _, signature = client.url.partition("?")
    batch_id = uuid4().hex
    request = HttpRequest(
        "POST",
        f"{base}/$batch" + (f"?{signature}" if signature else ""),
        headers={
            "x-ms-version": client.api_version,
            "DataServiceVersion": "3.0",
            "MaxDataServiceVersion": "3.0;NetFx",
            "Content-Type": f"multipart/mixed; boundary=batch_{batch_id}",
            "Accept": "application/json",
        },
        content=_batch_body(f"{base}/{client.table_name}", operations, batch_id, cosmos=is_cosmos(base)),
    )
    # The library has no public method that sends a given request through its pipeline.
    response = await client._client.send_request(request, stream=True, **options)  # noqa: SLF001
    return parse_etags(response, await response.read(), len(operations))


def is_cosmos(url: str) -> bool:
    """Whether this is the Table API of Cosmos DB, which expects another request for a merge."""
    return ".table.cosmos." in (urlsplit(url).hostname or "")


def _batch_body(url: str, operations: Sequence[TableOperation], batch_id: str, *, cosmos: bool) -> bytes:
    """The multipart body that submits these operations as one transaction."""
    lines = [f"--batch_{batch_id}", f"Content-Type: multipart/mixed; boundary=changeset_{batch_id}", ""]
    for number, operation in enumerate(operations):
        lines += [
            f"--changeset_{batch_id}",
            "Content-Type: application/http",
            "Content-Transfer-Encoding: binary",
            f"Content-ID: {number}",
            "",
            *request_lines(url, operation, cosmos=cosmos),
        ]
    lines += [f"--changeset_{batch_id}--", "", f"--batch_{batch_id}--", ""]
    return "\r\n".join(lines).encode()


def request_lines(url: str, operation: TableOperation, *, cosmos: bool) -> list[str]:
    """The lines of the HTTP request for one operation. `url` is the table's."""
    verb, row = operation[0], operation[1]
    condition: Mapping[str, Any] = operation[2] if len(operation) > 2 else {}
    etag = condition["etag"] if condition.get("match_condition") is MatchConditions.IfNotModified else None
    entity = f"{url}(PartitionKey='{_quote_key(row['PartitionKey'])}',RowKey='{_quote_key(row['RowKey'])}')"
    if verb == "delete":
        return [f"DELETE {entity} HTTP/1.1", *_OPERATION_HEADERS, f"If-Match: {etag or '*'}", "", ""]
    if verb == "create":
        request = [f"POST {url} HTTP/1.1", *_OPERATION_HEADERS, "Prefer: return-no-content"]
    else:
        if condition.get("mode") is UpdateMode.REPLACE:
            request = [f"PUT {entity} HTTP/1.1", *_OPERATION_HEADERS]
        elif cosmos:
            request = [f"POST {entity} HTTP/1.1", *_OPERATION_HEADERS, "X-HTTP-Method: MERGE"]
        else:
            request = [f"PATCH {entity} HTTP/1.1", *_OPERATION_HEADERS]
        if verb == "update":
            request.append(f"If-Match: {etag or '*'}")
    body = json.dumps({name: value for name, value in row.items() if value is not None})
    return [*request, "Content-Type: application/json", f"Content-Length: {len(body)}", "", body]


def _quote_key(key: str) -> str:
    """The key as it stands in a URL, inside single quotes."""
    return quote(key.replace("'", "''"), safe="")


def parse_etags(response: AsyncHttpResponse, body: bytes, count: int) -> list[str | None]:
    """The ETags in the response to a transaction of `count` operations; None for a deleted row. Raises
    TableTransactionError unless every operation succeeded, and ClientAuthenticationError."""
    parts = [(int(part[1]), _ETAG.search(part[2])) for part in _PART.finditer(body)]
    if response.status_code == _ACCEPTED and len(parts) == count and all(200 <= status < 300 for status, _ in parts):
        return [etag[1].decode() if etag else None for _, etag in parts]
    status = parts[0][0] if response.status_code == _ACCEPTED and parts else response.status_code
    code, message = _parse_error(body)
    code = code or response.headers.get("x-ms-error-code", "")
    error_class = ClientAuthenticationError if status in (401, 403) else TableTransactionError
    error = error_class(message=message or f"the transaction ended with {status}", response=response)
    error.status_code = status
    error.error_code = code  # type: ignore[union-attr]  # as the library does
    raise error


def _parse_error(body: bytes) -> tuple[str, str]:
    """The service's error code and message; empty if the response has none."""
    match = _ERROR.search(body)
    try:
        error = json.loads(match[0])["odata.error"] if match else {}
        return str(error.get("code", "")), str(error.get("message", {}).get("value", ""))
    except (ValueError, AttributeError, TypeError, KeyError):
        return "", ""
