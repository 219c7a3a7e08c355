"""The event that `safe-deploy doctor` publishes, next to those of the real extension, at the real trigger and the
webhook."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.processes import wait_until
from safe_deploy.diagnostics.event_delivery import (
    Credential,
    CredentialKind,
    Publication,
    build_event,
    create_check_id,
    publish,
)
from safe_deploy.rendering import current_time
from state_api.settings import StorageSettings
from tests.durable_app.host_processes import KEY
from tests.platform.event_grid import EventSubscription
from tests.platform.orders_app import OrdersHost, VerdictClient, run_guarded_orders

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?Z")
"""The time of an event. The extension leaves out zeros at the end."""

GuardedOrders = tuple[OrdersHost, httpx.Client, EventSubscription]


@pytest.fixture(scope="module")
def guarded_orders(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedOrders]:
    """The sample app on the Functions host, whose events go to the trigger of the server on another host."""
    folder: Path = tmp_path_factory.mktemp("orders")
    with run_guarded_orders(storage, folder) as (orders, state, subscription):
        VerdictClient(state, "orders-with-doctor").register_app(orders.task_hub)
        yield orders, state, subscription


def list_checks(state: httpx.Client, task_hub: str) -> list[str]:
    """The ids of the delivery checks that the server shows."""
    response = state.get(f"/api/taskhubs/{task_hub}")
    assert response.status_code == 200, response.text
    return [check["checkId"] for check in response.json()["deliveryChecks"]]


def describe_form(event: dict[str, Any]) -> dict[str, Any]:
    """The members of an event with the types of their values, and the values that do not depend on the instance."""
    constant = ("topic", "eventType", "metadataVersion", "dataVersion")
    return {
        "members": {name: type(value) for name, value in event.items()},
        "data": {name: type(value) for name, value in event["data"].items()},
        "constant": {name: event[name] for name in constant},
        "subject": event["subject"].partition(event["data"]["runtimeStatus"])[0],
        "is_time": _TIME.fullmatch(event["eventTime"]) is not None,
    }


def test_the_event_of_doctor_is_accepted_as_those_of_the_extension(guarded_orders: GuardedOrders) -> None:
    """By the trigger, and by the webhook, for which it is the same event once more."""
    orders, state, subscription = guarded_orders
    app = orders.start_slot()
    app.place_order("with-doctor", "apple")
    app.wait_until_ended("with-doctor")
    check_id = create_check_id()
    event = build_event(orders.task_hub, check_id, current_time())
    credential = Credential(CredentialKind.APP_KEY, KEY)
    assert publish(subscription.topic.url, event, credential) == Publication(200)
    wait_until(lambda: list_checks(state, orders.task_hub) == [check_id], "the server has recorded the event")

    *_, of_extension = [item for item in subscription.topic.events if item["data"]["instanceId"] == "with-doctor"]
    assert of_extension["data"]["runtimeStatus"] == "Completed"
    assert describe_form(event) == describe_form(of_extension)
    assert subscription.topic.keys == {KEY}
    response = state.post("/api/events", json=[event])
    assert (response.status_code, response.json()["unchanged"]) == (200, 1)
    instances = state.get(f"/api/taskhubs/{orders.task_hub}/instances?top=1000").json()["instances"]
    assert not any("safe-deploy-doctor" in instance["instanceId"] for instance in instances)


def test_a_topic_that_knows_another_key_refuses_the_event(guarded_orders: GuardedOrders) -> None:
    orders, state, subscription = guarded_orders
    before = list_checks(state, orders.task_hub)
    event = build_event(orders.task_hub, create_check_id(), current_time())
    refused = publish(subscription.topic.url, event, Credential(CredentialKind.APP_KEY, "an-old-key"))
    assert refused == Publication(401)
    subscription.wait_until_delivered()
    assert list_checks(state, orders.task_hub) == before
