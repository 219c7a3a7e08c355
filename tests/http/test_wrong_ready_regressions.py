"""Regressions: sequences that led, or could have led, to a wrong Ready or to the deletion of running work."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import httpx
import pytest
from azure.data.tables import UpdateMode
from azure.storage.blob.aio import ContainerClient

from state_api.app import StateServer
from state_api.backends.azure_storage import AzureStorageBackend
from state_api.backends.protocols import BackendError, ObservedPage, ReadFailure
from state_api.domain.instants import Instant, parse_instant, seconds
from state_api.domain.readiness.evidence import ProbeResult, ProbeStatus
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.plan import VerificationMode, is_fresh_enough
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.scans import Scan
from state_api.domain.releases.apps import ProviderConfig
from state_api.domain.task_hubs.lifecycle import Instance
from state_api.services.ports import ProbeRecord
from state_api.services.probe_requests import ProbeRequest
from state_api.services.reconciler import Reconciler
from state_api.services.task_hub_reader import TaskHubReader
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
)

pytestmark = pytest.mark.anyio


async def test_a_probe_of_one_task_hub_does_not_answer_for_the_next_in_the_slot(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run waits while another run swaps, so another task hub is in the slot when its turn comes."""
    old, new = new_hub_name(), new_hub_name()
    async with ProviderTaskHub(storage, old) as swapped_out, ProviderTaskHub(storage, new) as staged:
        await swapped_out.create()
        await swapped_out.put("order-1", "Suspended")
        await put_app(
            http, app, slots={"production": {"taskHub": old}}, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG
        )
        assert (await post_staging(http, app, new, run_headers(1))).status_code == 200
        await staged.create()
        page = AzureStorageBackend.read_page

        async def slowly(self: AzureStorageBackend, task_hub: str, since: Instant, cursor: str) -> ObservedPage:
            await asyncio.sleep(2)
            return await page(self, task_hub, since, cursor)

        monkeypatch.setattr(AzureStorageBackend, "read_page", slowly)
        asked: dict[str, str | int] = {"wait": 12, "verify": "fresh"}
        waiting = asyncio.create_task(http.get(f"/api/apps/{app}/staging", params=asked, headers=run_headers(2)))
        await asyncio.sleep(1)
        assert (await post_swap(http, app, new, run_headers(1))).status_code == 200
        verdict = (await waiting).json()
        assert (verdict["taskHub"], verdict["ready"], reason_codes(verdict)) == (old, False, ["InstancesActive"])


