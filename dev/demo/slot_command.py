"""Replaces `az functionapp` in the demo: deploys to a slot of the demo's Function App, or swaps its slots.

Usage: `python -m dev.demo.slot_command deploy SLOT CODE`, `python -m dev.demo.slot_command swap`."""

import argparse
import http.client
import json
import os
import sys

CONTROL_ADDRESS_VARIABLE = "DEMO_CONTROL_ADDRESS"
TASK_HUB_VARIABLE = "SAFE_DEPLOY_TASK_HUB"
"""The variable in which `safe-deploy` passes the task hub to the commands that it runs."""

_TIMEOUT_SECONDS = 120


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
    connection = http.client.HTTPConnection(os.environ[CONTROL_ADDRESS_VARIABLE], timeout=_TIMEOUT_SECONDS)
    connection.request("POST", f"/{options.command}", json.dumps(body))
    response = connection.getresponse()
    print(f"{options.command}: {response.read().decode()}")
    connection.close()
    return 0 if response.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
