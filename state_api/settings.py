"""Everything that is set from outside, read once from the environment. `docs/settings.md` documents each; a test
holds the two together."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, TypeAdapter, ValidationError

from state_api.addresses import is_loopback
from state_api.domain.names import APP_PATTERN, app_key

STATE_STORAGE = "STATE_STORAGE"
AZURE_WEB_JOBS_STORAGE = "AzureWebJobsStorage"
STATE_KEYS = "STATE_KEYS"
STATE_SHARDS = "STATE_SHARDS"
STATE_UNCLAIMED_TASK_HUBS = "STATE_UNCLAIMED_TASK_HUBS"
STATE_TASKHUB_SETTINGS = "STATE_TASKHUB_SETTINGS"
WEBSITE_AUTH_ENABLED = "WEBSITE_AUTH_ENABLED"
WEBSITE_SITE_NAME = "WEBSITE_SITE_NAME"

TASK_HUB_CONNECTION_PREFIX = "STATE_TASKHUBS_"
"""What the names of settings begin with that apps may name as connections of their task hubs."""

DOCUMENTED_SETTINGS = (
    STATE_STORAGE,
    f"{STATE_STORAGE}__tableServiceUri",
    f"{STATE_STORAGE}__accountName",
    f"{STATE_STORAGE}__clientId",
    AZURE_WEB_JOBS_STORAGE,
    f"{AZURE_WEB_JOBS_STORAGE}__tableServiceUri",
    f"{AZURE_WEB_JOBS_STORAGE}__accountName",
    f"{AZURE_WEB_JOBS_STORAGE}__clientId",
    STATE_KEYS,
    STATE_SHARDS,
    STATE_UNCLAIMED_TASK_HUBS,
    STATE_TASKHUB_SETTINGS,
    WEBSITE_AUTH_ENABLED,
    WEBSITE_SITE_NAME,
)
"""Every setting that `read_settings` looks at."""

DEFAULT_UNCLAIMED_TASK_HUBS = 200

DEVELOPMENT_STORAGE = "UseDevelopmentStorage=true"
EMULATOR_BLOB_PORT = 10000
EMULATOR_QUEUE_PORT = 10001
EMULATOR_TABLE_PORT = 10002
_EMULATOR_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_KEY_VAULT_REFERENCE = "@microsoft.keyvault("
_CONNECTION_STRING = re.compile(r"(?:^|;)\s*(?:AccountName|TableEndpoint)\s*=", re.IGNORECASE)


class SettingsError(Exception):
    """A setting is missing or wrong; the message says which and what to do, and holds no secret."""


class Role(StrEnum):
    """What a key may do. `deployer` and `admin` may read as well; only `admin` may do everything. `router` is for the
    routers of releases side by side: no operation takes it yet."""

    READER = "reader"
    ROUTER = "router"
    DEPLOYER = "deployer"
    PUBLISHER = "publisher"
    ADMIN = "admin"


_ROLES_WITHOUT_APPS = (Role.PUBLISHER,)
"""Roles whose operations are about no app: their keys cannot be bound to apps."""


class _FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class AccessKey(_FrozenModel):
    """An access key of this server, known by its SHA-256 alone. `name` is what the audit log shows. `apps` are the only
    apps that the key may see and change; None where it is bound to none."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
    role: Role
    sha256: Annotated[
        str, StringConstraints(pattern=r"^[0-9A-Fa-f]{64}$", to_lower=True), Field(repr=False, exclude=True)
    ]
    apps: Annotated[tuple[Annotated[str, Field(pattern=APP_PATTERN)], ...] | None, Field(min_length=1)] = None

    def may_access(self, app: str) -> bool:
        """Whether the key may see and change this app, as far as it is bound to apps."""
        return self.apps is None or app_key(app) in {app_key(own) for own in self.apps}


def sha256_of(key: str) -> str:
    """The SHA-256 of a key as `STATE_KEYS` holds it: 64 hexadecimal digits."""
    return hashlib.sha256(key.encode()).hexdigest()


PUBLISHED_KEYS = frozenset(
    [
        *(sha256_of(f"change-me-{number}-0123456789abcdef") for number in range(1, 10)),
        *(digit * 64 for digit in "0123456789abcdef"),
        sha256_of(""),
    ]
)
"""SHA-256 values that stand in our documents, those of keys that did, and that of no key at all."""


class StorageSettings(_FrozenModel):
    """How a storage account is reached: by connection string, or by the addresses of its services and an identity.
    `development` says that it is the emulator at its usual place, which the server may start itself."""

    connection_string: SecretStr | None = None
    table_service_uri: str | None = None
    queue_service_uri: str | None = None
    blob_service_uri: str | None = None
    client_id: str | None = None
    development: bool = False


