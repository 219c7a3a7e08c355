"""What is published to Azure: the host's settings, the files that .funcignore leaves in, and the requirements."""

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
from harness.dependency_groups import pinned_versions
from state_api.settings import DEVELOPMENT_STORAGE, DOCUMENTED_SETTINGS, STATE_STORAGE, read_settings
from tests.platform.functions_host import copy_deployed_app

REPOSITORY = Path(function_app.__file__).parent

USED_AT_RUN_TIME = """
import asyncio, sys
before = set(sys.modules)
import function_app
from state_api.app import StateServer
from state_api.domain.releases.apps import ProviderConfig
from state_api.settings import Settings, StorageSettings, TaskHubConnections
from state_api.backends.protocols import BackendError
# The managed identity and the transport are loaded when they are first needed.
connections = TaskHubConnections({
    "STATE_TASKHUBS_SCHEDULER": "Endpoint=http://127.0.0.1:9;Authentication=None",
    "STATE_TASKHUBS_SHOP": "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=c2VjcmV0;TableEndpoint=http://127.0.0.1:9/a;"
    "QueueEndpoint=http://127.0.0.1:9/a;BlobEndpoint=http://127.0.0.1:9/a",
})
uri = "https://account.table.core.windows.net"
server = StateServer(Settings(storage=StorageSettings(table_service_uri=uri), connections=connections))

async def use():
    scheduler = server.backends.backend_for(ProviderConfig("scheduler", "STATE_TASKHUBS_SCHEDULER"))
    storage = server.backends.backend_for(ProviderConfig("azureStorage", "STATE_TASKHUBS_SHOP"))
    storage._account.queue_service()  # A backend uses the queues only after the tables have answered.
    for request in (scheduler.find_instances("v41", ["1"]), storage.artifacts.find_artifacts("v41")):
        try:
            await request
        except BackendError:
            pass
    await server.close()

asyncio.run(use())
for name in set(sys.modules) - before:
    print(getattr(sys.modules[name], "__file__", None))
"""


def run_python(script: str, folder: Path, **environment: str) -> str:
    """What the script prints, run in this interpreter from that folder."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_json(name: str) -> Any:
    return json.loads((REPOSITORY / name).read_text())


# Settings


def test_the_host_serves_the_contract_under_api_and_has_the_event_grid_extension() -> None:
    host = read_json("host.json")
    assert host["version"] == "2.0"
    assert host["extensions"]["http"]["routePrefix"] == "api"
    assert host["extensionBundle"]["id"] == "Microsoft.Azure.Functions.ExtensionBundle"
    assert re.fullmatch(r"\[\d+\.\*, \d+\.0\.0\)", host["extensionBundle"]["version"])


@pytest.mark.parametrize("name", ["host.json", "durable_app/host.json"])
def test_the_host_logs_nothing_below_a_warning_of_what_writes_most(name: str) -> None:
    """At the level Information these two wrote 765 lines in 30 idle seconds (docs/platform.md)."""
    levels = read_json(name)["logging"]["logLevel"]
    assert (levels["Azure.Core"], levels["DurableTask"]) == ("Warning", "Warning")


def test_the_example_of_local_settings_works_and_names_only_documented_settings() -> None:
    example = read_json("local.settings.example.json")
    assert example["IsEncrypted"] is False
    assert example["Values"].pop("FUNCTIONS_WORKER_RUNTIME") == "python"
    assert set(example["Values"]) <= set(DOCUMENTED_SETTINGS)
    assert read_settings(example["Values"]).storage == read_settings({STATE_STORAGE: DEVELOPMENT_STORAGE}).storage


# Files


@pytest.fixture
def published_folder(tmp_path: Path) -> Path:
    """The repository as the tools would send it."""
    return copy_deployed_app(REPOSITORY, tmp_path / "published")


def test_what_is_published_is_enough_to_index_and_holds_nothing_of_the_workshop(published_folder: Path) -> None:
    script = "import function_app; print(function_app.__file__, len(function_app.app.get_functions()))"
    functions = len(function_app.OPERATIONS) + 2
    assert run_python(script, published_folder).split() == [str(published_folder / "function_app.py"), str(functions)]
    names = {path.name for path in published_folder.iterdir()}
    assert {"host.json", "requirements.txt", "function_app.py", "state_api"} <= names
    workshop = {".git", ".venv", "node_modules", "tests", "dev", "docs", "Makefile", "requirements-dev.txt"}
    assert not workshop & names
    assert not list(published_folder.rglob("local.settings*.json"))
    assert not (published_folder / "state_api" / "emulator.py").exists()


# Requirements


def pinned_requirements() -> dict[str, str]:
    """Distribution and pinned version of each requirement of the Function App for this Python."""
    return {
        canonicalize_name(name): specifier.removeprefix("==") for name, specifier in pinned_versions("server").items()
    }


def distribution_by_file() -> dict[str, str]:
    """The distribution that each loaded file of an installed package belongs to."""
    return {
        str(one.locate_file(file)): canonicalize_name(one.metadata["Name"])
        for one in importlib.metadata.distributions()
        for file in one.files or []
    }


def transitive_requirements(names: set[str]) -> set[str]:
    """These distributions and what they need in turn, in this environment, extras aside."""
    found: set[str] = set()
    while names:
        name = names.pop()
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                names |= {canonicalize_name(need.name)} - found
    return found


def test_the_pinned_versions_are_the_installed_ones() -> None:
    assert pinned_requirements() == {name: importlib.metadata.version(name) for name in pinned_requirements()}


def test_requirements_are_what_the_function_app_loads_and_nothing_else() -> None:
    """Each requirement is loaded, and whatever else is loaded comes with one of them."""
    owner = distribution_by_file()
    loaded = {owner[file] for file in run_python(USED_AT_RUN_TIME, REPOSITORY).split("\n") if file in owner}
    assert set(pinned_requirements()) <= loaded
    assert loaded <= transitive_requirements(set(pinned_requirements()))
