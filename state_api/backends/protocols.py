"""What the server needs of a provider, as Protocols, and the values that a backend returns or raises. Hides which
provider keeps a task hub."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import MAX_RETRY_AFTER_SECONDS
from state_api.domain.readiness.messages import KnownTimers, QueueSnapshot
from state_api.domain.releases.apps import ProviderConfig
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.domain.task_hubs.ownership import ExistingArtifacts


class ReadFailure(StrEnum):
    """Why a task hub cannot be read."""

    MISSING = "Missing"
    DENIED = "Denied"
    THROTTLED = "Throttled"
    FAILED = "Failed"


class BackendError(Exception):
    """A task hub cannot be read or deleted.

    - `message` is one line for people. It names what to correct (a setting, a role or an address) and contains no
      secret.
    - `retry_after` is the number of seconds that the provider asks to wait, at most MAX_RETRY_AFTER_SECONDS; None where
      the provider names none.
    """

    def __init__(self, failure: ReadFailure, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message
        self.retry_after = None if retry_after is None else min(retry_after, MAX_RETRY_AFTER_SECONDS)


ReadStorageTime = Callable[[], Instant]
"""Returns a time that the state storage's clock has reached (docs/correctness.md, Two bounds of one clock)."""


@dataclass(frozen=True, slots=True)
class ScanStart:
    """The start of a scan.

    - `changed_since` is a time by the provider's clock, a little before now. Every change during the scan is later.
    - `cursors` are those of the first pass. Together they cover the whole task hub.
    - `next_pass_cursors` are those of every further pass over what has changed since `changed_since`.
    """

    changed_since: Instant
    cursors: tuple[str, ...]
    next_pass_cursors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ObservedPage:
    """One page of a scan.

    `instances` are active instances, instances that have changed since the scan began, and perhaps others. `cursors`
    are those of the pages that follow; there are none at the end. A page can be short or empty and still have cursors.
    `scanned` is the number of rows that the provider returned for this page.
    """

    instances: tuple[ObservedInstance, ...]
    cursors: tuple[str, ...] = ()
    scanned: int = 0


class ArtifactKind(StrEnum):
    """A kind of storage resource that a task hub consists of."""

    TABLE = "table"
    QUEUE = "queue"
    CONTAINER = "container"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A table, queue or container of a task hub, by its name in the storage account."""

    kind: ArtifactKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class TaskHubArtifacts:
    """What exists of a task hub in a storage account.

    - `deletable` is in the order of deletion: containers, queues and tables. The instance table is last, so that the
      evidence is still there if the deletion stops halfway.
    - `shared` are tables of the task hub's name that must not be deleted. Other task hubs have rows there, or no
      instance table shows whose history it is.
    """

    deletable: tuple[Artifact, ...]
    shared: tuple[Artifact, ...] = ()


class ArtifactStore(Protocol):
    """Finds and deletes what task hubs consist of at their provider. Every method but `service_address` raises
    BackendError."""

    async def find_artifacts(self, task_hub: str) -> TaskHubArtifacts:
        """Return what exists of this task hub now."""

    async def has_queue_deletion_begun(self, task_hub: str) -> bool:
        """Return whether the deletion of the task hub's control queues has begun."""

    async def delete(self, artifact: Artifact) -> None:
        """Delete an artifact with its content. Does nothing if the artifact is already gone."""

    def service_address(self, kind: ArtifactKind) -> str | None:
        """Return the address of the service for this kind of artifact, without secrets; None if it is not known."""


class Backend(Protocol):
    """Reads the task hubs of one provider.

    Entities are returned only if they have changed since the scan began. Every coroutine but `close` raises
    BackendError; ReadFailure.MISSING means that the task hub does not exist.
    """

    @property
    def provider(self) -> str:
        """The name by which PutApp chooses this provider."""

    @property
    def shows_messages(self) -> bool:
        """Whether `read_queue_snapshot` shows messages."""

    @property
    def artifacts(self) -> ArtifactStore | None:
        """What can be deleted at this provider; None where nothing can."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of the services that keep the task hubs, without secrets. Opens no connection."""

    async def find_existing(self, task_hub: str) -> ExistingArtifacts | None:
        """Return what the provider has under this name, compared without case. The server uses it to refuse a name that
        is in use, and to see whether an app has started.

        The result names those of `addresses` that were asked: nothing is known of the others. It is empty if the
        provider says that there is no such task hub. None if the provider cannot be asked, because it creates a task
        hub at the first request that names it.
        """

    async def begin_scan(self, task_hub: str) -> ScanStart:
        """Begin a scan."""

    async def read_page(self, task_hub: str, changed_since: Instant, cursor: str) -> ObservedPage:
        """Read the page of a cursor. A cursor is text without secrets: it is stored, and another worker may use it.

        When all cursors of a pass have been followed to their ends, each instance that was active during the whole
        pass has been returned as active. Each instance that started or ended during the pass has been returned with a
        `stamp` that it did not have before.
        """

    async def find_instances(self, task_hub: str, instance_ids: Sequence[str]) -> Mapping[str, ObservedInstance | None]:
        """Look these instances up. The value is None for an instance that the provider does not have."""

    async def read_queue_snapshot(self, task_hub: str) -> QueueSnapshot | None:
        """Return the messages that could start an orchestration which `find_instances` does not return yet. None if
        the provider does not show messages."""

    async def read_timers(self, task_hub: str, known: KnownTimers) -> KnownTimers:
        """Read the next page of pending timers, whose messages are invisible until they fire. The read is complete
        when the result has no `cursor`."""

    async def close(self) -> None:
        """Close all connections. The backend is not used after that."""


def backend_id_of(provider_config: ProviderConfig, backend: Backend) -> str:
    """Identify the place of an app's task hubs: the settings of its provider, and the addresses that these settings
    lead to now. What was read at one place says nothing about another."""
    return f"{provider_config}|{' '.join(backend.addresses)}"


class BackendRegistry(Protocol):
    """The backends that this server has settings for."""

    def backend_for(self, provider_config: ProviderConfig) -> Backend:
        """Return the backend of a provider. Raises BackendError if a setting is missing or wrong."""
