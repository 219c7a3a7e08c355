"""`safe-deploy retire` as pipelines and schedules run it."""

import json
import signal
from pathlib import Path

import pytest

from harness.processes import wait_until
from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.safe_deploy.assertions import OTHER_RUN, assert_exit
from tests.safe_deploy.ci_systems import github_environment, read_outputs
from tests.safe_deploy.connection_proxy import ConnectionProxy, Request
from tests.safe_deploy.deployment_fixture import RUN
from tests.safe_deploy.doctor_runner import PROVIDER_CONFIG, create_provider_hub, delete_provider_hub
from tests.safe_deploy.release_fixture import SECONDS_UNTIL_REMOVAL_EXPIRES, ReleaseFixture, address_of

FAIL_FOR_1_0 = 'test "$SAFE_DEPLOY_VERSION" != 1.0'


@pytest.fixture
def drained(releases: ReleaseFixture) -> ReleaseFixture:
    """Releases 1.0 and 1.1 have drained, 1.2 is active, and 1.3 is staged."""
    releases.register_and_promote("1.0", "1.1", "1.2")
    releases.register("1.3")
    releases.let_routers_stop()
    return releases


def removal_outcomes(releases: ReleaseFixture) -> list[tuple[str, str]]:
    """The version and the outcome of each step of a removal on record."""
    return [(details["version"], details["outcome"]) for details in releases.history("DeleteRelease")]


def test_drained_releases_are_retired_the_oldest_first(drained: ReleaseFixture, tmp_path: Path) -> None:
    result = drained.run(drained.retire(), **github_environment(tmp_path))
    assert_exit(result, ExitCode.DONE)
    assert drained.list_commands() == [
        [version, drained.task_hub_of(version), address_of(version)] for version in ("1.0", "1.1")
    ]
    assert drained.states() == {"1.0": "Removed", "1.1": "Removed", "1.2": "Serving", "1.3": "Staged"}
    steps = ("Pending", "Done")
    assert removal_outcomes(drained) == [(version, step) for version in ("1.0", "1.1") for step in steps]
    assert read_outputs(tmp_path) == {
        "retired": "1.0,1.1",
        "kept": "",
        "not-drained": "",
        "removing": "",
        "failed": "",
    }
    assert_exit(drained.run(drained.retire()), ExitCode.DONE)
    assert len(drained.list_commands()) == 2


def test_a_release_that_still_drains_does_not_fail_a_schedule(drained: ReleaseFixture) -> None:
    drained.publish("1.0", "order-1", "Running")
    result = drained.run(drained.retire(options=["--output", "json"]))
    assert_exit(result, ExitCode.DONE, "release 1.0 is NotDrained", "1 orchestration instance")
    outcomes = {release["version"]: release["outcome"] for release in json.loads(result.stdout)["releases"]}
    assert outcomes == {"1.0": "NotDrained", "1.1": "Retired"}
    assert removal_outcomes(drained) == [("1.1", "Pending"), ("1.1", "Done")]


@pytest.mark.parametrize(
    ("retention", "why"),
    [({"keepForHours": 2}, "by retention.keepForHours"), ({"keepLast": 1}, "retention.keepLast")],
)
def test_a_release_that_the_policy_keeps_is_retired_only_if_it_is_named(
    drained: ReleaseFixture, tmp_path: Path, retention: dict[str, int], why: str
) -> None:
    drained.clock.advance(2 * 60 * 60)
    drained.route("1.3")
    drained.let_routers_stop()
    drained.create(policy={"retention": retention})
    result = drained.run(drained.retire(options=["--wait"]), **github_environment(tmp_path))
    assert_exit(result, ExitCode.DONE, "release 1.2 is Kept: it is kept for a rollback", why)
    assert drained.states() == {"1.0": "Removed", "1.1": "Removed", "1.2": "Draining", "1.3": "Serving"}
    assert read_outputs(tmp_path)["kept"] == "1.2"
    assert_exit(drained.run(drained.retire(options=["--version", "1.2"])), ExitCode.DONE)
    assert drained.states()["1.2"] == "Removed"


def test_a_release_is_retired_when_its_window_has_ended(drained: ReleaseFixture) -> None:
    drained.create(policy={"retention": {"keepForHours": 1}})
    drained.run(drained.retire())
    assert drained.list_commands() == []
    drained.clock.advance(60 * 60)
    assert_exit(drained.run(drained.retire()), ExitCode.DONE)
    assert [version for version, *_ in drained.list_commands()] == ["1.0", "1.1"]


def test_a_release_that_is_named_must_have_drained(drained: ReleaseFixture) -> None:
    drained.publish("1.0", "order-1", "Running")
    named = drained.retire(options=["--version", "1.0"])
    assert_exit(drained.run(named), ExitCode.NOT_READY, "1 orchestration instance is active")
    assert_exit(drained.run(drained.retire(options=["--version", "1.2"])), ExitCode.NOT_READY, "gets 100 %")
    assert_exit(drained.run(drained.retire(options=["--version", "9"])), ExitCode.FAILURE, "has no release 9")
    assert drained.list_commands() == []
    drained.publish("1.0", "order-1", "Completed")
    assert_exit(drained.run(named), ExitCode.DONE)
    assert_exit(drained.run(named), ExitCode.DONE)
    assert drained.states()["1.0"] == "Removed"
    assert len(drained.list_commands()) == 1


