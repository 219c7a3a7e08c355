"""Which releases are retired, and what each step of a removal leads to."""

from collections.abc import Sequence

import pytest

from safe_deploy.errors import CommandError, ConflictError, NotReady, TimedOut
from safe_deploy.side_by_side.app_state import Release, Routing, SideBySideApp
from safe_deploy.side_by_side.retirement_planner import (
    Outcome,
    RemovalStep,
    RetirementResult,
    choose_releases,
    find_failure,
    plan_after_command,
    plan_after_verdict,
)
from safe_deploy.subprocesses import CommandResult


def build_release(version: str, state: str, registered_at: str = "1") -> Release:
    """A release that never had traffic."""
    return Release(
        version=version,
        task_hub=f"hub{version}",
        address=f"https://{version}.example",
        state=state,
        registered_at=registered_at,
        first_traffic_at=None,
        last_traffic_at=None,
    )


def build_app(*releases: Release, removed: Sequence[str] = ()) -> SideBySideApp:
    """An app with these releases, none of which is active."""
    return SideBySideApp(
        name="shop",
        releases={release.version: release for release in releases},
        removed=frozenset(removed),
        first_traffic={},
        routing=Routing(revision=1, active=None, split=None),
        quiesce_functions=[],
        quiesce_order="gap",
        has_provider=False,
    )


def choose_versions(app: SideBySideApp, version: str | None = None) -> list[str]:
    """The versions of the releases that would be retired, in order."""
    return [release.version for release in choose_releases(app, version)]


def test_releases_without_traffic_are_retired_the_oldest_first() -> None:
    app = build_app(
        build_release("4", "Draining", "2026-11-04"),
        build_release("1", "Staged", "2026-11-01"),
        build_release("2", "Removing", "2026-11-02"),
        build_release("3", "Serving", "2026-11-03"),
    )
    assert choose_versions(app) == ["2", "4"]


def test_a_staged_release_is_retired_only_if_it_is_named() -> None:
    app = build_app(build_release("1", "Staged"), removed=["0"])
    assert choose_versions(app, "1") == ["1"]
    assert choose_versions(app, "0") == []
    with pytest.raises(CommandError, match=r"has no release 9\. Its releases: 1"):
        choose_releases(app, "9")


READY: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("codes", "continued", "has_time", "waits_for_drain", "step"),
    [
        (READY, False, True, False, RemovalStep.DELETE),
        (READY, True, False, False, RemovalStep.DELETE),
        # Routers may still send requests to a staged release.
        (["RoutersBehind"], False, True, False, RemovalStep.WAIT),
        (["RoutersBehind", "ProbeStale"], False, True, False, RemovalStep.WAIT),
        (["RoutersBehind"], False, False, False, RemovalStep.GIVE_BACK),
        (["RoutersBehind"], True, False, False, RemovalStep.LEAVE_PENDING),
        # Something has started since the removal began.
        (["InstancesActive"], False, True, False, RemovalStep.GIVE_BACK),
        (["InstancesActive"], False, True, True, RemovalStep.WAIT),
        (["InstancesActive"], False, False, True, RemovalStep.GIVE_BACK),
        (["InstancesActive"], True, True, False, RemovalStep.LEAVE_PENDING),
    ],
)
def test_what_follows_the_verdict_after_a_removal_has_begun(
    codes: Sequence[str], step: RemovalStep, *, continued: bool, has_time: bool, waits_for_drain: bool
) -> None:
    verdict = {"state": "Removing", "ready": not codes, "reasons": [{"code": code} for code in codes]}
    actual = plan_after_verdict(verdict, continued=continued, has_time=has_time, waits_for_drain=waits_for_drain)
    assert actual is step


@pytest.mark.parametrize(
    ("state", "codes"), [("Drained", READY), ("Draining", ["RoutersBehind"]), ("Serving", ["ReleaseInUse"])]
)
@pytest.mark.parametrize("continued", [False, True])
def test_a_removal_that_another_caller_has_ended_is_not_carried_out(
    state: str, codes: Sequence[str], *, continued: bool
) -> None:
    verdict = {"state": state, "ready": not codes, "reasons": [{"code": code} for code in codes]}
    step = plan_after_verdict(verdict, continued=continued, has_time=True, waits_for_drain=True)
    assert step is RemovalStep.STOP


@pytest.mark.parametrize(
    ("code", "interrupted", "exists", "continued", "step"),
    [
        (0, False, None, False, RemovalStep.FINISH),
        (0, False, False, False, RemovalStep.FINISH),
        (0, False, True, False, RemovalStep.LEAVE_PENDING),
        (0, False, None, True, RemovalStep.FINISH),
        (1, False, None, False, RemovalStep.GIVE_BACK),
        (1, False, True, False, RemovalStep.GIVE_BACK),
        (1, False, False, False, RemovalStep.LEAVE_PENDING),
        (1, False, None, True, RemovalStep.LEAVE_PENDING),
        (1, False, True, True, RemovalStep.GIVE_BACK),
        (0, True, None, False, RemovalStep.LEAVE_PENDING),
        (-15, True, None, False, RemovalStep.LEAVE_PENDING),
    ],
)
def test_a_removal_ends_only_if_it_is_known_what_was_deleted(
    code: int, step: RemovalStep, *, interrupted: bool, exists: bool | None, continued: bool
) -> None:
    assert plan_after_command(CommandResult(code, interrupted), exists=exists, continued=continued) is step


@pytest.mark.parametrize(
    ("outcome", "named", "waited_seconds", "error_type"),
    [
        (Outcome.RETIRED, True, 60.0, None),
        (Outcome.FAILED, False, None, CommandError),
        (Outcome.FAILED, True, 60.0, CommandError),
        # A schedule fails only if someone must act.
        (Outcome.NOT_DRAINED, False, None, None),
        (Outcome.REMOVING, False, None, None),
        (Outcome.REMOVING, False, 60.0, None),
        (Outcome.NOT_DRAINED, False, 60.0, TimedOut),
        (Outcome.NOT_DRAINED, True, None, NotReady),
        (Outcome.REMOVING, True, None, NotReady),
        (Outcome.REMOVING, True, 60.0, TimedOut),
    ],
)
def test_how_a_retirement_ends(
    outcome: Outcome, waited_seconds: float | None, error_type: type[CommandError] | None, *, named: bool
) -> None:
    result = RetirementResult(release=build_release("1", "Draining"), outcome=outcome, message="why")
    failure = find_failure([result], named=named, waited_seconds=waited_seconds)
    if error_type is None:
        assert failure is None
    else:
        assert type(failure) is error_type
        assert "release 1: why" in failure.message


def test_only_failures_that_are_all_conflicts_end_as_a_conflict() -> None:
    missing = RetirementResult(release=build_release("1", "Draining"), outcome=Outcome.FAILED, is_conflict=True)
    failed = RetirementResult(release=build_release("2", "Draining"), outcome=Outcome.FAILED)
    assert type(find_failure([missing], named=False, waited_seconds=None)) is ConflictError
    assert type(find_failure([missing, failed], named=False, waited_seconds=None)) is CommandError
