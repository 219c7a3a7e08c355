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
from state_api.backends.storage_artifacts import StorageArtifactStore
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderAccount
from tests.faults.crash_cases import (
    CaseEnvironment,
    CrashCase,
    FollowUp,
    PrepareCase,
    abandon,
    begin_rollback,
    begin_swap,
    cleanup,
    confirm_rollback,
    confirm_swap,
    delete_task_hubs,
    first_stage,
    revert_rollback,
    revert_swap,
    stage_over_drained,
    stored_state,
    swap_in_one_step,
    take_over,
    verified_stage,
)
from tests.faults.crashing_server import CrashPlan, CrashTiming, crashing_server, in_process_server, send_until_crash
from tests.faults.follow_ups import (
    abandon_and_stage_next,
    clean_up_in_next_release,
    confirm_before_next_stage,
    report_swap_done,
    report_swap_failed,
    stage_another_hub,
    stage_by_another_run,
)
from tests.faults.scale import IS_FULL_SCALE

pytestmark = [pytest.mark.anyio, pytest.mark.fault]

_CONCURRENT_CASES = 4
_FEW_REQUESTS = 12
_OPERATIONS_THAT_PROBE = (verified_stage, delete_task_hubs)
"""Operations that read a task hub at its provider."""
_SETTLED_AFTER_SECONDS = 10.0
"""Seconds until the last event is so long ago that a read which begins now comes after it."""
_LEASE_EXPIRED_AFTER_SECONDS = 300.0
"""Seconds until the next server comes where a dead one may have left a lease on reading a task hub: that of a cleanup
holds for 180 s."""


