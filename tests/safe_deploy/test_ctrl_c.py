"""Ctrl-C at every command that waits for a server, in a terminal and without one: exit code 130, and no traceback."""

import signal
import subprocess
import sys

import pytest

from harness.processes import wait_until
from safe_deploy.errors import ExitCode
from tests.conftest import new_hub_name
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.fault_proxy import NoResponse, run_fault_proxy
from tests.safe_deploy.processes import environment
from tests.safe_deploy.terminal import run_in_terminal

COMMANDS = {
    "status": [],
    "stage": ["--task-hub", "shop42"],
    "deploy": ["--task-hub", "shop42", "--deploy-command", "true", "--swap-command", "true"],
    "rollback": ["--outcome", "done"],
    "abandon": ["--task-hub", "shop42"],
    "release": ["--version", "1", "--task-hub", "shop42", "--address", "https://shop.example", "--", "true"],
    "promote": ["--version", "1"],
    "retire": ["--", "true"],
    "rollout start": ["--steps", "10@15m"],
    "rollout status": [],
    "timeline": [],
    "health": [],
    "instances": [],
    "history": [],
    "register": ["--task-hub", "shop42"],
    "waive": ["--task-hub", "shop42", "--instance-id", "order-1", "--reason", "stuck"],
    "unwaive": ["--task-hub", "shop42", "--instance-id", "order-1"],
    "forget-router": ["--name", "router-1"],
    "adopt": ["--task-hub", "shop42"],
    "unregister": ["--yes"],
    "policy set": ["settleSeconds=60"],
    "task-hub delete": ["--task-hub", "shop42", "--yes"],
    "quarantine purge": ["--before", "2026-01-01", "--yes"],
    "cleanup": [],
    "doctor": [],
    "router": ["--target", "envoy", "--out", "envoy"],
    "rollout pause": [],
    "rollout resume": [],
    "rollout abort": [],
    "rollout finish": [],
    "apps": [],
    "show": [],
    "releases": [],
    "versions": ["--slot", "production"],
    "policy get": [],
    "task-hub show": ["--task-hub", "shop42"],
    "quarantine list": [],
    "unquiesce": ["--version", "1", "--resource-group", "shop"],
    "quiesce": ["--version", "1", "--resource-group", "shop"],
}


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_ends_a_command_with_130(command: str, tmp_path: object, *, terminal: bool) -> None:
    with run_fault_proxy() as proxy:
        proxy.always_inject(NoResponse())
        variables = {"SAFE_DEPLOY_SERVER": proxy.url, "SAFE_DEPLOY_APP": "shop"}
        arguments = [*command.split(), *COMMANDS[command]]
        if command == "router":
            arguments[arguments.index("envoy", 3)] = str(tmp_path)
        with run_in_terminal(arguments, variables, terminal=terminal) as window:
            wait_until(lambda: len(proxy.received) == 1, "the request arrives")
            window.process.send_signal(signal.SIGINT)
            code = window.wait()
    assert (code, window.output.decode().splitlines()[-1]) == (ExitCode.INTERRUPTED, "error: stopped")
    assert b"Traceback" not in window.output


def run_swap_against_silence(app_client: AppClient, silent_request: int) -> tuple[int, str]:
    """Press Ctrl-C twice while `swap` waits for the response to this request, counted from 0. Returns the exit code and
    the output."""
    app_client.register()
    hub = app_client.stage(new_hub_name())
    with run_fault_proxy(app_client.url) as proxy:
        proxy.fault = lambda number: NoResponse() if number == silent_request else None
        variables = app_client.build_environment(SAFE_DEPLOY_SERVER=proxy.url)
        with run_in_terminal(["swap", "--task-hub", hub, "--", "true"], variables) as window:
            wait_until(lambda: len(proxy.received) > silent_request, "the request arrives")
            window.process.send_signal(signal.SIGINT)
            wait_until(lambda: b"press Ctrl-C again to stop at once" in window.output, "the command announces its end")
            window.process.send_signal(signal.SIGINT)
            code = window.wait()
    return code, window.output.decode()


def test_a_second_ctrl_c_ends_a_swap_that_is_not_on_record_with_130(app_client: AppClient) -> None:
    """The first one would let a swap be finished. The server does not answer."""
    code, output = run_swap_against_silence(app_client, silent_request=0)
    assert (code, output.splitlines()[-1]) == (ExitCode.INTERRUPTED, "error: stopped")


def test_a_second_ctrl_c_ends_a_swap_that_may_be_on_record_with_6(app_client: AppClient) -> None:
    code, output = run_swap_against_silence(app_client, silent_request=1)
    assert code == ExitCode.CONFLICT
    assert "may be on record as pending" in output.splitlines()[-1]
    assert "Traceback" not in output


def test_ctrl_c_while_the_commands_are_loaded_is_as_quiet() -> None:
    """The importer raises what Ctrl-C raises."""
    script = """
import sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "safe_deploy.client":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from safe_deploy.__main__ import main
main()
"""
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (ExitCode.INTERRUPTED, "", "error: stopped\n")
