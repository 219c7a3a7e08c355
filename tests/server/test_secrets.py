"""No secret reaches a log, even at the level DEBUG. Servers and the CLI run as processes in which every logger is at
DEBUG, and the tests search their output for secrets."""

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from harness.processes import free_port
from harness.state_server import HOST, ServerProcess, build_server_environment, run_server
from state_api.settings import StorageSettings, emulator_connection_string
from tests.backends.storage_account import connection_string_of
from tests.builders import event
from tests.conftest import new_hub_name
from tests.http.operations import fill_path
from tests.http.test_keys_and_roles import OPERATIONS
from tests.keys import key_entries, key_entry
from tests.server.raw_connections import connect

ROLES = ("reader", "deployer", "publisher", "admin")
KEYS = {role: f"k3y-of-the-{role}-0123456789" for role in ROLES}
WRONG_KEY = "wr0ng-key-that-may-be-a-misspelt-one"
ACCOUNT_KEY = base64.b64encode(b"the account key that nobody may see, 64 bytes long, padded......").decode()
SIGNATURE = "s1gnature/of+a+shared+access+0123456789abcdef="
SYSTEM_KEY = "syst3m-key-of-the-durable-extension"
UNSTRUCTURED_SECRET = "x-a-secret-without-any-form-at-all"

SET_EVERY_LOGGER_TO_DEBUG = """
import logging, sys
set_level = logging.Logger.setLevel
logging.Logger.setLevel = lambda logger, level: set_level(logger, logging.DEBUG)
"""
"""Python code that sets every logger to DEBUG, even if the program requests another level. TRACE, the lower level of
uvicorn, cannot be enabled."""
DEBUG_SERVER_COMMAND = (
    "-c",
    f"""{SET_EVERY_LOGGER_TO_DEBUG}
import state_api.serving.log_limit as log_limit
log_limit.MAX_MESSAGES_PER_WINDOW = 10**9
import state_api.__main__ as main
sys.exit(main.main())""",
)
DEBUG_CLI_COMMAND = (
    "-c",
    f"{SET_EVERY_LOGGER_TO_DEBUG}\nlogging.basicConfig(level=0)\nimport safe_deploy.cli as cli; sys.exit(cli.main())",
)
DEVELOPMENT_SETTINGS = {"STATE_STORAGE": "UseDevelopmentStorage=true"}


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


def table_port(connection: str) -> int:
    """The port of the table service in a connection string."""
    (endpoint,) = [part for part in connection.split(";") if part.startswith("TableEndpoint=")]
    return int(endpoint.rpartition(":")[2].partition("/")[0])


def list_secrets(connection: str) -> set[str]:
    """The secrets of these tests and of the emulator's connection string: plain, escaped for a URL, and the start."""
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
    # A log must not show even the first 20 characters of a secret.
    return plain | {quote(secret, safe="") for secret in plain} | {unquote(secret)[:20] for secret in plain}


def assert_no_secrets(text: str, connection: str) -> None:
    """Assert that the text contains no secret of these tests, and none of this connection string."""
    leaked = {secret for secret in list_secrets(connection) if secret in text}
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
    """A server whose loggers are all at DEBUG. Of its connections to task hubs, only STATE_STORAGE works."""
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
    with run_server(None, tmp_path, keys, settings, DEBUG_SERVER_COMMAND) as server:
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
            url = fill_path(path, app="shop-loud", hub=new_hub_name())
            responses.append(http.request(method, url, headers={"x-functions-key": KEYS["admin"]}))
            responses.append(http.request(method, url, params={"code": KEYS["publisher"]}))
            responses.append(http.request(method, url, params={"code": WRONG_KEY, "taskHub": "x", "wait": "y"}))
            responses.append(http.request(method, url, headers={"aeg-sas-key": WRONG_KEY}, content=b'{"odd": 1'))
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
        # PutApp refuses two connections as invalid, and no verdict is requested for STATE_STORAGE, which works.
        failing_connection_count = len(PROVIDER_CONFIGS) - 3
        assert verdict_count == (failing_connection_count if state_connection == connection_string_of(storage) else 0)
        delivery = [event(new_hub_name()), {"not": "an event"}]
        responses.append(http.post("/api/events", json=delivery, params={"code": KEYS["publisher"]}))
        ready = http.get(f"/api/health/ready?code={WRONG_KEY}")
        assert ready.status_code == (200 if state_connection == connection_string_of(storage) else 503)
        responses.append(ready)
    invalid_request_lines = (
        f"GET /api/apps?code={KEYS['admin']} HTTP/9.9",
        f"NO/api x\x00 {KEYS['admin']}",
        f"{KEYS['admin']}",
    )
    for request_line in invalid_request_lines:
        request = f"{request_line}\r\nx-functions-key: {KEYS['admin']}\r\n\r\n".encode()
        with connect(debug_server, request, timeout_seconds=10) as connection_to_server:
            connection_to_server.recv(1000)
    assert debug_server.stop() == 0
    log = debug_server.read_log()
    # The log has messages of the parts that log most at DEBUG.
    assert " DEBUG " in log
    assert "azure.core.pipeline" in log
    assert "state_api.requests: GET /api/apps 401" in log
    assert_no_secrets(log, connection_string_of(storage))
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
        DEVELOPMENT_SETTINGS | {"STATE_KEYS": f'[{{"name": "{UNSTRUCTURED_SECRET} ", "key": "{WRONG_KEY}"}}]'},
        DEVELOPMENT_SETTINGS | {"STATE_KEYS": f'{{"{UNSTRUCTURED_SECRET}": "{WRONG_KEY}"}}'},
    ],
)
def test_a_server_that_does_not_start_prints_no_secret(settings: dict[str, str], tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, *DEBUG_SERVER_COMMAND, "serve", "--port", str(free_port())],
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
                [sys.executable, *DEBUG_CLI_COMMAND, *arguments],
                env=build_server_environment(None) | environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert "DEBUG" in process.stderr
            assert_no_secrets(process.stdout + process.stderr, connection_string_of(storage))


def test_assert_no_secrets_finds_each_kind_of_secret() -> None:
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
