"""What fails on the real host, one thing at a time: the storage, the settings, the Python worker."""

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
from harness.processes import wait_until
from tests.builders import event
from tests.conftest import new_hub_name
from tests.functions.invocations import indexed_functions
from tests.http.operations import assert_problem
from tests.platform.function_app.conftest import Azurite
from tests.platform.function_app.server_keys import KEYS, key_header, server_key_entries
from tests.platform.function_app.test_event_grid import deliver, recorded
from tests.platform.functions_host import FunctionsHost, run_functions_host, wait_until_ready


@contextmanager
def stopped(azurite: Azurite) -> Iterator[None]:
    """The storage account is away until the block ends."""
    azurite.stop()
    try:
        yield
    finally:
        azurite.start()


def test_while_the_storage_is_down_nothing_is_acknowledged_and_afterwards_everything_is_there(
    azurite: Azurite, admin: httpx.Client, anonymous: httpx.Client, hub: str
) -> None:
    assert deliver(anonymous, [event(hub, "before")]).status_code == 202
    with stopped(azurite):
        assert anonymous.get("/api/health").json() == {"status": "Healthy"}
        for answer in (
            anonymous.get("/api/health/ready"),
            admin.get("/api/apps"),
            admin.get("/api/apps/shop/staging"),
            admin.post("/api/apps/shop/staging", json={"taskHub": hub}),
            admin.post("/api/events", json=[event(hub, "by-webhook")]),
        ):
            assert_problem(answer, 503, "StorageUnavailable")
            assert int(answer.headers["retry-after"]) > 0
        # Not 4xx: Event Grid would not deliver again.
        assert deliver(anonymous, [event(hub, "by-trigger")]).status_code == 500
        assert_problem(anonymous.get("/api/apps"), 401, "Unauthorized")
    assert anonymous.get("/api/health/ready").status_code == 200
    assert recorded(admin, hub) == ["before"]
    assert deliver(anonymous, [event(hub, "by-trigger")]).status_code == 202
    assert recorded(admin, hub) == ["before", "by-trigger"]


# Settings


@pytest.fixture(scope="module")
def misconfigured(
    azurite: Azurite, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, FunctionsHost]]:
    """Hosts whose settings are wrong, started at the same time: with a storage that is none, and without keys."""
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


def every_operation(client: httpx.Client, hub: str) -> Iterator[httpx.Response]:
    """Every operation but Health, with an admin's key."""
    for name, methods, _ in function_app.OPERATIONS:
        path = indexed_functions()[name].get_trigger().route.format(app="shop", hub=hub)
        for method in methods if name != "Health" else ():
            yield client.request(method, f"/api/{path}", headers=key_header(KEYS["admin"]))


def test_with_wrong_storage_settings_health_answers_and_the_rest_says_which_setting_is_wrong(
    misconfigured: dict[str, FunctionsHost], hub: str
) -> None:
    with misconfigured["storage"].client() as client:
        assert client.get("/api/health").json() == {"status": "Healthy"}
        for answer in every_operation(client, hub):
            detail = assert_problem(answer, 503, "SettingsInvalid")["detail"]
            assert "STATE_STORAGE is not a storage connection string" in detail
            assert answer.headers["cache-control"] == "no-store"
            assert int(answer.headers["retry-after"]) > 0
        assert deliver(client, [event(hub)]).status_code == 500


def test_without_keys_every_operation_but_health_is_refused_and_the_trigger_still_records(
    misconfigured: dict[str, FunctionsHost], admin: httpx.Client, hub: str
) -> None:
    with misconfigured["keys"].client() as client:
        assert client.get("/api/health").json() == {"status": "Healthy"}
        for answer in every_operation(client, hub):
            assert "set the app setting STATE_KEYS" in assert_problem(answer, 503, "KeysNotConfigured")["detail"]
        assert deliver(client, [event(hub, "order-1")]).status_code == 202
        # The setting that empties the homepage is not set on this host.
        assert "Azure Function App is up and running" in client.get("/").text
    assert recorded(admin, hub) == ["order-1"]


# The Python worker


class Sender:
    """Delivers events one after the other until it is stopped. Keeps what was acknowledged, and the status of each
    other answer, 0 for a connection that broke."""

    def __init__(self, name: str, send: Callable[[str], httpx.Response]) -> None:
        self.acknowledged: list[str] = []
        self.failures: list[int] = []
        self._name = name
        self._send = send
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
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
    """No other test may kill a worker of this host: with the third one it gives up and ends."""
    hub = new_hub_name()
    senders = [
        Sender("trigger", lambda instance_id: deliver(anonymous, [event(hub, instance_id)])),
        Sender("webhook", lambda instance_id: admin.post("/api/events", json=[event(hub, instance_id)])),
    ]
    try:
        wait_until(lambda: all(len(sender.acknowledged) >= 10 for sender in senders), "events are acknowledged")
        (before,) = host.worker_pids()
        os.kill(before, signal.SIGKILL)
        counts = [len(sender.acknowledged) for sender in senders]
        wait_until(
            lambda: all(len(sender.acknowledged) >= count + 10 for sender, count in zip(senders, counts, strict=True)),
            "events are acknowledged again",
        )
    finally:
        for sender in senders:
            sender.stop()
    (after,) = host.worker_pids()
    assert after != before
    for sender in senders:
        assert sender.failures in ([], [500])
    acknowledged = {instance_id for sender in senders for instance_id in sender.acknowledged}
    assert acknowledged <= set(recorded_all(admin, hub))


def recorded_all(admin: httpx.Client, hub: str) -> Iterator[str]:
    """The ids of the instances on record, page by page."""
    token = None
    while True:
        query = {"top": 1000} | ({} if token is None else {"continuationToken": token})
        page = admin.get(f"/api/taskhubs/{hub}/instances", params=query).json()
        yield from (instance["instanceId"] for instance in page["instances"])
        token = page["continuationToken"]
        if token is None:
            return
