"""When the stored result of a probe answers a later request, and when the task hub is read again."""

import httpx
import pytest

from state_api.domain.readiness.plan import ProbeOutcome
from state_api.domain.readiness.policy import Policy
from state_api.services.probe_requests import ProbeRequest
from state_api.services.verification import Verifier
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import (
    assert_problem,
    get_staging,
    post_events,
    post_staging,
    put_app,
    reason_codes,
    wait_for_clock_tolerance,
)

pytestmark = pytest.mark.anyio


async def test_a_result_answers_later_requests_until_it_is_older_than_the_freshness_of_the_policy(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, clock: ShiftedClock
) -> None:
    first = (await get_staging(http, app))["evidence"]["probe"]
    assert (await get_staging(http, app))["evidence"]["probe"] == first
    assert (await get_staging(http, app, verify="none"))["ready"]
    fresh = (await get_staging(http, app, verify="fresh"))["evidence"]["probe"]
    assert fresh["beganAt"] > first["beganAt"]
    clock.advance(Policy().freshness_seconds + 1)
    assert reason_codes(await get_staging(http, app, verify="none")) == ["ProbeStale"]
    assert (await get_staging(http, app))["ready"]


async def test_a_result_that_is_older_than_the_last_event_is_stale(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    assert (await get_staging(http, app))["ready"]
    await post_events(http, event(drained_provider_hub.hub, "order-1", "Completed"))
    assert reason_codes(await get_staging(http, app, verify="none")) == ["ProbeStale"]


async def test_a_request_without_a_read_is_not_ready_while_the_task_hub_was_never_read(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    assert reason_codes(await get_staging(http, app, verify="none")) == ["ProbePending"]


async def test_post_staging_always_reads_the_task_hub_again(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """A recent result says Ready, but PostStaging finds an instance that has started since without an event."""
    assert (await get_staging(http, app))["ready"]
    await drained_provider_hub.put("order-1", "Pending")
    assert (await get_staging(http, app))["ready"], "GetStagingStatus uses the recent result again"
    refused = assert_problem(await post_staging(http, app, new_hub_name()), 409, "StagingNotReady")
    assert [reason["code"] for reason in refused["reasons"]] == ["InstancesActive"]
    await drained_provider_hub.put("order-1", "Completed")
    assert (await post_staging(http, app, new_hub_name())).status_code == 200


async def test_a_result_under_a_policy_that_ignores_functions_does_not_answer_a_stricter_policy(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await drained_provider_hub.put("monitor", "Running", name="NightlySync")
    await put_app(http, app, policy={"ignoreFunctions": ["Nightly*"]})
    verdict = await get_staging(http, app)
    assert (verdict["ready"], verdict["ignoredCount"]) == (True, 1)
    await put_app(http, app, policy={"ignoreFunctions": []})
    assert reason_codes(await get_staging(http, app, verify="none")) == ["ProbePending"]
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]


async def test_a_result_from_before_the_request_does_not_allow_staging_when_the_settle_window_ends_during_it(
    http: httpx.AsyncClient,
    app: str,
    drained_provider_hub: ProviderTaskHub,
    clock: ShiftedClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server does not read a settling task hub, so the settle window must not end before the verdict is made."""
    settle_seconds = 30
    await put_app(http, app, policy={"settleSeconds": settle_seconds})
    await post_events(http, event(drained_provider_hub.hub, "order-1", "Completed"))
    await wait_for_clock_tolerance()
    assert (await http.get(f"/api/taskhubs/{drained_provider_hub.hub}/versions?verify=fresh")).json()["complete"]
    await drained_provider_hub.put("order-2", "Pending")
    probe_for_verdict = Verifier.probe_for_verdict

    async def probe_until_settle_window_ends(verifier: Verifier, request: ProbeRequest) -> ProbeOutcome:
        """Probe the task hub. The probe takes longer than the settle window."""
        outcome = await probe_for_verdict(verifier, request)
        clock.advance(settle_seconds + 1)
        return outcome

    monkeypatch.setattr(Verifier, "probe_for_verdict", probe_until_settle_window_ends)
    assert_problem(await post_staging(http, app, new_hub_name()), 409, "StagingNotReady")
