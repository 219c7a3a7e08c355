"""Verdicts that rest on the task hub itself: the whole server on the real storage, with the hub's rows as the provider
writes them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from state_api.app import StateServer
from state_api.domain.instants import Instant, instant_from, parse_instant, seconds
from state_api.services.questions import Checked, Question
from state_api.services.verification import Verifier
from state_api.settings import Settings, StorageSettings
from state_api.storage.probes import ProbeStore
from state_api.taskhubs.azure_storage import AzureStorageBackend
from state_api.taskhubs.backend import SourcePage
from tests.builders import at, event
from tests.conftest import ShiftedClock, new_hub
from tests.http.client import codes, problem, publish, put, run, stage, staging, swap
from tests.taskhubs.provider import ControlQueue, ProviderHub

pytestmark = pytest.mark.anyio

SOURCE = {"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"}


@pytest.fixture
async def provider(storage: StorageSettings, hub: str, anyio_backend: str) -> AsyncIterator[ProviderHub]:
    """The hub at its provider; it has no tables until they are made."""
    async with ProviderHub(storage, hub) as made:
        yield made


@pytest.fixture
async def draining(http: httpx.AsyncClient, app: str, provider: ProviderHub) -> ProviderHub:
    """A hub in the staging slot of an app whose hubs are verified, drained at its provider. No settle window."""
    await provider.create()
    await put(
        http,
        app,
        slots={"staging": {"taskHub": provider.hub}},
        policy={"settleSeconds": 0},
        taskHubs=SOURCE,
    )
    return provider


async def instances(http: httpx.AsyncClient, hub: str) -> dict[str, Any]:
    answer = await http.get(f"/api/taskhubs/{hub}/instances")
    return {one["instanceId"]: one for one in answer.json()["instances"]}


async def test_a_drained_hub_is_ready_and_verified(http: httpx.AsyncClient, app: str, draining: ProviderHub) -> None:
    verdict = await staging(http, app)
    assert verdict["ready"], verdict
    assert verdict["assurance"] == "verified"
    probe = verdict["evidence"]["probe"]
    assert (probe["status"], probe["provider"], probe["active"]) == ("Complete", "azureStorage", 0)


async def test_an_instance_that_events_missed_blocks_and_is_recorded(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    await draining.put("order-1", "Pending", version="2.0")
    verdict = await staging(http, app)
    assert not verdict["ready"]
    assert codes(verdict) == ["InstancesActive"]
    (one,) = verdict["active"]
    assert (one["instanceId"], one["runtimeStatus"], one["source"], one["version"]) == (
        "order-1",
        "Pending",
        "probe",
        "2.0",
    )
    assert (await instances(http, draining.hub))["order-1"]["source"] == "probe"
    await draining.put("order-1", "Completed")
    verdict = await staging(http, app)
    assert verdict["ready"], verdict
    one = (await instances(http, draining.hub))["order-1"]
    assert (one["active"], one["outcome"], one["source"]) == (False, "Completed", "probe")


async def test_an_instance_that_events_left_running_is_closed(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    await publish(http, event(draining.hub, "order-1", time=at(-60)))
    await draining.put("order-1", "Terminated")
    verdict = await staging(http, app, wait=10)
    assert verdict["ready"], verdict
    one = (await instances(http, draining.hub))["order-1"]
    assert (one["active"], one["outcome"], one["source"]) == (False, "Terminated", "probe")


async def test_a_hub_without_tables_is_unknown_and_not_drained(
    http: httpx.AsyncClient, app: str, provider: ProviderHub
) -> None:
    await put(http, app, slots={"staging": {"taskHub": provider.hub}}, policy={"settleSeconds": 0}, taskHubs=SOURCE)
    verdict = await staging(http, app)
    assert codes(verdict) == ["TaskHubMissing"]
    await put(http, app, policy={"missingTaskHubIsDrained": True})
    verdict = await staging(http, app)
    assert (verdict["ready"], verdict["assurance"]) == (True, "events"), "what is not there was not read"
    await publish(http, event(provider.hub, "order-1", "Completed", time=at(-60)))
    assert codes(await staging(http, app)) == ["TaskHubMissing"]


async def test_a_hub_that_was_in_production_is_not_drained_when_it_is_not_there(
    http: httpx.AsyncClient, app: str, provider: ProviderHub
) -> None:
    """It has been started, so the setting leads somewhere else: whatever the policy says of hubs that never were."""
    policy = {"settleSeconds": 0, "missingTaskHubIsDrained": True}
    await put(http, app, slots={"production": {"taskHub": provider.hub}}, policy=policy, taskHubs=SOURCE)
    second = new_hub()
    assert (await stage(http, app, second)).status_code == 200
    await swap(http, app, second)
    verdict = await staging(http, app)
    assert (verdict["taskHub"], codes(verdict)) == (provider.hub, ["TaskHubMissing"])
    assert (await stage(http, app, new_hub(), force=True, reason="test")).status_code == 200
    assert codes(await staging(http, app)) == ["DeploymentInProgress", "TaskHubMissing"], "nor beneath another one"


async def test_while_events_show_active_instances_only_those_are_looked_up(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    """The rest of the hub is not read: what else is active there is not even recorded."""
    await publish(http, event(draining.hub, "order-1"))
    await draining.put("order-1", "Suspended")
    await draining.put("order-2", "Running")
    verdict = await staging(http, app)
    assert (codes(verdict), verdict["assurance"]) == (["InstancesActive"], "verified")
    assert verdict["activeCount"] == 1
    assert verdict["evidence"]["probe"] is None
    assert list(await instances(http, draining.hub)) == ["order-1"]
    await draining.put("order-1", "Completed")
    verdict = await staging(http, app, wait=3)
    assert [one["instanceId"] for one in verdict["active"]] == ["order-2"]


async def test_continue_as_new_whose_second_event_is_lost_stays_active(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    await publish(http, event(draining.hub, "monitor", "Running"), event(draining.hub, "monitor", "Completed"))
    await draining.put("monitor", "Running", name="Monitor")
    verdict = await staging(http, app, wait=3)
    assert codes(verdict) == ["InstancesActive"]
    await publish(http, event(draining.hub, "monitor", "Failed"))
    await draining.put("monitor", "Failed", name="Monitor")
    assert (await staging(http, app, wait=10))["ready"]


async def test_an_end_that_was_published_and_not_yet_written_does_not_make_the_hub_ready(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    """The extension publishes before it checkpoints; the records go back and forth, and end up right."""
    await publish(http, event(draining.hub, "order-1"), event(draining.hub, "order-1", "Completed", time=at(0.5)))
    await draining.put("order-1", "Running")
    assert codes(await staging(http, app, wait=3)) == ["InstancesActive"]
    assert (await instances(http, draining.hub))["order-1"]["source"] == "probe"
    await draining.put("order-1", "Completed")
    assert (await staging(http, app))["ready"]


async def test_a_start_that_was_published_and_not_yet_written_blocks_while_messages_are_on_their_way(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    async with ControlQueue(draining) as queue:
        await draining.put("order-1", "Completed")
        await publish(http, event(draining.hub, "order-1", "Completed", time=at(-9)))
        await publish(http, event(draining.hub, "child", time=at(-5)))
        message = await queue.send("the start of child")
        assert "InstancesActive" in codes(await staging(http, app, wait=2))
        assert (await instances(http, draining.hub))["child"]["active"]
        await queue.delete(message)
        assert (await staging(http, app))["ready"]
        one = (await instances(http, draining.hub))["child"]
        assert (one["active"], one["reason"]) == (False, "not in the task hub any more")


async def test_a_hub_that_knows_nothing_of_what_events_showed_is_taken_for_another(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    """The connection leads to another environment, where a hub has the same name: its silence closes nothing."""
    await publish(http, event(draining.hub, "order-1", "Completed", time=at(-3600)))
    await publish(http, event(draining.hub, "order-2", time=at(-3600)))
    verdict = await staging(http, app, wait=2)
    assert codes(verdict) == ["InstancesActive", "ProbeFailed"]
    assert "is it the storage of another app or environment?" in verdict["reasons"][1]["message"]
    assert (await instances(http, draining.hub))["order-2"]["active"]
    await draining.put("order-1", "Completed")
    assert (await staging(http, app))["ready"]


async def test_a_hub_that_was_known_once_stays_known_when_its_instances_are_purged(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    """The end of one is lost, and then both are purged."""
    await publish(http, event(draining.hub, "order-1", time=at(-60)), event(draining.hub, "order-2", time=at(-60)))
    await draining.put("order-1", "Running")
    await draining.put("order-2", "Running")
    assert codes(await staging(http, app)) == ["InstancesActive"]
    await publish(http, event(draining.hub, "order-1", "Completed"))
    await draining.purge("order-1")
    await draining.purge("order-2")
    assert (await staging(http, app, wait=3))["ready"]


async def test_a_hub_that_was_there_once_is_not_drained_when_it_is_gone(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    await put(http, app, policy={"missingTaskHubIsDrained": True})
    assert (await staging(http, app))["assurance"] == "verified"
    await draining.delete()
    assert codes(await staging(http, app, verify="fresh")) == ["TaskHubMissing"]


async def test_an_instance_is_shown_as_the_hub_has_just_shown_it(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    await publish(http, event(draining.hub, "order-1", time=at(-60)))
    await draining.put("order-1", "Suspended", version="3.1")
    for _ in range(2):
        (one,) = (await staging(http, app))["active"]
        assert (one["runtimeStatus"], one["version"], one["source"]) == ("Suspended", "3.1", "event")


async def test_a_source_whose_setting_is_gone_does_not_keep_the_policy_from_being_changed(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, draining: ProviderHub
) -> None:
    state = StateServer(Settings(storage=storage))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(state.application), base_url="http://state") as other:
        document = (await other.get(f"/api/apps/{app}")).json()
        document["policy"]["settleSeconds"] = 5
        assert (await other.put(f"/api/apps/{app}", json=document)).status_code == 200
        assert codes(await staging(other, app, verify="fresh")) == ["ProbeFailed"]
    await state.close()


async def test_a_result_is_used_again_while_it_is_young(
    http: httpx.AsyncClient, app: str, draining: ProviderHub, clock: ShiftedClock
) -> None:
    first = (await staging(http, app))["evidence"]["probe"]
    assert (await staging(http, app))["evidence"]["probe"] == first
    assert (await staging(http, app, verify="none"))["ready"]
    fresh = (await staging(http, app, verify="fresh"))["evidence"]["probe"]
    assert fresh["checkedAt"] > first["checkedAt"]
    clock.turn(121)
    assert codes(await staging(http, app, verify="none")) == ["ProbeStale"]
    assert (await staging(http, app))["ready"]


async def test_an_event_puts_an_older_result_out_of_date(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    assert (await staging(http, app))["ready"]
    await publish(http, event(draining.hub, "order-1", "Completed"))
    assert codes(await staging(http, app, verify="none")) == ["ProbeStale"]


async def test_without_a_look_a_hub_that_was_never_read_is_not_ready(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    assert codes(await staging(http, app, verify="none")) == ["ProbePending"]


async def test_staging_always_looks_anew(http: httpx.AsyncClient, app: str, draining: ProviderHub) -> None:
    """A young result says Ready; what has started since, and was published by nobody, is found all the same."""
    assert (await staging(http, app))["ready"]
    await draining.put("order-1", "Pending")
    assert (await staging(http, app))["ready"], "a result that is young enough is used again"
    refused = problem(await stage(http, app, new_hub()), 409, "StagingNotReady")
    assert [reason["code"] for reason in refused["reasons"]] == ["InstancesActive"]
    await draining.put("order-1", "Completed")
    assert (await stage(http, app, new_hub())).status_code == 200


async def test_a_stricter_policy_is_not_answered_from_what_was_read_under_a_looser_one(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    await draining.put("monitor", "Running", name="NightlySync")
    await put(http, app, policy={"ignoreFunctions": ["Nightly*"]})
    verdict = await staging(http, app)
    assert (verdict["ready"], verdict["ignoredCount"]) == (True, 1)
    await put(http, app, policy={"ignoreFunctions": []})
    assert codes(await staging(http, app, verify="none")) == ["ProbePending"]
    assert codes(await staging(http, app)) == ["InstancesActive"]


async def test_requiring_verification_is_met_by_a_probe(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    await put(http, app, policy={"requireVerification": True}, taskHubs=None)
    assert codes(await staging(http, app)) == ["VerificationRequired"]
    await put(http, app, taskHubs=SOURCE)
    assert (await staging(http, app))["ready"]


async def test_an_instance_that_runs_under_another_name_than_events_said_blocks(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    """Its id was taken again by another orchestrator, and the events of that were lost."""
    await publish(http, event(draining.hub, "order-1", function="ProcessOrder"))
    await draining.put("order-1", "Running", name="ShipOrder")
    verdict = await staging(http, app)
    assert (verdict["ready"], verdict["hasRunning"], codes(verdict)) == (False, True, ["InstancesActive"])
    assert [one["functionName"] for one in verdict["active"]] == ["ShipOrder"]


async def test_a_long_poll_ends_as_soon_as_the_hub_itself_has_drained(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    await draining.put("order-1", "Running")
    began = asyncio.get_running_loop().time()

    async def end() -> None:
        await asyncio.sleep(1)
        await draining.put("order-1", "Completed")

    verdict, _ = await asyncio.gather(staging(http, app, wait=60), end())
    assert verdict["ready"]
    assert asyncio.get_running_loop().time() - began < 20


async def test_more_than_a_verdict_counts_is_a_lower_bound(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    at_once = asyncio.Semaphore(24)

    async def put_one(number: int) -> None:
        async with at_once:
            await draining.put(f"order-{number}", "Running")

    await asyncio.gather(*(put_one(number) for number in range(1100)))
    verdict = await staging(http, app)
    assert (verdict["activeCount"], verdict["activeCountIsLowerBound"], len(verdict["active"])) == (1000, True, 20)
    assert verdict["evidence"]["probe"]["active"] == 1100


async def test_versions_count_what_is_active_at_the_source(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=3)
    for number, (status, version) in enumerate(
        [("Running", "1.0"), ("Pending", "1.0"), ("Suspended", "2.0"), ("Completed", "0.9"), ("Running", None)]
    ):
        await draining.put(f"order-{number}", status, version=version, CreatedTime=long_ago + timedelta(hours=number))
    await draining.put("@counter@shop", "Running", version="0.1")
    answer = await http.get(f"/api/taskhubs/{draining.hub}/versions")
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert content["complete"]
    assert [(one["version"], one["activeCount"]) for one in content["versions"]] == [(None, 1), ("1.0", 2), ("2.0", 1)]
    oldest = {one["version"]: parse_instant(one["oldestStartedAt"]) for one in content["versions"]}
    assert oldest["1.0"] == instant_from(long_ago)


async def test_versions_need_a_probe_that_works(http: httpx.AsyncClient, app: str, provider: ProviderHub) -> None:
    problem(await http.get(f"/api/taskhubs/{provider.hub}/versions"), 404, "TaskHubNotFound")
    await put(http, app, slots={"staging": {"taskHub": provider.hub}})
    problem(await http.get(f"/api/taskhubs/{provider.hub}/versions"), 409, "ProbeNotConfigured")
    await put(http, app, taskHubs=SOURCE)
    told = problem(await http.get(f"/api/taskhubs/{provider.hub}/versions"), 503, "SourceUnavailable")
    assert "STATE_TASKHUBS_SHOP" in told["detail"]


async def test_the_background_probe_answers_before_anybody_asks(
    http: httpx.AsyncClient, server: StateServer, app: str, draining: ProviderHub, clock: ShiftedClock
) -> None:
    assert await server.background.run_once() >= 1
    assert (await staging(http, app, verify="none"))["ready"]
    first = (await staging(http, app, verify="none"))["evidence"]["probe"]["checkedAt"]
    await server.background.run_once()
    assert (await staging(http, app, verify="none"))["evidence"]["probe"]["checkedAt"] == first
    clock.turn(70)
    await server.background.run_once()
    assert (await staging(http, app, verify="none"))["evidence"]["probe"]["checkedAt"] > first


async def test_the_background_probe_reads_what_may_be_beneath_a_staged_hub(
    http: httpx.AsyncClient, storage: StorageSettings, server: StateServer, app: str, draining: ProviderHub
) -> None:
    async with ProviderHub(storage, new_hub()) as staged:
        assert (await stage(http, app, staged.hub, run(1))).status_code == 200
        await staged.create()
        # Staging has just read it, under this policy; under another one nobody has.
        await put(http, app, policy={"ignoreFunctions": ["Nobody"]})
        asked = f"/api/apps/{app}/staging?verify=none"
        before = (await http.get(asked, headers=run(1))).json()
        assert codes(before) == ["ProbePending", "ProbePending"]
        assert draining.hub in before["reasons"][1]["message"]
        await server.background.run_once()
        after = (await http.get(asked, headers=run(1))).json()
        assert (after["ready"], after["assurance"]) == (True, "verified"), after


async def test_the_background_probe_leaves_production_alone(
    http: httpx.AsyncClient, server: StateServer, app: str, provider: ProviderHub
) -> None:
    await provider.create()
    await put(http, app, slots={"production": {"taskHub": provider.hub}}, taskHubs=SOURCE)
    await server.background.run_once()
    assert codes(await staging(http, app, verify="none", slot="production")) == ["ProbePending"]


async def test_a_worker_that_dies_in_the_background_locks_nobody_out_for_longer_than_one_that_was_asked(
    http: httpx.AsyncClient, server: StateServer, draining: ProviderHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = asyncio.Event()

    async def stuck(self: AzureStorageBackend, task_hub: str, since: Instant, cursor: str) -> SourcePage:
        if task_hub == draining.hub:
            reading.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(AzureStorageBackend, "page", stuck)
    # Of all the apps that other tests have left, this hub's turn comes at some time.
    monkeypatch.setattr("state_api.services.background._AT_ONCE", 10_000)
    round_of_probes = asyncio.create_task(server.background.run_once())
    await reading.wait()
    until = (await ProbeStore(server.tables).get(draining.hub)).leased_until
    round_of_probes.cancel()
    await asyncio.gather(round_of_probes, return_exceptions=True)
    assert until is not None
    assert until <= server.tables.clock.now() + seconds(90)


async def test_what_was_read_before_the_question_does_not_stage_when_the_settle_window_ends_meanwhile(
    http: httpx.AsyncClient, app: str, draining: ProviderHub, clock: ShiftedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is not read while it settles; the window must not end between that decision and the verdict."""
    await put(http, app, policy={"settleSeconds": 30})
    await publish(http, event(draining.hub, "order-1", "Completed"))
    await asyncio.sleep(1.1)
    assert (await http.get(f"/api/taskhubs/{draining.hub}/versions?verify=fresh")).json()["complete"]
    await draining.put("order-2", "Pending")
    check = Verifier.check

    async def check_slowly(self: Verifier, question: Question) -> Checked:
        checked = await check(self, question)
        clock.turn(31)
        return checked

    monkeypatch.setattr(Verifier, "check", check_slowly)
    problem(await stage(http, app, new_hub()), 409, "StagingNotReady")


async def test_a_policy_that_changes_while_somebody_waits_counts_at_once(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    """The hub was found drained but for an ignored function, and is kept waiting by another run's deployment."""
    await put(http, app, policy={"ignoreFunctions": ["Sync"]})
    await draining.put("sync-1", "Running", name="Sync")
    await stage(http, app, draining.hub, run(1))
    waiting = asyncio.create_task(http.get(f"/api/apps/{app}/staging", params={"wait": 12}, headers=run(2)))
    await asyncio.sleep(1.5)
    await put(http, app, policy={"ignoreFunctions": []})
    await http.delete(f"/api/apps/{app}/staging", params={"taskHub": draining.hub}, headers=run(1))
    verdict = (await waiting).json()
    assert (verdict["ready"], codes(verdict)) == (False, ["InstancesActive"])
