"""What `safe-deploy` asks `az` about Event Grid and the server: other output than expected ends in a message."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from safe_deploy.azure_cli import AzureCli, AzureUnavailable
from safe_deploy.azure_event_grid import EventGrid, Topic
from safe_deploy.azure_slots import DeploymentSlots, FunctionAppTarget
from safe_deploy.azure_state_server import AzureStateServer, ServerFunctionApp

TOPIC = Topic(id="/topic", name="shop-topic", resource_group="state-rg", endpoint="https://topic.example")
APP = ServerFunctionApp(id="/app", name="shop-state", resource_group="state-rg")
SLOTS = DeploymentSlots(
    FunctionAppTarget(resource_group="shop-rg", function_app="shop", task_hub_setting="TASK_HUB"),
)

CALLS: dict[str, Callable[[], Any]] = {
    "find_topic": lambda: EventGrid(AzureCli()).find_topic("https://topic.example"),
    "list_topics": lambda: EventGrid(AzureCli()).list_topics("state-rg"),
    "list_subscriptions": lambda: EventGrid(AzureCli()).list_subscriptions(TOPIC),
    "get_key": lambda: EventGrid(AzureCli()).get_key(TOPIC),
    "get_token": lambda: EventGrid(AzureCli()).get_token(),
    "find": lambda: AzureStateServer(AzureCli(), "https://shop-state.example").find(),
    "list_identities": lambda: AzureStateServer(AzureCli(), "").list_identities(APP),
    "list_storage_accounts": lambda: AzureStateServer(AzureCli(), "").list_storage_accounts(),
    "get_host_names": lambda: SLOTS.get_host_names("production"),
    "make_task_hub_setting_movable": SLOTS.make_task_hub_setting_movable,
}
"""The methods that run `az`."""

UNEXPECTED: list[Any] = [
    *("", "null", "[]", '"text"', "no JSON: a-secret"),
    *({"topics": 1}, {"topics": [None]}, {"topics": [{"id": 1, "name": 2, "group": None, "endpoint": 3}]}),
    *({"subscriptions": None}, {"subscriptions": [{"name": 1, "filter": 2}]}, {"subscriptions": ["a-secret"]}),
    *({"key": None}, {"key": ""}, {"key": ["a-secret"]}, {"key": "a-secret\nX-Header: 1"}, {"token": 1}),
    *({"apps": {}}, {"apps": [1]}, {"apps": [{"host": 1, "nestedHost": None, "hosts": 1, "nested": None}]}),
    *({"userAssignedIdentities": [1]}, {"userAssignedIdentities": {"a": 1}}),
    *({"accounts": [{}]}, {"accounts": "a-secret"}, {"host": 1}, {"hosts": [1]}),
    *({"properties": "a-secret"}, {"properties": {"appSettingNames": [1]}}, {"properties": {"appSettingNames": "a"}}),
]


def let_az_print(monkeypatch: pytest.MonkeyPatch, code: int, stdout: str, stderr: str = "") -> None:
    """Replace the program `az` by one that ends like this. A process for each call would take minutes."""
    monkeypatch.setattr(AzureCli, "_run", lambda *arguments: (code, stdout, stderr))


def call_or_explain(method: str) -> str:
    """The message of the error, empty if the method has taken the output for its own."""
    try:
        CALLS[method]()
    except AzureUnavailable as error:
        return error.message
    return ""


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("output", [text if isinstance(text, str) else json.dumps(text) for text in UNEXPECTED])
def test_unexpected_output_ends_in_a_message_without_it(
    method: str, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has the wrong form for another command can be right here: then the method returns."""
    let_az_print(monkeypatch, 0, output)
    assert "a-secret" not in call_or_explain(method)


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        ("Please run 'az login' to setup account.", 1, "az is not logged in"),
        ("(AuthorizationFailed) no\nCode: AuthorizationFailed", 1, "az is not allowed to "),
        ("(ResourceNotFound) no\nCode: ResourceNotFound", 3, "Azure has no "),
        ("(TooManyRequests) a-secret\nCode: TooManyRequests", 1, "az failed with exit code 1 TooManyRequests"),
    ],
)
def test_a_failure_of_az_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, *, method: str, message: str, code: int, text: str
) -> None:
    let_az_print(monkeypatch, code, "", f"ERROR: {message}")
    explanation = call_or_explain(method)
    assert text in explanation
    assert "a-secret" not in explanation
