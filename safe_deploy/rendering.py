"""How results look: tables for people, markdown for a run's summary, and the outputs of a step."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from safe_deploy.sanitization import escape_markdown, sanitize_cells

Json = Mapping[str, Any]
Rows = Sequence[Sequence[str]]

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def format_age(time: str | None, now: datetime) -> str:
    """How long ago, in the largest unit that makes it at least one."""
    if time is None:
        return "never"
    seconds = max(0, int((now - _parse_timestamp(time)).total_seconds()))
    size, unit = next((one for one in _UNITS if seconds >= one[0]), _UNITS[-1])
    return f"{seconds // size} {unit}"


def build_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        # Rich would read a plain text as markup.
        made.add_row(*map(Text, sanitize_cells(row)))
    return made


def format_markdown_table(columns: Sequence[str], rows: Rows) -> str:
    """A table for a run's summary."""
    head, *body = ([escape_markdown(cell) for cell in line] for line in (columns, *rows))
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(columns), *body))


def format_verdict(verdict: Json) -> str:
    """A verdict in one line."""
    hub = f"task hub {verdict['taskHub']}" if verdict["taskHub"] else "empty"
    if verdict["ready"]:
        return f"Ready: slot {verdict['slot']} ({hub}), by {_ASSURANCE_TEXTS[verdict['assurance']]}"
    reasons = "; ".join(reason["message"] for reason in verdict["reasons"])
    return f"NotReady: slot {verdict['slot']} ({hub}): {reasons}"


_ASSURANCE_TEXTS = {"verified": "a look at the task hub itself", "events": "lifecycle events alone"}

BLOCKER_COLUMNS = ("Instance", "Function", "Status", "Active for", "Last event", "Known by")


def build_blocker_rows(verdict: Json, now: datetime) -> Rows:
    """What keeps the slot from being ready: active instances, and starts that are still messages in a queue."""
    active = [
        [
            one["instanceId"],
            one["functionName"],
            one["runtimeStatus"],
            format_age(one["startedAt"], now),
            format_age(one["lastEventAt"], now),
            one["source"],
        ]
        for one in verdict["active"]
    ]
    starts = [
        [start["instanceId"] or _UNKNOWN, start["functionName"] or _UNKNOWN, "start in queue", "", "", "queue"]
        for start in pending_starts(verdict)
    ]
    return active + starts


_UNKNOWN = "unknown"
"""A start whose message cannot be read has no names."""


def pending_starts(verdict: Json) -> Sequence[Json]:
    """Starts of orchestrations that no worker has taken yet, as the last probe saw them in the control queues."""
    probe = verdict["evidence"]["probe"] or {}
    messages = probe.get("messages") or {}
    starts: Sequence[Json] = messages.get("starts") or []
    return starts


def verdict_outputs(verdict: Json) -> dict[str, str]:
    return {
        "ready": _format_bool(verdict["ready"]),
        "status": verdict["status"],
        "has-running": _format_bool(verdict["hasRunning"]),
        "active-count": str(verdict["activeCount"]),
        "reasons": ",".join(reason["code"] for reason in verdict["reasons"]),
        "task-hub": verdict["taskHub"] or "",
        "version": verdict["version"] or "",
        "assurance": verdict["assurance"],
    }


SLOT_COLUMNS = ("Slot", "Task hub", "Version", "Since")


def build_slot_rows(app: Json) -> Rows:
    return [
        [name, held["taskHub"], held["version"] or "", held["since"]] if held else [name, "", "", ""]
        for name, held in app["slots"].items()
    ]


def app_outputs(app: Json, slot: str, task_hub: str) -> dict[str, str]:
    held = {name.lower(): content or {} for name, content in app["slots"].items()}
    production, staging = held.get("production", {}), held.get(slot.lower(), {})
    return {
        "task-hub": task_hub,
        "production-task-hub": production.get("taskHub") or "",
        "production-version": production.get("version") or "",
        "staging-task-hub": staging.get("taskHub") or "",
        "staging-version": staging.get("version") or "",
    }


CLEANUP_COLUMNS = ("Task hub", "Version", "Outcome", "Why")


def build_cleanup_rows(answer: Json) -> Rows:
    return [
        [
            one["taskHub"],
            one["version"] or "",
            one["outcome"],
            "; ".join(
                [*(reason["message"] for reason in one["reasons"]), *([one["message"]] if one["message"] else [])]
            ),
        ]
        for one in answer["taskHubs"]
    ]


def cleanup_outputs(answer: Json) -> dict[str, str]:
    gone = [one["taskHub"] for one in answer["taskHubs"] if one["outcome"] == "Removed"]
    left = [one["taskHub"] for one in answer["taskHubs"] if one["outcome"] != "Removed"]
    return {"removed": ",".join(gone), "kept": ",".join(left)}


INSTANCE_COLUMNS = ("Instance", "Function", "Status", "Active", "Started", "Finished", "Known by")


def build_instance_rows(answer: Json) -> Rows:
    return [
        [
            one["instanceId"],
            one["functionName"],
            one["runtimeStatus"],
            "yes" if one["active"] else "no",
            one["startedAt"] or "",
            one["finishedAt"] or "",
            one["source"],
        ]
        for one in answer["instances"]
    ]


HISTORY_COLUMNS = ("Revision", "At", "What", "Who", "Details")


def build_history_rows(answer: Json) -> Rows:
    return [
        [
            str(one["revision"]),
            one["at"],
            one["operation"],
            f"{one['by']} {one['runUrl'] or ''}".strip(),
            _format_details(one["details"], one["reason"]),
        ]
        for one in answer["history"]
    ]


def print_table(console: Console, columns: Sequence[str], rows: Rows) -> None:
    console.print(build_table(columns, rows))


def current_time() -> datetime:
    return datetime.now(UTC)


def _format_details(details: Json, reason: str | None) -> str:
    said = [f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in details.items()]
    return ", ".join([*said, *([f"reason: {reason}"] if reason else [])])


def _format_bool(value: bool) -> str:
    return "true" if value else "false"


def _parse_timestamp(time: str) -> datetime:
    """The server gives seven digits of a second; Python reads six."""
    whole, _, fraction = time.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{(fraction + '000000')[:6]}+00:00")
