"""The deployment that is open between stage and swap: who holds it, who is refused, and how it ends."""

from dataclasses import replace

import pytest

from state_api.domain.apps import App, Caller, Transition
from state_api.domain.errors import DeploymentInProgress, SlotNotFound, StagingNotReady, SwapMismatch
from state_api.domain.evidence import OpenDeployment
from state_api.domain.instants import Instant
from state_api.domain.readiness import Policy
from state_api.domain.releases import Order, abandon, blocking_deployment, stage
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
    shop,
    slot,
    staged,
)

HOUR = 3600


def by_ben(app: App, now: Instant, order: Order | None = None) -> Transition:
    """Ben's run stages v43 unless told, while the slot is drained."""
    return stage(app, order or Order("v43"), BEN, ready(), False, now)


# Another run


def test_another_run_is_refused_and_told_who_deploys_since_when_and_in_which_run() -> None:
    with pytest.raises(DeploymentInProgress) as caught:
        by_ben(deploying(ANNA), at(600))
    assert caught.value.message == (
        f"anna (run {RUN_7}) has been deploying task hub v42 into slot staging of app shop since "
        "2026-11-20T12:00:00.0000000Z. Wait for its swap, abandon it, or stage with takeOver and a reason; "
        "it ends by itself at 2026-11-20T13:00:00.0000000Z"
    )
    assert caught.value.details == {
        "deployment": {
            "taskHub": "v42",
            "version": "1.5.0",
            "slot": "staging",
            "startedAt": "2026-11-20T12:00:00.0000000Z",
            "by": "anna",
            "runUrl": RUN_7,
        },
        "retryAfterSeconds": 60,
    }


@pytest.mark.parametrize(("now", "wait"), [(HOUR - 61, 60), (HOUR - 42, 42), (HOUR - 0.5, 1)])
def test_another_run_is_told_to_ask_again_within_a_minute_or_when_the_deployment_ends(now: float, wait: int) -> None:
    with pytest.raises(DeploymentInProgress) as caught:
        by_ben(deploying(ANNA), at(now))
    assert caught.value.details["retryAfterSeconds"] == wait


def test_a_holder_without_a_run_is_named_alone() -> None:
    with pytest.raises(DeploymentInProgress, match=r"^carla has been deploying") as caught:
        by_ben(deploying(NO_RUN), at(1))
    assert caught.value.details["deployment"]["runUrl"] is None


def test_another_run_is_refused_even_for_the_same_hub() -> None:
    with pytest.raises(DeploymentInProgress):
        by_ben(deploying(ANNA), at(1), Order("v42"))


def test_another_run_is_refused_for_another_slot_too() -> None:
    app = staged(shop(more={"canary": None})).app
    with pytest.raises(DeploymentInProgress, match="into slot staging"):
        by_ben(app, at(1), Order("v43", slot="canary"))


def test_two_callers_without_a_run_deploy_the_same_hub_together_but_not_two_hubs() -> None:
    app = deploying(NO_RUN)
    dora = Caller("dora")
    assert not stage(app, Order("v42"), dora, None, False, at(1)).changed
    with pytest.raises(DeploymentInProgress):
        stage(app, Order("v43"), dora, ready(), False, at(1))


def test_force_does_not_push_another_run_aside() -> None:
    with pytest.raises(DeploymentInProgress):
        by_ben(deploying(ANNA), at(1), Order("v43", force=True, reason="hotfix"))


# Taking over


def test_taking_over_gives_the_deployment_to_the_new_run_and_goes_on_record() -> None:
    transition = by_ben(deploying(ANNA), at(60), Order("v43", take_over=True, reason="run 7 died"))
    assert transition.app.deployment is not None
    assert transition.app.deployment.by == "ben"
    assert transition.app.slot_of("v43") == "staging"
    assert [hub.task_hub for hub in transition.app.retired] == ["v42"]
    assert transition.details["takenOverFrom"]["by"] == "anna"
    assert transition.details["takenOverFrom"]["runUrl"] == RUN_7


def test_the_hub_itself_can_be_taken_over_from_a_dead_run() -> None:
    transition = by_ben(deploying(ANNA), at(60), Order("v42", take_over=True, reason="run 7 died"))
    assert transition.app.deployment is not None
    assert transition.app.deployment.by == "ben"
    assert transition.app.retired == ()
    assert transition.new_hubs == ()


def test_taking_over_does_not_stage_over_running_work() -> None:
    order = Order("v43", take_over=True, reason="run 7 died")
    with pytest.raises(StagingNotReady):
        stage(deploying(ANNA), order, BEN, not_ready("v42"), False, at(60))