@pytest.fixture
async def environment(
    http: httpx.AsyncClient, server: StateServer, storage: StorageSettings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[CaseEnvironment]:
    # Each server reaches the account through proxies of its own; it is one account all the same.
    monkeypatch.setattr(StorageArtifactStore, "service_address", lambda artifacts, kind: f"https://shop.example/{kind}")
    async with ProviderAccount(storage) as account:
        made = CaseEnvironment(http, server, storage, account)
        # The tables that all share are there: what makes them is no part of an operation.
        await stage_over_drained(made)
        yield made


@dataclass(frozen=True)
class UninterruptedRun:
    """How the operation goes without a crash: its answer, what is left behind, and its requests to the storage."""

    answer: Any
    left: dict[str, Any]
    requests: list[tuple[str, str]]


async def run_uninterrupted(
    environment: CaseEnvironment, storage: StorageSettings, prepare: PrepareCase
) -> UninterruptedRun:
    case = await prepare(environment)
    doom = CrashPlan()
    async with crashing_server(
        storage, doom, _SETTLED_AFTER_SECONDS if prepare in _OPERATIONS_THAT_PROBE else 0
    ) as http:
        answer = await send_until_crash(http, case.perform, doom)
    assert answer is not None
    assert answer.status_code == 200, answer.text
    return UninterruptedRun(
        case.normalize(answer.json()), await stored_state(environment, case, environment.http), doom.requests
    )


def crash_points(requests: list[tuple[str, str]]) -> list[tuple[int, CrashTiming]]:
    """Where the server dies once something was changed: at every write, which arrives in time or late. Before the next
    request is after the last one, as far as the storage is concerned: that is tried where there are few."""
    found: list[tuple[int, CrashTiming]] = []
    for number, (method, _) in enumerate(requests, 1):
        if method != "GET":
            found.append((number, CrashTiming.AFTER))
        if method == "POST":
            # A deletion that comes late finds nothing: no name comes twice.
            found.append((number, CrashTiming.LATE))
        if found and len(requests) <= _FEW_REQUESTS:
            found.append((number, CrashTiming.BEFORE))
    return found


@pytest.mark.parametrize(
    "prepare",
    [
        first_stage,
        stage_over_drained,
        verified_stage,
        take_over,
        abandon,
        begin_swap,
        confirm_swap,
        revert_swap,
        swap_in_one_step,
        begin_rollback,
        confirm_rollback,
        revert_rollback,
        *([cleanup, delete_task_hubs] if IS_FULL_SCALE else []),
    ],
    ids=lambda prepare: prepare.__name__,
)
async def test_a_crash_at_any_request_is_made_good_by_asking_again(
    environment: CaseEnvironment, storage: StorageSettings, record_figures: Callable[..., None], prepare: PrepareCase
) -> None:
    reference = await run_uninterrupted(environment, storage, prepare)
    requests = reference.requests
    harmless = next(number for number, (method, _) in enumerate(requests, 1) if method != "GET")
    at_once = asyncio.Semaphore(_CONCURRENT_CASES)
    settled, later = (
        (_SETTLED_AFTER_SECONDS, _LEASE_EXPIRED_AFTER_SECONDS) if prepare in _OPERATIONS_THAT_PROBE else (0, 0)
    )
    died = 0

    async def crash(numbers: Sequence[int], when: CrashTiming) -> None:
        """On one case: several crashes only where none of them leaves a trace in the storage."""
        nonlocal died
        async with at_once:
            case = await prepare(environment)
            for number in numbers:
                doom = CrashPlan(number, when)
                async with crashing_server(storage, doom, settled) as broken, in_process_server(storage, later) as http:
                    answer = await send_until_crash(broken, case.perform, doom)
                    died += answer is None
                    if number != numbers[-1]:
                        assert answer is None
                        assert doom.writes <= 1, "that one was cut"
                        continue
                    await made_good(case, doom, http, answer)

    async def made_good(
        case: CrashCase, doom: CrashPlan, http: httpx.AsyncClient, answer: httpx.Response | None
    ) -> None:
        where = f"{doom.timing} request {doom.at_request}"
        again = await case.perform(http)
        assert again.status_code == 200, f"{where}: {again.text}"
        if doom.timing is CrashTiming.LATE and answer is None:
            doom.release_late.set()
            await asyncio.wait_for(doom.late_arrived.wait(), 60)
        # A lease that comes when its task hub is gone stays until it is over; it is in nobody's way.
        passing = ("probed", "leased") if doom.timing is CrashTiming.LATE else ()
        left = await stored_state(environment, case, http)
        assert without(left, passing) == without(reference.left, passing), where
        assert responses_match(case.normalize(again.json()), reference.answer), f"{where}: {again.text}"

    async with asyncio.TaskGroup() as group:
        group.create_task(crash(range(1, harmless + 1), CrashTiming.BEFORE))
        for number, when in crash_points(requests):
            group.create_task(crash([number], when))
    assert died >= harmless + 2
    record_figures(
        requests=len(requests),
        writes=sum(method != "GET" for method, _ in requests),
        crashes=died,
    )


def without(left: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: content for name, content in left.items() if name not in names}


def responses_match(again: Any, reference: Any) -> bool:
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
        (stage_over_drained, abandon_and_stage_next),
        (stage_over_drained, stage_another_hub),
        (stage_over_drained, stage_by_another_run),
        (begin_swap, report_swap_failed),
        (begin_swap, report_swap_done),
        (confirm_swap, confirm_before_next_stage),
        *([(cleanup, clean_up_in_next_release)] if IS_FULL_SCALE else []),
    ],
    ids=lambda one: one.__name__,
)
async def test_after_a_crash_something_else_may_come(
    environment: CaseEnvironment,
    storage: StorageSettings,
    record_figures: Callable[..., None],
    prepare: PrepareCase,
    follow: FollowUp,
) -> None:
    """At each state that a crash can leave the storage in."""
    requests = (await run_uninterrupted(environment, storage, prepare)).requests
    writes = [number for number, (method, _) in enumerate(requests, 1) if method != "GET"]
    posts = [number for number in writes if requests[number - 1][0] == "POST"]
    at_once = asyncio.Semaphore(_CONCURRENT_CASES)

    async def crash(number: int, when: CrashTiming) -> None:
        async with at_once:
            case = await prepare(environment)
            doom = CrashPlan(number, when)
            async with crashing_server(storage, doom) as broken, in_process_server(storage) as http:
                assert await send_until_crash(broken, case.perform, doom) is None
                await follow(case, http)
                left = await stored_state(environment, case, http)
                if when is CrashTiming.LATE:
                    doom.release_late.set()
                    await asyncio.wait_for(doom.late_arrived.wait(), 60)
                    late = await stored_state(environment, case, http)
                    assert (late["app"], late["etag"], late["history"]) == (left["app"], left["etag"], left["history"])

    async with asyncio.TaskGroup() as group:
        group.create_task(crash(writes[0], CrashTiming.BEFORE))
        for number in writes:
            group.create_task(crash(number, CrashTiming.AFTER))
        for number in posts:
            group.create_task(crash(number, CrashTiming.LATE))
    record_figures(crashes=1 + len(writes) + len(posts))
