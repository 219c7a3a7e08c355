"""The file with the policy that an app should have on the server. It is reviewed in the repository, and a person
applies it."""

import json
import re
from collections.abc import Mapping
from typing import Any

from safe_deploy.setup.json_text import find_value
from safe_deploy.setup.pipeline_settings import DeploymentModel

POLICY_FILE = "safe-deploy-policy.json"

_VISIBILITY_TIMEOUT = ("extensions", "durableTask", "storageProvider", "controlQueueVisibilityTimeout")
_USUAL_VISIBILITY_SECONDS = 300


def build_policy(model: DeploymentModel, host_json: str) -> dict[str, Any]:
    """The policy for an app with this host.json, without the members whose default fits."""
    policy: dict[str, Any] = {"requireVerification": True}
    if model is DeploymentModel.SLOTS:
        # A version that was staged and never started must not block the next one.
        policy["missingTaskHubIsDrained"] = True
    timeout = find_value(host_json, _VISIBILITY_TIMEOUT)
    match = re.fullmatch(r"(\d+):(\d+):(\d+)(?:\.\d+)?", timeout) if isinstance(timeout, str) else None
    if match:
        hours, minutes, seconds = map(int, match.groups())
        total_seconds = (hours * 60 + minutes) * 60 + seconds
        if total_seconds != _USUAL_VISIBILITY_SECONDS:
            policy["messageVisibilitySeconds"] = total_seconds
    return policy


def format_policy(policy: Mapping[str, Any]) -> str:
    """The text of the file."""
    return f"{json.dumps(policy, indent=2)}\n"


def parse_policy(text: str) -> dict[str, Any]:
    """The policy in a file that a person may have changed; empty if it cannot be read."""
    try:
        policy = json.loads(text.removeprefix("\ufeff"))
    except ValueError:
        return {}
    return policy if isinstance(policy, dict) else {}
