"""PostSwap: what changes places, at once or in two steps."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from state_api.domain.apps import App, Beneath, PendingSwap, Retired, Slot, Transition
from state_api.domain.errors import (
    InvalidRequest,
    SlotNotFound,
    SwapMismatch,
)
from state_api.domain.evidence import OpenSwap
from state_api.domain.swaps import begin, confirm, swap, take_back
from tests.domain.builders import (
    ANNA,
    BEN,
    RUN_7,
    at,
    deploying,
    in_production,
    shop,
    slot,
    staged,
)

# At once


def test_a_swap_exchanges_production_and_staging_and_closes_the_deployment() -> None:
    app = deploying(ANNA)
    transition = swap(app, "staging", "v42", at(60))
    assert transition.app == replace(
        app,
        slots={
            "production": Slot("v42", "1.5.0", at(60), promoted=True),
            "staging": Slot("v41", "1.4.0", at(60), promoted=True),
        },
        deployment=None,
    )
    assert transition.operation == "PostSwap"
    assert transition.details == {"slot": "staging", "production": "v42", "swappedOut": "v41"}
    assert transition.new_hubs == ()


def test_a_swap_into_an_empty_production_leaves_the_slot_empty() -> None:
    transition = swap(shop(None, slot("v42")), "staging", "v42", at())
    assert transition.app.slots == {"production": Slot("v42", None, at(), promoted=True), "staging": None}
    assert transition.details["swappedOut"] is None


def test_a_swap_is_done_when_production_holds_the_hub_already() -> None:
    app = swap(deploying(ANNA), "staging", "v42", at(60)).app
    transition = swap(app, "staging", "V42", at(120))
    assert transition.app is app
    assert not transition.changed


def test_a_rollback_is_a_swap_back() -> None:
    before = shop(in_production("v41"), slot("v42"))
    swapped = swap(before, "staging", "v42", at(60)).app
    back = swap(swapped, "staging", "v41", at(120)).app
    assert back.slot_of("v41") == "production"
    assert back.slot_of("v42") == "staging"
    assert back.slots["staging"] == Slot("v42", None, at(120), promoted=True)


def test_whatever_leaves_production_has_been_promoted() -> None:
    transition = swap(shop(slot("v41", promoted=False), slot("v42")), "staging", "v42", at())
    assert transition.app.slots["staging"] == Slot("v41", None, at(), promoted=True)


def test_a_swap_keeps_the_spelling_of_hub_and_slot() -> None:
    transition = swap(shop(more={"Canary": slot("OrdersV42")}), "CANARY", "ordersv42", at())
    assert transition.details == {"slot": "Canary", "production": "OrdersV42", "swappedOut": None}
    assert set(transition.app.slots) == {"production", "staging", "Canary"}


def test_a_swap_leaves_a_deployment_into_another_slot_open() -> None:
    app = staged(shop(in_production(), more={"canary": slot("v43")})).app
    transition = swap(app, "canary", "v43", at(60))
    assert transition.app.deployment == app.deployment
    assert transition.app.open_deployment(at(60)) is not None


def test_a_swap_leaves_the_other_slots_alone() -> None:
    canary = slot("v43")
    transition = swap(shop(in_production(), slot("v42"), more={"canary": canary}), "staging", "v42", at())
    assert transition.app.slots["canary"] is canary


def test_a_swap_promotes_only_the_hub_that_the_caller_believes_in_the_slot() -> None:
    with pytest.raises(SwapMismatch, match=r"^slot staging of app shop does not hold task hub v43 but v42$") as caught:
        swap(deploying(ANNA), "STAGING", "v43", at(60))
    assert caught.value.details == {"taskHub": "v43", "slots": {"production": "v41", "staging": "v42"}}


def test_a_swap_with_an_empty_slot_is_a_mismatch() -> None:
    with pytest.raises(SwapMismatch, match="does not hold task hub v42 but nothing"):
        swap(shop(in_production()), "staging", "v42", at())


@pytest.mark.parametrize("name", ["production", "PRODUCTION"])
def test_production_is_not_swapped_with_itself(name: str) -> None:
    with pytest.raises(InvalidRequest, match="not with itself"):
        swap(shop(in_production("v41")), name, "v41", at())


def test_a_swap_with_a_slot_that_does_not_exist_says_so() -> None:
    with pytest.raises(SlotNotFound, match="it has production, staging"):
        swap(shop(in_production()), "canary", "v42", at())


# With rollback


def test_a_rollback_asks_for_a_hub_that_was_in_production_and_says_so_on_record() -> None:
    app = swap(deploying(ANNA), "staging", "v42", at(60)).app
    transition = swap(app, "staging", "v41", at(120), rollback=True)
    assert transition.app == swap(app, "staging", "v41", at(120)).app
    assert transition.details == {"slot": "staging", "production": "v41", "swappedOut": "v42", "rollback": True}


@pytest.mark.parametrize(
    "say",
    [
        lambda app: swap(app, "Staging", "V42", at(60), rollback=True),
        lambda app: begin(app, "Staging", "V42", True, ANNA, at(60)),
    ],
    ids=["Done", "Pending"],
)
def test_there_is_no_way_back_to_a_hub_that_was_never_in_production(say: Callable[[App], Transition]) -> None:
    with pytest.raises(SwapMismatch, match="v42 in slot staging of app shop was never in production") as caught:
        say(deploying(ANNA))
    assert caught.value.details == {"taskHub": "v42", "slots": {"production": "v41", "staging": "v42"}}


def test_a_rollback_that_was_done_already_changes_nothing() -> None:
    app = shop(in_production("v41"), slot("v42", promoted=True))
    assert not swap(app, "staging", "v41", at(), rollback=True).changed
    assert not begin(app, "staging", "v41", True, ANNA, at()).changed


# With rollback, under a version that was staged


UNDER = Slot("v43", "1.6.0", at(30), beneath=(Beneath("v42x", False), Beneath("v41", True), Beneath("v40", True)))


def covered() -> App:
    """v43 was staged over v41, which the platform's slot may still carry."""
    app = deploying(ANNA)
    assert app.deployment is not None
    deployment = replace(app.deployment, task_hub="v43", slot="Staging")
    app = replace(app, slots={"production": in_production("v42"), "Staging": UNDER}, deployment=deployment)
    return replace(app, retired=tuple(Retired(hub, f"{hub}.0", at(-60)) for hub in ("v40", "v41", "v42x")))


