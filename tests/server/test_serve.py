"""`python -m state_api serve` as a process: starting, refusing to start, stopping, and two servers with one storage."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import ClientAuthenticationError
from azure.eventgrid import EventGridEvent, EventGridPublisherClient

from harness.processes import free_ports, stop_after, wait_until
from harness.state_server import HOST, ServerProcess, build_server_environment, run_server
from harness.storage_proxy import run_storage_proxy
from state_api.emulator import is_listening
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event
from tests.conftest import new_hub_name
from tests.keys import key_entry

SERVE_COMMAND = [sys.executable, "-m", "state_api", "serve"]


def run_to_end(command: list[str], settings: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command until it ends by itself, and return its exit code and output."""
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=60, cwd=folder, check=False)


def code_that_sets_emulator_ports(ports: list[int]) -> str:
    """Python code that sets the emulator's ports, because a developer's own emulator may use the default ports."""
    names = ("EMULATOR_TABLE_PORT", "EMULATOR_QUEUE_PORT", "EMULATOR_BLOB_PORT")
    assignments = "".join(f"settings.{name} = main.{name} = {port};" for name, port in zip(names, ports, strict=True))
    return f"import sys, state_api.settings.storage_accounts as settings, state_api.__main__ as main;{assignments}"


def test_a_server_starts_responds_and_stops(storage: StorageSettings, tmp_path: Path) -> None:
    with run_server(storage, tmp_path) as server:
        with server.client() as http:
            assert http.get("/api/health/ready").json() == {"status": "Ready"}
        assert server.stop() == 0
        assert "GET /api/health/ready 200" in server.read_log()


_RUN_SERVERS_IN_CHILD_PROCESSES = """
import json, os, sys
import state_api.__main__

for line in sys.stdin:
    arguments, settings = json.loads(line)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 2)
        os.environ.clear()
        os.environ.update(settings)
        sys.exit(state_api.__main__.main(["serve", *arguments]))
    os.close(write)
    with open(read) as stderr:
        text = stderr.read()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text]), flush=True)
"""
"""Python code that imports the server once, and runs it in a child process for each line of input. Importing the server
for each test would take seconds."""

RunServer = Callable[[list[str], dict[str, str]], tuple[int, str]]


@pytest.fixture(scope="module")
def run_refusing_server() -> Iterator[RunServer]:
    """A function that runs a server with arguments and settings until it ends, and returns its exit code and output."""
    with subprocess.Popen(
        [sys.executable, "-c", _RUN_SERVERS_IN_CHILD_PROCESSES],
        env=build_server_environment(None),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def run_in_child_process(arguments: list[str], settings: dict[str, str]) -> tuple[int, str]:
            """Run the command line in the child process, with these settings. Returns exit code and output."""
            stdin.write(json.dumps([arguments, settings]) + "\n")
            stdin.flush()
            exit_code, output = json.loads(stdout.readline())
            return exit_code, output

        yield run_in_child_process


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ([], {}, "no state storage is set: set STATE_STORAGE"),
        ([], {"STATE_STORAGE": "nonsense"}, "STATE_STORAGE is not a storage connection string"),
        ([], {"STATE_STORAGE": "AccountName=state"}, "the connection string of the state storage lacks"),
        (["--host", "0.0.0.0"], {"STATE_STORAGE": "UseDevelopmentStorage=true"}, "set STATE_KEYS"),  # noqa: S104
        (["--host", "192.0.2.1"], {"STATE_STORAGE": "UseDevelopmentStorage=true"}, "set STATE_KEYS"),
        (["--port", "many"], {}, "invalid int value"),
        ([], {"STATE_STORAGE": "UseDevelopmentStorage=true", "STATE_KEYS": "{}"}, "STATE_KEYS must be a JSON list"),
    ],
)
def test_a_server_with_a_wrong_setting_or_argument_reports_the_reason_and_does_not_start(
    run_refusing_server: RunServer, arguments: list[str], settings: dict[str, str], message: str
) -> None:
    exit_code, output = run_refusing_server(arguments, build_server_environment(None) | settings)
    assert exit_code == 2
    assert message in output
    assert "Traceback" not in output


def test_the_process_ends_with_the_exit_code_of_main(tmp_path: Path) -> None:
    process = run_to_end(SERVE_COMMAND, build_server_environment(None), tmp_path)
    assert process.returncode == 2
    assert "no state storage is set: set STATE_STORAGE" in process.stderr
    assert "Traceback" not in process.stderr


