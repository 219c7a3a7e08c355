"""Makes randomly chosen requests to the storage fail."""

import asyncio
import random
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum

from harness.storage_proxy import StorageProxy


class StorageFault(StrEnum):
    """What happens to a request that fails."""

    SLOW = "slow"
    """The request takes 0.1 to 3 s longer."""
    UNAVAILABLE = "503"
    THROTTLED = "429"
    """The response has the header Retry-After."""
    SERVER_ERROR = "500"
    CONNECTION_CUT = "cut before"
    """The connection is cut before the request reaches the storage."""
    RESPONSE_LOST = "cut after"
    """The storage carries out the request, and the connection is cut before the response arrives."""


_STATUS_OF_FAULT = {
    StorageFault.UNAVAILABLE: 503,
    StorageFault.THROTTLED: 429,
    StorageFault.SERVER_ERROR: 500,
    StorageFault.CONNECTION_CUT: 0,
}
_DELAY_RANGE_SECONDS = (0.1, 3.0)


@dataclass
class FaultInjector:
    """Makes a share of the requests fail, `failure_rate` from 0 to 1. Counts all requests and those that failed."""

    fault: StorageFault
    seed: int
    failure_rate: float = 0
    request_count: int = 0
    failure_count: int = 0
    _random: random.Random = field(init=False)
    _fails: ContextVar[bool] = field(default_factory=lambda: ContextVar("fails"))

    def __post_init__(self) -> None:
        """Seed the random choices for each kind of fault, so that a run can be repeated."""
        self._random = random.Random(f"{self.seed} {self.fault}")

    def attach_to(self, proxy: StorageProxy) -> None:
        """Make requests through this proxy fail."""
        proxy.before_request, proxy.failure_status, proxy.drops_response = (
            self._before_request,
            self._failure_status,
            self._drops_response,
        )
        proxy.headers = {"Retry-After": "1"} if self.fault is StorageFault.THROTTLED else {}

    def stop(self) -> None:
        """Let all further requests succeed. Requests that are already delayed stay delayed."""
        self.failure_rate = 0

    async def _before_request(self, method: str, path: str) -> None:
        """Choose at random whether this request fails, and delay it if that is the fault."""
        fails = self._random.random() < self.failure_rate
        self._fails.set(fails)
        self.request_count += 1
        self.failure_count += fails
        if fails and self.fault is StorageFault.SLOW:
            await asyncio.sleep(self._random.uniform(*_DELAY_RANGE_SECONDS))

    def _failure_status(self, method: str, path: str) -> int | None:
        """The status with which the proxy answers instead of the emulator; None if it forwards the request."""
        return _STATUS_OF_FAULT.get(self.fault) if self._fails.get() else None

    def _drops_response(self, method: str, path: str) -> bool:
        """Whether the emulator carries out the request and its response is lost."""
        return self.fault is StorageFault.RESPONSE_LOST and self._fails.get()
