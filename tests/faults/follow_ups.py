"""What comes after a crash when nobody asks for the same again: other requests, by the same run or by others. Whether
the operation took effect before the server died is not known; each must end well in either case."""

from typing import Any

import httpx

from tests.builders import event, timestamp
from tests.conftest import new_hub_name
from tests.faults.crash_cases import OTHER_RUN, OUR_RUN, CrashCase
from tests.http.operations import assert_problem, post_events, post_staging


async def abandon_and_stage_next(case: CrashCase, http: httpx.AsyncClient) -> None:
    """The run gives up, and the next one stages."""
    took_effect = await _staged_hub(case, http) == case.hubs["new"]
    asked = {"taskHub": case.hubs["new"]}
    given_up = await http.delete(f"/api/apps/{case.app}/staging", params=asked, headers=OUR_RUN)
    if took_effect:
        assert given_up.status_code == 200, given_up.text
    else:
        assert_problem(given_up, 409, "SwapMismatch")
    again = await http.delete(f"/api/apps/{case.app}/staging", params=asked, headers=OUR_RUN)
    assert again.status_code == given_up.status_code
    after = await post_staging(http, case.app, new_hub_name(), OTHER_RUN)
    assert after.status_code == 200, after.text
    ours = ["DeleteStaging", "PostStaging"] if took_effect else []
    assert await _audited_operations(case, http) == ["PostStaging", *ours]


async def stage_another_hub(case: CrashCase, http: httpx.AsyncClient) -> None:
    """The run comes again and has made a new name for its task hub."""
    took_effect = await _staged_hub(case, http) == case.hubs["new"]
    hub = new_hub_name()
    after = await post_staging(http, case.app, hub, OUR_RUN)
    assert after.status_code == 200, after.text
    app = after.json()
    assert (app["slots"]["staging"]["taskHub"], app["deployment"]["taskHub"]) == (hub, hub)
    retired = [case.hubs["old"], case.hubs["new"]] if took_effect else [case.hubs["old"]]
    assert [one["taskHub"] for one in app["retired"]] == retired
    assert await _audited_operations(case, http) == ["PostStaging"] * (1 + took_effect)


async def stage_by_another_run(case: CrashCase, http: httpx.AsyncClient) -> None:
    """Another run wants the slot. It may take it from a run that is dead."""
    took_effect = await _staged_hub(case, http) == case.hubs["new"]
    hub = new_hub_name()
    first = await post_staging(http, case.app, hub, OTHER_RUN)
    if took_effect:
        assert assert_problem(first, 409, "DeploymentInProgress")["deployment"]["taskHub"] == case.hubs["new"]
        first = await post_staging(http, case.app, hub, OTHER_RUN, takeOver=True, reason="run 1 is dead")
    assert first.status_code == 200, first.text
    assert first.json()["deployment"]["by"] == "pipeline 2"
    # What was staged by nobody, or is no longer held, cannot be promoted.
    assert_problem(await _post_swap(case, http, "Pending", OUR_RUN), 409, "SwapMismatch")
    assert await _audited_operations(case, http) == ["PostStaging"] * (1 + took_effect)


async def report_swap_failed(case: CrashCase, http: httpx.AsyncClient) -> None:
    """The platform has not swapped; the run says so, and begins anew."""
    began = (await _get_app(case, http))["pendingSwap"] is not None
    back = await _post_swap(case, http, "Failed", OUR_RUN)
    assert back.status_code == 200, back.text
    app = back.json()
    assert app["slots"]["staging"]["taskHub"] == app["deployment"]["taskHub"] == case.hubs["new"]
    assert app["pendingSwap"] is None
    for outcome in ("Pending", "Done"):
        assert (await _post_swap(case, http, outcome, OUR_RUN)).status_code == 200
    assert await _hubs_in_slots(case, http) == (case.hubs["new"], case.hubs["old"])
    assert await _audited_operations(case, http) == ["PostSwap"] * (4 if began else 2)


