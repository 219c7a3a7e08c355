"""Kills all processes of a CI job at one of its requests: to the state server, or to Azure by `az`."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness.processes import wait_until
from tests.pipelines.ci_machine import Machine
from tests.safe_deploy.connection_proxy import ConnectionProxy, Request


@dataclass
class JobKiller:
    """Kills the jobs of one machine, whose requests to the server go through the proxy."""

    machine: Machine
    proxy: ConnectionProxy

    @contextmanager
    def kill_at(self, request_number: int, *, after_effect: bool) -> Iterator[Callable[[], bool]]:
        """Kill the job that sends this request, counted from 1, before or after the request is carried out.

        Yields a function: whether a job was killed."""
        fake_azure = self.machine.fake_azure
        reached = threading.Event()
        hanging_requests: dict[int, str | None] = {}

        def is_reached() -> bool:
            """Whether the job has come to the point at which it is to be killed."""
            if fake_azure.is_hanging():
                reached.set()
            return reached.is_set()

        def hang(number: int, when: str) -> bool:
            """Hold up a request at the fatal point until the job is killed, and then cut its connection."""
            if hanging_requests.get(number) != when:
                return False
            reached.set()
            wait_until(lambda: self.machine.kill_when is None, "the job is killed")
            return True

        def cut_before_request(number: int, request: Request) -> bool:
            """Count the request, and hold it up if the job is to be killed before the server has it."""
            hanging_requests[number] = fake_azure.count_request()
            return hang(number, "before")

        def cut_before_response(number: int, request: Request) -> bool:
            """Hold up the response if the job is to be killed before it has it."""
            return hang(number, "after")

        fake_azure.hang_at_request(request_number, after_effect=after_effect)
        self.proxy.cut_before_request, self.proxy.cut_before_response = cut_before_request, cut_before_response
        self.machine.kill_when = is_reached
        try:
            yield reached.is_set
        finally:
            self.machine.kill_when = None
            self.proxy.clear()
            fake_azure.clear_hang()
