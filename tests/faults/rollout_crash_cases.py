"""The operations on rollouts that a crash can interrupt, and how each is prepared."""

from typing import Any

import httpx

from tests.builders import event, timestamp
from tests.faults.crash_cases import OUR_RUN, CaseEnvironment, CrashCase
from tests.faults.crashing_server import SendRequest
from tests.faults.release_crash_cases import case_with_staged_release
from tests.http.operations import post_events, put_app
from tests.http.release_operations import put_routing
from tests.http.rollout_operations import get_rollout, put_rollout

_SHORT_STEP, _LONG_STEP = {"weight": 10, "minutes": 0.1}, {"weight": 50, "minutes": 600}
"""Steps of which the first is over when the clock of a server is ahead, and the second is not."""


def _action_request(case: CrashCase, action: str, **body: Any) -> SendRequest:
    """PostRollout with this action, as the run of the case."""

    async def send_post(http: httpx.AsyncClient) -> httpx.Response:
        return await http.post(f"/api/apps/{case.app}/rollout/{action}", json=body, headers=OUR_RUN)

    return send_post


async def start_rollout(environment: CaseEnvironment) -> CrashCase:
    """Begin to give a new release a share of the requests."""
    case = await case_with_staged_release(environment)

    async def send_put(http: httpx.AsyncClient) -> httpx.Response:
        return await put_rollout(http, case.app, OUR_RUN, version="2", steps=[_SHORT_STEP, _LONG_STEP])

    case.send = send_put
    return case


async def _case_with_rollout(environment: CaseEnvironment) -> CrashCase:
    """A case whose release 2 has the share of the first step."""
    case = await start_rollout(environment)
    assert (await case.perform(environment.http)).status_code == 200
    return case


async def advance_rollout(environment: CaseEnvironment) -> CrashCase:
    """Take the next step, because the minutes of the first one are over."""
    case = await _case_with_rollout(environment)
    case.send = _action_request(case, "advance")
    return case


async def advance_unhealthy_rollout(environment: CaseEnvironment) -> CrashCase:
    """Abort the rollout, because its candidate fails."""
    case = await _case_with_rollout(environment)
    # All orders start in the same minute: the minute of a change is compared by itself.
    started_at, ended_at = timestamp(), timestamp(0.01)
    events = []
    for hub, outcome in ((case.hubs["old"], "Completed"), (case.hubs["new"], "Failed")):
        for number in range(10):
            events.append(event(hub, f"order-{number}", time=started_at))
            events.append(event(hub, f"order-{number}", outcome, time=ended_at))
    await post_events(environment.http, *events)
    case.send = _action_request(case, "advance")
    return case


async def abort_rollout(environment: CaseEnvironment) -> CrashCase:
    """Give all requests back to the baseline."""
    case = await _case_with_rollout(environment)
    case.send = _action_request(case, "abort", reason="wrong prices")
    return case


async def finish_rollout(environment: CaseEnvironment) -> CrashCase:
    """Give all requests to the candidate."""
    case = await _case_with_rollout(environment)
    case.send = _action_request(case, "finish")
    return case


async def start_rollout_of_slot(environment: CaseEnvironment) -> CrashCase:
    """Begin to give a slot a share of the requests."""
    case = CrashCase()
    slots = {"production": {"taskHub": case.hubs["old"]}, "staging": {"taskHub": case.hubs["new"]}}
    assert (await put_app(environment.http, case.app, slots=slots, policy={"settleSeconds": 0})).status_code == 200

    async def send_put(http: httpx.AsyncClient) -> httpx.Response:
        return await put_rollout(http, case.app, OUR_RUN, steps=[_SHORT_STEP, _LONG_STEP])

    case.send = send_put
    return case


async def confirm_weight(environment: CaseEnvironment) -> CrashCase:
    """Report that Azure has the share of the first step."""
    case = await start_rollout_of_slot(environment)
    assert (await case.perform(environment.http)).status_code == 200
    case.send = _action_request(case, "confirm", weight=10)
    return case


async def confirm_cleared_slot(environment: CaseEnvironment) -> CrashCase:
    """Report that Azure sends nothing to the slot of an aborted rollout any more."""
    case = await confirm_weight(environment)
    assert (await case.perform(environment.http)).status_code == 200
    aborted = await environment.http.post(f"/api/apps/{case.app}/rollout/abort", headers=OUR_RUN)
    assert aborted.status_code == 200, aborted.text
    case.send = _action_request(case, "confirm", weight=0)
    return case


async def roll_back_during_rollout(case: CrashCase, http: httpx.AsyncClient) -> None:
    """An operator gives all requests back to the baseline, whether or not the request of the run has taken effect. The
    rollout is aborted by that, and the run cannot begin it again by repeating its request."""
    assert (await put_app(http, case.app, policy={"freshnessSeconds": 90})).status_code == 200
    rolled_back = await put_routing(http, case.app, "1")
    assert rolled_back.status_code == 200, rolled_back.text
    rollout = (await http.get(f"/api/apps/{case.app}")).json()["rollout"]
    if rollout is not None:
        assert (rollout["state"], rollout["weight"]) == ("Aborted", 0)
        repeated = await put_rollout(http, case.app, OUR_RUN, version="2", steps=[_SHORT_STEP, _LONG_STEP])
        assert (repeated.status_code, repeated.json()["state"]) == (200, "Aborted")
        assert (await get_rollout(http, case.app))["weight"] == 0
