"""Waivers over HTTP: a stuck instance does not block until its waiver expires, on record."""

from typing import Any

import httpx
import pytest

from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event, timestamp
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import (
    PROVIDER_CONFIG,
    assert_problem,
    get_staging,
    post_events,
    post_staging,
    put_app,
    reason_codes,
    run_headers,
)

pytestmark = pytest.mark.anyio


async def post_waiver(http: httpx.AsyncClient, app: str, hub: str, instance_id: str, **more: Any) -> httpx.Response:
    """Call PostWaiver for one instance, for an hour. `more` replaces members of the request."""
    body = {
        "taskHub": hub,
        "instanceId": instance_id,
        "reason": "row stuck, case 4711",
        "expiresAt": timestamp(3600),
        **more,
    }
    return await http.post(f"/api/apps/{app}/waivers", json=body, headers=run_headers(7))


@pytest.fixture
async def hub_with_active_instances(http: httpx.AsyncClient, app: str, hub: str) -> str:
    """A task hub in the staging slot with two active instances."""
    await put_app(http, app, slots={"staging": {"taskHub": hub}}, policy={"settleSeconds": 0})
    await post_events(http, event(hub, "order-1"), event(hub, "order-2", function="Ship"))
    return hub


async def test_a_waived_instance_does_not_block_and_every_verdict_lists_it(
    http: httpx.AsyncClient, app: str, hub_with_active_instances: str
) -> None:
    waived = await post_waiver(http, app, hub_with_active_instances, "order-1")
    assert waived.status_code == 200, waived.text
    verdict = await get_staging(http, app)
    assert [instance["instanceId"] for instance in verdict["active"]] == ["order-2"]
    assert (verdict["activeCount"], verdict["ready"]) == (1, False)
    await post_waiver(http, app, hub_with_active_instances, "order-2", reason="tolerates new code")
    verdict = await get_staging(http, app)
    assert (verdict["ready"], verdict["hasRunning"], verdict["activeCount"]) == (True, False, 0)
    assert [
        (instance["instanceId"], instance["functionName"], instance["reason"], instance["by"])
        for instance in verdict["waived"]
    ] == [
        ("order-1", "ProcessOrder", "row stuck, case 4711", "pipeline 7"),
        ("order-2", "Ship", "tolerates new code", "pipeline 7"),
    ]
    assert (await post_staging(http, app, new_hub_name())).status_code == 200


async def test_a_waiver_is_recorded_and_shown_with_the_app(
    http: httpx.AsyncClient, app: str, hub_with_active_instances: str
) -> None:
    expires = timestamp(3600)
    listed_waivers = (await post_waiver(http, app, hub_with_active_instances, "order-1", expiresAt=expires)).json()[
        "waivers"
    ]
    assert [
        (instance["taskHub"], instance["instanceId"], instance["by"], instance["expiresAt"])
        for instance in listed_waivers
    ] == [(hub_with_active_instances, "order-1", "pipeline 7", expires)]
    record = (await http.get(f"/api/apps/{app}/history")).json()["history"][0]
    assert (record["operation"], record["reason"], record["by"]) == ("PostWaiver", "row stuck, case 4711", "pipeline 7")
    assert record["details"] == {"taskHub": hub_with_active_instances, "instanceId": "order-1", "expiresAt": expires}
    app_document = (await http.get(f"/api/apps/{app}")).json()
    assert (await http.put(f"/api/apps/{app}", json=app_document)).status_code == 200
    assert (await http.get(f"/api/apps/{app}")).json()["waivers"] == listed_waivers


async def test_an_expired_waiver_has_no_effect(
    http: httpx.AsyncClient, app: str, hub_with_active_instances: str, clock: ShiftedClock
) -> None:
    await post_waiver(http, app, hub_with_active_instances, "order-1")
    await post_waiver(http, app, hub_with_active_instances, "order-2")
    assert (await get_staging(http, app))["ready"]
    clock.advance(3601)
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]
    assert (await http.get(f"/api/apps/{app}")).json()["waivers"] == []


async def test_a_waiver_can_be_removed(http: httpx.AsyncClient, app: str, hub_with_active_instances: str) -> None:
    await post_waiver(http, app, hub_with_active_instances, "order-1")
    where = {"taskHub": hub_with_active_instances.upper(), "instanceId": "order-1"}
    assert (await http.delete(f"/api/apps/{app}/waivers", params=where)).json()["waivers"] == []
    assert (await get_staging(http, app))["activeCount"] == 2
    assert_problem(await http.delete(f"/api/apps/{app}/waivers", params=where), 404, "WaiverNotFound")


@pytest.mark.parametrize(
    ("wrong", "status", "code"),
    [
        ({"reason": "  "}, 400, "InvalidRequest"),
        ({"expiresAt": "tomorrow"}, 400, "InvalidRequest"),
        ({"expiresAt": timestamp(-1)}, 400, "InvalidRequest"),
        ({"expiresAt": timestamp(91 * 86_400)}, 400, "InvalidRequest"),
        ({"instanceId": ""}, 400, "InvalidRequest"),
        ({"instanceId": "x" * 257}, 400, "InvalidRequest"),
        ({"instanceId": "@counter@shop"}, 400, "InvalidRequest"),
        ({"taskHub": "otherhub"}, 404, "TaskHubNotFound"),
        ({"who": "me"}, 400, "InvalidRequest"),
    ],
)
async def test_an_invalid_waiver_is_refused(
    *, http: httpx.AsyncClient, app: str, hub_with_active_instances: str, wrong: dict[str, str], status: int, code: str
) -> None:
    response = await post_waiver(http, app, hub_with_active_instances, "order-1")
    before = response.json()["waivers"]
    sent = {"taskHub": hub_with_active_instances, "instanceId": "order-1"} | wrong
    assert_problem(await post_waiver(http, app, sent.pop("taskHub"), sent.pop("instanceId"), **sent), status, code)
    assert (await http.get(f"/api/apps/{app}")).json()["waivers"] == before


async def test_a_waiver_for_an_unknown_app_is_not_found(http: httpx.AsyncClient, app: str, hub: str) -> None:
    assert_problem(await post_waiver(http, app, hub, "order-1"), 404, "AppNotFound")


async def test_an_instance_that_is_stuck_at_its_provider_can_be_waived(
    http: httpx.AsyncClient, app: str, hub: str, storage: StorageSettings
) -> None:
    async with ProviderTaskHub(storage, hub) as provider:
        await provider.create()
        await provider.put("order-1", "Pending")
    await put_app(http, app, slots={"staging": {"taskHub": hub}}, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]
    await post_waiver(http, app, hub, "order-1")
    verdict = await get_staging(http, app, verify="fresh")
    assert (verdict["ready"], verdict["assurance"]) == (True, "verified")
    assert [(instance["instanceId"], instance["runtimeStatus"]) for instance in verdict["waived"]] == [
        ("order-1", "Pending")
    ]
