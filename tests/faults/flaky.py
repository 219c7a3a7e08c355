"""A storage that fails some of the requests: each by lot, whatever it is for."""

import asyncio
import random
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum

from tests.proxy import StorageProxy


class Fault(StrEnum):
    """What goes wrong with a request."""

    SLOW = "slow"
    """It takes 0.1 to 3 s longer."""
    UNAVAILABLE = "503"
    BUSY = "429"
    """With Retry-After."""
    BROKEN = "500"
    CUT = "cut before"
    """The connection is cut before the request reaches the storage."""
    LOST = "cut after"
    """It is done, and the connection is cut before the answer comes."""


_STATUS = {Fault.UNAVAILABLE: 503, Fault.BUSY: 429, Fault.BROKEN: 500, Fault.CUT: 0}
_DELAYS = (0.1, 3.0)


@dataclass
class Flaky:
    """Has a share of the requests fail, from 0 to 1. `struck` of `seen` have so far."""

    fault: Fault
    seed: int
    share: float = 0
    seen: int = 0
    struck: int = 0
    _chance: random.Random = field(init=False)
    _strikes: ContextVar[bool] = field(default_factory=lambda: ContextVar("strikes"))

    def __post_init__(self) -> None:
        self._chance = random.Random(f"{self.seed} {self.fault}")

    def watch(self, proxy: StorageProxy) -> None:
        proxy.before, proxy.fail, proxy.lose = self._before, self._fail, self._lose
        proxy.headers = {"Retry-After": "1"} if self.fault is Fault.BUSY else {}

    def ends(self) -> None:
        """From now on all is well; what is delayed already stays so."""
        self.share = 0

    async def _before(self, method: str, path: str) -> None:
        strikes = self._chance.random() < self.share
        self._strikes.set(strikes)
        self.seen += 1
        self.struck += strikes
        if strikes and self.fault is Fault.SLOW:
            await asyncio.sleep(self._chance.uniform(*_DELAYS))

    def _fail(self, method: str, path: str) -> int | None:
        return _STATUS.get(self.fault) if self._strikes.get() else None

    def _lose(self, method: str, path: str) -> bool:
        return self.fault is Fault.LOST and self._strikes.get()
