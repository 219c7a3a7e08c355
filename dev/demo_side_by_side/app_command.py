"""Replaces `az functionapp` in the demo: creates the Function App of a release, or deletes it.

Usage: `python -m dev.demo_side_by_side.app_command create CODE [--setting NAME=VALUE]`, or `delete`.
`safe-deploy` passes address and task hub in the environment."""

import argparse
import os
import sys
from typing import Any

from dev.demo.control_client import ADDRESS_VARIABLE, TASK_HUB_VARIABLE, send_command


def build_parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m dev.demo_side_by_side.app_command", description="Create or delete a release's Function App."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="create the Function App and deploy code to it")
    create.add_argument("code", help="v1 or v2")
    create.add_argument(
        "--setting", action="append", default=[], metavar="NAME=VALUE", help="an app setting; may be repeated"
    )
    commands.add_parser("delete", help="delete the Function App")
    return parser


def main() -> int:
    """Have the demo create or delete the Function App. Returns the exit code."""
    options = build_parser().parse_args()
    body: dict[str, Any] = {"address": os.environ[ADDRESS_VARIABLE], "taskHub": os.environ[TASK_HUB_VARIABLE]}
    if options.command == "create":
        body["code"] = options.code
        body["settings"] = dict(setting.split("=", 1) for setting in options.setting)
    return send_command(options.command, body)


if __name__ == "__main__":
    sys.exit(main())
