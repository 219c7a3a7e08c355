"""The groups of benchmarks: each runs on real parts, and one that fails or lacks its program loses no other."""

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bench import cold_start, figures, groups, host_start, memory, readiness, report, routing, waiting
from bench.groups import Group, Run, Scale, run_groups
from bench.load_generator import LoadError
from bench.visitors import Visitor, run_traffic
from harness.http_server import run_http_server
from harness.platform_programs import INSTALL_HINT, ProgramNotFoundError, platform_folder
from tests.test_bench import ROUND

needs_programs = pytest.mark.skipif(platform_folder() is None, reason=INSTALL_HINT)


def _build_group(section: dict[str, Any] | Exception) -> Group:
    """A group of benchmarks that returns this section, or fails with this error."""

    async def return_section(folder: Path) -> dict[str, Any]:
        """A group of benchmarks that ends with this section, or with this error."""
        if isinstance(section, Exception):
            raise section
        return section

    return Group(return_section)


@pytest.mark.anyio
async def test_a_group_that_fails_or_lacks_its_program_loses_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = {
        "ingest": _build_group({"figures": [ROUND]}),
        "readiness": _build_group(ProgramNotFoundError("there is no durable-host")),
        "visibility": _build_group(LoadError("not all events were recorded")),
        "memory": _build_group({"figures": []}),
    }
    monkeypatch.setattr(groups, "GROUPS", members)
    measured: list[list[str]] = []
    run = await run_groups(list(members), tmp_path, Scale.NORMAL, lambda so_far: measured.append(list(so_far.sections)))
    assert list(run.sections) == ["ingest", "memory"]
    assert run.left_out == {"readiness": "there is no durable-host"}
    assert run.failures == {"visibility": "LoadError: not all events were recorded"}
    assert measured == [["ingest"], ["ingest"], ["ingest"], ["ingest", "memory"]]
    assert "readiness is left out: there is no durable-host\n" in capsys.readouterr().out


@pytest.mark.anyio
async def test_a_group_for_which_no_time_remains_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(groups, "GROUPS", {"ingest": _build_group({"figures": [ROUND]})})
    monkeypatch.setattr(groups, "RUN_SECONDS", 0)
    run = await run_groups(["ingest"], tmp_path, Scale.NORMAL)
    assert run.left_out == {"ingest": "no time remained after the 0 s of a run"}
    assert not run.sections


@pytest.mark.anyio
async def test_a_slow_machine_records_fewer_events_and_the_memory_figure_says_how_many(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "_CONCURRENT_TASK_HUBS", 2)
    section = await memory.run(tmp_path, events=4000, seconds=0)
    assert section["events"] == 2000
    assert section["taskHubs"] == 2
    assert section["notes"] == ["2,000 of 4,000 events were recorded within 0 s."]


def test_sections_that_a_run_did_not_measure_stay_with_their_origin() -> None:
    section = {"figures": [ROUND]}
    earlier = {"at": "earlier", "machine": {"revision": "aaa"}, "ingest": section, "memory": section}
    second = Run({"ingest": section}, failures={"memory": "RuntimeError: no memory"})
    merged = report.merge_results(earlier, second, {"at": "now", "machine": {"revision": "bbb"}})
    third = report.merge_results(merged, second, {"at": "later", "machine": {"revision": "ccc"}})
    for results in (merged, third):
        assert results["ingest"] == section
        assert results["memory"] == {**section, "at": "earlier", "revision": "aaa"}
        assert results["notMeasured"] == {"memory": "RuntimeError: no memory"}


@needs_programs
@pytest.mark.anyio
async def test_verdicts_are_compared_with_the_status_check_of_the_real_extension(tmp_path: Path) -> None:
    """Every query raises unless it sees exactly the instances that are active. Of five rounds the median counts,
    because the extension sends requests of its own in the background."""
    section = await readiness.run(tmp_path, rounds=5, sizes=(20, 40))
    subjects = [figure["subject"] for figure in section["figures"]]
    for description in (
        "GetStagingStatus by events, 20 finished, 5 active",
        "GetStagingStatus verified, fresh, 40 finished, none active",
        "GetStagingStatus verified, fresh, 40 finished and purged",
        "processor time of the storage, GetStagingStatus by events, 40 finished, 5 active",
    ):
        assert description in subjects
    for phase in ("active", "drained"):
        assert section["requests"][phase]["status check"] == {"20": 1, "40": 1}
        assert section["requests"][phase]["by events"]["20"] == section["requests"][phase]["by events"]["40"]
    assert {"readiness.svg", "storage-requests.svg"} <= set(figures.draw_plots({"readiness": section}))


