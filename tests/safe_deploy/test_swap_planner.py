"""What `swap_planner` decides, as tables of situations."""

from dataclasses import replace
from typing import Any

import pytest

from safe_deploy.errors import CommandError, ConflictError, ExitCode
from safe_deploy.slot_task_hubs import ObservedSlots, RecordedSlots, is_same_task_hub
from safe_deploy.swap_messages import describe_interrupted_swap
from safe_deploy.swap_planner import (
    SwapAttempt,
    SwapStep,
    choose_rollback_task_hub,
    find_staging_mismatch,
    plan_after_command,
    plan_interrupted_swap,
    plan_swap,
)
from tests.safe_deploy.swap_situations import (
    AZURE_SWAPPED,
    AZURE_UNSWAPPED,
    FIRST_DEPLOYMENT,
    OTHER_RUN,
    PENDING,
    PENDING_SWAP,
    RUN,
    STAGED,
    STARTED_AT,
    SWAPPED,
    record,
)


def app_json(**members: Any) -> dict[str, Any]:
    """The members of an app that a record is read from."""
    slots = {"production": {"taskHub": "v41"}, "staging": {"taskHub": "v42"}}
    return {"app": "shop", "slots": slots, "pendingSwap": None, **members}


PENDING_SWAP_JSON = {
    "taskHub": "v42",
    "swappedOut": "v41",
    "slot": "staging",
    "rollback": False,
    "by": "ann",
    "startedAt": STARTED_AT,
    "runUrl": RUN,
}


# --- reading the record ---


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("v42", "v42", True), ("v42", "V42", True), ("v42", "v41", False), (None, "v42", False), (None, None, False)],
)
def test_task_hub_names_ignore_case_and_no_task_hub_equals_nothing(
    first: str | None, second: str | None, *, expected: bool
) -> None:
    assert is_same_task_hub(first, second) is expected


@pytest.mark.parametrize(
    ("app", "slot", "expected"),
    [
        (app_json(), "staging", STAGED),
        (app_json(), "Staging", replace(STAGED, slot_name="Staging")),
        (app_json(), "canary", record("v41", None, slot_name="canary")),
        (app_json(slots={"production": None, "staging": {"taskHub": "v42"}}), "staging", FIRST_DEPLOYMENT),
        (app_json(slots={}), "staging", record(None, None)),
        (app_json(pendingSwap=PENDING_SWAP_JSON), "staging", replace(STAGED, pending_swap=PENDING_SWAP)),
        (
            app_json(slots={"staging": {"taskHub": "v42", "promoted": True, "priorTaskHubs": ["v40"]}}),
            "staging",
            record(None, "v42", slot_was_in_production=True, prior_hubs=("v40",)),
        ),
    ],
)
def test_a_record_is_read_from_the_json_of_an_app(app: dict[str, Any], slot: str, expected: RecordedSlots) -> None:
    assert RecordedSlots.from_app(app, slot) == expected


@pytest.mark.parametrize("app", [{}, {"app": "shop"}, {"app": "shop", "slots": []}])
def test_json_that_is_not_an_app_is_an_error_about_the_server(app: dict[str, Any]) -> None:
    with pytest.raises(CommandError, match="does not come from a state server"):
        RecordedSlots.from_app(app, "staging")


# --- plan_swap: how a swap starts ---


