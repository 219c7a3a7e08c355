"""Replaces `az functionapp` in the demo: deploys to a slot of the demo's Function App, or swaps its slots.

Usage: `python -m dev.demo.slot_command deploy SLOT CODE`, `python -m dev.demo.slot_command swap`."""

import argparse
import http.client
import json
import os
import sys

CONTROL_ADDRESS_VARIABLE = "DEMO_CONTROL_ADDRESS"
TASK_HUB_VARIABLE = "SAFE_DEPLOY_TASK_HUB"
"""`safe-deploy` tells the commands that it runs which task hub it deploys."""

_TIMEOUT_SECONDS = 120


def build_parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m dev.demo.slot_command", description="Deploy into a slot, or swap the slots."
    )
    commands = made.add_subparsers(dest="command", required=True)
    deploy = commands.add_parser("deploy", help="put code into a slot")
    deploy.add_argument("slot", help="production or staging")
    deploy.add_argument("code", help="v1 or v2")
    deploy.add_argument(
        "--task-hub", default=os.environ.get(TASK_HUB_VARIABLE), help=f"default: the variable {TASK_HUB_VARIABLE}"
    )
    commands.add_parser("swap", help="exchange what production and staging carry")
    return made


def main() -> int:
    given = build_parser().parse_args()
    content = {}
    if given.command == "deploy":
        content = {"slot": given.slot, "code": given.code, "taskHub": given.task_hub}
    connection = http.client.HTTPConnection(os.environ[CONTROL_ADDRESS_VARIABLE], timeout=_TIMEOUT_SECONDS)
    connection.request("POST", f"/{given.command}", json.dumps(content))
    answer = connection.getresponse()
    print(f"{given.command}: {answer.read().decode()}")
    connection.close()
    return 0 if answer.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
