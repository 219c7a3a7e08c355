"""Orchestrations of every kind of the durable host: how the driver runs each, and when each is certainly active.

A scenario returns after its last operation. It may leave orchestrations active: `TaskHubDriver.drain` ends them.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from tests import recordings
from tests.platform.task_hub_driver import ENDED_STATUSES, TaskHubDriver

DAY_SECONDS = 86_400

_CLOCK_SKEW_SECONDS = 0.1
"""How far the platform's clock may differ from that of the tests."""

_EARLY_TIMER_SECONDS = 1 + _CLOCK_SKEW_SECONDS
"""How much earlier a timer of the platform can fire: a queue hides a message for whole seconds (run: a timer of 3.99 s
ended its orchestration after 3.1 s)."""

Scenario = Callable[[TaskHubDriver, str, Random], Coroutine[Any, Any, None]]
"""Runs one orchestration with this instance id. All its choices come from the given Random, which nothing else uses."""


async def _pause(choices: Random, max_seconds: float = 1.0) -> None:
    """Wait for a random time, so that the next step meets the platform in any state."""
    await asyncio.sleep(choices.random() * max_seconds)


async def wait_for_event(driver: TaskHubDriver, instance_id: str, choices: Random) -> None:
    """Run a Wait, and let it complete, fail, be terminated or stay active.

    It may be suspended before, and purged or restarted afterwards."""
    outcome = choices.choice(["go", "fails", "terminate", "stays"])
    afterwards = choices.choice(["purge", "restart", "nothing"])
    is_suspended = choices.random() < 0.3
    responded_at = await driver.start_orchestration("Wait", instance_id, fails=outcome == "fails")
    if responded_at is None:
        return
    driver.active_periods.add_period(instance_id, responded_at, blocked_by=[instance_id])
    await _pause(choices)
    if is_suspended:
        await driver.wait_for_status(instance_id, "Running")
        await driver.send_operation("suspend", instance_id)
        # The extension refuses to resume an instance before it shows it as suspended.
        await driver.wait_for_status(instance_id, "Suspended")
        await _pause(choices)
        if outcome != "terminate":
            await driver.send_operation("resume", instance_id)
    if outcome == "stays":
        return
    ended_once = await driver.request_end_and_wait(instance_id, terminate=outcome == "terminate")
    async with driver.no_kill_lock:
        if afterwards == "purge" and driver.can_purge:
            await driver.send_operation("purge", instance_id)
        elif afterwards == "restart" and ended_once and not driver.worker_killed_in_round:
            await driver.send_operation("restart", instance_id)
            driver.active_periods.add_period(f"{instance_id} again", time.monotonic(), blocked_by=[instance_id])


async def run_parent(driver: TaskHubDriver, instance_id: str, choices: Random) -> None:
    """Run a parent with sub-orchestrations. If the parent is terminated, they stay active."""
    children = [f"{instance_id}:{number}" for number in range(choices.randint(1, 3))]
    outcome = choices.choice(["go", "terminate", "stays"])
    responded_at = await driver.start_orchestration("Parent", instance_id, children=len(children))
    if responded_at is None:
        return
    driver.active_periods.add_period(instance_id, responded_at, blocked_by=[instance_id])
    for child in children:
        await driver.wait_for_status(child, "Running")
        driver.active_periods.add_period(child, time.monotonic(), blocked_by=[child])
    await _pause(choices)
    # A child that ends can end the parent: a failed child fails it.
    driver.active_periods.mark_released(instance_id, time.monotonic())
    if outcome == "terminate":
        await driver.request_end(instance_id, terminate=True)
        await driver.wait_for_status(instance_id, *ENDED_STATUSES)
    elif outcome == "go":
        for child in children:
            await driver.request_end(child, terminate=choices.random() < 0.2)


async def continue_as_new(driver: TaskHubDriver, instance_id: str, choices: Random) -> None:
    """Run an orchestration that continues as new a few times and then waits for an event."""
    generations, milliseconds = choices.randint(2, 8), choices.choice([0, 0, 50, 300])
    ends = choices.random() < 0.5
    responded_at = await driver.start_orchestration(
        "Eternal", instance_id, generations=generations, milliseconds=milliseconds, wait=True
    )
    if responded_at is None:
        return
    driver.active_periods.add_period(instance_id, responded_at, blocked_by=[instance_id])
    await _pause(choices, 2.0)
    if ends:
        await driver.request_end(instance_id, terminate=choices.random() < 0.3)


async def launch_chain(driver: TaskHubDriver, instance_id: str, choices: Random) -> None:
    """Run a chain of orchestrations, each of which starts the next and does not wait for it. The last waits for an
    event."""
    last = f"{instance_id}-last"
    links, milliseconds = choices.randint(1, 8), choices.choice([0, 0, 100])
    if driver.worker_killed_in_round:
        # Long enough for the kill to come amid the chain. Without activities, whose checkpoints would write rows.
        links, milliseconds = choices.randint(15, 30), 0
    function, input_fields = build_launcher_chain(instance_id, links, last, milliseconds=milliseconds)
    responded_at = await driver.start_orchestration(function, instance_id, **input_fields)
    if responded_at is None:
        return
    driver.active_periods.add_period(f"{instance_id} to {last}", responded_at, blocked_by=[last])
    driver.chain_begun.set()
    if choices.random() < 0.5:
        await driver.wait_for_status(last, "Running")
        await _pause(choices)
        await driver.request_end(last, terminate=choices.random() < 0.3)


