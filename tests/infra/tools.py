"""The two tools that set up a state server and durable apps: Bicep templates and the Pulumi program.

Both get the parameters of the Bicep templates, so that one test holds both to the same expectations.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pytest

from tests.infra.bicep import Prediction, predict
from tests.infra.pulumi_programs import PROGRAM, PulumiPrediction, is_pulumi_set_up, predict_program

Parameters = Mapping[str, Any]


class Tool(StrEnum):
    """What sets up resources in Azure."""

    BICEP = "Bicep"
    PULUMI = "Pulumi"


needs_pulumi = pytest.mark.skipif(not is_pulumi_set_up(), reason="dev/setup pulumi has not set up .venv-pulumi")
each_tool = pytest.mark.parametrize("tool", [Tool.BICEP, pytest.param(Tool.PULUMI, marks=needs_pulumi)])

_CONFIGURATION = {"resourceGroupName": "resourceGroup"}
"""Parameters of main.bicep with another name in the configuration of the Pulumi program."""


def predict_server(tool: Tool, parameters: Parameters, state: Parameters | None = None) -> Prediction:
    """What a state server with these parameters of main.bicep consists of."""
    if tool == Tool.BICEP:
        return predict("main.bicep", parameters, state)
    return predict_program(PROGRAM.read_text(), build_server_configuration(parameters), state)


def predict_subscription(tool: Tool, parameters: Parameters, server: Parameters) -> Prediction:
    """What subscribes the state server, after its code has been published."""
    if tool == Tool.BICEP:
        return predict("event-subscription.bicep", parameters)
    return predict_program(PROGRAM.read_text(), {**build_server_configuration(server), "codeIsPublished": "true"})


def build_server_configuration(parameters: Parameters) -> dict[str, str]:
    """The configuration of a stack with these parameters of main.bicep."""
    return {
        _CONFIGURATION.get(key, key): value if isinstance(value, str) else json.dumps(value)
        for key, value in parameters.items()
    }


def predict_slots(tool: Tool, parameters: Parameters, state: Parameters | None = None) -> Prediction:
    """What a durable app with these parameters of slots.bicep consists of."""
    if tool == Tool.BICEP:
        return predict("durable-app/slots.bicep", parameters, state)
    return predict_program(_build_program("DurableAppWithSlots", parameters), state=state)


def predict_release(tool: Tool, parameters: Parameters, state: Parameters | None = None) -> Prediction:
    """What a release with these parameters of release.bicep consists of."""
    if tool == Tool.BICEP:
        return predict("durable-app/release.bicep", parameters, state)
    return predict_program(_build_program("Release", parameters), state=state)


def predict_shared(tool: Tool, parameters: Parameters) -> Prediction:
    """What releases with these parameters of shared.bicep share."""
    if tool == Tool.BICEP:
        return predict("durable-app/shared.bicep", parameters)
    arguments = {_to_snake_case(key): value for key, value in parameters.items()}
    name = arguments.pop("name")
    return predict_program(
        "from safe_deploy_pulumi import SharedResources\n"
        f"SharedResources({name!r}, resource_group='shop', location='westeurope', **{arguments!r})\n"
    )


def describe_options(prediction: Prediction, name: str) -> dict[str, Any]:
    """The options of the resource of a Pulumi program with this name in Pulumi."""
    assert isinstance(prediction, PulumiPrediction)
    options: dict[str, Any]
    (options,) = [
        resource["pulumi"] for resource in prediction.resources if resource.get("pulumi", {}).get("name") == name
    ]
    return options


def _build_program(component: str, parameters: Parameters) -> str:
    """A program with one component, which is given the parameters of a Bicep template."""
    arguments = {_to_snake_case(key): value for key, value in parameters.items()}
    topic, topic_group = arguments.pop("topic", ""), arguments.pop("topic_resource_group", "shop")
    topic_argument = f"LifecycleTopic.read({topic!r}, resource_group={topic_group!r})" if topic else "None"
    return (
        f"from safe_deploy_pulumi import {component}, {component}Args, LifecycleTopic\n"
        f"topic = {topic_argument}\n"
        f"{component}('shop', {component}Args(resource_group='shop', location='westeurope', topic=topic, "
        f"**{arguments!r}))\n"
    )


def _to_snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