def test_production_goes_back_to_what_the_slot_still_carried_and_what_was_staged_over_it_is_retired() -> None:
    app = covered()
    transition = swap(app, "staging", "V41", at(60), rollback=True)
    assert transition.app.slots == {
        "production": Slot("v41", "v41.0", at(60), promoted=True),
        "Staging": replace(in_production("v42"), since=at(60), beneath=(Beneath("v43", False), Beneath("v42x", False))),
    }
    assert transition.app.may_carry("v43") == "Staging"
    assert transition.app.deployment is None
    assert transition.app.retired == (app.retired[0], app.retired[2], Retired("v43", "1.6.0", at(60)))
    assert transition.details == {
        "slot": "Staging",
        "production": "v41",
        "swappedOut": "v42",
        "rollback": True,
        "retired": "v43",
    }
    assert confirm(app, "staging", "v41", at(60), rollback=True) == transition
    assert not swap(transition.app, "staging", "v41", at(90), rollback=True).changed


def test_a_version_that_nobody_knows_any_more_does_not_stop_a_rollback() -> None:
    app = replace(covered(), retired=())
    assert swap(app, "staging", "v41", at(60), rollback=True).app.slots["production"] == Slot("v41", None, at(60), True)


def test_without_a_production_there_is_nothing_that_could_come_into_the_slot() -> None:
    app = replace(covered(), slots={"production": None, "Staging": UNDER})
    with pytest.raises(SwapMismatch, match="may still carry task hub v41"):
        swap(app, "staging", "v41", at(60), rollback=True)


@pytest.mark.parametrize(("hub", "rollback"), [("v41", False), ("v42x", True), ("v39", True)])
def test_only_a_rollback_names_what_is_beneath_and_only_what_was_in_production(hub: str, rollback: bool) -> None:
    with pytest.raises(SwapMismatch, match=f"does not hold task hub {hub} but v43"):
        swap(covered(), "staging", hub, at(60), rollback)


def test_there_is_no_way_back_to_a_staged_version_but_one_under_it() -> None:
    with pytest.raises(SwapMismatch, match=r"way back to it\. The slot may still carry v41, which was$"):
        swap(covered(), "staging", "v43", at(60), rollback=True)


def test_a_rollback_under_a_staged_version_is_not_begun_but_says_what_to_do() -> None:
    with pytest.raises(SwapMismatch, match="slot Staging of app shop may still carry task hub v41, but v43 was staged"):
        begin(covered(), "staging", "v41", True, ANNA, at(60))


# Begun


def test_a_swap_that_is_begun_is_exchanged_on_record_and_pending() -> None:
    app = deploying(ANNA)
    transition = begin(app, "STAGING", "V42", False, ANNA, at(60))
    assert transition.app == replace(
        swap(app, "staging", "v42", at(60)).app,
        pending_swap=PendingSwap(
            task_hub="v42",
            swapped_out="v41",
            slot="staging",
            started_at=at(60),
            by="anna",
            run_url=RUN_7,
            run=f"url:{RUN_7}",
            rollback=False,
            before=app.slots,
            deployment=app.deployment,
        ),
    )
    assert transition.app.pending_swap is not None
    assert transition.app.pending_swap.as_open() == OpenSwap("v42", "anna", RUN_7, at(60))
    assert transition.operation == "PostSwap"
    assert transition.details == {
        "outcome": "Pending",
        "slot": "staging",
        "production": "v42",
        "swappedOut": "v41",
    }
    assert transition.new_hubs == ()


def test_a_rollback_that_is_begun_says_so_in_every_record() -> None:
    app = shop(in_production("v42"), slot("v41", promoted=True))
    transition = begin(app, "staging", "v41", True, ANNA, at())
    assert transition.app.pending_swap is not None
    assert transition.app.pending_swap.rollback
    ends = swap(transition.app, "staging", "v41", at(60)), take_back(transition.app, "staging", "v41")
    assert [one.details["rollback"] for one in (transition, *ends)] == [True, True, True]


def test_a_swap_that_is_begun_promotes_only_the_hub_that_the_caller_believes_in_the_slot() -> None:
    with pytest.raises(SwapMismatch, match="does not hold task hub v43 but v42"):
        begin(deploying(ANNA), "staging", "v43", False, ANNA, at())
    with pytest.raises(SwapMismatch, match="does not hold task hub v42 but nothing"):
        begin(shop(in_production()), "staging", "v42", False, ANNA, at())


def test_there_is_nothing_to_begin_when_production_holds_the_hub_already() -> None:
    app = swap(deploying(ANNA), "staging", "v42", at(60)).app
    transition = begin(app, "staging", "V42", False, BEN, at(120))
    assert not transition.changed
    assert transition.app is app


def test_a_swap_that_is_begun_leaves_a_deployment_into_another_slot_open() -> None:
    app = staged(shop(in_production(), more={"canary": slot("v43")})).app
    pending = begin(app, "canary", "v43", False, BEN, at(60)).app
    assert pending.deployment == app.deployment
    assert take_back(pending, "canary", "v43").app == app
