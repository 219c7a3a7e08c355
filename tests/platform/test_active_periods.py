"""Which Ready responses contradict the periods in which something was certainly active."""

import pytest

from tests.platform.active_periods import ActivePeriods


def test_a_period_that_lasts_from_request_to_response_contradicts_ready() -> None:
    periods = ActivePeriods()
    periods.add_period("order", 10, blocked_by=["order"])
    assert periods.find_covering(11, 12) == ["order"]
    assert periods.find_covering(9, 12) == [], "the order may not have been active at 9"
    periods.mark_released("order", 20)
    assert periods.find_covering(11, 20) == ["order"]
    assert periods.find_covering(11, 21) == [], "the order may have ended by 21"


def test_periods_that_overlap_contradict_ready_together() -> None:
    periods = ActivePeriods()
    periods.add_period("first", 10, end=15)
    periods.add_period("second", 14, end=20)
    periods.add_period("third", 21, end=30)
    assert periods.find_covering(11, 19) == ["first", "second"]
    assert periods.find_covering(11, 25) == [], "nothing was certainly active from 20 to 21"


def test_a_parent_is_active_until_all_its_children_have_been_asked_to_end() -> None:
    periods = ActivePeriods()
    periods.add_period("parent", 10, blocked_by=["child 0", "child 1"])
    periods.mark_released("child 0", 11)
    assert periods.find_covering(12, 13) == ["parent"]
    periods.mark_released("child 1", 14)
    assert periods.find_covering(12, 15) == []


def test_the_earlier_of_two_ends_counts() -> None:
    periods = ActivePeriods()
    timer = periods.add_period("timer", 10, end=20, blocked_by=["timer"])
    periods.mark_released("timer", 12)
    assert timer.end == 12


def test_an_instance_that_is_started_again_has_a_period_of_its_own() -> None:
    periods = ActivePeriods()
    periods.add_period("order", 10, blocked_by=["order"])
    periods.mark_released("order", 11)
    periods.add_period("order again", 13, blocked_by=["order"])
    assert periods.find_covering(10.5, 12) == []
    assert periods.find_covering(14, 15) == ["order again"]


def test_a_period_that_nothing_ends_is_refused() -> None:
    with pytest.raises(ValueError, match="order waits for nothing and has no end"):
        ActivePeriods().add_period("order", 10)
