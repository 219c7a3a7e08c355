"""Whether Azure sends visitors to a slot whose rollout has ended, before the slot is overwritten.

The server cannot read the traffic rules. It does not know of a rule that a person sets by hand, or that a killed job
sets very late, and takes the slot for one without visitors.
"""

from collections.abc import Mapping
from typing import Any

from safe_deploy.azure_slots import DeploymentSlots
from safe_deploy.rollouts.messages import RolloutState, has_ended
from safe_deploy.rollouts.ramp_up_rules import describe_rules
from safe_deploy.rollouts.slot_traffic import SlotTraffic


def describe_remaining_share(app: Mapping[str, Any], slot: str, deployment_slots: DeploymentSlots) -> str | None:
    """Why the slot must not be overwritten; None if Azure sends no visitors to it. Azure is asked only if the last
    rollout of the app was one of this slot. Raises AzureUnavailable."""
    rollout = app.get("rollout")
    if rollout is None or not has_ended(rollout) or rollout["candidate"].lower() != slot.lower():
        return None
    traffic = SlotTraffic(deployment_slots.target, slot).observe()
    if traffic.routes_exactly(0):
        return None
    removal = (
        "Run safe-deploy rollout abort with --resource-group, which removes the rule and lets the visitors leave"
        if rollout["state"] == RolloutState.ABORTED
        else "Remove the rule in the portal (Deployment slots), and wait for an hour, in which its visitors come back"
    )
    return (
        f"the rollout of slot {slot} is {rollout['state']} on the server, but Azure sends "
        f"{describe_rules(traffic.own_rules)}: the slot gets work that the server does not expect. {removal}"
    )
