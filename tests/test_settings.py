"""Settings from environment variables: which are read, which takes precedence, and the error when one is wrong."""

import json
import re

import pytest

from state_api.__main__ import check_exposure
from state_api.settings import (
    Role,
    Settings,
    SettingsError,
    TaskHubConnections,
    emulator_connection_string,
    read_settings,
    sha256_of,
)

CONNECTION = "DefaultEndpointsProtocol=https;AccountName=state;AccountKey=c2VjcmV0;EndpointSuffix=core.windows.net"
OTHER_CONNECTION = CONNECTION.replace("state", "jobs")
URI = "https://state.table.core.windows.net"
KEY = {"name": "ci", "role": "deployer", "sha256": "0123456789abcdef" * 4}


def test_state_storage_takes_precedence_over_the_storage_of_the_functions_host() -> None:
    settings = read_settings({"STATE_STORAGE": CONNECTION, "AzureWebJobsStorage": OTHER_CONNECTION})
    assert settings.storage.connection_string is not None
    assert settings.storage.connection_string.get_secret_value() == CONNECTION


def test_the_storage_of_the_functions_host_is_used_if_no_other_is_set() -> None:
    settings = read_settings({"AzureWebJobsStorage": OTHER_CONNECTION})
    assert settings.storage.connection_string is not None
    assert settings.storage.connection_string.get_secret_value() == OTHER_CONNECTION


@pytest.mark.parametrize("text", ["UseDevelopmentStorage=true", "usedevelopmentstorage=TRUE;"])
def test_development_storage_is_the_emulator_on_its_default_ports(text: str) -> None:
    storage = read_settings({"STATE_STORAGE": text}).storage
    assert storage.uses_development_storage
    assert storage.connection_string is not None
    assert storage.connection_string.get_secret_value() == emulator_connection_string(
        "127.0.0.1", 10002, queue_port=10001, blob_port=10000
    )


