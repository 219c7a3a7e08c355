"""Rollouts into a slot that are killed before or after any request to the server and any change in Azure, and then run
again or aborted. Continuous integration kills them at every third change, and `make test-long` at each."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from harness.processes import wait_until
from safe_deploy.errors import ExitCode
from tests.conftest import new_hub_name
from tests.safe_deploy.assertions import assert_exit
from tests.safe_deploy.connection_proxy import Request, run_connection_proxy
from tests.safe_deploy.deployment_fixture import ForkServer, kill_cli
from tests.safe_deploy.shifted_server import ShiftedServer
from tests.safe_deploy.slot_rollout_fixture import GROUP, SlotRolloutFixture, create_slot_rollout_fixture

STEPS = "10@15m"
"""One step: a second one would be set in the same way."""


class RolloutKiller:
    """Kills safe-deploy and its `az` at a request to the server or a call of `az`, counted together from 1."""

    def __init__(self, slot_rollout: SlotRolloutFixture, request_number: int, *, after_effect: bool) -> None:
        self._slot_rollout = slot_rollout
        self._fatal_request_reached = threading.Event()
        self._killed = threading.Event()
        slot_rollout.cli.fake_azure.hang_at_request(request_number, after_effect=after_effect)
        hanging: dict[int, str | None] = {}

        def cut_before_request(number: int, request: Request) -> bool:
            """Count the request, and hold it up before the server has it, if this is the point to be killed at."""
            slot_rollout.advance_clock_for(request)
            hanging[number] = slot_rollout.cli.fake_azure.count_request()
            return self._hang(hanging[number] == "before")

        def cut_before_response(number: int, request: Request) -> bool:
            """Hold up the response, if this is the point to be killed at."""
            return self._hang(hanging[number] == "after")

        slot_rollout.proxy.cut_before_request = cut_before_request
        slot_rollout.proxy.cut_before_response = cut_before_response

    def run_until_killed(self, arguments: list[str]) -> None:
        """Start safe-deploy with these arguments, and wait until it has been killed."""
        fake_azure = self._slot_rollout.cli.fake_azure
        running = self._slot_rollout.start(arguments)
        wait_until(
            lambda: self._fatal_request_reached.is_set() or fake_azure.is_hanging() or running.has_ended(),
            "safe-deploy is at the fatal request",
        )
        assert not running.has_ended(), f"not killed: {running.err.read_text()}"
        kill_cli(running)
        kill_az(self._slot_rollout)
        self._killed.set()
        assert running.wait_for_result().code == -signal.SIGKILL
        self._slot_rollout.proxy.clear()
        fake_azure.clear_hang()

    def _hang(self, is_fatal: bool) -> bool:  # a condition, at both of its calls
        """Hold up a request until safe-deploy is killed, and then cut its connection."""
        if is_fatal:
            self._fatal_request_reached.set()
            assert self._killed.wait(60)
        return is_fatal


def kill_az(slot_rollout: SlotRolloutFixture) -> None:
    """Kill the calls of this app's `az` that are in progress."""
    program = f"{slot_rollout.cli.bin_folder}/az"
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and program in (entry / "cmdline").read_text().split("\0"):
                os.kill(int(entry.name), signal.SIGKILL)


@pytest.fixture
def new_slot_rollouts(
    shifted_server: ShiftedServer, shifted_client: httpx.Client, fork_server: ForkServer, tmp_path: Path
) -> Iterator[Callable[[], SlotRolloutFixture]]:
    """Creates a new app with a version in its slot on every call."""

    def create() -> SlotRolloutFixture:
        """A new app, whose commands go through the proxy."""
        folder = tmp_path / new_hub_name()
        folder.mkdir()
        clock, app = shifted_server.clock, f"shop-{new_hub_name()}"
        return create_slot_rollout_fixture(shifted_client, fork_server, folder, clock, proxy, app)

    with run_connection_proxy(shifted_server.url) as proxy:
        yield create


def list_changes(slot_rollout: SlotRolloutFixture, arguments: list[str]) -> dict[int, str]:
    """Run a command to its end. Returns what may change something, by its number among all requests and calls."""
    fake_azure = slot_rollout.cli.fake_azure
    calls_before = len(fake_azure.calls)
    requests: dict[int, str] = {}

    def count(number: int, request: Request) -> bool:
        """Number a request to the server among all requests and calls."""
        slot_rollout.advance_clock_for(request)
        requests[number + len(fake_azure.calls) - calls_before] = " ".join(request)
        return False

    slot_rollout.proxy.clear()
    slot_rollout.proxy.cut_before_request = count
    result = slot_rollout.run(arguments)
    assert result.code == ExitCode.DONE, result.stderr
    calls = [" ".join(call[:4]) for call in fake_azure.calls[calls_before:]]
    numbers = [number for number in range(1, len(requests) + len(calls) + 1) if number not in requests]
    changes = {number: request for number, request in requests.items() if not request.startswith("GET")}
    changes |= {
        number: call
        for number, call in zip(numbers, calls, strict=True)
        if call.startswith(("resource patch", "functionapp deployment"))
    }
    slot_rollout.proxy.clear()
    return dict(sorted(changes.items()))


