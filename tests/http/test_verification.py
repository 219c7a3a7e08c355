"""Verified verdicts: the whole server on the storage emulator, with task hub rows as the provider writes them."""

import asyncio

import httpx
import pytest

from state_api.app import StateServer
from state_api.settings import Settings, StorageSettings
from tests.backends.azure_storage_task_hub import ControlQueue, ProviderTaskHub
from tests.builders import event, timestamp
from tests.http.operations import (
    PROVIDER_CONFIG,
    get_staging,
    list_instances,
    post_events,
    post_staging,
    put_app,
    reason_codes,
    run_headers,
)

pytestmark = pytest.mark.anyio


async def test_a_drained_task_hub_is_ready_and_verified(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    verdict = await get_staging(http, app)
    assert verdict["ready"], verdict
    assert verdict["assurance"] == "verified"
    probe = verdict["evidence"]["probe"]
    assert (probe["status"], probe["provider"], probe["activeCount"]) == ("Complete", "azureStorage", 0)


async def test_an_active_instance_without_any_event_blocks_and_is_recorded(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await drained_provider_hub.put("order-1", "Pending", version="2.0")
    verdict = await get_staging(http, app)
    assert not verdict["ready"]
    assert reason_codes(verdict) == ["InstancesActive"]
    (instance,) = verdict["active"]
    assert (instance["instanceId"], instance["runtimeStatus"], instance["source"], instance["version"]) == (
        "order-1",
        "Pending",
        "probe",
        "2.0",
    )
    assert (await list_instances(http, drained_provider_hub.hub))["order-1"]["source"] == "probe"
    await drained_provider_hub.put("order-1", "Completed")
    verdict = await get_staging(http, app)
    assert verdict["ready"], verdict
    instance = (await list_instances(http, drained_provider_hub.hub))["order-1"]
    assert (instance["active"], instance["outcome"], instance["source"]) == (False, "Completed", "probe")


async def test_an_instance_whose_end_event_was_lost_is_recorded_as_ended(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await post_events(http, event(drained_provider_hub.hub, "order-1", time=timestamp(-60)))
    await drained_provider_hub.put("order-1", "Terminated")
    verdict = await get_staging(http, app, wait=10)
    assert verdict["ready"], verdict
    instance = (await list_instances(http, drained_provider_hub.hub))["order-1"]
    assert (instance["active"], instance["outcome"], instance["source"]) == (False, "Terminated", "probe")


async def test_only_the_reported_instances_are_looked_up_while_events_show_active_ones(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """The server does not scan the task hub then, so it does not record other active instances."""
    await post_events(http, event(drained_provider_hub.hub, "order-1"))
    await drained_provider_hub.put("order-1", "Suspended")
    await drained_provider_hub.put("order-2", "Running")
    verdict = await get_staging(http, app)
    assert (reason_codes(verdict), verdict["assurance"]) == (["InstancesActive"], "verified")
    assert verdict["activeCount"] == 1
    assert verdict["evidence"]["probe"] is None
    assert list(await list_instances(http, drained_provider_hub.hub)) == ["order-1"]
    await drained_provider_hub.put("order-1", "Completed")
    verdict = await get_staging(http, app, wait=3)
    assert [instance["instanceId"] for instance in verdict["active"]] == ["order-2"]


async def test_an_instance_that_continued_as_new_stays_active_when_the_second_start_event_is_lost(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await post_events(
        http,
        event(drained_provider_hub.hub, "monitor", "Running"),
        event(drained_provider_hub.hub, "monitor", "Completed"),
    )
    await drained_provider_hub.put("monitor", "Running", name="Monitor")
    verdict = await get_staging(http, app, wait=3)
    assert reason_codes(verdict) == ["InstancesActive"]
    await post_events(http, event(drained_provider_hub.hub, "monitor", "Failed"))
    await drained_provider_hub.put("monitor", "Failed", name="Monitor")
    assert (await get_staging(http, app, wait=10))["ready"]


async def test_an_end_that_was_published_and_not_yet_written_does_not_make_the_task_hub_ready(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """The extension publishes an event before it writes the row, so for a moment the row still says Running."""
    await post_events(
        http,
        event(drained_provider_hub.hub, "order-1"),
        event(drained_provider_hub.hub, "order-1", "Completed", time=timestamp(0.5)),
    )
    await drained_provider_hub.put("order-1", "Running")
    assert reason_codes(await get_staging(http, app, wait=3)) == ["InstancesActive"]
    assert (await list_instances(http, drained_provider_hub.hub))["order-1"]["source"] == "probe"
    await drained_provider_hub.put("order-1", "Completed")
    assert (await get_staging(http, app))["ready"]


async def test_a_published_start_without_a_row_blocks_while_the_control_queues_hold_messages(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    async with ControlQueue(drained_provider_hub) as queue:
        await drained_provider_hub.put("order-1", "Completed")
        await post_events(http, event(drained_provider_hub.hub, "order-1", "Completed", time=timestamp(-9)))
        await post_events(http, event(drained_provider_hub.hub, "child", time=timestamp(-5)))
        message = await queue.send("the start of child")
        assert "InstancesActive" in reason_codes(await get_staging(http, app, wait=2))
        assert (await list_instances(http, drained_provider_hub.hub))["child"]["active"]
        await queue.delete(message)
        assert (await get_staging(http, app))["ready"]
        instance = (await list_instances(http, drained_provider_hub.hub))["child"]
        assert (instance["active"], instance["reason"]) == (False, "not in the task hub any more")


async def test_reported_instances_stay_active_while_the_provider_shows_none_of_them(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """The connection may lead to a task hub of the same name in another environment.

    An instance that is missing there is therefore not recorded as ended.
    """
    await post_events(http, event(drained_provider_hub.hub, "order-1", "Completed", time=timestamp(-3600)))
    await post_events(http, event(drained_provider_hub.hub, "order-2", time=timestamp(-3600)))
    verdict = await get_staging(http, app, wait=2)
    assert reason_codes(verdict) == ["InstancesActive", "ProbeFailed"]
    assert "is it the storage of another app or environment?" in verdict["reasons"][1]["message"]
    assert (await list_instances(http, drained_provider_hub.hub))["order-2"]["active"]
    await drained_provider_hub.put("order-1", "Completed")
    assert (await get_staging(http, app))["ready"]


async def test_a_confirmed_backend_stays_confirmed_when_its_instances_are_purged(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """The end event of one instance is lost, and then both instances are purged from the task hub."""
    await post_events(
        http,
        event(drained_provider_hub.hub, "order-1", time=timestamp(-60)),
        event(drained_provider_hub.hub, "order-2", time=timestamp(-60)),
    )
    await drained_provider_hub.put("order-1", "Running")
    await drained_provider_hub.put("order-2", "Running")
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]
    await post_events(http, event(drained_provider_hub.hub, "order-1", "Completed"))
    await drained_provider_hub.purge("order-1")
    await drained_provider_hub.purge("order-2")
    assert (await get_staging(http, app, wait=3))["ready"]


async def test_each_verdict_lists_an_active_instance_as_the_provider_shows_it(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await post_events(http, event(drained_provider_hub.hub, "order-1", time=timestamp(-60)))
    await drained_provider_hub.put("order-1", "Suspended", version="3.1")
    for _ in range(2):
        (instance,) = (await get_staging(http, app))["active"]
        assert (instance["runtimeStatus"], instance["version"], instance["source"]) == ("Suspended", "3.1", "event")


async def test_the_policy_can_be_changed_on_a_server_without_the_setting_of_the_providers_connection(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    server = StateServer(Settings(storage=storage))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(server.application), base_url="http://state") as client:
        app_document = (await client.get(f"/api/apps/{app}")).json()
        app_document["policy"]["settleSeconds"] = 5
        assert (await client.put(f"/api/apps/{app}", json=app_document)).status_code == 200
        assert reason_codes(await get_staging(client, app, verify="fresh")) == ["ProbeFailed"]
    await server.close()


async def test_requiring_verification_is_met_by_a_probe(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await put_app(http, app, policy={"requireVerification": True}, taskHubs=None)
    assert reason_codes(await get_staging(http, app)) == ["VerificationRequired"]
    await put_app(http, app, taskHubs=PROVIDER_CONFIG)
    assert (await get_staging(http, app))["ready"]


async def test_an_instance_that_runs_under_another_name_than_its_events_blocks(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """Another orchestrator has used the instance id again, and its events were lost."""
    await post_events(http, event(drained_provider_hub.hub, "order-1", function="ProcessOrder"))
    await drained_provider_hub.put("order-1", "Running", name="ShipOrder")
    verdict = await get_staging(http, app)
    assert (verdict["ready"], verdict["hasRunning"], reason_codes(verdict)) == (False, True, ["InstancesActive"])
    assert [instance["functionName"] for instance in verdict["active"]] == ["ShipOrder"]


async def test_a_waiting_request_is_answered_as_soon_as_the_provider_shows_the_task_hub_drained(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """No event reports the end of the instance."""
    await drained_provider_hub.put("order-1", "Running")
    began = asyncio.get_running_loop().time()

    async def complete_order_later() -> None:
        """Complete the order while the request waits."""
        await asyncio.sleep(1)  # the request is waiting by then
        await drained_provider_hub.put("order-1", "Completed")

    verdict, _ = await asyncio.gather(get_staging(http, app, wait=60), complete_order_later())
    assert verdict["ready"]
    assert asyncio.get_running_loop().time() - began < 20


async def test_the_active_count_of_more_than_a_thousand_instances_is_a_lower_bound(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    active_count = 1100
    concurrent_writes = asyncio.Semaphore(24)

    async def put_order(number: int) -> None:
        async with concurrent_writes:
            await drained_provider_hub.put(f"order-{number}", "Running")

    await asyncio.gather(*(put_order(number) for number in range(active_count)))
    verdict = await get_staging(http, app)
    assert (verdict["activeCount"], verdict["activeCountIsLowerBound"], len(verdict["active"])) == (1000, True, 20)
    assert verdict["evidence"]["probe"]["activeCount"] == active_count


async def test_a_policy_change_applies_at_once_to_waiting_requests(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """While a request waits for the deployment of another run, the policy stops ignoring the active function."""
    await put_app(http, app, policy={"ignoreFunctions": ["Sync"]})
    await drained_provider_hub.put("sync-1", "Running", name="Sync")
    await post_staging(http, app, drained_provider_hub.hub, run_headers(1))
    waiting = asyncio.create_task(http.get(f"/api/apps/{app}/staging", params={"wait": 12}, headers=run_headers(2)))
    await asyncio.sleep(1.5)
    await put_app(http, app, policy={"ignoreFunctions": []})
    await http.delete(f"/api/apps/{app}/staging", params={"taskHub": drained_provider_hub.hub}, headers=run_headers(1))
    verdict = (await waiting).json()
    assert (verdict["ready"], reason_codes(verdict)) == (False, ["InstancesActive"])
