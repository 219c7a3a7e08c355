"""Instances whose ids are commands of CI systems and terminals, on the real extension. safe-deploy prints the ids in a
pipeline's log, and none of them is a command there."""

import asyncio
import uuid
from pathlib import Path

import pytest

from harness.durable_host import run_durable_host
from state_api.settings import StorageSettings
from tests.platform.state_server import STORAGE_PROVIDER_CONFIG, run_state_server
from tests.safe_deploy.ci_systems import AZURE, github_environment
from tests.safe_deploy.logging_commands import (
    OWN_AZURE_COMMANDS,
    OWN_GITHUB_COMMANDS,
    find_azure_commands,
    find_github_commands,
)
from tests.safe_deploy.processes import run_safe_deploy

pytestmark = pytest.mark.anyio

IDS = [
    "order\n::error::forged",
    "##vso[task.complete result=Succeeded;]done",
    "::stop-commands::token",
    "\x1b[2J\x1b[1;1Hnothing runs",
]


async def test_safe_deploy_escapes_instance_ids_that_are_commands(storage: StorageSettings, tmp_path: Path) -> None:
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    task_hub = f"hostile{uuid.uuid4().hex[:16]}"
    async with (
        run_state_server(storage, tmp_path) as server,
        run_durable_host(task_hub, connection, tmp_path) as worker,
    ):
        await server.put_app("hostile", task_hub, STORAGE_PROVIDER_CONFIG)
        for number, instance_id in enumerate(IDS):
            # The extension refuses most of these ids from a client, but none of them from an orchestration.
            await worker.start_orchestration("Launcher", f"launcher-{number}", starts="Wait", id=instance_id, input={})
        async with asyncio.timeout(120):
            while {active["id"] for active in await worker.list_active()} != set(IDS):
                await asyncio.sleep(0.1)
        response = await server.get_staging_status("hostile")
        assert {active["instanceId"] for active in response.verdict["active"]} == set(IDS)
        for ci_variables, find_commands, allowed_commands in (
            (github_environment(tmp_path), find_github_commands, OWN_GITHUB_COMMANDS),
            (AZURE, find_azure_commands, OWN_AZURE_COMMANDS),
        ):
            environment = ci_variables | {"SAFE_DEPLOY_SERVER": server.url, "SAFE_DEPLOY_APP": "hostile"}
            for arguments in (["status"], ["instances", "--task-hub", task_hub]):
                ended = await asyncio.to_thread(run_safe_deploy, *arguments, variables=environment, folder=tmp_path)
                log = ended.stdout + ended.stderr
                assert "task.complete result=Succeeded" in log, log
                assert "\x1b[2J" not in log
                assert {command.name for command in find_commands(log)} <= allowed_commands, log
