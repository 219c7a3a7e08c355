"""The numbers of the demo of releases side by side: every wrong outcome is found, and makes the demo fail."""

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from dev.demo.order_results import OrderResult
from dev.demo.output import UnexpectedResult
from dev.demo_side_by_side import command_line as demo_command
from dev.demo_side_by_side import customers
from dev.demo_side_by_side.customers import Customer
from dev.demo_side_by_side.records import CustomerRecord, OrderRecord, VisitRecord
from dev.demo_side_by_side.results import DemoOutcome, Switch, build_outcome, find_problems
from dev.demo_side_by_side.routing_watch import RoutingChange
from dev.demo_side_by_side.table import format_outcome
from harness.processes import free_port
from tests.demo.table_rows import read_table_rows

_OLD, _NEW = "orders100", "orders110"
_SPLIT_END = 40.0


def _row(order_id: str, task_hub: str, status: str = "Completed", output: str = '{"status": "Shipped"}') -> OrderResult:
    """The row of an order in its task hub at the end of the demo. Unless stated otherwise, it was shipped."""
    return OrderResult(order_id, task_hub, status, waits_for_approval=False, output=output)


@dataclass
class _Run:
    """A run of two releases in which everything went well, until a test changes it."""

    customers: list[CustomerRecord] = field(
        default_factory=lambda: [
            CustomerRecord(
                "cookie-1",
                keeps_cookies=True,
                visits=[VisitRecord(20, _OLD), VisitRecord(30, _OLD, was_pinned=True), VisitRecord(41.5, _OLD)],
                orders=[OrderRecord("1", _OLD, "Completed")],
                pinned_to=_OLD,
            ),
            CustomerRecord(
                "plain-1",
                keeps_cookies=False,
                visits=[VisitRecord(31, _NEW), VisitRecord(42, _NEW)],
                orders=[OrderRecord("2", _NEW, "Completed"), OrderRecord("3", _NEW, "Completed")],
            ),
        ]
    )
    rows: dict[str, list[OrderResult]] = field(
        default_factory=lambda: {_OLD: [_row("1", _OLD)], _NEW: [_row("2", _NEW), _row("3", _NEW)]}
    )
    retired_at: dict[str, float] = field(default_factory=lambda: {"1.0.0": 110.0})
    changes: list[RoutingChange] = field(
        default_factory=lambda: [
            RoutingChange(10, "1.0.0", {"1.0.0": 100}),
            RoutingChange(25, "1.0.0", {"1.0.0": 50, "1.1.0": 50}),
            RoutingChange(41, "1.1.0", {"1.1.0": 100}),
        ]
    )

    @property
    def pinned(self) -> CustomerRecord:
        """The customer whose cookie keeps them at one release."""
        return self.customers[0]

    @property
    def order(self) -> OrderRecord:
        """The only order of that customer."""
        return self.pinned.orders[0]

    def outcome(self) -> DemoOutcome:
        """What the demo makes of this run."""
        switch = Switch("promote 1.1.0", "1.0.0", _OLD, began_at=_SPLIT_END, changed_at=41)
        return build_outcome(
            {"1.0.0": _OLD, "1.1.0": _NEW},
            self.customers,
            self.rows,
            self.changes,
            [switch],
            split_end=_SPLIT_END,
            retired_at=self.retired_at,
        )


def test_a_run_without_failures_has_no_problems() -> None:
    outcome = _Run().outcome()
    assert find_problems(outcome) == []
    assert [(release.started, release.ended, release.failed) for release in outcome.releases] == [(1, 1, 0), (2, 2, 0)]
    assert [release.pinned_customers for release in outcome.releases] == [1, 0]
    assert [release.traffic for release in outcome.releases] == [((10, 41),), ((25, None),)]


def test_a_switch_is_measured_until_the_last_request_to_the_old_release() -> None:
    (switch,) = _Run().outcome().switches
    assert (switch.seconds, switch.seconds_since_command) == (0.5, 1.5)


def test_requests_after_the_next_change_do_not_count_for_a_switch() -> None:
    run = _Run()
    run.changes.append(RoutingChange(50, "1.0.0", {"1.0.0": 100}))
    run.pinned.visits.append(VisitRecord(51, _OLD))
    (switch,) = run.outcome().switches
    assert switch.seconds == 0.5


def _fail_order(run: _Run) -> None:
    """The order fails, because another version ran it."""
    run.rows[_OLD] = [_row("1", _OLD, "Failed", "NonDeterminismError")]
    run.order.seen_status = "Failed"


def _do_not_ship(run: _Run) -> None:
    """The order ends in another way than it should."""
    run.rows[_OLD] = [_row("1", _OLD, output='{"status": "Expired"}')]


def _leave_running(run: _Run) -> None:
    """The order has not ended."""
    run.rows[_OLD] = [_row("1", _OLD, "Running", "")]
    run.order.seen_status = None


def _lose_end(run: _Run) -> None:
    """The customer has not seen the end of the order."""
    run.order.seen_status = None


def _end_elsewhere(run: _Run) -> None:
    """The order ends in the task hub of the other release."""
    run.rows[_NEW].append(_row("1", _NEW))
    run.rows[_OLD].clear()


