"""What a rollout into a slot does next, decided from the server's record and from what Azure shows."""

from dataclasses import replace
from typing import Any

import pytest

from safe_deploy.errors import CommandError, ConflictError
from safe_deploy.rollouts.messages import RolloutState
from safe_deploy.rollouts.ramp_up_rules import ObservedTraffic, RampUpRule
from safe_deploy.rollouts.slot_planner import (
    RecordedRollout,
    SlotRolloutStep,
    describe_ignored_share,
    plan_slot_rollout,
    require_clean_start,
)
from safe_deploy.slot_task_hubs import ObservedSlots

HOST = "shop-staging-b2c4e6.westeurope-01.azurewebsites.net"
UNSWAPPED = ObservedSlots("v41", "v42")
SWAPPED = ObservedSlots("v42", "v41")

FIRST_STEP = RecordedRollout(
    app="shop",
    slot="staging",
    task_hub="v42",
    production_task_hub="v41",
    state=RolloutState.RUNNING,
    step=1,
    weights=(10, 50),
    weight=10,
    confirmed=False,
)
CONFIRMED = replace(FIRST_STEP, confirmed=True)
SECOND_STEP = replace(FIRST_STEP, step=2, weight=50)
PAUSED = replace(CONFIRMED, state=RolloutState.PAUSED)
ABORTING = replace(FIRST_STEP, state=RolloutState.ABORTING, weight=0)
ABORTED = replace(FIRST_STEP, state=RolloutState.ABORTED, weight=0, confirmed=True)
FINISHING = replace(SECOND_STEP, state=RolloutState.FINISHING, weight=0)
CLEARED = replace(FINISHING, confirmed=True)
FINISHED = replace(SECOND_STEP, state=RolloutState.FINISHED, weight=0, confirmed=True)

OTHER_RULE = {"name": "beta", "actionHostName": "shop-beta.azurewebsites.net", "reroutePercentage": 5}


def shares(*rules: float | dict[str, Any]) -> ObservedTraffic:
    """What Azure shows: a share of the slot, or a rule as it is."""
    named = {"name": "staging", "actionHostName": HOST}
    members = [rule if isinstance(rule, dict) else {**named, "reroutePercentage": rule} for rule in rules]
    return ObservedTraffic(
        slot="staging", slot_host=HOST, rules=tuple(RampUpRule.from_json(member) for member in members)
    )


@pytest.mark.parametrize(
    ("recorded", "traffic", "step"),
    [
        pytest.param(FIRST_STEP, shares(), SlotRolloutStep.SET_SHARE, id="begin"),
        pytest.param(FIRST_STEP, shares(0), SlotRolloutStep.SET_SHARE, id="begin with a rule of 0 %"),
        pytest.param(FIRST_STEP, shares(10), SlotRolloutStep.CONFIRM, id="killed after it was set"),
        pytest.param(CONFIRMED, shares(10), SlotRolloutStep.WAIT, id="the step lasts"),
        pytest.param(PAUSED, shares(10), SlotRolloutStep.WAIT, id="paused"),
        pytest.param(SECOND_STEP, shares(10), SlotRolloutStep.SET_SHARE, id="next step"),
        pytest.param(SECOND_STEP, shares(), SlotRolloutStep.SET_SHARE, id="next step after the rule was removed"),
        pytest.param(SECOND_STEP, shares(50), SlotRolloutStep.CONFIRM, id="next step, killed after it was set"),
        pytest.param(ABORTING, shares(10), SlotRolloutStep.CLEAR, id="abort"),
        pytest.param(ABORTING, shares(), SlotRolloutStep.CLEAR, id="abort, and Azure may show an old value"),
        pytest.param(ABORTING, shares(33), SlotRolloutStep.CLEAR, id="abort of a share set by hand"),
        pytest.param(ABORTING, shares(10, OTHER_RULE), SlotRolloutStep.CLEAR, id="abort beside another rule"),
        pytest.param(FINISHING, shares(50), SlotRolloutStep.CLEAR, id="finish"),
        pytest.param(CLEARED, shares(50), SlotRolloutStep.CLEAR, id="the share came back before the swap"),
        pytest.param(CLEARED, shares(), SlotRolloutStep.SWAP, id="swap"),
        pytest.param(CLEARED, shares(OTHER_RULE), SlotRolloutStep.SWAP, id="swap beside another rule"),
        pytest.param(FINISHED, shares(), SlotRolloutStep.END, id="finished"),
        pytest.param(ABORTED, shares(), SlotRolloutStep.END, id="aborted"),
        pytest.param(ABORTED, shares(10), SlotRolloutStep.CLEAR, id="a late change came after the abort"),
        pytest.param(FINISHED, shares(50), SlotRolloutStep.CLEAR, id="a late change came after the swap"),
    ],
)
def test_the_next_step_follows_from_the_record_and_from_azure(
    recorded: RecordedRollout, traffic: ObservedTraffic, step: SlotRolloutStep
) -> None:
    assert plan_slot_rollout(recorded, traffic, UNSWAPPED) is step