def test_taking_over_where_nothing_is_open_is_an_ordinary_stage() -> None:
    transition = by_ben(shop(), at(), Order("v42", take_over=True, reason="to be sure"))
    assert transition.changed
    assert "takenOverFrom" not in transition.details


# The end by itself


@pytest.mark.parametrize(("now", "is_open"), [(HOUR - 0.0000001, True), (HOUR, False)])
def test_a_deployment_ends_by_itself_when_its_time_is_over(now: float, is_open: bool) -> None:
    assert (deploying(ANNA).open_deployment(at(now)) is not None) is is_open


def test_an_app_sets_how_long_a_deployment_may_take() -> None:
    app = deploying(ANNA, Policy(deployment_timeout_minutes=5))
    assert app.open_deployment(at(299)) is not None
    assert app.open_deployment(at(300)) is None


def test_another_run_may_deploy_once_the_time_is_over() -> None:
    transition = by_ben(deploying(ANNA), at(HOUR))
    assert transition.app.slot_of("v43") == "staging"
    assert "takenOverFrom" not in transition.details


def test_the_same_run_needs_a_drained_slot_again_once_its_time_is_over() -> None:
    with pytest.raises(StagingNotReady):
        stage(deploying(ANNA), Order("v42"), ANNA, not_ready("v42"), False, at(HOUR))
    reopened = stage(deploying(ANNA), Order("v42"), ANNA, ready(), True, at(HOUR))
    assert reopened.app.open_deployment(at(HOUR + 1)) is not None


# Whom it blocks


def test_the_open_deployment_blocks_every_run_but_its_own() -> None:
    app = deploying(ANNA)
    assert blocking_deployment(app, ANNA.run("v42"), at(1)) is None
    assert blocking_deployment(app, BEN.run("v42"), at(1)) == app.deployment
    assert blocking_deployment(app, None, at(1)) == app.deployment


def test_nothing_blocks_where_no_deployment_is_open() -> None:
    assert blocking_deployment(shop(), None, at()) is None
    assert blocking_deployment(deploying(ANNA), None, at(HOUR)) is None


def test_a_verdict_sees_of_a_deployment_who_and_since_when() -> None:
    deployment = deploying(ANNA).deployment
    assert deployment is not None
    assert deployment.as_open() == OpenDeployment("v42", "anna", RUN_7, at())


def test_a_run_url_cannot_be_mistaken_for_a_hub_name() -> None:
    assert Caller("anna", "v42").run("v42") != Caller("anna").run("v42")
    assert Caller("anna", "").run("V42") == Caller("ben").run("v42")


# Abandoning


def test_the_holder_abandons_its_deployment_and_the_hub_stays_in_the_slot() -> None:
    app = deploying(ANNA)
    transition = abandon(app, "V42", "staging", ANNA, at(60))
    assert transition.app == replace(app, deployment=None)
    assert transition.operation == "DeleteStaging"
    assert transition.details == {"taskHub": "v42", "slot": "staging"}
    assert transition.changed


def test_another_run_may_deploy_after_the_holder_has_abandoned() -> None:
    app = abandon(deploying(ANNA), "v42", "staging", ANNA, at(60)).app
    assert by_ben(app, at(61)).app.slot_of("v43") == "staging"


def test_another_run_cannot_abandon_the_deployment() -> None:
    with pytest.raises(SwapMismatch, match="is not yours to abandon") as caught:
        abandon(deploying(ANNA), "v42", "staging", BEN, at(60))
    assert caught.value.details["deployment"]["by"] == "anna"


def test_the_holder_cannot_abandon_a_hub_that_it_does_not_deploy() -> None:
    with pytest.raises(SwapMismatch, match="for task hub v42 since"):
        abandon(deploying(ANNA), "v43", "staging", ANNA, at(60))


@pytest.mark.parametrize("app", [shop(staging=slot("v42")), deploying(ANNA)], ids=["abandoned before", "expired"])
@pytest.mark.parametrize("caller", [ANNA, BEN])
def test_abandoning_again_changes_nothing(app: App, caller: Caller) -> None:
    transition = abandon(app, "V42", "Staging", caller, at(HOUR))
    assert transition.app is app
    assert not transition.changed


@pytest.mark.parametrize("app", [shop(in_production()), shop(staging=slot("v43"))], ids=["empty", "another hub"])
def test_a_hub_that_is_not_in_the_slot_cannot_be_abandoned(app: App) -> None:
    with pytest.raises(SwapMismatch, match="does not hold task hub v42"):
        abandon(app, "v42", "staging", ANNA, at())


def test_abandoning_in_a_slot_that_does_not_exist_says_so() -> None:
    with pytest.raises(SlotNotFound):
        abandon(shop(), "v42", "stagign", ANNA, at())
