"""Keys on the real host: the server's own keys decide, and a key of the platform grants nothing."""

import asyncio
from typing import Any

import httpx
import pytest

import function_app
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event, timestamp
from tests.conftest import new_hub_name
from tests.functions.invocations import indexed_functions
from tests.http.operations import assert_problem
from tests.http.test_keys_and_roles import OPERATIONS
from tests.platform.function_app.conftest import Azurite
from tests.platform.function_app.server_keys import KEYS, KEYS_OF_OTHER_APP, KEYS_OF_OWN_APP, OWN_APP, key_header
from tests.platform.functions_host import DURABLE_TASK_KEY, EVENT_GRID_KEY, FUNCTION_KEY, MASTER_KEY, FunctionsHost

OPERATIONS_WITHOUT_KEY = {"Health", "Ready", "GetOpenApi"}
PLATFORM_KEYS = (FUNCTION_KEY, MASTER_KEY, EVENT_GRID_KEY, DURABLE_TASK_KEY)


@pytest.fixture(scope="module")
def own_app_hub(host: FunctionsHost) -> str:
    """The task hub in production of OWN_APP."""
    hub = new_hub_name()
    body = {"slots": {"production": {"taskHub": hub}}, "policy": {"settleSeconds": 0}}
    with host.client() as client:
        put = client.put(f"/api/apps/{OWN_APP}", json=body, headers=key_header(KEYS["admin"]))
        assert put.status_code == 200, put.text
    return hub


class OperationCaller:
    """Sends one operation with different keys."""

    def __init__(self, client: httpx.Client, method: str, path: str, hub: str) -> None:
        self._client = client
        self._method = method
        self._path = path.format(app=OWN_APP, hub=hub)
        self._options: dict[str, Any] = {"params": {"taskHub": hub, "instanceId": "1"}} if method == "DELETE" else {}
        if path.endswith(("staging", "swap")) and method == "POST":
            self._options["json"] = {"taskHub": hub}

    def __call__(self, headers: dict[str, str] | None = None, code: str | None = None) -> httpx.Response:
        params = self._options.get("params", {}) | ({} if code is None else {"code": code})
        headers = {"WebHook-Request-Origin": "x"} | (headers or {})
        return self._client.request(
            self._method, self._path, **(self._options | {"params": params, "headers": headers})
        )


@pytest.mark.parametrize(("method", "path", "roles"), OPERATIONS)
def test_an_operation_takes_the_keys_of_its_roles_and_no_other(
    anonymous: httpx.Client, own_app_hub: str, method: str, path: str, roles: set[str]
) -> None:
    call = OperationCaller(anonymous, method, path, own_app_hub)
    for refused in (
        call(),
        call(key_header("not-a-key")),
        call(code="not-a-key"),
        *(call(key_header(key)) for key in PLATFORM_KEYS),
        *(call(code=key) for key in PLATFORM_KEYS),
    ):
        assert_problem(refused, 401, "Unauthorized")
    for role, key in KEYS.items():
        for answer in (
            call(key_header(key)),
            call({"aeg-sas-key": key}),
            call(code=key),
            call(key_header(key), code=MASTER_KEY),
        ):
            if role in roles:
                assert answer.status_code in (200, 400, 404, 409, 415), answer.text
                assert answer.headers["cache-control"] == "no-store"
            else:
                assert_problem(answer, 403, "Forbidden")


@pytest.mark.parametrize(("method", "path", "roles"), OPERATIONS)
def test_a_key_that_is_bound_to_an_app_opens_no_other(
    anonymous: httpx.Client, own_app_hub: str, method: str, path: str, roles: set[str]
) -> None:
    call = OperationCaller(anonymous, method, path, own_app_hub)
    for role, key in KEYS_OF_OTHER_APP.items():
        answer = call(key_header(key))
        if path == "/api/apps" and role in roles:
            assert answer.json() == {"apps": [], "continuationToken": None}
        else:
            assert_problem(answer, 403, "Forbidden")
    # DeleteTaskHub is about task hubs that no app has claimed.
    about_own = "{app}" in path or ("{hub}" in path and method == "GET") or path == "/api/apps"
    for role, key in KEYS_OF_OWN_APP.items():
        answer = call(key_header(key))
        assert (answer.status_code == 403) == (role not in roles or not about_own), answer.text


