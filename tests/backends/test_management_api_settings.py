"""The settings of the management API: valid addresses, keys that can be sent, and the name of a connection."""

import pytest

from state_api.backends.management_api import ManagementApiBackend, create_management_api_backend
from state_api.backends.management_api_client import ManagementApiClient
from state_api.settings import SettingsError, TaskHubConnections
from tests.backends.fake_function_app import (
    CONNECTION_NAME,
    HUB,
    SYSTEM_KEY,
    FakeFunctionApp,
    fail_if_the_key_is_logged,
    function_app,
)

__all__ = ["fail_if_the_key_is_logged", "function_app"]  # fixtures

pytestmark = pytest.mark.anyio


def test_the_key_does_not_show_in_a_backend() -> None:
    client = ManagementApiClient("https://app.example", SYSTEM_KEY, CONNECTION_NAME)
    for holder in (client, ManagementApiBackend(client)):
        assert SYSTEM_KEY not in f"{holder!r} {holder!s} {vars(holder)!r}"


VALID_SETTINGS = {f"{CONNECTION_NAME}__endpoint": "https://app.example", f"{CONNECTION_NAME}__key": SYSTEM_KEY}


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://app.azurewebsites.net",
        "https://app.azurewebsites.net/",
        "HTTPS://App.example:8443/behind/gateway",
        "http://localhost:7071",
        "http://127.0.0.2:7071/",
        "http://[::1]:7071",
        "https://[2001:db8::1]",
    ],
)
def test_a_valid_address_is_accepted(endpoint: str) -> None:
    create_management_api_backend(
        TaskHubConnections({**VALID_SETTINGS, f"{CONNECTION_NAME}__endpoint": endpoint}), CONNECTION_NAME
    )


@pytest.mark.parametrize(
    "endpoint",
    [
        "app.example",
        "ftp://app.example",
        "https://",
        "https:///path",
        "https://user:pass-w0rd@app.example",
        "https://app.example?code=pass-w0rd",
        "https://app.example/#pass-w0rd",
        "https://app.example:99999",
        "https://app.example:port",
        "https://app.example\\@pass-w0rd",
        "https://app example",
        "https://app.example/../pass-w0rd%2f",
        " https://app.example",
        "https://app.example\n",
        "http://app.example",
        "http://127.0.0.1.example",
        "http://localhost.example",
        "http://10.0.0.1",
    ],
)
def test_an_invalid_address_is_refused_without_showing_it(endpoint: str) -> None:
    with pytest.raises(SettingsError, match=f"{CONNECTION_NAME}__endpoint must") as caught:
        create_management_api_backend(
            TaskHubConnections({**VALID_SETTINGS, f"{CONNECTION_NAME}__endpoint": endpoint}), CONNECTION_NAME
        )
    assert "pass-w0rd" not in str(caught.value)
    if endpoint.startswith("http://"):
        assert "because each request contains the key" in str(caught.value)


@pytest.mark.parametrize("missing", ["endpoint", "key"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_setting_is_named(missing: str, value: str | None) -> None:
    settings = {name: text for name, text in VALID_SETTINGS.items() if not name.endswith(missing)}
    if value is not None:
        settings[f"{CONNECTION_NAME}__{missing}"] = value
    with pytest.raises(
        SettingsError, match=f"the setting {CONNECTION_NAME}__{missing} is not set on this server"
    ) as caught:
        create_management_api_backend(TaskHubConnections(settings), CONNECTION_NAME)
    assert SYSTEM_KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(SettingsError, match=f"{CONNECTION_NAME}__key must be") as caught:
        create_management_api_backend(
            TaskHubConnections({**VALID_SETTINGS, f"{CONNECTION_NAME}__key": key}), CONNECTION_NAME
        )
    assert key not in str(caught.value)


async def test_a_connection_string_is_not_sent_to_the_app(function_app: FakeFunctionApp) -> None:
    setting = f"{CONNECTION_NAME}__storageConnection"
    with pytest.raises(SettingsError, match=f"{setting} must be the name") as caught:
        create_management_api_backend(
            TaskHubConnections({**VALID_SETTINGS, setting: "AccountName=a;AccountKey=pass-w0rd=="}), CONNECTION_NAME
        )
    assert "pass-w0rd" not in str(caught.value)
    function_app.connection = "OrdersStorage"
    settings = {**VALID_SETTINGS, f"{CONNECTION_NAME}__endpoint": function_app.origin, setting: "OrdersStorage"}
    backend = create_management_api_backend(TaskHubConnections(settings), CONNECTION_NAME)
    await backend.begin_scan(HUB)
    await backend.close()
