"""No secret ever reaches a log, however much is logged: servers and the command line as processes of their own, with
every logger at DEBUG, are driven through all that goes well and wrong, and what they wrote is searched."""

import base64
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from harness.processes import free_port
from harness.state_server import HOST, ServerProcess, run_server, server_environment
from state_api.settings import StorageSettings, emulator_connection_string
from tests.builders import event
from tests.conftest import new_hub_name
from tests.http.test_keys_and_roles import OPERATIONS
from tests.keys import key_entries, key_entry

ROLES = ("reader", "deployer", "publisher", "admin")
KEYS = {role: f"k3y-of-the-{role}-0123456789" for role in ROLES}
WRONG_KEY = "wr0ng-key-that-may-be-a-misspelt-one"
ACCOUNT_KEY = base64.b64encode(b"the account key that nobody may see, 64 bytes long, padded......").decode()
SIGNATURE = "s1gnature/of+a+shared+access+0123456789abcdef="
SYSTEM_KEY = "syst3m-key-of-the-durable-extension"
UNSTRUCTURED_SECRET = "x-a-secret-without-any-form-at-all"

LOG_EVERYTHING = """
import logging, sys
setting = logging.Logger.setLevel
logging.Logger.setLevel = lambda logger, level: setting(logger, logging.DEBUG)
"""
"""Whatever a logger is set to, here it is set to DEBUG. uvicorn's own level below it, TRACE, cannot be switched on."""
SERVER = (
    "-c",
    f"""{LOG_EVERYTHING}
import state_api.serving.log_limit as log_limit
log_limit.MAX_MESSAGES_PER_WINDOW = 10**9
import state_api.__main__ as main
sys.exit(main.main())""",
)
CLIENT = ("-c", f"{LOG_EVERYTHING}\nlogging.basicConfig(level=0)\nimport safe_deploy.cli as cli; sys.exit(cli.main())")
DEVELOPMENT = {"STATE_STORAGE": "UseDevelopmentStorage=true"}


def sas_connection(port: int) -> str:
    """A connection string with a shared access signature that the storage does not accept."""
    signature = f"sv=2021-08-06&ss=t&srt=sco&sp=rwdlacu&se=2099-01-01T00:00:00Z&sig={quote(SIGNATURE, safe='')}"
    return f"TableEndpoint=http://{HOST}:{port}/devstoreaccount1;SharedAccessSignature={signature}"


def with_another_key(connection: str) -> str:
    parts = (
        part if not part.startswith("AccountKey=") else f"AccountKey={ACCOUNT_KEY}" for part in connection.split(";")
    )
    return ";".join(parts)


def connection_string_of(storage: StorageSettings) -> str:
    assert storage.connection_string is not None
    return storage.connection_string.get_secret_value()


def table_port(connection: str) -> int:
    (endpoint,) = [part for part in connection.split(";") if part.startswith("TableEndpoint=")]
    return int(endpoint.rpartition(":")[2].partition("/")[0])


def secrets(connection: str) -> set[str]:
    """All that must not be seen, as it is and as it is written in an address."""
    (own,) = [part.partition("=")[2] for part in connection.split(";") if part.startswith("AccountKey=")]
    plain = {
        *KEYS.values(),
        WRONG_KEY,
        ACCOUNT_KEY,
        SIGNATURE,
        SYSTEM_KEY,
        UNSTRUCTURED_SECRET,
        own,
        "SharedAccessSignature=",
        "AccountKey=",
    }
    # Of what is long, a part is too much already.
    return plain | {quote(one, safe="") for one in plain} | {unquote(one)[:20] for one in plain}


def assert_no_secrets(text: str, connection: str) -> None:
    shown = {one for one in secrets(connection) if one in text}
    assert not shown, [line for line in text.splitlines() if any(one in line for one in shown)][:5]


