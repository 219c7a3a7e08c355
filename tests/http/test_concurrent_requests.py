"""Many callers at once, and what happens between two steps of one server: another server acts, or the storage fails.
Each time the next call finds a consistent state and finishes the work."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.app import StateServer
from state_api.settings import Settings, StorageSettings
from tests.builders import event, timestamp
from tests.conftest import new_hub_name
from tests.http.operations import (
    assert_problem,
    get_staging,
    post_events,
    post_staging,
    post_swap,
    put_app,
    run_headers,
)

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def client_of_second_server(storage: StorageSettings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of another server on the same storage."""
    server = StateServer(Settings(storage=storage))
    transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://other", timeout=60) as client:
        yield client
    await server.close()


async def retire_drained_hub(http: httpx.AsyncClient, app: str) -> str:
    """An app with one retired, drained hub that events were recorded for."""
    await put_app(http, app, policy={"settleSeconds": 0})
    old = new_hub_name()
    for hub in (old, new_hub_name(), new_hub_name()):
        assert (await post_staging(http, app, hub)).status_code == 200
        assert (await post_swap(http, app, hub)).status_code == 200
        if hub == old:
            await post_events(http, event(old, status="Completed"))
    return old


async def test_twenty_stages_at_once_leave_one_winner_whom_all_others_know(http: httpx.AsyncClient, app: str) -> None:
    hubs = [new_hub_name() for _ in range(20)]
    answers = await asyncio.gather(*(post_staging(http, app, hub, run_headers(n)) for n, hub in enumerate(hubs)))
    winners = [answer for answer in answers if answer.status_code == 200]
    assert len(winners) == 1
    winner = winners[0].json()["deployment"]
    for answer in answers:
        if answer.status_code != 200:
            refused = assert_problem(answer, 409, "DeploymentInProgress")
            assert refused["deployment"]["taskHub"] == winner["taskHub"]
            assert winner["by"] in refused["detail"]
    state = (await http.get(f"/api/apps/{app}")).json()
    assert (state["slots"]["staging"]["taskHub"], state["retired"]) == (winner["taskHub"], [])
    assert len((await http.get(f"/api/apps/{app}/history")).json()["history"]) == 1


