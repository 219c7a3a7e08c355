"""How results look: tables for people, Markdown for a job summary, and the outputs of a pipeline step. Pure, except for
`current_time`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from safe_deploy.sanitization import escape_markdown, sanitize_cells

Json = Mapping[str, Any]
Rows = Sequence[Sequence[str]]

_AGE_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
"""Seconds and name of each unit, the largest first."""

_UNKNOWN = "unknown"
"""Instance and function of a start whose message cannot be read."""


def current_time() -> datetime:
    return datetime.now(UTC)


def format_age(timestamp: str | None, now: datetime) -> str:
    """The time since `timestamp`, in the largest unit of which it is at least one."""
    if timestamp is None:
        return "never"
    age_seconds = max(0, int((now - _parse_timestamp(timestamp)).total_seconds()))
    unit_seconds, unit = next((unit for unit in _AGE_UNITS if age_seconds >= unit[0]), _AGE_UNITS[-1])
    return f"{age_seconds // unit_seconds} {unit}"


def is_older(timestamp: str, now: datetime, age: timedelta) -> bool:
    """Whether `timestamp` is longer ago than this age."""
    return now - _parse_timestamp(timestamp) > age


def build_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table for the console, with its cells sanitized."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # The cell is a Text, because Rich reads markup in a str.
        table.add_row(*map(Text, sanitize_cells(row)))
    return table


def print_table(console: Console, columns: Sequence[str], rows: Rows) -> None:
    """Print a table with sanitized cells."""
    console.print(build_table(columns, rows))


def format_markdown_table(columns: Sequence[str], rows: Rows) -> str:
    """A table in GitHub Flavored Markdown, with its cells escaped."""
    header, *body = ([escape_markdown(cell) for cell in row] for row in (columns, *rows))
    delimiter = ["---"] * len(columns)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, delimiter, *body))


def format_verdict(verdict: Json) -> str:
    """A verdict in one line."""
    slot = f"slot {verdict['slot']} ({_describe_content(verdict)})"
    if verdict["ready"]:
        return f"Ready: {slot}, by {_ASSURANCE_TEXTS[verdict['assurance']]}"
    reasons = "; ".join(reason["message"] for reason in verdict["reasons"])
    return f"NotReady: {slot}: {reasons}"


def _describe_content(verdict: Json) -> str:
    """What the slot of a verdict holds, for a table."""
    return f"task hub {verdict['taskHub']}" if verdict["taskHub"] else "empty"


_ASSURANCE_TEXTS = {"verified": "a probe of the task hub", "events": "lifecycle events alone"}

BLOCKER_COLUMNS = ("Instance", "Function", "Status", "Active for", "Last event", "Known by")


def build_blocker_rows(verdict: Json, now: datetime) -> Rows:
    """What keeps a slot from being ready: active instances, and starts that are still messages in a control queue."""
    active = [
        [
            instance["instanceId"],
            instance["functionName"],
            instance["runtimeStatus"],
            format_age(instance["startedAt"], now),
            format_age(instance["lastEventAt"], now),
            instance["source"],
        ]
        for instance in verdict["active"]
    ]
    pending_starts = [
        [start["instanceId"] or _UNKNOWN, start["functionName"] or _UNKNOWN, "start in queue", "", "", "queue"]
        for start in list_pending_starts(verdict)
    ]
    return active + pending_starts


def list_pending_starts(verdict: Json) -> Sequence[Json]:
    """Starts of orchestrations that the last probe saw in the control queues and that no worker has taken yet."""
    probe = verdict["evidence"]["probe"] or {}
    messages = probe.get("messages") or {}
    starts: Sequence[Json] = messages.get("starts") or []
    return starts


def verdict_outputs(verdict: Json) -> dict[str, str]:
    """A verdict as the outputs of a pipeline step, all of them text."""
    return {
        "ready": json.dumps(verdict["ready"]),
        "status": verdict["status"],
        "has-running": json.dumps(verdict["hasRunning"]),
        "active-count": str(verdict["activeCount"]),
        "reasons": ",".join(reason["code"] for reason in verdict["reasons"]),
        "task-hub": verdict["taskHub"] or "",
        "version": verdict["version"] or "",
        "assurance": verdict["assurance"],
    }


SLOT_COLUMNS = ("Slot", "Task hub", "Version", "Since")


def build_slot_rows(app: Json) -> Rows:
    """A row for each slot: name, task hub, version, since when. An empty slot has only its name."""
    return [
        [name, slot["taskHub"], slot["version"] or "", slot["since"]] if slot else [name, "", "", ""]
        for name, slot in app["slots"].items()
    ]


def app_outputs(app: Json, slot: str, task_hub: str) -> dict[str, str]:
    """`task_hub` is the one that the command was about."""
    slots = {name.lower(): slot_json or {} for name, slot_json in app["slots"].items()}
    production, staging = slots.get("production", {}), slots.get(slot.lower(), {})
    return {
        "task-hub": task_hub,
        "production-task-hub": production.get("taskHub") or "",
        "production-version": production.get("version") or "",
        "staging-task-hub": staging.get("taskHub") or "",
        "staging-version": staging.get("version") or "",
    }


CLEANUP_COLUMNS = ("Task hub", "Version", "Outcome", "Why")


def build_cleanup_rows(response: Json) -> Rows:
    """A row for each retired task hub: name, version, outcome, and why."""
    return [
        [task_hub["taskHub"], task_hub["version"] or "", task_hub["outcome"], _describe_cleanup(task_hub)]
        for task_hub in response["taskHubs"]
    ]


def _describe_cleanup(task_hub: Json) -> str:
    """Why a retired task hub was kept, or what is left of it."""
    messages = [reason["message"] for reason in task_hub["reasons"]]
    return "; ".join([*messages, *([task_hub["message"]] if task_hub["message"] else [])])


def cleanup_outputs(response: Json) -> dict[str, str]:
    """The outputs of a cleanup for later steps of a pipeline: the task hubs that were removed, and the others."""
    removed = [task_hub["taskHub"] for task_hub in response["taskHubs"] if task_hub["outcome"] == "Removed"]
    kept = [task_hub["taskHub"] for task_hub in response["taskHubs"] if task_hub["outcome"] != "Removed"]
    return {"removed": ",".join(removed), "kept": ",".join(kept)}


INSTANCE_COLUMNS = ("Instance", "Function", "Status", "Active", "Started", "Finished", "Known by")


def build_instance_rows(response: Json) -> Rows:
    """A row for each instance of a task hub, with the columns INSTANCE_COLUMNS."""
    return [
        [
            instance["instanceId"],
            instance["functionName"],
            instance["runtimeStatus"],
            "yes" if instance["active"] else "no",
            instance["startedAt"] or "",
            instance["finishedAt"] or "",
            instance["source"],
        ]
        for instance in response["instances"]
    ]


HISTORY_COLUMNS = ("Revision", "At", "Operation", "By", "Details")


def build_history_rows(response: Json) -> Rows:
    """A row for each entry of the audit log."""
    return [
        [
            str(entry["revision"]),
            entry["at"],
            entry["operation"],
            f"{entry['by']} {entry['runUrl'] or ''}".strip(),
            _format_details(entry["details"], entry["reason"]),
        ]
        for entry in response["history"]
    ]


def _format_details(details: Json, reason: str | None) -> str:
    """The details of an audit record in one line of a table, with the reason at the end."""
    texts = [f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in details.items()]
    return ", ".join([*texts, *([f"reason: {reason}"] if reason else [])])


WAIVER_COLUMNS = ("Task hub", "For", "Until", "By", "Reason")


def build_waiver_rows(app: Json) -> Rows:
    """A row for each waiver: task hub, what is waived, until when, by whom, and why."""
    return [
        [waiver["taskHub"], describe_waived(waiver), waiver["expiresAt"], waiver["by"], waiver["reason"]]
        for waiver in app["waivers"]
    ]


def describe_waived(waiver: Json) -> str:
    """What a waiver keeps from blocking: an instance, or a number of unexplained messages."""
    if waiver.get("instanceId") is not None:
        return f"instance {waiver['instanceId']}"
    return f"{waiver['unexplainedMessages']} unexplained messages"


CHECK_COLUMNS = ("Status", "Check", "Message")


def _parse_timestamp(timestamp: str) -> datetime:
    """Parse a timestamp of the server, which has seven digits of a second. Python reads six."""
    whole, _, fraction = timestamp.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{(fraction + '000000')[:6]}+00:00")
