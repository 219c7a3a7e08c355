"""`safe-deploy status --wait` against a real server, through faults of server and network."""

import json
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.processes import free_port, wait_until
from harness.state_server import ServerProcess
from safe_deploy import waiting
from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.builders import event, timestamp
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.connection_proxy import ConnectionProxy, Request, run_connection_proxy
from tests.safe_deploy.fault_proxy import (
    CannedResponse,
    EndlessResponse,
    Fault,
    FaultProxy,
    NoResponse,
    TruncatedResponse,
    run_fault_proxy,
)
from tests.safe_deploy.in_process import run_in_process
from tests.safe_deploy.processes import KEYS, server_key_entries, state_server
from tests.safe_deploy.wait_scenario import SOON, WaitScenario, do_nothing, is_ready, reported_lines


@pytest.fixture
def connection_proxy(served: ServerProcess) -> Iterator[ConnectionProxy]:
    """A proxy in front of the server that cuts connections."""
    with run_connection_proxy(served.url) as proxy:
        yield proxy


def test_a_command_that_runs_in_this_process_restores_the_state_of_the_process(wait_scenario: WaitScenario) -> None:
    """Variables, arguments, streams and signal handlers are restored. All other tests of this module rely on that."""
    handled_signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def read_process_state() -> list[object]:
        """What a command in this process could change and must leave as it was."""
        streams = [(stream, os.fstat(number)) for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr))]
        return [
            dict(os.environ),
            [*sys.argv],
            sys.argv,
            *streams,
            *map(signal.getsignal, handled_signals),
            warnings.filters[:],
        ]

    state_before = read_process_state()
    swap = ["swap", "--task-hub", "none", "--", "sh", "-c", "echo swapped; echo failed >&2"]
    assert run_in_process(swap, wait_scenario.app_client.build_environment()).code == ExitCode.CONFLICT
    assert wait_scenario.wait_through(wait_scenario.app_client.url, "--timeout", "0").code == ExitCode.TIMED_OUT
    assert run_in_process(["--help"], {}).out.startswith("Usage: safe-deploy ")
    assert read_process_state() == state_before


# --- the verdict ---


