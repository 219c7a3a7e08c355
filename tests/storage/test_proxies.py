"""Requests to the storage use the proxy that the environment names, and need no other thread without one."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from aiohttp import web

from harness.http_server import HOST, run_http_server
from state_api.backends.storage_account import StorageAccount
from state_api.settings import StorageSettings
from state_api.storage.tables import Tables

pytestmark = pytest.mark.anyio

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def environment_without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment whose variables name no proxy."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def test_requests_to_the_storage_pass_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[str] = []

    async def answer_as_proxy(request: web.Request) -> web.StreamResponse:
        """Answer instead of the storage, and keep the path that was asked for."""
        requested.append(request.raw_path)
        return web.json_response({"value": []})

    async with run_http_server(answer_as_proxy) as (port,):
        monkeypatch.setenv("http_proxy", f"http://{HOST}:{port}")
        address = "http://tables.test/account"
        settings = StorageSettings.model_validate(
            {"connection_string": f"AccountName=account;AccountKey=a2V5;TableEndpoint={address}"}
        )
        tables, account = Tables(settings), StorageAccount(settings, "STATE_TASKHUBS_SHOP")
        rows = [row async for row in tables.client("Apps").list_entities()]
        names = [table.name async for table in account.table_service().list_tables()]
        await tables.close()
        await account.close()
    assert (rows, names) == ([], [])
    assert [path.partition("?")[0] for path in requested] == [f"{address}/Apps()", f"{address}/Tables"]


class _RefusingExecutor(ThreadPoolExecutor):
    """An executor in which nothing may run."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        raise AssertionError(f"{function} needs a thread")


async def test_without_a_proxy_a_request_needs_no_other_thread(storage: StorageSettings) -> None:
    asyncio.get_running_loop().set_default_executor(_RefusingExecutor())
    tables, account = Tables(storage), StorageAccount(storage, "STATE_TASKHUBS_SHOP")
    await tables.create_table("ProxiesTest")
    await account.table_service().create_table_if_not_exists("ProxiesTest")
    async for _ in account.queue_service().list_queues():
        break
    async for _ in account.blob_service().list_containers():
        break
    await tables.close()
    await account.close()
