"""How to count the storage requests of the operations on rollouts, side by side."""

from collections.abc import Awaitable, Callable

from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event, timestamp
from tests.conftest import new_hub_name
from tests.http.counted_releases import create_app
from tests.http.counted_storage import CountedServer
from tests.http.operations import post_events
from tests.http.release_operations import post_release, put_routing
from tests.http.rollout_operations import get_health, post_rollout, put_rollout

_SECONDS_SINCE_THE_START = 90
"""For how long the instance has been active that a look-up confirms."""


async def _stage_candidate(server: CountedServer, *, verified: bool) -> tuple[str, str]:
    """An app whose release 1 is active and whose release 2 is staged, and the task hub of release 2."""
    app, hubs = await create_app(server, verified=verified), {"1": new_hub_name(), "2": new_hub_name()}
    for version, hub in hubs.items():
        assert (await post_release(server.http, app, version, hub)).status_code == 200
        if verified:
            await server.create_provider_hub(hub)
        if version == "1":
            assert (await put_routing(server.http, app, version)).status_code == 200
    return app, hubs["2"]


async def _begin_rollout(server: CountedServer, *, verified: bool, minutes: float = 60) -> tuple[str, str]:
    """An app that has begun a rollout and has been compared once, and the task hub of the candidate."""
    app, hub = await _stage_candidate(server, verified=verified)
    steps = [{"weight": 10, "minutes": minutes}, {"weight": 50, "minutes": 60}]
    assert (await put_rollout(server.http, app, version="2", steps=steps)).status_code == 200
    await get_health(server.http, app)
    return app, hub


async def count_for_start_by_events(server: CountedServer) -> int:
    app, _ = await _stage_candidate(server, verified=False)
    return await server.count(put_rollout(server.http, app, version="2"))


async def count_for_verified_start(server: CountedServer) -> int:
    app, _ = await _stage_candidate(server, verified=True)
    return await server.count(put_rollout(server.http, app, version="2"))


async def count_for_get_rollout(server: CountedServer) -> int:
    app, _ = await _begin_rollout(server, verified=False)
    return await server.count(server.http.get(f"/api/apps/{app}/rollout"))


async def count_for_health(server: CountedServer) -> int:
    app, _ = await _begin_rollout(server, verified=False)
    return await server.count(server.http.get(f"/api/apps/{app}/health"))


async def count_for_health_with_a_look_up(server: CountedServer) -> int:
    app, hub = await _begin_rollout(server, verified=True)
    await post_events(server.http, event(hub, "order-1", time=timestamp(-_SECONDS_SINCE_THE_START)))
    async with ProviderTaskHub(server.storage, hub) as provider:
        await provider.put("order-1", "Running")
    since = {"since": timestamp(-2 * _SECONDS_SINCE_THE_START)}
    await get_health(server.http, app, **since)
    return await server.count(server.http.get(f"/api/apps/{app}/health", params=since))


async def count_for_evaluation(server: CountedServer) -> int:
    app, _ = await _begin_rollout(server, verified=False)
    return await server.count(post_rollout(server.http, app, "advance"))


async def count_for_next_step(server: CountedServer) -> int:
    app, _ = await _begin_rollout(server, verified=False, minutes=0.0001)
    return await server.count(post_rollout(server.http, app, "advance"))


async def count_for_abort(server: CountedServer) -> int:
    app, _ = await _begin_rollout(server, verified=False)
    return await server.count(post_rollout(server.http, app, "abort"))


ROLLOUT_OPERATIONS: dict[str, Callable[[CountedServer], Awaitable[int]]] = {
    "PutRollout by events": count_for_start_by_events,
    "PutRollout verified": count_for_verified_start,
    "GetRollout": count_for_get_rollout,
    "GetRolloutHealth": count_for_health,
    "GetRolloutHealth verified, an instance is looked up": count_for_health_with_a_look_up,
    "PostRollout, advance": count_for_evaluation,
    "PostRollout, advance to the next step": count_for_next_step,
    "PostRollout, abort": count_for_abort,
}
"""How to count the requests of each row of the table about rollouts."""
