"""The sample app on the real Functions host, with azure-functions-durable as it is pinned: the guard on a second host
refuses a deployment while orders run, and the app's stand-in for development publishes what the real host does."""

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
from tests.durable_app.host_processes import KEY, EngineProcess, SlotProcess, run_engine, run_slot, run_topic
from tests.platform.event_grid import EventSubscription
from tests.platform.orders_app import OrdersHost, StateServerClient, run_guarded_orders

ORDERS = ("shipped", "approved", "rejected", "expired", "declined")
MONITOR = "monitor"


class GuardedOrdersFixture:
    """The orders app, the state server that has its task hub in the staging slot, and the topic between them."""

    def __init__(self, orders: OrdersHost, state: httpx.Client, subscription: EventSubscription) -> None:
        self.orders = orders
        self.state_server = StateServerClient(state, "orders-on-the-host")
        self.state_server.register(orders.task_hub)
        self.subscription = subscription


@pytest.fixture(scope="module")
def orders_fixture(
    storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GuardedOrdersFixture]:
    with run_guarded_orders(storage, tmp_path_factory.mktemp("orders")) as (orders, state, subscription):
        yield GuardedOrdersFixture(orders, state, subscription)


def post_decision(app: SlotProcess, order_id: str, decision: str) -> None:
    """Approve or reject an order."""
    answer = app.client.post(f"/api/orders/{order_id}/{decision}")
    assert answer.status_code == 202, answer.text


def monitor_round(app: SlotProcess, monitor_id: str) -> int:
    status = app.status(monitor_id, "monitor")["customStatus"]
    return int(status["round"]) if status else 0


def stop_monitor(app: SlotProcess, monitor_id: str) -> None:
    """Stop the monitor while it pauses."""
    begun = monitor_round(app, monitor_id)
    wait_until(lambda: monitor_round(app, monitor_id) > begun, "another round has begun")
    app.client.post(f"/api/monitor/{monitor_id}/stop").raise_for_status()
    app.wait_until_ended(monitor_id, "monitor")


# The guard


def test_an_order_of_which_no_event_arrives_holds_up_the_deployment(orders_fixture: GuardedOrdersFixture) -> None:
    state_server, orders, order_id = orders_fixture.state_server, orders_fixture.orders.slot(), "unheard"
    orders_fixture.subscription.refuses_events = True
    try:
        orders.place_order(order_id, "cherry", approvalNeeded=True)
        orders.wait_for_approval(order_id)
        verdict = state_server.verdict()
        assert [(instance["instanceId"], instance["source"]) for instance in verdict["active"]] == [(order_id, "probe")]
        assert state_server.stage(new_hub_name()).status_code == 409
        post_decision(orders, order_id, "approve")
        orders.wait_until_ended(order_id)
    finally:
        orders_fixture.subscription.refuses_events = False
    assert orders_fixture.subscription.topic.statuses(order_id) == []
    assert state_server.ready()["assurance"] == "verified"


