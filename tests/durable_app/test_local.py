"""Orders, monitors and stocks in the development host: an engine and a slot as processes, the storage emulator, and a
topic that records events."""

from typing import Any

import pytest
from durabletask.client import TaskHubGrpcClient

from harness.processes import wait_until
from state_api.domain.task_hubs.lifecycle import RuntimeStatus
from tests.durable_app.host_processes import (
    KEY,
)
from tests.durable_app.running_app import RunningApp

pytestmark = pytest.mark.anyio


# Orders


async def test_an_order_is_processed_and_leaves_its_events_and_rows(running_app: RunningApp) -> None:
    response = running_app.slot.place_order("order-1", "apple", "pear")
    assert (response.status_code, response.headers["location"]) == (202, "/api/orders/order-1")
    assert response.json()["taskHub"] == running_app.engine.task_hub
    status = running_app.slot.wait_until_ended("order-1")
    assert (status["runtimeStatus"], status["functionName"]) == ("Completed", "ProcessOrder")
    assert status["output"]["tracking"] == "TRACK-order-1-2"
    assert running_app.topic.statuses("order-1") == ["Running", "Completed"]
    assert running_app.topic.statuses("order-1-shipping") == ["Running", "Completed"]
    for instance_id, name in (("order-1", "ProcessOrder"), ("order-1-shipping", "ShipOrder")):
        instance = await running_app.observe_instance(instance_id)
        assert instance is not None
        assert (instance.function_name, instance.runtime_status, instance.active) == (
            name,
            RuntimeStatus.COMPLETED,
            False,
        )


def test_an_event_has_the_extensions_shape_and_the_topics_key(running_app: RunningApp) -> None:
    running_app.slot.place_order("order-shape")
    running_app.slot.wait_until_ended("order-shape")
    event = next(event for event in running_app.topic.events if event["data"]["instanceId"] == "order-shape")
    assert (event["eventType"], event["subject"]) == ("orchestratorEvent", "durable/orchestrator/Running")
    assert event["data"] == {
        "hubName": running_app.engine.task_hub,
        "functionName": "ProcessOrder",
        "instanceId": "order-shape",
        "reason": "",
        "runtimeStatus": "Running",
    }
    assert running_app.topic.keys == {KEY}


def test_a_row_has_the_providers_columns(running_app: RunningApp) -> None:
    running_app.slot.place_order("order-row")
    running_app.slot.wait_until_ended("order-row")
    row = running_app.read_row("order-row")
    assert (row["Name"], row["TaskHubName"], row["RuntimeStatus"]) == (
        "ProcessOrder",
        running_app.engine.task_hub,
        "Completed",
    )
    assert row["CreatedTime"] < row["LastUpdatedTime"]
    assert {"ExecutionId", "Input", "Output", "CustomStatus", "CompletedTime", "Generation"} <= set(row)


@pytest.mark.parametrize(("decision", "outcome"), [("approve", "Shipped"), ("reject", "Rejected")])
def test_an_approval_or_a_rejection_decides_the_outcome_of_an_order(
    running_app: RunningApp, decision: str, outcome: str
) -> None:
    running_app.slot.place_order(f"order-{decision}", approvalNeeded=True)
    running_app.slot.wait_until_waiting_for_approval(f"order-{decision}")
    assert running_app.slot.client.post(f"/api/orders/{decision}/{decision}").status_code == 404
    assert running_app.slot.client.post(f"/api/orders/order-{decision}/{decision}").status_code == 202
    assert running_app.slot.wait_until_ended(f"order-{decision}")["output"]["status"] == outcome
    # The end of a rejected order is not published, because its last step cancels the timer of the deadline.
    published_statuses = {"approve": ["Running", "Completed"], "reject": ["Running"]}
    assert running_app.topic.statuses(f"order-{decision}") == published_statuses[decision]
    assert running_app.slot.client.post(f"/api/orders/order-{decision}/{decision}").status_code == 409