def test_a_release_whose_command_fails_stays_as_it_was_and_does_not_keep_others(drained: ReleaseFixture) -> None:
    result = drained.run(drained.retire("sh", "-c", FAIL_FOR_1_0))
    assert_exit(result, ExitCode.FAILURE, "release 1.0: the command ended with exit code 1", "as it was before")
    assert drained.states() == {"1.0": "Draining", "1.1": "Removed", "1.2": "Serving", "1.3": "Staged"}
    assert removal_outcomes(drained)[:2] == [("1.0", "Pending"), ("1.0", "Failed")]
    assert_exit(drained.run(drained.retire()), ExitCode.DONE)
    assert drained.states()["1.0"] == "Removed"


def test_a_command_that_cannot_be_started_leaves_the_release_as_it_was(drained: ReleaseFixture) -> None:
    assert_exit(drained.run(drained.retire("no-such-program")), ExitCode.USAGE, "cannot run no-such-program")
    assert drained.states()["1.0"] == "Draining"


def test_a_wait_ends_when_the_release_has_drained(drained: ReleaseFixture, releases_proxy: ConnectionProxy) -> None:
    drained.publish("1.0", "order-1", "Running")
    questions = 0

    def complete_at_second_question(number: int, request: Request) -> bool:
        """Let the order end when the CLI asks for the second verdict."""
        nonlocal questions
        if request == ("GET", f"/api/apps/{drained.app}/releases/1.0/status"):
            questions += 1
            if questions == 2:
                drained.publish("1.0", "order-1", "Completed")
        return False

    releases_proxy.cut_before_request = complete_at_second_question
    result = drained.run(drained.retire(options=["--wait", "--timeout", "60"]))
    assert_exit(result, ExitCode.DONE, "release 1.0 is NotDrained", "release 1.0 is Retired")
    # The other release did not wait for the first one.
    assert [version for version, *_ in drained.list_commands()] == ["1.1", "1.0"]


def test_a_wait_that_is_too_short_times_out(drained: ReleaseFixture) -> None:
    drained.publish("1.0", "order-1", "Running")
    result = drained.run(drained.retire(options=["--wait", "--timeout", "0"]))
    assert_exit(
        result, ExitCode.TIMED_OUT, "not retired within 0 s", "release 1.0: InstancesActive: 1 orchestration instance"
    )
    assert drained.states()["1.1"] == "Removed"


def test_the_removal_of_another_run_is_continued_when_it_has_expired(drained: ReleaseFixture) -> None:
    drained.request("DELETE", "/releases/1.0", params={"outcome": "Pending"}, run_url=OTHER_RUN)
    result = drained.run(drained.retire())
    assert_exit(result, ExitCode.DONE, "release 1.0 is Removing", OTHER_RUN)
    assert [version for version, *_ in drained.list_commands()] == ["1.1"]
    drained.clock.advance(SECONDS_UNTIL_REMOVAL_EXPIRES)
    assert_exit(drained.run(drained.retire()), ExitCode.DONE)
    assert drained.states()["1.0"] == "Removed"


def test_a_rollback_that_comes_first_wins(drained: ReleaseFixture, releases_proxy: ConnectionProxy) -> None:
    def route_first(number: int, request: Request) -> bool:
        """Roll back just before the CLI begins the removal."""
        if request[0] == "DELETE" and drained.active() == "1.2":
            drained.route("1.0")
        return False

    releases_proxy.cut_before_request = route_first
    result = drained.run(drained.retire(options=["--version", "1.0"]))
    assert_exit(result, ExitCode.NOT_READY, "release 1.0 is NotDrained: ReleaseInUse", "gets 100 %")
    assert drained.list_commands() == []
    assert drained.active() == "1.0"


