"""The operations on releases side by side that a crash can interrupt, and how each is prepared."""

import httpx

from tests.conftest import new_hub_name
from tests.faults.crash_cases import OUR_RUN, CaseEnvironment, CrashCase
from tests.faults.crashing_server import SendRequest
from tests.http.operations import put_app
from tests.http.release_operations import (
    address_of,
    delete_release,
    post_release,
    put_routing,
    put_side_by_side_app,
)


async def _case_with_active_release(environment: CaseEnvironment) -> CrashCase:
    """A case in which release 1 with the task hub `old` is active."""
    case = CrashCase()
    await put_side_by_side_app(environment.http, case.app)
    assert (await post_release(environment.http, case.app, "1", case.hubs["old"], OUR_RUN)).status_code == 200
    assert (await put_routing(environment.http, case.app, "1")).status_code == 200
    return case


async def case_with_staged_release(environment: CaseEnvironment) -> CrashCase:
    """A case in which also release 2 with the task hub `new` is staged."""
    case = await _case_with_active_release(environment)
    assert (await post_release(environment.http, case.app, "2", case.hubs["new"], OUR_RUN)).status_code == 200
    return case


async def register_release(environment: CaseEnvironment) -> CrashCase:
    """Register a new release."""
    case = await _case_with_active_release(environment)

    async def send_post(http: httpx.AsyncClient) -> httpx.Response:
        return await post_release(http, case.app, "2", case.hubs["new"], OUR_RUN)

    case.send = send_post
    return case


async def adopt_releases(environment: CaseEnvironment) -> CrashCase:
    """Change from slots to releases side by side."""
    case = CrashCase()
    slots = {"production": {"taskHub": case.hubs["old"]}}
    assert (await put_app(environment.http, case.app, slots=slots)).status_code == 200
    releases = {
        version: {"taskHub": case.hubs[hub], "address": address_of(version)}
        for version, hub in (("1", "old"), ("2", "new"))
    }

    async def send_put(http: httpx.AsyncClient) -> httpx.Response:
        body = {"model": "sideBySide", "releases": releases}
        return await http.put(f"/api/apps/{case.app}", json=body, headers=OUR_RUN)

    case.send = send_put
    return case


async def promote_release(environment: CaseEnvironment) -> CrashCase:
    """Give all requests to a new release."""
    case = await case_with_staged_release(environment)

    async def send_put(http: httpx.AsyncClient) -> httpx.Response:
        response = await put_routing(http, case.app, "2", headers=OUR_RUN)
        # The document has random tokens, so the app is compared instead.
        return response if response.status_code != 200 else await http.get(f"/api/apps/{case.app}")

    case.send = send_put
    return case


def _removal_request(case: CrashCase, outcome: str) -> SendRequest:
    """The request by which a release is removed, with this outcome."""

    async def send_delete(http: httpx.AsyncClient) -> httpx.Response:
        return await delete_release(http, case.app, "2", outcome, OUR_RUN)

    return send_delete


async def begin_removal(environment: CaseEnvironment) -> CrashCase:
    """Report that the Function App of a drained release is about to be deleted."""
    case = await case_with_staged_release(environment)
    case.send = _removal_request(case, "Pending")
    return case


async def confirm_removal(environment: CaseEnvironment) -> CrashCase:
    """Report that the Function App of a release is deleted."""
    case = await begin_removal(environment)
    assert (await case.perform(environment.http)).status_code == 200
    case.send = _removal_request(case, "Done")
    return case


async def revert_removal(environment: CaseEnvironment) -> CrashCase:
    """Report that the Function App of a release was not deleted."""
    case = await begin_removal(environment)
    assert (await case.perform(environment.http)).status_code == 200
    case.send = _removal_request(case, "Failed")
    return case


async def remove_in_next_run(case: CrashCase, http: httpx.AsyncClient) -> None:
    """An operator reports the outcome, whether or not the removal has begun, and another release takes over."""
    for _ in range(2):
        assert (await delete_release(http, case.app, "2", "Done", OUR_RUN)).status_code == 200
    assert (await post_release(http, case.app, "3", new_hub_name(), OUR_RUN)).status_code == 200
    promoted = await put_routing(http, case.app, "3")
    assert (promoted.status_code, list(promoted.json()["releases"])) == (200, ["1", "3"])


async def roll_back_after_promotion(case: CrashCase, http: httpx.AsyncClient) -> None:
    """The release before gets all requests, whether or not the promotion has taken effect.

    Another change comes first: a rollback that finds nothing to change writes nothing, so it could not stop a promotion
    that is still on its way to the storage."""
    assert (await post_release(http, case.app, "3", new_hub_name(), OUR_RUN)).status_code == 200
    rolled_back = await put_routing(http, case.app, "1")
    assert rolled_back.status_code == 200, rolled_back.text
    states = {version: release["state"] for version, release in rolled_back.json()["releases"].items()}
    assert states["1"] == "Serving"
    assert states["2"] in ("Staged", "Draining")
