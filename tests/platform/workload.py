"""A random workload on one task hub: rounds of orchestrations and faults, while the state server's verdict is polled.
Each response is assessed by what the workload did, and by what the task hub's own storage shows."""

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
    StorageSilent,
)
from tests.platform.storage_snapshots import (
    StorageSnapshot,
    find_active_throughout,
    find_blockers,
    find_starts_throughout,
)
from tests.platform.task_hub_driver import TaskHubDriver

PROVIDER_CONFIGS = {"azureStorage": STORAGE_PROVIDER_CONFIG, "managementApi": MANAGEMENT_API_PROVIDER_CONFIG}

MAX_LISTED_RESPONSES = 3
"""Wrong responses of a workload that its report lists."""

MAX_SCAN_LEASE_SECONDS = 15.0
"""How long a server that is killed while it reads a task hub keeps the next reader waiting, at most."""


@dataclass
class WorkloadReport:
    """The result of one or more workloads.

    Every round is either drained or stalled.

    - `assessed_count` counts the responses while something was certainly active, or certainly about to start.
    - `wrong_ready_responses` are those of them that said Ready.
    - `late_responses` are of drained rounds after which Ready came too late.
    - `wrong_reasons` are of stalled rounds whose verdict does not name what the storage shows.
    - `longest_seconds` is the longest time from a drained task hub to Ready.
    """

    round_count: int = 0
    drained_count: int = 0
    stalled_count: int = 0
    orchestration_count: int = 0
    response_count: int = 0
    assessed_count: int = 0
    ready_count: int = 0
    worker_kill_count: int = 0
    server_kill_count: int = 0
    event_count: int = 0
    lost_event_count: int = 0
    longest_seconds: float = 0.0
    wrong_ready_responses: list[str] = field(default_factory=list)
    late_responses: list[str] = field(default_factory=list)
    wrong_reasons: list[str] = field(default_factory=list)

    def add_report(self, other: "WorkloadReport") -> None:
        """Add the counts and lists of another report."""
        for name, value in asdict(other).items():
            if name == "longest_seconds":
                self.longest_seconds = max(self.longest_seconds, value)
            else:
                setattr(self, name, getattr(self, name) + value)

    @property
    def has_no_errors(self) -> bool:
        return not self.wrong_ready_responses and not self.late_responses and not self.wrong_reasons


@dataclass(frozen=True, slots=True)
class FaultRates:
    """How often faults occur.

    `worker_kills` and `server_kills` are shares of rounds. One of `loss_rates` is drawn for each round.

    A round is stalled if it has not drained after `round_seconds`. That happens after a kill of the worker. On a busy
    machine it also happens without a kill, because the extension hides a message that it abandons for up to 600 s.
    """

    worker_kills: float = 0.0
    server_kills: float = 0.0
    loss_rates: tuple[float, ...] = (0.0, 0.3, 1.0)
    round_seconds: float = 240.0


@dataclass(frozen=True, slots=True)
class WorkloadParts:
    """The parts that a workload uses: a task hub with its worker, a state server, and the relay between them."""

    driver: TaskHubDriver
    server: StateServerProcess
    relay: EventRelay


@dataclass(frozen=True, slots=True)
class Observation:
    """A snapshot of the storage. `kill_count` is how often the worker had been killed, if none was running when the
    snapshot began; otherwise None."""

    storage: StorageSnapshot
    kill_count: int | None


@dataclass(frozen=True, slots=True)
class AssessedResponse:
    """A response and what the storage shows about it.

    `blockers` say why the task hub was not drained at every moment from request to response; empty if it was drained.
    They are None if that is not known, because a worker may have changed the storage in between. `expected_code` is the
    reason code that belongs to `blockers`.
    """

    response: StagingStatusResponse
    blockers: list[str] | None
    expected_code: str


