"""The demo of a rollout, with real processes: storage emulator, state server, Envoy, three releases. It is shorter than
`make demo-rollout`, with a worse version, and the server is asked to decide more often than its timer does."""

from dev.demo_rollout.demo import Pace, run_demo
from dev.demo_rollout.results import find_late_orders, find_problems
from dev.demo_rollout.table import format_outcome
from tests.demo.table_rows import read_table_rows

_PACE = Pace(
    orders=60,
    orders_per_second=3,
    bad_percent=60,
    bad_steps="30@20s,50@20s",
    good_steps="30@4s,60@4s",
    advance_seconds=2,
)


def test_a_bad_release_is_stopped_and_a_good_one_gets_through() -> None:
    outcome = run_demo(_PACE)
    # How quick a change of the routing is depends on the machine, which other tests use too.
    assert set(find_problems(outcome, _PACE.orders)) <= set(find_late_orders(outcome))
    first, bad, good = outcome.versions
    assert outcome.bad_rollout.state == "Aborted"
    assert 0 < bad.failed_by_version <= bad.orders < outcome.order_count / 2
    assert first.orders > 0
    assert good.orders > 0
    assert outcome.good_rollout is not None
    assert outcome.good_rollout.step == 2
    assert outcome.bad_rollout.evidence.candidate.failed <= bad.failed
    rows = read_table_rows(format_outcome(outcome))
    assert rows["orders"][:3] == [str(outcome.order_count), str(outcome.order_count)]
    assert rows["rollout"] == ["-", f"Aborted, step {outcome.bad_rollout.step}", "Finished, step 2"]
