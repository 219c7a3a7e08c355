"""Task hubs on Durable Task Scheduler, or on anything else that speaks its `TaskHubSidecarService` (PLATFORM: Other
durable backends).

The protocol cannot be asked for what has changed. So a scan is two passes: over all instances that are active, then
over all that were created since the scan began, whatever their status. When one instance hands over to another while
the first pass goes on, and neither is active when looked at, the second pass finds the other.
"""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError

from state_api.backends.existing_task_hubs import find_existing_in_scheduler
from state_api.backends.protocols import BackendError, ObservedPage, ReadFailure, ScanStart
from state_api.domain.instants import TICKS_PER_SECOND, Instant, instant_from, seconds
from state_api.domain.names import is_entity
from state_api.domain.readiness.messages import KnownTimers, QueueSnapshot
from state_api.domain.task_hubs.lifecycle import ACTIVE_STATUSES, RuntimeStatus
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.domain.task_hubs.ownership import ExistingArtifacts, normalize_address
from state_api.settings import SettingsError

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential
    from durabletask.internal.orchestrator_service_pb2 import OrchestrationState

# grpc, the protocol's classes and azure.identity are imported where they are first needed: together they take longer
# to load than all of this server, and most servers never need them.

PAGE_SIZE = 500
CALL_TIMEOUT_SECONDS = 20.0
"""Seconds that one call may take."""

_MAX_CONCURRENT_READS = 16
_CLOCK_SKEW_MARGIN = seconds(60)
"""How far the scheduler's clock may be behind this server's. It does not tell its time, and created times are its own;
a minute is far more than two clocks differ that are kept by NTP."""

_FULL_PAGE_SIZE = 100
"""A page of so many instances counts as full, even if more were asked for: a scheduler may set a limit of its own."""
_RANGE_OVERLAP_TICKS = 10
"""Ticks by which a span reaches into the one before, in case the scheduler takes the lower bound to be exclusive. The
in-memory engine knows nothing finer than this microsecond."""
_MAX_CURSOR_BOUNDS = 50
"""How many bounds a cursor carries at most, to stay short. One that is dropped is found again."""

_STATUSES_BY_NUMBER = (
    RuntimeStatus.RUNNING,
    RuntimeStatus.COMPLETED,
    RuntimeStatus.CONTINUED_AS_NEW,
    RuntimeStatus.FAILED,
    RuntimeStatus.CANCELED,
    RuntimeStatus.TERMINATED,
    RuntimeStatus.PENDING,
    RuntimeStatus.SUSPENDED,
)
"""The protocol's OrchestrationStatus: each at the place of its number."""
_ACTIVE_STATUS_NUMBERS = [number for number, status in enumerate(_STATUSES_BY_NUMBER) if status in ACTIVE_STATUSES]

_AUTHENTICATION_TYPES = (
    "None",
    "ManagedIdentity",
    "WorkloadIdentity",
    "Environment",
    "AzureCLI",
    "AzurePowerShell",
    "DefaultAzure",
)
"""What Authentication can be in Microsoft's connection strings, but for what needs somebody at a screen."""

_DENIED_MESSAGE = (
    "refuses this server ({code}): give it the role Durable Task Data Reader on task hub {hub}, and let its IP in"
)
_FAILURES_BY_GRPC_CODE = {
    "NOT_FOUND": (
        ReadFailure.MISSING,
        "has no task hub {hub}: either nobody has created it, or this is another scheduler",
    ),
    "PERMISSION_DENIED": (ReadFailure.DENIED, _DENIED_MESSAGE),
    "UNAUTHENTICATED": (ReadFailure.DENIED, _DENIED_MESSAGE),
    "RESOURCE_EXHAUSTED": (ReadFailure.THROTTLED, "asks to wait"),
    "DEADLINE_EXCEEDED": (ReadFailure.FAILED, "has not answered within {deadline:g} s"),
    "UNAVAILABLE": (ReadFailure.FAILED, "cannot be reached: is its address right, and is this server let in?"),
    "UNIMPLEMENTED": (ReadFailure.FAILED, "has an address where something else answers"),
}
"""What the codes of gRPC mean here."""

