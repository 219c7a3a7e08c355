"""A stand-in for `azd`: its environment, and `azd up`.

`azd up` deploys infra/main.bicepparam and runs the hook postprovision of azure.yaml, then it deploys the code and runs
postdeploy.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.documents.fake_azure_resources import SIGNED_IN_USER
from tests.infra.fake_deployments import deploy_server
from tests.pipelines.fake_cloud import locked_cloud


def main(arguments: list[str], cloud: str) -> int:
    """Run one call of `azd`. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="azd")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up")
    up.add_argument("--no-prompt", action="store_true", required=True)
    environment = commands.add_parser("env").add_subparsers(dest="subcommand", required=True)
    new = environment.add_parser("new")
    new.add_argument("name")
    new.add_argument("--location", "-l", required=True)
    new.add_argument("--subscription", required=True)
    setter = environment.add_parser("set")
    setter.add_argument("key")
    setter.add_argument("value")
    environment.add_parser("get-values")
    options = parser.parse_args(arguments)
    if options.command == "up":
        return _deploy(cloud)
    with locked_cloud(cloud) as state:
        if options.subcommand == "new":
            state["azd"] = {
                "AZURE_ENV_NAME": options.name,
                "AZURE_LOCATION": options.location,
                "AZURE_SUBSCRIPTION_ID": options.subscription,
            }
        elif "azd" not in state:
            sys.exit("ERROR: no environment exists")
        elif options.subcommand == "set":
            state["azd"][options.key] = options.value
        else:
            for key, value in state["azd"].items():
                escaped = value.replace("\\", "\\\\").replace('"', '\\"')
                print(f'{key}="{escaped}"')
    return 0


def _deploy(cloud: str) -> int:
    """`azd up`: provision, deploy the code to the app with the tag of the service, and run the hooks."""
    with locked_cloud(cloud) as state:
        if "azd" not in state:
            sys.exit("ERROR: no environment exists")
        # azd knows the principal that is signed in, and passes it without storing it.
        outputs = deploy_server(state, {**state["azd"], "AZURE_PRINCIPAL_ID": SIGNED_IN_USER})
        state["azd"] |= outputs
        values = dict(state["azd"])
    if (exit_code := _run_hook("postprovision", values)) != 0:
        return exit_code
    with locked_cloud(cloud) as state:
        state["apps"][outputs["STATE_APP"]]["slots"]["production"]["package"] = "published"
    return _run_hook("postdeploy", values)


def _run_hook(name: str, values: Mapping[str, str]) -> int:
    """Run a hook with the values of the environment. Returns its exit code."""
    hook = re.search(rf"  {name}:\n    shell: sh\n    run: (\S+)", Path("azure.yaml").read_text())
    assert hook is not None
    exit_code = subprocess.run(["sh", hook[1]], env={**os.environ, **values}, check=False).returncode
    if exit_code != 0:
        print(f"ERROR: '{name}' hook failed with exit code: '{exit_code}', Path: '{hook[1]}'.", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[2:], sys.argv[1]))
