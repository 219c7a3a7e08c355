"""Swaps during which the server is unavailable or a signal comes. Server and Azure agree afterwards, or the swap is
pending."""

import shlex
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from harness.processes import free_port, wait_until
from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.safe_deploy.assertions import (
    STOP_SIGNALS,
    assert_exit,
    find_outcome_command,
    is_written,
)
from tests.safe_deploy.connection_proxy import ConnectionProxy, Request
from tests.safe_deploy.deployment_fixture import (
    LIST_SETTINGS_COMMAND,
    RESOURCE_GROUP,
    DeploymentFixture,
    ForkServer,
    RunningCli,
    create_deployment_fixture,
    is_process_group_gone,
    open_admin_client,
)
from tests.safe_deploy.processes import server_key_entries, state_server

LONG_DELAY_SECONDS = 60
"""A swap in Azure that is still in progress when the test ends safe-deploy."""

# --- an unavailable server ---


@pytest.mark.long
def test_the_outcome_reaches_a_server_that_restarts_during_the_swap(
    storage: StorageSettings, fork_server: ForkServer, tmp_path: Path, app: str
) -> None:
    port = free_port()
    with state_server(storage, tmp_path, server_key_entries(), port) as served, open_admin_client(served.url) as client:
        deployment_fixture = create_deployment_fixture(client, fork_server, tmp_path, app)
        deployment_fixture.stage()
        may_swap = tmp_path / "may-swap"
        command = f"while ! test -e {may_swap}; do sleep 0.05; done; {shlex.join(deployment_fixture.az_swap_command)}"
        running = deployment_fixture.start(
            deployment_fixture.swap("sh", "-c", command, options=["--resource-group", RESOURCE_GROUP])
        )
        wait_until(lambda: deployment_fixture.pending_hub() == deployment_fixture.new, "the swap is pending")
        served.stop()
        may_swap.touch()
        wait_until(lambda: "trying again" in running.err.read_text(), "safe-deploy retries")
    with state_server(storage, tmp_path, server_key_entries(), port) as served, open_admin_client(served.url) as client:
        deployment_fixture.server = client
        assert_exit(running.wait_for_result(), ExitCode.DONE)
        assert deployment_fixture.is_swapped()


@pytest.mark.parametrize("azure_swaps", [False, True])
def test_an_unavailable_server_leaves_the_swap_pending_with_a_command_to_run(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy, *, azure_swaps: bool
) -> None:
    outcome_request = 3  # after the requests that read the app and record the pending swap

    def is_outcome_or_later(request_number: int, request: Request) -> bool:
        """Whether this request reports the outcome of the swap, or comes after that."""
        return request_number >= outcome_request

    connection_proxy.cut_before_request = is_outcome_or_later
    if not azure_swaps:
        staged.fake_azure.set_fault("swap", call_count=1)
    result = staged.run(staged.swap(), retry_seconds=0.5)
    production_hub = staged.new if azure_swaps else staged.old
    assert_exit(
        result,
        ExitCode.FAILURE,
        f"production has {production_hub}",
        f"the swap of task hub {staged.new} into production is pending",
    )
    assert staged.pending_hub() == staged.new
    connection_proxy.clear()
    assert_exit(
        staged.run_command_line(find_outcome_command(result, "done" if azure_swaps else "failed")), ExitCode.DONE
    )
    assert staged.is_swapped() if azure_swaps else staged.is_unswapped()


