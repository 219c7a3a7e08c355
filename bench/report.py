"""The results as they are kept: a JSON file, and from it the tables of docs/performance.md and the plots."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bench import plots
from bench.machine import ROOT

PAGE = ROOT / "docs" / "performance.md"
FOLDER = ROOT / "docs" / "performance"
RESULTS = FOLDER / "results.json"
BEGIN, END = "<!-- results -->", "<!-- /results -->"
TITLES = {
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
LONG = ("memoryLong", "profile")
"""What takes too long for every run, or is none of its figures; kept from the run that measured it last."""


def read() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(RESULTS.read_text())
    return content


def write(results: Mapping[str, Any]) -> None:
    """Write the results, the tables and the plots."""
    FOLDER.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(with_tables(PAGE.read_text(), results))
    for name, text in drawn(results).items():
        (FOLDER / name).write_text(text)


def with_tables(page: str, results: Mapping[str, Any]) -> str:
    """The page with these results between its marks. Raises ValueError if it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has no {BEGIN} with an {END} after it")
    return f"{before}{BEGIN}\n\n{tables(results)}\n{END}{after}"


def tables(results: Mapping[str, Any]) -> str:
    """All figures as Markdown."""
    parts = [_machine(results)]
    for section, title in TITLES.items():
        if section in results:
            parts.append(f"**{title}**{_origin(results[section])}\n\n{_figures(results[section]['figures'])}")
    if "ingest" in results:
        parts.append(f"**Cores that each process used while events came in**\n\n{_cores(results['ingest'])}")
    if "readiness" in results:
        parts.append(f"**Requests to the storage for one question**\n\n{_requests(results)}")
    if "profile" in results:
        parts.append(
            f"**Where the server's processor time goes**{_origin(results['profile'])}\n\n{_profile(results['profile'])}"
        )
    return "\n".join(parts)


def _machine(results: Mapping[str, Any]) -> str:
    one = results["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in one["packages"].items())
    return (
        f"Measured {results['at']} in {results['seconds']:.0f} s, at revision `{one['revision']}`, on {one['cores']} "
        f"cores of {one['cpu']}, {one['memoryGiB']} GiB, {one['os']}, Linux {one['kernel']}, Python {one['python']}, "
        f"Node {one['node']}, Azurite {one['azurite']}, {packages}. Before the run the machine had a load of "
        f"{one['loadBefore']:.1f}.\n"
    )


def _origin(section: Mapping[str, Any]) -> str:
    """When and at which revision it was measured, if not with the others."""
    return f", measured {section['at']} at revision `{section['revision']}`" if "revision" in section else ""


def _figures(figures: Sequence[Mapping[str, Any]]) -> str:
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
    return _table(["What", "Against", "Ratio", "Rounds", "Aim"], rows)


def _cores(ingest: Mapping[str, Any]) -> str:
    columns = ("server", "worker", "emulator", "load")
    rows = [
        [variant, *(f"{used[name]:g}" if name in used else "" for name in columns)]
        for variant, used in ingest["coresUsed"].items()
    ]
    return _table(["", "server", "process without a server", "emulator", "load generator"], rows)


def _requests(results: Mapping[str, Any]) -> str:
    of_readiness = results["readiness"]["requests"]
    sizes = list(next(iter(of_readiness.values())))
    rows = [[way, *(f"{by_size[size]:g}" for size in sizes)] for way, by_size in of_readiness.items()]
    return _table(["", *(f"{int(size):,} finished" for size in sizes)], rows)


def _profile(profile: Mapping[str, Any]) -> str:
    loads = [name for name in profile if name not in ("at", "revision")]
    parts = {part: None for load in loads for part in profile[load]["parts"]}
    shares = {part: [profile[load]["parts"].get(part, 0.0) for load in loads] for part in parts}
    rows = [[part, *(f"{one:.0%}" for one in of)] for part, of in shares.items() if max(of) >= 0.01]
    return _table(["", *loads], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def drawn(results: Mapping[str, Any]) -> dict[str, str]:
    """The plots by file name."""
    found: dict[str, str] = {}
    if "ingest" in results:
        found["ingest.svg"] = plots.bars("Events a second, as ratios", results["ingest"]["figures"])
    if "readiness" in results:
        of_readiness = results["readiness"]
        series = {
            way: [(int(size), value) for size, value in by_size.items()]
            for way, by_size in of_readiness["milliseconds"].items()
        }
        title = f"One question, with {of_readiness['delayMilliseconds']:g} ms for every storage request"
        found["readiness.svg"] = plots.lines(title, "finished instances", "milliseconds", series, logarithmic=True)
    if "shards" in results:
        rates = {
            name: [
                (int(count), value / by_count[str(results["shards"]["default"])]) for count, value in by_count.items()
            ]
            for name, by_count in results["shards"]["eventsASecond"].items()
        }
        base = results["shards"]["milliseconds"][str(results["shards"]["default"])]
        asked = [(int(count), value / base) for count, value in results["shards"]["milliseconds"].items()]
        series = {**rates, "time of a question": asked}
        found["shards.svg"] = plots.lines(
            f"Against {results['shards']['default']} shards", "shards", "ratio", series, logarithmic=True
        )
    for section, name in (("memory", "memory.svg"), ("memoryLong", "memory-long.svg")):
        if section in results:
            line = [(at, size) for at, size in results[section]["mebibytes"]]
            found[name] = plots.lines("Size of the server", "events so far", "MiB", {"server": line})
    return found
