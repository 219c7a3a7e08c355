"""Failures of the task hub's own storage never lead to a wrong Ready, and the server recovers without a restart."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event, timestamp
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import (
    PROVIDER_CONFIG,
    assert_problem,
    get_staging,
    post_events,
    post_staging,
    put_app,
    reason_codes,
    wait_for_clock_tolerance,
)
from tests.http.server_clients import client_of_server_reading

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http(storage: StorageSettings, proxy: StorageProxy, clock: ShiftedClock) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that reads task hubs through the proxy."""
    async with client_of_server_reading(storage, proxy.settings, clock) as client:
        yield client


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (0, "ProbeFailed"),
        (500, "ProbeFailed"),
        (404, "ProbeFailed"),
        (401, "ProbeDenied"),
        (403, "ProbeDenied"),
        (429, "ProbeThrottled"),
        (503, "ProbeThrottled"),
    ],
)
@pytest.mark.parametrize("has_active_record", [False, True])
async def test_a_failure_of_the_provider_is_a_reason_until_it_is_over(
    http: httpx.AsyncClient,
    proxy: StorageProxy,
    app: str,
    drained_provider_hub: ProviderTaskHub,
    *,
    clock: ShiftedClock,
    status: int,
    code: str,
    has_active_record: bool,
) -> None:
    """The server scans the task hub, or looks up an instance if the records hold one that is active."""
    if has_active_record:
        await post_events(http, event(drained_provider_hub.hub, "order-1", time=timestamp(-9)))
        await drained_provider_hub.put("order-1", "Completed")
        await wait_for_clock_tolerance()
    proxy.failure_status = lambda method, path: status
    verdict = await get_staging(http, app)
    assert not verdict["ready"]
    assert reason_codes(verdict) == [*(["InstancesActive"] if has_active_record else []), code]
    assert "AccountKey" not in str(verdict)
    assert_problem(await post_staging(http, app, new_hub_name()), 409, "StagingNotReady")
    proxy.failure_status = lambda method, path: None
    assert (await get_staging(http, app))["ready"]


