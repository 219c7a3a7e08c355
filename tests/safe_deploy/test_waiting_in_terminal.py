"""`safe-deploy status --wait` in a terminal, and signals that end it. Every command is a new process."""

import re
import signal
import time

import pytest

from harness.processes import wait_until
from safe_deploy.errors import ExitCode
from tests.safe_deploy.fault_proxy import (
    FaultProxy,
)
from tests.safe_deploy.terminal import run_in_terminal
from tests.safe_deploy.wait_scenario import CLOCK, SOON, WAIT, WaitScenario

HIDE_CURSOR, SHOW_CURSOR = b"\x1b[?25l", b"\x1b[?25h"
"""The escape sequences that hide and show the cursor."""

ERASE_LINE = b"\x1b[2K"


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_terminal_shows_one_line_that_is_kept_up_to_date(
    wait_scenario: WaitScenario, proxy: FaultProxy, columns: int
) -> None:
    """It says at once what is waited for, then who blocks, and never wraps. The command erases it. Stdout has the
    result."""

    def wait_until_drawn(text: str) -> None:
        # The line is drawn after a response, before the next request.
        wait_until(lambda: text.encode() in window.output, f"{text!r} is in the line")

    def expect_subject() -> None:
        """The line names what is waited for before the first response arrives."""
        wait_until_drawn("waiting until slot production")

    def begin_second_order() -> None:
        """Begin another order once the line shows the first."""
        wait_until_drawn("InstancesActive: 1, oldest order-1")
        wait_scenario.begin("order-2")

    def end_both_orders() -> None:
        """End the orders once the line shows that there are two."""
        wait_until_drawn("InstancesActive: 2, oldest order-1")
        wait_scenario.end()

    wait_scenario.script(proxy, expect_subject, begin_second_order, end_both_orders)
    with run_in_terminal(
        [*WAIT, *SOON], wait_scenario.app_client.build_environment(SAFE_DEPLOY_SERVER=proxy.url), columns=columns
    ) as window:
        assert window.wait() == 0
        assert window.process.stdout is not None
        out = window.process.stdout.read().decode()
    assert out == f"Ready: slot production (task hub {wait_scenario.app_client.hub}), by lifecycle events alone\n"
    assert window.output.count(HIDE_CURSOR) == window.output.count(SHOW_CURSOR) == 1
    drawn = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "\n", window.output.decode())
    lines = re.findall(r"^.*\(waited \d+ s, \d+ s left\)", drawn, re.MULTILINE)
    assert len(lines) >= 3
    assert max(map(len, lines)) <= columns
    # The line is erased before the result.
    assert window.output.rindex(ERASE_LINE) > window.output.rindex(b" s left)")


@pytest.mark.parametrize(
    "variables", [{"NO_COLOR": "1"}, {"CI": "true"}, {"GITHUB_ACTIONS": "true"}, {"TERM": "dumb"}], ids=str
)
def test_no_live_table_in_ci_or_without_color(wait_scenario: WaitScenario, variables: dict[str, str]) -> None:
    """Such a terminal gets plain lines, as a pipe does."""
    wait_scenario.end()
    with run_in_terminal([*WAIT, *SOON], wait_scenario.app_client.build_environment() | variables) as window:
        assert window.wait() == 0
    assert b"\x1b" not in window.output
    assert len(re.findall(rf"^{CLOCK} Ready", window.output.decode(), re.MULTILINE)) == 1
    assert len(re.findall(rf"^{CLOCK} waiting until slot production", window.output.decode(), re.MULTILINE)) == 1


@pytest.mark.parametrize(
    ("stop_signal", "terminal"),
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGTERM, False)],
)
def test_a_signal_ends_the_wait(
    wait_scenario: WaitScenario, proxy: FaultProxy, stop_signal: signal.Signals, *, terminal: bool
) -> None:
    """The pending request is abandoned, the terminal's cursor is restored, and no traceback is printed."""
    variables = wait_scenario.app_client.build_environment(SAFE_DEPLOY_SERVER=proxy.url)
    with run_in_terminal([*WAIT, "--interval", "120"], variables, terminal=terminal) as window:
        wait_until(lambda: len(proxy.received) == 1, "a request arrives")
        began = time.monotonic()
        window.process.send_signal(stop_signal)
        code = window.wait()
        assert time.monotonic() - began < 10
    if terminal or stop_signal == signal.SIGINT:
        assert (code, b"error: stopped" in window.output) == (ExitCode.INTERRUPTED, True)
    else:
        assert code == -stop_signal
    assert b"Traceback" not in window.output
    assert window.output.count(HIDE_CURSOR) == window.output.count(SHOW_CURSOR) == int(terminal)
