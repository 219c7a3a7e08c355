"""Reports to the server how swaps end. A report ends no other swap than the one that it belongs to.

The response to a report may be lost, and another caller may begin the next swap of the same task hub before the report
is repeated. So a report names the ETag of the app with which the pending swap was read.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from safe_deploy.client import Json, StateServerClient
from safe_deploy.errors import ConflictError
from safe_deploy.slot_task_hubs import PendingSwap, RecordedSlots, is_same_task_hub
from safe_deploy.swap_history import find_last_swap, find_outcome
from safe_deploy.swap_messages import describe_interrupted_swap, describe_other_outcome, describe_swap_of_other_run
from safe_deploy.swap_planner import choose_rollback_task_hub

_MAX_ATTEMPTS = 10
"""How often an outcome is reported while other callers change the app, such as its waivers."""

_OUTDATED_CODES = frozenset({"PreconditionFailed", "SwapPending", "SwapMismatch"})
"""Refusals of an outcome whose swap may have ended. The last two occur without an ETag, which a proxy may drop."""


class AppChanged(Exception):
    """Another caller changed the app after it was read. Nothing was recorded."""


class SwapEndedOtherwise(ConflictError):
    """The swap is not pending any more, and its outcome on record is not the one that was to be reported."""


@contextmanager
def detecting_changes() -> Iterator[None]:
    """Turns the server's refusal of an outdated ETag into AppChanged."""
    try:
        yield
    except ConflictError as error:
        if error.problem_code == "PreconditionFailed":
            raise AppChanged from error
        raise


def report_outcome(server: StateServerClient, swap: PendingSwap, outcome: str, *, etag: str) -> Json:
    """Report that this pending swap is Done or Failed. `etag` is that of the app with which it was read.

    Returns the app, also if the outcome was on record already. Raises SwapEndedOtherwise.
    """
    for _ in range(_MAX_ATTEMPTS):
        try:
            return server.post_swap(
                swap.task_hub, slot=swap.slot, outcome=outcome, rollback=swap.rollback, etag=etag or None
            )[0]
        except ConflictError as error:
            if error.problem_code not in _OUTDATED_CODES:
                raise
            refusal = error
        app, etag = server.get_app()
        if RecordedSlots.from_app(app, swap.slot).pending_swap == swap:
            continue
        entry = find_outcome(server, swap)
        if entry is not None and entry["details"].get("outcome") == outcome:
            return app
        raise SwapEndedOtherwise(describe_other_outcome(swap, outcome, entry), refusal.problem)
    raise refusal


def report_swap_by_hand(server: StateServerClient, task_hub: str, *, slot: str, outcome: str) -> Json:
    """Record that a swap that is made outside of safe-deploy is Pending, Done or Failed. Returns the app.

    Raises ConflictError for Pending if the slots must not be swapped: a swap is pending already, or the task hub is in
    production already. For Done and Failed: if the pending swap belongs to another run.
    """
    return _report_by_hand(server, *server.get_app(), task_hub, slot=slot, outcome=outcome, rollback=False)


def report_rollback_by_hand(
    server: StateServerClient, requested_task_hub: str | None, *, slot: str, outcome: str
) -> Json:
    """Record that a rollback that is swapped outside of safe-deploy is Pending, Done or Failed. Returns the app. Raises
    ConflictError if the pending swap is not a rollback: Done would confirm that swap instead."""
    app, etag = server.get_app()
    recorded = RecordedSlots.from_app(app, slot, server.url)
    if recorded.pending_swap is not None and not recorded.pending_swap.rollback:
        raise ConflictError(describe_interrupted_swap(recorded, recorded.pending_swap))
    task_hub = choose_rollback_task_hub(
        recorded, requested_task_hub=requested_task_hub, last_swap=find_last_swap(server, slot)
    )
    return _report_by_hand(server, app, etag, task_hub, slot=slot, outcome=outcome, rollback=True)


def _report_by_hand(
    server: StateServerClient, app: Json, etag: str, task_hub: str, *, slot: str, outcome: str, rollback: bool
) -> Json:
    """Record the beginning of a swap, the outcome of the pending swap, or a swap that was never pending."""
    recorded = RecordedSlots.from_app(app, slot, server.url)
    run_url, pending_swap = server.caller.run_url, recorded.pending_swap
    if outcome == "Pending":
        return _begin_by_hand(server, recorded, task_hub, rollback=rollback)
    if pending_swap is None or not pending_swap.brings(task_hub, slot):
        return _report_unrecorded_swap(server, app, etag, task_hub, slot=slot, outcome=outcome, rollback=rollback)
    if run_url is not None and not pending_swap.belongs_to_run(run_url):
        # A repeated step of a pipeline means the swap of its own run, which has ended.
        raise ConflictError(describe_swap_of_other_run(recorded, pending_swap))
    return report_outcome(server, pending_swap, outcome, etag=etag)


def _begin_by_hand(server: StateServerClient, recorded: RecordedSlots, task_hub: str, *, rollback: bool) -> Json:
    """Record the swap as pending. Returns the app. Raises ConflictError if the slots must not be swapped."""
    if recorded.pending_swap is not None:
        raise ConflictError(describe_interrupted_swap(recorded, recorded.pending_swap))
    app, _ = server.post_swap(task_hub, slot=recorded.slot_name, outcome="Pending", rollback=rollback)
    if app["pendingSwap"] is None:
        raise ConflictError(
            f"task hub {task_hub} is in production of app {app['app']} already, so no swap was recorded: do not swap "
            "the slots, because that would bring the old version back"
        )
    return app


def _report_unrecorded_swap(
    server: StateServerClient, app: Json, etag: str, task_hub: str, *, slot: str, outcome: str, rollback: bool
) -> Json:
    """Report a swap that is not pending. Returns the app. Raises ConflictError if another caller has changed the slots
    meanwhile."""
    slots_before = (app["slots"], app["pendingSwap"])
    for _ in range(_MAX_ATTEMPTS):
        try:
            with detecting_changes():
                return server.post_swap(task_hub, slot=slot, outcome=outcome, rollback=rollback, etag=etag or None)[0]
        except AppChanged:
            app, etag = server.get_app()
        if (app["slots"], app["pendingSwap"]) != slots_before:
            recorded = RecordedSlots.from_app(app, slot)
            is_recorded = outcome == "Done" and is_same_task_hub(recorded.production, task_hub)
            if is_recorded and recorded.pending_swap is None:
                return app
            break
    raise ConflictError(
        f"app {server.app} was changed by another caller while the outcome was to be recorded. Look at safe-deploy "
        "history. If the record differs from the slots in Azure and no swap is pending, run the same command again"
    )
