"""Who owns a task hub at its provider: what exists under a name before it is claimed, and the proof of an adoption."""

import asyncio

from state_api.backends.protocols import BackendError, BackendRegistry, ReadFailure, backend_id_of
from state_api.domain.errors import InvalidRequest
from state_api.domain.instants import Instant
from state_api.domain.names import app_key
from state_api.domain.releases.apps import App, ProviderConfig
from state_api.domain.task_hubs.ownership import ExistingArtifacts, OwnershipProof, ProofBasis, ProviderUnavailable
from state_api.services.ports import TaskHubs

_UNUSED_INSTANCE_ID = "safe-deploy-existence-check"
"""An instance id that is looked up only to learn whether its task hub exists."""

_RETRY_AFTER_SECONDS = 10
"""How long a caller waits if the provider gives no time."""


class Ownership:
    """Asks providers about task hubs, and proves claims on them."""

    def __init__(self, task_hubs: TaskHubs, backends: BackendRegistry) -> None:
        self._task_hubs = task_hubs
        self._backends = backends

    async def find_existing(
        self, app: App, task_hub: str, deadline: float
    ) -> ExistingArtifacts | ProviderUnavailable | None:
        """What exists under this name where the app's task hubs live, or why the provider did not answer before
        `deadline` (a time of the event loop's clock).

        None if the app has no provider, or if asking would create the task hub.
        """
        if app.provider_config is None:
            return None
        try:
            backend = self._backends.backend_for(app.provider_config)
            async with asyncio.timeout_at(deadline):
                return await backend.find_existing(task_hub)
        except BackendError as error:
            return ProviderUnavailable(error.message, error.retry_after or _RETRY_AFTER_SECONDS)
        except TimeoutError:
            return ProviderUnavailable("its provider did not answer in time", _RETRY_AFTER_SECONDS)

    async def has_started(self, app: App, task_hub: str, deadline: float) -> bool | ProviderUnavailable:
        """Whether an app has started on this task hub, or why its provider did not answer before `deadline`, a time of
        the event loop's clock. True if the app has no provider.

        On a scheduler, a task hub without instances has started: it was created there for its app.
        """
        if app.provider_config is None:
            return True
        try:
            backend = self._backends.backend_for(app.provider_config)
            async with asyncio.timeout_at(deadline):
                existing = await backend.find_existing(task_hub)
                if existing is None or existing.artifacts:
                    return True
                if backend.artifacts is not None:
                    return False
                await backend.find_instances(task_hub, [_UNUSED_INSTANCE_ID])
        except BackendError as error:
            if error.failure is ReadFailure.MISSING:
                return False
            return ProviderUnavailable(error.message, error.retry_after or _RETRY_AFTER_SECONDS)
        except TimeoutError:
            return ProviderUnavailable("its provider did not answer in time", _RETRY_AFTER_SECONDS)
        return True

    def backend_id(self, app: App) -> str | None:
        """Identifies where the settings of the app's provider lead now; None without a provider, and if a setting is
        missing or wrong."""
        if app.provider_config is None:
            return None
        try:
            return backend_id_of(app.provider_config, self._backends.backend_for(app.provider_config))
        except BackendError:
            return None

    async def find_missing_backend(self, app: App, task_hub: str, deadline: float) -> str | None:
        """The backend that says that nothing of this task hub exists. None if it has something, does not let this
        server list all, or did not answer before `deadline`, a time of the event loop's clock."""
        if app.provider_config is None:
            return None
        try:
            backend = self._backends.backend_for(app.provider_config)
            async with asyncio.timeout_at(deadline):
                existing = await backend.find_existing(task_hub)
                if existing is None or existing.artifacts or set(existing.addresses) != set(backend.addresses):
                    return None
                if backend.artifacts is None:
                    await backend.find_instances(task_hub, [_UNUSED_INSTANCE_ID])
                    return None
        except BackendError as error:
            if error.failure is not ReadFailure.MISSING:
                return None
        except TimeoutError:
            return None
        return backend_id_of(app.provider_config, backend)

    def prove_adoption(self, provider_config: ProviderConfig | None, now: Instant) -> OwnershipProof | None:
        """The proof of task hubs that an administrator adopts; None without a provider. Makes no connection. Raises
        InvalidRequest if a setting is missing or wrong."""
        if provider_config is None:
            return None
        try:
            return OwnershipProof(ProofBasis.ADOPTED, self._backends.backend_for(provider_config).addresses, now)
        except BackendError as error:
            raise InvalidRequest(error.message) from None

    async def is_proven(self, app: App, task_hub: str, proof: OwnershipProof) -> bool:
        """Whether the app has claimed the task hub with a proof that covers all addresses of this one."""
        record = await self._task_hubs.get(task_hub)
        return (
            record is not None
            and record.app is not None
            and app_key(record.app) == app_key(app.name)
            and record.proof is not None
            and record.proof.covers(proof.addresses)
        )
