"""How results look: tables for people, Markdown for a job summary, and the outputs of a pipeline step. Pure, except for
`current_time`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from textwrap import wrap
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from safe_deploy.command_words import use_command_words
from safe_deploy.next_steps import format_reason, format_reasons
from safe_deploy.sanitization import escape_markdown, sanitize_cells

Json = Mapping[str, Any]
Rows = Sequence[Sequence[str]]

_AGE_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
"""Seconds and name of each unit, the largest first."""

_UNLIMITED_WIDTH = 1_000_000
"""Columns in which each table is measured, because Rich finds none wider than its console."""

_DURATION_UNITS = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))
"""Seconds and name of a unit, and of the next smaller one."""

_UNKNOWN = "unknown"
"""Instance and function of a start whose message cannot be read."""


def current_time() -> datetime:
    return datetime.now(UTC)


def format_age(timestamp: str | None, now: datetime) -> str:
    """The time since `timestamp`, in the largest unit of which it is at least one."""
    if timestamp is None:
        return "never"
    return _format_seconds((now - parse_timestamp(timestamp)).total_seconds())


def _format_seconds(seconds: float) -> str:
    """A length of time in the largest unit of which it is at least one. Less than nothing is 0 s."""
    whole_seconds = max(0, int(seconds))
    unit_seconds, unit = next((unit for unit in _AGE_UNITS if whole_seconds >= unit[0]), _AGE_UNITS[-1])
    return f"{whole_seconds // unit_seconds} {unit}"


def format_remaining(timestamp: str, now: datetime) -> str:
    """The time until `timestamp`, rounded to minutes: `1 d`, `23 h 59 min`, `45 s`."""
    seconds = (parse_timestamp(timestamp) - now).total_seconds()
    minutes = round(seconds / 60)
    return format_seconds(minutes * 60 if minutes else seconds)


def format_seconds(seconds: float, *, with_rest: bool = True) -> str:
    """A duration for people: `45 s`, `2 min 5 s`, `3 h`, `1 d 2 h`. Without the rest in the largest unit alone."""
    whole = max(0, int(seconds))
    for unit_seconds, unit, part_seconds, part in _DURATION_UNITS:
        if whole >= unit_seconds:
            count, rest = divmod(whole, unit_seconds)
            return f"{count} {unit}" + (f" {rest // part_seconds} {part}" if with_rest and rest >= part_seconds else "")
    return f"{whole} s"


def format_moment(timestamp: str, now: datetime) -> str:
    """The time of day in UTC, with the date if it is another day than `now`."""
    moment = parse_timestamp(timestamp)
    return f"{moment:%H:%M:%S}" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M:%S}"


def format_instant(timestamp: str) -> str:
    """A time of the server in a message, without its fraction of a second: `2026-11-27 20:25:51 UTC`."""
    return f"{parse_timestamp(timestamp):%Y-%m-%d %H:%M:%S} UTC"


def is_older(timestamp: str, now: datetime, age: timedelta) -> bool:
    """Whether `timestamp` is longer ago than this age."""
    return now - parse_timestamp(timestamp) > age


def build_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table for the console, with its cells sanitized."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # The cell is a Text, because Rich reads markup in a str.
        table.add_row(*map(Text, sanitize_cells(row)))
    return table


def print_table(console: Console, columns: Sequence[str], rows: Rows) -> None:
    """Print a table with sanitized cells, or a block of lines for each row if the table would break words, such as
    instance ids, which people copy."""
    table = build_table(columns, rows)
    unlimited = console.options.update_width(_UNLIMITED_WIDTH)
    measurement = Measurement.get(console, unlimited, table)
    if measurement.minimum <= console.width:
        if measurement.maximum > console.width:
            _set_column_widths(console, table, console.width - measurement.minimum)
        console.print(table)
        return
    for row in rows:
        console.print()
        for line in _format_block(columns, sanitize_cells(row), console.width):
            console.print(line, soft_wrap=True)
    console.print()


def _set_column_widths(console: Console, table: Table, spare: int) -> None:
    """Make each column as wide as its longest word, and divide `spare` columns of the console among those that need
    more. Rich alone would shorten a column of long words while another one still has spaces to wrap at."""
    wanted: list[tuple[int, int]] = []
    for position, column in enumerate(table.columns):
        sizes = [Measurement.get(console, console.options, cell) for cell in (column.header, *column.cells)]
        column.width = max(size.minimum for size in sizes)
        wanted.append((max(size.maximum for size in sizes) - column.width, position))
    for number, (missing, position) in enumerate(sorted(wanted)):
        extra = min(missing, spare // (len(wanted) - number))
        column = table.columns[position]
        column.width = (column.width or 0) + extra
        spare -= extra


def _format_block(columns: Sequence[str], cells: Sequence[str], width: int) -> list[Text]:
    """A row of a table with a line for each cell that is not empty. Sentences are wrapped between words, and a longer
    word is left to the terminal."""
    label_width = max(map(len, columns)) + 2
    lines: list[Text] = []
    for column, cell in zip(columns, cells, strict=True):
        parts = wrap(cell, max(width - label_width, 1), break_long_words=False, break_on_hyphens=False)
        for number, part in enumerate(parts):
            lines.append(Text(("" if number else column).ljust(label_width), style="bold") + Text(part))
    return lines


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
    return f"NotReady: {slot}: {format_reasons(verdict['reasons'])}"


def summarize_reasons(verdict: Json, now: datetime) -> str:
    """What blocks, short enough for a line of a terminal: how many instances, and the oldest one with its age."""
    if verdict["ready"]:
        return format_verdict(verdict)
    return "; ".join(_summarize_reason(reason, verdict, now) for reason in verdict["reasons"])


def _summarize_reason(reason: Json, verdict: Json, now: datetime) -> str:
    """A reason in a few words, or with its whole message where nothing shorter is known."""
    starts = list_pending_starts(verdict)
    if reason["code"] == "InstancesActive" and verdict["active"]:
        oldest = verdict["active"][0]
        more = "+" if verdict["activeCountIsLowerBound"] else ""
        age = format_age(oldest["startedAt"], now)
        name = f"{oldest['instanceId']} ({oldest['functionName']})"
        return f"InstancesActive: {verdict['activeCount']}{more}, oldest {name} for {age}"
    if reason["code"] == "StartsPending" and starts:
        name = f"{starts[0]['instanceId'] or _UNKNOWN} ({starts[0]['functionName'] or _UNKNOWN})"
        return f"StartsPending: {len(starts)}, first {name}"
    return format_reason(reason)


def list_reasons(verdict: Json) -> str:
    """The codes of the reasons why a slot is not ready."""
    return ", ".join(reason["code"] for reason in verdict["reasons"])


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


def build_slot_rows(app: Json, now: datetime) -> Rows:
    """A row for each slot: name, task hub, version, since when. An empty slot has only its name."""
    return [
        [name, slot["taskHub"], slot["version"] or "", format_age(slot["since"], now)] if slot else [name, "", "", ""]
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
    message = use_command_words(task_hub["message"] or "")
    return "; ".join(filter(None, [*map(format_reason, task_hub["reasons"]), message]))


def cleanup_outputs(response: Json) -> dict[str, str]:
    """The outputs of a cleanup for later steps of a pipeline: the task hubs that were removed, and the others."""
    removed = [task_hub["taskHub"] for task_hub in response["taskHubs"] if task_hub["outcome"] == "Removed"]
    kept = [task_hub["taskHub"] for task_hub in response["taskHubs"] if task_hub["outcome"] != "Removed"]
    return {"removed": ",".join(removed), "kept": ",".join(kept)}


INSTANCE_COLUMNS = ("Instance", "Function", "Status", "Active", "Started", "Finished", "Known by")
"""Started and finished are ages."""


def build_instance_rows(response: Json, now: datetime) -> Rows:
    """A row for each instance of a task hub, with the columns INSTANCE_COLUMNS."""
    return [
        [
            instance["instanceId"],
            instance["functionName"],
            instance["runtimeStatus"],
            "yes" if instance["active"] else "no",
            format_age(instance["startedAt"], now) if instance["startedAt"] else "",
            format_age(instance["finishedAt"], now) if instance["finishedAt"] else "",
            instance["source"],
        ]
        for instance in response["instances"]
    ]


VERSION_COLUMNS = ("Version", "Active", "Oldest")


def build_version_rows(response: Json, now: datetime) -> Rows:
    """A row for each orchestration version of a response of GetVersions."""
    return [
        [
            "none" if version["version"] is None else version["version"],
            str(version["activeCount"]),
            format_age(version["oldestStartedAt"], now) if version["oldestStartedAt"] else "",
        ]
        for version in response["versions"]
    ]


def format_active_count(response: Json) -> str:
    """The number of active instances in a verdict or of a task hub, with a plus if there may be more."""
    return f"{response['activeCount']}{'+' if response['activeCountIsLowerBound'] else ''}"


HISTORY_COLUMNS = ("Revision", "Age", "Operation", "By", "Details")


def build_history_rows(response: Json, now: datetime) -> Rows:
    """A row for each entry of the audit log."""
    return [
        [
            str(entry["revision"]),
            format_age(entry["at"], now),
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


WAIVER_COLUMNS = ("Task hub", "Waived", "Expires in", "By", "Reason")


def build_waiver_rows(app: Json, now: datetime) -> Rows:
    """A row for each waiver: task hub, what is waived, until when, by whom, and why."""
    return [
        [
            waiver["taskHub"],
            describe_waived(waiver),
            format_remaining(waiver["expiresAt"], now),
            waiver["by"],
            waiver["reason"],
        ]
        for waiver in app["waivers"]
    ]


def describe_waived(waiver: Json) -> str:
    """What a waiver keeps from blocking: an instance, or a number of unexplained messages."""
    if waiver.get("instanceId") is not None:
        return f"instance {waiver['instanceId']}"
    count = waiver["unexplainedMessages"]
    return f"{count} unexplained {'message' if count == 1 else 'messages'}"


CHECK_COLUMNS = ("Status", "Check", "Message")


def parse_timestamp(timestamp: str) -> datetime:
    """Parse a timestamp of the server, which has seven digits of a second. Python reads six."""
    whole, _, fraction = timestamp.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{(fraction + '000000')[:6]}+00:00")
