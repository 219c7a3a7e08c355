"""`safe-deploy rollout`, `health` and `timeline` on a real server, with releases side by side and a clock that tests
advance."""

from pathlib import Path
from typing import Any

import pytest

from harness.processes import wait_until
from safe_deploy.errors import ExitCode
from state_api.domain.instants import TICKS_PER_SECOND
from tests.builders import event, timestamp
from tests.safe_deploy.assertions import OTHER_RUN, assert_exit
from tests.safe_deploy.ci_systems import github_environment, read_outputs
from tests.safe_deploy.deployment_fixture import RunningCli
from tests.safe_deploy.processes import KEYS
from tests.safe_deploy.release_fixture import ReleaseFixture
from tests.safe_deploy.rollout_responses import build_health, build_point, build_rollout, build_timeline

START = ["rollout", "start", "--version", "1.1", "--steps", "10@15m,50@30m"]
WAIT = [*START, "--wait"]
READER = {"SAFE_DEPLOY_KEY": KEYS["reader"]}
SECONDS_OF_A_STEP = 1801
"""Longer than the longest step of these rollouts."""


@pytest.fixture
def candidate(releases: ReleaseFixture) -> ReleaseFixture:
    """Release 1.0 is active, and 1.1 is registered."""
    releases.register_and_promote("1.0")
    releases.register("1.1")
    return releases


def read_time(releases: ReleaseFixture) -> str:
    """The time by the server's clock."""
    return timestamp(releases.clock.offset_ticks / TICKS_PER_SECOND)


def publish_instances(releases: ReleaseFixture, version: str, *, time: str | None = None, **outcomes: int) -> None:
    """Instances of a release start now by the server's clock, or at `time`. This many of them complete or fail.

    Releases that are compared need one time: health compares instances that started in the same minute."""
    hub, server = releases.task_hub_of(version), releases.cli.server
    at = time or read_time(releases)
    ends = [outcome for outcome, count in outcomes.items() for _ in range(count)]
    for position in (0, 1):
        events = [
            event(hub, f"order-{number}", ("Running", end.capitalize())[position], time=at)
            for number, end in enumerate(ends)
        ]
        response = server.post("/api/events", json=events)
        assert response.json()["quarantined"] == 0, response.text


def advance(releases: ReleaseFixture) -> str:
    """Let the server decide, as its timer does. Returns the state of the rollout."""
    state: str = releases.request("POST", "/rollout/advance", json={})["state"]
    return state


def end_step(releases: ReleaseFixture) -> str:
    """Let the time of the step pass, and the server decide."""
    releases.clock.advance(SECONDS_OF_A_STEP)
    return advance(releases)


def wait_for_line(running: RunningCli, text: str) -> None:
    """Wait until the command has printed a text to its log."""
    wait_until(lambda: text in running.err.read_text(), f"safe-deploy prints {text!r}")


def test_a_rollout_without_failures_is_followed_to_its_end(candidate: ReleaseFixture) -> None:
    running = candidate.cli.start(WAIT, retry_seconds=5)
    wait_for_line(running, "step 1 of 2, 10 % of the traffic")
    wait_for_line(running, "Undecided (TooFewFinished)")
    assert candidate.get_app()["routing"]["split"] == {"1.0": 90, "1.1": 10}
    assert end_step(candidate) == "Running"
    wait_for_line(running, "step 2 of 2, 50 % of the traffic")
    assert end_step(candidate) == "Finished"
    result = running.wait_for_result()
    assert_exit(result, ExitCode.DONE, "rollout of release 1.1 in app")
    assert "last decision" in result.stdout
    assert candidate.states() == {"1.0": "Draining", "1.1": "Serving"}


