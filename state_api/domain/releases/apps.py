"""The state of an app: the task hub in each slot, or its releases side by side, the open deployment, the pending swap,
and the retired task hubs.

All values are frozen. A transition returns the next `App` and what goes into the audit log.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from state_api.domain.instants import Instant, seconds
from state_api.domain.names import PRODUCTION, STAGING, hub_key, same_hub
from state_api.domain.readiness.evidence import OpenDeployment, OpenSwap
from state_api.domain.readiness.exemptions import Waiver
from state_api.domain.readiness.policy import Policy
from state_api.domain.releases.side_by_side.releases import (
    ForgottenRouter,
    Model,
    PendingRemoval,
    Release,
    RemovedRelease,
    Routing,
)
from state_api.domain.rollouts.rollouts import Rollout
from state_api.domain.task_hubs.ownership import OwnershipProof


@dataclass(frozen=True, slots=True)
class PriorHub:
    """A task hub that another one replaced on record, although the slot in Azure may still run on it.

    `promoted`: the task hub has been in production. `had_traffic`: a rollout has given it a share of the requests."""

    task_hub: str
    promoted: bool
    had_traffic: bool = False

    @property
    def was_started(self) -> bool:
        """Whether an app has run on the task hub. If it does not exist now, it was deleted or is looked for in the
        wrong place."""
        return self.promoted or self.had_traffic


@dataclass(frozen=True, slots=True)
class Slot:
    """The task hub in a slot.

    `promoted`: the task hub has been in production. It may hold work of a released version and is never staged again.
    `had_traffic`: a rollout has given it a share of production's requests. It is never staged again either.
    `prior_hubs`: task hubs that the platform's slot may still carry, newest first. A version that was staged need not
    have been deployed; its promotion proves that it was, and ends the list.

    `may_have_pinned_visitors`: visitors of an earlier rollout may have started work in the task hub, because it was
    staged with force before they had left the slot.
    """

    task_hub: str
    version: str | None
    since: Instant
    promoted: bool = False
    prior_hubs: tuple[PriorHub, ...] = ()
    had_traffic: bool = False
    may_have_pinned_visitors: bool = False

    def possible_hubs(self) -> tuple[PriorHub, ...]:
        """All task hubs that the platform's slot may carry, newest first. They become the `prior_hubs` of the next task
        hub that is staged."""
        return (PriorHub(self.task_hub, self.promoted, self.had_traffic), *self.prior_hubs)

    def hubs_to_drain_before_redeployment(self) -> tuple[PriorHub, ...]:
        """The task hubs whose work may break if the staged one is deployed again. These are the prior ones, and the
        staged one if pinned visitors may have used it."""
        return self.possible_hubs() if self.may_have_pinned_visitors else self.prior_hubs

    def find_promoted_prior_hub(self, task_hub: str) -> PriorHub | None:
        """The prior task hub of this name that has been in production."""
        return next((prior for prior in self.prior_hubs if prior.promoted and same_hub(prior.task_hub, task_hub)), None)


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request. `name` is what the audit log shows, `run_url` identifies the pipeline run, and
    `key_name` is the API key that was sent."""

    name: str
    run_url: str | None = None
    key_name: str | None = None

    def run_id(self, task_hub: str) -> str:
        """The identity of the run. Callers without a run URL count as one run per task hub name."""
        return f"url:{self.run_url}" if self.run_url else f"hub:{hub_key(task_hub)}"


@dataclass(frozen=True, slots=True)
class Deployment:
    """An open deployment: one run has staged a task hub and has not swapped or abandoned it.

    `slot`: None for a release side by side. Its deployment ends when it gets traffic or is removed.
    """

    task_hub: str
    version: str | None
    slot: str | None
    started_at: Instant
    started_by: str
    run_url: str | None
    run_id: str

    def to_open_deployment(self) -> OpenDeployment:
        return OpenDeployment(self.task_hub, self.started_by, self.run_url, self.started_at)


@dataclass(frozen=True, slots=True)
class PendingSwap:
    """A swap that was begun and whose outcome is unknown: the platform may or may not have carried it out.

    - `task_hub`: the task hub that the record already has in production.
    - `swapped_out`: the task hub that the record already has in the slot.
    - `slots_before`: what both slots held before the swap. Restored if the swap fails.
    - `deployment`: the deployment that was open into the slot. Restored if the swap fails.
    """

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
    """A task hub that was in a slot and is in none any more. Cleanup removes it once it has drained."""

    task_hub: str
    version: str | None
    retired_at: Instant


@dataclass(frozen=True, slots=True)
class TaskHubHolder:
    """What has a task hub: a slot or a release, by its name or version."""

    kind: Literal["slot", "release"]
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """The provider of the app's task hubs, and the name of the setting with its connection.

    The connection itself is never stored. A separate tracking store has its own setting and table prefix."""

    provider: str
    connection: str
    tracking_connection: str | None = None
    tracking_prefix: str | None = None


