"""GetVersions: the orchestration versions of the active instances, as the provider shows them."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from state_api.domain.instants import instant_from, parse_instant
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.http.operations import (
    PROVIDER_CONFIG,
    assert_problem,
    put_app,
)

pytestmark = pytest.mark.anyio


async def test_each_version_has_the_count_and_the_oldest_start_of_its_active_instances(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    first_created_at = datetime.now(UTC) - timedelta(days=3)
    for number, (status, version) in enumerate(
        [("Running", "1.0"), ("Pending", "1.0"), ("Suspended", "2.0"), ("Completed", "0.9"), ("Running", None)]
    ):
        await drained_provider_hub.put(
            f"order-{number}", status, version=version, CreatedTime=first_created_at + timedelta(hours=number)
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
    assert oldest["1.0"] == instant_from(first_created_at)


async def test_versions_are_refused_without_a_probe_that_works(
    http: httpx.AsyncClient, app: str, provider_hub: ProviderTaskHub
) -> None:
    assert_problem(await http.get(f"/api/taskhubs/{provider_hub.hub}/versions"), 404, "TaskHubNotFound")
    await put_app(http, app, slots={"staging": {"taskHub": provider_hub.hub}})
    assert_problem(await http.get(f"/api/taskhubs/{provider_hub.hub}/versions"), 409, "ProbeNotConfigured")
    await put_app(http, app, taskHubs=PROVIDER_CONFIG)
    problem = assert_problem(await http.get(f"/api/taskhubs/{provider_hub.hub}/versions"), 503, "TaskHubUnavailable")
    assert "STATE_TASKHUBS_SHOP" in problem["detail"]
