"""Decides what a rollout into a slot does next, from the server's record and from what Azure shows. Pure: no I/O, no
clock.

The server decides which share of the visitors the slot gets, but cannot change Azure. So a change of the share takes
three actions:

1. The server records the new share as not confirmed.
2. `safe-deploy` sets the share in Azure, and reads it back.
3. `safe-deploy` confirms the share to the server. The time of the rollout's step begins now.

Lowering the share to 0 is never refused. Raising it is refused if the rules or slots in Azure do not match the recorded
rollout: another person or job is changing them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from safe_deploy.errors import CommandError, ConflictError
from safe_deploy.rollouts.messages import RolloutState
from safe_deploy.rollouts.ramp_up_rules import ObservedTraffic, describe_rules
from safe_deploy.slot_task_hubs import ObservedSlots, is_same_task_hub


class SlotRolloutStep(Enum):
    """What the executor does next."""

    SET_SHARE = auto()
    """Set the recorded share in Azure, read it back, and confirm it."""
    CLEAR = auto()
    """Set the share to 0 in Azure, read it back until it stays 0, and confirm it."""
    CONFIRM = auto()
    """Azure has the recorded share already: confirm it."""
    WAIT = auto()
    """Azure and the record agree: let the server decide whether the step is over."""
    SWAP = auto()
    """No new visitor comes to the slot: bring it into production."""
    END = auto()
    """The rollout has ended, and the slot has no share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRollout:
    """What the server has on record of a rollout into a slot. `weight` is the share that Azure shall have."""

    app: str
    slot: str
    task_hub: str
    production_task_hub: str
    state: RolloutState
    step: int
    weights: tuple[int, ...]
    weight: int
    confirmed: bool

    @classmethod
    def from_json(cls, rollout: Mapping[str, Any]) -> "RecordedRollout":
        """Read a rollout as GetRollout returns it. Raises CommandError if it is not the JSON of a rollout."""
        try:
            return cls(
                app=rollout["app"],
                slot=rollout["candidate"],
                task_hub=rollout["candidateTaskHub"],
                production_task_hub=rollout["baselineTaskHub"],
                state=RolloutState(rollout["state"]),
                step=rollout["step"],
                weights=tuple(step["weight"] for step in rollout["steps"]),
                weight=rollout["weight"],
                confirmed=rollout["confirmed"],
            )
        except (KeyError, TypeError, ValueError):
            raise CommandError("the response does not come from a state server. Check --server") from None

    @property
    def has_ended(self) -> bool:
        return self.state in (RolloutState.FINISHED, RolloutState.ABORTED)

    def may_have_had(self, share: float) -> bool:
        """Whether the record has led to this share before the present one: none, or that of an earlier step."""
        return share in (0, *self.weights[: self.step])


def plan_slot_rollout(
    recorded: RecordedRollout, traffic: ObservedTraffic, slots: ObservedSlots | None
) -> SlotRolloutStep:
    """Decide the next action. Pass None for `slots` if it does not depend on the task hubs of the slots.

    Raises ConflictError if the rules or slots in Azure do not match the recorded rollout.
    """
    if recorded.has_ended:
        return SlotRolloutStep.END if traffic.routes_exactly(0) else SlotRolloutStep.CLEAR
    if recorded.weight == 0:
        return _plan_without_share(recorded, traffic)
    if slots is not None:
        _require_slots(recorded, slots)
    _require_no_other_rules(recorded, traffic)
    if traffic.routes_exactly(recorded.weight):
        return SlotRolloutStep.WAIT if recorded.confirmed else SlotRolloutStep.CONFIRM
    _require_known_share(recorded, traffic)
    return SlotRolloutStep.SET_SHARE


