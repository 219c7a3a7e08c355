"""Regressions: sequences that led, or could have led, to a wrong Ready or to the deletion of running work."""

import asyncio
import time
from collections.abc import Sequence

import httpx
import pytest
from azure.data.tables import UpdateMode
from azure.storage.blob.aio import ContainerClient

from state_api.app import StateServer
from state_api.backends.azure_storage import AzureStorageBackend
from state_api.backends.protocols import ObservedPage
from state_api.domain.instants import Instant
from state_api.domain.task_hubs.lifecycle import Instance
from state_api.services.record_correction import RecordCorrector
from state_api.settings import Settings, StorageSettings, TaskHubConnections
from state_api.storage.probes import ProbeStore
from state_api.storage.tables import TASK_HUBS_TABLE
from tests.backends.azure_storage_task_hub import ControlQueue, ProviderAccount, ProviderTaskHub, control_message
from tests.builders import event, timestamp
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import (
    PROVIDER_CONFIG,
    assert_problem,
    get_staging,
    post_cleanup,
    post_events,
    post_staging,
    post_swap,
    put_app,
    reason_codes,
    run_headers,
    wait_for_clock_tolerance,
)
from tests.http.server_clients import client_of_server_with

pytestmark = pytest.mark.anyio


async def test_a_probe_of_one_task_hub_does_not_answer_for_the_next_in_the_slot(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a run waits for the staging slot, another run swaps, which brings another task hub into the slot."""
    old_hub, new_hub = new_hub_name(), new_hub_name()
    async with ProviderTaskHub(storage, old_hub) as swapped_out, ProviderTaskHub(storage, new_hub) as staged:
        await swapped_out.create()
        await swapped_out.put("order-1", "Suspended")
        await put_app(
            http, app, slots={"production": {"taskHub": old_hub}}, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG
        )
        assert (await post_staging(http, app, new_hub, run_headers(1))).status_code == 200
        await staged.create()
        read_page = AzureStorageBackend.read_page

        async def read_page_slowly(
            backend: AzureStorageBackend, task_hub: str, since: Instant, cursor: str
        ) -> ObservedPage:
            await asyncio.sleep(2)
            return await read_page(backend, task_hub, since, cursor)

        monkeypatch.setattr(AzureStorageBackend, "read_page", read_page_slowly)
        parameters: dict[str, str | int] = {"wait": 12, "verify": "fresh"}
        request = http.get(f"/api/apps/{app}/staging", params=parameters, headers=run_headers(2))
        waiting_request = asyncio.create_task(request)
        await asyncio.sleep(1)
        assert (await post_swap(http, app, new_hub, run_headers(1))).status_code == 200
        verdict = (await waiting_request).json()
        assert (verdict["taskHub"], verdict["ready"], reason_codes(verdict)) == (old_hub, False, ["InstancesActive"])


async def test_an_event_that_is_recorded_while_a_prior_task_hub_is_read_counts(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two task hubs may be in the slot, and the server reads one of them slowly.

    The verdict counts an event of the other task hub that arrives during the read.
    """
    old_hub, new_hub = new_hub_name(), new_hub_name()
    async with ProviderTaskHub(storage, old_hub) as prior, ProviderTaskHub(storage, new_hub) as staged:
        await prior.create()
        policy = {"settleSeconds": 0}
        await put_app(http, app, slots={"staging": {"taskHub": old_hub}}, policy=policy, taskHubs=PROVIDER_CONFIG)
        assert (await post_staging(http, app, new_hub, run_headers(1))).status_code == 200
        await staged.create()
        read_page = AzureStorageBackend.read_page
        read_has_begun = asyncio.Event()

        async def read_prior_page_slowly(
            backend: AzureStorageBackend, task_hub: str, since: Instant, cursor: str
        ) -> ObservedPage:
            if task_hub == old_hub:
                read_has_begun.set()
                await asyncio.sleep(3)
            return await read_page(backend, task_hub, since, cursor)

        monkeypatch.setattr(AzureStorageBackend, "read_page", read_prior_page_slowly)
        request = http.get(f"/api/apps/{app}/staging", params={"verify": "fresh"}, headers=run_headers(1))
        slow_request = asyncio.create_task(request)
        await read_has_begun.wait()
        await asyncio.sleep(1)
        await post_events(http, event(new_hub, "order-1"))
        verdict = (await slow_request).json()
        assert (verdict["ready"], reason_codes(verdict)[:1]) == (False, ["InstancesActive"])


async def test_a_server_that_has_just_started_asks_for_the_time_before_it_calls_a_result_fresh(
    http: httpx.AsyncClient,
    storage: StorageSettings,
    app: str,
    drained_provider_hub: ProviderTaskHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock of the machine is a minute behind, so without the storage's time an old result would look fresh."""
    assert (await get_staging(http, app))["ready"]
    await drained_provider_hub.put("order-1", "Pending")
    assert storage.connection_string is not None
    connections = TaskHubConnections({"STATE_TASKHUBS_SHOP": storage.connection_string.get_secret_value()})
    started_server = StateServer(Settings(storage=storage, connections=connections))
    transport = httpx.ASGITransport(started_server.application)
    machine_time = time.time
    monkeypatch.setattr(time, "time", lambda: machine_time() - 60)
    async with httpx.AsyncClient(transport=transport, base_url="http://state") as client:
        assert_problem(await post_staging(client, app, new_hub_name()), 409, "StagingNotReady")
    await started_server.close()


async def test_an_unfinished_deletion_stops_when_work_has_begun_since_then(
    http: httpx.AsyncClient,
    app: str,
    storage: StorageSettings,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
) -> None:
    """The function app still runs on the retired task hub and holds its lease, so Cleanup cannot delete it at first."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    retired_hub = hubs_with_common_prefix[0]
    artifacts_before = await provider_account.list_artifacts(retired_hub)
    async with ContainerClient.from_connection_string(connection, f"{retired_hub}-applease") as container:
        lease = await container.acquire_lease(60)
        (result,) = await post_cleanup(http, app)
        assert (result["outcome"], result["artifacts"]) == ("Unfinished", [])
        async with ProviderTaskHub(storage, retired_hub) as provider_hub:
            await provider_hub.put("order-77", "Running")
            await lease.release()
            (result,) = await post_cleanup(http, app, deleteTaskHubs=False)
            assert (result["outcome"], reason_codes(result)) == (
                "NotDrained",
                ["InstancesActive"],
            )
            assert await provider_account.list_artifacts(retired_hub) == artifacts_before
            await provider_hub.put("order-77", "Completed")
            # The order has started another instance, whose start is still a message.
            async with ControlQueue(provider_hub) as queue:
                await queue.send(control_message("launched"))
                (result,) = await post_cleanup(http, app)
                assert (result["outcome"], reason_codes(result)) == (
                    "NotDrained",
                    ["StartsPending"],
                )
                assert await provider_account.list_artifacts(retired_hub) == artifacts_before
    (result,) = await post_cleanup(http, app, deleteTaskHubs=False)
    assert result["outcome"] == "Removed"


async def test_an_unfinished_deletion_does_not_continue_at_another_connection(
    storage: StorageSettings, clock: ShiftedClock, app: str, provider_account: ProviderAccount
) -> None:
    """The app's connection is changed to another environment, which has a task hub of the same name."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    own, foreign = "STATE_TASKHUBS_OWN", "STATE_TASKHUBS_FOREIGN"
    async with client_of_server_with(storage, clock, {own: connection, foreign: connection}) as http:
        names = [new_hub_name()[:12] + end for end in ("", "0", "x")]
        await put_app(http, app, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG | {"connection": own})
        for name in names:
            assert (await post_staging(http, app, name)).status_code == 200
            await provider_account.add_task_hub(name)
            assert (await post_swap(http, app, name)).status_code == 200
        async with ContainerClient.from_connection_string(connection, f"{names[0]}-applease") as container:
            lease = await container.acquire_lease(60)
            assert (await post_cleanup(http, app))[0]["outcome"] == "Unfinished"
            await lease.release()
        artifacts_before = await provider_account.list_artifacts(names[0])
        await put_app(http, app, taskHubs=PROVIDER_CONFIG | {"connection": foreign})
        (result,) = await post_cleanup(http, app)
        assert (result["outcome"], "Set those again" in result["message"]) == ("Unfinished", True)
        assert await provider_account.list_artifacts(names[0]) == artifacts_before
        await put_app(http, app, taskHubs=PROVIDER_CONFIG | {"connection": own})
        assert (await post_cleanup(http, app))[0]["outcome"] == "Removed"


async def test_a_result_under_a_waiver_answers_later_requests(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await drained_provider_hub.put("stuck", "Running")
    body = {
        "taskHub": drained_provider_hub.hub,
        "instanceId": "stuck",
        "reason": "case 4711",
        "expiresAt": timestamp(3600),
    }
    assert (await http.post(f"/api/apps/{app}/waivers", json=body)).status_code == 200
    verified = await get_staging(http, app)
    assert verified["ready"]
    for verify in ("cached", "none"):
        repeated = await get_staging(http, app, verify=verify)
        assert (repeated["ready"], repeated["evidence"]["probe"]) == (True, verified["evidence"]["probe"])
        assert [instance["instanceId"] for instance in repeated["waived"]] == ["stuck"]


async def test_a_stored_result_with_unknown_values_is_replaced_by_a_new_probe(
    http: httpx.AsyncClient, server: StateServer, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    assert (await get_staging(http, app))["ready"]
    table = server.tables.client(TASK_HUBS_TABLE)
    for kind, column in (("result", "Result0"), ("lease", "Scan0")):
        row = {"PartitionKey": "probe", "RowKey": f"{drained_provider_hub.hub}|{kind}", column: '{"status": "Superb"}'}
        await table.upsert_entity(row, mode=UpdateMode.MERGE)
    verdict = await get_staging(http, app)
    assert (verdict["ready"], verdict["assurance"]) == (True, "verified")


async def test_a_row_with_an_unusual_partition_key_is_an_active_instance(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await drained_provider_hub.table.upsert_entity(
        {"PartitionKey": "a^b", "RowKey": "", "Name": "X", "RuntimeStatus": "Running"}
    )
    assert [instance["instanceId"] for instance in (await get_staging(http, app))["active"]] == ["a^b"]


async def test_a_start_whose_message_stays_in_the_queue_for_twenty_minutes_blocks(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, clock: ShiftedClock
) -> None:
    """The worker died, and the app was down for longer than a message usually stays invisible."""
    twenty_minutes_seconds = 1200
    await drained_provider_hub.put("order-1", "Completed")
    async with ControlQueue(drained_provider_hub) as queue:
        await post_events(
            http,
            event(drained_provider_hub.hub, "order-1", "Completed"),
            event(drained_provider_hub.hub, "child", time=timestamp(-twenty_minutes_seconds)),
        )
        message = await queue.send("the start of child")
        assert reason_codes(await get_staging(http, app, wait=7)) == ["InstancesActive", "StartsPending"]
        await queue.delete(message)
        assert (await get_staging(http, app))["ready"]


async def test_the_backend_of_production_is_confirmed_before_its_instances_are_purged(
    http: httpx.AsyncClient, server: StateServer, storage: StorageSettings, app: str, hub: str
) -> None:
    """The only instance is terminated later, which an old extension does not publish, and then purged."""
    async with ProviderTaskHub(storage, hub) as provider_hub:
        await provider_hub.create()
        await put_app(
            http, app, slots={"production": {"taskHub": hub}}, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG
        )
        await post_events(http, event(hub, "order-1", time=timestamp(-60)))
        await provider_hub.put("order-1", "Running")
        await server.background.probe_due_hubs()
        await provider_hub.purge("order-1")
        await wait_for_clock_tolerance()
        assert (await get_staging(http, app, slot="production"))["ready"]


@pytest.mark.parametrize("clock_ahead_seconds", [0, 1.9])
async def test_a_result_that_was_read_beside_an_active_record_does_not_make_the_task_hub_ready_later(
    http: httpx.AsyncClient,
    app: str,
    drained_provider_hub: ProviderTaskHub,
    clock: ShiftedClock,
    clock_ahead_seconds: float,
) -> None:
    """GetVersions reads the task hub while `first` is active by its events and has no row yet, so it shows no instance.

    The time that the storage reports may be ahead of the timestamps of its rows.
    """
    clock.advance(clock_ahead_seconds)
    await post_events(http, event(drained_provider_hub.hub, "first"))
    await wait_for_clock_tolerance()
    assert (await http.get(f"/api/taskhubs/{drained_provider_hub.hub}/versions?verify=fresh")).json()["complete"]
    await drained_provider_hub.put("second", "Running")
    await drained_provider_hub.put("first", "Completed")
    verdict = await get_staging(http, app)
    assert (verdict["ready"], [instance["instanceId"] for instance in verdict["active"]]) == (False, ["second"])


async def test_a_drained_task_hub_becomes_ready_after_the_clock_was_set_back_ten_minutes(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, clock: ShiftedClock
) -> None:
    await drained_provider_hub.put("first", "Running")
    assert reason_codes(await get_staging(http, app, verify="fresh")) == ["InstancesActive"]
    await drained_provider_hub.put("first", "Completed")
    assert (await get_staging(http, app, verify="fresh"))["ready"]
    ten_minutes_seconds = 600
    clock.advance(-ten_minutes_seconds)
    assert (await get_staging(http, app))["ready"]


async def test_a_result_is_not_used_again_after_a_look_up_has_recorded_the_end_of_an_instance(
    http: httpx.AsyncClient, server: StateServer, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """The worker that found the instance active died before it could store its result."""
    assert (await get_staging(http, app))["ready"]
    probes = ProbeStore(server.tables)
    earlier_result = (await probes.get(drained_provider_hub.hub)).result
    await drained_provider_hub.put("first", "Running")
    assert reason_codes(await get_staging(http, app, verify="fresh")) == ["InstancesActive"]
    assert earlier_result is not None
    await probes.replace_result(drained_provider_hub.hub, earlier_result)
    await drained_provider_hub.put("second", "Running")
    await drained_provider_hub.put("first", "Completed")
    verdict = await get_staging(http, app)
    assert (verdict["ready"], [instance["instanceId"] for instance in verdict["active"]]) == (False, ["second"])


async def test_an_instance_that_could_not_be_recorded_is_recorded_by_the_next_request(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("state_api.services.record_correction._MAX_RECORDED_INSTANCES", 1)
    await drained_provider_hub.put("order-1", "Running")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecordCorrector, "record_corrections", _raise_timeout)
        assert reason_codes(await get_staging(http, app)) == ["ProbeIncomplete"]
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]
    response = await http.get(f"/api/taskhubs/{drained_provider_hub.hub}/instances")
    assert [instance["instanceId"] for instance in response.json()["instances"]] == ["order-1"]


async def _raise_timeout(self: RecordCorrector, task_hub: str, corrections: Sequence[Instance]) -> None:
    """Fail as if the time were up before the corrections are stored."""
    raise TimeoutError


async def test_an_active_instance_whose_recorded_name_is_ignored_is_recorded_under_its_present_name(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """Another orchestrator has used the instance id again, and its events were lost."""
    await put_app(http, app, policy={"ignoreFunctions": ["Sync"]})
    await post_events(http, event(drained_provider_hub.hub, "order-1", function="Sync"))
    await drained_provider_hub.put("order-1", "Running", name="ProcessOrder")
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]
    verdict = await get_staging(http, app, verify="none")
    assert (verdict["hasRunning"], reason_codes(verdict)[:1]) == (True, ["InstancesActive"])
