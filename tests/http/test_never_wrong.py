"""Histories that once led, or would have led, to a wrong Ready or to the deletion of work: each must be refused."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import httpx
import pytest
from azure.data.tables import UpdateMode
from azure.storage.blob.aio import ContainerClient

from state_api.app import StateServer
from state_api.domain.apps import TaskHubSource
from state_api.domain.evidence import ProbeResult, ProbeStatus
from state_api.domain.exemptions import Exemptions
from state_api.domain.instants import Instant, parse_instant, seconds
from state_api.domain.lifecycle import Instance
from state_api.domain.readiness import Policy
from state_api.domain.scans import Scan
from state_api.services.lookups import LookUps
from state_api.services.questions import Question, Verify, is_fresh_enough
from state_api.services.scanning import Scanner
from state_api.settings import Connections, Settings, StorageSettings
from state_api.storage.probes import ProbeStore
from state_api.storage.tables import TASK_HUBS
from state_api.taskhubs.azure_storage import AzureStorageBackend
from state_api.taskhubs.backend import Backend, SourceError, SourcePage, Trouble
from tests.builders import at, event
from tests.conftest import ShiftedClock, new_hub
from tests.http.client import codes, problem, publish, put, run, stage, staging, swap
from tests.http.test_cleanup_of_task_hubs import account, clean, hubs
from tests.http.test_verification import SOURCE, draining, provider
from tests.taskhubs.provider import Account, ControlQueue, ProviderHub, message

__all__ = ["account", "draining", "hubs", "provider"]

pytestmark = pytest.mark.anyio


async def test_what_one_hub_has_shown_says_nothing_of_the_next_in_the_slot(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run waits for its turn while another swaps: another hub is in the slot when it is let in."""
    old, new = new_hub(), new_hub()
    async with ProviderHub(storage, old) as swapped_out, ProviderHub(storage, new) as staged:
        await swapped_out.create()
        await swapped_out.put("order-1", "Suspended")
        await put(http, app, slots={"production": {"taskHub": old}}, policy={"settleSeconds": 0}, taskHubs=SOURCE)
        assert (await stage(http, app, new, run(1))).status_code == 200
        await staged.create()
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
        policy = {"settleSeconds": 0}
        await put(http, app, slots={"staging": {"taskHub": old}}, policy=policy, taskHubs=SOURCE)
        assert (await stage(http, app, new, run(1))).status_code == 200
        await staged.create()
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
    connections = Connections({"STATE_TASKHUBS_SHOP": storage.connection_string.get_secret_value()})
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
            # What the order has started is still a message, and nothing has been deleted yet.
            async with ControlQueue(provider) as queue:
                await queue.send(message("launched"))
                (done,) = await clean(http, app)
                assert (done["outcome"], [one["code"] for one in done["reasons"]]) == ("NotDrained", ["StartsPending"])
                assert await account.artifacts(hubs[0]) == before
    (done,) = await clean(http, app, deleteTaskHubs=False)
    assert done["outcome"] == "Removed"


