"""The state server, as Bicep and Pulumi set it up: the settings and roles of the pages, and what a second run keeps."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest

from state_api.settings import DOCUMENTED_SETTINGS, TaskHubConnections, read_settings
from tests.documents.page_tables import AZURE, SETTINGS, read_first_column, read_table_rows, remove_markup
from tests.infra.bicep import CLIENT_ID, INFRA, PRODUCTION_SETTINGS, Prediction, compile_template
from tests.infra.pulumi_programs import ProgramFailedError
from tests.infra.roles import ROLE_NAMES
from tests.infra.tools import Tool, each_tool, predict_server, predict_subscription

SERVER = {
    "location": "westeurope",
    "resourceGroupName": "shop-state",
    "stateApp": "shop-state-4711",
    "storageAccount": "shopstate4711",
    "vault": "shop-state-4711",
    "topic": "shop-lifecycle-4711",
}
TASK_HUBS = [
    {
        "provider": "azureStorage",
        "connection": "STATE_TASKHUBS_SHOP",
        "storageAccount": "shopdurable4711",
        "resourceGroup": "shop",
    },
    {
        "provider": "scheduler",
        "connection": "STATE_TASKHUBS_ORDERS",
        "scheduler": "shop-scheduler",
        "endpoint": "https://shop-scheduler.westeurope.durabletask.io",
        "resourceGroup": "shop",
    },
    {
        "provider": "managementApi",
        "connection": "STATE_TASKHUBS_MAIL",
        "endpoint": "https://mail.azurewebsites.net",
        "keySecret": "mail-key",
    },
]

NOT_SET_BY_THE_TEMPLATE = {
    "STATE_STORAGE": "it holds a key",
    "STATE_STORAGE__accountName": "the address is set, which is right in every cloud",
    "AzureWebJobsStorage": "it holds a key",
    "AzureWebJobsStorage__accountName": "the addresses are set, which are right in every cloud",
    "STATE_SHARDS": "has a default",
    "STATE_TASKHUB_SETTINGS": "the names of all connections begin with STATE_TASKHUBS_",
    "STATE_UNCLAIMED_TASK_HUBS": "has a default",
    "WEBSITE_SITE_NAME": "set by Azure",
    "WEBSITE_AUTH_ENABLED": "set by Azure",
}
"""The documented settings that the template does not set, each with the reason."""


@functools.cache
def server_with_task_hubs(tool: Tool, *, delete_task_hubs: bool = False) -> Prediction:
    """What a tool creates for task hubs at all providers."""
    parameters = {"guardedTaskHubs": TASK_HUBS, "deleteTaskHubs": delete_task_hubs, "operatorPrincipalId": "operator"}
    return predict_server(tool, {**SERVER, **parameters, "alertEmail": "operators@example.com"})


@functools.cache
def settings_with_task_hubs(tool: Tool) -> dict[str, str]:
    """The app settings of a new server."""
    settings = server_with_task_hubs(tool).app_settings()
    assert settings is not None
    return settings


def assigned_roles(prediction: Prediction) -> set[tuple[str, str]]:
    """The names of the assigned roles, each with the name of the resource that it is assigned on."""
    return {(ROLE_NAMES[role], resource) for role, resource in prediction.roles()}


@each_tool
def test_every_documented_setting_is_set_or_is_not_needed(tool: Tool) -> None:
    documented = {
        *read_first_column(SETTINGS, "Environment", "Setting"),
        *DOCUMENTED_SETTINGS,
    }
    assert documented == {*NOT_SET_BY_THE_TEMPLATE, *(documented & settings_with_task_hubs(tool).keys())}
    assert not NOT_SET_BY_THE_TEMPLATE.keys() & settings_with_task_hubs(tool).keys()


@each_tool
def test_the_parts_of_every_providers_setting_are_documented(tool: Tool) -> None:
    documented = {
        (remove_markup(cells[0]), remove_markup(cells[1]).removeprefix("NAME"))
        for cells in read_table_rows(SETTINGS, "Task hubs", "Provider")
    }
    for hubs in TASK_HUBS:
        names = [name for name in settings_with_task_hubs(tool) if name.startswith(hubs["connection"])]
        assert names
        assert {(hubs["provider"], name.removeprefix(hubs["connection"])) for name in names} <= documented


@each_tool
def test_the_server_accepts_its_settings_and_uses_its_identity(tool: Tool) -> None:
    keys = '[{"name": "operators", "role": "admin", "sha256": "' + "ab" * 32 + '"}]'
    settings = read_settings({**settings_with_task_hubs(tool), "STATE_KEYS": keys}, keys_required=True)
    assert settings.storage.table_service_uri == "https://shopstate4711.table.core.windows.net"
    assert settings.storage.client_id == CLIENT_ID
    assert settings.storage.connection_string is None
    assert isinstance(settings.connections, TaskHubConnections)
    for hubs in TASK_HUBS:
        if hubs["provider"] == "azureStorage":
            assert settings_with_task_hubs(tool)[f"{hubs['connection']}__clientId"] == CLIENT_ID


@each_tool
def test_no_setting_holds_a_key(tool: Tool) -> None:
    for name, value in settings_with_task_hubs(tool).items():
        assert "AccountKey=" not in value, name
    references = {name: value for name, value in settings_with_task_hubs(tool).items() if value.startswith("@")}
    vault = "@Microsoft.KeyVault(SecretUri=https://shop-state-4711.vault.azure.net/secrets"
    assert references == {"STATE_KEYS": f"{vault}/state-keys)", "STATE_TASKHUBS_MAIL__key": f"{vault}/mail-key)"}


@each_tool
def test_the_page_and_the_template_name_the_same_roles_for_reading_task_hubs(tool: Tool) -> None:
    documented = {
        role
        for cells in read_table_rows(AZURE, "Verification", "Provider")
        if not cells[1].startswith("Cleanup with")
        for role in re.findall(r"(?:Storage|Durable) [A-Z][\w ]+?(?:Reader|Contributor)", cells[2])
    }
    roles = assigned_roles(server_with_task_hubs(tool))
    on_task_hubs = {role for role, resource in roles if resource in {"shopdurable4711", "shop-scheduler"}}
    assert documented == {*on_task_hubs, "Storage Table Data Contributor"}
    assert ("Storage Table Data Contributor", "shopstate4711") in roles
    assert not any("Contributor" in role for role in on_task_hubs)


@each_tool
def test_the_server_may_delete_task_hubs_only_if_the_switch_says_so(tool: Tool) -> None:
    (documented,) = [
        set(remove_markup(cells[2]).split(", "))
        for cells in read_table_rows(AZURE, "Verification", "Provider")
        if cells[1].startswith("Cleanup with")
    ]
    roles = assigned_roles(server_with_task_hubs(tool, delete_task_hubs=True))
    assert {role for role, resource in roles if resource == "shopdurable4711"} == documented


@each_tool
def test_the_server_has_no_other_rights(tool: Tool) -> None:
    own = {
        item
        for item in assigned_roles(server_with_task_hubs(tool))
        if item[1] not in {"shopdurable4711", "shop-scheduler"}
    }
    assert own == {
        ("Storage Table Data Contributor", "shopstate4711"),
        ("Storage Blob Data Owner", "shopstate4711"),
        ("Storage Blob Data Contributor", "lifecycle-dead-letters"),
        ("Monitoring Metrics Publisher", "shop-state-4711"),
        ("Key Vault Secrets User", "shop-state-4711"),
        ("Key Vault Secrets Officer", "shop-state-4711"),
    }


@each_tool
def test_the_function_app_runs_on_flex_consumption_with_its_identity_everywhere(tool: Tool) -> None:
    prediction = server_with_task_hubs(tool)
    identity = prediction.find("Microsoft.ManagedIdentity/userAssignedIdentities")["id"]
    site = prediction.find("Microsoft.Web/sites")
    assert prediction.find("Microsoft.Web/serverfarms")["sku"] == {"name": "FC1", "tier": "FlexConsumption"}
    assert set(site["identity"]["userAssignedIdentities"]) == {identity}
    assert site["properties"]["keyVaultReferenceIdentity"] == identity
    authentication = site["properties"]["functionAppConfig"]["deployment"]["storage"]["authentication"]
    assert authentication == {"type": "UserAssignedIdentity", "userAssignedIdentityResourceId": identity}
    assert "appSettings" not in site["properties"]["siteConfig"]


@each_tool
def test_a_new_server_reads_no_task_hubs_and_sends_alerts_to_no_address(tool: Tool) -> None:
    prediction = predict_server(tool, SERVER)
    assert not prediction.find_all("Microsoft.Insights/actionGroups")
    assert {
        alert["properties"]["actions"] == [] for alert in prediction.find_all("Microsoft.Insights/metricAlerts")
    } == {True}
    settings = prediction.app_settings()
    assert settings is not None
    assert not [name for name in settings if name.startswith("STATE_TASKHUBS_")]


@each_tool
def test_a_second_deployment_keeps_what_an_operator_has_set(tool: Tool) -> None:
    changed = {
        **settings_with_task_hubs(tool),
        "STATE_KEYS": "@Microsoft.KeyVault(SecretUri=https://shop-state-4711.vault.azure.net/secrets/state-keys/2)",
        "STATE_SHARDS": "4",
        "AzureWebJobsDisableHomepage": "false",
    }
    parameters = {**SERVER, "guardedTaskHubs": TASK_HUBS}
    settings = predict_server(tool, parameters, {PRODUCTION_SETTINGS: changed}).app_settings()
    assert settings == {**changed, "AzureWebJobsDisableHomepage": "true"}


@each_tool
def test_a_second_deployment_without_a_change_writes_no_settings(tool: Tool) -> None:
    current = {PRODUCTION_SETTINGS: {**settings_with_task_hubs(tool), "STATE_SHARDS": "4"}}
    assert predict_server(tool, {**SERVER, "guardedTaskHubs": TASK_HUBS}, current).app_settings() is None


@each_tool
def test_a_connection_that_the_server_would_refuse_is_refused(tool: Tool) -> None:
    hubs = [{**TASK_HUBS[0], "connection": "SHOP"}]
    message = "connection SHOP: the name must begin with STATE_TASKHUBS_"
    with pytest.raises((AssertionError, ProgramFailedError), match=message):
        predict_server(tool, {**SERVER, "guardedTaskHubs": hubs})


@each_tool
def test_alerts_watch_every_way_in_which_an_event_is_lost(tool: Tool) -> None:
    prediction = server_with_task_hubs(tool)
    topic = prediction.find("Microsoft.EventGrid/topics")["id"]
    alerts = prediction.find_all("Microsoft.Insights/metricAlerts")
    assert {alert["properties"]["criteria"]["allOf"][0]["metricName"] for alert in alerts} == {
        "DroppedEventCount",
        "DeadLetteredCount",
        "DeliveryAttemptFailCount",
        "PublishFailCount",
    }
    group = prediction.find("Microsoft.Insights/actionGroups")
    assert group["properties"]["emailReceivers"][0]["emailAddress"] == "operators@example.com"
    for alert in alerts:
        assert alert["properties"]["scopes"] == [topic]
        assert alert["properties"]["actions"] == [{"actionGroupId": group["id"]}]


def subscription_properties(tool: Tool) -> dict[str, Any]:
    """The properties of the event subscription."""
    parameters = {"stateApp": "shop-state-4711", "topic": "shop-lifecycle-4711", "storageAccount": "shopstate4711"}
    prediction = predict_subscription(tool, parameters, SERVER)
    properties: dict[str, Any] = prediction.find("Microsoft.EventGrid/topics/eventSubscriptions")["properties"]
    return properties


@each_tool
def test_events_are_delivered_as_the_page_says(tool: Tool) -> None:
    page = AZURE.read_text()
    properties = subscription_properties(tool)
    assert properties["destination"]["properties"]["resourceId"].endswith(
        "/sites/shop-state-4711/functions/RecordLifecycleEvent"
    )
    assert properties["destination"]["properties"]["maxEventsPerBatch"] == 1
    attempts, minutes = (
        properties["retryPolicy"][name] for name in ("maxDeliveryAttempts", "eventTimeToLiveInMinutes")
    )
    assert f"--max-delivery-attempts {attempts} --event-ttl {minutes}" in page
    (event_type,) = properties["filter"]["includedEventTypes"]
    assert f"--included-event-types {event_type}" in page
    assert properties["eventDeliverySchema"].lower() in page


@each_tool
def test_what_is_not_delivered_goes_to_a_container_that_the_topic_may_write(tool: Tool) -> None:
    dead_letters = subscription_properties(tool)["deadLetterWithResourceIdentity"]
    assert dead_letters["identity"] == {"type": "SystemAssigned"}
    container = dead_letters["deadLetterDestination"]["properties"]["blobContainerName"]
    prediction = server_with_task_hubs(tool)
    assert prediction.find("Microsoft.EventGrid/topics")["identity"] == {"type": "SystemAssigned"}
    assert prediction.find("Microsoft.Storage/storageAccounts/blobServices/containers", f"/{container}")
    assert ("Storage Blob Data Contributor", container) in assigned_roles(prediction)


def test_every_parameter_can_be_set_by_an_environment_variable() -> None:
    assigned = set(re.findall(r"^param (\w+) =", (INFRA / "main.bicepparam").read_text(), re.MULTILINE))
    assert assigned == set(compile_template("main.bicep")["parameters"]) - {"pythonVersion"}


def test_the_hooks_and_the_pages_get_every_name_from_the_outputs() -> None:
    outputs = set(compile_template("main.bicep")["outputs"])
    scripts = "".join((Path(INFRA) / name).read_text() for name in ("subscribe.sh", "create-keys.sh"))
    used = set(re.findall(r'"\$(\w+)"', scripts))
    assert {name for name in used if name.isupper()} - {"AZURE_SUBSCRIPTION_ID"} <= outputs
