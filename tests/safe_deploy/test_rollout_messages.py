"""What people read about a rollout, and which exit code ends the command that followed it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from safe_deploy.errors import CommandError, ExitCode
from safe_deploy.rollouts.messages import build_step_rows, check_outcome, describe_progress, describe_rollout
from tests.safe_deploy.rollout_responses import build_rollout

NOW = datetime(2026, 11, 27, 14, 5, tzinfo=UTC)
DECISION = {
    "at": "2026-11-27T14:04:30.0000000Z",
    "action": "Abort",
    "code": "FailureRateHigher",
    "message": "9 of 40 failed, against 10 of 352",
}


@pytest.mark.parametrize(
    ("members", "line"),
    [
        ({}, "rollout of release 1.5.0 in app shop: Running, step 1 of 2, 10 % of the traffic"),
        ({"state": "Finished", "weight": 100}, "rollout of release 1.5.0 in app shop: Finished"),
        (
            {"model": "slots", "candidate": "staging", "confirmed": False},
            (
                "rollout of slot staging in app shop: Running, step 1 of 2, 10 % of the traffic, which Azure has not "
                "confirmed"
            ),
        ),
    ],
)
def test_one_line_has_candidate_state_step_and_share(members: dict[str, Any], line: str) -> None:
    assert describe_rollout(build_rollout(**members)) == line


def test_people_read_what_is_waited_for_and_what_was_decided() -> None:
    assert describe_progress(build_rollout(lastDecision=DECISION), NOW) == [
        "waits for StepTime: step 1 of 2 lasts 15 minutes (until 14:15:00)",
        "last decision, at 14:04:30: Abort, FailureRateHigher: 9 of 40 failed, against 10 of 352",
    ]
    assert describe_progress(build_rollout(waitsFor=None), NOW) == []


@pytest.mark.parametrize(
    ("state", "code", "command"),
    [
        ("Running", "Confirmation", "rollout start with the same options"),
        ("Paused", "Confirmation", "rollout start with the same options"),
        ("Aborting", "Confirmation", "rollout abort with --resource-group"),
        ("Finishing", "Confirmation", "rollout finish with --resource-group"),
        ("Finishing", "Swap", "rollout finish with --resource-group"),
    ],
)
def test_people_read_which_command_continues_a_rollout_that_nothing_follows(
    state: str, code: str, command: str
) -> None:
    waits_for = {"code": code, "message": "the slot must change in Azure", "until": None}
    assert describe_progress(build_rollout(model="slots", state=state, waitsFor=waits_for), NOW) == [
        f"waits for {code}: the slot must change in Azure",
        f"the command that follows the rollout does that. If none is running, run safe-deploy {command}",
    ]


@pytest.mark.parametrize(
    ("members", "states"),
    [
        ({}, ["until 14:15:00", "to come"]),
        ({"stepEndsAt": None}, ["in progress", "to come"]),
        ({"step": 2, "stepEndsAt": "2026-11-28T00:10:00.0000000Z"}, ["over", "until 2026-11-28 00:10:00"]),
        ({"state": "Paused"}, ["paused", "to come"]),
        ({"state": "Aborted"}, ["aborted", "not reached"]),
        ({"state": "Finished", "step": 2}, ["over", "over"]),
    ],
)
def test_each_step_is_over_or_in_progress_or_to_come(members: dict[str, Any], states: list[str]) -> None:
    rows = build_step_rows(build_rollout(**members), NOW)
    assert [row[:3] for row in rows] == [["1", "10 %", "15 min"], ["2", "50 %", "30 min"]]
    assert [row[3] for row in rows] == states


@pytest.mark.parametrize(
    ("state", "code"), [("Running", 0), ("Finished", 0), ("Aborted", ExitCode.FAILURE), ("Paused", ExitCode.NOT_READY)]
)
def test_the_exit_code_says_how_a_rollout_has_ended(state: str, code: int) -> None:
    rollout = build_rollout(state=state, lastDecision=DECISION)
    if not code:
        check_outcome(rollout)
        return
    with pytest.raises(CommandError, match="9 of 40 failed") as raised:
        check_outcome(rollout)
    assert raised.value.exit_code == code
