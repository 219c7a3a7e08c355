"""`python -m state_api serve` as a process: starting, refusing to start, stopping, and two at once."""

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
from harness.state_server import HOST, ServerProcess, run_server, server_environment
from harness.storage_proxy import run_storage_proxy
from state_api.emulator import is_listening
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event
from tests.conftest import new_hub_name
from tests.keys import key_entry

SERVE = [sys.executable, "-m", "state_api", "serve"]


def run_to_end(command: list[str], settings: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """What a server that ends by itself has said, and with which code."""
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=60, cwd=folder, check=False)


def code_with_emulator_ports(emulator: list[int]) -> str:
    """Code that moves the emulator away from its default ports, where a developer's own emulator may listen."""
    names = ("EMULATOR_TABLE_PORT", "EMULATOR_QUEUE_PORT", "EMULATOR_BLOB_PORT")
    moves = (f"settings.{name} = main.{name} = {port};" for name, port in zip(names, emulator, strict=True))
    return "import sys, state_api.settings.storage_accounts as settings, state_api.__main__ as main;" + "".join(moves)


def test_a_server_starts_answers_and_stops(storage: StorageSettings, tmp_path: Path) -> None:
    with run_server(storage, tmp_path) as served:
        with served.client() as http:
            assert http.get("/api/health/ready").json() == {"status": "Ready"}
        assert served.stop() == 0
        assert "GET /api/health/ready 200" in served.read_log()


_REFUSING_SERVER = """
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
    with open(read) as said:
        text = said.read()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text]), flush=True)
"""
"""The server's program, which has imported everything once and then ends once for every line."""

RunRefused = Callable[[list[str], dict[str, str]], tuple[int, str]]


@pytest.fixture(scope="module")
def run_refused() -> Iterator[RunRefused]:
    """With which code a server ends that has these arguments and settings, and what it says."""
    with subprocess.Popen(
        [sys.executable, "-c", _REFUSING_SERVER],
        env=server_environment(None),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        orders, endings = process.stdin, process.stdout

        def ask(arguments: list[str], settings: dict[str, str]) -> tuple[int, str]:
            orders.write(json.dumps([arguments, settings]) + "\n")
            orders.flush()
            code, said = json.loads(endings.readline())
            return code, said

        yield ask


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
def test_a_server_that_must_not_start_says_why(
    run_refused: RunRefused, arguments: list[str], settings: dict[str, str], message: str
) -> None:
    code, said = run_refused(arguments, server_environment(None) | settings)
    assert code == 2
    assert message in said
    assert "Traceback" not in said


def test_a_program_that_must_not_start_ends_as_its_main_says(tmp_path: Path) -> None:
    done = run_to_end(SERVE, server_environment(None), tmp_path)
    assert done.returncode == 2
    assert "no state storage is set: set STATE_STORAGE" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_emulator_is_started_and_stopped_with_the_server(tmp_path: Path) -> None:
    *emulator, port = free_ports(4)
    # Whoever runs the tests with nohup has the server ignore a hang-up.
    heard = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL);"
    code = f"{heard}{code_with_emulator_ports(emulator)}sys.exit(main.main(['serve', '--port', '{port}']))"
    settings = server_environment(None) | {"STATE_STORAGE": "UseDevelopmentStorage=true"}
    hub = new_hub_name()
    for how in (signal.SIGINT, signal.SIGHUP):
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=settings, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True
        )
        with stop_after(process):
            wait_until(lambda: is_listening(HOST, port), "the server listens")
            assert all(is_listening(HOST, service) for service in emulator)
            sent = httpx.post(f"http://{HOST}:{port}/api/events", json=[event(hub)], timeout=30).json()
            assert sent["quarantined"] == 0
            shown = httpx.get(f"http://{HOST}:{port}/api/taskhubs/{hub}", timeout=30).json()
            # The second time round it is still there: the emulator keeps its data in a folder.
            assert shown["activeCount"] == 1
            process.send_signal(how)
            assert process.wait(60) == 0
        assert not any(is_listening(HOST, service) for service in emulator)


@pytest.mark.parametrize(("service", "place"), [("queue", 1), ("blob", 2)])
def test_an_emulator_whose_port_is_taken_is_not_started(service: str, place: int, tmp_path: Path) -> None:
    emulator = free_ports(3)
    settings = server_environment(None) | {"STATE_STORAGE": "UseDevelopmentStorage=true"}
    with socket.create_server((HOST, emulator[place])):
        done = run_to_end(
            [sys.executable, "-c", f"{code_with_emulator_ports(emulator)}sys.exit(main.main(['serve']))"],
            settings,
            tmp_path,
        )
    assert done.returncode == 1
    assert f"another process listens on port {emulator[place]}, which its {service} service needs" in done.stderr
    assert not any(is_listening(HOST, port) for port in emulator)


