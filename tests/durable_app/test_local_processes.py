"""The processes of the development host: what the engine publishes and stores, and what survives the end of a slot."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # it has no types
import pytest
from durabletask.client import TaskHubGrpcClient
from durabletask.entities import EntityInstanceId
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal import orchestrator_service_pb2_grpc as stubs

from harness.processes import wait_until
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderAccount
from tests.conftest import new_hub_name
from tests.durable_app.host_processes import (
    ROOT,
    run_engine,
    run_slot,
    run_topic,
)
from tests.durable_app.running_app import RunningApp, observe_instance, read_row

pytestmark = pytest.mark.anyio


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
