"""A state server with keys, a machine with tools, and an app of its own for every test."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dev.local import stopped, until
from state_api.settings import StorageSettings
from tests.keys import key_entries
from tests.pipelines.harness import KEYS, Machine, Shop
from tests.pipelines.releases import Release
from tests.server.processes import ROOT, Served, serving


@pytest.fixture(scope="session")
def state_server(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all pipelines."""
    keys = key_entries(KEYS)
    with serving(storage, tmp_path_factory.mktemp("server"), keys) as served:
        yield served


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a process serves that has imported `safe_deploy`."""
    address = tmp_path_factory.mktemp("warm") / "socket"
    process = subprocess.Popen([sys.executable, "-m", "tests.pipelines.warm", address], cwd=ROOT)
    with stopped(process):
        until(lambda: address.exists() or process.poll() is not None, "it serves")
        yield address


@pytest.fixture
def machine(tmp_path: Path, warm: Path) -> Machine:
    return Machine(tmp_path, warm)


@pytest.fixture
def shop(state_server: Served, machine: Machine, app: str) -> Iterator[Shop]:
    headers = {"x-functions-key": KEYS["admin"], "X-Actor": "the test"}
    with httpx.Client(base_url=state_server.url, headers=headers, timeout=60) as admin:
        yield Shop(app, state_server.url, machine.cloud, admin)


@pytest.fixture
def release(machine: Machine, shop: Shop) -> Release:
    return Release(machine, shop)