def test_the_operations_above_are_all_that_the_host_serves() -> None:
    served = {
        (method, f"/api/{route}")
        for name, methods, route in function_app.OPERATIONS
        if name not in OPERATIONS_WITHOUT_KEY
        for method in methods
    }
    assert served == {(method, path) for method, path, _ in OPERATIONS}


def test_health_and_the_contract_need_no_key_and_ignore_any(anonymous: httpx.Client) -> None:
    for path in ("/api/health", "/api/health/ready", "/api/openapi.json"):
        for headers in ({}, key_header("not-a-key"), key_header(MASTER_KEY)):
            assert anonymous.get(path, headers=headers).status_code == 200


def test_every_operation_of_a_release_works_with_keys_that_are_bound_to_the_app(
    host: FunctionsHost, azurite: Azurite, anonymous: httpx.Client, own_app_hub: str
) -> None:
    del own_app_hub  # The app is registered by now.
    old, new = new_hub_name(), new_hub_name()
    called: set[str] = set()

    def ask(
        operation: str,
        key: str,
        body: Any = None,
        params: dict[str, Any] | None = None,
        method: str | None = None,
        hub: str = "",
    ) -> Any:
        called.add(operation)
        trigger = indexed_functions()[operation].get_trigger()
        answer = anonymous.request(
            method or trigger.methods[0].value,
            f"/api/{trigger.route.format(app=OWN_APP, hub=hub)}",
            json=body,
            params=params,
            headers={**key_header(key), "WebHook-Request-Origin": "eventgrid.azure.net"},
        )
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.content else None

    reader, deployer, administrator = (KEYS_OF_OWN_APP[role] for role in ("reader", "deployer", "admin"))
    slots = {"production": {"taskHub": old, "version": "1"}, "staging": None}
    ask("PutApp", administrator, {"slots": slots, "policy": {"settleSeconds": 0}})
    assert ask("GetStagingStatus", reader)["ready"] is True
    ask("PostStaging", deployer, {"taskHub": new, "version": "2"})
    ask("DeleteStaging", deployer, params={"taskHub": new})
    assert ask("PostEvents", KEYS["publisher"], [event(old), event(new, "order-2", "Completed")])["recorded"] == 2
    ask("PostEvents", KEYS["publisher"], method="OPTIONS")
    swapped = ask("PostSwap", deployer, {"taskHub": new})
    assert {name: slot["taskHub"] for name, slot in swapped["slots"].items()} == {"production": new, "staging": old}
    verdict = ask("GetStagingStatus", deployer)
    assert (verdict["taskHub"], verdict["ready"], verdict["activeCount"]) == (old, False, 1)
    waiver = {"taskHub": old, "instanceId": "order-1", "reason": "stuck", "expiresAt": timestamp(3600)}
    ask("PostWaiver", deployer, waiver)
    ask("DeleteWaiver", deployer, params={"taskHub": old, "instanceId": "order-1"})
    assert ask("GetTaskHub", reader, hub=old)["activeCount"] == 1
    assert [one["instanceId"] for one in ask("ListInstances", reader, hub=old)["instances"]] == ["order-1"]
    asyncio.run(_create_task_hub(azurite, old))
    source = {"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"}
    ask("PutApp", administrator, {"taskHubs": source})
    assert ask("GetVersions", reader, hub=old)["versions"][0]["version"] == "1.0"
    ask("Cleanup", deployer, {"dryRun": True})
    assert ask("GetApp", reader)["slots"].keys() == {"production", "staging"}
    assert [one["app"] for one in ask("ListApps", reader)["apps"]] == [OWN_APP]
    newest = ask("GetHistory", reader, params={"top": 1})["history"][0]
    assert (newest["operation"], newest["keyName"]) == ("PutApp", "own-admin")
    assert "events" in ask("ListQuarantine", KEYS["admin"])
    for operation in OPERATIONS_WITHOUT_KEY:
        ask(operation, reader)
    assert called <= {name for name, _, _ in function_app.OPERATIONS}
    assert host.read_log().count(KEYS_OF_OWN_APP["deployer"]) == 0


async def _create_task_hub(azurite: Azurite, hub: str) -> None:
    """A task hub with the instance `order-1`, as its provider keeps it."""
    async with ProviderTaskHub(azurite.settings, hub) as provider:
        await (await provider.create()).put("order-1", "Running", version="1.0")
