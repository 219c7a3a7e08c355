"""The composition root: builds stores, services and the ASGI application from Settings. It opens no connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp

from state_api import __version__
from state_api.backends.registry import ConfiguredBackendRegistry
from state_api.http import apps, events, health, home, problems, releases, rollouts, task_hubs, waivers
from state_api.http.dependencies import Services
from state_api.http.middleware import RequestMiddleware
from state_api.services.admission import AdmissionController
from state_api.services.app_watch import WaitIntervals, WatchContext
from state_api.services.background import BackgroundProber
from state_api.services.change_signals import ChangeSignals
from state_api.services.cleanup import Cleanup
from state_api.services.ownership import Ownership
from state_api.services.parallel_reads import ParallelReads
from state_api.services.ports import Clock, EventLease
from state_api.services.quarantine_administration import QuarantineAdministration
from state_api.services.readiness import Readiness
from state_api.services.recording import Recorder
from state_api.services.release_status import ReleaseStatuses
from state_api.services.releases import Releases
from state_api.services.request_counter import note_storage_request
from state_api.services.rollout_health import RolloutHealth
from state_api.services.rollouts import Rollouts
from state_api.services.routing import RoutingReader
from state_api.services.side_by_side import SideBySideReleases
from state_api.services.task_hub_deletion import TaskHubDeletion
from state_api.services.task_hub_queries import TaskHubQueries
from state_api.services.timelines import TimelineReader
from state_api.services.verdict_reads import DirectReads
from state_api.services.verification import Verifier
from state_api.services.waiting import WaitingRequests
from state_api.settings import Settings
from state_api.storage.apps import AppStore
from state_api.storage.delivery_checks import DeliveryCheckStore
from state_api.storage.instances import InstanceStore
from state_api.storage.probes import ProbeStore
from state_api.storage.quarantine import QuarantineStore
from state_api.storage.routers import RouterStore
from state_api.storage.tables import Tables
from state_api.storage.task_hubs import TaskHubStore


class StateServer:
    """One server with all its parts. A host serves `application`, which needs no ASGI lifespan events, because Azure
    Functions sends none. Set `stopping` to end long polls early. Close the server at the end. Only tests give an
    `event_lease`, because all servers on a storage must use the same, and `wait_intervals`."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock | None = None,
        event_lease: EventLease | None = None,
        *,
        wait_intervals: WaitIntervals | None = None,
    ) -> None:
        """Connect stores, backends and services, and build the application on them. Tests pass a clock, leases and
        intervals."""
        self.tables = Tables(settings.storage, on_request=note_storage_request)
        self.stopping = asyncio.Event()
        self.admission = AdmissionController()
        time = clock or self.tables.clock
        lease = event_lease or EventLease()
        task_hub_store = TaskHubStore(self.tables, settings.shards, settings.max_unclaimed_task_hubs, lease)
        signals = ChangeSignals()
        self._instances = instances = InstanceStore(self.tables, signals)
        app_store = AppStore(self.tables, signals)
        routers = RouterStore(self.tables, signals)
        quarantine = QuarantineStore(self.tables)
        probes = ProbeStore(self.tables)
        self.backends = ConfiguredBackendRegistry(settings.connections, time.now)
        verifier = Verifier(self.backends, probes, task_hub_store, instances, clock=time, stopping=self.stopping)
        reads = DirectReads(app_store, verifier)
        waiting = WaitingRequests(WatchContext(reads, signals, time, self.stopping, wait_intervals or WaitIntervals()))
        readiness = Readiness(reads, ParallelReads(app_store, instances, verifier), verifier, time, waiting)
        delivery_checks = DeliveryCheckStore(self.tables)
        recorder = Recorder(task_hub_store, instances, quarantine, delivery_checks, time)
        releases = Releases(
            apps=app_store,
            task_hubs=task_hub_store,
            recorder=recorder,
            readiness=readiness,
            backends=self.backends,
            clock=time,
        )
        self.background = BackgroundProber(app_store, probes, readiness, time)
        ownership = Ownership(task_hub_store, self.backends)
        rollout_health = RolloutHealth(
            releases=releases, task_hubs=task_hub_store, instances=instances, readiness=readiness, clock=time
        )
        self.rollouts = Rollouts(
            releases=releases, apps=app_store, health=rollout_health, ownership=ownership, clock=time
        )
        self.services = Services(
            recorder=recorder,
            readiness=readiness,
            releases=releases,
            side_by_side=SideBySideReleases(
                releases=releases,
                apps=app_store,
                routers=routers,
                task_hubs=task_hub_store,
                readiness=readiness,
                backends=self.backends,
                clock=time,
            ),
            release_statuses=ReleaseStatuses(
                releases=releases,
                routers=routers,
                readiness=readiness,
                ownership=ownership,
                reads=reads,
                waiting=waiting,
                clock=time,
            ),
            routing=RoutingReader(
                releases=releases,
                apps=app_store,
                routers=routers,
                signals=signals,
                clock=time,
                stopping=self.stopping,
            ),
            rollouts=self.rollouts,
            rollout_health=rollout_health,
            cleanup=Cleanup(
                releases=releases,
                apps=app_store,
                task_hubs=task_hub_store,
                instances=instances,
                readiness=readiness,
                backends=self.backends,
                clock=time,
            ),
            task_hub_deletion=TaskHubDeletion(
                task_hubs=task_hub_store,
                instances=instances,
                recorder=recorder,
                readiness=readiness,
                clock=time,
                event_lease=lease,
                stopping=self.stopping,
            ),
            task_hub_queries=TaskHubQueries(
                apps=app_store,
                task_hubs=task_hub_store,
                instances=instances,
                quarantine=quarantine,
                delivery_checks=delivery_checks,
                readiness=readiness,
                clock=time,
            ),
            timelines=TimelineReader(task_hub_store, instances, time),
            quarantine=QuarantineAdministration(quarantine, time),
            clock=time,
        )
        self.api = _create_api(settings, self)
        self.application: ASGIApp = RequestMiddleware(events.DirectDeliveries(self.api), settings, self.admission)

    async def close(self) -> None:
        """Close all connections, after the transactions in progress."""
        await self._instances.close()
        await self.backends.close()
        await self.tables.close()


