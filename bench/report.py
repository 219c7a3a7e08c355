"""The results as they are kept: a JSON file, and from it the tables of docs/performance.md and the plots."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bench import plots
from bench.machine import ROOT

PAGE_FILE = ROOT / "docs" / "performance.md"
RESULTS_FOLDER = ROOT / "docs" / "performance"
RESULTS_FILE = RESULTS_FOLDER / "results.json"
BEGIN_MARK, END_MARK = "<!-- results -->", "<!-- /results -->"
SECTION_TITLES = {
    "ingest": "Ingest",
    "readiness": "Readiness",
    "waiting": "Waiting",
    "visibility": "From published to visible",
    "memory": "Memory",
    "memoryLong": "Memory, the long run",
    "coldStart": "Cold start",
    "shards": "Shards",
}
"""The sections of the results, in the order of the page."""
KEPT_SECTIONS = ("memoryLong", "profile")
"""What takes too long for every run, or is none of its figures; kept from the run that measured it last."""


def read_results() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(RESULTS_FILE.read_text())
    return content


def write_results(results: Mapping[str, Any]) -> None:
    """Write the results, the tables and the plots."""
    RESULTS_FOLDER.mkdir(exist_ok=True)
    RESULTS_FILE.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    PAGE_FILE.write_text(insert_tables(PAGE_FILE.read_text(), results))
    for name, text in draw_plots(results).items():
        (RESULTS_FOLDER / name).write_text(text)


def insert_tables(page: str, results: Mapping[str, Any]) -> str:
    """The page with these results between its marks. Raises ValueError if it has none."""
    before, begin, rest = page.partition(BEGIN_MARK)
    _, end, after = rest.partition(END_MARK)
    if not begin or not end:
        raise ValueError(f"{PAGE_FILE.name} has no {BEGIN_MARK} with an {END_MARK} after it")
    return f"{before}{BEGIN_MARK}\n\n{render_tables(results)}\n{END_MARK}{after}"


def render_tables(results: Mapping[str, Any]) -> str:
    """All figures as Markdown."""
    parts = [_render_machine(results)]
    for section, title in SECTION_TITLES.items():
        if section in results:
            parts.append(
                f"**{title}**{_render_origin(results[section])}\n\n{_render_figures(results[section]['figures'])}"
            )
    if "ingest" in results:
        parts.append(f"**Cores that each process used while events came in**\n\n{_render_cores(results['ingest'])}")
    if "readiness" in results:
        parts.append(f"**Requests to the storage for one question**\n\n{_render_requests(results)}")
    if "profile" in results:
        profile = results["profile"]
        parts.append(
            f"**Where the server's processor time goes**{_render_origin(profile)}\n\n{_render_profile(profile)}"
        )
    return "\n".join(parts)


def _render_machine(results: Mapping[str, Any]) -> str:
    one = results["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in one["packages"].items())
    return (
        f"Measured {results['at']} in {results['seconds']:.0f} s, at revision `{one['revision']}`, on {one['cores']} "
        f"cores of {one['cpu']}, {one['memoryGiB']} GiB, {one['os']}, Linux {one['kernel']}, Python {one['python']}, "
        f"Node {one['node']}, Azurite {one['azurite']}, {packages}. Before the run the machine had a load of "
        f"{one['loadBefore']:.1f}.\n"
    )


def _render_origin(section: Mapping[str, Any]) -> str:
    """When and at which revision it was measured, if not with the others."""
    return f", measured {section['at']} at revision `{section['revision']}`" if "revision" in section else ""


def _render_figures(figures: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            one["what"],
            one["against"],
            f"**{one['ratio']:g}**",
            f"{one['lowest']:g} to {one['highest']:g}" if one["rounds"] > 1 else "",
            f"{one['aim']}: {'met' if one['met'] else 'missed'}" if "aim" in one else "",
        ]
        for one in figures
    ]
    return _render_table(["What", "Against", "Ratio", "Rounds", "Aim"], rows)


def _render_cores(ingest: Mapping[str, Any]) -> str:
    columns = ("server", "worker", "emulator", "load")
    rows = [
        [variant, *(f"{used[name]:g}" if name in used else "" for name in columns)]
        for variant, used in ingest["coresUsed"].items()
    ]
    return _render_table(["", "server", "process without a server", "emulator", "load generator"], rows)


def _render_requests(results: Mapping[str, Any]) -> str:
    of_readiness = results["readiness"]["requests"]
    sizes = list(next(iter(of_readiness.values())))
    rows = [[way, *(f"{by_size[size]:g}" for size in sizes)] for way, by_size in of_readiness.items()]
    return _render_table(["", *(f"{int(size):,} finished" for size in sizes)], rows)


def _render_profile(profile: Mapping[str, Any]) -> str:
    loads = [name for name in profile if name not in ("at", "revision")]
    parts = {part: None for load in loads for part in profile[load]["parts"]}
    shares = {part: [profile[load]["parts"].get(part, 0.0) for load in loads] for part in parts}
    rows = [[part, *(f"{one:.0%}" for one in of)] for part, of in shares.items() if max(of) >= 0.01]
    return _render_table(["", *loads], rows)


def _render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def draw_plots(results: Mapping[str, Any]) -> dict[str, str]:
    """The plots by file name."""
    found: dict[str, str] = {}
    if "ingest" in results:
        found["ingest.svg"] = plots.draw_bars("Events a second, as ratios", results["ingest"]["figures"])
    if "readiness" in results:
        of_readiness = results["readiness"]
        series = {
            way: [(int(size), value) for size, value in by_size.items()]
            for way, by_size in of_readiness["milliseconds"].items()
        }
        title = f"One question, with {of_readiness['delayMilliseconds']:g} ms for every storage request"
        found["readiness.svg"] = plots.draw_lines(title, "finished instances", "milliseconds", series, logarithmic=True)
    if "shards" in results:
        rates = {
            name: [
                (int(count), value / by_count[str(results["shards"]["default"])]) for count, value in by_count.items()
            ]
            for name, by_count in results["shards"]["eventsPerSecond"].items()
        }
        base = results["shards"]["milliseconds"][str(results["shards"]["default"])]
        asked = [(int(count), value / base) for count, value in results["shards"]["milliseconds"].items()]
        series = {**rates, "time of a question": asked}
        found["shards.svg"] = plots.draw_lines(
            f"Against {results['shards']['default']} shards", "shards", "ratio", series, logarithmic=True
        )
    for section, name in (("memory", "memory.svg"), ("memoryLong", "memory-long.svg")):
        if section in results:
            line = [(at, size) for at, size in results[section]["mebibytes"]]
            found[name] = plots.draw_lines("Size of the server", "events so far", "MiB", {"server": line})
    return found