def test_the_emulator_starts_and_stops_with_the_server(tmp_path: Path) -> None:
    *emulator_ports, port = free_ports(4)
    # If these tests run under nohup, a server that they start would ignore SIGHUP.
    restore_hang_up = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL);"
    set_ports = code_that_sets_emulator_ports(emulator_ports)
    code = f"{restore_hang_up}{set_ports}sys.exit(main.main(['serve', '--port', '{port}']))"
    settings = build_server_environment(None) | {"STATE_STORAGE": "UseDevelopmentStorage=true"}
    hub = new_hub_name()
    for stop_signal in (signal.SIGINT, signal.SIGHUP):
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=settings, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True
        )
        with stop_after(process):
            wait_until(lambda: is_listening(HOST, port), "the server listens")
            assert all(is_listening(HOST, emulator_port) for emulator_port in emulator_ports)
            delivery = httpx.post(f"http://{HOST}:{port}/api/events", json=[event(hub)], timeout=30).json()
            assert delivery["quarantined"] == 0
            task_hub = httpx.get(f"http://{HOST}:{port}/api/taskhubs/{hub}", timeout=30).json()
            # The emulator stores its data in a folder, so the second server still has the record.
            assert task_hub["activeCount"] == 1
            process.send_signal(stop_signal)
            assert process.wait(60) == 0
        assert not any(is_listening(HOST, emulator_port) for emulator_port in emulator_ports)


@pytest.mark.parametrize(("service", "index"), [("queue", 1), ("blob", 2)])
def test_the_emulator_does_not_start_if_one_of_its_ports_is_occupied(service: str, index: int, tmp_path: Path) -> None:
    ports = free_ports(3)
    settings = build_server_environment(None) | {"STATE_STORAGE": "UseDevelopmentStorage=true"}
    code = f"{code_that_sets_emulator_ports(ports)}sys.exit(main.main(['serve']))"
    with socket.create_server((HOST, ports[index])):
        process = run_to_end([sys.executable, "-c", code], settings, tmp_path)
    assert process.returncode == 1
    assert f"another process listens on port {ports[index]}, which its {service} service needs" in process.stderr
    assert not any(is_listening(HOST, port) for port in ports)


def test_a_server_reports_how_to_install_the_emulator_if_it_is_missing(tmp_path: Path) -> None:
    code = (
        f"{code_that_sets_emulator_ports(free_ports(3))}"
        "import state_api.emulator as emulator;"
        "emulator.__file__ = '/nowhere/state_api/emulator.py';"
        "sys.exit(main.main(['serve']))"
    )
    settings = build_server_environment(None) | {"STATE_STORAGE": "UseDevelopmentStorage=true", "PATH": "/nowhere"}
    process = run_to_end([sys.executable, "-c", code], settings, tmp_path)
    assert process.returncode == 1
    assert "Azurite is not installed: run `make setup`" in process.stderr


@pytest.mark.anyio
async def test_a_stopping_server_finishes_its_requests_and_ends_long_polls(
    storage: StorageSettings, tmp_path: Path
) -> None:
    hub, app = new_hub_name(), f"shop-{new_hub_name()}"
    write_has_begun, write_may_continue = threading.Event(), asyncio.Event()
    async with run_storage_proxy(storage) as proxy:
        with run_server(proxy.settings, tmp_path) as server:
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
                await http.post(f"/api/apps/{app}/staging", json={"taskHub": hub})
                await http.post("/api/events", json=[event(hub, "first")])

                async def hold_transactions(method: str, path: str) -> None:
                    """Hold up transactions until the test lets them pass."""
                    if path.endswith("$batch"):
                        write_has_begun.set()
                        await write_may_continue.wait()

                proxy.before_request = hold_transactions
                long_poll = asyncio.create_task(http.get(f"/api/apps/{app}/staging", params={"wait": 120}))
                unfinished_delivery = asyncio.create_task(http.post("/api/events", json=[event(hub, "second")]))
                await asyncio.to_thread(write_has_begun.wait, 30)
                server.process.send_signal(signal.SIGTERM)
                verdict = await long_poll
                assert (verdict.status_code, verdict.json()["hasRunning"]) == (200, True)
                write_may_continue.set()
                delivery = await unfinished_delivery
                assert (delivery.status_code, delivery.json()["recorded"]) == (200, 1)
            assert await asyncio.to_thread(server.process.wait, 60) == 0
        with run_server(storage, tmp_path) as server, server.client() as http_client:
            assert http_client.get(f"/api/taskhubs/{hub}").json()["activeCount"] == 2


