"""Fixtures of the tests that compare the documentation with the code."""

import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from state_api.app import StateServer
from state_api.settings import (
    Settings,
    StorageSettings,
)
from state_api.settings import emulator_connection_string as connection


@pytest.fixture(scope="module")
def api() -> FastAPI:
    """The application. No test sends a request, so its storage need not exist."""
    storage = StorageSettings(connection_string=SecretStr(connection("127.0.0.1", 1)))
    return StateServer(Settings(storage=storage)).api
