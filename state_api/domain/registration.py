"""PutApp: telling the server what is where, and correcting it. Nothing is taken from running work."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from state_api.domain.apps import App, PendingSwap, Retired, Slot, TaskHubSource, Transition
from state_api.domain.errors import InvalidRequest
from state_api.domain.instants import Instant
from state_api.domain.names import PRODUCTION, hub_key, same_hub
from state_api.domain.readiness import Policy, Verdict
from state_api.domain.refusals import check_unused, in_progress, not_ready, swap_pending


@dataclass(frozen=True, slots=True)
class Registration:
    """What PutApp asks for: slots with hub and version (None keeps the version of a hub that stays), or None to empty
    one; what to make of the policy; where the hubs live, None to leave that as it is."""

    slots: Mapping[str, tuple[str, str | None] | None] = field(default_factory=dict)
    policy: Callable[[Policy], Policy] = lambda policy: policy
    task_hubs: TaskHubSource | None = None
    clear_task_hubs: bool = False


def replaced_slots(app: App, registration: Registration) -> tuple[str, ...]:
    """The slots whose present hub a registration would take away: each needs the verdict Ready. While a swap is
    pending none is needed, because nothing is taken away."""
    if app.pending_swap is not None:
        return ()
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
    hubs that some app used before. Raises InvalidRequest, SwapPending, DeploymentInProgress, TaskHubInUse,
    TaskHubAlreadyUsed, StagingNotReady."""
    if app.pending_swap is not None and not all(_stays(app, *given) for given in registration.slots.items()):
        raise swap_pending(app, app.pending_swap)
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
                raise in_progress(app, deployment, now)
            if not verdicts[name].ready:
                raise not_ready(app, name, verdicts[name])
            retired.append(Retired(held.task_hub, held.version, now))
        if content is None:
            slots[name] = None
            continue
        task_hub, version = content
        if hub_key(task_hub) in {hub_key(hub) for hub in new_hubs}:
            raise InvalidRequest(f"task hub {task_hub} cannot be in two slots")
        check_unused(app, task_hub, hub_key(task_hub) in used)
        new_hubs.append(task_hub)
        beneath = held.carried() if held is not None and name != PRODUCTION else ()
        slots[name] = Slot(task_hub, version, now, name == PRODUCTION, beneath)
    changed = replace(
        app,
        slots=slots,
        retired=tuple(retired),
        # A longer timeout must not bring a deployment back that is over.
        deployment=app.open_deployment(now),
        pending_swap=_still_open(app, now),
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


def _stays(app: App, name: str, content: tuple[str, str | None] | None) -> bool:
    """Whether a slot is registered as it is already."""
    name = app.slot_name(name)
    held = app.slots.get(name)
    if held is None or content is None:
        return name in app.slots and held is None and content is None
    task_hub, version = content
    return same_hub(held.task_hub, task_hub) and (version or held.version) == held.version


def _still_open(app: App, now: Instant) -> PendingSwap | None:
    """The pending swap, without a deployment that is over."""
    pending = app.pending_swap
    if pending is None:
        return None
    return replace(pending, deployment=replace(app, deployment=pending.deployment).open_deployment(now))


def _changed_policy(before: Policy, after: Policy) -> dict[str, Any]:
    old, new = _json(asdict(before)), _json(asdict(after))
    return {name: value for name, value in new.items() if value != old[name]}


def _json(members: Mapping[str, Any]) -> dict[str, Any]:
    """The members under the names that the contract gives them."""
    return {_camel(name): _json(value) if isinstance(value, Mapping) else value for name, value in members.items()}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)
