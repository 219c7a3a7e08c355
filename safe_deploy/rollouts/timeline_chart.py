"""A timeline as a chart: a line for each step, with what became of the instances that started in it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.text import Text

from safe_deploy.rendering import parse_timestamp

Json = Mapping[str, Any]
Rows = Sequence[Sequence[str]]

_STEP_MINUTES = (1, 2, 5, 10, 15, 30, 60, 120, 240, 480, 1440)
"""Lengths of a step that a reader expects: each divides an hour or a day."""

_MAX_STEPS = 24
"""Lines of a chart, unless --step asks for more: it fits a terminal of 30 lines."""

_COUNTERS = ("started", "completed", "failed", "stopped", "active")
_BAR_PARTS = _COUNTERS[1:]


@dataclass(frozen=True, slots=True)
class ChartStyle:
    """The character of each part of a bar, and its color in an interactive terminal."""

    characters: Mapping[str, str]
    colors: Mapping[str, str]


PLAIN = ChartStyle(dict(zip(_BAR_PARTS, "#!-.", strict=True)), {})
"""For logs: every encoding has these characters."""

BLOCKS = ChartStyle(
    dict(zip(_BAR_PARTS, "█▓▒░", strict=True)),
    {"completed": "green", "failed": "red", "stopped": "yellow", "active": "cyan"},
)


@dataclass(frozen=True, slots=True)
class StepCounts:
    """Instances that started in a step, and what has become of them. `stopped`: terminated or canceled."""

    started: int = 0
    completed: int = 0
    failed: int = 0
    stopped: int = 0
    active: int = 0

    def __add__(self, other: "StepCounts") -> "StepCounts":
        return StepCounts(*(getattr(self, name) + getattr(other, name) for name in _COUNTERS))


def choose_step_minutes(period: timedelta) -> int:
    """The shortest step with which the chart of a period has at most `_MAX_STEPS` lines."""
    needed = period / timedelta(minutes=_MAX_STEPS)
    return next((minutes for minutes in _STEP_MINUTES if minutes >= needed), _STEP_MINUTES[-1])


def align_start(end: datetime, period: timedelta, step_minutes: int) -> datetime:
    """The begin of the step that holds the begin of the period, so that steps begin at full minutes, hours or days."""
    step = timedelta(minutes=step_minutes)
    epoch = datetime.fromtimestamp(0, UTC)
    return epoch + (end - period - epoch) // step * step


def count_by_step(timeline: Json) -> list[tuple[datetime, StepCounts]]:
    """The counts of every step from the first to the last, also of those in which nothing started."""
    step = timedelta(minutes=timeline["stepMinutes"])
    counts: dict[datetime, StepCounts] = {}
    begin, end = parse_timestamp(timeline["from"]), parse_timestamp(timeline["to"])
    while begin < end:
        counts[begin] = StepCounts()
        begin += step
    for point in timeline["points"]:
        at = parse_timestamp(point["at"])
        counts[at] = counts.get(at, StepCounts()) + _count_started(point)
    return sorted(counts.items())


def count_by_function(timeline: Json) -> list[tuple[str, StepCounts]]:
    """The counts of each function of which instances started, that with the most starts first. A point may also have
    ends alone, of instances that started before the timeline begins."""
    counts: dict[str, StepCounts] = {}
    for point in timeline["points"]:
        name = point["functionName"]
        counts[name] = counts.get(name, StepCounts()) + _count_started(point)
    started = [(name, function_counts) for name, function_counts in counts.items() if function_counts.started]
    return sorted(started, key=lambda item: (-item[1].started, item[0]))


def _count_started(point: Json) -> StepCounts:
    """What became of the instances that started in a point of the timeline."""
    cohort = point["cohort"]
    return StepCounts(
        started=point["started"],
        completed=cohort["completed"],
        failed=cohort["failed"],
        stopped=cohort["terminated"] + cohort["canceled"],
        active=cohort["active"],
    )


def describe_timeline(timeline: Json, function: str) -> str:
    """The title: task hub, period and step."""
    begin, end = parse_timestamp(timeline["from"]), parse_timestamp(timeline["to"])
    of_function = f", {function}" if function else ""
    return (
        f"task hub {timeline['taskHub']}{of_function}: started {begin:%Y-%m-%d %H:%M} to "
        f"{end:{'%H:%M' if begin.date() == end.date() else '%Y-%m-%d %H:%M'}} UTC"
    )


def draw_chart(steps: Sequence[tuple[datetime, StepCounts]], width: int, style: ChartStyle) -> list[Text]:
    """The lines of a chart: a header, a line for each step and a legend, none of them wider than `width`."""
    dated = len({at.date() for at, _ in steps}) > 1
    shows_stopped = any(counts.stopped for _, counts in steps)
    columns = [name for name in ("started", "failed", "stopped", "active") if name != "stopped" or shows_stopped]
    label_width = len("MM-DD HH:MM" if dated else "HH:MM")
    prefixes = [
        f"{at:{'%m-%d %H:%M' if dated else '%H:%M'}}"
        + "".join(f"{getattr(counts, name):>{len(name) + 1}}" for name in columns)
        for at, counts in steps
    ]
    header = "from".ljust(label_width) + "".join(f" {name}" for name in columns)
    bar_width = max(1, width - max([len(header), *map(len, prefixes)]) - 2)
    largest = max((counts.started for _, counts in steps), default=0)
    lines = [Text(header)]
    for prefix, (_, counts) in zip(prefixes, steps, strict=True):
        line = Text(prefix.ljust(len(header)) if counts.started else prefix.rstrip())
        if counts.started:
            line.append("  ")
            line.append_text(draw_bar(counts, largest, bar_width, style))
        lines.append(line)
    lines.append(_draw_legend(style, shows_stopped=shows_stopped))
    return lines


def draw_bar(counts: StepCounts, largest: int, width: int, style: ChartStyle) -> Text:
    """A bar whose length is the share of `largest`. Each outcome that occurs has a character at least, if there is
    place for one of each."""
    numbers = [getattr(counts, name) for name in _BAR_PARTS]
    length = max(1, round(width * counts.started / largest))
    bar = Text()
    for name, cells in zip(_BAR_PARTS, _divide(numbers, length), strict=True):
        bar.append(style.characters[name] * cells, style=style.colors.get(name, ""))
    return bar


def _divide(numbers: Sequence[int], length: int) -> list[int]:
    """Divide `length` cells among numbers, the first of which are successes, by their sizes. Numbers above 0 get a cell
    each before others get more."""
    total = sum(numbers)
    present = sum(1 for number in numbers if number)
    if length <= present:
        # Successes come last: they must not hide a failure.
        present_parts = [index for index in (*range(1, len(numbers)), 0) if numbers[index]][:length]
        return [int(index in present_parts) for index in range(len(numbers))]
    spare = length - present
    cells = [int(bool(number)) + spare * number // total for number in numbers]
    cells[max(range(len(numbers)), key=lambda index: numbers[index])] += length - sum(cells)
    return cells


def _draw_legend(style: ChartStyle, *, shows_stopped: bool) -> Text:
    """What the characters of a bar mean."""
    names = {"completed": "completed", "failed": "failed", "stopped": "terminated or canceled", "active": "active"}
    legend = Text()
    for name in _BAR_PARTS:
        if name == "stopped" and not shows_stopped:
            continue
        legend.append(style.characters[name], style=style.colors.get(name, ""))
        legend.append(f" {names[name]}  ")
    legend.rstrip()
    return legend


def build_function_table(functions: Sequence[tuple[str, StepCounts]]) -> tuple[Sequence[str], Rows]:
    """The columns, and a row for each function with the numbers of the whole period. As in the chart, what was stopped
    has a column only if there is any."""
    shows_stopped = any(counts.stopped for _, counts in functions)
    counters = [name for name in _COUNTERS if name != "stopped" or shows_stopped]
    rows = [[name, *(str(getattr(counts, counter)) for counter in counters)] for name, counts in functions]
    return ["Function", *map(str.capitalize, counters)], rows
