"""`python -m state_api serve`: the same server outside Azure Functions."""

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
from state_api.http.middleware import LoopbackOnlyMiddleware
from state_api.serving.connections import (
    ACCEPT_BATCH,
    ConnectionLimits,
    protocol_factory,
    raise_open_file_limit,
    set_backlog,
)
from state_api.serving.log_limit import LogRateLimit
from state_api.settings import (
    EMULATOR_BLOB_PORT,
    EMULATOR_QUEUE_PORT,
    EMULATOR_TABLE_PORT,
    STATE_KEYS,
    Settings,
    SettingsError,
    read_settings,
    refuse_published_keys,
)

HOST = "127.0.0.1"
PORT = 7071
_EMULATOR_FOLDER = Path(".azurite")
# Longer than the storage client takes to give up, so that whatever is being written is also answered.
_SHUTDOWN_TIMEOUT_SECONDS = 60

USAGE_ERROR = 2


class _Server(uvicorn.Server):
    """Ends long polls at once when it is told to stop; all other requests in flight finish."""

    def __init__(
        self, config: uvicorn.Config, state: StateServer, stopping: Sequence[signal.Signals], log_limit: LogRateLimit
    ) -> None:
        super().__init__(config)
        self._state = state
        self._stopping = stopping
        self._log_limit = log_limit

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            set_backlog(server.sockets)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn calls this ten times a second."""
        self._log_limit.report()
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's own, does not raise the signal again afterwards: what was started with the server would
        never be stopped."""
        before = {one: signal.signal(one, self.handle_exit) for one in self._stopping}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._state.stopping.set()
        super().handle_exit(sig, frame)


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP. 0 after a clean end, 2 if a setting or argument is wrong, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m state_api", description="The task hub state server.")
    serve = parser.add_subparsers(dest="command", required=True).add_parser("serve", help="serve the HTTP API")
    serve.add_argument("--host", default=HOST, help="the address to listen on (%(default)s)")
    serve.add_argument("--port", type=int, default=PORT, help="the port to listen on (%(default)s)")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("azure").setLevel(logging.WARNING)
    log_limit = LogRateLimit()
    for handler in logging.getLogger().handlers:
        handler.addFilter(log_limit)
    try:
        settings = read_settings(os.environ)
        check_exposure(given.host, settings)
        state = StateServer(settings)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    stopping = _stop_signals()
    for one in stopping:
        # Until the server itself listens to signals: end by an exception, so that the emulator is stopped too.
        signal.signal(one, lambda number, frame: sys.exit(0))
    with ExitStack() as stack:
        if settings.storage.development and not is_listening(HOST, EMULATOR_TABLE_PORT):
            ports = EmulatorPorts(EMULATOR_TABLE_PORT, EMULATOR_QUEUE_PORT, EMULATOR_BLOB_PORT)
            try:
                stack.enter_context(storage_emulator(ports, _EMULATOR_FOLDER))
            except EmulatorError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
        config = uvicorn.Config(
            # Without keys only this machine may ask, and no page in a browser may ask in its name.
            state.application if settings.keys else LoopbackOnlyMiddleware(state.application),
            host=given.host,
            port=given.port,
            # The server writes its own log of requests: uvicorn's shows queries, and a query can hold a key.
            access_log=False,
            log_config=None,
            server_header=False,
            http=protocol_factory(ConnectionLimits(max_connections=raise_open_file_limit())),
            # Where a package for web sockets is installed, uvicorn would hand connections to it, out of these limits.
            ws="none",
            backlog=ACCEPT_BATCH,
            timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT_SECONDS,
        )
        try:
            _Server(config, state, stopping, log_limit).run()
        except SystemExit as end:
            # uvicorn ends the process itself when it cannot listen; it has logged why.
            return 1 if end.code else 0
        finally:
            log_limit.report(at_end=True)
        return 0


def _stop_signals() -> list[signal.Signals]:
    """The signals that end the server. Not the hang-up that whoever started it with nohup has switched off."""
    signals = [signal.SIGINT, signal.SIGTERM]
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN:
        signals.append(hang_up)
    return signals


def check_exposure(host: str, settings: Settings) -> None:
    """Raises SettingsError when the server would answer others without keys, or to a key that everybody knows."""
    if not settings.keys and not is_loopback(host):
        raise SettingsError(f"listening on {host} lets others in: set {STATE_KEYS}, or listen on {HOST}")
    if not is_loopback(host):
        refuse_published_keys(settings.keys, f"this server listens on {host}")


if __name__ == "__main__":
    sys.exit(main())
