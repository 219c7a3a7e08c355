"""The stand-in for `az` with the resources that docs/azure.md creates.

These are accounts, identities, roles, vaults, topics, and the keys of Function Apps. The stand-in of the pipeline tests
has the Function Apps themselves and their slots.

Commands in the wrong order fail as in Azure:

- The account, scope, topic or container does not exist yet.
- The caller may not write the secret.
- The function of an event subscription is not published, or the webhook does not answer the handshake of Event Grid.
"""

import http.client
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.pipelines.fake_az import main
from tests.pipelines.fake_az_commands import COMMANDS
from tests.pipelines.fake_az_options import AzError, ParsedOptions
from tests.pipelines.fake_cloud import SUBSCRIPTION

SIGNED_IN_USER = "operator"
TOPIC_PATH = "/fake-topic/api/events"
TOPIC_KEY = "topic-key-1"
State = dict[str, Any]
Effect = Callable[[State, ParsedOptions], Any]


def build_resource_id(group: str, kind: str, name: str) -> str:
    """The id of a resource; `kind` is its provider and type, such as `Microsoft.KeyVault/vaults`."""
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/{kind}/{name}"


def build_principal_id(app: str) -> str:
    """The object id of the identity with this name."""
    return f"principal-of-{app}"


def has_role(state: State, principal: str, role: str, scope: str) -> bool:
    """Whether `az role assignment create` has assigned the role."""
    return [principal, role, scope] in state.get("roles", [])


def _store_resource(state: State, kind: str, options: ParsedOptions, **properties: Any) -> State:
    """Store the resource that the options name, and return it."""
    identifier = build_resource_id(options.resource_group, kind, options.name)
    resource = {"id": identifier, "name": options.name, **properties}
    state.setdefault("resources", {})[identifier] = resource
    return resource


def _get_resource(state: State, identifier: str) -> State:
    """The resource with this id. Raises AzError if it does not exist."""
    resource: State | None = state.get("resources", {}).get(identifier)
    if resource is None:
        raise AzError(f"(ResourceNotFound) The Resource '{identifier}' was not found.", 3)
    return resource


def _build_create_effect(kind: str, **properties: Any) -> Effect:
    """The effect of a command that creates a resource of this kind."""
    return lambda state, options: _store_resource(state, kind, options, **properties)


def _build_show_effect(kind: str) -> Effect:
    """The effect of a command that shows a resource of this kind."""
    return lambda state, options: _get_resource(state, build_resource_id(options.resource_group, kind, options.name))


def _create_group(state: State, options: ParsedOptions) -> State:
    identifier = _build_group_id(options)
    state.setdefault("resources", {})[identifier] = {"id": identifier, "name": options.name}
    return {"id": identifier, "name": options.name, "location": options.location}


def _show_group(state: State, options: ParsedOptions) -> State:
    return _get_resource(state, _build_group_id(options))


def _build_group_id(options: ParsedOptions) -> str:
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{options.name}"


def _create_function_app(state: State, options: ParsedOptions) -> State:
    """Create a Function App, whose storage account must exist."""
    _get_resource(
        state, build_resource_id(options.resource_group, "Microsoft.Storage/storageAccounts", options.storage_account)
    )
    if not (options.flexconsumption_location or options.consumption_plan_location or options.plan):
        raise AzError("usage error: --plan NAME_OR_ID | --consumption-plan-location LOCATION", 2)
    state["apps"][options.name] = {"resourceGroup": options.resource_group, "slots": {"production": {"settings": {}}}}
    return {"name": options.name, "state": "Running"}


def _create_slot(state: State, options: ParsedOptions) -> State:
    """`az functionapp deployment slot create`: the slot may get a copy of the settings of production."""
    slots = state["apps"][options.name]["slots"]
    settings = {}
    if options.configuration_source:
        settings = {name: dict(setting) for name, setting in slots["production"]["settings"].items()}
    slots[options.slot] = {"settings": settings, "state": "Running"}
    return {"name": f"{options.name}/{options.slot}"}


