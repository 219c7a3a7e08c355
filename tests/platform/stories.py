"""Orchestrations of every kind of the durable host: what a driver does to each, and when it is surely active.

A story returns once it has done what it wanted. It need not have ended its orchestrations: `Hub.release_all` does that.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from tests.platform.hub import ENDED, Hub

DAY_SECONDS = 86_400

_CLOCKS = 0.1
"""The platform goes by another clock than ours."""

_EARLY_SECONDS = 1 + _CLOCKS
"""A timer of the platform fires up to a second early: a queue hides a message for whole seconds (run: a timer of 3.99 s
ended its orchestration after 3.1 s)."""

Story = Callable[[Hub, str, Random], Coroutine[Any, Any, None]]
"""Plays one orchestration under this instance id. All its choices come from the Random, which is its own."""


async def _pause(draw: Random, most: float = 1.0) -> None:
    await asyncio.sleep(draw.random() * most)


async def waits(hub: Hub, instance_id: str, draw: Random) -> None:
    """A Wait that completes, fails or is terminated, perhaps suspended before. Then perhaps purged, or started again
    under its id."""
    how = draw.choice(["go", "fails", "terminate", "stays"])
    after = draw.choice(["purge", "restart", "nothing"])
    suspends = draw.random() < 0.3
    answered = await hub.launch("Wait", instance_id, fails=how == "fails")
    if answered is None:
        return
    hub.spans.open(instance_id, answered, waits_for=[instance_id])
    await _pause(draw)
    if suspends:
        await hub.until_status(instance_id, "Running")
        await hub.tell("suspend", instance_id)
        # The extension refuses to resume an instance that it does not show as suspended.
        await hub.until_status(instance_id, "Suspended")
        await _pause(draw)
        if how != "terminate":
            await hub.tell("resume", instance_id)
    if how == "stays":
        return
    once = await hub.end_surely(instance_id, terminate=how == "terminate")
    async with hub.steady:
        if after == "purge" and hub.purges:
            await hub.tell("purge", instance_id)
        elif after == "restart" and once and not hub.worker_is_killed:
            await hub.tell("restart", instance_id)
            hub.spans.open(f"{instance_id} again", time.monotonic(), waits_for=[instance_id])


async def parents(hub: Hub, instance_id: str, draw: Random) -> None:
    """A parent with sub-orchestrations. Terminating it leaves them running."""
    children = [f"{instance_id}:{number}" for number in range(draw.randint(1, 3))]
    how = draw.choice(["go", "terminate", "stays"])
    answered = await hub.launch("Parent", instance_id, children=len(children))
    if answered is None:
        return
    hub.spans.open(instance_id, answered, waits_for=[instance_id])
    for child in children:
        await hub.until_status(child, "Running")
        hub.spans.open(child, time.monotonic(), waits_for=[child])
    await _pause(draw)
    # Any end of a child can end the parent: a failed child fails it.
    hub.spans.release(instance_id, time.monotonic())
    if how == "terminate":
        await hub.end(instance_id, terminate=True)
        await hub.until_status(instance_id, *ENDED)
    elif how == "go":
        for child in children:
            await hub.end(child, terminate=draw.random() < 0.2)


async def continues(hub: Hub, instance_id: str, draw: Random) -> None:
    """An orchestration that continues as new a few times and then waits."""
    generations, milliseconds = draw.randint(2, 8), draw.choice([0, 0, 50, 300])
    ends = draw.random() < 0.5
    answered = await hub.launch("Eternal", instance_id, generations=generations, milliseconds=milliseconds, wait=True)
    if answered is None:
        return
    hub.spans.open(instance_id, answered, waits_for=[instance_id])
    await _pause(draw, 2.0)
    if ends:
        await hub.end(instance_id, terminate=draw.random() < 0.3)


async def launches(hub: Hub, instance_id: str, draw: Random) -> None:
    """A chain of orchestrations, each of which starts the next and does not wait for it. The last one waits."""
    last = f"{instance_id}-last"
    links, slow = draw.randint(1, 8), draw.choice([0, 0, 100])
    if hub.worker_is_killed:
        # So long that the worker is killed amid the chain, and without activities, which would show it in a row.
        links, slow = draw.randint(15, 30), 0
    name, given = launcher_chain(instance_id, links, last, milliseconds=slow)
    answered = await hub.launch(name, instance_id, **given)
    if answered is None:
        return
    hub.spans.open(f"{instance_id} to {last}", answered, waits_for=[last])
    hub.chain_begun.set()
    if draw.random() < 0.5:
        await hub.until_status(last, "Running")
        await _pause(draw)
        await hub.end(last, terminate=draw.random() < 0.3)


def launcher_chain(instance_id: str, links: int, last: str, *, milliseconds: int = 0) -> tuple[str, dict[str, object]]:
    """Function and input of the first of `links` Launchers; the last one starts a Wait with the id `last`."""
    starts, given, starts_id = "Wait", dict[str, object](), last
    for number in range(links - 1, -1, -1):
        given = {"starts": starts, "id": starts_id, "input": given, "milliseconds": milliseconds}
        starts, starts_id = "Launcher", f"{instance_id}-{number}"
    return starts, given


async def timers(hub: Hub, instance_id: str, draw: Random) -> None:
    """A short timer that fires, or a long one that is terminated and leaves its message."""
    if draw.random() < 0.5:
        seconds = draw.uniform(2, 5)
        sent = time.monotonic()
        answered = await hub.launch("Timer", instance_id, seconds=seconds)
        if answered is not None and answered < sent + seconds - _EARLY_SECONDS:
            hub.spans.open(instance_id, answered, end=sent + seconds - _EARLY_SECONDS)
        return
    days = draw.choice([1, 2, 5])
    # A worker that is killed between sending the timer's message and saving the row would send it twice.
    async with hub.steady:
        answered = await hub.launch("Timer", instance_id, seconds=days * DAY_SECONDS)
        assert answered is not None, "nobody kills a worker while it is held steady"
        hub.spans.open(instance_id, answered, waits_for=[instance_id])
        await hub.until_status(instance_id, "Running")
    hub.leftover_timers.append(answered + days * DAY_SECONDS)
    await _pause(draw)
    await hub.end(instance_id, terminate=True)


async def fails(hub: Hub, instance_id: str, draw: Random) -> None:
    """An activity that fails with retries."""
    await hub.launch("Fails", instance_id, attempts=draw.randint(1, 4), reason="a reason\nof two lines")


async def rewinds(hub: Hub, instance_id: str, draw: Random) -> None:
    """An orchestration that fails, is rewound and then waits; its row says Pending meanwhile."""
    answered = await hub.launch("Mends", instance_id)
    if answered is None or hub.worker_is_killed:
        # Whether the activity fails is in the memory of a process, and after a kill it can run twice.
        return
    await hub.until_status(instance_id, "Failed")
    await hub.tell("rewind", instance_id)
    hub.spans.open(f"{instance_id} rewound", time.monotonic(), waits_for=[instance_id])


async def counts(hub: Hub, instance_id: str, draw: Random) -> None:
    """An orchestration that calls an entity, which stays Running for ever."""
    await hub.launch("Counts", instance_id, key=draw.choice(["a", "b"]))


async def chains(hub: Hub, instance_id: str, draw: Random) -> None:
    """Activities one after the other, then a purge."""
    steps, milliseconds = draw.randint(0, 5), draw.choice([1, 20, 200])
    sent = time.monotonic()
    answered = await hub.launch("Chain", instance_id, steps=steps, milliseconds=milliseconds)
    least = sent + steps * milliseconds / 1000 - _CLOCKS
    if answered is None:
        return
    if answered < least:
        hub.spans.open(instance_id, answered, end=least)
    if draw.random() < 0.5 and hub.purges:
        await hub.until_status(instance_id, *ENDED)
        async with hub.steady:
            await hub.tell("purge", instance_id)


ALWAYS: tuple[Story, ...] = (waits, waits, parents, continues, timers, fails, rewinds, counts, chains)
"""What every provider can be judged by."""

WITH_LAUNCHERS: tuple[Story, ...] = (*ALWAYS, launches, launches, launches)
"""With orchestrations that are nothing but a message for a while, which the management API does not show."""