async def test_an_event_that_is_recorded_while_a_prior_task_hub_is_read_counts(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot may carry two task hubs, and reading one of them takes long.

    The other is assessed by its current records.
    """
    old, new = new_hub_name(), new_hub_name()
    async with ProviderTaskHub(storage, old) as left, ProviderTaskHub(storage, new) as staged:
        await left.create()
        policy = {"settleSeconds": 0}
        await put_app(http, app, slots={"staging": {"taskHub": old}}, policy=policy, taskHubs=PROVIDER_CONFIG)
        assert (await post_staging(http, app, new, run_headers(1))).status_code == 200
        await staged.create()
        page = AzureStorageBackend.read_page
        reading = asyncio.Event()

        async def slowly(self: AzureStorageBackend, task_hub: str, since: Instant, cursor: str) -> ObservedPage:
            if task_hub == old:
                reading.set()
                await asyncio.sleep(3)
            return await page(self, task_hub, since, cursor)

        monkeypatch.setattr(AzureStorageBackend, "read_page", slowly)
        asked = http.get(f"/api/apps/{app}/staging", params={"verify": "fresh"}, headers=run_headers(1))
        waiting = asyncio.create_task(asked)
        await reading.wait()
        await asyncio.sleep(1)
        await post_events(http, event(new, "order-1"))
        verdict = (await waiting).json()
        assert (verdict["ready"], reason_codes(verdict)[:1]) == (False, ["InstancesActive"])


@pytest.fixture
def range_failures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A task hub that is read in ranges, one of which fails while this list is not empty."""
    page = AzureStorageBackend.read_page
    failures = ["asks to wait"]

    async def in_ranges(self: AzureStorageBackend, task_hub: str, since: Instant, cursor: str) -> ObservedPage:
        if cursor == "[null, null]":
            return ObservedPage((), tuple(f"[{number}, null]" for number in range(20)))
        if failures and cursor == "[19, null]":
            raise BackendError(ReadFailure.THROTTLED, failures[0])
        return await page(self, task_hub, since, cursor)

    monkeypatch.setattr(AzureStorageBackend, "read_page", in_ranges)
    return failures


async def test_a_scan_that_was_interrupted_before_the_request_is_not_fresh(
    http: httpx.AsyncClient,
    app: str,
    drained_provider_hub: ProviderTaskHub,
    clock: ShiftedClock,
    range_failures: list[str],
) -> None:
    """An instance that starts in a range that was read before is found."""
    assert reason_codes(await get_staging(http, app)) == ["ProbeThrottled"]
    range_failures.clear()
    clock.advance(60)
    await drained_provider_hub.put("1-new", "Pending")
    assert_problem(await post_staging(http, app, new_hub_name()), 409, "StagingNotReady")


async def test_an_old_scan_is_not_resumed(
    http: httpx.AsyncClient,
    app: str,
    drained_provider_hub: ProviderTaskHub,
    clock: ShiftedClock,
    range_failures: list[str],
) -> None:
    assert reason_codes(await get_staging(http, app)) == ["ProbeThrottled"]
    range_failures.clear()
    clock.advance(3600)
    assert (await get_staging(http, app))["ready"]


async def test_a_server_that_has_just_started_asks_for_the_time_before_it_calls_a_result_fresh(
    http: httpx.AsyncClient,
    storage: StorageSettings,
    app: str,
    drained_provider_hub: ProviderTaskHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock of its machine is a minute behind."""
    assert (await get_staging(http, app))["ready"]
    await drained_provider_hub.put("order-1", "Pending")
    assert storage.connection_string is not None
    connections = TaskHubConnections({"STATE_TASKHUBS_SHOP": storage.connection_string.get_secret_value()})
    late = StateServer(Settings(storage=storage, connections=connections))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 60)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(late.application), base_url="http://state") as other:
        assert_problem(await post_staging(other, app, new_hub_name()), 409, "StagingNotReady")
    await late.close()


async def test_a_deletion_stops_when_work_has_begun_since(
    http: httpx.AsyncClient,
    app: str,
    storage: StorageSettings,
    provider_account: ProviderAccount,
    hubs_with_common_prefix: list[str],
) -> None:
    """The app still runs on the retired task hub and holds its lease, so that nothing is deleted at first."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    before = await provider_account.list_artifacts(hubs_with_common_prefix[0])
    async with ContainerClient.from_connection_string(
        connection, f"{hubs_with_common_prefix[0]}-applease"
    ) as container:
        lease = await container.acquire_lease(60)
        (done,) = await post_cleanup(http, app)
        assert (done["outcome"], done["artifacts"]) == ("Unfinished", [])
        async with ProviderTaskHub(storage, hubs_with_common_prefix[0]) as provider_hub:
            await provider_hub.put("order-77", "Running")
            await lease.release()
            (done,) = await post_cleanup(http, app, deleteTaskHubs=False)
            assert (done["outcome"], [reason["code"] for reason in done["reasons"]]) == (
                "NotDrained",
                ["InstancesActive"],
            )
            assert await provider_account.list_artifacts(hubs_with_common_prefix[0]) == before
            await provider_hub.put("order-77", "Completed")
            # What the order has started is still a message, and nothing has been deleted yet.
            async with ControlQueue(provider_hub) as queue:
                await queue.send(control_message("launched"))
                (done,) = await post_cleanup(http, app)
                assert (done["outcome"], [reason["code"] for reason in done["reasons"]]) == (
                    "NotDrained",
                    ["StartsPending"],
                )
                assert await provider_account.list_artifacts(hubs_with_common_prefix[0]) == before
    (done,) = await post_cleanup(http, app, deleteTaskHubs=False)
    assert done["outcome"] == "Removed"


async def test_a_deletion_does_not_continue_at_a_changed_connection(
    storage: StorageSettings, clock: ShiftedClock, app: str, provider_account: ProviderAccount
) -> None:
    """The connection leads to an environment with a task hub of the same name."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    state = StateServer(
        Settings(
            storage=storage,
            connections=TaskHubConnections({"STATE_TASKHUBS_OURS": connection, "STATE_TASKHUBS_THEIRS": connection}),
        )
    )
    transport = httpx.ASGITransport(state.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=150) as http:
        names = [new_hub_name()[:12] + end for end in ("", "0", "x")]
        await put_app(
            http, app, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG | {"connection": "STATE_TASKHUBS_OURS"}
        )
        for name in names:
            assert (await post_staging(http, app, name)).status_code == 200
            await provider_account.add_task_hub(name)
            assert (await post_swap(http, app, name)).status_code == 200
        async with ContainerClient.from_connection_string(connection, f"{names[0]}-applease") as container:
            lease = await container.acquire_lease(60)
            assert (await post_cleanup(http, app))[0]["outcome"] == "Unfinished"
            await lease.release()
        before = await provider_account.list_artifacts(names[0])
        await put_app(http, app, taskHubs=PROVIDER_CONFIG | {"connection": "STATE_TASKHUBS_THEIRS"})
        (done,) = await post_cleanup(http, app)
        assert (done["outcome"], "Set those again" in done["message"]) == ("Unfinished", True)
        assert await provider_account.list_artifacts(names[0]) == before
        await put_app(http, app, taskHubs=PROVIDER_CONFIG | {"connection": "STATE_TASKHUBS_OURS"})
        assert (await post_cleanup(http, app))[0]["outcome"] == "Removed"
    await state.close()


async def test_a_result_can_be_used_again_under_a_waiver(
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
    first = await get_staging(http, app)
    assert first["ready"]
    for verify in ("cached", "none"):
        second = await get_staging(http, app, verify=verify)
        assert (second["ready"], second["evidence"]["probe"]) == (True, first["evidence"]["probe"])
        assert [instance["instanceId"] for instance in second["waived"]] == ["stuck"]


async def test_a_probe_stored_by_another_version_is_read_again(
    http: httpx.AsyncClient, server: StateServer, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    assert (await get_staging(http, app))["ready"]
    table = server.tables.client(TASK_HUBS_TABLE)
    for kind, column in (("result", "Result0"), ("lease", "Scan0")):
        row = {"PartitionKey": "probe", "RowKey": f"{drained_provider_hub.hub}|{kind}", column: '{"status": "Superb"}'}
        await table.upsert_entity(row, mode=UpdateMode.MERGE)
    verdict = await get_staging(http, app)
    assert (verdict["ready"], verdict["assurance"]) == (True, "verified")


async def test_a_row_with_unknown_values_is_an_instance_and_no_error(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await drained_provider_hub.table.upsert_entity(
        {"PartitionKey": "a^b", "RowKey": "", "Name": "X", "RuntimeStatus": "Running"}
    )
    assert [instance["instanceId"] for instance in (await get_staging(http, app))["active"]] == ["a^b"]


async def test_a_start_that_is_a_message_for_a_long_time_blocks(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, clock: ShiftedClock
) -> None:
    """Its worker died, and the app was down for longer than a message usually stays invisible."""
    await drained_provider_hub.put("order-1", "Completed")
    async with ControlQueue(drained_provider_hub) as queue:
        await post_events(
            http,
            event(drained_provider_hub.hub, "order-1", "Completed"),
            event(drained_provider_hub.hub, "child", time=timestamp(-1200)),
        )
        message = await queue.send("the start of child")
        assert reason_codes(await get_staging(http, app, wait=7)) == ["InstancesActive", "StartsPending"]
        await queue.delete(message)
        assert (await get_staging(http, app))["ready"]


async def test_the_backend_of_production_is_confirmed_before_its_instances_are_purged(
    http: httpx.AsyncClient, server: StateServer, storage: StorageSettings, app: str, hub: str
) -> None:
    """Later its only instance is terminated, which an old extension does not publish, and purged."""
    async with ProviderTaskHub(storage, hub) as provider_hub:
        await provider_hub.create()
        await put_app(
            http, app, slots={"production": {"taskHub": hub}}, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG
        )
        await post_events(http, event(hub, "order-1", time=timestamp(-60)))
        await provider_hub.put("order-1", "Running")
        await server.background.probe_due_hubs()
        await provider_hub.purge("order-1")
        await asyncio.sleep(1.1)
        assert (await get_staging(http, app, slot="production"))["ready"]


def test_a_small_scan_that_began_before_the_request_is_not_fresh_even_if_the_request_resumed_it() -> None:
    """A scan misses what starts in a range that it has read.

    Only a task hub too large to be read in one request must accept that.
    """
    asked = parse_instant("2026-11-20T09:00:00Z")
    source = ProviderConfig("azureStorage", "STATE_TASKHUBS_SHOP")
    request = ProbeRequest("v41", source, "here", Policy(), Exemptions(()), VerificationMode.FRESH, asked, 0)
    began, ended = Instant(asked - seconds(31)), Instant(asked + seconds(1))
    result = ProbeResult(ProbeStatus.COMPLETE, "azureStorage", began, ended_at=ended, resumed=True, read_seconds=2)
    requirements = request.requirements(for_verdict=True)
    assert not is_fresh_enough(result, requirements)
    assert is_fresh_enough(replace(result, read_seconds=30), requirements)


async def test_an_old_result_is_not_used_again_after_an_interrupted_scan_found_an_instance(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """The instance that it found has started another one before it ended, and all events of that are lost."""
    assert (await get_staging(http, app))["ready"]
    await drained_provider_hub.put("b-first", "Running")
    read_pass = TaskHubReader._read_pass

    async def read_pass_and_stop(reader: TaskHubReader, scan: Scan) -> None:
        await read_pass(reader, scan)
        scan.cursors.append("[19, null]")
        raise TimeoutError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskHubReader, "_read_pass", read_pass_and_stop)
        assert reason_codes(await get_staging(http, app, verify="fresh")) == ["InstancesActive"]
    await drained_provider_hub.put("b-second", "Running")
    await drained_provider_hub.put("b-first", "Completed")
    # The scan that was cut off is carried on, and has seen the first; the next one is a new one.
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]
    verdict = await get_staging(http, app)
    assert (verdict["ready"], [instance["instanceId"] for instance in verdict["active"]]) == (False, ["b-second"])


@pytest.mark.parametrize("ahead", [0, 1.9])
async def test_a_result_from_when_the_records_held_an_active_instance_is_not_ready_later(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, clock: ShiftedClock, ahead: float
) -> None:
    """GetVersions reads the task hub regardless of the records, and does not show instances that are about to start.

    The time that the storage reports may be ahead of its stamps.
    """
    clock.advance(ahead)
    await post_events(http, event(drained_provider_hub.hub, "first"))
    await asyncio.sleep(1.1)
    assert (await http.get(f"/api/taskhubs/{drained_provider_hub.hub}/versions?verify=fresh")).json()["complete"]
    await drained_provider_hub.put("second", "Running")
    await drained_provider_hub.put("first", "Completed")
    verdict = await get_staging(http, app)
    assert (verdict["ready"], [instance["instanceId"] for instance in verdict["active"]]) == (False, ["second"])


async def test_a_scan_that_began_beside_an_active_record_is_not_resumed_once_that_record_is_closed(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, range_failures: list[str]
) -> None:
    """GetVersions was interrupted after the ranges of both. The first has no row before its first checkpoint."""
    await post_events(http, event(drained_provider_hub.hub, "1-first"))
    await asyncio.sleep(1.1)
    assert_problem(
        await http.get(f"/api/taskhubs/{drained_provider_hub.hub}/versions?verify=fresh"), 503, "TaskHubUnavailable"
    )
    range_failures.clear()
    await drained_provider_hub.put("2-second", "Running")
    await drained_provider_hub.put("1-first", "Completed")
    verdict = await get_staging(http, app)
    assert (verdict["ready"], [instance["instanceId"] for instance in verdict["active"]]) == (False, ["2-second"])


async def test_a_drained_task_hub_becomes_ready_although_a_clock_is_set_back(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, clock: ShiftedClock
) -> None:
    await drained_provider_hub.put("first", "Running")
    assert reason_codes(await get_staging(http, app, verify="fresh")) == ["InstancesActive"]
    await drained_provider_hub.put("first", "Completed")
    assert (await get_staging(http, app, verify="fresh"))["ready"]
    clock.advance(-600)
    assert (await get_staging(http, app))["ready"]


async def test_a_look_up_that_closes_an_instance_supersedes_an_earlier_result(
    http: httpx.AsyncClient, server: StateServer, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """The worker that found it active died before it could store its result."""
    assert (await get_staging(http, app))["ready"]
    kept = await ProbeStore(server.tables).get(drained_provider_hub.hub)
    await drained_provider_hub.put("first", "Running")
    assert reason_codes(await get_staging(http, app, verify="fresh")) == ["InstancesActive"]
    probes = ProbeStore(server.tables)
    now = server.tables.clock.now()
    lease = await probes.acquire_lease(drained_provider_hub.hub, "died", ProbeRecord(), None, until=now, now=now)
    assert lease is not None
    assert await probes.save_and_release(lease, result=kept.result)
    await drained_provider_hub.put("second", "Running")
    await drained_provider_hub.put("first", "Completed")
    verdict = await get_staging(http, app)
    assert (verdict["ready"], [instance["instanceId"] for instance in verdict["active"]]) == (False, ["second"])


async def test_an_instance_that_could_not_be_recorded_is_recorded_by_the_next_request(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("state_api.services.reconciler._MAX_RECORDED_INSTANCES", 1)
    await drained_provider_hub.put("order-1", "Running")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reconciler, "record_corrections", _raise_timeout)
        assert reason_codes(await get_staging(http, app)) == ["ProbeIncomplete"]
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]
    response = await http.get(f"/api/taskhubs/{drained_provider_hub.hub}/instances")
    assert [instance["instanceId"] for instance in response.json()["instances"]] == ["order-1"]


async def _raise_timeout(self: Reconciler, task_hub: str, corrections: Sequence[Instance]) -> None:
    raise TimeoutError


async def test_an_instance_that_runs_under_another_name_than_its_ignored_one_is_recorded(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """Its id was used again, and the events of that were lost."""
    await put_app(http, app, policy={"ignoreFunctions": ["Sync"]})
    await post_events(http, event(drained_provider_hub.hub, "order-1", function="Sync"))
    await drained_provider_hub.put("order-1", "Running", name="ProcessOrder")
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]
    verdict = await get_staging(http, app, verify="none")
    assert (verdict["hasRunning"], reason_codes(verdict)[:1]) == (True, ["InstancesActive"])
