"""Schedulers that fail, refuse or cannot be reached, and connections: connection strings, identities, TLS."""

import asyncio
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # it has no types
import pytest
from aiohttp import web

from harness.http_server import HOST, run_http_server
from harness.processes import free_port
from state_api.backends import scheduler_client
from state_api.backends.protocols import BackendError, ReadFailure
from state_api.backends.scheduler import SchedulerBackend
from state_api.backends.scheduler_connection import parse_connection_string
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.settings import SettingsError
from tests.backends.fake_schedulers import (
    CONNECTION_SETTING,
    HUB,
    FakeScheduler,
    InMemoryScheduler,
    build_connection_string,
    build_orchestration_state,
    idle_scheduler,
    machine_time,
    open_backend,
    open_backend_of_service,
    scan,
    serve_grpc,
    waiting,
)
from tests.certificates import create_self_signed_certificate

__all__ = ["idle_scheduler"]  # a fixture

pytestmark = pytest.mark.anyio


class RefusingScheduler:
    """Answers every call with an error, whose text contains a secret."""

    def __init__(self, code: Any, *metadata: tuple[str, str]) -> None:
        self.code = code
        self.metadata = metadata

    def query(self, _: Any, context: Any) -> None:
        context.set_trailing_metadata(self.metadata)
        context.abort(self.code, "SharedKey=do-not-leak")

    get = query


@pytest.mark.parametrize(
    ("code", "failure", "text"),
    [
        ("NOT_FOUND", ReadFailure.MISSING, f"has no task hub {HUB}"),
        ("PERMISSION_DENIED", ReadFailure.DENIED, f"role Durable Task Data Reader on task hub {HUB}"),
        ("UNAUTHENTICATED", ReadFailure.DENIED, "role Durable Task Data Reader"),
        ("RESOURCE_EXHAUSTED", ReadFailure.THROTTLED, "asks to wait"),
        ("UNAVAILABLE", ReadFailure.FAILED, "cannot be reached"),
        ("DEADLINE_EXCEEDED", ReadFailure.FAILED, "has not answered within 20 s"),
        ("UNIMPLEMENTED", ReadFailure.FAILED, "something else answers"),
        ("INTERNAL", ReadFailure.FAILED, "answers with INTERNAL"),
    ],
)
async def test_a_failed_call_says_what_to_correct(code: str, failure: ReadFailure, text: str) -> None:
    async with open_backend_of_service(RefusingScheduler(grpc.StatusCode[code])) as backend:
        start = await backend.begin_scan(HUB)
        for call in (
            backend.read_page(HUB, start.changed_since, start.cursors[0]),
            backend.find_instances(HUB, ["one", "two"]),
        ):
            with pytest.raises(BackendError) as caught:
                await call
            assert caught.value.failure is failure
            assert caught.value.retry_after is None
            assert f"the scheduler of the setting {CONNECTION_SETTING} " in caught.value.message
            assert text in caught.value.message
            assert not any(secret in caught.value.message for secret in ("do-not-leak", "127.0.0.1", "\n"))


async def test_a_scheduler_that_does_not_answer_costs_no_more_than_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    class SilentScheduler:
        test_ended = threading.Event()

        def query(self, *_: Any) -> None:
            self.test_ended.wait(30)

        get = query

    silent_scheduler = SilentScheduler()
    monkeypatch.setattr(scheduler_client, "CALL_TIMEOUT_SECONDS", 0.3)
    async with open_backend_of_service(silent_scheduler) as backend, asyncio.timeout(10):
        for call in (scan(backend), backend.find_instances(HUB, [str(number) for number in range(20)])):
            with pytest.raises(BackendError, match=r"has not answered within 0\.3 s") as caught:
                await call
            assert caught.value.failure is ReadFailure.FAILED
        silent_scheduler.test_ended.set()