def test_the_management_api_has_the_status_of_an_order_and_takes_its_approval(running_app: RunningApp) -> None:
    running_app.slot.place_order("order-managed", approvalNeeded=True)
    running_app.slot.wait_until_waiting_for_approval("order-managed")
    client, query = running_app.slot.client, f"?taskHub={running_app.engine.task_hub}"
    path = "/runtime/webhooks/durabletask/instances/order-managed"
    approval = f"{path}/raiseEvent/Approval{query}"
    waiting = client.get(path + query)
    assert (waiting.status_code, waiting.json()["customStatus"]) == (202, "WaitingForApproval")
    assert client.post(approval, json=True).status_code == 202
    assert running_app.slot.wait_until_ended("order-managed")["output"]["status"] == "Shipped"
    ended = client.get(path + query)
    assert (ended.status_code, ended.json()["runtimeStatus"]) == (200, "Completed")
    assert client.post(approval, json=True).status_code == 410


def test_the_management_api_knows_only_the_instances_of_its_task_hub(running_app: RunningApp) -> None:
    path = "/runtime/webhooks/durabletask/instances/unknown"
    assert running_app.slot.client.get(path).status_code == 404
    assert running_app.slot.client.post(f"{path}/raiseEvent/Approval", json=True).status_code == 404
    assert running_app.slot.client.get(f"{path}?taskHub=another").status_code == 400


def test_an_order_without_an_approval_expires(running_app: RunningApp) -> None:
    running_app.slot.place_order("order-late", approvalNeeded=True, approvalTimeoutSeconds=0.3)
    assert running_app.slot.wait_until_ended("order-late")["output"]["status"] == "Expired"


async def test_a_failed_order_publishes_and_stores_its_error(running_app: RunningApp) -> None:
    running_app.slot.place_order("order-declined", card="declined")
    assert "declined" in running_app.slot.wait_until_ended("order-declined")["output"]
    assert running_app.topic.statuses("order-declined") == ["Running", "Failed"]
    failed_event = running_app.topic.events[-1]["data"]
    assert failed_event["reason"].startswith("Message: Activity function 'ChargePayment' failed: CardDeclinedError: ")
    instance = await running_app.observe_instance("order-declined")
    assert instance is not None
    assert instance.runtime_status is RuntimeStatus.FAILED


def test_an_order_id_can_be_used_again_after_its_order_has_ended(running_app: RunningApp) -> None:
    running_app.slot.place_order("order-twice", approvalNeeded=True)
    running_app.slot.wait_until_waiting_for_approval("order-twice")
    assert running_app.slot.place_order("order-twice").status_code == 409
    running_app.slot.client.post("/api/orders/order-twice/reject")
    running_app.slot.wait_until_ended("order-twice")
    assert running_app.slot.place_order("order-twice").status_code == 202
    assert running_app.slot.wait_until_ended("order-twice")["output"]["status"] == "Shipped"


@pytest.mark.parametrize("body", [b"", b"[]", b"nonsense", b'{"orderId": "a/b", "items": ["apple"]}'])
def test_an_invalid_order_is_refused(running_app: RunningApp, body: bytes) -> None:
    response = running_app.slot.client.post("/api/orders", content=body)
    assert response.status_code == 400
    assert response.json()["error"]


def test_an_unknown_order_is_not_found(running_app: RunningApp) -> None:
    assert running_app.slot.client.get("/api/orders/unknown").status_code == 404


def test_a_slot_reports_its_version_and_task_hub(running_app: RunningApp) -> None:
    assert running_app.slot.client.get("/api/about").json() == {"version": "v1", "taskHub": running_app.engine.task_hub}