def test_a_server_without_an_emulator_to_start_says_what_to_do(tmp_path: Path) -> None:
    code = (
        f"{code_with_emulator_ports(free_ports(3))}"
        "import state_api.emulator as emulator;"
        "emulator.__file__ = '/nowhere/state_api/emulator.py';"
        "sys.exit(main.main(['serve']))"
    )
    settings = server_environment(None) | {"STATE_STORAGE": "UseDevelopmentStorage=true", "PATH": "/nowhere"}
    done = run_to_end([sys.executable, "-c", code], settings, tmp_path)
    assert done.returncode == 1
    assert "Azurite is not installed: run `make setup`" in done.stderr


@pytest.mark.anyio
async def test_a_stopping_server_finishes_what_it_has_begun(storage: StorageSettings, tmp_path: Path) -> None:
    hub, app = new_hub_name(), f"shop-{new_hub_name()}"
    writing, go_on = threading.Event(), asyncio.Event()
    async with run_storage_proxy(storage) as proxy:
        with run_server(proxy.settings, tmp_path) as served:
            async with httpx.AsyncClient(base_url=served.url, timeout=60) as http:
                await http.post(f"/api/apps/{app}/staging", json={"taskHub": hub})
                await http.post("/api/events", json=[event(hub, "first")])

                async def hold(method: str, path: str) -> None:
                    if path.endswith("$batch"):
                        writing.set()
                        await go_on.wait()

                proxy.before_request = hold
                polling = asyncio.create_task(http.get(f"/api/apps/{app}/staging", params={"wait": 120}))
                posting = asyncio.create_task(http.post("/api/events", json=[event(hub, "second")]))
                await asyncio.to_thread(writing.wait, 30)
                served.process.send_signal(signal.SIGTERM)
                verdict = await polling
                assert (verdict.status_code, verdict.json()["hasRunning"]) == (200, True)
                go_on.set()
                answer = await posting
                assert (answer.status_code, answer.json()["recorded"]) == (200, 1)
            assert await asyncio.to_thread(served.process.wait, 60) == 0
        with run_server(storage, tmp_path) as served, served.client() as again:
            assert again.get(f"/api/taskhubs/{hub}").json()["activeCount"] == 2


def test_two_servers_on_one_storage_never_disagree(storage: StorageSettings, tmp_path: Path) -> None:
    app, hubs = f"shop-{new_hub_name()}", [new_hub_name() for _ in range(20)]
    with (
        run_server(storage, tmp_path) as one,
        run_server(storage, tmp_path) as other,
        one.client() as first,
        other.client() as second,
        ThreadPoolExecutor(20) as at_once,
    ):
        clients = [first, second]

        def stage(number: int) -> httpx.Response:
            headers = {"X-Run-Url": f"https://ci.example/{number}"}
            body = {"taskHub": hubs[number]}
            return clients[number % 2].post(f"/api/apps/{app}/staging", json=body, headers=headers)

        answers_of_all = list(at_once.map(stage, range(20)))
        assert sorted(answer.status_code for answer in answers_of_all) == [200] + [409] * 19
        winner = next(answer.json() for answer in answers_of_all if answer.status_code == 200)
        for answer in answers_of_all:
            if answer.status_code == 409:
                assert answer.json()["deployment"] == winner["deployment"]
        apps = [client.get(f"/api/apps/{app}").json() for client in clients]
        assert apps[0] == apps[1] == winner
        hub = winner["slots"]["staging"]["taskHub"]
        # Each server records half of the starts and all of the ends of the other's.
        starts = [event(hub, f"order-{n}") for n in range(40)]
        ends = [event(hub, f"order-{n}", "Completed") for n in range(40)]
        assert all(
            answer.status_code == 200
            for answer in at_once.map(lambda n: clients[n % 2].post("/api/events", json=[starts[n]]), range(40))
        )
        counts = [client.get(f"/api/apps/{app}/staging").json()["activeCount"] for client in clients]
        assert counts == [40, 40]
        list(at_once.map(lambda n: clients[1 - n % 2].post("/api/events", json=[ends[n]]), range(40)))
        verdicts = [client.get(f"/api/apps/{app}/staging").json() for client in clients]
        assert [verdict["hasRunning"] for verdict in verdicts] == [False, False]
        # A wait at one server ends with what the other has recorded.
        first.put(f"/api/apps/{app}", json={"policy": {"settleSeconds": 0}})
        first.post(f"/api/apps/{app}/swap", json={"taskHub": hub})
        second.post(f"/api/apps/{app}/staging", json={"taskHub": f"{hub}x"})
        second.post(f"/api/apps/{app}/swap", json={"taskHub": f"{hub}x"})
        second.post("/api/events", json=[event(hub, "last")])
        waiting = at_once.submit(first.get, f"/api/apps/{app}/staging?wait=60")
        second.post("/api/events", json=[event(hub, "last", "Completed")])
        assert waiting.result(30).json()["ready"]
        # One dies in the middle of its work; the other goes on with all that was acknowledged.
        one.process.kill()
        assert second.get(f"/api/apps/{app}").json()["slots"]["staging"]["taskHub"] == hub


