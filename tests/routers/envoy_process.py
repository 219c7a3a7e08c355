"""A real Envoy with the configuration of a document."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from harness.envoy import RunningEnvoy, run_envoy
from harness.processes import free_port
from safe_deploy.client import Json
from safe_deploy.routers.documents import end_sticky_visits, parse_routing_document
from safe_deploy.routers.envoy import (
    BOOTSTRAP_FILE,
    CLUSTERS_FILE,
    ROUTES_FILE,
    render_bootstrap,
    render_clusters_file,
    render_configuration,
    render_routes_file,
)


def write_configuration(folder: Path, document: Json, *, port: int) -> None:
    """Write all files for a document, without regard to an Envoy that uses them."""
    configuration = render_configuration(end_sticky_visits(parse_routing_document(document), datetime.now(UTC)))
    files = {
        BOOTSTRAP_FILE: render_bootstrap(app="shop", listen=("127.0.0.1", port), folder=str(folder)),
        CLUSTERS_FILE: render_clusters_file(configuration.clusters),
        ROUTES_FILE: render_routes_file(configuration),
    }
    for name, body in files.items():
        (folder / name).write_text(json.dumps(body))


@contextmanager
def run_envoy_for(document: Json, folder: Path) -> Iterator[RunningEnvoy]:
    """Start Envoy with the configuration of a document."""
    port = free_port()
    write_configuration(folder, document, port=port)
    with run_envoy(folder, port) as envoy:
        yield envoy