class TaskHubConnections:
    """The settings that apps name as the connections of their task hubs, as in host.json."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._allowed_names = {
            name.strip() for name in environment.get(STATE_TASKHUB_SETTINGS, "").split(",") if name.strip()
        }

    def check_allowed(self, name: str) -> None:
        """Raises SettingsError unless an app may name this setting. Whoever may register apps could otherwise learn
        which settings there are, and have their values sent to an address of the app. The message is the same whether
        or not the setting exists."""
        if name.startswith(TASK_HUB_CONNECTION_PREFIX) or name in self._allowed_names:
            return
        if name == STATE_STORAGE and is_emulator(self._environment.get(STATE_STORAGE, "")):
            return
        raise SettingsError(
            f"a connection must be a setting whose name begins with {TASK_HUB_CONNECTION_PREFIX}, or one that "
            f"{STATE_TASKHUB_SETTINGS} lists; {name} is neither"
        )

    def storage(self, name: str) -> StorageSettings:
        """The storage account behind a setting. Raises SettingsError."""
        found = _read_storage_settings(self._environment, name, ("table", "queue", "blob"))
        if found is None:
            raise SettingsError(
                f"the setting {name} is not set on this server: set it to the storage connection string of the app's "
                f"task hubs, or set {name}__accountName for a managed identity"
            )
        return found

    def text(self, name: str) -> str | None:
        """The setting as it is; None if it is not set. Raises SettingsError for an unresolved reference."""
        value = self._environment.get(name) or None
        if value is not None:
            _refuse_unresolved(name, value)
        return value


class Settings(_FrozenModel):
    """`max_unclaimed_task_hubs` is the limit on task hubs that take events although no app has claimed them; None is no
    limit, which `read_settings` never returns."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    storage: StorageSettings
    connections: TaskHubConnections = Field(default_factory=lambda: TaskHubConnections({}), repr=False, exclude=True)
    keys: tuple[AccessKey, ...] = ()
    keys_required: bool = False
    shards: int = Field(default=4, ge=1, le=64)
    max_unclaimed_task_hubs: int | None = Field(default=None, ge=0)
    trust_platform_identity: bool = False


def read_settings(environment: Mapping[str, str], *, keys_required: bool = False) -> Settings:
    """The settings in these environment variables. With `keys_required` a server without keys refuses everything but
    health, and sample keys are wrong; else whoever serves it must see to it that only this machine reaches it. Raises
    SettingsError."""
    keys = _parse_keys(environment.get(STATE_KEYS, ""))
    if environment.get(WEBSITE_SITE_NAME):
        refuse_published_keys(keys, "this server runs in Azure")
    if keys_required:
        refuse_published_keys(keys, "others may reach this Functions host")
    return Settings(
        storage=_storage(environment),
        connections=TaskHubConnections(environment),
        keys=keys,
        keys_required=keys_required,
        shards=_parse_shards(environment.get(STATE_SHARDS, "")),
        max_unclaimed_task_hubs=_parse_max_unclaimed_task_hubs(environment.get(STATE_UNCLAIMED_TASK_HUBS, "")),
        trust_platform_identity=environment.get(WEBSITE_AUTH_ENABLED, "").lower() == "true",
    )


def _storage(environment: Mapping[str, str]) -> StorageSettings:
    for name in (STATE_STORAGE, AZURE_WEB_JOBS_STORAGE):
        if (found := _read_storage_settings(environment, name, ("table",))) is not None:
            return found
    raise SettingsError(
        f"no state storage is set: set {STATE_STORAGE} to a connection string or to {DEVELOPMENT_STORAGE}, "
        f"or {STATE_STORAGE}__tableServiceUri for a managed identity"
    )


def _read_storage_settings(
    environment: Mapping[str, str], name: str, services: tuple[str, ...]
) -> StorageSettings | None:
    """The account behind a setting, with the addresses of these services; None if the setting is not set."""
    client_id = environment.get(f"{name}__clientId") or None
    if connection := environment.get(name):
        _refuse_unresolved(name, connection)
        if connection.strip().rstrip(";").lower() == DEVELOPMENT_STORAGE.lower():
            ports = (EMULATOR_TABLE_PORT, EMULATOR_QUEUE_PORT, EMULATOR_BLOB_PORT)
            spelt_out = emulator_connection_string("127.0.0.1", *ports)
            return StorageSettings(connection_string=SecretStr(spelt_out), development=True)
        if not _CONNECTION_STRING.search(connection):
            raise SettingsError(f"{name} is not a storage connection string, nor {DEVELOPMENT_STORAGE}")
        _refuse_emulator_key(name, connection)
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


def emulator_connection_string(
    host: str, table_port: int, queue_port: int | None = None, blob_port: int | None = None
) -> str:
    """The connection string of an emulator's services. Its account name and key are published with it and open
    nothing else."""
    ports = {"Table": table_port, "Queue": queue_port, "Blob": blob_port}
    endpoints = (f"{service}Endpoint=http://{host}:{port}/devstoreaccount1;" for service, port in ports.items() if port)
    return f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={_EMULATOR_KEY};" + "".join(
        endpoints
    )


def is_emulator(connection: str) -> bool:
    """Whether a connection string is that of a storage emulator: it holds the emulator's key, or stands for it."""
    text = connection.strip().rstrip(";")
    return (
        text.lower() == DEVELOPMENT_STORAGE.lower()
        or _parse_connection_string(connection).get("accountkey") == _EMULATOR_KEY
    )