@pytest.mark.parametrize(
    ("recorded", "traffic", "message"),
    [
        pytest.param(CONFIRMED, shares(33), "33 % to slot staging", id="another share"),
        pytest.param(CONFIRMED, shares(), "no visitors to any slot", id="the rule was removed"),
        pytest.param(FIRST_STEP, shares(33), "has changed the rules", id="another share before it was set"),
        pytest.param(FIRST_STEP, shares(50), "50 % to slot staging", id="the share of a later step"),
        pytest.param(SECOND_STEP, shares(12.5), "12.5 % to slot staging", id="a fraction"),
        pytest.param(
            CONFIRMED,
            shares({"name": "staging", "actionHostName": "shop-staging.azurewebsites.net", "reroutePercentage": 10}),
            f"should have 10 % of the visitors, at {HOST}",
            id="a host name that az has made up",
        ),
        pytest.param(
            FIRST_STEP,
            shares({"name": "staging", "actionHostName": HOST, "reroutePercentage": 10, "changeStep": 5}),
            "changes by itself",
            id="a share that changes by itself",
        ),
        pytest.param(FIRST_STEP, shares(OTHER_RULE), "also sends 5 % to slot beta", id="another slot has a share"),
        pytest.param(CONFIRMED, shares(10, OTHER_RULE), "also sends 5 % to slot beta", id="another slot has got one"),
    ],
)
def test_rules_that_the_record_does_not_lead_to_are_refused(
    recorded: RecordedRollout, traffic: ObservedTraffic, message: str
) -> None:
    with pytest.raises(ConflictError, match=message) as caught:
        plan_slot_rollout(recorded, traffic, UNSWAPPED)
    assert "run the same command again" in caught.value.message


@pytest.mark.parametrize(
    "slots", [SWAPPED, ObservedSlots("v41", "v43"), ObservedSlots("v41", None), ObservedSlots(None, "v42")]
)
def test_slots_that_were_swapped_or_deployed_meanwhile_are_refused(slots: ObservedSlots) -> None:
    with pytest.raises(ConflictError, match=r"swapped or deployed meanwhile\. Run safe-deploy rollout abort"):
        plan_slot_rollout(CONFIRMED, shares(10), slots)


@pytest.mark.parametrize("recorded", [ABORTING, FINISHING])
def test_a_share_is_removed_also_if_the_slots_were_swapped(recorded: RecordedRollout) -> None:
    assert plan_slot_rollout(recorded, shares(10), SWAPPED) is SlotRolloutStep.CLEAR


def test_task_hubs_that_were_not_read_prevent_nothing() -> None:
    assert plan_slot_rollout(CONFIRMED, shares(10), None) is SlotRolloutStep.WAIT


def test_a_rollout_begins_only_if_no_visitor_is_sent_to_a_slot() -> None:
    require_clean_start("shop", shares())
    require_clean_start("shop", shares(0))
    for traffic in (shares(10), shares(OTHER_RULE)):
        with pytest.raises(ConflictError, match="in Azure app shop already sends"):
            require_clean_start("shop", traffic)


def test_the_record_is_read_from_the_response_of_the_server() -> None:
    rollout = {
        "app": "shop",
        "candidate": "staging",
        "candidateTaskHub": "v42",
        "baselineTaskHub": "v41",
        "state": "Running",
        "step": 1,
        "steps": [{"weight": 10, "minutes": 15}, {"weight": 50, "minutes": 30}],
        "weight": 10,
        "confirmed": True,
    }
    assert RecordedRollout.from_json(rollout) == CONFIRMED
    for wrong in ({**rollout, "state": "Lost"}, {"app": "shop"}, {**rollout, "steps": None}):
        with pytest.raises(CommandError, match="--server"):
            RecordedRollout.from_json(wrong)


def health(*, configured: int | None, observed: float | None, started: int) -> dict[str, Any]:
    """The health of the candidate with these shares."""
    return {
        "shares": {"configured": configured, "observed": observed},
        "candidate": {"name": "staging", "started": 0},
        "baseline": {"name": "production", "started": started},
    }


@pytest.mark.parametrize("observed", [0, 4.9, 20.1])
def test_a_share_that_azure_seems_to_ignore_is_reported_with_both_numbers(observed: float) -> None:
    warning = describe_ignored_share(health(configured=10, observed=observed, started=200))
    assert warning is not None
    assert "send 10 % of the visitors to slot staging" in warning
    assert f"{observed:.3g} % of 200 orchestrations" in warning


@pytest.mark.parametrize(
    ("configured", "observed", "started"), [(10, 5, 200), (10, 20, 200), (10, 0, 199), (0, 50, 200), (10, None, 200)]
)
def test_few_starts_and_small_differences_of_the_share_are_not_reported(
    configured: int, observed: float | None, started: int
) -> None:
    assert describe_ignored_share(health(configured=configured, observed=observed, started=started)) is None
