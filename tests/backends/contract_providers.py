"""The providers that the contract suite runs against, behind the same few operations.

With these a test changes instances as an app does, and lets the provider refuse requests, fail or be unreachable."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc  # type: ignore[import-untyped]  # it has no types
from aiohttp import web
from durabletask.internal import orchestrator_service_pb2 as protocol

from state_api.backends.azure_storage import AzureStorageBackend, TrackingStore
from state_api.backends.protocols import Backend
from state_api.settings import StorageSettings
from tests.backends import fake_function_app, fake_schedulers
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.backends.fake_function_app import FakeFunctionApp
from tests.backends.fake_schedulers import FakeScheduler, build_orchestration_state
from tests.backends.storage_account import (
    ACCOUNT_KEY_START,
    CONNECTION_NAME,
    AccountProxy,
    RawAccount,
    ServiceFault,
    account_proxy,
    connection_string_of,
)

UNREACHABLE_STORAGE = StorageSettings.model_validate(
    {
        "connection_string": "DefaultEndpointsProtocol=http;AccountName=gone;AccountKey=c2VjcmV0;"
        "TableEndpoint=http://127.0.0.1:9/gone"
    }
)


class ContractProvider(ABC):
    """A provider with one task hub, which does not exist until `create_task_hub`.

    `secret` must not be in any message, cursor or address. `setting_name` must be in every message. `can_find_existing`
    says whether a task hub can be looked for without creating it.
    """

    secret: str
    setting_name: str
    can_find_existing = True

    def __init__(self, task_hub: str, backend: Backend) -> None:
        self.task_hub = task_hub
        self.backend = backend

    @property
    @abstractmethod
    def request_count(self) -> int:
        """How many requests the provider has received."""

    @abstractmethod
    async def create_task_hub(self) -> None:
        """Create the task hub as an app does when it starts."""

    @abstractmethod
    async def put(self, instance_id: str, status: str = "Running", **details: Any) -> None:
        """Create an instance, or change it. `details` are `name` and `version`."""

    @abstractmethod
    def fail_with(self, status: int | None, retry_after: str | None = None) -> None:
        """Answer each request with this HTTP status, or its counterpart, and ask to wait `retry_after` seconds; answer
        as usual if the status is None."""

    @abstractmethod
    def limit_pages(self, page_size: int) -> None:
        """Return at most this many instances on a page from now on."""

    @abstractmethod
    def open_backend(self) -> AbstractAsyncContextManager[Backend]:
        """Open another backend on the same provider, as another worker does."""

    @abstractmethod
    def open_unreachable_backend(self) -> AbstractAsyncContextManager[Backend]:
        """Open a backend whose provider is not there."""


class AzureStorageProvider(ContractProvider):
    """The storage emulator with the tables and queues of a task hub, behind a proxy."""

    secret = ACCOUNT_KEY_START
    setting_name = CONNECTION_NAME

    def __init__(
        self, task_hub: ProviderTaskHub, proxy: AccountProxy, monkeypatch: Any, tracking_prefix: str | None = None
    ) -> None:
        self._provider_task_hub = task_hub
        self._proxy = proxy
        self._monkeypatch = monkeypatch
        self._tracking_prefix = tracking_prefix
        super().__init__(task_hub.hub, self._create_backend(proxy.settings))

    @property
    def request_count(self) -> int:
        return len(self._proxy.forwarded)

    async def create_task_hub(self) -> None:
        await self._provider_task_hub.create()

    async def put(self, instance_id: str, status: str = "Running", **details: Any) -> None:
        await self._provider_task_hub.put(instance_id, status, **details)

    def fail_with(self, status: int | None, retry_after: str | None = None) -> None:
        headers = {"Retry-After": retry_after} if retry_after is not None else {}
        self._proxy.faults = {} if status is None else {"Table": ServiceFault(status, headers=headers)}

    def limit_pages(self, page_size: int) -> None:
        self._monkeypatch.setattr("state_api.backends.azure_storage._PAGE_SIZE", page_size)

    @asynccontextmanager
    async def open_backend(self) -> AsyncIterator[Backend]:
        backend = self._create_backend(self._proxy.settings)
        yield backend
        await backend.close()

    @asynccontextmanager
    async def open_unreachable_backend(self) -> AsyncIterator[Backend]:
        backend = self._create_backend(UNREACHABLE_STORAGE)
        yield backend
        await backend.close()

    def _create_backend(self, settings: StorageSettings) -> AzureStorageBackend:
        """The backend under test, with a tracking store if the task hub has one."""
        tracking_store = None
        if self._tracking_prefix is not None:
            tracking_store = TrackingStore(settings, CONNECTION_NAME, self._tracking_prefix)
        return AzureStorageBackend(settings, CONNECTION_NAME, tracking_store)


_GRPC_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
}
_STATUS_NUMBERS = {
    name.removeprefix("ORCHESTRATION_STATUS_"): number for name, number in protocol.OrchestrationStatus.items()
}
_UNKNOWN_STATUS_NUMBER = 99


class SchedulerProvider(ContractProvider):
    """A fake scheduler on loopback, which a test can let fail."""

    secret = "do-not-tell"
    setting_name = fake_schedulers.CONNECTION_SETTING

    def __init__(self, task_hub: str, backend: Backend, scheduler: "FailingScheduler", port: str) -> None:
        """A task hub on this fake scheduler, which listens on the port."""
        super().__init__(task_hub, backend)
        self._scheduler = scheduler
        self._port = port
        self._changes = 0

    @property
    def request_count(self) -> int:
        return len(self._scheduler.queries)

    async def create_task_hub(self) -> None:
        """Start an entity, because an empty task hub of a scheduler counts as one that does not exist."""
        await self.put("@counter@created")

    async def put(self, instance_id: str, status: str = "Running", **details: Any) -> None:
        """Set the state of an instance. Every change is a nanosecond later than the one before, so that their order is
        known."""
        before = [state for state in self._scheduler.states if state.instanceId == instance_id]
        self._changes += 1
        now = fake_schedulers.get_now_nanoseconds() + self._changes
        created = fake_schedulers.get_created_nanoseconds(before[0]) if before else now
        number = _STATUS_NUMBERS.get(_to_upper_snake_case(status), _UNKNOWN_STATUS_NUMBER)
        fields = {"lastUpdatedTimestamp": fake_schedulers.to_timestamp_fields(now)}
        if "name" in details:
            fields["name"] = details["name"]
        if details.get("version"):
            fields["version"] = {"value": details["version"]}
        self._scheduler.states = [
            *(state for state in self._scheduler.states if state.instanceId != instance_id),
            build_orchestration_state(instance_id, created, number, **fields),
        ]

    def fail_with(self, status: int | None, retry_after: str | None = None) -> None:
        self._scheduler.failure = None if status is None else _GRPC_CODES[status]
        self._scheduler.retry_after = retry_after

    def limit_pages(self, page_size: int) -> None:
        self._scheduler.limit = page_size

    def open_backend(self) -> AbstractAsyncContextManager[Backend]:
        return fake_schedulers.open_backend(fake_schedulers.build_connection_string(self._port))

    def open_unreachable_backend(self) -> AbstractAsyncContextManager[Backend]:
        return fake_schedulers.open_backend(fake_schedulers.build_connection_string("9"))


class FailingScheduler(FakeScheduler):
    """A scheduler that answers each call with `failure` while one is set."""

    def __init__(self) -> None:
        """Begin with a scheduler that does not fail."""
        super().__init__()
        self.failure: Any = None
        self.retry_after: str | None = None

    def query(self, request: protocol.QueryInstancesRequest, context: Any) -> protocol.QueryInstancesResponse:
        """Answer QueryInstances, or fail as the test has chosen."""
        self._abort_if_failing(context)
        return super().query(request, context)

    def get(self, request: protocol.GetInstanceRequest, context: Any) -> protocol.GetInstanceResponse:
        """Answer GetInstance, or fail as the test has chosen."""
        self._abort_if_failing(context)
        return super().get(request, context)

    def _abort_if_failing(self, context: Any) -> None:
        """Answer with the failure that a test has set. Its text holds a secret, which no message of the server may
        show."""
        if self.failure is not None:
            if self.retry_after is not None:
                context.set_trailing_metadata((("other", "1"), ("retry-after", self.retry_after)))
            context.abort(self.failure, f"SharedKey={SchedulerProvider.secret}")


class ManagementApiProvider(ContractProvider):
    """A fake function app with the management API."""

    secret = fake_function_app.SYSTEM_KEY
    setting_name = fake_function_app.CONNECTION_NAME
    can_find_existing = False

    def __init__(self, task_hub: str, backend: Backend, app: FakeFunctionApp) -> None:
        super().__init__(task_hub, backend)
        self._app = app
        app.hub = task_hub

    @property
    def request_count(self) -> int:
        return len(self._app.requests)

    async def create_task_hub(self) -> None:
        """Do nothing: the extension creates the task hub that it is asked about."""

    async def put(self, instance_id: str, status: str = "Running", **details: Any) -> None:
        self._app.put(instance_id, status, **details)

    def fail_with(self, status: int | None, retry_after: str | None = None) -> None:
        """Answer every further request with this status, or as usual if it is None. The text of a failure holds a
        secret."""

        async def respond(request: web.Request) -> web.StreamResponse:
            assert status is not None
            headers = {"Retry-After": retry_after} if retry_after is not None else {}
            return web.Response(status=status, headers=headers, text=self.secret)

        self._app.override = fake_function_app.answer_as_usual if status is None else respond

    def limit_pages(self, page_size: int) -> None:
        self._app.rows_per_page = page_size

    def open_backend(self) -> AbstractAsyncContextManager[Backend]:
        return fake_function_app.open_management_backend(self._app.origin)

    def open_unreachable_backend(self) -> AbstractAsyncContextManager[Backend]:
        return fake_function_app.open_management_backend("http://127.0.0.1:9")


def _to_upper_snake_case(status: str) -> str:
    """Convert `ContinuedAsNew` to `CONTINUED_AS_NEW`."""
    return "".join(f"_{letter}" if letter.isupper() else letter for letter in status).lstrip("_").upper()


ProviderFactory = Callable[[StorageSettings, str, Any], AbstractAsyncContextManager[ContractProvider]]


@asynccontextmanager
async def open_azure_storage_provider(
    storage: StorageSettings, task_hub: str, monkeypatch: Any
) -> AsyncIterator[AzureStorageProvider]:
    """A task hub on the storage emulator, read through a proxy that can fail."""
    async with account_proxy(storage) as proxy, ProviderTaskHub(storage, task_hub) as provider_task_hub:
        provider = AzureStorageProvider(provider_task_hub, proxy, monkeypatch)
        yield provider
        await provider.backend.close()


@asynccontextmanager
async def open_tracking_store_provider(
    storage: StorageSettings, task_hub: str, monkeypatch: Any
) -> AsyncIterator[AzureStorageProvider]:
    """Open a tracking store, in which the instances are rows among those of another task hub.

    The task hub has no instance table of its own, and its rows spell its name in another case."""
    prefix = f"t{task_hub}"
    account = RawAccount(connection_string_of(storage))
    await account.add_table(f"{prefix}Instances", "another")
    async with (
        account_proxy(storage) as proxy,
        ProviderTaskHub(storage, task_hub, f"{prefix}Instances", row_task_hub=task_hub.upper()) as provider_task_hub,
    ):
        provider = TrackingStoreProvider(provider_task_hub, proxy, monkeypatch, prefix)
        yield provider
        await provider.backend.close()
    await account.close()


class TrackingStoreProvider(AzureStorageProvider):
    """A tracking store, which shows that a task hub exists by its rows alone."""

    async def create_task_hub(self) -> None:
        """Create the task hub, and an entity in it: without a row, a tracking store shows no task hub."""
        await super().create_task_hub()
        await self.put("@counter@created")


@asynccontextmanager
async def open_scheduler_provider(
    _: StorageSettings, task_hub: str, monkeypatch: Any
) -> AsyncIterator[SchedulerProvider]:
    """A task hub on a fake Durable Task Scheduler that can fail."""
    scheduler = FailingScheduler()
    with fake_schedulers.serve_grpc(scheduler) as port:
        async with fake_schedulers.open_backend(fake_schedulers.build_connection_string(port)) as backend:
            yield SchedulerProvider(task_hub, backend, scheduler, port)


@asynccontextmanager
async def open_management_api_provider(
    _: StorageSettings, task_hub: str, monkeypatch: Any
) -> AsyncIterator[ManagementApiProvider]:
    """A task hub behind the management API of a fake Function App that can fail."""
    app = FakeFunctionApp("")
    async with (
        fake_function_app.serve_http(app.handle_request) as origin,
        fake_function_app.open_management_backend(origin) as backend,
    ):
        app.origin = origin
        yield ManagementApiProvider(task_hub, backend, app)


PROVIDERS: dict[str, ProviderFactory] = {
    "azure_storage": open_azure_storage_provider,
    "tracking_store": open_tracking_store_provider,
    "scheduler": open_scheduler_provider,
    "management_api": open_management_api_provider,
}
"""Each opens a provider for one test."""
