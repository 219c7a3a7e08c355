"""Operations that change an app: gather evidence, let a transition of the domain decide, and write conditionally.

If another caller has changed the app in between, all three start again. Refusals become errors here, and only here.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from state_api.backends.protocols import BackendError, BackendRegistry
from state_api.domain.errors import InvalidRequest
from state_api.domain.instants import Instant
from state_api.domain.names import AppKey, HubKey, app_key, hub_key
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.releases import refusals
from state_api.domain.releases.apps import App, Transition
from state_api.domain.releases.commands import (
    AbandonCommand,
    Command,
    DeleteAppCommand,
    RegisterCommand,
    RemoveRetiredHubsCommand,
    RemoveWaiverCommand,
    StageCommand,
    SwapCommand,
    WaiveCommand,
)
from state_api.domain.releases.deletion import DeletionEvidence, check_app_deletable, delete_app
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.registration import RegisterEvidence, find_replaced_slots, register_app
from state_api.domain.releases.retirement import remove_retired_hubs
from state_api.domain.releases.side_by_side.adoption import AdoptionEvidence, find_new_versions
from state_api.domain.releases.side_by_side.documents import publish_routing
from state_api.domain.releases.side_by_side.releases import Model
from state_api.domain.releases.staging import (
    StageEvidence,
    abandon_deployment,
    is_staged_by,
    is_staged_in_slot,
    needs_verdict,
    stage_task_hub,
)
from state_api.domain.releases.swaps import swap_slots
from state_api.domain.releases.transition_checks import check_model
from state_api.domain.releases.waivers import add_waiver, remove_waiver
from state_api.domain.task_hubs.ownership import OwnershipProof, ProofBasis, TaskHubClaim
from state_api.services.audit_records import build_audit_record
from state_api.services.ownership import Ownership
from state_api.services.ports import Apps, AuditRecord, Clock, Page, TaskHubRecord, TaskHubs
from state_api.services.readiness import Readiness, Verification
from state_api.services.recording import Recorder
from state_api.services.release_tokens import new_release_tokens

_MAX_ATTEMPTS = 12
"""How often an operation is tried while other callers change the app at the same time."""
_FIRST_BACKOFF_SECONDS = 0.02
_MAX_BACKOFF_SECONDS = 0.5

Precondition = Callable[[App | None], None]
"""Raises PreconditionFailed if the app is not the one that the caller means to change."""

Decide = Callable[[App, Instant], Awaitable[Transition | Refusal]]
"""Decides on an app as it was read at that time."""

DecideVerified = Callable[[App, Verification, Instant], Awaitable[Transition | Refusal]]
"""The same with a verification, for verdicts on the app's task hubs."""


