"""One random history of a task hub: orchestrations and faults in rounds, and a state server that is asked all the time.
Each answer is judged by what the history did, and by what the task hub's own storage shows."""

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from random import Random

import httpx

from tests.platform.event_relay import EventRelay
from tests.platform.scenarios import SCENARIOS, SCENARIOS_WITH_LAUNCHERS, Scenario, launch_chain
from tests.platform.state_server import (
    MANAGEMENT_API_PROVIDER_CONFIG,
    MAX_SCAN_SECONDS,
    READY_DELAY_SECONDS,
    STORAGE_PROVIDER_CONFIG,
    StagingStatusResponse,
    StateServerProcess,
)
from tests.platform.task_hub_driver import TaskHubDriver
from tests.platform.witness import StorageLook, active_throughout, blocking_in, starts_throughout

PROVIDER_CONFIGS = {"azureStorage": STORAGE_PROVIDER_CONFIG, "managementApi": MANAGEMENT_API_PROVIDER_CONFIG}

MOST_LISTED = 3
"""How many false answers of a history are listed."""

MAX_SCAN_LEASE_SECONDS = 15.0
"""How long a server that is killed while it reads a task hub keeps the next reader waiting, at most."""


@dataclass
class WorkloadReport:
    """What came of histories. Every round is either `drained` or `held_up`.

    `judged`: answers while something was surely active, or surely about to start; a Ready answer among them is one of
    `wrong_ready_responses`. `late_responses`: drained rounds after which Ready came too late. `wrong_reason`:
    rounds that were held up, and
    whose verdict does not name what the storage shows. `longest_seconds`: the longest time from a drained task
    hub to Ready, in
    seconds.
    """

    round_count: int = 0
    drained: int = 0
    held_up: int = 0
    orchestration_count: int = 0
    response_count: int = 0
    judged: int = 0
    ready_count: int = 0
    worker_kills: int = 0
    server_kills: int = 0
    event_count: int = 0
    lost_event_count: int = 0
    longest_seconds: float = 0.0
    wrong_ready_responses: list[str] = field(default_factory=list)
    late_responses: list[str] = field(default_factory=list)
    wrong_reason: list[str] = field(default_factory=list)

    def add(self, other: "WorkloadReport") -> None:
        for name, value in asdict(other).items():
            if name == "longest_seconds":
                self.longest_seconds = max(self.longest_seconds, value)
            else:
                setattr(self, name, getattr(self, name) + value)

    @property
    def has_no_errors(self) -> bool:
        return not self.wrong_ready_responses and not self.late_responses and not self.wrong_reason


@dataclass(frozen=True, slots=True)
class FaultRates:
    """What a history may do besides orchestrations, as the share of rounds in which it does.

    A round is held up if it has not drained after `round_seconds`: after a kill of the worker, and on a busy machine
    without one too, because the extension hides a message that it gives up for up to 600 s.
    """

    worker_kills: float = 0.0
    server_kills: float = 0.0
    loss_rates: tuple[float, ...] = (0.0, 0.3, 1.0)
    round_seconds: float = 240.0


