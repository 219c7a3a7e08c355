"""A version that is staged and deployed into a slot, for rollouts that `safe-deploy` drives at the fake `az`.

Its server is in this process, and has a clock that a test advances. Each time `safe-deploy` asks whether the step is
over, the clock can advance by itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from harness.processes import wait_until
from state_api.domain.instants import TICKS_PER_SECOND, Instant, format_instant, seconds
from tests.builders import event
from tests.conftest import ShiftedClock
from tests.safe_deploy.connection_proxy import ConnectionProxy, Request
from tests.safe_deploy.deployment_fixture import (
    RESOURCE_GROUP,
    DeploymentFixture,
    ForkServer,
    RunningCli,
    create_deployment_fixture,
)
from tests.safe_deploy.processes import CliResult

SLOT_HOST = "shop-staging-b2c4e6.westeurope-01.azurewebsites.net"
"""A unique host name, which does not follow from the names of app and slot."""

GROUP = ["--resource-group", RESOURCE_GROUP]
RETRY_SECONDS = 5.0
"""How long safe-deploy retries a request. Giving a value shortens its pauses, too."""

STEP_SECONDS = 600
"""What `advance_clock_at_every_poll` adds: a few polls make up each of the steps that tests use."""


@dataclass
class SlotRolloutFixture:
    """`cli.new` is the task hub of the candidate in slot staging, `cli.old` that in production."""

    cli: DeploymentFixture
    clock: ShiftedClock
    proxy: ConnectionProxy

    @property
    def app(self) -> str:
        return self.cli.app

    def start_arguments(self, *options: str, steps: str = "10@15m,50@30m") -> list[str]:
        """The arguments of `safe-deploy rollout start` with access to Azure."""
        return ["rollout", "start", "--steps", steps, *GROUP, *options]

    def start(self, arguments: Sequence[str], **options: Any) -> RunningCli:
        """Start a command of the CLI, without waiting for its end."""
        return self.cli.start(arguments, **{"retry_seconds": RETRY_SECONDS, **options})

    def run(self, arguments: Sequence[str], **options: Any) -> CliResult:
        """Run a command of the CLI."""
        return self.cli.run(arguments, **{"retry_seconds": RETRY_SECONDS, **options})

    def abort(self, *options: str) -> CliResult:
        """Run `safe-deploy rollout abort`."""
        return self.run(["rollout", "abort", *GROUP, *options])

    # The server

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Send a request of an administrator about the app, and return the JSON of the response."""
        response = self.cli.server.request(method, f"/api/apps/{self.app}{path}", **options)
        assert response.is_success, response.text
        return response.json()

    def get_rollout(self) -> Any:
        """The response of GetRollout."""
        return self.request("GET", "/rollout")

    def state(self) -> str:
        """The state of the rollout; empty without one."""
        response = self.cli.server.get(f"/api/apps/{self.app}/rollout")
        return str(response.json()["state"]) if response.is_success else ""

    def is_confirmed_at(self, weight: int) -> bool:
        """Whether the server knows that Azure has this share."""
        if not self.state():
            return False
        rollout = self.get_rollout()
        return bool(rollout["confirmed"] and rollout["weight"] == weight)

    def slot_reasons(self) -> list[str]:
        """The codes of the reasons why the slot is not ready."""
        return [reason["code"] for reason in self.request("GET", "/staging")["reasons"]]

    def publish_ends(
        self, task_hub: str, *, completed: int = 0, failed: int = 0, started_at: Instant | None = None
    ) -> None:
        """Let this many orchestrations start on a task hub now, or at another time, and end a second later.

        Versions that are compared need one time: health compares instances that started in the same minute."""
        now = started_at or self.clock.now()
        ended_at = format_instant(Instant(now + seconds(1)))
        statuses = ["Completed"] * completed + ["Failed"] * failed
        names = [f"order-{now}-{number}" for number in range(len(statuses))]
        starts = [event(task_hub, name, time=format_instant(now)) for name in names]
        ends = [event(task_hub, name, status, time=ended_at) for name, status in zip(names, statuses, strict=True)]
        response = self.cli.server.post("/api/events", json=starts + ends)
        assert response.json()["quarantined"] == 0, response.text

    def now_seconds(self) -> float:
        """The time of the server's clock in seconds."""
        return self.clock.now() / TICKS_PER_SECOND

    # Azure

    def shares(self) -> dict[str, float]:
        """The share of each slot in Azure, by the name of its rule."""
        rules = self.cli.fake_azure.ramp_up_rules(self.app)
        return {rule["name"]: rule["reroutePercentage"] for rule in rules}

    def set_rules(self, **shares: float) -> None:
        """Set the rules of slots by hand, with the host names of the slots."""
        rules = [
            {"name": slot, "actionHostName": SLOT_HOST if slot == "staging" else f"{slot}.example"} for slot in shares
        ]
        for rule, share in zip(rules, shares.values(), strict=True):
            rule["reroutePercentage"] = share  # type: ignore[assignment]  # a rule has names and a number
        self.cli.fake_azure.update_app(self.app, rampUpRules=rules)

    # Time

    def advance_clock_for(self, request: Request) -> None:
        """Advance the clock if safe-deploy asks by this request whether the step is over."""
        if request[1].endswith("/rollout/advance"):
            self.clock.advance(STEP_SECONDS)

    def advance_clock_at_every_poll(self) -> None:
        """From now on, the clock advances whenever safe-deploy asks whether the step is over."""

        def advance(number: int, request: Request) -> bool:
            """Advance the clock before the server has the request."""
            self.advance_clock_for(request)
            return False

        self.proxy.cut_before_request = advance

    def start_until_confirmed(self, weight: int, *options: str) -> RunningCli:
        """Start a rollout, and wait until the server knows that Azure has this share."""
        running = self.start(self.start_arguments(*options))
        wait_until(lambda: self.is_confirmed_at(weight) or running.has_ended(), f"the share is {weight} %")
        assert not running.has_ended(), running.err.read_text()
        return running


def create_slot_rollout_fixture(
    server: httpx.Client,
    fork_server: ForkServer,
    folder: Path,
    clock: ShiftedClock,
    proxy: ConnectionProxy,
    app: str,
) -> SlotRolloutFixture:
    """Create an app with a version in production and another one staged and deployed into the slot. safe-deploy reaches
    the server through the proxy."""
    cli = create_deployment_fixture(server, fork_server, folder, app, proxy.url)
    cli.stage()
    cli.fake_azure.update_slot(app, "staging", defaultHostName=SLOT_HOST)
    return SlotRolloutFixture(cli, clock, proxy)


@contextmanager
def cut_all_requests(proxy: ConnectionProxy) -> Iterator[None]:
    """Let no request reach the server until the block ends."""
    proxy.cut_before_request = lambda number, request: True
    yield
    proxy.clear()
