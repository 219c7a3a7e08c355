"""What is changed in a host.json, and what stays."""

import json
from typing import Any

import pytest

from harness.state_server import ROOT
from safe_deploy.setup.host_json import change_host_json, find_provider, read_host_json
from safe_deploy.setup.json_text import JsonTextError
from safe_deploy.setup.pipeline_settings import DeploymentModel
from safe_deploy.setup.policy_file import build_policy, parse_policy


def host_json(durable_task: dict[str, Any] | None = None) -> str:
    """A host.json with these settings of the durable extension."""
    return json.dumps({"version": "2.0", "extensions": {"durableTask": durable_task or {}}}, indent=2)


def event_grid(text: str) -> dict[str, Any]:
    """The settings of lifecycle events in a host.json."""
    settings: dict[str, Any] = json.loads(text)["extensions"]["durableTask"]["notifications"]["eventGrid"]
    return settings


def test_the_host_json_of_the_sample_app_needs_no_change() -> None:
    text = (ROOT / "durable_app" / "host.json").read_text()
    assert change_host_json(text, task_hub_setting="TASK_HUB").text == text
    assert read_host_json(text).task_hub_setting == "TASK_HUB"


def test_a_second_change_changes_nothing() -> None:
    changed = change_host_json(host_json(), task_hub_setting="TASK_HUB").text
    assert change_host_json(changed, task_hub_setting="TASK_HUB").text == changed


@pytest.mark.parametrize(
    ("hub_name", "setting"), [("%SHOP_HUB%", "SHOP_HUB"), ("Shop", None), ("%A%B%", None), (5, None)]
)
def test_the_setting_of_the_task_hub_is_known_only_from_a_reference(hub_name: object, setting: str | None) -> None:
    assert read_host_json(host_json({"hubName": hub_name})).task_hub_setting == setting


def test_settings_of_lifecycle_events_stay_and_missing_ones_are_added() -> None:
    own = {"topicEndpoint": "https://topic.example/api/events", "keySettingName": "MY_KEY", "publishRetryCount": 7}
    change = change_host_json(host_json({"notifications": {"eventGrid": own}}), task_hub_setting=None)
    assert event_grid(change.text) == own | {
        "publishRetryInterval": "00:00:00.500",
        "publishRetryHttpStatus": [408, 429, 500, 502, 503, 504],
    }
    assert ["subscribed to that topic" in remark for remark in change.remarks] == [True]


def test_event_types_that_leave_something_out_are_a_remark() -> None:
    own = {"publishEventTypes": ["Started", "Completed", "Failed"]}
    change = change_host_json(host_json({"notifications": {"eventGrid": own}}), task_hub_setting=None)
    assert event_grid(change.text)["publishEventTypes"] == own["publishEventTypes"]
    assert ["publishEventTypes" in remark for remark in change.remarks] == [True]
    assert event_grid(change.text)["topicEndpoint"] == "%LIFECYCLE_TOPIC_ENDPOINT%"


def test_the_name_of_the_task_hub_is_changed_only_on_demand() -> None:
    text = host_json({"hubName": "Shop"})
    assert '"hubName": "Shop"' in change_host_json(text, task_hub_setting=None).text
    assert '"hubName": "%TASK_HUB%"' in change_host_json(text, task_hub_setting="TASK_HUB").text


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": "1.0"}'])
def test_a_host_json_that_the_host_could_not_read_is_refused(text: str) -> None:
    with pytest.raises(JsonTextError):
        read_host_json(text)


@pytest.mark.parametrize(("durable_task"), [{"notifications": {"eventGrid": "on"}}, {"notifications": "on"}])
def test_notifications_settings_in_host_json_that_are_no_objects_are_refused(durable_task: dict[str, Any]) -> None:
    with pytest.raises(JsonTextError, match="is no object"):
        change_host_json(host_json(durable_task), task_hub_setting=None)


@pytest.mark.parametrize(
    ("timeout", "seconds"), [("00:10:00", 600), ("01:00:00.5", 3600), ("00:05:00", None), ("soon", None)]
)
def test_the_policy_has_the_visibility_timeout_of_the_host_json(timeout: str, seconds: int | None) -> None:
    """The server assumes 5 minutes otherwise."""
    text = host_json({"storageProvider": {"controlQueueVisibilityTimeout": timeout}})
    policy = build_policy(DeploymentModel.SIDE_BY_SIDE, text)
    assert policy == {"requireVerification": True} | ({"messageVisibilitySeconds": seconds} if seconds else {})


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_a_policy_file_that_cannot_be_read_is_empty(text: str) -> None:
    assert parse_policy(text) == {}


@pytest.mark.parametrize(
    ("storage", "provider"),
    [({}, "azureStorage"), ({"type": "azureManaged"}, "scheduler"), ({"type": "AzureStorage"}, "azureStorage")],
)
def test_the_provider_of_the_task_hubs_is_read(storage: dict[str, str], provider: str) -> None:
    assert find_provider(host_json({"storageProvider": storage})) == provider
