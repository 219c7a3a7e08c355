"""What schedulers may answer within the protocol: any order, limits, continuation tokens, statuses, times."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from durabletask.internal import orchestrator_service_pb2 as protocol

from state_api.domain.instants import Instant, instant_from, seconds
from state_api.taskhubs import scheduler
from state_api.taskhubs.backend import SourceError, Trouble
from tests.taskhubs.schedulers import (
    HUB,
    SETTING,
    Scheduler,
    active,
    created,
    first_pass,
    followed,
    nanoseconds,
    reading,
    scanned,
    seen,
    state_of,
)

pytestmark = pytest.mark.anyio


def spread(apart: int) -> list[protocol.OrchestrationState]:
    """A hundred instances, two at a time, so many nanoseconds apart; their ids are in another order."""
    return [
        state_of(f"one-{number * 37 % 100:02d}", 1_700_000_000_000_000_000 + number // 2 * apart)
        for number in range(100)
    ]


SECOND = 1_000_000_000
SPREAD = spread(SECOND)
ORDERS: dict[str, Callable[[protocol.OrchestrationState], Any]] = {
    "oldest first": created,
    "newest first": lambda state: -created(state),
    "by id": lambda state: state.instanceId,
    "by end of id": lambda state: state.instanceId[::-1],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("always_more", [False, True])
@pytest.mark.parametrize("bounds", [">=<", "><", ">=<=", "none"])
@pytest.mark.parametrize("apart", [SECOND, 100])
async def test_the_ways_of_a_scheduler_do_not_matter(order: str, always_more: bool, bounds: str, apart: int) -> None:
    """Neither its order, nor what it takes the ends of a span to be, nor a token where there is no more."""
    own = Scheduler(spread(apart))
    own.order, own.always_more, own.bounds = ORDERS[order], always_more, bounds
    async with reading(own, 8) as backend:
        pages = await first_pass(backend)
    assert active(pages) == {state.instanceId for state in own.states}


async def test_cursors_stay_short_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newest first, each page cuts off no more than itself; the bounds that are dropped are found again."""
    monkeypatch.setattr(scheduler, "_BOUNDS", 2)
    own = Scheduler(SPREAD)
    own.order = ORDERS["newest first"]
    async with reading(own, 8) as backend:
        pages = await first_pass(backend)
    assert active(pages) == {state.instanceId for state in SPREAD}
    assert max(len(cursor) for page in pages for cursor in page.cursors) < 90


@pytest.mark.parametrize("order", ORDERS)
async def test_continuation_tokens_are_followed_through_what_was_created_at_once(order: str) -> None:
    at_once = [state_of(f"one-at-once-{number}", created(SPREAD[50])) for number in range(20)]
    own = Scheduler([*SPREAD, *at_once])
    own.order = ORDERS[order]
    async with reading(own, 6) as backend:
        pages = await first_pass(backend)
    assert active(pages) == {state.instanceId for state in own.states}


async def test_a_limit_of_the_scheduler_is_cut_through_like_a_full_page() -> None:
    own = Scheduler([state_of(f"one-{number}", number * SECOND) for number in range(450)])
    own.limit = 100
    async with reading(own) as backend:
        pages = await first_pass(backend)
    assert len(active(pages)) == 450
    assert not any(query.HasField("continuationToken") for query in own.asked)


async def test_short_pages_are_followed_by_their_tokens() -> None:
    own = Scheduler(SPREAD)
    own.limit = 3
    async with reading(own, 8) as backend:
        pages = await first_pass(backend)
    assert active(pages) == {state.instanceId for state in SPREAD}


class Scripted:
    """Gives these answers in turn."""

    def __init__(self, *answers: protocol.QueryInstancesResponse) -> None:
        self.answers = list(answers)

    def query(self, _: Any, __: Any) -> protocol.QueryInstancesResponse:
        return self.answers.pop(0)

    get = query


def answer(token: str, *states: protocol.OrchestrationState) -> protocol.QueryInstancesResponse:
    return protocol.QueryInstancesResponse(orchestrationState=states, continuationToken={"value": token})


