"""Sends a command to the demo that started this process: `az` stands for Azure in a pipeline, this for the demo."""

import http.client
import json
import os
from typing import Any

CONTROL_ADDRESS_VARIABLE = "DEMO_CONTROL_ADDRESS"
TASK_HUB_VARIABLE = "SAFE_DEPLOY_TASK_HUB"
ADDRESS_VARIABLE = "SAFE_DEPLOY_ADDRESS"
"""The variables in which `safe-deploy` passes the task hub and the address to the commands that it runs."""

_TIMEOUT_SECONDS = 120


def send_command(command: str, body: dict[str, Any]) -> int:
    """Have the demo carry out a command, and print its result. Returns the exit code."""
    connection = http.client.HTTPConnection(os.environ[CONTROL_ADDRESS_VARIABLE], timeout=_TIMEOUT_SECONDS)
    connection.request("POST", f"/{command}", json.dumps(body))
    response = connection.getresponse()
    print(f"{command}: {response.read().decode()}")
    connection.close()
    return 0 if response.status == http.client.OK else 1
