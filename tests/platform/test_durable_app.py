"""The sample app on the real Functions host, with the pinned version of azure-functions-durable. The state server on a
second host refuses a deployment while orders run. The app's development host publishes the same events as the real
host."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
from durabletask.client import TaskHubGrpcClient

from harness.processes import wait_until
from state_api.settings import StorageSettings
from tests.conftest import new_hub_name
from tests.durable_app.host_processes import KEY, SlotProcess, run_engine, run_slot, run_topic
from tests.platform.event_grid import EventSubscription
from tests.platform.orders_app import OrdersHost, VerdictClient, run_guarded_orders

ORDERS = ("shipped", "approved", "rejected", "expired", "declined")
MONITOR = "monitor"


class GuardedOrdersFixture:
    """The orders app, the state server that has its task hub in the staging slot, and the topic between them."""

    def __init__(self, orders: OrdersHost, state: httpx.Client, subscription: EventSubscription) -> None:
        self.orders = orders
        self.state_server = VerdictClient(state, "orders-on-the-host")
        self.state_server.register_app(orders.task_hub)
        self.subscription = subscription


@pytest.fixture(scope="module")
def orders_fixture(
    storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GuardedOrdersFixture]:
    """The sample app on the Functions host, guarded by a state server that gets its events."""
    with run_guarded_orders(storage, tmp_path_factory.mktemp("orders")) as (orders, state, subscription):
        yield GuardedOrdersFixture(orders, state, subscription)


def post_decision(app: SlotProcess, order_id: str, decision: str) -> None:
    """Approve or reject an order: `decision` is `approve` or `reject`."""
    response = app.client.post(f"/api/orders/{order_id}/{decision}")
    assert response.status_code == 202, response.text


def get_monitor_round(app: SlotProcess, monitor_id: str) -> int:
    """The number of the round that the monitor is in; 0 before the first."""
    status = app.get_status(monitor_id, "monitor")["customStatus"]
    return int(status["round"]) if status else 0


def stop_monitor(app: SlotProcess, monitor_id: str) -> None:
    """Stop the monitor while it pauses after a round."""
    last_round = get_monitor_round(app, monitor_id)
    wait_until(lambda: get_monitor_round(app, monitor_id) > last_round, "another round has begun")
    app.client.post(f"/api/monitor/{monitor_id}/stop").raise_for_status()
    app.wait_until_ended(monitor_id, "monitor")


# The guarded deployment


def test_an_order_without_events_blocks_the_deployment(orders_fixture: GuardedOrdersFixture) -> None:
    state_server, orders, order_id = orders_fixture.state_server, orders_fixture.orders.start_slot(), "without-events"
    orders_fixture.subscription.refuses_events = True
    try:
        orders.place_order(order_id, "cherry", approvalNeeded=True)
        orders.wait_until_waiting_for_approval(order_id)
        verdict = state_server.get_verdict()
        assert [(instance["instanceId"], instance["source"]) for instance in verdict["active"]] == [(order_id, "probe")]
        assert state_server.post_staging(new_hub_name()).status_code == 409
        post_decision(orders, order_id, "approve")
        orders.wait_until_ended(order_id)
    finally:
        orders_fixture.subscription.refuses_events = False
    assert orders_fixture.subscription.topic.statuses(order_id) == []
    assert state_server.wait_until_ready()["assurance"] == "verified"


def test_a_deployment_is_refused_while_orders_run_and_allowed_when_all_have_ended(
    orders_fixture: GuardedOrdersFixture,
) -> None:
    """One of the orders never publishes its end: its rejection before the deadline cancels a timer in the last step."""
    state_server, orders, prefix = orders_fixture.state_server, orders_fixture.orders.start_slot(), "guarded-"
    waiting = {f"{prefix}approved", f"{prefix}rejected"}
    for order_id in waiting:
        orders.place_order(order_id, "cherry", approvalNeeded=True)
    orders.place_order(f"{prefix}expired", "cherry", approvalNeeded=True, approvalTimeoutSeconds=2)
    orders.place_order(f"{prefix}shipped", "cherry")
    orders.place_order(f"{prefix}declined", "cherry", card="declined")
    for order_id in (*waiting, f"{prefix}expired"):
        orders.wait_until_waiting_for_approval(order_id)
    monitor: dict[str, Any] = {"id": f"{prefix}{MONITOR}", "items": ["quince"], "intervalSeconds": 2}
    orders.client.post("/api/monitor/start", json=monitor).raise_for_status()
    for name in ("expired", "shipped", "declined"):
        orders.wait_until_ended(f"{prefix}{name}")

    # The monitor publishes Completed at the end of each round, and Running a moment later. In between the records do
    # not show it, and the task hub is not scanned while orders are active. Its row is always active. So the response
    # must show it if its last event before the request was Running and none came until the response.
    shown_ids: set[str] = set()
    first_round = get_monitor_round(orders, monitor["id"])
    while get_monitor_round(orders, monitor["id"]) < first_round + 2:
        statuses_before = orders_fixture.subscription.topic.statuses(monitor["id"])
        orders_fixture.subscription.wait_until_delivered()
        verdict = state_server.get_verdict()
        active = {instance["instanceId"]: instance["functionName"] for instance in verdict["active"]}
        assert (verdict["ready"], verdict["hasRunning"]) == (False, True)
        shown_ids |= set(active)
        statuses_after = orders_fixture.subscription.topic.statuses(monitor["id"])
        must_be_shown = statuses_before[-1] == "Running" and statuses_before == statuses_after
        shown_monitor = {monitor["id"]: "StockMonitor"} if must_be_shown or monitor["id"] in active else {}
        assert active == dict.fromkeys(waiting, "ProcessOrder") | shown_monitor
    assert shown_ids == {*waiting, monitor["id"]}
    refused = state_server.post_staging(new_hub_name())
    assert (refused.status_code, refused.json()["code"]) == (409, "StagingNotReady")

    post_decision(orders, f"{prefix}approved", "approve")
    stop_monitor(orders, monitor["id"])
    orders.wait_until_ended(f"{prefix}approved")
    assert not state_server.get_verdict()["ready"], "one order still waits"
    post_decision(orders, f"{prefix}rejected", "reject")
    assert orders.wait_until_ended(f"{prefix}rejected")["output"]["status"] == "Rejected"

    verdict = state_server.wait_until_ready()
    assert (verdict["assurance"], verdict["activeCount"]) == ("verified", 0)
    orders_fixture.subscription.wait_until_delivered()
    assert orders_fixture.subscription.topic.statuses(f"{prefix}rejected") == ["Running"], "its end is never published"
    recorded = state_server.list_instances(orders_fixture.orders.task_hub)
    rejected, shipping = recorded[f"{prefix}rejected"], recorded[f"{prefix}shipped-shipping"]
    assert (rejected["runtimeStatus"], rejected["source"]) == ("Completed", "probe")
    assert (shipping["runtimeStatus"], shipping["functionName"]) == ("Completed", "ShipOrder")
    next_hub = new_hub_name()
    # The timer of the stopped monitor still fires. Its message blocks for as long as a worker holds it.
    wait_until(lambda: state_server.post_staging(next_hub).status_code == 200, "the next version may be staged")


# The development host


class Operator(Protocol):
    """What an operator does with a task hub without the app's own HTTP functions."""

    def terminate(self, instance_id: str, reason: str) -> None: ...

    def schedule(self, name: str, instance_id: str, input_value: Any) -> None: ...


