"""Concurrent requests, also of two servers, and failures of the storage between two steps. The next request always
finds a consistent state and finishes the work."""

import asyncio

import httpx
import pytest

from harness.storage_proxy import run_storage_proxy
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
from tests.http.server_clients import client_of_second_server, fail_from_request

pytestmark = pytest.mark.anyio


async def retire_drained_hub(http: httpx.AsyncClient, app: str) -> str:
    """Give the app one retired, drained task hub with recorded events. Returns its name."""
    await put_app(http, app, policy={"settleSeconds": 0})
    old_hub = new_hub_name()
    for hub in (old_hub, new_hub_name(), new_hub_name()):
        assert (await post_staging(http, app, hub)).status_code == 200
        assert (await post_swap(http, app, hub)).status_code == 200
        if hub == old_hub:
            await post_events(http, event(old_hub, status="Completed"))
    return old_hub


async def test_one_of_twenty_concurrent_stages_wins_and_the_refusals_name_it(http: httpx.AsyncClient, app: str) -> None:
    hubs = [new_hub_name() for _ in range(20)]
    responses = await asyncio.gather(*(post_staging(http, app, hub, run_headers(n)) for n, hub in enumerate(hubs)))
    winners = [response for response in responses if response.status_code == 200]
    assert len(winners) == 1
    winner = winners[0].json()["deployment"]
    for response in responses:
        if response.status_code != 200:
            refused = assert_problem(response, 409, "DeploymentInProgress")
            assert refused["deployment"]["taskHub"] == winner["taskHub"]
            assert winner["by"] in refused["detail"]
    state = (await http.get(f"/api/apps/{app}")).json()
    assert (state["slots"]["staging"]["taskHub"], state["retired"]) == (winner["taskHub"], [])
    assert len((await http.get(f"/api/apps/{app}/history")).json()["history"]) == 1


