"""The engine of one task hub as a process: `python -m durable_app.local.engine`.

It outlives the slots that use it, as a storage account does. Its memory is lost when it ends."""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from azure.core.exceptions import AzureError

from .lifecycle_events import NotificationSettings, Publisher
from .task_hub_engine import TaskHubEngine
from .task_hub_storage import DEVELOPMENT_STORAGE, TaskHubStorageWriter

HOST_JSON_FILE = Path(__file__).parent.parent / "host.json"


def build_parser() -> argparse.ArgumentParser:
    """The command line of the engine."""
    parser = argparse.ArgumentParser(
        prog="python -m durable_app.local.engine",
        description="Keep one task hub, publish its lifecycle events, write its rows. For development only.",
    )
    parser.add_argument("--task-hub", required=True, help="its name")
    parser.add_argument("--port", type=int, required=True, help="where slots reach it, on loopback")
    parser.add_argument(
        "--storage",
        default=os.environ.get("AzureWebJobsStorage", DEVELOPMENT_STORAGE),  # noqa: SIM112
        help="connection string of the storage account (default: AzureWebJobsStorage, else the emulator)",
    )
    parser.add_argument(
        "--topic-endpoint",
        help="where to publish lifecycle events (default: the setting that host.json names); "
        "the key is in the setting that host.json names, LIFECYCLE_TOPIC_KEY",
    )
    parser.add_argument(
        "--publish-retry-seconds", type=float, help="the time between two tries to publish (default: as in host.json)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Keep one task hub until SIGINT or SIGTERM. Returns the exit code."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        host = json.loads(HOST_JSON_FILE.read_text())
        notifications = NotificationSettings.from_host_json(
            host, os.environ, options.topic_endpoint, options.publish_retry_seconds
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    # Block the signals before any thread starts, so that all threads inherit the mask and sigwait() receives them.
    stop_signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
    storage = TaskHubStorageWriter(options.storage, options.task_hub)
    hub = TaskHubEngine(options.task_hub, options.port, Publisher(options.task_hub, notifications), storage)
    try:
        storage.create()
        hub.start()
    except AzureError as error:
        print(f"error: the storage account cannot be used: {error.message.splitlines()[0]}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        print(f"error: the engine cannot listen on port {options.port}: {error}", file=sys.stderr)
        return 1
    print(f"engine: task hub {options.task_hub} at 127.0.0.1:{options.port}", flush=True)
    signal.sigwait(stop_signals)
    hub.stop(grace=1)
    storage.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
