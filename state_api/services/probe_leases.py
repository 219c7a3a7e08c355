"""The lease that lets only one worker at a time scan a task hub, renewed for as long as the scan takes."""

import asyncio
import logging
import uuid

from state_api.domain.errors import Unavailable
from state_api.domain.instants import Instant, seconds
from state_api.domain.readiness.evidence import ProbeResult
from state_api.domain.readiness.messages import MessageState
from state_api.domain.readiness.scans import Scan
from state_api.services.ports import Clock, Lease, ProbeRecord, Probes

log = logging.getLogger(__name__)

LEASE_DURATION_SECONDS = 12
"""How long the lease of a worker that has died blocks the others."""

_RENEW_INTERVAL_SECONDS = 4.0


class ProbeLease:
    """A lease that this worker holds. It is renewed until it is released."""

    def __init__(self, probes: Probes, lease: Lease, clock: Clock) -> None:
        self._probes = probes
        self._lease = lease
        self._clock = clock
        self._released = asyncio.Event()
        self._renewal = asyncio.create_task(self._keep_renewed())

    @classmethod
    async def acquire(
        cls, probes: Probes, task_hub: str, clock: Clock, record: ProbeRecord, etag: str | None
    ) -> "ProbeLease | None":
        """Take the lease. `record` and `etag` are what was last read of the task hub's probes. None while another
        worker holds the lease."""
        now = clock.now()
        lease = await probes.acquire_lease(task_hub, uuid.uuid4().hex, record, etag, until=_expiry(now), now=now)
        return None if lease is None else cls(probes, lease, clock)

    @property
    def record(self) -> ProbeRecord:
        """What was stored of the task hub's probes when the lease was taken."""
        return self._lease.record

    async def save_and_release(self, result: ProbeResult | None, scan: Scan | None, messages: MessageState) -> None:
        """Store the outcome and let others scan. None keeps the stored result; no scan leaves none to resume.

        Nothing is stored if another worker has taken the lease over.
        """
        self._released.set()
        # Not cancelled, because the outcome of the last renewal is needed to release the lease.
        await self._renewal
        if not await self._probes.save_and_release(self._lease, result=result, scan=scan, message_state=messages):
            log.info("task hub %s: another worker has taken the probe over", self._lease.task_hub)

    async def _keep_renewed(self) -> None:
        """Renew until the release. A worker that has lost the lease reads on for its own request only."""
        while True:
            try:
                await asyncio.wait_for(self._released.wait(), _RENEW_INTERVAL_SECONDS)
                return
            except TimeoutError:
                pass
            try:
                renewed = await self._probes.renew_lease(self._lease, _expiry(self._clock.now()))
            except Unavailable as error:
                log.warning("the lease of task hub %s could not be renewed: %s", self._lease.task_hub, error.message)
                continue
            if renewed is None:
                return
            self._lease = renewed


def _expiry(now: Instant) -> Instant:
    return Instant(now + seconds(LEASE_DURATION_SECONDS))