@pytest.mark.parametrize(
    ("recorded", "observed", "expected"),
    [
        pytest.param(STAGED, None, SwapStep.BEGIN, id="without access to Azure the record decides"),
        pytest.param(STAGED, AZURE_UNSWAPPED, SwapStep.BEGIN, id="a staged version is swapped"),
        pytest.param(STAGED, ObservedSlots("V41", "V42"), SwapStep.BEGIN, id="Azure may spell names in another case"),
        pytest.param(STAGED, AZURE_SWAPPED, SwapStep.CONFIRM, id="a swap made outside of safe-deploy is confirmed"),
        pytest.param(SWAPPED, None, SwapStep.ALREADY_SWAPPED, id="a swap on record is not repeated"),
        pytest.param(SWAPPED, AZURE_SWAPPED, SwapStep.ALREADY_SWAPPED, id="a swap that both have is not repeated"),
        pytest.param(FIRST_DEPLOYMENT, None, SwapStep.BEGIN, id="a first deployment starts without access to Azure"),
        pytest.param(
            FIRST_DEPLOYMENT, ObservedSlots(None, "v42"), SwapStep.BEGIN, id="a first deployment into an empty app"
        ),
        pytest.param(
            FIRST_DEPLOYMENT,
            ObservedSlots("v42", None),
            SwapStep.CONFIRM,
            id="a first deployment that is swapped already",
        ),
        pytest.param(record("v41", "v43"), AZURE_UNSWAPPED, SwapStep.BEGIN, id="the server refuses another task hub"),
        pytest.param(record("v41", None), None, SwapStep.BEGIN, id="the server refuses a swap of an empty slot"),
        pytest.param(PENDING, AZURE_UNSWAPPED, SwapStep.RESUME, id="an interrupted swap of this run resumes"),
        pytest.param(PENDING, AZURE_SWAPPED, SwapStep.CONFIRM, id="an interrupted swap that Azure made is confirmed"),
        pytest.param(
            PENDING,
            ObservedSlots("V42", "V41"),
            SwapStep.CONFIRM,
            id="an interrupted swap in another case is confirmed",
        ),
        pytest.param(
            replace(PENDING, slot_name="STAGING"), AZURE_UNSWAPPED, SwapStep.RESUME, id="slot names ignore case"
        ),
    ],
)
def test_how_a_swap_starts(recorded: RecordedSlots, observed: ObservedSlots | None, expected: SwapStep) -> None:
    assert plan_swap(recorded, observed, task_hub="v42", run_url=RUN) is expected


def find_refusal(
    recorded: RecordedSlots, observed: ObservedSlots | None, *, task_hub: str = "v42", run_url: str | None = RUN
) -> str:
    """The message with which a swap is refused."""
    with pytest.raises(ConflictError) as caught:
        plan_swap(recorded, observed, task_hub=task_hub, run_url=run_url)
    assert caught.value.exit_code == ExitCode.CONFLICT
    return caught.value.message


@pytest.mark.parametrize("observed", [None, AZURE_UNSWAPPED, AZURE_SWAPPED])
def test_a_pending_swap_of_another_task_hub_or_slot_refuses_every_swap(observed: ObservedSlots | None) -> None:
    assert "has not reported its outcome" in find_refusal(PENDING, observed, task_hub="v43")
    assert "has not reported its outcome" in find_refusal(replace(PENDING, slot_name="canary"), observed)


def test_a_pending_swap_is_not_resumed_without_access_to_azure() -> None:
    assert "--outcome failed" in find_refusal(PENDING, None)


@pytest.mark.parametrize("run_url", [None, OTHER_RUN])
@pytest.mark.parametrize("started_by", [None, RUN])
def test_only_the_run_that_started_a_swap_resumes_it_but_every_run_may_confirm_it(
    run_url: str | None, started_by: str | None
) -> None:
    recorded = replace(PENDING, pending_swap=replace(PENDING_SWAP, run_url=started_by))
    assert "wait for it" in find_refusal(recorded, AZURE_UNSWAPPED, run_url=run_url)
    assert plan_swap(recorded, AZURE_SWAPPED, task_hub="v42", run_url=run_url) is SwapStep.CONFIRM


