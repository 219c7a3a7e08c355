"""`python -m state_api serve`: hosts the server outside Azure Functions."""

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from state_api.addresses import is_loopback
from state_api.app import StateServer
from state_api.emulator import EmulatorError, EmulatorPorts, is_listening, storage_emulator
from state_api.garbage_collection import configure_garbage_collection
from state_api.http.middleware import LoopbackOnlyMiddleware
from state_api.serving.connections import (
    ACCEPT_BATCH,
    ConnectionLimits,
    protocol_factory,
    raise_open_file_limit,
    set_backlog,
)
from state_api.serving.first_steps import describe_first_steps
from state_api.serving.log_limit import LogRateLimit
from state_api.settings import (
    EMULATOR_BLOB_PORT,
    EMULATOR_QUEUE_PORT,
    EMULATOR_TABLE_PORT,
    STATE_KEYS,
    AccessKey,
    Settings,
    SettingsError,
    read_settings,
    reject_published_keys,
)

HOST = "127.0.0.1"
PORT = 7071
_EMULATOR_FOLDER = Path(".azurite")
_SHUTDOWN_TIMEOUT_SECONDS = 60
"""Longer than the storage client retries, so that a request that writes when the server stops still gets its
response."""

SERVE_ERROR = 1
USAGE_ERROR = 2


class _Server(uvicorn.Server):
    """uvicorn, with long polls that end when the server stops, its own backlog, and a limited log. Other requests in
    progress finish."""

    def __init__(
        self,
        config: uvicorn.Config,
        state: StateServer,
        keys: Sequence[AccessKey],
        stop_signals: Sequence[signal.Signals],
        log_limit: LogRateLimit,
    ) -> None:
        super().__init__(config)
        self._state = state
        self._keys = keys
        self._stop_signals = stop_signals
        self._log_limit = log_limit

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen as uvicorn does, with this server's own backlog. Then say what to do next."""
        await super().startup(sockets)
        for server in self.servers:
            set_backlog(server.sockets)
        print(describe_first_steps(self.config.host, self.config.port, self._keys), flush=True)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn calls this ten times a second."""
        self._log_limit.report()
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the stop signals until the block ends. uvicorn's own version raises the signal again afterwards, which
        would end the process before the emulator is stopped."""
        previous_handlers = {number: signal.signal(number, self.handle_exit) for number in self._stop_signals}
        try:
            yield
        finally:
            for number, handler in previous_handlers.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the requests that wait, then shut down as uvicorn does."""
        self._state.stopping.set()
        super().handle_exit(sig, frame)


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP. Returns the exit code: 0 after a normal end, 2 if a setting or an argument
    is wrong, 1 if the server cannot serve."""
    options = _parse_arguments(arguments)
    log_limit = _configure_logging()
    try:
        settings = read_settings(os.environ)
        check_exposure(options.host, settings)
        state = StateServer(settings)
        configure_garbage_collection()
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    stop_signals = _stop_signals()
    for number in stop_signals:
        # Until the server handles signals itself, a signal raises SystemExit, so that the emulator is stopped too.
        signal.signal(number, lambda number, frame: sys.exit(0))
    with ExitStack() as stack:
        if settings.storage.uses_development_storage and not is_listening(HOST, EMULATOR_TABLE_PORT):
            ports = EmulatorPorts(EMULATOR_TABLE_PORT, EMULATOR_QUEUE_PORT, EMULATOR_BLOB_PORT)
            try:
                stack.enter_context(storage_emulator(ports, _EMULATOR_FOLDER))
            except EmulatorError as error:
                print(f"error: {error}", file=sys.stderr)
                return SERVE_ERROR
        try:
            _Server(_uvicorn_config(state, settings, options), state, settings.keys, stop_signals, log_limit).run()
        except SystemExit as end:
            # uvicorn raises SystemExit when it cannot listen, after logging the reason.
            return SERVE_ERROR if end.code else 0
        finally:
            log_limit.report(at_end=True)
        return 0


def _parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m state_api", description="The task hub state server.")
    serve = parser.add_subparsers(dest="command", required=True).add_parser("serve", help="serve the HTTP API")
    serve.add_argument("--host", default=HOST, help="the address to listen on (%(default)s)")
    serve.add_argument("--port", type=int, default=PORT, help="the port to listen on (%(default)s)")
    return parser.parse_args(arguments)


def _configure_logging() -> LogRateLimit:
    """Log to stderr from INFO on, with a limit for each kind of message."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("azure").setLevel(logging.WARNING)
    log_limit = LogRateLimit()
    for handler in logging.getLogger().handlers:
        handler.addFilter(log_limit)
    return log_limit


def _uvicorn_config(state: StateServer, settings: Settings, options: argparse.Namespace) -> uvicorn.Config:
    """The configuration of uvicorn."""
    return uvicorn.Config(
        # A server without keys answers this machine only, and no web page in a browser of this machine.
        state.application if settings.keys else LoopbackOnlyMiddleware(state.application),
        host=options.host,
        port=options.port,
        # RequestMiddleware logs requests. uvicorn's access log shows queries, and a query can contain a key.
        access_log=False,
        log_config=None,
        server_header=False,
        http=protocol_factory(ConnectionLimits(max_connections=raise_open_file_limit())),
        # With a WebSocket package installed, uvicorn would pass connections to it, outside these limits.
        ws="none",
        backlog=ACCEPT_BATCH,
        timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT_SECONDS,
    )


def _stop_signals() -> list[signal.Signals]:
    """The signals that stop the server. SIGHUP is not one of them if it is ignored, as under nohup."""
    signals = [signal.SIGINT, signal.SIGTERM]
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN:
        signals.append(hang_up)
    return signals


def check_exposure(host: str, settings: Settings) -> None:
    """Raises SettingsError if other machines could use the server on `host` without a key, or with a published one."""
    if is_loopback(host):
        return
    if not settings.keys:
        raise SettingsError(
            f"listening on {host} lets other machines use the server without a key: set {STATE_KEYS}, or listen on "
            f"{HOST}"
        )
    reject_published_keys(settings.keys, f"this server listens on {host}")


if __name__ == "__main__":
    sys.exit(main())
