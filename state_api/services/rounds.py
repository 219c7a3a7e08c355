"""Rounds of background work, outside Azure Functions: there, timer triggers begin them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from state_api.domain.errors import Unavailable

log = logging.getLogger(__name__)


async def repeat_until_stopped(
    make_round: Callable[[], Awaitable[object]], stopping: asyncio.Event, *, interval_seconds: float, name: str
) -> None:
    """Begin a round every `interval_seconds` until `stopping` is set. After a round that took longer, the next one
    begins at once. A round that fails is logged with `name`, and the next one tries again."""
    loop = asyncio.get_running_loop()
    while not stopping.is_set():
        next_begin = loop.time() + interval_seconds
        try:
            await make_round()
        except Unavailable as error:
            log.warning("%s could not list the apps: %s", name, error.message)
        except Exception:  # the next round tries again
            log.exception("%s failed", name)
        try:
            await asyncio.wait_for(stopping.wait(), max(0.0, next_begin - loop.time()))
        except TimeoutError:
            continue
