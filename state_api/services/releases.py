"""PostStaging, DeleteStaging, PostSwap, PutApp, DeleteApp, waivers: read the app, let the domain decide, write under
compare-and-swap, and decide again when somebody else was faster."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from state_api.domain.apps import App, Caller, TaskHubSource, Transition
from state_api.domain.deletion import check_deletion, delete
from state_api.domain.errors import AppNotFound, Conflict, InvalidRequest, TaskHubAlreadyUsed, TaskHubInUse
from state_api.domain.exemptions import Waiver
from state_api.domain.instants import Instant
from state_api.domain.names import AppKey, app_key, hub_key
from state_api.domain.ownership import Basis, Claim
from state_api.domain.registration import Registration, register, replaced_slots
from state_api.domain.releases import Order, abandon, is_in_slot, is_staged_by, needs_verdict, remove_retired, stage
from state_api.domain.swaps import SwapOrder, SwapOutcome, begin, confirm, swap, take_back
from state_api.domain.waivers import waive, withdraw
from state_api.services.ownership import Ownership, is_claimed_by
from state_api.services.ports import Apps, AuditRecord, Clock, Page, TaskHubs
from state_api.services.questions import Verify
from state_api.services.readiness import Readiness
from state_api.services.recording import Recorder
from state_api.taskhubs.backend import Backends, SourceError

_ATTEMPTS = 12

Precondition = Callable[[App | None], None]
"""Raises PreconditionFailed if the app is not the one that the caller means to change."""


class Releases:
    def __init__(
        self,
        apps: Apps,
        task_hubs: TaskHubs,
        recorder: Recorder,
        readiness: Readiness,
        backends: Backends,
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

    async def page(self, top: int, token: str | None) -> Page[App]:
        return await self._apps.page(top, token)

    async def page_of(self, names: Sequence[str], top: int, token: str | None) -> Page[App]:
        """Those of these apps that exist, in the order of their names. The token is the name that the next page begins
        with, so it shows nothing of other apps. Raises InvalidRequest for a foreign token."""
        keys = sorted({app_key(name) for name in names})
        if token is not None and token not in keys:
            raise InvalidRequest("the continuationToken is not one that this list gave; start again without it")
        start = keys.index(AppKey(token)) if token is not None else 0
        apps = await asyncio.gather(*(self._apps.get(key) for key in keys[start : start + top]))
        following = keys[start + top] if start + top < len(keys) else None
        return Page(tuple(app for app in apps if app is not None), following)

    async def history(self, name: str, top: int, token: str | None) -> tuple[App, Page[AuditRecord]]:
        """Also of an app that was deleted. Raises AppNotFound, InvalidRequest for a foreign token."""
        app = await self._apps.read(name)
        if app is None:
            raise _not_found(name)
        return app, await self._apps.history(app, top, token)

    async def stage(self, name: str, order: Order, caller: Caller, precondition: Precondition) -> App:
        """Raises what `domain.releases.stage` raises, Conflict, PreconditionFailed."""

        how = await self._readiness.verification(Verify.FRESH)

        async def decide(app: App, now: Instant) -> Transition:
            held = app.slots.get(app.slot_name(order.slot))
            if held is not None and is_staged_by(app, order, caller, now):
                return stage(app, order, caller, await self._readiness.verdict_beneath(app, held, how), False, now)
            if not needs_verdict(app, order, caller, now):
                return stage(app, order, caller, None, False, now)
            content = app.slot(order.slot)
            if is_in_slot(app, order):
                return stage(app, order, caller, await self._readiness.verdict(app, content, how), False, now)
            used = await self._used(app, order.task_hub, caller)
            try:
                # Each can take long, and neither depends on the other.
                async with asyncio.TaskGroup() as group:
                    verdict = group.create_task(self._readiness.verdict(app, content, how))
                    existing = group.create_task(self._ownership.existing(app, order.task_hub, caller, how.deadline))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None  # the first; it has ended the other
            return stage(app, order, caller, verdict.result(), used, now, existing.result())

        return await self._change(name, caller, precondition, decide, order.reason, create=True)

    async def abandon(self, name: str, task_hub: str, slot: str, caller: Caller, precondition: Precondition) -> App:
        async def decide(app: App, now: Instant) -> Transition:
            return abandon(app, task_hub, slot, caller, now)

        return await self._change(name, caller, precondition, decide)

    async def swap(self, name: str, order: SwapOrder, caller: Caller, precondition: Precondition) -> App:
        async def decide(app: App, now: Instant) -> Transition:
            match order.outcome:
                case SwapOutcome.PENDING:
                    return begin(app, order.slot, order.task_hub, order.rollback, caller, now)
                case SwapOutcome.FAILED:
                    return take_back(app, order.slot, order.task_hub, order.rollback)
                case SwapOutcome.DONE:
                    return confirm(app, order.slot, order.task_hub, now, order.rollback)
                case None:
                    return swap(app, order.slot, order.task_hub, now, order.rollback)

        return await self._change(name, caller, precondition, decide)

    async def register(self, name: str, registration: Registration, caller: Caller, precondition: Precondition) -> App:
        how = await self._readiness.verification(Verify.FRESH)

        async def decide(app: App, now: Instant) -> Transition:
            if registration.task_hubs not in (None, app.task_hubs):
                self._check_source(registration.task_hubs)
            # The policy as it was: nobody loosens it and takes a slot in one breath.
            verdicts = {
                slot: await self._readiness.verdict(app, app.slots[slot], how)
                for slot in replaced_slots(app, registration)
            }
            named = [content[0] for content in registration.slots.values() if content is not None]
            used = frozenset([hub_key(hub) for hub in named if await self._used(app, hub)])
            if not registration.adopt and all(app.slot_of(hub) for hub in named):
                return register(app, registration, verdicts, used, now)
            proof = self._ownership.adoption(registration.source(app), now)
            # What is proven already need not be adopted, so that a repeated request changes nothing.
            proven = [hub for hub in registration.adopt if proof and await self._ownership.is_proven(app, hub, proof)]
            adopt = tuple(hub for hub in registration.adopt if hub not in proven)
            return register(app, replace(registration, adopt=adopt), verdicts, used, now, proof)

        return await self._change(name, caller, precondition, decide, create=True)

    async def delete(self, name: str, caller: Caller, precondition: Precondition) -> App:
        """Delete an app whose slots are drained. Raises what `domain.deletion.delete` raises, AppNotFound, Conflict,
        PreconditionFailed."""
        how = await self._readiness.verification(Verify.FRESH)

        async def decide(app: App, now: Instant) -> Transition:
            check_deletion(app, now)
            verdicts = {
                slot: await self._readiness.verdict(app, held, how)
                for slot, held in app.slots.items()
                if held is not None
            }
            return delete(app, verdicts, now)

        return await self._change(name, caller, precondition, decide)

    async def waive(self, name: str, waiver: Waiver, caller: Caller, precondition: Precondition) -> App:
        async def decide(app: App, now: Instant) -> Transition:
            return waive(app, replace(waiver, created_at=now), now)

        return await self._change(name, caller, precondition, decide, waiver.reason)

    async def withdraw(
        self, name: str, task_hub: str, instance_id: str | None, caller: Caller, precondition: Precondition
    ) -> App:
        async def decide(app: App, now: Instant) -> Transition:
            return withdraw(app, task_hub, instance_id)

        return await self._change(name, caller, precondition, decide)

    async def forget(self, name: str, removed: Sequence[str], not_owned: Sequence[str], caller: Caller) -> App:
        """Take retired hubs whose records are gone off the list; those that are `not_owned` stay at their provider."""

        async def decide(app: App, now: Instant) -> Transition:
            return remove_retired(app, removed, not_owned)

        return await self._change(name, caller, lambda app: None, decide)

    def _check_source(self, source: TaskHubSource) -> None:
        """Raises InvalidRequest where this server cannot read task hubs."""
        try:
            self._backends.of(source)
        except SourceError as error:
            raise InvalidRequest(error.message) from None

    async def _used(self, app: App, task_hub: str, caller: Caller | None = None) -> bool:
        """Whether the hub was cleaned up or, where a `caller` stages it, was seen by events or a probe before that run
        claimed it; what is in a slot or retired the app itself knows. Raises TaskHubInUse or TaskHubAlreadyUsed if it
        belongs to another app."""
        hub = await self._task_hubs.get(task_hub)
        if hub is None:
            return caller is not None and await self._recorder.has_waiting(task_hub)
        if hub.app is not None and app_key(hub.app) != app_key(app.name):
            other = await self._apps.get(hub.app)
            slot = other.slot_of(task_hub) if other else None
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
        return hub.recording or hub.seen or await self._recorder.has_waiting(task_hub)

    async def _change(
        self,
        name: str,
        caller: Caller,
        precondition: Precondition,
        decide: Callable[[App, Instant], Awaitable[Transition]],
        reason: str | None = None,
        create: bool = False,
    ) -> App:
        """Read, decide, write; again from the start when the app was changed in between."""
        for attempt in range(_ATTEMPTS):
            found = await self._apps.read(name)
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
            adoption = transition.proof if transition.proof and transition.proof.basis is Basis.ADOPTED else None
            for hub in (*transition.new_hubs, *transition.adopted):
                proof = None if adoption else transition.proof
                await self._task_hubs.claim(hub, Claim(before.name, caller.run(hub), proof))
                # Before the hub is in a slot: a verdict must know of them.
                await self._recorder.replay(hub)
            after = replace(transition.app, revision=before.revision + 1, updated_at=now, updated_by=caller.by)
            audit = AuditRecord(
                after.revision,
                now,
                transition.operation,
                caller.by,
                caller.run_url,
                caller.key_name,
                reason,
                transition.details,
            )
            if await self._apps.commit(before, after, audit):
                for hub in (*transition.new_hubs, *transition.adopted) if adoption else ():
                    await self._task_hubs.claim(hub, Claim(before.name, caller.run(hub), adoption))
                return after
            await asyncio.sleep(random.uniform(0, min(0.5, 0.02 * 2**attempt)))
        winner = await self._apps.get(name)
        raise Conflict(
            f"app {name} was changed by {winner.updated_by if winner else 'somebody else'} at the same time; try again",
            updatedBy=winner.updated_by if winner else None,
        )


def _not_found(name: str) -> AppNotFound:
    return AppNotFound(f"there is no app {name}; the first PostStaging or PutApp makes it", app=name)
