"""No secret reaches a log, even at the level DEBUG. Servers and the CLI run as separate processes with every logger at
DEBUG, handle valid and invalid requests, and their output is searched for secrets."""

import base64
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from harness.processes import free_port
from harness.state_server import HOST, ServerProcess, build_server_environment, run_server
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
set_level = logging.Logger.setLevel
logging.Logger.setLevel = lambda logger, level: set_level(logger, logging.DEBUG)
"""
"""Code that sets every logger to DEBUG, regardless of the requested level. TRACE, a lower level of uvicorn, cannot be
enabled."""
SERVER = (
    "-c",
    f"""{LOG_EVERYTHING}
import state_api.serving.log_limit as log_limit
log_limit.MAX_MESSAGES_PER_WINDOW = 10**9
import state_api.__main__ as main
sys.exit(main.main())""",
)
CLI = ("-c", f"{LOG_EVERYTHING}\nlogging.basicConfig(level=0)\nimport safe_deploy.cli as cli; sys.exit(cli.main())")
DEVELOPMENT = {"STATE_STORAGE": "UseDevelopmentStorage=true"}


def sas_connection(port: int) -> str:
    """A connection string with a shared access signature that the storage rejects."""
    signature = f"sv=2021-08-06&ss=t&srt=sco&sp=rwdlacu&se=2099-01-01T00:00:00Z&sig={quote(SIGNATURE, safe='')}"
    return f"TableEndpoint=http://{HOST}:{port}/devstoreaccount1;SharedAccessSignature={signature}"


def with_wrong_key(connection: str) -> str:
    """The connection string with an account key that the storage rejects."""
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
    """All secrets of these tests, also as they look in a URL, and the first part of each."""
    (emulator_key,) = [part.partition("=")[2] for part in connection.split(";") if part.startswith("AccountKey=")]
    plain = {
        *KEYS.values(),
        WRONG_KEY,
        ACCOUNT_KEY,
        SIGNATURE,
        SYSTEM_KEY,
        UNSTRUCTURED_SECRET,
        emulator_key,
        "SharedAccessSignature=",
        "AccountKey=",
    }
    # The first 20 characters of a secret are too much already.
    return plain | {quote(secret, safe="") for secret in plain} | {unquote(secret)[:20] for secret in plain}


def assert_no_secrets(text: str, connection: str) -> None:
    leaked = {secret for secret in secrets(connection) if secret in text}
    assert not leaked, [line for line in text.splitlines() if any(secret in line for secret in leaked)][:5]


@pytest.fixture(params=["valid", "wrong key", "wrong signature", "unreachable"])
def state_connection(request: pytest.FixtureRequest, storage: StorageSettings) -> str:
    """The connection string of the state storage: a valid one, and several that fail."""
    valid = connection_string_of(storage)
    return {
        "valid": valid,
        "wrong key": with_wrong_key(valid),
        "wrong signature": sas_connection(table_port(valid)),
        "unreachable": emulator_connection_string(HOST, free_port()),
    }[str(request.param)]


@pytest.fixture
def debug_server(state_connection: str, storage: StorageSettings, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that logs everything. Of its settings for task hub connections, only STATE_STORAGE works."""
    valid = connection_string_of(storage)
    settings = {
        "STATE_STORAGE": state_connection,
        "STATE_TASKHUBS_WRONG_KEY": with_wrong_key(valid),
        "STATE_TASKHUBS_WRONG_SIGNATURE": sas_connection(table_port(valid)),
        "STATE_TASKHUBS_UNREACHABLE": with_wrong_key(emulator_connection_string(HOST, free_port())),
        "STATE_TASKHUBS_INVALID": UNSTRUCTURED_SECRET,
        "STATE_TASKHUBS_API__endpoint": f"http://{HOST}:{table_port(valid)}",
        "STATE_TASKHUBS_API__key": SYSTEM_KEY,
        "STATE_TASKHUBS_UNREACHABLE_API__endpoint": f"http://{HOST}:{free_port()}",
        "STATE_TASKHUBS_UNREACHABLE_API__key": SYSTEM_KEY,
        "STATE_TASKHUBS_SCHEDULER": f"Endpoint=http://{HOST}:{free_port()};Authentication=None;Secret={UNSTRUCTURED_SECRET}",
    }
    keys = key_entries(KEYS)
    with run_server(None, tmp_path, keys, settings, SERVER) as server:
        yield server


PROVIDER_CONFIGS = [
    ("azureStorage", "STATE_STORAGE"),
    ("azureStorage", "STATE_TASKHUBS_WRONG_KEY"),
    ("azureStorage", "STATE_TASKHUBS_WRONG_SIGNATURE"),
    ("azureStorage", "STATE_TASKHUBS_UNREACHABLE"),
    ("azureStorage", "STATE_TASKHUBS_INVALID"),
    ("managementApi", "STATE_TASKHUBS_API"),
    ("managementApi", "STATE_TASKHUBS_UNREACHABLE_API"),
    ("scheduler", "STATE_TASKHUBS_SCHEDULER"),
    ("scheduler", "STATE_TASKHUBS_INVALID"),
]


