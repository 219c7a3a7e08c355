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
    PLATFORM_IDENTITY,
)
"""Every setting that `read_settings` looks at."""

DEVELOPMENT_STORAGE = "UseDevelopmentStorage=true"
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
    """How the state storage is reached: by connection string, or by the table service's address and an identity.
    `development` says that it is the emulator at its usual place, which the server may start itself."""

    connection_string: SecretStr | None = None
    table_service_uri: str | None = None
    client_id: str | None = None
    development: bool = False


class Settings(_Frozen):
    storage: StorageSettings
    keys: tuple[Key, ...] = ()
    shards: int = Field(default=4, ge=1, le=64)
    platform_identity: bool = False


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings in these environment variables. Raises SettingsError."""
    return Settings(
        storage=_storage(environment),
        keys=_keys(environment.get(KEYS, "")),
        shards=_shards(environment.get(SHARDS, "")),
        platform_identity=environment.get(PLATFORM_IDENTITY, "").lower() == "true",
    )


def _storage(environment: Mapping[str, str]) -> StorageSettings:
    for name in (STORAGE, FALLBACK_STORAGE):
        client_id = environment.get(f"{name}__clientId") or None
        if connection := environment.get(name):
            if connection.strip().rstrip(";").lower() == DEVELOPMENT_STORAGE.lower():
                spelt_out = emulator_connection("127.0.0.1", EMULATOR_TABLE_PORT)
                return StorageSettings(connection_string=SecretStr(spelt_out), development=True)
            if not _CONNECTION.search(connection):
                raise SettingsError(f"{name} is not a storage connection string, nor {DEVELOPMENT_STORAGE}")
            return StorageSettings(connection_string=SecretStr(connection))
        if uri := environment.get(f"{name}__tableServiceUri"):
            if urlsplit(uri).scheme not in ("https", "http") or not urlsplit(uri).hostname or urlsplit(uri).query:
                raise SettingsError(
                    f"{name}__tableServiceUri must be the address of a table service, such as "
                    "https://ACCOUNT.table.core.windows.net, without a signature"
                )
            return StorageSettings(table_service_uri=uri, client_id=client_id)
        if account := environment.get(f"{name}__accountName"):
            if not re.fullmatch(r"[a-z0-9]{3,24}", account):
                raise SettingsError(f"{name}__accountName must be the name of a storage account")
            uri = f"https://{account}.table.core.windows.net"
            return StorageSettings(table_service_uri=uri, client_id=client_id)
    raise SettingsError(
        f"no state storage is set: set {STORAGE} to a connection string or to {DEVELOPMENT_STORAGE}, "
        f"or {STORAGE}__tableServiceUri for a managed identity"
    )


def emulator_connection(host: str, port: int) -> str:
    """The connection string of an emulator's table service. Its account name and key are published with it and open
    nothing else."""
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    return (
        f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={key};"
        f"TableEndpoint=http://{host}:{port}/devstoreaccount1;"
    )


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
    return keys


def _shards(text: str) -> int:
    if not text:
        return 4
    if not re.fullmatch(r"[0-9]{1,2}", text) or not 1 <= int(text) <= 64:
        raise SettingsError(f"{SHARDS} must be a number from 1 to 64")
    return int(text)