def test_two_servers_on_one_storage_return_the_same_state(storage: StorageSettings, tmp_path: Path) -> None:
    app, hubs = f"shop-{new_hub_name()}", [new_hub_name() for _ in range(20)]
    with (
        run_server(storage, tmp_path) as first_server,
        run_server(storage, tmp_path) as second_server,
        first_server.client() as first,
        second_server.client() as second,
        ThreadPoolExecutor(20) as executor,
    ):
        clients = [first, second]

        def stage_hub(number: int) -> httpx.Response:
            """Stage a task hub of its own, through one of the two servers."""
            headers = {"X-Run-Url": f"https://ci.example/{number}"}
            body = {"taskHub": hubs[number]}
            return clients[number % 2].post(f"/api/apps/{app}/staging", json=body, headers=headers)

        responses = list(executor.map(stage_hub, range(20)))
        assert sorted(response.status_code for response in responses) == [200] + [409] * 19
        winner = next(response.json() for response in responses if response.status_code == 200)
        for response in responses:
            if response.status_code == 409:
                assert response.json()["deployment"] == winner["deployment"]
        apps = [client.get(f"/api/apps/{app}").json() for client in clients]
        assert apps[0] == apps[1] == winner
        hub = winner["slots"]["staging"]["taskHub"]
        # Each server records half of the starts, and the completions of the instances that the other one has started.
        starts = [event(hub, f"order-{n}") for n in range(40)]
        completions = [event(hub, f"order-{n}", "Completed") for n in range(40)]
        assert all(
            response.status_code == 200
            for response in executor.map(lambda n: clients[n % 2].post("/api/events", json=[starts[n]]), range(40))
        )
        counts = [client.get(f"/api/apps/{app}/staging").json()["activeCount"] for client in clients]
        assert counts == [40, 40]
        list(executor.map(lambda n: clients[1 - n % 2].post("/api/events", json=[completions[n]]), range(40)))
        verdicts = [client.get(f"/api/apps/{app}/staging").json() for client in clients]
        assert [verdict["hasRunning"] for verdict in verdicts] == [False, False]
        # A long poll at one server ends when the other server records the completion.
        first.put(f"/api/apps/{app}", json={"policy": {"settleSeconds": 0}})
        first.post(f"/api/apps/{app}/swap", json={"taskHub": hub})
        second.post(f"/api/apps/{app}/staging", json={"taskHub": f"{hub}x"})
        second.post(f"/api/apps/{app}/swap", json={"taskHub": f"{hub}x"})
        second.post("/api/events", json=[event(hub, "last")])
        waiting = executor.submit(first.get, f"/api/apps/{app}/staging?wait=60")
        second.post("/api/events", json=[event(hub, "last", "Completed")])
        assert waiting.result(30).json()["ready"]
        # If one server is killed, the other still has everything that was acknowledged.
        first_server.process.kill()
        assert second.get(f"/api/apps/{app}").json()["slots"]["staging"]["taskHub"] == hub


