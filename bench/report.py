"""Stored results: a JSON file, and the tables and plots of docs/performance.md that are rendered from it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bench.figures import PLOTS, draw_plots
from bench.groups import Run
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
    "coldStart": "Cold start",
    "routing": "Routing",
    "shards": "Shards",
    "rollouts": "Health of a rollout",
}
"""The sections of the results, in the order of the page."""
SECTIONS = (*SECTION_TITLES, "profile")


def read_results() -> dict[str, Any]:
    """The stored results; none before the first run."""
    results: dict[str, Any] = json.loads(RESULTS_FILE.read_text()) if RESULTS_FILE.exists() else {}
    return results


def merge_results(earlier: Mapping[str, Any], run: Run, this_run: Mapping[str, Any]) -> dict[str, Any]:
    """The results of a run. Sections that it did not measure stay as they were, with their own time and revision."""
    origin = {"at": earlier.get("at"), "revision": earlier.get("machine", {}).get("revision")}
    kept = {name: {**origin, **earlier[name]} for name in SECTIONS if name in earlier and name not in run.sections}
    sections = {name: kept.get(name) or run.sections[name] for name in SECTIONS if name in kept or name in run.sections}
    return {**this_run, "notMeasured": run.left_out | run.failures, **sections}


def write_results(results: Mapping[str, Any]) -> None:
    """Write the results, the tables and the plots."""
    RESULTS_FOLDER.mkdir(exist_ok=True)
    RESULTS_FILE.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    PAGE_FILE.write_text(insert_tables(PAGE_FILE.read_text(), results))
    for name, text in draw_plots(results).items():
        (RESULTS_FOLDER / name).write_text(text)


def insert_tables(page: str, results: Mapping[str, Any]) -> str:
    """The page with these results between its marks. Raises ValueError if the page has no marks."""
    before, begin, rest = page.partition(BEGIN_MARK)
    _, end, after = rest.partition(END_MARK)
    if not begin or not end:
        raise ValueError(f"{PAGE_FILE.name} has no {BEGIN_MARK} with an {END_MARK} after it")
    return f"{before}{BEGIN_MARK}\n\n{render_tables(results)}\n{END_MARK}{after}"


def render_tables(results: Mapping[str, Any]) -> str:
    """The machine and all figures as Markdown."""
    return f"{_render_machine(results)}\n{render_sections(results)}"


def render_sections(results: Mapping[str, Any]) -> str:
    """The figures of all sections as Markdown."""
    parts: list[str] = []
    for section, title in SECTION_TITLES.items():
        if section in results:
            notes = "".join(f"\n{note}\n" for note in results[section].get("notes", ()))
            figures = _render_figures(results[section]["figures"])
            plots = _render_plots(section, results)
            parts.append(f"**{title}**{_render_origin(results[section])}\n\n{figures}{notes}{plots}")
    if "ingest" in results:
        parts.append(f"**Cores that each process used while events came in**\n\n{_render_cores(results['ingest'])}")
    if "readiness" in results:
        parts.append(f"**Storage requests for one verdict**\n\n{_render_requests(results['readiness']['requests'])}")
    if "profile" in results:
        profile = results["profile"]
        parts.append(
            f"**Where the server's processor time goes**{_render_origin(profile)}\n\n{_render_profile(profile)}"
        )
    return "\n".join(parts)


def _render_machine(results: Mapping[str, Any]) -> str:
    """A paragraph about the run and the machine that it ran on."""
    machine = results["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"Measured {results['at']} in {results['seconds']:.0f} s, at revision `{machine['revision']}`, "
        f"on {machine['cores']} cores of {machine['cpu']}, {machine['memoryGiB']} GiB, {machine['os']}, "
        f"Linux {machine['kernel']}, Python {machine['python']}, Node {machine['node']}, "
        f"Azurite {machine['azurite']}, {packages}. Before the run the machine had a load of "
        f"{machine['loadBefore']:.1f}.\n" + _render_not_measured(results)
    )


def _render_not_measured(results: Mapping[str, Any]) -> str:
    """A paragraph for each group of benchmarks that this run left out, with the reason."""
    reasons = results.get("notMeasured", {})
    return "".join(f"\nNot measured in this run: {name} ({reason}).\n" for name, reason in reasons.items())


def _render_origin(section: Mapping[str, Any]) -> str:
    """Time and revision of a section that was measured in another run than the rest."""
    return f", measured {section['at']} at revision `{section['revision']}`" if "revision" in section else ""


def _render_figures(figures: Sequence[Mapping[str, Any]]) -> str:
    """A table with a row for each figure."""
    rows = [
        [
            figure["subject"],
            figure["baseline"],
            f"**{figure['ratio']:g}**",
            f"{figure['lowest']:g} to {figure['highest']:g}" if figure["rounds"] > 1 else "",
            f"{figure['aim']}: {'met' if figure['met'] else 'missed'}" if "aim" in figure else "",
        ]
        for figure in figures
    ]
    return _render_table(["Subject", "Baseline", "Ratio", "Rounds", "Aim"], rows)


def _render_plots(section: str, results: Mapping[str, Any]) -> str:
    """Links to the pictures of a section that can be drawn."""
    drawn = draw_plots({section: results[section]})
    return "".join(
        f"\n![{text}]({RESULTS_FOLDER.name}/{name})\n" for name, text in PLOTS[section].items() if name in drawn
    )


def _render_cores(ingest: Mapping[str, Any]) -> str:
    """A table of the processor cores that each process used while events were ingested."""
    columns = ("server", "worker", "emulator", "load")
    rows = [
        [variant, *(f"{used[name]:g}" if name in used else "" for name in columns)]
        for variant, used in ingest["coresUsed"].items()
    ]
    return _render_table(["", "server", "process without a server", "emulator", "load generator"], rows)


def _render_requests(requests: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A table of storage requests: a row for each verdict, and a column for each number of finished instances."""
    rows = [
        [
            f"{name}, {'none active' if phase == 'drained' else '5 active'}",
            *(f"{count:g}" for count in by_size.values()),
        ]
        for phase, by_name in requests.items()
        for name, by_size in by_name.items()
    ]
    sizes = next(iter(next(iter(requests.values())).values()))
    return _render_table(["", *(f"{int(size):,} finished" for size in sizes)], rows)


def _render_profile(profile: Mapping[str, Any]) -> str:
    """A table of processor time: a row for each part of the code, and a column for each load. Parts below 1 % are left
    out."""
    loads = [name for name in profile if name not in ("at", "revision")]
    parts = {part: None for load in loads for part in profile[load]["parts"]}
    shares = {part: [profile[load]["parts"].get(part, 0.0) for load in loads] for part in parts}
    rows = [
        [part, *(f"{share:.0%}" for share in own_shares)]
        for part, own_shares in shares.items()
        if max(own_shares) >= 0.01
    ]
    return _render_table(["", *loads], rows)


def _render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The rows as a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
