"""Guarded durable apps, as Bicep and Pulumi set them up: a second run gives no slot an old task hub name back."""

import functools
import re
from typing import Any

import pytest

from tests.documents.page_tables import AZURE
from tests.infra.bicep import (
    CLIENT_ID,
    PRODUCTION_RUNTIME,
    PRODUCTION_SETTINGS,
    SCHEDULER_ENDPOINT,
    STAGING_RUNTIME,
    STAGING_SETTINGS,
    TOPIC_ENDPOINT,
    TOPIC_KEY,
    Prediction,
)
from tests.infra.pulumi_programs import ProgramFailedError
from tests.infra.roles import ROLE_NAMES
from tests.infra.tools import Tool, each_tool, predict_release, predict_shared, predict_slots

SLOTS = {
    "name": "shop-4711",
    "storageAccount": "shopdurable4711",
    "taskHub": "v41",
    "stagingTaskHub": "v40",
    "functionsDisabledInStaging": ["NightlyTimer"],
    "topic": "shop-lifecycle-4711",
    "topicResourceGroup": "shop-state",
}
RELEASE = {
    "name": "shop-150",
    "identity": "shop-4711",
    "storageAccount": "shopdurable4711",
    "taskHub": "shop150",
    "routerAddresses": ["203.0.113.7/32"],
    "quiesceFunctions": ["Nightly"],
}
DISABLED_IN_STAGING = "AzureWebJobs.NightlyTimer.Disabled"
Settings = dict[str, str]


@functools.cache
def new_app_with_slots(tool: Tool) -> Prediction:
    """What a tool creates for an app that is new."""
    return predict_slots(tool, SLOTS)


def new_slot_settings(tool: Tool) -> tuple[Settings, Settings]:
    """The settings of production and of the staging slot after the first deployment."""
    production, staging = new_app_with_slots(tool).app_settings(), new_app_with_slots(tool).app_settings("staging")
    assert production is not None
    assert staging is not None
    return dict(production), dict(staging)


def swap(tool: Tool, production: Settings, staging: Settings) -> tuple[Settings, Settings]:
    """Swap two slots as Azure does: all settings move but the sticky ones, which stay with their slot."""
    sticky = set(
        new_app_with_slots(tool).find("Microsoft.Web/sites/config", "/slotConfigNames")["properties"]["appSettingNames"]
    )

    def merge(kept: Settings, moved: Settings) -> Settings:
        return {name: value for name, value in kept.items() if name in sticky} | {
            name: value for name, value in moved.items() if name not in sticky
        }

    return merge(production, staging), merge(staging, production)


def slots_with(production: Settings, staging: Settings, *, production_runtime: str = "PYTHON|3.13") -> dict[str, Any]:
    """The state of Azure for an evaluation."""
    return {
        PRODUCTION_SETTINGS: production,
        STAGING_SETTINGS: staging,
        PRODUCTION_RUNTIME: production_runtime,
        STAGING_RUNTIME: "PYTHON|3.13",
    }


@each_tool
def test_new_slots_have_a_task_hub_each_and_the_settings_of_the_page(tool: Tool) -> None:
    production, staging = new_slot_settings(tool)
    assert (production["TASK_HUB"], staging["TASK_HUB"]) == ("v41", "v40")
    for settings in (production, staging):
        assert settings["WEBSITE_ADD_SITENAME_BINDINGS_IN_APPHOST_CONFIG"] == "1"
        assert settings["LIFECYCLE_TOPIC_ENDPOINT"] == TOPIC_ENDPOINT
        assert settings["LIFECYCLE_TOPIC_KEY"] == TOPIC_KEY
        assert settings["AzureWebJobsStorage__clientId"] == CLIENT_ID
        assert not {"AzureWebJobsStorage", "WEBSITE_CONTENTAZUREFILECONNECTIONSTRING"} & settings.keys()
    assert staging[DISABLED_IN_STAGING] == "true"
    assert DISABLED_IN_STAGING not in production
    page = set(re.findall(r"\b(TASK_HUB|LIFECYCLE_TOPIC_\w+|WEBSITE_ADD_SITENAME\w+)(?==)", AZURE.read_text()))
    assert page <= production.keys()