def test_an_unhealthy_candidate_ends_the_command_with_the_numbers(candidate: ReleaseFixture, tmp_path: Path) -> None:
    running = candidate.cli.start(WAIT, retry_seconds=5, **dict[str, Any](github_environment(tmp_path)))
    wait_for_line(running, "step 1 of 2")
    now = read_time(candidate)
    publish_instances(candidate, "1.0", time=now, completed=90)
    publish_instances(candidate, "1.1", time=now, failed=10)
    assert advance(candidate) == "Aborted"
    assert_exit(running.wait_for_result(), ExitCode.FAILURE, "was aborted", "10 of 10 finished instances")
    assert read_outputs(tmp_path)["state"] == "Aborted"
    assert read_outputs(tmp_path)["decided-by"] == "FailureRateHigher"
    assert candidate.get_app()["routing"]["split"] is None
    assert candidate.active() == "1.0"


def test_a_run_that_is_repeated_does_not_begin_an_aborted_rollout_again(candidate: ReleaseFixture) -> None:
    assert_exit(candidate.run(START), ExitCode.DONE)
    assert_exit(candidate.run(["rollout", "abort", "--reason", "a test"]), ExitCode.DONE)
    assert_exit(candidate.run(WAIT), ExitCode.FAILURE, "was aborted", "a test")
    assert candidate.active() == "1.0"
    assert_exit(candidate.run(START, run_url=OTHER_RUN), ExitCode.DONE)


def test_another_run_follows_a_rollout_and_a_pause_ends_it(candidate: ReleaseFixture) -> None:
    assert_exit(candidate.run(START), ExitCode.DONE)
    running = candidate.cli.start(WAIT, retry_seconds=5, run_url=OTHER_RUN)
    wait_for_line(running, "is in progress already")
    assert_exit(candidate.run(["rollout", "pause"]), ExitCode.DONE)
    assert_exit(running.wait_for_result(), ExitCode.NOT_READY, "is paused at 10 %")
    assert_exit(candidate.run(["rollout", "resume"]), ExitCode.DONE)
    status = candidate.run(["rollout", "status"])
    assert "Running, step 1 of 2" in status.stdout
    assert "waits for StepTime" in status.stdout


def test_a_rollout_is_finished_by_hand(candidate: ReleaseFixture) -> None:
    candidate.run(START)
    assert_exit(candidate.run(["rollout", "finish"]), ExitCode.DONE)
    assert candidate.active() == "1.1"
    assert_exit(candidate.run(["rollout", "abort"]), ExitCode.CONFLICT)


def test_a_promotion_during_a_rollout_says_what_to_run_and_a_rollback_aborts_it(candidate: ReleaseFixture) -> None:
    candidate.run(START)
    promoted = candidate.run(["promote", "--version", "1.1"])
    assert_exit(promoted, ExitCode.CONFLICT, "safe-deploy rollout status shows")
    assert_exit(candidate.run(["rollback", "--version", "1.0"]), ExitCode.DONE)
    assert "Aborted" in candidate.run(["rollout", "status"]).stdout


@pytest.mark.parametrize(("end", "active_before_rollback"), [("finish", "1.2"), ("abort", "1.1")])
def test_a_rollback_after_a_rollout_goes_back_to_its_baseline(
    releases: ReleaseFixture, end: str, active_before_rollback: str
) -> None:
    """Also if the rollout was aborted, which has gone back already."""
    releases.register_and_promote("1.0", "1.1")
    releases.register("1.2")
    releases.request("PUT", "/rollout", json={"version": "1.2", "steps": [{"weight": 50, "minutes": 10}]})
    releases.request("POST", f"/rollout/{end}", json={})
    assert releases.active() == active_before_rollback
    for _ in range(2):
        assert_exit(releases.run(["rollback"]), ExitCode.DONE)
        assert releases.active() == "1.1"


def test_a_release_that_takes_part_in_a_rollout_is_not_retired(candidate: ReleaseFixture) -> None:
    candidate.run(START)
    result = candidate.run(candidate.retire(options=["--version", "1.1"]))
    assert_exit(result, ExitCode.NOT_READY)
    assert candidate.list_commands() == []


def test_an_app_without_a_rollout_has_none_to_show(candidate: ReleaseFixture) -> None:
    assert_exit(candidate.run(["rollout", "status"]), ExitCode.FAILURE, "rollout")


