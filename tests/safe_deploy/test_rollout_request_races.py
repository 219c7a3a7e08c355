"""Requests about a rollout side by side while other people change it: each changes the rollout that it means, once, or
says who has changed it."""

from collections.abc import Callable
from typing import Any

import pytest

from safe_deploy.errors import ExitCode
from tests.safe_deploy.assertions import OTHER_RUN, assert_exit
from tests.safe_deploy.connection_proxy import ConnectionProxy, Request
from tests.safe_deploy.release_fixture import ReleaseFixture

START = ["rollout", "start", "--version", "1.1", "--steps", "50@10m"]
ADDRESSES = {"start": ("PUT", "/rollout")} | {
    action: ("POST", f"/rollout/{action}") for action in ("pause", "resume", "abort", "finish")
}
"""Method and end of the path of the request that a command changes something with."""


@pytest.fixture
def releases(releases: ReleaseFixture, releases_proxy: ConnectionProxy) -> ReleaseFixture:
    """Release 1.0 is active, 1.1 and 1.2 are registered, and safe-deploy reaches the server through the proxy."""
    releases.register_and_promote("1.0")
    releases.register("1.1")
    releases.register("1.2")
    releases.let_routers_stop()
    return releases


def begin(releases: ReleaseFixture, version: str, weight: int = 10) -> None:
    """Another person begins a rollout of this release."""
    steps = [{"weight": weight, "minutes": 10}, {"weight": 90, "minutes": 60}]
    releases.request("PUT", "/rollout", json={"version": version, "steps": steps}, run_url=OTHER_RUN)


def change(releases: ReleaseFixture, action: str, reason: str = "another person has decided") -> None:
    """Another person changes the rollout."""
    releases.request("POST", f"/rollout/{action}", json={"reason": reason}, run_url=OTHER_RUN)


def get_rollout(releases: ReleaseFixture) -> Any:
    """The rollout as the server has it now."""
    return releases.request("GET", "/rollout")


def count_starts(releases: ReleaseFixture, version: str) -> int:
    """How often a rollout of this release has begun."""
    return [details["candidate"] for details in releases.history("PutRollout")].count(version)


def lose_first_response(proxy: ConnectionProxy, command: str, meanwhile: Callable[[], None]) -> None:
    """Lose the response to the first request by which this command changes something. Before the command sends it
    again, `meanwhile` happens."""
    _happen_at_first_request(proxy, command, meanwhile, loses_response=True)


def precede_first_request(proxy: ConnectionProxy, command: str, meanwhile: Callable[[], None]) -> None:
    """Let `meanwhile` happen after the command has read the rollout, and before the server has its first request."""
    _happen_at_first_request(proxy, command, meanwhile, loses_response=False)


def _happen_at_first_request(
    proxy: ConnectionProxy, command: str, meanwhile: Callable[[], None], *, loses_response: bool
) -> None:
    method, path_end = ADDRESSES[command]
    has_happened = False

    def happen_once(number: int, request: Request) -> bool:
        """Let it happen at the first request of the command. Returns whether the response is lost."""
        nonlocal has_happened
        if has_happened or request[0] != method or not request[1].endswith(path_end):
            return False
        has_happened = True
        meanwhile()
        return loses_response

    if loses_response:
        proxy.cut_before_response = happen_once
    else:
        proxy.cut_before_request = happen_once


# The response is lost