async def test_a_refused_connection_names_the_setting_and_not_the_address() -> None:
    port = str(free_port())
    async with open_backend(build_connection_string(port)) as backend:
        with pytest.raises(BackendError) as caught:
            await scan(backend)
    assert caught.value.failure is ReadFailure.FAILED
    assert "cannot be reached" in caught.value.message
    assert CONNECTION_SETTING in caught.value.message
    assert port not in caught.value.message


async def test_a_scheduler_can_be_read_again_after_an_outage(idle_scheduler: InMemoryScheduler) -> None:
    idle_scheduler.start(waiting, "waiting")
    idle_scheduler.engine.stop()
    async with open_backend(idle_scheduler.connection) as backend:
        with pytest.raises(BackendError, match="cannot be reached"):
            await scan(backend)
        idle_scheduler.engine.start()
        observed_by_id: dict[str, ObservedInstance] = {}
        async with asyncio.timeout(20):
            while not observed_by_id:
                with suppress(BackendError):
                    observed_by_id = await scan(backend)
                await asyncio.sleep(0.1)
    assert set(observed_by_id) == {"waiting"}


@pytest.mark.parametrize(
    ("connection", "target", "authentication"),
    [
        (
            "Endpoint=https://s.eu.durabletask.io;Authentication=ManagedIdentity",
            "s.eu.durabletask.io:443",
            "ManagedIdentity",
        ),
        ("endpoint=https://s.io/;AUTHENTICATION=defaultazure;TaskHub=x;", "s.io:443", "DefaultAzure"),
        (" Authentication = azurecli ; Endpoint = https://s.io:8443 ", "s.io:8443", "AzureCLI"),
        ("Endpoint=s.io;Authentication=WorkloadIdentity;ClientID=1;TenantId=2", "s.io:443", "WorkloadIdentity"),
        ("Endpoint=https://s.io;Authentication=Environment", "s.io:443", "Environment"),
        ("Endpoint=https://s.io;Authentication=AzurePowerShell", "s.io:443", "AzurePowerShell"),
        ("Endpoint=http://localhost:8080;Authentication=None", "localhost:8080", "None"),
        ("Endpoint=http://dts;Authentication=none", "dts:80", "None"),
        ("Endpoint=http://[::1]:8080;Authentication=None", "[::1]:8080", "None"),
    ],
)
def test_connection_strings_are_parsed_as_by_microsofts_clients(
    connection: str, target: str, authentication: str
) -> None:
    parsed = parse_connection_string(connection, CONNECTION_SETTING)
    assert (parsed.target, parsed.authentication) == (target, authentication)
    assert parsed.secure == ("http://" not in connection)


@pytest.mark.parametrize(
    ("connection", "text"),
    [
        ("", "Endpoint is missing"),
        ("do-not-leak", "a part without ="),
        ("Endpoint=https://do-not-leak.io", "Authentication is missing"),
        ("Endpoint=;Authentication=None;Key=do-not-leak", "Endpoint is missing"),
        ("Authentication=ManagedIdentity;AccountKey=do-not-leak", "Endpoint is missing"),
        ("Endpoint=https://s.io;Authentication=do-not-leak", "one of None, ManagedIdentity"),
        ("Endpoint=https://s.io;Authentication=InteractiveBrowser", "one of None, ManagedIdentity"),
        ("Endpoint=http://do-not-leak;Authentication=ManagedIdentity", "https only"),
        ("Endpoint=https://user:do-not-leak@s.io;Authentication=None", "without path"),
        ("Endpoint=https://s.io/do-not-leak;Authentication=None", "without path"),
        ("Endpoint=https://s.io?sig=do-not-leak;Authentication=None", "without path"),
        ("Endpoint=https://s.io:do-not-leak;Authentication=None", "without path"),
        ("Endpoint=ftp://do-not-leak;Authentication=None", "without path"),
        ("Endpoint=https://do not leak;Authentication=None", "without path"),
        ("Endpoint=https://[do-not-leak;Authentication=None", "without path"),
    ],
)
def test_an_invalid_connection_string_is_refused_without_showing_it(connection: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        SchedulerBackend(connection, CONNECTION_SETTING, storage_time=machine_time)
    message = str(caught.value)
    assert f"the setting {CONNECTION_SETTING} must be the connection string of a Durable Task Scheduler" in message
    assert text in message
    assert "leak" not in message


MANAGED_IDENTITY_CONNECTION = "Endpoint=https://127.0.0.1:9;ClientID=do-not-leak;Authentication="


@pytest.mark.parametrize("authentication", ["Environment", "WorkloadIdentity"])
async def test_a_missing_identity_is_distinguished_from_a_missing_role(
    authentication: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)
    async with open_backend(MANAGED_IDENTITY_CONNECTION + authentication) as backend:
        with pytest.raises(BackendError) as caught:
            await scan(backend)
    assert caught.value.failure is ReadFailure.DENIED
    assert f"gets no token for the scheduler of the setting {CONNECTION_SETTING}" in caught.value.message
    assert f"Authentication={authentication}?" in caught.value.message
    assert "do-not-leak" not in caught.value.message


async def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "durabletask.azuremanaged.internal.access_token_manager", None)
    async with open_backend(MANAGED_IDENTITY_CONNECTION + "ManagedIdentity") as backend:
        with pytest.raises(BackendError, match=r"install requirements-scheduler\.txt") as caught:
            await scan(backend)
    assert caught.value.failure is ReadFailure.FAILED
    assert CONNECTION_SETTING in caught.value.message