@each_tool
def test_deploying_the_templates_again_after_a_release_writes_no_app_settings(tool: Tool) -> None:
    production, staging = new_slot_settings(tool)
    # What the pipeline does: it stages the release with a new task hub, and swaps.
    staging |= {"TASK_HUB": "v42", "WEBSITE_RUN_FROM_PACKAGE": "1"}
    production, staging = swap(tool, production, staging)
    assert (production["TASK_HUB"], staging["TASK_HUB"]) == ("v42", "v41")
    assert (DISABLED_IN_STAGING in production, DISABLED_IN_STAGING in staging) == (False, True)
    prediction = predict_slots(tool, SLOTS, slots_with(production, staging))
    assert (prediction.app_settings(), prediction.app_settings("staging")) == (None, None)


@each_tool
def test_a_change_of_the_templates_own_settings_keeps_task_hubs_and_all_other_settings(tool: Tool) -> None:
    production, staging = new_slot_settings(tool)
    staging |= {"TASK_HUB": "v42", "FEATURE": "on"}
    production, staging = swap(tool, production, staging)
    old_key = {"LIFECYCLE_TOPIC_KEY": "old-key"}
    prediction = predict_slots(tool, SLOTS, slots_with(production | old_key, staging | old_key))
    assert prediction.app_settings() == production
    assert prediction.app_settings("staging") == staging


@each_tool
def test_a_runtime_version_that_was_swapped_is_kept(tool: Tool) -> None:
    state = slots_with(*new_slot_settings(tool), production_runtime="PYTHON|3.14")
    prediction = predict_slots(tool, SLOTS, state)
    names = {
        resource["name"]
        for kind in ("sites", "sites/slots")
        for resource in prediction.find_all(f"Microsoft.Web/{kind}/config")
    }
    assert not [name for name in names if name.endswith("/web")]
    for kind in ("Microsoft.Web/sites", "Microsoft.Web/sites/slots"):
        assert "linuxFxVersion" not in prediction.find(kind)["properties"]["siteConfig"]


@each_tool
def test_new_slots_get_the_runtime_version(tool: Tool) -> None:
    versions = [
        resource["properties"]["linuxFxVersion"]
        for kind in ("sites", "sites/slots")
        for resource in new_app_with_slots(tool).find_all(f"Microsoft.Web/{kind}/config")
        if resource["name"].endswith("/web")
    ]
    assert versions == ["PYTHON|3.13", "PYTHON|3.13"]


@each_tool
def test_the_template_owns_nothing_that_differs_between_the_slots_and_moves(tool: Tool) -> None:
    production, staging = new_slot_settings(tool)
    assert staging.items() ^ production.items() == {
        ("TASK_HUB", "v41"),
        ("TASK_HUB", "v40"),
        (DISABLED_IN_STAGING, "true"),
    }
    site, slot = (new_app_with_slots(tool).find(kind) for kind in ("Microsoft.Web/sites", "Microsoft.Web/sites/slots"))
    assert site["properties"] == slot["properties"]
    assert site["identity"] == slot["identity"]
    assert "appSettings" not in site["properties"]["siteConfig"]
    # A slot must not be stopped before its task hub has drained.
    assert "enabled" not in site["properties"]


@each_tool
def test_the_task_hub_is_not_sticky(tool: Tool) -> None:
    sticky = new_app_with_slots(tool).find("Microsoft.Web/sites/config", "/slotConfigNames")
    assert sticky["properties"] == {"appSettingNames": [DISABLED_IN_STAGING]}


@pytest.mark.parametrize("name", ["v41", "V41"])
@each_tool
def test_two_slots_with_one_task_hub_are_refused(tool: Tool, name: str) -> None:
    with pytest.raises(
        (AssertionError, ProgramFailedError), match="the staging slot must not have the task hub v41 of production"
    ):
        predict_slots(tool, {**SLOTS, "stagingTaskHub": name})


