"""A pending swap: how it ends, and what is refused while its outcome is unknown."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from state_api.domain.errors import (
    DeploymentInProgress,
    InvalidRequest,
    SlotNotFound,
    StateError,
    SwapMismatch,
    SwapPending,
)
from state_api.domain.instants import format_instant
from state_api.domain.readiness.policy import Policy
from state_api.domain.releases.apps import App, Caller, Slot, Transition
from state_api.domain.releases.commands import SwapCommand, SwapOutcome
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.registration import find_replaced_slots
from state_api.domain.releases.staging import needs_verdict
from state_api.domain.releases.swaps import swap_slots
from tests.domain.builders import (
    ANNA,
    BEN,
    CALLER_WITHOUT_RUN,
    RUN_7_URL,
    build_app,
    build_production_slot,
    build_ready_verdict,
    build_slot,
    noon_plus,
)
from tests.domain.transitions import (
    abandon_staging,
    begin_swap,
    begin_swap_of_staged_hub,
    build_app_with_open_deployment,
    build_register_command,
    build_stage_command,
    confirm_swap,
    register,
    revert_swap,
    stage,
    stage_new_hub,
    swap_at_once,
)

# Every PostSwap while a swap is pending

SWAP_OUTCOMES = {
    "Pending": lambda app, hub, slot, caller: begin_swap(app, hub, noon_plus(120), slot=slot, caller=caller),
    "Done": lambda app, hub, slot, caller: confirm_swap(app, hub, noon_plus(120), slot=slot),
    "Failed": lambda app, hub, slot, caller: revert_swap(app, hub, slot=slot),
}


@pytest.mark.parametrize(
    ("outcome", "hub", "slot_name", "caller", "expected"),
    [
        ("Pending", "v42", "staging", ANNA, "unchanged"),
        ("Pending", "V42", "Staging", ANNA, "unchanged"),
        ("Pending", "v42", "staging", BEN, SwapPending),
        ("Pending", "v42", "staging", CALLER_WITHOUT_RUN, SwapPending),
        ("Pending", "v41", "staging", ANNA, SwapPending),
        ("Pending", "v43", "staging", ANNA, SwapPending),
        ("Pending", "v43", "canary", ANNA, SwapPending),
        ("Pending", "v42", "canary", ANNA, SwapPending),
        ("Pending", "v42", "production", ANNA, InvalidRequest),
        ("Done", "v42", "staging", ANNA, "confirmed"),
        ("Done", "V42", "Staging", BEN, "confirmed"),
        ("Done", "v41", "staging", ANNA, SwapPending),
        ("Done", "V41", "STAGING", CALLER_WITHOUT_RUN, SwapPending),
        ("Done", "v43", "staging", ANNA, SwapPending),
        ("Done", "v43", "canary", ANNA, SwapPending),
        ("Done", "v42", "canary", ANNA, SwapPending),
        ("Done", "v42", "production", ANNA, InvalidRequest),
        ("Failed", "v42", "staging", ANNA, "reverted"),
        ("Failed", "V42", "Staging", BEN, "reverted"),
        ("Failed", "v41", "staging", ANNA, SwapPending),
        ("Failed", "v43", "staging", ANNA, SwapPending),
        ("Failed", "v43", "canary", ANNA, SwapPending),
        ("Failed", "v42", "production", ANNA, InvalidRequest),
    ],
)
def test_a_pending_swap_ends_only_with_a_report_on_that_swap(
    outcome: str, hub: str, slot_name: str, caller: Caller, expected: str | type[StateError]
) -> None:
    before = build_app_with_open_deployment(ANNA, more_slots={"canary": build_slot("v43")})
    pending = begin_swap(before, "v42", noon_plus(60)).app
    if not isinstance(expected, str):
        with pytest.raises(expected):
            SWAP_OUTCOMES[outcome](pending, hub, slot_name, caller)
        return
    transition = SWAP_OUTCOMES[outcome](pending, hub, slot_name, caller)
    apps = {"unchanged": pending, "confirmed": replace(pending, pending_swap=None), "reverted": before}
    assert transition.app == apps[expected]
    assert transition.changed == (expected != "unchanged")
    outcomes = {"unchanged": None, "confirmed": "Done", "reverted": "Failed"}
    assert transition.details.get("outcome") == outcomes[expected]
    if transition.changed:
        assert transition.details == {
            "outcome": outcomes[expected],
            "slot": "staging",
            "production": "v42",
            "swappedOut": "v41",
        }


def test_a_confirmed_swap_keeps_the_slots_as_they_were_when_it_began() -> None:
    confirmed = swap_at_once(begin_swap_of_staged_hub().app, "v42", noon_plus(120)).app
    assert confirmed.slots == {
        "production": Slot("v42", "1.5.0", noon_plus(60), promoted=True),
        "staging": Slot("v41", "1.4.0", noon_plus(60), promoted=True),
    }
    assert confirmed.deployment is None


def test_a_reverted_swap_leaves_the_app_as_it_was_before() -> None:
    before = build_app_with_open_deployment(ANNA)
    reverted = revert_swap(begin_swap(before, "v42", noon_plus(60)).app, "v42").app
    assert reverted == before
    assert reverted.slots["staging"] == Slot("v42", "1.5.0", noon_plus(), promoted=False)
    assert reverted.slots["production"] == build_production_slot("v41")
    assert reverted.deployment == before.deployment is not None


def test_a_reverted_swap_into_an_empty_production_empties_it_again() -> None:
    before = build_app(None, build_slot("v42"))
    begun = begin_swap(before, "v42", noon_plus())
    assert begun.app.slots == {"production": Slot("v42", None, noon_plus(), promoted=True), "staging": None}
    assert begun.details["swappedOut"] is None
    assert revert_swap(begun.app, "v42").app == before
    assert swap_at_once(begun.app, "v42", noon_plus(60)).app.slots == begun.app.slots
    with pytest.raises(SwapPending) as caught:
        swap_at_once(begun.app, "v41", noon_plus(60))
    assert caught.value.details["pendingSwap"]["swappedOut"] is None


def test_a_reverted_swap_reopens_the_deployment_of_the_run_that_held_it() -> None:
    before = build_app_with_open_deployment(ANNA)
    reverted = revert_swap(begin_swap(before, "v42", noon_plus(60), caller=BEN).app, "v42").app
    with pytest.raises(DeploymentInProgress):
        stage_new_hub(reverted, "v43", BEN, noon_plus(90))
    assert not stage_new_hub(reverted, "v42", ANNA, noon_plus(90)).changed


def test_a_deployment_can_expire_while_a_swap_is_pending() -> None:
    reverted = revert_swap(begin_swap_of_staged_hub().app, "v42").app
    assert reverted.get_open_deployment(noon_plus(3599)) is not None
    assert reverted.get_open_deployment(noon_plus(3600)) is None


def test_a_reverted_swap_does_not_reopen_a_deployment_that_had_expired_before() -> None:
    pending = begin_swap(build_app_with_open_deployment(ANNA), "v42", noon_plus(3600)).app
    assert revert_swap(pending, "v42").app.deployment is None


@pytest.mark.parametrize("caller", [ANNA, CALLER_WITHOUT_RUN])
def test_a_caller_without_a_run_cannot_repeat_the_beginning_of_a_swap(caller: Caller) -> None:
    pending = begin_swap(build_app_with_open_deployment(caller), "v42", noon_plus(60), caller=CALLER_WITHOUT_RUN).app
    for again in (CALLER_WITHOUT_RUN, Caller("dora"), ANNA):
        with pytest.raises(SwapPending, match=r"^carla began to swap"):
            begin_swap(pending, "v42", noon_plus(90), caller=again)


# Repeated requests, and requests after the end


@pytest.mark.parametrize("end", ["Done", "Failed"])
def test_a_repeated_outcome_changes_nothing(end: str) -> None:
    ended = SWAP_OUTCOMES[end](begin_swap_of_staged_hub().app, "v42", "staging", ANNA).app
    again = SWAP_OUTCOMES[end](ended, "V42", "Staging", BEN)
    assert not again.changed
    assert again.app is ended


def test_a_late_report_of_done_is_refused_after_the_swap_was_swapped_back() -> None:
    """The report may be delayed, or repeated by an old pipeline.

    If it were accepted, the record would show the task hub of the slot in production. The next version would then be
    deployed over running work."""
    confirmed = confirm_swap(begin_swap_of_staged_hub().app, "v42", noon_plus(90)).app
    swapped_back = swap_at_once(confirmed, "v41", noon_plus(120), rollback=True).app
    with pytest.raises(SwapMismatch, match="v42 in slot staging of app shop was swapped out of production") as caught:
        confirm_swap(swapped_back, "V42", noon_plus(180), slot="Staging")
    assert caught.value.details == {"taskHub": "v42", "slots": {"production": "v41", "staging": "v42"}}
    assert (
        confirm_swap(swapped_back, "v42", noon_plus(180), rollback=True).app.task_hubs_by_slot()
        == confirmed.task_hubs_by_slot()
    )
    again = begin_swap(swapped_back, "v42", noon_plus(180)).app
    assert confirm_swap(again, "v42", noon_plus(240)).app.task_hubs_by_slot() == confirmed.task_hubs_by_slot()


def test_reporting_done_without_beginning_promotes_a_hub_that_was_never_in_production() -> None:
    assert confirm_swap(build_app_with_open_deployment(ANNA), "v42", noon_plus(60)) == swap_at_once(
        build_app_with_open_deployment(ANNA), "v42", noon_plus(60)
    )


@pytest.mark.parametrize("slot_name", ["production", "canary"])
def test_reporting_done_for_production_or_an_unknown_slot_is_refused(slot_name: str) -> None:
    with pytest.raises((InvalidRequest, SlotNotFound)):
        confirm_swap(build_app_with_open_deployment(ANNA), "v42", noon_plus(60), slot=slot_name)


def test_reporting_done_for_a_hub_in_production_is_refused_if_the_slot_does_not_exist() -> None:
    app = swap_at_once(build_app_with_open_deployment(ANNA), "v42", noon_plus(60)).app
    assert not confirm_swap(app, "v42", noon_plus(120)).changed
    with pytest.raises(SlotNotFound):
        confirm_swap(app, "v42", noon_plus(120), slot="canary")


def test_a_confirmed_swap_cannot_be_reverted() -> None:
    confirmed = swap_at_once(begin_swap_of_staged_hub().app, "v42", noon_plus(120)).app
    with pytest.raises(SwapMismatch, match="slot staging of app shop does not hold task hub v42 but v41"):
        revert_swap(confirmed, "v42")


def test_reporting_failed_without_a_pending_swap_changes_nothing_or_is_refused() -> None:
    assert not revert_swap(build_app_with_open_deployment(ANNA), "v42").changed
    with pytest.raises(SwapMismatch):
        revert_swap(build_app_with_open_deployment(ANNA), "v43")
    with pytest.raises(SlotNotFound):
        revert_swap(build_app_with_open_deployment(ANNA), "v42", slot="canary")


def test_any_run_can_begin_a_reverted_swap_again() -> None:
    reverted = revert_swap(begin_swap_of_staged_hub().app, "v42").app
    for caller in (ANNA, BEN):
        again = begin_swap(reverted, "v42", noon_plus(300), caller=caller).app
        assert again.pending_swap is not None
        assert (again.pending_swap.started_by, again.pending_swap.started_at) == (caller.name, noon_plus(300))
        assert swap_at_once(again, "v42", noon_plus(360)).app.slot_holding("v42") == "production"


def test_a_run_can_stage_and_swap_again_after_its_swap_was_reverted() -> None:
    reverted = revert_swap(begin_swap_of_staged_hub().app, "v42").app
    assert not stage_new_hub(reverted, "v42", ANNA, noon_plus(300)).changed
    next_app = stage_new_hub(reverted, "v43", ANNA, noon_plus(300)).app
    assert [hub.task_hub for hub in next_app.retired] == ["v42"]
    confirmed = swap_at_once(begin_swap(next_app, "v43", noon_plus(360)).app, "v43", noon_plus(420)).app
    assert (confirmed.slot_holding("v43"), confirmed.slot_holding("v41")) == ("production", "staging")


def test_a_pending_swap_never_expires() -> None:
    a_year = 365 * 86_400
    with pytest.raises(SwapPending):
        begin_swap(begin_swap_of_staged_hub().app, "v42", noon_plus(a_year), caller=BEN)
    with pytest.raises(SwapPending):
        stage_new_hub(begin_swap_of_staged_hub().app, "v43", ANNA, noon_plus(a_year))


# Other operations while a swap is pending


@pytest.mark.parametrize("caller", [ANNA, BEN, CALLER_WITHOUT_RUN])
@pytest.mark.parametrize("hub", ["v41", "v42", "v43"])
@pytest.mark.parametrize("slot_name", ["staging", "canary"])
@pytest.mark.parametrize("override", [False, True])
def test_nothing_is_staged_while_a_swap_is_pending_not_even_with_force(
    caller: Caller, hub: str, slot_name: str, *, override: bool
) -> None:
    app = begin_swap_of_staged_hub(more_slots={"canary": None}).app
    command = build_stage_command(
        hub, caller=caller, slot=slot_name, force=override, take_over=override, reason="hotfix" if override else None
    )
    assert not needs_verdict(app, command, noon_plus(120))
    for verdict in (None, build_ready_verdict()):
        with pytest.raises(SwapPending):
            stage(app, command, verdict=verdict, now=noon_plus(120))


def test_the_refusal_for_a_pending_swap_names_its_caller_start_and_next_step() -> None:
    with pytest.raises(SwapPending) as caught:
        stage_new_hub(begin_swap_of_staged_hub().app, "v43", BEN, noon_plus(120))
    assert caught.value.message == (
        f"anna (run {RUN_7_URL}) began to swap task hub v42 of app shop into production at "
        f"{format_instant(noon_plus(60))} and has not reported its outcome, so it is unknown what production and slot "
        "staging hold. Wait for that run. If it has ended, look up which task hub the platform has in production: "
        "if it is v42, send PostSwap for it with the outcome Done, otherwise with the outcome Failed, "
        "and with the ETag of GetApp in If-Match"
    )
    assert caught.value.details == {
        "pendingSwap": {
            "taskHub": "v42",
            "swappedOut": "v41",
            "slot": "staging",
            "startedAt": format_instant(noon_plus(60)),
            "by": "anna",
            "runUrl": RUN_7_URL,
            "rollback": False,
        }
    }


@pytest.mark.parametrize("outcome", [SwapOutcome.DONE, SwapOutcome.FAILED, None])
@pytest.mark.parametrize("caller", [BEN, Caller("ops", None)])
def test_a_caller_who_did_not_begin_a_swap_ends_it_only_by_naming_the_revision(
    outcome: SwapOutcome | None, caller: Caller
) -> None:
    """It may be the repeated outcome of an earlier swap of the same task hub, whose response was lost."""
    app = begin_swap_of_staged_hub().app
    command = SwapCommand(caller=caller, task_hub="v42", outcome=outcome)
    refusal = swap_slots(app, command, noon_plus(120))
    assert isinstance(refusal, Refusal)
    assert refusal.error is SwapPending
    ended = swap_slots(app, replace(command, is_conditional=True), noon_plus(120))
    assert isinstance(ended, Transition)
    assert ended.app.pending_swap is None


@pytest.mark.parametrize("outcome", [SwapOutcome.DONE, SwapOutcome.FAILED, None])
@pytest.mark.parametrize("caller", [ANNA, Caller("anna", None)])
def test_the_run_that_began_a_swap_ends_it_without_naming_the_revision(
    outcome: SwapOutcome | None, caller: Caller
) -> None:
    """Callers without a run cannot be distinguished, and count as one."""
    app = begin_swap(build_app_with_open_deployment(), "v42", noon_plus(60), caller=caller).app
    ended = swap_slots(app, SwapCommand(caller=caller, task_hub="v42", outcome=outcome), noon_plus(120))
    assert isinstance(ended, Transition)
    assert ended.app.pending_swap is None


@pytest.mark.parametrize("hub", ["v41", "v42"])
@pytest.mark.parametrize("caller", [ANNA, BEN])
def test_no_deployment_is_abandoned_in_a_slot_whose_swap_is_pending(hub: str, caller: Caller) -> None:
    with pytest.raises(SwapPending):
        abandon_staging(begin_swap_of_staged_hub().app, hub, noon_plus(120), slot="Staging", caller=caller)


def test_a_deployment_into_another_slot_stays_open_while_a_swap_is_pending_and_can_be_abandoned() -> None:
    app = stage_new_hub(build_app(build_production_slot(), more_slots={"canary": build_slot("v43")})).app
    pending = begin_swap(app, "v43", noon_plus(60), slot="canary", caller=BEN).app
    assert not stage_new_hub(pending, "v42", ANNA, noon_plus(90)).changed
    abandoned = abandon_staging(pending, "v42", noon_plus(90)).app
    assert abandoned == replace(pending, deployment=None)
    assert revert_swap(abandoned, "v43", slot="canary").app == replace(app, deployment=None)


SlotContents = dict[str, tuple[str, str | None] | None]


def register_slots(
    app: App, slots: SlotContents, update_policy: Callable[[Policy], Policy] = lambda policy: policy
) -> Transition:
    """Register slot contents two minutes after noon. Task hubs that are replaced have drained."""
    registration = build_register_command(slots, update_policy=update_policy)
    return register(
        app,
        registration,
        verdicts=dict.fromkeys(find_replaced_slots(app, registration), build_ready_verdict()),
        now=noon_plus(120),
    )


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
def test_no_registration_changes_a_slot_while_a_swap_is_pending(slots: SlotContents) -> None:
    app = begin_swap_of_staged_hub(more_slots={"canary": None}).app
    assert find_replaced_slots(app, build_register_command(slots)) == ()
    with pytest.raises(SwapPending):
        register_slots(app, slots)


@pytest.mark.parametrize(
    "slots",
    [
        {},
        {"production": ("V42", "1.5.0"), "Staging": ("v41", None), "CANARY": None},
        {"staging": ("v41", "")},
    ],
)
def test_a_registration_that_keeps_the_slots_is_allowed_while_a_swap_is_pending(slots: SlotContents) -> None:
    app = begin_swap_of_staged_hub(more_slots={"canary": None}).app
    assert not register_slots(app, slots).changed
    transition = register_slots(app, slots, lambda policy: replace(policy, settle_seconds=5))
    assert transition.app == replace(app, policy=Policy(settle_seconds=5))


def test_a_longer_timeout_does_not_reopen_a_deployment_that_expired_while_a_swap_was_pending() -> None:
    policy = Policy(deployment_timeout_minutes=1)
    pending = begin_swap(build_app_with_open_deployment(ANNA, policy), "v42", noon_plus(30)).app
    longer = build_register_command(update_policy=lambda policy: replace(policy, deployment_timeout_minutes=60))
    for now, is_open in ((noon_plus(59), True), (noon_plus(60), False)):
        app = register(pending, longer, now=now).app
        assert (revert_swap(app, "v42").app.get_open_deployment(now) is not None) == is_open


@pytest.mark.parametrize(
    "report",
    [
        lambda app: confirm_swap(app, "v42", noon_plus(90), rollback=True),
        lambda app: swap_at_once(app, "v42", noon_plus(90), rollback=True),
        lambda app: revert_swap(app, "v42", rollback=True),
        lambda app: begin_swap(app, "v42", noon_plus(90), rollback=True),
    ],
)
def test_the_outcome_of_a_rollback_does_not_end_a_pending_swap_forward(report: Callable[[App], Transition]) -> None:
    """A rollback that is done means that the pending swap was undone."""
    with pytest.raises(SwapPending):
        report(begin_swap_of_staged_hub().app)
