"""The options of `safe-deploy rollout start`: the steps, and the group that says how the candidate is judged."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from safe_deploy.durations import parse_whole_minutes
from safe_deploy.errors import UsageError
from safe_deploy.options import DURATION


class OnUnhealthy(StrEnum):
    ABORT = "abort"
    PAUSE = "pause"


class OnUndecided(StrEnum):
    CONTINUE = "continue"
    PAUSE = "pause"
    ABORT = "abort"


StepsOption = Annotated[
    str,
    typer.Option("--steps", help="Shares of the candidate in percent, each with its duration, such as 10@15m,50@30m."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisOptions:
    """How the candidate is judged. The server has the defaults."""

    tolerated_ratio: Annotated[
        float | None,
        typer.Option(
            "--tolerated-ratio",
            show_default="1.0",
            help="Failure rate of the candidate that is tolerated, as a multiple of the baseline's.",
        ),
    ] = None
    confidence: Annotated[
        float | None,
        typer.Option("--confidence", show_default="0.95", help="Confidence that Healthy and Unhealthy need."),
    ] = None
    minimum_finished: Annotated[
        int | None,
        typer.Option(
            "--minimum-finished", show_default="10", help="Instances of the candidate that must end before Healthy."
        ),
    ] = None
    maximum_active_age: Annotated[
        str,
        typer.Option(
            "--maximum-active-age",
            metavar=DURATION,
            show_default="no limit",
            help="Age of an active instance, such as 30m, from which the candidate is unhealthy.",
        ),
    ] = ""
    on_unhealthy: Annotated[
        OnUnhealthy | None,
        typer.Option("--on-unhealthy", show_default="abort", help="What happens to an unhealthy candidate."),
    ] = None
    on_undecided: Annotated[
        OnUndecided | None,
        typer.Option("--on-undecided", show_default="continue", help="What happens after a step without a decision."),
    ] = None

    def to_json(self) -> dict[str, Any]:
        """The member `analysis` of PutRollout, with the options that are set. Raises UsageError for an age that is not
        whole minutes, and for what is no number. The server checks the ranges."""
        for option, value in (("--tolerated-ratio", self.tolerated_ratio), ("--confidence", self.confidence)):
            if value is not None and not math.isfinite(value):
                raise UsageError(f"{option} takes a number, and not {value}")
        age = self.maximum_active_age
        members = {
            "toleratedRatio": self.tolerated_ratio,
            "confidence": self.confidence,
            "minimumFinished": self.minimum_finished,
            "maximumActiveAgeMinutes": parse_whole_minutes(age, option="--maximum-active-age") if age else None,
            "onUnhealthy": self.on_unhealthy.value if self.on_unhealthy else None,
            "onUndecided": self.on_undecided.value if self.on_undecided else None,
        }
        return {name: value for name, value in members.items() if value is not None}


_ANALYSIS_OPTIONS = {
    "toleratedRatio": "--tolerated-ratio",
    "confidence": "--confidence",
    "minimumFinished": "--minimum-finished",
    "maximumActiveAgeMinutes": "--maximum-active-age, in minutes",
}
_STEP_PARTS = {"weight": "the share", "minutes": "the minutes"}


def name_refused_options(error: UsageError) -> UsageError:
    """The server's refusal of PutRollout, with options of the command line in place of the members of the request."""
    errors = error.problem.get("errors")
    if not errors:
        return error
    details = "; ".join(f"{_name_option(item['field'])}: {item['message']}" for item in errors)
    return UsageError(f"{error.problem_code}: {details}", error.problem)


def _name_option(member: str) -> str:
    """The option that a member such as `body.steps.0.weight` stands for; a member without an option as it is."""
    match member.split("."):
        case ["body", "steps"]:
            return "--steps"
        case ["body", "steps", index, part] if index.isdigit() and part in _STEP_PARTS:
            return f"--steps, {_STEP_PARTS[part]} of step {int(index) + 1}"
        case ["body", "analysis", name] if name in _ANALYSIS_OPTIONS:
            return _ANALYSIS_OPTIONS[name]
        case ["body", "version"]:
            return "--version"
        case ["body", "slot"]:
            return "--slot"
    return member
