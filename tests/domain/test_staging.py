"""PostStaging: which task hubs may be staged into a slot, and how the task hub that the slot held is retired."""

from dataclasses import replace

import pytest

from state_api.domain.errors import (
    InvalidRequest,
    SlotNotFound,
    StagingNotReady,
    TaskHubAlreadyUsed,
    TaskHubInUse,
)
from state_api.domain.releases.apps import App, Caller, Deployment, PriorHub, RetiredHub, Slot
from state_api.domain.releases.commands import StageCommand
from state_api.domain.releases.staging import needs_verdict
from tests.domain.builders import (
    ANNA,
    BEN,
    CALLER_WITHOUT_RUN,
    RUN_7_URL,
    build_app,
    build_not_ready_verdict,
    build_production_slot,
    build_retired_hub,
    build_slot,
    noon_plus,
)
from tests.domain.transitions import (
    begin_swap,
    build_app_with_open_deployment,
    build_stage_command,
    revert_swap,
    stage,
    stage_new_hub,
    swap_at_once,
)

# A new task hub


def test_staging_puts_a_new_hub_into_the_empty_slot_and_opens_a_deployment_for_the_run() -> None:
    app = build_app(build_production_slot())
    transition = stage(app, build_stage_command("v42", "1.5.0"))
    assert transition.app == replace(
        app,
        slots={"production": build_production_slot(), "staging": Slot("v42", "1.5.0", noon_plus())},
        deployment=Deployment("v42", "1.5.0", "staging", noon_plus(), "anna", RUN_7_URL, f"url:{RUN_7_URL}"),
    )
    assert transition.changed
    assert transition.operation == "PostStaging"
    assert transition.details == {"slot": "staging", "taskHub": "v42", "version": "1.5.0"}
    assert transition.new_hubs == ("v42",)


def test_staging_creates_an_app_that_the_server_does_not_know() -> None:
    assert stage(App("shop")).app.slots == {"production": None, "staging": Slot("v42", None, noon_plus())}


def test_staging_over_a_drained_hub_retires_it() -> None:
    transition = stage(
        build_app(build_production_slot(), build_slot("v40", "1.3.0"), retired=(build_retired_hub("v39"),))
    )
    assert transition.app.retired == (build_retired_hub("v39"), RetiredHub("v40", "1.3.0", noon_plus()))
    assert transition.details["retired"] == "v40"


def test_a_hub_can_be_staged_into_any_slot_but_production() -> None:
    transition = stage(build_app(more_slots={"canary": None}), build_stage_command("v42", slot="canary"))
    assert transition.app.slot_holding("v42") == "canary"
    assert transition.app.deployment is not None
    assert transition.app.deployment.slot == "canary"


def test_a_slot_name_is_case_insensitive_and_keeps_its_registered_spelling() -> None:
    transition = stage(build_app(more_slots={"Canary": None}), build_stage_command("v42", slot="cAnArY"))
    assert set(transition.app.slots) == {"production", "staging", "Canary"}
    assert transition.app.slot_holding("v42") == "Canary"
    assert transition.details["slot"] == "Canary"


@pytest.mark.parametrize("name", ["production", "Production"])
def test_nothing_is_staged_into_production(name: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be staged into production"):
        stage(build_app(), build_stage_command("v42", slot=name))


def test_staging_into_a_slot_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SlotNotFound, match="it has production, staging") as caught:
        stage(build_app(), build_stage_command("v42", slot="stagign"))
    assert caught.value.details == {"app": "shop", "slot": "stagign"}


# The slot must have drained


def test_a_hub_that_has_not_drained_is_not_staged_over() -> None:
    verdict = build_not_ready_verdict("v40")
    with pytest.raises(StagingNotReady) as caught:
        stage(build_app(staging=build_slot("v40")), verdict=verdict)
    assert caught.value.message == (
        f"slot staging of app shop must not be overwritten: {verdict.reasons[0].message}. Retry once it has "
        "drained, or stage with force and a reason"
    )
    assert caught.value.details == {
        "taskHub": "v40",
        "slot": "staging",
        "hasRunning": True,
        "activeCount": 1,
        "reasons": [{"code": "InstancesActive", "message": verdict.reasons[0].message}],
        "retryAfterSeconds": 10,
    }


def test_force_stages_over_a_hub_that_has_not_drained_and_is_recorded() -> None:
    verdict = build_not_ready_verdict("v40")
    command = build_stage_command("v42", force=True, reason="hotfix")
    transition = stage(build_app(staging=build_slot("v40")), command, verdict=verdict)
    assert transition.app.slot_holding("v42") == "staging"
    assert [hub.task_hub for hub in transition.app.retired] == ["v40"]
    assert transition.details["forcedOver"] == [verdict.reasons[0].message]