@pytest.mark.parametrize(
    ("recorded", "observed", "message"),
    [
        (SWAPPED, AZURE_UNSWAPPED, "in Azure production has v41"),
        (SWAPPED, ObservedSlots(None, None), "in Azure production has no task hub"),
        (STAGED, ObservedSlots("v40", "v42"), "in Azure production has v40"),
        (STAGED, ObservedSlots(None, "v42"), "in Azure production has no task hub"),
        (STAGED, ObservedSlots("v41", "v40"), "slot staging must have task hub v42, but in Azure it has v40"),
        (STAGED, ObservedSlots("v41", None), "slot staging must have task hub v42, but in Azure it has no task hub"),
        (STAGED, ObservedSlots("v41", "v41"), "slot staging must have task hub v42, but in Azure it has v41"),
        # The new task hub in both slots, or with an unknown one in the slot, does not prove a swap.
        (STAGED, ObservedSlots("v42", "v42"), "in Azure production has v42"),
        (STAGED, ObservedSlots("v42", "v40"), "in Azure production has v42, and the slot has v40"),
        (PENDING, ObservedSlots("v42", "v42"), "in Azure production has v42"),
        # After the swap the slot would hold a task hub that the server does not know.
        (FIRST_DEPLOYMENT, ObservedSlots("v40", "v42"), "safe-deploy register --app shop --task-hub v40"),
        (PENDING, ObservedSlots("v40", "v42"), "in Azure production has v40"),
        (PENDING, ObservedSlots("v41", "v40"), "slot staging must have task hub v42, but in Azure it has v40"),
    ],
)
def test_a_swap_does_not_start_while_server_and_azure_disagree(
    recorded: RecordedSlots, observed: ObservedSlots, message: str
) -> None:
    assert message in find_refusal(recorded, observed)


# --- plan_interrupted_swap: how an interrupted swap ends ---


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        pytest.param(AZURE_SWAPPED, SwapStep.CONFIRM, id="Azure has swapped"),
        pytest.param(ObservedSlots("V42", "V41"), SwapStep.CONFIRM, id="Azure has swapped, in another case"),
        pytest.param(AZURE_UNSWAPPED, SwapStep.REVERT, id="Azure has not swapped"),
        pytest.param(ObservedSlots("v42", None), SwapStep.LEAVE_PENDING, id="deployed straight into production"),
        pytest.param(ObservedSlots("v42", "v40"), SwapStep.LEAVE_PENDING, id="the slot has an unknown task hub"),
        pytest.param(ObservedSlots("v40", "v42"), SwapStep.LEAVE_PENDING, id="production has an unknown task hub"),
        pytest.param(ObservedSlots("v42", "v42"), SwapStep.LEAVE_PENDING, id="both slots have the new task hub"),
        pytest.param(ObservedSlots(None, None), SwapStep.LEAVE_PENDING, id="neither slot has a task hub"),
        pytest.param(None, SwapStep.LEAVE_PENDING, id="Azure cannot be queried"),
    ],
)
@pytest.mark.parametrize("own", [True, False], ids=["own run", "other run"])
def test_how_an_interrupted_swap_ends(observed: ObservedSlots | None, expected: SwapStep, *, own: bool) -> None:
    # Another run may still be swapping, so only the run that started the swap may revert it.
    if expected is SwapStep.REVERT and not own:
        expected = SwapStep.LEAVE_PENDING
    assert plan_interrupted_swap(PENDING, PENDING_SWAP, observed, run_url=RUN if own else None) is expected


def test_an_interrupted_swap_of_another_slot_stays_pending() -> None:
    for observed in (None, AZURE_SWAPPED, AZURE_UNSWAPPED):
        step = plan_interrupted_swap(replace(PENDING, slot_name="canary"), PENDING_SWAP, observed, run_url=RUN)
        assert step is SwapStep.LEAVE_PENDING


# --- plan_after_command: what is reported after the swap command ---

SUCCEEDED = SwapAttempt(succeeded=True, interrupted=False, is_observable=True)
FAILED = replace(SUCCEEDED, succeeded=False)


