"""What is remembered of a task hub's messages, as stored JSON: the members of each object, and the conversions from
and to the domain."""

from state_api.domain.instants import Instant, format_instant, parse_instant
from state_api.domain.readiness.messages import KnownTimers, MessageState, PendingTimer, QuietPeriod
from state_api.storage.stored_json import StoredModel, format_optional_instant, parse_optional_instant


class StoredPendingTimer(StoredModel):
    """`fire_at_ticks` counts units of 100 ns since 1970. A text would take too long to parse: a row can hold 5,000
    timers, and every verdict reads them."""

    key: int
    fire_at_ticks: int

    @classmethod
    def from_domain(cls, timer: PendingTimer) -> "StoredPendingTimer":
        return cls(key=timer.key, fire_at_ticks=timer.fire_at)

    def to_domain(self) -> PendingTimer:
        return PendingTimer(key=self.key, fire_at=Instant(self.fire_at_ticks))


class StoredKnownTimers(StoredModel):
    timers: tuple[StoredPendingTimer, ...]
    read_through: str | None
    cursor: str | None
    reading_since: str | None
    truncated: bool

    @classmethod
    def from_domain(cls, known: KnownTimers) -> "StoredKnownTimers":
        return cls(
            timers=tuple(StoredPendingTimer.from_domain(timer) for timer in known.timers),
            read_through=format_optional_instant(known.read_through),
            cursor=known.cursor,
            reading_since=format_optional_instant(known.reading_since),
            truncated=known.truncated,
        )

    def to_domain(self) -> KnownTimers:
        return KnownTimers(
            timers=tuple(timer.to_domain() for timer in self.timers),
            read_through=parse_optional_instant(self.read_through),
            cursor=self.cursor,
            reading_since=parse_optional_instant(self.reading_since),
            truncated=self.truncated,
        )


class StoredQuietPeriod(StoredModel):
    exemptions_key: str
    began_at: str
    changed_since: str
    stamp_digest: int
    unexplained_count: int
    queue_digest: str

    @classmethod
    def from_domain(cls, period: QuietPeriod) -> "StoredQuietPeriod":
        return cls(
            exemptions_key=period.exemptions_key,
            began_at=format_instant(period.began_at),
            changed_since=format_instant(period.changed_since),
            stamp_digest=period.stamp_digest,
            unexplained_count=period.unexplained_count,
            queue_digest=period.queue_digest,
        )

    def to_domain(self) -> QuietPeriod:
        return QuietPeriod(
            exemptions_key=self.exemptions_key,
            began_at=parse_instant(self.began_at),
            changed_since=parse_instant(self.changed_since),
            stamp_digest=self.stamp_digest,
            unexplained_count=self.unexplained_count,
            queue_digest=self.queue_digest,
        )


class StoredMessageState(StoredModel):
    backend_id: str
    timers: StoredKnownTimers
    quiet_period: StoredQuietPeriod | None

    @classmethod
    def from_domain(cls, state: MessageState) -> "StoredMessageState":
        return cls(
            backend_id=state.backend_id,
            timers=StoredKnownTimers.from_domain(state.timers),
            quiet_period=StoredQuietPeriod.from_domain(state.quiet_period) if state.quiet_period else None,
        )

    def to_domain(self) -> MessageState:
        """The message state that was stored. Raises ValueError if a value is invalid."""
        return MessageState(
            backend_id=self.backend_id,
            timers=self.timers.to_domain(),
            quiet_period=self.quiet_period.to_domain() if self.quiet_period else None,
        )
