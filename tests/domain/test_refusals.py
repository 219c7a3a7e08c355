"""Refusals: the message of each for the caller, and the error that it becomes."""

import pytest

from state_api.domain.errors import (
    AppNotFound,
    Conflict,
    StateError,
    TaskHubAlreadyUsed,
    TaskHubClaimed,
    TaskHubInUse,
    TaskHubNotFound,
    TaskHubUnavailable,
    Unavailable,
)
from state_api.domain.releases import refusals
from state_api.domain.releases.apps import TaskHubHolder
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.staging import StageEvidence, stage_task_hub
from state_api.domain.task_hubs.ownership import ProviderUnavailable
from tests.domain.builders import (
    build_app,
    build_not_ready_verdict,
    build_production_slot,
    build_ready_verdict,
    noon_plus,
)
from tests.domain.transitions import build_stage_command


def test_a_refusal_becomes_an_error_with_the_same_message_and_facts() -> None:
    error = Refusal(TaskHubInUse, "slot staging holds it", {"slot": "staging"}).to_error()
    assert isinstance(error, TaskHubInUse)
    assert (error.message, error.details) == ("slot staging holds it", {"slot": "staging"})


def test_a_transition_returns_its_refusal_and_raises_nothing() -> None:
    app, command = build_app(build_production_slot("v41")), build_stage_command("v41")
    result = stage_task_hub(app, command, StageEvidence(build_ready_verdict()), noon_plus())
    assert result == refusals.task_hub_in_use("shop", TaskHubHolder("slot", "production"), "v41")


@pytest.mark.parametrize(
    ("refusal", "error", "details"),
    [
        (refusals.app_not_found("shop"), AppNotFound, {"app": "shop"}),
        (refusals.task_hub_not_found("v41"), TaskHubNotFound, {"taskHub": "v41"}),
        (refusals.task_hub_claimed("v41", "shop"), TaskHubClaimed, {"taskHub": "v41", "app": "shop"}),
        (refusals.claimed_by_other_app("v41", "shop"), TaskHubInUse, {"taskHub": "v41", "app": "shop"}),
        (refusals.task_hub_of_other_app("v41", "shop"), TaskHubAlreadyUsed, {"taskHub": "v41", "app": "shop"}),
        (refusals.changed_concurrently("shop", "ben"), Conflict, {"updatedBy": "ben"}),
    ],
)
def test_a_refusal_of_the_services_has_the_facts_that_callers_act_on(
    refusal: Refusal, error: type[StateError], details: dict[str, str]
) -> None:
    assert (refusal.error, refusal.details) == (error, details)
    assert all(fact in refusal.message for fact in details.values())


def test_a_conflict_with_an_unknown_caller_is_refused_without_a_name() -> None:
    assert refusals.changed_concurrently("shop", None).message.startswith("another caller changed app shop")


def test_a_provider_that_cannot_be_asked_sets_when_to_retry() -> None:
    error = refusals.provider_unavailable("v42", ProviderUnavailable("it is throttled", 30)).to_error()
    assert isinstance(error, Unavailable)
    assert isinstance(error, TaskHubUnavailable)
    assert (error.retry_after, error.details) == (30, {"taskHub": "v42"})


def test_a_task_hub_that_has_not_drained_keeps_its_records_for_the_reasons_of_its_verdict() -> None:
    refusal = refusals.task_hub_not_drained("v41", build_not_ready_verdict())
    assert "1 orchestration instance is active on task hub v41" in refusal.message
    assert (refusal.details["hasRunning"], refusal.details["activeCount"]) == (True, 1)
    assert refusal.details["reasons"][0]["code"] == "InstancesActive"
