"""Histories that once led, or would have led, to a wrong Ready or to the deletion of work: each must be refused."""

import asyncio
import time

import httpx
import pytest
from azure.data.tables import UpdateMode
from azure.storage.blob.aio import ContainerClient

from state_api.app import StateServer
from state_api.domain.instants import Instant
from state_api.settings import Connections, Settings, StorageSettings
from state_api.storage.tables import TASK_HUBS
from state_api.taskhubs.azure_storage import AzureStorageBackend
from state_api.taskhubs.backend import SourceError, SourcePage, Trouble
from tests.builders import at, event
from tests.conftest import ShiftedClock, new_hub
from tests.http.client import codes, problem, publish, put, run, stage, staging, swap
from tests.http.test_cleanup_of_task_hubs import account, clean, hubs
from tests.http.test_verification import SOURCE, draining, provider
from tests.taskhubs.provider import Account, ControlQueue, ProviderHub

__all__ = ["account", "draining", "hubs", "provider"]

pytestmark = pytest.mark.anyio


async def test_what_one_hub_has_shown_says_nothing_of_the_next_in_the_slot(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run waits for its turn while another swaps: another hub is in the slot when it is let in."""
    old, new = new_hub(), new_hub()
    async with ProviderHub(storage, old) as swapped_out, ProviderHub(storage, new) as staged:
        await swapped_out.create()
        await staged.create()
        await swapped_out.put("order-1", "Suspended")
        await put(http, app, slots={"production": {"taskHub": old}}, policy={"settleSeconds": 0}, taskHubs=SOURCE)
        assert (await stage(http, app, new, run(1))).status_code == 200
        page = AzureStorageBackend.page

        async def slowly(self: AzureStorageBackend, task_hub: str, since: Instant, cursor: str) -> SourcePage:
            await asyncio.sleep(2)
            return await page(self, task_hub, since, cursor)

        monkeypatch.setattr(AzureStorageBackend, "page", slowly)
        asked: dict[str, str | int] = {"wait": 12, "verify": "fresh"}
        waiting = asyncio.create_task(http.get(f"/api/apps/{app}/staging", params=asked, headers=run(2)))
        await asyncio.sleep(1)
        assert (await swap(http, app, new, run(1))).status_code == 200
        verdict = (await waiting).json()
        assert (verdict["taskHub"], verdict["ready"], codes(verdict)) == (old, False, ["InstancesActive"])


async def test_what_starts_while_the_hub_beneath_is_read_shows(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot may carry two hubs, and one of them takes long to read: the other is not judged by what it was before."""
    old, new = new_hub(), new_hub()
    async with ProviderHub(storage, old) as left, ProviderHub(storage, new) as staged:
        await left.create()
        await staged.create()
        policy = {"settleSeconds": 0}
        await put(http, app, slots={"staging": {"taskHub": old}}, policy=policy, taskHubs=SOURCE)
        assert (await stage(http, app, new, run(1))).status_code == 200
        page = AzureStorageBackend.page
        reading = asyncio.Event()

        async def slowly(self: AzureStorageBackend, task_hub: str, since: Instant, cursor: str) -> SourcePage:
            if task_hub == old:
                reading.set()
                await asyncio.sleep(3)
            return await page(self, task_hub, since, cursor)

        monkeypatch.setattr(AzureStorageBackend, "page", slowly)
        asked = http.get(f"/api/apps/{app}/staging", params={"verify": "fresh"}, headers=run(1))
        waiting = asyncio.create_task(asked)
        await reading.wait()
        await asyncio.sleep(1)
        await publish(http, event(new, "order-1"))
        verdict = (await waiting).json()
        assert (verdict["ready"], codes(verdict)[:1]) == (False, ["InstancesActive"])


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub that is read in ranges, of which one fails as long as there is something in this list."""
    page = AzureStorageBackend.page
    trouble = ["asks to wait"]

    async def in_ranges(self: AzureStorageBackend, task_hub: str, since: Instant, cursor: str) -> SourcePage:
        if cursor == "[null, null]":
            return SourcePage((), tuple(f"[{number}, null]" for number in range(20)))
        if trouble and cursor == "[19, null]":
            raise SourceError(Trouble.THROTTLED, trouble[0])
        return await page(self, task_hub, since, cursor)

    monkeypatch.setattr(AzureStorageBackend, "page", in_ranges)
    return trouble


async def test_a_scan_that_was_cut_off_before_the_question_is_not_fresh(
    http: httpx.AsyncClient, app: str, draining: ProviderHub, clock: ShiftedClock, interrupted: list[str]
) -> None:
    """What starts in a range that was read before is found."""
    assert codes(await staging(http, app)) == ["ProbeThrottled"]
    interrupted.clear()
    clock.turn(60)
    await draining.put("1-new", "Pending")
    problem(await stage(http, app, new_hub()), 409, "StagingNotReady")


async def test_a_scan_that_lay_about_is_not_carried_on(
    http: httpx.AsyncClient, app: str, draining: ProviderHub, clock: ShiftedClock, interrupted: list[str]
) -> None:
    assert codes(await staging(http, app)) == ["ProbeThrottled"]
    interrupted.clear()
    clock.turn(3600)
    assert (await staging(http, app))["ready"]


async def test_a_server_that_has_just_started_asks_for_the_time_before_it_calls_a_result_fresh(
    http: httpx.AsyncClient,
    storage: StorageSettings,
    app: str,
    draining: ProviderHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its machine's clock is a minute behind."""
    assert (await staging(http, app))["ready"]
    await draining.put("order-1", "Pending")
    assert storage.connection_string is not None
    connections = Connections({"DURABLE_STORAGE": storage.connection_string.get_secret_value()})
    late = StateServer(Settings(storage=storage, connections=connections))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 60)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(late.application), base_url="http://state") as other:
        problem(await stage(other, app, new_hub()), 409, "StagingNotReady")
    await late.close()


