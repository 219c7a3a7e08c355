"""The first request of a command: a wrong address ends it within seconds, and a server that may restart is waited for.

Sockets are real. The clock is not: sleeping advances it.
"""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from safe_deploy import connection
from safe_deploy.client import RETRY_SECONDS, PipelineCaller, StateServerClient
from safe_deploy.errors import CommandError, ExitCode, ServerNotFound, ServerUnavailable
from tests.certificates import create_self_signed_certificate
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.connection_proxy import run_connection_proxy
from tests.safe_deploy.fault_proxy import CannedResponse, FaultProxy, run_fault_proxy
from tests.safe_deploy.processes import KEYS

WITHIN_SECONDS = 5


@dataclass
class Clock:
    """A clock that sleeping advances."""

    now: float = 0
    sleeps: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Advance."""
        self.now += seconds
        self.sleeps.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the connection."""
    clock = Clock()
    monkeypatch.setattr(connection, "time", clock)
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    return clock


@dataclass
class Attempt:
    """A first request that failed."""

    error: CommandError
    reported: list[str]


def read_app(url: str, *, retry_seconds: float | None = None) -> Attempt:
    """Send the first request of a command to this URL. It must fail."""
    reported: list[str] = []
    with (
        StateServerClient(url, "shop", key=None, caller=PipelineCaller(), report=reported.append) as server,
        pytest.raises(CommandError) as caught,
    ):
        server.get_app(retry_seconds=retry_seconds)
    return Attempt(caught.value, reported)


def closed_port() -> int:
    """A port of loopback at which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def tls_server(folder: Path, host: str) -> Iterator[int]:
    """A TLS server whose certificate is its own authority. Its port."""
    key, certificate = create_self_signed_certificate(host)
    (folder / "server.pem").write_bytes(key + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    with serve_sockets(lambda client: context.wrap_socket(client, server_side=True)) as port:
        yield port


@contextmanager
def serve_sockets(handle: object) -> Iterator[int]:
    """Accept connections on a port of loopback, and close each after `handle`."""
    assert callable(handle)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            """Handle connections until the listener is closed."""
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                try:
                    handle(client).close()
                except OSError:
                    client.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join()


@pytest.mark.parametrize("retry_seconds", [None, 0], ids=["a command", "a command that waits"])
def test_a_closed_port_of_this_machine_is_a_wrong_address(clock: Clock, retry_seconds: float | None) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    attempt = read_app(url, retry_seconds=retry_seconds)
    assert isinstance(attempt.error, ServerNotFound)
    assert attempt.error.message == (
        f"no server listens at {url} on this machine. Start it, or set --server to the address of the server"
    )
    assert (attempt.reported, clock.now < WITHIN_SECONDS, len(clock.sleeps)) == ([], True, 2)


def test_an_unknown_name_is_a_wrong_address(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*arguments: object, **options: object) -> object:
        """Answer as a resolver that does not know the name."""
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    attempt = read_app("https://shop-stat.azurewebsites.net")
    assert isinstance(attempt.error, ServerNotFound)
    assert attempt.error.message == (
        "the name shop-stat.azurewebsites.net in --server cannot be resolved: Name or service not known. Check its "
        "spelling. A server with a private endpoint is known only in networks that use its private DNS zone"
    )
    assert (attempt.reported, clock.now < WITHIN_SECONDS) == ([], True)


def test_a_resolver_that_does_not_answer_is_asked_again(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short failure of DNS must not end a pipeline at its first request."""

    def resolve(*arguments: object, **options: object) -> object:
        """Answer as a resolver that cannot reach the name servers."""
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    attempt = read_app("https://shop-state.azurewebsites.net")
    assert isinstance(attempt.error, ServerUnavailable)
    assert "Temporary failure in name resolution. Check --server" in attempt.reported[0]
    assert clock.now > RETRY_SECONDS / 2


def test_an_untrusted_certificate_is_a_wrong_address(clock: Clock, tmp_path: Path) -> None:
    with tls_server(tmp_path, "localhost") as port:
        attempt = read_app(f"https://localhost:{port}")
    assert isinstance(attempt.error, ServerNotFound)
    assert f"the certificate of https://localhost:{port} is not trusted: self-signed certificate" in (
        attempt.error.message
    )
    assert "SSL_CERT_FILE" in attempt.error.message
    assert clock.now < WITHIN_SECONDS


def test_https_to_a_port_without_tls_is_a_wrong_address(clock: Clock) -> None:
    with run_fault_proxy() as proxy:
        attempt = read_app(proxy.url.replace("http:", "https:"))
    assert isinstance(attempt.error, ServerNotFound)
    assert "does not answer over TLS" in attempt.error.message
    assert "Check scheme and port of --server" in attempt.error.message
    assert clock.now < WITHIN_SECONDS


