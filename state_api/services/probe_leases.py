"""What one worker reads and stores of the probes of a task hub, and the lease of the worker whose scan takes long.

A lease only saves work: two workers that scan a task hub at the same time are both right. So a scan begins without a
lease, and takes one once it proves long. Safety rests on the ETag of what was read (docs/correctness.md). A worker
stores its outcome only if no other worker has stored anything since.
"""

import asyncio
import logging
import uuid

from state_api.domain.errors import Unavailable
from state_api.domain.instants import Instant, seconds
from state_api.domain.readiness.evidence import ProbeResult
from state_api.domain.readiness.messages import MessageState
from state_api.domain.readiness.scans import Scan
from state_api.services.ports import Clock, Lease, ProbeRecord, Probes, TaskHubRecords

log = logging.getLogger(__name__)

LEASE_DURATION_SECONDS = 12
"""How long the lease of a worker that has died blocks the others."""

_RENEW_INTERVAL_SECONDS = 4.0


class ProbeSession:
    """The scan of one worker, from what was stored when it began to what it stores."""

    def __init__(self, probes: Probes, task_hub: str, records: TaskHubRecords, clock: Clock) -> None:
        """Begin with what is stored of the task hub's probes, and without the lease."""
        self._probes = probes
        self._task_hub = task_hub
        self._record = records.probe
        self._etag = records.probe_etag
        self._clock = clock
        self._lease: _RenewedLease | None = None

    @property
    def record(self) -> ProbeRecord:
        """What was stored of the task hub's probes when the scan began."""
        return self._record

    @property
    def has_lease(self) -> bool:
        """Whether this worker is the one that may scan the task hub."""
        return self._lease is not None

    async def acquire_lease(self) -> bool:
        """Take the lease, which keeps other workers from scanning. False if another worker holds it or has stored
        something since the records were read."""
        now = self._clock.now()
        if is_leased(self._record, now):
            return False
        lease = await self._probes.acquire_lease(
            self._task_hub, uuid.uuid4().hex, self._record, self._etag, until=_expiry(now)
        )
        if lease is not None:
            self._lease = _RenewedLease(self._probes, lease, self._clock)
        return lease is not None

    async def save(self, result: ProbeResult | None, scan: Scan | None, message_state: MessageState) -> None:
        """Store the outcome, and release the lease. None keeps the stored result; no scan leaves none to resume.

        Nothing is stored if another worker has stored something since the records were read. The outcome is right for
        the own request, but the other one may rest on later reads.
        """
        changed_state = message_state if message_state != self._record.message_state else None
        if self._lease is None and result is None and scan is None and changed_state is None:
            return
        etag = self._etag if self._lease is None else (await self._lease.stop_renewal()).etag
        if await self._probes.save(self._task_hub, etag, result=result, scan=scan, message_state=changed_state):
            return
        if result is not None and result.found_blocking:
            # The records may lack what it found, so what the other worker has stored must not answer any more.
            await self._probes.replace_result(self._task_hub, result)
        else:
            log.info("task hub %s: another worker has stored the outcome of its probe", self._task_hub)


class _RenewedLease:
    """A lease that this worker holds. It is renewed until `stop_renewal` is called."""

    def __init__(self, probes: Probes, lease: Lease, clock: Clock) -> None:
        """Keep a lease renewed until it is released."""
        self._probes = probes
        self._lease = lease
        self._clock = clock
        self._stopped = asyncio.Event()
        self._renewal = asyncio.create_task(self._keep_renewed())

    async def stop_renewal(self) -> Lease:
        """The lease after its last renewal."""
        self._stopped.set()
        # The task is not cancelled, because the outcome of the last renewal is needed to release the lease.
        await self._renewal
        return self._lease

    async def _keep_renewed(self) -> None:
        """Renew until stopped. A worker that has lost the lease reads on for its own request only."""
        while True:
            try:
                await asyncio.wait_for(self._stopped.wait(), _RENEW_INTERVAL_SECONDS)
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


def is_leased(record: ProbeRecord, now: Instant) -> bool:
    """Whether a worker that reads the task hub now holds its lease."""
    return record.leased_until is not None and now < record.leased_until


def _expiry(now: Instant) -> Instant:
    """When a lease that is taken or renewed now expires."""
    return Instant(now + seconds(LEASE_DURATION_SECONDS))