async def report_swap_done(case: CrashCase, http: httpx.AsyncClient) -> None:
    """Somebody looks at the platform, which has swapped, and says so."""
    began = (await _get_app(case, http))["pendingSwap"] is not None
    verdict = (await http.get(f"/api/apps/{case.app}/staging")).json()
    assert ("SwapPending" in [reason["code"] for reason in verdict["reasons"]]) == began
    for _ in range(2):
        done = await _post_swap(case, http, "Done", {"X-Actor": "ops"})
        assert done.status_code == 200, done.text
    assert await _hubs_in_slots(case, http) == (case.hubs["new"], case.hubs["old"])
    assert await _audited_operations(case, http) == ["PostSwap"] * (1 + began)


async def confirm_before_next_stage(case: CrashCase, http: httpx.AsyncClient) -> None:
    """The next run finds the swap pending or done; who has looked at the platform may end it for the one before."""
    pending = (await _get_app(case, http))["pendingSwap"] is not None
    hub = new_hub_name()
    first = await post_staging(http, case.app, hub, OTHER_RUN)
    if pending:
        assert_problem(first, 409, "SwapPending")
        assert (await _post_swap(case, http, "Done", {"X-Actor": "ops"})).status_code == 200
        first = await post_staging(http, case.app, hub, OTHER_RUN)
    assert first.status_code == 200, first.text
    assert await _hubs_in_slots(case, http) == (case.hubs["new"], hub)
    assert await _audited_operations(case, http) == ["PostStaging", "PostSwap", "PostSwap"]


async def clean_up_in_next_release(case: CrashCase, http: httpx.AsyncClient) -> None:
    """A release goes on, a late event comes, and the next cleanup is that of the next release."""
    hub = new_hub_name()
    assert (await post_staging(http, case.app, hub, OUR_RUN)).status_code == 200
    assert (await _post_swap(case, http, "Done", OUR_RUN)).status_code == 409, "that hub was never staged"
    await post_events(http, event(case.hubs["old"], "order-2", "Completed", time=timestamp(-30)))
    left = {one["taskHub"] for one in (await _get_app(case, http))["retired"]}
    for dry_run, outcome in ((True, "WouldRemove"), (False, "Removed")):
        answer = await http.post(f"/api/apps/{case.app}/cleanup", json={"dryRun": dry_run}, headers=OTHER_RUN)
        assert answer.status_code == 200, answer.text
        assert {one["taskHub"]: one["outcome"] for one in answer.json()["taskHubs"]} == dict.fromkeys(left, outcome)
    assert (await _get_app(case, http))["retired"] == []
    history = await _get_history(case, http)
    removed = [hub for one in history if one["operation"] == "Cleanup" for hub in one["details"]["removed"]]
    assert sorted(removed) == sorted((case.hubs["old"], case.hubs["new"])), "each once"
    assert_problem(await post_staging(http, case.app, case.hubs["old"], OUR_RUN), 409, "TaskHubAlreadyUsed")


async def _get_app(case: CrashCase, http: httpx.AsyncClient) -> Any:
    answer = await http.get(f"/api/apps/{case.app}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def _hubs_in_slots(case: CrashCase, http: httpx.AsyncClient) -> tuple[str, str]:
    """The hubs in production and staging."""
    slots = (await _get_app(case, http))["slots"]
    return slots["production"]["taskHub"], slots["staging"]["taskHub"]


async def _staged_hub(case: CrashCase, http: httpx.AsyncClient) -> str:
    return (await _hubs_in_slots(case, http))[1]


async def _get_history(case: CrashCase, http: httpx.AsyncClient) -> list[Any]:
    answer = await http.get(f"/api/apps/{case.app}/history")
    assert answer.status_code == 200, answer.text
    history: list[Any] = answer.json()["history"]
    return history


async def _audited_operations(case: CrashCase, http: httpx.AsyncClient) -> list[str]:
    """What is on record, newest first, without what made the case: what registered the app, and what came before the
    swap that is begun."""
    operations = [one["operation"] for one in await _get_history(case, http) if one["operation"] != "PutApp"]
    if "PostSwap" in operations:
        # The stage that the case began with.
        assert operations.pop() == "PostStaging"
    return operations


async def _post_swap(case: CrashCase, http: httpx.AsyncClient, outcome: str, headers: dict[str, str]) -> httpx.Response:
    body = {"taskHub": case.hubs["new"], "outcome": outcome}
    return await http.post(f"/api/apps/{case.app}/swap", json=body, headers=headers)
