"""What administrators do with quarantined events: list them, and remove old ones."""

from state_api.domain.errors import InvalidRequest
from state_api.domain.instants import Instant, format_instant, seconds
from state_api.domain.releases.apps import Caller
from state_api.services.ports import Clock, Page, PurgeResult, Quarantine, QuarantinedEvent
from state_api.services.removal_log import log_removal

_CLOCK_TOLERANCE = seconds(60)
"""How far a caller's clock may be ahead of the clock of the state storage, in ticks."""


class QuarantineAdministration:
    """Lists and removes quarantined events, of all apps and of none. Each removal is logged with its caller."""

    def __init__(self, quarantine: Quarantine, clock: Clock) -> None:
        self._quarantine = quarantine
        self._clock = clock

    async def list_page(self, top: int, token: str | None) -> Page[QuarantinedEvent]:
        """Up to `top` quarantined events. `token` is the continuation token of the previous page."""
        return await self._quarantine.list_page(top, token)

    async def purge(self, received_before: Instant, caller: Caller) -> PurgeResult:
        """Remove quarantined events that were received before a time. Raises InvalidRequest for a future time."""
        if received_before > self._clock.now() + _CLOCK_TOLERANCE:
            raise InvalidRequest("before must not be in the future. Send an earlier time")
        purged = await self._quarantine.purge(received_before)
        received = f"received before {format_instant(received_before)}"
        log_removal(caller, f"{purged.removed} events {received} from quarantine")
        return purged
