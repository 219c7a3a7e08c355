"""PostSwap: how production and a slot exchange their task hubs, at once or in two steps."""

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
from tests.domain.builders import ANNA, BEN, RUN_7_URL, build_app, build_production_slot, build_slot, noon_plus
from tests.domain.transitions import (
    begin_swap,
    build_app_with_open_deployment,
    confirm_swap,
    revert_swap,
    stage_new_hub,
    swap_at_once,
)

# PostSwap without an outcome


def test_a_swap_exchanges_production_and_staging_and_closes_the_deployment() -> None:
    app = build_app_with_open_deployment(ANNA)
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
    transition = swap_at_once(build_app(None, build_slot("v42")), "v42", noon_plus())
    assert transition.app.slots == {"production": Slot("v42", None, noon_plus(), promoted=True), "staging": None}
    assert transition.details["swappedOut"] is None


def test_a_swap_changes_nothing_if_production_already_holds_the_hub() -> None:
    app = swap_at_once(build_app_with_open_deployment(ANNA), "v42", noon_plus(60)).app
    transition = swap_at_once(app, "V42", noon_plus(120))
    assert transition.app is app
    assert not transition.changed


@pytest.mark.parametrize("report", [swap_at_once, begin_swap])
def test_a_swap_of_the_hub_in_production_changes_nothing_even_with_another_slot(
    report: Callable[..., Transition],
) -> None:
    assert not report(build_app(build_production_slot("v41")), "v41", slot="no-such-slot").changed


def test_a_rollback_is_a_swap_back() -> None:
    before = build_app(build_production_slot("v41"), build_slot("v42"))
    swapped = swap_at_once(before, "v42", noon_plus(60)).app
    rolled_back = swap_at_once(swapped, "v41", noon_plus(120)).app
    assert rolled_back.slot_holding("v41") == "production"
    assert rolled_back.slot_holding("v42") == "staging"
    assert rolled_back.slots["staging"] == Slot("v42", None, noon_plus(120), promoted=True)


def test_a_hub_that_leaves_production_counts_as_promoted() -> None:
    transition = swap_at_once(build_app(build_slot("v41", promoted=False), build_slot("v42")), "v42", noon_plus())
    assert transition.app.slots["staging"] == Slot("v41", None, noon_plus(), promoted=True)


def test_a_swap_keeps_the_spelling_of_hub_and_slot() -> None:
    transition = swap_at_once(
        build_app(more_slots={"Canary": build_slot("OrdersV42")}), "ordersv42", noon_plus(), slot="CANARY"
    )
    assert transition.details == {"slot": "Canary", "production": "OrdersV42", "swappedOut": None}
    assert set(transition.app.slots) == {"production", "staging", "Canary"}


def test_a_swap_leaves_a_deployment_into_another_slot_open() -> None:
    app = stage_new_hub(build_app(build_production_slot(), more_slots={"canary": build_slot("v43")})).app
    transition = swap_at_once(app, "v43", noon_plus(60), slot="canary")
    assert transition.app.deployment == app.deployment
    assert transition.app.get_open_deployment(noon_plus(60)) is not None


def test_a_swap_leaves_the_other_slots_alone() -> None:
    canary = build_slot("v43")
    transition = swap_at_once(
        build_app(build_production_slot(), build_slot("v42"), more_slots={"canary": canary}), "v42", noon_plus()
    )
    assert transition.app.slots["canary"] is canary


def test_a_swap_is_refused_if_the_slot_holds_another_hub_than_the_caller_names() -> None:
    with pytest.raises(
        SwapMismatch, match=r"^slot staging of app shop does not hold task hub v43 but v42. Do not swap"
    ) as caught:
        swap_at_once(build_app_with_open_deployment(ANNA), "v43", noon_plus(60), slot="STAGING")
    assert caught.value.details == {"taskHub": "v43", "slots": {"production": "v41", "staging": "v42"}}


def test_a_swap_with_an_empty_slot_is_refused() -> None:
    with pytest.raises(SwapMismatch, match="slot staging of app shop is empty, and does not hold task hub v42"):
        swap_at_once(build_app(build_production_slot()), "v42", noon_plus())


@pytest.mark.parametrize("name", ["production", "PRODUCTION"])
def test_a_swap_of_production_with_itself_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be swapped with itself"):
        swap_at_once(build_app(build_production_slot("v41")), "v41", noon_plus(), slot=name)


def test_a_swap_with_a_slot_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SlotNotFound, match="it has production, staging"):
        swap_at_once(build_app(build_production_slot()), "v42", noon_plus(), slot="canary")


# Rollback


def test_a_rollback_brings_back_a_promoted_hub_and_is_recorded_as_a_rollback() -> None:
    app = swap_at_once(build_app_with_open_deployment(ANNA), "v42", noon_plus(60)).app
    transition = swap_at_once(app, "v41", noon_plus(120), rollback=True)
    assert transition.app == swap_at_once(app, "v41", noon_plus(120)).app
    assert transition.details == {"slot": "staging", "production": "v41", "swappedOut": "v42", "rollback": True}


@pytest.mark.parametrize(
    "swap",
    [
        lambda app: swap_at_once(app, "V42", noon_plus(60), slot="Staging", rollback=True),
        lambda app: begin_swap(app, "V42", noon_plus(60), slot="Staging", rollback=True),
    ],
    ids=["Done", "Pending"],
)
def test_a_rollback_to_a_hub_that_was_never_in_production_is_refused(swap: Callable[[App], Transition]) -> None:
    with pytest.raises(SwapMismatch, match="v42 in slot staging of app shop was never in production") as caught:
        swap(build_app_with_open_deployment(ANNA))
    assert caught.value.details == {"taskHub": "v42", "slots": {"production": "v41", "staging": "v42"}}


