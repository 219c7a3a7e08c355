"""The judge of the histories: which Ready answers contradict what was active."""

import pytest

from tests.platform.active_periods import ActivePeriods


def test_an_answer_contradicts_a_span_that_covers_it_from_question_to_answer() -> None:
    spans = ActivePeriods()
    spans.open("order", 10, blocked_by=["order"])
    assert spans.find_covering(11, 12) == ["order"]
    assert spans.find_covering(9, 12) == [], "it may not have been active at first"
    spans.mark_released("order", 20)
    assert spans.find_covering(11, 20) == ["order"]
    assert spans.find_covering(11, 21) == [], "it may have ended by then"


def test_spans_that_overlap_cover_an_answer_together() -> None:
    spans = ActivePeriods()
    spans.open("first", 10, end=15)
    spans.open("second", 14, end=20)
    spans.open("third", 21, end=30)
    assert spans.find_covering(11, 19) == ["first", "second"]
    assert spans.find_covering(11, 25) == [], "nothing was surely active from 20 to 21"


def test_a_parent_is_active_until_all_that_it_waits_for_were_asked_to_end() -> None:
    spans = ActivePeriods()
    spans.open("parent", 10, blocked_by=["child 0", "child 1"])
    spans.mark_released("child 0", 11)
    assert spans.find_covering(12, 13) == ["parent"]
    spans.mark_released("child 1", 14)
    assert spans.find_covering(12, 15) == []


def test_the_earlier_of_two_ends_counts() -> None:
    spans = ActivePeriods()
    timer = spans.open("timer", 10, end=20, blocked_by=["timer"])
    spans.mark_released("timer", 12)
    assert timer.end == 12


def test_an_instance_that_is_started_again_has_a_span_of_its_own() -> None:
    spans = ActivePeriods()
    spans.open("order", 10, blocked_by=["order"])
    spans.mark_released("order", 11)
    spans.open("order again", 13, blocked_by=["order"])
    assert spans.find_covering(10.5, 12) == []
    assert spans.find_covering(14, 15) == ["order again"]


def test_a_span_that_nothing_would_end_is_a_mistake_in_a_story() -> None:
    with pytest.raises(ValueError, match="order waits for nothing and has no end"):
        ActivePeriods().open("order", 10)
