"""The numbers of the demo of a rollout: every wrong outcome is found, and makes the demo fail."""

import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from dev.demo.order_results import OrderResult
from dev.demo.output import UnexpectedResult
from dev.demo_rollout import command_line as demo_command
from dev.demo_rollout.demo import BAD, FIRST, GOOD, Pace, build_order_id
from dev.demo_rollout.order_stream import OrderStream, PlacedOrder
from dev.demo_rollout.results import (
    DemoOutcome,
    DeployedVersion,
    VersionResult,
    count_orders,
    find_problems,
    measure_late_orders,
)
from dev.demo_rollout.rollout_record import EvidenceNumbers, RolloutRecord, SideNumbers, parse_rollout_record
from dev.demo_rollout.table import format_outcome
from durable_app.orders.payment import is_payment_defective
from harness.processes import free_port
from tests.demo.table_rows import read_table_rows

_ORDERS = 200
_ORDER_IDS = [build_order_id(seed=18, number=number) for number in range(_ORDERS)]
_ABORTED_AT = 60.0
_UNGUARDED = DeployedVersion(BAD.version, "unguarded", BAD.failure_percent)


def _end(order_id: str, version: DeployedVersion) -> OrderResult:
    """The row of an order that ended as the version ends it."""
    failed = is_payment_defective(order_id, version.failure_percent)
    status, output = ("Failed", "cannot be charged") if failed else ("Completed", '{"status": "Shipped"}')
    return OrderResult(order_id, version.task_hub, status, waits_for_approval=False, output=output)


def _record(version: str, state: str, code: str, unhealthy: float) -> RolloutRecord:
    """A rollout that the server ended."""
    evidence = EvidenceNumbers(SideNumbers(50, 48, 9), SideNumbers(150, 149, 2), unhealthy, threshold=20)
    return RolloutRecord(version, state, 1, "AdvanceRollout", code, f"{version}: decided", evidence, 10, _ABORTED_AT)


@dataclass
class _Run:
    """A run in which the bad version got a quarter of the first half of the orders, until a test changes it."""

    placed: list[PlacedOrder] = field(
        default_factory=lambda: [
            PlacedOrder(order_id, _version_of(number).task_hub, sent_at=number * 0.6)
            for number, order_id in enumerate(_ORDER_IDS)
        ]
    )
    rows: dict[str, list[OrderResult]] = field(
        default_factory=lambda: {
            version.task_hub: [
                _end(id_, version) for number, id_ in enumerate(_ORDER_IDS) if _version_of(number) == version
            ]
            for version in (FIRST, BAD, GOOD)
        }
    )
    unguarded_rows: list[OrderResult] = field(
        default_factory=lambda: [_end(order_id, _UNGUARDED) for order_id in _ORDER_IDS]
    )
    failures: list[str] = field(default_factory=list)
    bad: RolloutRecord = field(default_factory=lambda: _record("2.0.0", "Aborted", "FailureRateHigher", 44))
    good: RolloutRecord | None = field(
        default_factory=lambda: _record("3.0.0", "Finished", "EvidenceInconclusive", 0.4)
    )
    active: str | None = "3.0.0"

    def outcome(self) -> DemoOutcome:
        """What the demo makes of this run."""

        def count(version: DeployedVersion) -> VersionResult:
            """The numbers of the orders that this version accepted."""
            accepted = [order.order_id for order in self.placed if order.task_hub == version.task_hub]
            return count_orders(version, FIRST, accepted, self.rows)

        return DemoOutcome(
            versions=(count(FIRST), count(BAD), count(GOOD)),
            bad_rollout=self.bad,
            good_rollout=self.good,
            active=self.active,
            order_count=len(self.placed),
            failed_requests=tuple(self.failures),
            seconds_after_abort=measure_late_orders(self.placed, BAD.task_hub, self.bad),
            unguarded=count_orders(_UNGUARDED, FIRST, _ORDER_IDS, {"unguarded": self.unguarded_rows}),
        )


