"""A slot with active orders, and a command that waits until they have ended."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from safe_deploy.errors import ExitCode
from tests.builders import event
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.fault_proxy import (
    Fault,
    FaultProxy,
)
from tests.safe_deploy.in_process import InProcessResult, run_in_process
from tests.safe_deploy.processes import KEYS

WAIT = ("status", "--wait", "--slot", "production")
SOON = ("--interval", "1", "--timeout", "30")
CLOCK = r"\d\d:\d\d:\d\d"


@dataclass
class WaitScenario:
    """An app whose production has active orders, and a command that waits until they have ended."""

    app_client: AppClient
    orders: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """The time of each request."""

    def __post_init__(self) -> None:
        """Register the app and begin its first order, so that its slot is not ready."""
        self.app_client.register(policy={"settleSeconds": 0})
        self.begin("order-1")

    def begin(self, order: str) -> None:
        """Start an order, which makes the slot NotReady."""
        self.app_client.publish(event(self.app_client.hub, order))
        self.orders.append(order)

    def end(self) -> None:
        """End all orders, so that the slot is Ready."""
        self.app_client.publish(*(event(self.app_client.hub, order, "Completed") for order in self.orders))

    def wait_through(self, url: str, *options: str, key: str = KEYS["reader"], **variables: str) -> InProcessResult:
        """Run the waiting command against a server or proxy with this URL."""
        variables = self.app_client.build_environment(SAFE_DEPLOY_SERVER=url, SAFE_DEPLOY_KEY=key, **variables)
        result = run_in_process([*WAIT, *options], variables)
        assert "Traceback" not in result.err
        assert not any(key in result.out + result.err for key in KEYS.values())
        return result

    def script(self, proxy: FaultProxy, *steps: Fault | Callable[[], None] | None) -> None:
        """Run or inject one step at each request. At the request after the last step, all orders end."""

        def take_step(number: int) -> Fault | None:
            """Note the time of the request, and return its fault or call its step. At the request after the last step
            all orders end, so that the slot becomes Ready."""
            self.times.append(time.monotonic())
            step = steps[number] if number < len(steps) else None
            if number == len(steps):
                self.end()
            if not callable(step):
                return step
            step()
            return None

        proxy.fault = take_step


def reported_lines(result: InProcessResult) -> list[str]:
    """The reported polls, without the time of day, and without the first line, which says what is waited for."""
    lines = [re.sub(rf"^{CLOCK} ", "", line) for line in result.err.splitlines() if re.match(rf"{CLOCK} ", line)]
    assert lines[0].startswith("waiting until slot production of app "), lines
    return lines[1:]


def is_ready(result: InProcessResult, wait_scenario: WaitScenario) -> bool:
    """Whether the command has succeeded, and printed and reported a verdict that is Ready."""
    title = f"Ready: slot production (task hub {wait_scenario.app_client.hub}), by lifecycle events alone"
    return result.code == ExitCode.DONE and result.out == f"{title}\n" and reported_lines(result)[-1] == title


def do_nothing() -> None:
    """A step that does nothing."""
