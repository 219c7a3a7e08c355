"""Instance ids `.` and `..`, which addresses cannot hold: everything works as with other ids."""

import httpx
import pytest

from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event, timestamp
from tests.http.operations import get_staging, post_events, put_app, reason_codes, run_headers
from tests.http.test_verification import PROVIDER_CONFIG

pytestmark = pytest.mark.anyio

DOTS = [".", ".."]


@pytest.mark.parametrize("verified", [False, True], ids=["by events", "verified"])
async def test_they_are_recorded_listed_waived_and_drained(
    *, storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str, verified: bool
) -> None:
    async with ProviderTaskHub(storage, hub) as provider:
        await provider.create()
        await provider.put_many(DOTS, "Running")
        await put_app(
            http,
            app,
            slots={"staging": {"taskHub": hub}},
            policy={"settleSeconds": 0},
            taskHubs=PROVIDER_CONFIG if verified else None,
        )
        assert (await post_events(http, *(event(hub, dots) for dots in DOTS)))["recorded"] == 2
        verdict = await get_staging(http, app)
        assert sorted(one["instanceId"] for one in verdict["active"]) == DOTS
        where, one = f"/api/taskhubs/{hub}/instances", {"active": "true", "top": "1"}
        first = (await http.get(where, params=one)).json()
        second = (await http.get(where, params=one | {"continuationToken": first["continuationToken"]})).json()
        listed = [*first["instances"], *second["instances"]]
        assert sorted(instance["instanceId"] for instance in listed) == DOTS
        for dots in DOTS:
            waiver = {"taskHub": hub, "instanceId": dots, "reason": "stuck", "expiresAt": timestamp(3600)}
            waived = await http.post(f"/api/apps/{app}/waivers", json=waiver, headers=run_headers(1))
            assert waived.status_code == 200, waived.text
        verdict = await get_staging(http, app, wait=7)
        assert (reason_codes(verdict), sorted(one["instanceId"] for one in verdict["waived"])) == ([], DOTS)
        for dots in DOTS:
            withdrawn = await http.delete(f"/api/apps/{app}/waivers", params={"taskHub": hub, "instanceId": dots})
            assert withdrawn.status_code == 200, withdrawn.text
        assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]
        await provider.put_many(DOTS, "Completed")
        if not verified:
            ends = [event(hub, dots, "Completed", timestamp(1)) for dots in DOTS]
            assert (await post_events(http, *ends))["recorded"] == 2
        verdict = await get_staging(http, app, verify="fresh" if verified else "none")
        assert (verdict["ready"], verdict["assurance"]) == (True, "verified" if verified else "events")
        ended = (await http.get(f"/api/taskhubs/{hub}/instances", params={"active": False})).json()["instances"]
        assert sorted((one["instanceId"], one["runtimeStatus"]) for one in ended) == [
            (dots, "Completed") for dots in DOTS
        ]
