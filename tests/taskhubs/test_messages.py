"""Messages on their way in a task hub: seen until the last is deleted, and not guessed at where nobody may look."""

import logging

import pytest

from dev.local import free_ports
from state_api.emulator import EmulatorPorts
from state_api.settings import StorageSettings, emulator_connection
from state_api.taskhubs.artifacts import StorageArtifacts
from tests.taskhubs.accounts import CUT, NAME, SECRET, Account, Fault, account, artifacts, hub, opened, proxied

__all__ = ["account", "artifacts", "hub"]  # fixtures

pytestmark = pytest.mark.anyio


async def test_messages_are_on_their_way_until_the_last_is_deleted(
    account: Account, artifacts: StorageArtifacts, hub: str
) -> None:
    for number in range(4):
        await account.make_queue(f"{hub}-control-{number:02}", 0)
    await account.make_queue(f"{hub}-workitems")
    await account.make_queue(f"{hub}-control-backup")
    await account.make_queue(f"{hub}x-control-00")
    assert await artifacts.in_flight(hub) is False
    queue = account.queues.get_queue_client(f"{hub}-control-03")
    await queue.send_message("start an order")
    assert await artifacts.in_flight(hub) is True
    assert await artifacts.in_flight(hub.upper()) is True
    # A worker has it: nobody else can see it for a while.
    [taken] = [message async for message in queue.receive_messages(visibility_timeout=600)]
    assert await queue.peek_messages() == []
    assert await artifacts.in_flight(hub) is True
    await queue.delete_message(taken)
    assert await artifacts.in_flight(hub) is False
    # A timer, or a delayed start.
    await queue.send_message("wake an order", visibility_timeout=600)
    assert await artifacts.in_flight(hub) is True


async def test_a_hub_without_queues_has_no_messages(account: Account, artifacts: StorageArtifacts, hub: str) -> None:
    assert await artifacts.in_flight(hub) is False
    await account.make_queue(f"{hub}-workitems")
    assert await artifacts.in_flight(hub) is False


async def test_queues_that_cannot_be_read_tell_nothing(
    account: Account, storage: StorageSettings, hub: str, caplog: pytest.LogCaptureFixture
) -> None:
    await account.make_hub(hub)
    caplog.set_level(logging.INFO, "state_api")
    async with proxied(storage) as proxy, opened(proxy.settings) as artifacts:
        proxy.faults = {"Queue": Fault(403, "AuthorizationPermissionMismatch")}
        assert [await artifacts.in_flight(hub) for _ in range(3)] == [None] * 3
        [said] = caplog.messages
        assert "Storage Queue Data Reader" in said
        assert NAME in said
        assert SECRET not in said
        for fault in (Fault(503, "ServerBusy"), Fault(CUT), Fault(404), Fault(200)):
            proxy.faults = {"Queue": fault}
            assert await artifacts.in_flight(hub) is None
        assert len(caplog.messages) == 5
        proxy.faults = {}
        assert await artifacts.in_flight(hub) is True
    nowhere = EmulatorPorts(*free_ports(3)).connection()
    for settings in (
        {"connection_string": nowhere},
        {"connection_string": emulator_connection("127.0.0.1", 1)},
        {"table_service_uri": "https://shop.table.core.windows.net"},
    ):
        async with opened(StorageSettings.model_validate(settings)) as artifacts:
            assert await artifacts.in_flight(hub) is None
    assert {record.levelno for record in caplog.records if record.name.startswith("state_api")} == {logging.INFO}


async def test_a_queue_that_goes_while_it_is_looked_at_holds_nothing(
    account: Account, storage: StorageSettings, hub: str
) -> None:
    await account.make_hub(hub)
    async with proxied(storage) as proxy, opened(proxy.settings) as artifacts:
        proxy.faults = {f"/{hub}-control-{number:02}": Fault(404, "QueueNotFound") for number in range(4)}
        assert await artifacts.in_flight(hub) is False
        proxy.faults[f"/{hub}-control-02"] = Fault(403, "AuthorizationFailure")
        assert await artifacts.in_flight(hub) is None
