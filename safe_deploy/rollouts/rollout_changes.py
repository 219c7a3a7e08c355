"""Pauses, resumes, aborts and finishes the rollout that a command has read, and no other one.

Each request names, by If-Match, the app as it was read. So a request that arrives late, or again because its response
was lost, changes nothing that another caller has decided meanwhile: the rollout is read again then.
"""

from collections.abc import Callable

from safe_deploy.client import Json, StateServerClient
from safe_deploy.errors import ConflictError
from safe_deploy.next_steps import format_reason
from safe_deploy.rollouts.messages import RolloutState, describe_rollout, name_candidate
from safe_deploy.rollouts.rollout_identity import build_etag, is_undecided_since, require_same_rollout

MAX_ATTEMPTS = 5
"""How often a request is sent again because the app has changed, but not the rollout: when a release was registered,
for example."""

_STATES_AFTER = {
    "pause": frozenset({RolloutState.PAUSED}),
    "resume": frozenset({RolloutState.RUNNING}),
    "abort": frozenset({RolloutState.ABORTING, RolloutState.ABORTED}),
    "finish": frozenset({RolloutState.FINISHING, RolloutState.FINISHED}),
}
"""The states in which nothing is left to do for an action."""


def change_rollout(
    server: StateServerClient,
    expected: Json,
    action: str,
    body: Json,
    *,
    report: Callable[[str], None],
    retry_seconds: float | None = None,
) -> Json:
    """Pause, resume, abort or finish the rollout `expected`, as it was read from the server. Returns the rollout.

    If the app has changed meanwhile, the action is made again while nothing else was decided about the rollout. An
    abort is made also after another decision. Raises ConflictError if another decision or another rollout came first.
    """
    current = expected
    for _ in range(MAX_ATTEMPTS):
        try:
            return server.post_rollout(action, body, etag=build_etag(current), retry_seconds=retry_seconds)
        except ConflictError as error:
            if error.problem_code != "PreconditionFailed":
                raise
        current = server.get_rollout(retry_seconds=retry_seconds)
        require_same_rollout(expected, current, consequence=f"It was not changed by this {action}.")
        if current["state"] in _STATES_AFTER[action]:
            report(f"the rollout of {name_candidate(current)} is {current['state']} already")
            return current
        if action != "abort" and not is_undecided_since(expected, current):
            raise ConflictError(_describe_other_decision(action, current))
    raise ConflictError(
        f"app {expected['app']} was changed by other callers {MAX_ATTEMPTS} times while this command was to {action} "
        "its rollout, which was not changed. Run the same command again"
    )


def _describe_other_decision(action: str, current: Json) -> str:
    """Why the action is not made, and what to do."""
    decision = current["lastDecision"]
    reason = f": {format_reason(decision).rstrip('.')}" if decision else ""
    return (
        f"the rollout of {name_candidate(current)} was changed after this command had read it, and it is "
        f"{current['state']} now{reason}. This command leaves it so: {describe_rollout(current)}. Run the same command "
        f"again if you still want to {action} it"
    )
