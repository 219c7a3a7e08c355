"""How a story is told: lines on stdout, a table of numbers at the end, and an end at the first surprise."""

from collections.abc import Mapping
from dataclasses import dataclass

from dev.demo.order_results import OrderCounts


class UnexpectedResult(Exception):
    """A step did not go as it should."""


def report(text: str = "") -> None:
    print(text, flush=True)


def report_heading(text: str) -> None:
    report(f"\n{text}")


def indent(text: str) -> str:
    return "\n".join(f"      {line.rstrip()}" for line in text.splitlines() if line.strip())


def require(condition: bool, message: str) -> None:
    """Raises Unexpected."""
    if not condition:
        raise UnexpectedResult(message)


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What came of a way to deploy."""

    counts: OrderCounts
    deployments: int
    refused: int


def format_results(columns: Mapping[str, DemoResult]) -> str:
    """A table with a column for every way to deploy."""
    every = list(columns.values())
    rows: dict[str, list[int]] = {
        "orders started": [one.counts.started for one in every],
        "completed": [one.counts.completed for one in every],
        "failed": [one.counts.failed for one in every],
        "  with NonDeterminismError": [one.counts.non_deterministic for one in every],
        "orphaned: Running for ever": [one.counts.orphaned for one in every],
        "deployments": [one.deployments for one in every],
        "refused until the orders had ended": [one.refused for one in every],
    }
    first = max(map(len, rows))
    widths = [max(len(name), 6) for name in columns]
    head = "  ".join(name.rjust(width) for name, width in zip(columns, widths, strict=True))
    lines = [f"  {'':{first}}  {head}", f"  {'─' * first}  {'  '.join('─' * width for width in widths)}"]
    for name, numbers in rows.items():
        cells = "  ".join(str(number).rjust(width) for number, width in zip(numbers, widths, strict=True))
        lines.append(f"  {name:{first}}  {cells}")
    return "\n".join(lines)
