"""How the health of a candidate looks: one line, a table with both versions side by side, and the outputs of a
pipeline step. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from safe_deploy.next_steps import format_reason
from safe_deploy.rendering import format_instant

Json = Mapping[str, Any]
Rows = Sequence[Sequence[str]]

NOT_KNOWN = "-"
"""In place of a rate or a duration while no instance has ended."""

_DURATION_UNITS = ((1, 1000, "ms"), (120, 1, "s"), (7200, 1 / 60, "min"), (float("inf"), 1 / 3600, "h"))
"""Seconds below which a unit is used, the number of units in a second, and the name of the unit."""


def describe_health(health: Json) -> str:
    """The status in one line, with what decided it."""
    candidate, baseline = health["candidate"]["name"], health["baseline"]["name"]
    decision = health["decidedBy"]
    return f"{health['status']}: {candidate} against {baseline} in app {health['app']}: {format_reason(decision)}"


def describe_comparison(health: Json) -> str:
    """Status and numbers of both versions in one line, for a log."""
    sides = ", ".join(_describe_failures(health[side]) for side in ("candidate", "baseline"))
    evidence = health["evidence"]
    return (
        f"{health['status']} ({health['decidedBy']['code']}): {sides}; evidence of unhealthy "
        f"{_format_evidence(evidence['unhealthy'])}, of healthy {_format_evidence(evidence['healthy'])}, needed "
        f"{_format_evidence(evidence['threshold'])}"
    )


def _describe_failures(side: Json) -> str:
    """How many of the finished instances of a version have failed."""
    return f"{side['name']}: {side['failed']} of {side['finished']} failed ({format_rate(side['rate'])})"


def format_rate(rate: float | None) -> str:
    """A failure rate in percent."""
    return NOT_KNOWN if rate is None else f"{rate * 100:.1f} %"


def _format_evidence(value: float) -> str:
    """Evidence with two significant digits, and from 100 on as a whole number, unless that is too long to read."""
    return f"{value:,.0f}" if 100 <= value < 1_000_000 else f"{value:.2g}"


def build_health_columns(health: Json) -> Sequence[str]:
    """The columns of the table: both versions by name."""
    return ("", f"{health['candidate']['name']} (candidate)", f"{health['baseline']['name']} (baseline)")


def build_health_rows(health: Json) -> Rows:
    """A row for each number, with the candidate beside the baseline."""
    sides = (health["candidate"], health["baseline"])
    shares, evidence = health["shares"], health["evidence"]
    rows = [
        ["started", *(str(side["started"]) for side in sides)],
        ["finished", *(str(side["finished"]) for side in sides)],
        ["failed", *(str(side["failed"]) for side in sides)],
        ["failure rate", *(_format_rate_with_interval(side) for side in sides)],
        ["terminated", *(str(side["terminated"]) for side in sides)],
        ["canceled", *(str(side["canceled"]) for side in sides)],
        ["active", *(str(side["active"]) for side in sides)],
        ["duration, median", *(_format_seconds(side["durations"], "medianSeconds") for side in sides)],
        ["duration, 95 % within", *(_format_seconds(side["durations"], "p95Seconds") for side in sides)],
        ["share, observed", *_format_shares(shares["observed"])],
        ["share, configured", *_format_shares(shares["configured"])],
    ]
    rows.append(["evidence of unhealthy", _compare_evidence(evidence["unhealthy"], evidence["threshold"]), ""])
    rows.append(["evidence of healthy", _compare_evidence(evidence["healthy"], evidence["threshold"]), ""])
    oldest = health["oldestActive"]
    if oldest is not None:
        rows.append(
            [
                "oldest active",
                f"{oldest['functionName']} {oldest['instanceId']}, {format_instant(oldest['startedAt'])}",
                "",
            ]
        )
    return rows


def _format_rate_with_interval(side: Json) -> str:
    """The failure rate with its interval, such as `7.9 % (2.7 to 20.8 %)`."""
    interval = side["interval"]
    if side["rate"] is None or interval is None:
        return format_rate(side["rate"])
    return f"{format_rate(side['rate'])} ({interval['low'] * 100:.1f} to {interval['high'] * 100:.1f} %)"


def _format_seconds(durations: Json | None, member: str) -> str:
    """A duration of ended instances with three digits, in a unit that fits."""
    seconds = (durations or {}).get(member)
    if seconds is None:
        return NOT_KNOWN
    _, factor, unit = next(unit for unit in _DURATION_UNITS if seconds < unit[0])
    return f"{seconds * factor:.3g} {unit}"


def _format_shares(candidate_percent: float | None) -> list[str]:
    """The share of the candidate and that of the baseline."""
    if candidate_percent is None:
        return [NOT_KNOWN, NOT_KNOWN]
    return [f"{candidate_percent:.3g} %", f"{100 - candidate_percent:.3g} %"]


def _compare_evidence(value: float, threshold: float) -> str:
    """Evidence beside what is needed."""
    return f"{_format_evidence(value)} of {_format_evidence(threshold)}"


def health_outputs(health: Json) -> dict[str, str]:
    """The health as the outputs of a pipeline step, all of them text. A rate that is not known is empty."""
    outputs = {"health": health["status"], "decided-by": health["decidedBy"]["code"]}
    for name in ("candidate", "baseline"):
        side = health[name]
        outputs |= {
            name: side["name"],
            f"{name}-finished": str(side["finished"]),
            f"{name}-failed": str(side["failed"]),
            f"{name}-rate": "" if side["rate"] is None else f"{side['rate']:.4f}",
        }
    return outputs