def test_a_ready_slot_ends_the_wait_at_once(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """The wait sends one request and reports one line."""
    wait_scenario.end()
    result = wait_scenario.wait_through(proxy.url, *SOON)
    assert is_ready(result, wait_scenario)
    assert len(reported_lines(result)) == 1
    assert len(proxy.received) == 1


def test_the_wait_ends_when_the_last_instance_ends(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    wait_scenario.script(proxy, do_nothing)
    result = wait_scenario.wait_through(proxy.url, *SOON, "--verify", "none")
    assert is_ready(result, wait_scenario)
    queries = [request.path.partition("?")[2] for request in proxy.received]
    assert queries == [f"slot=production&wait={seconds}&verify=none" for seconds in (0, 1)]


def test_one_request_waits_at_the_server_until_the_slot_is_ready(
    wait_scenario: WaitScenario, proxy: FaultProxy
) -> None:
    """The first request shows at once what blocks. The server answers the second one when the instance ends."""

    def end_orders_during_request() -> None:
        """End the orders while the request of the CLI waits."""
        wait_until(lambda: len(proxy.received) == 2, "the request that waits arrives")
        wait_scenario.end()

    ending = threading.Thread(target=end_orders_during_request)
    ending.start()
    began = time.monotonic()
    result = wait_scenario.wait_through(proxy.url, "--interval", "60", "--timeout", "60")
    ending.join()
    assert is_ready(result, wait_scenario)
    assert time.monotonic() - began < 30
    assert len(proxy.received) == 2


def test_a_timeout_prints_the_last_verdict(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """The exit code is 5, and stdout shows the instances that are active at the end of the wait."""
    wait_scenario.script(proxy, do_nothing, lambda: wait_scenario.begin("order-2"), do_nothing, do_nothing)
    began = time.monotonic()
    result = wait_scenario.wait_through(proxy.url, "--interval", "1", "--timeout", "2.5")
    assert 2.5 <= time.monotonic() - began < 9
    assert result.code == ExitCode.TIMED_OUT
    assert result.out.startswith(
        f"NotReady: slot production (task hub {wait_scenario.app_client.hub}): InstancesActive: 2 orchestration"
    )
    for order in ("order-1", "order-2"):
        assert re.search(rf"^ ?{order} +ProcessOrder +Running +\d+ s ", result.out, re.MULTILINE)
    assert result.err.endswith("error: slot production was not ready within 2.5 s: InstancesActive\n")


def test_a_timeout_of_zero_sends_one_request(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    result = wait_scenario.wait_through(proxy.url, "--timeout", "0")
    assert result.code == ExitCode.TIMED_OUT
    assert len(proxy.received) == 1


@pytest.mark.parametrize("ready", [True, False])
def test_json_output_of_a_wait_is_one_document(wait_scenario: WaitScenario, proxy: FaultProxy, *, ready: bool) -> None:
    """Stdout has one JSON document, because the wait reports its polls on stderr."""
    wait_scenario.script(proxy, TruncatedResponse(), *([] if ready else [do_nothing] * 9))
    result = wait_scenario.wait_through(
        proxy.url, "--interval", "1", "--timeout", "30" if ready else "1.8", "--output=json"
    )
    assert (json.loads(result.out)["ready"], result.code) == (ready, 0 if ready else ExitCode.TIMED_OUT)
    assert len(reported_lines(result)) == 2


# --- reported polls ---


@pytest.mark.long
def test_only_changes_are_reported(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """An unchanged verdict or failure is not reported again."""
    busy = CannedResponse(503, b'{"code": "StorageUnavailable", "detail": "the state storage is busy"}')
    wait_scenario.script(proxy, do_nothing, do_nothing, busy, busy, lambda: wait_scenario.begin("order-2"))
    result = wait_scenario.wait_through(proxy.url, *SOON)
    assert is_ready(result, wait_scenario)
    assert len(proxy.received) == 6
    expected = r"\d orchestration|the state storage is busy|\bReady|^warning: EventsOnly"
    reported_kinds = [re.search(expected, line) for line in result.err.splitlines()[1:]]
    assert [match and match[0] for match in reported_kinds] == [
        "1 orchestration",
        "warning: EventsOnly",
        "the state storage is busy",
        "2 orchestration",
        "Ready",
    ]


def test_blocking_instances_are_shown_with_their_age(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """Also before the timeout, because a log of a long wait must show the blocking instances."""
    wait_scenario.app_client.publish(
        event(wait_scenario.app_client.hub, "order-0", time=timestamp(-7300), function="SendInvoice")
    )
    late = wait_scenario.wait_through(proxy.url, "--timeout", "0")
    assert "order-0" in reported_lines(late)[0]
    assert "2 h" in reported_lines(late)[0]
    assert re.search(r"^ ?order-0 +SendInvoice +Running +2 h +2 h +event", late.out, re.MULTILINE)


# --- faults ---


@pytest.mark.long
def test_the_wait_continues_through_restarts_of_the_server(storage: StorageSettings, tmp_path: Path) -> None:
    """A server that is stopped answers its pending requests, and a server that is killed does not."""
    port = free_port()
    with ExitStack() as servers:

        def start_server() -> ServerProcess:
            """Start a state server on the port that the CLI asks."""
            return servers.enter_context(state_server(storage, tmp_path, server_key_entries(), port))

        first_server = start_server()
        wait_scenario = WaitScenario(AppClient(first_server.url))
        with run_fault_proxy(first_server.url) as proxy:

            def restart_server_twice() -> None:
                """Stop the server while the CLI waits, kill the next one, and end the orders at the third."""
                wait_until(lambda: len(proxy.received) == 1, "a request arrives")
                first_server.stop()
                second_server, request_count = start_server(), len(proxy.received)
                wait_until(lambda: len(proxy.received) > request_count, "another request arrives")
                second_server.stop(signal.SIGKILL)
                start_server()
                wait_scenario.end()

            restarting = threading.Thread(target=restart_server_twice)
            restarting.start()
            result = wait_scenario.wait_through(proxy.url, "--interval", "2", "--timeout", "60")
            restarting.join()
            assert is_ready(result, wait_scenario)
            assert len(proxy.received) <= 20
    assert any("cannot be reached" in line for line in reported_lines(result))


def test_retry_after_overrides_the_interval(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    wait_scenario.script(
        proxy, CannedResponse(429, b"<html>Busy</html>", {"Retry-After": "2"}), CannedResponse(503, b'{"code": 7}')
    )
    result = wait_scenario.wait_through(proxy.url, *SOON)
    assert is_ready(result, wait_scenario)
    assert wait_scenario.times[1] - wait_scenario.times[0] >= 2
    statuses = [re.search(r"status \d+", line) for line in reported_lines(result)[:2]]
    assert [match and match[0] for match in statuses] == ["status 429", "status 503"]


def test_an_invalid_retry_after_is_ignored(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """A value beyond the remaining time is shortened to it, and one more request is sent."""
    answers = [(502, "-1"), (504, "nan"), (503, "1e99")]
    wait_scenario.script(proxy, *(CannedResponse(status, headers={"Retry-After": after}) for status, after in answers))
    began = time.monotonic()
    result = wait_scenario.wait_through(proxy.url, "--interval", "1", "--timeout", "3")
    assert 3 <= time.monotonic() - began < 9
    assert is_ready(result, wait_scenario)
    assert len(proxy.received) == 4


def test_a_broken_connection_is_retried_by_the_wait(
    wait_scenario: WaitScenario, connection_proxy: ConnectionProxy
) -> None:
    """The connection breaks before a request reaches the server, and before a response arrives."""

    def cut_before_request(number: int, request: Request) -> bool:
        """Close the connection at the first request, and end the orders at the third."""
        if number == 3:
            wait_scenario.end()
        return number == 1

    connection_proxy.cut_before_request = cut_before_request
    connection_proxy.cut_before_response = lambda number, request: number == 2
    result = wait_scenario.wait_through(connection_proxy.url, *SOON)
    assert result.code == ExitCode.DONE
    assert "Ready" in reported_lines(result)[-1]
    assert len(reported_lines(result)) in (2, 3)
    assert "cannot be reached" in reported_lines(result)[0]


def test_a_truncated_response_is_retried(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    wait_scenario.script(proxy, TruncatedResponse())
    result = wait_scenario.wait_through(proxy.url, *SOON)
    assert is_ready(result, wait_scenario)
    assert "cannot be reached" in reported_lines(result)[0]


@pytest.mark.parametrize(
    ("fault", "expected_error"), [(NoResponse(), "timed out"), (EndlessResponse(), "the response takes too long")]
)
def test_a_response_that_hangs_does_not_delay_the_timeout(
    wait_scenario: WaitScenario, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, fault: Fault, expected_error: str
) -> None:
    """The command ends with exit code 5 shortly after the timeout."""
    assert waiting._GRACE_SECONDS <= 10
    monkeypatch.setattr(waiting, "_GRACE_SECONDS", 1)
    proxy.always_inject(fault)
    began = time.monotonic()
    result = wait_scenario.wait_through(proxy.url, "--interval", "120", "--timeout", "1")
    assert 2 <= time.monotonic() - began < 8
    assert (result.code, result.out) == (ExitCode.TIMED_OUT, "")
    assert f"cannot be reached: {expected_error}" in result.err
    assert len(proxy.received) == 1


def test_a_last_response_that_comes_too_late_does_not_hide_why_the_slot_was_not_ready(
    wait_scenario: WaitScenario, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near the timeout, the server reads a large task hub for longer than the command may wait for it."""
    monkeypatch.setattr(waiting, "_GRACE_SECONDS", 1)
    wait_scenario.script(proxy, do_nothing, NoResponse(), do_nothing)
    result = wait_scenario.wait_through(proxy.url, "--interval", "1", "--timeout", "1")
    assert (result.code, result.out) == (ExitCode.TIMED_OUT, "")
    assert re.search(r"cannot be reached: timed out\. The verdict before was InstancesActive: ", result.err)


def test_an_unreachable_server_does_not_delay_the_timeout(wait_scenario: WaitScenario) -> None:
    """The command prints no earlier verdict as its result."""
    with run_fault_proxy(wait_scenario.app_client.url) as proxy:
        url = proxy.url
        wait_scenario.script(proxy, do_nothing, *([CannedResponse(503)] * 9))
        began = time.monotonic()
        result = wait_scenario.wait_through(url, "--interval", "1", "--timeout", "2.5", "--output", "json")
        assert 2.5 <= time.monotonic() - began < 9
    assert (result.code, result.out) == (ExitCode.TIMED_OUT, "")


def test_immediate_responses_are_polled_with_a_pause(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """A server that is shutting down answers at once, and must not be flooded."""
    verdict = wait_scenario.app_client.request_json("GET", "/staging?slot=production")
    proxy.always_inject(CannedResponse(200, json.dumps(verdict).encode()))
    result = wait_scenario.wait_through(proxy.url, "--interval", "30", "--timeout", "1.5")
    assert result.code == ExitCode.TIMED_OUT
    assert 2 <= len(proxy.received) <= 3


# --- errors that waiting does not resolve ---


@pytest.mark.parametrize(
    ("options", "key", "code", "message"),
    [
        (["--app", "unknown"], KEYS["reader"], ExitCode.FAILURE, "the server has no app unknown"),
        (["--slot", "canary"], KEYS["reader"], ExitCode.FAILURE, "has no slot canary"),
        (["--slot", "-"], KEYS["reader"], ExitCode.USAGE, "slot"),
        ([], "unknown-key-0123456789", ExitCode.NOT_ALLOWED, "the key is missing or unknown"),
        ([], KEYS["publisher"], ExitCode.NOT_ALLOWED, "needs a key with the role reader or deployer or admin"),
    ],
)
def test_an_error_that_waiting_does_not_resolve_ends_the_wait(
    wait_scenario: WaitScenario, proxy: FaultProxy, options: list[str], key: str, code: int, *, message: str
) -> None:
    """The status is asked for once, despite the timeout of an hour."""
    result = wait_scenario.wait_through(proxy.url, *options, "--timeout", "3600", key=key)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert len(result.err.splitlines()) == 2
    # An unknown app is looked for among the others, and not waited for.
    assert len([request for request in proxy.received if "/staging" in request.path]) == 1


def test_a_key_that_is_revoked_ends_the_wait(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """The server may refuse the key only after the first verdict."""
    wait_scenario.script(proxy, do_nothing, CannedResponse(401))
    result = wait_scenario.wait_through(proxy.url, *SOON)
    assert (result.code, result.out) == (ExitCode.NOT_ALLOWED, "")
    assert "Check SAFE_DEPLOY_KEY" in result.err


# --- CI systems ---


def github_environment(folder: Path) -> dict[str, str]:
    """The environment of a job on GitHub, whose files are in this folder."""
    files = {"GITHUB_OUTPUT": str(folder / "output"), "GITHUB_STEP_SUMMARY": str(folder / "summary")}
    return {"GITHUB_ACTIONS": "true", "CI": "true", **files}


@pytest.mark.parametrize("ready", [True, False])
def test_on_github_the_outputs_are_those_of_the_last_verdict(
    wait_scenario: WaitScenario, proxy: FaultProxy, tmp_path: Path, *, ready: bool
) -> None:
    """The wait writes each output once, when it ends. The orders end at the request after the scripted steps."""
    wait_scenario.script(proxy, do_nothing, *([] if ready else [do_nothing] * 9))
    result = wait_scenario.wait_through(
        proxy.url, "--interval", "1", "--timeout", "30" if ready else "0.8", **github_environment(tmp_path)
    )
    assert result.code == (ExitCode.DONE if ready else ExitCode.TIMED_OUT)
    outputs = (tmp_path / "output").read_text().splitlines()
    assert outputs[:4] == [
        f"ready={str(ready).lower()}",
        f"status={'Ready' if ready else 'NotReady'}",
        f"has-running={str(not ready).lower()}",
        f"active-count={0 if ready else 1}",
    ]
    assert len(outputs) == len({line.partition("=")[0] for line in outputs})
    summary = (tmp_path / "summary").read_text()
    assert summary.startswith("**Ready" if ready else "**NotReady")
    assert ("::error title=safe-deploy::slot production was not ready" in result.err) is not ready


@pytest.mark.parametrize("ready", [True, False])
def test_in_azure_pipelines_the_outputs_are_those_of_the_last_verdict(
    wait_scenario: WaitScenario, proxy: FaultProxy, tmp_path: Path, *, ready: bool
) -> None:
    """The logging commands are on stderr, not on stdout."""
    wait_scenario.script(proxy, do_nothing, *([] if ready else [do_nothing] * 9))
    variables = {"TF_BUILD": "True", "AGENT_TEMPDIRECTORY": str(tmp_path)}
    result = wait_scenario.wait_through(
        proxy.url, "--interval", "1", "--timeout", "30" if ready else "0.8", **variables
    )
    assert result.code == (ExitCode.DONE if ready else ExitCode.TIMED_OUT)
    set_ready = [line for line in result.err.splitlines() if "variable=ready;" in line]
    assert set_ready == [f"##vso[task.setvariable variable=ready;isOutput=true]{str(ready).lower()}"]
    assert "##vso" not in result.out
    assert ("##vso[task.logissue type=error]slot production was not ready" in result.err) is not ready
