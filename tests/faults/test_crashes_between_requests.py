"""A server crashes between any two of its requests to the storage, during staging, swaps, rollouts and cleanup. The
next server gets the same request or another one. No operation is blocked, carried out twice, or missing from the audit
log."""

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
from tests.documents.page_tables import ROOT, read_table_rows
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
from tests.faults.release_crash_cases import (
    adopt_releases,
    begin_removal,
    confirm_removal,
    promote_release,
    register_release,
    remove_in_next_run,
    revert_removal,
    roll_back_after_promotion,
)
from tests.faults.rollout_crash_cases import (
    abort_rollout,
    advance_rollout,
    advance_unhealthy_rollout,
    confirm_cleared_slot,
    confirm_weight,
    finish_rollout,
    roll_back_during_rollout,
    start_rollout,
    start_rollout_of_slot,
)
from tests.faults.scale import IS_FULL_SCALE

pytestmark = [pytest.mark.anyio, pytest.mark.fault]

_PAGE = ROOT / "docs" / "reliability.md"
_CONCURRENT_CASES = 4
_FEW_REQUESTS = 12
_OPERATIONS_WITH_LATER_CLOCKS = (verified_stage, delete_task_hubs, advance_rollout, advance_unhealthy_rollout)
"""Operations that probe a task hub, or need the minutes of a step to be over."""
_SETTLED_AFTER_SECONDS = 10.0
"""How far the clock is ahead of the last event, so that a probe begins after it."""
_LEASE_EXPIRED_AFTER_SECONDS = 300.0
"""How far the clock of the next server is ahead, so that the lease of a crashed server has expired. The lease of
Cleanup lasts 180 s."""