async def test_only_one_of_two_apps_can_stage_the_same_hub_name_at_once(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    responses = await asyncio.gather(*(post_staging(http, f"{app}-{n}", hub) for n in range(10)))
    assert sorted(response.status_code for response in responses) == [200] + [409] * 9


async def test_eight_concurrent_writers_of_one_instance_leave_the_latest_state(
    storage: StorageSettings, server: StateServer, http: httpx.AsyncClient, hub: str
) -> None:
    writer_count = 8
    servers = [StateServer(Settings(storage=storage)) for _ in range(writer_count)]
    base = event(hub)["eventTime"][:20]
    events = [
        event(hub, "order-1", "Running" if n % 3 else "Completed", time=f"{base}{n:07d}Z", function=f"F{n}")
        for n in range(200)
    ]
    try:

        async def record_share_of_events(writer: int) -> None:
            """Record the events of one writer, one by one."""
            for own_event in events[writer::writer_count]:
                await servers[writer].services.recorder.record([own_event], "webhook")

        await asyncio.gather(*(record_share_of_events(writer) for writer in range(writer_count)))
    finally:
        for stopped in servers:
            await stopped.close()
    listed = (await http.get(f"/api/taskhubs/{hub}/instances")).json()["instances"]
    assert len(listed) == 1
    # The last event, number 199, is a start, so exactly one active row must remain.
    assert (listed[0]["active"], listed[0]["startedAt"], listed[0]["functionName"]) == (True, f"{base}0000199Z", "F199")
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 1
    await post_events(http, event(hub, "order-1", "Failed", time=f"{base}0000200Z"))
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 0


async def test_a_caller_that_loses_every_attempt_gets_a_conflict_that_names_the_winner(
    storage: StorageSettings, http: httpx.AsyncClient, app: str
) -> None:
    await put_app(http, app)
    settle_seconds = 0
    async with run_storage_proxy(storage) as proxy, client_of_second_server(proxy.settings) as slower_client:

        async def change_app_before_each_commit(method: str, path: str) -> None:
            """Change the app just before each of its transactions, so that each of them fails."""
            nonlocal settle_seconds
            if path.endswith("$batch"):
                settle_seconds += 1
                changed = {"policy": {"settleSeconds": settle_seconds}}
                await http.put(f"/api/apps/{app}", json=changed, headers={"X-Actor": "the faster caller"})

        proxy.before_request = change_app_before_each_commit
        refused = assert_problem(await post_staging(slower_client, app, new_hub_name()), 409, "Conflict")
    assert refused["updatedBy"] == "the faster caller"
    assert (await http.get(f"/api/apps/{app}")).json()["slots"]["staging"] is None


async def test_a_caller_that_loses_one_attempt_decides_again(
    storage: StorageSettings, http: httpx.AsyncClient, app: str
) -> None:
    await put_app(http, app)
    async with run_storage_proxy(storage) as proxy, client_of_second_server(proxy.settings) as slower_client:
        other_caller_has_acted = False

        async def stage_before_first_commit(method: str, path: str) -> None:
            """Let another run stage just before the first transaction."""
            nonlocal other_caller_has_acted
            if path.endswith("$batch") and not other_caller_has_acted:
                other_caller_has_acted = True
                assert (await post_staging(http, app, new_hub_name(), run_headers(1))).status_code == 200

        proxy.before_request = stage_before_first_commit
        refused = assert_problem(
            await post_staging(slower_client, app, new_hub_name(), run_headers(2)), 409, "DeploymentInProgress"
        )
        assert refused["deployment"]["by"] == "pipeline 1"
        other_caller_has_acted = False
        hub = (await http.get(f"/api/apps/{app}")).json()["slots"]["staging"]["taskHub"]

        async def swap_before_first_commit(method: str, path: str) -> None:
            """Let another caller swap just before the first transaction."""
            nonlocal other_caller_has_acted
            if path.endswith("$batch") and not other_caller_has_acted:
                other_caller_has_acted = True
                assert (await post_swap(http, app, hub)).status_code == 200

        proxy.before_request = swap_before_first_commit
        # The swap that both callers want has happened, so this one changes nothing.
        assert (await post_swap(slower_client, app, hub)).json()["slots"]["production"]["taskHub"] == hub


async def test_a_server_that_has_cached_a_hub_notices_that_it_was_cleaned_up(
    storage: StorageSettings, http: httpx.AsyncClient, app: str
) -> None:
    old = await retire_drained_hub(http, app)
    async with client_of_second_server(storage) as other:
        await post_events(other, event(old, "remembered", "Completed"))
        assert (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"][0]["outcome"] == "Removed"
        assert await post_events(other, event(old, "late")) == {"recorded": 0, "unchanged": 0, "quarantined": 1}


@pytest.mark.parametrize("step", ["close", "drop", "forget"])
async def test_the_next_call_finishes_a_cleanup_that_was_cut_off(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, step: str
) -> None:
    old = await retire_drained_hub(http, app)
    writes = {"close": 1, "forget": 2}

    async with run_storage_proxy(storage) as proxy, client_of_second_server(proxy.settings) as broken:
        fail_from_request(proxy, "DELETE" if step == "drop" else "POST", writes.get(step, 1))
        assert_problem(await broken.post(f"/api/apps/{app}/cleanup"), 503, "StorageUnavailable")
    assert [hub["taskHub"] for hub in (await http.get(f"/api/apps/{app}")).json()["retired"]] == [old]
    done = (await http.post(f"/api/apps/{app}/cleanup")).json()
    assert [(hub["taskHub"], hub["outcome"]) for hub in done["taskHubs"]] == [(old, "Removed")]
    assert done["app"]["retired"] == []
    history = (await http.get(f"/api/apps/{app}/history")).json()["history"]
    assert [record["details"] for record in history if record["operation"] == "Cleanup"] == [{"removed": [old]}]
    assert (await http.get(f"/api/taskhubs/{old}/instances")).json()["instances"] == []


async def test_only_the_claiming_app_can_finish_a_stage_that_was_cut_off_after_the_claim(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await put_app(http, app)
    async with run_storage_proxy(storage) as proxy, client_of_second_server(proxy.settings) as broken:
        fail_from_request(proxy, "POST", 2)
        assert_problem(await post_staging(broken, app, hub), 503, "StorageUnavailable")
    assert_problem(await post_staging(http, f"{app}-other", hub), 409, "TaskHubAlreadyUsed")
    assert (await post_staging(http, app, hub)).status_code == 200


async def test_the_next_event_creates_the_table_of_a_hub_that_has_none(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    async with run_storage_proxy(storage) as proxy, client_of_second_server(proxy.settings) as broken:
        proxy.failure_status = lambda method, path: 500 if path.endswith("/Tables") else None
        assert_problem(await broken.post("/api/events", json=[event(hub)]), 503, "StorageUnavailable")
    # Registered without a table: no event was acknowledged, so nothing is active.
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 0
    assert (await post_events(http, event(hub)))["recorded"] == 1
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 1


async def test_a_hub_whose_table_was_deleted_does_not_count_as_drained(
    storage: StorageSettings, server: StateServer, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await put_app(http, app, slots={"staging": {"taskHub": hub}})
    await post_events(http, event(hub, "before"))
    await server.tables.delete_table(f"SafeDeployHub{hub}State")
    problem = assert_problem(await http.get(f"/api/apps/{app}/staging"), 503, "StorageUnavailable")
    assert f"table SafeDeployHub{hub}State was deleted" in problem["detail"]
    assert_problem(await post_staging(http, app, new_hub_name()), 503, "StorageUnavailable")
    # No event creates the table again, on this server or a new one: an empty table would show that nothing runs.
    async with client_of_second_server(storage) as fresh:
        for client in (http, fresh):
            assert_problem(await client.post("/api/events", json=[event(hub, "after")]), 503, "StorageUnavailable")
            assert_problem(await client.get(f"/api/apps/{app}/staging"), 503, "StorageUnavailable")
    # An operator who knows that nothing runs can create it.
    await server.tables.create_table(f"SafeDeployHub{hub}State")
    assert (await post_events(http, event(hub, "after")))["recorded"] == 1
    assert (await get_staging(http, app))["activeCount"] == 1


async def test_an_event_between_two_reads_of_a_verdict_is_included_in_the_next_one(
    storage: StorageSettings, http: httpx.AsyncClient, app: str
) -> None:
    """While the shards are read one after the other, a parent in one shard ends and its child in another starts."""
    hub = new_hub_name()
    await put_app(http, app, slots={"staging": {"taskHub": hub}})
    await post_events(http, event(hub, "parent"))
    async with run_storage_proxy(storage) as proxy, client_of_second_server(proxy.settings) as reader:
        events_were_posted = False

        async def end_parent_and_start_child_between_reads(method: str, path: str) -> None:
            """Hand the work over from one instance to another just before the first read of the records."""
            nonlocal events_were_posted
            if "State" in path and not events_were_posted:
                events_were_posted = True
                await post_events(http, event(hub, "child"), event(hub, "parent", "Completed"))

        proxy.before_request = end_parent_and_start_child_between_reads
        verdict = await get_staging(reader, app)
    assert not verdict["ready"]


async def test_a_contended_instance_does_not_delay_the_others_of_its_batch(
    storage: StorageSettings, http: httpx.AsyncClient, hub: str
) -> None:
    """Another server always writes one instance of the batch first. The other instances are recorded nevertheless."""
    later = timestamp(60)
    batch = [event(hub, f"order-{n}", time=later) for n in range(12)]
    async with run_storage_proxy(storage) as proxy, client_of_second_server(proxy.settings) as slower_client:

        async def write_order_3_before_each_transaction(method: str, path: str) -> None:
            if path.endswith("$batch"):
                await post_events(http, event(hub, "order-3"))

        proxy.before_request = write_order_3_before_each_transaction
        assert_problem(await slower_client.post("/api/events", json=batch), 503, "StorageUnavailable")
    instances = (await http.get(f"/api/taskhubs/{hub}/instances")).json()["instances"]
    recorded = {instance["instanceId"] for instance in instances if instance["startedAt"] == later}
    assert recorded >= {f"order-{n}" for n in range(12) if n != 3}
    assert (await post_events(http, *batch))["quarantined"] == 0
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 12
