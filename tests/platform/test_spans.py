"""The judge of the histories: which Ready answers contradict what was active."""

import pytest

from tests.platform.spans import Spans


def test_an_answer_contradicts_a_span_that_covers_it_from_question_to_answer() -> None:
    spans = Spans()
    spans.open("order", 10, waits_for=["order"])
    assert spans.covering(11, 12) == ["order"]
    assert spans.covering(9, 12) == [], "it may not have been active at first"
    spans.release("order", 20)
    assert spans.covering(11, 20) == ["order"]
    assert spans.covering(11, 21) == [], "it may have ended by then"


def test_spans_that_overlap_cover_an_answer_together() -> None:
    spans = Spans()
    spans.open("first", 10, end=15)
    spans.open("second", 14, end=20)
    spans.open("third", 21, end=30)
    assert spans.covering(11, 19) == ["first", "second"]
    assert spans.covering(11, 25) == [], "nothing was surely active from 20 to 21"


def test_a_parent_is_active_until_all_that_it_waits_for_were_asked_to_end() -> None:
    spans = Spans()
    spans.open("parent", 10, waits_for=["child 0", "child 1"])
    spans.release("child 0", 11)
    assert spans.covering(12, 13) == ["parent"]
    spans.release("child 1", 14)
    assert spans.covering(12, 15) == []


def test_the_earlier_of_two_ends_counts() -> None:
    spans = Spans()
    timer = spans.open("timer", 10, end=20, waits_for=["timer"])
    spans.release("timer", 12)
    assert timer.end == 12


def test_an_instance_that_is_started_again_has_a_span_of_its_own() -> None:
    spans = Spans()
    spans.open("order", 10, waits_for=["order"])
    spans.release("order", 11)
    spans.open("order again", 13, waits_for=["order"])
    assert spans.covering(10.5, 12) == []
    assert spans.covering(14, 15) == ["order again"]


def test_a_span_that_nothing_would_end_is_a_mistake_in_a_story() -> None:
    with pytest.raises(ValueError, match="order waits for nothing and has no end"):
        Spans().open("order", 10)
