"""The stock of an item, which is an entity, and its monitor, which is an eternal orchestration."""

from typing import Any

import pytest

from durable_app.orders.monitor import parse_monitor_request
from durable_app.orders.order import InvalidOrder
from tests.durable_app.functions.orchestrator_replay import OrchestratorReplay, run_entity_operation

INTERVAL_SECONDS = 30


def parse_sample_request(**members: Any) -> dict[str, Any]:
    """The input of StockMonitor for a request that watches two items, to which `members` are added."""
    request = {"items": ["apple", "pear"], "intervalSeconds": INTERVAL_SECONDS} | members
    return parse_monitor_request(request, "stock-monitor")[1]


# The entity


def test_an_unused_stock_has_ten_pieces() -> None:
    assert run_entity_operation(None, "get") == (10, 10)


@pytest.mark.parametrize(("operation", "pieces"), [("add", 12), ("take", 8)])
def test_a_stock_counts_what_is_added_and_taken(operation: str, pieces: int) -> None:
    assert run_entity_operation(10, operation, 2) == (pieces, pieces)


def test_taking_from_an_empty_stock_makes_its_count_negative() -> None:
    assert run_entity_operation(0, "take", 2) == (-2, -2)


def test_an_unknown_operation_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no operation burn"):
        run_entity_operation(10, "burn")


# The monitor


def test_a_round_of_the_monitor_continues_as_new_with_the_next_round() -> None:
    """A round waits for the interval before it continues as new."""
    replay_result = OrchestratorReplay().run("StockMonitor", parse_sample_request())
    assert replay_result.continued_with == parse_sample_request() | {"round": 2}
    assert (replay_result.elapsed_seconds, replay_result.signals, replay_result.error) == (INTERVAL_SECONDS, [], None)


def test_the_monitor_refills_low_stock() -> None:
    replay_result = OrchestratorReplay(stock_levels={"apple": 2, "pear": 3}).run(
        "StockMonitor", parse_sample_request(low=3, refill=20)
    )
    assert replay_result.signals == [("@stock@apple", "add", 20)]


def test_the_monitor_ends_after_the_event_stop() -> None:
    """The monitor does not continue as new then, so the task hub can drain."""
    replay_result = OrchestratorReplay(events={"Stop": True}, stock_levels={"apple": 5}).run(
        "StockMonitor", parse_sample_request()
    )
    assert replay_result.continued_with is None
    assert replay_result.result == {"rounds": 1, "levels": {"apple": 5, "pear": 10}}


@pytest.mark.parametrize("request_body", [[], {"id": "a/b"}, {"items": []}, {"items": [7]}, {"intervalSeconds": 0}])
def test_a_monitor_with_an_invalid_request_is_not_started(request_body: Any) -> None:
    with pytest.raises(InvalidOrder):
        parse_monitor_request(request_body, "stock-monitor")
