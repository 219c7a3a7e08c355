"""Small servers in the place of releases, and requests that are sent exactly as written."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from typing import Any

from safe_deploy.client import Json


@dataclass(frozen=True, slots=True)
class Reply:
    """A response, and what the release that sent it has received. `release` is None if the router responded."""

    status: int
    release: str | None
    set_cookies: tuple[str, ...]
    received: Json


@contextmanager
def run_release(version: str, tls: SSLContext | None = None) -> Iterator[str]:
    """Run a server in the place of a release, with TLS if given. Yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """Answer with the release's version and the request as it arrived."""
            length = int(self.headers.get("Content-Length", "0"))
            self.rfile.read(length)
            headers = {name.lower(): ", ".join(self.headers.get_all(name, [])) for name in self.headers}
            body = json.dumps({"release": version, "target": self.path, "headers": headers}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_DELETE = do_OPTIONS = do_GET  # noqa: N815  # the names that the base class calls

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the base class's name
            """Write no access log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"https://localhost:{server.server_port}" if tls else f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def run_releases(versions: Sequence[str]) -> Iterator[dict[str, str]]:
    """Run a server for each version. Yields their addresses."""
    with ExitStack() as stack:
        yield {version: stack.enter_context(run_release(version)) for version in versions}


def with_addresses(document: Json, addresses: dict[str, str]) -> Json:
    """The document with the addresses of these servers."""
    releases = {version: release | {"address": addresses[version]} for version, release in document["releases"].items()}
    return document | {"releases": releases}


def send(port: int, target: str, headers: Sequence[tuple[str, str]] = (), *, method: str = "GET") -> Reply:
    """Send a request to a router on this machine."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in [("Host", "shop.example"), ("Content-Length", "0"), *headers]:
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read()
        cookies = tuple(response.headers.get_all("Set-Cookie", []))
    finally:
        connection.close()
    received = json.loads(body) if response.status == 200 else {}
    return Reply(response.status, received.get("release"), cookies, received)
