"""Collects the items of a list that the server returns in pages. A page can be short, or empty, and have a token."""

from collections.abc import Callable

from safe_deploy.client import Json

FetchPage = Callable[[int, str | None], Json]
"""Reads at most so many items after a continuation token."""


def collect_items(fetch_page: FetchPage, member: str, *, top: int, token: str) -> Json:
    """The first `top` items after `token`, in the form of one response: `member` has them, and `continuationToken`
    leads to those after them, or is null. An empty token stands for the begin of the list."""
    response = fetch_page(top, token or None)
    items = list(response[member])
    while response["continuationToken"] is not None and len(items) < top:
        response = fetch_page(top - len(items), response["continuationToken"])
        items += response[member]
    return {**response, member: items}


def list_more_notes(response: Json) -> list[str]:
    """How to see what comes after this page. Nothing on the last one."""
    token = response["continuationToken"]
    return [] if token is None else [f"there are more: give a larger --top, or --continuation-token {token}"]
