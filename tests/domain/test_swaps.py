"""PostSwap: what changes places, at once or in two steps."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from state_api.domain.errors import (
    InvalidRequest,
    SlotNotFound,
    SwapMismatch,
)
from state_api.domain.readiness.evidence import OpenSwap
from state_api.domain.releases.apps import App, PendingSwap, PriorHub, RetiredHub, Slot, Transition
from tests.domain.builders import ANNA, BEN, RUN_7_URL, noon_plus, production_slot, registered_app, slot
from tests.domain.transitions import (
    app_with_open_deployment,
    begin_swap,
    confirm_swap,
    revert_swap,
    stage_new_hub,
    swap_at_once,
)

# At once


def test_a_swap_exchanges_production_and_staging_and_closes_the_deployment() -> None:
    app = app_with_open_deployment(ANNA)
    transition = swap_at_once(app, "v42", noon_plus(60))
    assert transition.app == replace(
        app,
        slots={
            "production": Slot("v42", "1.5.0", noon_plus(60), promoted=True),
            "staging": Slot("v41", "1.4.0", noon_plus(60), promoted=True),
        },
        deployment=None,
    )
    assert transition.operation == "PostSwap"
    assert transition.details == {"slot": "staging", "production": "v42", "swappedOut": "v41"}
    assert transition.new_hubs == ()


def test_a_swap_into_an_empty_production_leaves_the_slot_empty() -> None:
    transition = swap_at_once(registered_app(None, slot("v42")), "v42", noon_plus())
    assert transition.app.slots == {"production": Slot("v42", None, noon_plus(), promoted=True), "staging": None}
    assert transition.details["swappedOut"] is None


def test_a_swap_is_done_when_production_holds_the_hub_already() -> None:
    app = swap_at_once(app_with_open_deployment(ANNA), "v42", noon_plus(60)).app
    transition = swap_at_once(app, "V42", noon_plus(120))
    assert transition.app is app
    assert not transition.changed


def test_a_rollback_is_a_swap_back() -> None:
    before = registered_app(production_slot("v41"), slot("v42"))
    swapped = swap_at_once(before, "v42", noon_plus(60)).app
    back = swap_at_once(swapped, "v41", noon_plus(120)).app
    assert back.slot_holding("v41") == "production"
    assert back.slot_holding("v42") == "staging"
    assert back.slots["staging"] == Slot("v42", None, noon_plus(120), promoted=True)


def test_whatever_leaves_production_has_been_promoted() -> None:
    transition = swap_at_once(registered_app(slot("v41", promoted=False), slot("v42")), "v42", noon_plus())
    assert transition.app.slots["staging"] == Slot("v41", None, noon_plus(), promoted=True)


def test_a_swap_keeps_the_spelling_of_hub_and_slot() -> None:
    transition = swap_at_once(
        registered_app(more_slots={"Canary": slot("OrdersV42")}), "ordersv42", noon_plus(), slot="CANARY"
    )
    assert transition.details == {"slot": "Canary", "production": "OrdersV42", "swappedOut": None}
    assert set(transition.app.slots) == {"production", "staging", "Canary"}


def test_a_swap_leaves_a_deployment_into_another_slot_open() -> None:
    app = stage_new_hub(registered_app(production_slot(), more_slots={"canary": slot("v43")})).app
    transition = swap_at_once(app, "v43", noon_plus(60), slot="canary")
    assert transition.app.deployment == app.deployment
    assert transition.app.get_open_deployment(noon_plus(60)) is not None


def test_a_swap_leaves_the_other_slots_alone() -> None:
    canary = slot("v43")
    transition = swap_at_once(
        registered_app(production_slot(), slot("v42"), more_slots={"canary": canary}), "v42", noon_plus()
    )
    assert transition.app.slots["canary"] is canary


def test_a_swap_promotes_only_the_hub_that_the_caller_believes_in_the_slot() -> None:
    with pytest.raises(
        SwapMismatch, match=r"^slot staging of app shop does not hold task hub v43 but v42. Do not swap"
    ) as caught:
        swap_at_once(app_with_open_deployment(ANNA), "v43", noon_plus(60), slot="STAGING")
    assert caught.value.details == {"taskHub": "v43", "slots": {"production": "v41", "staging": "v42"}}


def test_a_swap_with_an_empty_slot_is_a_mismatch() -> None:
    with pytest.raises(SwapMismatch, match="does not hold task hub v42 but nothing"):
        swap_at_once(registered_app(production_slot()), "v42", noon_plus())


@pytest.mark.parametrize("name", ["production", "PRODUCTION"])
def test_production_is_not_swapped_with_itself(name: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be swapped with itself"):
        swap_at_once(registered_app(production_slot("v41")), "v41", noon_plus(), slot=name)


def test_a_swap_with_a_slot_that_does_not_exist_says_so() -> None:
    with pytest.raises(SlotNotFound, match="it has production, staging"):
        swap_at_once(registered_app(production_slot()), "v42", noon_plus(), slot="canary")


# With rollback


def test_a_rollback_asks_for_a_hub_that_was_in_production_and_says_so_on_record() -> None:
    app = swap_at_once(app_with_open_deployment(ANNA), "v42", noon_plus(60)).app
    transition = swap_at_once(app, "v41", noon_plus(120), rollback=True)
    assert transition.app == swap_at_once(app, "v41", noon_plus(120)).app
    assert transition.details == {"slot": "staging", "production": "v41", "swappedOut": "v42", "rollback": True}


@pytest.mark.parametrize(
    "say",
    [
        lambda app: swap_at_once(app, "V42", noon_plus(60), slot="Staging", rollback=True),
        lambda app: begin_swap(app, "V42", noon_plus(60), slot="Staging", rollback=True),
    ],
    ids=["Done", "Pending"],
)
def test_there_is_no_way_back_to_a_hub_that_was_never_in_production(say: Callable[[App], Transition]) -> None:
    with pytest.raises(SwapMismatch, match="v42 in slot staging of app shop was never in production") as caught:
        say(app_with_open_deployment(ANNA))
    assert caught.value.details == {"taskHub": "v42", "slots": {"production": "v41", "staging": "v42"}}


def test_a_rollback_that_was_done_already_changes_nothing() -> None:
    app = registered_app(production_slot("v41"), slot("v42", promoted=True))
    assert not swap_at_once(app, "v41", noon_plus(), rollback=True).changed
    assert not begin_swap(app, "v41", noon_plus(), rollback=True).changed


# With rollback, under a version that was staged


SLOT_WITH_PRIOR_HUBS = Slot(
    "v43", "1.6.0", noon_plus(30), prior_hubs=(PriorHub("v42x", False), PriorHub("v41", True), PriorHub("v40", True))
)


def app_with_prior_hubs() -> App:
    """v43 was staged over v41, which the platform's slot may still carry."""
    app = app_with_open_deployment(ANNA)
    assert app.deployment is not None
    deployment = replace(app.deployment, task_hub="v43", slot="Staging")
    app = replace(
        app, slots={"production": production_slot("v42"), "Staging": SLOT_WITH_PRIOR_HUBS}, deployment=deployment
    )
    return replace(app, retired=tuple(RetiredHub(hub, f"{hub}.0", noon_plus(-60)) for hub in ("v40", "v41", "v42x")))


