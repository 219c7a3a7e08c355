"""The HTTP functions of function_app.py, invoked with requests of the azure-functions library."""

from typing import Any

import azure.functions as func
import pytest

from state_api.http.middleware import security_headers
from state_api.http.problems import PROBLEM_MEDIA_TYPE
from state_api.settings import (
    STATE_STORAGE,
    StorageSettings,
)
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event, timestamp
from tests.functions.invocations import (
    HOST_URL,
    PROBE_TIMER,
    ROLLOUT_TIMER,
    indexed_functions,
    invoke,
    json_body,
    media_type,
    operation_functions,
    pass_request,
    sample_delivery,
)

pytestmark = pytest.mark.anyio


async def test_a_whole_deployment_runs_through_the_functions(
    function_app_settings: None, storage: StorageSettings, app: str
) -> None:
    """The test calls every operation at least once, through the function with its name."""
    old, new = f"{app.replace('-', '')}v1", f"{app.replace('-', '')}v2"
    slots = {"production": {"taskHub": old, "version": "1"}, "staging": None}
    called = set()

    async def call_operation(name: str, *arguments: Any, **options: Any) -> Any:
        called.add(name)
        response = await invoke(name, *arguments, **options)
        assert response.status_code == 200, response.get_body()
        assert media_type(response) == "application/json"
        return json_body(response)

    assert await call_operation("Health") == {"status": "Healthy"}
    assert await call_operation("Ready") == {"status": "Ready"}
    assert (await call_operation("GetOpenApi"))["info"]["title"] == "Task hub state server"
    registered = await call_operation("PutApp", {"slots": slots, "policy": {"settleSeconds": 0}}, app=app)
    assert registered["slots"]["production"]["taskHub"] == old
    assert await call_operation("PostEvents", [event(old, "order-1")]) == {
        "recorded": 1,
        "unchanged": 0,
        "quarantined": 0,
    }
    assert (await call_operation("GetTaskHub", hub=old))["activeCount"] == 1
    assert [instance["instanceId"] for instance in (await call_operation("ListInstances", hub=old))["instances"]] == [
        "order-1"
    ]
    (point,) = (await call_operation("GetTimeline", hub=old))["points"]
    assert (point["started"], point["cohort"]["active"]) == (1, 1)
    staged = await call_operation("PostStaging", {"taskHub": new, "version": "2"}, app=app)
    assert staged["deployment"]["taskHub"] == new
    assert (await call_operation("DeleteStaging", query={"taskHub": new}, app=app))["deployment"] is None
    swapped = await call_operation("PostSwap", {"taskHub": new}, app=app)
    assert {name: slot["taskHub"] for name, slot in swapped["slots"].items()} == {"production": new, "staging": old}
    verdict = await call_operation("GetStagingStatus", app=app)
    assert (verdict["taskHub"], verdict["ready"], verdict["activeCount"]) == (old, False, 1)
    waiver = {"taskHub": old, "instanceId": "order-1", "reason": "stuck", "expiresAt": timestamp(3600)}
    assert (await call_operation("PostWaiver", waiver, app=app))["waivers"][0]["instanceId"] == "order-1"
    assert (await call_operation("DeleteWaiver", query={"taskHub": old, "instanceId": "order-1"}, app=app))[
        "waivers"
    ] == []
    async with ProviderTaskHub(storage, old) as provider:
        await (await provider.create()).put("order-1", "Running", version="1.0")
    await call_operation("PutApp", {"taskHubs": {"provider": "azureStorage", "connection": STATE_STORAGE}}, app=app)
    assert (await call_operation("GetVersions", hub=old))["versions"][0]["version"] == "1.0"
    assert (await call_operation("Cleanup", {"dryRun": True}, app=app))["taskHubs"] == []
    assert (await call_operation("GetApp", app=app))["slots"] == swapped["slots"]
    assert app in [listed["app"] for listed in (await call_operation("ListApps", query={"top": 1000}))["apps"]]
    assert len((await call_operation("GetHistory", app=app))["history"]) == 7
    assert "events" in await call_operation("ListQuarantine")
    await call_operation("PostEvents", [event(f"{old}unclaimed", "order-1", "Completed", time=timestamp(-3600))])
    assert (await invoke("DeleteTaskHub", hub=f"{old}unclaimed")).status_code == 409, "the task hub is still settling"
    assert (await invoke("DeleteApp", app=app)).status_code == 409, "an instance is active"
    called |= {"DeleteTaskHub", "DeleteApp"}
    await call_operation("PutApp", {"model": "sideBySide"}, app=f"{app}-2")
    release = {"version": "1", "taskHub": f"{new}x", "address": "https://shop-1.example"}
    assert (await call_operation("PostRelease", release, app=f"{app}-2"))["releases"]["1"]["state"] == "Staged"
    assert (await call_operation("GetReleaseStatus", app=f"{app}-2", version="1"))["ready"]
    assert (await call_operation("PutRouting", {"active": "1"}, app=f"{app}-2"))["active"] == "1"
    assert (await call_operation("GetRouting", query={"router": "envoy-1"}, app=f"{app}-2"))["releases"]["1"][
        "state"
    ] == "Serving"
    second = {"version": "2", "taskHub": f"{new}y", "address": "https://shop-2.example"}
    await call_operation("PostRelease", second, app=f"{app}-2")
    steps = [{"weight": 10, "minutes": 5}]
    assert (await call_operation("PutRollout", {"version": "2", "steps": steps}, app=f"{app}-2"))["state"] == "Running"
    assert (await call_operation("GetRolloutHealth", app=f"{app}-2"))["status"] == "Undecided"
    aborted = await call_operation("PostRollout", {"reason": "test"}, app=f"{app}-2", action="abort")
    assert await call_operation("GetRollout", app=f"{app}-2") == aborted
    assert (await call_operation("ListReleases", app=f"{app}-2"))["routers"][0]["router"] == "envoy-1"
    await call_operation("ForgetRouter", app=f"{app}-2", router="envoy-1")
    in_use = await invoke("DeleteRelease", query={"outcome": "Pending"}, app=f"{app}-2", version="1")
    assert json_body(in_use)["code"] == "ReleaseInUse"
    called.add("DeleteRelease")
    assert "removed" in await call_operation("PurgeQuarantine", query={"before": "2020-01-01"})
    assert called == set(operation_functions())


