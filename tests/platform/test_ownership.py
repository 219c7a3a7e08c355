"""Whose task hub is it: what the real extension leaves in a storage account is what PostStaging finds there, and what
Cleanup deletes once the claim on it is proven."""

from pathlib import Path

import httpx
import pytest

from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderAccount
from tests.backends.storage_account import connection_string_of
from tests.conftest import new_hub_name
from tests.http.operations import assert_problem, post_staging, post_swap, put_app, run_headers
from tests.platform.durable_host import run_durable_host

pytestmark = pytest.mark.anyio

TASK_HUBS = {"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"}


async def test_all_that_a_started_app_has_made_is_found_before_its_name_is_claimed(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, tmp_path: Path, hub: str
) -> None:
    await put_app(http, app, taskHubs=TASK_HUBS)
    async with run_durable_host(hub, connection_string_of(storage), tmp_path) as worker:
        await worker.start_orchestration("Chain", "order-1", steps=1)
        await worker.wait_for_status("order-1", "Completed")
    refused = assert_problem(await post_staging(http, app, hub.upper()), 409, "TaskHubAlreadyUsed")
    async with ProviderAccount(storage) as account:
        made = await account.list_artifacts(hub)
    assert sorted(refused["existing"]) == made
    assert {name.split(" ")[0] for name in made} == {"table", "queue", "container"}


async def test_the_task_hub_of_a_staged_version_is_deleted_whole(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, tmp_path: Path, hub: str
) -> None:
    policy = {"settleSeconds": 0, "missingTaskHubIsDrained": True}
    await put_app(http, app, policy=policy, taskHubs=TASK_HUBS)
    assert (await post_staging(http, app, hub, run_headers(1))).status_code == 200
    async with run_durable_host(hub, connection_string_of(storage), tmp_path) as worker:
        await worker.start_orchestration("Chain", "order-1", steps=1)
        await worker.wait_for_status("order-1", "Completed")
    for following in (new_hub_name(), new_hub_name()):
        assert (await post_staging(http, app, following, run_headers(1))).status_code == 200
    # What was staged last has not been in production, so the slot may still carry the others until it is swapped.
    assert (await post_swap(http, app, following, run_headers(1))).status_code == 200
    async with ProviderAccount(storage) as account:
        made = await account.list_artifacts(hub)
        answer = await http.post(f"/api/apps/{app}/cleanup", json={"deleteTaskHubs": True})
        done = {one["taskHub"]: one for one in answer.json()["taskHubs"]}
        assert (done[hub]["outcome"], sorted(done[hub]["artifacts"])) == ("Removed", made)
        assert await account.list_artifacts(hub) == []