def test_a_repeated_rollback_changes_nothing() -> None:
    app = build_app(build_production_slot("v41"), build_slot("v42", promoted=True))
    assert not swap_at_once(app, "v41", noon_plus(), rollback=True).changed
    assert not begin_swap(app, "v41", noon_plus(), rollback=True).changed


# Rollback to a prior task hub


SLOT_WITH_PRIOR_HUBS = Slot(
    "v43",
    "1.6.0",
    noon_plus(30),
    prior_hubs=(PriorHub("v42x", promoted=False), PriorHub("v41", promoted=True), PriorHub("v40", promoted=True)),
)


def build_app_with_prior_hubs() -> App:
    """An app with v42 in production, and v43 staged over v41, which the slot in Azure may still carry."""
    app = build_app_with_open_deployment(ANNA)
    assert app.deployment is not None
    deployment = replace(app.deployment, task_hub="v43", slot="Staging")
    app = replace(
        app, slots={"production": build_production_slot("v42"), "Staging": SLOT_WITH_PRIOR_HUBS}, deployment=deployment
    )
    return replace(app, retired=tuple(RetiredHub(hub, f"{hub}.0", noon_plus(-60)) for hub in ("v40", "v41", "v42x")))


def test_a_rollback_to_a_prior_hub_retires_the_hub_that_was_staged_over_it() -> None:
    app = build_app_with_prior_hubs()
    transition = swap_at_once(app, "V41", noon_plus(60), rollback=True)
    assert transition.app.slots == {
        "production": Slot("v41", "v41.0", noon_plus(60), promoted=True),
        "Staging": replace(
            build_production_slot("v42"),
            since=noon_plus(60),
            prior_hubs=(PriorHub("v43", promoted=False), PriorHub("v42x", promoted=False)),
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


def test_a_rollback_to_a_prior_hub_of_unknown_version_is_possible() -> None:
    app = replace(build_app_with_prior_hubs(), retired=())
    assert swap_at_once(app, "v41", noon_plus(60), rollback=True).app.slots["production"] == Slot(
        "v41", None, noon_plus(60), promoted=True
    )


def test_a_rollback_to_a_prior_hub_is_refused_if_production_is_empty() -> None:
    app = replace(build_app_with_prior_hubs(), slots={"production": None, "Staging": SLOT_WITH_PRIOR_HUBS})
    with pytest.raises(SwapMismatch, match="may still carry task hub v41"):
        swap_at_once(app, "v41", noon_plus(60), rollback=True)


@pytest.mark.parametrize(("hub", "rollback"), [("v41", False), ("v42x", True), ("v39", True)])
def test_only_a_rollback_can_name_a_prior_hub_and_only_a_promoted_one(hub: str, *, rollback: bool) -> None:
    with pytest.raises(SwapMismatch, match=f"does not hold task hub {hub} but v43"):
        swap_at_once(build_app_with_prior_hubs(), hub, noon_plus(60), rollback=rollback)


def test_a_refused_rollback_names_the_promoted_prior_hub() -> None:
    with pytest.raises(
        SwapMismatch, match=r"a rollback to it is not possible\. The slot may still carry v41, which was$"
    ):
        swap_at_once(build_app_with_prior_hubs(), "v43", noon_plus(60), rollback=True)


def test_a_rollback_to_a_prior_hub_cannot_begin_with_pending() -> None:
    with pytest.raises(SwapMismatch, match="slot Staging of app shop may still carry task hub v41, but v43 was staged"):
        begin_swap(build_app_with_prior_hubs(), "v41", noon_plus(60), rollback=True)


# PostSwap with the outcome Pending


def test_a_begun_swap_exchanges_the_hubs_on_record_and_is_pending() -> None:
    app = build_app_with_open_deployment(ANNA)
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


def test_every_record_of_a_rollback_in_two_steps_says_that_it_is_a_rollback() -> None:
    app = build_app(build_production_slot("v42"), build_slot("v41", promoted=True))
    transition = begin_swap(app, "v41", noon_plus(), rollback=True)
    assert transition.app.pending_swap is not None
    assert transition.app.pending_swap.rollback
    ending_transitions = swap_at_once(transition.app, "v41", noon_plus(60)), revert_swap(transition.app, "v41")
    assert [swap.details["rollback"] for swap in (transition, *ending_transitions)] == [True, True, True]


def test_a_swap_cannot_begin_if_the_slot_holds_another_hub_than_the_caller_names() -> None:
    with pytest.raises(SwapMismatch, match="does not hold task hub v43 but v42"):
        begin_swap(build_app_with_open_deployment(ANNA), "v43", noon_plus())
    with pytest.raises(SwapMismatch, match="slot staging of app shop is empty, and does not hold task hub v42"):
        begin_swap(build_app(build_production_slot()), "v42", noon_plus())


def test_beginning_a_swap_changes_nothing_if_production_already_holds_the_hub() -> None:
    app = swap_at_once(build_app_with_open_deployment(ANNA), "v42", noon_plus(60)).app
    transition = begin_swap(app, "V42", noon_plus(120), caller=BEN)
    assert not transition.changed
    assert transition.app is app


def test_a_begun_swap_leaves_a_deployment_into_another_slot_open() -> None:
    app = stage_new_hub(build_app(build_production_slot(), more_slots={"canary": build_slot("v43")})).app
    pending = begin_swap(app, "v43", noon_plus(60), slot="canary", caller=BEN).app
    assert pending.deployment == app.deployment
    assert revert_swap(pending, "v43", slot="canary").app == app