async def test_two_apps_that_want_one_hub_name_at_once_get_it_once(http: httpx.AsyncClient, app: str, hub: str) -> None:
    answers = await asyncio.gather(*(post_staging(http, f"{app}-{n}", hub) for n in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 9


async def test_eight_writers_of_one_instance_leave_the_right_record(
    storage: StorageSettings, server: StateServer, http: httpx.AsyncClient, hub: str
) -> None:
    servers = [StateServer(Settings(storage=storage)) for _ in range(8)]
    base = event(hub)["eventTime"][:20]
    events = [
        event(hub, "one", "Running" if n % 3 else "Completed", time=f"{base}{n:07d}Z", function=f"F{n}")
        for n in range(200)
    ]
    try:

        async def write(which: int) -> None:
            for one in events[which::8]:
                await servers[which].services.recorder.record([one], "webhook")

        await asyncio.gather(*(write(which) for which in range(8)))
    finally:
        for one in servers:
            await one.close()
    listed = (await http.get(f"/api/taskhubs/{hub}/instances")).json()["instances"]
    assert len(listed) == 1
    # The last event of all, 199, is a start, so exactly one active row must be left.
    assert (listed[0]["active"], listed[0]["startedAt"], listed[0]["functionName"]) == (True, f"{base}0000199Z", "F199")
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 1
    await post_events(http, event(hub, "one", "Failed", time=f"{base}0000200Z"))
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 0


async def test_who_loses_every_race_is_told_who_won(
    storage: StorageSettings, http: httpx.AsyncClient, app: str
) -> None:
    await put_app(http, app)
    settle = 0
    async with run_storage_proxy(storage) as proxy, client_of_second_server(proxy.settings) as unlucky:

        async def overtake(method: str, path: str) -> None:
            nonlocal settle
            if path.endswith("$batch"):
                settle += 1
                changed = {"policy": {"settleSeconds": settle}}
                await http.put(f"/api/apps/{app}", json=changed, headers={"X-Actor": "the faster one"})

        proxy.before_request = overtake
        refused = assert_problem(await post_staging(unlucky, app, new_hub_name()), 409, "Conflict")
    assert refused["updatedBy"] == "the faster one"
    assert (await http.get(f"/api/apps/{app}")).json()["slots"]["staging"] is None


async def test_who_loses_one_race_decides_again(storage: StorageSettings, http: httpx.AsyncClient, app: str) -> None:
    await put_app(http, app)
    async with run_storage_proxy(storage) as proxy, client_of_second_server(proxy.settings) as late:
        raced = False

        async def overtake(method: str, path: str) -> None:
            nonlocal raced
            if path.endswith("$batch") and not raced:
                raced = True
                assert (await post_staging(http, app, new_hub_name(), run_headers(1))).status_code == 200

        proxy.before_request = overtake
        refused = assert_problem(
            await post_staging(late, app, new_hub_name(), run_headers(2)), 409, "DeploymentInProgress"
        )
        assert refused["deployment"]["by"] == "pipeline 1"
        raced = False
        hub = (await http.get(f"/api/apps/{app}")).json()["slots"]["staging"]["taskHub"]

        async def swap_first(method: str, path: str) -> None:
            nonlocal raced
            if path.endswith("$batch") and not raced:
                raced = True
                assert (await post_swap(http, app, hub)).status_code == 200

        proxy.before_request = swap_first
        # The swap that both want has happened: nothing to do is a good answer.
        assert (await post_swap(late, app, hub)).json()["slots"]["production"]["taskHub"] == hub


async def test_a_worker_that_remembers_a_hub_notices_that_it_was_cleaned_up(
    storage: StorageSettings, http: httpx.AsyncClient, app: str
) -> None:
    old = await retire_drained_hub(http, app)
    async with client_of_second_server(storage) as other:
        await post_events(other, event(old, "remembered", "Completed"))
        assert (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"][0]["outcome"] == "Removed"
        assert await post_events(other, event(old, "late")) == {"recorded": 0, "unchanged": 0, "quarantined": 1}


@pytest.mark.parametrize("step", ["close", "drop", "forget"])
async def test_a_cleanup_that_breaks_off_is_finished_by_the_next(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, step: str
) -> None:
    old = await retire_drained_hub(http, app)
    writes = {"close": 1, "forget": 2}

    async with run_storage_proxy(storage) as proxy, client_of_second_server(proxy.settings) as broken:
        _fail_from_request(proxy, "DELETE" if step == "drop" else "POST", writes.get(step, 1))
        assert_problem(await broken.post(f"/api/apps/{app}/cleanup"), 503, "StorageUnavailable")
    assert [hub["taskHub"] for hub in (await http.get(f"/api/apps/{app}")).json()["retired"]] == [old]
    done = (await http.post(f"/api/apps/{app}/cleanup")).json()
    assert [(hub["taskHub"], hub["outcome"]) for hub in done["taskHubs"]] == [(old, "Removed")]
    assert done["app"]["retired"] == []
    history = (await http.get(f"/api/apps/{app}/history")).json()["history"]
    assert [one["details"] for one in history if one["operation"] == "Cleanup"] == [{"removed": [old]}]
    assert (await http.get(f"/api/taskhubs/{old}/instances")).json()["instances"] == []


def _fail_from_request(proxy: StorageProxy, method: str, number: int) -> None:
    """Fail the `number`th request of this kind and all that follow."""
    seen = 0

    def failure_status(sent: str, path: str) -> int | None:
        nonlocal seen
        seen += sent == method and (method != "POST" or path.endswith("$batch"))
        return 500 if seen >= number else None

    proxy.failure_status = failure_status


async def test_a_stage_that_breaks_off_after_the_claim_is_finished_by_its_own_app_only(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await put_app(http, app)
    async with run_storage_proxy(storage) as proxy, client_of_second_server(proxy.settings) as broken:
        _fail_from_request(proxy, "POST", 2)
        assert_problem(await post_staging(broken, app, hub), 503, "StorageUnavailable")
    assert_problem(await post_staging(http, f"{app}-other", hub), 409, "TaskHubAlreadyUsed")
    assert (await post_staging(http, app, hub)).status_code == 200


async def test_a_hub_whose_table_was_never_made_is_made_with_the_next_event(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    async with run_storage_proxy(storage) as proxy, client_of_second_server(proxy.settings) as broken:
        proxy.failure_status = lambda method, path: 500 if path.endswith("/Tables") else None
        assert_problem(await broken.post("/api/events", json=[event(hub)]), 503, "StorageUnavailable")
    # Registered without a table: nothing was acknowledged, so nothing is active.
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 0
    assert (await post_events(http, event(hub)))["recorded"] == 1
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 1


async def test_a_table_that_was_deleted_is_not_taken_for_an_idle_hub(
    storage: StorageSettings, server: StateServer, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await put_app(http, app, slots={"staging": {"taskHub": hub}})
    await post_events(http, event(hub, "before"))
    await server.tables.delete_table(f"SafeDeployHub{hub}State")
    told = assert_problem(await http.get(f"/api/apps/{app}/staging"), 503, "StorageUnavailable")
    assert f"table SafeDeployHub{hub}State was deleted" in told["detail"]
    assert_problem(await post_staging(http, app, new_hub_name()), 503, "StorageUnavailable")
    # No event makes it anew, here or in a server that has just started: an empty table would say that nothing runs.
    async with client_of_second_server(storage) as fresh:
        for one in (http, fresh):
            assert_problem(await one.post("/api/events", json=[event(hub, "after")]), 503, "StorageUnavailable")
            assert_problem(await one.get(f"/api/apps/{app}/staging"), 503, "StorageUnavailable")
    # Somebody who knows does.
    await server.tables.create_table(f"SafeDeployHub{hub}State")
    assert (await post_events(http, event(hub, "after")))["recorded"] == 1
    assert (await get_staging(http, app))["activeCount"] == 1


async def test_an_event_between_two_reads_of_a_verdict_is_seen_by_the_next(
    storage: StorageSettings, http: httpx.AsyncClient, app: str
) -> None:
    """A parent in one shard ends and its child in another begins while the shards are read one after the other."""
    old = new_hub_name()
    await put_app(http, app, slots={"staging": {"taskHub": old}})
    await post_events(http, event(old, "parent"))
    async with run_storage_proxy(storage) as proxy, client_of_second_server(proxy.settings) as reader:
        raced = False

        async def hand_over(method: str, path: str) -> None:
            nonlocal raced
            if "State" in path and not raced:
                raced = True
                await post_events(http, event(old, "child"), event(old, "parent", "Completed"))

        proxy.before_request = hand_over
        verdict = await get_staging(reader, app)
    assert not verdict["ready"]


async def test_a_contended_instance_does_not_hold_up_its_neighbours(
    storage: StorageSettings, http: httpx.AsyncClient, hub: str
) -> None:
    """Somebody else always writes one instance of the batch first; the others are recorded all the same."""
    later = timestamp(60)
    batch = [event(hub, f"order-{n}", time=later) for n in range(12)]
    async with run_storage_proxy(storage) as proxy, client_of_second_server(proxy.settings) as slow:

        async def overtake(method: str, path: str) -> None:
            if path.endswith("$batch"):
                await post_events(http, event(hub, "order-3"))

        proxy.before_request = overtake
        assert_problem(await slow.post("/api/events", json=batch), 503, "StorageUnavailable")
    shown = (await http.get(f"/api/taskhubs/{hub}/instances")).json()["instances"]
    recorded = {one["instanceId"] for one in shown if one["startedAt"] == later}
    assert recorded >= {f"order-{n}" for n in range(12) if n != 3}
    assert (await post_events(http, *batch))["quarantined"] == 0
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 12
