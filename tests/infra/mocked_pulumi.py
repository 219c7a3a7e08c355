"""Runs Pulumi programs with Pulumi's mocks, and prints what they would ask Azure for.

This file runs in `.venv-pulumi`, which has Pulumi and none of the packages of the tests. It reads one request a line
from standard input, and answers each with one line.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import pulumi
from pulumi.runtime.mocks import MockCallArgs, MockMonitor, MockResourceArgs, Mocks
from pulumi.runtime.rpc import _special_secret_sig, _special_sig_key

SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
CLIENT_ID = "client-id"
TOPIC_ENDPOINT = "https://shop-lifecycle.westeurope-1.eventgrid.azure.net/api/events"

_TYPES: Mapping[str, tuple[str, Sequence[str]]] = {
    "applicationinsights:Component": ("Microsoft.Insights/components", ["resourceName"]),
    "authorization:RoleAssignment": ("Microsoft.Authorization/roleAssignments", []),
    "eventgrid:Topic": ("Microsoft.EventGrid/topics", ["topicName"]),
    "eventgrid:TopicEventSubscription": (
        "Microsoft.EventGrid/topics/eventSubscriptions",
        ["topicName", "eventSubscriptionName"],
    ),
    "keyvault:Vault": ("Microsoft.KeyVault/vaults", ["vaultName"]),
    "managedidentity:UserAssignedIdentity": ("Microsoft.ManagedIdentity/userAssignedIdentities", ["resourceName"]),
    "monitor:ActionGroup": ("Microsoft.Insights/actionGroups", ["actionGroupName"]),
    "monitor:MetricAlert": ("Microsoft.Insights/metricAlerts", ["ruleName"]),
    "operationalinsights:Workspace": ("Microsoft.OperationalInsights/workspaces", ["workspaceName"]),
    "resources:Deployment": ("Microsoft.Resources/deployments", ["deploymentName"]),
    "resources:ResourceGroup": ("Microsoft.Resources/resourceGroups", ["resourceGroupName"]),
    "storage:BlobContainer": (
        "Microsoft.Storage/storageAccounts/blobServices/containers",
        ["accountName", "=default", "containerName"],
    ),
    "storage:StorageAccount": ("Microsoft.Storage/storageAccounts", ["accountName"]),
    "web:AppServicePlan": ("Microsoft.Web/serverfarms", ["name"]),
    "web:WebApp": ("Microsoft.Web/sites", ["name"]),
    "web:WebAppFtpAllowed": ("Microsoft.Web/sites/basicPublishingCredentialsPolicies", ["name", "=ftp"]),
    "web:WebAppFtpAllowedSlot": (
        "Microsoft.Web/sites/slots/basicPublishingCredentialsPolicies",
        ["name", "slot", "=ftp"],
    ),
    "web:WebAppScmAllowed": ("Microsoft.Web/sites/basicPublishingCredentialsPolicies", ["name", "=scm"]),
    "web:WebAppScmAllowedSlot": (
        "Microsoft.Web/sites/slots/basicPublishingCredentialsPolicies",
        ["name", "slot", "=scm"],
    ),
    "web:WebAppSlot": ("Microsoft.Web/sites/slots", ["name", "slot"]),
    "web:WebAppSlotConfigurationNames": ("Microsoft.Web/sites/config", ["name", "=slotConfigNames"]),
}
"""The resource types of pulumi-azure-native as Azure Resource Manager calls them, and the inputs that make their names.
What begins with an equals sign is a name itself."""

_TOP_LEVEL = {"identity", "kind", "location", "sku", "tags"}
"""Inputs that are not members of `properties` in the request to Azure Resource Manager."""

Json = dict[str, Any]


class _Azure(Mocks):
    """Gives resources the ids and the addresses that Azure would give them."""

    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, Json]:
        if not args.custom:
            return "", {}
        inputs = _reveal(args.inputs)
        identifier = build_id(args.typ, args.name, inputs)
        name = identifier.rpartition("/")[2]
        state = {**inputs, "name": name}
        match args.typ.removeprefix("azure-native:"):
            case "managedidentity:UserAssignedIdentity":
                state |= {"clientId": CLIENT_ID, "principalId": f"principal-of-{name}"}
            case "storage:StorageAccount":
                state["primaryEndpoints"] = _endpoints(name)
            case "keyvault:Vault":
                state["properties"] = {**inputs["properties"], "vaultUri": f"https://{name}.vault.azure.net/"}
            case "eventgrid:Topic":
                state |= {
                    "endpoint": TOPIC_ENDPOINT,
                    "identity": {**inputs["identity"], "principalId": f"principal-of-{name}"},
                }
            case "applicationinsights:Component":
                state["connectionString"] = "InstrumentationKey=0;IngestionEndpoint=https://insights"
            case "web:WebApp" | "web:WebAppSlot":
                identity = inputs["identity"]
                identities: Json = {identifier: {} for identifier in identity["userAssignedIdentities"]}
                state |= {
                    "defaultHostName": f"{'-'.join(_list_names(args.typ, args.name, inputs))}.azurewebsites.net",
                    "identity": {**identity, "userAssignedIdentities": identities},
                }
        return identifier, state

    def call(self, args: MockCallArgs) -> tuple[Json, list[tuple[str, str]]]:
        group = args.args.get("resourceGroupName", "")
        match args.token.removeprefix("azure-native:"):
            case "authorization:getClientConfig":
                answer: Json = {"subscriptionId": SUBSCRIPTION, "tenantId": SUBSCRIPTION}
            case "durabletask:getScheduler":
                answer = {"properties": {"endpoint": "https://shop-scheduler.westeurope.durabletask.io"}}
            case "eventgrid:getTopic":
                answer = {"endpoint": TOPIC_ENDPOINT}
            case "eventgrid:listTopicSharedAccessKeys":
                answer = {"key1": "topic-key", "key2": "other-topic-key"}
            case "managedidentity:getUserAssignedIdentity":
                name = args.args["resourceName"]
                kind = "managedidentity:UserAssignedIdentity"
                identifier = build_id(kind, name, {"resourceName": name, "resourceGroupName": group})
                answer = {"id": identifier, "clientId": CLIENT_ID, "principalId": f"principal-of-{name}"}
            case "storage:getStorageAccount":
                answer = {"primaryEndpoints": _endpoints(args.args["accountName"])}
            case token:
                raise AssertionError(f"the mocks have no answer for {token}")
        return answer, []


class _RecordingMonitor(MockMonitor):
    """Keeps the requests of a program, with the options of its resources."""

    def __init__(self, mocks: Mocks) -> None:
        super().__init__(mocks)
        self.requests: list[Json] = []
        self.component_outputs: list[Json] = []

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - the name of the gRPC protocol
        if request.custom:
            inputs = pulumi.runtime.rpc.deserialize_properties(request.object)
            self.requests.append(
                {
                    **_describe(request.type, request.name, _reveal(inputs)),
                    "pulumi": {
                        "name": request.name,
                        "protect": request.protect,
                        "ignoreChanges": list(request.ignoreChanges),
                        "dependencies": sorted(urn.rpartition("::")[2] for urn in request.dependencies),
                        "replaceWith": sorted(urn.rpartition("::")[2] for urn in request.replace_with),
                        "secrets": sorted(name for name, value in inputs.items() if _is_secret(value)),
                    },
                }
            )
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802 - the name of the gRPC protocol
        self.component_outputs.append(pulumi.runtime.rpc.deserialize_properties(request.outputs))
        return super().RegisterResourceOutputs(request)  # type: ignore[no-untyped-call]


def build_id(kind: str, name: str, inputs: Mapping[str, Any]) -> str:
    """The id of a resource in Azure, as its type and its inputs make it."""
    arm_type, _ = _TYPES[kind.removeprefix("azure-native:")]
    if arm_type == "Microsoft.Authorization/roleAssignments":
        return f"{inputs['scope']}/providers/{arm_type}/{name}"
    group = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{inputs['resourceGroupName']}"
    if arm_type == "Microsoft.Resources/resourceGroups":
        return group
    provider, *types = arm_type.split("/")
    pairs = zip(types, _list_names(kind, name, inputs), strict=True)
    return f"{group}/providers/{provider}/" + "/".join(f"{part}/{value}" for part, value in pairs)


def _list_names(kind: str, name: str, inputs: Mapping[str, Any]) -> list[str]:
    _, parts = _TYPES[kind.removeprefix("azure-native:")]
    return [part[1:] if part.startswith("=") else inputs[part] for part in parts] or [name]


def _describe(kind: str, name: str, inputs: Json) -> Json:
    """A resource in the form of Azure Resource Manager."""
    arm_type, parts = _TYPES[kind.removeprefix("azure-native:")]
    rest = {
        key: value for key, value in inputs.items() if key not in {*parts, *_TOP_LEVEL, "resourceGroupName", "scope"}
    }
    return {
        "type": arm_type,
        "name": "/".join(_list_names(kind, name, inputs)),
        "id": build_id(kind, name, inputs),
        **{key: value for key, value in inputs.items() if key in _TOP_LEVEL},
        "properties": _nest(rest.get("properties", rest)),
    }


def _nest(value: Any) -> Any:
    """Move the members of destinations into `properties`, where Azure Resource Manager has them."""
    if isinstance(value, list):
        return [_nest(part) for part in value]
    if not isinstance(value, dict):
        return value
    members = {key: _nest(part) for key, part in value.items()}
    if "endpointType" in members:
        return {"endpointType": members.pop("endpointType"), "properties": members}
    return members


def _endpoints(account: str) -> Json:
    return {service: f"https://{account}.{service}.core.windows.net/" for service in ("blob", "queue", "table")}


def _is_secret(value: Any) -> bool:
    """Whether a serialized value, or a part of it, is a secret."""
    if isinstance(value, dict):
        if value.get(_special_sig_key) == _special_secret_sig:
            return True
        return any(map(_is_secret, value.values()))
    return isinstance(value, list) and any(map(_is_secret, value))


def _reveal(value: Any) -> Any:
    """The value without the marks of secrets, with whole numbers as such: Pulumi sends all numbers as floats."""
    if isinstance(value, dict):
        if value.get(_special_sig_key) == _special_secret_sig:
            return _reveal(value["value"])
        return {key: _reveal(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_reveal(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def run(source: str, config: Mapping[str, str]) -> Json:
    """Run a program with the configuration of a stack. Returns what it creates, and what it exports."""
    monitor = _RecordingMonitor(_Azure())
    pulumi.runtime.set_mocks(monitor.mocks, project="state-server", stack="test", preview=False, monitor=monitor)
    pulumi.runtime.set_all_config({f"state-server:{key}": value for key, value in config.items()})
    exported: Json = {}
    values: Json = {}
    secrets: dict[str, bool] = {}

    def program() -> pulumi.Output[Any]:
        exec(compile(source, "<program>", "exec"), {"__name__": "__main__"})  # noqa: S102 - a program of the tests
        outputs = {name: pulumi.Output.from_input(value) for name, value in exported.items()}
        are_secret: dict[str, pulumi.Output[bool]] = {
            name: pulumi.Output.from_input(output.is_secret()) for name, output in outputs.items()
        }
        return pulumi.Output.all(
            pulumi.Output.all(**outputs).apply(values.update), pulumi.Output.all(**are_secret).apply(secrets.update)
        )

    # Mocks have no stack to export to.
    with patch.object(pulumi, "export", exported.__setitem__):
        pulumi.runtime.test(program)()  # type: ignore[no-untyped-call]
    secret_outputs = [name for name, is_secret in secrets.items() if is_secret]
    for outputs in monitor.component_outputs:
        secret_outputs += [name for name, value in outputs.items() if _is_secret(value)]
    return {"resources": monitor.requests, "outputs": values, "secretOutputs": secret_outputs}


def main() -> None:
    """Answer requests until standard input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = run(request["source"], request["config"])
        except Exception as error:  # noqa: BLE001 - the test gets every failure of its program
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