def build_launcher_chain(
    instance_id: str, links: int, last: str, *, milliseconds: int = 0
) -> tuple[str, dict[str, object]]:
    """Return the function and input of the first of `links` Launchers. The last of them starts a Wait with the id
    `last`. Each runs an activity of this many milliseconds; none if that is 0."""
    function, input_fields, function_id = "Wait", dict[str, object](), last
    for number in range(links - 1, -1, -1):
        input_fields = {"starts": function, "id": function_id, "input": input_fields, "milliseconds": milliseconds}
        function, function_id = "Launcher", f"{instance_id}-{number}"
    return function, input_fields


async def run_timer(driver: TaskHubDriver, instance_id: str, choices: Random) -> None:
    """Run a timer of seconds until it fires, or terminate a timer of days, whose message stays in the queue."""
    if choices.random() < 0.5:
        seconds = choices.uniform(2, 5)
        sent_at = time.monotonic()
        responded_at = await driver.start_orchestration("Timer", instance_id, seconds=seconds)
        earliest_end = sent_at + seconds - _EARLY_TIMER_SECONDS
        if responded_at is not None and responded_at < earliest_end:
            driver.active_periods.add_period(instance_id, responded_at, end=earliest_end)
        return
    days = choices.choice([1, 2, 5])
    # A worker that is killed after it has sent the timer's message and before it has saved the row sends it again.
    async with driver.no_kill_lock:
        responded_at = await driver.start_orchestration("Timer", instance_id, seconds=days * DAY_SECONDS)
        assert responded_at is not None, "the worker is not killed while the lock is held"
        driver.active_periods.add_period(instance_id, responded_at, blocked_by=[instance_id])
        await driver.wait_for_status(instance_id, "Running")
    driver.leftover_timers.append(responded_at + days * DAY_SECONDS)
    await _pause(choices)
    await driver.request_end(instance_id, terminate=True)


async def fail_activity(driver: TaskHubDriver, instance_id: str, choices: Random) -> None:
    """Run an activity that fails, with retries."""
    await driver.start_orchestration(
        "Fails", instance_id, attempts=choices.randint(1, 4), reason="a reason\nof two lines"
    )


async def fail_and_rewind(driver: TaskHubDriver, instance_id: str, choices: Random) -> None:
    """Run an orchestration that fails, and rewind it. It then waits for an event, and its row says Pending."""
    responded_at = await driver.start_orchestration(recordings.REWOUND_FUNCTION_NAME, instance_id)
    if responded_at is None or driver.worker_killed_in_round:
        # The process remembers whether the activity has failed. After a kill it does not, and the activity can run
        # twice.
        return
    await driver.wait_for_status(instance_id, "Failed")
    await driver.send_operation("rewind", instance_id)
    driver.active_periods.add_period(f"{instance_id} rewound", time.monotonic(), blocked_by=[instance_id])


async def call_entity(driver: TaskHubDriver, instance_id: str, choices: Random) -> None:
    """Run an orchestration that calls an entity. The entity's status stays Running."""
    await driver.start_orchestration("Counts", instance_id, key=choices.choice(["a", "b"]))


async def run_activity_chain(driver: TaskHubDriver, instance_id: str, choices: Random) -> None:
    """Run activities one after the other. The instance may be purged when it has ended."""
    steps, milliseconds = choices.randint(0, 5), choices.choice([1, 20, 200])
    sent_at = time.monotonic()
    responded_at = await driver.start_orchestration("Chain", instance_id, steps=steps, milliseconds=milliseconds)
    if responded_at is None:
        return
    earliest_end = sent_at + steps * milliseconds / 1000 - _CLOCK_SKEW_SECONDS
    if responded_at < earliest_end:
        driver.active_periods.add_period(instance_id, responded_at, end=earliest_end)
    if choices.random() < 0.5 and driver.can_purge:
        await driver.wait_for_status(instance_id, *ENDED_STATUSES)
        async with driver.no_kill_lock:
            await driver.send_operation("purge", instance_id)


SCENARIOS: tuple[Scenario, ...] = (
    wait_for_event,
    wait_for_event,
    run_parent,
    continue_as_new,
    run_timer,
    fail_activity,
    fail_and_rewind,
    call_entity,
    run_activity_chain,
)
"""Scenarios whose instances every provider shows."""

SCENARIOS_WITH_LAUNCHERS: tuple[Scenario, ...] = (*SCENARIOS, launch_chain, launch_chain, launch_chain)
"""Also scenarios in which a start is only a message for a while, which the management API does not show."""
