"""PutApp: telling the server what is where, and correcting it. Nothing is taken from running work."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from state_api.domain.apps import App, PendingSwap, Retired, Slot, TaskHubSource, Transition
from state_api.domain.errors import InvalidRequest
from state_api.domain.instants import Instant
from state_api.domain.names import PRODUCTION, HubKey, hub_key, same_hub
from state_api.domain.ownership import Proof
from state_api.domain.readiness import Policy, Verdict
from state_api.domain.refusals import check_unused, in_progress, not_ready, swap_pending


@dataclass(frozen=True, slots=True)
class Registration:
    """What PutApp asks for: slots with hub and version (None keeps the version of a hub that stays), or None to empty
    one; what to make of the policy; where the hubs live, None to leave that as it is; `adopt` are hubs that the app has
    already and that are declared to be its own where the hubs live."""

    slots: Mapping[str, tuple[str, str | None] | None] = field(default_factory=dict)
    policy: Callable[[Policy], Policy] = lambda policy: policy
    task_hubs: TaskHubSource | None = None
    clear_task_hubs: bool = False
    adopt: tuple[str, ...] = ()

    def source(self, app: App) -> TaskHubSource | None:
        """Where the hubs live once this is registered."""
        return None if self.clear_task_hubs else self.task_hubs or app.task_hubs


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
    app: App,
    registration: Registration,
    verdicts: Mapping[str, Verdict],
    used: frozenset[str],
    now: Instant,
    proof: Proof | None = None,
) -> Transition:
    """Register or correct an app. `verdicts` holds one for each of `replaced_slots`; `used` the keys of the named
    hubs that some app used before. `proof` is that of hubs that are adopted; None where nothing says where they live.
    Raises InvalidRequest, SwapPending, DeploymentInProgress, TaskHubInUse,
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
        task_hubs=registration.source(app),
    )
    adopted = _adopted(changed, registration, frozenset(map(hub_key, new_hubs)))
    details = _adoption([*new_hubs, *adopted], proof, asked=bool(adopted))
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
    return Transition(
        changed,
        "PutApp",
        details,
        tuple(new_hubs),
        adopted,
        proof,
        changed=changed != app or app.revision == 0 or bool(adopted),
    )


def _adoption(hubs: list[str], proof: Proof | None, *, asked: bool) -> dict[str, Any]:
    """What the audit log says of adopted hubs. Raises InvalidRequest if adoption is `asked` for and nothing says where
    the hubs live."""
    if proof is None:
        if asked:
            raise InvalidRequest("adopting task hubs needs to know where they live: set taskHubs too")
        return {}
    return {"adopted": {"taskHubs": hubs, "addresses": list(proof.addresses)}} if hubs else {}


def _adopted(app: App, registration: Registration, new: frozenset[HubKey]) -> tuple[str, ...]:
    """The hubs to adopt, without those that this registration brings into a slot. Raises InvalidRequest for one that
    the app does not have."""
    known = [*(held.task_hub for held in app.slots.values() if held), *(hub.task_hub for hub in app.retired)]
    by_key = {hub_key(hub): hub for hub in known}
    for named in registration.adopt:
        if hub_key(named) not in by_key:
            raise InvalidRequest(
                f"app {app.name} cannot adopt task hub {named}: none of its slots holds it, and it is not retired"
            )
    return tuple(by_key[key] for key in dict.fromkeys(map(hub_key, registration.adopt)) if key not in new)


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
