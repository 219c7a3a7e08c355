"""Keys on the real Functions host: the server's own keys open operations, and keys of the platform open none."""

import asyncio
from typing import Any

import httpx
import pytest

import function_app
from harness.functions_host import DURABLE_TASK_KEY, EVENT_GRID_KEY, FUNCTION_KEY, MASTER_KEY, FunctionsHost
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event, timestamp
from tests.conftest import new_hub_name
from tests.functions.invocations import indexed_functions
from tests.http.operations import assert_problem, fill_path
from tests.http.test_keys_and_roles import OPERATIONS
from tests.platform.function_app.conftest import Azurite
from tests.platform.function_app.server_keys import (
    DEPLOYED_APP,
    DEPLOYED_APP_KEYS_BY_ROLE,
    KEYS_BY_ROLE,
    OTHER_APP_KEYS_BY_ROLE,
    OWN_APP,
    OWN_APP_KEYS_BY_ROLE,
    key_header,
)

OPERATIONS_WITHOUT_KEY = {"Health", "Ready", "GetOpenApi"}
PLATFORM_KEYS = (FUNCTION_KEY, MASTER_KEY, EVENT_GRID_KEY, DURABLE_TASK_KEY)


@pytest.fixture(scope="session")
def own_app_hub(host: FunctionsHost) -> str:
    """The task hub in the production slot of OWN_APP."""
    hub = new_hub_name()
    body = {"slots": {"production": {"taskHub": hub}}, "policy": {"settleSeconds": 0}}
    with host.client() as client:
        put = client.put(f"/api/apps/{OWN_APP}", json=body, headers=key_header(KEYS_BY_ROLE["admin"]))
        assert put.status_code == 200, put.text
    return hub


class OperationCaller:
    """Sends one operation with different keys."""

    def __init__(self, client: httpx.Client, method: str, path: str, hub: str) -> None:
        """Prepare a request of one operation that is valid for the app and the task hub."""
        self._client = client
        self._method = method
        self._path = fill_path(path, app=OWN_APP, hub=hub)
        parameters = {"taskHub": hub, "instanceId": "1"} if "{version}" not in path else {"outcome": "Pending"}
        self._options: dict[str, Any] = {"params": parameters} if method == "DELETE" else {}
        if path.endswith(("staging", "swap")) and method == "POST":
            self._options["json"] = {"taskHub": hub}

    def send(self, headers: dict[str, str] | None = None, code: str | None = None) -> httpx.Response:
        """Send the operation with these headers, and with a key in the query parameter `code`."""
        params = self._options.get("params", {}) | ({} if code is None else {"code": code})
        headers = {"WebHook-Request-Origin": "x"} | (headers or {})
        return self._client.request(
            self._method, self._path, **(self._options | {"params": params, "headers": headers})
        )


@pytest.mark.parametrize(("method", "path", "roles"), OPERATIONS)
def test_an_operation_accepts_the_keys_of_its_roles_and_no_others(
    anonymous: httpx.Client, own_app_hub: str, method: str, path: str, roles: set[str]
) -> None:
    caller = OperationCaller(anonymous, method, path, own_app_hub)
    for refused in (
        caller.send(),
        caller.send(key_header("not-a-key")),
        caller.send(code="not-a-key"),
        *(caller.send(key_header(key)) for key in PLATFORM_KEYS),
        *(caller.send(code=key) for key in PLATFORM_KEYS),
    ):
        assert_problem(refused, 401, "Unauthorized")
    for role, key in KEYS_BY_ROLE.items():
        for response in (
            caller.send(key_header(key)),
            caller.send({"aeg-sas-key": key}),
            caller.send(code=key),
            caller.send(key_header(key), code=MASTER_KEY),
        ):
            if role in roles:
                assert response.status_code in (200, 400, 404, 409, 415), response.text
                assert response.headers["cache-control"] == "no-store"
            else:
                assert_problem(response, 403, "Forbidden")


@pytest.mark.parametrize(("method", "path", "roles"), OPERATIONS)
def test_a_key_for_one_app_does_not_open_another(
    anonymous: httpx.Client, own_app_hub: str, method: str, path: str, roles: set[str]
) -> None:
    caller = OperationCaller(anonymous, method, path, own_app_hub)
    for role, key in OTHER_APP_KEYS_BY_ROLE.items():
        response = caller.send(key_header(key))
        if path == "/api/apps" and role in roles:
            assert response.json() == {"apps": [], "continuationToken": None}
        else:
            assert_problem(response, 403, "Forbidden")
    # DeleteTaskHub is for task hubs that no app has claimed.
    concerns_own_app = "{app}" in path or ("{hub}" in path and method == "GET") or path == "/api/apps"
    for role, key in OWN_APP_KEYS_BY_ROLE.items():
        response = caller.send(key_header(key))
        assert (response.status_code == 403) == (role not in roles or not concerns_own_app), response.text


