"""DeleteApp: when an app can be deleted, and what is kept of its record."""

from dataclasses import replace

import pytest

from state_api.domain.errors import AppNotDrained, CleanupRequired, DeploymentInProgress, RemovalPending, SwapPending
from state_api.domain.instants import Instant
from state_api.domain.releases.apps import App, PriorHub
from state_api.domain.releases.deletion import check_app_deletable
from tests.domain.builders import (
    build_app,
    build_not_ready_verdict,
    build_production_slot,
    build_ready_verdict,
    build_retired_hub,
    build_slot,
    build_waiver,
    noon_plus,
)
from tests.domain.release_transitions import build_shop_app, delete_release
from tests.domain.transitions import begin_swap_of_staged_hub, build_app_with_open_deployment, delete_registered_app


def check_deletion_without_verdicts(app: App, now: Instant) -> None:
    """Make the checks of DeleteApp that need no verdict. Raises the error of a refusal."""
    if refusal := check_app_deletable(app, now):
        raise refusal.to_error()


def test_a_drained_app_is_deleted_and_only_its_revision_stays() -> None:
    app = build_app(build_production_slot(), build_slot("v42"), waivers=(build_waiver(),))
    transition = delete_registered_app(
        app, {"production": build_ready_verdict(), "staging": build_ready_verdict()}, noon_plus()
    )
    assert transition.app == App("shop", revision=3, deleted=True)
    assert transition.operation == "DeleteApp"
    assert transition.details == {
        "slots": {"production": "v41", "staging": "v42"},
        "taskHubs": ["v41", "v42"],
    }
    assert transition.changed
    assert transition.new_hubs == ()


def test_an_app_with_empty_slots_is_deleted_unless_visitors_may_come_to_one() -> None:
    assert delete_registered_app(build_app(), {}, noon_plus()).app.deleted
    with pytest.raises(AppNotDrained, match="slot staging: "):
        delete_registered_app(build_app(), {"staging": build_not_ready_verdict()}, noon_plus())


def test_the_refusal_names_every_slot_that_has_not_drained_with_its_reasons() -> None:
    app = build_app(build_production_slot(), build_slot("v42"), more_slots={"canary": build_slot("v43")})
    verdicts = {
        "production": build_not_ready_verdict("v41"),
        "staging": build_ready_verdict(),
        "canary": build_not_ready_verdict("v43"),
    }
    with pytest.raises(
        AppNotDrained, match="slot production: 1 orchestration instance is active on task hub v41"
    ) as caught:
        delete_registered_app(app, verdicts, noon_plus())
    assert [(reason["code"], reason["message"].split(":")[0]) for reason in caught.value.details["reasons"]] == [
        ("InstancesActive", "slot production"),
        ("InstancesActive", "slot canary"),
    ]
    assert caught.value.details["hasRunning"] is True
    assert caught.value.details["retryAfterSeconds"] == build_not_ready_verdict().retry_after_seconds


def test_a_pending_removal_of_a_release_refuses_the_deletion() -> None:
    app = delete_release(build_shop_app(), "1.3.0").app
    with pytest.raises(RemovalPending, match=r"has been removing release 1\.3\.0"):
        check_deletion_without_verdicts(app, noon_plus(60))


def test_an_open_deployment_of_any_run_refuses_the_deletion() -> None:
    with pytest.raises(DeploymentInProgress, match="anna"):
        check_deletion_without_verdicts(build_app_with_open_deployment(), noon_plus(60))


def test_an_expired_deployment_does_not_refuse_the_deletion() -> None:
    assert check_app_deletable(build_app_with_open_deployment(), noon_plus(3601)) is None


def test_a_pending_swap_refuses_the_deletion() -> None:
    with pytest.raises(SwapPending):
        check_deletion_without_verdicts(begin_swap_of_staged_hub().app, noon_plus(60))


def test_retired_task_hubs_refuse_the_deletion_until_they_are_cleaned_up() -> None:
    with pytest.raises(CleanupRequired, match="v39, v40") as caught:
        check_deletion_without_verdicts(
            build_app(retired=(build_retired_hub("v39"), build_retired_hub("v40"))), noon_plus()
        )
    assert caught.value.details == {"app": "shop", "taskHubs": ["v39", "v40"]}


def test_a_retired_task_hub_that_a_slot_may_carry_does_not_refuse_the_deletion() -> None:
    """Cleanup does not remove such a task hub. The verdict on the slot covers it."""
    slot_with_prior_hub = replace(build_slot("v42"), prior_hubs=(PriorHub("v40", promoted=True),))
    app = build_app(build_production_slot(), slot_with_prior_hub, retired=(build_retired_hub("v40"),))
    assert delete_registered_app(
        app, {"production": build_ready_verdict(), "staging": build_ready_verdict()}, noon_plus()
    ).details["taskHubs"] == ["v41", "v42", "v40"]


def test_an_app_with_an_open_deployment_is_not_deleted_even_if_its_slots_are_ready() -> None:
    verdicts = {"production": build_ready_verdict(), "staging": build_ready_verdict()}
    with pytest.raises(DeploymentInProgress):
        delete_registered_app(build_app_with_open_deployment(), verdicts, noon_plus(60))
