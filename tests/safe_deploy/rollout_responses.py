"""Responses about rollouts as docs/http-api.md has them, for tests of messages that a real server seldom gives."""

from typing import Any

STARTED_AT = "2026-11-27T14:00:00.0000000Z"


def build_rollout(**members: Any) -> dict[str, Any]:
    """A rollout of release 1.5.0 in its first step. `members` replace others."""
    return {
        "app": "shop",
        "model": "sideBySide",
        "candidate": "1.5.0",
        "baseline": "1.4.0",
        "candidateTaskHub": "shop150",
        "baselineTaskHub": "shop140",
        "state": "Running",
        "step": 1,
        "steps": [{"weight": 10, "minutes": 15}, {"weight": 50, "minutes": 30}],
        "weight": 10,
        "confirmed": True,
        "stepEndsAt": "2026-11-27T14:15:00.0000000Z",
        "analysis": {
            "toleratedRatio": 1.0,
            "confidence": 0.95,
            "minimumFinished": 10,
            "maximumActiveAgeMinutes": None,
            "onUnhealthy": "abort",
            "onUndecided": "continue",
        },
        "startedAt": STARTED_AT,
        "startedBy": "octocat",
        "runUrl": None,
        "trafficUntil": None,
        "waitsFor": {
            "code": "StepTime",
            "message": "step 1 of 2 lasts 15 minutes",
            "until": "2026-11-27T14:15:00.0000000Z",
        },
        "lastDecision": None,
        "revision": 31,
    } | members


def build_side(name: str, **members: Any) -> dict[str, Any]:
    """One side of a health. `members` replace others."""
    return {
        "name": name,
        "taskHub": f"shop{name.replace('.', '')}",
        "started": 40,
        "finished": 38,
        "failed": 3,
        "terminated": 0,
        "canceled": 0,
        "active": 2,
        "rate": 0.0789,
        "interval": {"low": 0.0272, "high": 0.208},
        "durations": {"medianSeconds": 2.1, "p95Seconds": 8.0},
    } | members


def build_health(status: str = "Undecided", code: str = "EvidenceInconclusive", **members: Any) -> dict[str, Any]:
    """The health of release 1.5.0 beside 1.4.0. `members` replace others."""
    return {
        "app": "shop",
        "status": status,
        "decidedBy": {"code": code, "message": "the evidence does not decide yet"},
        "since": STARTED_AT,
        "assessedAt": "2026-11-27T14:10:00.0000000Z",
        "candidate": build_side("1.5.0"),
        "baseline": build_side("1.4.0", started=360, finished=352, failed=10, active=8, rate=0.0284),
        "shares": {"configured": 10, "observed": 10.0},
        "evidence": {
            "unhealthy": 2.7,
            "healthy": 0.1,
            "threshold": 20,
            "toleratedRatio": 1.0,
            "confidence": 0.95,
        },
        "oldestActive": None,
    } | members


def build_point(at: str, function: str = "ProcessOrder", **counts: int) -> dict[str, Any]:
    """A point of a timeline. `counts` are `started`, and what became of those that started then."""
    outcomes = {name: counts.get(name, 0) for name in ("active", "completed", "failed", "terminated", "canceled")}
    return {
        "at": f"2026-11-27T{at}:00.0000000Z",
        "functionName": function,
        "started": counts.get("started", sum(outcomes.values())),
        "completed": 0,
        "failed": 0,
        "terminated": 0,
        "canceled": 0,
        "cohort": outcomes,
    }


def build_timeline(*points: Any, begin: str = "14:00", end: str = "14:20", step_minutes: int = 5) -> dict[str, Any]:
    """A timeline of an afternoon."""
    return {
        "taskHub": "shop150",
        "from": f"2026-11-27T{begin}:00.0000000Z",
        "to": f"2026-11-27T{end}:00.0000000Z",
        "stepMinutes": step_minutes,
        "points": list(points),
    }