@pytest.mark.anyio
async def test_requests_that_wait_are_counted_and_timed(tmp_path: Path) -> None:
    section = await waiting.run(tmp_path, rounds=1, wait_seconds=1, caller_count=20, delay_samples=1)
    assert [list(section["requests"]), len(section["figures"])] == [["1", "10", "20"], 5]
    assert all(count > 0 for counts in section["requests"].values() for count in counts)
    assert set(section["delayMilliseconds"]) == {"the same process", "another process"}
    assert "waiting.svg" in figures.draw_plots({"waiting": section})


@pytest.mark.anyio
async def test_changes_of_the_routing_are_timed_on_a_real_envoy_under_load(tmp_path: Path) -> None:
    """The group raises if a request fails, if a growing share moves a visitor back, and if the last routes are not
    served while the server is down."""
    section = await routing.run(tmp_path, promotions=2, flips=3, sticky_visitors=40)
    assert [len(kind["reached"]) for kind in section["seconds"].values()] == [2, 2]
    assert section["flipRequests"] > 0
    assert section["outageRequests"] > 0
    shares = list(section["visitorsAtCandidate"].values())
    assert shares == sorted(shares)
    assert 0 < shares[-1] < 40
    assert "routing.svg" in figures.draw_plots({"routing": section})
    (note,) = section["notes"]
    assert f"\n{note}\n" in report.render_sections({"routing": section})


@pytest.mark.anyio
async def test_a_request_of_a_visitor_that_fails_ends_the_measurement() -> None:
    async def respond(request: web.Request) -> web.Response:
        """Answer the visitor with the cookie, and refuse the one without."""
        return web.Response(text="1.4.0", status=200 if "Cookie" in request.headers else 503)

    async def send_requests(port: int) -> None:
        """Send requests of both visitors until each has got a response."""
        visitors = [Visitor(cookie=b"release=a.07"), Visitor()]
        async with run_traffic(f"http://127.0.0.1:{port}", visitors) as traffic:
            await traffic.wait_for_all()

    async with run_http_server(respond) as (port,):
        with pytest.raises(LoadError, match="503"):
            await send_requests(port)


def test_a_visitor_who_has_left_the_candidate_ends_the_measurement() -> None:
    visitors = [Visitor(stays=["1.4.0", "1.5.0"]), Visitor(stays=["1.4.0"])]
    assert routing.count_moved(visitors) == 1
    visitors[0].stays.append("1.4.0")
    with pytest.raises(LoadError, match="moved 1 of 2 visitors back"):
        routing.count_moved(visitors)


@needs_programs
@pytest.mark.anyio
async def test_the_function_app_and_an_empty_app_start_on_the_real_host(tmp_path: Path) -> None:
    section = await host_start.run(tmp_path, rounds=1)
    start, _, worker_memory = section["figures"]
    assert start["subject"] == "start of the Functions host until the first answered request"
    assert worker_memory["ratio"] > 1
    assert set(section["hostSeconds"]) == {"Function App", "empty app"}


@pytest.mark.anyio
async def test_without_the_functions_host_only_imports_are_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def raise_not_found(folder: Path, rounds: int) -> dict[str, Any]:
        """A group of benchmarks whose program is not installed."""
        raise ProgramNotFoundError("there is no functions-host")

    monkeypatch.setattr(host_start, "run", raise_not_found)
    section = await cold_start.run(tmp_path, import_rounds=1)
    assert section["notes"] == ["The start on the Functions host is left out: there is no functions-host"]
    assert section["figures"][0]["subject"] == "`import function_app`"
    assert "\nThe start on the Functions host is left out" in report.render_sections({"coldStart": section})