class EngineClient:
    """An operator of the development host's task hub."""

    def __init__(self, client: TaskHubGrpcClient) -> None:
        self._client = client

    def terminate(self, instance_id: str, reason: str) -> None:
        """Terminate an instance through the engine of the development host."""
        self._client.terminate_orchestration(instance_id, output=reason)

    def schedule(self, name: str, instance_id: str, input_value: Any) -> None:
        """Start an instance through the engine of the development host."""
        self._client.schedule_new_orchestration(name, input=input_value, instance_id=instance_id)


INVALID_ORDER, TERMINATED, CHANGED = "no-order", "terminated", "changed"
ENDS_IN_FIRST_STEP = (INVALID_ORDER,)
"""Instances that end in their first step: the host posts their start and end at the same time, in any order."""


def run_orders(app: SlotProcess, operator: Operator) -> None:
    """Run orders of every kind on version 1, all to their ends except `changed`, which waits for version 2. The items
    are used by no other test of this module: the first use of an item's stock publishes Running."""
    app.place_order("shipped", "apple", "pear")
    app.place_order("expired", approvalNeeded=True, approvalTimeoutSeconds=2)
    app.place_order("declined", card="declined")
    for order_id in ("approved", "rejected", "approved-declined", TERMINATED, CHANGED):
        app.place_order(order_id, approvalNeeded=True, card="declined" if order_id == "approved-declined" else "4711")
    operator.schedule("ProcessOrder", INVALID_ORDER, {"items": "none"})
    monitor = {"id": MONITOR, "items": ["plum"], "intervalSeconds": 4}
    app.client.post("/api/monitor/start", json=monitor).raise_for_status()
    for order_id, decision in (("approved", "approve"), ("rejected", "reject"), ("approved-declined", "approve")):
        app.wait_until_waiting_for_approval(order_id)
        post_decision(app, order_id, decision)
    app.wait_until_waiting_for_approval(TERMINATED)
    operator.terminate(TERMINATED, "no longer needed")
    stop_monitor(app, MONITOR)
    for order_id in (*ORDERS, "approved-declined", TERMINATED, INVALID_ORDER):
        app.wait_until_ended(order_id)
    app.wait_until_waiting_for_approval(CHANGED)


