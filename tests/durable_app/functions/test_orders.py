"""The order's orchestrators, both versions, and the orchestration that ships."""

from typing import Any

import pytest

from durable_app.orders.order import InvalidOrder, parse_order
from durable_app.orders.payment import FAILURE_PERCENT_SETTING, is_payment_defective
from tests.durable_app.functions.orchestrator_replay import OrchestratorReplay

BOTH_VERSIONS = pytest.mark.parametrize("version", ["v1", "v2"])
LAST_STEPS = ["ChargePayment", "timer", "ShipOrder", "PackParcel", "BookCarrier"]
FIRST_STEPS = {"v1": ["PriceItem", "PriceItem"], "v2": ["ScreenOrder", "PriceItem", "PriceItem"]}


def parse_sample_order(**members: Any) -> dict[str, Any]:
    """The input of ProcessOrder for an order with two items, to which `members` are added."""
    return parse_order({"orderId": "order-1", "items": ["apple", "pear"]} | members, {})


@BOTH_VERSIONS
def test_an_order_is_priced_item_by_item_charged_packed_and_shipped(version: str) -> None:
    replay_result = OrchestratorReplay(version).run("ProcessOrder", parse_sample_order(packingSeconds=7))
    assert replay_result.error is None
    assert replay_result.result["status"] == "Shipped"
    assert replay_result.result["tracking"] == "TRACK-order-1-2"
    assert replay_result.calls == FIRST_STEPS[version] + LAST_STEPS
    assert replay_result.signals == [("@stock@apple", "take", 1), ("@stock@pear", "take", 1)]
    assert replay_result.elapsed_seconds == 7


@BOTH_VERSIONS
def test_the_price_of_an_order_is_the_sum_of_the_prices_of_its_items(version: str) -> None:
    replay = OrchestratorReplay(version, activities={"PriceItem": {"apple": 30, "pear": 12}.__getitem__})
    assert replay.run("ProcessOrder", parse_sample_order()).result["cents"] == 42


AS_TEXT = "as text, which the client of azure-functions-durable sends"


@BOTH_VERSIONS
@pytest.mark.parametrize("data", [True, "true"], ids=["as JSON", AS_TEXT])
def test_an_approved_order_is_shipped(version: str, data: Any) -> None:
    replay_result = OrchestratorReplay(version, {"Approval": data}).run(
        "ProcessOrder", parse_sample_order(approvalNeeded=True)
    )
    assert replay_result.result["status"] == "Shipped"


@BOTH_VERSIONS
@pytest.mark.parametrize(
    "data", [False, "false", None, "nonsense", 1], ids=["as JSON", AS_TEXT, "none", "other", "one"]
)
def test_a_rejected_order_ends_without_a_charge(version: str, data: Any) -> None:
    """Regression: the text `false` is true in Python, so rejected orders were shipped on the real host."""
    replay_result = OrchestratorReplay(version, {"Approval": data}).run(
        "ProcessOrder", parse_sample_order(approvalNeeded=True)
    )
    assert replay_result.result["status"] == "Rejected"
    assert replay_result.calls == FIRST_STEPS[version]
    assert replay_result.signals == []


@BOTH_VERSIONS
def test_an_order_without_an_approval_expires(version: str) -> None:
    """The default deadline of an approval is 72 hours."""
    default_timeout_seconds = 72 * 3600
    replay_result = OrchestratorReplay(version).run("ProcessOrder", parse_sample_order(approvalNeeded=True))
    assert replay_result.result["status"] == "Expired"
    assert replay_result.elapsed_seconds == default_timeout_seconds
    assert "ChargePayment" not in replay_result.calls


@BOTH_VERSIONS
def test_a_charge_that_fails_is_tried_again(version: str) -> None:
    failures = [OSError("the bank does not answer"), OSError("still not")]

    def fail_twice(_: dict[str, Any]) -> str:
        """Fail as often as there are failures left, then succeed."""
        if failures:
            raise failures.pop()
        return "receipt"

    replay_result = OrchestratorReplay(version, activities={"ChargePayment": fail_twice}).run(
        "ProcessOrder", parse_sample_order()
    )
    assert replay_result.result["receipt"] == "receipt"
    assert replay_result.calls.count("ChargePayment") == 3


