"""A simulated task hub with all its parts, and what the histories that use task hubs share."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import httpx

from state_api.app import StateServer
from state_api.domain.readiness.policy import Policy
from state_api.services.readiness import Readiness
from tests.simulator.activity_timeline import ActivityTimeline
from tests.simulator.episodes import PlatformContext
from tests.simulator.event_grid import SimulatedEventGrid
from tests.simulator.events_only import EventsOnlyVerdict
from tests.simulator.parameters import SimulationParameters, seeded_random
from tests.simulator.platform import SimulatedPlatform
from tests.simulator.task_hub_storage import SimulatedAccount, TaskHubStorage
from tests.simulator.verdict_checker import VerdictChecker

POLICY = Policy(settle_seconds=1, freshness_seconds=120)

ReadHook = Callable[[], Awaitable[None]]


class ReadHooks(Protocol):
    """A hook that is called before the server reads a task hub."""

    def register(self, hub: str, read_hook: ReadHook) -> None: ...

    def unregister(self, hub: str) -> None: ...


@dataclass(slots=True)
class SimulationContext:
    """The server and the storage that all histories share."""

    http: httpx.AsyncClient
    server: StateServer
    readiness: Readiness
    account: SimulatedAccount
    read_hooks: ReadHooks
    tally: Counter[str]


class SimulatedTaskHub:
    """A task hub with its platform, its events and its checker. `number` counts the task hubs of one history."""

    def __init__(
        self,
        context: SimulationContext,
        parameters: SimulationParameters,
        storage: TaskHubStorage,
        number: int,
        log: list[str],
    ) -> None:
        """Create the simulated parts of one task hub. `number` is its position in the history, and gives it random
        numbers of its own."""
        self.hub = storage.hub
        self.storage = storage
        self.timeline = ActivityTimeline()
        self.transport = SimulatedEventGrid(
            seeded_random(parameters.seed, f"transport {number}"), parameters, context.tally
        )
        rng = seeded_random(parameters.seed, f"platform {number}")
        self.platform = SimulatedPlatform(
            PlatformContext(self.hub, parameters, rng, storage, self.transport, self.timeline, context.tally, log)
        )
        self.checker = VerdictChecker(self.platform, self.timeline, parameters.messages_unseen)
        self.events_only = EventsOnlyVerdict(self.hub, POLICY)
        self.delivered_at = 0.0