def test_all_operations_of_the_host_are_tested_here() -> None:
    served_operations = {
        (method, f"/api/{route}")
        for name, methods, route in function_app.OPERATIONS
        if name not in OPERATIONS_WITHOUT_KEY
        for method in methods
    }
    assert served_operations == {(method, path) for method, path, _ in OPERATIONS}


def test_health_and_the_openapi_document_need_no_key_and_ignore_any(anonymous: httpx.Client) -> None:
    for path in ("/api/health", "/api/health/ready", "/api/openapi.json"):
        for headers in ({}, key_header("not-a-key"), key_header(MASTER_KEY)):
            assert anonymous.get(path, headers=headers).status_code == 200


def test_every_operation_of_a_release_works_with_keys_for_the_app(
    host: FunctionsHost, azurite: Azurite, anonymous: httpx.Client
) -> None:
    old_hub, new_hub = new_hub_name(), new_hub_name()
    called_operations: set[str] = set()

    def call_operation(
        operation: str,
        key: str,
        body: Any = None,
        *,
        params: dict[str, Any] | None = None,
        method: str | None = None,
        hub: str = "",
    ) -> Any:
        """Call an operation with this key, and note that it was called. The key must be enough for it."""
        called_operations.add(operation)
        trigger = indexed_functions()[operation].get_trigger()
        response = anonymous.request(
            method or trigger.methods[0].value,
            f"/{fill_path(trigger.route, app=DEPLOYED_APP, hub=hub)}",
            json=body,
            params=params,
            headers={**key_header(key), "WebHook-Request-Origin": "eventgrid.azure.net"},
        )
        assert response.status_code == 200, response.text
        return response.json() if response.content else None

    reader, deployer, administrator = (DEPLOYED_APP_KEYS_BY_ROLE[role] for role in ("reader", "deployer", "admin"))
    slots = {"production": {"taskHub": old_hub, "version": "1"}, "staging": None}
    call_operation("PutApp", administrator, {"slots": slots, "policy": {"settleSeconds": 0}})
    assert call_operation("GetStagingStatus", reader)["ready"] is True
    call_operation("PostStaging", deployer, {"taskHub": new_hub, "version": "2"})
    call_operation("DeleteStaging", deployer, params={"taskHub": new_hub})
    publisher = KEYS_BY_ROLE["publisher"]
    recorded = call_operation("PostEvents", publisher, [event(old_hub), event(new_hub, "order-2", "Completed")])[
        "recorded"
    ]
    assert recorded == 2
    call_operation("PostEvents", publisher, method="OPTIONS")
    swapped = call_operation("PostSwap", deployer, {"taskHub": new_hub})
    assert {name: slot["taskHub"] for name, slot in swapped["slots"].items()} == {
        "production": new_hub,
        "staging": old_hub,
    }
    verdict = call_operation("GetStagingStatus", deployer)
    assert (verdict["taskHub"], verdict["ready"], verdict["activeCount"]) == (old_hub, False, 1)
    waiver = {"taskHub": old_hub, "instanceId": "order-1", "reason": "stuck", "expiresAt": timestamp(3600)}
    call_operation("PostWaiver", deployer, waiver)
    call_operation("DeleteWaiver", deployer, params={"taskHub": old_hub, "instanceId": "order-1"})
    assert call_operation("GetTaskHub", reader, hub=old_hub)["activeCount"] == 1
    instances = call_operation("ListInstances", reader, hub=old_hub)["instances"]
    assert [instance["instanceId"] for instance in instances] == ["order-1"]
    asyncio.run(_create_task_hub(azurite, old_hub))
    provider_config = {"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"}
    call_operation("PutApp", administrator, {"taskHubs": provider_config})
    assert call_operation("GetVersions", reader, hub=old_hub)["versions"][0]["version"] == "1.0"
    call_operation("Cleanup", deployer, {"dryRun": True})
    assert call_operation("GetApp", reader)["slots"].keys() == {"production", "staging"}
    assert [app["app"] for app in call_operation("ListApps", reader)["apps"]] == [DEPLOYED_APP]
    newest = call_operation("GetHistory", reader, params={"top": 1})["history"][0]
    assert (newest["operation"], newest["keyName"]) == ("PutApp", "deployment-admin")
    assert "events" in call_operation("ListQuarantine", KEYS_BY_ROLE["admin"])
    for operation in OPERATIONS_WITHOUT_KEY:
        call_operation(operation, reader)
    assert called_operations <= {name for name, _, _ in function_app.OPERATIONS}
    assert host.read_log().count(DEPLOYED_APP_KEYS_BY_ROLE["deployer"]) == 0


async def _create_task_hub(azurite: Azurite, hub: str) -> None:
    """Create a task hub with the instance `order-1`, as the provider does."""
    async with ProviderTaskHub(azurite.settings, hub) as task_hub:
        await (await task_hub.create()).put("order-1", "Running", version="1.0")
