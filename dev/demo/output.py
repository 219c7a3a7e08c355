"""The demo's output: progress lines, a table of numbers at the end, and an error for the first unexpected result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx

from dev.demo.order_results import OrderCounts
from harness.interruption import INTERRUPTED_EXIT_CODE, check_interruption


class UnexpectedResult(Exception):
    """A step of the demo had another result than expected."""


def report(text: str = "") -> None:
    """Print a line at once, also when the output is not a terminal."""
    print(text, flush=True)


def report_heading(text: str) -> None:
    report(f"\n{text}")


def indent(text: str) -> str:
    """The text under the line of a command: indented, without empty lines."""
    return "\n".join(f"      {line.rstrip()}" for line in text.splitlines() if line.strip())


def run_to_exit_code(run: Callable[[], int]) -> int:
    """Run a demo, and return its exit code. One that does not go as expected, or is stopped, says so in a line."""
    try:
        check_interruption()
        return run()
    except (UnexpectedResult, TimeoutError, RuntimeError, httpx.HTTPError) as error:
        report(f"\nNOT AS EXPECTED: {error}")
        return 1
    except KeyboardInterrupt:
        report("\nstopped")
        return INTERRUPTED_EXIT_CODE


def require(condition: object, message: str) -> None:
    """Raises UnexpectedResult with this message if the condition is false or empty."""
    if not condition:
        raise UnexpectedResult(message)


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The result of one way to deploy."""

    counts: OrderCounts
    deployments: int
    refused: int


def format_results(columns: Mapping[str, DemoResult]) -> str:
    """A table with a column for every way to deploy."""
    results = list(columns.values())
    rows: dict[str, list[int]] = {
        "orders started": [result.counts.started for result in results],
        "completed": [result.counts.completed for result in results],
        "failed": [result.counts.failed for result in results],
        "  with NonDeterminismError": [result.counts.non_deterministic for result in results],
        "orphaned: Running for ever": [result.counts.orphaned for result in results],
        "deployments": [result.deployments for result in results],
        "refused until the orders had ended": [result.refused for result in results],
    }
    return format_table(list(columns), {name: list(map(str, numbers)) for name, numbers in rows.items()})


def format_table(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A table of these rows, each with a cell for every column."""
    first = max(map(len, rows))
    cells_by_column = zip(*rows.values(), strict=True)
    widths = [max(6, len(name), *map(len, cells)) for name, cells in zip(columns, cells_by_column, strict=True)]
    head = "  ".join(name.rjust(width) for name, width in zip(columns, widths, strict=True))
    lines = [f"  {'':{first}}  {head}", f"  {'─' * first}  {'  '.join('─' * width for width in widths)}"]
    for name, row in rows.items():
        cells = "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append(f"  {name:{first}}  {cells}")
    return "\n".join(lines)