@pytest.mark.parametrize(
    ("environment", "uri", "client_id"),
    [
        ({"STATE_STORAGE__tableServiceUri": URI}, URI, None),
        ({"STATE_STORAGE__tableServiceUri": URI, "STATE_STORAGE__clientId": "id"}, URI, "id"),
        ({"AzureWebJobsStorage__tableServiceUri": URI}, URI, None),
        ({"AzureWebJobsStorage__accountName": "jobs"}, "https://jobs.table.core.windows.net", None),
        ({"STATE_STORAGE__tableServiceUri": URI, "AzureWebJobsStorage": OTHER_CONNECTION}, URI, None),
    ],
)
def test_a_managed_identity_needs_only_an_address(environment: dict[str, str], uri: str, client_id: str | None) -> None:
    storage = read_settings(environment).storage
    assert (storage.table_service_uri, storage.client_id, storage.connection_string) == (uri, client_id, None)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "no state storage is set: set STATE_STORAGE"),
        ({"STATE_STORAGE": "secret-nonsense"}, "STATE_STORAGE is not a storage connection string"),
        ({"STATE_STORAGE__tableServiceUri": "state"}, "must be the address of a table service"),
        ({"STATE_STORAGE__tableServiceUri": f"{URI}?sig=secret"}, "without a signature"),
        ({"AzureWebJobsStorage__accountName": "No Account"}, "must be the name of a storage account"),
        ({"STATE_STORAGE": CONNECTION, "STATE_SHARDS": "0"}, "STATE_SHARDS must be a number from 1 to 64"),
        ({"STATE_STORAGE": CONNECTION, "STATE_SHARDS": "four"}, "STATE_SHARDS must be a number from 1 to 64"),
        ({"STATE_STORAGE": CONNECTION, "STATE_SHARDS": "65"}, "STATE_SHARDS must be a number from 1 to 64"),
        ({"STATE_STORAGE": CONNECTION, "STATE_KEYS": "secret"}, "STATE_KEYS must be a JSON list"),
        ({"STATE_STORAGE": CONNECTION, "STATE_KEYS": json.dumps([KEY | {"role": "king"}])}, "0.role"),
        ({"STATE_STORAGE": CONNECTION, "STATE_KEYS": json.dumps([KEY | {"sha256": "secret"}])}, "0.sha256"),
        ({"STATE_STORAGE": CONNECTION, "STATE_KEYS": json.dumps([KEY | {"name": "a b"}])}, "0.name"),
        (
            {"STATE_STORAGE": CONNECTION, "STATE_KEYS": json.dumps([KEY, KEY])},
            "STATE_KEYS has two entries with the same name",
        ),
        (
            {"STATE_STORAGE": CONNECTION, "STATE_KEYS": json.dumps([KEY, KEY | {"name": "other", "role": "reader"}])},
            "two entries with the same key",
        ),
        (
            {
                "STATE_STORAGE": CONNECTION,
                "STATE_KEYS": json.dumps([{"name": "ci", "role": "reader", "key": "secret"}]),
            },
            "put its SHA-256 into the member sha256 instead. Make a new key and its entry with `safe-deploy keys new`",
        ),
        ({"STATE_STORAGE": CONNECTION, "STATE_KEYS": json.dumps([KEY | {"apps": []}])}, "0.apps"),
        ({"STATE_STORAGE": CONNECTION, "STATE_KEYS": json.dumps([KEY | {"apps": ["no app"]}])}, "0.apps.0"),
        (
            {"STATE_STORAGE": CONNECTION, "STATE_KEYS": json.dumps([KEY | {"apps": None}])},
            "leave out apps if the key is for all apps",
        ),
        (
            {
                "STATE_STORAGE": CONNECTION,
                "STATE_KEYS": json.dumps([KEY | {"apps": ["shop"]}])[:-2] + ', "apps": null}]',
            },
            "STATE_KEYS has an entry with the same member twice",
        ),
        (
            {"STATE_STORAGE": CONNECTION, "STATE_KEYS": json.dumps([KEY])[:-2] + ', "secret": 1, "secret": 2}]'},
            "STATE_KEYS has an entry with the same member twice",
        ),
        ({"STATE_STORAGE": CONNECTION, "STATE_KEYS": "[" * 100_000}, "STATE_KEYS must be a JSON list"),
        ({"STATE_STORAGE": CONNECTION, "STATE_KEYS": '[{"a":' * 100_000}, "STATE_KEYS must be a JSON list"),
        (
            {"STATE_STORAGE": CONNECTION, "STATE_KEYS": json.dumps([KEY | {"role": "publisher", "apps": ["shop"]}])},
            "key ci has the role publisher, which cannot be bound to apps",
        ),
        (
            {"STATE_STORAGE": CONNECTION, "STATE_KEYS": "@Microsoft.KeyVault(SecretUri=https://secret.example/keys)"},
            "STATE_KEYS is a Key Vault reference that Azure has not resolved",
        ),
        (
            {"STATE_STORAGE": "@Microsoft.KeyVault(VaultName=secret;SecretName=keys)"},
            "STATE_STORAGE is a Key Vault reference that Azure has not resolved",
        ),
    ],
)
def test_the_error_for_a_wrong_setting_does_not_contain_its_value(environment: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)) as error:
        read_settings(environment)
    assert "secret" not in str(error.value)


def test_an_account_name_gives_the_addresses_of_all_services_and_an_explicit_address_takes_precedence() -> None:
    storage = TaskHubConnections(
        {
            "DURABLE__accountName": "jobs",
            "DURABLE__queueServiceUri": "https://queues.example",
            "DURABLE__clientId": "id",
        }
    ).get_storage_settings("DURABLE")
    assert (storage.table_service_uri, storage.queue_service_uri, storage.blob_service_uri, storage.client_id) == (
        "https://jobs.table.core.windows.net",
        "https://queues.example",
        "https://jobs.blob.core.windows.net",
        "id",
    )


def test_task_hubs_can_be_in_the_same_emulator_as_the_state() -> None:
    settings = read_settings({"STATE_STORAGE": "UseDevelopmentStorage=true"})
    assert settings.connections.get_storage_settings("STATE_STORAGE") == settings.storage


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "the setting DURABLE is not set on this server"),
        ({"DURABLE__queueServiceUri": "https://jobs.queue.core.windows.net"}, "the setting DURABLE is not set"),
        ({"DURABLE": "secret-nonsense"}, "DURABLE is not a storage connection string"),
        ({"DURABLE__accountName": "jobs", "DURABLE__blobServiceUri": "https://x/?sig=secret"}, "without a signature"),
    ],
)
def test_the_error_for_an_unusable_task_hub_connection_does_not_contain_its_value(
    environment: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)) as error:
        TaskHubConnections(environment).get_storage_settings("DURABLE")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("name", ["STATE_TASKHUBS_SHOP", "SHOP", "SHOP_API"])
def test_apps_may_name_settings_with_the_task_hub_prefix_and_listed_settings(name: str) -> None:
    TaskHubConnections({"STATE_TASKHUB_SETTINGS": " SHOP,SHOP_API , "}).check_allowed(name)


