"""PutApp over HTTP: an existing production, the policy and its exemptions, and the provider."""

import asyncio

import httpx
import pytest

from state_api.app import StateServer
from tests.builders import event, timestamp
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import (
    assert_problem,
    get_staging,
    post_events,
    post_staging,
    put_app,
    reason_codes,
    stage_and_swap,
)

pytestmark = pytest.mark.anyio

SETTING = "STATE_TASKHUBS_SHOP"
UNSET = "STATE_TASKHUBS_UNSET"


async def test_a_registered_production_is_protected_while_it_runs(http: httpx.AsyncClient, app: str) -> None:
    old_hub, new_hub, next_one = new_hub_name(), new_hub_name(), new_hub_name()
    registered = await put_app(http, app, slots={"production": {"taskHub": old_hub, "version": "1.4.0"}})
    assert registered.json()["slots"]["production"]["taskHub"] == old_hub
    await post_events(http, event(old_hub))
    await stage_and_swap(http, app, new_hub)
    assert_problem(await post_staging(http, app, next_one), 409, "StagingNotReady")
    assert_problem(await put_app(http, app, slots={"staging": None}), 409, "StagingNotReady")
    assert_problem(await put_app(http, app, slots={"staging": {"taskHub": next_one}}), 409, "StagingNotReady")


