"""Kills all processes of a CI job at one of its requests: to the state server, or to Azure by `az`."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness.processes import wait_until
from tests.pipelines.ci_machine import Machine
from tests.safe_deploy.connection_proxy import ConnectionProxy, Request


@dataclass(frozen=True)
class Boundary:
    """A place between two requests. `number` counts the requests to the server, or the calls of `az`, from 1.
    `has_effect`: the request was carried out, but the job has no answer."""

    to_azure: bool
    number: int
    has_effect: bool

    def __str__(self) -> str:
        kind = "call of az" if self.to_azure else "request"
        return f"{'after' if self.has_effect else 'before'} {kind} {self.number}"


@dataclass
class JobKiller:
    """Kills the jobs of one machine, whose requests to the server go through the proxy."""

    machine: Machine
    proxy: ConnectionProxy

    @contextmanager
    def kill_at(self, boundary: Boundary) -> Iterator[Callable[[], bool]]:
        """Kill the job that comes at this boundary. Yields whether it has come there."""
        reached = threading.Event()
        self.machine.fake_azure.clear_hang()
        self.proxy.clear()

        def is_reached() -> bool:
            if boundary.to_azure and self.machine.fake_azure.is_hanging():
                reached.set()
            return reached.is_set()

        def cut(number: int, request: Request) -> bool:
            if number != boundary.number:
                return False
            reached.set()
            wait_until(lambda: self.machine.kill_when is None, "the job is killed")
            return True

        if boundary.to_azure:
            self.machine.fake_azure.hang_at_call(boundary.number, after_effect=boundary.has_effect)
        elif boundary.has_effect:
            self.proxy.cut_before_response = cut
        else:
            self.proxy.cut_before_request = cut
        self.machine.kill_when = is_reached
        try:
            yield reached.is_set
        finally:
            self.machine.kill_when = None
            self.machine.fake_azure.clear_hang()
            self.proxy.clear()