def _create_api(settings: Settings, server: StateServer) -> FastAPI:
    """The ASGI application with all routes, whose lifespan runs the work in the background and closes the server
    at the end."""

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        # Azure Functions sends no lifespan events: timer triggers do this work there.
        background = [
            asyncio.create_task(server.background.run_until_stopped(server.stopping)),
            asyncio.create_task(server.rollouts.run_until_stopped(server.stopping)),
        ]
        yield
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await server.close()

    api = FastAPI(
        title="Task hub state server",
        version=__version__,
        description="Reports when a slot may be overwritten: when no orchestration is active in its task hub.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    api.state.settings = settings
    api.state.services = server.services
    openapi_router = APIRouter(tags=["health"])

    @openapi_router.get("/api/openapi.json", operation_id="GetOpenApi", response_model=dict[str, Any])
    async def get_openapi_document() -> JSONResponse:
        """The OpenAPI document of this API."""
        # Returning a response skips FastAPI's validation, which takes 17 ms for this constant document.
        return JSONResponse(openapi_document(api))

    # Routes are matched in order: events come first because they are by far the most frequent requests.
    routers = [
        events.router,
        apps.router,
        releases.router,
        rollouts.router,
        waivers.router,
        task_hubs.router,
        health.router,
        home.router,
        openapi_router,
    ]
    problems.install_error_handlers(api, [route for router in routers for route in router.routes])
    for router in routers:
        api.include_router(router)
    return api


def openapi_document(api: FastAPI) -> dict[str, Any]:
    """The API as an OpenAPI document, with problem documents in place of FastAPI's validation errors."""
    if api.openapi_schema is None:
        document = get_openapi(title=api.title, version=api.version, description=api.description, routes=api.routes)
        schemas = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        problem_schema = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= {**problem_schema.pop("$defs"), "Problem": problem_schema}
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        document["components"]["securitySchemes"] = {
            "key": {"type": "apiKey", "in": "header", "name": "x-functions-key"},
        }
        document["security"] = [{"key": []}, {}]
        api.openapi_schema = document
    return api.openapi_schema
