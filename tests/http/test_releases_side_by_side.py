"""Releases side by side over HTTP: from registration to removal, and what is refused."""

import httpx
import pytest

from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event, timestamp
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import (
    PROVIDER_CONFIG,
    assert_problem,
    post_events,
    post_staging,
    post_swap,
    put_app,
    reason_codes,
    run_headers,
)
from tests.http.release_operations import (
    SECONDS_UNTIL_ROUTERS_STOP,
    address_of,
    delete_release,
    get_release_status,
    get_routing,
    list_releases,
    post_release,
    put_routing,
    put_side_by_side_app,
    register_and_promote,
)

pytestmark = pytest.mark.anyio


async def test_a_release_lives_from_its_registration_to_its_removal(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    await put_side_by_side_app(http, app)
    hubs = await register_and_promote(http, app, "1.4.0")
    old = hubs["1.4.0"]
    await post_events(http, event(old, "order-1"))
    staged = (await post_release(http, app, "1.5.0", headers=run_headers(1))).json()
    assert staged["deployment"]["version"] == "1.5.0"
    assert staged["deployment"]["slot"] is None
    assert {version: release["state"] for version, release in staged["releases"].items()} == {
        "1.4.0": "Serving",
        "1.5.0": "Staged",
    }
    canary = (await put_routing(http, app, "1.4.0", {"1.4.0": 90, "1.5.0": 10})).json()
    assert canary["split"] == {"1.4.0": 90, "1.5.0": 10}
    assert (await http.get(f"/api/apps/{app}")).json()["deployment"] is None
    assert (await put_routing(http, app, "1.5.0")).json()["split"] is None
    verdict = await get_release_status(http, app, "1.4.0")
    assert (verdict["state"], verdict["traffic"], verdict["taskHub"]) == ("Draining", 0, old)
    assert reason_codes(verdict) == ["RoutersBehind", "InstancesActive"]
    await post_events(http, event(old, "order-1", "Completed"))
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    verdict = await get_release_status(http, app, "1.4.0")
    assert (verdict["state"], verdict["ready"], verdict["version"]) == ("Drained", True, "1.4.0")
    assert (await list_releases(http, app))["releases"]["1.4.0"]["state"] == "Drained"
    pending = (await delete_release(http, app, "1.4.0", "Pending", run_headers(2))).json()
    assert pending["releases"]["1.4.0"]["state"] == "Removing"
    assert pending["releases"]["1.4.0"]["removal"]["by"] == "pipeline 2"
    removed = (await delete_release(http, app, "1.4.0", "Done", run_headers(2))).json()
    assert removed["releases"].keys() == {"1.5.0"}
    assert [(release["version"], release["state"]) for release in removed["removedReleases"]] == [("1.4.0", "Removed")]
    assert [retired["taskHub"] for retired in removed["retired"]] == [old]
    cleaned = (await http.post(f"/api/apps/{app}/cleanup")).json()
    assert [hub["outcome"] for hub in cleaned["taskHubs"]] == ["Removed"]
    history = (await http.get(f"/api/apps/{app}/history")).json()["history"]
    assert [record["operation"] for record in reversed(history)] == [
        "PutApp",
        "PostRelease",
        "PutRouting",
        "PostRelease",
        "PutRouting",
        "PutRouting",
        "DeleteRelease",
        "DeleteRelease",
        "Cleanup",
    ]


async def test_a_failed_removal_leaves_the_release_ready_for_a_rollback(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    await put_side_by_side_app(http, app)
    await register_and_promote(http, app, "1", "2")
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    assert (await delete_release(http, app, "1", "Pending")).status_code == 200
    assert_problem(await put_routing(http, app, "1"), 409, "ReleaseRemoved")
    assert (await delete_release(http, app, "1", "Failed")).status_code == 200
    assert (await put_routing(http, app, "1")).json()["active"] == "1"
    assert_problem(await delete_release(http, app, "1", "Pending"), 409, "ReleaseInUse")


@pytest.mark.parametrize("outcome", ["Done", "Failed"])
@pytest.mark.parametrize("headers", [run_headers(1), {"X-Actor": "ops"}, run_headers(1) | {"If-Match": "*"}])
async def test_an_outcome_that_is_sent_again_ends_no_later_removal(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str, outcome: str, headers: dict[str, str]
) -> None:
    """Run 1 has reported that its removal failed. Its retry, or an operator's late report, must not end run 2's."""
    await put_side_by_side_app(http, app)
    await register_and_promote(http, app, "1", "2")
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    for step in ("Pending", "Failed"):
        assert (await delete_release(http, app, "1", step, run_headers(1))).status_code == 200
    pending = await delete_release(http, app, "1", "Pending", run_headers(2))
    problem = assert_problem(await delete_release(http, app, "1", outcome, headers), 409, "RemovalPending")
    assert problem["removal"]["by"] == "pipeline 2"
    assert "with the ETag of GetApp in If-Match" in problem["detail"]
    assert (await http.get(f"/api/apps/{app}")).json() == pending.json()
    conditional = headers | {"If-Match": pending.headers["etag"]}
    assert (await delete_release(http, app, "1", outcome, conditional)).status_code == 200


async def test_a_release_with_active_instances_is_not_removed(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    await put_side_by_side_app(http, app)
    hubs = await register_and_promote(http, app, "1", "2")
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    await post_events(http, event(hubs["1"], "order-1"))
    refused = assert_problem(await delete_release(http, app, "1", "Pending"), 409, "ReleaseNotDrained")
    assert reason_codes(refused) == ["InstancesActive"]
    assert refused["activeCount"] == 1
    assert_problem(await delete_release(http, app, "1", "Done"), 409, "ReleaseNotDrained")


async def test_a_staged_release_is_out_of_reach_only_after_its_removal_has_begun(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    await put_side_by_side_app(http, app)
    hub = new_hub_name()
    await post_release(http, app, "1", hub)
    assert (await get_release_status(http, app, "1"))["ready"]
    assert (await delete_release(http, app, "1", "Pending")).status_code == 200
    # A visitor with the override token has started an order.
    await post_events(http, event(hub, "order-1"))
    assert reason_codes(await get_release_status(http, app, "1")) == ["RoutersBehind", "InstancesActive"]
    await post_events(http, event(hub, "order-1", "Completed"))
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    assert (await get_release_status(http, app, "1"))["ready"]


# Refusals


async def test_operations_of_the_other_model_are_refused(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await put_side_by_side_app(http, app)
    for refused in (
        await post_staging(http, app, hub),
        await post_swap(http, app, hub),
        await http.get(f"/api/apps/{app}/staging"),
        await http.get(f"/api/apps/{app}/staging", params={"wait": 1}),
        await http.delete(f"/api/apps/{app}/staging", params={"taskHub": hub}),
        await put_app(http, app, slots={"staging": {"taskHub": hub}}),
    ):
        problem = assert_problem(refused, 409, "WrongModel")
        assert problem["model"] == "sideBySide"
    with_slots = f"{app}-slots"
    await put_app(http, with_slots)
    for refused in (
        await post_release(http, with_slots, "1"),
        await put_routing(http, with_slots, "1"),
        await get_routing(http, with_slots),
        await delete_release(http, with_slots, "1", "Pending"),
        await http.get(f"/api/apps/{with_slots}/releases"),
        await http.get(f"/api/apps/{with_slots}/releases/1/status"),
        await http.delete(f"/api/apps/{with_slots}/routers/envoy-1"),
    ):
        assert assert_problem(refused, 409, "WrongModel")["model"] == "slots"


async def test_operations_on_releases_need_an_app_and_a_release(http: httpx.AsyncClient, app: str) -> None:
    for missing in (await post_release(http, app, "1"), await get_routing(http, app)):
        assert_problem(missing, 404, "AppNotFound")
    await put_side_by_side_app(http, app)
    for missing in (
        await put_routing(http, app, "1"),
        await delete_release(http, app, "1", "Pending"),
        await http.get(f"/api/apps/{app}/releases/1/status"),
    ):
        assert assert_problem(missing, 404, "ReleaseNotFound")["version"] == "1"


async def test_a_version_is_used_only_once_even_by_a_deleted_app(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    await put_side_by_side_app(http, app)
    hubs = await register_and_promote(http, app, "1", "2")
    assert_problem(await post_release(http, app, "1"), 409, "ReleaseExists")
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    assert (await delete_release(http, app, "1", "Done")).status_code == 200
    assert_problem(await post_release(http, app, "1"), 409, "ReleaseExists")
    await http.post(f"/api/apps/{app}/cleanup")
    assert (await http.delete(f"/api/apps/{app}")).status_code == 200
    await put_side_by_side_app(http, app)
    for version in ("1", "2"):
        assert_problem(await post_release(http, app, version), 409, "ReleaseExists")
    adopted = await put_app(http, app, releases={"2": {"taskHub": hubs["2"], "address": address_of("2")}})
    assert adopted.status_code == 200, "an administrator adopts what still exists"
    other_hub = {"taskHub": new_hub_name(), "address": address_of("1")}
    assert_problem(await put_app(http, app, releases={"1": other_hub}), 409, "ReleaseExists")


async def test_a_task_hub_belongs_to_one_release_of_one_app(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await put_side_by_side_app(http, app)
    other = f"{app}-other"
    await put_side_by_side_app(http, other)
    assert (await post_release(http, app, "1", hub, run_headers(1))).status_code == 200
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["release"] == "1"
    in_use = assert_problem(await post_release(http, app, "2", hub, run_headers(1)), 409, "TaskHubInUse")
    assert in_use["release"] == "1"
    assert_problem(await post_release(http, other, "1", hub), 409, "TaskHubInUse")
    assert_problem(await post_staging(http, f"{app}-slots", hub), 409, "TaskHubInUse")


async def test_only_allowed_addresses_get_customers(http: httpx.AsyncClient, app: str) -> None:
    await put_side_by_side_app(http, app, policy={"addressPattern": "https://shop-*.example", "maxReleases": 1})
    elsewhere = await post_release(http, app, "1", address="https://shop-1.evil.example")
    assert assert_problem(elsewhere, 409, "AddressNotAllowed")["addressPattern"] == "https://shop-*.example"
    assert (await post_release(http, app, "1", address="https://SHOP-1.example:443")).json()["releases"]["1"][
        "address"
    ] == "https://shop-1.example"
    assert_problem(await post_release(http, app, "2", headers=run_headers(2)), 409, "DeploymentInProgress")
    await put_routing(http, app, "1")
    assert_problem(await post_release(http, app, "2", headers=run_headers(2)), 409, "TooManyReleases")
    await put_app(http, app, policy={"maxReleases": None, "addressPattern": None})
    policy = (await http.get(f"/api/apps/{app}")).json()["policy"]
    assert (policy["maxReleases"], policy["addressPattern"], policy["settleSeconds"]) == (None, None, 30)
    same_address = await post_release(http, app, "2", address=address_of("1"))
    assert_problem(same_address, 409, "ReleaseExists")


@pytest.mark.parametrize(
    "body",
    [
        {"version": "1/2"},
        {"version": ""},
        {"address": "http://shop.example"},
        {"address": "https://shop.example/api"},
        {"address": "https://user@shop.example"},
        {"taskHub": "x"},
        {"takeOver": True},
        {"unknown": 1},
    ],
)
async def test_an_invalid_release_is_refused(http: httpx.AsyncClient, app: str, body: dict[str, object]) -> None:
    await put_side_by_side_app(http, app)
    release = {"version": "1", "taskHub": new_hub_name(), "address": address_of("1"), **body}
    assert_problem(await http.post(f"/api/apps/{app}/releases", json=release), 400, "InvalidRequest")


@pytest.mark.parametrize(
    "policy",
    [
        {"quiesceFunctions": ["Send-Invoices"]},
        {"quiesceOrder": "both"},
        {"maxReleases": 0},
        {"maxReleases": 51},
        {"addressPattern": "shop"},
        {"addressPattern": "https://shop/*"},
    ],
)
async def test_an_invalid_policy_is_refused(http: httpx.AsyncClient, app: str, policy: dict[str, object]) -> None:
    assert_problem(await put_app(http, app, policy=policy), 400, "InvalidRequest")


async def test_a_policy_for_releases_is_kept(http: httpx.AsyncClient, app: str) -> None:
    policy = {
        "maxReleases": 5,
        "addressPattern": "https://*.example",
        "stickyAfterPromotion": True,
        "quiesceFunctions": ["Nightly"],
        "quiesceOrder": "overlap",
    }
    await put_app(http, app, policy=policy)
    kept = (await put_app(http, app, policy={"settleSeconds": 3})).json()["policy"]
    assert {name: kept[name] for name in policy} == policy


async def test_a_waiver_lets_a_release_drain(http: httpx.AsyncClient, clock: ShiftedClock, app: str) -> None:
    await put_side_by_side_app(http, app)
    hubs = await register_and_promote(http, app, "1", "2")
    await post_events(http, event(hubs["1"], "stuck"))
    waiver = {
        "taskHub": hubs["1"],
        "instanceId": "stuck",
        "reason": "its row is stuck",
        "expiresAt": timestamp(86_400),
    }
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    assert not (await get_release_status(http, app, "1"))["ready"]
    assert (await http.post(f"/api/apps/{app}/waivers", json=waiver)).status_code == 200
    verdict = await get_release_status(http, app, "1")
    assert (verdict["ready"], [waived["instanceId"] for waived in verdict["waived"]]) == (True, ["stuck"])


# With a provider


async def test_the_management_api_cannot_read_releases(http: httpx.AsyncClient, app: str) -> None:
    config = {"provider": "managementApi", "connection": "STATE_TASKHUBS_SHOP"}
    refused = await put_app(http, app, model="sideBySide", taskHubs=config)
    assert_problem(refused, 400, "InvalidRequest")


async def test_traffic_goes_only_to_a_release_whose_app_has_started(
    http: httpx.AsyncClient, app: str, provider_hub: ProviderTaskHub
) -> None:
    await put_side_by_side_app(http, app, taskHubs=PROVIDER_CONFIG)
    assert (await post_release(http, app, "1", provider_hub.hub)).status_code == 200
    assert_problem(await put_routing(http, app, "1"), 409, "ReleaseNotDeployed")
    await provider_hub.create()
    assert (await put_routing(http, app, "1")).status_code == 200
    proof = (await http.get(f"/api/taskhubs/{provider_hub.hub}")).json()["proof"]
    assert proof["basis"] == "New"


async def test_the_same_run_repeats_its_registration_after_its_app_has_started(
    http: httpx.AsyncClient, app: str, provider_hub: ProviderTaskHub
) -> None:
    await put_side_by_side_app(http, app, taskHubs=PROVIDER_CONFIG)
    first = await post_release(http, app, "1", provider_hub.hub, run_headers(1))
    await provider_hub.create()
    again = await post_release(http, app, "1", provider_hub.hub, run_headers(1))
    assert (again.status_code, again.json()) == (200, first.json())


async def test_a_removal_reads_the_task_hub_itself(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str, provider_hub: ProviderTaskHub
) -> None:
    await put_side_by_side_app(http, app, taskHubs=PROVIDER_CONFIG)
    await post_release(http, app, "1", provider_hub.hub)
    await provider_hub.create()
    await put_routing(http, app, "1")
    async with ProviderTaskHub(provider_hub.storage, new_hub_name()) as next_hub:
        await post_release(http, app, "2", next_hub.hub)
        await next_hub.create()
        assert (await put_routing(http, app, "2")).status_code == 200
    await provider_hub.put("order-1", "Running")
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    refused = assert_problem(await delete_release(http, app, "1", "Pending"), 409, "ReleaseNotDrained")
    assert reason_codes(refused) == ["InstancesActive"]
    await provider_hub.put("order-1", "Completed")
    assert (await get_release_status(http, app, "1"))["assurance"] == "verified"
    assert (await delete_release(http, app, "1", "Pending")).status_code == 200
