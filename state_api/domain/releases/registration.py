"""PutApp: telling the server what is where, and correcting it. Nothing is taken from running work."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from state_api.domain.errors import InvalidRequest
from state_api.domain.instants import Instant
from state_api.domain.names import PRODUCTION, HubKey, hub_key, same_hub
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import App, PendingSwap, ProviderConfig, RetiredHub, Slot, Transition
from state_api.domain.releases.refusals import (
    check_task_hub_unused,
    deployment_in_progress,
    staging_not_ready,
    swap_pending,
)
from state_api.domain.task_hubs.ownership import OwnershipProof


@dataclass(frozen=True, slots=True)
class Registration:
    """What PutApp asks for: slots with hub and version (None keeps the version of a hub that stays), or None to empty
    one; what to make of the policy; where the hubs live, None to leave that as it is; `adopt_task_hubs` are hubs that the app has
    already and that are declared to be its own where the hubs live."""

    slots: Mapping[str, tuple[str, str | None] | None] = field(default_factory=dict)
    update_policy: Callable[[Policy], Policy] = lambda policy: policy
    provider_config: ProviderConfig | None = None
    clear_provider_config: bool = False
    adopt_task_hubs: tuple[str, ...] = ()

    def resulting_provider_config(self, app: App) -> ProviderConfig | None:
        """Where the hubs live once this is registered."""
        return None if self.clear_provider_config else self.provider_config or app.provider_config


def find_replaced_slots(app: App, registration: Registration) -> tuple[str, ...]:
    """The slots whose present hub a registration would take away: each needs the verdict Ready. While a swap is
    pending none is needed, because nothing is taken away."""
    if app.pending_swap is not None:
        return ()
    return tuple(
        app.registered_slot_name(name)
        for name, content in registration.slots.items()
        if (held := app.slots.get(app.registered_slot_name(name))) is not None
        and (content is None or not same_hub(held.task_hub, content[0]))
    )


def register_app(
    app: App,
    registration: Registration,
    verdicts: Mapping[str, Verdict],
    used_hub_keys: frozenset[str],
    now: Instant,
    proof: OwnershipProof | None = None,
) -> Transition:
    """Register or correct an app. `verdicts` holds one for each of `find_replaced_slots`; `used_hub_keys` the keys of the named
    hubs that some app used before. `proof` is that of hubs that are adopted; None where nothing says where they live.
    Raises InvalidRequest, SwapPending, DeploymentInProgress, TaskHubInUse,
    TaskHubAlreadyUsed, StagingNotReady."""
    if app.pending_swap is not None and not all(
        _is_slot_unchanged(app, *given) for given in registration.slots.items()
    ):
        raise swap_pending(app, app.pending_swap)
    slots = dict(app.slots)
    retired = list(app.retired)
    new_hubs: list[str] = []
    for given, content in registration.slots.items():
        name = app.registered_slot_name(given)
        held = slots.get(name)
        if held is not None and content is not None and same_hub(held.task_hub, content[0]):
            slots[name] = replace(held, version=content[1] or held.version)
            continue
        if held is not None:
            deployment = app.get_open_deployment(now)
            if deployment is not None and same_hub(deployment.task_hub, held.task_hub):
                raise deployment_in_progress(app, deployment, now)
            if not verdicts[name].ready:
                raise staging_not_ready(app, name, verdicts[name])
            retired.append(RetiredHub(held.task_hub, held.version, now))
        if content is None:
            slots[name] = None
            continue
        task_hub, version = content
        if hub_key(task_hub) in {hub_key(hub) for hub in new_hubs}:
            raise InvalidRequest(f"task hub {task_hub} cannot be in two slots")
        check_task_hub_unused(app, task_hub, hub_key(task_hub) in used_hub_keys)
        new_hubs.append(task_hub)
        beneath = held.possible_hubs() if held is not None and name != PRODUCTION else ()
        slots[name] = Slot(task_hub, version, now, name == PRODUCTION, beneath)
    changed = replace(
        app,
        slots=slots,
        retired=tuple(retired),
        # A longer timeout must not bring a deployment back that is over.
        deployment=app.get_open_deployment(now),
        pending_swap=_without_expired_deployment(app, now),
        policy=registration.update_policy(app.policy),
        provider_config=registration.resulting_provider_config(app),
    )
    adopted = _find_hubs_to_adopt(changed, registration, frozenset(map(hub_key, new_hubs)))
    details = _adoption_details([*new_hubs, *adopted], proof, requested=bool(adopted))
    if changed.slots != app.slots:
        details["slots"] = {
            name: {"taskHub": held.task_hub, "version": held.version} if held else None
            for name, held in slots.items()
            if name not in app.slots or held != app.slots[name]
        }
    if len(retired) > len(app.retired):
        details["retired"] = [hub.task_hub for hub in retired[len(app.retired) :]]
    if changed.policy != app.policy:
        details["policy"] = _policy_changes(app.policy, changed.policy)
    if changed.provider_config != app.provider_config:
        details["taskHubs"] = (
            _to_camel_case_members(asdict(changed.provider_config)) if changed.provider_config else None
        )
    return Transition(
        changed,
        "PutApp",
        details,
        tuple(new_hubs),
        adopted,
        proof,
        changed=changed != app or app.revision == 0 or bool(adopted),
    )


def _adoption_details(hubs: list[str], proof: OwnershipProof | None, *, requested: bool) -> dict[str, Any]:
    """What the audit log says of adopted hubs. Raises InvalidRequest if adoption is `requested` for and nothing says where
    the hubs live."""
    if proof is None:
        if requested:
            raise InvalidRequest("adopting task hubs needs to know where they live: set taskHubs too")
        return {}
    return {"adopted": {"taskHubs": hubs, "addresses": list(proof.addresses)}} if hubs else {}


def _find_hubs_to_adopt(app: App, registration: Registration, new_hub_keys: frozenset[HubKey]) -> tuple[str, ...]:
    """The hubs to adopt, without those that this registration brings into a slot. Raises InvalidRequest for one that
    the app does not have."""
    known = [*(held.task_hub for held in app.slots.values() if held), *(hub.task_hub for hub in app.retired)]
    by_key = {hub_key(hub): hub for hub in known}
    for named in registration.adopt_task_hubs:
        if hub_key(named) not in by_key:
            raise InvalidRequest(
                f"app {app.name} cannot adopt task hub {named}: none of its slots holds it, and it is not retired"
            )
    return tuple(
        by_key[key] for key in dict.fromkeys(map(hub_key, registration.adopt_task_hubs)) if key not in new_hub_keys
    )


def _is_slot_unchanged(app: App, name: str, registered: tuple[str, str | None] | None) -> bool:
    """Whether a slot is registered as it is already."""
    name = app.registered_slot_name(name)
    held = app.slots.get(name)
    if held is None or registered is None:
        return name in app.slots and held is None and registered is None
    task_hub, version = registered
    return same_hub(held.task_hub, task_hub) and (version or held.version) == held.version


def _without_expired_deployment(app: App, now: Instant) -> PendingSwap | None:
    """The pending swap, without a deployment that is over."""
    pending = app.pending_swap
    if pending is None:
        return None
    return replace(pending, deployment=replace(app, deployment=pending.deployment).get_open_deployment(now))


def _policy_changes(before: Policy, after: Policy) -> dict[str, Any]:
    old, new = _to_camel_case_members(asdict(before)), _to_camel_case_members(asdict(after))
    return {name: value for name, value in new.items() if value != old[name]}


def _to_camel_case_members(members: Mapping[str, Any]) -> dict[str, Any]:
    """The members under the names that the contract gives them."""
    return {
        _to_camel_case(name): _to_camel_case_members(value) if isinstance(value, Mapping) else value
        for name, value in members.items()
    }


def _to_camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)
