"""Responses that the protocol allows: any order, limits, continuation tokens, statuses, times."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from durabletask.internal import orchestrator_service_pb2 as protocol

from state_api.backends import scheduler_cursor
from state_api.backends.protocols import BackendError, ReadFailure
from state_api.domain.instants import Instant, instant_from, seconds
from tests.backends.fake_schedulers import (
    CONNECTION_SETTING,
    HUB,
    FakeScheduler,
    build_orchestration_state,
    get_created_nanoseconds,
    index_latest_by_id,
    list_active_ids,
    open_backend_of_service,
    read_first_pass,
    read_pages,
    scan,
    to_nanoseconds,
)

pytestmark = pytest.mark.anyio


def build_states_apart(interval_nanoseconds: int) -> list[protocol.OrchestrationState]:
    """Return a hundred instances, of which two at a time were created in this interval. Their ids sort differently."""
    first = 1_700_000_000_000_000_000
    return [
        build_orchestration_state(f"order-{number * 37 % 100:02d}", first + number // 2 * interval_nanoseconds)
        for number in range(100)
    ]


SECOND = 1_000_000_000
STATES_A_SECOND_APART = build_states_apart(SECOND)
SORT_ORDERS: dict[str, Callable[[protocol.OrchestrationState], Any]] = {
    "oldest first": get_created_nanoseconds,
    "newest first": lambda state: -get_created_nanoseconds(state),
    "by id": lambda state: state.instanceId,
    "by end of id": lambda state: state.instanceId[::-1],
}


@pytest.mark.parametrize("order", SORT_ORDERS)
@pytest.mark.parametrize("always_has_more", [False, True])
@pytest.mark.parametrize("bounds", [">=<", "><", ">=<=", "none"])
@pytest.mark.parametrize("interval_nanoseconds", [SECOND, 100])
async def test_every_active_instance_is_found_in_any_order_and_with_any_bounds(
    *, order: str, always_has_more: bool, bounds: str, interval_nanoseconds: int
) -> None:
    """Schedulers choose an order, whether bounds are inclusive, and whether the last page has a token."""
    scheduler = FakeScheduler(build_states_apart(interval_nanoseconds))
    scheduler.order, scheduler.always_has_more, scheduler.time_bounds = SORT_ORDERS[order], always_has_more, bounds
    async with open_backend_of_service(scheduler, 8) as backend:
        pages = await read_first_pass(backend)
    assert list_active_ids(pages) == {state.instanceId for state in scheduler.states}


async def test_cursors_stay_short_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the newest come first, each split separates only one page. A bound that is dropped is found again."""
    monkeypatch.setattr(scheduler_cursor, "_MAX_CURSOR_BOUNDS", 2)
    scheduler = FakeScheduler(STATES_A_SECOND_APART)
    scheduler.order = SORT_ORDERS["newest first"]
    async with open_backend_of_service(scheduler, 8) as backend:
        pages = await read_first_pass(backend)
    assert list_active_ids(pages) == {state.instanceId for state in STATES_A_SECOND_APART}
    assert max(len(cursor) for page in pages for cursor in page.cursors) < 90


@pytest.mark.parametrize("order", SORT_ORDERS)
async def test_continuation_tokens_are_followed_through_instances_created_at_the_same_time(order: str) -> None:
    simultaneous = [
        build_orchestration_state(f"simultaneous-{number}", get_created_nanoseconds(STATES_A_SECOND_APART[50]))
        for number in range(20)
    ]
    scheduler = FakeScheduler([*STATES_A_SECOND_APART, *simultaneous])
    scheduler.order = SORT_ORDERS[order]
    async with open_backend_of_service(scheduler, 6) as backend:
        pages = await read_first_pass(backend)
    assert list_active_ids(pages) == {state.instanceId for state in scheduler.states}


async def test_a_page_at_the_schedulers_limit_is_split_like_a_full_page() -> None:
    scheduler = FakeScheduler([build_orchestration_state(f"order-{number}", number * SECOND) for number in range(450)])
    scheduler.limit = 100
    async with open_backend_of_service(scheduler) as backend:
        pages = await read_first_pass(backend)
    assert len(list_active_ids(pages)) == 450
    assert not any(query.HasField("continuationToken") for query in scheduler.queries)


async def test_short_pages_are_followed_by_their_tokens() -> None:
    scheduler = FakeScheduler(STATES_A_SECOND_APART)
    scheduler.limit = 3
    async with open_backend_of_service(scheduler, 8) as backend:
        pages = await read_first_pass(backend)
    assert list_active_ids(pages) == {state.instanceId for state in STATES_A_SECOND_APART}


class ScriptedScheduler:
    """Gives these responses in turn."""

    def __init__(self, *responses: protocol.QueryInstancesResponse) -> None:
        self.responses = list(responses)

    def query(self, _: Any, __: Any) -> protocol.QueryInstancesResponse:
        return self.responses.pop(0)

    get = query


def build_query_response(token: str, *states: protocol.OrchestrationState) -> protocol.QueryInstancesResponse:
    """A page of QueryInstances with these instances. An empty token ends the list."""
    return protocol.QueryInstancesResponse(orchestrationState=states, continuationToken={"value": token})


