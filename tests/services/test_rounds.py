"""Rounds of background work go on after a failure, and end when the server stops."""

import asyncio
import logging

import pytest

from state_api.domain.errors import StorageUnavailable
from state_api.services.rounds import repeat_until_stopped

pytestmark = pytest.mark.anyio


async def test_a_round_that_fails_is_logged_and_followed_by_another(caplog: pytest.LogCaptureFixture) -> None:
    stopping = asyncio.Event()
    failures = [StorageUnavailable("the storage is busy", retry_after=1), ValueError("a mistake")]

    async def make_round() -> None:
        """Fail twice, and then stop."""
        if failures:
            raise failures.pop(0)
        stopping.set()

    with caplog.at_level(logging.WARNING):
        await repeat_until_stopped(make_round, stopping, interval_seconds=0, name="the test")
    assert caplog.messages == ["the test could not list the apps: the storage is busy", "the test failed"]


async def test_a_stop_ends_the_pause_between_two_rounds() -> None:
    stopping, round_count = asyncio.Event(), 0

    async def make_round() -> None:
        """Stop while the loop waits for the next round."""
        nonlocal round_count
        round_count += 1
        asyncio.get_running_loop().call_soon(stopping.set)

    await repeat_until_stopped(make_round, stopping, interval_seconds=3600, name="the test")
    assert round_count == 1