def test_no_secret_reaches_the_log_or_a_response_of_a_server(
    debug_server: ServerProcess, state_connection: str, storage: StorageSettings
) -> None:
    responses, verdict_count = [], 0
    with debug_server.client() as http:
        for method, path, _ in OPERATIONS:
            address = path.format(app="shop-loud", hub=new_hub_name())
            responses.append(http.request(method, address, headers={"x-functions-key": KEYS["admin"]}))
            responses.append(http.request(method, address, params={"code": KEYS["publisher"]}))
            responses.append(http.request(method, address, params={"code": WRONG_KEY, "taskHub": "x", "wait": "y"}))
            responses.append(http.request(method, address, headers={"aeg-sas-key": WRONG_KEY}, content=b'{"odd": 1'))
        admin = {"x-functions-key": KEYS["admin"]}
        for provider, connection in PROVIDER_CONFIGS:
            app = f"shop-{new_hub_name()}"
            provider_config = {"provider": provider, "connection": connection}
            body = {
                "slots": {"staging": {"taskHub": new_hub_name()}},
                "taskHubs": provider_config,
                "policy": {"settleSeconds": 0},
            }
            registration = http.put(f"/api/apps/{app}", json=body, headers=admin)
            responses.append(registration)
            if registration.status_code == 200 and connection != "STATE_STORAGE":
                path = f"/api/apps/{app}/staging"
                verdict = http.get(path, params={"verify": "fresh", "code": KEYS["reader"]})
                assert (verdict.json()["ready"], verdict.json()["assurance"]) == (False, "events"), verdict.text
                verdict_count += 1
                responses.append(verdict)
                responses.append(http.post(path, json={"taskHub": new_hub_name()}, headers=admin))
        # PutApp refuses the two invalid connections, and STATE_STORAGE is skipped because it works.
        assert verdict_count == (len(PROVIDER_CONFIGS) - 3 if state_connection == connection_string_of(storage) else 0)
        delivery = [event(new_hub_name()), {"not": "an event"}]
        responses.append(http.post("/api/events", json=delivery, params={"code": KEYS["publisher"]}))
        ready = http.get(f"/api/health/ready?code={WRONG_KEY}")
        assert ready.status_code == (200 if state_connection == connection_string_of(storage) else 503)
        responses.append(ready)
    for line in (f"GET /api/apps?code={KEYS['admin']} HTTP/9.9", f"NO/api x\x00 {KEYS['admin']}", f"{KEYS['admin']}"):
        with socket.create_connection((HOST, int(debug_server.url.rpartition(":")[2])), 10) as raw:
            raw.sendall(f"{line}\r\nx-functions-key: {KEYS['admin']}\r\n\r\n".encode())
            raw.recv(1000)
    assert debug_server.stop() == 0
    logged = debug_server.read_log()
    # The log has messages of the parts that log most at DEBUG.
    assert " DEBUG " in logged
    assert "azure.core.pipeline" in logged
    assert "state_api.requests: GET /api/apps 401" in logged
    assert_no_secrets(logged, connection_string_of(storage))
    for response in responses:
        assert_no_secrets(response.text + str(response.headers), connection_string_of(storage))


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
def test_a_server_that_does_not_start_prints_no_secret(settings: dict[str, str], tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, *SERVER, "serve", "--port", str(free_port())],
        env=build_server_environment(None) | settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 2
    assert "error: " in process.stderr
    assert_no_secrets(process.stdout + process.stderr, f"AccountKey={ACCOUNT_KEY}")


def test_no_key_reaches_the_log_of_the_cli(storage: StorageSettings, tmp_path: Path) -> None:
    keys = [key_entry(KEYS["deployer"], "deployer", "pipeline")]
    with run_server(storage, tmp_path, keys) as server:
        valid = {"SAFE_DEPLOY_SERVER": server.url, "SAFE_DEPLOY_APP": "shop-loud", "SAFE_DEPLOY_KEY": KEYS["deployer"]}
        wrong_key = valid | {"SAFE_DEPLOY_KEY": WRONG_KEY}
        for arguments, environment in (
            (["stage", "--task-hub", new_hub_name()], valid),
            (["doctor"], valid),
            (["status"], wrong_key),
        ):
            process = subprocess.run(
                [sys.executable, *CLI, *arguments],
                env=build_server_environment(None) | environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert "DEBUG" in process.stderr
            assert_no_secrets(process.stdout + process.stderr, connection_string_of(storage))


def test_the_search_for_secrets_finds_each_kind() -> None:
    connection = f"AccountKey={ACCOUNT_KEY}"
    for secret in (
        KEYS["reader"],
        quote(SIGNATURE, safe=""),
        SIGNATURE,
        f"http://x/?code={WRONG_KEY}&x",
        ACCOUNT_KEY[:30],
    ):
        with pytest.raises(AssertionError):
            assert_no_secrets(f"a line\nanother with {secret}\n", connection)