def _version_of(number: int) -> DeployedVersion:
    """The version that gets an order: a quarter of the first half goes to the bad one, of the others to the good."""
    if number % 4:
        return FIRST
    return BAD if number < _ORDERS / 2 else GOOD


def test_a_run_in_which_the_bad_version_is_stopped_and_the_good_one_gets_through_has_no_problems() -> None:
    outcome = _Run().outcome()
    assert find_problems(outcome, _ORDERS) == []
    assert [version.orders for version in outcome.versions] == [150, 25, 25]
    assert outcome.unguarded.orders == _ORDERS
    assert 0 < outcome.failed_by_bad_version < outcome.unguarded.failed_by_version


def test_orders_that_fail_on_the_first_version_too_did_not_fail_because_of_the_bad_one() -> None:
    unguarded = _Run().outcome().unguarded
    on_both = sum(is_payment_defective(order_id, FIRST.failure_percent) for order_id in _ORDER_IDS)
    assert unguarded.failed_by_version == unguarded.failed - on_both
    assert on_both > 0


def _change_row(run: _Run, **changes: Any) -> None:
    """Change the row of the first version's first order."""
    run.rows[FIRST.task_hub][0] = replace(run.rows[FIRST.task_hub][0], **changes)


def _lose_row(run: _Run) -> None:
    """No task hub has the order."""
    run.rows[FIRST.task_hub].pop(0)


def _run_twice(run: _Run) -> None:
    """An order runs in two task hubs."""
    run.rows[GOOD.task_hub].append(_end(run.rows[FIRST.task_hub][0].order_id, GOOD))


def _ship_defective_order(run: _Run) -> None:
    """An order is shipped that the bad version cannot charge."""
    index = next(n for n, row in enumerate(run.rows[BAD.task_hub]) if row.status == "Failed")
    run.rows[BAD.task_hub][index] = replace(run.rows[BAD.task_hub][index], status="Completed", output="Shipped")


def _end_bad_rollout(**changes: Any) -> Callable[[_Run], None]:
    """The rollout of the bad version ends in another way."""

    def change(run: _Run) -> None:
        run.bad = replace(run.bad, **changes)

    return change


def _end_good_rollout(**changes: Any) -> Callable[[_Run], None]:
    """The rollout of the good version ends in another way."""

    def change(run: _Run) -> None:
        assert run.good is not None
        run.good = replace(run.good, **changes)

    return change


def _lower_evidence(run: _Run) -> None:
    """The history has less evidence than is needed."""
    run.bad = replace(run.bad, evidence=replace(run.bad.evidence, unhealthy=12.5))


def _route_late(run: _Run) -> None:
    """The bad version gets an order long after the abort."""
    run.placed.append(PlacedOrder("late", BAD.task_hub, sent_at=_ABORTED_AT + 6.5))
    run.rows[BAD.task_hub].append(_end("late", BAD))


