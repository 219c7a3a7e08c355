"""Begins a rollout, once. The same request, sent again, continues the rollout that it has begun.

The request names, by If-Match, the app as the command has read it. So a request that arrives late, or again because its
response was lost, does not begin a rollout that another caller has ended meanwhile.
"""

from collections.abc import Callable, Mapping
from typing import Any

from safe_deploy.client import Json, StateServerClient
from safe_deploy.errors import ConflictError
from safe_deploy.rendering import format_instant
from safe_deploy.rollouts.messages import describe_rollout, has_ended, name_candidate
from safe_deploy.rollouts.rollout_changes import MAX_ATTEMPTS
from safe_deploy.rollouts.rollout_identity import is_undecided_since


def begin_rollout(
    server: StateServerClient, body: Json, app: Json, etag: str, *, report: Callable[[str], None]
) -> Json:
    """Send PutRollout, and return the rollout. `app` and `etag` are what the command has read before.

    A rollout with the same candidate, steps and analysis that is in progress is returned as it is, also if another run
    has begun it. One that this command or its run has begun is returned also if it has ended.

    Raises ConflictError for another one that is in progress, or that has ended since `app` was read.
    """
    for _ in range(MAX_ATTEMPTS):
        try:
            rollout = server.put_rollout(body, etag=etag)
        except ConflictError as error:
            if error.problem_code == "RolloutInProgress":
                return _find_in_progress(server, body, error, report)
            if error.problem_code != "PreconditionFailed":
                raise
        else:
            if has_ended(rollout):
                report(
                    "this run has begun this rollout before, and it has ended, so it was not begun again. To begin "
                    "another one, start it in another run: the server distinguishes runs by --run-url"
                )
            return rollout
        current, etag = server.get_app()
        ended = _find_ended_since(app, current)
        if ended is not None:
            return _return_own(server, body, ended, report)
        if current["slots"] != app["slots"]:
            raise ConflictError(
                f"the slots of app {app['app']} have changed after this command had read them, so its rollout was not "
                "begun. Run the same command again"
            )
    raise ConflictError(
        f"app {app['app']} was changed by other callers {MAX_ATTEMPTS} times while its rollout was to begin. Run the "
        "same command again"
    )


def _find_in_progress(
    server: StateServerClient, body: Json, error: ConflictError, report: Callable[[str], None]
) -> Json:
    """The rollout that is in progress, if it is the one that the request asks for. Raises `error` otherwise."""
    rollout = server.get_rollout()
    if not _matches(rollout, body):
        raise error
    report("this rollout is in progress already, and was not begun again")
    return rollout


def _find_ended_since(before: Json, current: Json) -> Json | None:
    """The last rollout of the app, if it has ended after `before` was read. The server decides on one that is in
    progress."""
    rollout: Json | None = current["rollout"]
    if rollout is None or not has_ended(rollout):
        return None
    return None if before["rollout"] and is_undecided_since(before["rollout"], rollout) else rollout


def _return_own(server: StateServerClient, body: Json, ended: Json, report: Callable[[str], None]) -> Json:
    """The ended rollout, if this command may have begun it. Raises ConflictError for any other one."""
    run_url = server.caller.run_url
    began = f"at {format_instant(ended['startedAt'])}"
    if not _matches(ended, body) or (run_url is not None and run_url != ended["runUrl"]):
        raise ConflictError(
            f"the rollout of {name_candidate(ended)} that {ended['startedBy']} has begun {began} has ended after this "
            f"command had read the app: {describe_rollout(ended)}. Whether the rollout of this command came before it "
            "is shown by safe-deploy history; it was not begun again. Run the same command again if it is still wanted"
        )
    report(
        f"this command, or another caller, has begun this rollout {began}, and it has ended, so it was not begun "
        "again. Run the same command again to begin another one"
    )
    return ended


def _matches(rollout: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    """Whether a rollout is the one that a request asks for. Of the analysis only what the request sets is compared."""
    analysis = body.get("analysis", {})
    candidate = str(body.get("version", body.get("slot")))
    return (
        rollout["candidate"].lower() == candidate.lower()
        and rollout["steps"] == body["steps"]
        and all(rollout["analysis"].get(name) == value for name, value in analysis.items())
    )