def test_force_that_was_not_needed_is_not_recorded() -> None:
    assert "forcedOver" not in stage(build_app(), build_stage_command("v42", force=True, reason="hotfix")).details


@pytest.mark.parametrize("reason", [None, "", " \t"])
@pytest.mark.parametrize(
    "command",
    [build_stage_command("v42", force=True), build_stage_command("v42", take_over=True)],
    ids=["force", "take over"],
)
def test_force_and_take_over_need_a_reason(command: StageCommand, reason: str | None) -> None:
    with pytest.raises(InvalidRequest, match="goes into the audit log: send a reason"):
        stage(build_app(), replace(command, reason=reason))


def test_force_does_not_stage_a_hub_that_was_used_before() -> None:
    with pytest.raises(TaskHubAlreadyUsed):
        stage(build_app(), build_stage_command("v42", force=True, reason="hotfix"), used_before=True)


# The task hub must be new


@pytest.mark.parametrize("name", ["v41", "V41"])
def test_a_hub_in_production_is_not_staged(name: str) -> None:
    with pytest.raises(TaskHubInUse, match="slot production of app shop holds") as caught:
        stage(build_app(build_production_slot("v41")), build_stage_command(name))
    assert caught.value.details == {"app": "shop", "slot": "production", "taskHub": name}


def test_a_hub_in_a_third_slot_is_not_staged() -> None:
    with pytest.raises(TaskHubInUse, match="slot canary"):
        stage(build_app(more_slots={"canary": build_slot("v42")}))


@pytest.mark.parametrize("name", ["v40", "V40"])
def test_a_retired_hub_is_not_staged_again(name: str) -> None:
    with pytest.raises(TaskHubAlreadyUsed) as caught:
        stage(build_app(retired=(build_retired_hub("v39"), build_retired_hub("v40"))), build_stage_command(name))
    assert caught.value.details == {"taskHub": name}


def test_a_hub_that_any_app_used_before_is_not_staged() -> None:
    with pytest.raises(TaskHubAlreadyUsed, match="v42 was used before"):
        stage(build_app(), used_before=True)


def test_a_hub_that_was_swapped_out_of_production_is_never_staged_again() -> None:
    with pytest.raises(TaskHubInUse, match="slot staging"):
        stage(build_app(build_production_slot("v42"), build_slot("v41", promoted=True)), build_stage_command("v41"))


# The same run again


def test_the_same_hub_staged_again_by_the_same_run_changes_nothing_and_needs_no_verdict() -> None:
    app = build_app_with_open_deployment(ANNA)
    assert not needs_verdict(app, build_stage_command("v42"), noon_plus(60))
    transition = stage(app, build_stage_command("v42"), verdict=None, now=noon_plus(60))
    assert transition.app is app
    assert not transition.changed
    assert transition.new_hubs == ()


def test_a_run_is_identified_by_its_url_and_not_by_the_caller() -> None:
    assert not needs_verdict(
        build_app_with_open_deployment(ANNA),
        build_stage_command("v42", caller=Caller("robot", RUN_7_URL)),
        noon_plus(60),
    )


def test_staging_the_same_hub_again_is_refused_while_a_prior_hub_is_active() -> None:
    """The caller would otherwise deploy over the prior task hub."""
    app = stage(build_app(staging=Slot("v41", None, noon_plus(), promoted=True))).app
    with pytest.raises(StagingNotReady):
        stage(app, build_stage_command("v42"), verdict=build_not_ready_verdict(), now=noon_plus(60))
    assert not stage(app, build_stage_command("v42"), now=noon_plus(60)).changed
    assert not stage(
        app, build_stage_command("v42", force=True, reason="test"), verdict=build_not_ready_verdict(), now=noon_plus(60)
    ).changed


def test_the_same_hub_staged_again_in_another_case_changes_nothing() -> None:
    assert not stage(build_app_with_open_deployment(ANNA), build_stage_command("V42", slot="STAGING")).changed


def test_callers_without_a_run_url_are_one_run_per_hub_name() -> None:
    app = build_app_with_open_deployment(CALLER_WITHOUT_RUN)
    assert not needs_verdict(app, build_stage_command("V42", caller=CALLER_WITHOUT_RUN), noon_plus(60))
    assert needs_verdict(app, build_stage_command("v43", caller=CALLER_WITHOUT_RUN), noon_plus(60))


