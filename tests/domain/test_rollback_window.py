"""How long the policy's retention keeps releases that have lost their traffic."""

from dataclasses import replace

import pytest

from state_api.domain.readiness.policy import Policy, RetentionPolicy
from state_api.domain.releases.apps import App
from state_api.domain.releases.side_by_side.releases import PendingRemoval, RoutingChange
from state_api.domain.releases.side_by_side.retention import RollbackWindow, find_rollback_window
from tests.domain.builders import NOON, noon_plus
from tests.domain.release_transitions import (
    HOUR,
    build_draining_release,
    build_serving_release,
    build_side_by_side_app,
    build_staged_release,
)


def build_app(retention: RetentionPolicy) -> App:
    """1.1.0 to 1.3.0 lost their traffic three hours, two hours and one hour ago. 1.4.0 is active, 1.5.0 is staged."""
    draining = (
        build_draining_release(f"1.{number}.0", ended=-HOUR * hours) for number, hours in ((1, 3), (2, 2), (3, 1))
    )
    return build_side_by_side_app(
        *draining,
        build_serving_release(),
        build_staged_release(),
        active="1.4.0",
        policy=Policy(retention=retention),
    )


def list_windows(app: App) -> dict[str, RollbackWindow]:
    """The windows of the releases that are kept at noon, by version."""
    windows = {version: find_rollback_window(app, release, NOON) for version, release in app.releases.items()}
    return {version: window for version, window in windows.items() if window is not None}


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (RetentionPolicy(), {}),
        (RetentionPolicy(keep_for_hours=2), {"1.3.0": HOUR}),
        (RetentionPolicy(keep_for_hours=4), {"1.1.0": HOUR, "1.2.0": 2 * HOUR, "1.3.0": 3 * HOUR}),
        (RetentionPolicy(keep_last=1), {"1.3.0": None}),
        (RetentionPolicy(keep_last=9), {"1.1.0": None, "1.2.0": None, "1.3.0": None}),
        (RetentionPolicy(keep_last=1, keep_for_hours=3), {"1.2.0": HOUR, "1.3.0": None}),
    ],
)
def test_retention_keeps_releases_that_have_lost_their_traffic(
    retention: RetentionPolicy, kept: dict[str, float | None]
) -> None:
    windows = {
        version: RollbackWindow(None if seconds is None else noon_plus(seconds)) for version, seconds in kept.items()
    }
    assert list_windows(build_app(retention)) == windows


def test_a_release_whose_removal_has_begun_is_not_kept_and_does_not_count() -> None:
    app = build_app(RetentionPolicy(keep_last=1))
    removal = PendingRemoval(RoutingChange(3, NOON), "anna", None, "run")
    removing = replace(app.releases["1.3.0"], removal=removal)
    app = replace(app, releases={**app.releases, "1.3.0": removing})
    assert list(list_windows(app)) == ["1.2.0"]


def test_nothing_is_kept_by_time_without_a_period_even_if_the_clock_of_another_server_is_ahead() -> None:
    app = build_side_by_side_app(build_draining_release(ended=1))
    assert list_windows(app) == {}
