"""The settings of the management API: addresses that will do, keys that can be sent, and a connection's name."""

import pytest

from state_api.settings import Connections, SettingsError
from state_api.taskhubs.management_api import ManagementApiBackend, management_api_of
from tests.taskhubs.management_app import HUB, KEY, NAME, App, app, no_key_in_the_log

__all__ = ["app", "no_key_in_the_log"]  # fixtures

pytestmark = pytest.mark.anyio


def test_the_key_does_not_show_in_a_backend() -> None:
    backend = ManagementApiBackend("https://app.example", KEY, NAME)
    assert KEY not in f"{backend!r} {backend!s} {vars(backend)!r}"


GOOD = {f"{NAME}__endpoint": "https://app.example", f"{NAME}__key": KEY}


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
def test_addresses_that_will_do(endpoint: str) -> None:
    management_api_of(Connections({**GOOD, f"{NAME}__endpoint": endpoint}), NAME)


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
def test_addresses_that_will_not_do(endpoint: str) -> None:
    with pytest.raises(SettingsError, match=f"{NAME}__endpoint must") as caught:
        management_api_of(Connections({**GOOD, f"{NAME}__endpoint": endpoint}), NAME)
    assert "pass-w0rd" not in str(caught.value)
    if endpoint.startswith("http://"):
        assert "because the key travels in every request" in str(caught.value)


@pytest.mark.parametrize("lacking", ["endpoint", "key"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_setting_that_is_missing_is_named(lacking: str, value: str | None) -> None:
    settings = {name: text for name, text in GOOD.items() if not name.endswith(lacking)}
    if value is not None:
        settings[f"{NAME}__{lacking}"] = value
    with pytest.raises(SettingsError, match=f"the setting {NAME}__{lacking} is not set on this server") as caught:
        management_api_of(Connections(settings), NAME)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_named(key: str) -> None:
    with pytest.raises(SettingsError, match=f"{NAME}__key must be") as caught:
        management_api_of(Connections({**GOOD, f"{NAME}__key": key}), NAME)
    assert key not in str(caught.value)


async def test_a_connection_string_is_not_sent_to_the_app(app: App) -> None:
    setting = f"{NAME}__storageConnection"
    with pytest.raises(SettingsError, match=f"{setting} must be the name") as caught:
        management_api_of(Connections({**GOOD, setting: "AccountName=a;AccountKey=pass-w0rd=="}), NAME)
    assert "pass-w0rd" not in str(caught.value)
    app.connection = "OrdersStorage"
    settings = {**GOOD, f"{NAME}__endpoint": app.origin, setting: "OrdersStorage"}
    backend = management_api_of(Connections(settings), NAME)
    await backend.start(HUB)
    await backend.close()
