"""What a probe needs of a durable backend, as a Protocol, and how a backend says what stands in its way."""

from collections.abc import Mapping, Sequence
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
    """A task hub cannot be read. `message` is one line for people: it names what to mend (which setting, which role,
    which address) and holds no secret. `retry_after` is in seconds, where the backend has said so."""

    def __init__(self, failure: ReadFailure, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message
        self.retry_after = None if retry_after is None else min(retry_after, MAX_RETRY_AFTER_SECONDS)


@dataclass(frozen=True, slots=True)
class ScanStart:
    """The beginning of a scan. `changed_since` is the backend's own time, a little before now: whatever
    changes during the
    scan changes after it. `cursors` are where reading begins; all of them lead through the whole hub.
    `next_pass_cursors` are the
    cursors of one more pass over what changed since, for a scan that saw changes."""

    changed_since: Instant
    cursors: tuple[str, ...]
    next_pass_cursors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ObservedPage:
    """What a cursor led to: instances that are active, instances that changed since the scan began, and perhaps
    others; and the cursors that go on from here, none at the end. A page can be short or empty and still have them."""

    instances: tuple[ObservedInstance, ...]
    cursors: tuple[str, ...] = ()
    scanned: int = 0
    """How many instances the backend handed over to be judged."""


class ArtifactKind(StrEnum):
    """What a task hub is made of at its provider."""

    TABLE = "table"
    QUEUE = "queue"
    CONTAINER = "container"


@dataclass(frozen=True, slots=True)
class Artifact:
    """Something of a task hub in a storage account, by the name that the service gives it."""

    kind: ArtifactKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class TaskHubArtifacts:
    """`deletable` is what exists of a hub and may be removed, in the order in which to remove it: containers,
    queues, tables,
    and the instances last, so that whoever stops halfway leaves the evidence. `shared` are the tables of that name
    that must stay: other hubs have rows there, or there are no instances to show whose history it is."""

    deletable: tuple[Artifact, ...]
    shared: tuple[Artifact, ...] = ()


class ArtifactStore(Protocol):
    """What task hubs leave behind at their provider. Every method raises BackendError."""

    async def find_artifacts(self, task_hub: str) -> TaskHubArtifacts:
        """What exists of this hub now."""

    async def has_queue_deletion_begun(self, task_hub: str) -> bool:
        """Whether the deletion of the hub's control queues has begun."""

    async def delete(self, artifact: Artifact) -> None:
        """Delete it with all it holds; one that is gone already is fine."""

    def service_address(self, kind: ArtifactKind) -> str | None:
        """The address of the service that keeps artifacts of this kind, without secrets; None if it is not known."""


class Backend(Protocol):
    """A durable backend that keeps task hubs. It returns entities only if they changed since a scan began. Every method
    raises BackendError; ReadFailure.MISSING says that the task hub does not exist."""

    @property
    def provider(self) -> str:
        """The name under which PutApp chooses it."""

    @property
    def shows_messages(self) -> bool:
        """Whether `read_queue_snapshot` shows the messages."""

    @property
    def artifacts(self) -> ArtifactStore | None:
        """What can be deleted; None where nothing can."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the task hubs are: the addresses of the services that keep them, without secrets. Makes no
        connection."""

    async def find_existing(self, task_hub: str) -> ExistingArtifacts | None:
        """What exists under this name, whatever its case, and which of `addresses` were asked. None where asking would
        create the task hub. Where the provider says that there is no such task hub, nothing exists."""

    async def begin_scan(self, task_hub: str) -> ScanStart:
        """Begin a scan."""

    async def read_page(self, task_hub: str, changed_since: Instant, cursor: str) -> ObservedPage:
        """Read on from a cursor. Cursors are text without secrets; they are kept, and used by another worker later.

        Once every cursor of a pass has been followed to its end, every instance that was active from the beginning to
        the end of the pass has been seen as active, and every one that became active or stopped being so in between
        has been seen with a `stamp` that it did not have before.
        """

    async def find_instances(self, task_hub: str, instance_ids: Sequence[str]) -> Mapping[str, ObservedInstance | None]:
        """Each of these instances as it is now; None for one that the backend does not know."""

    async def read_queue_snapshot(self, task_hub: str) -> QueueSnapshot | None:
        """The messages that could start an orchestration which `find_instances` does not know yet; None if the
        backend does not
        show them."""

    async def read_timers(self, task_hub: str, known: KnownTimers) -> KnownTimers:
        """Read on for pending timers, whose messages are invisible until they fire. The read is complete when the
        result has no `cursor`."""

    async def close(self) -> None: ...


def backend_id_of(provider_config: ProviderConfig, backend: Backend) -> str:
    """Where an app's task hubs live, as text: the settings that lead there, and where these lead now. What was found in
    one place says nothing about another."""
    return f"{provider_config}|{' '.join(backend.addresses)}"


class BackendRegistry(Protocol):
    """The backends that this server's settings give access to."""

    def backend_for(self, provider_config: ProviderConfig) -> Backend:
        """Raises BackendError when a setting is missing or wrong."""
