"""The state server's verdicts on the sample app: entities never block a deployment, eternal orchestrations do."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.processes import wait_until
from state_api.settings import StorageSettings
from tests.durable_app.host_processes import SlotProcess, Topic, run_engine, run_slot, run_topic

pytestmark = pytest.mark.anyio


class StateServerClient:
    """A client of a state server. It passes the published events on to the server, which probes the task hub."""

    def __init__(self, http: httpx.AsyncClient, app: str, hub: str, topic: Topic) -> None:
        self.http = http
        self.app = app
        self.hub = hub
        self.topic = topic

    async def put_app(self, **policy: Any) -> None:
        """Register the app without a settle window, and with these members of its policy."""
        app_body = {
            "slots": {"staging": {"taskHub": self.hub}},
            "policy": {"settleSeconds": 0} | policy,
            "taskHubs": {"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"},
        }
        response = await self.http.put(f"/api/apps/{self.app}", json=app_body)
        assert response.status_code == 200, response.text

    async def get_verdict(self, *, wait_seconds: int = 0) -> dict[str, Any]:
        """Deliver the events that were published since the last call, and return a verdict by a new probe."""
        events, self.topic.events = self.topic.events, []
        if events:
            assert (await self.http.post("/api/events", json=events)).json()["quarantined"] == 0
        response = await self.http.get(
            f"/api/apps/{self.app}/staging", params={"verify": "fresh", "wait": wait_seconds}
        )
        verdict: dict[str, Any] = response.json()
        return verdict


def complete_order(slot: SlotProcess) -> None:
    """Place an order and wait for its end. The entity of its item remains."""
    slot.place_order("order-1", "cherry")
    slot.wait_until_ended("order-1")
    wait_until(lambda: slot.client.get("/api/stock/cherry").json()["pieces"] == 9, "the stock has counted the order")


async def test_an_entity_never_blocks_and_a_monitor_does_until_it_is_ignored_or_stopped(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, hub: str, tmp_path: Path
) -> None:
    with (
        run_topic() as topic,
        run_engine(hub, storage, topic, tmp_path) as engine,
        run_slot(engine, "v1", tmp_path) as slot,
    ):
        state_server = StateServerClient(http, app, hub, topic)
        await state_server.put_app()
        complete_order(slot)
        assert "@stock@cherry" in {event["data"]["instanceId"] for event in topic.events}
        verdict = await state_server.get_verdict(wait_seconds=30)
        assert (verdict["ready"], verdict["assurance"], verdict["activeCount"]) == (True, "verified", 0)

        slot.client.post("/api/monitor/start", json={"intervalSeconds": 3600})
        slot.wait_until("stock-monitor", lambda status: status["customStatus"] is not None, "monitor")
        verdict = await state_server.get_verdict()
        assert [instance["functionName"] for instance in verdict["active"]] == ["StockMonitor"]
        assert [reason["code"] for reason in verdict["reasons"]] == ["InstancesActive"]

        await state_server.put_app(ignoreFunctions=["StockMonitor"])
        verdict = await state_server.get_verdict(wait_seconds=30)
        assert (verdict["ready"], verdict["ignoredCount"]) == (True, 1)

        await state_server.put_app(ignoreFunctions=[])
        assert not (await state_server.get_verdict())["ready"]
        slot.client.post("/api/monitor/stock-monitor/stop")
        slot.wait_until_ended("stock-monitor", "monitor")
        verdict = await state_server.get_verdict(wait_seconds=30)
        assert (verdict["ready"], verdict["assurance"]) == (True, "verified")
