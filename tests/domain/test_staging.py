"""PostStaging: what goes into a slot, what it needs, and what it does to the hub that was there."""

from dataclasses import replace

import pytest

from state_api.domain.apps import App, Beneath, Caller, Deployment, Retired, Slot, Transition
from state_api.domain.errors import (
    InvalidRequest,
    SlotNotFound,
    StagingNotReady,
    TaskHubAlreadyUsed,
    TaskHubInUse,
)
from state_api.domain.readiness import Verdict
from state_api.domain.releases import Order, needs_verdict, stage
from state_api.domain.swaps import begin, swap, take_back
from tests.domain.builders import (
    ANNA,
    BEN,
    NO_RUN,
    RUN_7,
    at,
    deploying,
    in_production,
    not_ready,
    ready,
    retired,
    shop,
    slot,
    staged,
)


def put(
    app: App,
    order: Order | None = None,
    caller: Caller = ANNA,
    verdict: Verdict | None = None,
    used: bool = False,
    minutes: float = 0,
) -> Transition:
    """Stage v42 unless told, over what the slot holds, drained unless told."""
    return stage(app, order or Order("v42"), caller, verdict or ready(), used, at(60 * minutes))


# The first time


def test_a_new_hub_goes_into_the_empty_slot_and_opens_a_deployment_for_the_run() -> None:
    app = shop(in_production())
    transition = put(app, Order("v42", "1.5.0"))
    assert transition.app == replace(
        app,
        slots={"production": in_production(), "staging": Slot("v42", "1.5.0", at())},
        deployment=Deployment("v42", "1.5.0", "staging", at(), "anna", RUN_7, f"url:{RUN_7}"),
    )
    assert transition.changed
    assert transition.operation == "PostStaging"
    assert transition.details == {"slot": "staging", "taskHub": "v42", "version": "1.5.0"}
    assert transition.new_hubs == ("v42",)


def test_an_app_that_the_server_does_not_know_yet_can_be_staged() -> None:
    assert put(App("shop")).app.slots == {"production": None, "staging": Slot("v42", None, at())}


def test_a_drained_hub_that_is_staged_over_is_retired() -> None:
    transition = put(shop(in_production(), slot("v40", "1.3.0"), retired=(retired("v39"),)))
    assert transition.app.retired == (retired("v39"), Retired("v40", "1.3.0", at()))
    assert transition.details["retired"] == "v40"


def test_a_hub_can_be_staged_into_another_slot_than_staging() -> None:
    transition = put(shop(more={"canary": None}), Order("v42", slot="canary"))
    assert transition.app.slot_of("v42") == "canary"
    assert transition.app.deployment is not None
    assert transition.app.deployment.slot == "canary"


def test_slot_names_are_case_insensitive_and_keep_the_spelling_they_were_registered_with() -> None:
    transition = put(shop(more={"Canary": None}), Order("v42", slot="cAnArY"))
    assert set(transition.app.slots) == {"production", "staging", "Canary"}
    assert transition.app.slot_of("v42") == "Canary"
    assert transition.details["slot"] == "Canary"


@pytest.mark.parametrize("name", ["production", "Production"])
def test_nothing_is_staged_into_production(name: str) -> None:
    with pytest.raises(InvalidRequest, match="other than production"):
        put(shop(), Order("v42", slot=name))


def test_a_misspelt_slot_is_not_taken_for_an_empty_one() -> None:
    with pytest.raises(SlotNotFound, match="it has production, staging") as caught:
        put(shop(), Order("v42", slot="stagign"))
    assert caught.value.details == {"app": "shop", "slot": "stagign"}


# What is in the slot must have drained


def test_a_hub_that_has_not_drained_is_not_staged_over() -> None:
    verdict = not_ready("v40")
    with pytest.raises(StagingNotReady) as caught:
        put(shop(staging=slot("v40")), verdict=verdict)
    assert caught.value.message == (f"slot staging of app shop must not be overwritten: {verdict.reasons[0].message}")
    assert caught.value.details == {
        "taskHub": "v40",
        "slot": "staging",
        "hasRunning": True,
        "activeCount": 1,
        "reasons": [{"code": "InstancesActive", "message": verdict.reasons[0].message}],
        "retryAfterSeconds": 10,
    }