async def test_post_staging_does_not_use_an_earlier_result_while_the_provider_fails(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    assert (await get_staging(http, app))["ready"]
    proxy.failure_status = lambda method, path: 503
    refused = assert_problem(await post_staging(http, app, new_hub_name()), 409, "StagingNotReady")
    assert [reason["code"] for reason in refused["reasons"]] == ["ProbeThrottled"]
    assert reason_codes(await get_staging(http, app)) == ["ProbeThrottled"]


async def test_a_provider_that_throttles_is_not_read_before_its_retry_after_time(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, drained_provider_hub: ProviderTaskHub, clock: ShiftedClock
) -> None:
    retry_after_seconds = 40
    proxy.failure_status, proxy.headers = (lambda method, path: 429), {"Retry-After": str(retry_after_seconds)}
    verdict = await get_staging(http, app)
    assert (reason_codes(verdict), verdict["retryAfterSeconds"]) == (["ProbeThrottled"], retry_after_seconds)
    proxy.failure_status = lambda method, path: None
    proxy.clear()
    assert reason_codes(await get_staging(http, app, verify="fresh")) == ["ProbeThrottled"]
    assert proxy.count_requests_and_rows() == (0, 0)
    clock.advance(retry_after_seconds + 1)
    assert (await get_staging(http, app))["ready"]


async def test_a_connection_that_breaks_within_a_page_of_rows_is_a_failed_probe(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    proxy.truncate_responses = True
    assert reason_codes(await get_staging(http, app)) == ["ProbeFailed"]
    proxy.truncate_responses = False
    assert (await get_staging(http, app))["ready"]


@pytest.fixture
def small_pages_and_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the server read pages of one row, one page at a time, and gives each request one second for its probe."""
    monkeypatch.setattr("state_api.backends.azure_storage._PAGE_SIZE", 1)
    monkeypatch.setattr("state_api.services.task_hub_reader._PAGE_CONCURRENCY", 1)
    monkeypatch.setattr("state_api.services.readiness.PROBE_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr("state_api.domain.readiness.requirements.LARGE_HUB_READ_SECONDS", 0.5)


async def add_ignored_instances(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, **policy: int
) -> None:
    """Add four active instances of a function that the policy ignores, so every scan reads their rows.

    Finished instances do not serve here: a scan reads their rows only for some seconds after their end, which may pass
    on a busy machine before the scan begins.
    """
    await put_app(http, app, policy={"ignoreFunctions": ["Sync"], **policy})
    for number in range(4):
        await drained_provider_hub.put(f"b-sync-{number}", "Running", name="Sync")


async def delay_request(method: str, path: str) -> None:
    """Delay a storage request by a tenth of a second."""
    await asyncio.sleep(0.1)


@pytest.mark.usefixtures("small_pages_and_budget")
@pytest.mark.parametrize("verify", ["cached", "fresh"])
async def test_a_scan_that_runs_out_of_time_is_resumed_by_the_next_request(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, drained_provider_hub: ProviderTaskHub, verify: str
) -> None:
    await add_ignored_instances(http, app, drained_provider_hub)
    proxy.before_request = delay_request
    verdicts: list[Any] = []
    while not verdicts or not verdicts[-1]["ready"]:
        verdicts.append(await get_staging(http, app, verify=verify))
        assert len(verdicts) < 20
    assert len(verdicts) > 2
    assert {code for verdict in verdicts[:-1] for code in reason_codes(verdict)} == {"ProbeIncomplete"}
    messages = [verdict["evidence"]["probe"]["message"] for verdict in verdicts[:-1]]
    assert len(set(messages)) == len(messages), "each request reads further, and its message says how far"
    assert verdicts[-1]["assurance"] == "verified"


@pytest.mark.usefixtures("small_pages_and_budget")
async def test_a_task_hub_that_takes_longer_to_read_than_freshness_seconds_reports_what_to_set(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await add_ignored_instances(http, app, drained_provider_hub, freshnessSeconds=1)
    proxy.before_request = delay_request
    verdict = await get_staging(http, app)
    for _ in range(20):
        if reason_codes(verdict) != ["ProbeIncomplete"]:
            break
        verdict = await get_staging(http, app)
    assert reason_codes(verdict) == ["ProbeStale"]
    assert "set freshnessSeconds well above that" in verdict["reasons"][0]["message"]
    await put_app(http, app, policy={"freshnessSeconds": 60})
    assert reason_codes(await get_staging(http, app, verify="none")) == []


@pytest.mark.usefixtures("small_pages_and_budget")
async def test_an_interrupted_scan_begins_again_after_an_event(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await add_ignored_instances(http, app, drained_provider_hub)
    proxy.before_request = delay_request
    first = await get_staging(http, app)
    assert reason_codes(first) == ["ProbeIncomplete"]
    await wait_for_clock_tolerance()
    await post_events(http, event(drained_provider_hub.hub, "b-order-9", "Completed"))
    await wait_for_clock_tolerance()
    second = await get_staging(http, app)
    assert reason_codes(second) == ["ProbeIncomplete"]
    assert second["evidence"]["probe"]["beganAt"] > first["evidence"]["probe"]["beganAt"]


async def test_an_end_that_the_state_storage_rejects_is_looked_up_only_once_in_a_request(
    storage: StorageSettings, clock: ShiftedClock, app: str, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end cannot be recorded, so the instance stays active, and the request is answered without another look-up."""
    max_requests_of_one_look_up = 30
    monkeypatch.setattr("state_api.storage.group_commit._REJECTED_ROW_CODES", frozenset({"Injected"}))
    async with (
        run_storage_proxy(storage) as state_proxy,
        client_of_server_reading(state_proxy.settings, storage, clock) as http,
        ProviderTaskHub(storage, hub) as provider,
    ):
        await provider.create()
        await put_app(
            http, app, slots={"staging": {"taskHub": hub}}, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG
        )
        await provider.put("order-1", "Completed")
        await post_events(http, event(hub, "order-1"))
        # A probe that shows order-1 confirms that the connection leads to the task hub of the events.
        assert (await get_staging(http, app, wait=10))["ready"]
        await provider.put("order-2", "Completed")
        await post_events(http, event(hub, "order-2"))
        state_proxy.failure_status = lambda method, path: 400 if path.endswith("$batch") else None
        state_proxy.clear()
        assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]
        assert state_proxy.count_requests_and_rows()[0] < max_requests_of_one_look_up
        state_proxy.failure_status = lambda method, path: None
        assert (await get_staging(http, app, wait=10))["ready"]
