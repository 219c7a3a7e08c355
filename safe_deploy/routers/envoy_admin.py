"""Asks a running Envoy, by its admin socket, what it has loaded."""

import socket
from pathlib import Path
from typing import Any

import httpx

from safe_deploy.errors import CommandError
from safe_deploy.routers.envoy import ROUTE_CONFIGURATION
from safe_deploy.routers.envoy_placement import LoadedConfiguration

_TIMEOUT_SECONDS = 5
_CLUSTERS_VERSION = "cluster_manager.cds.version_text"
_ROUTES_VERSION = f"http.router.rds.{ROUTE_CONFIGURATION}.version_text"


class EnvoyUnclear(CommandError):
    """Envoy runs, but does not say what it has loaded."""


def read_loaded_configuration(admin_socket: Path) -> LoadedConfiguration | None:
    """What Envoy has loaded; None if no Envoy is running. Raises EnvoyUnclear."""
    if not _is_listening(admin_socket):
        return None
    try:
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(admin_socket)), base_url="http://envoy", timeout=_TIMEOUT_SECONDS
        ) as admin:
            versions = _read_versions(admin)
            warming = _list_warming_clusters(admin)
            names = {
                status["name"] for status in _get_json(admin, "/clusters", format="json").get("cluster_statuses", [])
            }
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise EnvoyUnclear(f"Envoy does not say what it has loaded: {type(error).__name__} {error}") from None
    return LoadedConfiguration(
        routes_version=versions.get(_ROUTES_VERSION, ""),
        clusters_version=versions.get(_CLUSTERS_VERSION, ""),
        warm_clusters=frozenset(names - warming),
    )


def _is_listening(admin_socket: Path) -> bool:
    """Whether an Envoy listens on the socket. Only if none does may routes be written without regard to it."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_TIMEOUT_SECONDS)
        try:
            connection.connect(str(admin_socket))
        except (FileNotFoundError, ConnectionRefusedError):
            # A socket without a listener stays behind when Envoy ends.
            return False
        except OSError as error:
            raise EnvoyUnclear(f"Envoy's admin socket {admin_socket} cannot be used: {error}") from None
    return True


def _read_versions(admin: httpx.Client) -> dict[str, str]:
    """The versions of the routes and clusters that Envoy has, by the name of the statistic."""
    response = _get_json(admin, "/stats", format="json", type="TextReadouts", filter="version_text")
    return {stat["name"]: stat["value"] for stat in response["stats"] if "name" in stat}


def _list_warming_clusters(admin: httpx.Client) -> set[str]:
    """Clusters whose new configuration is not ready. The previous one, if any, is still in use."""
    response = _get_json(admin, "/config_dump", resource="dynamic_warming_clusters")
    return {entry["cluster"]["name"] for entry in response.get("configs", [])}


def _get_json(admin: httpx.Client, path: str, **query: str) -> Any:
    """The JSON that Envoy's admin interface answers. Raises httpx.HTTPError."""
    return admin.get(path, params=query).raise_for_status().json()