def test_force_stages_over_a_hub_that_has_not_drained_and_goes_on_record() -> None:
    verdict = not_ready("v40")
    order = Order("v42", force=True, reason="hotfix")
    transition = put(shop(staging=slot("v40")), order, verdict=verdict)
    assert transition.app.slot_of("v42") == "staging"
    assert [hub.task_hub for hub in transition.app.retired] == ["v40"]
    assert transition.details["forcedOver"] == [verdict.reasons[0].message]


def test_force_that_was_not_needed_is_not_on_record_as_forced() -> None:
    assert "forcedOver" not in put(shop(), Order("v42", force=True, reason="hotfix")).details


@pytest.mark.parametrize("reason", [None, "", " \t"])
@pytest.mark.parametrize("order", [Order("v42", force=True), Order("v42", take_over=True)], ids=["force", "take over"])
def test_force_and_take_over_need_a_reason(order: Order, reason: str | None) -> None:
    with pytest.raises(InvalidRequest, match="give a reason"):
        put(shop(), replace(order, reason=reason))


def test_force_does_not_bring_back_a_hub_that_was_used() -> None:
    with pytest.raises(TaskHubAlreadyUsed):
        put(shop(), Order("v42", force=True, reason="hotfix"), used=True)


# The hub must be new


@pytest.mark.parametrize("name", ["v41", "V41"])
def test_a_hub_in_production_is_not_staged(name: str) -> None:
    with pytest.raises(TaskHubInUse, match="slot production of app shop holds") as caught:
        put(shop(in_production("v41")), Order(name))
    assert caught.value.details == {"app": "shop", "slot": "production", "taskHub": name}


def test_a_hub_in_a_third_slot_is_not_staged() -> None:
    with pytest.raises(TaskHubInUse, match="slot canary"):
        put(shop(more={"canary": slot("v42")}))


@pytest.mark.parametrize("name", ["v40", "V40"])
def test_a_retired_hub_is_not_staged_again(name: str) -> None:
    with pytest.raises(TaskHubAlreadyUsed) as caught:
        put(shop(retired=(retired("v39"), retired("v40"))), Order(name))
    assert caught.value.details == {"taskHub": name}


def test_a_hub_that_any_app_used_before_is_not_staged() -> None:
    with pytest.raises(TaskHubAlreadyUsed, match="v42 was used before"):
        put(shop(), used=True)


def test_a_hub_that_was_swapped_out_of_production_is_never_staged_again() -> None:
    with pytest.raises(TaskHubInUse, match="slot staging"):
        put(shop(in_production("v42"), slot("v41", promoted=True)), Order("v41"))


# The same run again


def test_the_same_hub_staged_again_by_the_same_run_changes_nothing_and_needs_no_verdict() -> None:
    app = deploying(ANNA)
    assert not needs_verdict(app, Order("v42"), ANNA, at(60))
    transition = stage(app, Order("v42"), ANNA, None, False, at(60))
    assert transition.app is app
    assert not transition.changed
    assert transition.new_hubs == ()


def test_the_run_is_known_by_its_url_whoever_calls() -> None:
    assert not needs_verdict(deploying(ANNA), Order("v42"), Caller("robot", RUN_7), at(60))


def test_the_same_hub_staged_again_is_refused_while_something_is_active_beneath_it() -> None:
    """The caller goes on to deploy over it."""
    app = put(shop(staging=Slot("v41", None, at(), promoted=True)), Order("v42")).app
    with pytest.raises(StagingNotReady):
        stage(app, Order("v42"), ANNA, not_ready(), False, at(60))
    assert not stage(app, Order("v42"), ANNA, ready(), False, at(60)).changed
    assert not stage(app, Order("v42", force=True, reason="test"), ANNA, not_ready(), False, at(60)).changed


def test_the_same_hub_staged_again_in_another_case_changes_nothing() -> None:
    assert not put(deploying(ANNA), Order("V42", slot="STAGING")).changed


def test_a_caller_without_a_run_url_is_a_run_of_its_own_per_hub_name() -> None:
    app = deploying(NO_RUN)
    assert not needs_verdict(app, Order("V42"), NO_RUN, at(60))
    assert needs_verdict(app, Order("v43"), NO_RUN, at(60))