async def test_a_scan_ends_at_the_token_0_and_not_at_an_empty_page() -> None:
    scheduler = ScriptedScheduler(
        build_query_response("a"),
        build_query_response("b"),
        build_query_response("0", build_orchestration_state("hidden")),
        build_query_response(""),
    )
    async with open_backend_of_service(scheduler) as backend:
        assert set(await scan(backend)) == {"hidden"}
    assert scheduler.responses == []


async def test_a_list_without_an_end_is_a_failure() -> None:
    scheduler = ScriptedScheduler(build_query_response("a"), build_query_response("a"))
    async with open_backend_of_service(scheduler) as backend:
        with pytest.raises(
            BackendError, match=f"{CONNECTION_SETTING} gives the same page of task hub {HUB} again"
        ) as caught:
            await scan(backend)
    assert caught.value.failure is ReadFailure.FAILED


async def test_the_version_of_an_orchestration_is_shown() -> None:
    scheduler = FakeScheduler(
        [build_orchestration_state("versioned", version={"value": "2.1"}), build_orchestration_state("plain")]
    )
    async with open_backend_of_service(scheduler) as backend:
        for observed_by_id in (await scan(backend), await backend.find_instances(HUB, ["versioned", "plain"])):
            versions = {name: observed.version for name, observed in observed_by_id.items() if observed is not None}
            assert versions == {"versioned": "2.1", "plain": None}


async def test_every_status_of_the_protocol_is_known_and_others_count_as_active() -> None:
    names = dict(protocol.OrchestrationStatus.items())
    scheduler = FakeScheduler([build_orchestration_state(name, status=number) for name, number in names.items()])
    scheduler.states.append(build_orchestration_state("new", status=99))
    async with open_backend_of_service(scheduler) as backend:
        start = await backend.begin_scan(HUB)
        observed_by_id = index_latest_by_id(await read_pages([backend], Instant(0), start.next_pass_cursors))
        in_first_pass = list_active_ids(await read_first_pass(backend))
    statuses = {name: observed.runtime_status.name for name, observed in observed_by_id.items()}
    assert statuses == {name: name.removeprefix("ORCHESTRATION_STATUS_") for name in names} | {"new": "RUNNING"}
    assert {name for name in in_first_pass if name != "new"} == {
        name for name, observed in observed_by_id.items() if observed.active and name != "new"
    }


async def test_entities_in_a_list_are_left_out() -> None:
    scheduler = FakeScheduler([build_orchestration_state("@counter@one"), build_orchestration_state("order")])
    async with open_backend_of_service(scheduler) as backend:
        pages = await read_first_pass(backend)
        assert await backend.find_instances(HUB, ["@counter@one"]) == {"@counter@one": None}
    assert list_active_ids(pages) == {"order"}
    assert pages[0].scanned == 1


async def test_times_are_exact_to_100_ns_and_stamps_to_1_ns() -> None:
    scheduler = FakeScheduler([build_orchestration_state("order-1", 1_700_000_000_123_456_789)])
    async with open_backend_of_service(scheduler) as backend:
        earlier = (await scan(backend))["order-1"]
        scheduler.states = [build_orchestration_state("order-1", 1_700_000_000_123_456_790)]
        later = (await scan(backend))["order-1"]
    assert earlier.created_at == earlier.updated_at == 17_000_000_001_234_567
    assert earlier.stamp != later.stamp


async def test_each_call_names_its_task_hub() -> None:
    scheduler = FakeScheduler()
    async with open_backend_of_service(scheduler) as backend:
        for hub in (HUB, "other"):
            start = await backend.begin_scan(hub)
            await backend.read_page(hub, start.changed_since, start.cursors[0])
    assert [metadata["taskhub"] for metadata in scheduler.metadata] == [HUB, "other"]
    assert all("authorization" not in metadata for metadata in scheduler.metadata)


async def test_a_scan_counts_changes_from_a_minute_before_now() -> None:
    """Created times are by the scheduler's clock, which the protocol does not show."""
    scheduler = FakeScheduler()
    async with open_backend_of_service(scheduler) as backend:
        start = await backend.begin_scan(HUB)
        await read_pages([backend], start.changed_since, start.cursors)
    ago = instant_from(datetime.now(UTC)) - start.changed_since
    assert seconds(60) <= ago < seconds(70)
    assert [to_nanoseconds(query.createdTimeFrom) for query in scheduler.queries] == [0, start.changed_since * 100]
    # Running, ContinuedAsNew, Pending and Suspended.
    assert sorted(scheduler.queries[0].runtimeStatus) == [0, 2, 6, 7]
    assert list(scheduler.queries[1].runtimeStatus) == []
    assert {query.maxInstanceCount for query in scheduler.queries} == {500}
    assert not any(query.fetchInputsAndOutputs for query in scheduler.queries)


async def test_a_page_may_be_larger_than_the_default_limit_of_grpc() -> None:
    scheduler = FakeScheduler(
        [build_orchestration_state(f"order-{number}", customStatus={"value": "x" * 16_000}) for number in range(500)]
    )
    async with open_backend_of_service(scheduler) as backend:
        assert len(await scan(backend)) == 500
