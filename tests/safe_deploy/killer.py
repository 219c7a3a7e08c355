"""Kills `safe-deploy` at one of its requests to the server."""

import signal
import threading
from collections.abc import Callable

from tests.safe_deploy.connection_proxy import ConnectionProxy, Request
from tests.safe_deploy.deployment_fixture import RunningCli, kill_cli


class Killer:
    """Kills safe-deploy at one of its requests, counted from 1: before the request reaches the server, or before the
    response reaches safe-deploy."""

    def __init__(self, connection_proxy: ConnectionProxy, request_number: int, *, server_answers: bool) -> None:
        """Kill the CLI at this request: before the server has it, or with `server_answers` before the CLI has the
        response."""
        self.running_cli: RunningCli | None = None
        self.has_started = threading.Event()
        connection_proxy.clear()
        if server_answers:
            connection_proxy.cut_before_response = self._kill_before_forwarding(request_number)
        else:
            connection_proxy.cut_before_request = self._kill_before_forwarding(request_number)

    def _kill_before_forwarding(self, fatal_request: int) -> Callable[[int, Request], bool]:
        """For the proxy: kill safe-deploy at the request with this number, and forward nothing of that request."""

        def kill_at_request(request_number: int, request: Request) -> bool:
            """Kill the CLI when it sends the fatal request."""
            if request_number != fatal_request:
                return False
            assert self.has_started.wait(60)
            assert self.running_cli is not None
            kill_cli(self.running_cli)
            return True

        return kill_at_request

    def run_until_killed(self, start: Callable[[list[str]], RunningCli], arguments: list[str]) -> None:
        """Start safe-deploy with these arguments, and wait until it has been killed at the request."""
        self.running_cli = start(arguments)
        self.has_started.set()
        result = self.running_cli.wait_for_result()
        assert result.code == -signal.SIGKILL, result.stderr