def test_production_goes_back_to_what_the_slot_still_carried_and_what_was_staged_over_it_is_retired() -> None:
    app = app_with_prior_hubs()
    transition = swap_at_once(app, "V41", noon_plus(60), rollback=True)
    assert transition.app.slots == {
        "production": Slot("v41", "v41.0", noon_plus(60), promoted=True),
        "Staging": replace(
            production_slot("v42"), since=noon_plus(60), prior_hubs=(PriorHub("v43", False), PriorHub("v42x", False))
        ),
    }
    assert transition.app.find_possible_slot("v43") == "Staging"
    assert transition.app.deployment is None
    assert transition.app.retired == (app.retired[0], app.retired[2], RetiredHub("v43", "1.6.0", noon_plus(60)))
    assert transition.details == {
        "slot": "Staging",
        "production": "v41",
        "swappedOut": "v42",
        "rollback": True,
        "retired": "v43",
    }
    assert confirm_swap(app, "v41", noon_plus(60), rollback=True) == transition
    assert not swap_at_once(transition.app, "v41", noon_plus(90), rollback=True).changed


def test_a_version_that_nobody_knows_any_more_does_not_stop_a_rollback() -> None:
    app = replace(app_with_prior_hubs(), retired=())
    assert swap_at_once(app, "v41", noon_plus(60), rollback=True).app.slots["production"] == Slot(
        "v41", None, noon_plus(60), True
    )


