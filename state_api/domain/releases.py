"""Which task hub is in which slot, and how that may change: stage, abandon, swap, clean up, register.

Every transition is a pure function from one App to the next. It raises from the error tree when it would break
running work or another pipeline, and answers with an unchanged App when there is nothing to do, so that a pipeline
can always be run again.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from state_api.domain.errors import (
    DeploymentInProgress,
    InvalidRequest,
    SlotNotFound,
    StagingNotReady,
    SwapMismatch,
    TaskHubAlreadyUsed,
    TaskHubInUse,
)
from state_api.domain.evidence import OpenDeployment
from state_api.domain.exemptions import Waiver
from state_api.domain.instants import Instant, format_instant, seconds
from state_api.domain.names import PRODUCTION, STAGING, hub_key, same_hub
from state_api.domain.readiness import Policy, Verdict


@dataclass(frozen=True, slots=True)
class Slot:
    """What is in a slot. `promoted` says that the hub has been in production: such a hub may hold work of a released
    version and is never staged again."""

    task_hub: str
    version: str | None
    since: Instant
    promoted: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `by` is the name for the audit log, `run_url` identifies the pipeline run."""

    by: str
    run_url: str | None = None
    key_name: str | None = None

    def run(self, task_hub: str) -> str:
        """What identifies the run. A caller without a run URL is a run of its own per hub name."""
        return f"url:{self.run_url}" if self.run_url else f"hub:{hub_key(task_hub)}"


@dataclass(frozen=True, slots=True)
class Deployment:
    """The time between stage and swap, held by one run."""

    task_hub: str
    version: str | None
    slot: str
    started_at: Instant
    by: str
    run_url: str | None
    run: str

    def as_open(self) -> OpenDeployment:
        return OpenDeployment(self.task_hub, self.by, self.run_url, self.started_at)


@dataclass(frozen=True, slots=True)
class Retired:
    """A hub that no slot holds any more."""

    task_hub: str
    version: str | None
    retired_at: Instant