class RandomWorkload:
    """Rounds of orchestrations on one task hub, with one worker and one server. The seed decides everything but
    times."""

    def __init__(self, seed: str, provider: str, faults: FaultRates, parts: WorkloadParts) -> None:
        """Prepare a workload whose rounds depend on the seed alone."""
        self.app = f"app-{parts.driver.worker.task_hub}"
        self.report = WorkloadReport()
        self._seed = seed
        self._provider = provider
        self._faults = faults
        self._random = Random(f"{seed} rounds")
        self._driver = parts.driver
        self._server = parts.server
        self._relay = parts.relay
        self._last_observation: Observation | None = None

    async def run(self, *, rounds: int | None = None, seconds: float | None = None) -> WorkloadReport:
        """Run this many rounds, or begin rounds until the time is up. A stalled round is the last one."""
        deadline = float("inf") if seconds is None else time.monotonic() + seconds
        worker = self._driver.worker
        await self._server.put_app(self.app, worker.task_hub, PROVIDER_CONFIGS[self._provider])
        while (
            (rounds is None or self.report.round_count < rounds) and time.monotonic() < deadline and worker.is_running
        ):
            await self._run_round(self.report.round_count)
            self.report.round_count += 1
        self.report.orchestration_count = self._driver.started_count
        self.report.worker_kill_count, self.report.server_kill_count = worker.kill_count, self._server.kill_count
        self.report.event_count, self.report.lost_event_count = self._relay.posted_count, self._relay.lost_count
        return self.report

    async def _run_round(self, number: int) -> None:
        """Run scenarios side by side with faults. Then end everything and wait for Ready."""
        choices = self._random
        self._relay.loss_rate = choices.choice(self._faults.loss_rates)
        self._driver.worker_killed_in_round = choices.random() < self._faults.worker_kills
        kills_server = choices.random() < self._faults.server_kills
        scenarios = self._draw_scenarios(choices)
        self._driver.chain_begun.clear()
        kills: list[asyncio.Task[None]] = []
        first = f"first-{number}"
        responded_at = await self._driver.start_orchestration("Wait", first)
        assert responded_at is not None, "the worker is not killed yet"
        self._driver.active_periods.add_period(first, responded_at, blocked_by=[first])
        polling = asyncio.create_task(self._poll_until_cancelled())
        try:
            await self._wait_until_assessed(polling)
            await self._driver.request_end_and_wait(first)
            if self._driver.worker_killed_in_round:
                amid_chain = scenarios[0] is launch_chain and choices.random() < 0.8
                kill = self._restart_worker(choices.uniform(0.1, 1.2), choices.uniform(0, 2), amid_chain=amid_chain)
                kills.append(asyncio.create_task(kill))
            if kills_server:
                kills.append(asyncio.create_task(self._restart_server(delay_seconds=choices.uniform(0, 3))))
            drained_at = await self._run_until_drained(number, scenarios, kills)
            await asyncio.gather(*kills)
        finally:
            polling.cancel()
            with suppress(asyncio.CancelledError):
                await polling
        if drained_at is None:
            await self._assess_stalled_round(number)
        else:
            self.report.drained_count += 1
            await self._wait_until_ready(number, drained_at)

    def _draw_scenarios(self, choices: Random) -> list[Scenario]:
        """Draw the scenarios of a round.

        A worker that is killed amid a chain of launchers leaves a start that is only a message. Such a round has few
        other scenarios: while another orchestration is active, the verdict is NotReady with or without messages.
        """
        if self._provider != "azureStorage":
            return choices.choices(SCENARIOS, k=choices.randint(3, 6))
        if self._driver.worker_killed_in_round:
            return [launch_chain, *choices.choices(SCENARIOS_WITH_LAUNCHERS, k=choices.choice([0, 0, 1, 3]))]
        return choices.choices(SCENARIOS_WITH_LAUNCHERS, k=choices.randint(3, 6))

    async def _wait_until_assessed(self, polling: asyncio.Task[None]) -> None:
        """Wait for a response that would have been wrong had it been Ready, so that every round has at least one."""
        count_before = self.report.assessed_count
        async with asyncio.timeout(2 * MAX_SCAN_SECONDS):
            while self.report.assessed_count == count_before and not polling.done():
                await asyncio.sleep(0.05)

    async def _run_until_drained(
        self, number: int, scenarios: list[Scenario], kills: list[asyncio.Task[None]]
    ) -> float | None:
        """Run the scenarios, and end what they leave active. Return the time from which the task hub was drained; None
        if it did not drain in `round_seconds`."""
        try:
            async with asyncio.timeout(self._faults.round_seconds) as timeout:
                async with asyncio.TaskGroup() as group:
                    for index, scenario in enumerate(scenarios):
                        instance_id = f"{scenario.__name__}-{number}-{index}"
                        choices = Random(f"{self._seed} {instance_id}")
                        group.create_task(scenario(self._driver, instance_id, choices))
                if kills:
                    await asyncio.wait(kills)
                return await self._driver.drain()
        except TimeoutError:
            if not timeout.expired():
                raise
            return None

    async def _restart_worker(self, delay_seconds: float, downtime_seconds: float, *, amid_chain: bool) -> None:
        """Kill the worker after a delay, counted from the start of a chain or from now, and start it again after its
        downtime."""
        if amid_chain:
            await self._driver.chain_begun.wait()
        await asyncio.sleep(delay_seconds)
        async with self._driver.no_kill_lock:
            self._driver.worker.kill()
            await asyncio.sleep(downtime_seconds)
            await self._driver.worker.start()

    async def _restart_server(self, *, delay_seconds: float) -> None:
        await asyncio.sleep(delay_seconds)
        await self._server.restart()

    async def _poll_until_cancelled(self) -> None:
        """Ask for the verdict at random intervals while the round goes on."""
        pauses = Random()
        while True:
            await self._poll()
            await asyncio.sleep(pauses.random() * 0.3)

    async def _poll(self) -> AssessedResponse | None:
        """Request the verdict once, between two observations of the storage, and assess it. Return None if the server
        was killed meanwhile or could not read its storage."""
        before = self._last_observation or await self._observe()
        try:
            response = await self._server.get_staging_status(self.app)
        except (httpx.TransportError, StorageSilent):
            await asyncio.sleep(0.1)
            return None
        after = self._last_observation = await self._observe()
        expected_code = "InstancesActive" if after.storage.active else "StartsPending"
        assessed = AssessedResponse(response, self._blockers_between(before, after), expected_code)
        active = (
            self._driver.active_periods.find_covering(response.requested_at, response.responded_at)
            or find_active_throughout(before.storage, after.storage)
            or (find_starts_throughout(before.storage, after.storage) if self._sees_messages else [])
            or assessed.blockers
        )
        self.report.response_count += 1
        self.report.assessed_count += bool(active)
        self.report.ready_count += response.ready
        if response.ready and active and len(self.report.wrong_ready_responses) < MAX_LISTED_RESPONSES:
            verdict = json.dumps(response.verdict)
            self.report.wrong_ready_responses.append(f"seed {self._seed}: Ready while {active} was active: {verdict}")
        return assessed

    async def _observe(self) -> Observation:
        """Read the task hub in the storage itself, to know which answer is right."""
        worker = self._driver.worker
        kill_count = None if worker.is_running else worker.kill_count
        return Observation(await self._driver.storage.read_snapshot(), kill_count)

    def _blockers_between(self, before: Observation, after: Observation) -> list[str] | None:
        """Return what blocks at every moment between two observations, as far as the server can see it. None if that is
        not known."""
        if not self._sees_messages:
            return after.storage.active if before.storage.rows == after.storage.rows else None
        no_worker = (
            before.kill_count is not None
            and before.kill_count == after.kill_count
            and not self._driver.worker.is_running
        )
        if not no_worker or before.storage != after.storage:
            return None
        return find_blockers(after.storage, self._driver.count_leftover_timers())

    @property
    def _sees_messages(self) -> bool:
        """Whether the server reads the control queues with this provider."""
        return self._provider == "azureStorage"

    async def _wait_until_ready(self, number: int, drained_at: float) -> None:
        """Ask until the answer settles whether the drained task hub is called Ready."""
        while (assessed := await self._poll()) is None or not self._is_decisive(number, assessed.response, drained_at):
            await asyncio.sleep(0.2)

    def _is_decisive(self, number: int, response: StagingStatusResponse, drained_at: float) -> bool:
        """Return whether the response shows that Ready came in time or too late; in the latter case, note it in the
        report.

        The response to the first request after the settle window must be Ready. It takes one scan, which can be slow on
        a busy machine.
        """
        due_at = max(drained_at, self._relay.delivered_at, self._server.killed_at + MAX_SCAN_LEASE_SECONDS)
        in_time = response.responded_at <= due_at + READY_DELAY_SECONDS + MAX_SCAN_SECONDS
        if response.ready and self._relay.is_idle:
            self.report.longest_seconds = max(self.report.longest_seconds, round(response.responded_at - due_at, 1))
            if in_time:
                return True
        elif not self._relay.is_idle or (in_time and response.requested_at <= due_at + READY_DELAY_SECONDS):
            return False
        delay = (
            f"requested {response.requested_at - due_at:.1f} s after Ready was due, answered "
            f"{response.responded_at - due_at:.1f} s after"
        )
        self.report.late_responses.append(f"seed {self._seed} round {number}: {delay}: {json.dumps(response.verdict)}")
        return True

    async def _assess_stalled_round(self, number: int) -> None:
        """End a round in which the platform is stalled, and the workload with it.

        The extension hides messages that a killed worker had taken for a minute, and messages that a later worker
        abandons for up to 600 s. That is too long to wait for, and while a message is hidden its content is not known.
        So the verdict must be what the storage shows:

        - With `azureStorage` the worker is killed for good. From then on only time changes the storage. The verdict
          must be Ready if nothing blocks (`find_blockers`), and otherwise NotReady with the right reason.
        - `managementApi` needs the worker and shows no messages. The verdict must be Ready while the rows show nothing
          active and do not change, and otherwise NotReady. It may also be NotReady while an event has shown an
          instance without a row, whose start is one of the messages.
        """
        if self._sees_messages:
            self._driver.worker.kill()
        stalled_at = time.monotonic()
        drained_at: float | None = None
        while True:
            assessed = await self._poll()
            if assessed is None or assessed.blockers is None:
                drained_at = None
            elif assessed.blockers:
                drained_at = None
                if self._has_expected_reason(number, assessed, stalled_at):
                    self.report.stalled_count += 1
                    return
            elif await self._may_be_a_message(assessed.response):
                self.report.stalled_count += 1
                return
            else:
                drained_at = drained_at or assessed.response.requested_at
                if self._is_decisive(number, assessed.response, drained_at):
                    self.report.drained_count += 1
                    return
            await asyncio.sleep(0.2)

    def _has_expected_reason(self, number: int, assessed: AssessedResponse, stalled_at: float) -> bool:
        """Return whether the verdict on a stalled round is final.

        It is final if it has the expected reason, or if the time for one scan is over. A final verdict without the
        expected reason is noted in the report.
        """
        code, response = assessed.expected_code, assessed.response
        has_code = code in response.reason_codes
        in_time = response.requested_at <= stalled_at + READY_DELAY_SECONDS + MAX_SCAN_SECONDS
        if not has_code and in_time:
            return False
        if not has_code:
            mismatch = f"{assessed.blockers}, but not {code}: {json.dumps(response.verdict)}"
            self.report.wrong_reasons.append(f"seed {self._seed} round {number}: {mismatch}")
        print(f"workload {self._seed}: round {number} is stalled by {assessed.blockers}", flush=True)
        return True

    async def _may_be_a_message(self, response: StagingStatusResponse) -> bool:
        """Return whether the verdict lists an instance that has no row, while there are messages that are no timer's.
        If the server sees messages, they decide instead."""
        if self._sees_messages:
            return False
        storage = await self._driver.storage.read_snapshot()
        listed_ids = {instance["instanceId"] for instance in response.verdict["active"]}
        has_other_messages = storage.message_count > self._driver.count_leftover_timers()
        return bool(listed_ids - storage.rows.keys()) and has_other_messages
