"""The connection string of a Durable Task Scheduler: parses it, and creates the credential that it describes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from state_api.settings import SettingsError

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

AUTHENTICATION_TYPES = (
    "None",
    "ManagedIdentity",
    "WorkloadIdentity",
    "Environment",
    "AzureCLI",
    "AzurePowerShell",
    "DefaultAzure",
)
"""The values of Authentication in Microsoft's connection strings, without those that need a person at a screen."""


@dataclass(frozen=True, slots=True)
class SchedulerConnection:
    """A parsed connection string. `target` is host and port; `secure` says whether to connect with TLS; `options` are
    all parts by their names in lower case."""

    target: str
    secure: bool
    authentication: str
    options: Mapping[str, str] = field(repr=False)

    @property
    def url(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.target}"

    @property
    def resource_id(self) -> str | None:
        """The resource for which tokens are requested; None stands for the default of Microsoft's clients."""
        return self.options.get("resourceid")


def parse_connection_string(connection_string: str, setting_name: str) -> SchedulerConnection:
    """Parse a connection string as Microsoft's clients do. Raises SettingsError that names the setting and no value."""
    options = _parse_parts(connection_string, setting_name)
    for part_name in ("Endpoint", "Authentication"):
        if part_name.lower() not in options:
            raise _connection_error(setting_name, f"{part_name} is missing")
    spellings = {authentication_type.lower(): authentication_type for authentication_type in AUTHENTICATION_TYPES}
    authentication = spellings.get(options["authentication"].lower())
    if authentication is None:
        raise _connection_error(setting_name, f"Authentication must be one of {', '.join(AUTHENTICATION_TYPES)}")
    endpoint = _parse_endpoint(options["endpoint"])
    if endpoint is None:
        raise _connection_error(
            setting_name, "Endpoint must be an address like those, without path, query and user name"
        )
    secure, target = endpoint
    if not secure and authentication != "None":
        raise _connection_error(setting_name, "tokens are sent over https only")
    return SchedulerConnection(target, secure, authentication, options)


def create_credential(connection: SchedulerConnection) -> "AsyncTokenCredential":
    """Create the credential that Authentication names. Raises ValueError if an option that it needs is missing."""
    from azure.identity import aio  # noqa: PLC0415  # slow to import

    authority = {"authority": host} if (host := connection.options.get("authorityhost")) else {}
    client_id = connection.options.get("clientid")
    match connection.authentication:
        case "ManagedIdentity":
            return aio.ManagedIdentityCredential(client_id=client_id)
        case "WorkloadIdentity":
            return aio.WorkloadIdentityCredential(
                tenant_id=connection.options.get("tenantid"),
                client_id=client_id,
                token_file_path=connection.options.get("tokenfilepath"),
                **authority,
            )
        case "Environment":
            return aio.EnvironmentCredential(**authority)
        case "AzureCLI":
            return aio.AzureCliCredential()
        case "AzurePowerShell":
            return aio.AzurePowerShellCredential()
    return aio.DefaultAzureCredential(managed_identity_client_id=client_id, **authority)


def _parse_parts(connection_string: str, setting_name: str) -> dict[str, str]:
    """Return the parts that have a value, by their names in lower case."""
    parts: dict[str, str] = {}
    for part in filter(str.strip, connection_string.split(";")):
        name, equals_sign, value = part.partition("=")
        if not equals_sign:
            raise _connection_error(setting_name, "it has a part without =")
        if value.strip():
            parts[name.strip().lower()] = value.strip()
    return parts


def _parse_endpoint(endpoint: str) -> tuple[bool, str] | None:
    """Return whether to connect with TLS, and host and port; None if this is no address. Without a scheme it is https,
    as in Microsoft's clients."""
    try:
        url = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        port = url.port
    except ValueError:
        return None
    host = url.hostname or ""
    is_origin = url.path in {"", "/"} and not url.query and not url.fragment and "@" not in url.netloc
    if url.scheme not in {"https", "http"} or not is_origin or not re.fullmatch(r"[A-Za-z0-9._:-]+", host):
        return None
    secure = url.scheme == "https"
    # Without a port gRPC takes 443 for both schemes.
    return secure, f"{f'[{host}]' if ':' in host else host}:{port or (443 if secure else 80)}"


def _connection_error(setting_name: str, problem: str) -> SettingsError:
    """The error about a connection string that cannot be used. Its message shows a valid one, and no part of the
    invalid one, which may hold a secret."""
    return SettingsError(
        f"the setting {setting_name} must be the connection string of a Durable Task Scheduler, such as "
        "Endpoint=https://NAME.REGION.durabletask.io;Authentication=ManagedIdentity;ClientID=ID, or that of an "
        f"emulator, such as Endpoint=http://localhost:8080;Authentication=None; {problem}"
    )
