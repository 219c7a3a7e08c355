"""The development host end to end: engine and slots as processes, the storage emulator, a topic that records events."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # it has no types
import pytest
from azure.data.tables import TableServiceClient
from durabletask.client import TaskHubGrpcClient
from durabletask.entities import EntityInstanceId
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal import orchestrator_service_pb2_grpc as stubs

from harness.processes import wait_until
from state_api.backends.azure_storage import AzureStorageBackend
from state_api.domain.task_hubs.lifecycle import RuntimeStatus
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderAccount
from tests.conftest import new_hub_name
from tests.durable_app.host_processes import (
    KEY,
    ROOT,
    EngineProcess,
    SlotProcess,
    Topic,
    run_engine,
    run_slot,
    run_topic,
)

pytestmark = pytest.mark.anyio


class RunningApp:
    """A task hub with one slot of version 1, and its storage and topic."""

    def __init__(self, topic: Topic, engine: EngineProcess, slot: SlotProcess, storage: StorageSettings) -> None:
        self.topic = topic
        self.engine = engine
        self.slot = slot
        self.storage = storage

    def read_row(self, instance_id: str) -> dict[str, Any]:
        """The instance's row in the storage account."""
        return read_row(self.storage, self.engine.task_hub, instance_id)

    async def observe_instance(self, instance_id: str) -> ObservedInstance | None:
        """The instance as the state server's probe reads it."""
        return await observe_instance(self.storage, self.engine.task_hub, instance_id)


def read_row(storage: StorageSettings, task_hub: str, instance_id: str) -> dict[str, Any]:
    """The instance's row in the storage account."""
    assert storage.connection_string is not None
    with TableServiceClient.from_connection_string(storage.connection_string.get_secret_value()) as tables:
        return dict(tables.get_table_client(f"{task_hub}Instances").get_entity(instance_id, ""))


async def observe_instance(storage: StorageSettings, task_hub: str, instance_id: str) -> ObservedInstance | None:
    """The instance as the state server's probe reads it."""
    backend = AzureStorageBackend(storage, "STATE_TASKHUBS_SHOP")
    try:
        assert (await backend.read_queue_snapshot(task_hub)).message_count == 0
        return (await backend.find_instances(task_hub, [instance_id]))[instance_id]
    finally:
        await backend.close()