def test_no_swap_starts_if_the_server_is_unavailable(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    pending_swap_request = 2  # after the request that reads the app

    def is_pending_swap_or_later(request_number: int, request: Request) -> bool:
        """Whether this request reports that the swap begins, or comes after that."""
        return request_number >= pending_swap_request

    connection_proxy.cut_before_request = is_pending_swap_or_later
    assert_exit(
        staged.run(staged.swap(), retry_seconds=0.5),
        ExitCode.FAILURE,
        "The command was not run. Run the same command again",
    )
    assert staged.count_swaps() == 0
    assert staged.is_unswapped()


# --- signals ---


@STOP_SIGNALS
def test_a_signal_before_the_command_leaves_the_record_unchanged(
    staged: DeploymentFixture, stop_signal: signal.Signals
) -> None:
    staged.fake_azure.set_fault("appsettings list", exit_code=None, delay_before_seconds=0.4, call_count=1)
    running = staged.start(staged.swap())
    wait_until(lambda: staged.fake_azure.count_calls(LIST_SETTINGS_COMMAND) == 1, "safe-deploy queries Azure")
    running.send(stop_signal)
    assert_exit(running.wait_for_result(), ExitCode.INTERRUPTED, "stopped before the command was run")
    assert staged.is_unswapped()
    assert (staged.count_swaps(), staged.open_deployment_hub()) == (0, staged.new)


def test_a_signal_before_an_interrupted_swap_resumes_leaves_it_pending(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending")
    staged.fake_azure.set_fault("appsettings list", exit_code=None, delay_before_seconds=0.4, call_count=1)
    running = staged.start(staged.swap())
    wait_until(lambda: staged.fake_azure.count_calls(LIST_SETTINGS_COMMAND) == 1, "safe-deploy queries Azure")
    running.send(signal.SIGTERM)
    assert_exit(running.wait_for_result(), ExitCode.CONFLICT, "has not reported its outcome")
    assert staged.pending_hub() == staged.new
    assert staged.count_swaps() == 0


@STOP_SIGNALS
def test_a_signal_during_the_swap_in_azure_leaves_it_pending(
    staged: DeploymentFixture, stop_signal: signal.Signals
) -> None:
    staged.fake_azure.set_fault("swap", exit_code=None, delay_before_seconds=LONG_DELAY_SECONDS, call_count=1)
    running = staged.start(staged.swap())
    wait_until(lambda: staged.count_swaps() == 1, "Azure swaps")
    running.send(stop_signal)
    result = running.wait_for_result()
    assert_exit(result, ExitCode.CONFLICT, "Azure continues a swap that it has accepted")
    assert staged.pending_hub() == staged.new
    assert_exit(staged.run(staged.swap()), ExitCode.DONE)
    assert staged.is_swapped()


def test_a_signal_after_azure_has_swapped_confirms_the_swap(staged: DeploymentFixture) -> None:
    staged.fake_azure.set_fault("swap", exit_code=None, delay_after_seconds=LONG_DELAY_SECONDS, call_count=1)
    running = staged.start(staged.swap())
    wait_until(lambda: staged.azure_hubs() == (staged.new, staged.old), "Azure has swapped")
    running.send(signal.SIGTERM)
    assert_exit(running.wait_for_result(), ExitCode.INTERRUPTED, "the swap is done and on record")
    assert staged.is_swapped()


@STOP_SIGNALS
def test_processes_started_by_the_command_are_stopped_with_it(
    staged: DeploymentFixture, stop_signal: signal.Signals
) -> None:
    group_id_file = staged.folder / "group-id"
    running = staged.start(staged.swap("sh", "-c", f"sleep 30 & echo $$ > {group_id_file}; exec sleep 30"))
    wait_until(lambda: is_written(group_id_file), "the command runs")
    running.send(stop_signal)
    result = running.wait_for_result()
    assert result.code == ExitCode.CONFLICT, result.stderr
    wait_until(lambda: is_process_group_gone(int(group_id_file.read_text())), "all processes of the command have ended")
    assert staged.pending_hub() == staged.new
    assert_exit(staged.run_command_line(find_outcome_command(result, "failed")), ExitCode.DONE)
    assert staged.is_unswapped()


def test_a_second_signal_kills_a_command_that_ignores_the_first(staged: DeploymentFixture) -> None:
    group_id_file = staged.folder / "group-id"
    ignore_signals = f"trap '' INT TERM; echo $$ > {group_id_file}; sleep 30; sleep 30"
    running = staged.start(staged.swap("sh", "-c", ignore_signals, options=["--resource-group", RESOURCE_GROUP]))
    wait_until(lambda: is_written(group_id_file), "the command runs")
    running.send(signal.SIGINT)
    running.send(signal.SIGTERM)
    assert_exit(running.wait_for_result(), ExitCode.CONFLICT, "was ended by SIGKILL")
    wait_until(lambda: is_process_group_gone(int(group_id_file.read_text())), "all processes of the command have ended")
    assert staged.pending_hub() == staged.new


@pytest.mark.parametrize(("signals", "expected_signal"), [(["SIGINT"], "SIGTERM"), (["SIGINT", "SIGTERM"], "SIGKILL")])
def test_a_signal_before_the_process_exists_is_forwarded_to_it(signals: list[str], expected_signal: str) -> None:
    """The signal comes before `SignalGuard.run` has started the process."""
    script = f"""
        import os, signal
        from safe_deploy.subprocesses import Command, SignalGuard
        with SignalGuard() as guard:
            for name in {signals}:
                os.kill(os.getpid(), getattr(signal, name))
            print(guard.run(Command(["sleep", "60"], os.environ)))
    """
    python = [sys.executable, "-c", textwrap.dedent(script)]
    printed = subprocess.check_output(python, stdin=subprocess.DEVNULL, text=True, timeout=60)
    assert printed == f"was ended by {expected_signal}\n"


@STOP_SIGNALS
def test_a_signal_while_the_outcome_is_reported_does_not_stop_the_report(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy, stop_signal: signal.Signals
) -> None:
    has_process = threading.Event()
    running: list[RunningCli] = []

    outcome_request = 3  # after the requests that read the app and record the pending swap

    def send_signal_at_outcome(request_number: int, request: Request) -> bool:
        """Send the signal to the CLI when it reports the outcome."""
        if request_number == outcome_request:
            assert has_process.wait(60)
            running[0].send(stop_signal)
        return False

    connection_proxy.cut_before_request = send_signal_at_outcome
    running.append(staged.start(staged.swap()))
    has_process.set()
    assert_exit(running[0].wait_for_result(), ExitCode.DONE)
    assert staged.is_swapped()