@pytest.fixture
async def environment(
    http: httpx.AsyncClient, server: StateServer, storage: StorageSettings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[CaseEnvironment]:
    """What the cases need. The storage has the shared tables already, so no tested operation creates them."""
    # Each server reaches the account through its own proxies, but the proofs of claims must have equal addresses.
    monkeypatch.setattr(StorageArtifactStore, "service_address", lambda artifacts, kind: f"https://shop.example/{kind}")
    async with ProviderAccount(storage) as account:
        case_environment = CaseEnvironment(http, server, storage, account)
        await stage_over_drained(case_environment)
        yield case_environment


_OPERATIONS_THAT_REPORT_ANEW = (confirm_cleared_slot,)
"""Operations that report what the caller sees now, so each request is recorded, also one that repeats another."""


@dataclass(frozen=True)
class UninterruptedRun:
    """An operation without a crash: its response, the stored state after it, and its requests to the storage."""

    response: Any
    state: dict[str, Any]
    requests: list[tuple[str, str]]


async def run_uninterrupted(
    environment: CaseEnvironment, storage: StorageSettings, prepare: PrepareCase, *, is_repeated: bool = False
) -> UninterruptedRun:
    """Carry out the operation of a new case without a crash. `is_repeated`: the request is sent twice."""
    case = await prepare(environment)
    no_crash = CrashPlan()
    async with crashing_server(
        storage, no_crash, _SETTLED_AFTER_SECONDS if prepare in _OPERATIONS_WITH_LATER_CLOCKS else 0
    ) as http:
        response = await send_until_crash(http, case.perform, no_crash)
        if is_repeated:
            response = await case.perform(http)
    assert response is not None
    assert response.status_code == 200, response.text
    state = await stored_state(environment, case, environment.http)
    return UninterruptedRun(case.normalize(response.json()), state, no_crash.requests)


def crash_points(requests: list[tuple[str, str]]) -> list[tuple[int, CrashTiming]]:
    """The crash points from the first write on: at every write, which is in time or delayed. For operations with few
    requests, also before each request, which leaves the storage as the last write has left it."""
    points: list[tuple[int, CrashTiming]] = []
    for number, (method, _) in enumerate(requests, 1):
        if method != "GET":
            points.append((number, CrashTiming.AFTER))
        if method == "POST":
            # A delayed deletion finds no row, because names are never reused, so only other writes are delayed.
            points.append((number, CrashTiming.LATE))
        if points and len(requests) <= _FEW_REQUESTS:
            points.append((number, CrashTiming.BEFORE))
    return points


_LONG_OPERATIONS = (cleanup, delete_task_hubs)
_OPERATIONS = (
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
    register_release,
    adopt_releases,
    promote_release,
    begin_removal,
    confirm_removal,
    revert_removal,
    start_rollout,
    start_rollout_of_slot,
    confirm_weight,
    confirm_cleared_slot,
    advance_rollout,
    advance_unhealthy_rollout,
    abort_rollout,
    finish_rollout,
    *_LONG_OPERATIONS,
)
"""The operations that a crash interrupts, in the order of the page."""


async def test_the_page_lists_every_operation() -> None:
    rows = read_table_rows(_PAGE, "A crash between any two requests", "Operation")
    assert [cells[1].strip("`") for cells in rows] == [prepare.__name__ for prepare in _OPERATIONS]


@pytest.mark.parametrize(
    "prepare",
    [prepare for prepare in _OPERATIONS if IS_FULL_SCALE or prepare not in _LONG_OPERATIONS],
    ids=lambda prepare: prepare.__name__,
)
async def test_repeating_the_request_after_a_crash_completes_the_operation(
    environment: CaseEnvironment, storage: StorageSettings, record_figures: Callable[..., None], prepare: PrepareCase
) -> None:
    reference = await run_uninterrupted(environment, storage, prepare)
    references = [reference]
    if prepare in _OPERATIONS_THAT_REPORT_ANEW:
        references.append(await run_uninterrupted(environment, storage, prepare, is_repeated=True))
    requests = reference.requests
    first_write = next(number for number, (method, _) in enumerate(requests, 1) if method != "GET")
    case_slots = asyncio.Semaphore(_CONCURRENT_CASES)
    crashing_offset, next_offset = (
        (_SETTLED_AFTER_SECONDS, _LEASE_EXPIRED_AFTER_SECONDS) if prepare in _OPERATIONS_WITH_LATER_CLOCKS else (0, 0)
    )
    crash_count = 0

    async def crash_at_requests(numbers: Sequence[int], timing: CrashTiming) -> None:
        """Crash one case at each of these requests, and repeat the request after the last crash.

        Several numbers are possible only if none of these requests changes the storage.
        """
        nonlocal crash_count
        async with case_slots:
            case = await prepare(environment)
            for number in numbers:
                plan = CrashPlan(number, timing)
                async with (
                    crashing_server(storage, plan, crashing_offset) as crashing,
                    in_process_server(storage, next_offset) as http,
                ):
                    response = await send_until_crash(crashing, case.perform, plan)
                    crash_count += response is None
                    if number != numbers[-1]:
                        assert response is None
                        assert plan.write_count <= 1, "a write that was sent did not reach the storage"
                        continue
                    await repeat_and_check(case, plan, http, response)

    async def repeat_and_check(
        case: CrashCase, plan: CrashPlan, http: httpx.AsyncClient, response: httpx.Response | None
    ) -> None:
        """Send the request again after the crash. State and response must be the same as those of a request, or of two
        if each is recorded, without a crash."""
        crash_point = f"{plan.timing} request {plan.at_request}"
        repeated = await case.perform(http)
        assert repeated.status_code == 200, f"{crash_point}: {repeated.text}"
        if plan.timing is CrashTiming.LATE and response is None:
            plan.release_late.set()
            await asyncio.wait_for(plan.late_arrived.wait(), 60)
        state = await stored_state(environment, case, http)
        expected = next((run for run in references if run.state == state), reference)
        assert state == expected.state, crash_point
        assert responses_match(case.normalize(repeated.json()), expected.response), f"{crash_point}: {repeated.text}"

    async with asyncio.TaskGroup() as group:
        group.create_task(crash_at_requests(range(1, first_write + 1), CrashTiming.BEFORE))
        for number, timing in crash_points(requests):
            group.create_task(crash_at_requests([number], timing))
    assert crash_count >= first_write + 2
    record_figures(
        requests=len(requests),
        writes=sum(method != "GET" for method, _ in requests),
        crashes=crash_count,
    )


def responses_match(repeated: Any, reference: Any) -> bool:
    """Whether the responses are equal. A repeated cleanup may list fewer artifacts, as some were removed before."""
    if "taskHubs" not in repeated or "dryRun" not in repeated:
        return bool(repeated == reference)
    hubs = {hub["taskHub"]: hub for hub in reference["taskHubs"]}
    hubs_match = [
        {**hub, "artifacts": []} == {**hubs[hub["taskHub"]], "artifacts": []}
        and set(hub["artifacts"]) <= set(hubs[hub["taskHub"]]["artifacts"])
        for hub in repeated["taskHubs"]
    ]
    return all(hubs_match) and repeated["app"] == reference["app"]


@pytest.mark.parametrize(
    ("prepare", "follow_up"),
    [
        (stage_over_drained, abandon_and_stage_next),
        (stage_over_drained, stage_another_hub),
        (stage_over_drained, stage_by_another_run),
        (begin_swap, report_swap_failed),
        (begin_swap, report_swap_done),
        (confirm_swap, confirm_before_next_stage),
        (begin_removal, remove_in_next_run),
        (confirm_removal, remove_in_next_run),
        (promote_release, roll_back_after_promotion),
        (start_rollout, roll_back_during_rollout),
        (advance_unhealthy_rollout, roll_back_during_rollout),
        (abort_rollout, roll_back_during_rollout),
        *([(cleanup, clean_up_in_next_release)] if IS_FULL_SCALE else []),
    ],
    ids=lambda function: function.__name__,
)
async def test_another_request_succeeds_after_a_crash(
    environment: CaseEnvironment,
    storage: StorageSettings,
    record_figures: Callable[..., None],
    prepare: PrepareCase,
    follow_up: FollowUp,
) -> None:
    """The follow-up runs in every state of the storage that a crash can leave."""
    requests = (await run_uninterrupted(environment, storage, prepare)).requests
    writes = [number for number, (method, _) in enumerate(requests, 1) if method != "GET"]
    posts = [number for number in writes if requests[number - 1][0] == "POST"]
    case_slots = asyncio.Semaphore(_CONCURRENT_CASES)

    async def crash_and_follow_up(number: int, timing: CrashTiming) -> None:
        """Crash at one storage request, and then do what another caller does. A write that arrives late must change
        nothing."""
        async with case_slots:
            case = await prepare(environment)
            plan = CrashPlan(number, timing)
            async with crashing_server(storage, plan) as crashing, in_process_server(storage) as http:
                assert await send_until_crash(crashing, case.perform, plan) is None
                await follow_up(case, http)
                state = await stored_state(environment, case, http)
                if timing is CrashTiming.LATE:
                    plan.release_late.set()
                    await asyncio.wait_for(plan.late_arrived.wait(), 60)
                    late = await stored_state(environment, case, http)
                    assert (late["app"], late["etag"], late["history"]) == (
                        state["app"],
                        state["etag"],
                        state["history"],
                    )

    async with asyncio.TaskGroup() as group:
        group.create_task(crash_and_follow_up(writes[0], CrashTiming.BEFORE))
        for number in writes:
            group.create_task(crash_and_follow_up(number, CrashTiming.AFTER))
        for number in posts:
            group.create_task(crash_and_follow_up(number, CrashTiming.LATE))
    record_figures(crashes=1 + len(writes) + len(posts))