def _parse_connection_string(connection: str) -> dict[str, str]:
    """The parts of a connection string, by their names in lower case."""
    split = (part.partition("=") for part in connection.split(";"))
    return {name.strip().lower(): value.strip() for name, _, value in split}


def _refuse_emulator_key(name: str, connection: str) -> None:
    """Raises SettingsError if the emulator's key, which is published, would open an account on another machine."""
    if not is_emulator(connection):
        return
    endpoints = [value for part, value in _parse_connection_string(connection).items() if part.endswith("endpoint")]
    if not endpoints or not all(_is_on_loopback(endpoint) for endpoint in endpoints):
        raise SettingsError(
            f"{name} holds the storage emulator's key, which everybody knows, and leads to another machine: use an "
            "account with a key of its own or a managed identity, or an emulator on this machine"
        )


def _is_on_loopback(endpoint: str) -> bool:
    try:
        return is_loopback(urlsplit(endpoint).hostname or "")
    except ValueError:
        return False


def refuse_published_keys(keys: Sequence[AccessKey], exposure: str) -> None:
    """Raises SettingsError if one of the keys stands in our documents. `exposure` says why others can reach the
    server."""
    for key in keys:
        if key.sha256 in PUBLISHED_KEYS:
            raise SettingsError(
                f"{STATE_KEYS}: key {key.name} is a sample from the documentation, which everybody knows, and "
                f"{exposure}: make a key of your own"
            )


def _parse_keys(text: str) -> tuple[AccessKey, ...]:
    if not text.strip():
        return ()
    _refuse_unresolved(STATE_KEYS, text)
    advice = (
        f'{STATE_KEYS} must be a JSON list of {{"name": …, "role": …, "sha256": …}}, with "apps": [ … ] where a key is '
        "for some apps only"
    )
    try:
        content: Any = json.loads(text, object_pairs_hook=_reject_duplicate_members)
    except (ValueError, RecursionError):
        raise SettingsError(advice) from None
    _refuse_plain_keys(content)
    _refuse_null_apps(content)
    try:
        keys = TypeAdapter(tuple[AccessKey, ...]).validate_python(content)
    except ValidationError as error:
        places = ", ".join(".".join(str(part) for part in one["loc"]) + ": " + one["msg"] for one in error.errors())
        raise SettingsError(f"{advice} ({places})") from None
    if len({key.name for key in keys}) < len(keys):
        raise SettingsError(f"{STATE_KEYS} names a key twice")
    if len({key.sha256 for key in keys}) < len(keys):
        # One of the two roles would be ignored.
        raise SettingsError(f"{STATE_KEYS} has two entries with the same key; give each its own")
    for key in keys:
        if key.role in _ROLES_WITHOUT_APPS and key.apps is not None:
            raise SettingsError(
                f"{STATE_KEYS}: key {key.name} has the role {key.role}, which cannot be bound to apps, because an "
                "event names no app; leave apps out"
            )
    return keys


def _refuse_plain_keys(content: Any) -> None:
    """Raises SettingsError if an entry holds a key itself."""
    if isinstance(content, list) and any(isinstance(entry, dict) and "key" in entry for entry in content):
        raise SettingsError(
            f"{STATE_KEYS} holds a key itself, in the member key: put its SHA-256 into the member sha256 instead. Make "
            'a new key and its entry with `safe-deploy keys new`, or compute it with `printf %s "$KEY" | sha256sum`'
        )


def _refuse_null_apps(content: Any) -> None:
    """Raises SettingsError if an entry has the member apps without a value. It would be for all apps, which a template
    that lost its list of apps does not mean."""
    if isinstance(content, list) and any(
        isinstance(entry, dict) and entry.get("apps", ()) is None for entry in content
    ):
        raise SettingsError(
            f"{STATE_KEYS} has an entry whose member apps is null: leave apps out for a key of all apps"
        )


def _reject_duplicate_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises SettingsError if a member is given twice, because the last one would silently win. The
    message does not name the member: its name may be a misplaced secret."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise SettingsError(f"{STATE_KEYS} has an entry that gives the same member twice: give each member once")
    return members


def _refuse_unresolved(name: str, value: str) -> None:
    """Raises SettingsError if Azure shows the server a reference to a key vault in place of the secret."""
    if value.lstrip().lower().startswith(_KEY_VAULT_REFERENCE):
        raise SettingsError(
            f"{name} is a Key Vault reference that Azure has not resolved: give the Function App's identity the role "
            "Key Vault Secrets User on the vault, check the reference and the vault's firewall, and restart"
        )


def _parse_shards(text: str) -> int:
    if not text:
        return 4
    if not re.fullmatch(r"[0-9]{1,2}", text) or not 1 <= int(text) <= 64:
        raise SettingsError(f"{STATE_SHARDS} must be a number from 1 to 64")
    return int(text)


def _parse_max_unclaimed_task_hubs(text: str) -> int:
    if not text:
        return DEFAULT_UNCLAIMED_TASK_HUBS
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise SettingsError(f"{STATE_UNCLAIMED_TASK_HUBS} must be a number from 0 to 999999")
    return int(text)
