"""A worker process for the variants without a server.

It reads a number of events from standard input, handles them, and prints the wall and processor seconds that they took.
`Worker` controls it."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import function_app
from bench.event_stream import EventStream, min_lag_events
from bench.machine import ROOT, Stopwatch
from bench.straightforward import StraightforwardRecorder
from bench.transaction_limit import TransactionLimit
from state_api.settings import STATE_STORAGE, read_settings

CONCURRENT_EVENTS = 64
WORKER_ROLES = ("limit", "emulator", "trigger", "straightforward-trigger")


class Worker:
    """A running worker process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def run(self, events: int) -> tuple[float, float]:
        """Let the worker handle the next events. Returns wall and processor seconds."""
        return await asyncio.to_thread(self._run, events)

    def _run(self, events: int) -> tuple[float, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{events}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with exit code {self._process.wait()}; its output is above")
        seconds, worked = json.loads(line)
        return float(seconds), float(worked)


@contextmanager
def run_worker(role: str, connection: str) -> Iterator[Worker]:
    """Start a worker process with one of WORKER_ROLES, until the block ends."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STATE_", "AzureWebJobs"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.worker", role],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment | {STATE_STORAGE: connection},
    )
    with process:
        try:
            yield Worker(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)


async def _serve_role(role: str) -> None:
    async with AsyncExitStack() as stack:
        if role in ("limit", "emulator"):
            connection = os.environ[STATE_STORAGE]
            run = (
                await stack.enter_async_context(TransactionLimit(connection, without_library=role == "emulator"))
            ).run
        else:
            stack.push_async_callback(function_app.server().close)
            run = _TriggerWorker(straightforward=role == "straightforward-trigger").run
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await run(int(line))), flush=True)


class _TriggerWorker:
    """Calls the Event Grid trigger as the Azure Functions worker does: one event as text for each invocation."""

    def __init__(self, *, straightforward: bool) -> None:
        server = function_app.server()
        self._recorder = StraightforwardRecorder(server.tables, 4) if straightforward else None
        self._stream = EventStream("triggered", lag=min_lag_events(CONCURRENT_EVENTS))
        # The decorators of the library wrap the function.
        functions = {
            function.get_function_name(): function.get_user_function() for function in function_app.app.get_functions()
        }
        self._function = functions["RecordLifecycleEvent"]

    async def run(self, events: int) -> tuple[float, float]:
        """Deliver the next events, CONCURRENT_EVENTS at a time. Returns wall and processor seconds."""
        waiting = iter([json.dumps(event_body) for event_body in self._stream.next_events(events)])

        async def deliver_waiting_events() -> None:
            for text in waiting:
                if self._recorder is None:
                    await self._function(event=text)
                else:
                    await self._recorder.record([function_app.parse_delivered_event(text)], "trigger")

        clock = Stopwatch()
        await asyncio.gather(*(deliver_waiting_events() for _ in range(CONCURRENT_EVENTS)))
        return clock.read()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    read_settings(os.environ)
    asyncio.run(_serve_role(sys.argv[1]))