@each_tool
def test_an_app_without_a_topic_publishes_nothing(tool: Tool) -> None:
    settings = predict_slots(tool, {**SLOTS, "topic": ""}).app_settings()
    assert settings is not None
    assert not [name for name in settings if name.startswith("LIFECYCLE_")]


@each_tool
def test_the_apps_identity_may_use_its_task_hubs_and_nothing_else(tool: Tool) -> None:
    roles = {(ROLE_NAMES[role], resource) for role, resource in new_app_with_slots(tool).roles()}
    assert roles == {
        ("Storage Blob Data Owner", "shopdurable4711"),
        ("Storage Queue Data Contributor", "shopdurable4711"),
        ("Storage Table Data Contributor", "shopdurable4711"),
    }


@functools.cache
def new_release(tool: Tool) -> Prediction:
    """What a tool creates for a release."""
    return predict_release(tool, RELEASE)


@each_tool
def test_a_release_has_a_plan_a_container_and_a_task_hub_of_its_own(tool: Tool) -> None:
    prediction = new_release(tool)
    assert prediction.find("Microsoft.Web/serverfarms")["sku"] == {"name": "FC1", "tier": "FlexConsumption"}
    assert {prediction.find(kind)["name"] for kind in ("Microsoft.Web/serverfarms", "Microsoft.Web/sites")} == {
        "shop-150"
    }
    assert prediction.find("Microsoft.Storage/storageAccounts/blobServices/containers", "/shop-150")
    settings = prediction.app_settings()
    assert settings is not None
    assert settings["TASK_HUB"] == "shop150"
    assert not {"FUNCTIONS_WORKER_RUNTIME", "FUNCTIONS_EXTENSION_VERSION"} & settings.keys(), (
        "Flex Consumption refuses them"
    )


@each_tool
def test_only_the_router_may_call_a_release(tool: Tool) -> None:
    configuration = new_release(tool).find("Microsoft.Web/sites")["properties"]["siteConfig"]
    assert configuration["ipSecurityRestrictionsDefaultAction"] == "Deny"
    assert [rule["ipAddress"] for rule in configuration["ipSecurityRestrictions"]] == ["203.0.113.7/32"]


@each_tool
def test_functions_that_a_promotion_has_enabled_stay_enabled(tool: Tool) -> None:
    settings = new_release(tool).app_settings()
    assert settings is not None
    assert settings["AzureWebJobs.Nightly.Disabled"] == "true"
    promoted = {**settings, "AzureWebJobs.Nightly.Disabled": "false"}
    assert predict_release(tool, RELEASE, {PRODUCTION_SETTINGS: promoted}).app_settings() is None


@each_tool
def test_a_release_on_a_scheduler_may_use_it(tool: Tool) -> None:
    prediction = predict_release(tool, {**RELEASE, "scheduler": "shop-scheduler"})
    settings = prediction.app_settings()
    assert settings is not None
    assert settings["DURABLE_TASK_SCHEDULER_CONNECTION_STRING"] == (
        f"Endpoint={SCHEDULER_ENDPOINT};Authentication=ManagedIdentity;ClientID={CLIENT_ID}"
    )
    parameters = {"name": "shop-4711", "storageAccount": "shopdurable4711", "scheduler": "shop-scheduler"}
    assert ("Durable Task Data Contributor", "shop-scheduler") in {
        (ROLE_NAMES[role], resource) for role, resource in predict_shared(tool, parameters).roles()
    }


def test_the_template_creates_the_task_hub_on_the_scheduler_if_it_is_missing() -> None:
    """Pulumi must not: it refuses to create what `safe-deploy release` has created, and retirement deletes it."""
    prediction = predict_release(Tool.BICEP, {**RELEASE, "scheduler": "shop-scheduler"})
    assert prediction.find("Microsoft.DurableTask/schedulers/taskHubs")["name"] == "shop-scheduler/shop150"


@each_tool
def test_a_release_on_azure_storage_needs_no_scheduler(tool: Tool) -> None:
    assert not new_release(tool).find_all("Microsoft.DurableTask/schedulers/taskHubs")
    settings = new_release(tool).app_settings()
    assert settings is not None
    assert "DURABLE_TASK_SCHEDULER_CONNECTION_STRING" not in settings
