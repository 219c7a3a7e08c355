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

    def __init__(self, to: Topic, on: EngineProcess, app: SlotProcess, storage: StorageSettings) -> None:
        self.topic = to
        self.engine = on
        self.slot = app
        self.storage = storage

    def row(self, instance_id: str) -> dict[str, Any]:
        return row(self.storage, self.engine.task_hub, instance_id)

    async def observed(self, instance_id: str) -> ObservedInstance | None:
        return await observed(self.storage, self.engine.task_hub, instance_id)


def row(storage: StorageSettings, task_hub: str, instance_id: str) -> dict[str, Any]:
    """The instance's row in the storage account."""
    assert storage.connection_string is not None
    with TableServiceClient.from_connection_string(storage.connection_string.get_secret_value()) as tables:
        return dict(tables.get_table_client(f"{task_hub}Instances").get_entity(instance_id, ""))


async def observed(storage: StorageSettings, task_hub: str, instance_id: str) -> ObservedInstance | None:
    """The instance as the state server's probe reads it."""
    backend = AzureStorageBackend(storage, "STATE_TASKHUBS_SHOP")
    try:
        assert (await backend.read_queue_snapshot(task_hub)).message_count == 0
        return (await backend.find_instances(task_hub, [instance_id]))[instance_id]
    finally:
        await backend.close()


