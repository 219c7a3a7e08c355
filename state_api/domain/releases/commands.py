"""What a caller asks of an app: one frozen value per operation, independent of the state of the app."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from state_api.domain.instants import Instant
from state_api.domain.names import STAGING
from state_api.domain.readiness.policy import Policy
from state_api.domain.releases.apps import App, Caller, ProviderConfig
from state_api.domain.releases.side_by_side.releases import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What every command has: its sender, and the reason that goes into the audit log."""

    caller: Caller
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCommand(Command):
    """PostStaging. `force` overrides a slot that has not drained, `take_over` another run's open deployment. Both need
    a reason."""

    task_hub: str
    version: str | None = None
    slot: str = STAGING
    force: bool = False
    take_over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AbandonCommand(Command):
    """DeleteStaging: close the open deployment of this task hub."""

    task_hub: str
    slot: str = STAGING


class SwapOutcome(StrEnum):
    """What a caller reports about the platform's swap."""

    PENDING = "Pending"
    DONE = "Done"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapCommand(Command):
    """PostSwap. `task_hub` is the one that goes into production.

    - `outcome`: without it, production and the slot are exchanged at once.
    - `rollback`: the task hub must have been in production before.
    - `is_conditional`: the request had an ETag in If-Match (not `*`), so its outcome is about the swap that its caller
      has read.
    """

    task_hub: str
    slot: str = STAGING
    outcome: SwapOutcome | None = None
    rollback: bool = False
    is_conditional: bool = False


@dataclass(frozen=True, slots=True)
class SlotAssignment:
    """The task hub that a slot is to hold. Without a `version`, a task hub that stays in the slot keeps its version."""

    task_hub: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class ReleaseAssignment:
    """The task hub and the address of a release that PutApp adopts or corrects."""

    task_hub: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterCommand(Command):
    """PutApp.

    - `model`: None keeps the present model.
    - `releases`: releases to adopt or correct, by version.
    - `slots`: what each named slot is to hold. None empties a slot.
    - `update_policy`: returns the new policy for the present policy.
    - `provider_config`: the new provider settings. None leaves the present settings, unless `clear_provider_config`.
    - `adopt_task_hubs`: task hubs of this app that an administrator declares to be its own at the provider.
    """

    update_policy: Callable[[Policy], Policy]
    slots: Mapping[str, SlotAssignment | None] = field(default_factory=dict)
    provider_config: ProviderConfig | None = None
    clear_provider_config: bool = False
    adopt_task_hubs: tuple[str, ...] = ()
    model: Model | None = None
    releases: Mapping[str, ReleaseAssignment] = field(default_factory=dict)

    def resulting_provider_config(self, app: App) -> ProviderConfig | None:
        """Where the app's task hubs live after this command."""
        return None if self.clear_provider_config else self.provider_config or app.provider_config


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteAppCommand(Command):
    """DeleteApp."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaiveCommand(Command):
    """PostWaiver: let an instance stay active until `expires_at`. Without an `instance_id`, let that many invisible
    messages of the control queues not block."""

    task_hub: str
    expires_at: Instant
    instance_id: str | None = None
    unexplained_messages: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveWaiverCommand(Command):
    """DeleteWaiver. Without an `instance_id`, it removes the waiver of messages."""

    task_hub: str
    instance_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanupCommand(Command):
    """Cleanup: remove the records of retired task hubs that have drained. `delete_task_hubs`: also delete them at their
    provider. `dry_run`: only report what would be removed."""

    dry_run: bool = False
    delete_task_hubs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveRetiredHubsCommand(Command):
    """The result of Cleanup: forget the retired task hubs whose records are gone. Those in `not_owned` still exist at
    their provider."""

    removed: tuple[str, ...] = ()
    not_owned: tuple[str, ...] = ()
