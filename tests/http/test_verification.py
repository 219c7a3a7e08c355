"""Verified verdicts: the whole server on the emulator, with rows as the provider writes them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from state_api.app import StateServer
from state_api.backends.azure_storage import AzureStorageBackend
from state_api.backends.protocols import ObservedPage
from state_api.domain.instants import Instant, instant_from, parse_instant, seconds
from state_api.domain.readiness.plan import ProbeOutcome
from state_api.services.probe_requests import ProbeRequest
from state_api.services.verification import Verifier
from state_api.settings import Settings, StorageSettings
from state_api.storage.probes import ProbeStore
from tests.backends.azure_storage_task_hub import ControlQueue, ProviderTaskHub
from tests.builders import event, timestamp
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import (
    assert_problem,
    get_staging,
    post_events,
    post_staging,
    post_swap,
    put_app,
    reason_codes,
    run_headers,
)

pytestmark = pytest.mark.anyio

PROVIDER_CONFIG = {"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"}


@pytest.fixture
async def provider_hub(storage: StorageSettings, hub: str, anyio_backend: str) -> AsyncIterator[ProviderTaskHub]:
    """The task hub at its provider, without tables until a test creates them."""
    async with ProviderTaskHub(storage, hub) as task_hub:
        yield task_hub


@pytest.fixture
async def drained_provider_hub(http: httpx.AsyncClient, app: str, provider_hub: ProviderTaskHub) -> ProviderTaskHub:
    """A drained task hub in the staging slot of an app with verification and without a settle window."""
    await provider_hub.create()
    await put_app(
        http,
        app,
        slots={"staging": {"taskHub": provider_hub.hub}},
        policy={"settleSeconds": 0},
        taskHubs=PROVIDER_CONFIG,
    )
    return provider_hub


async def list_instances(http: httpx.AsyncClient, hub: str) -> dict[str, Any]:
    response = await http.get(f"/api/taskhubs/{hub}/instances")
    return {instance["instanceId"]: instance for instance in response.json()["instances"]}


async def test_a_drained_task_hub_is_ready_and_verified(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    verdict = await get_staging(http, app)
    assert verdict["ready"], verdict
    assert verdict["assurance"] == "verified"
    probe = verdict["evidence"]["probe"]
    assert (probe["status"], probe["provider"], probe["activeCount"]) == ("Complete", "azureStorage", 0)


async def test_an_instance_that_events_missed_blocks_and_is_recorded(
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


async def test_an_instance_whose_end_event_was_lost_is_closed(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await post_events(http, event(drained_provider_hub.hub, "order-1", time=timestamp(-60)))
    await drained_provider_hub.put("order-1", "Terminated")
    verdict = await get_staging(http, app, wait=10)
    assert verdict["ready"], verdict
    instance = (await list_instances(http, drained_provider_hub.hub))["order-1"]
    assert (instance["active"], instance["outcome"], instance["source"]) == (False, "Terminated", "probe")


async def test_a_task_hub_without_tables_is_missing_and_not_drained(
    http: httpx.AsyncClient, app: str, provider_hub: ProviderTaskHub
) -> None:
    await put_app(
        http,
        app,
        slots={"staging": {"taskHub": provider_hub.hub}},
        policy={"settleSeconds": 0},
        taskHubs=PROVIDER_CONFIG,
    )
    verdict = await get_staging(http, app)
    assert reason_codes(verdict) == ["TaskHubMissing"]
    await put_app(http, app, policy={"missingTaskHubIsDrained": True})
    verdict = await get_staging(http, app)
    assert (verdict["ready"], verdict["assurance"]) == (True, "events"), "what is not there was not read"
    await post_events(http, event(provider_hub.hub, "order-1", "Completed", time=timestamp(-60)))
    assert reason_codes(await get_staging(http, app)) == ["TaskHubMissing"]


async def test_a_missing_task_hub_that_was_in_production_is_not_drained(
    http: httpx.AsyncClient, app: str, provider_hub: ProviderTaskHub
) -> None:
    """The task hub was started, so the setting leads to another account, and missingTaskHubIsDrained does not apply."""
    policy = {"settleSeconds": 0, "missingTaskHubIsDrained": True}
    await put_app(
        http, app, slots={"production": {"taskHub": provider_hub.hub}}, policy=policy, taskHubs=PROVIDER_CONFIG
    )
    second = new_hub_name()
    assert (await post_staging(http, app, second)).status_code == 200
    await post_swap(http, app, second)
    verdict = await get_staging(http, app)
    assert (verdict["taskHub"], reason_codes(verdict)) == (provider_hub.hub, ["TaskHubMissing"])
    assert (await post_staging(http, app, new_hub_name(), force=True, reason="test")).status_code == 200
    assert reason_codes(await get_staging(http, app)) == ["DeploymentInProgress", "TaskHubMissing"], (
        "a missing prior task hub blocks, too"
    )


async def test_while_events_show_active_instances_only_those_are_looked_up(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """The task hub is not scanned, so other active instances are not recorded."""
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


async def test_continue_as_new_whose_second_event_is_lost_stays_active(
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
    """The extension publishes before it checkpoints. The records change twice and are right in the end."""
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


async def test_a_task_hub_that_shows_no_reported_instance_is_taken_for_another_one(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """The connection leads to another environment with a task hub of the same name.

    That it does not show an instance closes nothing.
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
    """The end of one instance is lost, and then both are purged."""
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


