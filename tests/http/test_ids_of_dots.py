"""Instance ids `.` and `..`, which addresses cannot hold: everything works as with other ids."""

import httpx
import pytest

from state_api.settings import StorageSettings
from tests.builders import at, event
from tests.http.client import codes, publish, put, run, staging
from tests.http.test_verification import SOURCE
from tests.taskhubs.provider import ProviderHub

pytestmark = pytest.mark.anyio

DOTS = [".", ".."]


@pytest.mark.parametrize("verified", [False, True], ids=["by events", "verified"])
async def test_they_are_recorded_listed_waived_and_drained(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str, verified: bool
) -> None:
    async with ProviderHub(storage, hub) as provider:
        await provider.create()
        await provider.put_many(DOTS, "Running")
        await put(
            http,
            app,
            slots={"staging": {"taskHub": hub}},
            policy={"settleSeconds": 0},
            taskHubs=SOURCE if verified else None,
        )
        assert (await publish(http, *(event(hub, dots) for dots in DOTS)))["recorded"] == 2
        verdict = await staging(http, app)
        assert sorted(one["instanceId"] for one in verdict["active"]) == DOTS
        where, one = f"/api/taskhubs/{hub}/instances", {"active": "true", "top": "1"}
        first = (await http.get(where, params=one)).json()
        second = (await http.get(where, params=one | {"continuationToken": first["continuationToken"]})).json()
        listed = [*first["instances"], *second["instances"]]
        assert sorted(instance["instanceId"] for instance in listed) == DOTS
        for dots in DOTS:
            waiver = {"taskHub": hub, "instanceId": dots, "reason": "stuck", "expiresAt": at(3600)}
            waived = await http.post(f"/api/apps/{app}/waivers", json=waiver, headers=run(1))
            assert waived.status_code == 200, waived.text
        verdict = await staging(http, app, wait=7)
        assert (codes(verdict), sorted(one["instanceId"] for one in verdict["waived"])) == ([], DOTS)
        for dots in DOTS:
            withdrawn = await http.delete(f"/api/apps/{app}/waivers", params={"taskHub": hub, "instanceId": dots})
            assert withdrawn.status_code == 200, withdrawn.text
        assert codes(await staging(http, app)) == ["InstancesActive"]
        await provider.put_many(DOTS, "Completed")
        if not verified:
            ends = [event(hub, dots, "Completed", at(1)) for dots in DOTS]
            assert (await publish(http, *ends))["recorded"] == 2
        verdict = await staging(http, app, verify="fresh" if verified else "none")
        assert (verdict["ready"], verdict["assurance"]) == (True, "verified" if verified else "events")
        ended = (await http.get(f"/api/taskhubs/{hub}/instances", params={"active": False})).json()["instances"]
        assert sorted((one["instanceId"], one["runtimeStatus"]) for one in ended) == [
            (dots, "Completed") for dots in DOTS
        ]
