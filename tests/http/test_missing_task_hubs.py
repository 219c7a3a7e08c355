"""A task hub that does not exist at its provider, and when that counts as drained."""

import httpx
import pytest

from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event, timestamp
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import (
    PROVIDER_CONFIG,
    assert_problem,
    get_staging,
    post_events,
    post_staging,
    post_swap,
    put_app,
    reason_codes,
)
from tests.http.rollout_operations import PIN_SECONDS, post_rollout, put_rollout

pytestmark = pytest.mark.anyio


async def test_a_task_hub_without_tables_is_missing_and_drained_only_by_policy(
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
    assert (verdict["ready"], verdict["assurance"]) == (True, "events"), "nothing was read"
    await post_events(http, event(provider_hub.hub, "order-1", "Completed", time=timestamp(-60)))
    assert reason_codes(await get_staging(http, app)) == ["TaskHubMissing"]


async def test_a_missing_task_hub_that_was_in_production_is_not_drained(
    http: httpx.AsyncClient, app: str, provider_hub: ProviderTaskHub
) -> None:
    """An app has run on the task hub, so missingTaskHubIsDrained does not apply: the connection is probably wrong."""
    policy = {"settleSeconds": 0, "missingTaskHubIsDrained": True}
    await put_app(
        http, app, slots={"production": {"taskHub": provider_hub.hub}}, policy=policy, taskHubs=PROVIDER_CONFIG
    )
    staged_hub = new_hub_name()
    assert (await post_staging(http, app, staged_hub)).status_code == 200
    await post_swap(http, app, staged_hub)
    verdict = await get_staging(http, app)
    assert (verdict["taskHub"], reason_codes(verdict)) == (provider_hub.hub, ["TaskHubMissing"])
    assert (await post_staging(http, app, new_hub_name(), force=True, reason="test")).status_code == 200
    assert reason_codes(await get_staging(http, app)) == ["DeploymentInProgress", "TaskHubMissing"], (
        "a missing prior task hub blocks, too"
    )


async def test_a_missing_task_hub_that_a_rollout_gave_traffic_is_not_drained(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    """Customers may have started work in it. Nothing has shown it, so the connection is probably wrong."""
    slots = {"production": {"taskHub": new_hub_name()}, "staging": {"taskHub": new_hub_name()}}
    policy = {"settleSeconds": 0, "missingTaskHubIsDrained": True}
    await put_app(http, app, slots=slots, policy=policy, taskHubs=PROVIDER_CONFIG)
    assert (await put_rollout(http, app)).status_code == 200
    await post_rollout(http, app, "confirm", weight=10)
    await post_rollout(http, app, "abort")
    await post_rollout(http, app, "confirm", weight=0)
    clock.advance(PIN_SECONDS + 200)
    assert reason_codes(await get_staging(http, app, verify="fresh")) == ["TaskHubMissing"]
    assert_problem(await post_staging(http, app, new_hub_name()), 409, "StagingNotReady")
    assert (await post_staging(http, app, new_hub_name(), force=True, reason="test")).status_code == 200
    assert reason_codes(await get_staging(http, app)) == ["DeploymentInProgress", "TaskHubMissing"], (
        "a missing prior task hub blocks, too"
    )


async def test_a_task_hub_that_a_probe_has_read_is_not_drained_when_it_is_missing_later(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await put_app(http, app, policy={"missingTaskHubIsDrained": True})
    assert (await get_staging(http, app))["assurance"] == "verified"
    await drained_provider_hub.delete()
    assert reason_codes(await get_staging(http, app, verify="fresh")) == ["TaskHubMissing"]


@pytest.mark.parametrize("ignore_messages", [False, True])
async def test_a_missing_task_hub_is_not_recorded_as_seen_by_a_scan_that_begins_without_a_request(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, *, ignore_messages: bool
) -> None:
    """The server knows the time of the task hub's storage, because it has read another task hub there."""
    assert (await get_staging(http, app))["ready"]
    other_app, missing_hub = f"{app}-other", new_hub_name()
    policy = {"settleSeconds": 0, "missingTaskHubIsDrained": True, "ignoreMessages": ignore_messages}
    await put_app(http, other_app, slots={"staging": {"taskHub": missing_hub}}, policy=policy, taskHubs=PROVIDER_CONFIG)
    for _ in range(2):
        verdict = await get_staging(http, other_app, verify="fresh")
        assert (verdict["ready"], verdict["evidence"]["probe"]["status"]) == (True, "Missing"), verdict
        assert f"there is no table {missing_hub}Instances" in verdict["evidence"]["probe"]["message"]
