"""The order's orchestrators, both versions, and the orchestration that ships."""

from typing import Any

import pytest

from durable_app.orders.order import InvalidOrder, parse_order
from tests.durable_app.functions.orchestrator_replay import OrchestratorReplay

BOTH_VERSIONS = pytest.mark.parametrize("version", ["v1", "v2"])
LAST_STEPS = ["ChargePayment", "timer", "ShipOrder", "PackParcel", "BookCarrier"]
FIRST_STEPS = {"v1": ["PriceItem", "PriceItem"], "v2": ["ScreenOrder", "PriceItem", "PriceItem"]}


def completed_order(**more: Any) -> dict[str, Any]:
    return parse_order({"orderId": "order-1", "items": ["apple", "pear"]} | more, {})


@BOTH_VERSIONS
def test_an_order_is_priced_item_by_item_charged_packed_and_shipped(version: str) -> None:
    played = OrchestratorReplay(version).run("ProcessOrder", completed_order(packingSeconds=7))
    assert played.error is None
    assert played.result["status"] == "Shipped"
    assert played.result["tracking"] == "TRACK-order-1-2"
    assert played.calls == FIRST_STEPS[version] + LAST_STEPS
    assert played.signals == [("@stock@apple", "take", 1), ("@stock@pear", "take", 1)]
    assert played.elapsed_seconds == 7


@BOTH_VERSIONS
def test_the_price_is_the_sum_of_what_the_items_cost(version: str) -> None:
    play = OrchestratorReplay(version, activities={"PriceItem": {"apple": 30, "pear": 12}.__getitem__})
    assert play.run("ProcessOrder", completed_order()).result["cents"] == 42


AS_TEXT = "what the client of azure-functions-durable sends arrives as text"


@BOTH_VERSIONS
@pytest.mark.parametrize("data", [True, "true"], ids=["as JSON", AS_TEXT])
def test_an_approved_order_is_shipped(version: str, data: Any) -> None:
    played = OrchestratorReplay(version, {"Approval": data}).run("ProcessOrder", completed_order(approvalNeeded=True))
    assert played.result["status"] == "Shipped"


@BOTH_VERSIONS
@pytest.mark.parametrize(
    "data", [False, "false", None, "nonsense", 1], ids=["as JSON", AS_TEXT, "none", "other", "one"]
)
def test_a_rejected_order_ends_without_a_charge(version: str, data: Any) -> None:
    """Regression: the text `false` is true in Python, so rejected orders were shipped on the real host."""
    played = OrchestratorReplay(version, {"Approval": data}).run("ProcessOrder", completed_order(approvalNeeded=True))
    assert played.result["status"] == "Rejected"
    assert played.calls == FIRST_STEPS[version]
    assert played.signals == []


@BOTH_VERSIONS
def test_an_order_without_an_approval_expires(version: str) -> None:
    """The default deadline is 72 hours."""
    played = OrchestratorReplay(version).run("ProcessOrder", completed_order(approvalNeeded=True))
    assert played.result["status"] == "Expired"
    assert played.elapsed_seconds == 72 * 3600
    assert "ChargePayment" not in played.calls


@BOTH_VERSIONS
def test_a_charge_that_fails_is_tried_again(version: str) -> None:
    failures = [OSError("the bank does not answer"), OSError("still not")]

    def flaky(_: dict[str, Any]) -> str:
        if failures:
            raise failures.pop()
        return "receipt"

    played = OrchestratorReplay(version, activities={"ChargePayment": flaky}).run("ProcessOrder", completed_order())
    assert played.result["receipt"] == "receipt"
    assert played.calls.count("ChargePayment") == 3


@BOTH_VERSIONS
def test_an_order_fails_once_the_charge_has_failed_three_times(version: str) -> None:
    played = OrchestratorReplay(version).run("ProcessOrder", completed_order(card="declined"))
    assert str(played.error) == "the card for order order-1 was declined"
    assert played.calls.count("ChargePayment") == 3
    assert "ShipOrder" not in played.calls


@BOTH_VERSIONS
def test_an_order_fails_if_its_shipping_fails(version: str) -> None:
    def no_carrier(_: str) -> str:
        raise OSError("no carrier")

    played = OrchestratorReplay(version, activities={"BookCarrier": no_carrier}).run("ProcessOrder", completed_order())
    assert str(played.error) == "no carrier"


@pytest.mark.parametrize(
    ("more", "reason"),
    [({"card": "stolen"}, "the card is reported stolen"), ({"items": ["apple"] * 51}, "too many items at once")],
)
def test_version_2_refuses_suspected_fraud_before_any_other_step(more: dict[str, Any], reason: str) -> None:
    played = OrchestratorReplay("v2").run("ProcessOrder", completed_order(**more))
    assert played.result == {"status": "Refused", "reason": reason}
    assert played.calls == ["ScreenOrder"]


def test_the_first_activity_is_another_in_version_2() -> None:
    """A history that began on version 1 does not fit version 2."""
    firsts = {
        version: OrchestratorReplay(version).run("ProcessOrder", completed_order()).calls[0] for version in ("v1", "v2")
    }
    assert firsts == {"v1": "PriceItem", "v2": "ScreenOrder"}


def test_durations_come_from_the_order_else_from_the_settings() -> None:
    """The starter puts them into the input, because orchestrators must not read settings."""
    settings = {"APPROVAL_TIMEOUT_SECONDS": "60", "PACKING_SECONDS": ""}
    sent = {"orderId": "order-1", "items": ["apple"], "retryMilliseconds": 0.5}
    order = parse_order(sent | {"approvalTimeoutSeconds": 5}, settings)
    assert (order["approvalTimeoutSeconds"], order["packingSeconds"], order["retryMilliseconds"]) == (5, 60, 1)
    assert parse_order(sent, settings)["approvalTimeoutSeconds"] == 60


@pytest.mark.parametrize(
    "wrong",
    [{"orderId": None}, {"items": "apple"}, {"approvalNeeded": 1}, {"card": 1}, {"packingSeconds": "nan"}],
)
def test_an_invalid_order_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOrder):
        parse_order({"orderId": "order-1", "items": ["apple"]} | wrong, {})


def test_the_same_charge_gives_the_same_receipt() -> None:
    """An activity may run twice."""
    receipts = {OrchestratorReplay().run("ProcessOrder", completed_order()).result["receipt"] for _ in range(2)}
    assert len(receipts) == 1
