"""The sample app on the real Functions host, with azure-functions-durable as it is pinned: the guard on a second host
refuses a deployment while orders run, and the app's stand-in for development publishes what the real host does."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
from durabletask.client import TaskHubGrpcClient

from dev.local import until
from state_api.settings import StorageSettings
from tests.conftest import new_hub
from tests.durable_app.processes import KEY, Engine, Slot, engine, slot, topic
from tests.platform.event_grid import Subscription
from tests.platform.orders_app import OrdersHost, StateServerClient, guarded_orders

ORDERS = ("shipped", "approved", "rejected", "expired", "declined")
MONITOR = "monitor"


class Hosts:
    """The orders app, the state server that has its task hub in the staging slot, and the topic between them."""

    def __init__(self, orders: OrdersHost, state: httpx.Client, subscription: Subscription) -> None:
        self.orders = orders
        self.guard = StateServerClient(state, "orders-on-the-host")
        self.guard.register(orders.task_hub)
        self.subscription = subscription


@pytest.fixture(scope="module")
def hosts(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with guarded_orders(storage, tmp_path_factory.mktemp("orders")) as (orders, state, subscription):
        yield Hosts(orders, state, subscription)


def decide(app: Slot, order_id: str, word: str) -> None:
    """Approve or reject an order."""
    answer = app.client.post(f"/api/orders/{order_id}/{word}")
    assert answer.status_code == 202, answer.text


def monitor_round(app: Slot, monitor_id: str) -> int:
    status = app.status(monitor_id, "monitor")["customStatus"]
    return int(status["round"]) if status else 0


def stop_monitor(app: Slot, monitor_id: str) -> None:
    """Stop the monitor while it pauses."""
    begun = monitor_round(app, monitor_id)
    until(lambda: monitor_round(app, monitor_id) > begun, "another round has begun")
    app.client.post(f"/api/monitor/{monitor_id}/stop").raise_for_status()
    app.over(monitor_id, "monitor")


# The guard


def test_an_order_of_which_no_event_arrives_holds_up_the_deployment(hosts: Hosts) -> None:
    guard, orders, order_id = hosts.guard, hosts.orders.slot(), "unheard"
    hosts.subscription.down = True
    try:
        orders.order(order_id, "cherry", approvalNeeded=True)
        orders.waiting(order_id)
        verdict = guard.verdict()
        assert [(instance["instanceId"], instance["source"]) for instance in verdict["active"]] == [(order_id, "probe")]
        assert guard.stage(new_hub()).status_code == 409
        decide(orders, order_id, "approve")
        orders.over(order_id)
    finally:
        hosts.subscription.down = False
    assert hosts.subscription.topic.statuses(order_id) == []
    assert guard.ready()["assurance"] == "verified"


def test_a_deployment_is_refused_while_orders_run_and_allowed_when_all_have_ended(hosts: Hosts) -> None:
    """Also after the order whose end is never published: its rejection, before the deadline, cancels a timer in the
    last step."""
    guard, orders, prefix = hosts.guard, hosts.orders.slot(), "guarded-"
    waiting = {f"{prefix}approved", f"{prefix}rejected"}
    for order_id in waiting:
        orders.order(order_id, "cherry", approvalNeeded=True)
    orders.order(f"{prefix}expired", "cherry", approvalNeeded=True, approvalTimeoutSeconds=2)
    orders.order(f"{prefix}shipped", "cherry")
    orders.order(f"{prefix}declined", "cherry", card="declined")
    for order_id in (*waiting, f"{prefix}expired"):
        orders.waiting(order_id)
    watch: dict[str, Any] = {"id": f"{prefix}{MONITOR}", "items": ["quince"], "intervalSeconds": 2}
    orders.client.post("/api/monitor/start", json=watch).raise_for_status()
    for name in ("expired", "shipped", "declined"):
        orders.over(f"{prefix}{name}")

    # The monitor publishes Completed with every round, and Running a moment later. In between the records do not show
    # it, and while orders are active the task hub is not scanned for it. Its row is active all the time, so the events
    # tell whether the answer must show it: the last one was Running, and none came until the answer.
    shown: set[str] = set()
    begun = monitor_round(orders, watch["id"])
    while monitor_round(orders, watch["id"]) < begun + 2:
        told = hosts.subscription.topic.statuses(watch["id"])
        hosts.subscription.flush()
        verdict = guard.verdict()
        active = {instance["instanceId"]: instance["functionName"] for instance in verdict["active"]}
        assert (verdict["ready"], verdict["hasRunning"]) == (False, True)
        shown |= set(active)
        must_be_shown = told[-1] == "Running" and told == hosts.subscription.topic.statuses(watch["id"])
        monitored = {watch["id"]: "StockMonitor"} if must_be_shown or watch["id"] in active else {}
        assert active == dict.fromkeys(waiting, "ProcessOrder") | monitored
    assert shown == {*waiting, watch["id"]}
    refused = guard.stage(new_hub())
    assert (refused.status_code, refused.json()["code"]) == (409, "StagingNotReady")

    decide(orders, f"{prefix}approved", "approve")
    stop_monitor(orders, watch["id"])
    orders.over(f"{prefix}approved")
    assert not guard.verdict()["ready"], "one order still waits"
    decide(orders, f"{prefix}rejected", "reject")
    assert orders.over(f"{prefix}rejected")["output"]["status"] == "Rejected"

    verdict = guard.ready()
    assert (verdict["assurance"], verdict["activeCount"]) == ("verified", 0)
    hosts.subscription.flush()
    assert hosts.subscription.topic.statuses(f"{prefix}rejected") == ["Running"], "its end is never published"
    recorded = guard.instances(hosts.orders.task_hub)
    rejected, shipping = recorded[f"{prefix}rejected"], recorded[f"{prefix}shipped-shipping"]
    assert (rejected["runtimeStatus"], rejected["source"]) == ("Completed", "probe")
    assert (shipping["runtimeStatus"], shipping["functionName"]) == ("Completed", "ShipOrder")
    allowed = guard.stage(new_hub())
    assert allowed.status_code == 200, allowed.text


# The stand-in


class Operator(Protocol):
    """What an operator does with a task hub, past the app's own HTTP functions."""

    def terminate(self, instance_id: str, reason: str) -> None: ...

    def schedule(self, name: str, instance_id: str, given: Any) -> None: ...


