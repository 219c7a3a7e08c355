"""Calls the gRPC service of a Durable Task Scheduler. Hides the connection, its tokens, and what the errors of gRPC
mean.

grpc, the protocol's classes and azure.identity are imported when they are first needed: together they take longer than
the rest of this server, and most servers never need them.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import AzureError

from state_api.backends.protocols import BackendError, ReadFailure
from state_api.backends.scheduler_connection import create_credential, parse_connection_string
from state_api.domain.task_hubs.ownership import normalize_address

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

CALL_TIMEOUT_SECONDS = 20.0
"""How long one call, or the request for a token, may take."""

_CHANNEL_OPTIONS = [
    # A page contains custom statuses and failure details, which cannot be left out: more than the usual 4 MiB.
    ("grpc.max_receive_message_length", -1),
    # A connection that a firewall drops without notice would cost the next call its timeout.
    ("grpc.client_idle_timeout_ms", 60_000),
    # After an outage, calls fail without being sent until the next attempt to connect. The default is 2 minutes.
    ("grpc.max_reconnect_backoff_ms", 5_000),
]

_DENIED_PROBLEM = (
    "refuses this server ({code}): give the server's identity the role Durable Task Data Reader on task hub "
    "{task_hub}, and let its IP address in"
)
_FAILURES_BY_GRPC_CODE = {
    "NOT_FOUND": (
        ReadFailure.MISSING,
        "has no task hub {task_hub}: either it has not been created, or the setting leads to another scheduler",
    ),
    "PERMISSION_DENIED": (ReadFailure.DENIED, _DENIED_PROBLEM),
    "UNAUTHENTICATED": (ReadFailure.DENIED, _DENIED_PROBLEM),
    "RESOURCE_EXHAUSTED": (ReadFailure.THROTTLED, "asks to wait"),
    "DEADLINE_EXCEEDED": (ReadFailure.FAILED, "has not answered within {timeout_seconds:g} s"),
    "UNAVAILABLE": (
        ReadFailure.FAILED,
        "cannot be reached: check its address, and that its network rules let this server in",
    ),
    "UNIMPLEMENTED": (ReadFailure.FAILED, "is not a Durable Task Scheduler: something else answers at its address"),
}
"""What the status codes of gRPC mean, and the end of the message for each."""


class SchedulerClient:
    """Calls the scheduler of the connection string in the setting `setting_name`. Opens no connection until the first
    call. Raises SettingsError if the connection string is not valid."""

    def __init__(self, connection_string: str, setting_name: str) -> None:
        self.connection = parse_connection_string(connection_string, setting_name)
        self.setting_name = setting_name
        self._channel: Any = None
        self._stub: Any = None
        self._credential: AsyncTokenCredential | None = None
        self._token_manager: Any = None

    @property
    def address(self) -> str:
        return normalize_address(self.connection.url)

    async def call(self, task_hub: str, method: str, **fields: Any) -> Any:
        """Call a method of TaskHubSidecarService with a request of these fields, and return its response. Raises
        BackendError. All task hubs share one connection; the metadata of each call names its task hub."""
        import grpc  # type: ignore[import-untyped]  # noqa: PLC0415  # it has no types, and is slow to import
        from durabletask.internal import orchestrator_service_pb2 as protocol  # noqa: PLC0415  # slow to import

        metadata = [("taskhub", task_hub), *await self._authorization_metadata()]
        request = getattr(protocol, f"{method}Request")(**fields)
        try:
            return await getattr(self._get_stub(), method)(request, metadata=metadata, timeout=CALL_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise self._call_error(task_hub, error) from None

    async def close(self) -> None:
        """Close the connection. A later call opens another."""
        channel, credential = self._channel, self._credential
        self._channel = self._stub = self._credential = self._token_manager = None
        if channel is not None:
            await channel.close()
        if credential is not None:
            await credential.close()

    def _get_stub(self) -> Any:
        """The gRPC stub, whose channel opens at the first call."""
        if self._stub is None:
            import grpc  # noqa: PLC0415  # slow to import
            from durabletask.internal import orchestrator_service_pb2_grpc as service  # noqa: PLC0415  # slow to import

            target = self.connection.target
            if self.connection.secure:
                credentials = grpc.ssl_channel_credentials()
                self._channel = grpc.aio.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)
            else:
                self._channel = grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
            self._stub = service.TaskHubSidecarServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        return self._stub

    async def _authorization_metadata(self) -> list[tuple[str, str]]:
        """The metadata of a call with an access token; empty for an emulator. Raises BackendError."""
        if self.connection.authentication == "None":
            return []
        try:
            if self._token_manager is None:
                self._token_manager = self._create_token_manager()
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                token = await self._token_manager.get_access_token()
        except ImportError:
            raise BackendError(
                ReadFailure.FAILED,
                f"the setting {self.setting_name} has Authentication={self.connection.authentication}, which needs a "
                "package that this server does not have: install requirements-scheduler.txt",
            ) from None
        # Credentials also raise what missing settings, missing files and unexpected responses cause.
        except (AzureError, ValueError, LookupError, OSError) as error:
            raise BackendError(
                ReadFailure.DENIED,
                f"this server gets no token for the scheduler of the setting {self.setting_name} "
                f"({type(error).__name__}): does it have the identity of "
                f"Authentication={self.connection.authentication}?",
            ) from None
        return [("authorization", f"Bearer {token.token}")]

    def _create_token_manager(self) -> Any:
        """The manager of access tokens, which renews a token before it expires."""
        # An optional package, and slow to import.
        from durabletask.azuremanaged.internal.access_token_manager import AsyncAccessTokenManager  # noqa: PLC0415

        if self._credential is None:
            self._credential = create_credential(self.connection)
        return AsyncAccessTokenManager(self._credential, resource_id=self.connection.resource_id)

    def _call_error(self, task_hub: str, error: Any) -> BackendError:
        """Turn a failed call into BackendError, without the scheduler's text, which can contain secrets."""
        code = error.code().name
        failure, problem = _FAILURES_BY_GRPC_CODE.get(code, (ReadFailure.FAILED, "answers with {code}"))
        retry_after = _read_retry_after(error) if failure is ReadFailure.THROTTLED else None
        problem = problem.format(task_hub=task_hub, code=code, timeout_seconds=CALL_TIMEOUT_SECONDS)
        return BackendError(failure, f"the scheduler of the setting {self.setting_name} {problem}", retry_after)


def _read_retry_after(error: Any) -> int | None:
    """Return the seconds in the trailing metadata `retry-after`; None if there are none."""
    value = next((value for key, value in error.trailing_metadata() or () if key == "retry-after"), "")
    return int(value) if isinstance(value, str) and value.isdecimal() else None