@pytest.mark.parametrize(
    ("attempt", "observed", "expected"),
    [
        pytest.param(SUCCEEDED, AZURE_SWAPPED, SwapStep.CONFIRM, id="command and Azure agree"),
        pytest.param(FAILED, AZURE_SWAPPED, SwapStep.CONFIRM, id="Azure counts more than the exit code"),
        pytest.param(
            replace(FAILED, interrupted=True), AZURE_SWAPPED, SwapStep.CONFIRM, id="Azure counts more than a signal"
        ),
        pytest.param(SUCCEEDED, AZURE_UNSWAPPED, SwapStep.LEAVE_PENDING, id="a swap may show late"),
        pytest.param(FAILED, AZURE_UNSWAPPED, SwapStep.REVERT, id="a failed swap is reverted after the window"),
        pytest.param(
            replace(FAILED, interrupted=True), AZURE_UNSWAPPED, SwapStep.LEAVE_PENDING, id="a stopped swap may continue"
        ),
        pytest.param(
            SUCCEEDED, ObservedSlots("v40", "v42"), SwapStep.LEAVE_PENDING, id="production has an unknown task hub"
        ),
        pytest.param(FAILED, ObservedSlots(None, "v42"), SwapStep.LEAVE_PENDING, id="production has no task hub"),
        pytest.param(FAILED, ObservedSlots("v41", None), SwapStep.LEAVE_PENDING, id="the slot has no task hub"),
        pytest.param(FAILED, ObservedSlots("v42", "v42"), SwapStep.LEAVE_PENDING, id="both slots have the new one"),
        pytest.param(SUCCEEDED, None, SwapStep.CONFIRM, id="exit code 0 counts if Azure can no longer be queried"),
        pytest.param(
            replace(SUCCEEDED, interrupted=True), None, SwapStep.LEAVE_PENDING, id="exit code 0 after a signal does not"
        ),
        pytest.param(FAILED, None, SwapStep.LEAVE_PENDING, id="a failure stays pending if Azure cannot be queried"),
        pytest.param(
            replace(FAILED, interrupted=True), None, SwapStep.LEAVE_PENDING, id="a stopped command stays pending, too"
        ),
        pytest.param(
            replace(SUCCEEDED, is_observable=False), None, SwapStep.CONFIRM, id="exit code 0 counts without Azure"
        ),
        pytest.param(
            replace(FAILED, is_observable=False),
            None,
            SwapStep.LEAVE_PENDING,
            id="a failure without Azure stays pending",
        ),
    ],
)
def test_what_is_reported_after_the_swap_command(
    attempt: SwapAttempt, observed: ObservedSlots | None, expected: SwapStep
) -> None:
    assert plan_after_command(attempt, observed, task_hub="v42", swapped_out="v41") is expected


@pytest.mark.parametrize("production", [None, "v40"])
def test_a_failed_first_swap_is_reverted_only_while_the_task_hub_is_in_the_slot(production: str | None) -> None:
    in_slot, in_production = ObservedSlots(production, "v42"), ObservedSlots("v42", production)
    assert plan_after_command(FAILED, in_slot, task_hub="v42", swapped_out=None) is SwapStep.REVERT
    assert plan_after_command(FAILED, in_production, task_hub="v42", swapped_out=None) is SwapStep.CONFIRM


# --- find_staging_mismatch: whether the verdict covers what staging would overwrite ---

SWAPPED_OUT = record("v42", "v41", slot_was_in_production=True)
SLOT_EMPTY = record("v42", None)
NOTHING = record(None, None)


@pytest.mark.parametrize(
    ("recorded", "observed"),
    [
        pytest.param(SWAPPED_OUT, ObservedSlots("v42", "V41"), id="the slot has the task hub on record"),
        pytest.param(SWAPPED_OUT, ObservedSlots("v42", "v43"), id="the slot has the new task hub already"),
        pytest.param(SLOT_EMPTY, ObservedSlots("v42", None), id="nothing was ever deployed into the slot"),
        pytest.param(STAGED, ObservedSlots("v41", None), id="the slot was staged and not deployed"),
        pytest.param(NOTHING, ObservedSlots(None, None), id="a new app is empty on both sides"),
        pytest.param(SLOT_EMPTY, ObservedSlots("v42", "v42"), id="a new slot was created with production's settings"),
        pytest.param(
            replace(STAGED, prior_hubs=("v40", "v39")),
            ObservedSlots("v41", "V39"),
            id="the deployment of the staged version failed",
        ),
    ],
)
def test_staging_is_safe(recorded: RecordedSlots, observed: ObservedSlots) -> None:
    assert find_staging_mismatch(recorded, observed, task_hub="v43") is None


