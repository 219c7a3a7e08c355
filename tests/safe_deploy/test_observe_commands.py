"""`safe-deploy timeline` and `health`: what they ask for, print and publish, and with which exit code they end."""

import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest
from rich.console import Console

from safe_deploy.ci import Terminal
from safe_deploy.errors import ExitCode
from safe_deploy.options import OutputFormat
from safe_deploy.rollouts.health_report import build_health_rows
from safe_deploy.rollouts.timeline_chart import count_by_step, draw_chart
from safe_deploy.session import Session
from tests.safe_deploy.assertions import assert_exit
from tests.safe_deploy.canned_server import CannedServer, run_canned_server
from tests.safe_deploy.ci_systems import github_environment, read_outputs
from tests.safe_deploy.job_summaries import parse_tables
from tests.safe_deploy.rollout_responses import build_health, build_point, build_side, build_timeline

TIMELINE = "GET /api/taskhubs/shop150/timeline"


@pytest.fixture
def server() -> Iterator[CannedServer]:
    with run_canned_server() as server:
        server.answer(TIMELINE, build_timeline(build_point("14:00", completed=3, failed=1)))
        yield server


def test_a_timeline_is_a_table_and_a_chart(server: CannedServer, tmp_path: Path) -> None:
    result = server.run(
        *["timeline", "--task-hub", "shop150", "--function", "ProcessOrder", "--since", "2h", "--step", "15m"],
        **github_environment(tmp_path),
    )
    assert_exit(result, ExitCode.DONE)
    assert result.stdout.startswith("task hub shop150, ProcessOrder: started 2026-11-27 14:00 to 14:20 UTC\n")
    chart_line = "14:00       4      1      0  ######################################!!!!!!!!!!!!!"
    assert chart_line in result.stdout
    assert result.stdout.isascii() or "█" not in result.stdout
    summary = (tmp_path / "summary").read_text()
    assert chart_line in summary
    assert parse_tables(summary)[0].rows == [["ProcessOrder", "4", "3", "1", "0"]]
    query = {name: values[0] for name, values in parse_qs(urlsplit(server.requests[-1]).query).items()}
    assert (query["step"], query["functionName"]) == ("15", "ProcessOrder")
    assert query["from"].endswith(("00:00Z", "15:00Z", "30:00Z", "45:00Z"))


def test_a_timeline_without_starts_says_so(server: CannedServer) -> None:
    ended = build_point("14:00", started=0) | {"completed": 1}
    server.answer(TIMELINE, build_timeline(ended))
    result = server.run("timeline", "--task-hub", "shop150")
    assert_exit(result, ExitCode.DONE)
    assert result.stdout.endswith("no instance started in this time\n")


def test_a_timeline_as_json_is_the_response(server: CannedServer) -> None:
    result = server.run("timeline", "--task-hub", "shop150", "--output", "json")
    assert result.json() == build_timeline(build_point("14:00", completed=3, failed=1))


def test_an_interactive_terminal_gets_colored_blocks_in_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CI", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    file = StringIO()
    console = Console(file=file, force_terminal=True, color_system="standard", width=60)
    session = Session(
        server=cast("Any", None),
        slot="",
        output=OutputFormat.TABLE,
        quiet=False,
        ci=Terminal(),
        out=console,
        err=console,
    )
    steps = count_by_step(build_timeline(build_point("14:00", completed=3, failed=1)))
    session.print_chart(lambda width, style: draw_chart(steps, width, style))
    text = file.getvalue()
    assert "\x1b[32m█" in text
    assert "\x1b[31m▓" in text
    assert max(len(re.sub(r"\x1b\[\d*m", "", line)) for line in text.splitlines()) == 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--since", "yesterday"],
            "--since takes durations above 0 and up to 366 days, such as 90s, 15m, 2h or 1d, and not 'yesterday'",
        ),
        (["--step", "90s"], "--step takes whole minutes"),
    ],
)
def test_an_invalid_duration_is_refused_before_a_request(
    server: CannedServer, options: list[str], message: str
) -> None:
    assert_exit(server.run("timeline", *options), ExitCode.USAGE, message)
    assert server.requests == []


@pytest.mark.parametrize(
    ("value", "text"), [(3.5e-6, "3.5e-06"), (44.2, "44"), (812.4, "812"), (24_993.9, "24,994"), (1e300, "1e+300")]
)
def test_evidence_of_any_size_is_short(value: float, text: str) -> None:
    evidence = {"unhealthy": value, "healthy": 0.1, "threshold": 20}
    assert ["evidence of unhealthy", f"{text} of 20", ""] in build_health_rows(build_health(evidence=evidence))


