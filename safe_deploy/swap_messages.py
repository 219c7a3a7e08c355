"""What people read when a swap or a staging cannot go on: what happened, why, and the command to run next. Pure."""

import shlex
from collections.abc import Mapping
from typing import Any

from safe_deploy.rendering import format_instant
from safe_deploy.slot_task_hubs import PendingSwap, RecordedSlots

STICKY_SETTING_MESSAGE = (
    "in Azure the app setting with the task hub name is slot-sticky. A swap would leave the task hubs in their slots "
    "and exchange only the code, under running orchestrations. Set it again with az's --settings instead of "
    "--slot-settings"
)
"""Why `stage` and `swap` refuse an app whose task hub name does not move with its code."""


def format_outcome_command(*, server_url: str, app: str, swap: PendingSwap, outcome: str) -> str:
    """The command that reports how a swap ended. It names the run that began the swap, if there is one, so that it ends
    no swap of another run. Without `server_url` the command relies on SAFE_DEPLOY_SERVER."""
    server = ["--server", server_url] if server_url else []
    run = ["--run-url", swap.run_url] if swap.run_url else []
    words = ["safe-deploy", "swap", *server, "--app", app, *run, "--slot", swap.slot, "--task-hub", swap.task_hub]
    return shlex.join([*words, "--outcome", outcome])


def format_register_command(recorded: RecordedSlots, task_hub: str) -> str:
    """The command that records which task hub is in production."""
    server = ["--server", recorded.server_url] if recorded.server_url else []
    return shlex.join(["safe-deploy", "register", *server, "--app", recorded.app, "--task-hub", task_hub])


def describe_interrupted_swap(recorded: RecordedSlots, pending_swap: PendingSwap) -> str:
    """Who started a swap that has no outcome yet, and how to report its outcome."""
    run = f" (run {pending_swap.run_url})" if pending_swap.run_url else ""
    other_hub = f", not {pending_swap.swapped_out}" if pending_swap.swapped_out else ""
    command = format_outcome_command(
        server_url=recorded.server_url, app=recorded.app, swap=pending_swap, outcome="done"
    )
    # In CI, the command would act for the CI's own run.
    place = "" if pending_swap.run_url else ". Run it in a shell outside CI, because the swap began without a run URL"
    return (
        f"a swap of task hub {pending_swap.task_hub} into production of app {recorded.app} is pending: "
        f"{pending_swap.by}{run} started it at {format_instant(pending_swap.started_at)} and has not reported its "
        "outcome. If that run is still active, wait for it. If it has ended, run it again: it checks Azure before it "
        "swaps. Otherwise look up the task hub of production in Azure. If it is "
        f"{pending_swap.task_hub}{other_hub}, run: {command}. If it is not, and no swap is in progress, run the same "
        f"command with --outcome failed{place}"
    )


def describe_swap_of_other_run(recorded: RecordedSlots, pending_swap: PendingSwap) -> str:
    """Why a run does not report the outcome of a swap that it has not started."""
    return (
        "the pending swap is not the one of this run, so nothing was reported: "
        f"{describe_interrupted_swap(recorded, pending_swap)}"
    )


def describe_other_outcome(swap: PendingSwap, outcome: str, entry: Mapping[str, Any] | None) -> str:
    """Why an outcome was not recorded: another caller has reported another one. `entry` is the one in the audit log."""
    title = f"the swap of task hub {swap.task_hub} that was started at {format_instant(swap.started_at)}"
    if entry is None:
        ended = f"{title} is not pending any more, and its outcome is not in the audit log"
    else:
        run = f" (run {entry['runUrl']})" if entry["runUrl"] else ""
        reported = entry["details"].get("outcome", "Done").lower()
        ended = f"{entry['by']}{run} has reported at {format_instant(entry['at'])} that {title} is {reported}"
    return (
        f"{ended}. So the outcome {outcome.lower()} was not recorded. Once no swap is pending or in progress, look up "
        "the task hub of production in Azure. If it is not the one on record, run safe-deploy swap with --task-hub for "
        "it, with --resource-group, and with -- true as the command: that corrects the record and swaps nothing"
    )


def describe_unregistered_production(recorded: RecordedSlots, production: str) -> str:
    """Why production must be registered first: after a swap the slot would hold a version that the server does not
    know, and the server would report the slot as empty."""
    return (
        f"in Azure production has task hub {production}, but the server has no task hub on record there. After a swap "
        f"it would report slot {recorded.slot_name} as empty. Register production first: "
        f"{format_register_command(recorded, production)}"
    )


def describe_production_mismatch(recorded: RecordedSlots, observed_production: str | None) -> str:
    """Server and Azure disagree about production."""
    return (
        f"the server has task hub {recorded.production} in production, but in Azure production has "
        f"{observed_production or 'no task hub'}: the slots were swapped or deployed without the server. Run "
        "safe-deploy doctor to compare both, and correct the one that is wrong"
    )