def require_clean_start(app: str, traffic: ObservedTraffic) -> None:
    """Before a rollout begins, no rule may send visitors to any slot. Raises ConflictError."""
    if any(rule.share or rule.changes_itself for rule in traffic.rules):
        raise ConflictError(
            f"in Azure app {app} already sends {describe_rules(traffic.rules)}. A rollout compares the slot with all "
            "other visitors, and it must be the only one that changes these rules. Remove them in the portal "
            "(Deployment slots), or with az webapp traffic-routing clear, and run the same command again"
        )


def _plan_without_share(recorded: RecordedRollout, traffic: ObservedTraffic) -> SlotRolloutStep:
    """The next step if no new visitor shall come to the slot any more.

    The share is always written, even if Azure shows none: what it shows may be older than the last change. A share that
    has come back is removed and confirmed again, because visitors stay pinned from the last removal on.
    """
    if not recorded.confirmed or not traffic.routes_exactly(0):
        return SlotRolloutStep.CLEAR
    return SlotRolloutStep.SWAP if recorded.state is RolloutState.FINISHING else SlotRolloutStep.WAIT


def _require_slots(recorded: RecordedRollout, slots: ObservedSlots) -> None:
    """The slot and production must have the task hubs that the rollout compares. Raises ConflictError."""
    if is_same_task_hub(slots.slot, recorded.task_hub) and is_same_task_hub(
        slots.production, recorded.production_task_hub
    ):
        return
    raise ConflictError(
        f"the rollout compares task hub {recorded.task_hub} in slot {recorded.slot} with task hub "
        f"{recorded.production_task_hub} in production, but in Azure {slots}: the slots were swapped or deployed "
        "meanwhile. Run safe-deploy rollout abort, and then safe-deploy doctor to compare server and Azure"
    )


def _require_no_other_rules(recorded: RecordedRollout, traffic: ObservedTraffic) -> None:
    """No rule may send visitors to another slot. Raises ConflictError."""
    others = [rule for rule in traffic.other_rules if rule.share or rule.changes_itself]
    if others:
        raise ConflictError(
            f"in Azure app {recorded.app} also sends {describe_rules(others)}, while slot {recorded.slot} has a "
            "rollout. Remove these rules in the portal (Deployment slots) and run the same command again, or run "
            "safe-deploy rollout abort, which leaves them as they are"
        )


def _require_known_share(recorded: RecordedRollout, traffic: ObservedTraffic) -> None:
    """The share in Azure must be one that this rollout has set before. Raises ConflictError."""
    own_rules = traffic.own_rules
    is_own_work = not own_rules or traffic.routes_exactly(int(traffic.share))
    if is_own_work and not recorded.confirmed and recorded.may_have_had(traffic.share):
        return
    raise ConflictError(
        f"slot {recorded.slot} of app {recorded.app} should have {recorded.weight} % of the visitors, at "
        f"{traffic.slot_host}, but in Azure it has {describe_rules(own_rules)}: another person or job has changed the "
        f"rules. Set {recorded.weight} % in the portal (Deployment slots) and run the same command again, or run "
        "safe-deploy rollout abort"
    )


SHARE_EXPECTED_INSTANCES = 20
"""How many started instances the configured share must lead to before it is compared with the observed one."""


def describe_ignored_share(health: Mapping[str, Any]) -> str | None:
    """A warning if the slot starts much less or much more than its share: less than half, or more than double.

    Some plans, such as Premium, may ignore the share. Visitors differ in how much they start, so small differences mean
    nothing. None without a warning.
    """
    configured, observed = health["shares"]["configured"], health["shares"]["observed"]
    started = health["candidate"]["started"] + health["baseline"]["started"]
    if not configured or observed is None or started * configured / 100 < SHARE_EXPECTED_INSTANCES:
        return None
    if configured / 2 <= observed <= configured * 2:
        return None
    return (
        f"Azure is set to send {configured:g} % of the visitors to slot {health['candidate']['name']}, but "
        f"{observed:.3g} % of {started} orchestrations were started there. The plan of the Function App may ignore the "
        "share, as Premium plans may, or orchestrations are started by something else than new visitors"
    )