@pytest.fixture(scope="module")
def running_app(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    folder = tmp_path_factory.mktemp("durable_app")
    with run_topic() as to, run_engine(new_hub_name(), storage, to, folder) as on, run_slot(on, "v1", folder) as app:
        yield RunningApp(to, on, app, storage)


# Orders


async def test_an_order_is_processed_and_leaves_its_events_and_rows(running_app: RunningApp) -> None:
    answer = running_app.slot.place_order("order-1", "apple", "pear")
    assert (answer.status_code, answer.headers["location"]) == (202, "/api/orders/order-1")
    status = running_app.slot.wait_until_ended("order-1")
    assert (status["runtimeStatus"], status["functionName"]) == ("Completed", "ProcessOrder")
    assert status["output"]["tracking"] == "TRACK-order-1-2"
    assert running_app.topic.statuses("order-1") == ["Running", "Completed"]
    assert running_app.topic.statuses("order-1-shipping") == ["Running", "Completed"]
    for instance_id, name in (("order-1", "ProcessOrder"), ("order-1-shipping", "ShipOrder")):
        instance = await running_app.observed(instance_id)
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
    row = running_app.row("order-row")
    assert (row["Name"], row["TaskHubName"], row["RuntimeStatus"]) == (
        "ProcessOrder",
        running_app.engine.task_hub,
        "Completed",
    )
    assert row["CreatedTime"] < row["LastUpdatedTime"]
    assert {"ExecutionId", "Input", "Output", "CustomStatus", "CompletedTime", "Generation"} <= set(row)


@pytest.mark.parametrize(("word", "outcome"), [("approve", "Shipped"), ("reject", "Rejected")])
def test_an_approver_decides(running_app: RunningApp, word: str, outcome: str) -> None:
    running_app.slot.place_order(f"order-{word}", approvalNeeded=True)
    running_app.slot.wait_for_approval(f"order-{word}")
    assert running_app.slot.client.post(f"/api/orders/{word}/{word}").status_code == 404
    assert running_app.slot.client.post(f"/api/orders/order-{word}/{word}").status_code == 202
    assert running_app.slot.wait_until_ended(f"order-{word}")["output"]["status"] == outcome
    # The end is not published, because the last step cancels the timer of the deadline.
    last = {"approve": ["Running", "Completed"], "reject": ["Running"]}
    assert running_app.topic.statuses(f"order-{word}") == last[word]
    assert running_app.slot.client.post(f"/api/orders/order-{word}/{word}").status_code == 409


def test_an_order_without_an_approval_expires(running_app: RunningApp) -> None:
    running_app.slot.place_order("order-late", approvalNeeded=True, approvalTimeoutSeconds=0.3)
    assert running_app.slot.wait_until_ended("order-late")["output"]["status"] == "Expired"


async def test_a_failed_order_has_its_error(running_app: RunningApp) -> None:
    running_app.slot.place_order("order-declined", card="declined")
    assert "declined" in running_app.slot.wait_until_ended("order-declined")["output"]
    assert running_app.topic.statuses("order-declined") == ["Running", "Failed"]
    last = running_app.topic.events[-1]["data"]
    assert last["reason"].startswith("Message: Activity function 'ChargePayment' failed: CardDeclinedError: ")
    instance = await running_app.observed("order-declined")
    assert instance is not None
    assert instance.runtime_status is RuntimeStatus.FAILED


def test_an_order_id_can_be_used_again_after_its_order_has_ended(running_app: RunningApp) -> None:
    running_app.slot.place_order("order-twice", approvalNeeded=True)
    running_app.slot.wait_for_approval("order-twice")
    assert running_app.slot.place_order("order-twice").status_code == 409
    running_app.slot.client.post("/api/orders/order-twice/reject")
    running_app.slot.wait_until_ended("order-twice")
    assert running_app.slot.place_order("order-twice").status_code == 202
    assert running_app.slot.wait_until_ended("order-twice")["output"]["status"] == "Shipped"


@pytest.mark.parametrize("body", [b"", b"[]", b"nonsense", b'{"orderId": "a/b", "items": ["apple"]}'])
def test_an_invalid_order_is_refused(running_app: RunningApp, body: bytes) -> None:
    answer = running_app.slot.client.post("/api/orders", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_an_unknown_order_is_not_found(running_app: RunningApp) -> None:
    assert running_app.slot.client.get("/api/orders/unknown").status_code == 404


def test_a_slot_says_which_version_and_task_hub_it_has(running_app: RunningApp) -> None:
    assert running_app.slot.client.get("/api/about").json() == {"version": "v1", "taskHub": running_app.engine.task_hub}


async def test_an_operator_can_suspend_terminate_and_purge_an_order(running_app: RunningApp) -> None:
    """Suspending publishes no event, terminating does, and a purge deletes the row."""
    running_app.slot.place_order("order-stopped", approvalNeeded=True)
    running_app.slot.wait_for_approval("order-stopped")
    with TaskHubGrpcClient(host_address=running_app.engine.address) as client:
        client.suspend_orchestration("order-stopped")
        wait_until(lambda: running_app.row("order-stopped")["RuntimeStatus"] == "Suspended", "it is suspended")
        instance = await running_app.observed("order-stopped")
        assert instance is not None
        assert instance.active
        client.terminate_orchestration("order-stopped")
        client.resume_orchestration("order-stopped")
        running_app.slot.wait_until_ended("order-stopped")
        assert running_app.topic.statuses("order-stopped") == ["Running", "Terminated"]
        assert running_app.row("order-stopped")["RuntimeStatus"] == "Terminated"
        # Operations after the end have no effect and publish no event.
        client.suspend_orchestration("order-stopped")
        client.resume_orchestration("order-stopped")
        assert running_app.slot.wait_until_ended("order-stopped")["runtimeStatus"] == "Terminated"
        assert running_app.topic.statuses("order-stopped") == ["Running", "Terminated"]
        client.purge_orchestration("order-stopped")
    assert await running_app.observed("order-stopped") is None


# Monitor and entity


async def test_the_monitor_publishes_completed_and_running_with_every_round_and_ends_after_stop(
    running_app: RunningApp,
) -> None:
    """Its row is Running all the time, so the Completed events in between do not mislead a probe."""
    watch = {"id": "monitor-1", "items": ["plum"], "intervalSeconds": 0.2}
    assert running_app.slot.client.post("/api/monitor/start", json=watch).status_code == 202
    generations = set()

    def third_round(status: dict[str, Any]) -> bool:
        instance = running_app.row("monitor-1")
        assert instance["RuntimeStatus"] in ("Pending", "Running")
        generations.add(instance["ExecutionId"])
        return bool(status["customStatus"] and status["customStatus"]["round"] >= 3)

    running_app.slot.wait_until("monitor-1", third_round, "monitor")
    assert len(generations) > 1
    instance = await running_app.observed("monitor-1")
    assert instance is not None
    assert instance.active
    assert running_app.slot.client.post("/api/monitor/monitor-1/stop").status_code == 202
    assert running_app.slot.wait_until_ended("monitor-1", "monitor")["runtimeStatus"] == "Completed"
    statuses = running_app.topic.statuses("monitor-1")
    assert len(statuses) >= 5
    # The end is published only if Stop arrived before the last round created its timer.
    assert statuses[: len(statuses) // 2 * 2] == ["Running", "Completed"] * (len(statuses) // 2)
    instance = await running_app.observed("monitor-1")
    assert instance is not None
    assert not instance.active


def test_the_end_of_a_monitor_that_is_stopped_while_it_pauses_is_not_published(running_app: RunningApp) -> None:
    """The event Stop cancels the timer in the last step, so the extension does not publish the end."""
    running_app.slot.client.post(
        "/api/monitor/start", json={"id": "monitor-2", "items": ["fig"], "intervalSeconds": 3600}
    )
    running_app.slot.wait_until("monitor-2", lambda status: status["customStatus"] is not None, "monitor")
    running_app.slot.client.post("/api/monitor/monitor-2/stop")
    assert running_app.slot.wait_until_ended("monitor-2", "monitor")["runtimeStatus"] == "Completed"
    assert running_app.topic.statuses("monitor-2") == ["Running"]


def test_an_entity_publishes_running_once_and_its_row_says_so_for_ever(running_app: RunningApp) -> None:
    for number in (1, 2):
        running_app.slot.place_order(f"order-cherry-{number}", "cherry")
        running_app.slot.wait_until_ended(f"order-cherry-{number}")
    wait_until(
        lambda: running_app.slot.client.get("/api/stock/cherry").json() == {"item": "cherry", "pieces": 8}, "both count"
    )
    assert running_app.topic.statuses("@stock@cherry") == ["Running"]
    row = running_app.row("@stock@cherry")
    assert (row["RuntimeStatus"], row["Name"]) == ("Running", "@stock@cherry")


def test_an_unused_stock_can_be_read(running_app: RunningApp) -> None:
    assert running_app.slot.client.get("/api/stock/quince").json() == {"item": "quince", "pieces": 10}


# Events and storage


def test_an_event_is_published_before_the_episode_is_stored(running_app: RunningApp) -> None:
    """While Running is posted, the row is that of the start. While Completed is posted, the row is still Running."""
    before: list[tuple[str, str]] = []

    def look(event: dict[str, Any]) -> int:
        if event["data"]["instanceId"] == "order-before":
            before.append((event["data"]["runtimeStatus"], running_app.row("order-before")["RuntimeStatus"]))
        return 200

    running_app.topic.before_response = look
    try:
        running_app.slot.place_order("order-before")
        running_app.slot.wait_until_ended("order-before")
    finally:
        running_app.topic.before_response = lambda _: 200
    assert before == [("Running", "Pending"), ("Completed", "Running")]


def test_an_order_continues_although_its_events_are_lost(running_app: RunningApp) -> None:
    tried: list[str] = []

    def refuse(event: dict[str, Any]) -> int:
        tried.append(event["data"]["instanceId"])
        return 503 if event["data"]["instanceId"] == "order-unheard" else 200

    running_app.topic.before_response = refuse
    try:
        running_app.slot.place_order("order-unheard")
        running_app.slot.wait_until_ended("order-unheard")
    finally:
        running_app.topic.before_response = lambda _: 200
    assert running_app.topic.statuses("order-unheard") == []
    assert tried.count("order-unheard") == 2 * 3, "two events, each once and twice again"
    assert "given up" in running_app.engine.log.read_text()


async def test_a_task_hub_has_the_providers_artifacts(running_app: RunningApp) -> None:
    hub = running_app.engine.task_hub
    async with ProviderAccount(running_app.storage) as account:
        artifacts = set(await account.list_artifacts(hub))
        await account.add_task_hub(other := new_hub_name())
        expected = {artifact.replace(other, hub) for artifact in await account.list_artifacts(other)}
    assert artifacts == expected


# Slots


async def test_orders_survive_their_slot_on_the_same_version_and_not_on_another(
    storage: StorageSettings, hub: str, tmp_path: Path
) -> None:
    """Safe deployment prevents this failure."""
    with run_topic() as to, run_engine(hub, storage, to, tmp_path) as on:
        with run_slot(on, "v1", tmp_path) as first:
            for order_id in ("kept", "broken"):
                first.place_order(order_id, approvalNeeded=True)
                first.wait_for_approval(order_id)
        instance = await observed(storage, hub, "kept")
        assert instance is not None
        assert instance.active, "an order whose slot is gone stays active"

        with run_slot(on, "v1", tmp_path) as again:
            again.client.post("/api/orders/kept/approve")
            assert again.wait_until_ended("kept")["output"]["status"] == "Shipped"

        with run_slot(on, "v2", tmp_path) as overwritten:
            overwritten.client.post("/api/orders/broken/approve")
            status = overwritten.wait_until_ended("broken")
            assert status["runtimeStatus"] == "Failed"
            assert status["output"].startswith("NonDeterminismError: ")
            assert "PriceItem" in status["output"]
            assert "ScreenOrder" in status["output"]
            overwritten.place_order("fresh")
            assert overwritten.wait_until_ended("fresh")["output"]["status"] == "Shipped"
        assert to.statuses("broken") == ["Running"], "such a failure is not published"
        assert "NonDeterminismError" in row(storage, hub, "broken")["Output"]


def test_the_work_of_a_dead_worker_goes_to_the_next(storage: StorageSettings, hub: str, tmp_path: Path) -> None:
    """It is true of an episode, an activity and an entity operation. Late responses of the dead worker are ignored."""
    with run_topic() as to, run_engine(hub, storage, to, tmp_path) as on, grpc.insecure_channel(on.address) as channel:
        stub = stubs.TaskHubSidecarServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
        with TaskHubGrpcClient(channel=channel) as client:
            order = {"orderId": "order-1", "items": ["fig"], "approvalNeeded": False, "card": "4711"}
            quick = {"packingSeconds": 0.1, "retryMilliseconds": 50}
            client.schedule_new_orchestration("ProcessOrder", input=order | quick, instance_id="order-1")
            stream = stub.GetWorkItems(pb.GetWorkItemsRequest())
            episode = next(stream)
            price = pb.OrchestratorAction(id=1, scheduleTask=pb.ScheduleTaskAction(name="PriceItem"))
            price.scheduleTask.input.value = '"fig"'
            stub.CompleteOrchestratorTask(
                pb.OrchestratorResponse(instanceId="order-1", actions=[price], completionToken=episode.completionToken)
            )
            assert next(stream).activityRequest.name == "PriceItem"
            client.schedule_new_orchestration("ProcessOrder", input=order | quick, instance_id="order-2")
            taken = next(stream)
            assert taken.orchestratorRequest.instanceId == "order-2"
            client.signal_entity(EntityInstanceId("stock", "kiwi"), "add", 5)
            assert next(stream).entityRequestV2.instanceId == "@stock@kiwi"
            stream.cancel()
            with run_slot(on, "v1", tmp_path) as app:
                late = pb.OrchestratorResponse(instanceId="order-2", completionToken=taken.completionToken)
                stub.CompleteOrchestratorTask(late)
                assert app.wait_until_ended("order-1")["output"]["status"] == "Shipped"
                assert app.wait_until_ended("order-2")["output"]["status"] == "Shipped"
                wait_until(lambda: app.client.get("/api/stock/kiwi").json()["pieces"] == 15, "the signal is heard")


def test_a_slot_on_another_task_hub_than_its_engine_does_not_start(running_app: RunningApp) -> None:
    options = ["--task-hub", "other", "--version", "v1", "--port", "1", "--engine", running_app.engine.address]
    done = subprocess.run(
        [sys.executable, "-m", "durable_app.local", *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"this is the engine of {running_app.engine.task_hub}" in done.stderr


def test_an_engine_without_the_topics_key_does_not_start() -> None:
    options = ["--task-hub", "other", "--port", "1", "--topic-endpoint", "http://127.0.0.1:9/"]
    done = subprocess.run(
        [sys.executable, "-m", "durable_app.local.engine", *options],
        cwd=ROOT,
        env={"LIFECYCLE_TOPIC_KEY": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "error: set LIFECYCLE_TOPIC_KEY to the key of http://127.0.0.1:9/\n")