def _save_all_unguarded_orders(run: _Run) -> None:
    """Without the rollout the orders fail that failed with it, and no others."""
    run.unguarded_rows = [_end(order_id, replace(_UNGUARDED, failure_percent=2)) for order_id in _ORDER_IDS]


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda run: run.failures.append("order 7: 503"), "1 requests failed, the first: order 7: 503"),
        (lambda run: run.placed.pop(), "199 orders were placed, and not 200"),
        (lambda run: _change_row(run, status="Running", output=""), "1 orders of release 1.0.0 did not end there"),
        (lambda run: _change_row(run, output='{"status": "Expired"}'), "1 orders of release 1.0.0 did not end there"),
        (lambda run: _change_row(run, status="Failed"), "1 orders of release 1.0.0 did not end there"),
        (lambda run: _change_row(run, task_hub=GOOD.task_hub), "1 orders of release 1.0.0 did not end there"),
        (_lose_row, "1 orders of release 1.0.0 did not end there"),
        (_run_twice, "1 orders of release 1.0.0 did not end there"),
        (_ship_defective_order, "1 orders of release 2.0.0 did not end there"),
        (_end_bad_rollout(state="Finished"), "the rollout of 2.0.0 was not aborted, it is Finished"),
        (_end_bad_rollout(operation="PostRollout"), "was aborted by PostRollout because of FailureRateHigher"),
        (_end_bad_rollout(code="ActiveTooLong"), "was aborted by AdvanceRollout because of ActiveTooLong"),
        (_end_bad_rollout(step=3), "2.0.0 was aborted in step 3"),
        (_lower_evidence, "evidence 12.5, below 20.0"),
        (_route_late, "2.0.0 got orders for 6.5 s after the abort"),
        (_end_good_rollout(state="Aborted"), "the rollout of 3.0.0 is Aborted by AdvanceRollout"),
        (_end_good_rollout(operation="PostRollout"), "the rollout of 3.0.0 is Finished by PostRollout"),
        (lambda run: setattr(run, "good", None), "the good version was not rolled out"),
        (lambda run: setattr(run, "active", "1.0.0"), "release 1.0.0 has all traffic at the end"),
        (lambda run: setattr(run, "active", None), "release None has all traffic at the end"),
    ],
)
def test_every_wrong_outcome_is_a_problem(spoil: Callable[[_Run], object], expected: str) -> None:
    run = _Run()
    spoil(run)
    (problem,) = find_problems(run.outcome(), _ORDERS)
    assert expected in problem


def test_a_version_without_orders_is_a_problem() -> None:
    run = _Run()
    run.placed = [order for order in run.placed if order.task_hub != GOOD.task_hub]
    assert "release 3.0.0 got no order" in find_problems(run.outcome(), expected_orders=1)


def test_a_rollout_that_saves_no_order_is_a_problem() -> None:
    run = _Run()
    _save_all_unguarded_orders(run)
    problems = find_problems(run.outcome(), _ORDERS)
    assert any("orders failed because of 2.0.0 with the rollout, and 0 without it" in problem for problem in problems)
    assert any("of the run without a rollout did not end there" in problem for problem in problems)


def test_a_run_without_a_stop_is_no_success_and_says_how_rare_it_is() -> None:
    run = _Run(bad=_record("2.0.0", "Finished", "EvidenceInconclusive", 7.5), good=None, active="2.0.0")
    problems = find_problems(run.outcome(), _ORDERS)
    assert "That happens in fewer than 4 of 100 runs" in problems[0]


def test_orders_before_the_abort_are_not_late() -> None:
    assert measure_late_orders([PlacedOrder("1", BAD.task_hub, 59.0)], BAD.task_hub, _Run().bad) == 0
    assert measure_late_orders([], BAD.task_hub, _Run().bad) == 0