def test_a_taken_port_is_an_error_of_its_own(storage: StorageSettings, tmp_path: Path) -> None:
    with run_server(storage, tmp_path) as served:
        port = served.url.rpartition(":")[2]
        done = run_to_end([*SERVE, "--port", port], server_environment(storage), tmp_path)
    assert done.returncode == 1
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_stopped_while_it_starts_leaves_no_emulator(tmp_path: Path) -> None:
    *emulator, port = free_ports(4)
    code = (
        f"{code_with_emulator_ports(emulator)}print('starting', flush=True);"
        f"sys.exit(main.main(['serve', '--port', '{port}']))"
    )
    settings = server_environment(None) | {"STATE_STORAGE": "UseDevelopmentStorage=true"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=settings, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with stop_after(process):
        assert process.stdout is not None
        assert process.stdout.readline() == b"starting\n"
        wait_until((tmp_path / ".azurite").exists, "the emulator starts")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0
        assert b"Traceback" not in said
    wait_until(lambda: not any(is_listening(HOST, service) for service in emulator), "the emulator is gone")


@pytest.fixture(scope="module")
def open_server(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server without keys, for whoever asks it something and leaves it as it was."""
    with run_server(storage, tmp_path_factory.mktemp("open")) as served:
        yield served


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
def test_without_keys_no_page_in_a_browser_gets_an_answer(open_server: ServerProcess, headers: dict[str, str]) -> None:
    with open_server.client() as http:
        run_refused = http.post("/api/apps/shop/cleanup", headers=headers)
        # An unusable Host is refused before the server's own code sees it.
        assert run_refused.status_code in (400, 403)
        allowed = http.post("/api/apps/shop-nowhere/cleanup", headers={"Origin": open_server.url})
        assert allowed.json()["code"] == "AppNotFound"


def test_the_official_client_publishes_to_the_server_as_to_a_topic(storage: StorageSettings, tmp_path: Path) -> None:
    hub, key = new_hub_name(), "a-publisher-key-0123456789"
    sent = event(hub)
    keys = [
        key_entry(key, "publisher", "topic"),
        key_entry("a-reader-key-0123456789", "reader", "operator"),
    ]
    with run_server(storage, tmp_path, keys) as served:
        with EventGridPublisherClient(f"{served.url}/api/events", AzureKeyCredential(key)) as publisher:
            publisher.send(
                EventGridEvent(
                    subject=sent["subject"],
                    event_type=sent["eventType"],
                    data=sent["data"],
                    data_version="1.0",
                    event_time=datetime.now(UTC),
                )
            )
        stranger = EventGridPublisherClient(f"{served.url}/api/events", AzureKeyCredential("wrong"))
        with stranger, pytest.raises(ClientAuthenticationError):
            stranger.send(EventGridEvent(subject="s", event_type="t", data={}, data_version="1.0"))
        with served.client() as http:
            shown = http.get(f"/api/taskhubs/{hub}", headers={"x-functions-key": "a-reader-key-0123456789"})
            assert shown.json()["activeCount"] == 1
        assert key not in served.read_log()


def test_a_server_started_with_nohup_survives_its_terminal(storage: StorageSettings, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with run_server(storage, tmp_path) as served, served.client() as http:
            served.process.send_signal(signal.SIGHUP)
            assert http.get("/api/health").status_code == 200
            assert served.stop() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_any_loopback_address_will_do(storage: StorageSettings, tmp_path: Path) -> None:
    with run_server(storage, tmp_path) as served, served.client() as http:
        for host in ("127.0.0.2", "[::1]:7071", "LOCALHOST:80"):
            assert http.get("/api/health", headers={"Host": host}).status_code == 200


@pytest.mark.anyio
async def test_a_server_outside_azure_probes_by_itself(
    storage: StorageSettings, tmp_path: Path, app: str, hub: str, anyio_backend: str
) -> None:
    """At its start and every half minute, so that the answer is there before the question."""
    async with ProviderTaskHub(storage, hub) as provider:
        await provider.create()
    source = {"provider": "azureStorage", "connection": "STATE_STORAGE"}
    with run_server(storage, tmp_path) as served, served.client() as http:
        slots = {"staging": {"taskHub": hub}}
        assert http.put(f"/api/apps/{app}", json={"slots": slots, "taskHubs": source}).status_code == 200
    with run_server(storage, tmp_path) as served:
        with served.client() as http:
            where = f"/api/apps/{app}/staging?verify=none"

            def ready() -> bool:
                # It takes some ten seconds, and each answer takes the server a while.
                time.sleep(0.3)
                return bool(http.get(where).json()["ready"])

            wait_until(ready, "the background probe has been there", 30)
            assert http.get(where).json()["assurance"] == "verified"
        assert served.stop() == 0
