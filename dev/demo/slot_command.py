"""Replaces `az functionapp` in the demo: deploys to a slot of the demo's Function App, or swaps its slots.

Usage: `python -m dev.demo.slot_command deploy SLOT CODE`, `python -m dev.demo.slot_command swap`."""

import argparse
import os
import sys

from dev.demo.control_client import TASK_HUB_VARIABLE, send_command


def build_parser() -> argparse.ArgumentParser:
    """The command line that stands for `az` in the demo's pipelines."""
    parser = argparse.ArgumentParser(
        prog="python -m dev.demo.slot_command", description="Deploy into a slot, or swap the slots."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    deploy = commands.add_parser("deploy", help="put code into a slot")
    deploy.add_argument("slot", help="production or staging")
    deploy.add_argument("code", help="v1 or v2")
    deploy.add_argument(
        "--task-hub", default=os.environ.get(TASK_HUB_VARIABLE), help=f"default: the variable {TASK_HUB_VARIABLE}"
    )
    commands.add_parser("swap", help="swap production and staging")
    return parser


def main() -> int:
    """Send the command to the demo, which deploys and swaps, and print its answer. Returns the exit code."""
    options = build_parser().parse_args()
    body = {}
    if options.command == "deploy":
        body = {"slot": options.slot, "code": options.code, "taskHub": options.task_hub}
    return send_command(options.command, body)


if __name__ == "__main__":
    sys.exit(main())