def test_the_command_fails_after_a_wrong_outcome(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = replace(_Run().outcome(), order_count=Pace().orders)
    bad = replace(good, active="1.0.0")
    monkeypatch.setattr(sys, "argv", ["demo"])
    for outcome, exit_code in ((good, 0), (bad, 1)):
        monkeypatch.setattr(demo_command, "run_demo", lambda _, result=outcome: result)
        assert demo_command.main() == exit_code
    assert "NOT AS EXPECTED: release 1.0.0 has all traffic at the end" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "exit_code", "text"),
    [
        (UnexpectedResult("a step has failed"), 1, "NOT AS EXPECTED: a step has failed"),
        (TimeoutError("not within 60 s"), 1, "NOT AS EXPECTED: not within 60 s"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_the_command_fails_after_a_step_that_fails_or_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, exit_code: int, text: str
) -> None:
    def fail(_: Pace) -> DemoOutcome:
        raise error

    monkeypatch.setattr(sys, "argv", ["demo"])
    monkeypatch.setattr(demo_command, "run_demo", fail)
    assert demo_command.main() == exit_code
    assert text in capsys.readouterr().out


def test_the_tables_have_the_numbers_of_every_version_the_decisions_and_the_comparison() -> None:
    outcome = _Run().outcome()
    rows = read_table_rows(format_outcome(outcome))
    versions = outcome.versions
    assert rows["failed, and would not on the first version"] == [
        str(version.failed_by_version) for version in versions
    ]
    assert rows["rollout"] == ["-", "Aborted, step 1", "Finished, step 1"]
    assert rows["failed of finished, candidate"] == ["9 of 48", "9 of 48"]
    assert rows["failed of finished, baseline"] == ["2 of 149", "2 of 149"]
    assert rows["evidence of unhealthy"] == ["44", "0.4"]
    assert rows["decided by"] == ["FailureRateHigher", "EvidenceInconclusive"]
    assert rows["orders that 2.0.0 got"] == ["25", "200"]
    assert rows["failed because of 2.0.0"] == [
        str(outcome.failed_by_bad_version),
        str(outcome.unguarded.failed_by_version),
    ]


def test_the_tables_of_a_run_without_a_stop_have_no_good_rollout() -> None:
    rows = read_table_rows(format_outcome(_Run(good=None).outcome()))
    assert rows["rollout"] == ["-", "Aborted, step 1", "-"]
    assert rows["decided by"] == ["FailureRateHigher"]


def test_the_record_of_a_rollout_is_its_latest_end_in_the_history() -> None:
    health = {
        "candidate": {"started": 30, "finished": 28, "failed": 5},
        "baseline": {"started": 90, "finished": 88, "failed": 1},
        "evidence": {"unhealthy": 31.5, "healthy": 0.1, "threshold": 20},
    }
    decision = {"code": "FailureRateHigher", "message": "2.0.0 gets no more requests", "step": 2, "health": health}
    history: list[dict[str, Any]] = [
        {"operation": "PutRelease", "details": {"version": "3.0.0"}},
        {"operation": "AdvanceRollout", "details": {"state": "Aborted"} | decision},
        {"operation": "AdvanceRollout", "details": {"state": "Running"} | decision},
    ]
    record = parse_rollout_record(history, "2.0.0", began_at=10, ended_at=60)
    assert (record.state, record.step, record.operation) == ("Aborted", 2, "AdvanceRollout")
    assert record.evidence == EvidenceNumbers(SideNumbers(30, 28, 5), SideNumbers(90, 88, 1), 31.5, 20)
    with pytest.raises(UnexpectedResult, match="the history has no end of a rollout"):
        parse_rollout_record(history[2:], "2.0.0", began_at=10, ended_at=60)


def test_an_end_that_was_asked_for_has_no_evidence() -> None:
    details = {"state": "Aborted", "code": "Requested", "message": "someone aborted the rollout", "step": 1}
    record = parse_rollout_record([{"operation": "PostRollout", "details": details}], "2.0.0", began_at=10, ended_at=60)
    assert record.evidence == EvidenceNumbers(SideNumbers(0, 0, 0), SideNumbers(0, 0, 0), 0, 0)


def test_customers_record_an_order_that_no_release_accepts_and_leave_when_stopped() -> None:
    stream = OrderStream(f"http://127.0.0.1:{free_port()}", (f"order-{number}" for number in range(10**9)), 0.01)
    stream.start()
    stream.wait_until_sent(3)
    stream.stop()
    assert not stream.placed
    assert len(stream.failures) == stream.sent_count >= 3
    assert stream.failures[0].startswith("order order-")
    assert not any(thread.name.startswith("customer-") for thread in threading.enumerate())


def test_waiting_for_more_orders_than_there_are_fails() -> None:
    stream = OrderStream(f"http://127.0.0.1:{free_port()}", ["order-1"], 0)
    stream.start()
    with pytest.raises(UnexpectedResult, match="the customers left after 1 of 2 orders"):
        stream.wait_until_sent(2)
    stream.stop()


def test_the_page_shows_the_tables_that_the_demo_prints() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "rollouts.md").read_text()
    (tables,) = re.findall(r"^```text\n( +1\.0\.0 .*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert list(read_table_rows(tables)) == list(read_table_rows(format_outcome(_Run().outcome())))