class Releases:
    """Every operation on an app. Besides what the transition refuses, each raises AppNotFound (except PostStaging and
    PutApp, which create the app), PreconditionFailed, Conflict and StorageUnavailable."""

    def __init__(
        self,
        *,
        apps: Apps,
        task_hubs: TaskHubs,
        recorder: Recorder,
        readiness: Readiness,
        backends: BackendRegistry,
        clock: Clock,
    ) -> None:
        self._apps = apps
        self._task_hubs = task_hubs
        self._recorder = recorder
        self._readiness = readiness
        self._backends = backends
        self._ownership = Ownership(task_hubs, backends)
        self._clock = clock

    async def get(self, name: str) -> App:
        """The app with this name. Raises AppNotFound."""
        app = await self._apps.get(name)
        if app is None:
            raise refusals.app_not_found(name).to_error()
        return app

    async def get_with_releases(self, name: str) -> App:
        """The app with this name, which has releases side by side. Raises AppNotFound, WrongModel."""
        app = await self.get(name)
        if refusal := check_model(app, Model.SIDE_BY_SIDE):
            raise refusal.to_error()
        return app

    async def list_page(self, top: int, token: str | None) -> Page[App]:
        """Up to `top` apps by name. `token` is the continuation token of the previous page."""
        return await self._apps.list_page(top, token)

    async def list_page_of(self, names: Sequence[str], top: int, token: str | None) -> Page[App]:
        """The named apps that exist, ordered by name. The token is the name that the next page begins with, so it
        reveals nothing about other apps. Raises InvalidRequest for a token that this list did not return."""
        keys = sorted({app_key(name) for name in names})
        if token is not None and token not in keys:
            raise InvalidRequest(
                "continuationToken was not returned by ListApps for this key: call ListApps again without it"
            )
        start = keys.index(AppKey(token)) if token is not None else 0
        apps = await asyncio.gather(*(self._apps.get(key) for key in keys[start : start + top]))
        next_key = keys[start + top] if start + top < len(keys) else None
        return Page(tuple(app for app in apps if app is not None), next_key)

    async def list_history(self, name: str, top: int, token: str | None) -> tuple[App, Page[AuditRecord]]:
        """The audit log, also of a deleted app. Raises AppNotFound, and InvalidRequest for a token that this list did
        not return."""
        app = await self._apps.get_including_deleted(name)
        if app is None:
            raise refusals.app_not_found(name).to_error()
        return app, await self._apps.list_history(app, top, token)

    async def stage_task_hub(self, name: str, command: StageCommand, precondition: Precondition) -> App:
        """Put a new task hub into a slot of an app, which is created if there is none. Returns the app afterwards."""

        async def decide(app: App, verification: Verification, now: Instant) -> Transition | Refusal:
            if refusal := check_model(app, Model.SLOTS):
                return refusal
            evidence = await self._gather_stage_evidence(app, command, verification, now)
            return stage_task_hub(app, command, evidence, now)

        return await self._update_verified(name, command, precondition, decide, create=True)

    async def abandon_deployment(self, name: str, command: AbandonCommand, precondition: Precondition) -> App:
        """Give up the open deployment, for DeleteStaging."""
        return await self._apply(name, command, precondition, lambda app, now: abandon_deployment(app, command, now))

    async def swap_slots(self, name: str, command: SwapCommand, precondition: Precondition) -> App:
        """Record a swap, or a step of one, for PostSwap."""
        return await self._apply(name, command, precondition, lambda app, now: swap_slots(app, command, now))

    async def register_app(self, name: str, command: RegisterCommand, precondition: Precondition) -> App:
        """Create an app, or change its policy and its slots. Returns the app afterwards."""

        async def decide(app: App, verification: Verification, now: Instant) -> Transition | Refusal:
            self._check_provider_config(app, command)
            evidence = await self._gather_register_evidence(app, command, verification, now)
            command_to_apply = await self._drop_proven_adoptions(app, command, evidence.proof)
            return register_app(app, command_to_apply, evidence, now)

        return await self._update_verified(name, command, precondition, decide, create=True)

    async def delete_app(self, name: str, command: DeleteAppCommand, precondition: Precondition) -> App:
        """Delete an app whose slots and releases have drained."""

        async def decide(app: App, verification: Verification, now: Instant) -> Transition | Refusal:
            """Assess everything that the app holds, if nothing else prevents its deletion, and decide on it."""
            if refusal := check_app_deletable(app, now):
                return refusal
            slots = {
                slot_name: await self._readiness.assess_slot(app, slot_name, verification) for slot_name in app.slots
            }
            releases = {
                version: await self._readiness.assess_task_hub(
                    app, release.task_hub, verification, had_traffic=release.had_traffic
                )
                for version, release in app.releases.items()
            }
            return delete_app(app, DeletionEvidence(slots, releases), now)

        return await self._update_verified(name, command, precondition, decide)

    async def add_waiver(self, name: str, command: WaiveCommand, precondition: Precondition) -> App:
        """Waive an instance or messages, for PostWaiver."""
        return await self._apply(name, command, precondition, lambda app, now: add_waiver(app, command, now))

    async def remove_waiver(self, name: str, command: RemoveWaiverCommand, precondition: Precondition) -> App:
        """Remove a waiver, for DeleteWaiver."""
        return await self._apply(name, command, precondition, lambda app, now: remove_waiver(app, command))

    async def remove_retired_hubs(self, name: str, command: RemoveRetiredHubsCommand) -> App:
        """Take retired task hubs off the app's list once their records are gone."""
        return await self._apply(name, command, lambda app: None, lambda app, now: remove_retired_hubs(app, command))

    # Evidence

    async def _gather_stage_evidence(
        self, app: App, command: StageCommand, verification: Verification, now: Instant
    ) -> StageEvidence:
        """What staging depends on, and no more: reading a task hub can take long. Raises TaskHubInUse and
        TaskHubAlreadyUsed for a task hub of another app."""
        slot = app.slot(command.slot) if app.has_slot(command.slot) else None
        if slot is not None and is_staged_by(app, command, now):
            return StageEvidence(await self._readiness.assess_repeated_stage(app, slot, verification))
        if not needs_verdict(app, command, now) or not app.has_slot(command.slot):
            return StageEvidence()
        if is_staged_in_slot(app, command):
            return StageEvidence(await self._readiness.assess_slot(app, command.slot, verification))
        used_before = await self.was_used_before(app, command.task_hub)
        try:
            # Both can take long, and neither depends on the other.
            async with asyncio.TaskGroup() as group:
                verdict = group.create_task(self._readiness.assess_slot(app, command.slot, verification))
                existing = group.create_task(
                    self._ownership.find_existing(app, command.task_hub, verification.deadline)
                )
        except ExceptionGroup as errors:
            # The first error has cancelled the other task.
            raise errors.exceptions[0] from None
        return StageEvidence(verdict.result(), used_before, existing.result())

    async def was_used_before(self, app: App, task_hub: str) -> bool:
        """Whether the task hub was cleaned up, or events or a probe have shown it.

        A claim alone does not count as use: the app may not have been saved after it. The task hubs that the app has
        and its retired task hubs are not looked for here, because the app's own state names them. Raises TaskHubInUse
        or TaskHubAlreadyUsed for a task hub of another app."""
        record = await self._task_hubs.get(task_hub)
        if record is not None:
            await self._check_not_claimed_by_other_app(app, record, task_hub)
            if record.closed or record.recording or await self._readiness.was_seen_before(task_hub):
                return True
        return await self._recorder.has_waiting_events(task_hub)

    async def _was_cleaned_up(self, app: App, task_hub: str) -> bool:
        """Whether Cleanup has removed the task hub, so that its name cannot be used again. Raises TaskHubInUse or
        TaskHubAlreadyUsed for a task hub of another app."""
        record = await self._task_hubs.get(task_hub)
        if record is None:
            return False
        await self._check_not_claimed_by_other_app(app, record, task_hub)
        return record.closed

    async def _check_not_claimed_by_other_app(self, app: App, record: TaskHubRecord, task_hub: str) -> None:
        """Raises TaskHubInUse if a slot or release of another app has the task hub, TaskHubAlreadyUsed if that app has
        claimed it."""
        if record.app is None or app_key(record.app) == app_key(app.name):
            return
        other_app = await self._apps.get(record.app)
        holder = other_app.find_holder(task_hub) if other_app else None
        if holder is not None:
            raise refusals.task_hub_in_use(record.app, holder, task_hub).to_error()
        raise refusals.task_hub_of_other_app(task_hub, record.app).to_error()

    def _check_provider_config(self, app: App, command: RegisterCommand) -> None:
        """Raises InvalidRequest if this server cannot read task hubs with the new provider configuration."""
        if command.provider_config is None or command.provider_config == app.provider_config:
            return
        try:
            self._backends.backend_for(command.provider_config)
        except BackendError as error:
            raise InvalidRequest(error.message) from None

    async def _gather_register_evidence(
        self, app: App, command: RegisterCommand, verification: Verification, now: Instant
    ) -> RegisterEvidence:
        """Read what PutApp needs to know of the slots that it replaces and of the task hubs that it names."""
        # The verdicts follow the policy that the app has now, not the one in the command. So one request cannot both
        # loosen the policy and take a task hub out of its slot.
        verdicts = {
            slot_name: await self._readiness.assess_slot(app, slot_name, verification)
            for slot_name in find_replaced_slots(app, command)
        }
        in_slots = [assignment.task_hub for assignment in command.slots.values() if assignment is not None]
        in_releases = [assignment.task_hub for assignment in command.releases.values()]
        needs_proof = bool(command.adopt_task_hubs) or not all(map(app.find_holder, (*in_slots, *in_releases)))
        provider_config = command.resulting_provider_config(app)
        proof = self._ownership.prove_adoption(provider_config, now) if needs_proof else None
        adoption = AdoptionEvidence(
            {version: new_release_tokens() for version in find_new_versions(app, command)},
            await self._find_used_versions(app, command),
            await self._find_cleaned_up(app, in_releases),
        )
        return RegisterEvidence(verdicts, await self._find_cleaned_up(app, in_slots), proof, adoption)

    async def _find_used_versions(self, app: App, command: RegisterCommand) -> dict[str, str]:
        """For each new version of the command that an earlier release has had: the task hub of that release. A version
        must not be used again."""
        used = {
            version: await self._apps.find_task_hub_of_version(app.name, version)
            for version in find_new_versions(app, command)
        }
        return {version: task_hub for version, task_hub in used.items() if task_hub is not None}

    async def _find_cleaned_up(self, app: App, task_hubs: Sequence[str]) -> frozenset[HubKey]:
        """The task hubs whose records Cleanup has removed. Raises TaskHubInUse, TaskHubAlreadyUsed."""
        closed = [hub_key(task_hub) for task_hub in task_hubs if await self._was_cleaned_up(app, task_hub)]
        return frozenset(closed)

    async def _drop_proven_adoptions(
        self, app: App, command: RegisterCommand, proof: OwnershipProof | None
    ) -> RegisterCommand:
        """The command without the adoptions that are proven already, so that repeating it changes nothing."""
        if proof is None:
            return command
        unproven = [
            task_hub
            for task_hub in command.adopt_task_hubs
            if not await self._ownership.is_proven(app, task_hub, proof)
        ]
        return replace(command, adopt_task_hubs=tuple(unproven))

    # Writing

    async def _apply(
        self,
        name: str,
        command: Command,
        precondition: Precondition,
        transition: Callable[[App, Instant], Transition | Refusal],
    ) -> App:
        """Update an app by a transition that needs no evidence."""

        async def decide(app: App, now: Instant) -> Transition | Refusal:
            return transition(app, now)

        return await self.update_app(name, command, precondition, decide)

    async def _update_verified(
        self, name: str, command: Command, precondition: Precondition, decide: DecideVerified, *, create: bool = False
    ) -> App:
        """Update an app by a transition that depends on fresh verdicts. All attempts share one verification, which
        begins once the app was read."""
        verification: Verification | None = None

        async def decide_verified(app: App, now: Instant) -> Transition | Refusal:
            nonlocal verification
            verification = verification or self._readiness.start_verification(VerificationMode.FRESH)
            return await decide(app, verification, now)

        return await self.update_app(name, command, precondition, decide_verified, create=create)

    async def update_app(
        self, name: str, command: Command, precondition: Precondition, decide: Decide, *, create: bool = False
    ) -> App:
        """Read the app, decide, and write; again if another caller has changed it in between. With `create`, an app
        that does not exist is created."""
        for attempt in range(_MAX_ATTEMPTS):
            app = await self._read_app(name, precondition, create=create)
            now = self._clock.now()
            decision = await decide(app, now)
            if isinstance(decision, Refusal):
                raise decision.to_error()
            if not decision.changed:
                return app
            written = await self._write_transition(app, decision, command, now)
            if written is not None:
                return written
            await asyncio.sleep(random.uniform(0, min(_MAX_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2**attempt)))
        winner = await self._apps.get(name)
        raise refusals.changed_concurrently(name, winner.updated_by if winner else None).to_error()

    async def _read_app(self, name: str, precondition: Precondition, *, create: bool) -> App:
        """The app, or with `create` a new one if there is none. Raises AppNotFound, PreconditionFailed.

        A new app continues the revisions of a deleted app with the same name, so that no revision occurs twice."""
        stored = await self._apps.get_including_deleted(name)
        app = None if stored is None or stored.deleted else stored
        precondition(app)
        if app is not None:
            return app
        if not create:
            raise refusals.app_not_found(name).to_error()
        return App(name, revision=stored.revision if stored else 0)

    async def _write_transition(
        self, before: App, transition: Transition, command: Command, now: Instant
    ) -> App | None:
        """Claim the task hubs of a transition, then write the app with its audit record. None, and the app is not
        written, if another caller has changed it since `before` was read."""
        task_hubs = (*transition.new_hubs, *transition.adopted_hubs)
        proof = transition.proof
        # An administrator's word proves an adoption only once it is on record.
        is_adoption = proof is not None and proof.basis is ProofBasis.ADOPTED
        for task_hub in task_hubs:
            await self._claim(before, task_hub, None if is_adoption else proof)
            # Record waiting events before the slot holds the task hub, because a verdict must know of them.
            await self._recorder.replay_quarantined(task_hub)
        published = publish_routing(before, transition.app, now)
        after = replace(published, revision=before.revision + 1, updated_at=now, updated_by=command.caller.name)
        audit = build_audit_record(after, transition, command)
        if not await self._apps.commit(before, after, audit, forgotten_router=transition.forgotten_router):
            return None
        if is_adoption:
            for task_hub in task_hubs:
                await self._claim(before, task_hub, proof)
        return after

    async def _claim(self, app: App, task_hub: str, proof: OwnershipProof | None) -> None:
        """Reserve the task hub for the app."""
        await self._task_hubs.claim(task_hub, TaskHubClaim(app.name, proof))
