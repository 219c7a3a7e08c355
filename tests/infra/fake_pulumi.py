"""A stand-in for `pulumi`: a stack, its configuration, and `pulumi up`.

`pulumi up` runs the program of the current folder with Pulumi's mocks, and creates what it asks for in the fake
subscription.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from tests.documents.fake_azure_resources import build_principal_id
from tests.infra.bicep import PRODUCTION_SETTINGS
from tests.infra.fake_deployments import State, apply_prediction, read_app_settings, require_published_code
from tests.infra.pulumi_programs import PulumiPrediction, predict_program
from tests.pipelines.fake_az_options import AzError
from tests.pipelines.fake_cloud import locked_cloud


def main(arguments: list[str], cloud: str) -> int:
    """Run one call of `pulumi`. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="pulumi")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install")
    commands.add_parser("up").add_argument("--yes", action="store_true", required=True)
    stack = commands.add_parser("stack").add_subparsers(dest="subcommand", required=True)
    stack.add_parser("init").add_argument("name")
    stack.add_parser("output").add_argument("name")
    setter = commands.add_parser("config").add_subparsers(dest="subcommand", required=True).add_parser("set")
    setter.add_argument("key")
    setter.add_argument("value")
    options = parser.parse_args(arguments)
    if not Path("Pulumi.yaml").exists():
        sys.exit("error: no Pulumi.yaml project file found")
    with locked_cloud(cloud) as state:
        if options.command == "stack" and options.subcommand == "init":
            state["pulumi"] = {"config": {}, "outputs": {}}
        elif options.command != "install" and "pulumi" not in state:
            sys.exit("error: no stack selected")
        elif options.command == "config":
            state["pulumi"]["config"][options.key] = options.value
        elif options.command == "stack":
            print(state["pulumi"]["outputs"][options.name])
        elif options.command == "up":
            _update(state)
    return 0


def _update(state: State) -> None:
    """Create what the program asks for. Ends the process if Azure would refuse it."""
    stack = state["pulumi"]
    current = read_app_settings(state, stack["config"].get("stateApp", ""))
    program = predict_program(Path("__main__.py").read_text(), stack["config"], {PRODUCTION_SETTINGS: current})
    # In the fake subscription every identity has an object id.
    requests = json.dumps({"resources": program.resources, "outputs": program.outputs})
    answers = json.loads(re.sub(r"principal-of-([\w-]+)", lambda match: build_principal_id(match[1]), requests))
    prediction = PulumiPrediction(answers["resources"], answers["outputs"], program.secret_outputs)
    try:
        require_published_code(state, prediction)
    except AzError as error:
        sys.exit(f"error: {error}")
    apply_prediction(state, prediction)
    stack["outputs"] = prediction.outputs


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[2:], sys.argv[1]))