@pytest.mark.parametrize("name", ["STATE_KEYS", "AzureWebJobsStorage", "SHOP", "state_taskhubs_shop", "", "Path"])
@pytest.mark.parametrize("value", [None, CONNECTION])
def test_apps_may_name_no_other_setting_and_do_not_learn_whether_it_exists(name: str, value: str | None) -> None:
    environment = {"STATE_TASKHUB_SETTINGS": "", "STATE_STORAGE": CONNECTION} | ({name: value} if value else {})
    with pytest.raises(SettingsError, match="a connection must be a setting") as error:
        TaskHubConnections(environment).check_allowed(name)
    assert str(error.value) == (
        "a connection must be a setting whose name begins with STATE_TASKHUBS_, or one that STATE_TASKHUB_SETTINGS "
        f"lists; {name} is neither"
    )


def test_apps_may_name_the_state_storage_only_if_it_is_an_emulator() -> None:
    for storage in ("UseDevelopmentStorage=true", emulator_connection_string("127.0.0.1", 4711)):
        TaskHubConnections({"STATE_STORAGE": storage}).check_allowed("STATE_STORAGE")
    for environment in ({"STATE_STORAGE": CONNECTION}, {"AzureWebJobsStorage": "UseDevelopmentStorage=true"}):
        with pytest.raises(SettingsError, match="STATE_STORAGE is neither"):
            TaskHubConnections(environment).check_allowed("STATE_STORAGE")


EMULATOR_KEY = emulator_connection_string("127.0.0.1", 1).partition("AccountKey=")[2].partition(";")[0]


@pytest.mark.parametrize(
    "connection",
    [
        emulator_connection_string("127.0.0.1", 10002),
        emulator_connection_string("localhost", 10002, queue_port=10001, blob_port=10000),
        emulator_connection_string("[::1]", 10002),
    ],
)
def test_the_emulators_key_is_accepted_for_this_machine(connection: str) -> None:
    read_settings({"STATE_STORAGE": connection})
    TaskHubConnections({"STATE_TASKHUBS_SHOP": connection}).get_storage_settings("STATE_TASKHUBS_SHOP")


@pytest.mark.parametrize(
    "connection",
    [
        emulator_connection_string("10.0.0.4", 10002),
        emulator_connection_string("azurite", 10002),
        emulator_connection_string("127.0.0.1@evil.example", 10002),
        f"AccountName=devstoreaccount1;AccountKey={EMULATOR_KEY}",
        f"accountname=shop; accountkey = {EMULATOR_KEY} ;EndpointSuffix=core.windows.net",
        emulator_connection_string("127.0.0.1", 10002) + "BlobEndpoint=http://10.0.0.4:10000/devstoreaccount1",
        f"TableEndpoint=[;AccountKey={EMULATOR_KEY}",
    ],
)
def test_the_emulators_key_is_rejected_for_another_machine(connection: str) -> None:
    for read_connection in (
        lambda: read_settings({"STATE_STORAGE": connection}),
        lambda: TaskHubConnections({"STATE_TASKHUBS_SHOP": connection}).get_storage_settings("STATE_TASKHUBS_SHOP"),
    ):
        with pytest.raises(SettingsError, match="contains the storage emulator's key") as error:
            read_connection()
        assert EMULATOR_KEY not in str(error.value)


SAMPLE_KEYS = json.dumps([KEY, KEY | {"name": "sample", "sha256": sha256_of("change-me-1-0123456789abcdef")}])


def test_a_sample_key_from_the_documentation_is_accepted_on_loopback_only() -> None:
    settings = read_settings({"STATE_STORAGE": CONNECTION, "STATE_KEYS": SAMPLE_KEYS})
    check_exposure("127.0.0.1", settings)
    message = "STATE_KEYS: key sample is a sample from the documentation, which is public, and this server "
    with pytest.raises(SettingsError, match=f"{message}listens on 0.0.0.0: make a key with `safe-deploy keys new`"):
        check_exposure("0.0.0.0", settings)  # noqa: S104 (never bound)
    with pytest.raises(SettingsError, match=f"{message}runs in Azure"):
        read_settings({"STATE_STORAGE": CONNECTION, "STATE_KEYS": SAMPLE_KEYS, "WEBSITE_SITE_NAME": "shop-state"})
    with pytest.raises(SettingsError, match="which is public, and other machines may reach this Functions host"):
        read_settings({"STATE_STORAGE": CONNECTION, "STATE_KEYS": SAMPLE_KEYS}, keys_required=True)
    empty_key = json.dumps([KEY | {"sha256": sha256_of("")}])
    with pytest.raises(SettingsError, match="key ci is a sample"):
        read_settings({"STATE_STORAGE": CONNECTION, "STATE_KEYS": empty_key, "WEBSITE_SITE_NAME": "shop-state"})


