"""Delivery checks: events of `safe-deploy doctor` are shown by GetTaskHub, and change nothing else."""

import asyncio
import uuid
from typing import Any

import httpx
import pytest

from state_api.domain.task_hubs.delivery_checks import MAX_REMEMBERED_CHECKS
from tests.builders import event, timestamp
from tests.conftest import new_hub_name
from tests.http.operations import assert_problem, post_events, put_app

pytestmark = pytest.mark.anyio


def check_event(hub: str, check_id: str | None = None, **members: Any) -> dict[str, Any]:
    """A delivery check for a task hub."""
    return event(
        hub,
        f"@safe-deploy-doctor@{check_id or uuid.uuid4().hex}",
        "Completed",
        function="safe-deploy-doctor",
        **members,
    )


async def get_task_hub(http: httpx.AsyncClient, hub: str) -> Any:
    """The response of GetTaskHub."""
    response = await http.get(f"/api/taskhubs/{hub}")
    assert response.status_code == 200, response.text
    return response.json()


@pytest.fixture
async def claimed_hub(http: httpx.AsyncClient, app: str, hub: str) -> str:
    """A task hub in production, with one instance that has ended."""
    await put_app(http, app, slots={"production": {"taskHub": hub}}, policy={"settleSeconds": 0})
    await post_events(http, event(hub, "order-1", "Completed", time=timestamp(-100)))
    return hub


async def test_a_delivery_check_is_shown_with_its_times(http: httpx.AsyncClient, claimed_hub: str) -> None:
    check_id, published_at = uuid.uuid4().hex, timestamp(-1)
    await post_events(http, check_event(claimed_hub.upper(), check_id, time=published_at))
    (check,) = (await get_task_hub(http, claimed_hub))["deliveryChecks"]
    assert (check["checkId"], check["publishedAt"]) == (check_id, published_at)
    assert check["recordedAt"] > published_at


async def test_a_delivery_check_changes_nothing_else(http: httpx.AsyncClient, app: str, claimed_hub: str) -> None:
    """No instance, no time of a last event, no settle window, and nothing in the timeline."""

    async def read_everything() -> list[Any]:
        """What the server shows of the task hub, without the delivery checks and what changes with the time."""
        task_hub = await get_task_hub(http, claimed_hub)
        instances = (await http.get(f"/api/taskhubs/{claimed_hub}/instances")).json()
        timeline = (await http.get(f"/api/taskhubs/{claimed_hub}/timeline?from=2020-01-01&step=1440")).json()
        verdict = (await http.get(f"/api/apps/{app}/staging?slot=production")).json()
        history = (await http.get(f"/api/apps/{app}/history")).json()
        return [
            task_hub | {"deliveryChecks": []},
            instances,
            timeline["points"],
            verdict["reasons"],
            verdict["evidence"]["lastEventAt"],
            verdict["evidence"]["lastRecordedAt"],
            history,
        ]

    before = await read_everything()
    await post_events(http, check_event(claimed_hub), check_event(claimed_hub))
    assert await read_everything() == before
    assert len((await get_task_hub(http, claimed_hub))["deliveryChecks"]) == 2


async def test_a_delivery_check_that_arrives_again_is_unchanged(http: httpx.AsyncClient, claimed_hub: str) -> None:
    delivery = [check_event(claimed_hub)]
    first = (await http.post("/api/events", json=delivery)).json()
    second = (await http.post("/api/events", json=delivery)).json()
    assert [(result["recorded"], result["unchanged"]) for result in (first, second)] == [(1, 0), (0, 1)]
    assert len((await get_task_hub(http, claimed_hub))["deliveryChecks"]) == 1


async def test_a_delivery_check_does_not_create_a_task_hub(http: httpx.AsyncClient) -> None:
    hub = new_hub_name()
    response = await http.post("/api/events", json=[check_event(hub)])
    assert (response.json()["recorded"], response.json()["unchanged"], response.json()["quarantined"]) == (0, 1, 0)
    assert_problem(await http.get(f"/api/taskhubs/{hub}"), 404, "TaskHubNotFound")


async def test_a_delivery_check_arrives_before_the_first_event_of_an_app(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    """The task hub is registered, and nothing has been recorded of it."""
    await put_app(http, app, slots={"production": {"taskHub": hub}})
    await post_events(http, check_event(hub))
    task_hub = await get_task_hub(http, hub)
    assert len(task_hub["deliveryChecks"]) == 1
    assert (task_hub["lastEventAt"], task_hub["lastRecordedAt"]) == (None, None)


async def test_delivery_checks_in_a_batch_leave_the_events_of_the_app(
    http: httpx.AsyncClient, claimed_hub: str
) -> None:
    other_hub = new_hub_name()
    delivery = [check_event(claimed_hub), event(claimed_hub, "order-2"), event(other_hub), check_event(other_hub)]
    result = (await http.post("/api/events", json=delivery)).json()
    assert (result["recorded"], result["unchanged"], result["quarantined"]) == (3, 1, 0)
    assert (await get_task_hub(http, claimed_hub))["activeCount"] == 1
    assert (await get_task_hub(http, other_hub))["activeCount"] == 1


async def test_as_many_delivery_checks_as_arrive_are_bounded(http: httpx.AsyncClient, claimed_hub: str) -> None:
    """Of those that arrive at the same time, none overwrites another."""
    count = MAX_REMEMBERED_CHECKS + 5
    ids = [uuid.uuid4().hex for _ in range(count)]
    for start in range(0, count, 5):
        await asyncio.gather(*(post_events(http, check_event(claimed_hub, check_id)) for check_id in ids[start:][:5]))
    remembered = [check["checkId"] for check in (await get_task_hub(http, claimed_hub))["deliveryChecks"]]
    assert len(remembered) == MAX_REMEMBERED_CHECKS
    assert set(remembered) == set(ids[5:])