def test_a_rollout_that_was_aborted_meanwhile_is_not_begun_again_by_a_caller_without_a_run(
    releases: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    lose_first_response(releases_proxy, "start", lambda: change(releases, "abort", "it is bad"))
    result = releases.run(START, run_url=None)
    assert_exit(result, ExitCode.FAILURE, "was not begun again", "was aborted", "it is bad")
    assert get_rollout(releases)["state"] == "Aborted"
    assert releases.get_app()["routing"]["split"] is None
    assert count_starts(releases, "1.1") == 1


def test_a_rollout_is_begun_once_although_the_response_was_lost(
    releases: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    lose_first_response(releases_proxy, "start", lambda: None)
    assert_exit(releases.run(START, run_url=None), ExitCode.DONE)
    assert get_rollout(releases)["state"] == "Running"
    assert count_starts(releases, "1.1") == 1


def test_a_run_finds_its_aborted_rollout_after_a_lost_response(
    releases: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    lose_first_response(releases_proxy, "start", lambda: change(releases, "abort", "it is bad"))
    assert_exit(releases.run(START), ExitCode.FAILURE, "was not begun again", "it is bad")
    assert count_starts(releases, "1.1") == 1


def test_a_rollout_is_not_begun_again_after_another_one_has_come_and_gone(
    releases: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    def replace() -> None:
        """Abort this rollout, and begin and abort another one."""
        change(releases, "abort")
        begin(releases, "1.2")
        change(releases, "abort")

    lose_first_response(releases_proxy, "start", replace)
    result = releases.run(START, run_url=None)
    assert_exit(result, ExitCode.CONFLICT, "rollout of release 1.2", "Run the same command again")
    assert count_starts(releases, "1.1") == 1
    assert releases.get_app()["routing"]["split"] is None


@pytest.mark.parametrize(
    ("action", "state", "prepared_by"),
    [
        ("pause", "Paused", None),
        ("resume", "Running", "pause"),
        ("abort", "Aborted", None),
        ("finish", "Finished", None),
    ],
)
def test_a_change_whose_response_was_lost_is_found_to_be_made(
    releases: ReleaseFixture, releases_proxy: ConnectionProxy, action: str, state: str, prepared_by: str | None
) -> None:
    begin(releases, "1.1")
    if prepared_by:
        change(releases, prepared_by)
    lose_first_response(releases_proxy, action, lambda: None)
    assert_exit(releases.run(["rollout", action]), ExitCode.DONE, f"is {state} already")
    assert get_rollout(releases)["state"] == state


@pytest.mark.parametrize(
    ("action", "prepared_by", "undone_by", "state"),
    [("resume", "pause", "pause", "Paused"), ("pause", None, "resume", "Running")],
)
def test_a_repeated_change_does_not_undo_what_another_person_has_decided_meanwhile(
    releases: ReleaseFixture,
    releases_proxy: ConnectionProxy,
    action: str,
    prepared_by: str | None,
    undone_by: str,
    state: str,
) -> None:
    begin(releases, "1.1")
    if prepared_by:
        change(releases, prepared_by)
    lose_first_response(releases_proxy, action, lambda: change(releases, undone_by, "customers complain"))
    result = releases.run(["rollout", action])
    assert_exit(result, ExitCode.CONFLICT, f"it is {state} now", "customers complain", "Run the same command again")
    assert get_rollout(releases)["state"] == state


@pytest.mark.parametrize("action", ["pause", "abort", "finish"])
def test_a_repeated_change_leaves_the_next_rollout_alone(
    releases: ReleaseFixture, releases_proxy: ConnectionProxy, action: str
) -> None:
    def begin_next() -> None:
        """Another person rolls out the next release at 5 %."""
        if action == "pause":
            change(releases, "abort")
        begin(releases, "1.2", weight=5)

    begin(releases, "1.1")
    lose_first_response(releases_proxy, action, begin_next)
    result = releases.run(["rollout", action])
    assert_exit(result, ExitCode.CONFLICT, "rollout of release 1.1", "begun that of release 1.2", "was not changed")
    rollout = get_rollout(releases)
    assert (rollout["candidate"], rollout["state"], rollout["weight"]) == ("1.2", "Running", 5)


# Another caller is faster


def test_a_change_is_repeated_if_only_something_else_in_the_app_has_changed(
    releases: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    begin(releases, "1.1")
    precede_first_request(releases_proxy, "finish", lambda: releases.register("1.3"))
    assert_exit(releases.run(["rollout", "finish"]), ExitCode.DONE)
    assert releases.active() == "1.1"


def test_a_start_is_repeated_if_only_something_else_in_the_app_has_changed(
    releases: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    precede_first_request(releases_proxy, "start", lambda: releases.register("1.3"))
    assert_exit(releases.run(START), ExitCode.DONE)
    assert count_starts(releases, "1.1") == 1


def test_a_change_gives_up_if_the_app_changes_each_time(
    releases: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    def register(number: int, request: Request) -> bool:
        """Register another release whenever the rollout is to be paused."""
        if request[1].endswith("/rollout/pause"):
            releases.register(f"2.{number}")
        return False

    begin(releases, "1.1")
    releases_proxy.cut_before_request = register
    assert_exit(releases.run(["rollout", "pause"]), ExitCode.CONFLICT, "was changed by other callers")
    assert get_rollout(releases)["state"] == "Running"


def test_an_abort_is_made_also_after_another_decision(
    releases: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    def take_next_step() -> None:
        """Let the server give the candidate its second share."""
        releases.clock.advance(601)
        releases.request("POST", "/rollout/advance", json={})

    begin(releases, "1.1")
    precede_first_request(releases_proxy, "abort", take_next_step)
    assert_exit(releases.run(["rollout", "abort"]), ExitCode.DONE)
    assert get_rollout(releases)["state"] == "Aborted"
    assert get_rollout(releases)["step"] == 2


def test_a_finish_is_refused_after_an_abort_that_came_first(
    releases: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    begin(releases, "1.1")
    precede_first_request(releases_proxy, "finish", lambda: change(releases, "abort", "it is bad"))
    assert_exit(releases.run(["rollout", "finish"]), ExitCode.CONFLICT, "it is Aborted now", "it is bad")
    assert releases.active() == "1.0"


def test_a_start_is_refused_while_a_rollout_that_came_first_is_in_progress(
    releases: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    precede_first_request(releases_proxy, "start", lambda: begin(releases, "1.2"))
    assert_exit(releases.run(START), ExitCode.CONFLICT, "RolloutInProgress", "1.2")
    assert count_starts(releases, "1.1") == 0


# Following


@pytest.mark.parametrize("ended_by", ["abort", "finish"])
def test_following_ends_with_an_error_when_another_rollout_has_begun(
    releases: ReleaseFixture, releases_proxy: ConnectionProxy, ended_by: str
) -> None:
    has_replaced = False

    def replace(number: int, request: Request) -> bool:
        """Before the first poll, abort this rollout, and begin and finish another one."""
        nonlocal has_replaced
        if request == ("GET", f"/api/apps/{releases.app}/rollout") and not has_replaced:
            has_replaced = True
            change(releases, ended_by)
            begin(releases, "1.2")
            change(releases, "finish")
        return False

    releases_proxy.cut_before_request = replace
    result = releases.run([*START, "--wait"], retry_seconds=5)
    assert_exit(result, ExitCode.CONFLICT, "rollout of release 1.1", "begun that of release 1.2", "safe-deploy history")
    assert "release 1.2" not in result.stdout
