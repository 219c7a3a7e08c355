"""Reads that callers share: each caller gets what was read after its call, and no caller disturbs the others."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from state_api.domain.errors import StorageUnavailable
from state_api.services.shared_reads import SharedReads

pytestmark = pytest.mark.anyio

KEY = "orders"


class ReadsThatTheTestEnds:
    """Reads that end when the test says so. Each returns its number, counted from 1."""

    def __init__(self) -> None:
        self.begun_count = 0
        self.cancelled_count = 0
        self._ends: list[asyncio.Future[None]] = []

    async def __call__(self) -> int:
        """Begin a read. It returns its number when the test ends it, and counts if it is cancelled."""
        self.begun_count += 1
        number = self.begun_count
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ends.append(end)
        try:
            await end
        except asyncio.CancelledError:
            self.cancelled_count += 1
            raise
        return number

    def end(self, number: int) -> None:
        """End the read with this number."""
        self._ends[number - 1].set_result(None)

    def fail(self, number: int) -> None:
        """Let the read with this number fail."""
        self._ends[number - 1].set_exception(StorageUnavailable("the storage is away"))


@pytest.fixture
def shared() -> SharedReads[str, int]:
    """Shared reads, none of which has begun."""
    return SharedReads()


@pytest.fixture
def reads() -> ReadsThatTheTestEnds:
    """A read that returns its number, once the test ends it."""
    return ReadsThatTheTestEnds()


async def run_ready_tasks() -> None:
    """Let every task run until it waits for something that the test decides."""
    for _ in range(10):
        await asyncio.sleep(0)


def start_callers(
    shared: SharedReads[str, int], read: Callable[[], Awaitable[int]], count: int, key: str = KEY
) -> list[asyncio.Task[int]]:
    """Let several callers ask for the same read."""
    return [asyncio.create_task(shared.read(key, read)) for _ in range(count)]


async def test_a_thousand_callers_at_once_cost_one_read(
    shared: SharedReads[str, int], reads: ReadsThatTheTestEnds
) -> None:
    callers = start_callers(shared, reads, 1000)
    await run_ready_tasks()
    reads.end(1)
    assert await asyncio.gather(*callers) == [1] * 1000
    assert (reads.begun_count, shared.is_idle) == (1, True)


async def test_a_call_during_a_read_gets_the_next_read(
    shared: SharedReads[str, int], reads: ReadsThatTheTestEnds
) -> None:
    """What is being read may be older than the call."""
    early = start_callers(shared, reads, 1)
    await run_ready_tasks()
    late = start_callers(shared, reads, 500)
    await run_ready_tasks()
    assert reads.begun_count == 1, "the next read waits for the end of this one"
    reads.end(1)
    await run_ready_tasks()
    reads.end(2)
    assert (await early[0], set(await asyncio.gather(*late))) == (1, {2})
    assert (reads.begun_count, shared.is_idle) == (2, True)


async def test_different_keys_are_read_at_the_same_time(
    shared: SharedReads[str, int], reads: ReadsThatTheTestEnds
) -> None:
    callers = start_callers(shared, reads, 1, "orders") + start_callers(shared, reads, 1, "invoices")
    await run_ready_tasks()
    assert reads.begun_count == 2
    reads.end(2)
    reads.end(1)
    assert sorted(await asyncio.gather(*callers)) == [1, 2]


async def test_an_error_reaches_every_caller_of_that_read_and_no_other(
    shared: SharedReads[str, int], reads: ReadsThatTheTestEnds
) -> None:
    failing = start_callers(shared, reads, 3)
    await run_ready_tasks()
    late = start_callers(shared, reads, 2)
    await run_ready_tasks()
    reads.fail(1)
    outcomes = await asyncio.gather(*failing, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 3
    await run_ready_tasks()
    reads.end(2)
    assert await asyncio.gather(*late) == [2, 2]


async def test_a_caller_that_is_cancelled_does_not_disturb_the_others(
    shared: SharedReads[str, int], reads: ReadsThatTheTestEnds
) -> None:
    first, second = start_callers(shared, reads, 2)
    await run_ready_tasks()
    first.cancel()
    await run_ready_tasks()
    reads.end(1)
    assert await second == 1
    assert (first.cancelled(), reads.cancelled_count) == (True, 0)


@pytest.mark.parametrize("is_under_way", [True, False])
async def test_a_read_is_cancelled_with_its_last_caller_and_later_callers_get_their_own(
    shared: SharedReads[str, int], reads: ReadsThatTheTestEnds, *, is_under_way: bool
) -> None:
    first = start_callers(shared, reads, 1)
    await run_ready_tasks()
    leaving = first if is_under_way else start_callers(shared, reads, 2)
    await run_ready_tasks()
    for caller in leaving:
        caller.cancel()
    later = start_callers(shared, reads, 1)
    await run_ready_tasks()
    if not is_under_way:
        reads.end(1)
        assert await first[0] == 1
        await run_ready_tasks()
    assert reads.cancelled_count == is_under_way
    reads.end(2)
    assert await later[0] == 2
    assert shared.is_idle
