"""PostStaging, DeleteStaging, PostSwap, PutApp, DeleteApp, waivers: read the app, let the domain decide, write under
compare-and-swap, and decide again when somebody else was faster."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from state_api.backends.protocols import BackendError, BackendRegistry
from state_api.domain.errors import AppNotFound, Conflict, InvalidRequest, TaskHubAlreadyUsed, TaskHubInUse
from state_api.domain.instants import Instant
from state_api.domain.names import AppKey, app_key, hub_key
from state_api.domain.readiness.exemptions import Waiver
from state_api.domain.releases.apps import App, Caller, ProviderConfig, Transition
from state_api.domain.releases.deletion import check_app_deletable, delete_app
from state_api.domain.releases.registration import Registration, find_replaced_slots, register_app
from state_api.domain.releases.staging import (
    StageCommand,
    abandon_deployment,
    is_staged_by,
    is_staged_in_slot,
    needs_verdict,
    remove_retired_hubs,
    stage_task_hub,
)
from state_api.domain.releases.swaps import SwapCommand, SwapOutcome, begin_swap, confirm_swap, revert, swap_slots
from state_api.domain.releases.waivers import add_waiver, remove_waiver
from state_api.domain.task_hubs.ownership import ProofBasis, TaskHubClaim
from state_api.services.ownership import Ownership, is_claimed_by
from state_api.services.ports import Apps, AuditRecord, Clock, Page, TaskHubs
from state_api.services.probe_requests import VerificationMode
from state_api.services.readiness import Readiness
from state_api.services.recording import Recorder

_MAX_ATTEMPTS = 12

Precondition = Callable[[App | None], None]
"""Raises PreconditionFailed if the app is not the one that the caller means to change."""


class Releases:
    def __init__(
        self,
        apps: Apps,
        task_hubs: TaskHubs,
        recorder: Recorder,
        readiness: Readiness,
        backends: BackendRegistry,
        clock: Clock,
    ) -> None:
        self._recorder = recorder
        self._backends = backends
        self._apps = apps
        self._task_hubs = task_hubs
        self._readiness = readiness
        self._ownership = Ownership(task_hubs, backends)
        self._clock = clock

    async def get(self, name: str) -> App:
        """Raises AppNotFound."""
        app = await self._apps.get(name)
        if app is None:
            raise _not_found(name)
        return app

    async def list_page(self, top: int, token: str | None) -> Page[App]:
        return await self._apps.list_page(top, token)

    async def list_page_of(self, names: Sequence[str], top: int, token: str | None) -> Page[App]:
        """Those of these apps that exist, in the order of their names. The token is the name that the next page begins
        with, so it shows nothing of other apps. Raises InvalidRequest for a foreign token."""
        keys = sorted({app_key(name) for name in names})
        if token is not None and token not in keys:
            raise InvalidRequest("the continuationToken is not from this list; send the request again without it")
        start = keys.index(AppKey(token)) if token is not None else 0
        apps = await asyncio.gather(*(self._apps.get(key) for key in keys[start : start + top]))
        following = keys[start + top] if start + top < len(keys) else None
        return Page(tuple(app for app in apps if app is not None), following)

    async def list_history(self, name: str, top: int, token: str | None) -> tuple[App, Page[AuditRecord]]:
        """Also of an app that was deleted. Raises AppNotFound, InvalidRequest for a foreign token."""
        app = await self._apps.get_including_deleted(name)
        if app is None:
            raise _not_found(name)
        return app, await self._apps.list_history(app, top, token)

    async def stage_task_hub(self, name: str, command: StageCommand, caller: Caller, precondition: Precondition) -> App:
        """Raises what `domain.releases.stage_task_hub` raises, Conflict, PreconditionFailed."""

        how = await self._readiness.start_verification(VerificationMode.FRESH)

        async def decide(app: App, now: Instant) -> Transition:
            held = app.slots.get(app.registered_slot_name(command.slot))
            if held is not None and is_staged_by(app, command, caller, now):
                return stage_task_hub(
                    app, command, caller, await self._readiness.assess_prior_hubs(app, held, how), False, now
                )
            if not needs_verdict(app, command, caller, now):
                return stage_task_hub(app, command, caller, None, False, now)
            content = app.slot(command.slot)
            if is_staged_in_slot(app, command):
                return stage_task_hub(
                    app, command, caller, await self._readiness.assess_slot(app, content, how), False, now
                )
            used = await self._was_used_before(app, command.task_hub, caller)
            try:
                # Each can take long, and neither depends on the other.
                async with asyncio.TaskGroup() as group:
                    verdict = group.create_task(self._readiness.assess_slot(app, content, how))
                    existing = group.create_task(
                        self._ownership.find_existing(app, command.task_hub, caller, how.deadline)
                    )
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None  # the first; it has ended the other
            return stage_task_hub(app, command, caller, verdict.result(), used, now, existing.result())

        return await self._update_app(name, caller, precondition, decide, command.reason, create=True)

    async def abandon_deployment(
        self, name: str, task_hub: str, slot: str, caller: Caller, precondition: Precondition
    ) -> App:
        async def decide(app: App, now: Instant) -> Transition:
            return abandon_deployment(app, task_hub, slot, caller, now)

        return await self._update_app(name, caller, precondition, decide)

    async def swap_slots(self, name: str, command: SwapCommand, caller: Caller, precondition: Precondition) -> App:
        async def decide(app: App, now: Instant) -> Transition:
            match command.outcome:
                case SwapOutcome.PENDING:
                    return begin_swap(app, command.slot, command.task_hub, command.rollback, caller, now)
                case SwapOutcome.FAILED:
                    return revert(app, command.slot, command.task_hub, command.rollback)
                case SwapOutcome.DONE:
                    return confirm_swap(app, command.slot, command.task_hub, now, command.rollback)
                case None:
                    return swap_slots(app, command.slot, command.task_hub, now, command.rollback)

        return await self._update_app(name, caller, precondition, decide)

    async def register_app(
        self, name: str, registration: Registration, caller: Caller, precondition: Precondition
    ) -> App:
        how = await self._readiness.start_verification(VerificationMode.FRESH)

        async def decide(app: App, now: Instant) -> Transition:
            if registration.provider_config not in (None, app.provider_config):
                self._check_provider_config(registration.provider_config)
            # The policy as it was: nobody loosens it and takes a slot in one breath.
            verdicts = {
                slot: await self._readiness.assess_slot(app, app.slots[slot], how)
                for slot in find_replaced_slots(app, registration)
            }
            named = [content[0] for content in registration.slots.values() if content is not None]
            used = frozenset([hub_key(hub) for hub in named if await self._was_used_before(app, hub)])
            if not registration.adopt_task_hubs and all(app.slot_holding(hub) for hub in named):
                return register_app(app, registration, verdicts, used, now)
            proof = self._ownership.prove_adoption(registration.resulting_provider_config(app), now)
            # What is proven already need not be adopted, so that a repeated request changes nothing.
            proven = [
                hub
                for hub in registration.adopt_task_hubs
                if proof and await self._ownership.is_proven(app, hub, proof)
            ]
            adopt = tuple(hub for hub in registration.adopt_task_hubs if hub not in proven)
            return register_app(app, replace(registration, adopt_task_hubs=adopt), verdicts, used, now, proof)

        return await self._update_app(name, caller, precondition, decide, create=True)

    async def delete_app(self, name: str, caller: Caller, precondition: Precondition) -> App:
        """Delete an app whose slots are drained. Raises what `domain.deletion.delete_app` raises, AppNotFound, Conflict,
        PreconditionFailed."""
        how = await self._readiness.start_verification(VerificationMode.FRESH)

        async def decide(app: App, now: Instant) -> Transition:
            check_app_deletable(app, now)
            verdicts = {
                slot: await self._readiness.assess_slot(app, held, how)
                for slot, held in app.slots.items()
                if held is not None
            }
            return delete_app(app, verdicts, now)

        return await self._update_app(name, caller, precondition, decide)

    async def add_waiver(self, name: str, waiver: Waiver, caller: Caller, precondition: Precondition) -> App:
        async def decide(app: App, now: Instant) -> Transition:
            return add_waiver(app, replace(waiver, created_at=now), now)

        return await self._update_app(name, caller, precondition, decide, waiver.reason)

    async def remove_waiver(
        self, name: str, task_hub: str, instance_id: str | None, caller: Caller, precondition: Precondition
    ) -> App:
        async def decide(app: App, now: Instant) -> Transition:
            return remove_waiver(app, task_hub, instance_id)

        return await self._update_app(name, caller, precondition, decide)

    async def remove_retired_hubs(
        self, name: str, removed: Sequence[str], not_owned: Sequence[str], caller: Caller
    ) -> App:
        """Take retired hubs whose records are gone off the list; those that are `not_owned` stay at their provider."""

        async def decide(app: App, now: Instant) -> Transition:
            return remove_retired_hubs(app, removed, not_owned)

        return await self._update_app(name, caller, lambda app: None, decide)

    def _check_provider_config(self, provider_config: ProviderConfig) -> None:
        """Raises InvalidRequest where this server cannot read task hubs."""
        try:
            self._backends.backend_for(provider_config)
        except BackendError as error:
            raise InvalidRequest(error.message) from None

    async def _was_used_before(self, app: App, task_hub: str, caller: Caller | None = None) -> bool:
        """Whether the hub was cleaned up or, where a `caller` stages it, was seen by events or a probe before that run
        claimed it; what is in a slot or retired the app itself knows. Raises TaskHubInUse or TaskHubAlreadyUsed if it
        belongs to another app."""
        hub = await self._task_hubs.get(task_hub)
        if hub is None:
            return caller is not None and await self._recorder.has_waiting_events(task_hub)
        if hub.app is not None and app_key(hub.app) != app_key(app.name):
            other = await self._apps.get(hub.app)
            slot = other.slot_holding(task_hub) if other else None
            if slot is not None:
                raise TaskHubInUse(
                    f"slot {slot} of app {hub.app} holds task hub {task_hub}; use a name that no other app uses",
                    taskHub=task_hub,
                    app=hub.app,
                    slot=slot,
                )
            raise TaskHubAlreadyUsed(
                f"task hub {task_hub} belongs to app {hub.app}; use a name that no other app ever used",
                taskHub=task_hub,
                app=hub.app,
            )
        if hub.closed or caller is None or is_claimed_by(hub, app, caller):
            return hub.closed
        return hub.recording or hub.seen or await self._recorder.has_waiting_events(task_hub)

    async def _update_app(
        self,
        name: str,
        caller: Caller,
        precondition: Precondition,
        decide: Callable[[App, Instant], Awaitable[Transition]],
        reason: str | None = None,
        create: bool = False,
    ) -> App:
        """Read, decide, write; again from the start when the app was changed in between."""
        for attempt in range(_MAX_ATTEMPTS):
            found = await self._apps.get_including_deleted(name)
            known = None if found is None or found.deleted else found
            precondition(known)
            if known is None and not create:
                raise _not_found(name)
            # The revisions of a deleted app go on.
            before = known or App(name, revision=found.revision if found else 0)
            now = self._clock.now()
            transition = await decide(before, now)
            if not transition.changed:
                return before
            # An adoption is proven only once it is on record.
            adoption = transition.proof if transition.proof and transition.proof.basis is ProofBasis.ADOPTED else None
            for hub in (*transition.new_hubs, *transition.adopted_hubs):
                proof = None if adoption else transition.proof
                await self._task_hubs.claim(hub, TaskHubClaim(before.name, caller.run_id(hub), proof))
                # Before the hub is in a slot: a verdict must know of them.
                await self._recorder.replay_quarantined(hub)
            after = replace(transition.app, revision=before.revision + 1, updated_at=now, updated_by=caller.name)
            audit = AuditRecord(
                after.revision,
                now,
                transition.operation,
                caller.name,
                caller.run_url,
                caller.key_name,
                reason,
                transition.details,
            )
            if await self._apps.commit(before, after, audit):
                for hub in (*transition.new_hubs, *transition.adopted_hubs) if adoption else ():
                    await self._task_hubs.claim(hub, TaskHubClaim(before.name, caller.run_id(hub), adoption))
                return after
            await asyncio.sleep(random.uniform(0, min(0.5, 0.02 * 2**attempt)))
        winner = await self._apps.get(name)
        raise Conflict(
            f"app {name} was changed by {winner.updated_by if winner else 'somebody else'} at the same time; try again",
            updatedBy=winner.updated_by if winner else None,
        )


def _not_found(name: str) -> AppNotFound:
    return AppNotFound(f"there is no app {name}; the first PostStaging or PutApp makes it", app=name)
