"""A load generator in its own process: `python -m tests.faults.load_generator` takes a plan as JSON in its only
argument and prints a tally as JSON. It uses raw sockets and prepared requests to leave the
processor to the server."""

import asyncio
import json
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.builders import event

_NUMBER = "@NUMBER@"


@dataclass
class LoadPlan:
    """Deliver events to one server, and write the numbers of the acknowledged events to a file, one per line.

    - `seconds`: how long to deliver.
    - `per_second`: the number of deliveries per second, which does not depend on the responses. Without this rate,
      deliveries are sent as fast as the responses arrive.
    - `batch`: the number of events of every fourth delivery. The others have one event.
    - `first`: the number of the first event.
    - `timeout`: in seconds.
    """

    address: str
    hub: str
    acknowledged_file: str
    seconds: float
    connections: int
    per_second: float | None = None
    batch: int = 100
    first: int = 0
    timeout: float = 30

    def size(self, delivery: int) -> int:
        """The number of events of a delivery, by its number: every fourth delivery is a batch, the others are single
        events."""
        return self.batch if delivery % 4 == 0 else 1


@dataclass
class LoadTally:
    """The result. `offered` counts the deliveries that were due. `unexpected_responses` describes the responses that
    are neither 200 nor a refusal with Retry-After and a problem document. `longest_response` is in seconds."""

    offered: int = 0
    sent: int = 0
    statuses: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    unexpected_responses: list[str] = field(default_factory=list)
    acknowledged_deliveries: int = 0
    acknowledged_events: int = 0
    longest_response: float = 0
    max_waiting: int = 0
    seconds: float = 0


class LoadGenerator:
    """Delivers events by a plan over several connections, and counts the responses."""

    def __init__(self, plan: LoadPlan) -> None:
        """Split the JSON of an event at its number, so that an event is built without encoding JSON again."""
        self._plan = plan
        self.tally = LoadTally()
        parts = urlsplit(plan.address)
        assert parts.hostname is not None
        assert parts.port is not None
        self._address = (parts.hostname, parts.port)
        self._host = f"{parts.hostname}:{parts.port}"
        before, after = json.dumps(event(plan.hub, _NUMBER), separators=(",", ":")).split(_NUMBER)
        self._before, self._after = before.encode(), after.encode()
        self._delivery_count = 0
        self._number = plan.first
        self.acknowledged: list[int] = []
        self._waiting: asyncio.Queue[None] = asyncio.Queue()

    async def run(self) -> LoadTally:
        """Deliver events until the time of the plan is over."""
        began_at = time.monotonic()
        self._until = began_at + self._plan.seconds
        async with asyncio.TaskGroup() as tasks:
            workers = [tasks.create_task(self._send_over_one_connection()) for _ in range(self._plan.connections)]
            if self._plan.per_second is not None:
                await self._queue_deliveries(self._plan.per_second)
                # Deliveries in flight may be answered. Those that wait for a connection are not sent any more.
                self._until = 0
                for _ in workers:
                    self._waiting.put_nowait(None)
        self.tally.seconds = time.monotonic() - began_at
        return self.tally

    async def _queue_deliveries(self, per_second: float) -> None:
        """Make deliveries due at this rate, until the time of the plan is over."""
        began = time.monotonic()
        while (now := time.monotonic()) < self._until:
            due = int((now - began) * per_second)
            for _ in range(due - self.tally.offered):
                self._waiting.put_nowait(None)
            self.tally.offered = due
            self.tally.max_waiting = max(self.tally.max_waiting, self._waiting.qsize())
            await asyncio.sleep(0.01)

    async def _send_over_one_connection(self) -> None:
        """Send one delivery after the other, over the same connection while it lasts."""
        stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while time.monotonic() < self._until:
            if self._plan.per_second is not None:
                await self._waiting.get()
                if time.monotonic() >= self._until:
                    break
            began = time.monotonic()
            delivery = self._next_delivery()
            while True:
                used_before = stream is not None
                try:
                    async with asyncio.timeout(self._plan.timeout):
                        if stream is None:
                            stream = await asyncio.open_connection(*self._address)
                        keeps_open = await self._deliver(*stream, delivery)
                    sends_again = False
                except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                    keeps_open = False
                    # The server closes an idle connection, possibly just when it is used again.
                    sends_again = used_before and not isinstance(error, TimeoutError)
                    if not sends_again:
                        self.tally.statuses[type(error).__name__] += 1
                if not keeps_open and stream is not None:
                    stream[1].close()
                    stream = None
                if not sends_again:
                    break
            self.tally.longest_response = max(self.tally.longest_response, time.monotonic() - began)
        if stream is not None:
            stream[1].close()

    def _next_delivery(self) -> range:
        """The numbers of the events of the next delivery."""
        first = self._number
        self._number += self._plan.size(self._delivery_count)
        self._delivery_count += 1
        return range(first, self._number)

    async def _deliver(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, numbers: range) -> bool:
        """Send one delivery and read its response. Returns whether the connection stays open."""
        body = b"[" + b",".join(b"%s%d%s" % (self._before, number, self._after) for number in numbers) + b"]"
        head = (
            f"POST /api/events HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        self.tally.sent += 1
        status, headers, response = await _read_response(reader)
        self.tally.statuses[str(status)] += 1
        if status == 200:
            self.tally.acknowledged_deliveries += 1
            self.tally.acknowledged_events += len(numbers)
            self.acknowledged += numbers
        elif not _is_documented_refusal(status, headers, response):
            self.tally.unexpected_responses.append(f"{status} {headers} {response[:200]!r}")
        if status != 200:
            # Do not send the next delivery at once after a refusal.
            await asyncio.sleep(0.05)
        return headers.get("connection", "").lower() != "close"


async def _read_response(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """The status, the headers and the body of an HTTP response."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split(" ")[1]), headers, await reader.readexactly(int(headers.get("content-length", "0")))


def _is_documented_refusal(status: int, headers: dict[str, str], body: bytes) -> bool:
    """Whether the response is a refusal that docs/http-api.md lets a publisher repeat: 429 or 503 with Retry-After."""
    if status not in (429, 503) or not headers.get("retry-after", "").isdigit():
        return False
    if headers.get("content-type") != "application/problem+json":
        return False
    problem = json.loads(body)
    return problem.get("status") == status and bool(problem.get("code"))


def main(plan: LoadPlan) -> None:
    """Send the events of the plan, write the numbers of those that were acknowledged to its file, and print the
    counts."""
    generator = LoadGenerator(plan)
    tally = asyncio.run(generator.run())
    Path(plan.acknowledged_file).write_text("\n".join(map(str, generator.acknowledged)))
    print(json.dumps(vars(tally)))


if __name__ == "__main__":
    main(LoadPlan(**json.loads(sys.argv[1])))