@pytest.mark.parametrize(
    ("recorded", "observed", "message"),
    [
        pytest.param(STAGED, ObservedSlots("v41", "v40"), "stage with --force and --reason", id="unknown task hub"),
        pytest.param(
            SLOT_EMPTY, ObservedSlots("v42", "v40"), "the server has no task hub there", id="slot is not empty in Azure"
        ),
        pytest.param(SWAPPED_OUT, ObservedSlots("v42", None), "Check --task-hub-setting", id="setting is missing"),
        pytest.param(
            SWAPPED_OUT, ObservedSlots("v42", "v42"), "only if the slot is stopped", id="slot has production's task hub"
        ),
        pytest.param(SWAPPED_OUT, ObservedSlots("v41", "v42"), "without the server", id="swapped by hand"),
        pytest.param(SLOT_EMPTY, ObservedSlots("v40", "v42"), "without the server", id="production was replaced"),
        pytest.param(
            SWAPPED_OUT, ObservedSlots(None, "v41"), "production has no task hub", id="production lost its setting"
        ),
        pytest.param(
            NOTHING,
            ObservedSlots("v40", None),
            "safe-deploy register --app shop --task-hub v40",
            id="production is not registered",
        ),
    ],
)
def test_staging_is_refused_if_the_verdict_does_not_cover_the_slot(
    recorded: RecordedSlots, observed: ObservedSlots, message: str
) -> None:
    mismatch = find_staging_mismatch(recorded, observed, task_hub="v43")
    assert mismatch is not None
    assert message in mismatch


# --- choose_rollback_task_hub ---

SWAP_ENTRY = {"operation": "PostSwap", "details": {"production": "v42", "swappedOut": "v41"}}
ROLLBACK_ENTRY = {"operation": "PostSwap", "details": {"production": "v41", "swappedOut": "v42", "rollback": True}}
ROLLED_BACK = record("v41", "v42")


@pytest.mark.parametrize(
    ("recorded", "requested", "last_swap", "expected"),
    [
        pytest.param(SWAPPED, None, SWAP_ENTRY, "v41", id="the task hub that was swapped out"),
        pytest.param(SWAPPED, None, None, "v41", id="without history the task hub in the slot"),
        pytest.param(SWAPPED, "v40", SWAP_ENTRY, "v40", id="the requested task hub"),
        pytest.param(ROLLED_BACK, None, ROLLBACK_ENTRY, "v41", id="a repeated rollback does not roll forward"),
        pytest.param(ROLLED_BACK, "v41", ROLLBACK_ENTRY, "v41", id="a repeated rollback to a requested task hub"),
        pytest.param(record("v43", "v41"), None, ROLLBACK_ENTRY, "v41", id="a deployment after the last rollback"),
        pytest.param(
            replace(ROLLED_BACK, pending_swap=replace(PENDING_SWAP, task_hub="v41", rollback=True)),
            None,
            SWAP_ENTRY,
            "v41",
            id="an interrupted rollback continues",
        ),
    ],
)
def test_what_a_rollback_brings_back(
    recorded: RecordedSlots, requested: str | None, last_swap: dict[str, Any] | None, expected: str
) -> None:
    assert choose_rollback_task_hub(recorded, requested_task_hub=requested, last_swap=last_swap) == expected


def test_a_rollback_with_an_empty_slot_is_refused() -> None:
    with pytest.raises(ConflictError, match="nothing to roll back to"):
        choose_rollback_task_hub(record("v42", None), requested_task_hub=None, last_swap=None)


def test_a_rollback_to_the_task_hub_in_production_is_refused_after_a_deployment() -> None:
    with pytest.raises(ConflictError, match="is already in production"):
        choose_rollback_task_hub(SWAPPED, requested_task_hub="V42", last_swap=SWAP_ENTRY)


def test_the_message_about_an_interrupted_swap_says_who_when_and_what_to_run() -> None:
    message = describe_interrupted_swap(PENDING, PENDING_SWAP)
    for part in ("ann", RUN, "2026-11-21 10:00:00 UTC", "v42, not v41", "--outcome failed"):
        assert part in message
    command = f"safe-deploy swap --app shop --run-url {RUN} --slot staging --task-hub v42 --outcome done"
    assert command in message
    assert "(run" not in describe_interrupted_swap(PENDING, replace(PENDING_SWAP, run_url=None))
    assert "not v41" not in describe_interrupted_swap(PENDING, replace(PENDING_SWAP, swapped_out=None))
    with_server = replace(PENDING, server_url="https://state.example")
    command = "safe-deploy swap --server https://state.example --app shop"
    assert command in describe_interrupted_swap(with_server, PENDING_SWAP)
