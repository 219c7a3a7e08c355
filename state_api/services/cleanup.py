"""Cleanup: what retired task hubs leave behind, in the server's records and, if it is asked for, at their provider."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from state_api.domain.apps import App, Caller, Retired
from state_api.domain.errors import InvalidRequest
from state_api.domain.ownership import why_not_owned
from state_api.domain.readiness import Assurance, Reason, ReasonGiven, Verdict
from state_api.domain.releases import kept_by_retention
from state_api.services.ports import Apps, Clock, Instances, Probes, TaskHubRecord, TaskHubs
from state_api.services.questions import Verify
from state_api.services.readiness import Readiness, Verification
from state_api.services.releases import Precondition, Releases
from state_api.taskhubs.backend import Artifacts, Backends, Found, Kind, SourceError, place_of

_BUDGET_SECONDS = 150.0
"""How long one call may read task hubs; a scan that needs longer is carried on by the next call."""
_APPS_PAGE = 100


class Outcome(StrEnum):
    """What cleanup did with a retired hub."""

    REMOVED = "Removed"
    WOULD_REMOVE = "WouldRemove"
    NOT_DRAINED = "NotDrained"
    KEPT = "Kept"
    IN_USE = "InUse"
    NOT_OWNED = "NotOwned"
    UNFINISHED = "Unfinished"


@dataclass(frozen=True, slots=True)
class CleanedUp:
    """What became of one hub. `verdict` is that of a hub that is not drained; `artifacts` what was or would be removed
    at its provider, `shared` what stays there because other hubs use it; `message` what stood in the way."""

    hub: Retired
    outcome: Outcome
    reasons: tuple[ReasonGiven, ...] = ()
    artifacts: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    message: str | None = None


@dataclass(frozen=True, slots=True)
class _Order:
    app: App
    dry_run: bool
    artifacts: Artifacts | None
    how: Verification


class Cleanup:
    def __init__(
        self,
        releases: Releases,
        apps: Apps,
        task_hubs: TaskHubs,
        instances: Instances,
        probes: Probes,
        readiness: Readiness,
        backends: Backends,
        clock: Clock,
    ) -> None:
        self._releases = releases
        self._apps = apps
        self._task_hubs = task_hubs
        self._instances = instances
        self._probes = probes
        self._readiness = readiness
        self._backends = backends
        self._clock = clock

    async def run(
        self, name: str, dry_run: bool, delete_task_hubs: bool, caller: Caller, precondition: Precondition
    ) -> tuple[App, list[CleanedUp]]:
        """Remove every retired hub that is drained: its records, and with `delete_task_hubs` its artifacts at the
        provider. A call that was cut short is finished by the next: a hub leaves the list of retired ones only after
        all of it is gone. Raises AppNotFound, InvalidRequest, PreconditionFailed."""
        app = await self._releases.get(name)
        precondition(app)
        artifacts = self._artifacts(app) if delete_task_hubs else None
        how = await self._readiness.verification(Verify.FRESH, _BUDGET_SECONDS)
        order = _Order(app, dry_run, artifacts, how)
        kept = kept_by_retention(app, self._clock.now())
        outcomes = [
            CleanedUp(hub, Outcome.KEPT) if hub.task_hub in kept else await self._clean_up(order, hub)
            for hub in app.retired
        ]
        removed = [done.hub.task_hub for done in outcomes if done.outcome is Outcome.REMOVED]
        not_owned = [done.hub.task_hub for done in outcomes if done.outcome is Outcome.NOT_OWNED and not dry_run]
        if removed or not_owned:
            app = await self._releases.forget(name, removed, not_owned, caller)
        return app, outcomes

    def _artifacts(self, app: App) -> Artifacts:
        """Raises InvalidRequest where artifacts cannot be deleted."""
        if app.task_hubs is None:
            raise InvalidRequest("deleting task hubs needs to know where they live: set taskHubs with PutApp")
        try:
            artifacts = self._backends.of(app.task_hubs).artifacts
        except SourceError as error:
            raise InvalidRequest(f"task hubs cannot be deleted: {error.message}") from None
        if artifacts is None:
            raise InvalidRequest(
                f"task hubs of the provider {app.task_hubs.provider} cannot be deleted, only those of azureStorage"
            )
        return artifacts

    async def _clean_up(self, order: _Order, retired: Retired) -> CleanedUp:
        slot = order.app.may_carry(retired.task_hub)
        if slot is not None:
            message = f"slot {slot} may still carry it, until what was staged after it has been in production"
            return CleanedUp(retired, Outcome.IN_USE, message=message)
        hub = await self._task_hubs.get(retired.task_hub)
        artifacts = order.artifacts
        if hub is not None and hub.deleting is not None:
            # It was asked for by the call that began it.
            try:
                artifacts = artifacts or self._artifacts(order.app)
            except InvalidRequest as error:
                return CleanedUp(retired, Outcome.UNFINISHED, message=f"its deletion was begun. {error.message}")
            if hub.deleting != str(order.app.task_hubs):
                message = "its deletion was begun with other taskHubs: set those again until it is done"
                return CleanedUp(retired, Outcome.UNFINISHED, message=message)
        not_owned = _why_not_owned(retired.task_hub, hub, artifacts, (Kind.TABLE,)) if artifacts is not None else None
        if not_owned is not None:
            if hub is not None and hub.proof is not None and hub.deleting is not None:
                message = f"its deletion was begun, and the setting leads to another place now. {not_owned}"
                return CleanedUp(retired, Outcome.UNFINISHED, message=message)
            artifacts = None
        if hub is not None and hub.closed and artifacts is None:
            return await self._forget(order, retired, hub, not_owned)
        try:
            # Before the verdict: this takes a while, and the verdict does not see what starts after it.
            found = await self._find(order, retired, artifacts)
            if isinstance(found, CleanedUp):
                return found
            verdict = await self._verdict(order, retired, hub, artifacts)
        except SourceError as error:
            return CleanedUp(retired, Outcome.UNFINISHED, message=error.message)
        missing = any(reason.code is Reason.TASK_HUB_MISSING for reason in verdict.reasons)
        # That it is not there says nothing of what the records show active, if it was never seen there: taskHubs may
        # have been set to another account since.
        believed = not verdict.has_running or (hub is not None and self._is_matched(hub, order.app))
        if missing and believed and (artifacts is None or (hub is not None and (hub.seen or hub.deleting is not None))):
            # Nothing runs in a hub that no slot holds and that is not there any more, and nothing is left to delete.
            return await self._forget(order, retired, hub, not_owned)
        if reasons := _against(verdict, deleting=artifacts is not None):
            return CleanedUp(retired, Outcome.NOT_DRAINED, reasons)
        if artifacts is None or found is None:
            return await self._forget(order, retired, hub, not_owned)
        return await self._delete(order, retired, hub, artifacts, found, verdict.ignored_count)

    async def _find(self, order: _Order, retired: Retired, artifacts: Artifacts | None) -> Found | CleanedUp | None:
        """What exists of a hub at its provider; what became of the hub if nothing may be deleted. None if nothing is to
        be. Raises SourceError."""
        if artifacts is None:
            return None
        if (holder := await self._holder(retired.task_hub)) is not None:
            return CleanedUp(retired, Outcome.IN_USE, message=f"{holder} holds it")
        try:
            async with asyncio.timeout_at(order.how.deadline):
                return await artifacts.find(retired.task_hub)
        except TimeoutError:
            return CleanedUp(retired, Outcome.UNFINISHED, message="it takes longer; call again")

    async def _verdict(
        self, order: _Order, retired: Retired, hub: TaskHubRecord | None, artifacts: Artifacts | None
    ) -> Verdict:
        """The verdict on a retired hub; one that is to be deleted is read from now on. Raises SourceError."""
        app = await _judged_app(order.app, hub, artifacts)
        if artifacts is None:
            return await self._readiness.verdict_on(app, retired.task_hub, replace(order.how, verify=Verify.CACHED))
        now = await self._readiness.verification(Verify.FRESH)
        how = replace(order.how, verify=Verify.FRESH, asked_at=now.asked_at)
        return await self._readiness.verdict_on(app, retired.task_hub, how)

    def _is_matched(self, hub: TaskHubRecord, app: App) -> bool:
        """Whether the place to which `taskHubs` leads now has shown instances that events told of."""
        if app.task_hubs is None:
            return False
        try:
            return hub.matched == place_of(app.task_hubs, self._backends.of(app.task_hubs))
        except SourceError:
            return False

    async def _forget(
        self, order: _Order, retired: Retired, hub: TaskHubRecord | None, not_owned: str | None = None
    ) -> CleanedUp:
        """Remove the server's own records. `not_owned` is why the hub itself stays although it was to be deleted."""
        if not order.dry_run:
            await self._remove_records(retired, hub)
        if not_owned is not None:
            return CleanedUp(retired, Outcome.NOT_OWNED, message=not_owned)
        return CleanedUp(retired, Outcome.WOULD_REMOVE if order.dry_run else Outcome.REMOVED)

    async def _delete(
        self,
        order: _Order,
        retired: Retired,
        hub: TaskHubRecord | None,
        artifacts: Artifacts,
        found: Found,
        ignored: int,
    ) -> CleanedUp:
        """Delete what the hub left at its provider, the evidence of what runs there last, and then the records."""
        message = f"{ignored} active instances of functions that the policy ignores go with it" if ignored else None
        done: list[str] = []
        try:
            async with asyncio.timeout_at(order.how.deadline):
                shared = tuple(map(str, found.shared))
                kinds = {artifact.kind for artifact in found.own}
                if (not_owned := _why_not_owned(retired.task_hub, hub, artifacts, kinds)) is not None:
                    return await self._forget(order, retired, hub, not_owned)
                if order.dry_run:
                    own = tuple(map(str, found.own))
                    return CleanedUp(retired, Outcome.WOULD_REMOVE, (), own, shared, message)
                # On record before the first is gone, so that the next call goes on.
                await self._task_hubs.close(retired.task_hub, deleting=str(order.app.task_hubs))
                queues_gone = False
                for artifact in found.own:
                    if queues_gone and artifact.kind is Kind.TABLE:
                        # Nothing starts without control queues. What has started since the verdict has a row.
                        verdict = await self._verdict(
                            order, retired, await self._task_hubs.get(retired.task_hub), artifacts
                        )
                        if reasons := _against(verdict, deleting=True):
                            return CleanedUp(retired, Outcome.NOT_DRAINED, reasons, tuple(done))
                        queues_gone = False
                    await artifacts.remove(artifact)
                    done.append(str(artifact))
                    queues_gone = queues_gone or artifact.kind is Kind.QUEUE
        except SourceError as error:
            return CleanedUp(retired, Outcome.UNFINISHED, artifacts=tuple(done), message=error.message)
        except TimeoutError:
            return CleanedUp(retired, Outcome.UNFINISHED, artifacts=tuple(done), message="it takes longer; call again")
        await self._remove_records(retired, hub)
        return CleanedUp(retired, Outcome.REMOVED, (), tuple(done), shared, message)

    async def _remove_records(self, retired: Retired, hub: TaskHubRecord | None) -> None:
        if hub is not None:
            # Closed first: an event that comes from now on goes to quarantine and cannot make the table anew.
            await self._task_hubs.close(retired.task_hub)
            await self._instances.drop(hub)
        await self._probes.drop(retired.task_hub)

    async def _holder(self, task_hub: str) -> str | None:
        """The slot of any app that holds this hub."""
        token: str | None = None
        while True:
            page = await self._apps.page(_APPS_PAGE, token)
            for app in page.items:
                if (slot := app.slot_of(task_hub)) is not None:
                    return f"slot {slot} of app {app.name}"
            token = page.continuation_token
            if token is None:
                return None


def _why_not_owned(task_hub: str, hub: TaskHubRecord | None, artifacts: Artifacts, kinds: Iterable[Kind]) -> str | None:
    """Why artifacts of these kinds may not be deleted, by the proof of the hub's claim."""
    addresses = [address for kind in kinds if (address := artifacts.address(kind)) is not None]
    return why_not_owned(task_hub, hub.proof if hub is not None else None, addresses)


async def _judged_app(app: App, hub: TaskHubRecord | None, artifacts: Artifacts | None) -> App:
    """The app under the policy by which a task hub is judged. Messages are not looked at once its control queues are
    being deleted: the task hub was drained when the first of them was. Raises SourceError."""
    if hub is None or hub.deleting is None or artifacts is None or not await artifacts.queues_are_going(hub.name):
        return app
    return replace(app, policy=replace(app.policy, ignore_messages=True))


def _against(verdict: Verdict, *, deleting: bool) -> tuple[ReasonGiven, ...]:
    """What stands against removing a hub."""
    if deleting and verdict.ready and verdict.assurance is not Assurance.VERIFIED:
        return (ReasonGiven(Reason.VERIFICATION_REQUIRED, "a task hub is only deleted once it is verified"),)
    return verdict.reasons