def test_health_shows_both_versions_side_by_side(server: CannedServer, tmp_path: Path) -> None:
    server.answer("GET /health", build_health())
    result = server.run("health", **github_environment(tmp_path))
    assert_exit(result, ExitCode.DONE)
    title, *_ = result.stdout.splitlines()
    evidence = "EvidenceInconclusive: the evidence does not decide yet"
    assert title == f"Undecided: 1.5.0 against 1.4.0 in app shop: {evidence}"
    (table,) = parse_tables((tmp_path / "summary").read_text())
    assert table.header == ["", "1.5.0 (candidate)", "1.4.0 (baseline)"]
    assert table.rows == [
        ["started", "40", "360"],
        ["finished", "38", "352"],
        ["failed", "3", "10"],
        ["failure rate", "7.9 % (2.7 to 20.8 %)", "2.8 % (2.7 to 20.8 %)"],
        ["terminated", "0", "0"],
        ["canceled", "0", "0"],
        ["active", "2", "8"],
        ["duration, median", "2.1 s", "2.1 s"],
        ["duration, 95 % within", "8 s", "8 s"],
        ["share, observed", "10 %", "90 %"],
        ["share, configured", "10 %", "90 %"],
        ["evidence of unhealthy", "2.7 of 20", ""],
        ["evidence of healthy", "0.1 of 20", ""],
    ]
    assert read_outputs(tmp_path) == {
        "health": "Undecided",
        "decided-by": "EvidenceInconclusive",
        "candidate": "1.5.0",
        "candidate-finished": "38",
        "candidate-failed": "3",
        "candidate-rate": "0.0789",
        "baseline": "1.4.0",
        "baseline-finished": "352",
        "baseline-failed": "10",
        "baseline-rate": "0.0284",
    }


def test_health_without_instances_shows_no_rates(server: CannedServer) -> None:
    empty = {"started": 0, "finished": 0, "failed": 0, "active": 0, "rate": None, "interval": None, "durations": None}
    sides = {"candidate": build_side("1.5.0", **empty), "baseline": build_side("1.4.0", **empty)}
    oldest = {"instanceId": "order-7", "functionName": "ProcessOrder", "startedAt": "2026-11-27T14:00:00.0000000Z"}
    shares = {"configured": None, "observed": None}
    server.answer("GET /health", build_health() | sides | {"shares": shares, "oldestActive": oldest})
    result = server.run("health")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "failure rate - -" in lines
    assert "duration, median - -" in lines
    assert "share, configured - -" in lines
    assert "oldest active ProcessOrder order-7, 2026-11-27 14:00:00 UTC" in lines


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0011, "1.1 ms"), (0.25, "250 ms"), (2.12, "2.12 s"), (119, "119 s"), (600, "10 min"), (86400, "24 h")],
)
def test_a_duration_has_a_unit_that_fits(server: CannedServer, seconds: float, text: str) -> None:
    durations = {"medianSeconds": seconds, "p95Seconds": seconds}
    server.answer("GET /health", build_health(candidate=build_side("1.5.0", durations=durations)))
    lines = [" ".join(line.split()) for line in server.run("health").stdout.splitlines()]
    assert f"duration, median {text} 2.1 s" in lines


@pytest.mark.parametrize(
    ("status", "fail_on", "code"),
    [
        ("Healthy", "undecided", ExitCode.DONE),
        ("Undecided", "unhealthy", ExitCode.DONE),
        ("Undecided", "undecided", ExitCode.NOT_READY),
        ("Unhealthy", "unhealthy", ExitCode.NOT_READY),
        ("Unhealthy", "undecided", ExitCode.NOT_READY),
        ("Unhealthy", None, ExitCode.DONE),
    ],
)
def test_the_status_becomes_the_exit_code(
    server: CannedServer, status: str, fail_on: str | None, code: ExitCode
) -> None:
    server.answer("GET /health", build_health(status))
    result = server.run("health", *(["--fail-on", fail_on] if fail_on else []))
    assert_exit(result, code)
    assert result.stdout.startswith(f"{status}: ")


def test_health_asks_for_other_versions_and_a_period(server: CannedServer) -> None:
    server.answer("GET /health", build_health())
    server.run("health", "--candidate", "1.6.0", "--baseline", "1.5.0", "--since", "2h")
    query = parse_qs(urlsplit(server.requests[-1]).query)
    assert (query["candidate"], query["baseline"]) == (["1.6.0"], ["1.5.0"])
    assert query["since"][0].endswith("Z")