def continue_changed_order(app: SlotProcess) -> None:
    """Continue the order that waits since version 1, on version 2, which screens its own orders."""
    app.place_order("screened", card="stolen")
    post_decision(app, CHANGED, "approve")
    for order_id in ("screened", CHANGED):
        app.wait_until_ended(order_id)


def group_comparable_events(events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the events of each instance in order, without what differs from run to run.

    That is event ids, times, the task hub's name, the stack traces in reasons, and the number of the monitor's rounds.
    """
    by_instance: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        data = event["data"] | {"hubName": "", "reason": remove_stack_trace(event["data"]["reason"])}
        by_instance.setdefault(data["instanceId"], []).append(event | {"id": "", "eventTime": "", "data": data})
    for instance_id in ENDS_IN_FIRST_STEP:
        by_instance[instance_id].sort(key=lambda event: str(event["subject"]))
    by_instance[MONITOR] = by_instance[MONITOR][:2] + by_instance[MONITOR][-1:]
    return by_instance


def remove_stack_trace(reason: str) -> str:
    """Return a reason without its stack trace."""
    return reason.partition(" \n")[0].partition(", StackTrace:")[0]


def record_on_engine(storage: StorageSettings, folder: Path) -> list[dict[str, Any]]:
    """Return the events that the development host publishes for these orders."""
    with run_topic() as topic, run_engine(new_hub_name(), storage, topic, folder) as engine:
        with run_slot(engine, "v1", folder) as app, TaskHubGrpcClient(host_address=engine.address) as client:
            run_orders(app, EngineClient(client))
        with run_slot(engine, "v2", folder) as app:
            continue_changed_order(app)
        return topic.events


def record_on_functions_host(orders_fixture: GuardedOrdersFixture) -> list[dict[str, Any]]:
    """Return the events that the real host publishes for the same orders."""
    count_before = len(orders_fixture.subscription.topic.events)
    run_orders(orders_fixture.orders.start_slot("v1"), orders_fixture.orders)
    continue_changed_order(orders_fixture.orders.start_slot("v2"))
    return orders_fixture.subscription.topic.events[count_before:]


def test_the_development_host_publishes_what_the_real_host_publishes(
    orders_fixture: GuardedOrdersFixture, storage: StorageSettings, tmp_path: Path
) -> None:
    with ThreadPoolExecutor() as executor:
        recordings = (
            executor.submit(record_on_engine, storage, tmp_path),
            executor.submit(record_on_functions_host, orders_fixture),
        )
    development, real = (group_comparable_events(recording.result()) for recording in recordings)
    assert development == real
    statuses = {
        instance_id: [event["data"]["runtimeStatus"] for event in events] for instance_id, events in real.items()
    }
    # The real host does not publish the ends of these.
    assert [statuses[instance_id] for instance_id in ("rejected", CHANGED)] == [["Running"], ["Running"]]
    assert statuses[MONITOR] == ["Running", "Completed", "Running"]
    assert orders_fixture.subscription.topic.keys == {KEY}