async def test_a_deletion_that_was_begun_stops_at_work_that_began_since(
    http: httpx.AsyncClient, app: str, storage: StorageSettings, account: Account, hubs: list[str]
) -> None:
    """The app still runs on the retired hub and holds its lease, so that nothing is deleted at first."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    before = await account.artifacts(hubs[0])
    async with ContainerClient.from_connection_string(connection, f"{hubs[0]}-applease") as container:
        lease = await container.acquire_lease(60)
        (done,) = await clean(http, app)
        assert (done["outcome"], done["artifacts"]) == ("Unfinished", [])
        async with ProviderHub(storage, hubs[0]) as provider:
            await provider.put("order-77", "Running")
            await lease.release()
            (done,) = await clean(http, app, deleteTaskHubs=False)
            assert (done["outcome"], [one["code"] for one in done["reasons"]]) == ("NotDrained", ["InstancesActive"])
            assert await account.artifacts(hubs[0]) == before
            await provider.put("order-77", "Completed")
    (done,) = await clean(http, app, deleteTaskHubs=False)
    assert done["outcome"] == "Removed"


async def test_a_deletion_that_was_begun_does_not_follow_a_changed_connection(
    storage: StorageSettings, clock: ShiftedClock, app: str, account: Account
) -> None:
    """To an environment that has a hub of the same name."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    state = StateServer(Settings(storage=storage, connections=Connections({"OURS": connection, "THEIRS": connection})))
    transport = httpx.ASGITransport(state.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=150) as http:
        names = [new_hub()[:12] + end for end in ("", "0", "x")]
        await put(http, app, policy={"settleSeconds": 0}, taskHubs=SOURCE | {"connection": "OURS"})
        for name in names:
            await account.make(name)
            assert (await stage(http, app, name)).status_code == 200
            assert (await swap(http, app, name)).status_code == 200
        async with ContainerClient.from_connection_string(connection, f"{names[0]}-applease") as container:
            lease = await container.acquire_lease(60)
            assert (await clean(http, app))[0]["outcome"] == "Unfinished"
            await lease.release()
        before = await account.artifacts(names[0])
        await put(http, app, taskHubs=SOURCE | {"connection": "THEIRS"})
        (done,) = await clean(http, app)
        assert (done["outcome"], "set those again" in done["message"]) == ("Unfinished", True)
        assert await account.artifacts(names[0]) == before
        await put(http, app, taskHubs=SOURCE | {"connection": "OURS"})
        assert (await clean(http, app))[0]["outcome"] == "Removed"
    await state.close()


async def test_a_waiver_does_not_keep_results_from_being_used_again(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    await draining.put("stuck", "Running")
    body = {"taskHub": draining.hub, "instanceId": "stuck", "reason": "case 4711", "expiresAt": at(3600)}
    assert (await http.post(f"/api/apps/{app}/waivers", json=body)).status_code == 200
    first = await staging(http, app)
    assert first["ready"]
    for verify in ("cached", "none"):
        again = await staging(http, app, verify=verify)
        assert (again["ready"], again["evidence"]["probe"]) == (True, first["evidence"]["probe"])
        assert [one["instanceId"] for one in again["waived"]] == ["stuck"]


async def test_what_another_version_has_kept_of_a_probe_is_read_anew(
    http: httpx.AsyncClient, server: StateServer, app: str, draining: ProviderHub
) -> None:
    assert (await staging(http, app))["ready"]
    table = server.tables.client(TASK_HUBS)
    for kind, column in (("result", "Result0"), ("work", "Scan0")):
        row = {"PartitionKey": "probe", "RowKey": f"{draining.hub}|{kind}", column: '{"status": "Superb"}'}
        await table.upsert_entity(row, mode=UpdateMode.MERGE)
    verdict = await staging(http, app)
    assert (verdict["ready"], verdict["assurance"]) == (True, "verified")


async def test_a_row_that_nobody_understands_is_an_instance_and_no_error(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    await draining.table.upsert_entity({"PartitionKey": "a^b", "RowKey": "", "Name": "X", "RuntimeStatus": "Running"})
    assert [one["instanceId"] for one in (await staging(http, app))["active"]] == ["a^b"]


async def test_a_start_that_is_a_message_for_long_keeps_blocking(
    http: httpx.AsyncClient, app: str, draining: ProviderHub, clock: ShiftedClock
) -> None:
    """Its worker died, and the app was down for longer than a message usually takes to come back."""
    await draining.put("order-1", "Completed")
    async with ControlQueue(draining) as queue:
        await publish(http, event(draining.hub, "order-1", "Completed"), event(draining.hub, "child", time=at(-1200)))
        message = await queue.send("the start of child")
        assert codes(await staging(http, app, wait=2)) == ["InstancesActive"]
        await queue.delete(message)
        assert (await staging(http, app))["ready"]


async def test_production_proves_which_hub_it_is_before_its_instances_are_purged(
    http: httpx.AsyncClient, server: StateServer, storage: StorageSettings, app: str, hub: str
) -> None:
    """Later its only instance is terminated, which an old extension does not tell, and purged."""
    async with ProviderHub(storage, hub) as provider:
        await provider.create()
        await put(http, app, slots={"production": {"taskHub": hub}}, policy={"settleSeconds": 0}, taskHubs=SOURCE)
        await publish(http, event(hub, "order-1", time=at(-60)))
        await provider.put("order-1", "Running")
        await server.background.run_once()
        await provider.purge("order-1")
        await asyncio.sleep(1.1)
        assert (await staging(http, app, slot="production"))["ready"]
