"""Reads that callers share: however many callers ask for the same thing at once, it is read at most twice."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(slots=True, eq=False)
class _SharedRead(Generic[Value]):
    task: asyncio.Task[Value]
    caller_count: int = 0


class SharedReads(Generic[Key, Value]):
    """Calls for a key that arrive while the key is being read share the next read.

    So every caller gets a value, or an error, of a read that began after its call. A read is cancelled when all of its
    callers are.
    """

    def __init__(self) -> None:
        self._next: dict[Key, _SharedRead[Value]] = {}
        """Reads that have not begun. Callers still join them."""
        self._under_way: dict[Key, asyncio.Task[Value]] = {}

    async def read(self, key: Key, read: Callable[[], Awaitable[Value]]) -> Value:
        """The result of `read`, or of the `read` of another caller with the same key. Raises its errors."""
        shared = self._next.get(key)
        if shared is None:
            # In an empty context, because the task does not belong to one caller alone.
            task = asyncio.get_running_loop().create_task(self._read_after_previous(key, read), context=Context())
            shared = self._next[key] = _SharedRead(task)
        shared.caller_count += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.caller_count -= 1
            if shared.caller_count == 0 and not shared.task.done():
                self._leave(key, shared)

    @property
    def is_idle(self) -> bool:
        """Whether no read is under way or waiting."""
        return not self._next and not self._under_way

    def _leave(self, key: Key, shared: _SharedRead[Value]) -> None:
        """Cancel a read that has lost its last caller. The next caller begins another one."""
        if self._next.get(key) is shared:
            del self._next[key]
        shared.task.cancel()

    async def _read_after_previous(self, key: Key, read: Callable[[], Awaitable[Value]]) -> Value:
        """Read once no other read of this key is under way."""
        while (previous := self._under_way.get(key)) is not None:
            await asyncio.wait([previous])
        task = asyncio.current_task()
        assert task is not None, "this runs as a task"
        self._under_way[key] = task
        # Later callers must not share this read, because it begins before their calls.
        self._next.pop(key, None)
        try:
            return await read()
        finally:
            del self._under_way[key]
