"""How a rollout looks: one line for people, its steps as a table, and the outputs of a pipeline step. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from safe_deploy.durations import format_duration
from safe_deploy.errors import CommandError, NotReady
from safe_deploy.next_steps import format_reason
from safe_deploy.rendering import format_moment
from safe_deploy.side_by_side.app_state import SIDE_BY_SIDE

Json = Mapping[str, Any]
Rows = Sequence[Sequence[str]]


class RolloutState(StrEnum):
    RUNNING = "Running"
    PAUSED = "Paused"
    ABORTING = "Aborting"
    ABORTED = "Aborted"
    FINISHING = "Finishing"
    FINISHED = "Finished"


_ENDED = frozenset({RolloutState.ABORTED, RolloutState.FINISHED})


def has_ended(rollout: Json) -> bool:
    """Whether the rollout has been finished or aborted."""
    return rollout["state"] in _ENDED


def name_candidate(rollout: Json) -> str:
    """The candidate for people: `release 1.5.0`, or `slot staging`."""
    kind = "release" if rollout["model"] == SIDE_BY_SIDE else "slot"
    return f"{kind} {rollout['candidate']}"


def describe_rollout(rollout: Json) -> str:
    """The rollout in one line, without times: candidate, state, step and share."""
    title = f"rollout of {name_candidate(rollout)} in app {rollout['app']}: {rollout['state']}"
    if has_ended(rollout):
        return title
    confirmation = "" if rollout["confirmed"] else ", which Azure has not confirmed"
    step = f"step {rollout['step']} of {len(rollout['steps'])}"
    return f"{title}, {step}, {rollout['weight']} % of the traffic{confirmation}"


_CONTINUING_COMMANDS = {
    RolloutState.RUNNING: "safe-deploy rollout start with the same options",
    RolloutState.PAUSED: "safe-deploy rollout start with the same options",
    RolloutState.ABORTING: "safe-deploy rollout abort with --resource-group",
    RolloutState.FINISHING: "safe-deploy rollout finish with --resource-group",
}
"""What to run if a rollout waits for a change in Azure, by its state. Only a rollout into a slot does."""

_CHANGES_IN_AZURE = frozenset({"Confirmation", "Swap"})
"""Codes of what a rollout waits for."""


def describe_progress(rollout: Json, now: datetime) -> list[str]:
    """What the rollout waits for and until when, which command does it, and what was decided last."""
    lines: list[str] = []
    waits_for, decision = rollout["waitsFor"], rollout["lastDecision"]
    if waits_for is not None:
        until = f" (until {format_moment(waits_for['until'], now)})" if waits_for["until"] else ""
        lines.append(f"waits for {format_reason(waits_for)}{until}")
        if waits_for["code"] in _CHANGES_IN_AZURE:
            command = _CONTINUING_COMMANDS[RolloutState(rollout["state"])]
            lines.append(f"the command that follows the rollout does that. If none is running, run {command}")
    if decision is not None:
        at = format_moment(decision["at"], now)
        lines.append(f"last decision, at {at}: {decision['action']}, {format_reason(decision)}")
    return lines


STEP_COLUMNS = ("Step", "Share", "Duration", "State")


def build_step_rows(rollout: Json, now: datetime) -> Rows:
    """A row for each step: its number, share and duration, and whether it is over."""
    return [
        [
            str(number),
            f"{step['weight']} %",
            format_duration(timedelta(minutes=step["minutes"])),
            _describe_step(rollout, number, now),
        ]
        for number, step in enumerate(rollout["steps"], start=1)
    ]


def _describe_step(rollout: Json, number: int, now: datetime) -> str:
    """Whether a step is over, in progress and until when, or still to come."""
    current = rollout["step"]
    if number < current or rollout["state"] in (RolloutState.FINISHED, RolloutState.FINISHING):
        return "over"
    if rollout["state"] in (RolloutState.ABORTED, RolloutState.ABORTING):
        return "aborted" if number == current else "not reached"
    if number > current:
        return "to come"
    if rollout["state"] == RolloutState.PAUSED:
        return "paused"
    return f"until {format_moment(rollout['stepEndsAt'], now)}" if rollout["stepEndsAt"] else "in progress"


def rollout_outputs(rollout: Json) -> dict[str, str]:
    """A rollout as the outputs of a pipeline step, all of them text."""
    decision = rollout["lastDecision"] or {}
    return {
        "state": rollout["state"],
        "candidate": rollout["candidate"],
        "baseline": rollout["baseline"],
        "step": str(rollout["step"]),
        "weight": str(rollout["weight"]),
        "decided-by": decision.get("code", ""),
    }


def check_outcome(rollout: Json) -> None:
    """Raises CommandError for a rollout that was aborted, and NotReady for one that is paused."""
    candidate, decision = name_candidate(rollout), rollout["lastDecision"]
    reason = f": {format_reason(decision).rstrip('.')}" if decision else ""
    if rollout["state"] == RolloutState.ABORTED:
        raise CommandError(f"the rollout of {candidate} was aborted{reason}")
    if rollout["state"] == RolloutState.PAUSED:
        raise NotReady(
            f"the rollout of {candidate} is paused at {rollout['weight']} %{reason}. Run safe-deploy rollout resume, "
            "finish or abort"
        )
