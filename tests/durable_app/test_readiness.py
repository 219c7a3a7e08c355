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
    """A state server that gets all published events and probes the task hub."""

    def __init__(self, http: httpx.AsyncClient, app: str, hub: str, to: Topic) -> None:
        self.http = http
        self.app = app
        self.hub = hub
        self.topic = to

    async def put(self, **policy: Any) -> None:
        app_body = {
            "slots": {"staging": {"taskHub": self.hub}},
            "policy": {"settleSeconds": 0} | policy,
            "taskHubs": {"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"},
        }
        answer = await self.http.put(f"/api/apps/{self.app}", json=app_body)
        assert answer.status_code == 200, answer.text

    async def verdict(self, wait: int = 0) -> dict[str, Any]:
        events, self.topic.events = self.topic.events, []
        if events:
            assert (await self.http.post("/api/events", json=events)).json()["quarantined"] == 0
        answer = await self.http.get(f"/api/apps/{self.app}/staging", params={"verify": "fresh", "wait": wait})
        verdict: dict[str, Any] = answer.json()
        return verdict


def complete_order(app: SlotProcess) -> None:
    """Run an order to its end, which leaves an entity behind."""
    app.place_order("order-1", "cherry")
    app.wait_until_ended("order-1")
    wait_until(lambda: app.client.get("/api/stock/cherry").json()["pieces"] == 9, "the stock has heard of it")


async def test_an_entity_never_blocks_and_a_monitor_does_until_it_is_ignored_or_stopped(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, hub: str, tmp_path: Path
) -> None:
    with run_topic() as to, run_engine(hub, storage, to, tmp_path) as on, run_slot(on, "v1", tmp_path) as running:
        judge = StateServerClient(http, app, hub, to)
        await judge.put()
        complete_order(running)
        assert "@stock@cherry" in {event["data"]["instanceId"] for event in to.events}
        verdict = await judge.verdict(wait=30)
        assert (verdict["ready"], verdict["assurance"], verdict["activeCount"]) == (True, "verified", 0)

        running.client.post("/api/monitor/start", json={"intervalSeconds": 3600})
        running.wait_until("stock-monitor", lambda status: status["customStatus"] is not None, "monitor")
        verdict = await judge.verdict()
        assert [instance["functionName"] for instance in verdict["active"]] == ["StockMonitor"]
        assert [reason["code"] for reason in verdict["reasons"]] == ["InstancesActive"]

        await judge.put(ignoreFunctions=["StockMonitor"])
        verdict = await judge.verdict(wait=30)
        assert (verdict["ready"], verdict["ignoredCount"]) == (True, 1)

        await judge.put(ignoreFunctions=[])
        assert not (await judge.verdict())["ready"]
        running.client.post("/api/monitor/stock-monitor/stop")
        running.wait_until_ended("stock-monitor", "monitor")
        verdict = await judge.verdict(wait=30)
        assert (verdict["ready"], verdict["assurance"]) == (True, "verified")
