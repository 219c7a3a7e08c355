"""The plots of docs/performance.md, drawn from the stored results. Every axis is a ratio to what the page compares."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.plots import AimLine, Series, draw_bars, draw_lines
from bench.rollouts import POWER

BAR_PLOTS = {
    "ingest": ("ingest.svg", "Events a second, and processor time of one event", "ratio to the baseline"),
    "visibility": ("visibility.svg", "From published to acknowledged and visible", "ratio to one transaction alone"),
    "waiting": ("waiting.svg", "Waiting for a verdict", "ratio to the baseline"),
    "coldStart": ("cold-start.svg", "Start of the Function App, and its import", "ratio to the baseline"),
}
"""File, title and axis of the plots that show all figures of their section."""
PLOTS: Mapping[str, Mapping[str, str]] = {
    **{section: {name: f"{title}: {axis_title}"} for section, (name, title, axis_title) in BAR_PLOTS.items()},
    "readiness": {
        "readiness.svg": "Time of a verdict by finished instances: ratio to the status check",
        "storage-requests.svg": "Storage requests of a verdict: ratio to the status check",
    },
    "memory": {"memory.svg": "Size of the server by events: ratio to its size when the caches are full"},
    "routing": {"routing.svg": "Longest times of changes of the routing: ratio to the limit of 5 s"},
    "shards": {"shards.svg": "Rates and time of a verdict by shards: ratio to the default"},
    "rollouts": {"rollouts.svg": "Doubled failure rates found by instances of the candidate: ratio to 80 %"},
}
"""The plots of each section: the file and a description of the picture."""
_STATUS_CHECK = "status check"


def draw_plots(results: Mapping[str, Any]) -> dict[str, str]:
    """The plots by file name, of the sections that were measured."""
    plot_files = {
        name: draw_bars(title, axis_title, results[section]["figures"])
        for section, (name, title, axis_title) in BAR_PLOTS.items()
        if section in results and results[section]["figures"]
    }
    if "readiness" in results:
        plot_files["readiness.svg"] = _draw_readiness(results["readiness"])
        plot_files["storage-requests.svg"] = _draw_storage_requests(results["readiness"])
    if "routing" in results:
        plot_files["routing.svg"] = _draw_routing(results["routing"])
    if "shards" in results:
        plot_files["shards.svg"] = _draw_shards(results["shards"])
    if "rollouts" in results:
        plot_files["rollouts.svg"] = _draw_rollouts(results["rollouts"])
    if "memory" in results:
        plot_files["memory.svg"] = _draw_memory(results["memory"])
    return plot_files


def _draw_readiness(section: Mapping[str, Any]) -> str:
    """The time of each verdict and query by finished instances, as a multiple of the status check of the same hub."""
    series = {
        f"{name}, {'none' if phase == 'drained' else '5'} active": [
            (int(size), value / by_name[_STATUS_CHECK][size]) for size, value in by_size.items()
        ]
        for phase, by_name in section["milliseconds"].items()
        for name, by_size in by_name.items()
        if name in ("by events", "verified, fresh")
    }
    delay = section["delayMilliseconds"]
    return draw_lines(
        f"Time of GetStagingStatus, with {delay:g} ms for every storage request",
        "finished instances in the task hub",
        "ratio to the status check of the same task hub",
        series,
        aims=[AimLine(1.0, "by events ≤ 1"), AimLine(2.0, "verified ≤ 2")],
        logarithmic=True,
    )


def _draw_storage_requests(section: Mapping[str, Any]) -> str:
    """The storage requests of each verdict, as a multiple of the one request of a status check."""
    queues = section["controlQueues"]
    aims = {"by events": "≤ 3", "verified, fresh": f"≤ {6 + queues}"}
    bars: list[dict[str, Any]] = []
    for phase, by_name in section["requests"].items():
        for name, by_size in by_name.items():
            if name not in ("by events", "verified, cached", "verified, fresh"):
                continue
            largest = list(by_size)[-1]
            ratio = by_size[largest] / by_name[_STATUS_CHECK][largest]
            active = "none" if phase == "drained" else "5"
            bars.append(
                {
                    "subject": f"GetStagingStatus {name}, {int(largest):,} finished, {active} active",
                    "baseline": "the status check of the same hub",
                    **dict.fromkeys(("ratio", "lowest", "highest"), ratio),
                    **({"aim": aims[name]} if name in aims and (phase == "drained" or name == "by events") else {}),
                }
            )
    title = f"Storage requests of one verdict, of a task hub with {queues} control queues"
    return draw_bars(title, "ratio to the status check, which is one request", bars)


def _draw_routing(section: Mapping[str, Any]) -> str:
    """The longest times of changes of the routing, as shares of the limit that the figures with an aim have."""
    figures = [figure for figure in section["figures"] if "aim" in figure]
    return draw_bars("Longest times of changes of the routing", f"ratio to {figures[0]['baseline']}", figures)


def _draw_shards(section: Mapping[str, Any]) -> str:
    """The rates and the time of a verdict by number of shards, as multiples of those with the default number."""
    default = str(section["default"])

    def against_default(by_count: Mapping[str, float]) -> Series:
        """The values of each shard count as multiples of the default's."""
        return [(int(count), value / by_count[default]) for count, value in by_count.items()]

    series = {
        f"events a second, {name}": against_default(by_count) for name, by_count in section["eventsPerSecond"].items()
    }
    series["time of GetStagingStatus"] = against_default(section["milliseconds"])
    axis_title = f"ratio to {default} shard{'' if default == '1' else 's'}"
    return draw_lines("Rates and time of a verdict by shards", "shards", axis_title, series, logarithmic=True)


def _draw_rollouts(section: Mapping[str, Any]) -> str:
    """The share of rollouts that found a doubled failure rate, by the candidate's instances, as a multiple of 80 %."""
    series = {
        name: [(count, share / POWER) for count, share in found_by_count]
        for name, found_by_count in section["found"].items()
    }
    return draw_lines(
        "Rollouts that found a doubled failure rate",
        "instances of the candidate that have started",
        "ratio to 80 % of the rollouts",
        series,
        aims=[AimLine(1.0, "80 % found")],
        logarithmic=True,
    )


def _draw_memory(section: Mapping[str, Any]) -> str:
    """The size of the server by events, as a multiple of the size that the aim is relative to."""
    sizes: Sequence[Sequence[float]] = section["mebibytes"]
    figure = section["figures"][0]
    baseline = sizes[-1][1] / figure["ratio"]
    aim = AimLine(float(figure["aim"].split()[1]), f"aim {figure['aim']}")
    series = {f"size of the server, against {figure['baseline']} events": [(at, size / baseline) for at, size in sizes]}
    return draw_lines(
        "Size of the server by events recorded",
        "events so far",
        "ratio to the size when the caches are full",
        series,
        aims=[aim],
    )
