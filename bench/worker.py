"""A worker process for the variants without a server.

It reads a number of events from standard input, handles them, and prints the wall and processor seconds that they took.
The trigger also handles events at a pace, and prints their delays.
`Worker` controls it."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict
from typing import Any

import function_app
from bench.event_stream import EventStream, min_lag_events
from bench.machine import ROOT, Stopwatch
from bench.paced_events import (
    Pace,
    PacedEvent,
    PublishingDelays,
    exempt_planned_events,
    plan_events,
    publish_when_due,
)
from bench.storage import SHARD_COUNT
from bench.straightforward import StraightforwardRecorder
from bench.transaction_limit import TransactionLimit
from state_api.domain.errors import TooManyEvents
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
        seconds, worked = await asyncio.to_thread(self._send_order, events)
        return float(seconds), float(worked)

    async def prepare(self, pace: Pace) -> None:
        """Let the worker of the trigger prepare the next events, for `publish`."""
        await asyncio.to_thread(self._send_order, asdict(pace))

    async def publish(self, begins_at: float) -> PublishingDelays:
        """Let the worker of the trigger handle the prepared events, each when it is due."""
        return PublishingDelays(**await asyncio.to_thread(self._send_order, begins_at))

    def _send_order(self, order: int | float | dict[str, Any]) -> Any:
        """Send an order to the worker process, and return its answer. Raises RuntimeError if the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(order)}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with exit code {self._process.wait()}; its output is above")
        return json.loads(line)


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
    """Handle orders, which are lines of JSON, until the standard input ends. Each answer is a line as well."""
    async with AsyncExitStack() as stack:
        run: Callable[[Any], Awaitable[Any]]
        if role in ("limit", "emulator"):
            connection = os.environ[STATE_STORAGE]
            run = (
                await stack.enter_async_context(TransactionLimit(connection, without_library=role == "emulator"))
            ).run
        else:
            stack.push_async_callback(function_app.server().close)
            run = _TriggerWorker(straightforward=role == "straightforward-trigger").run
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await run(json.loads(line))), flush=True)


def open_trigger_stream() -> EventStream:
    """The stream of the trigger's worker, from its first event on."""
    return EventStream("triggered", lag=min_lag_events(CONCURRENT_EVENTS))


class _TriggerWorker:
    """Calls the Event Grid trigger as the Azure Functions worker does: one event as text for each invocation."""

    def __init__(self, *, straightforward: bool) -> None:
        """Load the Function App, or with `straightforward` the baseline that the trigger is compared with."""
        server = function_app.server()
        self._recorder = StraightforwardRecorder(server.tables, SHARD_COUNT) if straightforward else None
        self._stream = open_trigger_stream()
        # The decorators of the library wrap the function.
        functions = {
            function.get_function_name(): function.get_user_function() for function in function_app.app.get_functions()
        }
        self._function = functions["RecordLifecycleEvent"]
        self._prepared: list[tuple[PacedEvent, str]] = []

    async def run(self, order: int | float | dict[str, Any]) -> tuple[float, float] | dict[str, Any] | None:
        """Carry out an order: handle a number of events, prepare events for a Pace as JSON, or publish these from a
        time on."""
        if isinstance(order, int):
            return await self._run_at_once(order)
        if isinstance(order, dict):
            self._prepared = [(event, json.dumps(event.body)) for event in plan_events(self._stream, Pace(**order))]
            exempt_planned_events()
            return None
        return await self._publish(order)

    async def _publish(self, begins_at: float) -> dict[str, Any]:
        """Deliver the prepared events, each when it is due. Returns PublishingDelays as JSON."""

        async def deliver(index: int) -> None:
            """Deliver one event until it is accepted, as Event Grid does. The server refuses events when it is late."""
            while True:
                try:
                    await self._function(event=self._prepared[index][1])
                except TooManyEvents as error:
                    await asyncio.sleep(error.retry_after)
                else:
                    return

        events = [event for event, _ in self._prepared]
        return asdict(await publish_when_due(events, deliver, begins_at=begins_at))

    async def _run_at_once(self, events: int) -> tuple[float, float]:
        """Deliver the next events, CONCURRENT_EVENTS at a time. Returns wall and processor seconds."""
        waiting = iter([json.dumps(event_body) for event_body in self._stream.next_events(events)])

        async def deliver_waiting_events() -> None:
            """Record events one at a time until none waits. Several of these tasks run at once and take from the same
            events."""
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