class EngineOperator:
    """An operator of the stand-in's task hub."""

    def __init__(self, client: TaskHubGrpcClient) -> None:
        self._client = client

    def terminate(self, instance_id: str, reason: str) -> None:
        self._client.terminate_orchestration(instance_id, output=reason)

    def schedule(self, name: str, instance_id: str, given: Any) -> None:
        self._client.schedule_new_orchestration(name, input=given, instance_id=instance_id)


NO_ORDER, TERMINATED, CHANGED = "no-order", "terminated", "changed"
FIRST_STEP = (NO_ORDER,)
"""Instances that end in their first step: the host posts their start and their end at once, in any order."""


def play(app: Slot, operator: Operator) -> None:
    """Orders of every kind on version 1, all to their end but `changed`, which waits for version 2. No other test here
    uses these items: the first use of an item's stock publishes Running."""
    app.order("shipped", "apple", "pear")
    app.order("expired", approvalNeeded=True, approvalTimeoutSeconds=2)
    app.order("declined", card="declined")
    for order_id in ("approved", "rejected", "approved-declined", TERMINATED, CHANGED):
        app.order(order_id, approvalNeeded=True, card="declined" if order_id == "approved-declined" else "4711")
    operator.schedule("ProcessOrder", NO_ORDER, {"items": "none"})
    watch = {"id": MONITOR, "items": ["plum"], "intervalSeconds": 4}
    app.client.post("/api/monitor/start", json=watch).raise_for_status()
    for order_id, word in (("approved", "approve"), ("rejected", "reject"), ("approved-declined", "approve")):
        app.waiting(order_id)
        decide(app, order_id, word)
    app.waiting(TERMINATED)
    operator.terminate(TERMINATED, "no longer needed")
    stop_monitor(app, MONITOR)
    for order_id in (*ORDERS, "approved-declined", TERMINATED, NO_ORDER):
        app.over(order_id)
    app.waiting(CHANGED)


def play_changed(app: Slot) -> None:
    """Version 2 has taken the place of version 1 under an order that waits, and screens the orders of its own."""
    app.order("screened", card="stolen")
    decide(app, CHANGED, "approve")
    for order_id in ("screened", CHANGED):
        app.over(order_id)


def published(events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The events of each instance in order, without what differs from run to run: ids, times, the task hub's name, and
    the stack traces in reasons."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        data = event["data"] | {"hubName": "", "reason": reason(event["data"]["reason"])}
        found.setdefault(data["instanceId"], []).append(event | {"id": "", "eventTime": "", "data": data})
    for instance_id in FIRST_STEP:
        found[instance_id].sort(key=lambda event: str(event["subject"]))
    # How many rounds the monitor has had is chance.
    found[MONITOR] = found[MONITOR][:2] + found[MONITOR][-1:]
    return found


def reason(text: str) -> str:
    return text.partition(" \n")[0].partition(", StackTrace:")[0]


def on_the_stand_in(storage: StorageSettings, folder: Path) -> list[dict[str, Any]]:
    """What the stand-in publishes for these orders."""

    def running(on: Engine, version: str) -> Any:
        return slot(on, version, folder)

    with topic() as to, engine(new_hub(), storage, to, folder) as on:
        with running(on, "v1") as app, TaskHubGrpcClient(host_address=on.address) as client:
            play(app, EngineOperator(client))
        with running(on, "v2") as app:
            play_changed(app)
        return to.events


def on_the_real_host(hosts: Hosts) -> list[dict[str, Any]]:
    """What the real host publishes for the same orders."""
    before = len(hosts.subscription.topic.events)
    play(hosts.orders.slot("v1"), hosts.orders)
    play_changed(hosts.orders.slot("v2"))
    return hosts.subscription.topic.events[before:]


def test_the_stand_in_publishes_what_the_real_host_publishes(
    hosts: Hosts, storage: StorageSettings, tmp_path: Path
) -> None:
    with ThreadPoolExecutor() as both:
        on_both = both.submit(on_the_stand_in, storage, tmp_path), both.submit(on_the_real_host, hosts)
    stand_in, real = (published(events.result()) for events in on_both)
    assert stand_in == real
    told = {instance_id: [event["data"]["runtimeStatus"] for event in events] for instance_id, events in real.items()}
    # The ends that the real host does not publish.
    assert [told[instance_id] for instance_id in ("rejected", CHANGED)] == [["Running"], ["Running"]]
    assert told[MONITOR] == ["Running", "Completed", "Running"]
    assert hosts.subscription.topic.keys == {KEY}
