"""Who owns a task hub name at its provider: asking before a name is claimed, and the proof of an adoption."""

import asyncio

from state_api.backends.protocols import BackendError, BackendRegistry
from state_api.domain.errors import InvalidRequest, TaskHubUnavailable
from state_api.domain.instants import Instant
from state_api.domain.names import app_key
from state_api.domain.releases.apps import App, Caller, ProviderConfig
from state_api.domain.task_hubs.ownership import ExistingArtifacts, OwnershipProof, ProofBasis
from state_api.services.ports import TaskHubRecord, TaskHubs

_RETRY_SECONDS = 10


class Ownership:
    def __init__(self, task_hubs: TaskHubs, backends: BackendRegistry) -> None:
        self._task_hubs = task_hubs
        self._backends = backends

    async def find_existing(
        self, app: App, task_hub: str, caller: Caller, deadline: float
    ) -> ExistingArtifacts | TaskHubUnavailable | None:
        """What exists under this name where the app's task hubs live; the error if the provider cannot be asked before
        `deadline`, by the clock of the event loop. None if it must not be asked, if nothing says where to ask, or if
        this very run has claimed the name there already: its app may have started since."""
        if app.provider_config is None:
            return None
        try:
            backend = self._backends.backend_for(app.provider_config)
            record = await self._task_hubs.get(task_hub)
            if (
                record is not None
                and is_claimed_by(record, app, caller)
                and record.proof is not None
                and record.proof.covers(backend.addresses)
            ):
                return None
            async with asyncio.timeout_at(deadline):
                return await backend.find_existing(task_hub)
        except BackendError as error:
            reason, retry_after = error.message, error.retry_after or _RETRY_SECONDS
        except TimeoutError:
            reason, retry_after = "its provider did not answer in time", _RETRY_SECONDS
        return TaskHubUnavailable(
            f"task hub {task_hub} was not claimed: the server could not check whether it already exists at its "
            f"provider ({reason}). Retry later",
            retry_after,
            taskHub=task_hub,
        )

    def prove_adoption(self, provider_config: ProviderConfig | None, now: Instant) -> OwnershipProof | None:
        """The proof of a task hub that an administrator adopts; None where nothing says where task hubs live. Makes no
        connection. Raises InvalidRequest."""
        if provider_config is None:
            return None
        try:
            return OwnershipProof(ProofBasis.ADOPTED, self._backends.backend_for(provider_config).addresses, now)
        except BackendError as error:
            raise InvalidRequest(error.message) from None

    async def is_proven(self, app: App, task_hub: str, proof: OwnershipProof) -> bool:
        """Whether this app's claim on record is proven wherever this proof is."""
        record = await self._task_hubs.get(task_hub)
        return (
            record is not None
            and _is_claimed_by_app(record, app)
            and record.proof is not None
            and record.proof.covers(proof.addresses)
        )


def is_claimed_by(record: TaskHubRecord, app: App, caller: Caller) -> bool:
    """Whether this very run has claimed the task hub. Callers without a run URL are not known to be the same one."""
    return (
        _is_claimed_by_app(record, app) and caller.run_url is not None and record.run_id == caller.run_id(record.name)
    )


def _is_claimed_by_app(record: TaskHubRecord, app: App) -> bool:
    return record.app is not None and app_key(record.app) == app_key(app.name)