def _run_twice(run: _Run) -> None:
    """The order runs in both task hubs."""
    run.rows[_NEW].append(_row("1", _NEW))


def _lose_order(run: _Run) -> None:
    """No task hub has the order."""
    run.rows[_OLD].clear()


def _refuse_visit(run: _Run) -> None:
    """A visit fails."""
    run.pinned.visits.append(VisitRecord(50, failure="GET /api/about: 503"))


def _refuse_status(run: _Run) -> None:
    """A request for the status of an order fails."""
    run.pinned.failures.append("GET /runtime/webhooks/durabletask/instances/1: 410")


def _move_pinned_customer(run: _Run) -> None:
    """A visitor with a cookie gets to the new release."""
    run.pinned.visits.insert(2, VisitRecord(35, _NEW, was_pinned=True))


def _move_pinned_customer_with_new_cookie(run: _Run) -> None:
    """A visitor gets to the new release, and gets its cookie."""
    _move_pinned_customer(run)
    run.pinned.pinned_to = _NEW


def _route_late(run: _Run) -> None:
    """A visit gets to the old release long after the change."""
    run.pinned.visits.append(VisitRecord(46.5, _OLD))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_fail_order, "1 orders that began on release 1.0.0 failed"),
        (_do_not_ship, "1 orders that began on release 1.0.0 failed"),
        (_leave_running, "1 orders that began on release 1.0.0 failed or did not end"),
        (_lose_end, "1 orders that began on release 1.0.0 failed or did not end"),
        (_lose_order, "1 orders that began on release 1.0.0 failed or did not end"),
        (_end_elsewhere, "1 orders that began on release 1.0.0 ran elsewhere"),
        (_run_twice, "1 orders that began on release 1.0.0 ran elsewhere"),
        (_refuse_visit, "1 requests failed, the first: GET /api/about: 503"),
        (_refuse_status, "1 requests failed, the first: GET /runtime"),
        (_move_pinned_customer, "sent to another release: cookie-1"),
        (_move_pinned_customer_with_new_cookie, "sent to another release: cookie-1"),
        (_route_late, "release 1.0.0 got requests for 5.5 s more"),
        (lambda run: run.retired_at.clear(), "release 1.0.0 was not retired"),
        (lambda run: run.pinned.orders.clear(), "no order began on release 1.0.0"),
    ],
)
def test_every_wrong_outcome_is_a_problem(spoil: Callable[[_Run], object], expected: str) -> None:
    run = _Run()
    spoil(run)
    (problem,) = find_problems(run.outcome())
    assert expected in problem


def test_the_command_fails_after_a_wrong_outcome(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = _Run().outcome()
    bad = replace(good, releases=(replace(good.releases[0], ended=0, failed=1), *good.releases[1:]))
    monkeypatch.setattr(sys, "argv", ["demo"])
    for outcome, exit_code in ((good, 0), (bad, 1)):
        monkeypatch.setattr(demo_command, "run_demo", lambda _, result=outcome: result)
        assert demo_command.main() == exit_code
    assert "NOT AS EXPECTED: 1 orders that began on release 1.0.0 failed" in capsys.readouterr().out


def test_the_table_has_the_numbers_of_every_release() -> None:
    rows = read_table_rows(format_outcome(_Run().outcome(), began_at=5))
    assert rows["orders started"] == ["1", "2"]
    assert rows["ended on the release they began on"] == ["1", "2"]
    assert rows["customers pinned by the split"] == ["1", "0"]
    assert rows["had traffic, from second to second"] == ["5-36", "20-"]
    assert rows["retired at second"] == ["105", "-"]
    assert rows["promote 1.1.0"] == ["1.0.0", "0.50", "1.50"]


def test_a_customer_records_what_fails() -> None:
    customer = Customer(f"http://127.0.0.1:{free_port()}", "customer")
    assert customer.visit() is None
    assert customer.place_order() is None
    customer.record.orders.append(OrderRecord("1", _OLD))
    customer.follow_orders()
    customer.close()
    assert [visit.failure is not None for visit in customer.record.visits] == [True, True]
    assert len(customer.record.failures) == 1
    assert customer.has_open_orders


def test_customers_leave_although_orders_are_open_when_a_step_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(customers, "_FOLLOW_SECONDS", math.inf)
    records: list[CustomerRecord] = []

    def fail() -> None:
        """A step of the demo fails while customers still have open orders."""
        router_url = f"http://127.0.0.1:{free_port()}"
        with customers.customers_under_way(
            router_url, with_cookies=1, without_cookies=1, visit_seconds=0.01, visits_per_order=2
        ) as shopping:
            records.extend(shopping)
            for record in records:
                record.orders.append(OrderRecord("1", _OLD))
            raise UnexpectedResult("a step has failed")

    with pytest.raises(UnexpectedResult):
        fail()
    assert [record.orders[0].seen_status for record in records] == [None, None]


def test_the_page_shows_the_table_that_the_demo_prints() -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "side-by-side.md"
    blocks = re.findall(r"^```text\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    (table,) = (block for block in blocks if "orders started" in block)
    printed = format_outcome(_Run().outcome(), began_at=5)
    names = list(read_table_rows(printed))
    assert list(read_table_rows(table))[2:9] == names[2:9]
