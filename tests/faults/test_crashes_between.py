"""A server that dies between any two of its requests to the storage, in the middle of staging, swapping and cleaning
up. The pipeline asks the next server the same again, or something else: nothing is done twice, nothing is missing from
the record, nothing is stuck."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from state_api.app import StateServer
from state_api.settings import StorageSettings
from state_api.taskhubs.artifacts import StorageArtifacts
from tests.faults.aftermaths import (
    abandoned,
    another_hub,
    another_run,
    cleaned_up_later,
    confirmed_by_others,
    done_unbegun,
    not_swapped,
)
from tests.faults.crashes import Doom, When, dies, doomed, serving_here
from tests.faults.operations import (
    Aftermath,
    Case,
    Prepare,
    World,
    abandon,
    begin_rollback,
    begin_swap,
    cleanup,
    confirm_rollback,
    confirm_swap,
    delete_task_hubs,
    first_stage,
    left_behind,
    stage_over,
    swap_at_once,
    take_over,
    take_rollback_back,
    take_swap_back,
    verified_stage,
)
from tests.faults.sizes import WHOLE
from tests.taskhubs.provider import Account

pytestmark = [pytest.mark.anyio, pytest.mark.fault]

_AT_ONCE = 4
_FEW = 12
_READ_FOR = (verified_stage, delete_task_hubs)
"""Operations that read a task hub at its provider."""
_SETTLED = 10.0
"""Seconds until the last event is so long ago that a read which begins now comes after it."""
_LEASE_IS_OVER = 300.0
"""Seconds until the next server comes where a dead one may have left a lease on reading a task hub: that of a cleanup
holds for 180 s."""


@pytest.fixture
async def world(
    http: httpx.AsyncClient, server: StateServer, storage: StorageSettings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    # Each server reaches the account through proxies of its own; it is one account all the same.
    monkeypatch.setattr(StorageArtifacts, "address", lambda artifacts, kind: f"https://shop.example/{kind}")
    async with Account(storage) as account:
        made = World(http, server, storage, account)
        # The tables that all share are there: what makes them is no part of an operation.
        await stage_over(made)
        yield made


@dataclass(frozen=True)
class Whole:
    """How the operation goes without a crash: its answer, what is left behind, and its requests to the storage."""

    answer: Any
    left: dict[str, Any]
    requests: list[tuple[str, str]]


async def whole(world: World, storage: StorageSettings, prepare: Prepare) -> Whole:
    case = await prepare(world)
    doom = Doom()
    async with doomed(storage, doom, _SETTLED if prepare in _READ_FOR else 0) as http:
        answer = await dies(http, case.done, doom)
    assert answer is not None
    assert answer.status_code == 200, answer.text
    return Whole(case.plain(answer.json()), await left_behind(world, case, world.http), doom.requests)


def points(requests: list[tuple[str, str]]) -> list[tuple[int, When]]:
    """Where the server dies once something was changed: at every write, which arrives in time or late. Before the next
    request is after the last one, as far as the storage is concerned: that is tried where there are few."""
    found: list[tuple[int, When]] = []
    for number, (method, _) in enumerate(requests, 1):
        if method != "GET":
            found.append((number, When.AFTER))
        if method == "POST":
            # A deletion that comes late finds nothing: no name comes twice.
            found.append((number, When.LATE))
        if found and len(requests) <= _FEW:
            found.append((number, When.BEFORE))
    return found


@pytest.mark.parametrize(
    "prepare",
    [
        first_stage,
        stage_over,
        verified_stage,
        take_over,
        abandon,
        begin_swap,
        confirm_swap,
        take_swap_back,
        swap_at_once,
        begin_rollback,
        confirm_rollback,
        take_rollback_back,
        *([cleanup, delete_task_hubs] if WHOLE else []),
    ],
    ids=lambda prepare: prepare.__name__,
)
async def test_a_crash_at_any_request_is_made_good_by_asking_again(
    world: World, storage: StorageSettings, figures: Callable[..., None], prepare: Prepare
) -> None:
    reference = await whole(world, storage, prepare)
    requests = reference.requests
    harmless = next(number for number, (method, _) in enumerate(requests, 1) if method != "GET")
    at_once = asyncio.Semaphore(_AT_ONCE)
    settled, later = (_SETTLED, _LEASE_IS_OVER) if prepare in _READ_FOR else (0, 0)
    died = 0

    async def crash(numbers: Sequence[int], when: When) -> None:
        """On one case: several crashes only where none of them leaves a trace in the storage."""
        nonlocal died
        async with at_once:
            case = await prepare(world)
            for number in numbers:
                doom = Doom(number, when)
                async with doomed(storage, doom, settled) as broken, serving_here(storage, later) as http:
                    answer = await dies(broken, case.done, doom)
                    died += answer is None
                    if number != numbers[-1]:
                        assert answer is None
                        assert doom.writes <= 1, "that one was cut"
                        continue
                    await made_good(case, doom, http, answer)

    async def made_good(case: Case, doom: Doom, http: httpx.AsyncClient, answer: httpx.Response | None) -> None:
        where = f"{doom.when} request {doom.at}"
        again = await case.done(http)
        assert again.status_code == 200, f"{where}: {again.text}"
        if doom.when is When.LATE and answer is None:
            doom.let_go.set()
            await asyncio.wait_for(doom.arrived.wait(), 60)
        # A lease that comes when its task hub is gone stays until it is over; it is in nobody's way.
        passing = ("probed", "leased") if doom.when is When.LATE else ()
        left = await left_behind(world, case, http)
        assert without(left, passing) == without(reference.left, passing), where
        assert answers_alike(case.plain(again.json()), reference.answer), f"{where}: {again.text}"

    async with asyncio.TaskGroup() as group:
        group.create_task(crash(range(1, harmless + 1), When.BEFORE))
        for number, when in points(requests):
            group.create_task(crash([number], when))
    assert died >= harmless + 2
    figures(
        requests=len(requests),
        writes=sum(method != "GET" for method, _ in requests),
        crashes=died,
    )


def without(left: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: content for name, content in left.items() if name not in names}


def answers_alike(again: Any, reference: Any) -> bool:
    """The same answer. That of a cleanup lists what it has removed: less, if a part was removed before."""
    if "taskHubs" not in again or "dryRun" not in again:
        return bool(again == reference)
    hubs = {one["taskHub"]: one for one in reference["taskHubs"]}
    listed = [
        {**one, "artifacts": []} == {**hubs[one["taskHub"]], "artifacts": []}
        and set(one["artifacts"]) <= set(hubs[one["taskHub"]]["artifacts"])
        for one in again["taskHubs"]
    ]
    return all(listed) and again["app"] == reference["app"]


@pytest.mark.parametrize(
    ("prepare", "follow"),
    [
        (stage_over, abandoned),
        (stage_over, another_hub),
        (stage_over, another_run),
        (begin_swap, not_swapped),
        (begin_swap, done_unbegun),
        (confirm_swap, confirmed_by_others),
        *([(cleanup, cleaned_up_later)] if WHOLE else []),
    ],
    ids=lambda one: one.__name__,
)
async def test_after_a_crash_something_else_may_come(
    world: World, storage: StorageSettings, figures: Callable[..., None], prepare: Prepare, follow: Aftermath
) -> None:
    """At each state that a crash can leave the storage in."""
    requests = (await whole(world, storage, prepare)).requests
    writes = [number for number, (method, _) in enumerate(requests, 1) if method != "GET"]
    posts = [number for number in writes if requests[number - 1][0] == "POST"]
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def crash(number: int, when: When) -> None:
        async with at_once:
            case = await prepare(world)
            doom = Doom(number, when)
            async with doomed(storage, doom) as broken, serving_here(storage) as http:
                assert await dies(broken, case.done, doom) is None
                await follow(case, http)
                left = await left_behind(world, case, http)
                if when is When.LATE:
                    doom.let_go.set()
                    await asyncio.wait_for(doom.arrived.wait(), 60)
                    late = await left_behind(world, case, http)
                    assert (late["app"], late["etag"], late["history"]) == (left["app"], left["etag"], left["history"])

    async with asyncio.TaskGroup() as group:
        group.create_task(crash(writes[0], When.BEFORE))
        for number in writes:
            group.create_task(crash(number, When.AFTER))
        for number in posts:
            group.create_task(crash(number, When.LATE))
    figures(crashes=1 + len(writes) + len(posts))
