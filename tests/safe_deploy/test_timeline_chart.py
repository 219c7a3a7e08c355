"""The chart of a timeline: its lines, its widths, and that a failure is never hidden."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_deploy.rollouts.timeline_chart import (
    BLOCKS,
    PLAIN,
    StepCounts,
    align_start,
    build_function_table,
    choose_step_minutes,
    count_by_function,
    count_by_step,
    describe_timeline,
    draw_bar,
    draw_chart,
)
from tests.safe_deploy.rollout_responses import build_point, build_timeline

NUMBERS = st.integers(0, 10**6)
COUNTS = st.builds(
    lambda completed, failed, stopped, active: StepCounts(
        completed + failed + stopped + active, completed, failed, stopped, active
    ),
    *[NUMBERS] * 4,
)
BEGIN = datetime(2026, 11, 27, 14, tzinfo=UTC)


def test_a_chart_has_a_line_for_each_step_also_for_an_empty_one() -> None:
    timeline = build_timeline(
        build_point("14:00", completed=40),
        build_point("14:10", completed=15, failed=5),
        build_point("14:15", completed=4, active=6),
    )
    lines = draw_chart(count_by_step(timeline), 60, PLAIN)
    assert [line.plain for line in lines] == [
        "from  started failed active",
        "14:00      40      0      0  ###############################",
        "14:05       0      0      0",
        "14:10      20      5      0  ############!!!!",
        "14:15      10      0      6  ###.....",
        "# completed  ! failed  . active",
    ]


def test_a_terminal_gets_blocks_and_what_was_stopped_has_a_column() -> None:
    timeline = build_timeline(build_point("14:00", completed=2, terminated=1, canceled=1), end="14:05")
    header, line, legend = draw_chart(count_by_step(timeline), 40, BLOCKS)
    assert header.plain == "from  started failed stopped active"
    assert line.plain == "14:00       4      0       2      0  ██▒"
    assert [str(span.style) for span in line.spans] == ["green", "yellow"]
    assert "▒ terminated or canceled" in legend.plain


def test_a_chart_over_midnight_has_dates() -> None:
    steps = [(BEGIN + timedelta(hours=hours), StepCounts(1, 1)) for hours in (0, 12)]
    assert [line.plain[:11] for line in draw_chart(steps, 60, PLAIN)[1:3]] == ["11-27 14:00", "11-28 02:00"]


def test_functions_are_added_up_in_a_step_and_counted_for_themselves() -> None:
    timeline = build_timeline(
        build_point("14:00", "Ship", completed=1), build_point("14:00", completed=2), build_point("14:05", failed=1)
    )
    assert count_by_step(timeline)[0][1] == StepCounts(started=3, completed=3)
    columns, rows = build_function_table(count_by_function(timeline))
    assert columns == ["Function", "Started", "Completed", "Failed", "Active"]
    assert rows == [["ProcessOrder", "3", "2", "1", "0"], ["Ship", "1", "1", "0", "0"]]


def test_what_was_stopped_has_a_column_in_the_table_of_functions_only_if_there_is_any() -> None:
    columns, rows = build_function_table([("Ship", StepCounts(started=2, completed=1, stopped=1))])
    assert columns == ["Function", "Started", "Completed", "Failed", "Stopped", "Active"]
    assert rows == [["Ship", "2", "1", "0", "1", "0"]]


@pytest.mark.parametrize(
    ("end", "title"),
    [
        ("2026-11-27T15:00:00Z", "task hub shop150, Ship: started 2026-11-27 14:00 to 15:00 UTC"),
        ("2026-11-28T15:00:00Z", "task hub shop150, Ship: started 2026-11-27 14:00 to 2026-11-28 15:00 UTC"),
    ],
)
def test_the_title_has_task_hub_function_and_period(end: str, title: str) -> None:
    assert describe_timeline(build_timeline() | {"to": end}, "Ship") == title


@given(st.lists(COUNTS, max_size=30), st.sampled_from([60, 80]), st.sampled_from([PLAIN, BLOCKS]), st.booleans())
def test_no_line_is_wider_than_the_terminal(counts: list[StepCounts], width: int, style: object, days: bool) -> None:
    step = timedelta(days=1) if days else timedelta(minutes=1)
    steps = [(BEGIN + number * step, count) for number, count in enumerate(counts)]
    lines = draw_chart(steps, width, style)  # type: ignore[arg-type]  # sampled from two styles
    assert all(line.cell_len <= width for line in lines)


@given(COUNTS.filter(lambda counts: counts.failed > 0), st.integers(1, 80), st.integers(1, 100))
def test_a_failure_is_never_hidden(counts: StepCounts, width: int, factor: int) -> None:
    bar = draw_bar(counts, counts.started * factor, width, PLAIN).plain
    assert "!" in bar
    assert len(bar) == max(1, round(width / factor))


@given(st.integers(1, 48 * 60))
def test_a_chart_has_at_most_24_steps_of_a_usual_length(minutes: int) -> None:
    period = timedelta(minutes=minutes)
    step = choose_step_minutes(period)
    assert period / timedelta(minutes=step) <= 24
    begin = align_start(BEGIN + timedelta(seconds=minutes * 7), period, step)
    assert (begin - datetime.fromtimestamp(0, UTC)) % timedelta(minutes=step) == timedelta()
    assert timedelta() <= BEGIN + timedelta(seconds=minutes * 7) - period - begin < timedelta(minutes=step)
