"""Points in time are parsed, formatted and compared to 100 ns."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.instants import (
    TICKS_PER_SECOND,
    Instant,
    datetime_of,
    format_duration,
    format_instant,
    instant_from,
    parse_instant,
    seconds,
)

FIRST = parse_instant("0001-01-01T00:00:00Z")
LAST = parse_instant("9999-12-31T23:59:59.9999999Z")
INSTANTS = st.integers(FIRST, LAST).map(Instant)


def test_the_epoch_is_zero() -> None:
    assert parse_instant("1970-01-01T00:00:00Z") == 0


def test_a_second_has_ten_million_ticks() -> None:
    assert seconds(1) == TICKS_PER_SECOND == 10_000_000
    assert seconds(0.0000001) == 1
    assert seconds(0.1) == 1_000_000


def test_all_seven_digits_of_dot_net_are_kept() -> None:
    assert parse_instant("1970-01-01T00:00:01.2345678Z") == 12_345_678
    assert format_instant(Instant(12_345_678)) == "1970-01-01T00:00:01.2345678Z"


def test_two_times_within_one_microsecond_differ() -> None:
    earlier = parse_instant("2026-11-20T09:30:00.1234567Z")
    later = parse_instant("2026-11-20T09:30:00.1234568Z")
    assert later - earlier == 1


@pytest.mark.parametrize("fraction", [".5", ".50", ".5000000", ".500000000000"])
def test_a_fraction_may_have_up_to_twelve_digits(fraction: str) -> None:
    assert parse_instant(f"1970-01-01T00:00:00{fraction}Z") == 5_000_000


def test_digits_beyond_100_ns_are_cut_off_and_not_rounded() -> None:
    assert parse_instant("1970-01-01T00:00:00.12345679Z") == 1_234_567


def test_a_time_before_the_epoch_counts_its_fraction_forward() -> None:
    assert parse_instant("1969-12-31T23:59:59.75Z") == -2_500_000


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-20T09:30:00Z",
        "2026-11-20t09:30:00z",
        "2026-11-20 09:30:00Z",
        "2026-11-20T09:30:00",
        "2026-11-20T09:30:00+00:00",
        "2026-11-20T09:30:00-00:00",
        "2026-11-20T11:00:00+01:30",
        "2026-11-20T01:30:00-08:00",
    ],
)
def test_every_spelling_of_a_moment_is_the_same_instant(text: str) -> None:
    assert format_instant(parse_instant(text)) == "2026-11-20T09:30:00.0000000Z"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-11-20",
        "2026-11-20T09:30Z",
        "2026-11-20T09:30:00.Z",
        "2026-11-20T09:30:00.1234567890123Z",
        "2026-11-20T09:30:00+0100",
        "2026-11-20T09:30:00Z\n",
        " 2026-11-20T09:30:00Z",
        "2026-13-20T09:30:00Z",
        "2026-02-29T09:30:00Z",
        "2026-11-20T25:30:00Z",
        "2026-11-20T09:30:60Z",
        "2026-11-20T09:30:00+24:00",
        "0000-01-01T00:00:00Z",
        "٢٠٢٦-11-20T09:30:00Z",
    ],
)
def test_text_that_is_no_time_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"time|must be|out of range"):
        parse_instant(text)


def test_the_error_shows_only_the_beginning_of_a_long_text() -> None:
    with pytest.raises(ValueError, match="not an RFC 3339 time") as caught:
        parse_instant("x" * 10_000)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("text", ["0001-01-01T00:59:59+01:00", "9999-12-31T23:00:00-01:00"])
def test_an_offset_that_leads_out_of_the_years_1_to_9999_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="not a representable time"):
        parse_instant(text)


@given(st.datetimes(), st.integers(-1439, 1439))
def test_every_time_that_can_be_parsed_can_be_formatted(moment: datetime, minutes: int) -> None:
    local = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    try:
        instant = parse_instant(local.isoformat())
    except ValueError:
        assert not datetime(1, 1, 2) < moment < datetime(9999, 12, 30)  # noqa: DTZ001 (compared with a naive datetime)
    else:
        assert instant == parse_instant(format_instant(instant)) == instant_from(local)


@given(INSTANTS)
def test_a_formatted_instant_parses_to_itself(instant: Instant) -> None:
    assert parse_instant(format_instant(instant)) == instant


@given(INSTANTS, INSTANTS)
def test_formatted_instants_sort_by_time(first: Instant, second: Instant) -> None:
    assert (format_instant(first) < format_instant(second)) == (first < second)


@given(st.datetimes())
def test_a_naive_datetime_is_utc(moment: datetime) -> None:
    assert instant_from(moment) == instant_from(moment.replace(tzinfo=UTC))


@given(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001 (the strategy needs naive datetimes)
def test_a_datetime_and_its_text_are_the_same_instant(moment: datetime) -> None:
    assert instant_from(moment) == parse_instant(moment.isoformat())


def test_an_offset_moves_a_datetime_to_utc() -> None:
    berlin = timezone(timedelta(hours=1))
    assert instant_from(datetime(1970, 1, 1, 1, 0, 1, 5, tzinfo=berlin)) == seconds(1) + 50


@given(INSTANTS)
def test_a_datetime_keeps_the_microseconds_of_an_instant(instant: Instant) -> None:
    moment = datetime_of(instant)
    assert moment.tzinfo is UTC
    assert instant_from(moment) == instant // 10 * 10


@pytest.mark.parametrize(
    ("duration_seconds", "text"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (0.9, "0 s"),
        (40, "40 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (119, "1 min"),
        (720, "12 min"),
        (2 * 3600 - 1, "119 min"),
        (2 * 3600, "2 h"),
        (2 * 86_400 - 1, "47 h"),
        (2 * 86_400, "2 d"),
        (5.9 * 86_400, "5 d"),
    ],
)
def test_a_duration_is_formatted_in_the_unit_that_people_use(duration_seconds: float, text: str) -> None:
    assert format_duration(seconds(duration_seconds)) == text
