"""The deployment that is open between PostStaging and PostSwap.

Which run holds it, which runs are refused meanwhile, and how it ends."""

from dataclasses import replace

import pytest

from state_api.domain.errors import DeploymentInProgress, SlotNotFound, StagingNotReady, SwapMismatch
from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import OpenDeployment
from state_api.domain.readiness.policy import Policy
from state_api.domain.releases.apps import App, Caller, Transition
from state_api.domain.releases.commands import StageCommand
from state_api.domain.releases.transition_checks import find_blocking_deployment
from tests.domain.builders import (
    ANNA,
    BEN,
    CALLER_WITHOUT_RUN,
    RUN_7_URL,
    build_app,
    build_not_ready_verdict,
    build_production_slot,
    build_slot,
    noon_plus,
)
from tests.domain.transitions import (
    abandon_staging,
    build_app_with_open_deployment,
    build_stage_command,
    stage,
    stage_new_hub,
)

HOUR_SECONDS = 3600


def stage_by_ben(app: App, now: Instant, command: StageCommand | None = None) -> Transition:
    """Let Ben's run stage v43, or execute another command, over a slot that has drained."""
    return stage(app, command or build_stage_command("v43"), caller=BEN, now=now)


# Another run


def test_another_run_is_refused_with_the_caller_start_and_run_of_the_deployment() -> None:
    with pytest.raises(DeploymentInProgress) as caught:
        stage_by_ben(build_app_with_open_deployment(ANNA), noon_plus(600))
    assert caught.value.message == (
        f"anna (run {RUN_7_URL}) has been deploying task hub v42 into slot staging of app shop since "
        "2026-11-20T12:00:00.0000000Z. Wait for its swap, abandon it with DeleteStaging, or stage "
        "with takeOver and a reason. It expires at 2026-11-20T13:00:00.0000000Z"
    )
    assert caught.value.details == {
        "deployment": {
            "taskHub": "v42",
            "version": "1.5.0",
            "slot": "staging",
            "startedAt": "2026-11-20T12:00:00.0000000Z",
            "by": "anna",
            "runUrl": RUN_7_URL,
        },
        "retryAfterSeconds": 60,
    }


@pytest.mark.parametrize(("now", "wait"), [(HOUR_SECONDS - 61, 60), (HOUR_SECONDS - 41.1, 42), (HOUR_SECONDS - 0.5, 1)])
def test_another_run_may_retry_within_a_minute_or_when_the_deployment_expires(now: float, wait: int) -> None:
    with pytest.raises(DeploymentInProgress) as caught:
        stage_by_ben(build_app_with_open_deployment(ANNA), noon_plus(now))
    assert caught.value.details["retryAfterSeconds"] == wait


def test_a_holder_without_a_run_is_named_without_a_run() -> None:
    with pytest.raises(DeploymentInProgress, match=r"^carla has been deploying") as caught:
        stage_by_ben(build_app_with_open_deployment(CALLER_WITHOUT_RUN), noon_plus(1))
    assert caught.value.details["deployment"]["runUrl"] is None


def test_another_run_is_refused_even_for_the_same_hub() -> None:
    with pytest.raises(DeploymentInProgress):
        stage_by_ben(build_app_with_open_deployment(ANNA), noon_plus(1), build_stage_command("v42"))


def test_another_run_is_refused_for_another_slot_too() -> None:
    app = stage_new_hub(build_app(more_slots={"canary": None})).app
    with pytest.raises(DeploymentInProgress, match="into slot staging"):
        stage_by_ben(app, noon_plus(1), build_stage_command("v43", slot="canary"))


def test_two_callers_without_a_run_share_a_deployment_of_the_same_hub_only() -> None:
    app = build_app_with_open_deployment(CALLER_WITHOUT_RUN)
    dora = Caller("dora")
    assert not stage(app, build_stage_command("v42"), caller=dora, verdict=None, now=noon_plus(1)).changed
    with pytest.raises(DeploymentInProgress):
        stage(app, build_stage_command("v43"), caller=dora, now=noon_plus(1))


def test_force_does_not_override_the_deployment_of_another_run() -> None:
    with pytest.raises(DeploymentInProgress):
        stage_by_ben(
            build_app_with_open_deployment(ANNA), noon_plus(1), build_stage_command("v43", force=True, reason="hotfix")
        )


# Taking over


def test_taking_over_gives_the_deployment_to_the_new_run_and_is_recorded() -> None:
    transition = stage_by_ben(
        build_app_with_open_deployment(ANNA),
        noon_plus(60),
        build_stage_command("v43", take_over=True, reason="run 7 died"),
    )
    assert transition.app.deployment is not None
    assert transition.app.deployment.started_by == "ben"
    assert transition.app.slot_holding("v43") == "staging"
    assert [hub.task_hub for hub in transition.app.retired] == ["v42"]
    assert transition.details["takenOverFrom"]["by"] == "anna"
    assert transition.details["takenOverFrom"]["runUrl"] == RUN_7_URL


def test_a_run_can_take_over_the_deployment_of_the_same_hub() -> None:
    transition = stage_by_ben(
        build_app_with_open_deployment(ANNA),
        noon_plus(60),
        build_stage_command("v42", take_over=True, reason="run 7 died"),
    )
    assert transition.app.deployment is not None
    assert transition.app.deployment.started_by == "ben"
    assert transition.app.retired == ()
    assert transition.new_hubs == ()


def test_taking_over_does_not_stage_over_running_work() -> None:
    command = build_stage_command("v43", take_over=True, reason="run 7 died")
    with pytest.raises(StagingNotReady):
        stage(
            build_app_with_open_deployment(ANNA),
            command,
            caller=BEN,
            verdict=build_not_ready_verdict("v42"),
            now=noon_plus(60),
        )


