"""Failures on the real Functions host, one at a time: the storage, the settings, the Python worker."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

import function_app
from harness.functions_host import FunctionsHost, run_functions_host, wait_until_ready
from harness.processes import wait_until
from tests.builders import event
from tests.conftest import new_hub_name
from tests.functions.invocations import indexed_functions
from tests.http.operations import assert_problem, fill_path
from tests.platform.function_app.conftest import Azurite
from tests.platform.function_app.server_keys import KEYS_BY_ROLE, key_header, server_key_entries
from tests.platform.function_app.test_event_grid import deliver, list_recorded_ids


@contextmanager
def stop_storage(azurite: Azurite) -> Iterator[None]:
    """Stop the storage account until the block ends."""
    azurite.stop()
    try:
        yield
    finally:
        azurite.start()


def test_nothing_is_acknowledged_while_the_storage_is_down_and_nothing_is_lost(
    azurite: Azurite, admin: httpx.Client, anonymous: httpx.Client, hub: str
) -> None:
    assert deliver(anonymous, [event(hub, "before")]).status_code == 202
    with stop_storage(azurite):
        assert anonymous.get("/api/health").json() == {"status": "Healthy"}
        for response in (
            anonymous.get("/api/health/ready"),
            admin.get("/api/apps"),
            admin.get("/api/apps/shop/staging"),
            admin.post("/api/apps/shop/staging", json={"taskHub": hub}),
            admin.post("/api/events", json=[event(hub, "by-webhook")]),
        ):
            assert_problem(response, 503, "StorageUnavailable")
            assert int(response.headers["retry-after"]) > 0
        # Event Grid does not deliver again after a status 4xx.
        assert deliver(anonymous, [event(hub, "by-trigger")]).status_code == 500
        assert_problem(anonymous.get("/api/apps"), 401, "Unauthorized")
    assert anonymous.get("/api/health/ready").status_code == 200
    assert list_recorded_ids(admin, hub) == ["before"]
    assert deliver(anonymous, [event(hub, "by-trigger")]).status_code == 202
    assert list_recorded_ids(admin, hub) == ["before", "by-trigger"]


# Settings


@pytest.fixture(scope="module")
def misconfigured_hosts(
    azurite: Azurite, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, FunctionsHost]]:
    """Two hosts with wrong settings, started at the same time: an invalid storage setting, and no keys."""
    base = {"AzureWebJobsStorage": azurite.connection, "STATE_KEYS": json.dumps(server_key_entries())}
    settings = {
        "storage": base | {"STATE_STORAGE": "no connection string"},
        "keys": base | {"STATE_STORAGE": azurite.connection, "STATE_KEYS": ""},
    }
    with ExitStack() as running:
        hosts = {
            name: running.enter_context(
                run_functions_host(package, tmp_path_factory.mktemp(name), wrong, wait_for_start=False)
            )
            for name, wrong in settings.items()
        }
        for host in hosts.values():
            wait_until_ready(host)
        yield hosts


def send_every_operation(client: httpx.Client, hub: str) -> Iterator[httpx.Response]:
    """Send every operation but Health with an administrator's key, and return the responses."""
    for name, methods, _ in function_app.OPERATIONS:
        path = fill_path(indexed_functions()[name].get_trigger().route, app="shop", hub=hub)
        for method in methods if name != "Health" else ():
            yield client.request(method, f"/{path}", headers=key_header(KEYS_BY_ROLE["admin"]))


def test_with_an_invalid_storage_setting_every_operation_but_health_names_it(
    misconfigured_hosts: dict[str, FunctionsHost], hub: str
) -> None:
    with misconfigured_hosts["storage"].client() as client:
        assert client.get("/api/health").json() == {"status": "Healthy"}
        for response in send_every_operation(client, hub):
            detail = assert_problem(response, 503, "SettingsInvalid")["detail"]
            assert "STATE_STORAGE is not a storage connection string" in detail
            assert response.headers["cache-control"] == "no-store"
            assert int(response.headers["retry-after"]) > 0
        assert deliver(client, [event(hub)]).status_code == 500


def test_without_keys_every_operation_but_health_is_refused_and_the_trigger_still_records(
    misconfigured_hosts: dict[str, FunctionsHost], admin: httpx.Client, hub: str
) -> None:
    with misconfigured_hosts["keys"].client() as client:
        assert client.get("/api/health").json() == {"status": "Healthy"}
        for response in send_every_operation(client, hub):
            assert "set the app setting STATE_KEYS" in assert_problem(response, 503, "KeysNotConfigured")["detail"]
        assert deliver(client, [event(hub, "order-1")]).status_code == 202
        # The page needs no setting, and takes the place of the host's own.
        assert "Task hub state server" in client.get("/").text
    assert list_recorded_ids(admin, hub) == ["order-1"]


# The Python worker


class EventSender:
    """Sends events one after the other until it is stopped. `acknowledged` are the instance ids of acknowledged events;
    `failures` are the statuses of all other responses, 0 for a broken connection."""

    def __init__(self, name: str, send: Callable[[str], httpx.Response]) -> None:
        """Send events in a thread from now on, until `stop`."""
        self.acknowledged: list[str] = []
        self.failures: list[int] = []
        self._name = name
        self._send = send
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send_until_stopped)
        self._thread.start()

    def _send_until_stopped(self) -> None:
        """Send one event after the other, and remember which were acknowledged."""
        number = 0
        while not self._stop.is_set():
            number += 1
            instance_id = f"{self._name}-{number}"
            try:
                status = self._send(instance_id).status_code
            except httpx.TransportError:
                status = 0
            if status in (200, 202):
                self.acknowledged.append(instance_id)
            else:
                self.failures.append(status)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def test_a_killed_worker_costs_each_caller_one_request_at_most_and_no_acknowledged_event(
    host: FunctionsHost, admin: httpx.Client, anonymous: httpx.Client
) -> None:
    """No other test may kill a worker of this host, because the host ends when its third worker is killed."""
    hub = new_hub_name()
    senders = [
        EventSender("trigger", lambda instance_id: deliver(anonymous, [event(hub, instance_id)])),
        EventSender("webhook", lambda instance_id: admin.post("/api/events", json=[event(hub, instance_id)])),
    ]
    try:
        wait_until(lambda: all(len(sender.acknowledged) >= 10 for sender in senders), "events are acknowledged")
        (pid_before,) = host.worker_pids()
        os.kill(pid_before, signal.SIGKILL)
        counts = [len(sender.acknowledged) for sender in senders]
        wait_until(
            lambda: all(len(sender.acknowledged) >= count + 10 for sender, count in zip(senders, counts, strict=True)),
            "events are acknowledged again",
        )
    finally:
        for sender in senders:
            sender.stop()
    (pid_after,) = host.worker_pids()
    assert pid_after != pid_before
    for sender in senders:
        assert sender.failures in ([], [500])
    acknowledged = {instance_id for sender in senders for instance_id in sender.acknowledged}
    assert acknowledged <= set(list_all_recorded_ids(admin, hub))


def list_all_recorded_ids(admin: httpx.Client, hub: str) -> Iterator[str]:
    """Return the ids of all recorded instances, page by page."""
    token = None
    while True:
        query = {"top": 1000} | ({} if token is None else {"continuationToken": token})
        page = admin.get(f"/api/taskhubs/{hub}/instances", params=query).json()
        yield from (instance["instanceId"] for instance in page["instances"])
        token = page["continuationToken"]
        if token is None:
            return
