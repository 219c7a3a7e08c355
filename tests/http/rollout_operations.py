"""The operations on rollouts as short helpers for tests, and orders that versions work on."""

import uuid
from typing import Any

import httpx

from state_api.domain.instants import Instant, format_instant, seconds
from state_api.domain.rollouts.rollouts import NEW_VISITOR_SECONDS, PINNED_VISITOR_SECONDS
from tests.builders import event
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import post_events
from tests.http.release_operations import post_release, put_side_by_side_app, register_and_promote

STEP_MINUTES = 10
PIN_SECONDS = NEW_VISITOR_SECONDS + PINNED_VISITOR_SECONDS
"""For how long visitors may come to a slot after its share was confirmed as 0 %."""
SECONDS_OF_THE_CHANGE = 60
"""After these, what starts is compared with what starts later too: the minute of a change is compared by itself."""


async def put_rollout(
    http: httpx.AsyncClient, app: str, headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    """Begin a rollout, by default with two steps of ten minutes."""
    steps = [{"weight": 10, "minutes": STEP_MINUTES}, {"weight": 50, "minutes": STEP_MINUTES}]
    return await http.put(f"/api/apps/{app}/rollout", json={"steps": steps, **body}, headers=headers)


async def post_rollout(http: httpx.AsyncClient, app: str, action: str, **body: Any) -> Any:
    """Change the rollout, and return it."""
    response = await http.post(f"/api/apps/{app}/rollout/{action}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def get_rollout(http: httpx.AsyncClient, app: str) -> Any:
    """The last rollout of the app."""
    response = await http.get(f"/api/apps/{app}/rollout")
    assert response.status_code == 200, response.text
    return response.json()


async def get_health(http: httpx.AsyncClient, app: str, **parameters: Any) -> Any:
    """The health of the app's candidate."""
    response = await http.get(f"/api/apps/{app}/health", params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


async def list_operations(http: httpx.AsyncClient, app: str) -> list[str]:
    """The operations in the audit log, the newest first."""
    return [record["operation"] for record in (await http.get(f"/api/apps/{app}/history")).json()["history"]]


async def begin_rollout(http: httpx.AsyncClient, app: str, clock: ShiftedClock, **body: Any) -> dict[str, str]:
    """An app that rolls out release 2 beside release 1, when the minute of the change has passed. Returns the task
    hubs by version."""
    await put_side_by_side_app(http, app)
    hubs = await register_and_promote(http, app, "1") | {"2": new_hub_name()}
    assert (await post_release(http, app, "2", hubs["2"])).status_code == 200
    response = await put_rollout(http, app, version="2", **body)
    assert response.status_code == 200, response.text
    clock.advance(SECONDS_OF_THE_CHANGE)
    return hubs


class Orders:
    """Records the starts and ends of orders, by the time of the server."""

    def __init__(self, http: httpx.AsyncClient, clock: ShiftedClock) -> None:
        self._http = http
        self._clock = clock

    async def work(self, hub: str, *, completed: int = 0, failed: int = 0, active: int = 0) -> None:
        """Start this many orders now; all but the active ones end within a second."""
        await self.deliver(self.build(hub, completed=completed, failed=failed, active=active))

    def build(self, hub: str, *, completed: int = 0, failed: int = 0, active: int = 0) -> list[dict[str, Any]]:
        """The events of orders that start now."""
        started_at = self._clock.now()
        ended_at = format_instant(Instant(started_at + seconds(0.5)))
        events = []
        for outcome in ["Completed"] * completed + ["Failed"] * failed + [""] * active:
            order = f"order-{uuid.uuid4().hex}"
            events.append(event(hub, order, time=format_instant(started_at)))
            if outcome:
                events.append(event(hub, order, outcome, time=ended_at))
        return events

    async def deliver(self, events: list[dict[str, Any]]) -> None:
        """Deliver these events."""
        await post_events(self._http, *events)
