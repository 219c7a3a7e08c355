"""`safe-deploy status --wait` against a real server, through whatever goes wrong on the way to it."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.processes import free_port, wait_until
from harness.state_server import ServerProcess
from safe_deploy import waiting
from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.builders import event, timestamp
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.deployment_fixture import ConnectionProxy, Request, run_connection_proxy
from tests.safe_deploy.fault_proxy import (
    CannedResponse,
    EndlessResponse,
    Fault,
    FaultProxy,
    NoResponse,
    TruncatedResponse,
    run_fault_proxy,
)
from tests.safe_deploy.in_process import InProcessResult, run
from tests.safe_deploy.processes import KEYS, command, environment, server_key_entries, state_server

WAIT = ("status", "--wait", "--slot", "production")
SOON = ("--interval", "1", "--timeout", "30")
CLOCK = r"\d\d:\d\d:\d\d"


@pytest.fixture
def proxy(served: ServerProcess) -> Iterator[FaultProxy]:
    with run_fault_proxy(served.url) as one:
        yield one


@pytest.fixture
def connection_proxy(served: ServerProcess) -> Iterator[ConnectionProxy]:
    with run_connection_proxy(served.url) as one:
        yield one


@dataclass
class WaitScenario:
    """A command that waits for production of an app, whose orders are active until they end."""

    app_client: AppClient
    orders: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """When each question came."""

    def __post_init__(self) -> None:
        self.app_client.register(policy={"settleSeconds": 0})
        self.begin("order-1")

    def begin(self, order: str) -> None:
        self.app_client.publish(event(self.app_client.hub, order))
        self.orders.append(order)

    def end(self) -> None:
        """All orders end, and the slot is Ready."""
        self.app_client.publish(*(event(self.app_client.hub, order, "Completed") for order in self.orders))

    def wait_through(self, url: str, *options: str, key: str = KEYS["reader"], **given: str) -> InProcessResult:
        """Wait, with the server at this address."""
        variables = self.app_client.given(SAFE_DEPLOY_SERVER=url, SAFE_DEPLOY_KEY=key, **given)
        ended = run([*WAIT, *options], variables)
        assert "Traceback" not in ended.err
        assert not any(key in ended.out + ended.err for key in KEYS.values())
        return ended

    def script(self, proxy: FaultProxy, *steps: Fault | Callable[[], None] | None) -> None:
        """What happens at each question, before it is passed on or instead; all orders end at the one after."""

        def fault(number: int) -> Fault | None:
            self.times.append(time.monotonic())
            step = steps[number] if number < len(steps) else None
            if number == len(steps):
                self.end()
            if not callable(step):
                return step
            step()
            return None

        proxy.fault = fault


@pytest.fixture
def wait_scenario(app_client: AppClient) -> WaitScenario:
    return WaitScenario(app_client)


def reported_lines(ended: InProcessResult) -> list[str]:
    """What was reported on the way, without the time of day."""
    return [re.sub(rf"^{CLOCK} ", "", line) for line in ended.err.splitlines() if re.match(rf"{CLOCK} ", line)]


def is_ready(ended: InProcessResult, wait_scenario: WaitScenario) -> bool:
    title = f"Ready: slot production (task hub {wait_scenario.app_client.hub}), by lifecycle events alone"
    return ended.code == 0 and ended.out == f"{title}\n" and reported_lines(ended)[-1] == title


def nothing() -> None:
    """At this question nothing happens."""


def test_a_call_in_this_process_leaves_no_trace(wait_scenario: WaitScenario) -> None:
    """Variables, arguments, streams and what signals do are as before; the next tests rely on it."""
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def surroundings() -> list[object]:
        streams = [(stream, os.fstat(number)) for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr))]
        return [dict(os.environ), [*sys.argv], sys.argv, *streams, *map(signal.getsignal, handled), warnings.filters[:]]

    before = surroundings()
    swap = ["swap", "--task-hub", "none", "--", "sh", "-c", "echo swapped; echo told >&2"]
    assert run(swap, wait_scenario.app_client.given()).code == ExitCode.CONFLICT
    assert wait_scenario.wait_through(wait_scenario.app_client.url, "--timeout", "0").code == ExitCode.TIMED_OUT
    assert run(["--help"], {}).out.startswith("Usage: safe-deploy ")
    assert surroundings() == before


# --- the verdict ---


def test_what_is_ready_is_not_waited_for(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """One question, one line, the verdict."""
    wait_scenario.end()
    ended = wait_scenario.wait_through(proxy.url, *SOON)
    assert is_ready(ended, wait_scenario)
    assert len(reported_lines(ended)) == 1
    assert len(proxy.received) == 1


def test_the_wait_ends_when_the_last_order_ends(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """It becomes Ready in the middle."""
    wait_scenario.script(proxy, nothing)
    ended = wait_scenario.wait_through(proxy.url, *SOON, "--verify", "none")
    assert is_ready(ended, wait_scenario)
    assert [one.path.partition("?")[2] for one in proxy.received] == ["slot=production&wait=1&verify=none"] * 2


def test_one_question_waits_at_the_server_until_it_is_ready(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """Nobody has to ask again to hear of an end."""

    def end() -> None:
        wait_until(lambda: len(proxy.received) == 1, "it asks")
        wait_scenario.end()

    late = threading.Thread(target=end)
    late.start()
    began = time.monotonic()
    ended = wait_scenario.wait_through(proxy.url, "--interval", "60", "--timeout", "60")
    late.join()
    assert is_ready(ended, wait_scenario)
    assert time.monotonic() - began < 30
    assert len(proxy.received) == 1


def test_what_never_becomes_ready_ends_with_the_last_verdict(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """Exit code 5 when the time is over; who runs at the end, and not only at first, is on stdout."""
    wait_scenario.script(proxy, nothing, lambda: wait_scenario.begin("order-2"), nothing, nothing)
    began = time.monotonic()
    ended = wait_scenario.wait_through(proxy.url, "--interval", "1", "--timeout", "2.5")
    assert 2.5 <= time.monotonic() - began < 9
    assert ended.code == ExitCode.TIMED_OUT
    assert ended.out.startswith(f"NotReady: slot production (task hub {wait_scenario.app_client.hub}): 2 orchestration")
    for order in ("order-1", "order-2"):
        assert re.search(rf"^ ?{order} +ProcessOrder +Running +\d+ s ", ended.out, re.MULTILINE)
    assert re.search(r"^error: slot production was not ready within 2\.5 s: 2 orch", ended.err, re.MULTILINE)


def test_without_time_it_asks_once(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """`--timeout 0` is a look."""
    ended = wait_scenario.wait_through(proxy.url, "--timeout", "0")
    assert ended.code == ExitCode.TIMED_OUT
    assert len(proxy.received) == 1


@pytest.mark.parametrize("ready", [True, False])
def test_with_json_stdout_is_one_document(wait_scenario: WaitScenario, proxy: FaultProxy, ready: bool) -> None:
    """Whatever is reported on the way goes to stderr."""
    wait_scenario.script(proxy, TruncatedResponse(), *([] if ready else [nothing] * 9))
    ended = wait_scenario.wait_through(
        proxy.url, "--interval", "1", "--timeout", "30" if ready else "1.8", "--output=json"
    )
    assert (json.loads(ended.out)["ready"], ended.code) == (ready, 0 if ready else ExitCode.TIMED_OUT)
    assert len(reported_lines(ended)) == 2


# --- what is reported ---


@pytest.mark.long
def test_only_what_is_new_is_reported(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """The same verdict or the same trouble is not said again; another one is, and what was known before it."""
    busy = CannedResponse(503, b'{"code": "StorageUnavailable", "detail": "the state storage is busy"}')
    wait_scenario.script(proxy, nothing, nothing, busy, busy, lambda: wait_scenario.begin("order-2"))
    ended = wait_scenario.wait_through(proxy.url, *SOON)
    assert is_ready(ended, wait_scenario)
    assert len(proxy.received) == 6
    expected = r"\d orchestration|the state storage is busy|\bReady|^warning: EventsOnly"
    told = [re.search(expected, line) for line in ended.err.splitlines()]
    assert [one and one[0] for one in told] == [
        "1 orchestration",
        "warning: EventsOnly",
        "the state storage is busy",
        "2 orchestration",
        "Ready",
    ]


def test_who_blocks_and_for_how_long_is_shown(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """Also before the time is over: a log that waits for an hour must say for whom."""
    wait_scenario.app_client.publish(
        event(wait_scenario.app_client.hub, "order-0", time=timestamp(-7300), function="SendInvoice")
    )
    late = wait_scenario.wait_through(proxy.url, "--timeout", "0")
    assert "order-0" in reported_lines(late)[0]
    assert "2 h" in reported_lines(late)[0]
    assert re.search(r"^ ?order-0 +SendInvoice +Running +2 h +2 h +event", late.out, re.MULTILINE)


# --- trouble on the way ---


@pytest.mark.long
def test_a_server_that_is_stopped_killed_and_started_again_is_waited_for(
    storage: StorageSettings, tmp_path: Path
) -> None:
    """What it knew is in its storage. A server that is told to stop answers the question that it holds; one that is
    killed does not."""
    port = free_port()
    with ExitStack() as servers:

        def start() -> ServerProcess:
            return servers.enter_context(state_server(storage, tmp_path, server_key_entries(), port))

        first = start()
        wait_scenario = WaitScenario(AppClient(first.url))
        with run_fault_proxy(first.url) as proxy:

            def restart() -> None:
                wait_until(lambda: len(proxy.received) == 1, "it asks")
                first.stop()
                second, asked = start(), len(proxy.received)
                wait_until(lambda: len(proxy.received) > asked, "it asks again")
                second.stop(signal.SIGKILL)
                start()
                wait_scenario.end()

            restarting = threading.Thread(target=restart)
            restarting.start()
            ended = wait_scenario.wait_through(proxy.url, "--interval", "2", "--timeout", "60")
            restarting.join()
            assert is_ready(ended, wait_scenario)
            assert len(proxy.received) <= 20
    assert any("cannot be reached" in line for line in reported_lines(ended))


def test_a_busy_server_is_asked_again_when_it_says(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """Retry-After goes before the interval."""
    wait_scenario.script(
        proxy, CannedResponse(429, b"<html>Busy</html>", {"Retry-After": "2"}), CannedResponse(503, b'{"code": 7}')
    )
    ended = wait_scenario.wait_through(proxy.url, *SOON)
    assert is_ready(ended, wait_scenario)
    assert wait_scenario.times[1] - wait_scenario.times[0] >= 2
    assert reported_lines(ended)[:2] == ["the server answered with status 429", "the server answered with status 503"]


def test_a_retry_after_that_makes_no_sense_is_none(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """And one that is too long does not go beyond the time that is left: then it asks once more."""
    answers = [(502, "-1"), (504, "nan"), (503, "1e99")]
    wait_scenario.script(proxy, *(CannedResponse(status, headers={"Retry-After": after}) for status, after in answers))
    began = time.monotonic()
    ended = wait_scenario.wait_through(proxy.url, "--interval", "1", "--timeout", "3")
    assert 3 <= time.monotonic() - began < 9
    assert is_ready(ended, wait_scenario)
    assert len(proxy.received) == 4


def test_a_connection_that_is_cut_is_tried_again(
    wait_scenario: WaitScenario, connection_proxy: ConnectionProxy
) -> None:
    """Before the server sees the question, and before its answer comes back."""

    def cut_before_request(number: int, request: Request) -> bool:
        if number == 3:
            wait_scenario.end()
        return number == 1

    connection_proxy.cut_before_request = cut_before_request
    connection_proxy.cut_before_response = lambda number, request: number == 2
    ended = wait_scenario.wait_through(connection_proxy.url, *SOON)
    assert ended.code == 0
    assert "Ready" in reported_lines(ended)[-1]
    assert len(reported_lines(ended)) in (2, 3)
    assert "cannot be reached" in reported_lines(ended)[0]


def test_half_of_an_answer_is_none(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """The connection ends in the middle of the verdict."""
    wait_scenario.script(proxy, TruncatedResponse())
    ended = wait_scenario.wait_through(proxy.url, *SOON)
    assert is_ready(ended, wait_scenario)
    assert "cannot be reached" in reported_lines(ended)[0]


@pytest.mark.parametrize(
    ("fault", "expected_error"), [(NoResponse(), "timed out"), (EndlessResponse(), "the response takes too long")]
)
def test_an_answer_that_hangs_does_not_hold_up_the_end(
    wait_scenario: WaitScenario, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, fault: Fault, expected_error: str
) -> None:
    """It ends with 5, not much later than the time given."""
    assert waiting._GRACE_SECONDS <= 10
    monkeypatch.setattr(waiting, "_GRACE_SECONDS", 1)
    proxy.always_inject(fault)
    began = time.monotonic()
    ended = wait_scenario.wait_through(proxy.url, "--interval", "120", "--timeout", "1")
    assert 2 <= time.monotonic() - began < 8
    assert (ended.code, ended.out) == (ExitCode.TIMED_OUT, "")
    assert f"cannot be reached: {expected_error}" in ended.err
    assert len(proxy.received) == 1


def test_a_server_that_does_not_come_back_ends_the_wait_in_time(wait_scenario: WaitScenario) -> None:
    """What was known before it went is not passed off as a verdict."""
    with run_fault_proxy(wait_scenario.app_client.url) as proxy:
        url = proxy.url
        wait_scenario.script(proxy, nothing, *([CannedResponse(503)] * 9))
        began = time.monotonic()
        ended = wait_scenario.wait_through(url, "--interval", "1", "--timeout", "2.5", "--output", "json")
        assert 2.5 <= time.monotonic() - began < 9
    assert (ended.code, ended.out) == (ExitCode.TIMED_OUT, "")
    gone = wait_scenario.wait_through(url, "--interval", "1", "--timeout", "0.5")
    assert (gone.code, gone.out) == (ExitCode.TIMED_OUT, "")
    assert len(gone.err.splitlines()) == 2
    assert "was not ready within 0.5 s" in gone.err


def test_answers_that_come_at_once_are_not_asked_for_without_a_pause(
    wait_scenario: WaitScenario, proxy: FaultProxy
) -> None:
    """A server that is about to stop does not wait, and is not to be overrun."""
    verdict = wait_scenario.app_client.request_json("GET", "/staging?slot=production")
    proxy.always_inject(CannedResponse(200, json.dumps(verdict).encode()))
    ended = wait_scenario.wait_through(proxy.url, "--interval", "30", "--timeout", "1.5")
    assert ended.code == ExitCode.TIMED_OUT
    assert 2 <= len(proxy.received) <= 3


# --- what waiting cannot mend ---


@pytest.mark.parametrize(
    ("options", "key", "code", "message"),
    [
        (["--app", "nobody"], KEYS["reader"], ExitCode.FAILURE, "there is no app nobody"),
        (["--slot", "canary"], KEYS["reader"], ExitCode.FAILURE, "has no slot canary"),
        (["--slot", "-"], KEYS["reader"], ExitCode.USAGE, "slot"),
        ([], "unknown-key-0123456789", ExitCode.NOT_ALLOWED, "send a key that this server knows"),
        ([], KEYS["publisher"], ExitCode.NOT_ALLOWED, "needs reader or deployer or admin"),
    ],
)
def test_what_waiting_cannot_mend_ends_it_at_once(
    wait_scenario: WaitScenario, proxy: FaultProxy, options: list[str], key: str, code: int, message: str
) -> None:
    """One question, and an hour that nobody has to wait."""
    ended = wait_scenario.wait_through(proxy.url, *options, "--timeout", "3600", key=key)
    assert (ended.code, ended.out) == (code, "")
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1
    assert len(proxy.received) == 1


def test_a_key_that_is_taken_away_ends_the_wait(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """Not only the first answer can say so."""
    wait_scenario.script(proxy, nothing, CannedResponse(401))
    ended = wait_scenario.wait_through(proxy.url, *SOON)
    assert (ended.code, ended.out) == (ExitCode.NOT_ALLOWED, "")
    assert "Check SAFE_DEPLOY_KEY" in ended.err


# --- CI systems ---


def github(folder: Path) -> dict[str, str]:
    files = {"GITHUB_OUTPUT": str(folder / "output"), "GITHUB_STEP_SUMMARY": str(folder / "summary")}
    return {"GITHUB_ACTIONS": "true", "CI": "true", **files}


@pytest.mark.parametrize("ready", [True, False])
def test_on_github_the_outputs_are_those_of_the_end(
    wait_scenario: WaitScenario, proxy: FaultProxy, tmp_path: Path, ready: bool
) -> None:
    """Once, when the wait is over, however it ended."""
    wait_scenario.script(proxy, nothing, *([] if ready else [nothing] * 9))
    ended = wait_scenario.wait_through(
        proxy.url, "--interval", "1", "--timeout", "30" if ready else "0.8", **github(tmp_path)
    )
    assert ended.code == (0 if ready else ExitCode.TIMED_OUT)
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
    assert ("::error title=safe-deploy::slot production was not ready" in ended.err) is not ready


@pytest.mark.parametrize("ready", [True, False])
def test_in_azure_pipelines_the_outputs_are_those_of_the_end(
    wait_scenario: WaitScenario, proxy: FaultProxy, tmp_path: Path, ready: bool
) -> None:
    """As commands on stderr; stdout has none."""
    wait_scenario.script(proxy, nothing, *([] if ready else [nothing] * 9))
    given = {"TF_BUILD": "True", "AGENT_TEMPDIRECTORY": str(tmp_path)}
    ended = wait_scenario.wait_through(proxy.url, "--interval", "1", "--timeout", "30" if ready else "0.8", **given)
    assert ended.code == (0 if ready else ExitCode.TIMED_OUT)
    set_ready = [line for line in ended.err.splitlines() if "variable=ready;" in line]
    assert set_ready == [f"##vso[task.setvariable variable=ready;isOutput=true]{str(ready).lower()}"]
    assert "##vso" not in ended.out
    assert ("##vso[task.logissue type=error]slot production was not ready" in ended.err) is not ready


# --- terminals and signals: a process of its own ---


@dataclass
class TerminalRun:
    """`safe-deploy` as somebody typed it: stderr is a terminal, and what it shows is kept as it comes."""

    process: subprocess.Popen[bytes]
    shown: bytearray = field(default_factory=bytearray)

    def end(self) -> int:
        return self.process.wait(60)


@contextmanager
def run_in_terminal(arguments: list[str], given: dict[str, str], *, terminal: bool = True) -> Iterator[TerminalRun]:
    """Start it; with its block it has ended, and all that it has shown is there."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    with subprocess.Popen(
        command(*arguments),
        env=environment({"TERM": "xterm", "COLUMNS": "200", "LINES": "40"} | given),
        stdin=theirs if terminal else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        started = TerminalRun(process)

        def read() -> None:
            # A terminal whose other side is gone is an error to read.
            with suppress(OSError):
                while content := os.read(ours, 65536):
                    started.shown.extend(content)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield started
        finally:
            process.kill()
            process.wait()
            reader.join()
            os.close(ours)