async def test_a_deletion_that_was_begun_does_not_follow_a_changed_connection(
    storage: StorageSettings, clock: ShiftedClock, app: str, account: Account
) -> None:
    """To an environment that has a hub of the same name."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    state = StateServer(
        Settings(
            storage=storage,
            connections=Connections({"STATE_TASKHUBS_OURS": connection, "STATE_TASKHUBS_THEIRS": connection}),
        )
    )
    transport = httpx.ASGITransport(state.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=150) as http:
        names = [new_hub()[:12] + end for end in ("", "0", "x")]
        await put(http, app, policy={"settleSeconds": 0}, taskHubs=SOURCE | {"connection": "STATE_TASKHUBS_OURS"})
        for name in names:
            assert (await stage(http, app, name)).status_code == 200
            await account.make(name)
            assert (await swap(http, app, name)).status_code == 200
        async with ContainerClient.from_connection_string(connection, f"{names[0]}-applease") as container:
            lease = await container.acquire_lease(60)
            assert (await clean(http, app))[0]["outcome"] == "Unfinished"
            await lease.release()
        before = await account.artifacts(names[0])
        await put(http, app, taskHubs=SOURCE | {"connection": "STATE_TASKHUBS_THEIRS"})
        (done,) = await clean(http, app)
        assert (done["outcome"], "set those again" in done["message"]) == ("Unfinished", True)
        assert await account.artifacts(names[0]) == before
        await put(http, app, taskHubs=SOURCE | {"connection": "STATE_TASKHUBS_OURS"})
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
        assert codes(await staging(http, app, wait=7)) == ["InstancesActive", "StartsPending"]
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


def test_a_small_scan_that_was_begun_before_the_question_is_not_fresh_whoever_carried_it_on() -> None:
    """What starts after it has read past it is missed. Only a hub too large to be read in one call must put up with
    that."""
    asked = parse_instant("2026-11-20T09:00:00Z")
    source = TaskHubSource("azureStorage", "STATE_TASKHUBS_SHOP")
    question = Question("v41", source, "here", Policy(), Exemptions(()), Verify.FRESH, asked, 0)
    began, ended = Instant(asked - seconds(31)), Instant(asked + seconds(1))
    result = ProbeResult(ProbeStatus.COMPLETE, "azureStorage", began, ended_at=ended, carried_on=True, took_seconds=2)
    assert not is_fresh_enough(result, question)
    assert is_fresh_enough(replace(result, took_seconds=30), question)


async def test_an_old_result_is_not_used_again_after_a_scan_that_was_cut_off_has_found_something(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    """What it found has started another before it ended, and all events of that are lost."""
    assert (await staging(http, app))["ready"]
    await draining.put("b-first", "Running")
    read = Scanner._pass

    async def cut_off(self: Scanner, backend: Backend, question: Question, scan: Scan) -> None:
        await read(self, backend, question, scan)
        scan.cursors.append("[19, null]")
        raise TimeoutError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scanner, "_pass", cut_off)
        assert codes(await staging(http, app, verify="fresh")) == ["InstancesActive"]
    await draining.put("b-second", "Running")
    await draining.put("b-first", "Completed")
    # The scan that was cut off is carried on, and has seen the first; the next one is a new one.
    assert codes(await staging(http, app)) == ["InstancesActive"]
    verdict = await staging(http, app)
    assert (verdict["ready"], [one["instanceId"] for one in verdict["active"]]) == (False, ["b-second"])


@pytest.mark.parametrize("ahead", [0, 1.9])
async def test_a_result_of_a_time_when_the_records_showed_something_active_is_no_ready_later(
    http: httpx.AsyncClient, app: str, draining: ProviderHub, clock: ShiftedClock, ahead: float
) -> None:
    """GetVersions reads the hub whatever the records say; what is about to come up there is not in it yet. The time
    that the storage tells may be ahead of what it stamps rows with."""
    clock.turn(ahead)
    await publish(http, event(draining.hub, "first"))
    await asyncio.sleep(1.1)
    assert (await http.get(f"/api/taskhubs/{draining.hub}/versions?verify=fresh")).json()["complete"]
    await draining.put("second", "Running")
    await draining.put("first", "Completed")
    verdict = await staging(http, app)
    assert (verdict["ready"], [one["instanceId"] for one in verdict["active"]]) == (False, ["second"])


async def test_a_scan_that_was_begun_beside_an_active_record_is_not_carried_on_once_that_is_closed(
    http: httpx.AsyncClient, app: str, draining: ProviderHub, interrupted: list[str]
) -> None:
    """GetVersions was cut off when it had read past the ranges of both: the first is not written there before its first
    checkpoint."""
    await publish(http, event(draining.hub, "1-first"))
    await asyncio.sleep(1.1)
    problem(await http.get(f"/api/taskhubs/{draining.hub}/versions?verify=fresh"), 503, "SourceUnavailable")
    interrupted.clear()
    await draining.put("2-second", "Running")
    await draining.put("1-first", "Completed")
    verdict = await staging(http, app)
    assert (verdict["ready"], [one["instanceId"] for one in verdict["active"]]) == (False, ["2-second"])


async def test_a_clock_that_is_set_back_does_not_keep_a_drained_hub_from_being_ready(
    http: httpx.AsyncClient, app: str, draining: ProviderHub, clock: ShiftedClock
) -> None:
    await draining.put("first", "Running")
    assert codes(await staging(http, app, verify="fresh")) == ["InstancesActive"]
    await draining.put("first", "Completed")
    assert (await staging(http, app, verify="fresh"))["ready"]
    clock.turn(-600)
    assert (await staging(http, app))["ready"]


async def test_an_earlier_result_is_spoilt_by_what_a_look_up_closes(
    http: httpx.AsyncClient, server: StateServer, app: str, draining: ProviderHub
) -> None:
    """The worker that found it active died before it could keep what it had read."""
    assert (await staging(http, app))["ready"]
    kept = await ProbeStore(server.tables).get(draining.hub)
    await draining.put("first", "Running")
    assert codes(await staging(http, app, verify="fresh")) == ["InstancesActive"]
    probes = ProbeStore(server.tables)
    now = server.tables.clock.now()
    lease = await probes.lease(draining.hub, "died", now, now)
    assert lease is not None
    assert await probes.keep(lease, kept.result, None)
    await draining.put("second", "Running")
    await draining.put("first", "Completed")
    verdict = await staging(http, app)
    assert (verdict["ready"], [one["instanceId"] for one in verdict["active"]]) == (False, ["second"])


async def test_what_could_not_be_recorded_is_recorded_by_the_next_question(
    http: httpx.AsyncClient, app: str, draining: ProviderHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("state_api.services.scanning._RECORDED", 1)
    await draining.put("order-1", "Running")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LookUps, "correct", _out_of_time)
        assert codes(await staging(http, app)) == ["ProbeIncomplete"]
    assert codes(await staging(http, app)) == ["InstancesActive"]
    answer = await http.get(f"/api/taskhubs/{draining.hub}/instances")
    assert [one["instanceId"] for one in answer.json()["instances"]] == ["order-1"]


async def _out_of_time(self: LookUps, task_hub: str, corrections: Sequence[Instance]) -> None:
    raise TimeoutError


async def test_what_runs_under_another_name_than_one_that_is_ignored_is_recorded(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    """Its id was taken again, and the events of that were lost."""
    await put(http, app, policy={"ignoreFunctions": ["Sync"]})
    await publish(http, event(draining.hub, "order-1", function="Sync"))
    await draining.put("order-1", "Running", name="ProcessOrder")
    assert codes(await staging(http, app)) == ["InstancesActive"]
    verdict = await staging(http, app, verify="none")
    assert (verdict["hasRunning"], codes(verdict)[:1]) == (True, ["InstancesActive"])
