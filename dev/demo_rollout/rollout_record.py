"""The end of a rollout, and the numbers that decided it, as the app's history has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from dev.demo.output import UnexpectedResult

ENDED_STATES = ("Aborted", "Finished")
"""The states of a rollout that has ended."""


@dataclass(frozen=True, slots=True)
class SideNumbers:
    """The instances of a version that its health counted: an order, and the shipment of one that is charged."""

    started: int
    finished: int
    failed: int


@dataclass(frozen=True, slots=True)
class EvidenceNumbers:
    """The numbers of a decision. `unhealthy` at or above `threshold` stops a version."""

    candidate: SideNumbers
    baseline: SideNumbers
    unhealthy: float
    threshold: float


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """How a rollout ended: by which operation, in which step (from 1), for which reason. Times are seconds of
    `time.monotonic`."""

    version: str
    state: str
    step: int
    operation: str
    code: str
    message: str
    evidence: EvidenceNumbers
    began_at: float
    ended_at: float


_NO_HEALTH: Mapping[str, Any] = {"candidate": {}, "baseline": {}, "evidence": {}}
"""In place of the health in the record of an end that a person or a pipeline asked for."""


def read_rollout_record(server: httpx.Client, version: str, *, began_at: float, ended_at: float) -> RolloutRecord:
    """Read how the last rollout, of this version, has ended. `server` is a client of the app's operations."""
    history = server.get("history").raise_for_status().json()["history"]
    return parse_rollout_record(history, version, began_at=began_at, ended_at=ended_at)


def parse_rollout_record(
    history: Sequence[Mapping[str, Any]], version: str, *, began_at: float, ended_at: float
) -> RolloutRecord:
    """The latest end of a rollout in a history, newest record first. Raises UnexpectedResult if there is none."""
    for record in history:
        details = record["details"]
        if details.get("state") in ENDED_STATES:
            health = details.get("health", _NO_HEALTH)
            return RolloutRecord(
                version=version,
                state=details["state"],
                step=details["step"],
                operation=record["operation"],
                code=details["code"],
                message=details["message"],
                evidence=EvidenceNumbers(
                    candidate=_parse_side(health["candidate"]),
                    baseline=_parse_side(health["baseline"]),
                    unhealthy=health["evidence"].get("unhealthy", 0),
                    threshold=health["evidence"].get("threshold", 0),
                ),
                began_at=began_at,
                ended_at=ended_at,
            )
    raise UnexpectedResult("the history has no end of a rollout")


def _parse_side(side: Mapping[str, int]) -> SideNumbers:
    """The numbers of one version; 0 where there are none."""
    return SideNumbers(side.get("started", 0), side.get("finished", 0), side.get("failed", 0))