def test_a_server_whose_port_is_occupied_ends_with_exit_code_1(storage: StorageSettings, tmp_path: Path) -> None:
    with run_server(storage, tmp_path) as server:
        port = server.url.rpartition(":")[2]
        process = run_to_end([*SERVE_COMMAND, "--port", port], build_server_environment(storage), tmp_path)
    assert process.returncode == 1
    assert "address already in use" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_server_that_is_stopped_while_it_starts_leaves_no_emulator(tmp_path: Path) -> None:
    *emulator_ports, port = free_ports(4)
    code = (
        f"{code_that_sets_emulator_ports(emulator_ports)}print('starting', flush=True);"
        f"sys.exit(main.main(['serve', '--port', '{port}']))"
    )
    settings = build_server_environment(None) | {"STATE_STORAGE": "UseDevelopmentStorage=true"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=settings, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with stop_after(process):
        assert process.stdout is not None
        assert process.stdout.readline() == b"starting\n"
        wait_until((tmp_path / ".azurite").exists, "the emulator starts")
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0
        assert b"Traceback" not in stderr
    wait_until(
        lambda: not any(is_listening(HOST, emulator_port) for emulator_port in emulator_ports), "the emulator has ended"
    )


@pytest.fixture(scope="module")
def open_server(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server without keys, for all tests of this module that change nothing in its storage."""
    with run_server(storage, tmp_path_factory.mktemp("open")) as server:
        yield server


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:7071"},
        {"Host": "["},
        {"Host": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_server_without_keys_refuses_requests_from_web_pages(
    open_server: ServerProcess, headers: dict[str, str]
) -> None:
    with open_server.client() as http:
        refused = http.post("/api/apps/shop/cleanup", headers=headers)
        # uvicorn itself refuses an invalid Host with 400.
        assert refused.status_code in (400, 403)
        allowed = http.post("/api/apps/shop-nowhere/cleanup", headers={"Origin": open_server.url})
        assert allowed.json()["code"] == "AppNotFound"


def test_microsofts_client_publishes_to_the_server_as_to_an_event_grid_topic(
    storage: StorageSettings, tmp_path: Path
) -> None:
    hub, key = new_hub_name(), "a-publisher-key-0123456789"
    lifecycle_event = event(hub)
    keys = [
        key_entry(key, "publisher", "topic"),
        key_entry("a-reader-key-0123456789", "reader", "operator"),
    ]
    with run_server(storage, tmp_path, keys) as server:
        with EventGridPublisherClient(f"{server.url}/api/events", AzureKeyCredential(key)) as publisher:
            publisher.send(
                EventGridEvent(
                    subject=lifecycle_event["subject"],
                    event_type=lifecycle_event["eventType"],
                    data=lifecycle_event["data"],
                    data_version="1.0",
                    event_time=datetime.now(UTC),
                )
            )
        unauthorized = EventGridPublisherClient(f"{server.url}/api/events", AzureKeyCredential("wrong"))
        with unauthorized, pytest.raises(ClientAuthenticationError):
            unauthorized.send(EventGridEvent(subject="s", event_type="t", data={}, data_version="1.0"))
        with server.client() as http:
            task_hub = http.get(f"/api/taskhubs/{hub}", headers={"x-functions-key": "a-reader-key-0123456789"})
            assert task_hub.json()["activeCount"] == 1
        assert key not in server.read_log()


def test_a_server_under_nohup_ignores_sighup(storage: StorageSettings, tmp_path: Path) -> None:
    previous_handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with run_server(storage, tmp_path) as server, server.client() as http:
            server.process.send_signal(signal.SIGHUP)
            assert http.get("/api/health").status_code == 200
            assert server.stop() == 0
    finally:
        signal.signal(signal.SIGHUP, previous_handler)


def test_a_server_without_keys_accepts_every_loopback_host(storage: StorageSettings, tmp_path: Path) -> None:
    with run_server(storage, tmp_path) as server, server.client() as http:
        for host in ("127.0.0.2", "[::1]:7071", "LOCALHOST:80"):
            assert http.get("/api/health", headers={"Host": host}).status_code == 200


@pytest.mark.anyio
async def test_a_server_outside_azure_probes_in_the_background(
    storage: StorageSettings, tmp_path: Path, app: str, hub: str, anyio_backend: str
) -> None:
    """The server probes when it starts and every 30 s, so a request without a new probe gets a verified verdict."""
    async with ProviderTaskHub(storage, hub) as provider:
        await provider.create()
    provider_config = {"provider": "azureStorage", "connection": "STATE_STORAGE"}
    with run_server(storage, tmp_path) as server, server.client() as http:
        slots = {"staging": {"taskHub": hub}}
        assert http.put(f"/api/apps/{app}", json={"slots": slots, "taskHubs": provider_config}).status_code == 200
    with run_server(storage, tmp_path) as server:
        with server.client() as http:
            status_url = f"/api/apps/{app}/staging?verify=none"

            def is_ready() -> bool:
                # The probe takes about ten seconds, and more requests would slow down the server.
                time.sleep(0.3)
                return bool(http.get(status_url).json()["ready"])

            wait_until(is_ready, "the background probe has completed", 30)
            assert http.get(status_url).json()["assurance"] == "verified"
        assert server.stop() == 0
