"""The sample app on the real Functions host, guarded by the project's Function App on a second one."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from harness.functions_host import (
    DURABLE_TASK_KEY,
    EVENT_GRID_KEY,
    FUNCTION_KEY,
    FunctionsHost,
    copy_deployed_app,
    run_functions_host,
    wait_until_ready,
)
from harness.processes import wait_until
from state_api.settings import StorageSettings
from tests.conftest import new_hub_name
from tests.durable_app.host_processes import KEY, ROOT, SlotProcess
from tests.keys import key_entry
from tests.platform.event_grid import EventSubscription, run_event_grid

ADMIN_KEY = "a-key-of-an-administrator-0123456789"
CONNECTION_SETTING = "STATE_TASKHUBS_ORDERS"
"""The state server's setting that leads to the storage account of the app's task hubs."""

_ABOUT_PATH = f"/api/about?code={FUNCTION_KEY}"


class OrdersHost:
    """The sample app on one task hub. Like a slot, it runs one version of the code at a time."""

    def __init__(self, storage: str, topic_url: str, folder: Path) -> None:
        """Copy the sample app as a deployment does. No slot runs yet."""
        self.task_hub = new_hub_name()
        self._app = copy_deployed_app(ROOT / "durable_app", folder / "orders")
        self._state = folder / "orders-state"
        self._settings = {
            "AzureWebJobsStorage": storage,
            "TASK_HUB": self.task_hub,
            "LIFECYCLE_TOPIC_ENDPOINT": topic_url,
            "LIFECYCLE_TOPIC_KEY": KEY,
            "PACKING_SECONDS": "1",
            "PAYMENT_RETRY_MILLISECONDS": "50",
        }
        self._stack = ExitStack()
        self._version = ""
        self._slot: SlotProcess | None = None
        self._api: httpx.Client | None = None

    def start_version(self, version: str) -> None:
        """Start a host with this version, and stop the one that runs. `start_slot` waits until it is ready."""
        self._stack.close()
        host = self._stack.enter_context(
            run_functions_host(
                self._app, self._state, self._settings | {"ORDERS_VERSION": version}, wait_for_start=False
            )
        )
        self._version, self._slot, self._host = version, None, host

    def start_slot(self, version: str = "v1") -> SlotProcess:
        """Return the app with this version. Deploys it if another version runs, and waits until it is ready."""
        if version != self._version:
            self.start_version(version)
        if self._slot is None:
            wait_until_ready(self._host, _ABOUT_PATH)
            client = httpx.Client(base_url=self._host.url, timeout=60, headers={"x-functions-key": FUNCTION_KEY})
            api = f"{self._host.url}/runtime/webhooks/durabletask"
            self._api = httpx.Client(base_url=api, params={"code": DURABLE_TASK_KEY}, timeout=60)
            for http_client in (client, self._api):
                self._stack.enter_context(http_client)
            self._slot = SlotProcess(self._host.process, client, self._host.log_file)
        return self._slot

    def close(self) -> None:
        self._stack.close()

    # Operations of the management API

    def terminate(self, instance_id: str, reason: str) -> None:
        """Terminate an instance as an operator does."""
        self._post(f"/instances/{instance_id}/terminate", params={"reason": reason})

    def schedule(self, name: str, instance_id: str, input_value: Any) -> None:
        """Start an orchestration as an operator does."""
        self._post(f"/orchestrators/{name}/{instance_id}", json=input_value)

    def _post(self, path: str, **request_options: Any) -> None:
        """Send a request to the app, which must succeed."""
        assert self._api is not None
        self._api.post(path, **request_options).raise_for_status()


class VerdictClient:
    """Sends requests about one app to the state server. The app's staging slot has one task hub."""

    def __init__(self, client: httpx.Client, app: str) -> None:
        self._client = client
        self._app = app

    def register_app(self, task_hub: str) -> None:
        """Register the app with this task hub in the staging slot."""
        body = {
            "slots": {"staging": {"taskHub": task_hub, "version": "1.0.0"}},
            "taskHubs": {"provider": "azureStorage", "connection": CONNECTION_SETTING},
            "policy": {"settleSeconds": 1, "requireVerification": True},
        }
        response = self._client.put(f"/api/apps/{self._app}", json=body)
        assert response.status_code == 200, response.text

    def get_verdict(self) -> dict[str, Any]:
        """Return the verdict on the slot, verified now."""
        response = self._client.get(f"/api/apps/{self._app}/staging", params={"verify": "fresh"})
        assert response.status_code == 200, response.text
        verdict: dict[str, Any] = response.json()
        return verdict

    def post_staging(self, task_hub: str) -> httpx.Response:
        """Request to deploy another version into the slot."""
        return self._client.post(f"/api/apps/{self._app}/staging", json={"taskHub": task_hub, "version": "2.0.0"})

    def wait_until_ready(self) -> dict[str, Any]:
        """Wait until the verdict is Ready, and return it."""
        wait_until(lambda: self.get_verdict()["ready"], f"the slot is Ready: {self.get_verdict()}")
        return self.get_verdict()

    def list_instances(self, task_hub: str) -> dict[str, dict[str, Any]]:
        """Return the instances that the server has recorded of a task hub, by id."""
        response = self._client.get(f"/api/taskhubs/{task_hub}/instances", params={"top": 200})
        assert response.status_code == 200, response.text
        return {instance["instanceId"]: instance for instance in response.json()["instances"]}


@contextmanager
def run_state_server_host(storage: str, folder: Path) -> Iterator[FunctionsHost]:
    """Run the project's Function App. The block begins before it is ready."""
    settings = {
        "AzureWebJobsStorage": storage,
        "STATE_STORAGE": storage,
        "STATE_KEYS": json.dumps([key_entry(ADMIN_KEY, "admin")]),
        CONNECTION_SETTING: storage,
    }
    with run_functions_host(
        copy_deployed_app(ROOT, folder / "state-app"), folder / "state-state", settings, wait_for_start=False
    ) as host:
        yield host


@contextmanager
def run_guarded_orders(
    storage: StorageSettings, folder: Path
) -> Iterator[tuple[OrdersHost, httpx.Client, EventSubscription]]:
    """Run both hosts with a topic between them. Yields the orders app, a client of the state server, and the topic's
    subscription."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    with run_state_server_host(connection, folder) as server:
        webhook = f"{server.url}/runtime/webhooks/EventGrid?functionName=RecordLifecycleEvent&code={EVENT_GRID_KEY}"
        with run_event_grid(webhook) as subscription:
            orders = OrdersHost(connection, subscription.topic.url, folder)
            try:
                orders.start_version("v1")
                wait_until_ready(server)
                headers = {"x-functions-key": ADMIN_KEY, "X-Actor": "tests"}
                with httpx.Client(base_url=server.url, timeout=150, headers=headers) as client:
                    yield orders, client, subscription
            finally:
                orders.close()