async def test_an_operator_can_suspend_terminate_and_purge_an_order(running_app: RunningApp) -> None:
    """Suspending an order publishes no event, terminating it publishes one, and purging it deletes the row."""
    running_app.slot.place_order("order-stopped", approvalNeeded=True)
    running_app.slot.wait_until_waiting_for_approval("order-stopped")
    with TaskHubGrpcClient(host_address=running_app.engine.address) as client:
        client.suspend_orchestration("order-stopped")
        wait_until(lambda: running_app.read_row("order-stopped")["RuntimeStatus"] == "Suspended", "it is suspended")
        instance = await running_app.observe_instance("order-stopped")
        assert instance is not None
        assert instance.active
        client.terminate_orchestration("order-stopped")
        client.resume_orchestration("order-stopped")
        running_app.slot.wait_until_ended("order-stopped")
        assert running_app.topic.statuses("order-stopped") == ["Running", "Terminated"]
        assert running_app.read_row("order-stopped")["RuntimeStatus"] == "Terminated"
        # Operations after the end have no effect and publish no event.
        client.suspend_orchestration("order-stopped")
        client.resume_orchestration("order-stopped")
        assert running_app.slot.wait_until_ended("order-stopped")["runtimeStatus"] == "Terminated"
        assert running_app.topic.statuses("order-stopped") == ["Running", "Terminated"]
        client.purge_orchestration("order-stopped")
    assert await running_app.observe_instance("order-stopped") is None


# Monitor and entity


async def test_the_monitor_publishes_completed_and_running_with_every_round_and_ends_after_stop(
    running_app: RunningApp,
) -> None:
    """The row of the monitor is active all the time, so a probe is right in spite of the Completed events."""
    request = {"id": "monitor-1", "items": ["plum"], "intervalSeconds": 0.2}
    assert running_app.slot.client.post("/api/monitor/start", json=request).status_code == 202
    generations = set()

    def has_reached_third_round(status: dict[str, Any]) -> bool:
        """Whether the monitor is in its third round. Keeps the execution id of each round."""
        instance = running_app.read_row("monitor-1")
        assert instance["RuntimeStatus"] in ("Pending", "Running")
        generations.add(instance["ExecutionId"])
        return bool(status["customStatus"] and status["customStatus"]["round"] >= 3)

    running_app.slot.wait_until("monitor-1", has_reached_third_round, "monitor")
    assert len(generations) > 1
    instance = await running_app.observe_instance("monitor-1")
    assert instance is not None
    assert instance.active
    assert running_app.slot.client.post("/api/monitor/monitor-1/stop").status_code == 202
    assert running_app.slot.wait_until_ended("monitor-1", "monitor")["runtimeStatus"] == "Completed"
    statuses = running_app.topic.statuses("monitor-1")
    assert len(statuses) >= 5
    # The end is published only if Stop arrived before the last round created its timer.
    assert statuses[: len(statuses) // 2 * 2] == ["Running", "Completed"] * (len(statuses) // 2)
    instance = await running_app.observe_instance("monitor-1")
    assert instance is not None
    assert not instance.active


def test_the_end_of_a_monitor_that_is_stopped_while_it_pauses_is_not_published(running_app: RunningApp) -> None:
    """The event Stop cancels the timer of the pause in the last step, so the extension does not publish the end."""
    running_app.slot.client.post(
        "/api/monitor/start", json={"id": "monitor-2", "items": ["fig"], "intervalSeconds": 3600}
    )
    running_app.slot.wait_until("monitor-2", lambda status: status["customStatus"] is not None, "monitor")
    running_app.slot.client.post("/api/monitor/monitor-2/stop")
    assert running_app.slot.wait_until_ended("monitor-2", "monitor")["runtimeStatus"] == "Completed"
    assert running_app.topic.statuses("monitor-2") == ["Running"]


def test_an_entity_publishes_running_once_and_its_row_stays_running(running_app: RunningApp) -> None:
    for number in (1, 2):
        running_app.slot.place_order(f"order-cherry-{number}", "cherry")
        running_app.slot.wait_until_ended(f"order-cherry-{number}")
    wait_until(
        lambda: running_app.slot.client.get("/api/stock/cherry").json() == {"item": "cherry", "pieces": 8},
        "both orders are counted",
    )
    assert running_app.topic.statuses("@stock@cherry") == ["Running"]
    row = running_app.read_row("@stock@cherry")
    assert (row["RuntimeStatus"], row["Name"]) == ("Running", "@stock@cherry")


def test_the_stock_of_an_item_that_was_never_ordered_is_ten(running_app: RunningApp) -> None:
    assert running_app.slot.client.get("/api/stock/quince").json() == {"item": "quince", "pieces": 10}
