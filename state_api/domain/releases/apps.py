"""All state of an app: which task hub is in which slot, who deploys, what is retired. Frozen: a transition makes the
next one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from state_api.domain.errors import SlotNotFound
from state_api.domain.instants import Instant, seconds
from state_api.domain.names import PRODUCTION, STAGING, hub_key, same_hub
from state_api.domain.readiness.evidence import OpenDeployment, OpenSwap
from state_api.domain.readiness.exemptions import Waiver
from state_api.domain.readiness.policy import Policy
from state_api.domain.task_hubs.ownership import OwnershipProof


@dataclass(frozen=True, slots=True)
class PriorHub:
    """A hub that the platform's slot may still carry, though another one was staged over it."""

    task_hub: str
    promoted: bool


@dataclass(frozen=True, slots=True)
class Slot:
    """What is in a slot. `promoted` says that the hub has been in production: such a hub may hold work of a released
    version and is never staged again. `prior_hubs` are the hubs that the platform's slot may still carry, newest first:
    a version that was staged need not have been deployed; that it was promoted proves that it was."""

    task_hub: str
    version: str | None
    since: Instant
    promoted: bool = False
    prior_hubs: tuple[PriorHub, ...] = ()

    def possible_hubs(self) -> tuple[PriorHub, ...]:
        """All that the platform's slot may carry, newest first: what is beneath the next hub that is staged."""
        return (PriorHub(self.task_hub, self.promoted), *self.prior_hubs)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request: `name` is what the audit log shows, `run_url` identifies the pipeline run, and `key_name`
    is the key that the request was sent with."""

    name: str
    run_url: str | None = None
    key_name: str | None = None

    def run_id(self, task_hub: str) -> str:
        """What identifies the run. A caller without a run URL is a run of its own per hub name."""
        return f"url:{self.run_url}" if self.run_url else f"hub:{hub_key(task_hub)}"


@dataclass(frozen=True, slots=True)
class Deployment:
    """The time between stage and swap, held by one run."""

    task_hub: str
    version: str | None
    slot: str
    started_at: Instant
    started_by: str
    run_url: str | None
    run_id: str

    def to_open_deployment(self) -> OpenDeployment:
        return OpenDeployment(self.task_hub, self.started_by, self.run_url, self.started_at)


@dataclass(frozen=True, slots=True)
class PendingSwap:
    """A swap that is on record and that the platform may or may not have carried out: the record has `task_hub` in
    production and `swapped_out` in the slot already. `before` is what both held, and `deployment` the one that was
    open into the slot, for the case that the platform's swap fails."""

    task_hub: str
    swapped_out: str | None
    slot: str
    started_at: Instant
    started_by: str
    run_url: str | None
    run_id: str
    rollback: bool
    slots_before: Mapping[str, Slot | None]
    deployment: Deployment | None

    def to_open_swap(self) -> OpenSwap:
        return OpenSwap(self.task_hub, self.started_by, self.run_url, self.started_at)


@dataclass(frozen=True, slots=True)
class RetiredHub:
    """A hub that no slot holds any more."""

    task_hub: str
    version: str | None
    retired_at: Instant


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """Where the app's task hubs live: the durable backend and the name of the setting that holds its connection,
    never the connection itself. A tracking store of its own has a connection and a prefix of its own."""

    provider: str
    connection: str
    tracking_connection: str | None = None
    tracking_prefix: str | None = None


def _empty_slots() -> dict[str, Slot | None]:
    return {PRODUCTION: None, STAGING: None}


@dataclass(frozen=True, slots=True)
class App:
    """All state of a Function App. `revision` counts its writes and is its ETag; 0 means never written. A `deleted` app
    holds nothing but its revision, so that the audit log goes on there when it is created again."""

    name: str
    slots: Mapping[str, Slot | None] = field(default_factory=_empty_slots)
    policy: Policy = Policy()
    provider_config: ProviderConfig | None = None
    deployment: Deployment | None = None
    pending_swap: PendingSwap | None = None
    retired: tuple[RetiredHub, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    revision: int = 0
    updated_at: Instant = Instant(0)
    updated_by: str = ""
    deleted: bool = False

    def slot(self, name: str) -> Slot | None:
        """What is in the slot; None when it is empty. Raises SlotNotFound."""
        for known, content in self.slots.items():
            if known.lower() == name.lower():
                return content
        raise SlotNotFound(
            f"app {self.name} has no slot {name}; it has {', '.join(self.slots)}. Register another one with PutApp",
            app=self.name,
            slot=name,
        )

    def registered_slot_name(self, name: str) -> str:
        """The slot's name as it was registered, or as given if it is new."""
        return next((known for known in self.slots if known.lower() == name.lower()), name)

    def get_open_deployment(self, now: Instant) -> Deployment | None:
        """The open deployment, unless the policy's timeout has ended it."""
        if self.deployment is None:
            return None
        age = now - self.deployment.started_at
        return self.deployment if age < seconds(60 * self.policy.deployment_timeout_minutes) else None

    def find_possible_slot(self, task_hub: str) -> str | None:
        """The name of a slot in which the platform may still have this hub, although another was staged over it."""
        before = self.pending_swap.slots_before if self.pending_swap else {}
        for name, held in (*self.slots.items(), *before.items()):
            if held and any(same_hub(one.task_hub, task_hub) for one in held.prior_hubs):
                return name
        return None

    def task_hubs_by_slot(self) -> dict[str, str | None]:
        """The hub in each slot."""
        return {name: held.task_hub if held else None for name, held in self.slots.items()}

    def slot_holding(self, task_hub: str) -> str | None:
        """The name of the slot that holds this hub."""
        return next((name for name, held in self.slots.items() if held and same_hub(held.task_hub, task_hub)), None)


@dataclass(frozen=True, slots=True)
class Transition:
    """The next state and what goes into the audit log. `new_hubs` enter a slot for the first time; `adopted_hubs` are
    hubs of the app whose claims were not proven. Both are claimed with `proof`."""

    app: App
    operation: str
    details: Mapping[str, Any] = field(default_factory=dict)
    new_hubs: tuple[str, ...] = ()
    adopted_hubs: tuple[str, ...] = ()
    proof: OwnershipProof | None = None
    changed: bool = True