def _delete_settings(state: State, options: ParsedOptions) -> None:
    """`az functionapp config appsettings delete`"""
    settings = state["apps"][options.name]["slots"][options.slot or "production"]["settings"]
    for name in options.setting_names:
        settings.pop(name, None)


def _assign_identity(state: State, options: ParsedOptions) -> State:
    """`az functionapp identity assign`"""
    if options.name not in state["apps"]:
        raise AzError(f"(ResourceNotFound) The app {options.name} was not found.", 3)
    return {"principalId": build_principal_id(options.name), "type": "SystemAssigned"}


def _list_functions(state: State, options: ParsedOptions) -> list[State]:
    """`az functionapp function list`: the functions that function_app.py declares, once the app has been deployed."""
    if not state["apps"][options.name]["slots"]["production"].get("package"):
        return []
    source = (Path(__file__).parent.parent.parent / "function_app.py").read_text()
    names = re.findall(r"^    \(\"(\w+)\", \[|function_name\(\"(\w+)\"\)", source, re.MULTILINE)
    return [{"name": f"{options.name}/{first or second}"} for first, second in names]


def _list_app_keys(state: State, options: ParsedOptions) -> State:
    keys = {"durabletask_extension": f"system-key-of-{options.name}"}
    return {"functionKeys": {"default": "function-key"}, "masterKey": "master-key", "systemKeys": keys}


def _list_function_keys(state: State, options: ParsedOptions) -> State:
    """The keys of a function by name. A function that no command has changed has one key, `pipeline-shop`."""
    keys: State = state.setdefault("functionKeys", {}).setdefault(
        options.function_name, {"pipeline-shop": "the-key-that-the-function-had"}
    )
    return keys


def _delete_function_key(state: State, options: ParsedOptions) -> None:
    _list_function_keys(state, options).pop(options.key_name, None)


def _assign_role(state: State, options: ParsedOptions) -> State:
    """`az role assignment create`: the resource of the scope must exist."""
    principal = options.assignee_object_id or options.assignee
    if principal is None:
        raise AzError("usage error: --assignee STRING | --assignee-object-id GUID", 2)
    if "/providers/Microsoft.Web/sites/" not in options.scope:
        _get_resource(state, options.scope)
    roles = state.setdefault("roles", [])
    roles.append([principal, options.role, options.scope])
    return {"principalId": principal, "roleDefinitionName": options.role, "scope": options.scope}


def _open_vault(state: State, options: ParsedOptions) -> str:
    """The id of the vault that the options name. The signed-in user needs the role Key Vault Secrets Officer."""
    vaults = [identifier for identifier in state.get("resources", {}) if identifier.endswith(f"/{options.vault_name}")]
    vault = next((identifier for identifier in vaults if "Microsoft.KeyVault" in identifier), "")
    _get_resource(state, vault)
    if not has_role(state, SIGNED_IN_USER, "Key Vault Secrets Officer", vault):
        raise AzError("(Forbidden) Caller is not authorized to perform action on resource.", 1)
    return vault


def _list_secrets(state: State, options: ParsedOptions) -> list[State]:
    """`az keyvault secret list`: the secrets without their values, each once."""
    vault = _open_vault(state, options)
    uris = [uri.rpartition("/")[0] for uri, secret in state.get("secrets", {}).items() if secret["vault"] == vault]
    return [{"id": uri, "name": uri.rpartition("/")[2]} for uri in dict.fromkeys(uris)]


def _show_secret(state: State, options: ParsedOptions) -> State:
    """`az keyvault secret show`: the newest version."""
    vault, ending = _open_vault(state, options), f"/secrets/{options.name}"
    for uri, secret in reversed(state.get("secrets", {}).items()):
        if secret["vault"] == vault and uri.rpartition("/")[0].endswith(ending):
            return {"id": uri, "name": options.name, "value": secret["value"]}
    raise AzError(f"(SecretNotFound) A secret with (name/id) {options.name} was not found in this key vault.", 3)