async def test_empty_pages_are_not_the_end_and_the_token_0_is() -> None:
    own = Scripted(answer("a"), answer("b"), answer("0", state_of("hidden")), answer(""))
    async with reading(own) as backend:
        assert set(await scanned(backend)) == {"hidden"}
    assert own.answers == []


async def test_a_listing_without_an_end_is_an_error() -> None:
    own = Scripted(answer("a"), answer("a"))
    async with reading(own) as backend:
        with pytest.raises(SourceError, match=f"{SETTING} gives the same page of task hub {HUB} again") as caught:
            await scanned(backend)
    assert caught.value.trouble is Trouble.FAILED


async def test_the_version_of_an_orchestration_comes_along() -> None:
    own = Scheduler([state_of("versioned", version={"value": "2.1"}), state_of("plain")])
    async with reading(own) as backend:
        for found in (await scanned(backend), await backend.find(HUB, ["versioned", "plain"])):
            assert [one and one.version for one in (found["versioned"], found["plain"])] == ["2.1", None]


async def test_every_status_of_the_protocol_is_known_and_others_count_as_active() -> None:
    names = dict(protocol.OrchestrationStatus.items())
    own = Scheduler([state_of(name, status=number) for name, number in names.items()])
    own.states.append(state_of("new", status=99))
    async with reading(own) as backend:
        start = await backend.start(HUB)
        found = seen(await followed([backend], Instant(0), start.again))
        in_first_pass = active(await first_pass(backend))
    told = {name: one.runtime_status.name for name, one in found.items()}
    assert told == {name: name.removeprefix("ORCHESTRATION_STATUS_") for name in names} | {"new": "RUNNING"}
    assert {name for name in in_first_pass if name != "new"} == {
        name for name, one in found.items() if one.active and name != "new"
    }


async def test_entities_in_the_listing_are_left_out() -> None:
    own = Scheduler([state_of("@counter@one"), state_of("order")])
    async with reading(own) as backend:
        pages = await first_pass(backend)
        assert await backend.find(HUB, ["@counter@one"]) == {"@counter@one": None}
    assert active(pages) == {"order"}
    assert pages[0].scanned == 1


async def test_times_keep_their_ticks() -> None:
    own = Scheduler([state_of("one", 1_700_000_000_123_456_789)])
    async with reading(own) as backend:
        found = (await scanned(backend))["one"]
        own.states = [state_of("one", 1_700_000_000_123_456_790)]
        later = (await scanned(backend))["one"]
    assert found.created_at == found.updated_at == 17_000_000_001_234_567
    assert found.stamp != later.stamp


async def test_each_call_says_which_task_hub_it_means() -> None:
    own = Scheduler()
    async with reading(own) as backend:
        for hub in (HUB, "other"):
            start = await backend.start(hub)
            await backend.page(hub, start.since, start.cursors[0])
    assert [metadata["taskhub"] for metadata in own.metadata] == [HUB, "other"]
    assert all("authorization" not in metadata for metadata in own.metadata)


async def test_since_is_a_minute_before_now() -> None:
    """Created times are of the scheduler's clock, which this server cannot see."""
    own = Scheduler()
    async with reading(own) as backend:
        start = await backend.start(HUB)
        await followed([backend], start.since, start.cursors)
    ago = instant_from(datetime.now(UTC)) - start.since
    assert seconds(60) <= ago < seconds(70)
    assert [nanoseconds(query.createdTimeFrom) for query in own.asked] == [0, start.since * 100]
    assert sorted(own.asked[0].runtimeStatus) == [0, 2, 6, 7]
    assert list(own.asked[1].runtimeStatus) == []
    assert {query.maxInstanceCount for query in own.asked} == {500}
    assert not any(query.fetchInputsAndOutputs for query in own.asked)


async def test_a_page_may_be_larger_than_grpc_lets_in_by_default() -> None:
    own = Scheduler([state_of(f"one-{number}", customStatus={"value": "x" * 16_000}) for number in range(500)])
    async with reading(own) as backend:
        assert len(await scanned(backend)) == 500
