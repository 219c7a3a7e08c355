"""Traffic goes only to a release whose task hub exists at its provider, as a scheduler or a storage account shows."""

from typing import Any

import grpc  # type: ignore[import-untyped]  # it has no types
import httpx
import pytest

from harness.storage_proxy import run_storage_proxy
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.backends.fake_schedulers import FakeScheduler, build_connection_string, serve_grpc
from tests.backends.storage_account import connection_string_of
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import PROVIDER_CONFIG, assert_problem
from tests.http.release_operations import post_release, put_routing, put_side_by_side_app
from tests.http.server_clients import client_of_server_with

pytestmark = pytest.mark.anyio


class SchedulerWithOneTaskHub(FakeScheduler):
    """A scheduler whose task hub has no instances, and does not exist until a test creates it."""

    exists = False

    def query(self, request: Any, context: Any) -> Any:
        self._require_task_hub(context)
        return super().query(request, context)

    def get(self, request: Any, context: Any) -> Any:
        self._require_task_hub(context)
        return super().get(request, context)

    def _require_task_hub(self, context: Any) -> None:
        """Answer as the scheduler does for a task hub that does not exist."""
        if not self.exists:
            context.abort(grpc.StatusCode.NOT_FOUND, "there is no such task hub")


async def test_an_empty_task_hub_of_a_scheduler_has_started_once_it_exists(
    storage: StorageSettings, clock: ShiftedClock, app: str, hub: str
) -> None:
    scheduler = SchedulerWithOneTaskHub()
    with serve_grpc(scheduler) as port:
        settings = {"STATE_TASKHUBS_SCHEDULER": build_connection_string(port)}
        async with client_of_server_with(storage, clock, settings) as http:
            config = {"provider": "scheduler", "connection": "STATE_TASKHUBS_SCHEDULER"}
            await put_side_by_side_app(http, app, taskHubs=config)
            assert (await post_release(http, app, "1", hub)).status_code == 200
            assert_problem(await put_routing(http, app, "1"), 409, "ReleaseNotDeployed")
            scheduler.exists = True
            assert (await put_routing(http, app, "1")).status_code == 200


async def test_a_provider_that_fails_refuses_a_promotion_but_no_rollback(
    storage: StorageSettings, clock: ShiftedClock, app: str
) -> None:
    async with run_storage_proxy(storage) as proxy:
        settings = {"STATE_TASKHUBS_SHOP": connection_string_of(proxy.settings)}
        async with client_of_server_with(storage, clock, settings) as http:
            await put_side_by_side_app(http, app, taskHubs=PROVIDER_CONFIG)
            await register_started_releases(http, storage, app, "1", "2", "3")
            for version in ("1", "2"):
                assert (await put_routing(http, app, version)).status_code == 200
            proxy.failure_status = lambda method, path: 403
            problem = assert_problem(await put_routing(http, app, "3"), 503, "TaskHubUnavailable")
            assert "got no traffic" in problem["detail"]
            assert (await put_routing(http, app, "1")).status_code == 200


async def register_started_releases(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, *versions: str
) -> None:
    """Register these releases from one run, and create the task hub of each, as its app does when it starts."""
    run = {"X-Run-Url": "https://ci.example/runs/1"}
    for version in versions:
        hub = new_hub_name()
        assert (await post_release(http, app, version, hub, run)).status_code == 200
        async with ProviderTaskHub(storage, hub) as task_hub:
            await task_hub.create()