async def test_the_body_of_get_app_can_be_changed_and_sent_to_put_app(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    first = await put_app(http, app, slots={"production": {"taskHub": hub}}, policy={"ignoreFunctions": ["Nightly*"]})
    body = first.json()
    body["policy"]["settleSeconds"] = 5
    second = await http.put(f"/api/apps/{app}", json=body, headers={"If-Match": first.headers["etag"]})
    assert second.status_code == 200
    assert second.json()["policy"] == {**first.json()["policy"], "settleSeconds": 5}
    unchanged = await http.put(f"/api/apps/{app}", json=second.json())
    assert unchanged.headers["etag"] == second.headers["etag"]


async def test_members_that_put_app_leaves_out_stay_as_they_are(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await put_app(
        http,
        app,
        slots={"production": {"taskHub": hub, "version": "1.4.0"}},
        policy={"settleSeconds": 5, "retention": {"keepLast": 2, "keepForHours": 24}},
    )
    changed = await put_app(http, app, slots={"production": {"taskHub": hub}}, policy={"retention": {"keepLast": 3}})
    assert changed.json()["slots"]["production"]["version"] == "1.4.0"
    assert changed.json()["policy"]["settleSeconds"] == 5
    assert changed.json()["policy"]["retention"] == {"keepLast": 3, "keepForHours": 24}
    newest = (await http.get(f"/api/apps/{app}/history")).json()["history"][0]
    assert newest["details"] == {"policy": {"retention": {"keepLast": 3, "keepForHours": 24}}}


async def test_null_restores_the_default_of_a_policy_member(http: httpx.AsyncClient, app: str) -> None:
    defaults = (await put_app(http, app)).json()["policy"]
    changes = {
        "settleSeconds": 5,
        "requireVerification": True,
        "ignoreFunctions": ["Nightly*"],
        "retention": {"keepLast": 2, "keepForHours": 24},
        "maxReleases": 5,
        "quiesceOrder": "overlap",
    }
    assert (await put_app(http, app, policy=changes)).json()["policy"] == defaults | changes
    partly = await put_app(http, app, policy={"retention": {"keepLast": None}, "settleSeconds": None})
    remaining = changes | {"settleSeconds": 30, "retention": {"keepLast": 0, "keepForHours": 24}}
    assert partly.json()["policy"] == defaults | remaining
    assert (await put_app(http, app, policy=dict.fromkeys(changes))).json()["policy"] == defaults


async def test_an_app_is_created_or_changed_only_under_the_condition_of_the_request(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    body = {"slots": {"production": {"taskHub": hub}}}
    only_existing, only_new = {"If-Match": "*"}, {"If-None-Match": "*"}
    assert_problem(await http.put(f"/api/apps/{app}", json=body, headers=only_existing), 412, "PreconditionFailed")
    assert (await http.get(f"/api/apps/{app}")).status_code == 404
    assert (await http.put(f"/api/apps/{app}", json=body, headers=only_new)).status_code == 200
    problem = assert_problem(await http.put(f"/api/apps/{app}", json=body, headers=only_new), 412, "PreconditionFailed")
    assert f"app {app} exists" in problem["detail"]
    assert (await http.put(f"/api/apps/{app}", json=body, headers=only_existing)).status_code == 200
    unknown = await http.put(f"/api/apps/{app}", json=body, headers={"If-None-Match": '"1"'})
    assert_problem(unknown, 400, "InvalidRequest")


async def test_of_callers_that_create_one_app_at_the_same_time_exactly_one_succeeds(
    http: httpx.AsyncClient, app: str
) -> None:
    responses = await asyncio.gather(
        *(
            http.put(
                f"/api/apps/{app}",
                json={"slots": {"production": {"taskHub": new_hub_name()}}},
                headers={"If-None-Match": "*"},
            )
            for _ in range(5)
        )
    )
    assert sorted(response.status_code for response in responses) == [200, 412, 412, 412, 412]


async def test_the_provider_is_shown_changed_and_cleared(http: httpx.AsyncClient, app: str) -> None:
    plain = {"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"}
    provider_config_body = (await put_app(http, app, taskHubs=plain)).json()["taskHubs"]
    assert provider_config_body == plain | {"trackingConnection": None, "trackingPrefix": None}
    tracked = plain | {"trackingConnection": "STATE_TASKHUBS_SHOP", "trackingPrefix": "Shared"}
    assert (await put_app(http, app, taskHubs=tracked)).json()["taskHubs"] == tracked
    assert (await put_app(http, app)).json()["taskHubs"] == tracked
    assert (await put_app(http, app, taskHubs=None)).json()["taskHubs"] is None


@pytest.mark.parametrize(
    ("provider_config", "message"),
    [
        ({"provider": "azureTable", "connection": SETTING}, "azureStorage"),
        ({"provider": "azureStorage", "connection": UNSET}, f"the setting {UNSET} is not set on this server"),
        ({"provider": "azureStorage", "connection": "AccountKey=c2VjcmV0"}, "body.taskHubs.connection"),
        ({"provider": "scheduler", "connection": UNSET}, UNSET),
        ({"provider": "managementApi", "connection": UNSET}, f"{UNSET}__endpoint"),
        ({"provider": "azureStorage", "connection": SETTING, "trackingPrefix": "T"}, "trackingConnection"),
        (
            {"provider": "scheduler", "connection": UNSET, "trackingConnection": SETTING},
            "scheduler has no tracking store",
        ),
    ],
)
async def test_an_unusable_provider_is_refused(
    http: httpx.AsyncClient, app: str, provider_config: dict[str, str], message: str
) -> None:
    problem = assert_problem(await put_app(http, app, taskHubs=provider_config), 400, "InvalidRequest")
    assert message in problem["detail"]
    assert_problem(await http.get(f"/api/apps/{app}"), 404, "AppNotFound")


@pytest.mark.parametrize("member", ["connection", "trackingConnection"])
@pytest.mark.parametrize("provider", ["azureStorage", "scheduler", "managementApi"])
async def test_an_app_cannot_name_other_settings_of_the_server(
    http: httpx.AsyncClient, server: StateServer, app: str, provider: str, member: str
) -> None:
    """The refusal reveals neither whether the setting exists nor its value."""
    provider_config = {"provider": provider, "connection": SETTING, member: "STATE_KEYS"}
    absent = await put_app(http, app, taskHubs=provider_config)
    server.backends._connections._environment["STATE_KEYS"] = "AccountName=secret;AccountKey=c2VjcmV0"
    present = await put_app(http, app, taskHubs=provider_config)
    assert (
        assert_problem(absent, 400, "InvalidRequest")["detail"]
        == assert_problem(present, 400, "InvalidRequest")["detail"]
    )
    if provider == "azureStorage" or member == "connection":
        assert "STATE_KEYS is neither" in present.json()["detail"]


async def test_required_verification_without_a_probe_is_never_ready(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await stage_and_swap(http, app, hub, new_hub_name())
    await put_app(http, app, policy={"requireVerification": True})
    verdict = await get_staging(http, app)
    assert (reason_codes(verdict), verdict["assurance"]) == (["VerificationRequired"], "events")


async def test_ignored_functions_do_not_block(http: httpx.AsyncClient, app: str, clock: ShiftedClock) -> None:
    first_hub, second_hub = new_hub_name(), new_hub_name()
    await put_app(http, app, policy={"ignoreFunctions": ["Nightly*"]})
    await stage_and_swap(http, app, first_hub)
    await post_events(
        http, event(first_hub, "nightly", function="NightlySync"), event(first_hub, "@counter@x", function="Counter")
    )
    await stage_and_swap(http, app, second_hub)
    clock.advance(31)
    verdict = await get_staging(http, app)
    assert (verdict["ready"], verdict["hasRunning"], verdict["ignoredCount"]) == (True, False, 1)
    await put_app(http, app, policy={"ignoreFunctions": []})
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]


async def test_an_ignored_function_that_always_runs_does_not_keep_the_hub_settling(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    old_hub = new_hub_name()
    await put_app(http, app, slots={"staging": {"taskHub": old_hub}}, policy={"ignoreFunctions": ["Monitor"]})
    await post_events(http, event(old_hub, "order", "Completed"))
    assert reason_codes(await get_staging(http, app)) == ["Settling"]
    clock.advance(31)
    for status in ("Running", "Completed", "Running"):
        await post_events(http, event(old_hub, "monitor", status, function="Monitor"), event(old_hub, "@counter@x"))
        assert (await get_staging(http, app))["ready"]
    await post_events(http, event(old_hub, "order-2", "Completed"))
    # The test's clock is ahead: by it the last write is half a minute old, by the storage's clock it is new.
    clock.offset_ticks = 0
    assert reason_codes(await get_staging(http, app)) == ["Settling"]


@pytest.mark.parametrize("together", [True, False])
async def test_an_instance_id_reused_by_an_ignored_function_still_blocks_for_the_other(
    http: httpx.AsyncClient, app: str, *, together: bool
) -> None:
    """The instance of ProcessOrder has ended 3 s ago, so the settle window blocks. The ignored instance that has its id
    now must not hide that. The events arrive in one delivery (`together`), or in one each."""
    old_hub = new_hub_name()
    await put_app(http, app, slots={"staging": {"taskHub": old_hub}}, policy={"ignoreFunctions": ["Monitor"]})
    events = [
        event(old_hub, "reused-id", time=timestamp(-5), function="ProcessOrder"),
        event(old_hub, "reused-id", "Completed", time=timestamp(-3), function="ProcessOrder"),
        event(old_hub, "reused-id", time=timestamp(-1), function="Monitor"),
    ]
    for delivery in [events] if together else [[delivered] for delivered in events]:
        await post_events(http, *delivery)
    assert reason_codes(await get_staging(http, app)) == ["Settling"]