def test_taking_over_without_an_open_deployment_is_an_ordinary_stage() -> None:
    transition = stage_by_ben(build_app(), noon_plus(), build_stage_command("v42", take_over=True, reason="to be sure"))
    assert transition.changed
    assert "takenOverFrom" not in transition.details


# Expiry


@pytest.mark.parametrize(("now", "is_open"), [(HOUR_SECONDS - 0.0000001, True), (HOUR_SECONDS, False)])
def test_a_deployment_expires_after_the_timeout(now: float, *, is_open: bool) -> None:
    assert (build_app_with_open_deployment(ANNA).get_open_deployment(noon_plus(now)) is not None) is is_open


def test_the_policy_sets_the_timeout_of_a_deployment() -> None:
    app = build_app_with_open_deployment(ANNA, Policy(deployment_timeout_minutes=5))
    assert app.get_open_deployment(noon_plus(299)) is not None
    assert app.get_open_deployment(noon_plus(300)) is None


def test_another_run_can_deploy_after_the_timeout() -> None:
    transition = stage_by_ben(build_app_with_open_deployment(ANNA), noon_plus(HOUR_SECONDS))
    assert transition.app.slot_holding("v43") == "staging"
    assert "takenOverFrom" not in transition.details


def test_the_same_run_needs_a_drained_slot_again_after_the_timeout() -> None:
    with pytest.raises(StagingNotReady):
        stage(
            build_app_with_open_deployment(ANNA),
            build_stage_command("v42"),
            verdict=build_not_ready_verdict("v42"),
            now=noon_plus(HOUR_SECONDS),
        )
    reopened = stage(
        build_app_with_open_deployment(ANNA), build_stage_command("v42"), used_before=True, now=noon_plus(HOUR_SECONDS)
    )
    assert reopened.app.get_open_deployment(noon_plus(HOUR_SECONDS + 1)) is not None


# Which runs an open deployment blocks


def test_the_open_deployment_blocks_every_run_but_its_own() -> None:
    app = build_app_with_open_deployment(ANNA)
    assert find_blocking_deployment(app, ANNA.run_id("v42"), noon_plus(1)) is None
    assert find_blocking_deployment(app, BEN.run_id("v42"), noon_plus(1)) == app.deployment
    assert find_blocking_deployment(app, None, noon_plus(1)) == app.deployment


def test_no_deployment_blocks_if_none_is_open() -> None:
    assert find_blocking_deployment(build_app(), None, noon_plus()) is None
    assert find_blocking_deployment(build_app_with_open_deployment(ANNA), None, noon_plus(HOUR_SECONDS)) is None


def test_a_verdict_knows_the_caller_run_and_start_of_a_deployment() -> None:
    deployment = build_app_with_open_deployment(ANNA).deployment
    assert deployment is not None
    assert deployment.to_open_deployment() == OpenDeployment("v42", "anna", RUN_7_URL, noon_plus())


def test_a_run_url_cannot_be_mistaken_for_a_hub_name() -> None:
    assert Caller("anna", "v42").run_id("v42") != Caller("anna").run_id("v42")
    assert Caller("anna", "").run_id("V42") == Caller("ben").run_id("v42")


# Abandoning


def test_the_holder_abandons_its_deployment_and_the_hub_stays_in_the_slot() -> None:
    app = build_app_with_open_deployment(ANNA)
    transition = abandon_staging(app, "V42", noon_plus(60))
    assert transition.app == replace(app, deployment=None)
    assert transition.operation == "DeleteStaging"
    assert transition.details == {"taskHub": "v42", "slot": "staging"}
    assert transition.changed


def test_another_run_can_deploy_after_the_holder_has_abandoned() -> None:
    app = abandon_staging(build_app_with_open_deployment(ANNA), "v42", noon_plus(60)).app
    assert stage_by_ben(app, noon_plus(61)).app.slot_holding("v43") == "staging"


def test_another_run_cannot_abandon_the_deployment() -> None:
    with pytest.raises(SwapMismatch, match="this run does not hold the open deployment of app shop") as caught:
        abandon_staging(build_app_with_open_deployment(ANNA), "v42", noon_plus(60), caller=BEN)
    assert caught.value.details["deployment"]["by"] == "anna"


def test_the_holder_cannot_abandon_a_hub_that_it_does_not_deploy() -> None:
    with pytest.raises(SwapMismatch, match="for task hub v42 since"):
        abandon_staging(build_app_with_open_deployment(ANNA), "v43", noon_plus(60))


@pytest.mark.parametrize(
    "app",
    [build_app(staging=build_slot("v42")), build_app_with_open_deployment(ANNA)],
    ids=["abandoned before", "expired"],
)
@pytest.mark.parametrize("caller", [ANNA, BEN])
def test_abandoning_again_changes_nothing(app: App, caller: Caller) -> None:
    transition = abandon_staging(app, "V42", noon_plus(HOUR_SECONDS), slot="Staging", caller=caller)
    assert transition.app is app
    assert not transition.changed


@pytest.mark.parametrize(
    "app", [build_app(build_production_slot()), build_app(staging=build_slot("v43"))], ids=["empty", "another hub"]
)
def test_abandoning_a_hub_that_the_slot_does_not_hold_is_refused(app: App) -> None:
    with pytest.raises(SwapMismatch, match="does not hold task hub v42"):
        abandon_staging(app, "v42", noon_plus())


def test_abandoning_in_a_slot_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SlotNotFound):
        abandon_staging(build_app(), "v42", noon_plus(), slot="stagign")