def _empty_slots() -> dict[str, Slot | None]:
    return {PRODUCTION: None, STAGING: None}


@dataclass(frozen=True, slots=True)
class App:
    """All state of an app.

    `revision` counts the writes and is the ETag; 0 means never written. A `deleted` app keeps only its revision, so
    that the audit log continues if the app is created again.

    `rollout` is the last one, live or ended.

    With the model `sideBySide`, all slots are empty. `releases` are those that are not removed, by version.
    `removed_releases` are the last removed ones, newest first.
    """

    name: str
    model: Model = Model.SLOTS
    slots: Mapping[str, Slot | None] = field(default_factory=_empty_slots)
    policy: Policy = Policy()
    provider_config: ProviderConfig | None = None
    deployment: Deployment | None = None
    pending_swap: PendingSwap | None = None
    releases: Mapping[str, Release] = field(default_factory=dict)
    removed_releases: tuple[RemovedRelease, ...] = ()
    routing: Routing = field(default_factory=Routing)
    rollout: Rollout | None = None
    retired: tuple[RetiredHub, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    revision: int = 0
    updated_at: Instant = Instant(0)
    updated_by: str = ""
    deleted: bool = False

    def has_slot(self, name: str) -> bool:
        return self.registered_slot_name(name) in self.slots

    def slot(self, name: str) -> Slot | None:
        """The slot with this name; None if it is empty.

        Raises KeyError if the app has no such slot, so that a misspelt name does not look like an empty slot."""
        return self.slots[self.registered_slot_name(name)]

    def registered_slot_name(self, name: str) -> str:
        """The slot's name as it was registered, because slot names are case-insensitive. A new name stays as it is."""
        return next((registered for registered in self.slots if registered.lower() == name.lower()), name)

    def get_open_deployment(self, now: Instant) -> Deployment | None:
        """The open deployment, unless the policy's timeout has ended it."""
        if self.deployment is None or now >= self.deployment_expires_at(self.deployment):
            return None
        return self.deployment

    def deployment_expires_at(self, deployment: Deployment) -> Instant:
        """When the policy's timeout ends the deployment."""
        return Instant(deployment.started_at + seconds(60 * self.policy.deployment_timeout_minutes))

    def removal_expires_at(self, removal: PendingRemoval) -> Instant:
        """When another run may continue the removal of a release."""
        return Instant(removal.change.at + seconds(60 * self.policy.deployment_timeout_minutes))

    def find_possible_slot(self, task_hub: str) -> str | None:
        """The name of a slot in which the platform may still have this task hub, although another was staged over
        it."""
        slots_before = self.pending_swap.slots_before if self.pending_swap else {}
        for name, slot in (*self.slots.items(), *slots_before.items()):
            if slot and any(same_hub(prior.task_hub, task_hub) for prior in slot.prior_hubs):
                return name
        return None

    def task_hubs_by_slot(self) -> dict[str, str | None]:
        """The task hub in each slot; None for an empty one."""
        return {name: slot.task_hub if slot else None for name, slot in self.slots.items()}

    def slot_holding(self, task_hub: str) -> str | None:
        """The name of the slot that holds this task hub; None if no slot does."""
        return next((name for name, slot in self.slots.items() if slot and same_hub(slot.task_hub, task_hub)), None)

    def release_holding(self, task_hub: str) -> Release | None:
        """The release that has this task hub."""
        return next((release for release in self.releases.values() if same_hub(release.task_hub, task_hub)), None)

    def find_holder(self, task_hub: str) -> TaskHubHolder | None:
        """The slot or the release that has this task hub."""
        if (slot := self.slot_holding(task_hub)) is not None:
            return TaskHubHolder("slot", slot)
        release = self.release_holding(task_hub)
        return None if release is None else TaskHubHolder("release", release.version)

    def list_task_hubs(self) -> tuple[str, ...]:
        """The task hubs in slots, those of releases, and the retired ones."""
        return (
            *(slot.task_hub for slot in self.slots.values() if slot is not None),
            *(release.task_hub for release in self.releases.values()),
            *(retired.task_hub for retired in self.retired),
        )


@dataclass(frozen=True, slots=True)
class Transition:
    """The next state of an app and what goes into the audit log.

    `new_hubs` enter a slot for the first time. `adopted_hubs` belong to the app already, but their claims were not
    proven. Both are claimed with `proof`. Without `changed`, nothing is written.
    `forgotten_router` is written with the app.
    """

    app: App
    operation: str
    details: Mapping[str, Any] = field(default_factory=dict)
    new_hubs: tuple[str, ...] = ()
    adopted_hubs: tuple[str, ...] = ()
    proof: OwnershipProof | None = None
    changed: bool = True
    forgotten_router: ForgottenRouter | None = None