HIDDEN, SHOWN = b"\x1b[?25l", b"\x1b[?25h"
"""What a terminal is told about its cursor."""

ERASED = b"\x1b[2K"


def test_in_a_terminal_a_table_of_the_blockers_stays_up_to_date(wait_scenario: WaitScenario, proxy: FaultProxy) -> None:
    """Below the lines of what is new; it is gone when the wait is over, and the result is on stdout."""

    def drawn(name: bytes) -> None:
        # A table is drawn when an answer has come, which is before the next question.
        wait_until(lambda: name in window.shown, f"{name!r} is in the table")

    def another() -> None:
        drawn(b"order-1    ProcessOrder ")
        assert b"order-2 " not in window.shown
        wait_scenario.begin("order-2")

    def both() -> None:
        drawn(b"order-2    ProcessOrder ")
        wait_scenario.end()

    wait_scenario.script(proxy, nothing, another, both)
    with run_in_terminal([*WAIT, *SOON], wait_scenario.app_client.given(SAFE_DEPLOY_SERVER=proxy.url)) as window:
        assert window.end() == 0
        assert window.process.stdout is not None
        out = window.process.stdout.read().decode()
    assert out == f"Ready: slot production (task hub {wait_scenario.app_client.hub}), by lifecycle events alone\n"
    assert window.shown.count(HIDDEN) == window.shown.count(SHOWN) == 1
    assert len(re.findall(rf"{CLOCK} (?:Not)?Ready", window.shown.decode())) == 3
    # What was drawn is taken away again.
    assert ERASED in window.shown


