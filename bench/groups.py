"""The groups of figures, and a run that measures one group after the other and survives the failure of any."""

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench import cold_start, ingest, memory, profiling, readiness, rollouts, routing, shards, visibility, waiting
from bench.filled_task_hubs import FULL_SIZES
from harness.platform_programs import ProgramNotFoundError

TIMEOUT_SECONDS = 1200
"""The longest time for one group. A full run of the longest takes half of it."""
RUN_SECONDS = 1500
"""The longest time for all groups together. A group for which none of it remains is left out."""

Section = dict[str, Any]
"""The results of a group: its `figures`, and the numbers that they were calculated from."""


class Scale(StrEnum):
    """How much a run measures: `QUICK` only shows that everything works, `FULL` includes what takes minutes."""

    QUICK = "quick"
    NORMAL = "normal"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Group:
    """`run(folder, **arguments)` measures the group, with these arguments in a quick and in a full run."""

    run: Callable[..., Awaitable[Section]]
    quick: Mapping[str, Any] = field(default_factory=dict)
    full: Mapping[str, Any] = field(default_factory=dict)

    async def measure(self, folder: Path, scale: Scale, timeout_seconds: float = TIMEOUT_SECONDS) -> Section:
        """Measure the group's figures at this scale. Raises ProgramNotFoundError if the group needs a program that is
        missing, and TimeoutError."""
        arguments = {Scale.QUICK: self.quick, Scale.NORMAL: {}, Scale.FULL: self.full}[scale]
        async with asyncio.timeout(timeout_seconds):
            return await self.run(folder, **arguments)


GROUPS: Mapping[str, Group] = {
    "ingest": Group(ingest.run, quick={"rounds": 1}),
    "visibility": Group(visibility.run, quick={"rounds": 1}),
    "readiness": Group(readiness.run, quick={"rounds": 1, "sizes": (100, 200)}, full={"sizes": FULL_SIZES}),
    "waiting": Group(waiting.run, quick={"rounds": 1, "wait_seconds": 2, "caller_count": 50, "delay_samples": 1}),
    "memory": Group(memory.run, quick={"events": 5_000}, full={"events": 1_000_000}),
    "coldStart": Group(cold_start.run, quick={"start_rounds": 1, "import_rounds": 1}),
    "routing": Group(
        routing.run,
        quick={"promotions": 1, "flips": 2, "sticky_visitors": 20},
        full={"promotions": 10, "flips": 50},
    ),
    "shards": Group(shards.run, quick={"rounds": 1}),
    "rollouts": Group(rollouts.run, quick={"runs": 20}, full={"runs": 4_000, "shares": (0.05, 0.25, 0.5)}),
    "profile": Group(profiling.run),
}


@dataclass
class Run:
    """The sections that were measured, and why the others were not: a program is missing, no time remained, or the
    group failed."""

    sections: dict[str, Section] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


async def run_groups(
    names: Sequence[str], folder: Path, scale: Scale, after_group: Callable[[Run], None] = lambda run: None
) -> Run:
    """Measure one group at a time, because two would share the machine. `after_group` gets the results so far."""
    run, run_began = Run(), time.monotonic()
    for name in names:
        began = time.monotonic()
        remaining_seconds = RUN_SECONDS - (began - run_began)
        if remaining_seconds <= 0:
            run.left_out[name] = f"no time remained after the {RUN_SECONDS} s of a run"
            print(f"{name} is left out: {run.left_out[name]}", flush=True)
            continue
        group_folder = folder / name
        group_folder.mkdir()
        try:
            run.sections[name] = await GROUPS[name].measure(
                group_folder, scale, min(TIMEOUT_SECONDS, remaining_seconds)
            )
        except ProgramNotFoundError as error:
            run.left_out[name] = str(error)
            print(f"{name} is left out: {error}", flush=True)
        except Exception as error:  # noqa: BLE001 (a group that fails must not lose the results of the others)
            run.failures[name] = f"{type(error).__name__}: {error}"[:500]
            print(f"{name} failed:\n{traceback.format_exc()}", flush=True)
        else:
            _print_section(name, run.sections[name], time.monotonic() - began)
        after_group(run)
    return run


def _print_section(name: str, section: Section, seconds: float) -> None:
    """Print the figures of one group of benchmarks, each with its ratio and whether it meets its aim."""
    print(f"{name} ({seconds:.0f} s)")
    for figure in section.get("figures", ()):
        aim = f"  (aim {figure['aim']}: {'met' if figure['met'] else 'MISSED'})" if "aim" in figure else ""
        print(f"  {figure['ratio']:>8g}  {figure['subject']}  /  {figure['baseline']}{aim}")
    for note in section.get("notes", ()):
        print(f"  {note}")
    print(end="", flush=True)