def test_steps_outside_of_their_range_are_refused_by_the_server(candidate: ReleaseFixture) -> None:
    assert_exit(candidate.run([*START[:4], "--steps", "100@1m"]), ExitCode.USAGE, "less than or equal to 99")
    assert_exit(candidate.run([*START[:4], "--steps", "10@8d"]), ExitCode.USAGE)
    assert_exit(candidate.run([*START, "--confidence", "2"]), ExitCode.USAGE)


def test_health_compares_the_versions_of_the_rollout(candidate: ReleaseFixture) -> None:
    candidate.run(START)
    now = read_time(candidate)
    publish_instances(candidate, "1.0", time=now, completed=87, failed=3)
    publish_instances(candidate, "1.1", time=now, completed=6, failed=4)
    result = candidate.run(["health", "--fail-on", "unhealthy"])
    assert "warning: EventsOnly: " in result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "1.1 (candidate) 1.0 (baseline)" in lines
    assert "finished 10 90" in lines
    assert "failed 4 3" in lines
    assert "share, configured 10 % 90 %" in lines
    assert_exit(result, ExitCode.NOT_READY, "error: the candidate is Unhealthy")
    assert "FailureRateHigher: 4 of 10 finished instances of the candidate failed" in result.stdout


def test_health_needs_no_more_than_a_reader(candidate: ReleaseFixture) -> None:
    candidate.run(START)
    publish_instances(candidate, "1.1", completed=3, failed=1)
    health = candidate.run(["health", "--output", "json"], **READER).json()
    assert (health["candidate"]["name"], health["candidate"]["failed"]) == ("1.1", 1)


def test_the_timeline_needs_no_more_than_a_reader(candidate: ReleaseFixture) -> None:
    publish_instances(candidate, "1.1", time=timestamp(), completed=3, failed=1)
    result = candidate.run(["timeline", "--release", "1.1", "--since", "2h"], **READER)
    assert_exit(result, ExitCode.DONE)
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "ProcessOrder 4 3 1 0" in lines
    assert any(line.endswith("!") and "#" in line for line in lines)


def test_the_timeline_is_that_of_the_active_release_unless_it_names_another(candidate: ReleaseFixture) -> None:
    publish_instances(candidate, "1.0", time=timestamp(), completed=2)
    publish_instances(candidate, "1.1", time=timestamp(), completed=1)
    active = candidate.run(["timeline", "--output", "json", "--function", "ProcessOrder"]).json()
    assert active["taskHub"] == candidate.task_hub_of("1.0")
    assert sum(point["started"] for point in active["points"]) == 2
    other = candidate.run(["timeline", "--output", "json", "--function", "Other"]).json()
    assert other["points"] == []
    hub = candidate.task_hub_of("1.1")
    assert candidate.run(["timeline", "--output", "json", "--task-hub", hub]).json()["taskHub"] == hub


def test_a_release_that_does_not_exist_has_no_timeline(candidate: ReleaseFixture) -> None:
    assert_exit(candidate.run(["timeline", "--release", "9"]), ExitCode.FAILURE, "has no release 9")


def test_responses_that_other_tests_invent_have_only_members_that_a_server_sends(candidate: ReleaseFixture) -> None:
    candidate.run(START)
    for version in ("1.0", "1.1"):
        publish_instances(candidate, version, completed=1)
    hub = candidate.task_hub_of("1.0")
    pairs = [
        (build_rollout(), candidate.request("GET", "/rollout")),
        (build_health(), candidate.request("GET", "/health")),
        (build_timeline(build_point("14:00")), candidate.cli.server.get(f"/api/taskhubs/{hub}/timeline").json()),
    ]
    for invented, real in pairs:
        assert list_members(invented) <= list_members(real)


def list_members(response: Any, path: str = "") -> set[str]:
    """The path of each member of a JSON document that is not null. Items of a list share a path."""
    if isinstance(response, dict):
        members = {f"{path}.{name}" for name in response}
        return members.union(*(list_members(value, f"{path}.{name}") for name, value in response.items()))
    if isinstance(response, list):
        return set().union(*(list_members(item, path) for item in response))
    return set()
