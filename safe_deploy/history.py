"""The audit log of an app, entry by entry. Hides its pages."""

from collections.abc import Iterator, Mapping
from typing import Any

from safe_deploy.client import StateServerClient

_PAGE_SIZE = 100

HistoryEntry = Mapping[str, Any]


def list_history(server: StateServerClient) -> Iterator[HistoryEntry]:
    """The entries of the audit log, the newest first. Pages are read as they are needed."""
    token: str | None = None
    while True:
        page = server.get_history(_PAGE_SIZE, token)
        yield from page["history"]
        token = page["continuationToken"]
        if token is None:
            return
