"""The server keeps recording events while callers hold connections, send incomplete requests, or flood it."""

import re
import resource
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from harness.state_server import ServerProcess, run_server
from state_api.http.middleware import MAX_EVENTS_BODY_BYTES
from state_api.serving import connections
from state_api.serving.connections import HEAD_TIMEOUT_SECONDS
from state_api.serving.log_limit import MAX_MESSAGES_PER_WINDOW, WINDOW_SECONDS
from state_api.settings import StorageSettings
from tests.builders import event
from tests.conftest import new_hub_name
from tests.keys import key_entry
from tests.server.raw_connections import connect, open_raw_connections, partial_delivery, read_until_closed

OPEN_FILE_LIMIT = 700
"""The limit on open files of a server. The tests open more connections, so the server needs a limit on connections."""
SERVER_WITH_FEW_FILES = (
    "-c",
    f"""
import resource, sys, state_api.__main__ as main
resource.setrlimit(resource.RLIMIT_NOFILE, ({OPEN_FILE_LIMIT}, {OPEN_FILE_LIMIT}))
sys.exit(main.main())""",
)
IDLE_CONNECTION_COUNT = 2000
MAX_CONNECTIONS = 20
SERVER_WITH_FEW_CONNECTIONS = (
    "-c",
    f"""
import sys, state_api.__main__ as main
main.raise_open_file_limit = lambda: {MAX_CONNECTIONS}
sys.exit(main.main())""",
)
SERVER_WITH_WEB_SOCKETS = (
    "-c",
    """
import sys, uvicorn.protocols.websockets.auto as installed, state_api.__main__ as main
installed.AutoWebSocketsProtocol = object
sys.exit(main.main())""",
)
"""Starts a server in which uvicorn finds a WebSocket package."""
GET_HEALTH = b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
HANDSHAKE_TIMEOUT_SECONDS = 5
"""The time limit of a TCP handshake on this machine."""
KEY = "a-key-of-an-administrator-0123456789"