SCAN_SCRIPT = """
import asyncio, sys
from state_api.backends.scheduler import SchedulerBackend
imported = {"grpc", "durabletask", "azure.identity", "google.protobuf"} & set(sys.modules)

async def main():
    backend = SchedulerBackend(sys.argv[1], "SETTING", storage_time=lambda: 10**16)
    start = await backend.begin_scan("shop")
    pages = [await backend.read_page("shop", start.changed_since, start.cursors[0]) for _ in range(2)]
    print(imported, [observed.instance_id for page in pages for observed in page.instances])
    await backend.close()

asyncio.run(main())
"""


async def test_a_managed_identity_reads_over_tls(tmp_path: Path) -> None:
    """What the managed service needs and a test can have: a certificate, a token from the endpoint where App Service
    gives them, and that token in each call. The slow packages are not imported before the first call."""
    token_requests: list[dict[str, str]] = []

    async def give_token(request: web.Request) -> web.Response:
        """Answer as the identity endpoint of Azure does, and keep the request."""
        token_requests.append({**request.query, "secret": request.headers["X-IDENTITY-HEADER"]})
        return web.json_response(
            {"access_token": "a-token", "expires_on": "4000000000", "resource": request.query["resource"]}
        )

    key, certificate = create_self_signed_certificate("localhost")
    (tmp_path / "root.pem").write_bytes(certificate)
    managed_scheduler = FakeScheduler([build_orchestration_state("managed")])
    async with run_http_server(give_token) as (tokens_port,):
        with serve_grpc(managed_scheduler, grpc.ssl_server_credentials([(key, certificate)])) as port:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                SCAN_SCRIPT,
                f"Endpoint=https://localhost:{port};Authentication=ManagedIdentity;ClientID=client;TaskHub=ignored",
                cwd=Path(__file__).parents[2],
                env={
                    "PATH": os.environ["PATH"],
                    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(tmp_path / "root.pem"),
                    "IDENTITY_ENDPOINT": f"http://{HOST}:{tokens_port}/token",
                    "IDENTITY_HEADER": "header",
                },
                stdout=asyncio.subprocess.PIPE,
            )
            async with asyncio.timeout(30):
                printed, _ = await process.communicate()
    assert printed.decode().strip() == "set() ['managed', 'managed']"
    assert [(request["resource"], request["client_id"], request["secret"]) for request in token_requests] == [
        ("https://durabletask.io", "client", "header")
    ]
    calls = [(metadata["taskhub"], metadata["authorization"]) for metadata in managed_scheduler.metadata]
    assert calls == [("shop", "Bearer a-token")] * 2
