"""DeleteApp: when an app can be deleted, and what stays of it."""

from dataclasses import replace

import pytest

from state_api.domain.errors import AppNotDrained, CleanupRequired, DeploymentInProgress, SwapPending
from state_api.domain.instants import Instant
from state_api.domain.releases.apps import App, PriorHub
from state_api.domain.releases.deletion import check_app_deletable
from tests.domain.builders import (
    noon_plus,
    not_ready_verdict,
    production_slot,
    ready_verdict,
    registered_app,
    retired_hub,
    slot,
    waiver,
)
from tests.domain.transitions import app_with_open_deployment, begin_swap_of_staged_hub, delete


def delete_without_verdicts(app: App, now: Instant) -> None:
    """What DeleteApp decides before it reads a task hub. Raises the error of a refusal."""
    if refusal := check_app_deletable(app, now):
        raise refusal.to_error()


def test_a_drained_app_is_deleted_and_only_its_revision_stays() -> None:
    app = registered_app(production_slot(), slot("v42"), waivers=(waiver(),))
    transition = delete(app, {"production": ready_verdict(), "staging": ready_verdict()}, noon_plus())
    assert transition.app == App("shop", revision=3, deleted=True)
    assert transition.operation == "DeleteApp"
    assert transition.details == {
        "slots": {"production": "v41", "staging": "v42"},
        "taskHubs": ["v41", "v42"],
    }
    assert transition.changed
    assert transition.new_hubs == ()


def test_an_app_with_empty_slots_needs_no_verdict() -> None:
    assert delete(registered_app(), {}, noon_plus()).app.deleted


def test_the_refusal_names_every_slot_that_has_not_drained_with_its_reasons() -> None:
    app = registered_app(production_slot(), slot("v42"), more_slots={"canary": slot("v43")})
    verdicts = {"production": not_ready_verdict("v41"), "staging": ready_verdict(), "canary": not_ready_verdict("v43")}
    with pytest.raises(
        AppNotDrained, match="slot production: 1 orchestration instance is active on task hub v41"
    ) as caught:
        delete(app, verdicts, noon_plus())
    assert [(reason["code"], reason["message"].split(":")[0]) for reason in caught.value.details["reasons"]] == [
        ("InstancesActive", "slot production"),
        ("InstancesActive", "slot canary"),
    ]
    assert caught.value.details["hasRunning"] is True
    assert caught.value.details["retryAfterSeconds"] == not_ready_verdict().retry_after_seconds


def test_an_open_deployment_of_any_run_refuses_the_deletion() -> None:
    with pytest.raises(DeploymentInProgress, match="anna"):
        delete_without_verdicts(app_with_open_deployment(), noon_plus(60))


def test_an_expired_deployment_does_not_refuse_the_deletion() -> None:
    assert check_app_deletable(app_with_open_deployment(), noon_plus(3601)) is None


def test_a_pending_swap_refuses_the_deletion() -> None:
    with pytest.raises(SwapPending):
        delete_without_verdicts(begin_swap_of_staged_hub().app, noon_plus(60))


def test_retired_task_hubs_refuse_the_deletion_until_they_are_cleaned_up() -> None:
    with pytest.raises(CleanupRequired, match="v39, v40") as caught:
        delete_without_verdicts(registered_app(retired=(retired_hub("v39"), retired_hub("v40"))), noon_plus())
    assert caught.value.details == {"app": "shop", "taskHubs": ["v39", "v40"]}


def test_a_retired_task_hub_that_a_slot_may_carry_does_not_refuse_the_deletion() -> None:
    """Cleanup does not remove it, and the verdict on the slot covers it."""
    carrying = replace(slot("v42"), prior_hubs=(PriorHub("v40", promoted=True),))
    app = registered_app(production_slot(), carrying, retired=(retired_hub("v40"),))
    assert delete(app, {"production": ready_verdict(), "staging": ready_verdict()}, noon_plus()).details[
        "taskHubs"
    ] == ["v41", "v42", "v40"]


def test_an_app_with_an_open_deployment_is_not_deleted_even_if_its_slots_are_ready() -> None:
    verdicts = {"production": ready_verdict(), "staging": ready_verdict()}
    with pytest.raises(DeploymentInProgress):
        delete(app_with_open_deployment(), verdicts, noon_plus(60))
