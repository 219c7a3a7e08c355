"""The stock of an item, which is an entity, and its monitor, which is an eternal orchestration."""

from typing import Any

import pytest

from durable_app.orders.monitor import parse_monitor_request
from durable_app.orders.order import InvalidOrder
from tests.durable_app.functions.orchestrator_replay import OrchestratorReplay, run_entity_operation


def watched_stock(**more: Any) -> dict[str, Any]:
    return parse_monitor_request({"items": ["apple", "pear"], "intervalSeconds": 30} | more, "stock-monitor")[1]


# The entity


def test_an_unused_stock_has_ten_pieces() -> None:
    assert run_entity_operation(None, "get") == (10, 10)


@pytest.mark.parametrize(("operation", "left"), [("add", 12), ("take", 8)])
def test_a_stock_counts_what_is_added_and_taken(operation: str, left: int) -> None:
    assert run_entity_operation(10, operation, 2) == (left, left)


def test_an_empty_stock_can_owe_pieces() -> None:
    assert run_entity_operation(0, "take", 2) == (-2, -2)


def test_an_unknown_operation_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no operation burn"):
        run_entity_operation(10, "burn")


# The monitor


def test_a_round_of_the_monitor_ends_with_the_next_one() -> None:
    """The round waits, then continues as new with the next round number."""
    played = OrchestratorReplay().run("StockMonitor", watched_stock())
    assert played.continued_with == watched_stock() | {"round": 2}
    assert (played.elapsed_seconds, played.signals, played.error) == (30, [], None)


def test_the_monitor_refills_low_stock() -> None:
    played = OrchestratorReplay(stock_levels={"apple": 2, "pear": 3}).run(
        "StockMonitor", watched_stock(low=3, refill=20)
    )
    assert played.signals == [("@stock@apple", "add", 20)]


def test_the_monitor_ends_after_the_event_stop() -> None:
    """It does not continue as new, so the task hub can drain."""
    played = OrchestratorReplay(events={"Stop": True}, stock_levels={"apple": 5}).run("StockMonitor", watched_stock())
    assert played.continued_with is None
    assert played.result == {"rounds": 1, "levels": {"apple": 5, "pear": 10}}


@pytest.mark.parametrize("sent", [[], {"id": "a/b"}, {"items": []}, {"items": [7]}, {"intervalSeconds": 0}])
def test_a_monitor_with_an_invalid_request_is_not_started(sent: Any) -> None:
    with pytest.raises(InvalidOrder):
        parse_monitor_request(sent, "stock-monitor")