def test_without_a_production_there_is_nothing_that_could_come_into_the_slot() -> None:
    app = replace(app_with_prior_hubs(), slots={"production": None, "Staging": SLOT_WITH_PRIOR_HUBS})
    with pytest.raises(SwapMismatch, match="may still carry task hub v41"):
        swap_at_once(app, "v41", noon_plus(60), rollback=True)


@pytest.mark.parametrize(("hub", "rollback"), [("v41", False), ("v42x", True), ("v39", True)])
def test_only_a_rollback_names_what_is_beneath_and_only_what_was_in_production(hub: str, rollback: bool) -> None:
    with pytest.raises(SwapMismatch, match=f"does not hold task hub {hub} but v43"):
        swap_at_once(app_with_prior_hubs(), hub, noon_plus(60), rollback=rollback)


def test_there_is_no_way_back_to_a_staged_version_but_one_under_it() -> None:
    with pytest.raises(
        SwapMismatch, match=r"a rollback to it is not possible\. The slot may still carry v41, which was$"
    ):
        swap_at_once(app_with_prior_hubs(), "v43", noon_plus(60), rollback=True)


def test_a_rollback_under_a_staged_version_is_not_begun_but_says_what_to_do() -> None:
    with pytest.raises(SwapMismatch, match="slot Staging of app shop may still carry task hub v41, but v43 was staged"):
        begin_swap(app_with_prior_hubs(), "v41", noon_plus(60), rollback=True)


# Begun


def test_a_swap_that_is_begun_is_exchanged_on_record_and_pending() -> None:
    app = app_with_open_deployment(ANNA)
    transition = begin_swap(app, "V42", noon_plus(60), slot="STAGING")
    assert transition.app == replace(
        swap_at_once(app, "v42", noon_plus(60)).app,
        pending_swap=PendingSwap(
            task_hub="v42",
            swapped_out="v41",
            slot="staging",
            started_at=noon_plus(60),
            started_by="anna",
            run_url=RUN_7_URL,
            run_id=f"url:{RUN_7_URL}",
            rollback=False,
            slots_before=app.slots,
            deployment=app.deployment,
        ),
    )
    assert transition.app.pending_swap is not None
    assert transition.app.pending_swap.to_open_swap() == OpenSwap("v42", "anna", RUN_7_URL, noon_plus(60))
    assert transition.operation == "PostSwap"
    assert transition.details == {
        "outcome": "Pending",
        "slot": "staging",
        "production": "v42",
        "swappedOut": "v41",
    }
    assert transition.new_hubs == ()


def test_a_rollback_that_is_begun_says_so_in_every_record() -> None:
    app = registered_app(production_slot("v42"), slot("v41", promoted=True))
    transition = begin_swap(app, "v41", noon_plus(), rollback=True)
    assert transition.app.pending_swap is not None
    assert transition.app.pending_swap.rollback
    ends = swap_at_once(transition.app, "v41", noon_plus(60)), revert_swap(transition.app, "v41")
    assert [one.details["rollback"] for one in (transition, *ends)] == [True, True, True]


def test_a_swap_that_is_begun_promotes_only_the_hub_that_the_caller_believes_in_the_slot() -> None:
    with pytest.raises(SwapMismatch, match="does not hold task hub v43 but v42"):
        begin_swap(app_with_open_deployment(ANNA), "v43", noon_plus())
    with pytest.raises(SwapMismatch, match="does not hold task hub v42 but nothing"):
        begin_swap(registered_app(production_slot()), "v42", noon_plus())


def test_there_is_nothing_to_begin_when_production_holds_the_hub_already() -> None:
    app = swap_at_once(app_with_open_deployment(ANNA), "v42", noon_plus(60)).app
    transition = begin_swap(app, "V42", noon_plus(120), caller=BEN)
    assert not transition.changed
    assert transition.app is app


def test_a_swap_that_is_begun_leaves_a_deployment_into_another_slot_open() -> None:
    app = stage_new_hub(registered_app(production_slot(), more_slots={"canary": slot("v43")})).app
    pending = begin_swap(app, "v43", noon_plus(60), slot="canary", caller=BEN).app
    assert pending.deployment == app.deployment
    assert revert_swap(pending, "v43", slot="canary").app == app