def test_a_removal_that_another_caller_has_ended_is_not_carried_out(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    """A person who needs the release for a rollback has given it back after the removal began."""
    verdicts = 0

    def give_back_before_last_verdict(number: int, request: Request) -> bool:
        nonlocal verdicts
        if request[1].endswith("/status"):
            verdicts += 1
            if verdicts == 2:
                drained.end_removal("1.0", "Failed", OTHER_RUN)
        return False

    releases_proxy.cut_before_request = give_back_before_last_verdict
    result = drained.run(drained.retire(options=["--version", "1.0"]))
    assert_exit(result, ExitCode.CONFLICT, "another caller has ended its removal")
    assert drained.list_commands() == []
    assert_exit(drained.run(["rollback", "--version", "1.0"]), ExitCode.DONE)


def test_a_staged_release_is_removed_when_routers_send_it_nothing(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    advance_clock_at_verdict(drained, releases_proxy, 3)
    result = drained.run(drained.retire(options=["--version", "1.3"]))
    assert_exit(result, ExitCode.DONE, "release 1.3 is Removing; waiting: RoutersBehind: routers may send requests")
    assert drained.states()["1.3"] == "Removed"


def test_a_release_on_which_something_has_started_since_its_removal_began_is_given_back(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    advance_clock_at_verdict(drained, releases_proxy, 3, starts="order-1")
    result = drained.run(drained.retire(options=["--version", "1.3"]))
    assert_exit(result, ExitCode.NOT_READY, "1 orchestration instance is active")
    assert drained.list_commands() == []
    assert removal_outcomes(drained) == [("1.3", "Pending"), ("1.3", "Failed")]
    assert drained.states()["1.3"] == "Staged"


def advance_clock_at_verdict(
    releases: ReleaseFixture, proxy: ConnectionProxy, number: int, *, starts: str | None = None
) -> None:
    """Before the verdict with this number, routers stop to send requests to release 1.3, which has started an instance
    by then."""
    verdicts = 0

    def prepare_verdict(request_number: int, request: Request) -> bool:
        """Let time pass just before the verdict with this number, and start an order if one is given."""
        nonlocal verdicts
        if request[1].endswith("/status"):
            verdicts += 1
            if verdicts == number:
                if starts is not None:
                    releases.publish("1.3", starts, "Running")
                releases.let_routers_stop()
        return False

    proxy.cut_before_request = prepare_verdict


def test_a_signal_during_the_command_leaves_the_removal_pending(drained: ReleaseFixture) -> None:
    started = drained.cli.folder / "started"
    running = drained.start(drained.retire("sh", "-c", f"touch {started}; sleep 60"))
    wait_until(started.exists, "the command runs")
    running.send(signal.SIGTERM)
    assert_exit(running.wait_for_result(), ExitCode.INTERRUPTED, "after a request to stop")
    assert drained.states() == {"1.0": "Removing", "1.1": "Draining", "1.2": "Serving", "1.3": "Staged"}
    assert_exit(drained.run(drained.retire()), ExitCode.DONE)
    assert drained.states()["1.0"] == drained.states()["1.1"] == "Removed"


@pytest.mark.parametrize("has_deleted", [False, True])
def test_the_next_run_continues_after_a_kill_while_the_command_runs(
    drained: ReleaseFixture, *, has_deleted: bool
) -> None:
    *_, script = drained.record_command
    first_run = drained.cli.folder / "first-run"
    kill = f"[ -e {first_run} ] || {{ touch {first_run}; kill -9 $PPID; exit 1; }}"
    arguments = drained.retire("sh", "-c", f"{script}; {kill}" if has_deleted else f"{kill}; {script}")
    assert drained.start(arguments).wait_for_result().code == -signal.SIGKILL
    assert drained.states()["1.0"] == "Removing"
    assert_exit(drained.run(arguments), ExitCode.DONE)
    assert drained.states() == {"1.0": "Removed", "1.1": "Removed", "1.2": "Serving", "1.3": "Staged"}
    assert len(drained.list_commands()) == (3 if has_deleted else 2)


def test_a_command_that_fails_after_an_interruption_may_have_deleted_the_function_app_before(
    drained: ReleaseFixture,
) -> None:
    drained.request("DELETE", "/releases/1.0", params={"outcome": "Pending"})
    failed = drained.run(drained.retire("sh", "-c", FAIL_FOR_1_0))
    assert_exit(failed, ExitCode.FAILURE, "an earlier attempt may have deleted the Function App", "stays Removing")
    assert drained.states()["1.0"] == "Removing"
    assert_exit(drained.run(drained.retire()), ExitCode.DONE)
    assert drained.states()["1.0"] == "Removed"


def test_a_task_hub_that_an_interrupted_attempt_has_deleted_does_not_keep_a_release_removing(
    releases: ReleaseFixture, storage: StorageSettings
) -> None:
    releases.create(taskHubs=PROVIDER_CONFIG)
    for version in ("1.0", "1.1"):
        releases.register(version)
        create_provider_hub(storage, releases.task_hub_of(version))
        releases.route(version)
    releases.let_routers_stop()
    releases.request("DELETE", "/releases/1.0", params={"outcome": "Pending"})
    delete_provider_hub(storage, releases.task_hub_of("1.0"))
    assert_exit(releases.run(releases.retire()), ExitCode.DONE)
    assert releases.states() == {"1.0": "Removed", "1.1": "Serving"}


def test_without_a_run_url_an_interrupted_removal_waits_for_its_expiry(drained: ReleaseFixture) -> None:
    drained.request("DELETE", "/releases/1.0", params={"outcome": "Pending"}, run_url=None)
    result = drained.run(drained.retire(options=["--version", "1.0"]), run_url=None)
    assert_exit(result, ExitCode.NOT_READY, "has been removing release 1.0")
    drained.clock.advance(SECONDS_UNTIL_REMOVAL_EXPIRES)
    assert_exit(drained.run(drained.retire(options=["--version", "1.0"]), run_url=None), ExitCode.DONE)


def test_a_retirement_without_a_command_is_refused(drained: ReleaseFixture) -> None:
    assert_exit(drained.run(["retire"], run_url=RUN), ExitCode.USAGE, "no command is given")