@pytest.mark.parametrize(
    "given", [{"NO_COLOR": "1"}, {"CI": "true"}, {"GITHUB_ACTIONS": "true"}, {"TERM": "dumb"}], ids=str
)
def test_nothing_moves_where_nobody_looks(wait_scenario: WaitScenario, given: dict[str, str]) -> None:
    """In CI, or where somebody asked for it, a terminal gets plain lines, as a pipe does."""
    wait_scenario.end()
    with run_in_terminal([*WAIT, *SOON], wait_scenario.app_client.given() | given) as window:
        assert window.end() == 0
    assert b"\x1b" not in window.shown
    assert len(re.findall(rf"^{CLOCK} Ready", window.shown.decode(), re.MULTILINE)) == 1


@pytest.mark.parametrize(
    ("number", "terminal"),
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGTERM, False)],
)
def test_a_signal_ends_the_wait_at_once(
    wait_scenario: WaitScenario, proxy: FaultProxy, number: signal.Signals, terminal: bool
) -> None:
    """However long the question would wait; the terminal gets its cursor back, and nobody sees a stack trace."""
    given = wait_scenario.app_client.given(SAFE_DEPLOY_SERVER=proxy.url)
    with run_in_terminal([*WAIT, "--interval", "120"], given, terminal=terminal) as window:
        wait_until(lambda: len(proxy.received) == 1, "it asks")
        began = time.monotonic()
        window.process.send_signal(number)
        code = window.end()
        assert time.monotonic() - began < 10
    if terminal or number == signal.SIGINT:
        assert (code, b"error: stopped" in window.shown) == (ExitCode.FAILURE, True)
    else:
        assert code == -number
    assert b"Traceback" not in window.shown
    assert window.shown.count(HIDDEN) == window.shown.count(SHOWN) == int(terminal)