def select_third(changes: dict[int, str], first: int | None) -> dict[int, str]:
    """Every third change from this position on; all of them if there is none."""
    return dict(list(changes.items())[first :: 3 if first is not None else 1])


def check_slot_is_guarded(slot_rollout: SlotRolloutFixture) -> None:
    """While Azure sends visitors to the slot, the server must not report it as ready."""
    if slot_rollout.shares():
        assert "RolloutInProgress" in slot_rollout.slot_reasons()


@pytest.mark.parametrize(
    ("first", "after_effect"),
    [
        (0, True),
        pytest.param(None, True, marks=pytest.mark.long),
        pytest.param(None, False, marks=pytest.mark.long),
    ],
)
def test_the_same_command_swaps_after_a_kill_at_any_change(
    new_slot_rollouts: Callable[[], SlotRolloutFixture], first: int | None, *, after_effect: bool
) -> None:
    uninterrupted = new_slot_rollouts()
    changes = list_changes(uninterrupted, uninterrupted.start_arguments(steps=STEPS))
    assert len(changes) >= 9, "the share is set and removed, each step is confirmed, and the swap has three steps"
    for number, change in select_third(changes, first).items():
        slot_rollout = new_slot_rollouts()
        arguments = slot_rollout.start_arguments(steps=STEPS)
        RolloutKiller(slot_rollout, number, after_effect=after_effect).run_until_killed(arguments)
        check_slot_is_guarded(slot_rollout)
        slot_rollout.advance_clock_at_every_poll()
        again = slot_rollout.run(arguments)
        assert again.code == ExitCode.DONE, f"after {change}: {again.stderr}"
        assert slot_rollout.state() == "Finished", f"after {change}: {again.stderr}"
        assert slot_rollout.shares() == {}, f"after {change}: {again.stderr}"
        assert slot_rollout.cli.is_swapped(), f"after {change}: {again.stderr}"
        assert slot_rollout.cli.count_swaps() == 1 or (change.startswith("functionapp") and not after_effect)


@pytest.mark.parametrize("first", [2, pytest.param(None, marks=pytest.mark.long)])
def test_an_abort_gives_all_new_visitors_back_after_a_kill_at_any_change(
    new_slot_rollouts: Callable[[], SlotRolloutFixture], first: int | None
) -> None:
    uninterrupted = new_slot_rollouts()
    changes = list_changes(uninterrupted, uninterrupted.start_arguments(steps=STEPS))
    for number, change in select_third(changes, first).items():
        slot_rollout = new_slot_rollouts()
        RolloutKiller(slot_rollout, number, after_effect=True).run_until_killed(
            slot_rollout.start_arguments(steps=STEPS)
        )
        result = slot_rollout.abort()
        assert slot_rollout.shares() == {}, f"after {change}: {result.stderr}"
        if result.code == ExitCode.DONE:
            assert slot_rollout.state() == "Aborted", f"after {change}"
            assert slot_rollout.cli.is_unswapped(), f"after {change}"
            continue
        # It was too late: the swap had begun, and Azure completes it.
        assert result.code == ExitCode.CONFLICT, f"after {change}: {result.stderr}"
        assert "swap" in change, f"after {change}: {result.stderr}"
        assert_exit(slot_rollout.run(slot_rollout.start_arguments(steps=STEPS)), ExitCode.DONE)
        assert slot_rollout.cli.is_swapped(), f"after {change}"


def test_an_abort_that_is_killed_at_any_change_is_completed_by_the_next_one(
    new_slot_rollouts: Callable[[], SlotRolloutFixture],
) -> None:
    abort = ["rollout", "abort", *GROUP]

    def start() -> SlotRolloutFixture:
        """A rollout whose command was killed while the slot had its share."""
        slot_rollout = new_slot_rollouts()
        kill_cli(slot_rollout.start_until_confirmed(10))
        kill_az(slot_rollout)
        return slot_rollout

    changes = list_changes(start(), abort)
    assert len(changes) == 3, "the abort, the removal in Azure, and its confirmation"
    for number, change in changes.items():
        slot_rollout = start()
        RolloutKiller(slot_rollout, number, after_effect=True).run_until_killed(abort)
        check_slot_is_guarded(slot_rollout)
        assert_exit(slot_rollout.abort(), ExitCode.DONE)
        assert slot_rollout.shares() == {}, f"after {change}"
        assert slot_rollout.state() == "Aborted", f"after {change}"