@pytest.fixture(params=["good", "another key", "a signature", "nobody there"])
def state_connection(request: pytest.FixtureRequest, storage: StorageSettings) -> str:
    """Where the state is kept, and whether that works."""
    good = connection_string_of(storage)
    return {
        "good": good,
        "another key": with_another_key(good),
        "a signature": sas_connection(table_port(good)),
        "nobody there": emulator_connection_string(HOST, free_port()),
    }[str(request.param)]


@pytest.fixture
def debug_server(state_connection: str, storage: StorageSettings, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that logs everything. The apps' task hubs are behind settings of each kind, none of which works but
    STATE_STORAGE."""
    good = connection_string_of(storage)
    settings = {
        "STATE_STORAGE": state_connection,
        "STATE_TASKHUBS_ANOTHER_KEY": with_another_key(good),
        "STATE_TASKHUBS_SIGNED": sas_connection(table_port(good)),
        "STATE_TASKHUBS_NOBODY": with_another_key(emulator_connection_string(HOST, free_port())),
        "STATE_TASKHUBS_BROKEN": UNSTRUCTURED_SECRET,
        "STATE_TASKHUBS_API__endpoint": f"http://{HOST}:{table_port(good)}",
        "STATE_TASKHUBS_API__key": SYSTEM_KEY,
        "STATE_TASKHUBS_GONE__endpoint": f"http://{HOST}:{free_port()}",
        "STATE_TASKHUBS_GONE__key": SYSTEM_KEY,
        "STATE_TASKHUBS_SCHEDULER": f"Endpoint=http://{HOST}:{free_port()};Authentication=None;Secret={UNSTRUCTURED_SECRET}",
    }
    keys = key_entries(KEYS)
    with run_server(None, tmp_path, keys, settings, SERVER) as served:
        yield served


PROVIDER_CONFIGS = [
    ("azureStorage", "STATE_STORAGE"),
    ("azureStorage", "STATE_TASKHUBS_ANOTHER_KEY"),
    ("azureStorage", "STATE_TASKHUBS_SIGNED"),
    ("azureStorage", "STATE_TASKHUBS_NOBODY"),
    ("azureStorage", "STATE_TASKHUBS_BROKEN"),
    ("managementApi", "STATE_TASKHUBS_API"),
    ("managementApi", "STATE_TASKHUBS_GONE"),
    ("scheduler", "STATE_TASKHUBS_SCHEDULER"),
    ("scheduler", "STATE_TASKHUBS_BROKEN"),
]


def test_no_secret_reaches_the_log_of_a_server_or_an_answer(
    debug_server: ServerProcess, state_connection: str, storage: StorageSettings
) -> None:
    answered, verified = [], 0
    with debug_server.client() as http:
        for method, path, _ in OPERATIONS:
            address = path.format(app="shop-loud", hub=new_hub_name())
            answered.append(http.request(method, address, headers={"x-functions-key": KEYS["admin"]}))
            answered.append(http.request(method, address, params={"code": KEYS["publisher"]}))
            answered.append(http.request(method, address, params={"code": WRONG_KEY, "taskHub": "x", "wait": "y"}))
            answered.append(http.request(method, address, headers={"aeg-sas-key": WRONG_KEY}, content=b'{"odd": 1'))
        admin = {"x-functions-key": KEYS["admin"]}
        for number, (provider, connection) in enumerate(PROVIDER_CONFIGS):
            app = f"shop-{new_hub_name()}"
            source = {"provider": provider, "connection": connection}
            body = {
                "slots": {"staging": {"taskHub": new_hub_name()}},
                "taskHubs": source,
                "policy": {"settleSeconds": 0},
            }
            put = http.put(f"/api/apps/{app}", json=body, headers=admin)
            answered.append(put)
            if put.status_code == 200 and number:
                where = f"/api/apps/{app}/staging"
                verdict = http.get(where, params={"verify": "fresh", "code": KEYS["reader"]})
                assert (verdict.json()["ready"], verdict.json()["assurance"]) == (False, "events"), verdict.text
                verified += 1
                answered.append(verdict)
                answered.append(http.post(where, json={"taskHub": new_hub_name()}, headers=admin))
        assert verified == (len(PROVIDER_CONFIGS) - 3 if state_connection == connection_string_of(storage) else 0)
        sent = [event(new_hub_name()), {"nothing": "understood"}]
        answered.append(http.post("/api/events", json=sent, params={"code": KEYS["publisher"]}))
        ready = http.get(f"/api/health/ready?code={WRONG_KEY}")
        assert ready.status_code == (200 if state_connection == connection_string_of(storage) else 503)
        answered.append(ready)
    for line in (f"GET /api/apps?code={KEYS['admin']} HTTP/9.9", f"NO/api x\x00 {KEYS['admin']}", f"{KEYS['admin']}"):
        with socket.create_connection((HOST, int(debug_server.url.rpartition(":")[2])), 10) as raw:
            raw.sendall(f"{line}\r\nx-functions-key: {KEYS['admin']}\r\n\r\n".encode())
            raw.recv(1000)
    assert debug_server.stop() == 0
    logged = debug_server.read_log()
    # That it was loud at all: the parts that log most are heard.
    assert " DEBUG " in logged
    assert "azure.core.pipeline" in logged
    assert "state_api.requests: GET /api/apps 401" in logged
    assert_no_secrets(logged, connection_string_of(storage))
    for answer in answered:
        assert_no_secrets(answer.text + str(answer.headers), connection_string_of(storage))


@pytest.mark.parametrize(
    "settings",
    [
        {"STATE_STORAGE": UNSTRUCTURED_SECRET},
        {"STATE_STORAGE": f"AccountName=state;Key={UNSTRUCTURED_SECRET}"},
        {"STATE_STORAGE": f"AccountKey={ACCOUNT_KEY}"},
        {"STATE_STORAGE__tableServiceUri": f"https://state.table.core.windows.net?sig={SIGNATURE}"},
        {
            "STATE_STORAGE": "UseDevelopmentStorage=true",
            "STATE_KEYS": f'[{{"name": "x", "role": "reader", "key": "{UNSTRUCTURED_SECRET}',
        },
        DEVELOPMENT | {"STATE_KEYS": f'[{{"name": "{UNSTRUCTURED_SECRET} ", "key": "{WRONG_KEY}"}}]'},
        DEVELOPMENT | {"STATE_KEYS": f'{{"{UNSTRUCTURED_SECRET}": "{WRONG_KEY}"}}'},
    ],
)
def test_a_server_that_does_not_start_says_no_secret(settings: dict[str, str], tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, *SERVER, "serve", "--port", str(free_port())],
        env=server_environment(None) | settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "error: " in ended.stderr
    assert_no_secrets(ended.stdout + ended.stderr, f"AccountKey={ACCOUNT_KEY}")


def test_no_key_reaches_the_log_of_the_command_line(storage: StorageSettings, tmp_path: Path) -> None:
    keys = [key_entry(KEYS["deployer"], "deployer", "pipeline")]
    with run_server(storage, tmp_path, keys) as served:
        good = {"SAFE_DEPLOY_SERVER": served.url, "SAFE_DEPLOY_APP": "shop-loud", "SAFE_DEPLOY_KEY": KEYS["deployer"]}
        wrong = good | {"SAFE_DEPLOY_KEY": WRONG_KEY}
        for words, given in ((["stage", "--task-hub", new_hub_name()], good), (["doctor"], good), (["status"], wrong)):
            ended = subprocess.run(
                [sys.executable, *CLIENT, *words],
                env=server_environment(None) | given,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert "DEBUG" in ended.stderr
            assert_no_secrets(ended.stdout + ended.stderr, connection_string_of(storage))


def test_the_search_would_find_a_secret() -> None:
    connection = f"AccountKey={ACCOUNT_KEY}"
    for one in (
        KEYS["reader"],
        quote(SIGNATURE, safe=""),
        SIGNATURE,
        f"http://x/?code={WRONG_KEY}&x",
        ACCOUNT_KEY[:30],
    ):
        with pytest.raises(AssertionError):
            assert_no_secrets(f"a line\nanother with {one}\n", connection)
