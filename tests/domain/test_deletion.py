"""DeleteApp: what an app must have come to before it is forgotten, and what stays of it."""

from dataclasses import replace

import pytest

from state_api.domain.errors import AppNotDrained, CleanupRequired, DeploymentInProgress, SwapPending
from state_api.domain.releases.apps import App, PriorHub
from state_api.domain.releases.deletion import check_app_deletable, delete_app
from state_api.domain.releases.refusals import task_hub_claimed, task_hub_not_drained
from tests.domain.builders import (
    app_with_open_deployment,
    begin_swap_of_staged_hub,
    noon_plus,
    not_ready_verdict,
    production_slot,
    ready_verdict,
    registered_app,
    retired_hub,
    slot,
    waiver,
)


def test_a_drained_app_is_deleted_and_only_its_revision_stays() -> None:
    app = registered_app(production_slot(), slot("v42"), waivers=(waiver(),))
    transition = delete_app(app, {"production": ready_verdict(), "staging": ready_verdict()}, noon_plus())
    assert transition.app == App("shop", revision=3, deleted=True)
    assert transition.operation == "DeleteApp"
    assert transition.details == {
        "slots": {"production": "v41", "staging": "v42"},
        "taskHubs": ["v41", "v42"],
    }
    assert transition.changed
    assert transition.new_hubs == ()


def test_an_app_with_empty_slots_needs_no_verdict() -> None:
    assert delete_app(registered_app(), {}, noon_plus()).app.deleted


def test_every_slot_that_is_not_drained_is_named_with_its_reasons() -> None:
    app = registered_app(production_slot(), slot("v42"), more_slots={"canary": slot("v43")})
    verdicts = {"production": not_ready_verdict("v41"), "staging": ready_verdict(), "canary": not_ready_verdict("v43")}
    with pytest.raises(
        AppNotDrained, match="slot production: 1 orchestration instance is active on task hub v41"
    ) as it:
        delete_app(app, verdicts, noon_plus())
    assert [(one["code"], one["message"].split(":")[0]) for one in it.value.details["reasons"]] == [
        ("InstancesActive", "slot production"),
        ("InstancesActive", "slot canary"),
    ]
    assert it.value.details["hasRunning"] is True
    assert it.value.details["retryAfterSeconds"] == not_ready_verdict().retry_after_seconds


def test_an_open_deployment_of_anybody_refuses() -> None:
    with pytest.raises(DeploymentInProgress, match="anna"):
        check_app_deletable(app_with_open_deployment(), noon_plus(60))


def test_a_deployment_whose_time_is_over_does_not_refuse() -> None:
    check_app_deletable(app_with_open_deployment(), noon_plus(3601))


def test_a_pending_swap_refuses() -> None:
    with pytest.raises(SwapPending):
        check_app_deletable(begin_swap_of_staged_hub().app, noon_plus(60))


def test_retired_task_hubs_must_be_cleaned_up_before() -> None:
    with pytest.raises(CleanupRequired, match="v39, v40") as raised:
        check_app_deletable(registered_app(retired=(retired_hub("v39"), retired_hub("v40"))), noon_plus())
    assert raised.value.details == {"app": "shop", "taskHubs": ["v39", "v40"]}


def test_a_retired_task_hub_that_a_slot_may_still_carry_is_judged_with_that_slot() -> None:
    """Cleanup does not remove it, so the app could never be deleted otherwise."""
    carrying = replace(slot("v42"), prior_hubs=(PriorHub("v40", True),))
    app = registered_app(production_slot(), carrying, retired=(retired_hub("v40"),))
    assert delete_app(app, {"production": ready_verdict(), "staging": ready_verdict()}, noon_plus()).details[
        "taskHubs"
    ] == ["v41", "v42", "v40"]


def test_the_refusals_of_delete_task_hub_say_who_has_the_hub_and_what_is_active() -> None:
    assert task_hub_claimed("v41", "shop").details == {"taskHub": "v41", "app": "shop"}
    refused = task_hub_not_drained("v41", not_ready_verdict())
    assert "1 orchestration instance is active on task hub v41" in refused.message
    assert (refused.details["hasRunning"], refused.details["activeCount"]) == (True, 1)
    assert refused.details["reasons"][0]["code"] == "InstancesActive"