def test_an_unresolved_key_vault_reference_is_never_used_as_a_key() -> None:
    connections = TaskHubConnections({"STATE_TASKHUBS_SHOP__key": "@Microsoft.KeyVault(VaultName=v;SecretName=s)"})
    with pytest.raises(
        SettingsError, match="STATE_TASKHUBS_SHOP__key is a Key Vault reference that Azure has not resolved"
    ):
        connections.get_text("STATE_TASKHUBS_SHOP__key")


def test_every_setting_except_the_storage_has_a_default() -> None:
    settings = read_settings({"STATE_STORAGE": CONNECTION})
    assert (settings.keys, settings.shards, settings.trust_platform_identity) == ((), 1, False)
    settings = read_settings({"STATE_STORAGE": CONNECTION, "STATE_SHARDS": "16", "WEBSITE_AUTH_ENABLED": "True"})
    assert (settings.shards, settings.trust_platform_identity) == (16, True)


def test_a_digest_may_have_upper_case_digits() -> None:
    """`Get-FileHash` in PowerShell prints upper case."""
    (key,) = read_settings(
        {"STATE_STORAGE": CONNECTION, "STATE_KEYS": json.dumps([KEY | {"sha256": sha256_of("a key").upper()}])}
    ).keys
    assert key.sha256 == sha256_of("a key")


def test_the_apps_of_a_key_are_compared_without_case() -> None:
    (bound,) = read_settings(
        {"STATE_STORAGE": CONNECTION, "STATE_KEYS": json.dumps([KEY | {"apps": ["Shop", "billing"]}])}
    ).keys
    assert [bound.may_access(app) for app in ("shop", "SHOP", "Billing", "shop2", "")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_keys_are_required_only_if_the_host_says_so() -> None:
    environment = {"STATE_STORAGE": CONNECTION}
    assert read_settings(environment, keys_required=True).keys_required
    assert not read_settings(environment).keys_required


def test_the_text_of_settings_contains_no_secret() -> None:
    settings = read_settings({"STATE_STORAGE": CONNECTION, "STATE_KEYS": json.dumps([KEY])})
    assert (settings.keys[0].name, settings.keys[0].role) == ("ci", Role.DEPLOYER)
    assert "c2VjcmV0" not in repr(settings) + settings.model_dump_json()
    assert KEY["sha256"] not in repr(settings) + settings.model_dump_json()
    assert settings.connections.get_text("STATE_STORAGE") == CONNECTION


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_a_server_on_loopback_needs_no_keys(host: str) -> None:
    check_exposure(host, read_settings({"STATE_STORAGE": CONNECTION}))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "state.example", ""])  # noqa: S104 (never bound)
def test_a_server_on_another_address_needs_keys(host: str) -> None:
    with pytest.raises(SettingsError, match="lets other machines use the server without a key: set STATE_KEYS"):
        check_exposure(host, read_settings({"STATE_STORAGE": CONNECTION}))
    check_exposure(host, read_settings({"STATE_STORAGE": CONNECTION, "STATE_KEYS": json.dumps([KEY])}))


def test_settings_are_immutable() -> None:
    settings: Settings = read_settings({"STATE_STORAGE": CONNECTION})
    with pytest.raises(ValueError, match="frozen"):
        settings.shards = 5


@pytest.mark.parametrize(("text", "limit"), [(None, 200), ("", 200), ("0", 0), ("50", 50), ("999999", 999999)])
def test_the_limit_on_unclaimed_task_hubs_is_200_unless_it_is_set(text: str | None, limit: int) -> None:
    environment = {"STATE_STORAGE": CONNECTION} | ({} if text is None else {"STATE_UNCLAIMED_TASK_HUBS": text})
    assert read_settings(environment).max_unclaimed_task_hubs == limit


@pytest.mark.parametrize("text", ["-1", "many", "1.5", "1000000", "٣"])
def test_a_limit_on_unclaimed_task_hubs_that_is_not_a_number_from_0_to_999999_is_rejected(text: str) -> None:
    with pytest.raises(SettingsError, match="STATE_UNCLAIMED_TASK_HUBS must be a number from 0 to 999999"):
        read_settings({"STATE_STORAGE": CONNECTION, "STATE_UNCLAIMED_TASK_HUBS": text})
