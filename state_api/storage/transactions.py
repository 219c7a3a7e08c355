"""Entity group transactions, written and read by ourselves. The library (azure-data-tables 12.7) builds and parses them
with Python's email package, which costs more than all else that it takes to record an event (docs/performance.md). The
request still goes through the library's own pipeline, with its credentials, retries and transport; a test holds the two
forms together."""

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
"""What a transaction does with a row: the verb (create, update, upsert, delete), the row, and under which condition.
Rows hold texts, truth values and small integers, which need no type in JSON; what is None is left out."""

_ACCEPTED = 202
_PART = re.compile(rb"^HTTP/1\.1 (\d{3})[^\r\n]*\r?\n((?:[^\r\n]+\r?\n)*)", re.MULTILINE)
_ETAG = re.compile(rb"^etag: *([^\r\n]+)", re.MULTILINE | re.IGNORECASE)
_ERROR = re.compile(rb'\{\s*"odata\.error"\s*:.*\}', re.DOTALL)


async def send_transaction(
    client: TableClient, operations: Sequence[TableOperation], **options: Any
) -> list[str | None]:
    """Write rows of one partition, all or none; the new ETag of each, None for one that was deleted. Raises
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
        content=_batch_body(f"{base}/{client.table_name}", operations, batch_id, is_cosmos(base)),
    )
    # The library has no public way to send a request of one's own through its pipeline.
    response = await client._client.send_request(request, stream=True, **options)  # noqa: SLF001
    return parse_etags(response, await response.read(), len(operations))


def is_cosmos(url: str) -> bool:
    """Whether this is a table service of Cosmos DB, which wants to be asked otherwise to merge."""
    return ".table.cosmos." in (urlsplit(url).hostname or "")


def _batch_body(url: str, operations: Sequence[TableOperation], batch_id: str, cosmos: bool) -> bytes:
    lines = [f"--batch_{batch_id}", f"Content-Type: multipart/mixed; boundary=changeset_{batch_id}", ""]
    for number, operation in enumerate(operations):
        lines += [
            f"--changeset_{batch_id}",
            "Content-Type: application/http",
            "Content-Transfer-Encoding: binary",
            f"Content-ID: {number}",
            "",
            *request_lines(url, operation, cosmos),
        ]
    lines += [f"--changeset_{batch_id}--", "", f"--batch_{batch_id}--", ""]
    return "\r\n".join(lines).encode()


def request_lines(url: str, operation: TableOperation, cosmos: bool) -> list[str]:
    """One operation as the lines of a request."""
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
    content = json.dumps({name: value for name, value in row.items() if value is not None})
    return [*request, "Content-Type: application/json", f"Content-Length: {len(content)}", "", content]


_OPERATION_HEADERS = ("Accept: application/json;odata=minimalmetadata", "DataServiceVersion: 3.0")


def _quote_key(key: str) -> str:
    return quote(key.replace("'", "''"), safe="")


def parse_etags(response: AsyncHttpResponse, content: bytes, count: int) -> list[str | None]:
    """What the answer to `count` operations says of each. Raises TableTransactionError for an answer that does not say
    that all were done, ClientAuthenticationError."""
    parts = [(int(part[1]), _ETAG.search(part[2])) for part in _PART.finditer(content)]
    if response.status_code == _ACCEPTED and len(parts) == count and all(200 <= status < 300 for status, _ in parts):
        return [etag[1].decode() if etag else None for _, etag in parts]
    status = parts[0][0] if response.status_code == _ACCEPTED and parts else response.status_code
    code, message = _parse_error(content)
    code = code or response.headers.get("x-ms-error-code", "")
    kind = ClientAuthenticationError if status in (401, 403) else TableTransactionError
    error = kind(message=message or f"the transaction ended with {status}", response=response)
    error.status_code = status
    error.error_code = code  # type: ignore[union-attr]  # as the library does
    raise error


def _parse_error(content: bytes) -> tuple[str, str]:
    """The service's code and message; empty if the answer has none."""
    found = _ERROR.search(content)
    try:
        error = json.loads(found[0])["odata.error"] if found else {}
        return str(error.get("code", "")), str(error.get("message", {}).get("value", ""))
    except (ValueError, AttributeError, TypeError, KeyError):
        return "", ""
