"""How to count the storage requests of the operations on releases side by side."""

from collections.abc import Awaitable, Callable

from tests.conftest import new_app_name, new_hub_name
from tests.http.counted_storage import CountedServer
from tests.http.operations import PROVIDER_CONFIG, run_headers
from tests.http.release_operations import (
    delete_release,
    get_release_status,
    get_routing,
    post_release,
    put_routing,
    put_side_by_side_app,
)


async def register_release(server: CountedServer, app: str, version: str, *, verified: bool) -> None:
    """Register a release, whose app then starts if it is `verified` at a provider."""
    hub = new_hub_name()
    assert (await post_release(server.http, app, version, hub, run_headers(1))).status_code == 200
    if verified:
        await server.create_provider_hub(hub)


async def create_app(server: CountedServer, *, verified: bool) -> str:
    """An app without releases, with a provider if it is `verified`."""
    app = new_app_name()
    await put_side_by_side_app(server.http, app, **({"taskHubs": PROVIDER_CONFIG} if verified else {}))
    return app


async def promote_two_releases(server: CountedServer, *, verified: bool) -> tuple[str, str]:
    """An app whose release 1 is draining and release 2 is active, and the ETag of its routing."""
    app = await create_app(server, verified=verified)
    for version in ("1", "2"):
        await register_release(server, app, version, verified=verified)
        assert (await put_routing(server.http, app, version)).status_code == 200
    return app, (await get_routing(server.http, app)).headers["etag"]


async def count_for_routing(server: CountedServer) -> int:
    app, _ = await promote_two_releases(server, verified=False)
    return await server.count(get_routing(server.http, app))


async def count_for_first_acknowledgement(server: CountedServer) -> int:
    app, etag = await promote_two_releases(server, verified=False)
    return await server.count_unchanged(get_routing(server.http, app, etag, router="envoy-1"))


async def count_for_repeated_acknowledgement(server: CountedServer) -> int:
    app, etag = await promote_two_releases(server, verified=False)
    await get_routing(server.http, app, etag, router="envoy-1")
    return await server.count_unchanged(get_routing(server.http, app, etag, router="envoy-1"))


async def count_for_first_promotion_by_events(server: CountedServer) -> int:
    app, _ = await promote_two_releases(server, verified=False)
    await post_release(server.http, app, "3")
    return await server.count(put_routing(server.http, app, "3"))


async def count_for_verified_first_promotion(server: CountedServer) -> int:
    app, _ = await promote_two_releases(server, verified=True)
    hub = new_hub_name()
    await post_release(server.http, app, "3", hub)
    await server.create_provider_hub(hub)
    return await server.count(put_routing(server.http, app, "3"))


async def count_for_rollback(server: CountedServer) -> int:
    app, _ = await promote_two_releases(server, verified=True)
    return await server.count(put_routing(server.http, app, "1"))


async def count_for_release_status_by_events(server: CountedServer) -> int:
    app, _ = await promote_two_releases(server, verified=False)
    return await server.count(server.http.get(f"/api/apps/{app}/releases/1/status"))


async def count_for_fresh_release_status(server: CountedServer) -> int:
    app, _ = await promote_two_releases(server, verified=True)
    await get_release_status(server.http, app, "1", verify="fresh")
    return await server.count(server.http.get(f"/api/apps/{app}/releases/1/status", params={"verify": "fresh"}))


async def count_for_registration_by_events(server: CountedServer) -> int:
    app, _ = await promote_two_releases(server, verified=False)
    return await server.count(post_release(server.http, app, "3"))


async def count_for_verified_registration(server: CountedServer) -> int:
    app, _ = await promote_two_releases(server, verified=True)
    return await server.count(post_release(server.http, app, "3"))


async def count_for_pending_removal_by_events(server: CountedServer) -> int:
    app = await stage_two_releases(server, verified=False)
    return await server.count(delete_release(server.http, app, "1", "Pending", run_headers(1)))


async def count_for_verified_pending_removal(server: CountedServer) -> int:
    app = await stage_two_releases(server, verified=True)
    return await server.count(delete_release(server.http, app, "1", "Pending", run_headers(1)))


async def count_for_done_removal(server: CountedServer) -> int:
    app = await stage_two_releases(server, verified=False)
    await delete_release(server.http, app, "1", "Pending", run_headers(1))
    return await server.count(delete_release(server.http, app, "1", "Done", run_headers(1)))


async def stage_two_releases(server: CountedServer, *, verified: bool) -> str:
    """An app whose release 1 is staged and drained, so that no router need be waited for."""
    app = await create_app(server, verified=verified)
    for version in ("1", "2"):
        await register_release(server, app, version, verified=verified)
    await get_release_status(server.http, app, "1", verify="fresh")
    return app


RELEASE_OPERATIONS: dict[str, Callable[[CountedServer], Awaitable[int]]] = {
    "PostRelease by events": count_for_registration_by_events,
    "PostRelease verified": count_for_verified_registration,
    "GetReleaseStatus by events": count_for_release_status_by_events,
    "GetReleaseStatus, verify=fresh": count_for_fresh_release_status,
    "GetRouting": count_for_routing,
    "GetRouting, acknowledges another revision": count_for_first_acknowledgement,
    "GetRouting, acknowledges the same revision": count_for_repeated_acknowledgement,
    "PutRouting by events": count_for_first_promotion_by_events,
    "PutRouting verified, the first traffic of a release": count_for_verified_first_promotion,
    "PutRouting verified, back to a release": count_for_rollback,
    "DeleteRelease by events, Pending": count_for_pending_removal_by_events,
    "DeleteRelease verified, Pending": count_for_verified_pending_removal,
    "DeleteRelease, Done": count_for_done_removal,
}
"""How to count the requests of each row of the table about releases."""
