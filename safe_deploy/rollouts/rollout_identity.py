"""Which rollout a response is about. The server has only the last rollout of an app, so between two requests another
rollout may have taken its place. Pure."""

from collections.abc import Mapping
from typing import Any

from safe_deploy.errors import ConflictError
from safe_deploy.rendering import format_instant
from safe_deploy.rollouts.messages import describe_rollout, name_candidate

Json = Mapping[str, Any]

_IDENTITY = ("startedAt", "candidate", "candidateTaskHub")
_DECIDED = ("state", "lastDecision")


def build_etag(rollout: Json) -> str:
    """The ETag of the app as it was when the server sent this rollout, for If-Match."""
    return f'"{rollout["revision"]}"'


def is_same_rollout(rollout: Json, other: Json) -> bool:
    """Whether both are one rollout, read at two times."""
    return all(rollout[member] == other[member] for member in _IDENTITY)


def is_undecided_since(before: Json, now: Json) -> bool:
    """Whether both are one rollout about which neither a person nor the server has decided anything in between. A
    rollout that was resumed and paused again is in the same state, and has another last decision."""
    return is_same_rollout(before, now) and all(before[member] == now[member] for member in _DECIDED)


def require_same_rollout(expected: Json, current: Json, *, consequence: str) -> None:
    """Raises ConflictError if another rollout has taken the place of the expected one. `consequence`: what the
    command leaves undone, as a sentence."""
    if is_same_rollout(expected, current):
        return
    run = f" (run {current['runUrl']})" if current["runUrl"] else ""
    began, next_began = format_instant(expected["startedAt"]), format_instant(current["startedAt"])
    raise ConflictError(
        f"the rollout of {name_candidate(expected)} that began at {began} has ended, and {current['startedBy']}{run} "
        f"has begun that of {name_candidate(current)} at {next_began}: {describe_rollout(current)}. {consequence} "
        "safe-deploy history shows how the first one has ended"
    )