@pytest.mark.parametrize(
    ("app", "order", "caller"),
    [
        (shop(), Order("v42"), ANNA),
        (deploying(ANNA), Order("v43"), ANNA),
        (deploying(ANNA), Order("v42"), BEN),
        (deploying(ANNA), Order("v42", slot="canary"), ANNA),
    ],
    ids=["nothing is open", "another hub", "another run", "another slot"],
)
def test_anything_else_needs_a_verdict(app: App, order: Order, caller: Caller) -> None:
    assert needs_verdict(app, order, caller, at(60))


def test_a_verdict_that_is_needed_cannot_be_left_out() -> None:
    with pytest.raises(AssertionError, match="a verdict is needed"):
        stage(shop(), Order("v42"), ANNA, None, False, at())


def test_what_was_staged_over_may_still_be_in_the_slot_until_the_new_hub_is_promoted() -> None:
    app = shop(staging=Slot("v41", None, at(), promoted=True))
    app = put(put(app, Order("v42")).app, Order("v43"), minutes=5).app
    assert [app.may_carry(hub) for hub in ("v41", "V42", "v43", "v40")] == ["staging", "staging", None, None]
    pending = begin(app, "staging", "v43", False, ANNA, at(360)).app
    assert pending.may_carry("v41") == "staging"
    assert take_back(pending, "staging", "v43").app.may_carry("v41") == "staging"
    assert swap(pending, "staging", "v43", at(400)).app.may_carry("v41") is None


def test_staging_the_same_hub_again_forgets_nothing_beneath() -> None:
    app = put(shop(staging=Slot("v41", None, at(), promoted=True)), Order("v42"), minutes=1).app
    again = put(replace(app, deployment=None), Order("v42"), minutes=90).app
    assert again.slots["staging"] == Slot("v42", None, at(60), beneath=(Beneath("v41", promoted=True),))


def test_the_same_run_may_stage_under_a_new_name_and_retires_the_hub_it_staged_before() -> None:
    transition = put(deploying(ANNA), Order("v43", "1.5.1"), minutes=5)
    assert transition.app.slots["staging"] == Slot("v43", "1.5.1", at(300), beneath=(Beneath("v42", promoted=False),))
    assert transition.app.retired == (Retired("v42", "1.5.0", at(300)),)
    assert transition.app.deployment == Deployment("v43", "1.5.1", "staging", at(300), "anna", RUN_7, f"url:{RUN_7}")
    assert "takenOverFrom" not in transition.details


def test_the_same_run_waits_until_the_hub_it_staged_before_has_drained() -> None:
    with pytest.raises(StagingNotReady):
        put(deploying(ANNA), Order("v43"), verdict=not_ready("v42"))


def test_the_same_run_may_go_on_to_another_slot_and_leaves_its_first_hub_where_it_is() -> None:
    app = staged(shop(more={"canary": None}), "v42").app
    transition = put(app, Order("v43", slot="canary"))
    assert transition.app.slot_of("v42") == "staging"
    assert transition.app.slot_of("v43") == "canary"
    assert transition.app.retired == ()


# A hub that was staged and abandoned


def test_an_abandoned_hub_is_staged_again_and_stays_where_it_is() -> None:
    app = shop(staging=slot("v42", "1.5.0", since=-3600))
    transition = put(app, Order("V42", "1.5.1"), BEN, used=True)
    assert transition.app.slots["staging"] == Slot("v42", "1.5.1", at(-3600))
    without_version = put(app, Order("v42"), BEN, used=True)
    assert without_version.app.slots["staging"] == Slot("v42", "1.5.0", at(-3600))
    assert transition.app.deployment is not None
    assert transition.app.deployment.by == "ben"
    assert transition.app.retired == ()
    assert transition.new_hubs == ()
    assert "retired" not in transition.details


def test_an_abandoned_hub_is_not_staged_again_before_it_has_drained() -> None:
    with pytest.raises(StagingNotReady):
        put(shop(staging=slot("v42")), Order("v42"), BEN, not_ready("v42"))


def test_an_abandoned_hub_is_staged_again_by_force() -> None:
    order = Order("v42", force=True, reason="hotfix")
    transition = put(shop(staging=slot("v42")), order, BEN, not_ready("v42"))
    assert transition.app.slot_of("v42") == "staging"
    assert transition.app.retired == ()
    assert transition.details["forcedOver"]