def test_a_deployment_is_refused_while_orders_run_and_allowed_when_all_have_ended(
    orders_fixture: GuardedOrdersFixture,
) -> None:
    """Also after the order whose end is never published: its rejection, before the deadline, cancels a timer in the
    last step."""
    state_server, orders, prefix = orders_fixture.state_server, orders_fixture.orders.slot(), "guarded-"
    waiting = {f"{prefix}approved", f"{prefix}rejected"}
    for order_id in waiting:
        orders.place_order(order_id, "cherry", approvalNeeded=True)
    orders.place_order(f"{prefix}expired", "cherry", approvalNeeded=True, approvalTimeoutSeconds=2)
    orders.place_order(f"{prefix}shipped", "cherry")
    orders.place_order(f"{prefix}declined", "cherry", card="declined")
    for order_id in (*waiting, f"{prefix}expired"):
        orders.wait_for_approval(order_id)
    watch: dict[str, Any] = {"id": f"{prefix}{MONITOR}", "items": ["quince"], "intervalSeconds": 2}
    orders.client.post("/api/monitor/start", json=watch).raise_for_status()
    for name in ("expired", "shipped", "declined"):
        orders.wait_until_ended(f"{prefix}{name}")

    # The monitor publishes Completed with every round, and Running a moment later. In between the records do not show
    # it, and while orders are active the task hub is not scanned for it. Its row is active all the time, so the events
    # tell whether the answer must show it: the last one was Running, and none came until the answer.
    shown: set[str] = set()
    begun = monitor_round(orders, watch["id"])
    while monitor_round(orders, watch["id"]) < begun + 2:
        told = orders_fixture.subscription.topic.statuses(watch["id"])
        orders_fixture.subscription.wait_until_delivered()
        verdict = state_server.verdict()
        active = {instance["instanceId"]: instance["functionName"] for instance in verdict["active"]}
        assert (verdict["ready"], verdict["hasRunning"]) == (False, True)
        shown |= set(active)
        must_be_shown = told[-1] == "Running" and told == orders_fixture.subscription.topic.statuses(watch["id"])
        monitored = {watch["id"]: "StockMonitor"} if must_be_shown or watch["id"] in active else {}
        assert active == dict.fromkeys(waiting, "ProcessOrder") | monitored
    assert shown == {*waiting, watch["id"]}
    refused = state_server.stage(new_hub_name())
    assert (refused.status_code, refused.json()["code"]) == (409, "StagingNotReady")

    post_decision(orders, f"{prefix}approved", "approve")
    stop_monitor(orders, watch["id"])
    orders.wait_until_ended(f"{prefix}approved")
    assert not state_server.verdict()["ready"], "one order still waits"
    post_decision(orders, f"{prefix}rejected", "reject")
    assert orders.wait_until_ended(f"{prefix}rejected")["output"]["status"] == "Rejected"

    verdict = state_server.ready()
    assert (verdict["assurance"], verdict["activeCount"]) == ("verified", 0)
    orders_fixture.subscription.wait_until_delivered()
    assert orders_fixture.subscription.topic.statuses(f"{prefix}rejected") == ["Running"], "its end is never published"
    recorded = state_server.instances(orders_fixture.orders.task_hub)
    rejected, shipping = recorded[f"{prefix}rejected"], recorded[f"{prefix}shipped-shipping"]
    assert (rejected["runtimeStatus"], rejected["source"]) == ("Completed", "probe")
    assert (shipping["runtimeStatus"], shipping["functionName"]) == ("Completed", "ShipOrder")
    allowed = state_server.stage(new_hub_name())
    assert allowed.status_code == 200, allowed.text


# The stand-in


class Operator(Protocol):
    """What an operator does with a task hub, past the app's own HTTP functions."""

    def terminate(self, instance_id: str, reason: str) -> None: ...

    def schedule(self, name: str, instance_id: str, input_value: Any) -> None: ...


class EngineClient:
    """An operator of the stand-in's task hub."""

    def __init__(self, client: TaskHubGrpcClient) -> None:
        self._client = client

    def terminate(self, instance_id: str, reason: str) -> None:
        self._client.terminate_orchestration(instance_id, output=reason)

    def schedule(self, name: str, instance_id: str, input_value: Any) -> None:
        self._client.schedule_new_orchestration(name, input=input_value, instance_id=instance_id)


INVALID_ORDER, TERMINATED, CHANGED = "no-order", "terminated", "changed"
ENDS_IN_FIRST_STEP = (INVALID_ORDER,)
"""Instances that end in their first step: the host posts their start and their end at once, in any order."""