async def test_the_timer_probes_task_hubs_that_are_draining(
    function_app_settings: None, storage: StorageSettings, app: str, hub: str
) -> None:
    async with ProviderTaskHub(storage, hub) as provider:
        await provider.create()
    slots = {"staging": {"taskHub": hub}}
    provider_config = {"provider": "azureStorage", "connection": STATE_STORAGE}
    await invoke("PutApp", {"slots": slots, "taskHubs": provider_config}, app=app)
    await indexed_functions()[PROBE_TIMER].get_user_function()(timer=None)
    verdict = json_body(await invoke("GetStagingStatus", query={"verify": "none"}, app=app))
    assert (verdict["ready"], verdict["assurance"]) == (True, "verified")


async def test_the_timer_advances_rollouts(function_app_settings: None, app: str) -> None:
    await invoke("PutApp", {"model": "sideBySide"}, app=app)
    for version in ("1", "2"):
        hub = f"{app.replace('-', '')}v{version}"
        release = {"version": version, "taskHub": hub, "address": f"https://shop-{version}.example"}
        await invoke("PostRelease", release, app=app)
        if version == "1":
            await invoke("PutRouting", {"active": "1"}, app=app)
    await invoke("PutRollout", {"version": "2", "steps": [{"weight": 10, "minutes": 0.0001}]}, app=app)
    await indexed_functions()[ROLLOUT_TIMER].get_user_function()(timer=None)
    rollout = json_body(await invoke("GetRollout", app=app))
    assert (rollout["state"], rollout["lastDecision"]["action"]) == ("Finished", "Finish")


