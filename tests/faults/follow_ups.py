"""Requests that follow a crash when the pipeline does not repeat its own request. The same run or others send them.

The operation may or may not have taken effect before the crash. Each follow-up must succeed in both cases."""

from typing import Any

import httpx

from tests.builders import event, timestamp
from tests.conftest import new_hub_name
from tests.faults.crash_cases import OTHER_RUN, OUR_RUN, CrashCase
from tests.http.operations import assert_problem, post_events, post_staging


async def abandon_and_stage_next(case: CrashCase, http: httpx.AsyncClient) -> None:
    """The run abandons its task hub, and another run stages."""
    took_effect = await _staged_hub(case, http) == case.hubs["new"]
    parameters = {"taskHub": case.hubs["new"]}
    abandoned = await http.delete(f"/api/apps/{case.app}/staging", params=parameters, headers=OUR_RUN)
    if took_effect:
        assert abandoned.status_code == 200, abandoned.text
    else:
        assert_problem(abandoned, 409, "SwapMismatch")
    repeated = await http.delete(f"/api/apps/{case.app}/staging", params=parameters, headers=OUR_RUN)
    assert repeated.status_code == abandoned.status_code
    staged = await post_staging(http, case.app, new_hub_name(), OTHER_RUN)
    assert staged.status_code == 200, staged.text
    own_operations = ["DeleteStaging", "PostStaging"] if took_effect else []
    assert await _audited_operations(case, http) == ["PostStaging", *own_operations]


async def stage_another_hub(case: CrashCase, http: httpx.AsyncClient) -> None:
    """The run stages again, with a new name for its task hub."""
    took_effect = await _staged_hub(case, http) == case.hubs["new"]
    hub = new_hub_name()
    staged = await post_staging(http, case.app, hub, OUR_RUN)
    assert staged.status_code == 200, staged.text
    app = staged.json()
    assert (app["slots"]["staging"]["taskHub"], app["deployment"]["taskHub"]) == (hub, hub)
    retired = [case.hubs["old"], case.hubs["new"]] if took_effect else [case.hubs["old"]]
    assert [hub["taskHub"] for hub in app["retired"]] == retired
    assert await _audited_operations(case, http) == ["PostStaging"] * (1 + took_effect)


async def stage_by_another_run(case: CrashCase, http: httpx.AsyncClient) -> None:
    """Another run stages, and takes the slot over if the deployment of the first run is open."""
    took_effect = await _staged_hub(case, http) == case.hubs["new"]
    hub = new_hub_name()
    staged = await post_staging(http, case.app, hub, OTHER_RUN)
    if took_effect:
        assert assert_problem(staged, 409, "DeploymentInProgress")["deployment"]["taskHub"] == case.hubs["new"]
        staged = await post_staging(http, case.app, hub, OTHER_RUN, takeOver=True, reason="run 1 is dead")
    assert staged.status_code == 200, staged.text
    assert staged.json()["deployment"]["by"] == "pipeline 2"
    # The task hub of the first run is not staged any more, so it cannot be promoted.
    assert_problem(await _post_swap(case, http, "Pending", OUR_RUN), 409, "SwapMismatch")
    assert await _audited_operations(case, http) == ["PostStaging"] * (1 + took_effect)


async def report_swap_failed(case: CrashCase, http: httpx.AsyncClient) -> None:
    """The platform has not swapped. The run reports that, and begins the swap again."""
    is_pending = (await _get_app(case, http))["pendingSwap"] is not None
    reverted = await _post_swap(case, http, "Failed", OUR_RUN)
    assert reverted.status_code == 200, reverted.text
    app = reverted.json()
    assert app["slots"]["staging"]["taskHub"] == app["deployment"]["taskHub"] == case.hubs["new"]
    assert app["pendingSwap"] is None
    for outcome in ("Pending", "Done"):
        assert (await _post_swap(case, http, outcome, OUR_RUN)).status_code == 200
    assert await _hubs_in_slots(case, http) == (case.hubs["new"], case.hubs["old"])
    assert await _audited_operations(case, http) == ["PostSwap"] * (4 if is_pending else 2)


async def report_swap_done(case: CrashCase, http: httpx.AsyncClient) -> None:
    """The platform has swapped, and an operator reports that."""
    is_pending = (await _get_app(case, http))["pendingSwap"] is not None
    verdict = (await http.get(f"/api/apps/{case.app}/staging")).json()
    assert ("SwapPending" in [reason["code"] for reason in verdict["reasons"]]) == is_pending
    for _ in range(2):
        done = await _post_swap(case, http, "Done", {"X-Actor": "ops"})
        assert done.status_code == 200, done.text
    assert await _hubs_in_slots(case, http) == (case.hubs["new"], case.hubs["old"])
    assert await _audited_operations(case, http) == ["PostSwap"] * (1 + is_pending)


