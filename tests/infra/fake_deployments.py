"""The stand-in for deployments of templates: what the compiler predicts becomes a part of the fake subscription.

`az deployment` and `azd up` use it. It imports the standard library only, because stand-ins start without packages.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.documents.fake_azure_resources import TOPIC_KEY, build_principal_id, build_topic_endpoint
from tests.infra.bicep import INFRA, PRODUCTION_SETTINGS, Prediction, predict, predict_with_parameter_file
from tests.infra.roles import ROLE_NAMES
from tests.pipelines.fake_az_event_grid import build_subscription
from tests.pipelines.fake_az_options import AzError, ParsedOptions

State = dict[str, Any]


def deploy_to_subscription(state: State, options: ParsedOptions) -> State:
    """`az deployment sub create` of main.bicep, with the environment variables of this process."""
    (parameter_file,) = options.parameters
    _require_file(parameter_file)
    return deploy_server(state, {})


def deploy_server(state: State, variables: Mapping[str, str]) -> State:
    """Deploy main.bicep with its parameter file, which reads these environment variables. Returns the outputs."""
    os.environ.update(variables)
    current = read_app_settings(state, os.environ.get("STATE_APP", ""))
    prediction = predict_with_parameter_file("main.bicepparam", {PRODUCTION_SETTINGS: current})
    apply_prediction(state, prediction)
    return {name: _find_principal(value) for name, value in prediction.outputs.items()}


def deploy_to_group(state: State, options: ParsedOptions) -> None:
    """`az deployment group create` of event-subscription.bicep: its destination must exist, as Event Grid checks."""
    _require_file(options.template_file)
    name = Path(options.template_file).relative_to("infra").as_posix()
    parameters = dict(parameter.split("=", 1) for parameter in options.parameters)
    prediction = predict(name, parameters, resource_group=options.resource_group)
    require_published_code(state, prediction)
    apply_prediction(state, prediction)


def read_app_settings(state: State, app: str) -> dict[str, str]:
    """The app settings of a Function App. None for an app that does not exist."""
    settings = state["apps"].get(app, {}).get("slots", {}).get("production", {}).get("settings", {})
    return {name: setting["value"] for name, setting in settings.items()}


def require_published_code(state: State, prediction: Prediction) -> None:
    """Raises AzError for an event subscription to a function or a container that does not exist, as Event Grid does."""
    for subscription in prediction.find_all("Microsoft.EventGrid/topics/eventSubscriptions"):
        properties = subscription["properties"]
        site = re.search(r"/sites/([^/]+)/functions/", properties["destination"]["properties"]["resourceId"])
        assert site is not None
        if not state["apps"].get(site[1], {}).get("slots", {}).get("production", {}).get("package"):
            raise AzError("(Endpoint validation) Destination endpoint not found.", 1)
        dead_letters = properties["deadLetterWithResourceIdentity"]["deadLetterDestination"]["properties"]
        container = f"/{dead_letters['blobContainerName']}"
        if not any(identifier.endswith(container) for identifier in state["resources"]):
            raise AzError(f"(ResourceNotFound) The container {container} was not found.", 3)


def _require_file(path: str) -> None:
    """Raises AzError unless the path leads to a file of infra/."""
    if not Path(path).is_file() or not (INFRA.parent / path).is_file():
        raise AzError(f"[Errno 2] No such file or directory: '{path}'", 1)


def apply_prediction(state: State, prediction: Prediction) -> None:
    """Create what the compiler predicts."""
    resources = state.setdefault("resources", {})
    _apply_event_grid(state, prediction)
    for resource in prediction.find_all("Microsoft.Storage/storageAccounts"):
        state.setdefault("storageAccounts", {})[resource["name"]] = resource["id"].split("/")[4]
    for resource in prediction.resources:
        kind, identifier, name = resource["type"], resource["id"], resource["name"].rpartition("/")[2]
        if kind == "Microsoft.Authorization/roleAssignments":
            _assign_role(state, resource)
        elif kind == "Microsoft.Web/sites":
            group = identifier.split("/")[4]
            state["apps"].setdefault(name, {"resourceGroup": group, "slots": {"production": {"settings": {}}}})
        elif kind == "Microsoft.Web/sites/config" and name == "appsettings":
            slot = state["apps"][resource["name"].partition("/")[0]]["slots"]["production"]
            slot["settings"] = {
                key: {"value": value, "slotSetting": False} for key, value in resource["properties"].items()
            }
        else:
            properties = {
                "Microsoft.EventGrid/topics": {"endpoint": build_topic_endpoint()},
                "Microsoft.ManagedIdentity/userAssignedIdentities": {"principalId": build_principal_id(name)},
            }.get(kind, {})
            resources[identifier] = {"id": identifier, "name": name, **properties}


def _apply_event_grid(state: State, prediction: Prediction) -> None:
    """Create topics and subscriptions, as the commands `az eventgrid` show them."""
    topics = state.setdefault("topics", {})
    for topic in prediction.find_all("Microsoft.EventGrid/topics"):
        topics[topic["name"]] = topics.get(topic["name"], {}) | {
            "resourceGroup": topic["id"].split("/")[4],
            "endpoint": build_topic_endpoint(),
            "key": TOPIC_KEY,
        }
    for resource in prediction.find_all("Microsoft.EventGrid/topics/eventSubscriptions"):
        topic_name, _, name = resource["name"].partition("/")
        properties = resource["properties"]
        dead_letters = properties["deadLetterWithResourceIdentity"]["deadLetterDestination"]["properties"]
        subscription = build_subscription(
            name,
            properties["destination"]["properties"]["resourceId"],
            attempts=properties["retryPolicy"]["maxDeliveryAttempts"],
            minutes=properties["retryPolicy"]["eventTimeToLiveInMinutes"],
            dead_letters=f"{dead_letters['resourceId']}/blobServices/default/containers/{dead_letters['blobContainerName']}",
            types=properties["filter"]["includedEventTypes"],
        )
        topics[topic_name]["subscriptions"] = [subscription]


def _assign_role(state: State, assignment: Mapping[str, Any]) -> None:
    """Assign a role, whose scope must exist in the end."""
    role = ROLE_NAMES[assignment["properties"]["roleDefinitionId"].rpartition("/")[2]]
    identifier = assignment["id"].removeprefix("[extensionResourceId('")
    scope = re.split(r"/providers/Microsoft.Authorization/|', 'Microsoft.Authorization/", identifier)[0]
    state.setdefault("roles", []).append([_find_principal(assignment["properties"]["principalId"]), role, scope])


def _find_principal(value: str) -> str:
    """The object id of the identity that an expression refers to. Other values stay as they are."""
    reference = re.match(r"\[reference\('[^']*/(?:userAssignedIdentities|topics)/([^']+)'", value)
    return build_principal_id(reference[1]) if reference else value


DEPLOYMENT_COMMANDS: dict[str, tuple[str, Callable[[State, ParsedOptions], Any]]] = {
    "deployment sub create": ("--name/-n --location/-l! --parameters/-p!+", deploy_to_subscription),
    "deployment group create": (
        "--resource-group/-g! --name/-n --template-file/-f! --parameters/-p!+",
        deploy_to_group,
    ),
}
