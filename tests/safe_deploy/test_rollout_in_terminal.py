"""`safe-deploy rollout start --wait` in a terminal: one line that lives, below the lines about what has changed."""

import re
import signal
from collections.abc import Iterator

import pytest

from harness.processes import wait_until
from safe_deploy.errors import ExitCode
from tests.safe_deploy.canned_server import CannedServer, run_canned_server
from tests.safe_deploy.rollout_responses import build_health, build_rollout
from tests.safe_deploy.terminal import run_in_terminal

FOLLOW = ["rollout", "start", "--version", "1.5.0", "--steps", "10@15m,50@30m", "--wait"]


@pytest.fixture
def server() -> Iterator[CannedServer]:
    """A server with a rollout that does not change."""
    with run_canned_server() as server:
        server.answer("PUT /rollout", build_rollout())
        server.answer("GET /rollout", build_rollout())
        server.answer("GET /health", build_health())
        yield server


def follow_and_interrupt(server: CannedServer, columns: int, last_text: str, **variables: str) -> tuple[int, str]:
    """Follow the rollout until the terminal shows a text, and press Ctrl-C. Returns the exit code and what was drawn,
    without escape sequences."""
    environment = {"SAFE_DEPLOY_SERVER": server.proxy.url, "SAFE_DEPLOY_APP": "shop", **variables}
    with run_in_terminal(FOLLOW, environment, columns=columns) as window:
        wait_until(lambda: last_text.encode() in window.output, f"{last_text!r} is shown")
        window.process.send_signal(signal.SIGINT)
        code = window.wait()
    return code, re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "\n", window.output.decode())


@pytest.mark.parametrize("columns", [60, 80])
def test_a_terminal_shows_step_health_and_time_in_one_line(server: CannedServer, columns: int) -> None:
    code, drawn = follow_and_interrupt(server, columns, "step 1 of 2, 10 %: Undecided")
    assert code == ExitCode.INTERRUPTED
    lines = re.findall(r"^.*\(waited \d+ s, .* left\)", drawn, re.MULTILINE)
    assert lines[0].startswith("waiting until the rollout ")
    assert lines[-1].startswith("step 1 of 2, 10 %: Undecided")
    assert max(map(len, lines)) <= columns
    assert "the rollout goes on without this command" in drawn
    assert "Traceback" not in drawn


def test_a_log_has_no_line_that_is_drawn_again(server: CannedServer) -> None:
    code, drawn = follow_and_interrupt(server, 80, "3 of 38 failed", CI="true")
    assert code == ExitCode.INTERRUPTED
    assert " left)" not in drawn
    assert drawn.count("3 of 38 failed") == 1
