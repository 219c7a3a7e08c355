"""Storage accounts in settings: connection strings, service addresses for a managed identity, and the storage emulator
with its published key."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from pydantic import SecretStr

from state_api.addresses import is_loopback
from state_api.settings.base import FrozenModel, SettingsError, reject_unresolved_reference

DEVELOPMENT_STORAGE = "UseDevelopmentStorage=true"
"""The connection string that stands for an emulator on its default ports on this machine."""
EMULATOR_BLOB_PORT = 10000
EMULATOR_QUEUE_PORT = 10001
EMULATOR_TABLE_PORT = 10002
_EMULATOR_ACCOUNT = "devstoreaccount1"
_EMULATOR_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_EMULATOR_HOST = "127.0.0.1"
_CONNECTION_STRING = re.compile(r"(?:^|;)\s*(?:AccountName|TableEndpoint)\s*=", re.IGNORECASE)
_ACCOUNT_NAME = re.compile(r"[a-z0-9]{3,24}")


class StorageSettings(FrozenModel):
    """How to reach a storage account: with a connection string, or with service addresses and a managed identity, whose
    client id is `client_id`. `uses_development_storage` is true for `UseDevelopmentStorage=true`."""

    connection_string: SecretStr | None = None
    table_service_uri: str | None = None
    queue_service_uri: str | None = None
    blob_service_uri: str | None = None
    client_id: str | None = None
    uses_development_storage: bool = False


def read_storage_settings(
    environment: Mapping[str, str], name: str, *, services: tuple[str, ...]
) -> StorageSettings | None:
    """The storage account of the setting `name`, or None if it is not set. `services` are those whose addresses are
    read: `table`, `queue`, `blob`. Raises SettingsError."""
    if connection_string := environment.get(name):
        reject_unresolved_reference(name, connection_string)
        return _parse_connection_string_setting(name, connection_string)
    service_uris = _read_service_uris(environment, name, services)
    if "table_service_uri" not in service_uris:
        return None
    return StorageSettings.model_validate({**service_uris, "client_id": environment.get(f"{name}__clientId") or None})


def _parse_connection_string_setting(name: str, connection_string: str) -> StorageSettings:
    """The account of a connection string, or the emulator's for the usual shortcut. Raises SettingsError."""
    if _is_development_storage(connection_string):
        emulator = emulator_connection_string(
            _EMULATOR_HOST, EMULATOR_TABLE_PORT, queue_port=EMULATOR_QUEUE_PORT, blob_port=EMULATOR_BLOB_PORT
        )
        return StorageSettings(connection_string=SecretStr(emulator), uses_development_storage=True)
    if not _CONNECTION_STRING.search(connection_string):
        raise SettingsError(
            f"{name} is not a storage connection string: set it to one that has AccountName or TableEndpoint, or to "
            f"{DEVELOPMENT_STORAGE}"
        )
    _reject_remote_emulator(name, connection_string)
    return StorageSettings(connection_string=SecretStr(connection_string))


def _read_service_uris(environment: Mapping[str, str], name: str, services: tuple[str, ...]) -> dict[str, str]:
    """The address of each service that is set, by its field in StorageSettings. An address that is set takes precedence
    over the one that follows from the account's name. Raises SettingsError."""
    account = environment.get(f"{name}__accountName")
    if account and not _ACCOUNT_NAME.fullmatch(account):
        raise SettingsError(
            f"{name}__accountName must be the name of a storage account: 3 to 24 lower-case letters and digits"
        )
    service_uris: dict[str, str] = {}
    for service in services:
        setting = f"{name}__{service}ServiceUri"
        uri = environment.get(setting) or (f"https://{account}.{service}.core.windows.net" if account else None)
        if uri is None:
            continue
        if urlsplit(uri).scheme not in ("https", "http") or not urlsplit(uri).hostname or urlsplit(uri).query:
            raise SettingsError(
                f"{setting} must be the address of a {service} service, such as "
                f"https://ACCOUNT.{service}.core.windows.net, without a signature"
            )
        service_uris[f"{service}_service_uri"] = uri
    return service_uris


def emulator_connection_string(
    host: str, table_port: int, *, queue_port: int | None = None, blob_port: int | None = None
) -> str:
    """The connection string of a storage emulator, with the services that have a port. Its account name and key are
    published by Microsoft and open no other account."""
    ports = {"Table": table_port, "Queue": queue_port, "Blob": blob_port}
    endpoints = "".join(
        f"{service}Endpoint=http://{host}:{port}/{_EMULATOR_ACCOUNT};" for service, port in ports.items() if port
    )
    return f"DefaultEndpointsProtocol=http;AccountName={_EMULATOR_ACCOUNT};AccountKey={_EMULATOR_KEY};{endpoints}"


def is_emulator(connection_string: str) -> bool:
    """Whether a connection string is that of a storage emulator: it is `UseDevelopmentStorage=true`, or contains the
    emulator's key."""
    return (
        _is_development_storage(connection_string)
        or _split_connection_string(connection_string).get("accountkey") == _EMULATOR_KEY
    )


def _is_development_storage(connection_string: str) -> bool:
    """Whether the connection string is the short form for the local emulator."""
    return connection_string.strip().rstrip(";").lower() == DEVELOPMENT_STORAGE.lower()


def _split_connection_string(connection_string: str) -> dict[str, str]:
    """The values of a connection string, by their names in lower case."""
    parts = (part.partition("=") for part in connection_string.split(";"))
    return {name.strip().lower(): value.strip() for name, _, value in parts}


def _reject_remote_emulator(name: str, connection_string: str) -> None:
    """Raises SettingsError if a connection string with the emulator's key leads to another machine: the key is public,
    so anyone who reaches that machine could read and change the data."""
    if not is_emulator(connection_string):
        return
    values = _split_connection_string(connection_string)
    endpoints = [value for key, value in values.items() if key.endswith("endpoint")]
    if not endpoints or not all(_is_on_loopback(endpoint) for endpoint in endpoints):
        raise SettingsError(
            f"{name} contains the storage emulator's key, which is public, and leads to another machine: use an "
            "account with its own key or a managed identity, or an emulator on this machine"
        )


def _is_on_loopback(endpoint: str) -> bool:
    """Whether the endpoint is on this machine. One that cannot be parsed is not."""
    try:
        return is_loopback(urlsplit(endpoint).hostname or "")
    except ValueError:
        return False