def run_orders(app: SlotProcess, operator: Operator) -> None:
    """Orders of every kind on version 1, all to their end but `changed`, which waits for version 2. No other test here
    uses these items: the first use of an item's stock publishes Running."""
    app.place_order("shipped", "apple", "pear")
    app.place_order("expired", approvalNeeded=True, approvalTimeoutSeconds=2)
    app.place_order("declined", card="declined")
    for order_id in ("approved", "rejected", "approved-declined", TERMINATED, CHANGED):
        app.place_order(order_id, approvalNeeded=True, card="declined" if order_id == "approved-declined" else "4711")
    operator.schedule("ProcessOrder", INVALID_ORDER, {"items": "none"})
    watch = {"id": MONITOR, "items": ["plum"], "intervalSeconds": 4}
    app.client.post("/api/monitor/start", json=watch).raise_for_status()
    for order_id, decision in (("approved", "approve"), ("rejected", "reject"), ("approved-declined", "approve")):
        app.wait_for_approval(order_id)
        post_decision(app, order_id, decision)
    app.wait_for_approval(TERMINATED)
    operator.terminate(TERMINATED, "no longer needed")
    stop_monitor(app, MONITOR)
    for order_id in (*ORDERS, "approved-declined", TERMINATED, INVALID_ORDER):
        app.wait_until_ended(order_id)
    app.wait_for_approval(CHANGED)


def continue_changed_order(app: SlotProcess) -> None:
    """Version 2 has taken the place of version 1 under an order that waits, and screens the orders of its own."""
    app.place_order("screened", card="stolen")
    post_decision(app, CHANGED, "approve")
    for order_id in ("screened", CHANGED):
        app.wait_until_ended(order_id)


def comparable_events(events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The events of each instance in order, without what differs from run to run: ids, times, the task hub's name, and
    the stack traces in reasons."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        data = event["data"] | {"hubName": "", "reason": reason(event["data"]["reason"])}
        found.setdefault(data["instanceId"], []).append(event | {"id": "", "eventTime": "", "data": data})
    for instance_id in ENDS_IN_FIRST_STEP:
        found[instance_id].sort(key=lambda event: str(event["subject"]))
    # How many rounds the monitor has had is chance.
    found[MONITOR] = found[MONITOR][:2] + found[MONITOR][-1:]
    return found


def reason(text: str) -> str:
    return text.partition(" \n")[0].partition(", StackTrace:")[0]


def record_on_engine(storage: StorageSettings, folder: Path) -> list[dict[str, Any]]:
    """What the stand-in publishes for these orders."""

    def running(on: EngineProcess, version: str) -> Any:
        return run_slot(on, version, folder)

    with run_topic() as to, run_engine(new_hub_name(), storage, to, folder) as on:
        with running(on, "v1") as app, TaskHubGrpcClient(host_address=on.address) as client:
            run_orders(app, EngineClient(client))
        with running(on, "v2") as app:
            continue_changed_order(app)
        return to.events


def record_on_functions_host(orders_fixture: GuardedOrdersFixture) -> list[dict[str, Any]]:
    """What the real host publishes for the same orders."""
    before = len(orders_fixture.subscription.topic.events)
    run_orders(orders_fixture.orders.slot("v1"), orders_fixture.orders)
    continue_changed_order(orders_fixture.orders.slot("v2"))
    return orders_fixture.subscription.topic.events[before:]


def test_the_stand_in_publishes_what_the_real_host_publishes(
    orders_fixture: GuardedOrdersFixture, storage: StorageSettings, tmp_path: Path
) -> None:
    with ThreadPoolExecutor() as both:
        on_both = (
            both.submit(record_on_engine, storage, tmp_path),
            both.submit(record_on_functions_host, orders_fixture),
        )
    stand_in, real = (comparable_events(events.result()) for events in on_both)
    assert stand_in == real
    told = {instance_id: [event["data"]["runtimeStatus"] for event in events] for instance_id, events in real.items()}
    # The ends that the real host does not publish.
    assert [told[instance_id] for instance_id in ("rejected", CHANGED)] == [["Running"], ["Running"]]
    assert told[MONITOR] == ["Running", "Completed", "Running"]
    assert orders_fixture.subscription.topic.keys == {KEY}
