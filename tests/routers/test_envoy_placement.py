"""Files of Envoy are replaced in an order in which no request meets a release that Envoy does not know."""

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from safe_deploy.client import Json
from safe_deploy.routers.documents import parse_routing_document
from safe_deploy.routers.envoy import EnvoyConfiguration, render_clusters_file, render_configuration
from safe_deploy.routers.envoy_folder import EnvoyFiles
from safe_deploy.routers.envoy_placement import (
    AwaitEnvoy,
    LoadedConfiguration,
    Placed,
    WriteClusters,
    WriteRoutes,
    plan_placement,
)
from tests.routers.examples import build_document

_NO_FILES = EnvoyFiles("", "", {})
_NOTHING_LOADED = LoadedConfiguration("", "", frozenset())


def _configuration(active: str, *, without: str = "") -> EnvoyConfiguration:
    """The configuration for a document with this active release, and without the release `without`."""
    body = build_document(active=active)
    body["releases"].pop(without, None)
    return render_configuration(parse_routing_document(body))


def _files(configuration: EnvoyConfiguration, clusters: dict[str, Json] | None = None) -> EnvoyFiles:
    """Files with the routes of the configuration, and with its clusters unless others are given."""
    chosen = configuration.clusters if clusters is None else clusters
    return EnvoyFiles(configuration.routes_version, render_clusters_file(chosen)["version_info"], chosen)


def _loaded(files: EnvoyFiles) -> LoadedConfiguration:
    """An Envoy that has loaded these files completely."""
    return LoadedConfiguration(files.routes_version, files.clusters_version, frozenset(files.clusters))


OLD = _configuration("1.5.0", without="1.6.0")
NEW = _configuration("1.6.0", without="1.4.0")


def test_clusters_are_written_first_and_none_is_dropped() -> None:
    files = _files(OLD)
    assert plan_placement(NEW, files, _loaded(files)) == WriteClusters(OLD.clusters | NEW.clusters)


def test_routes_wait_until_envoy_has_read_the_clusters() -> None:
    files = _files(OLD, OLD.clusters | NEW.clusters)
    assert plan_placement(NEW, files, _loaded(_files(OLD))) == AwaitEnvoy("the clusters")


def test_routes_wait_until_the_clusters_with_traffic_are_warm() -> None:
    files = _files(OLD, OLD.clusters | NEW.clusters)
    loaded = replace(_loaded(files), warm_clusters=frozenset(OLD.clusters))
    assert plan_placement(NEW, files, loaded) == AwaitEnvoy("the clusters")


def test_routes_do_not_wait_for_a_cluster_without_traffic() -> None:
    files = _files(OLD, OLD.clusters | NEW.clusters)
    loaded = replace(_loaded(files), warm_clusters=frozenset(["1.6.0"]))
    assert plan_placement(NEW, files, loaded) == WriteRoutes()


def test_routes_are_written_when_the_clusters_are_warm() -> None:
    files = _files(OLD, OLD.clusters | NEW.clusters)
    assert plan_placement(NEW, files, _loaded(files)) == WriteRoutes()


def test_removed_clusters_stay_until_envoy_has_the_routes() -> None:
    clusters = OLD.clusters | NEW.clusters
    files = _files(NEW, clusters)
    assert plan_placement(NEW, files, _loaded(_files(OLD, clusters))) == AwaitEnvoy("the routes")
    assert plan_placement(NEW, files, _loaded(files)) == WriteClusters(NEW.clusters)


def test_a_configuration_is_confirmed_when_envoy_routes_by_it() -> None:
    files = _files(NEW)
    assert plan_placement(NEW, files, _loaded(files)) == Placed(is_confirmed=True)


def test_without_envoy_the_files_are_written_and_not_confirmed() -> None:
    assert plan_placement(NEW, _NO_FILES, None) == WriteClusters(NEW.clusters)
    assert plan_placement(NEW, replace(_files(NEW), routes_version=""), None) == WriteRoutes()
    assert plan_placement(NEW, _files(NEW), None) == Placed(is_confirmed=False)


def test_the_clusters_of_an_app_without_releases_are_written_too() -> None:
    """Envoy does not start without that file."""
    body = build_document(active=None)
    body["releases"].clear()
    empty = render_configuration(parse_routing_document(body))
    assert plan_placement(empty, _NO_FILES, None) == WriteClusters({})
    assert plan_placement(empty, _files(empty), _loaded(_files(empty))) == Placed(is_confirmed=True)


def test_a_release_that_has_moved_gets_its_new_address() -> None:
    body = build_document(active="1.5.0")
    body["releases"]["1.5.0"]["address"] = "https://moved.example"
    moved = render_configuration(parse_routing_document(body))
    files = _files(_configuration("1.5.0"))
    assert plan_placement(moved, files, _loaded(files)) == WriteClusters(moved.clusters)


@dataclass
class _EnvoyModel:
    """An Envoy that reads each of its files at any time, in any order."""

    files: EnvoyFiles = _NO_FILES
    routes: set[str] = field(default_factory=set)
    loaded: LoadedConfiguration = _NOTHING_LOADED
    written_routes: set[str] = field(default_factory=set)

    def read_clusters(self) -> None:
        """Envoy reads the file of clusters, and warms them."""
        self.loaded = replace(
            self.loaded, clusters_version=self.files.clusters_version, warm_clusters=frozenset(self.files.clusters)
        )

    def read_routes(self) -> None:
        """Envoy reads the file of routes, and routes by it from now on."""
        self.loaded = replace(self.loaded, routes_version=self.files.routes_version)
        self.routes = self.written_routes


@given(
    targets=st.lists(st.sampled_from([OLD, NEW, _configuration("1.7.0")]), min_size=1, max_size=6),
    reads=st.lists(st.sampled_from(["clusters", "routes"]), max_size=40),
)
def test_envoy_never_has_routes_to_clusters_that_it_does_not_have(
    targets: list[EnvoyConfiguration], reads: list[str]
) -> None:
    """Also if the document changes, or Envoy reads a file, between any two steps."""
    envoy = _EnvoyModel()
    for number, read in enumerate([*reads, *["clusters", "routes"] * 20]):
        wanted = targets[min(number // 3, len(targets) - 1)]
        match plan_placement(wanted, envoy.files, envoy.loaded):
            case WriteClusters(clusters):
                version = render_clusters_file(clusters)["version_info"]
                envoy.files = replace(envoy.files, clusters=clusters, clusters_version=version)
            case WriteRoutes():
                envoy.files = replace(envoy.files, routes_version=wanted.routes_version)
                envoy.written_routes = set(wanted.clusters)
        if read == "clusters":
            envoy.read_clusters()
        else:
            envoy.read_routes()
        assert envoy.routes <= envoy.loaded.warm_clusters
    assert plan_placement(targets[-1], envoy.files, envoy.loaded) == Placed(is_confirmed=True)
