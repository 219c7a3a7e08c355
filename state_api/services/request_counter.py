"""Counts the requests that a piece of work sends to the state storage, so that waiting requests keep to a budget."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class RequestCounter:
    """The number of requests so far, with each attempt of a request that is repeated."""

    count: int = 0


_counter: ContextVar[RequestCounter | None] = ContextVar("state_storage_requests", default=None)


@contextmanager
def count_storage_requests() -> Iterator[RequestCounter]:
    """Count the requests that this block sends to the state storage, and those of the tasks that it starts."""
    counter = RequestCounter()
    token = _counter.set(counter)
    try:
        yield counter
    finally:
        _counter.reset(token)


def note_storage_request() -> None:
    """Count one request to the state storage, which is about to be sent."""
    counter = _counter.get()
    if counter is not None:
        counter.count += 1
