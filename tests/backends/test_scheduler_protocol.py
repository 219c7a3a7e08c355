"""What schedulers may answer within the protocol: any order, limits, continuation tokens, statuses, times."""

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
    active_ids,
    created_nanoseconds,
    latest_by_id,
    nanoseconds,
    open_backend_of,
    orchestration_state,
    read_first_pass,
    read_pages,
    scan,
)

pytestmark = pytest.mark.anyio


def states_apart(apart: int) -> list[protocol.OrchestrationState]:
    """A hundred instances, two at a time, so many nanoseconds apart; their ids are in another order."""
    return [
        orchestration_state(f"one-{number * 37 % 100:02d}", 1_700_000_000_000_000_000 + number // 2 * apart)
        for number in range(100)
    ]


SECOND = 1_000_000_000
STATES_A_SECOND_APART = states_apart(SECOND)
SORT_ORDERS: dict[str, Callable[[protocol.OrchestrationState], Any]] = {
    "oldest first": created_nanoseconds,
    "newest first": lambda state: -created_nanoseconds(state),
    "by id": lambda state: state.instanceId,
    "by end of id": lambda state: state.instanceId[::-1],
}


@pytest.mark.parametrize("order", SORT_ORDERS)
@pytest.mark.parametrize("always_more", [False, True])
@pytest.mark.parametrize("bounds", [">=<", "><", ">=<=", "none"])
@pytest.mark.parametrize("apart", [SECOND, 100])
async def test_the_ways_of_a_scheduler_do_not_matter(order: str, always_more: bool, bounds: str, apart: int) -> None:
    """Neither its order, nor what it takes the ends of a span to be, nor a token where there is no more."""
    own = FakeScheduler(states_apart(apart))
    own.order, own.always_has_more, own.time_bounds = SORT_ORDERS[order], always_more, bounds
    async with open_backend_of(own, 8) as backend:
        pages = await read_first_pass(backend)
    assert active_ids(pages) == {state.instanceId for state in own.states}


async def test_cursors_stay_short_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newest first, each page cuts off no more than itself; the bounds that are dropped are found again."""
    monkeypatch.setattr(scheduler_cursor, "_MAX_CURSOR_BOUNDS", 2)
    own = FakeScheduler(STATES_A_SECOND_APART)
    own.order = SORT_ORDERS["newest first"]
    async with open_backend_of(own, 8) as backend:
        pages = await read_first_pass(backend)
    assert active_ids(pages) == {state.instanceId for state in STATES_A_SECOND_APART}
    assert max(len(cursor) for page in pages for cursor in page.cursors) < 90


@pytest.mark.parametrize("order", SORT_ORDERS)
async def test_continuation_tokens_are_followed_through_what_was_created_at_once(order: str) -> None:
    at_once = [
        orchestration_state(f"one-at-once-{number}", created_nanoseconds(STATES_A_SECOND_APART[50]))
        for number in range(20)
    ]
    own = FakeScheduler([*STATES_A_SECOND_APART, *at_once])
    own.order = SORT_ORDERS[order]
    async with open_backend_of(own, 6) as backend:
        pages = await read_first_pass(backend)
    assert active_ids(pages) == {state.instanceId for state in own.states}


async def test_a_limit_of_the_scheduler_is_cut_through_like_a_full_page() -> None:
    own = FakeScheduler([orchestration_state(f"one-{number}", number * SECOND) for number in range(450)])
    own.limit = 100
    async with open_backend_of(own) as backend:
        pages = await read_first_pass(backend)
    assert len(active_ids(pages)) == 450
    assert not any(query.HasField("continuationToken") for query in own.queries)


async def test_short_pages_are_followed_by_their_tokens() -> None:
    own = FakeScheduler(STATES_A_SECOND_APART)
    own.limit = 3
    async with open_backend_of(own, 8) as backend:
        pages = await read_first_pass(backend)
    assert active_ids(pages) == {state.instanceId for state in STATES_A_SECOND_APART}


class ScriptedScheduler:
    """Gives these answers in turn."""

    def __init__(self, *answers: protocol.QueryInstancesResponse) -> None:
        self.answers = list(answers)

    def query(self, _: Any, __: Any) -> protocol.QueryInstancesResponse:
        return self.answers.pop(0)

    get = query


def query_response(token: str, *states: protocol.OrchestrationState) -> protocol.QueryInstancesResponse:
    return protocol.QueryInstancesResponse(orchestrationState=states, continuationToken={"value": token})


async def test_empty_pages_are_not_the_end_and_the_token_0_is() -> None:
    own = ScriptedScheduler(
        query_response("a"), query_response("b"), query_response("0", orchestration_state("hidden")), query_response("")
    )
    async with open_backend_of(own) as backend:
        assert set(await scan(backend)) == {"hidden"}
    assert own.answers == []


async def test_a_listing_without_an_end_is_an_error() -> None:
    own = ScriptedScheduler(query_response("a"), query_response("a"))
    async with open_backend_of(own) as backend:
        with pytest.raises(
            BackendError, match=f"{CONNECTION_SETTING} gives the same page of task hub {HUB} again"
        ) as caught:
            await scan(backend)
    assert caught.value.failure is ReadFailure.FAILED


async def test_the_version_of_an_orchestration_comes_along() -> None:
    own = FakeScheduler([orchestration_state("versioned", version={"value": "2.1"}), orchestration_state("plain")])
    async with open_backend_of(own) as backend:
        for found in (await scan(backend), await backend.find_instances(HUB, ["versioned", "plain"])):
            assert [one and one.version for one in (found["versioned"], found["plain"])] == ["2.1", None]


async def test_every_status_of_the_protocol_is_known_and_others_count_as_active() -> None:
    names = dict(protocol.OrchestrationStatus.items())
    own = FakeScheduler([orchestration_state(name, status=number) for name, number in names.items()])
    own.states.append(orchestration_state("new", status=99))
    async with open_backend_of(own) as backend:
        start = await backend.begin_scan(HUB)
        found = latest_by_id(await read_pages([backend], Instant(0), start.next_pass_cursors))
        in_first_pass = active_ids(await read_first_pass(backend))
    told = {name: one.runtime_status.name for name, one in found.items()}
    assert told == {name: name.removeprefix("ORCHESTRATION_STATUS_") for name in names} | {"new": "RUNNING"}
    assert {name for name in in_first_pass if name != "new"} == {
        name for name, one in found.items() if one.active and name != "new"
    }


async def test_entities_in_the_listing_are_left_out() -> None:
    own = FakeScheduler([orchestration_state("@counter@one"), orchestration_state("order")])
    async with open_backend_of(own) as backend:
        pages = await read_first_pass(backend)
        assert await backend.find_instances(HUB, ["@counter@one"]) == {"@counter@one": None}
    assert active_ids(pages) == {"order"}
    assert pages[0].scanned == 1


async def test_times_keep_their_ticks() -> None:
    own = FakeScheduler([orchestration_state("one", 1_700_000_000_123_456_789)])
    async with open_backend_of(own) as backend:
        found = (await scan(backend))["one"]
        own.states = [orchestration_state("one", 1_700_000_000_123_456_790)]
        later = (await scan(backend))["one"]
    assert found.created_at == found.updated_at == 17_000_000_001_234_567
    assert found.stamp != later.stamp


async def test_each_call_says_which_task_hub_it_means() -> None:
    own = FakeScheduler()
    async with open_backend_of(own) as backend:
        for hub in (HUB, "other"):
            start = await backend.begin_scan(hub)
            await backend.read_page(hub, start.changed_since, start.cursors[0])
    assert [metadata["taskhub"] for metadata in own.metadata] == [HUB, "other"]
    assert all("authorization" not in metadata for metadata in own.metadata)


async def test_since_is_a_minute_before_now() -> None:
    """Created times are of the scheduler's clock, which this server cannot see."""
    own = FakeScheduler()
    async with open_backend_of(own) as backend:
        start = await backend.begin_scan(HUB)
        await read_pages([backend], start.changed_since, start.cursors)
    ago = instant_from(datetime.now(UTC)) - start.changed_since
    assert seconds(60) <= ago < seconds(70)
    assert [nanoseconds(query.createdTimeFrom) for query in own.queries] == [0, start.changed_since * 100]
    assert sorted(own.queries[0].runtimeStatus) == [0, 2, 6, 7]
    assert list(own.queries[1].runtimeStatus) == []
    assert {query.maxInstanceCount for query in own.queries} == {500}
    assert not any(query.fetchInputsAndOutputs for query in own.queries)


async def test_a_page_may_be_larger_than_grpc_lets_in_by_default() -> None:
    own = FakeScheduler(
        [orchestration_state(f"one-{number}", customStatus={"value": "x" * 16_000}) for number in range(500)]
    )
    async with open_backend_of(own) as backend:
        assert len(await scan(backend)) == 500