async def confirm_before_next_stage(case: CrashCase, http: httpx.AsyncClient) -> None:
    """The next run stages. If the swap is still pending, an operator completes it first."""
    is_pending = (await _get_app(case, http))["pendingSwap"] is not None
    hub = new_hub_name()
    staged = await post_staging(http, case.app, hub, OTHER_RUN)
    if is_pending:
        assert_problem(staged, 409, "SwapPending")
        assert (await _post_swap(case, http, "Done", {"X-Actor": "ops"})).status_code == 200
        staged = await post_staging(http, case.app, hub, OTHER_RUN)
    assert staged.status_code == 200, staged.text
    assert await _hubs_in_slots(case, http) == (case.hubs["new"], hub)
    assert await _audited_operations(case, http) == ["PostStaging", "PostSwap", "PostSwap"]


async def clean_up_in_next_release(case: CrashCase, http: httpx.AsyncClient) -> None:
    """The next release stages and swaps, a late event arrives, and that release cleans up."""
    hub = new_hub_name()
    assert (await post_staging(http, case.app, hub, OUR_RUN)).status_code == 200
    assert (await _post_swap(case, http, "Done", OUR_RUN)).status_code == 409, "that task hub was never staged"
    await post_events(http, event(case.hubs["old"], "order-2", "Completed", time=timestamp(-30)))
    retired = {hub["taskHub"] for hub in (await _get_app(case, http))["retired"]}
    for dry_run, outcome in ((True, "WouldRemove"), (False, "Removed")):
        response = await http.post(f"/api/apps/{case.app}/cleanup", json={"dryRun": dry_run}, headers=OTHER_RUN)
        assert response.status_code == 200, response.text
        assert {result["taskHub"]: result["outcome"] for result in response.json()["taskHubs"]} == dict.fromkeys(
            retired, outcome
        )
    assert (await _get_app(case, http))["retired"] == []
    history = await _get_history(case, http)
    removed = [
        removed_hub
        for record in history
        if record["operation"] == "Cleanup"
        for removed_hub in record["details"]["removed"]
    ]
    assert sorted(removed) == sorted((case.hubs["old"], case.hubs["new"])), "each task hub is removed once"
    assert_problem(await post_staging(http, case.app, case.hubs["old"], OUR_RUN), 409, "TaskHubAlreadyUsed")


async def _get_app(case: CrashCase, http: httpx.AsyncClient) -> Any:
    """The response of GetApp."""
    response = await http.get(f"/api/apps/{case.app}")
    assert response.status_code == 200, response.text
    return response.json()


async def _hubs_in_slots(case: CrashCase, http: httpx.AsyncClient) -> tuple[str, str]:
    """The task hubs in production and staging."""
    slots = (await _get_app(case, http))["slots"]
    return slots["production"]["taskHub"], slots["staging"]["taskHub"]


async def _staged_hub(case: CrashCase, http: httpx.AsyncClient) -> str:
    """The task hub in the staging slot."""
    return (await _hubs_in_slots(case, http))[1]


async def _get_history(case: CrashCase, http: httpx.AsyncClient) -> list[Any]:
    """The audit log of the app, newest record first."""
    response = await http.get(f"/api/apps/{case.app}/history")
    assert response.status_code == 200, response.text
    history: list[Any] = response.json()["history"]
    return history


async def _audited_operations(case: CrashCase, http: httpx.AsyncClient) -> list[str]:
    """The audited operations, newest first, without those that prepared the case.

    PutApp prepares a case, and so does the PostStaging before a swap.
    """
    history = await _get_history(case, http)
    operations = [record["operation"] for record in history if record["operation"] != "PutApp"]
    if "PostSwap" in operations:
        assert operations.pop() == "PostStaging"
    return operations


async def _post_swap(case: CrashCase, http: httpx.AsyncClient, outcome: str, headers: dict[str, str]) -> httpx.Response:
    """Report an outcome of the swap of the case's new task hub, for the app as it is now."""
    body = {"taskHub": case.hubs["new"], "outcome": outcome}
    etag = (await http.get(f"/api/apps/{case.app}")).headers["etag"]
    return await http.post(f"/api/apps/{case.app}/swap", json=body, headers={**headers, "If-Match": etag})
