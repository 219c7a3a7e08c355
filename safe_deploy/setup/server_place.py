"""Where the state server is in Azure: its Function App, and the vault with the secret that its STATE_KEYS refers to."""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from safe_deploy.azure_cli import AzureUnavailable
from safe_deploy.setup.azure_apps import AzureApps
from safe_deploy.setup.observations import ObservedAzure

_REFERENCES = (
    re.compile(
        r"@Microsoft\.KeyVault\(SecretUri=https://(?P<vault>[\w-]+)\.[\w.-]+/secrets/(?P<secret>[\w-]+)(/\w*)?\)"
    ),
    re.compile(r"@Microsoft\.KeyVault\(VaultName=(?P<vault>[\w-]+);SecretName=(?P<secret>[\w-]+)(;[^)]*)?\)"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlace:
    """The server's place, each part as a word for the shell. Where it was not seen, the variables of docs/azure.md
    stand for the names."""

    resource_group: str = "$RG"
    function_app: str = "$STATE_APP"
    vault: str = "$VAULT"
    secret: str = "state-keys"  # noqa: S105  # the name of the secret


def find_server(server: str, azure: ObservedAzure, apps: AzureApps, report: Callable[[str], None]) -> ServerPlace:
    """The place of the server with this address, as far as `az` shows it."""
    seen = azure.find_by_host(urlsplit(server).hostname or "")
    if seen is None:
        return ServerPlace()
    place = ServerPlace(resource_group=shlex.quote(seen.resource_group), function_app=shlex.quote(seen.name))
    try:
        reference = apps.read_setting(seen.resource_group, seen.name, "STATE_KEYS")
    except AzureUnavailable as error:
        report(f"the setting STATE_KEYS of {seen.name} is not read, because {error.message}")
        return place
    match = next((match for pattern in _REFERENCES if (match := pattern.fullmatch(reference or ""))), None)
    if match is None:
        return place
    return replace(place, vault=match["vault"], secret=match["secret"])
