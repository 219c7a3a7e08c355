"""Verdicts that rest on the task hub itself: the whole server on the real storage, with the hub's rows as the provider
writes them."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from state_api.settings import StorageSettings
from tests.builders import at, event
from tests.http.client import codes, problem, publish, put, stage, staging, swapped_out
from tests.taskhubs.provider import ProviderHub

pytestmark = pytest.mark.anyio

SOURCE = {"provider": "azureStorage", "connection": "DURABLE_STORAGE"}


@pytest.fixture
async def provider(storage: StorageSettings, hub: str, anyio_backend: str) -> AsyncIterator[ProviderHub]:
    """The hub at its provider; it has no tables until they are made."""
    async with ProviderHub(storage, hub) as made:
        yield made


@pytest.fixture
async def draining(http: httpx.AsyncClient, app: str, provider: ProviderHub) -> ProviderHub:
    """A hub in the staging slot of an app whose hubs are verified, drained at its provider. No settle window."""
    await provider.create()
    await put(
        http,
        app,
        slots={"staging": {"taskHub": provider.hub}},
        policy={"settleSeconds": 0},
        taskHubs=SOURCE,
    )
    return provider


async def instances(http: httpx.AsyncClient, hub: str) -> dict[str, Any]:
    answer = await http.get(f"/api/taskhubs/{hub}/instances")
    return {one["instanceId"]: one for one in answer.json()["instances"]}


async def test_a_drained_hub_is_ready_and_verified(http: httpx.AsyncClient, app: str, draining: ProviderHub) -> None:
    verdict = await staging(http, app)
    assert verdict["ready"], verdict
    assert verdict["assurance"] == "verified"
    probe = verdict["evidence"]["probe"]
    assert (probe["status"], probe["provider"], probe["active"]) == ("Complete", "azureStorage", 0)


async def test_an_instance_that_events_missed_blocks_and_is_recorded(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    await draining.put("order-1", "Pending", version="2.0")
    verdict = await staging(http, app)
    assert not verdict["ready"]
    assert codes(verdict) == ["InstancesActive"]
    (one,) = verdict["active"]
    assert (one["instanceId"], one["runtimeStatus"], one["source"], one["version"]) == (
        "order-1",
        "Pending",
        "probe",
        "2.0",
    )
    assert (await instances(http, draining.hub))["order-1"]["source"] == "probe"
    await draining.put("order-1", "Completed")
    verdict = await staging(http, app)
    assert verdict["ready"], verdict
    one = (await instances(http, draining.hub))["order-1"]
    assert (one["active"], one["outcome"], one["source"]) == (False, "Completed", "probe")


async def test_an_instance_that_events_left_running_is_closed(
    http: httpx.AsyncClient, app: str, draining: ProviderHub
) -> None:
    await publish(http, event(draining.hub, "order-1", time=at(-60)))
    await draining.put("order-1", "Terminated")
    verdict = await staging(http, app, wait=10)
    assert verdict["ready"], verdict
    one = (await instances(http, draining.hub))["order-1"]
    assert (one["active"], one["outcome"], one["source"]) == (False, "Terminated", "probe")


async def test_a_hub_without_tables_is_unknown_and_not_drained(
    http: httpx.AsyncClient, app: str, provider: ProviderHub
) -> None:
    await put(http, app, slots={"staging": {"taskHub": provider.hub}}, policy={"settleSeconds": 0}, taskHubs=SOURCE)
    verdict = await staging(http, app)
    assert codes(verdict) == ["TaskHubMissing"]
    await put(http, app, policy={"missingTaskHubIsDrained": True})
    assert (await staging(http, app))["ready"]
    await publish(http, event(provider.hub, "order-1", "Completed", time=at(-60)))
    assert codes(await staging(http, app)) == ["TaskHubMissing"]