def test_a_refused_connection_elsewhere_may_be_a_restart(clock: Clock) -> None:
    """It is said at once what is waited for, and for how long, and once only."""
    url = f"http://0.0.0.0:{closed_port()}"
    attempt = read_app(url)
    assert isinstance(attempt.error, ServerUnavailable)
    message = (
        f"the server {url} cannot be reached: Connection refused. Check --server, and whether this machine may connect "
        "to it"
    )
    assert attempt.error.message == message
    assert attempt.reported == [f"{message}; trying again for up to 2m"]
    assert RETRY_SECONDS / 2 < clock.now < RETRY_SECONDS


def test_a_connection_that_breaks_in_the_tls_handshake_may_be_a_restart(clock: Clock) -> None:
    with serve_sockets(lambda client: client) as port:
        attempt = read_app(f"https://127.0.0.1:{port}")
    assert isinstance(attempt.error, ServerUnavailable)
    assert clock.now > WITHIN_SECONDS


def test_a_start_from_zero_instances_is_waited_for(clock: Clock, proxy: FaultProxy, app_client: AppClient) -> None:
    app_client.register()
    proxy.fault = lambda number: CannedResponse(503, b"<html>Starting</html>") if number < 4 else None
    reported: list[str] = []
    with StateServerClient(
        proxy.url, app_client.app, key=KEYS["reader"], caller=PipelineCaller(), report=reported.append
    ) as server:
        assert server.get_app()[0]["app"] == app_client.app
    assert reported == ["the server answered with status 503; trying again for up to 2m"]
    assert clock.sleeps == [1, 2, 4, 8]


def test_a_restart_after_the_first_response_is_waited_for_on_this_machine_too(
    clock: Clock, app_client: AppClient
) -> None:
    """The port refuses connections while the server restarts."""
    app_client.register()
    reported: list[str] = []
    # This proxy keeps no connection open.
    with run_connection_proxy(app_client.url) as proxy:
        server = StateServerClient(
            proxy.url, app_client.app, key=KEYS["reader"], caller=PipelineCaller(), report=reported.append
        )
        server.get_app()
    with server, pytest.raises(ServerUnavailable, match="Connection refused"):
        server.get_app()
    assert reported == [f"the server {proxy.url} cannot be reached: Connection refused; trying again for up to 2m"]
    assert clock.now > RETRY_SECONDS / 2


def test_a_late_first_response_is_announced(monkeypatch: pytest.MonkeyPatch, app_client: AppClient) -> None:
    """Nothing is said about a request that asks the server to wait."""
    app_client.register()
    monkeypatch.setattr(connection, "_SLOW_RESPONSE_SECONDS", 0)
    announced = threading.Event()
    reported: list[str] = []

    def report(line: str) -> None:
        """Let the response through."""
        reported.append(line)
        announced.set()

    with run_fault_proxy(app_client.url) as proxy:

        def delay(number: int) -> None:
            """Forward the request once the command has said that it waits."""
            assert announced.wait(60)

        proxy.fault = delay
        with StateServerClient(
            proxy.url, app_client.app, key=KEYS["reader"], caller=PipelineCaller(), report=report
        ) as server:
            server.get_app()
            server.get_app()
    assert reported == [
        f"no response from {proxy.url} yet. A server that starts from zero instances takes up to a minute"
    ]


@pytest.mark.parametrize("arguments", [["status"], ["status", "--wait"], ["history"], ["doctor"]], ids=" ".join)
def test_every_command_ends_at_a_wrong_address(clock: Clock, app_client: AppClient, arguments: list[str]) -> None:
    url = f"http://localhost:{closed_port()}"
    result = app_client.run_cli(*arguments, SAFE_DEPLOY_SERVER=url)
    assert (result.code, clock.now < WITHIN_SECONDS) == (ExitCode.FAILURE, True)
    # The result of `doctor` has the message in a table, whose lines are wrapped nowhere but in a terminal.
    assert (result.stdout + result.stderr).count(f"no server listens at {url} on this machine") == 1
    assert "trying again" not in result.stderr


def test_a_wrong_key_ends_a_wait_at_once(clock: Clock, app_client: AppClient) -> None:
    app_client.register()
    result = app_client.run_cli("status", "--wait", SAFE_DEPLOY_KEY="a-key-of-another-server")
    assert (result.code, clock.sleeps) == (ExitCode.NOT_ALLOWED, [])
    assert "SAFE_DEPLOY_KEY" in result.stderr


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_an_error_behind_a_proxy_may_be_one_of_the_proxy(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://proxy.invalid:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    attempt = read_app("http://shop-state.invalid", retry_seconds=1)
    assert isinstance(attempt.error, ServerUnavailable)
    assert "whether this machine may connect to it" in attempt.error.message
