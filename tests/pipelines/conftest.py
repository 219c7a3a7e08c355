"""A state server with keys, a machine with tools, and an app of its own for every test."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from state_api.settings import StorageSettings
from tests.pipelines.harness import KEYS, Machine, Shop
from tests.server.processes import Served, serving


@pytest.fixture(scope="session")
def state_server(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all pipelines."""
    keys = [{"name": f"the-{role}", "role": role, "key": key} for role, key in KEYS.items()]
    with serving(storage, tmp_path_factory.mktemp("server"), keys) as served:
        yield served


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def shop(state_server: Served, machine: Machine, app: str) -> Iterator[Shop]:
    headers = {"x-functions-key": KEYS["admin"], "X-Actor": "the test"}
    with httpx.Client(base_url=state_server.url, headers=headers, timeout=60) as admin:
        yield Shop(app, state_server.url, machine.cloud, admin)