_CHANNEL_OPTIONS = [
    # Custom statuses and failure details come along unasked; the usual 4 MiB is less than a page of them can be.
    ("grpc.max_receive_message_length", -1),
    # A connection that a firewall has dropped in silence would cost the next call its deadline.
    ("grpc.client_idle_timeout_ms", 60_000),
    # After an outage, calls fail without being sent until the next attempt to connect; the usual limit is 2 minutes.
    ("grpc.max_reconnect_backoff_ms", 5_000),
]


@dataclass(frozen=True, slots=True)
class _SchedulerConnection:
    """A connection string, read. `target` is host and port."""

    target: str
    secure: bool
    authentication: str
    options: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _ScanCursor:
    """What a cursor stands for: a span of created times within a pass, and how far its pages have been read.

    A span that is more than a page is cut in two, and each half asked for anew, until every answer holds the whole of
    its span. Following continuation tokens instead could lose instances: the in-memory engine's token is a position in
    a list that is filtered again for each page, so that what ends between two pages moves others across their border.
    Tokens are followed where there is nothing to cut: through instances that were created at once, and after pages
    that are short for the scheduler's own reasons.

    Spans are read from the oldest on. What an instance starts is younger than itself, and so is what it becomes when
    it is started anew under its id: both are in a span that is still to be read.
    """

    is_recent_pass: bool = False
    """Whether this is the pass over what was created since; otherwise it is that over what is active."""
    lower: Instant | None = None
    upper_bounds: tuple[Instant, ...] = ()
    """The end of the span, and before it the ends of those that follow. Without any it is open."""
    token: str | None = None

    @property
    def upper_bound(self) -> Instant | None:
        return self.upper_bounds[-1] if self.upper_bounds else None

    def next_cursor(self, created: Sequence[Instant], token: str | None, page_size: int) -> "_ScanCursor | None":
        """Where to read on after a page with instances of these created times; None at the end of the scan."""
        if token is None:
            if self.upper_bound is not None:
                return _ScanCursor(
                    self.is_recent_pass, Instant(self.upper_bound - _RANGE_OVERLAP_TICKS), self.upper_bounds[:-1]
                )
            return None if self.is_recent_pass else _ScanCursor(is_recent_pass=True)
        if (
            self.token is None
            and len(created) >= min(page_size, _FULL_PAGE_SIZE)
            and (cut := self._find_split_time(created)) is not None
        ):
            return replace(self, upper_bounds=(*self.upper_bounds, cut)[-_MAX_CURSOR_BOUNDS:])
        return replace(self, token=token)

    def _find_split_time(self, created: Sequence[Instant]) -> Instant | None:
        """A time that divides this span and the instances of its first page; None if they were created at once."""
        ordered = sorted(created)
        # The bounds themselves would leave one of the halves as it was.
        floor = ordered[0] if self.lower is None else max(ordered[0], self.lower + _RANGE_OVERLAP_TICKS)
        cut = next((each for each in ordered[len(ordered) // 2 :] if each > floor), None)
        return None if cut is None or (self.upper_bound is not None and cut >= self.upper_bound) else cut

    def encode(self) -> str:
        return json.dumps([self.is_recent_pass, self.lower, self.upper_bounds, self.token])

    @classmethod
    def decode(cls, cursor: str) -> "_ScanCursor":
        is_recent_pass, lower, upper_bounds, token = json.loads(cursor)
        return cls(is_recent_pass, lower, tuple(upper_bounds), token)


class SchedulerBackend:
    """Reads with the connection string in the setting `name`. Raises SettingsError for one that cannot be right.

    Seen in the source of the in-memory engine (durabletask 1.12): it heeds runtime statuses, created times (from
    inclusive, to exclusive, in microseconds) and the page size; it shows a continued instance as Pending, never tells
    a version, starts at once what is scheduled for later, and does not look at the task hub's name.

    Two changes during a scan stay unseen, because nothing tells them from what was long over: an instance that was
    created before the scan and ended before its turn, and one that somebody rewinds after its turn.
    """

    provider = "scheduler"
    shows_messages = True
    artifacts = None

    def __init__(self, connection: str, name: str, page_size: int = PAGE_SIZE) -> None:
        self._connection = _parse_connection_string(connection, name)
        self._setting_name = name
        self._page_size = page_size
        self._concurrency_limit = asyncio.Semaphore(_MAX_CONCURRENT_READS)
        self._channel: Any = None
        self._stub: Any = None
        self._credential: AsyncTokenCredential | None = None
        self._tokens: Any = None

    @property
    def addresses(self) -> tuple[str, ...]:
        return (normalize_address(f"{'https' if self._connection.secure else 'http'}://{self._connection.target}"),)

    async def find_existing(self, task_hub: str) -> ExistingArtifacts | None:
        return await find_existing_in_scheduler(self._call, task_hub, self.addresses[0])

    async def begin_scan(self, task_hub: str) -> ScanStart:
        """Asks nothing of the scheduler."""
        since = Instant(instant_from(datetime.now(UTC)) - _CLOCK_SKEW_MARGIN)
        return ScanStart(since, (_ScanCursor().encode(),), (_ScanCursor(is_recent_pass=True).encode(),))

    async def read_page(self, task_hub: str, since: Instant, cursor: str) -> ObservedPage:
        window = _ScanCursor.decode(cursor)
        if window.is_recent_pass and window.lower is None:
            window = replace(window, lower=since)
        query = {
            "runtimeStatus": [] if window.is_recent_pass else _ACTIVE_STATUS_NUMBERS,
            "createdTimeFrom": _to_timestamp(window.lower),
            "createdTimeTo": _to_timestamp(window.upper_bound),
            "maxInstanceCount": self._page_size,
            "continuationToken": {"value": window.token} if window.token else None,
        }
        answer = await self._call(task_hub, "QueryInstances", query=query)
        token = answer.continuationToken.value
        # Microsoft's clients take "0" for the end as well.
        token = token if token not in {"", "0"} else None
        if token is not None and token == window.token:
            text = (
                f"the scheduler of the setting {self._setting_name} gives the same page of task hub "
                f"{task_hub} again and again"
            )
            raise BackendError(ReadFailure.FAILED, text)
        states = list(answer.orchestrationState)
        found = tuple(_parse_state(state.instanceId, state) for state in states if not is_entity(state.instanceId))
        onward = window.next_cursor([_to_instant(state.createdTimestamp) for state in states], token, self._page_size)
        return ObservedPage(found, (onward.encode(),) if onward is not None else (), len(found))

    async def find_instances(self, task_hub: str, instance_ids: Sequence[str]) -> Mapping[str, ObservedInstance | None]:
        async def find_one(instance_id: str) -> ObservedInstance | None:
            if is_entity(instance_id):
                return None
            async with self._concurrency_limit:
                answer = await self._call(task_hub, "GetInstance", instanceId=instance_id)
            return _parse_state(instance_id, answer.orchestrationState) if answer.exists else None

        try:
            async with asyncio.TaskGroup() as group:
                tasks = {one: group.create_task(find_one(one)) for one in instance_ids}
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None  # the first; it has ended the other calls
        return {one: task.result() for one, task in tasks.items()}

    async def read_queue_snapshot(self, task_hub: str) -> QueueSnapshot | None:
        """No messages: an instance exists from the moment it is scheduled.

        A start answers with the instance made. Sub-orchestrations are part of the one message by which a worker
        completes its turn, and the in-memory engine makes them under the lock under which it ends their parent
        (`CompleteOrchestratorTask`). The managed service's source is not public; it takes the same message. Signals to
        entities are not counted: what an entity starts when it gets to them begins then, as at any other trigger.
        """
        return QueueSnapshot()

    async def read_timers(self, task_hub: str, known: KnownTimers) -> KnownTimers:
        return known

    async def close(self) -> None:
        channel, credential = self._channel, self._credential
        self._channel = self._stub = self._credential = self._tokens = None
        if channel is not None:
            await channel.close()
        if credential is not None:
            await credential.close()

    async def _call(self, task_hub: str, method: str, **fields: Any) -> Any:
        """The answer of one of the service's methods to the request with these fields. All task hubs share one
        connection; each call says which of them it means."""
        import grpc  # type: ignore[import-untyped]  # noqa: PLC0415  # it has no types, and takes long to load
        from durabletask.internal import orchestrator_service_pb2 as protocol  # noqa: PLC0415  # takes long to load

        metadata = [("taskhub", task_hub), *await self._authorization_metadata()]
        request = getattr(protocol, f"{method}Request")(**fields)
        try:
            return await getattr(self._get_stub(), method)(request, metadata=metadata, timeout=CALL_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise self._call_error(task_hub, error) from None

    def _get_stub(self) -> Any:
        if self._stub is None:
            import grpc  # noqa: PLC0415  # takes long to load
            from durabletask.internal import orchestrator_service_pb2_grpc as service  # noqa: PLC0415  # as above

            target = self._connection.target
            if self._connection.secure:
                credentials = grpc.ssl_channel_credentials()
                self._channel = grpc.aio.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)
            else:
                self._channel = grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
            self._stub = service.TaskHubSidecarServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        return self._stub

    async def _authorization_metadata(self) -> list[tuple[str, str]]:
        if self._connection.authentication == "None":
            return []
        try:
            if self._tokens is None:
                self._tokens = self._create_token_manager()
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                token = await self._tokens.get_access_token()
        except ImportError:
            raise BackendError(
                ReadFailure.FAILED,
                f"the setting {self._setting_name} says Authentication={self._connection.authentication}, for "
                f"which this "
                "server lacks a package: install requirements-scheduler.txt",
            ) from None
        # Credentials also fail with what they stumble over: settings that are not there, files, odd answers.
        except (AzureError, ValueError, LookupError, OSError) as error:
            raise BackendError(
                ReadFailure.DENIED,
                f"this server gets no token for the scheduler of the setting {self._setting_name} "
                f"({type(error).__name__}): "
                f"does it have the identity of Authentication={self._connection.authentication}?",
            ) from None
        return [("authorization", f"Bearer {token.token}")]

    def _create_token_manager(self) -> Any:
        # Optional, and slow to load.
        from durabletask.azuremanaged.internal.access_token_manager import AsyncAccessTokenManager  # noqa: PLC0415

        if self._credential is None:
            self._credential = _create_credential(self._connection)
        return AsyncAccessTokenManager(self._credential, resource_id=self._connection.options.get("resourceid"))

    def _call_error(self, task_hub: str, error: Any) -> BackendError:
        """What a failed call means. The scheduler's own words are left out: nobody vouches that they hold no secret."""
        code = error.code().name
        failure, text = _FAILURES_BY_GRPC_CODE.get(code, (ReadFailure.FAILED, "answers with {code}"))
        wait = _read_retry_after(error) if failure is ReadFailure.THROTTLED else None
        text = text.format(hub=task_hub, code=code, deadline=CALL_TIMEOUT_SECONDS)
        return BackendError(failure, f"the scheduler of the setting {self._setting_name} {text}", wait)


def _parse_connection_string(text: str, name: str) -> _SchedulerConnection:
    advice = (
        f"the setting {name} must be the connection string of a Durable Task Scheduler, such as "
        "Endpoint=https://NAME.REGION.durabletask.io;Authentication=ManagedIdentity;ClientID=ID, or that of an "
        "emulator, such as Endpoint=http://localhost:8080;Authentication=None"
    )
    options: dict[str, str] = {}
    for part in filter(str.strip, text.split(";")):
        key, equals, value = part.partition("=")
        if not equals:
            raise SettingsError(f"{advice}; it has a part without =")
        if value.strip():
            options[key.strip().lower()] = value.strip()
    for key in ("Endpoint", "Authentication"):
        if key.lower() not in options:
            raise SettingsError(f"{advice}; {key} is missing")
    spelt = {one.lower(): one for one in _AUTHENTICATION_TYPES}
    authentication = spelt.get(options["authentication"].lower())
    if authentication is None:
        raise SettingsError(f"{advice}; Authentication must be one of {', '.join(_AUTHENTICATION_TYPES)}")
    secure, target = _parse_endpoint(options["endpoint"])
    if target is None:
        raise SettingsError(f"{advice}; Endpoint must be an address like those, without path, query and user name")
    if not secure and authentication != "None":
        raise SettingsError(f"{advice}; tokens are sent over https only")
    return _SchedulerConnection(target, secure, authentication, options)


def _parse_endpoint(endpoint: str) -> tuple[bool, str | None]:
    """Whether to encrypt, and host and port; None for no address. As in Microsoft's clients, https is the default."""
    try:
        url = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        port = url.port
    except ValueError:
        return False, None
    host = url.hostname or ""
    plain = url.path in {"", "/"} and not url.query and not url.fragment and "@" not in url.netloc
    if url.scheme not in {"https", "http"} or not plain or not re.fullmatch(r"[A-Za-z0-9._:-]+", host):
        return False, None
    secure = url.scheme == "https"
    # gRPC itself would take 443 for both.
    return secure, f"{f'[{host}]' if ':' in host else host}:{port or (443 if secure else 80)}"


def _create_credential(connection: _SchedulerConnection) -> "AsyncTokenCredential":
    from azure.identity import aio  # noqa: PLC0415  # takes long to load

    authority = {"authority": host} if (host := connection.options.get("authorityhost")) else {}
    client_id = connection.options.get("clientid")
    match connection.authentication:
        case "ManagedIdentity":
            return aio.ManagedIdentityCredential(client_id=client_id)
        case "WorkloadIdentity":
            return aio.WorkloadIdentityCredential(
                tenant_id=connection.options.get("tenantid"),
                client_id=client_id,
                token_file_path=connection.options.get("tokenfilepath"),
                **authority,
            )
        case "Environment":
            return aio.EnvironmentCredential(**authority)
        case "AzureCLI":
            return aio.AzureCliCredential()
        case "AzurePowerShell":
            return aio.AzurePowerShellCredential()
    return aio.DefaultAzureCredential(managed_identity_client_id=client_id, **authority)


def _parse_state(instance_id: str, state: "OrchestrationState") -> ObservedInstance:
    number = state.orchestrationStatus
    created, updated = state.createdTimestamp, state.lastUpdatedTimestamp
    return ObservedInstance(
        instance_id=instance_id,
        function_name=state.name,
        version=state.version.value or None,
        # A status that is not known counts as running.
        runtime_status=_STATUSES_BY_NUMBER[number] if 0 <= number < len(_STATUSES_BY_NUMBER) else RuntimeStatus.RUNNING,
        created_at=_to_instant(created),
        updated_at=_to_instant(updated),
        stamp=f"{created.seconds}.{created.nanos:09d} {updated.seconds}.{updated.nanos:09d} {number}",
    )


def _to_instant(timestamp: Any) -> Instant:
    return Instant(timestamp.seconds * TICKS_PER_SECOND + timestamp.nanos // 100)


def _to_timestamp(instant: Instant | None) -> Mapping[str, int] | None:
    if instant is None:
        return None
    return {"seconds": instant // TICKS_PER_SECOND, "nanos": instant % TICKS_PER_SECOND * 100}


def _read_retry_after(error: Any) -> int | None:
    told = next((value for key, value in error.trailing_metadata() or () if key == "retry-after"), "")
    return int(told) if isinstance(told, str) and told.isdecimal() else None