@pytest.mark.parametrize(
    ("app", "command", "caller"),
    [
        (build_app(), build_stage_command("v42"), ANNA),
        (build_app_with_open_deployment(ANNA), build_stage_command("v43"), ANNA),
        (build_app_with_open_deployment(ANNA), build_stage_command("v42"), BEN),
        (build_app_with_open_deployment(ANNA), build_stage_command("v42", slot="canary"), ANNA),
    ],
    ids=["nothing is open", "another hub", "another run", "another slot"],
)
def test_every_other_stage_needs_a_verdict(app: App, command: StageCommand, caller: Caller) -> None:
    assert needs_verdict(app, replace(command, caller=caller), noon_plus(60))


def test_staging_without_a_needed_verdict_is_a_defect() -> None:
    with pytest.raises(AssertionError, match="a verdict is needed"):
        stage(build_app(), build_stage_command("v42"), verdict=None)


def test_a_slot_may_carry_the_hubs_that_were_staged_over_until_the_new_hub_is_promoted() -> None:
    app = build_app(staging=Slot("v41", None, noon_plus(), promoted=True))
    app = stage(stage(app).app, build_stage_command("v43"), now=noon_plus(300)).app
    assert [app.find_possible_slot(hub) for hub in ("v41", "V42", "v43", "v40")] == ["staging", "staging", None, None]
    pending = begin_swap(app, "v43", noon_plus(360)).app
    assert pending.find_possible_slot("v41") == "staging"
    assert revert_swap(pending, "v43").app.find_possible_slot("v41") == "staging"
    assert swap_at_once(pending, "v43", noon_plus(400)).app.find_possible_slot("v41") is None


def test_staging_the_same_hub_again_keeps_the_prior_hubs() -> None:
    app = stage(build_app(staging=Slot("v41", None, noon_plus(), promoted=True)), now=noon_plus(60)).app
    again = stage(replace(app, deployment=None), now=noon_plus(5400)).app
    assert again.slots["staging"] == Slot("v42", None, noon_plus(60), prior_hubs=(PriorHub("v41", promoted=True),))


def test_the_same_run_can_stage_another_hub_and_retires_the_one_it_staged_before() -> None:
    transition = stage(build_app_with_open_deployment(ANNA), build_stage_command("v43", "1.5.1"), now=noon_plus(300))
    assert transition.app.slots["staging"] == Slot(
        "v43", "1.5.1", noon_plus(300), prior_hubs=(PriorHub("v42", promoted=False),)
    )
    assert transition.app.retired == (RetiredHub("v42", "1.5.0", noon_plus(300)),)
    assert transition.app.deployment == Deployment(
        "v43", "1.5.1", "staging", noon_plus(300), "anna", RUN_7_URL, f"url:{RUN_7_URL}"
    )
    assert "takenOverFrom" not in transition.details


def test_the_same_run_cannot_stage_over_its_own_hub_before_that_has_drained() -> None:
    with pytest.raises(StagingNotReady):
        stage(build_app_with_open_deployment(ANNA), build_stage_command("v43"), verdict=build_not_ready_verdict("v42"))


def test_the_same_run_can_stage_into_another_slot_and_its_first_hub_stays() -> None:
    app = stage_new_hub(build_app(more_slots={"canary": None}), "v42").app
    transition = stage(app, build_stage_command("v43", slot="canary"))
    assert transition.app.slot_holding("v42") == "staging"
    assert transition.app.slot_holding("v43") == "canary"
    assert transition.app.retired == ()


# An abandoned deployment


def test_an_abandoned_hub_can_be_staged_again_in_its_slot() -> None:
    app = build_app(staging=build_slot("v42", "1.5.0", since=-3600))
    transition = stage(app, build_stage_command("V42", "1.5.1"), caller=BEN, used_before=True)
    assert transition.app.slots["staging"] == Slot("v42", "1.5.1", noon_plus(-3600))
    without_version = stage(app, caller=BEN, used_before=True)
    assert without_version.app.slots["staging"] == Slot("v42", "1.5.0", noon_plus(-3600))
    assert transition.app.deployment is not None
    assert transition.app.deployment.started_by == "ben"
    assert transition.app.retired == ()
    assert transition.new_hubs == ()
    assert "retired" not in transition.details


def test_an_abandoned_hub_is_not_staged_again_before_it_has_drained() -> None:
    with pytest.raises(StagingNotReady):
        stage(build_app(staging=build_slot("v42")), caller=BEN, verdict=build_not_ready_verdict("v42"))


def test_force_stages_an_abandoned_hub_again_before_it_has_drained() -> None:
    command = build_stage_command("v42", force=True, reason="hotfix")
    transition = stage(
        build_app(staging=build_slot("v42")), command, caller=BEN, verdict=build_not_ready_verdict("v42")
    )
    assert transition.app.slot_holding("v42") == "staging"
    assert transition.app.retired == ()
    assert transition.details["forcedOver"]
