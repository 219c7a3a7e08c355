"""Orchestrations of every kind of the durable host: what a driver does to each, and when it is surely active.

A story returns once it has done what it wanted. It need not have ended its orchestrations:
`TaskHubDriver.release_all` does that.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from tests.platform.task_hub_driver import ENDED_STATUSES, TaskHubDriver

DAY_SECONDS = 86_400

_CLOCK_SKEW_SECONDS = 0.1
"""The platform goes by another clock than ours."""

_EARLY_TIMER_SECONDS = 1 + _CLOCK_SKEW_SECONDS
"""A timer of the platform fires up to a second early: a queue hides a message for whole seconds (run: a timer of 3.99 s
ended its orchestration after 3.1 s)."""

Scenario = Callable[[TaskHubDriver, str, Random], Coroutine[Any, Any, None]]
"""Plays one orchestration under this instance id. All its choices come from the Random, which is its own."""


async def _pause(random_source: Random, max_seconds: float = 1.0) -> None:
    await asyncio.sleep(random_source.random() * max_seconds)


async def wait_for_event(hub: TaskHubDriver, instance_id: str, random_source: Random) -> None:
    """A Wait that completes, fails or is terminated, perhaps suspended before. Then perhaps purged, or started again
    under its id."""
    how = random_source.choice(["go", "fails", "terminate", "stays"])
    after = random_source.choice(["purge", "restart", "nothing"])
    suspends = random_source.random() < 0.3
    answered = await hub.start_orchestration("Wait", instance_id, fails=how == "fails")
    if answered is None:
        return
    hub.active_periods.open(instance_id, answered, blocked_by=[instance_id])
    await _pause(random_source)
    if suspends:
        await hub.wait_for_status(instance_id, "Running")
        await hub.send_operation("suspend", instance_id)
        # The extension refuses to resume an instance that it does not show as suspended.
        await hub.wait_for_status(instance_id, "Suspended")
        await _pause(random_source)
        if how != "terminate":
            await hub.send_operation("resume", instance_id)
    if how == "stays":
        return
    once = await hub.end_and_wait(instance_id, terminate=how == "terminate")
    async with hub.no_kill_lock:
        if after == "purge" and hub.can_purge:
            await hub.send_operation("purge", instance_id)
        elif after == "restart" and once and not hub.worker_killed_in_round:
            await hub.send_operation("restart", instance_id)
            hub.active_periods.open(f"{instance_id} again", time.monotonic(), blocked_by=[instance_id])


async def run_parent(hub: TaskHubDriver, instance_id: str, random_source: Random) -> None:
    """A parent with sub-orchestrations. Terminating it leaves them running."""
    children = [f"{instance_id}:{number}" for number in range(random_source.randint(1, 3))]
    how = random_source.choice(["go", "terminate", "stays"])
    answered = await hub.start_orchestration("Parent", instance_id, children=len(children))
    if answered is None:
        return
    hub.active_periods.open(instance_id, answered, blocked_by=[instance_id])
    for child in children:
        await hub.wait_for_status(child, "Running")
        hub.active_periods.open(child, time.monotonic(), blocked_by=[child])
    await _pause(random_source)
    # Any end of a child can end the parent: a failed child fails it.
    hub.active_periods.mark_released(instance_id, time.monotonic())
    if how == "terminate":
        await hub.end(instance_id, terminate=True)
        await hub.wait_for_status(instance_id, *ENDED_STATUSES)
    elif how == "go":
        for child in children:
            await hub.end(child, terminate=random_source.random() < 0.2)


async def continue_as_new(hub: TaskHubDriver, instance_id: str, random_source: Random) -> None:
    """An orchestration that continues as new a few times and then waits."""
    generations, milliseconds = random_source.randint(2, 8), random_source.choice([0, 0, 50, 300])
    ends = random_source.random() < 0.5
    answered = await hub.start_orchestration(
        "Eternal", instance_id, generations=generations, milliseconds=milliseconds, wait=True
    )
    if answered is None:
        return
    hub.active_periods.open(instance_id, answered, blocked_by=[instance_id])
    await _pause(random_source, 2.0)
    if ends:
        await hub.end(instance_id, terminate=random_source.random() < 0.3)


async def launch_chain(hub: TaskHubDriver, instance_id: str, random_source: Random) -> None:
    """A chain of orchestrations, each of which starts the next and does not wait for it. The last one waits."""
    last = f"{instance_id}-last"
    links, slow = random_source.randint(1, 8), random_source.choice([0, 0, 100])
    if hub.worker_killed_in_round:
        # So long that the worker is killed amid the chain, and without activities, which would show it in a row.
        links, slow = random_source.randint(15, 30), 0
    name, given = launcher_chain(instance_id, links, last, milliseconds=slow)
    answered = await hub.start_orchestration(name, instance_id, **given)
    if answered is None:
        return
    hub.active_periods.open(f"{instance_id} to {last}", answered, blocked_by=[last])
    hub.chain_begun.set()
    if random_source.random() < 0.5:
        await hub.wait_for_status(last, "Running")
        await _pause(random_source)
        await hub.end(last, terminate=random_source.random() < 0.3)


def launcher_chain(instance_id: str, links: int, last: str, *, milliseconds: int = 0) -> tuple[str, dict[str, object]]:
    """Function and input of the first of `links` Launchers; the last one starts a Wait with the id `last`."""
    starts, given, starts_id = "Wait", dict[str, object](), last
    for number in range(links - 1, -1, -1):
        given = {"starts": starts, "id": starts_id, "input": given, "milliseconds": milliseconds}
        starts, starts_id = "Launcher", f"{instance_id}-{number}"
    return starts, given


async def run_timer(hub: TaskHubDriver, instance_id: str, random_source: Random) -> None:
    """A short timer that fires, or a long one that is terminated and leaves its message."""
    if random_source.random() < 0.5:
        seconds = random_source.uniform(2, 5)
        sent = time.monotonic()
        answered = await hub.start_orchestration("Timer", instance_id, seconds=seconds)
        if answered is not None and answered < sent + seconds - _EARLY_TIMER_SECONDS:
            hub.active_periods.open(instance_id, answered, end=sent + seconds - _EARLY_TIMER_SECONDS)
        return
    days = random_source.choice([1, 2, 5])
    # A worker that is killed between sending the timer's message and saving the row would send it twice.
    async with hub.no_kill_lock:
        answered = await hub.start_orchestration("Timer", instance_id, seconds=days * DAY_SECONDS)
        assert answered is not None, "nobody kills a worker while it is held steady"
        hub.active_periods.open(instance_id, answered, blocked_by=[instance_id])
        await hub.wait_for_status(instance_id, "Running")
    hub.leftover_timers.append(answered + days * DAY_SECONDS)
    await _pause(random_source)
    await hub.end(instance_id, terminate=True)


async def fail_activity(hub: TaskHubDriver, instance_id: str, random_source: Random) -> None:
    """An activity that fails with retries."""
    await hub.start_orchestration(
        "Fails", instance_id, attempts=random_source.randint(1, 4), reason="a reason\nof two lines"
    )


async def fail_and_rewind(hub: TaskHubDriver, instance_id: str, random_source: Random) -> None:
    """An orchestration that fails, is rewound and then waits; its row says Pending meanwhile."""
    answered = await hub.start_orchestration("Mends", instance_id)
    if answered is None or hub.worker_killed_in_round:
        # Whether the activity fails is in the memory of a process, and after a kill it can run twice.
        return
    await hub.wait_for_status(instance_id, "Failed")
    await hub.send_operation("rewind", instance_id)
    hub.active_periods.open(f"{instance_id} rewound", time.monotonic(), blocked_by=[instance_id])


async def call_entity(hub: TaskHubDriver, instance_id: str, random_source: Random) -> None:
    """An orchestration that calls an entity, which stays Running for ever."""
    await hub.start_orchestration("Counts", instance_id, key=random_source.choice(["a", "b"]))


async def run_activity_chain(hub: TaskHubDriver, instance_id: str, random_source: Random) -> None:
    """Activities one after the other, then a purge."""
    steps, milliseconds = random_source.randint(0, 5), random_source.choice([1, 20, 200])
    sent = time.monotonic()
    answered = await hub.start_orchestration("Chain", instance_id, steps=steps, milliseconds=milliseconds)
    least = sent + steps * milliseconds / 1000 - _CLOCK_SKEW_SECONDS
    if answered is None:
        return
    if answered < least:
        hub.active_periods.open(instance_id, answered, end=least)
    if random_source.random() < 0.5 and hub.can_purge:
        await hub.wait_for_status(instance_id, *ENDED_STATUSES)
        async with hub.no_kill_lock:
            await hub.send_operation("purge", instance_id)


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
"""What every provider can be judged by."""

SCENARIOS_WITH_LAUNCHERS: tuple[Scenario, ...] = (*SCENARIOS, launch_chain, launch_chain, launch_chain)
"""With orchestrations that are nothing but a message for a while, which the management API does not show."""