@pytest.fixture(scope="module")
def running_app(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """A running engine and slot of the sample app, for all tests of this module."""
    folder = tmp_path_factory.mktemp("durable_app")
    with (
        run_topic() as topic,
        run_engine(new_hub_name(), storage, topic, folder) as engine,
        run_slot(engine, "v1", folder) as slot,
    ):
        yield RunningApp(topic, engine, slot, storage)


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


def test_an_unused_stock_can_be_read(running_app: RunningApp) -> None:
    assert running_app.slot.client.get("/api/stock/quince").json() == {"item": "quince", "pieces": 10}


# Events and storage


def test_an_event_is_published_before_the_episode_is_stored(running_app: RunningApp) -> None:
    """While Running is published, the row shows the start. While Completed is published, it still shows Running."""
    published_and_stored: list[tuple[str, str]] = []

    def compare_with_row(event: dict[str, Any]) -> int:
        """Keep the status in the event and the one in the row at the moment when the event arrives."""
        if event["data"]["instanceId"] == "order-before":
            published_and_stored.append(
                (event["data"]["runtimeStatus"], running_app.read_row("order-before")["RuntimeStatus"])
            )
        return 200

    running_app.topic.before_response = compare_with_row
    try:
        running_app.slot.place_order("order-before")
        running_app.slot.wait_until_ended("order-before")
    finally:
        running_app.topic.before_response = lambda _: 200
    assert published_and_stored == [("Running", "Pending"), ("Completed", "Running")]


def test_an_order_continues_although_its_events_are_lost(running_app: RunningApp) -> None:
    attempted_ids: list[str] = []

    def refuse_events_of_one_order(event: dict[str, Any]) -> int:
        """Keep the order of each attempt, and accept all events but those of one order."""
        attempted_ids.append(event["data"]["instanceId"])
        return 503 if event["data"]["instanceId"] == "order-unheard" else 200

    running_app.topic.before_response = refuse_events_of_one_order
    try:
        running_app.slot.place_order("order-unheard")
        running_app.slot.wait_until_ended("order-unheard")
    finally:
        running_app.topic.before_response = lambda _: 200
    assert running_app.topic.statuses("order-unheard") == []
    event_count, attempts_per_event = 2, 3
    assert attempted_ids.count("order-unheard") == event_count * attempts_per_event
    assert "given up" in running_app.engine.log.read_text()


async def test_a_task_hub_has_the_providers_artifacts(running_app: RunningApp) -> None:
    hub = running_app.engine.task_hub
    async with ProviderAccount(running_app.storage) as account:
        artifacts = set(await account.list_artifacts(hub))
        sample_hub = new_hub_name()
        await account.add_task_hub(sample_hub)
        expected = {artifact.replace(sample_hub, hub) for artifact in await account.list_artifacts(sample_hub)}
    assert artifacts == expected


# Slots


async def test_orders_survive_their_slot_on_the_same_version_and_not_on_another(
    storage: StorageSettings, hub: str, tmp_path: Path
) -> None:
    """The failure on the other version is the one that safe-deploy prevents."""
    with run_topic() as topic, run_engine(hub, storage, topic, tmp_path) as engine:
        with run_slot(engine, "v1", tmp_path) as slot:
            for order_id in ("kept", "broken"):
                slot.place_order(order_id, approvalNeeded=True)
                slot.wait_until_waiting_for_approval(order_id)
        instance = await observe_instance(storage, hub, "kept")
        assert instance is not None
        assert instance.active, "an order whose slot is gone stays active"

        with run_slot(engine, "v1", tmp_path) as slot_of_same_version:
            slot_of_same_version.client.post("/api/orders/kept/approve")
            assert slot_of_same_version.wait_until_ended("kept")["output"]["status"] == "Shipped"

        with run_slot(engine, "v2", tmp_path) as slot_of_other_version:
            slot_of_other_version.client.post("/api/orders/broken/approve")
            status = slot_of_other_version.wait_until_ended("broken")
            assert status["runtimeStatus"] == "Failed"
            assert status["output"].startswith("NonDeterminismError: ")
            assert "PriceItem" in status["output"]
            assert "ScreenOrder" in status["output"]
            slot_of_other_version.place_order("fresh")
            assert slot_of_other_version.wait_until_ended("fresh")["output"]["status"] == "Shipped"
        assert topic.statuses("broken") == ["Running"], "the extension does not publish such a failure"
        assert "NonDeterminismError" in read_row(storage, hub, "broken")["Output"]


def test_the_next_worker_gets_the_work_of_a_dead_worker(storage: StorageSettings, hub: str, tmp_path: Path) -> None:
    """The work is an episode, an activity and an entity operation. Late responses of the dead worker are ignored."""
    with (
        run_topic() as topic,
        run_engine(hub, storage, topic, tmp_path) as engine,
        grpc.insecure_channel(engine.address) as channel,
    ):
        stub = stubs.TaskHubSidecarServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
        with TaskHubGrpcClient(channel=channel) as client:
            order = {"orderId": "order-1", "items": ["fig"], "approvalNeeded": False, "card": "4711"}
            durations = {"packingSeconds": 0.1, "retryMilliseconds": 50}
            client.schedule_new_orchestration("ProcessOrder", input=order | durations, instance_id="order-1")
            stream = stub.GetWorkItems(pb.GetWorkItemsRequest())
            episode = next(stream)
            price = pb.OrchestratorAction(id=1, scheduleTask=pb.ScheduleTaskAction(name="PriceItem"))
            price.scheduleTask.input.value = '"fig"'
            stub.CompleteOrchestratorTask(
                pb.OrchestratorResponse(instanceId="order-1", actions=[price], completionToken=episode.completionToken)
            )
            assert next(stream).activityRequest.name == "PriceItem"
            client.schedule_new_orchestration("ProcessOrder", input=order | durations, instance_id="order-2")
            taken_episode = next(stream)
            assert taken_episode.orchestratorRequest.instanceId == "order-2"
            client.signal_entity(EntityInstanceId("stock", "kiwi"), "add", 5)
            assert next(stream).entityRequestV2.instanceId == "@stock@kiwi"
            stream.cancel()
            with run_slot(engine, "v1", tmp_path) as slot:
                late_response = pb.OrchestratorResponse(
                    instanceId="order-2", completionToken=taken_episode.completionToken
                )
                stub.CompleteOrchestratorTask(late_response)
                assert slot.wait_until_ended("order-1")["output"]["status"] == "Shipped"
                assert slot.wait_until_ended("order-2")["output"]["status"] == "Shipped"
                wait_until(
                    lambda: slot.client.get("/api/stock/kiwi").json()["pieces"] == 15,
                    "the entity has processed the signal",
                )


def test_a_slot_on_another_task_hub_than_its_engine_does_not_start(running_app: RunningApp) -> None:
    options = ["--task-hub", "other", "--version", "v1", "--port", "1", "--engine", running_app.engine.address]
    process = subprocess.run(
        [sys.executable, "-m", "durable_app.local", *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    assert f"this is the engine of {running_app.engine.task_hub}" in process.stderr


def test_an_engine_without_the_topics_key_does_not_start() -> None:
    options = ["--task-hub", "other", "--port", "1", "--topic-endpoint", "http://127.0.0.1:9/"]
    process = subprocess.run(
        [sys.executable, "-m", "durable_app.local.engine", *options],
        cwd=ROOT,
        env={"LIFECYCLE_TOPIC_KEY": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stderr) == (
        1,
        "error: set LIFECYCLE_TOPIC_KEY to the key of http://127.0.0.1:9/\n",
    )
