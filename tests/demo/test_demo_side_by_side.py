"""The demo of releases side by side, with real processes: storage emulator, state server, Envoy, three releases."""

import time

from dev.demo_side_by_side.demo import Pace, run_demo
from dev.demo_side_by_side.results import find_problems, find_slow_switches
from dev.demo_side_by_side.table import format_outcome
from tests.demo.table_rows import read_table_rows


def test_no_order_fails_while_releases_are_promoted_rolled_back_and_retired() -> None:
    began_at = time.monotonic()
    outcome = run_demo(Pace(with_cookies=2, without_cookies=1, pause_seconds=1))
    # How quick a change is depends on the machine, which other tests use too.
    assert set(find_problems(outcome)) <= set(find_slow_switches(outcome))
    first, second, third = outcome.releases
    for release in outcome.releases:
        # Two orders waited for approval on each release.
        assert release.ended == release.started >= 2
        assert (release.failed, release.ended_elsewhere) == (0, 0)
    assert first.pinned_customers + second.pinned_customers == 2
    assert third.pinned_customers == 0
    assert [len(release.traffic) for release in outcome.releases] == [1, 2, 1]
    assert [release.traffic[-1][1] is None for release in outcome.releases] == [False, True, False]
    assert [release.retired_at is not None for release in outcome.releases] == [True, False, False]
    assert [switch.from_version for switch in outcome.switches] == ["1.0.0", "1.1.0", "1.2.0"]
    rows = read_table_rows(format_outcome(outcome, began_at))
    assert rows["orders started"] == [str(release.started) for release in outcome.releases]
    assert rows["failed"] == ["0", "0", "0"]
