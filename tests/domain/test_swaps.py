"""PostSwap: what changes places, at once or in two steps, and what is refused while nobody knows how a swap went."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from state_api.domain.apps import App, Caller, PendingSwap, Slot, Transition
from state_api.domain.errors import (
    DeploymentInProgress,
    InvalidRequest,
    SlotNotFound,
    StateError,
    SwapMismatch,
    SwapPending,
)
from state_api.domain.evidence import OpenSwap
from state_api.domain.instants import format_instant
from state_api.domain.readiness import Policy
from state_api.domain.registration import Registration, register, replaced_slots
from state_api.domain.releases import Order, abandon, needs_verdict, stage
from state_api.domain.swaps import begin, swap, take_back
from tests.domain.builders import (
    ANNA,
    BEN,
    NO_RUN,
    RUN_7,
    at,
    begun,
    deploying,
    in_production,
    ready,
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


# Everything that PostSwap can say while a swap is pending

DOES = {
    "Pending": lambda app, hub, slot, caller: begin(app, slot, hub, False, caller, at(120)),
    "Done": lambda app, hub, slot, caller: swap(app, slot, hub, at(120)),
    "Failed": lambda app, hub, slot, caller: take_back(app, slot, hub),
}


@pytest.mark.parametrize(
    ("outcome", "hub", "slot_name", "caller", "becomes"),
    [
        ("Pending", "v42", "staging", ANNA, "as it was"),
        ("Pending", "V42", "Staging", ANNA, "as it was"),
        ("Pending", "v42", "staging", BEN, SwapPending),
        ("Pending", "v42", "staging", NO_RUN, SwapPending),
        ("Pending", "v41", "staging", ANNA, SwapPending),
        ("Pending", "v43", "staging", ANNA, SwapPending),
        ("Pending", "v43", "canary", ANNA, SwapPending),
        ("Pending", "v42", "canary", ANNA, SwapPending),
        ("Pending", "v42", "production", ANNA, InvalidRequest),
        ("Done", "v42", "staging", ANNA, "confirmed"),
        ("Done", "V42", "Staging", BEN, "confirmed"),
        ("Done", "v41", "staging", ANNA, SwapPending),
        ("Done", "V41", "STAGING", NO_RUN, SwapPending),
        ("Done", "v43", "staging", ANNA, SwapPending),
        ("Done", "v43", "canary", ANNA, SwapPending),
        ("Done", "v42", "canary", ANNA, SwapPending),
        ("Done", "v42", "production", ANNA, InvalidRequest),
        ("Failed", "v42", "staging", ANNA, "taken back"),
        ("Failed", "V42", "Staging", BEN, "taken back"),
        ("Failed", "v41", "staging", ANNA, SwapPending),
        ("Failed", "v43", "staging", ANNA, SwapPending),
        ("Failed", "v43", "canary", ANNA, SwapPending),
        ("Failed", "v42", "production", ANNA, InvalidRequest),
    ],
)
def test_a_pending_swap_ends_with_what_is_said_of_it_and_with_nothing_else(
    outcome: str, hub: str, slot_name: str, caller: Caller, becomes: str | type[StateError]
) -> None:
    before = deploying(ANNA, more={"canary": slot("v43")})
    pending = begin(before, "staging", "v42", False, ANNA, at(60)).app
    if not isinstance(becomes, str):
        with pytest.raises(becomes):
            DOES[outcome](pending, hub, slot_name, caller)
        return
    transition = DOES[outcome](pending, hub, slot_name, caller)
    ends = {"as it was": pending, "confirmed": replace(pending, pending_swap=None), "taken back": before}
    assert transition.app == ends[becomes]
    assert transition.changed == (becomes != "as it was")
    said = {"as it was": None, "confirmed": "Done", "taken back": "Failed"}
    assert transition.details.get("outcome") == said[becomes]
    if transition.changed:
        assert transition.details == {
            "outcome": said[becomes],
            "slot": "staging",
            "production": "v42",
            "swappedOut": "v41",
        }


def test_a_confirmed_swap_leaves_the_slots_as_they_were_from_its_beginning() -> None:
    done = swap(begun().app, "staging", "v42", at(120)).app
    assert done.slots == {
        "production": Slot("v42", "1.5.0", at(60), promoted=True),
        "staging": Slot("v41", "1.4.0", at(60), promoted=True),
    }
    assert done.deployment is None


def test_a_swap_that_is_taken_back_has_left_no_trace() -> None:
    before = deploying(ANNA)
    back = take_back(begin(before, "staging", "v42", False, ANNA, at(60)).app, "staging", "v42").app
    assert back == before
    assert back.slots["staging"] == Slot("v42", "1.5.0", at(), promoted=False)
    assert back.slots["production"] == in_production("v41")
    assert back.deployment == before.deployment is not None


def test_a_swap_into_an_empty_production_is_taken_back_to_an_empty_one() -> None:
    before = shop(None, slot("v42"))
    begun_now = begin(before, "staging", "v42", False, ANNA, at())
    assert begun_now.app.slots == {"production": Slot("v42", None, at(), promoted=True), "staging": None}
    assert begun_now.details["swappedOut"] is None
    assert take_back(begun_now.app, "staging", "v42").app == before
    assert swap(begun_now.app, "staging", "v42", at(60)).app.slots == begun_now.app.slots
    with pytest.raises(SwapPending) as caught:
        swap(begun_now.app, "staging", "v41", at(60))
    assert caught.value.details["pendingSwap"]["swappedOut"] is None


def test_a_deployment_that_another_run_holds_is_open_again_for_it_after_a_swap_is_taken_back() -> None:
    before = deploying(ANNA)
    back = take_back(begin(before, "staging", "v42", False, BEN, at(60)).app, "staging", "v42").app
    with pytest.raises(DeploymentInProgress):
        staged(back, "v43", BEN, at(90))
    assert not staged(back, "v42", ANNA, at(90)).changed


def test_a_deployment_whose_time_ran_out_while_a_swap_was_pending_is_over() -> None:
    back = take_back(begun().app, "staging", "v42").app
    assert back.open_deployment(at(3599)) is not None
    assert back.open_deployment(at(3600)) is None


def test_a_deployment_that_was_over_when_a_swap_was_begun_does_not_come_back() -> None:
    pending = begin(deploying(ANNA), "staging", "v42", False, ANNA, at(3600)).app
    assert take_back(pending, "staging", "v42").app.deployment is None


@pytest.mark.parametrize("caller", [ANNA, NO_RUN])
def test_callers_without_a_run_are_not_the_same_run(caller: Caller) -> None:
    pending = begin(deploying(caller), "staging", "v42", False, NO_RUN, at(60)).app
    for again in (NO_RUN, Caller("dora"), ANNA):
        with pytest.raises(SwapPending, match=r"^carla began to swap"):
            begin(pending, "staging", "v42", False, again, at(90))


# Repeated, and after the end


@pytest.mark.parametrize("end", ["Done", "Failed"])
def test_an_outcome_that_is_said_twice_changes_nothing_the_second_time(end: str) -> None:
    ended = DOES[end](begun().app, "v42", "staging", ANNA).app
    again = DOES[end](ended, "V42", "Staging", BEN)
    assert not again.changed
    assert again.app is ended


def test_a_swap_that_was_confirmed_cannot_be_taken_back() -> None:
    done = swap(begun().app, "staging", "v42", at(120)).app
    with pytest.raises(SwapMismatch, match="slot staging of app shop does not hold task hub v42 but v41"):
        take_back(done, "staging", "v42")


def test_a_swap_that_was_never_begun_has_nothing_to_take_back() -> None:
    assert not take_back(deploying(ANNA), "staging", "v42").changed
    with pytest.raises(SwapMismatch):
        take_back(deploying(ANNA), "staging", "v43")
    with pytest.raises(SlotNotFound):
        take_back(deploying(ANNA), "canary", "v42")


def test_a_swap_that_was_taken_back_can_be_begun_again_by_the_same_run_and_by_another() -> None:
    back = take_back(begun().app, "staging", "v42").app
    for caller in (ANNA, BEN):
        again = begin(back, "staging", "v42", False, caller, at(300)).app
        assert again.pending_swap is not None
        assert (again.pending_swap.by, again.pending_swap.started_at) == (caller.by, at(300))
        assert swap(again, "staging", "v42", at(360)).app.slot_of("v42") == "production"


def test_the_same_run_stages_and_swaps_again_after_a_swap_was_taken_back() -> None:
    back = take_back(begun().app, "staging", "v42").app
    assert not staged(back, "v42", ANNA, at(300)).changed
    next_one = staged(back, "v43", ANNA, at(300)).app
    assert [hub.task_hub for hub in next_one.retired] == ["v42"]
    done = swap(begin(next_one, "staging", "v43", False, ANNA, at(360)).app, "staging", "v43", at(420)).app
    assert (done.slot_of("v43"), done.slot_of("v41")) == ("production", "staging")


def test_a_pending_swap_never_expires() -> None:
    a_year = 365 * 86_400
    with pytest.raises(SwapPending):
        begin(begun().app, "staging", "v42", False, BEN, at(a_year))
    with pytest.raises(SwapPending):
        staged(begun().app, "v43", ANNA, at(a_year))


# What depends on the slots while a swap is pending


@pytest.mark.parametrize("caller", [ANNA, BEN, NO_RUN])
@pytest.mark.parametrize("hub", ["v41", "v42", "v43"])
@pytest.mark.parametrize("slot_name", ["staging", "canary"])
@pytest.mark.parametrize("override", [False, True])
def test_nothing_is_staged_while_a_swap_is_pending_not_even_with_force(
    caller: Caller, hub: str, slot_name: str, override: bool
) -> None:
    app = begun(more={"canary": None}).app
    order = Order(hub, None, slot_name, override, override, "hotfix" if override else None)
    assert not needs_verdict(app, order, caller, at(120))
    for verdict in (None, ready()):
        with pytest.raises(SwapPending):
            stage(app, order, caller, verdict, False, at(120))


def test_a_pending_swap_is_refused_with_who_since_when_and_what_to_do() -> None:
    with pytest.raises(SwapPending) as caught:
        staged(begun().app, "v43", BEN, at(120))
    assert caught.value.message == (
        f"anna (run {RUN_7}) began to swap task hub v42 of app shop into production at {format_instant(at(60))} and "
        "has not said how it went, so what production and slot staging hold is not known. Wait for that run. If it is "
        "over, see what the platform holds in production: if it is v42, send PostSwap for it with the outcome Done, "
        "and if not, with the outcome Failed"
    )
    assert caught.value.details == {
        "pendingSwap": {
            "taskHub": "v42",
            "swappedOut": "v41",
            "slot": "staging",
            "startedAt": format_instant(at(60)),
            "by": "anna",
            "runUrl": RUN_7,
            "rollback": False,
        }
    }


@pytest.mark.parametrize("hub", ["v41", "v42"])
@pytest.mark.parametrize("caller", [ANNA, BEN])
def test_nothing_is_abandoned_in_a_slot_whose_swap_is_pending(hub: str, caller: Caller) -> None:
    with pytest.raises(SwapPending):
        abandon(begun().app, hub, "Staging", caller, at(120))


def test_a_deployment_into_another_slot_goes_on_and_is_abandoned_while_a_swap_is_pending() -> None:
    app = staged(shop(in_production(), more={"canary": slot("v43")})).app
    pending = begin(app, "canary", "v43", False, BEN, at(60)).app
    assert not staged(pending, "v42", ANNA, at(90)).changed
    abandoned = abandon(pending, "v42", "staging", ANNA, at(90)).app
    assert abandoned == replace(pending, deployment=None)
    assert take_back(abandoned, "canary", "v43").app == replace(app, deployment=None)


Contents = dict[str, tuple[str, str | None] | None]


def registered(app: App, slots: Contents, policy: Callable[[Policy], Policy] = lambda policy: policy) -> Transition:
    registration = Registration(slots, policy)
    return register(app, registration, dict.fromkeys(replaced_slots(app, registration), ready()), frozenset(), at(120))


@pytest.mark.parametrize(
    "slots",
    [
        {"staging": None},
        {"staging": ("v43", None)},
        {"production": ("v43", None)},
        {"production": None},
        {"staging": ("v41", "1.4.1")},
        {"canary": ("v43", None)},
        {"canary": None, "production": ("v42", None), "staging": ("v42", None)},
        {"qa": None},
        {"qa": ("v43", None)},
    ],
)
def test_no_slot_is_registered_otherwise_while_a_swap_is_pending(slots: Contents) -> None:
    app = begun(more={"canary": None}).app
    assert replaced_slots(app, Registration(slots)) == ()
    with pytest.raises(SwapPending):
        registered(app, slots)


@pytest.mark.parametrize(
    "slots",
    [
        {},
        {"production": ("V42", "1.5.0"), "Staging": ("v41", None), "CANARY": None},
        {"staging": ("v41", "")},
    ],
)
def test_a_registration_that_leaves_the_slots_alone_is_allowed_while_a_swap_is_pending(slots: Contents) -> None:
    app = begun(more={"canary": None}).app
    assert not registered(app, slots).changed
    transition = registered(app, slots, lambda policy: replace(policy, settle_seconds=5))
    assert transition.app == replace(app, policy=Policy(settle_seconds=5))


def test_a_longer_timeout_does_not_bring_back_a_deployment_that_was_over_while_a_swap_was_pending() -> None:
    policy = Policy(deployment_timeout_minutes=1)
    pending = begin(deploying(ANNA, policy), "staging", "v42", False, ANNA, at(30)).app
    longer = Registration(policy=lambda policy: replace(policy, deployment_timeout_minutes=60))
    for now, is_open in ((at(59), True), (at(60), False)):
        app = register(pending, longer, {}, frozenset(), now).app
        assert (take_back(app, "staging", "v42").app.open_deployment(now) is not None) == is_open


@pytest.mark.parametrize(
    "tell",
    [
        lambda app: swap(app, "staging", "v42", at(90), rollback=True),
        lambda app: take_back(app, "staging", "v42", rollback=True),
        lambda app: begin(app, "staging", "v42", True, ANNA, at(90)),
    ],
)
def test_how_a_rollback_went_does_not_settle_a_swap_forward(tell: Callable[[App], Transition]) -> None:
    """Somebody swapped back on the platform: that it went well says that the pending swap is undone."""
    with pytest.raises(SwapPending):
        tell(begun().app)
