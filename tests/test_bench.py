"""The benchmarks' arithmetic, the baselines that they compare with, and the page that they write."""

import json
import pstats
import uuid
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from aiohttp import web

from bench import figures, ingest, memory, plots, profiling, report
from bench.comparison import Aim, Figure, compare_rounds, percentile, round_significant, run_in_turns
from bench.event_stream import EventStream, apply_events, count_warm_up_events, encode_events, min_lag_events
from bench.load_generator import (
    LoadError,
    build_get_request,
    build_post_request,
    deliver_until_accepted,
    open_connections,
    run_load,
)
from bench.machine import describe_machine, read_cpu_seconds, read_resident_bytes
from bench.storage import SHARD_COUNT, RawTables
from bench.straightforward import StraightforwardRecorder
from bench.transaction_limit import transaction_writes
from harness.http_server import run_http_server
from harness.state_server import run_server
from state_api.app import StateServer
from state_api.domain.task_hubs.lifecycle import Instance
from state_api.settings import StorageSettings
from tests.conftest import new_hub_name
from tests.storage.stored_rows import stored_rows

ROUND = {"subject": "ours", "baseline": "theirs", "ratio": 0.9, "lowest": 0.8, "highest": 1.1, "rounds": 3}


# Arithmetic


def test_a_comparison_is_the_median_of_the_ratios_within_rounds() -> None:
    """The ratio of the medians would be 3 / 2 here, from two different rounds."""
    figure = compare_rounds("ours", [2, 3, 30], "theirs", [1, 2, 10])
    figure_json = figure.as_json()
    assert list(figure.ratios) == [2, 1.5, 3]
    assert (figure_json["ratio"], figure_json["lowest"], figure_json["highest"], figure_json["rounds"]) == (
        2,
        1.5,
        3,
        3,
    )


@pytest.mark.parametrize(("ours", "theirs"), [([1.0], [1.0, 2.0]), ([], [])])
def test_unequal_numbers_of_rounds_cannot_be_compared(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match="rounds"):
        compare_rounds("ours", ours, "theirs", theirs)