@BOTH_VERSIONS
def test_an_order_fails_once_the_charge_has_failed_three_times(version: str) -> None:
    replay_result = OrchestratorReplay(version).run("ProcessOrder", parse_sample_order(card="declined"))
    assert str(replay_result.error) == "the card for order order-1 was declined"
    assert replay_result.calls.count("ChargePayment") == 3
    assert "ShipOrder" not in replay_result.calls


@BOTH_VERSIONS
def test_an_order_that_meets_the_defect_of_its_version_fails(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAILURE_PERCENT_SETTING, "100")
    replay_result = OrchestratorReplay(version).run("ProcessOrder", parse_sample_order())
    assert str(replay_result.error) == "order order-1 cannot be charged"
    assert replay_result.calls.count("ChargePayment") == 3


def test_a_version_with_a_defect_fails_this_percentage_of_orders_and_one_that_fails_more_fails_these_too() -> None:
    failing = {
        percent: {number for number in range(10_000) if is_payment_defective(f"order-{number}", percent)}
        for percent in (0, 2, 15, 100)
    }
    assert failing[0] < failing[2] < failing[15] < failing[100]
    assert [len(orders) for orders in failing.values()] == [
        0,
        pytest.approx(200, abs=60),
        pytest.approx(1_500, abs=150),
        10_000,
    ]


@BOTH_VERSIONS
def test_an_order_fails_if_its_shipping_fails(version: str) -> None:
    def fail_to_book(_: str) -> str:
        raise OSError("no carrier")

    replay_result = OrchestratorReplay(version, activities={"BookCarrier": fail_to_book}).run(
        "ProcessOrder", parse_sample_order()
    )
    assert str(replay_result.error) == "no carrier"


@pytest.mark.parametrize(
    ("suspicious_members", "reason"),
    [({"card": "stolen"}, "the card is reported stolen"), ({"items": ["apple"] * 51}, "too many items at once")],
)
def test_version_2_refuses_suspected_fraud_before_any_other_step(
    suspicious_members: dict[str, Any], reason: str
) -> None:
    replay_result = OrchestratorReplay("v2").run("ProcessOrder", parse_sample_order(**suspicious_members))
    assert replay_result.result == {"status": "Refused", "reason": reason}
    assert replay_result.calls == ["ScreenOrder"]


def test_the_two_versions_begin_with_different_activities() -> None:
    """The history of an order that began on version 1 therefore does not fit version 2."""
    first_activities = {
        version: OrchestratorReplay(version).run("ProcessOrder", parse_sample_order()).calls[0]
        for version in ("v1", "v2")
    }
    assert first_activities == {"v1": "PriceItem", "v2": "ScreenOrder"}


def test_the_durations_of_an_order_come_from_its_request_or_else_from_the_settings() -> None:
    """The HTTP function puts the durations into the input, because orchestrators must not read settings."""
    settings = {"APPROVAL_TIMEOUT_SECONDS": "60", "PACKING_SECONDS": ""}
    request_body = {"orderId": "order-1", "items": ["apple"], "retryMilliseconds": 0.5}
    order = parse_order(request_body | {"approvalTimeoutSeconds": 5}, settings)
    assert (order["approvalTimeoutSeconds"], order["packingSeconds"], order["retryMilliseconds"]) == (5, 60, 1)
    assert parse_order(request_body, settings)["approvalTimeoutSeconds"] == 60


@pytest.mark.parametrize(
    "invalid_members",
    [{"orderId": None}, {"items": "apple"}, {"approvalNeeded": 1}, {"card": 1}, {"packingSeconds": "nan"}],
)
def test_an_invalid_order_is_refused(invalid_members: dict[str, Any]) -> None:
    with pytest.raises(InvalidOrder):
        parse_order({"orderId": "order-1", "items": ["apple"]} | invalid_members, {})


def test_charging_an_order_twice_gives_the_same_receipt() -> None:
    """An activity may run twice, so charging the same order again must give the same receipt."""
    receipts = {OrchestratorReplay().run("ProcessOrder", parse_sample_order()).result["receipt"] for _ in range(2)}
    assert len(receipts) == 1