@pytest.fixture
def raised_file_limit() -> Iterator[None]:
    """Raises the limit on open files of this process, so that a test can open IDLE_CONNECTION_COUNT connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, IDLE_CONNECTION_COUNT + 500)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_callers_of_a_busy_server_wait_and_get_responses(storage: StorageSettings, tmp_path: Path) -> None:
    """While the server is paused, more callers than it accepts at once connect and send a request.

    The operating system would reset connections if the backlog overflowed for seconds.
    """
    with run_server(storage, tmp_path) as server, ExitStack() as stack:
        # The server sets its backlog just after it has begun to listen. After a response it has done so.
        with connect(server, GET_HEALTH) as first_caller:
            assert read_until_closed(first_caller)
        server.process.send_signal(signal.SIGSTOP)
        try:
            callers = [
                stack.enter_context(connect(server, GET_HEALTH, timeout_seconds=HANDSHAKE_TIMEOUT_SECONDS))
                for _ in range(3 * connections.ACCEPT_BATCH)
            ]
        finally:
            server.process.send_signal(signal.SIGCONT)
        for caller in callers:
            caller.settimeout(60)
        assert {read_until_closed(caller).partition(b"\r\n")[0] for caller in callers} == {b"HTTP/1.1 200 OK"}


def test_a_connection_is_closed_if_its_request_head_is_not_complete_in_time(
    storage: StorageSettings, tmp_path: Path
) -> None:
    with run_server(storage, tmp_path) as server:
        silent, slow = connect(server), connect(server, b"GET /api/health HTTP/1.1\r\n")
        reused = connect(server, b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        began_at = time.monotonic()
        # The reused connection gets a response, and then sends another head byte by byte.
        assert b"200" in reused.recv(65_536)
        seconds_open = {silent: 0.0, slow: 0.0, reused: 0.0}
        stop_sending = threading.Event()

        def send_bytes_slowly() -> None:
            """Send one byte at a time to both connections, as a slow or hostile client does."""
            while not stop_sending.wait(0.5):
                for connection in (slow, reused):
                    send_unless_closed(connection, b"X")

        sender = threading.Thread(target=send_bytes_slowly)
        sender.start()
        try:
            for connection in seconds_open:
                with connection:
                    read_until_closed(connection)
                seconds_open[connection] = time.monotonic() - began_at
        finally:
            stop_sending.set()
            sender.join()
        shortest, longest = HEAD_TIMEOUT_SECONDS - 1, HEAD_TIMEOUT_SECONDS + 5
        assert all(shortest < duration < longest for duration in seconds_open.values()), seconds_open
        with server.client() as http:
            assert http.get("/api/health").status_code == 200
        assert "its request head is not complete after 10 s" in server.read_log()


def test_two_incomplete_bodies_do_not_prevent_other_deliveries(storage: StorageSettings, tmp_path: Path) -> None:
    """Each body lacks its last byte. Together they are as large as the whole capacity of the server."""
    hub = new_hub_name()
    with (
        run_server(storage, tmp_path) as server,
        server.client() as http,
        open_raw_connections(server, b"", 2) as incomplete,
    ):
        body = partial_delivery(content_length=MAX_EVENTS_BODY_BYTES, sent_length=MAX_EVENTS_BODY_BYTES - 1)
        senders = [threading.Thread(target=send_unless_closed, args=(connection, body)) for connection in incomplete]
        for sender in senders:
            sender.start()
        # The server responds to other callers while it reads the bodies.
        for _ in range(300):
            assert http.get("/api/health").status_code == 200
        for number in range(20):
            response = http.post("/api/events", json=[event(hub, f"order-{number}")])
            assert (response.status_code, response.json()) == (200, {"recorded": 1, "unchanged": 0, "quarantined": 0})
        refused = [read_until_closed(connection) for connection in incomplete]
        assert all(b" 408 " in response or b" 429 " in response for response in refused), refused
        for sender in senders:
            sender.join()


@pytest.mark.parametrize("request_line", ["GET /api/health", "POST /api/openapi.json"])
def test_bodies_of_callers_without_a_key_do_not_prevent_deliveries(
    request_line: str, storage: StorageSettings, tmp_path: Path
) -> None:
    """The callers occupy all connections of the server, and replace each connection that the server closes."""
    hub = new_hub_name()
    head = f"{request_line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n".encode()
    with run_server(storage, tmp_path, [key_entry(KEY, "admin")], command=SERVER_WITH_FEW_CONNECTIONS) as server:
        stop_sending = threading.Event()
        with open_raw_connections(server, head, MAX_CONNECTIONS) as attackers:
            responses = [attacker.recv(65_536) for attacker in attackers]
            assert not any(b" 408 " in response for response in responses), "a response waited for the body"
            sender = threading.Thread(target=send_bodies_slowly, args=(server, head, attackers, stop_sending))
            sender.start()
            try:
                for number in range(20):
                    with server.client() as http:
                        headers = {"x-functions-key": KEY}
                        response = http.post("/api/events", json=[event(hub, f"order-{number}")], headers=headers)
                        assert response.status_code == 200
                    stop_sending.wait(0.2)
            finally:
                stop_sending.set()
                sender.join()


def send_bodies_slowly(
    server: ServerProcess, head: bytes, attackers: list[socket.socket], stop_sending: threading.Event
) -> None:
    """Send one byte of each body every second, and replace connections that the server has closed."""
    with ExitStack() as stack:
        while not stop_sending.wait(1):
            for number, attacker in enumerate(attackers):
                try:
                    attacker.sendall(b" ")
                except OSError:
                    attackers[number] = stack.enter_context(connect(server, head))


def send_unless_closed(connection: socket.socket, data: bytes) -> None:
    """Send the bytes, or do nothing if the server has closed the connection."""
    with suppress(OSError):
        connection.sendall(data)


def test_no_connection_becomes_a_web_socket(storage: StorageSettings, tmp_path: Path) -> None:
    """The server refuses the upgrade even where a WebSocket package is installed, which would apply no limits."""
    upgrade = b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    with (
        run_server(storage, tmp_path, command=SERVER_WITH_WEB_SOCKETS) as server,
        connect(server, upgrade) as connection,
    ):
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


@pytest.mark.usefixtures("raised_file_limit")
def test_idle_connections_do_not_block_other_callers(storage: StorageSettings, tmp_path: Path) -> None:
    """The connections outnumber the files that the server may open. They do not fill the log either."""
    max_log_characters = 50_000
    with run_server(storage, tmp_path, command=SERVER_WITH_FEW_FILES) as server, server.client() as http:
        with open_raw_connections(server, b"", IDLE_CONNECTION_COUNT):
            for number in range(5):
                response = http.post("/api/events", json=[event(new_hub_name(), f"order-{number}")])
                assert response.status_code == 200
            with connect(server, GET_HEALTH) as new_connection:
                assert read_until_closed(new_connection).startswith(b"HTTP/1.1 200")
        assert server.stop() == 0
        assert len(server.read_log()) < max_log_characters


@pytest.mark.parametrize(
    ("flooding_request", "log_line"),
    [
        (b"this is no request\r\n\r\n", "Invalid HTTP request received."),
        (
            b"POST /api/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n\r\n",
            "Invalid HTTP request received.",
        ),
        (b"GET /api/nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "GET /api/nothing 404"),
        (
            b"GET /api/nothing HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "Unsupported upgrade request.",
        ),
    ],
)
def test_a_flood_of_requests_does_not_fill_the_log(
    flooding_request: bytes, log_line: str, own_storage: StorageSettings, tmp_path: Path
) -> None:
    """On a slow machine the flood lasts longer than one window of the limit, and each window shows its messages.

    The limit leaves room for a traceback that has nothing to do with the flood. Without limits, the log of the requests
    with three messages each has 170,000 characters.
    """
    max_log_characters_per_window = 60_000
    request_count = MAX_MESSAGES_PER_WINDOW + 400
    began_at = time.monotonic()
    with run_server(own_storage, tmp_path) as server:
        for _ in range(request_count):
            with connect(server, flooding_request) as connection:
                connection.recv(65_536)
        assert server.stop() == 0
        log = server.read_log()
    max_window_count = 1 + int((time.monotonic() - began_at) / WINDOW_SECONDS)
    kinds = Counter(line[24:80] for line in log.splitlines())
    assert len(log) < max_log_characters_per_window * max_window_count, kinds.most_common(9)
    summaries = re.findall(rf"(\d+) more messages of \S+ in \d+ s are not shown, such as: {log_line}", log)
    shown_count = log.count(log_line) - len(summaries)
    assert shown_count <= MAX_MESSAGES_PER_WINDOW * max_window_count
    assert shown_count + sum(int(dropped_count) for dropped_count in summaries) == request_count


def test_quarantined_events_do_not_fill_the_log(own_storage: StorageSettings, tmp_path: Path) -> None:
    dropped_count = 20
    with run_server(own_storage, tmp_path) as server, server.client() as http:
        for number in range(MAX_MESSAGES_PER_WINDOW + dropped_count):
            assert http.post("/api/events", json=[{"odd": number}]).json()["quarantined"] == 1
        assert server.stop() == 0
        assert f"{dropped_count} more messages of state_api.services.recording" in server.read_log()
        assert f"{dropped_count} more messages of state_api.requests" in server.read_log()
