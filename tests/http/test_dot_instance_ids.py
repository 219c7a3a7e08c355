"""The instance ids `.` and `..`, which cannot be part of a URL path, work like all other ids."""

import httpx
import pytest

from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event, timestamp
from tests.http.operations import PROVIDER_CONFIG, get_staging, post_events, put_app, reason_codes, run_headers

pytestmark = pytest.mark.anyio

DOT_IDS = [".", ".."]


@pytest.mark.parametrize("verified", [False, True], ids=["by events", "verified"])
async def test_dot_ids_are_recorded_listed_waived_and_drained(
    *, storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str, verified: bool
) -> None:
    async with ProviderTaskHub(storage, hub) as provider:
        await provider.create()
        await provider.put_many(DOT_IDS, "Running")
        await put_app(
            http,
            app,
            slots={"staging": {"taskHub": hub}},
            policy={"settleSeconds": 0},
            taskHubs=PROVIDER_CONFIG if verified else None,
        )
        assert (await post_events(http, *(event(hub, instance_id) for instance_id in DOT_IDS)))["recorded"] == 2
        verdict = await get_staging(http, app)
        assert sorted(instance["instanceId"] for instance in verdict["active"]) == DOT_IDS
        path, parameters = f"/api/taskhubs/{hub}/instances", {"active": "true", "top": "1"}
        first_page = (await http.get(path, params=parameters)).json()
        token = {"continuationToken": first_page["continuationToken"]}
        second_page = (await http.get(path, params=parameters | token)).json()
        listed = [*first_page["instances"], *second_page["instances"]]
        assert sorted(instance["instanceId"] for instance in listed) == DOT_IDS
        for instance_id in DOT_IDS:
            waiver = {"taskHub": hub, "instanceId": instance_id, "reason": "stuck", "expiresAt": timestamp(3600)}
            waived = await http.post(f"/api/apps/{app}/waivers", json=waiver, headers=run_headers(1))
            assert waived.status_code == 200, waived.text
        verdict = await get_staging(http, app, wait=7)
        assert (reason_codes(verdict), sorted(instance["instanceId"] for instance in verdict["waived"])) == (
            [],
            DOT_IDS,
        )
        for instance_id in DOT_IDS:
            removed = await http.delete(f"/api/apps/{app}/waivers", params={"taskHub": hub, "instanceId": instance_id})
            assert removed.status_code == 200, removed.text
        assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]
        await provider.put_many(DOT_IDS, "Completed")
        if not verified:
            ends = [event(hub, instance_id, "Completed", time=timestamp(1)) for instance_id in DOT_IDS]
            assert (await post_events(http, *ends))["recorded"] == 2
        verdict = await get_staging(http, app, verify="fresh" if verified else "none")
        assert (verdict["ready"], verdict["assurance"]) == (True, "verified" if verified else "events")
        ended = (await http.get(f"/api/taskhubs/{hub}/instances", params={"active": False})).json()["instances"]
        assert sorted((instance["instanceId"], instance["runtimeStatus"]) for instance in ended) == [
            (instance_id, "Completed") for instance_id in DOT_IDS
        ]
