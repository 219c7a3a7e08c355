"""The parts of the demo's story: a release is deployed, and its rollout is followed until the server has ended it."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from dev.demo.output import report, report_heading
from dev.demo.pipeline import Pipeline
from dev.demo_rollout.order_stream import OrderStream
from dev.demo_rollout.results import DeployedVersion
from dev.demo_rollout.rollout_record import ENDED_STATES, RolloutRecord, read_rollout_record
from dev.demo_side_by_side.environment import Environment
from dev.demo_side_by_side.release_commands import Release, ReleaseCommands
from durable_app.orders.payment import FAILURE_PERCENT_SETTING
from harness.processes import pause, wait_until

_PROGRESS_SECONDS = 10
_POLL_SECONDS = 0.5
_ROLLOUT_SECONDS = 400


def build_settings(version: DeployedVersion) -> dict[str, str]:
    """The app settings that give a version its defect."""
    return {FAILURE_PERCENT_SETTING: str(version.failure_percent)}


@dataclass(frozen=True, slots=True)
class Story:
    """The story under way. Every step reports what it does, and raises UnexpectedResult if it does not succeed.

    `advance_seconds`: how often the demo itself asks the server to decide; None leaves it to the server's own timer."""

    environment: Environment
    advance_seconds: float | None

    @property
    def pipeline(self) -> Pipeline:
        return self.environment.pipeline

    def deploy(self, run: int, version: DeployedVersion, code: str) -> Release:
        """Deploy a version as a release that has no traffic yet."""
        settings = tuple(f"{name}={value}" for name, value in build_settings(version).items())
        address = self.environment.apps.choose_address()
        release = Release(run, version.version, version.task_hub, code, address, settings)
        ReleaseCommands(self.pipeline).release(release)
        return release

    def roll_out(self, release: Release, baseline: str, steps: str, customers: OrderStream) -> RolloutRecord:
        """Begin the rollout of a release, and follow it to its end. Returns what the history says of it."""
        began_at = time.monotonic()
        self.pipeline.run(release.run, "rollout", "start", "--version", release.version, "--steps", steps)
        report_heading("The server compares the versions by the ends of their orders. No pipeline runs meanwhile.")
        with self._advancing():
            self._follow(customers)
        active = release.version if self._read_state() == "Finished" else baseline
        ended_at = self.environment.watch.wait_for({active: 100}).seen_at
        self.pipeline.run(release.run, "rollout", "status")
        return read_rollout_record(self.environment.server, release.version, began_at=began_at, ended_at=ended_at)

    def _read_state(self) -> str:
        """The state of the rollout."""
        return str(self.environment.server.get("rollout").raise_for_status().json()["state"])

    def _follow(self, customers: OrderStream) -> None:
        """Wait until the rollout has ended, and report how many orders each task hub has got."""
        next_report = time.monotonic()

        def has_ended() -> bool:
            """Whether the rollout has ended. Reports the orders so far every few seconds."""
            nonlocal next_report
            if time.monotonic() >= next_report:
                next_report += _PROGRESS_SECONDS
                counts = Counter(order.task_hub for order in list(customers.placed))
                report("    orders so far: " + ", ".join(f"{hub} {count}" for hub, count in sorted(counts.items())))
            pause(_POLL_SECONDS)
            return self._read_state() in ENDED_STATES

        wait_until(has_ended, "the rollout has ended", _ROLLOUT_SECONDS)

    @contextmanager
    def _advancing(self) -> Iterator[None]:
        """Until the block ends, ask the server to decide as often as `advance_seconds` says."""
        is_over = threading.Event()
        failures: list[Exception] = []

        def advance() -> None:
            """Let the server take at most one step, again and again."""
            try:
                while self.advance_seconds is not None and not is_over.wait(self.advance_seconds):
                    response = self.environment.server.post("rollout/advance", json={})
                    if response.status_code == httpx.codes.CONFLICT:
                        # The rollout has ended.
                        return
                    response.raise_for_status()
            except Exception as error:  # noqa: BLE001  # raised at the end of the block
                failures.append(error)

        thread = threading.Thread(target=advance, name="advance")
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            if failures:
                raise failures[0]