def _set_secret(state: State, options: ParsedOptions) -> State:
    """`az keyvault secret set`: creates a new version."""
    vault = _open_vault(state, options)
    secrets = state.setdefault("secrets", {})
    uri = f"https://{options.vault_name}.vault.azure.net/secrets/{options.name}/version{len(secrets) + 1}"
    secrets[uri] = {"vault": vault, "value": Path(options.file).read_text()}
    return {"id": uri}


def _show_signed_in_user(state: State, options: ParsedOptions) -> State:
    return {"id": SIGNED_IN_USER}


def _create_topic(state: State, options: ParsedOptions) -> State:
    return _store_resource(state, "Microsoft.EventGrid/topics", options, endpoint=build_topic_endpoint())


def build_topic_endpoint() -> str:
    """The endpoint of every topic: on the server of this test, which delivers what it accepts to itself."""
    return f"{os.environ['STATE_SERVER_URL']}{TOPIC_PATH}"


def _list_topic_keys(state: State, options: ParsedOptions) -> State:
    _build_show_effect("Microsoft.EventGrid/topics")(state, options)
    return {"key1": TOPIC_KEY, "key2": "topic-key-2"}


def _create_container(state: State, options: ParsedOptions) -> State:
    """`az storage container-rm create`"""
    account = build_resource_id(options.resource_group, "Microsoft.Storage/storageAccounts", options.storage_account)
    identifier = f"{_get_resource(state, account)['id']}/blobServices/default/containers/{options.name}"
    state["resources"][identifier] = {"id": identifier, "name": options.name}
    return {"name": options.name}


def _subscribe(state: State, options: ParsedOptions) -> State:
    """`az eventgrid event-subscription create`: the destination must exist, as Event Grid checks when it subscribes."""
    _get_resource(state, options.source_resource_id)
    if options.deadletter_endpoint:
        _get_resource(state, options.deadletter_endpoint)
    if options.endpoint_type == "azurefunction":
        site = re.search(r"/sites/([^/]+)/functions/(\w+)$", options.endpoint)
        published = site and state["apps"].get(site[1], {}).get("slots", {}).get("production", {}).get("package")
        if not published:
            raise AzError("(Endpoint validation) Destination endpoint not found.", 1)
    else:
        _validate_webhook(options.endpoint)
    return {"name": options.name, "provisioningState": "Succeeded"}


def _validate_webhook(endpoint: str) -> None:
    """Do the handshake of Event Grid with an endpoint, at the server of this test. Raises AzError if it fails."""
    event = {
        "id": "1",
        "topic": "topic",
        "subject": "",
        "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
        "eventTime": "2026-01-01T00:00:00Z",
        "data": {"validationCode": "512d38b6"},
        "dataVersion": "1",
        "metadataVersion": "1",
    }
    address = urlsplit(endpoint)
    if address.hostname != os.environ["STATE_HOST"]:
        raise AzError(f"The endpoint {address.hostname} cannot be resolved.", 1)
    connection = http.client.HTTPConnection(urlsplit(os.environ["STATE_SERVER_URL"]).netloc)
    headers = {"Content-Type": "application/json", "aeg-event-type": "SubscriptionValidation"}
    connection.request("POST", f"{address.path}?{address.query}", json.dumps([event]), headers)
    if json.load(connection.getresponse()).get("validationResponse") != "512d38b6":
        raise AzError("Webhook validation handshake failed.", 1)


def _show_scheduler(state: State, options: ParsedOptions) -> State:
    scheduler = _build_show_effect("Microsoft.DurableTask/schedulers")(state, options)
    return {**scheduler, "properties": {"endpoint": f"https://{options.name}.westeurope.durabletask.io"}}


def _create_identity(state: State, options: ParsedOptions) -> State:
    """`az identity create`"""
    return _store_resource(
        state,
        "Microsoft.ManagedIdentity/userAssignedIdentities",
        options,
        clientId=f"client-of-{options.name}",
        principalId=build_principal_id(options.name),
        tenantId="tenant",
    )


def _create_federated_credential(state: State, options: ParsedOptions) -> State:
    """`az identity federated-credential create`"""
    kind = "Microsoft.ManagedIdentity/userAssignedIdentities"
    _get_resource(state, build_resource_id(options.resource_group, kind, options.identity_name))
    return {"issuer": options.issuer, "name": options.name, "subject": options.subject}


