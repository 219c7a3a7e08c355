"""When a later request may resume an interrupted scan of a task hub, and when it must begin again."""

from dataclasses import replace

import httpx
import pytest

from state_api.backends.azure_storage import AzureStorageBackend
from state_api.backends.protocols import BackendError, ObservedPage, ReadFailure
from state_api.domain.instants import Instant, parse_instant, seconds
from state_api.domain.readiness.evidence import ProbeResult, ProbeStatus
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.requirements import LARGE_HUB_READ_SECONDS, VerificationMode, is_fresh_enough
from state_api.domain.readiness.scans import Scan
from state_api.domain.releases.apps import ProviderConfig
from state_api.services.probe_requests import ProbeRequest
from state_api.services.task_hub_reader import TaskHubReader
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import (
    assert_problem,
    get_staging,
    post_events,
    post_staging,
    reason_codes,
    wait_for_clock_tolerance,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def range_failures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes the server read a task hub in twenty ranges. The last range is throttled until a test clears the list."""
    read_page = AzureStorageBackend.read_page
    failures = ["asks to wait"]

    async def read_range(backend: AzureStorageBackend, task_hub: str, since: Instant, cursor: str) -> ObservedPage:
        """Read one of 20 ranges. While there are failures, the last range cannot be read."""
        if cursor == "[null, null]":
            return ObservedPage((), tuple(f"[{number}, null]" for number in range(20)))
        if failures and cursor == "[19, null]":
            raise BackendError(ReadFailure.THROTTLED, failures[0])
        return await read_page(backend, task_hub, since, cursor)

    monkeypatch.setattr(AzureStorageBackend, "read_page", read_range)
    return failures


async def test_a_scan_that_was_interrupted_before_the_request_is_not_fresh(
    http: httpx.AsyncClient,
    app: str,
    drained_provider_hub: ProviderTaskHub,
    clock: ShiftedClock,
    range_failures: list[str],
) -> None:
    """PostStaging reads the finished ranges again, so it finds an instance that has started in one of them."""
    assert reason_codes(await get_staging(http, app)) == ["ProbeThrottled"]
    range_failures.clear()
    clock.advance(60)
    await drained_provider_hub.put("1-new", "Pending")
    assert_problem(await post_staging(http, app, new_hub_name()), 409, "StagingNotReady")


async def test_an_interrupted_scan_of_an_hour_ago_begins_again(
    http: httpx.AsyncClient,
    app: str,
    drained_provider_hub: ProviderTaskHub,
    clock: ShiftedClock,
    range_failures: list[str],
) -> None:
    assert reason_codes(await get_staging(http, app)) == ["ProbeThrottled"]
    range_failures.clear()
    one_hour_seconds = 3600
    clock.advance(one_hour_seconds)
    assert (await get_staging(http, app))["ready"]


def test_a_small_scan_that_began_before_the_request_is_not_fresh_even_if_the_request_resumed_it() -> None:
    """A resumed scan misses an instance that has started in a range that was read before the request.

    Only a task hub that is too large to be read in one request has to accept that.
    """
    requested_at = parse_instant("2026-11-20T09:00:00Z")
    provider_config = ProviderConfig("azureStorage", "STATE_TASKHUBS_SHOP")
    request = ProbeRequest(
        "v41", provider_config, "here", Policy(), Exemptions(()), VerificationMode.FRESH, requested_at, 0
    )
    requirements = request.requirements(for_verdict=True)
    result_of_small_hub = ProbeResult(
        ProbeStatus.COMPLETE,
        "azureStorage",
        Instant(requested_at - seconds(31)),
        ended_at=Instant(requested_at + seconds(1)),
        resumed=True,
        read_seconds=2,
    )
    result_of_large_hub = replace(result_of_small_hub, read_seconds=round(LARGE_HUB_READ_SECONDS))
    assert not is_fresh_enough(result_of_small_hub, requirements)
    assert is_fresh_enough(result_of_large_hub, requirements)


async def test_an_old_result_is_not_used_again_after_an_interrupted_scan_found_an_instance(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """The scan found `b-first`, which has started `b-second` before it ended. Every event of both is lost."""
    assert (await get_staging(http, app))["ready"]
    await drained_provider_hub.put("b-first", "Running")
    read_pass = TaskHubReader._read_pass

    async def read_pass_and_time_out(reader: TaskHubReader, scan: Scan) -> None:
        """Read a pass of the scan but for its last range, and run out of time."""
        await read_pass(reader, scan)
        scan.cursors.append("[19, null]")
        raise TimeoutError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskHubReader, "_read_pass", read_pass_and_time_out)
        assert reason_codes(await get_staging(http, app, verify="fresh")) == ["InstancesActive"]
    await drained_provider_hub.put("b-second", "Running")
    await drained_provider_hub.put("b-first", "Completed")
    # This request resumes the interrupted scan, which has seen b-first. The next request begins a new scan.
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]
    verdict = await get_staging(http, app)
    assert (verdict["ready"], [instance["instanceId"] for instance in verdict["active"]]) == (False, ["b-second"])


async def test_an_interrupted_scan_that_began_beside_an_active_record_begins_again_once_that_record_has_ended(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, range_failures: list[str]
) -> None:
    """GetVersions was interrupted after it had read the ranges of both instances, when neither had a row."""
    await post_events(http, event(drained_provider_hub.hub, "1-first"))
    await wait_for_clock_tolerance()
    assert_problem(
        await http.get(f"/api/taskhubs/{drained_provider_hub.hub}/versions?verify=fresh"), 503, "TaskHubUnavailable"
    )
    range_failures.clear()
    await drained_provider_hub.put("2-second", "Running")
    await drained_provider_hub.put("1-first", "Completed")
    verdict = await get_staging(http, app)
    assert (verdict["ready"], [instance["instanceId"] for instance in verdict["active"]]) == (False, ["2-second"])