async def test_the_audit_log_names_the_caller_of_a_function(function_app_settings: None, app: str) -> None:
    headers = {"X-Actor": "anna", "X-Run-Url": "https://ci.example/7"}
    await invoke("PutApp", {"slots": {}}, headers=headers, app=app)
    (record,) = json_body(await invoke("GetHistory", app=app))["history"]
    assert (record["by"], record["runUrl"], record["keyName"]) == ("anna", "https://ci.example/7", "the-admin")


async def test_a_problem_document_keeps_its_media_type_and_headers(function_app_settings: None, app: str) -> None:
    """AsgiMiddleware of the library would set the media type to text/plain."""
    response = await invoke("GetApp", app=app)
    assert (response.status_code, json_body(response)["code"]) == (404, "AppNotFound")
    assert media_type(response) == response.mimetype == PROBLEM_MEDIA_TYPE
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("escaped", ["x%2Fhistory", "x%2fstaging"])
async def test_a_path_with_an_escaped_slash_reaches_no_other_operation(
    function_app_settings: None, escaped: str
) -> None:
    request = func.HttpRequest("GET", f"{HOST_URL}/api/apps/{escaped}", body=b"", route_params={"app": escaped})
    response = await pass_request("GetApp", request)
    assert (response.status_code, json_body(response)["code"]) == (404, "NotFound")
    assert security_headers("http").items() <= dict(response.headers).items()


async def test_a_path_that_is_not_utf_8_is_refused_with_a_problem_document(function_app_settings: None) -> None:
    request = func.HttpRequest("GET", f"{HOST_URL}/api/apps/%FF", body=b"", route_params={"app": "%FF"})
    response = await pass_request("GetApp", request)
    assert (response.status_code, response.mimetype) == (400, "application/problem+json")
    assert json_body(response)["detail"] == "the address is not UTF-8"


async def test_the_cloudevents_handshake_succeeds(function_app_settings: None) -> None:
    origin = {"WebHook-Request-Origin": "eventgrid.azure.net"}
    response = await invoke("PostEvents", method="OPTIONS", headers=origin)
    assert (response.status_code, response.get_body()) == (200, b"")
    assert response.headers["WebHook-Allowed-Origin"] == "eventgrid.azure.net"
    assert response.headers["WebHook-Allowed-Rate"] == "*"


async def test_the_event_grid_handshake_succeeds(function_app_settings: None, hub: str) -> None:
    delivery = sample_delivery("validation", hub)
    response = await invoke("PostEvents", delivery, headers={"aeg-event-type": "SubscriptionValidation"})
    assert json_body(response) == {"validationResponse": delivery[0]["data"]["validationCode"]}


@pytest.mark.parametrize(
    ("name", "recorded_count", "active_count"),
    [("running", 1, 1), ("completed", 1, 0), ("failed", 1, 0), ("continue-as-new", 3, 1), ("entity", 1, 0)],
)
async def test_recorded_deliveries_are_accepted(
    function_app_settings: None, hub: str, name: str, recorded_count: int, active_count: int
) -> None:
    assert json_body(await invoke("PostEvents", sample_delivery(name, hub)))["recorded"] == recorded_count
    assert json_body(await invoke("GetTaskHub", hub=hub))["activeCount"] == active_count


async def test_a_recorded_cloudevent_is_accepted(function_app_settings: None, hub: str) -> None:
    headers = {"content-type": "application/cloudevents+json; charset=utf-8"}
    response = await invoke("PostEvents", sample_delivery("cloudevent-running", hub), headers=headers)
    assert json_body(response) == {"recorded": 1, "unchanged": 0, "quarantined": 0}


async def test_without_storage_the_functions_respond_with_503_and_retry_after(
    unreachable_storage: None, hub: str
) -> None:
    for response in (await invoke("PostEvents", [event(hub)]), await invoke("Ready")):
        assert (response.status_code, json_body(response)["code"]) == (503, "StorageUnavailable")
        assert media_type(response) == PROBLEM_MEDIA_TYPE
        assert int(response.headers["Retry-After"]) > 0
    assert (await invoke("Health")).status_code == 200
