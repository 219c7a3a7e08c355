"""Everything that is set from outside, read once from the environment. `docs/settings.md` documents each; a test
holds the two together."""

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError

STORAGE = "STATE_STORAGE"
FALLBACK_STORAGE = "AzureWebJobsStorage"
KEYS = "STATE_KEYS"
SHARDS = "STATE_SHARDS"
UNCLAIMED_TASK_HUBS = "STATE_UNCLAIMED_TASK_HUBS"
PLATFORM_IDENTITY = "WEBSITE_AUTH_ENABLED"

DOCUMENTED = (
    STORAGE,
    f"{STORAGE}__tableServiceUri",
    f"{STORAGE}__accountName",
    f"{STORAGE}__clientId",
    FALLBACK_STORAGE,
    f"{FALLBACK_STORAGE}__tableServiceUri",
    f"{FALLBACK_STORAGE}__accountName",
    f"{FALLBACK_STORAGE}__clientId",
    KEYS,
    SHARDS,
    UNCLAIMED_TASK_HUBS,
    PLATFORM_IDENTITY,
)
"""Every setting that `read_settings` looks at."""

DEFAULT_UNCLAIMED_TASK_HUBS = 200

DEVELOPMENT_STORAGE = "UseDevelopmentStorage=true"
EMULATOR_BLOB_PORT = 10000
EMULATOR_QUEUE_PORT = 10001
EMULATOR_TABLE_PORT = 10002
_CONNECTION = re.compile(r"(?:^|;)\s*(?:AccountName|TableEndpoint)\s*=", re.IGNORECASE)


class SettingsError(Exception):
    """A setting is missing or wrong; the message says which and what to do, and holds no secret."""


class Role(StrEnum):
    """What a key may do. `deployer` and `admin` may read as well; only `admin` may do everything."""

    READER = "reader"
    DEPLOYER = "deployer"
    PUBLISHER = "publisher"
    ADMIN = "admin"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Key(_Frozen):
    """An access key of a server outside Azure Functions. `name` is what the audit log shows."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
    role: Role
    key: Annotated[SecretStr, Field(min_length=16, max_length=512)]


class StorageSettings(_Frozen):
    """How a storage account is reached: by connection string, or by the addresses of its services and an identity.
    `development` says that it is the emulator at its usual place, which the server may start itself."""

    connection_string: SecretStr | None = None
    table_service_uri: str | None = None
    queue_service_uri: str | None = None
    blob_service_uri: str | None = None
    client_id: str | None = None
    development: bool = False


class Connections:
    """The settings that apps name as the connections of their task hubs, as in host.json."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)

    def storage(self, name: str) -> StorageSettings:
        """The storage account behind a setting. Raises SettingsError."""
        found = _storage_named(self._environment, name, ("table", "queue", "blob"))
        if found is None:
            raise SettingsError(
                f"the setting {name} is not set on this server: set it to the storage connection string of the app's "
                f"task hubs, or set {name}__accountName for a managed identity"
            )
        return found

    def text(self, name: str) -> str | None:
        """The setting as it is; None if it is not set."""
        return self._environment.get(name) or None


class Settings(_Frozen):
    """`unclaimed_task_hubs` is the limit on task hubs that take events although no app has claimed them; None is no
    limit, which `read_settings` never returns."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    storage: StorageSettings
    connections: Connections = Field(default_factory=lambda: Connections({}), repr=False, exclude=True)
    keys: tuple[Key, ...] = ()
    shards: int = Field(default=4, ge=1, le=64)
    unclaimed_task_hubs: int | None = Field(default=None, ge=0)
    platform_identity: bool = False


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings in these environment variables. Raises SettingsError."""
    return Settings(
        storage=_storage(environment),
        connections=Connections(environment),
        keys=_keys(environment.get(KEYS, "")),
        shards=_shards(environment.get(SHARDS, "")),
        unclaimed_task_hubs=_unclaimed_task_hubs(environment.get(UNCLAIMED_TASK_HUBS, "")),
        platform_identity=environment.get(PLATFORM_IDENTITY, "").lower() == "true",
    )


def _storage(environment: Mapping[str, str]) -> StorageSettings:
    for name in (STORAGE, FALLBACK_STORAGE):
        if (found := _storage_named(environment, name, ("table",))) is not None:
            return found
    raise SettingsError(
        f"no state storage is set: set {STORAGE} to a connection string or to {DEVELOPMENT_STORAGE}, "
        f"or {STORAGE}__tableServiceUri for a managed identity"
    )


def _storage_named(environment: Mapping[str, str], name: str, services: tuple[str, ...]) -> StorageSettings | None:
    """The account behind a setting, with the addresses of these services; None if the setting is not set."""
    client_id = environment.get(f"{name}__clientId") or None
    if connection := environment.get(name):
        if connection.strip().rstrip(";").lower() == DEVELOPMENT_STORAGE.lower():
            ports = (EMULATOR_TABLE_PORT, EMULATOR_QUEUE_PORT, EMULATOR_BLOB_PORT)
            spelt_out = emulator_connection("127.0.0.1", *ports)
            return StorageSettings(connection_string=SecretStr(spelt_out), development=True)
        if not _CONNECTION.search(connection):
            raise SettingsError(f"{name} is not a storage connection string, nor {DEVELOPMENT_STORAGE}")
        return StorageSettings(connection_string=SecretStr(connection))
    account = environment.get(f"{name}__accountName")
    if account and not re.fullmatch(r"[a-z0-9]{3,24}", account):
        raise SettingsError(f"{name}__accountName must be the name of a storage account")
    uris: dict[str, str] = {}
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
        uris[f"{service}_service_uri"] = uri
    return StorageSettings.model_validate({**uris, "client_id": client_id}) if "table_service_uri" in uris else None


def emulator_connection(host: str, table_port: int, queue_port: int | None = None, blob_port: int | None = None) -> str:
    """The connection string of an emulator's services. Its account name and key are published with it and open
    nothing else."""
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    ports = {"Table": table_port, "Queue": queue_port, "Blob": blob_port}
    endpoints = (f"{service}Endpoint=http://{host}:{port}/devstoreaccount1;" for service, port in ports.items() if port)
    return f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={key};" + "".join(endpoints)


def _keys(text: str) -> tuple[Key, ...]:
    if not text.strip():
        return ()
    advice = f'{KEYS} must be a JSON list of {{"name": …, "role": …, "key": …}} with keys of 16 characters or more'
    try:
        content: Any = json.loads(text)
        keys = TypeAdapter(tuple[Key, ...]).validate_python(content)
    except ValidationError as error:
        places = ", ".join(".".join(str(part) for part in one["loc"]) + ": " + one["msg"] for one in error.errors())
        raise SettingsError(f"{advice} ({places})") from None
    except ValueError:
        raise SettingsError(advice) from None
    if len({key.name for key in keys}) < len(keys):
        raise SettingsError(f"{KEYS} names a key twice")
    if len({key.key.get_secret_value() for key in keys}) < len(keys):
        # One of the two roles would be ignored.
        raise SettingsError(f"{KEYS} has two entries with the same key; give each its own")
    return keys


def _shards(text: str) -> int:
    if not text:
        return 4
    if not re.fullmatch(r"[0-9]{1,2}", text) or not 1 <= int(text) <= 64:
        raise SettingsError(f"{SHARDS} must be a number from 1 to 64")
    return int(text)


def _unclaimed_task_hubs(text: str) -> int:
    if not text:
        return DEFAULT_UNCLAIMED_TASK_HUBS
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise SettingsError(f"{UNCLAIMED_TASK_HUBS} must be a number from 0 to 999999")
    return int(text)