def test_an_aim_is_compared_with_the_rounded_ratio() -> None:
    just_below = Figure("ours", "theirs", (0.7996,), Aim(minimum=0.8)).as_json()
    assert (just_below["ratio"], just_below["aim"], just_below["met"]) == (0.8, "≥ 0.8", True)
    assert not Figure("ours", "theirs", (0.79,), Aim(minimum=0.8)).as_json()["met"]
    assert not Figure("ours", "theirs", (1.51,), Aim(maximum=1.5)).as_json()["met"]
    assert Figure("ours", "theirs", (1.5,), Aim(maximum=1.5)).as_json()["aim"] == "≤ 1.5"


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.07, 7), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_the_smallest_value_that_this_share_does_not_exceed(share: float, value: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == value


def test_numbers_are_rounded_to_three_digits() -> None:
    assert [round_significant(value) for value in (0.0012345, 1.2345, 12345.0)] == [0.00123, 1.23, 12300]


@pytest.mark.anyio
async def test_variants_take_turns_and_none_is_always_first() -> None:
    names_in_order: list[str] = []

    def build_variant(name: str) -> Any:
        """A variant that measures its position in the order of all runs."""

        async def record_run() -> int:
            """Note that this variant has run. The result is its position."""
            names_in_order.append(name)
            return len(names_in_order)

        return record_run

    samples = await run_in_turns(3, {name: build_variant(name) for name in "abc"})
    assert "".join(names_in_order) == "abccbaabc"
    assert samples == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_growth_is_computed_from_the_samples_after_the_caches_are_full() -> None:
    """A server that only grows until its caches are full is flat; one that keeps growing is not."""
    settles = memory.build_result([(at, min(at, 3) * 1_000_000 + 1_000_000) for at in range(31)])
    grows = memory.build_result([(at, at * 1_000_000 + 1_000_000) for at in range(31)])
    assert (settles["figures"][0]["ratio"], settles["bytesPerEventOnceFull"]) == (1, 0)
    assert grows["figures"][0]["ratio"] > 1.5
    assert grows["bytesPerEventOnceFull"] == 1_000_000
    assert not grows["figures"][0]["met"]
    assert settles["mebibytes"][-1][0] == 30


# Events


def test_the_stream_has_whole_lives_and_no_end_is_near_its_start() -> None:
    stream = EventStream("hub", lag=100)
    events = stream.next_events(1000)
    seen: dict[str, list[tuple[int, str]]] = {}
    for number, event_body in enumerate(events):
        seen.setdefault(event_body["data"]["instanceId"], []).append((number, event_body["data"]["runtimeStatus"]))
    lives = [life for life in seen.values() if len(life) == 2]
    assert {tuple(status for _, status in life) for life in lives} == {("Running", "Completed")}
    assert min(end - start for (start, _), (end, _) in lives) >= 100
    assert stream.active_count == len(seen) - len(lives)
    # After the warm-up, starts and ends are equally many, and mixed.
    later = [event_body["data"]["runtimeStatus"] for event_body in events[-400:]]
    assert 150 <= Counter(later)["Running"] <= 250
    assert len({event_body["eventTime"] for event_body in events}) == len(events)


def test_no_start_and_its_end_are_in_flight_at_once_and_a_stream_is_warm_before_it_counts() -> None:
    for batch in (ingest.EVENTS_PER_DELIVERY, 1):
        in_flight = batch * ingest.count_requests_in_flight(batch)
        assert min_lag_events(in_flight) > in_flight
        names = [name for name in ingest.WARM_UP_EVENTS if name.startswith("batches") == (batch > 1)]
        per_partition = {name: SHARD_COUNT if name in ("limit", "emulator") else 1 for name in names}
        assert all(
            ingest.WARM_UP_EVENTS[name] / per_partition[name] >= count_warm_up_events(min_lag_events(in_flight))
            for name in names
        )


def test_the_stream_is_the_same_for_the_same_seed() -> None:
    def list_instance_ids(seed: int) -> list[str]:
        """The instance ids of the first 50 events of a stream."""
        return [event_body["data"]["instanceId"] for event_body in EventStream("hub", seed, lag=20).next_events(50)]

    assert list_instance_ids(1) == list_instance_ids(1)
    assert list_instance_ids(1) != list_instance_ids(2)


# Baselines


def _connection_string_of(storage: StorageSettings) -> str:
    assert storage.connection_string is not None
    return storage.connection_string.get_secret_value()


def _sorted_rows(expected: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(expected, key=lambda row: (str(row["PartitionKey"]), str(row["RowKey"])))


@pytest.mark.anyio
async def test_the_limit_writes_the_rows_that_the_server_writes(server: StateServer, storage: StorageSettings) -> None:
    """It writes the rows of instances. One activity stamp covers many events, and a task hub has one state row."""
    hub = new_hub_name()
    events = EventStream(hub, lag=10).next_events(30)
    await server.services.recorder.record(events, "webhook")
    written = [row for row in await stored_rows(server, hub, "") if row["RowKey"][:2] in ("i|", "a|")]
    table = f"Limit{uuid.uuid4().hex}"
    known: dict[str, Instance] = {}
    shards = {row["InstanceId"]: row["PartitionKey"] for row in written}
    async with RawTables(_connection_string_of(storage)) as raw:
        await raw.create_table(table)
        for before, after in apply_events(events, known):
            writes = transaction_writes(shards[after.instance_id], before, after)
            await raw.submit_transaction(raw.build_transaction(table, writes), len(writes))
        assert await raw.count_rows(table, "RowKey ge 'a|' and RowKey lt 'a}'") == len(known) > 0
    rows = [dict(row) async for row in server.tables.client(table).list_entities()]
    assert _sorted_rows(rows) == _sorted_rows(written)


@pytest.mark.anyio
async def test_the_straightforward_recorder_keeps_the_same_instances(server: StateServer) -> None:
    hub = new_hub_name()
    events = EventStream(hub, lag=10).next_events(30)
    await server.services.recorder.record(events, "webhook")
    recorder = StraightforwardRecorder(server.tables, 1)
    first = await recorder.record(events[:20], "webhook")
    rest = await recorder.record(events[20:], "webhook")
    again = await recorder.record(events[20:], "webhook")
    assert (first.recorded, rest.recorded, again.recorded, again.unchanged) == (20, 10, 0, 10)
    rows = [dict(row) async for row in server.tables.client(f"Straightforward{hub}").list_entities()]
    assert _sorted_rows(rows) == _sorted_rows(await stored_rows(server, hub, "i|"))


@pytest.mark.anyio
async def test_the_emulators_rows_are_counted_over_all_pages_and_read(storage: StorageSettings) -> None:
    table = f"Filled{uuid.uuid4().hex}"
    rows = [{"PartitionKey": f"p{number}", "RowKey": "", "Is": "here"} for number in range(1005)]
    async with RawTables(_connection_string_of(storage)) as raw:
        await raw.create_table(table)
        await raw.create_rows(table, rows)
        assert await raw.count_rows(table, "Is eq 'here'") == len(rows)
        assert await raw.read_property(table, "p7", "", "Is") == "here"
        assert await raw.read_property(table, "p7", "", "IsNot") is None
        assert await raw.read_property(table, "p1005", "", "Is") is None


@pytest.mark.anyio
async def test_a_load_counts_only_what_was_recorded(storage: StorageSettings, tmp_path: Path) -> None:
    """An event that goes to quarantine makes the measurement invalid."""
    stream = EventStream(new_hub_name(), lag=10)
    with run_server(storage, tmp_path) as served:
        requests = [
            (build_post_request(served.url, "/api/events", encode_events(stream.next_events(5))), 5) for _ in range(6)
        ]
        broken = stream.next_events(2)
        broken[1]["data"]["runtimeStatus"] = "Unheard"
        async with open_connections(served.url, 3) as opened:
            done = await run_load(opened, requests)
            with pytest.raises(LoadError, match="not all of 2 events were recorded"):
                await deliver_until_accepted(
                    opened[0], build_post_request(served.url, "/api/events", encode_events(broken)), 2
                )
        assert (done.events, done.refused_count) == (30, 0)
        assert done.events_per_second == pytest.approx(30 / done.seconds)
        assert read_resident_bytes(served.process.pid) > 10_000_000
        assert read_cpu_seconds(served.process.pid) > 0


@pytest.mark.anyio
async def test_a_response_in_chunks_is_read_to_its_end() -> None:
    """The Functions host sends its responses in chunks, and keeps the connection open."""

    async def respond_in_chunks(request: web.Request) -> web.StreamResponse:
        """Answer with a body in chunks, as a server does that does not know its length."""
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for part in (b'{"path":', b'"', request.path.encode(), b'"}'):
            await response.write(part)
        return response

    async with run_http_server(respond_in_chunks) as (port,):
        url = f"http://127.0.0.1:{port}"
        async with open_connections(url, 1) as (connection,):
            answers = [await connection.send(build_get_request(url, path)) for path in ("/first", "/second")]
    assert [answer.json() for answer in answers] == [{"path": "/first"}, {"path": "/second"}]


# Profile


def test_built_in_functions_count_for_the_part_that_calls_them_and_imports_are_left_out() -> None:
    rows_of, json_of, imports = (
        ("/x/state_api/storage/rows.py", 1, "row"),
        ("/usr/lib/json/decoder.py", 1, "decode"),
        ("<frozen importlib._bootstrap>", 1, "_find_and_load"),
    )
    scan = ("~", 0, "<built-in method scan>")
    stats = pstats.Stats()
    stats.stats = {  # type: ignore[attr-defined]
        rows_of: (1, 1, 3.0, 3.0, {}),
        json_of: (1, 1, 1.0, 5.0, {rows_of: (1, 1, 1.0, 5.0)}),
        scan: (2, 2, 4.0, 4.0, {json_of: (1, 1, 3.0, 3.0), rows_of: (1, 1, 1.0, 1.0)}),
        imports: (9, 9, 90.0, 90.0, {}),
    }
    parts, functions = profiling.profile_shares(stats)
    assert parts == {"own: rows and transactions": 0.5, "json": 0.5}
    assert [share for _, share in functions] == [0.5, 0.375, 0.125]


# Page


def test_the_page_shows_the_stored_results() -> None:
    results = report.read_results()
    page = report.PAGE_FILE.read_text()
    assert report.insert_tables(page, results) == page
    for name, text in figures.draw_plots(results).items():
        assert (report.RESULTS_FOLDER / name).read_text() == text


def test_every_stored_figure_is_a_ratio_on_the_page() -> None:
    results = report.read_results()
    page = report.PAGE_FILE.read_text()
    stored = [
        figure for section in report.SECTION_TITLES if section in results for figure in results[section]["figures"]
    ]
    assert len(stored) > 20
    for figure in stored:
        assert f"| {figure['subject']} | {figure['baseline']} | **{figure['ratio']:g}** |" in page


def test_a_table_shows_an_aim_that_was_missed() -> None:
    table = report._render_figures([ROUND | {"aim": "≥ 1", "met": False}, ROUND])
    assert table.splitlines()[2:] == [
        "| ours | theirs | **0.9** | 0.8 to 1.1 | ≥ 1: missed |",
        "| ours | theirs | **0.9** | 0.8 to 1.1 |  |",
    ]


def test_a_page_without_marks_is_not_written() -> None:
    with pytest.raises(ValueError, match="results"):
        report.insert_tables("# Performance\n", {})


def test_plots_are_small_and_well_formed() -> None:
    series = {"a & b": [(1.0, 2.0), (50_000.0, 4.0)], "c": [(1.0, 0.0)]}
    for text in (
        plots.draw_bars("<title>", "ratio", [ROUND, ROUND | {"aim": "≤ 1.5"}]),
        plots.draw_lines("t", "x", "y", series, aims=[plots.AimLine(2, "aim")], logarithmic=True),
    ):
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 (our own)
        assert len(text) < 200_000


def test_the_machine_is_described_in_full() -> None:
    machine = describe_machine()
    assert [name for name, value in machine.items() if value in ("", 0, None) and name != "loadBefore"] == []
    assert json.loads(json.dumps(machine)) == machine
