"""The order in which Envoy's files are replaced, so that no request is sent to a release that Envoy does not know.

Clusters of new releases come first, routes when Envoy has those clusters, and removed clusters go last.
"""

from dataclasses import dataclass

from safe_deploy.client import Json
from safe_deploy.routers.envoy import EnvoyConfiguration
from safe_deploy.routers.envoy_folder import EnvoyFiles


@dataclass(frozen=True, slots=True)
class LoadedConfiguration:
    """What a running Envoy has loaded: the versions of the files, and the clusters that are ready for requests."""

    routes_version: str
    clusters_version: str
    warm_clusters: frozenset[str]


@dataclass(frozen=True, slots=True)
class WriteClusters:
    clusters: dict[str, Json]


@dataclass(frozen=True, slots=True)
class WriteRoutes:
    pass


@dataclass(frozen=True, slots=True)
class AwaitEnvoy:
    """Envoy has not loaded its files yet. `subject` says which."""

    subject: str


@dataclass(frozen=True, slots=True)
class Placed:
    """Nothing is left to do. `is_confirmed`: a running Envoy routes by this configuration."""

    is_confirmed: bool


PlacementStep = WriteClusters | WriteRoutes | AwaitEnvoy | Placed


def plan_placement(wanted: EnvoyConfiguration, files: EnvoyFiles, loaded: LoadedConfiguration | None) -> PlacementStep:
    """The next step. `loaded` is None if no Envoy is running: then the files only have to fit together."""
    # Envoy does not start without the file, also while the app has no release.
    is_missing = not files.clusters_version
    if is_missing or any(files.clusters.get(name) != cluster for name, cluster in wanted.clusters.items()):
        # The present routes can still lead to the other clusters in the file.
        return WriteClusters(files.clusters | wanted.clusters)
    if files.routes_version != wanted.routes_version:
        if loaded is None or _has_clusters(loaded, wanted, files):
            return WriteRoutes()
        return AwaitEnvoy("the clusters")
    if loaded is not None and loaded.routes_version != wanted.routes_version:
        return AwaitEnvoy("the routes")
    if files.clusters.keys() != wanted.clusters.keys():
        return WriteClusters(wanted.clusters)
    return Placed(is_confirmed=loaded is not None)


def _has_clusters(loaded: LoadedConfiguration, wanted: EnvoyConfiguration, files: EnvoyFiles) -> bool:
    """Whether Envoy knows all clusters, and those with traffic are warm. A staged release whose name cannot be resolved
    must not delay a rollback."""
    return loaded.clusters_version == files.clusters_version and wanted.with_traffic <= loaded.warm_clusters
