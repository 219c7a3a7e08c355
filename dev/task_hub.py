"""Writes a task hub as a durable app does, to try out the server without an app.

Creates the task hub as an app does when it starts. Writes the row of an instance as the Durable Functions extension
does."""

import argparse
import os
from datetime import UTC, datetime

from durable_app.local.task_hub_storage import DEVELOPMENT_STORAGE, InstanceRow, TaskHubStorageWriter


def main() -> None:
    """Write to the storage account of STATE_STORAGE, by default the storage emulator."""
    parser = argparse.ArgumentParser(prog="python -m dev.task_hub", description=__doc__)
    parser.add_argument("task_hub", help="the task hub's name")
    parser.add_argument("instance_id", nargs="?", help="the instance whose row is written")
    parser.add_argument("status", nargs="?", default="Running", help="its runtime status (default: Running)")
    parser.add_argument("--version", help="its orchestration version")
    options = parser.parse_args()
    writer = TaskHubStorageWriter(os.environ.get("STATE_STORAGE") or DEVELOPMENT_STORAGE, options.task_hub)
    writer.create()
    if options.instance_id:
        now = datetime.now(UTC)
        row = InstanceRow(options.instance_id, "1", "ProcessOrder", options.status, now, now, version=options.version)
        writer.upsert(row)
    writer.close()


if __name__ == "__main__":
    main()
