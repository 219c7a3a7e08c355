"""The package that is published to Azure: the settings of the host, the files that .funcignore keeps, and the
requirements."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import function_app
from harness.dependency_groups import read_pinned_versions
from harness.functions_host import copy_deployed_app
from state_api.settings import DEVELOPMENT_STORAGE, DOCUMENTED_SETTINGS, STATE_STORAGE, read_settings

REPOSITORY = Path(function_app.__file__).parent

LIST_FILES_OF_USED_MODULES = """
import asyncio, sys
before = set(sys.modules)
import function_app
from state_api.app import StateServer
from state_api.domain.releases.apps import ProviderConfig
from state_api.settings import Settings, StorageSettings, TaskHubConnections
from state_api.backends.protocols import BackendError
# The libraries for managed identity and HTTP are imported on first use.
connections = TaskHubConnections({
    "STATE_TASKHUBS_SCHEDULER": "Endpoint=http://127.0.0.1:9;Authentication=None",
    "STATE_TASKHUBS_SHOP": "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=c2VjcmV0;TableEndpoint=http://127.0.0.1:9/a;"
    "QueueEndpoint=http://127.0.0.1:9/a;BlobEndpoint=http://127.0.0.1:9/a",
})
uri = "https://account.table.core.windows.net"
server = StateServer(Settings(storage=StorageSettings(table_service_uri=uri), connections=connections))

async def use_backends():
    scheduler = server.backends.backend_for(ProviderConfig("scheduler", "STATE_TASKHUBS_SCHEDULER"))
    storage = server.backends.backend_for(ProviderConfig("azureStorage", "STATE_TASKHUBS_SHOP"))
    storage._account.queue_service()  # A backend uses the queues only after the tables have answered.
    for request in (scheduler.find_instances("v41", ["1"]), storage.artifacts.find_artifacts("v41")):
        try:
            await request
        except BackendError:
            pass
    await server.close()

asyncio.run(use_backends())
for name in set(sys.modules) - before:
    print(getattr(sys.modules[name], "__file__", None))
"""


def run_python(script: str, folder: Path, **environment: str) -> str:
    """The output of the script, run by this Python interpreter in `folder`."""
    process = subprocess.run(
        [sys.executable, "-B", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def read_json(name: str) -> Any:
    """The JSON document in this file of the repository."""
    return json.loads((REPOSITORY / name).read_text())


# Settings


def test_the_functions_have_no_route_prefix_and_the_host_has_the_event_grid_extension() -> None:
    host = read_json("host.json")
    assert host["version"] == "2.0"
    assert host["extensions"]["http"]["routePrefix"] == ""
    assert host["extensionBundle"]["id"] == "Microsoft.Azure.Functions.ExtensionBundle"
    assert re.fullmatch(r"\[\d+\.\*, \d+\.0\.0\)", host["extensionBundle"]["version"])


@pytest.mark.parametrize("name", ["host.json", "durable_app/host.json"])
def test_the_host_logs_only_warnings_of_the_two_noisiest_libraries(name: str) -> None:
    """At the level Information these libraries log 765 lines in 30 idle seconds (docs/platform.md)."""
    levels = read_json(name)["logging"]["logLevel"]
    assert (levels["Azure.Core"], levels["DurableTask"]) == ("Warning", "Warning")


def test_the_example_local_settings_are_valid_and_all_documented() -> None:
    example = read_json("local.settings.example.json")
    assert example["IsEncrypted"] is False
    assert example["Values"].pop("FUNCTIONS_WORKER_RUNTIME") == "python"
    assert set(example["Values"]) <= set(DOCUMENTED_SETTINGS)
    assert read_settings(example["Values"]).storage == read_settings({STATE_STORAGE: DEVELOPMENT_STORAGE}).storage


# Files


@pytest.fixture
def published_folder(tmp_path: Path) -> Path:
    """The files of the repository that the deployment tools would publish."""
    return copy_deployed_app(REPOSITORY, tmp_path / "published")


def test_the_published_files_suffice_to_index_all_functions_and_include_no_development_files(
    published_folder: Path,
) -> None:
    script = "import function_app; print(function_app.__file__, len(function_app.app.get_functions()))"
    others = 4  # the home page, the Event Grid trigger, two timers
    function_count = len(function_app.OPERATIONS) + others
    assert run_python(script, published_folder).split() == [
        str(published_folder / "function_app.py"),
        str(function_count),
    ]
    names = {path.name for path in published_folder.iterdir()}
    assert {"host.json", "requirements.txt", "function_app.py", "state_api"} <= names
    development_files = {".git", ".venv", "node_modules", "tests", "dev", "docs", "Makefile", "requirements-dev.txt"}
    assert not development_files & names
    assert not list(published_folder.rglob("local.settings*.json"))
    assert not (published_folder / "state_api" / "emulator.py").exists()


# Requirements


def pinned_requirements() -> dict[str, str]:
    """The pinned version of each requirement of the Function App for this Python version, by distribution."""
    return {
        canonicalize_name(name): specifier.removeprefix("==")
        for name, specifier in read_pinned_versions("server").items()
    }


def distribution_by_file() -> dict[str, str]:
    """The distribution of each file of every installed package."""
    return {
        str(distribution.locate_file(file)): canonicalize_name(distribution.metadata["Name"])
        for distribution in importlib.metadata.distributions()
        for file in distribution.files or []
    }


def transitive_requirements(names: set[str]) -> set[str]:
    """These distributions and all that they require directly or indirectly in this environment, without extras."""
    required: set[str] = set()
    while names:
        name = names.pop()
        required.add(name)
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                names |= {canonicalize_name(requirement.name)} - required
    return required


def test_the_installed_versions_are_the_pinned_versions() -> None:
    assert pinned_requirements() == {name: importlib.metadata.version(name) for name in pinned_requirements()}


def test_the_requirements_are_exactly_the_distributions_that_the_function_app_loads() -> None:
    """The app loads every requirement, and every other distribution that it loads is required by a requirement."""
    distributions = distribution_by_file()
    files = run_python(LIST_FILES_OF_USED_MODULES, REPOSITORY).split("\n")
    loaded = {distributions[file] for file in files if file in distributions}
    assert set(pinned_requirements()) <= loaded
    assert loaded <= transitive_requirements(set(pinned_requirements()))