@dataclass(frozen=True, slots=True)
class Look:
    """A look at the storage. `kills`: how often the worker had been killed, if none was running when the look began."""

    shown: StorageLook
    kill_count: int | None


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer. `blocking`: why the task hub was not drained, by its storage, at every moment from question to answer;
    empty if it was drained. None if that is not known, because a worker may have changed the storage meanwhile.
    `expected_code`: the reason code that belongs to `blocking`."""

    answer: StagingStatusResponse
    blocking: list[str] | None
    expected_code: str


class RandomWorkload:
    """One history: rounds of orchestrations on one task hub, with one worker and one server."""

    def __init__(
        self,
        seed: str,
        provider: str,
        faults: FaultRates,
        hub: TaskHubDriver,
        server: StateServerProcess,
        relay: EventRelay,
    ) -> None:
        self.app = f"app-{hub.worker.task_hub}"
        self.report = WorkloadReport()
        self._seed = seed
        self._provider = provider
        self._faults = faults
        self._random = Random(f"{seed} rounds")
        self._hub = hub
        self._server = server
        self._relay = relay
        self._last_look: Look | None = None
        self._held_up = False

    async def play(self, *, rounds: int | None = None, seconds: float | None = None) -> WorkloadReport:
        """Play that many rounds, or begin rounds until the time is up. A round that is held up is the last one."""
        deadline = float("inf") if seconds is None else time.monotonic() + seconds
        await self._server.put_app(self.app, self._hub.worker.task_hub, PROVIDER_CONFIGS[self._provider])
        while (
            (rounds is None or self.report.round_count < rounds)
            and time.monotonic() < deadline
            and self._hub.worker.is_running
        ):
            await self._run_round(self.report.round_count)
            self.report.round_count += 1
        self.report.orchestration_count = self._hub.started_count
        self.report.worker_kills, self.report.server_kills = self._hub.worker.kill_count, self._server.kill_count
        self.report.event_count, self.report.lost_event_count = self._relay.posted_count, self._relay.lost_count
        return self.report

    async def _run_round(self, number: int) -> None:
        """Stories side by side with faults; then end everything and wait for Ready."""
        draw = self._random
        self._relay.loss_rate = draw.choice(self._faults.loss_rates)
        self._hub.worker_killed_in_round = draw.random() < self._faults.worker_kills
        kills_server = draw.random() < self._faults.server_kills
        stories = self._draw_stories(draw)
        self._hub.chain_begun.clear()
        kills: list[asyncio.Task[None]] = []
        first = f"first-{number}"
        responded_at = await self._hub.start_orchestration("Wait", first)
        assert responded_at is not None, "nobody kills the worker yet"
        self._hub.active_periods.open(first, responded_at, blocked_by=[first])
        asking = asyncio.create_task(self._poll_until_cancelled())
        try:
            await self._until_judged(asking)
            await self._hub.end_and_wait(first)
            if self._hub.worker_killed_in_round:
                amid_chain = stories[0] is launch_chain and draw.random() < 0.8
                kill = self._restart_worker(draw.uniform(0.1, 1.2), draw.uniform(0, 2), amid_chain=amid_chain)
                kills.append(asyncio.create_task(kill))
            if kills_server:
                kills.append(asyncio.create_task(self._restart_server(delay_seconds=draw.uniform(0, 3))))
            drained_at = await self._play_until_drained(number, stories, kills)
            await asyncio.gather(*kills)
        finally:
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
        if drained_at is None:
            await self._judge_held_up(number)
        else:
            self.report.drained += 1
            await self._wait_until_ready(number, drained_at)

    def _draw_stories(self, draw: Random) -> list[Scenario]:
        """A worker that is killed amid a chain of launchers leaves a start that is only a message. Few other stories
        then: while another orchestration is active, the verdict is NotReady, whatever the server makes of messages."""
        if self._provider != "azureStorage":
            return draw.choices(SCENARIOS, k=draw.randint(3, 6))
        if self._hub.worker_killed_in_round:
            return [launch_chain, *draw.choices(SCENARIOS_WITH_LAUNCHERS, k=draw.choice([0, 0, 1, 3]))]
        return draw.choices(SCENARIOS_WITH_LAUNCHERS, k=draw.randint(3, 6))

    async def _until_judged(self, asking: asyncio.Task[None]) -> None:
        """Until an answer of this round would have been false had it been Ready: every round has at least one."""
        before = self.report.judged
        async with asyncio.timeout(2 * MAX_SCAN_SECONDS):
            while self.report.judged == before and not asking.done():
                await asyncio.sleep(0.05)

    async def _play_until_drained(
        self, number: int, stories: list[Scenario], kills: list[asyncio.Task[None]]
    ) -> float | None:
        """Play the stories, and end what they leave active. The time from which the task hub was drained; None if it
        did not drain in `round_seconds`."""
        try:
            async with asyncio.timeout(self._faults.round_seconds) as timeout:
                async with asyncio.TaskGroup() as group:
                    for index, story in enumerate(stories):
                        instance_id = f"{story.__name__}-{number}-{index}"
                        group.create_task(story(self._hub, instance_id, Random(f"{self._seed} {instance_id}")))
                if kills:
                    await asyncio.wait(kills)
                return await self._hub.drain()
        except TimeoutError:
            if not timeout.expired():
                raise
            return None

    async def _restart_worker(self, delay_seconds: float, downtime_seconds: float, *, amid_chain: bool) -> None:
        """Kill the worker after that many seconds, counted from the start of a chain or from now, and start it again
        after it was down for that many seconds."""
        if amid_chain:
            await self._hub.chain_begun.wait()
        await asyncio.sleep(delay_seconds)
        async with self._hub.no_kill_lock:
            self._hub.worker.kill()
            await asyncio.sleep(downtime_seconds)
            await self._hub.worker.start()

    async def _restart_server(self, *, delay_seconds: float) -> None:
        await asyncio.sleep(delay_seconds)
        await self._server.restart()

    async def _poll_until_cancelled(self) -> None:
        times = Random()
        while True:
            await self._poll_verdict()
            await asyncio.sleep(times.random() * 0.3)

    async def _poll_verdict(self) -> Judged | None:
        """One answer, held against what was active; None if the server was killed meanwhile."""
        before = self._last_look or await self._look()
        try:
            answer = await self._server.get_staging_status(self.app)
        except httpx.TransportError:
            await asyncio.sleep(0.1)
            return None
        after = self._last_look = await self._look()
        code = "InstancesActive" if after.shown.active else "StartsPending"
        judged = Judged(answer, self._blocking_between(before, after), code)
        active = (
            self._hub.active_periods.find_covering(answer.requested_at, answer.responded_at)
            or active_throughout(before.shown, after.shown)
            or (starts_throughout(before.shown, after.shown) if self._sees_messages else [])
            or judged.blocking
        )
        self.report.response_count += 1
        self.report.judged += bool(active)
        self.report.ready_count += answer.ready
        if answer.ready and active and len(self.report.wrong_ready_responses) < MOST_LISTED:
            shown = json.dumps(answer.verdict)
            self.report.wrong_ready_responses.append(f"seed {self._seed}: Ready while {active} was active: {shown}")
        return judged

    async def _look(self) -> Look:
        kills = None if self._hub.worker.is_running else self._hub.worker.kill_count
        return Look(await self._hub.storage.look(), kills)

    def _blocking_between(self, before: Look, after: Look) -> list[str] | None:
        """What blocks at every moment between two looks, as far as the server can see it. None if that is not known."""
        if not self._sees_messages:
            return after.shown.active if before.shown.rows == after.shown.rows else None
        dead = (
            before.kill_count is not None and before.kill_count == after.kill_count and not self._hub.worker.is_running
        )
        return blocking_in(after.shown, self._hub.timers_to_come()) if dead and before.shown == after.shown else None

    @property
    def _sees_messages(self) -> bool:
        return self._provider == "azureStorage"

    async def _wait_until_ready(self, number: int, drained_at: float) -> None:
        """Ask until Ready."""
        while (judged := await self._poll_verdict()) is None or not self._settles(number, judged.answer, drained_at):
            await asyncio.sleep(0.2)

    def _settles(self, number: int, answer: StagingStatusResponse, drained_at: float) -> bool:
        """Whether the answer settles that Ready came in time, or too late. The first question that is asked after the
        settle window must be answered with Ready: it is one scan, for which a busy machine may take a while."""
        due = max(drained_at, self._relay.delivered_at, self._server.killed_at + MAX_SCAN_LEASE_SECONDS)
        in_time = answer.responded_at <= due + READY_DELAY_SECONDS + MAX_SCAN_SECONDS
        if answer.ready and self._relay.is_idle:
            self.report.longest_seconds = max(self.report.longest_seconds, round(answer.responded_at - due, 1))
            if in_time:
                return True
        elif not self._relay.is_idle or (in_time and answer.requested_at <= due + READY_DELAY_SECONDS):
            return False
        late_responses = (
            f"asked {answer.requested_at - due:.1f} s after Ready was due, answered "
            f"{answer.responded_at - due:.1f} s after"
        )
        self.report.late_responses.append(
            f"seed {self._seed} round {number}: {late_responses}: {json.dumps(answer.verdict)}"
        )
        return True

    async def _judge_held_up(self, number: int) -> None:
        """End a round that the platform holds up, and the history with it. The extension hides messages that a killed
        worker had taken for a minute, and those that a later worker gives up for up to 600 s. Nobody can wait for
        these, and while they are hidden, nobody knows what they are.

        So the verdict must be what the storage shows. For `azureStorage` the worker is killed for good: from then on
        only the time changes the storage, and the server must be Ready if nothing blocks in it (`blocking_in`), else
        NotReady with the right reason. `managementApi` needs the worker and shows no messages: there the server must be
        Ready while the rows show nothing active and do not change, else NotReady. It may be NotReady too while an event
        has told of an instance without a row, whose start is one of the messages.
        """
        self._held_up = True
        if self._sees_messages:
            self._hub.worker.kill()
        ended_at = time.monotonic()
        drained_at: float | None = None
        while True:
            judged = await self._poll_verdict()
            if judged is None or judged.blocking is None:
                drained_at = None
            elif not judged.blocking and await self._may_be_a_message(judged.answer):
                self.report.held_up += 1
                return
            elif not judged.blocking:
                drained_at = drained_at or judged.answer.requested_at
                if self._settles(number, judged.answer, drained_at):
                    self.report.drained += 1
                    return
            else:
                drained_at = None
                code = judged.expected_code
                in_time = judged.answer.requested_at <= ended_at + READY_DELAY_SECONDS + MAX_SCAN_SECONDS
                if code not in judged.answer.reason_codes and not in_time:
                    shown = f"{judged.blocking}, but not {code}: {json.dumps(judged.answer.verdict)}"
                    self.report.wrong_reason.append(f"seed {self._seed} round {number}: {shown}")
                if code in judged.answer.reason_codes or not in_time:
                    print(f"history {self._seed}: round {number} is held up by {judged.blocking}", flush=True)
                    self.report.held_up += 1
                    return
            await asyncio.sleep(0.2)

    async def _may_be_a_message(self, answer: StagingStatusResponse) -> bool:
        """Whether the answer lists an instance that has no row, while there are messages that are no timer's. Where the
        server sees the messages, they decide."""
        if self._sees_messages:
            return False
        look = await self._hub.storage.look()
        listed = {instance["instanceId"] for instance in answer.verdict["active"]}
        return bool(listed - look.rows.keys()) and look.count > self._hub.timers_to_come()