def _do_nothing(state: State, options: ParsedOptions) -> None:
    return None


_NAMED = "--resource-group/-g! --name/-n! --location/-l"
_FUNCTION_KEYS = "--resource-group/-g! --name/-n! --function-name!"
_SUBSCRIPTION = (
    "--name! --source-resource-id! --endpoint-type --endpoint! --event-delivery-schema --included-event-types+ "
    "--max-delivery-attempts --event-ttl --deadletter-endpoint --max-events-per-batch "
    "--preferred-batch-size-in-kilobytes"
)
_FUNCTION_APP = (
    f"{_NAMED} --storage-account/-s! --flexconsumption-location/-f --consumption-plan-location/-c --plan/-p --os-type "
    "--functions-version --runtime --runtime-version --deployment-storage-container-name"
)
_RESOURCE_COMMANDS: dict[str, tuple[str, Effect]] = {
    "group create": ("--name/-n! --location/-l!", _create_group),
    "group show": ("--name/-n!", _show_group),
    "storage account create": (
        f"{_NAMED} --sku --min-tls-version --allow-blob-public-access",
        _build_create_effect("Microsoft.Storage/storageAccounts"),
    ),
    "storage account show": (_NAMED, _build_show_effect("Microsoft.Storage/storageAccounts")),
    "storage container-rm create": (f"{_NAMED} --storage-account!", _create_container),
    "functionapp create": (_FUNCTION_APP, _create_function_app),
    "functionapp config appsettings delete": (f"{_NAMED} --slot/-s --setting-names!+", _delete_settings),
    "functionapp identity assign": (_NAMED, _assign_identity),
    "functionapp function list": (_NAMED, _list_functions),
    "functionapp function keys list": (_FUNCTION_KEYS, _list_function_keys),
    "functionapp function keys delete": (f"{_FUNCTION_KEYS} --key-name!", _delete_function_key),
    "functionapp keys list": (_NAMED, _list_app_keys),
    "functionapp deployment slot create": (f"{_NAMED} --slot/-s! --configuration-source", _create_slot),
    "role assignment create": (
        "--assignee --assignee-object-id --assignee-principal-type --role! --scope!",
        _assign_role,
    ),
    "keyvault create": (f"{_NAMED} --enable-rbac-authorization", _build_create_effect("Microsoft.KeyVault/vaults")),
    "keyvault show": (_NAMED, _build_show_effect("Microsoft.KeyVault/vaults")),
    "keyvault secret list": ("--vault-name!", _list_secrets),
    "keyvault secret show": ("--vault-name! --name/-n!", _show_secret),
    "keyvault secret set": ("--vault-name! --name/-n! --file/-f!", _set_secret),
    "ad signed-in-user show": ("", _show_signed_in_user),
    "provider register": ("--namespace/-n! --wait?", _do_nothing),
    "eventgrid topic create": (f"{_NAMED} --input-schema", _create_topic),
    "eventgrid topic show": (_NAMED, _build_show_effect("Microsoft.EventGrid/topics")),
    "eventgrid topic key list": (_NAMED, _list_topic_keys),
    "eventgrid event-subscription create": (_SUBSCRIPTION, _subscribe),
    "durabletask scheduler show": (_NAMED, _show_scheduler),
    "identity create": (_NAMED, _create_identity),
    "identity show": (_NAMED, _build_show_effect("Microsoft.ManagedIdentity/userAssignedIdentities")),
    "identity federated-credential create": (
        f"{_NAMED} --identity-name! --issuer! --subject! --audiences+",
        _create_federated_credential,
    ),
}

COMMANDS.update({name: (name, options, effect) for name, (options, effect) in _RESOURCE_COMMANDS.items()})

if __name__ == "__main__":
    # The deployments of templates need names of this module.
    from tests.infra.fake_deployments import DEPLOYMENT_COMMANDS

    COMMANDS.update({name: (name, options, effect) for name, (options, effect) in DEPLOYMENT_COMMANDS.items()})
    raise SystemExit(main(sys.argv[2:], sys.argv[1]))