@dataclass(frozen=True, slots=True)
class TaskHubSource:
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
    """All state of a Function App. `revision` counts its writes and is its ETag; 0 means never written."""

    name: str
    slots: Mapping[str, Slot | None] = field(default_factory=_empty_slots)
    policy: Policy = Policy()
    task_hubs: TaskHubSource | None = None
    deployment: Deployment | None = None
    retired: tuple[Retired, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    revision: int = 0
    updated_at: Instant = Instant(0)
    updated_by: str = ""

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

    def slot_name(self, name: str) -> str:
        """The slot's name as it was registered, or as given if it is new."""
        return next((known for known in self.slots if known.lower() == name.lower()), name)

    def open_deployment(self, now: Instant) -> Deployment | None:
        """The open deployment, unless the policy's timeout has ended it."""
        if self.deployment is None:
            return None
        age = now - self.deployment.started_at
        return self.deployment if age < seconds(60 * self.policy.deployment_timeout_minutes) else None

    def slot_of(self, task_hub: str) -> str | None:
        """The name of the slot that holds this hub."""
        return next((name for name, held in self.slots.items() if held and same_hub(held.task_hub, task_hub)), None)


@dataclass(frozen=True, slots=True)
class Order:
    """What PostStaging asks for. `force` overrides a hub that is not drained, `take_over` another run's open
    deployment; both need a reason, which goes on record."""

    task_hub: str
    version: str | None = None
    slot: str = STAGING
    force: bool = False
    take_over: bool = False
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    """What PutApp asks for: slots with hub and version (None keeps the version of a hub that stays), or None to empty
    one; what to make of the policy; where the
    hubs live, None to leave that as it is."""

    slots: Mapping[str, tuple[str, str | None] | None] = field(default_factory=dict)
    policy: Callable[[Policy], Policy] = lambda policy: policy
    task_hubs: TaskHubSource | None = None
    clear_task_hubs: bool = False


@dataclass(frozen=True, slots=True)
class Transition:
    """The next state and what goes into the audit log. `new_hubs` enter a slot for the first time."""

    app: App
    operation: str
    details: Mapping[str, Any] = field(default_factory=dict)
    new_hubs: tuple[str, ...] = ()
    changed: bool = True


def blocking_deployment(app: App, run: str | None, now: Instant) -> Deployment | None:
    """The open deployment of another run than this one; None as run means that the caller holds none."""
    deployment = app.open_deployment(now)
    return deployment if deployment is not None and deployment.run != run else None


def needs_verdict(app: App, order: Order, caller: Caller, now: Instant) -> bool:
    """Whether `stage` will look at the verdict: not when it changes nothing."""
    return not _is_staged_by(app, order, caller, now)


def stage(app: App, order: Order, caller: Caller, verdict: Verdict | None, used: bool, now: Instant) -> Transition:
    """Put a new task hub into a slot and open a deployment for the caller's run.

    `verdict` is that of the hub now in the slot, leaving deployments aside; None only if `needs_verdict` says so.
    `used` says that the hub was used before, by any app. Raises InvalidRequest, DeploymentInProgress, TaskHubInUse,
    TaskHubAlreadyUsed, StagingNotReady, and SlotNotFound: a misspelt slot must not pass for an empty one.
    """
    if order.slot.lower() == PRODUCTION:
        raise InvalidRequest("a deployment is staged into a slot other than production and then swapped")
    if (order.force or order.take_over) and not (order.reason or "").strip():
        raise InvalidRequest("force and takeOver go on record: give a reason")
    if _is_staged_by(app, order, caller, now):
        return Transition(app, "PostStaging", changed=False)
    taken_from = blocking_deployment(app, caller.run(order.task_hub), now)
    if taken_from is not None and not order.take_over:
        raise _in_progress(app, taken_from, now)
    name = app.slot_name(order.slot)
    held = app.slot(name)
    again = held is not None and same_hub(held.task_hub, order.task_hub) and not held.promoted
    if not again:
        _check_unused(app, order.task_hub, used)
    assert verdict is not None, "a verdict is needed to stage over what is in the slot"
    if not verdict.ready and not order.force:
        raise _not_ready(app, name, verdict)
    deployment = Deployment(
        task_hub=order.task_hub,
        version=order.version,
        slot=name,
        started_at=now,
        by=caller.by,
        run_url=caller.run_url,
        run=caller.run(order.task_hub),
    )
    staged = Slot(order.task_hub, order.version, now)
    if again and held is not None:
        staged = replace(held, version=order.version or held.version)
    retired = app.retired if held is None or again else (*app.retired, Retired(held.task_hub, held.version, now))
    details: dict[str, Any] = {"slot": name, "taskHub": order.task_hub, "version": order.version}
    if held is not None and not again:
        details["retired"] = held.task_hub
    if order.force and not verdict.ready:
        details["forcedOver"] = [reason.message for reason in verdict.reasons]
    if taken_from is not None:
        details["takenOverFrom"] = _describe(taken_from)
    return Transition(
        replace(app, slots={**app.slots, name: staged}, deployment=deployment, retired=retired),
        "PostStaging",
        details,
        new_hubs=() if again else (order.task_hub,),
    )


def abandon(app: App, task_hub: str, slot: str, caller: Caller, now: Instant) -> Transition:
    """Close the open deployment of this hub. The hub stays in its slot. Raises SwapMismatch if another holds it,
    SlotNotFound."""
    held = app.slot(slot)
    deployment = app.open_deployment(now)
    if deployment is None or deployment.slot != app.slot_name(slot):
        if held is not None and same_hub(held.task_hub, task_hub):
            return Transition(app, "DeleteStaging", changed=False)
        raise _mismatch(app, slot, task_hub)
    if not same_hub(deployment.task_hub, task_hub) or deployment.run != caller.run(task_hub):
        raise SwapMismatch(
            f"the open deployment of app {app.name} is not yours to abandon: {_who(deployment)} has held it for task "
            f"hub {deployment.task_hub} since {format_instant(deployment.started_at)}. Send that run's X-Run-Url to "
            "act for it, or stage with takeOver and a reason",
            deployment=_describe(deployment),
        )
    return Transition(
        replace(app, deployment=None), "DeleteStaging", {"taskHub": deployment.task_hub, "slot": deployment.slot}
    )


def swap(app: App, slot: str, task_hub: str, now: Instant) -> Transition:
    """Exchange production and the slot, provided the slot holds the hub that the caller believes it promotes.
    A rollback is a swap back. Raises SwapMismatch, SlotNotFound, InvalidRequest."""
    if slot.lower() == PRODUCTION:
        raise InvalidRequest("production is swapped with another slot, not with itself")
    production = app.slots.get(PRODUCTION)
    if production is not None and same_hub(production.task_hub, task_hub):
        return Transition(app, "PostSwap", changed=False)
    held = app.slot(slot)
    if held is None or not same_hub(held.task_hub, task_hub):
        raise _mismatch(app, slot, task_hub)
    name = app.slot_name(slot)
    slots = {
        **app.slots,
        PRODUCTION: replace(held, since=now, promoted=True),
        name: None if production is None else replace(production, since=now, promoted=True),
    }
    # A deployment into another slot goes on.
    deployment = app.open_deployment(now)
    closed = deployment is None or deployment.slot == name
    return Transition(
        replace(app, slots=slots, deployment=None if closed else deployment),
        "PostSwap",
        {"slot": name, "production": held.task_hub, "swappedOut": production.task_hub if production else None},
    )


def kept_by_retention(app: App, now: Instant) -> frozenset[str]:
    """The names of the retired hubs that the policy keeps: the youngest ones, and those retired lately."""
    retention = app.policy.retention
    youngest_first = sorted(app.retired, key=lambda hub: hub.retired_at, reverse=True)
    # Servers agree on the time to a second: no age, not even a negative one, is young for a policy of no hours.
    period = seconds(3600 * retention.keep_for_hours)
    young = {hub.task_hub for hub in app.retired if period and now - hub.retired_at < period}
    return frozenset(young | {hub.task_hub for hub in youngest_first[: retention.keep_last]})


def remove_retired(app: App, task_hubs: Iterable[str]) -> Transition:
    """Forget retired hubs whose records are removed."""
    gone = {hub_key(hub) for hub in task_hubs}
    left = tuple(hub for hub in app.retired if hub_key(hub.task_hub) not in gone)
    removed = [hub.task_hub for hub in app.retired if hub_key(hub.task_hub) in gone]
    waivers = tuple(waiver for waiver in app.waivers if hub_key(waiver.task_hub) not in gone)
    return Transition(
        replace(app, retired=left, waivers=waivers), "Cleanup", {"removed": removed}, changed=bool(removed)
    )


def replaced_slots(app: App, registration: Registration) -> tuple[str, ...]:
    """The slots whose present hub a registration would take away: each needs the verdict Ready."""
    return tuple(
        app.slot_name(name)
        for name, content in registration.slots.items()
        if (held := app.slots.get(app.slot_name(name))) is not None
        and (content is None or not same_hub(held.task_hub, content[0]))
    )


def register(
    app: App, registration: Registration, verdicts: Mapping[str, Verdict], used: frozenset[str], now: Instant
) -> Transition:
    """Register or correct an app. `verdicts` holds one for each of `replaced_slots`; `used` the keys of the named
    hubs that some app used before. Raises InvalidRequest, DeploymentInProgress, TaskHubInUse, TaskHubAlreadyUsed,
    StagingNotReady."""
    slots = dict(app.slots)
    retired = list(app.retired)
    new_hubs: list[str] = []
    for given, content in registration.slots.items():
        name = app.slot_name(given)
        held = slots.get(name)
        if held is not None and content is not None and same_hub(held.task_hub, content[0]):
            slots[name] = replace(held, version=content[1] or held.version)
            continue
        if held is not None:
            deployment = app.open_deployment(now)
            if deployment is not None and same_hub(deployment.task_hub, held.task_hub):
                raise _in_progress(app, deployment, now)
            if not verdicts[name].ready:
                raise _not_ready(app, name, verdicts[name])
            retired.append(Retired(held.task_hub, held.version, now))
        if content is None:
            slots[name] = None
            continue
        task_hub, version = content
        if hub_key(task_hub) in {hub_key(hub) for hub in new_hubs}:
            raise InvalidRequest(f"task hub {task_hub} cannot be in two slots")
        _check_unused(app, task_hub, hub_key(task_hub) in used)
        new_hubs.append(task_hub)
        slots[name] = Slot(task_hub, version, now, promoted=name == PRODUCTION)
    changed = replace(
        app,
        slots=slots,
        retired=tuple(retired),
        # A longer timeout must not bring a deployment back that is over.
        deployment=app.open_deployment(now),
        policy=registration.policy(app.policy),
        task_hubs=None if registration.clear_task_hubs else registration.task_hubs or app.task_hubs,
    )
    details: dict[str, Any] = {}
    if changed.slots != app.slots:
        details["slots"] = {
            name: {"taskHub": held.task_hub, "version": held.version} if held else None
            for name, held in slots.items()
            if name not in app.slots or held != app.slots[name]
        }
    if len(retired) > len(app.retired):
        details["retired"] = [hub.task_hub for hub in retired[len(app.retired) :]]
    if changed.policy != app.policy:
        details["policy"] = _changed_policy(app.policy, changed.policy)
    if changed.task_hubs != app.task_hubs:
        details["taskHubs"] = _json(asdict(changed.task_hubs)) if changed.task_hubs else None
    return Transition(changed, "PutApp", details, tuple(new_hubs), changed=changed != app or app.revision == 0)


def _changed_policy(before: Policy, after: Policy) -> dict[str, Any]:
    old, new = _json(asdict(before)), _json(asdict(after))
    return {name: value for name, value in new.items() if value != old[name]}


def _json(members: Mapping[str, Any]) -> dict[str, Any]:
    """The members under the names that the contract gives them."""
    return {_camel(name): _json(value) if isinstance(value, Mapping) else value for name, value in members.items()}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


def _is_staged_by(app: App, order: Order, caller: Caller, now: Instant) -> bool:
    """Whether this very run already holds the open deployment of this hub in this slot."""
    deployment = app.open_deployment(now)
    return (
        deployment is not None
        and app.slot_of(deployment.task_hub) == deployment.slot
        and deployment.run == caller.run(order.task_hub)
        and same_hub(deployment.task_hub, order.task_hub)
        and deployment.slot.lower() == order.slot.lower()
    )


def _check_unused(app: App, task_hub: str, used: bool) -> None:
    slot = app.slot_of(task_hub)
    if slot is not None:
        raise TaskHubInUse(
            f"slot {slot} of app {app.name} holds task hub {task_hub}; deploy a new version with a new task hub name",
            app=app.name,
            slot=slot,
            taskHub=task_hub,
        )
    if used or any(same_hub(hub.task_hub, task_hub) for hub in app.retired):
        raise TaskHubAlreadyUsed(
            f"task hub {task_hub} was used before; deploy a new version with a task hub name that never was",
            taskHub=task_hub,
        )


def _not_ready(app: App, slot: str, verdict: Verdict) -> StagingNotReady:
    return StagingNotReady(
        f"slot {slot} of app {app.name} must not be overwritten: "
        + "; ".join(reason.message for reason in verdict.reasons),
        taskHub=verdict.evidence.task_hub,
        slot=slot,
        hasRunning=verdict.has_running,
        activeCount=verdict.active_count,
        reasons=[{"code": reason.code.value, "message": reason.message} for reason in verdict.reasons],
        retryAfterSeconds=verdict.retry_after_seconds,
    )


def _in_progress(app: App, deployment: Deployment, now: Instant) -> DeploymentInProgress:
    until = deployment.started_at + seconds(60 * app.policy.deployment_timeout_minutes)
    return DeploymentInProgress(
        f"{_who(deployment)} has been deploying task hub {deployment.task_hub} into slot {deployment.slot} of app "
        f"{app.name} since {format_instant(deployment.started_at)}. Wait for its swap, abandon it, or stage with "
        f"takeOver and a reason; it ends by itself at {format_instant(Instant(until))}",
        deployment=_describe(deployment),
        retryAfterSeconds=min(60, max(1, (until - now) // seconds(1))),
    )


def _mismatch(app: App, slot: str, task_hub: str) -> SwapMismatch:
    holds = {name: held.task_hub if held else None for name, held in app.slots.items()}
    name = app.slot_name(slot)
    return SwapMismatch(
        f"slot {name} of app {app.name} does not hold task hub {task_hub} but {holds.get(name) or 'nothing'}",
        taskHub=task_hub,
        slots=holds,
    )


def _who(deployment: Deployment) -> str:
    return f"{deployment.by} (run {deployment.run_url})" if deployment.run_url else deployment.by


def _describe(deployment: Deployment) -> dict[str, Any]:
    return {
        "taskHub": deployment.task_hub,
        "version": deployment.version,
        "slot": deployment.slot,
        "startedAt": format_instant(deployment.started_at),
        "by": deployment.by,
        "runUrl": deployment.run_url,
    }
