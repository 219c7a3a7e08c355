"""Ownership of task hubs on the real extension: PostStaging finds what the extension has created in a storage account,
and Cleanup deletes it if the claim is proven."""

from pathlib import Path

import httpx
import pytest

from harness.durable_host import run_durable_host
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderAccount
from tests.backends.storage_account import connection_string_of
from tests.conftest import new_hub_name
from tests.http.operations import assert_problem, post_staging, post_swap, put_app, run_headers

pytestmark = pytest.mark.anyio

TASK_HUBS = {"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"}


async def test_post_staging_finds_everything_that_a_started_app_has_created(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, tmp_path: Path, hub: str
) -> None:
    await put_app(http, app, taskHubs=TASK_HUBS)
    async with run_durable_host(hub, connection_string_of(storage), tmp_path) as worker:
        await worker.start_orchestration("Chain", "order-1", steps=1)
        await worker.wait_for_status("order-1", "Completed")
    refused = assert_problem(await post_staging(http, app, hub.upper()), 409, "TaskHubAlreadyUsed")
    async with ProviderAccount(storage) as account:
        artifacts = await account.list_artifacts(hub)
    assert sorted(refused["existing"]) == artifacts
    assert {artifact.split(" ")[0] for artifact in artifacts} == {"table", "queue", "container"}


async def test_cleanup_deletes_everything_of_a_staged_versions_task_hub(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, tmp_path: Path, hub: str
) -> None:
    policy = {"settleSeconds": 0, "missingTaskHubIsDrained": True}
    await put_app(http, app, policy=policy, taskHubs=TASK_HUBS)
    assert (await post_staging(http, app, hub, run_headers(1))).status_code == 200
    async with run_durable_host(hub, connection_string_of(storage), tmp_path) as worker:
        await worker.start_orchestration("Chain", "order-1", steps=1)
        await worker.wait_for_status("order-1", "Completed")
    for next_hub in (new_hub_name(), new_hub_name()):
        assert (await post_staging(http, app, next_hub, run_headers(1))).status_code == 200
    # The last staged version has not been in production, so until the swap the slot may still hold the earlier ones.
    assert (await post_swap(http, app, next_hub, run_headers(1))).status_code == 200
    async with ProviderAccount(storage) as account:
        artifacts = await account.list_artifacts(hub)
        response = await http.post(f"/api/apps/{app}/cleanup", json={"deleteTaskHubs": True})
        by_task_hub = {result["taskHub"]: result for result in response.json()["taskHubs"]}
        assert (by_task_hub[hub]["outcome"], sorted(by_task_hub[hub]["artifacts"])) == ("Removed", artifacts)
        assert await account.list_artifacts(hub) == []