async def test_a_task_hub_that_was_seen_before_is_not_drained_when_it_is_missing(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await put_app(http, app, policy={"missingTaskHubIsDrained": True})
    assert (await get_staging(http, app))["assurance"] == "verified"
    await drained_provider_hub.delete()
    assert reason_codes(await get_staging(http, app, verify="fresh")) == ["TaskHubMissing"]


async def test_an_instance_is_listed_as_the_task_hub_has_just_shown_it(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await post_events(http, event(drained_provider_hub.hub, "order-1", time=timestamp(-60)))
    await drained_provider_hub.put("order-1", "Suspended", version="3.1")
    for _ in range(2):
        (instance,) = (await get_staging(http, app))["active"]
        assert (instance["runtimeStatus"], instance["version"], instance["source"]) == ("Suspended", "3.1", "event")


async def test_the_policy_can_be_changed_while_the_providers_setting_is_missing(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    state = StateServer(Settings(storage=storage))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(state.application), base_url="http://state") as other:
        document = (await other.get(f"/api/apps/{app}")).json()
        document["policy"]["settleSeconds"] = 5
        assert (await other.put(f"/api/apps/{app}", json=document)).status_code == 200
        assert reason_codes(await get_staging(other, app, verify="fresh")) == ["ProbeFailed"]
    await state.close()


async def test_a_result_is_used_again_until_it_is_too_old(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, clock: ShiftedClock
) -> None:
    first = (await get_staging(http, app))["evidence"]["probe"]
    assert (await get_staging(http, app))["evidence"]["probe"] == first
    assert (await get_staging(http, app, verify="none"))["ready"]
    fresh = (await get_staging(http, app, verify="fresh"))["evidence"]["probe"]
    assert fresh["beganAt"] > first["beganAt"]
    clock.advance(121)
    assert reason_codes(await get_staging(http, app, verify="none")) == ["ProbeStale"]
    assert (await get_staging(http, app))["ready"]


async def test_an_event_supersedes_an_older_result(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    assert (await get_staging(http, app))["ready"]
    await post_events(http, event(drained_provider_hub.hub, "order-1", "Completed"))
    assert reason_codes(await get_staging(http, app, verify="none")) == ["ProbeStale"]


async def test_without_reading_a_task_hub_that_was_never_read_is_not_ready(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    assert reason_codes(await get_staging(http, app, verify="none")) == ["ProbePending"]


async def test_staging_always_reads_the_task_hub_again(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """A recent result says Ready. PostStaging still finds an instance that has started since without an event."""
    assert (await get_staging(http, app))["ready"]
    await drained_provider_hub.put("order-1", "Pending")
    assert (await get_staging(http, app))["ready"], "a result that is young enough is used again"
    refused = assert_problem(await post_staging(http, app, new_hub_name()), 409, "StagingNotReady")
    assert [reason["code"] for reason in refused["reasons"]] == ["InstancesActive"]
    await drained_provider_hub.put("order-1", "Completed")
    assert (await post_staging(http, app, new_hub_name())).status_code == 200


async def test_a_probe_under_a_looser_policy_does_not_answer_a_stricter_one(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await drained_provider_hub.put("monitor", "Running", name="NightlySync")
    await put_app(http, app, policy={"ignoreFunctions": ["Nightly*"]})
    verdict = await get_staging(http, app)
    assert (verdict["ready"], verdict["ignoredCount"]) == (True, 1)
    await put_app(http, app, policy={"ignoreFunctions": []})
    assert reason_codes(await get_staging(http, app, verify="none")) == ["ProbePending"]
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]


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
    """Another orchestrator has used its id again, and the events of that were lost."""
    await post_events(http, event(drained_provider_hub.hub, "order-1", function="ProcessOrder"))
    await drained_provider_hub.put("order-1", "Running", name="ShipOrder")
    verdict = await get_staging(http, app)
    assert (verdict["ready"], verdict["hasRunning"], reason_codes(verdict)) == (False, True, ["InstancesActive"])
    assert [instance["functionName"] for instance in verdict["active"]] == ["ShipOrder"]


async def test_a_long_poll_ends_as_soon_as_the_task_hub_itself_has_drained(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await drained_provider_hub.put("order-1", "Running")
    began = asyncio.get_running_loop().time()

    async def end() -> None:
        await asyncio.sleep(1)
        await drained_provider_hub.put("order-1", "Completed")

    verdict, _ = await asyncio.gather(get_staging(http, app, wait=60), end())
    assert verdict["ready"]
    assert asyncio.get_running_loop().time() - began < 20


async def test_a_count_above_the_limit_is_a_lower_bound(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    at_once = asyncio.Semaphore(24)

    async def put_one(number: int) -> None:
        async with at_once:
            await drained_provider_hub.put(f"order-{number}", "Running")

    await asyncio.gather(*(put_one(number) for number in range(1100)))
    verdict = await get_staging(http, app)
    assert (verdict["activeCount"], verdict["activeCountIsLowerBound"], len(verdict["active"])) == (1000, True, 20)
    assert verdict["evidence"]["probe"]["activeCount"] == 1100


async def test_versions_count_the_active_instances_at_the_provider(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=3)
    for number, (status, version) in enumerate(
        [("Running", "1.0"), ("Pending", "1.0"), ("Suspended", "2.0"), ("Completed", "0.9"), ("Running", None)]
    ):
        await drained_provider_hub.put(
            f"order-{number}", status, version=version, CreatedTime=long_ago + timedelta(hours=number)
        )
    await drained_provider_hub.put("@counter@shop", "Running", version="0.1")
    response = await http.get(f"/api/taskhubs/{drained_provider_hub.hub}/versions")
    assert response.status_code == 200, response.text
    versions = response.json()
    assert versions["complete"]
    assert [(version["version"], version["activeCount"]) for version in versions["versions"]] == [
        (None, 1),
        ("1.0", 2),
        ("2.0", 1),
    ]
    oldest = {version["version"]: parse_instant(version["oldestStartedAt"]) for version in versions["versions"]}
    assert oldest["1.0"] == instant_from(long_ago)


async def test_versions_need_a_probe_that_works(
    http: httpx.AsyncClient, app: str, provider_hub: ProviderTaskHub
) -> None:
    assert_problem(await http.get(f"/api/taskhubs/{provider_hub.hub}/versions"), 404, "TaskHubNotFound")
    await put_app(http, app, slots={"staging": {"taskHub": provider_hub.hub}})
    assert_problem(await http.get(f"/api/taskhubs/{provider_hub.hub}/versions"), 409, "ProbeNotConfigured")
    await put_app(http, app, taskHubs=PROVIDER_CONFIG)
    problem = assert_problem(await http.get(f"/api/taskhubs/{provider_hub.hub}/versions"), 503, "TaskHubUnavailable")
    assert "STATE_TASKHUBS_SHOP" in problem["detail"]


async def test_the_background_probe_has_a_result_before_the_first_request(
    http: httpx.AsyncClient, server: StateServer, app: str, drained_provider_hub: ProviderTaskHub, clock: ShiftedClock
) -> None:
    assert await server.background.probe_due_hubs() >= 1
    assert (await get_staging(http, app, verify="none"))["ready"]
    first = (await get_staging(http, app, verify="none"))["evidence"]["probe"]["beganAt"]
    await server.background.probe_due_hubs()
    assert (await get_staging(http, app, verify="none"))["evidence"]["probe"]["beganAt"] == first
    clock.advance(70)
    await server.background.probe_due_hubs()
    assert (await get_staging(http, app, verify="none"))["evidence"]["probe"]["beganAt"] > first


async def test_the_background_probe_reads_prior_task_hubs(
    http: httpx.AsyncClient,
    storage: StorageSettings,
    server: StateServer,
    app: str,
    drained_provider_hub: ProviderTaskHub,
) -> None:
    async with ProviderTaskHub(storage, new_hub_name()) as staged:
        assert (await post_staging(http, app, staged.hub, run_headers(1))).status_code == 200
        await staged.create()
        # PostStaging has just read the task hub under the present policy. No probe has read it under the next policy.
        await put_app(http, app, policy={"ignoreFunctions": ["UnusedFunction"]})
        asked = f"/api/apps/{app}/staging?verify=none"
        before = (await http.get(asked, headers=run_headers(1))).json()
        assert reason_codes(before) == ["ProbePending", "ProbePending"]
        assert drained_provider_hub.hub in before["reasons"][1]["message"]
        await server.background.probe_due_hubs()
        after = (await http.get(asked, headers=run_headers(1))).json()
        assert (after["ready"], after["assurance"]) == (True, "verified"), after


async def test_the_background_probe_does_not_read_production(
    http: httpx.AsyncClient, server: StateServer, app: str, provider_hub: ProviderTaskHub
) -> None:
    await provider_hub.create()
    await put_app(http, app, slots={"production": {"taskHub": provider_hub.hub}}, taskHubs=PROVIDER_CONFIG)
    await server.background.probe_due_hubs()
    assert reason_codes(await get_staging(http, app, verify="none", slot="production")) == ["ProbePending"]


async def test_a_worker_that_dies_in_the_background_holds_its_lease_no_longer_than_any_other(
    http: httpx.AsyncClient, server: StateServer, drained_provider_hub: ProviderTaskHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = asyncio.Event()

    async def stuck(self: AzureStorageBackend, task_hub: str, since: Instant, cursor: str) -> ObservedPage:
        if task_hub == drained_provider_hub.hub:
            reading.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(AzureStorageBackend, "read_page", stuck)
    # Of all the apps that other tests have left, this hub's turn comes at some time.
    monkeypatch.setattr("state_api.services.background._CONCURRENCY", 10_000)
    round_of_probes = asyncio.create_task(server.background.probe_due_hubs())
    await reading.wait()
    until = (await ProbeStore(server.tables).get(drained_provider_hub.hub)).leased_until
    round_of_probes.cancel()
    await asyncio.gather(round_of_probes, return_exceptions=True)
    assert until is not None
    assert until <= server.tables.clock.now() + seconds(90)


async def test_a_read_before_the_request_does_not_allow_staging_when_the_settle_window_ends_meanwhile(
    http: httpx.AsyncClient,
    app: str,
    drained_provider_hub: ProviderTaskHub,
    clock: ShiftedClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The task hub is not read while it settles. The window must not end between that decision and the verdict."""
    await put_app(http, app, policy={"settleSeconds": 30})
    await post_events(http, event(drained_provider_hub.hub, "order-1", "Completed"))
    await asyncio.sleep(1.1)
    assert (await http.get(f"/api/taskhubs/{drained_provider_hub.hub}/versions?verify=fresh")).json()["complete"]
    await drained_provider_hub.put("order-2", "Pending")
    check = Verifier.probe_for_verdict

    async def check_slowly(self: Verifier, question: ProbeRequest) -> ProbeOutcome:
        checked = await check(self, question)
        clock.advance(31)
        return checked

    monkeypatch.setattr(Verifier, "probe_for_verdict", check_slowly)
    assert_problem(await post_staging(http, app, new_hub_name()), 409, "StagingNotReady")


async def test_a_policy_change_applies_at_once_to_waiting_requests(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """Only an ignored function was active, and the request waits for another run's deployment."""
    await put_app(http, app, policy={"ignoreFunctions": ["Sync"]})
    await drained_provider_hub.put("sync-1", "Running", name="Sync")
    await post_staging(http, app, drained_provider_hub.hub, run_headers(1))
    waiting = asyncio.create_task(http.get(f"/api/apps/{app}/staging", params={"wait": 12}, headers=run_headers(2)))
    await asyncio.sleep(1.5)
    await put_app(http, app, policy={"ignoreFunctions": []})
    await http.delete(f"/api/apps/{app}/staging", params={"taskHub": drained_provider_hub.hub}, headers=run_headers(1))
    verdict = (await waiting).json()
    assert (verdict["ready"], reason_codes(verdict)) == (False, ["InstancesActive"])
