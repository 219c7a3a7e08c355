"""Runs `safe-deploy doctor` and reads its results."""

import asyncio
import json
from typing import Any

from azure.data.tables import TableServiceClient
from azure.storage.queue import QueueServiceClient

from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event
from tests.pipelines.fake_cloud import FakeAzure
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.deployment_fixture import RESOURCE_GROUP
from tests.safe_deploy.in_process import InProcessResult, run_in_process
from tests.safe_deploy.processes import KEYS

PROVIDER_CONFIG = {"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"}
VERIFIED: dict[str, Any] = {"taskHubs": PROVIDER_CONFIG, "policy": {"settleSeconds": 0, "requireVerification": True}}


class CheckResults(dict[str, tuple[str, str]]):
    """Status and message of every check, by its name."""

    def __init__(self, result: InProcessResult) -> None:
        """Parse what doctor has printed: status and message by the name of the check."""
        checks = json.loads(result.out)
        super().__init__({check["check"]: (check["status"], check["message"]) for check in checks})
        assert len(self) == len(checks), "every check has one result"
        self.repaired = {check["check"]: check["repaired"] for check in checks if check["repaired"] is not None}
        self.code = result.code
        self.err = result.err

    def failed_checks(self) -> list[str]:
        """The names of the checks that have failed."""
        return [check for check, (status, _) in self.items() if status == "failed"]


def run_doctor(app_client: AppClient, *options: str, role: str = "deployer", **variables: str) -> CheckResults:
    """Run `doctor`. Fails if it prints a key, or if a failed check is missing on stderr."""
    result = run_in_process(["doctor", "--output", "json", *options], app_client.build_environment(role, **variables))
    assert "Traceback" not in result.err
    assert not any(key in result.out + result.err for key in KEYS.values())
    results = CheckResults(result)
    assert (result.code == ExitCode.DONE) is (not results.failed_checks())
    for check in results.failed_checks():
        assert f"{check}: {results[check][1]}" in result.err
    return results


def create_provider_hub(storage: StorageSettings, hub: str, **instances: str) -> None:
    """Create the task hub's table with these instances, as the app does when it starts."""

    async def create_hub_with_instances() -> None:
        async with ProviderTaskHub(storage, hub) as provider:
            await provider.create()
            for instance, status in instances.items():
                await provider.put(instance, status)

    asyncio.run(create_hub_with_instances())


def delete_provider_hub(storage: StorageSettings, hub: str) -> None:
    """Delete all that the task hub has at its provider."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    with TableServiceClient.from_connection_string(connection) as tables:
        for table in tables.list_tables():
            if table.name.startswith(hub):
                tables.delete_table(table.name)
    with QueueServiceClient.from_connection_string(connection) as queues:
        for queue in queues.list_queues(name_starts_with=hub):
            queues.delete_queue(queue)


def register_verified_app(app_client: AppClient, storage: StorageSettings) -> AppClient:
    """Register an app whose task hub the server reads, with one active instance."""
    create_provider_hub(storage, app_client.hub, **{"order-1": "Running"})
    app_client.register(taskHubs=PROVIDER_CONFIG)
    app_client.publish(event(app_client.hub))
    return app_client


def set_slot_task_hubs(
    fake_azure: FakeAzure, app_client: AppClient, sticky: tuple[str, ...] = (), **hubs: str | None
) -> None:
    """Set the task hubs of the slots in Azure, and the names of its sticky settings."""
    slots = {slot: {"settings": {"TASK_HUB": hub} if hub else {}} for slot, hub in hubs.items()}
    fake_azure.reset({app_client.app: {"resourceGroup": RESOURCE_GROUP, "slots": slots, "sticky": list(sticky)}})
