"""DeleteApp over HTTP: an app is deleted only if nothing of it runs. Its audit log and its claims stay."""

import asyncio
from typing import Any

import httpx
import pytest

from harness.storage_proxy import run_storage_proxy
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderAccount
from tests.builders import event
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import (
    PROVIDER_CONFIG,
    assert_problem,
    get_staging,
    post_events,
    post_staging,
    post_swap,
    put_app,
    run_headers,
    stage_and_swap,
)
from tests.http.server_clients import client_of_second_server

pytestmark = pytest.mark.anyio


async def delete_app(http: httpx.AsyncClient, app: str, **headers: str) -> httpx.Response:
    """Delete the app, with these headers."""
    return await http.delete(f"/api/apps/{app}", headers=headers)


async def get_history(http: httpx.AsyncClient, app: str) -> list[Any]:
    """The audit log of the app, newest record first."""
    response = await http.get(f"/api/apps/{app}/history")
    assert response.status_code == 200, response.text
    records: list[Any] = response.json()["history"]
    return records


async def test_only_the_audit_log_of_a_deleted_app_remains(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await put_app(http, app, slots={"production": {"taskHub": hub}})
    deleted = await delete_app(http, app, **{"X-Actor": "anna"})
    assert deleted.status_code == 200, deleted.text
    assert (deleted.json()["app"], deleted.json()["deletedBy"], deleted.headers["etag"]) == (app, "anna", '"2"')
    for path in ("", "/staging"):
        assert_problem(await http.get(f"/api/apps/{app}{path}"), 404, "AppNotFound")
    assert_problem(await post_swap(http, app, hub), 404, "AppNotFound")
    assert_problem(await delete_app(http, app), 404, "AppNotFound")
    names = [listed_app["app"] for listed_app in (await http.get("/api/apps", params={"top": 1000})).json()["apps"]]
    assert app not in names
    records = await get_history(http, app)
    assert [(record["revision"], record["operation"], record["by"]) for record in records] == [
        (2, "DeleteApp", "anna"),
        (1, "PutApp", "anonymous"),
    ]
    assert records[0]["details"] == {"slots": {"production": hub, "staging": None}, "taskHubs": [hub]}


async def test_an_app_created_again_continues_its_audit_log_and_can_adopt_its_task_hubs(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await put_app(http, app, slots={"production": {"taskHub": hub}}, policy={"settleSeconds": 5})
    assert (await delete_app(http, app)).status_code == 200
    again = await put_app(http, app.upper(), slots={"production": {"taskHub": hub}})
    assert again.status_code == 200, again.text
    assert (again.json()["app"], again.headers["etag"]) == (app.upper(), '"3"')
    assert again.json()["policy"]["settleSeconds"] == 30, "nothing of the old app stays"
    assert (await delete_app(http, app)).status_code == 200
    assert (await post_staging(http, app, new_hub_name())).status_code == 200
    assert [record["revision"] for record in await get_history(http, app)] == [5, 4, 3, 2, 1]
    names = [listed_app["app"] for listed_app in (await http.get("/api/apps", params={"top": 1000})).json()["apps"]]
    assert names.count(app) == 1


async def test_work_that_started_after_the_deletion_blocks_when_the_app_is_created_again(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    """The records of the task hub stay, because it has drained but may start work again."""
    await put_app(http, app, slots={"staging": {"taskHub": hub}}, policy={"settleSeconds": 0})
    assert (await delete_app(http, app)).status_code == 200
    await post_events(http, event(hub))
    await put_app(http, app, slots={"staging": {"taskHub": hub}}, policy={"settleSeconds": 0})
    verdict = await get_staging(http, app)
    assert (verdict["ready"], verdict["activeCount"]) == (False, 1)


async def test_a_task_hub_that_was_used_before_its_app_was_deleted_is_not_staged_again_by_its_run(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock, hub: str
) -> None:
    """The deleted app has forgotten that the task hub was in production, and that its order still runs."""
    assert (await post_staging(http, app, hub, run_headers(1))).status_code == 200
    assert (await post_swap(http, app, hub, run_headers(1))).status_code == 200
    clock.advance(31)
    assert (await delete_app(http, app)).status_code == 200
    await post_events(http, event(hub))
    assert_problem(await post_staging(http, app, hub, run_headers(1)), 409, "TaskHubAlreadyUsed")


async def test_a_task_hub_that_the_provider_has_is_not_staged_again_by_the_run_of_a_deleted_app(
    http: httpx.AsyncClient, app_with_provider: str, provider_account: ProviderAccount, hub: str
) -> None:
    """Its events were lost, so only the provider shows that it was used."""
    assert (await post_staging(http, app_with_provider, hub, run_headers(1))).status_code == 200
    await put_app(http, app_with_provider, policy={"missingTaskHubIsDrained": True, "settleSeconds": 0})
    abandoned = await http.delete(
        f"/api/apps/{app_with_provider}/staging", params={"taskHub": hub}, headers=run_headers(1)
    )
    assert abandoned.status_code == 200
    assert (await delete_app(http, app_with_provider)).status_code == 200
    await provider_account.add_task_hub(hub, ("order-1", "Running"))
    await put_app(http, app_with_provider, taskHubs=PROVIDER_CONFIG)
    refused = await post_staging(http, app_with_provider, hub, run_headers(1))
    assert_problem(refused, 409, "TaskHubAlreadyUsed")


async def test_no_other_app_can_claim_a_task_hub_of_a_deleted_app(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await put_app(http, app, slots={"production": {"taskHub": hub}})
    assert (await delete_app(http, app)).status_code == 200
    other = f"{app}-b"
    assert_problem(await post_staging(http, other, hub), 409, "TaskHubAlreadyUsed")
    assert_problem(await put_app(http, other, slots={"production": {"taskHub": hub}}), 409, "TaskHubAlreadyUsed")
    refused = assert_problem(await http.delete(f"/api/taskhubs/{hub}"), 409, "TaskHubClaimed")
    assert refused["app"] == app
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["app"] == app


async def test_an_app_with_an_active_instance_in_any_slot_is_not_deleted(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    hubs = {"production": new_hub_name(), "staging": new_hub_name(), "canary": new_hub_name()}
    slots = {name: {"taskHub": hub} for name, hub in hubs.items()}
    assert (await put_app(http, app, slots=slots)).status_code == 200
    for name, hub in hubs.items():
        await post_events(http, event(hub))
        refused = assert_problem(await delete_app(http, app), 409, "AppNotDrained")
        assert refused["hasRunning"]
        messages = [reason["message"] for reason in refused["reasons"] if reason["code"] == "InstancesActive"]
        assert [message.split(":")[0] for message in messages] == [f"slot {name}"]
        await post_events(http, event(hub, status="Completed"))
        settling = assert_problem(await delete_app(http, app), 409, "AppNotDrained")
        assert {reason["code"] for reason in settling["reasons"]} == {"Settling"}
        assert not settling["hasRunning"]
    clock.advance(31)
    assert (await delete_app(http, app)).status_code == 200


async def test_a_prior_hub_with_active_instances_refuses_the_deletion(http: httpx.AsyncClient, app: str) -> None:
    """A task hub was staged over another one and never deployed, so the platform's slot may hold either of them."""
    old_hub, new_hub = new_hub_name(), new_hub_name()
    await put_app(http, app, slots={"staging": {"taskHub": old_hub}}, policy={"settleSeconds": 0})
    assert (await post_staging(http, app, new_hub)).status_code == 200
    assert (await http.delete(f"/api/apps/{app}/staging", params={"taskHub": new_hub})).status_code == 200
    await post_events(http, event(old_hub))
    refused = assert_problem(await delete_app(http, app), 409, "AppNotDrained")
    assert old_hub in refused["detail"]
    await post_events(http, event(old_hub, status="Completed"))
    assert (await delete_app(http, app)).status_code == 200
    assert (await get_history(http, app))[0]["details"]["taskHubs"] == [new_hub, old_hub]


async def test_delete_app_probes_the_task_hub_at_its_provider(http: httpx.AsyncClient, app: str, hub: str) -> None:
    """No event was recorded, but the provider does not show that nothing runs, so the verdict is NotReady."""
    await put_app(
        http, app, slots={"production": {"taskHub": hub}}, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG
    )
    refused = assert_problem(await delete_app(http, app), 409, "AppNotDrained")
    assert [reason["code"] for reason in refused["reasons"]] == ["TaskHubMissing"]


async def test_an_open_deployment_a_pending_swap_and_retired_task_hubs_refuse_the_deletion(
    http: httpx.AsyncClient, app: str
) -> None:
    first_hub, second_hub, third_hub = new_hub_name(), new_hub_name(), new_hub_name()
    await put_app(http, app, policy={"settleSeconds": 0})
    assert (await post_staging(http, app, first_hub, run_headers(1))).status_code == 200
    assert assert_problem(await delete_app(http, app), 409, "DeploymentInProgress")["deployment"]["by"] == "pipeline 1"
    begun_swap = await http.post(
        f"/api/apps/{app}/swap", json={"taskHub": first_hub, "outcome": "Pending"}, headers=run_headers(1)
    )
    assert begun_swap.status_code == 200
    assert_problem(await delete_app(http, app), 409, "SwapPending")
    assert (
        await http.post(f"/api/apps/{app}/swap", json={"taskHub": first_hub, "outcome": "Done"}, headers=run_headers(1))
    ).status_code == 200
    await stage_and_swap(http, app, second_hub, third_hub)
    refused = assert_problem(await delete_app(http, app), 409, "CleanupRequired")
    assert refused["taskHubs"] == [first_hub]
    assert refused["detail"].startswith(f"app {app} still has retired task hubs: {first_hub}. Call Cleanup until")
    assert (await http.post(f"/api/apps/{app}/cleanup")).status_code == 200
    assert (await delete_app(http, app)).status_code == 200


async def test_if_match_refuses_the_deletion_of_a_changed_app(http: httpx.AsyncClient, app: str) -> None:
    await put_app(http, app)
    assert_problem(await delete_app(http, app, **{"If-Match": '"7"'}), 412, "PreconditionFailed")
    assert (await delete_app(http, app, **{"If-Match": '"1"'})).status_code == 200
    assert_problem(await delete_app(http, app, **{"If-Match": "*"}), 412, "PreconditionFailed")


async def test_exactly_one_of_ten_concurrent_deletions_succeeds(http: httpx.AsyncClient, app: str) -> None:
    await put_app(http, app)
    responses = await asyncio.gather(*(delete_app(http, app, **{"X-Actor": f"admin {n}"}) for n in range(10)))
    assert sorted(response.status_code for response in responses) == [200] + [404] * 9
    (winner,) = (response.json()["deletedBy"] for response in responses if response.status_code == 200)
    assert [record["by"] for record in await get_history(http, app) if record["operation"] == "DeleteApp"] == [winner]


async def test_a_concurrent_stage_and_deletion_both_take_effect_or_one_is_refused(
    http: httpx.AsyncClient, app: str
) -> None:
    """Either the deletion is refused because of the deployment, or the staging creates the app again."""
    for number in range(5):
        name = f"{app}-{number}"
        await put_app(http, name)
        staged, deleted = await asyncio.gather(
            post_staging(http, name, new_hub_name(), run_headers(1)), delete_app(http, name)
        )
        assert staged.status_code == 200, staged.text
        created_app = (await http.get(f"/api/apps/{name}")).json()
        assert created_app["slots"]["staging"]["taskHub"] == staged.json()["slots"]["staging"]["taskHub"]
        operations = [record["operation"] for record in await get_history(http, name)]
        if deleted.status_code == 200:
            assert operations == ["PostStaging", "DeleteApp", "PutApp"]
        else:
            assert_problem(deleted, 409, "DeploymentInProgress")
            assert operations == ["PostStaging", "PutApp"]


async def test_a_deletion_and_its_audit_record_are_one_transaction(
    storage: StorageSettings, http: httpx.AsyncClient, app: str
) -> None:
    await put_app(http, app)
    async with run_storage_proxy(storage) as proxy, client_of_second_server(proxy.settings) as counted:
        assert (await delete_app(counted, app)).status_code == 200
        assert len([request for request in proxy.forwarded if request.method != "GET"]) == 1
    assert [record["operation"] for record in await get_history(http, app)] == ["DeleteApp", "PutApp"]
