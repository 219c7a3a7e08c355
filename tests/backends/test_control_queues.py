"""The control queues of a task hub: counted messages, peeked messages, and failures to read them."""

import base64
import gzip
import json
import uuid

import pytest

from harness.processes import free_ports
from state_api.backends.control_queues import ControlQueues
from state_api.backends.protocols import BackendError, ReadFailure
from state_api.backends.storage_account import StorageAccount
from state_api.domain.readiness.messages import MessageKind, QueueSnapshot, VisibleMessage
from state_api.emulator import EmulatorPorts
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import control_message, large_control_message
from tests.backends.storage_account import (
    CONNECTION_NAME,
    CUT_CONNECTION,
    RawAccount,
    ServiceFault,
    account,
    account_proxy,
    connection_string_of,
    hub,
    raises_read_failure,
)

__all__ = ["account", "hub"]  # fixtures

pytestmark = pytest.mark.anyio


async def read_queue_snapshot(settings: StorageSettings, hub: str) -> QueueSnapshot:
    account = StorageAccount(settings, CONNECTION_NAME)
    try:
        return await ControlQueues(account).read_queue_snapshot(hub)
    finally:
        await account.close()


async def create_control_queues(account: RawAccount, hub: str, count: int = 2) -> None:
    """Create a task hub with empty control queues."""
    await account.add_partitions(hub, count)
    for number in range(count):
        await account.add_queue(f"{hub.lower()}-control-{number:02}", 0)


async def send_and_list_visible_messages(
    account: RawAccount, storage: StorageSettings, hub: str, *message_texts: str
) -> list[VisibleMessage]:
    """Send these messages to a new task hub, and return what a snapshot shows of them."""
    await create_control_queues(account, hub, 1)
    queue = account.queues.get_queue_client(f"{hub.lower()}-control-00")
    for text in message_texts:
        await queue.send_message(text)
    return list((await read_queue_snapshot(storage, hub)).visible)


def describe_messages(messages: list[VisibleMessage]) -> list[tuple[str, str, str]]:
    """Kind, instance id and function of each message, for a comparison."""
    return [(message.kind.value, message.instance_id, message.function_name) for message in messages]


async def test_messages_are_counted_until_they_are_deleted(
    account: RawAccount, storage: StorageSettings, hub: str
) -> None:
    await create_control_queues(account, hub, 4)
    await account.add_queue(f"{hub}-workitems")
    await account.add_queue(f"{hub}-control-backup")
    await account.add_queue(f"{hub}x-control-00")
    assert (await read_queue_snapshot(storage, hub)).message_count == 0
    queue = account.queues.get_queue_client(f"{hub}-control-03")
    await queue.send_message(control_message("order-1"))
    snapshot = await read_queue_snapshot(storage, hub)
    assert (snapshot.message_count, snapshot.peeked_twice, snapshot.invisible, len(snapshot.visible)) == (1, 1, 0, 1)
    # A worker takes the message.
    [received] = [message async for message in queue.receive_messages(visibility_timeout=600)]
    snapshot = await read_queue_snapshot(storage, hub)
    assert (snapshot.message_count, snapshot.invisible, snapshot.visible) == (1, 1, ())
    await queue.delete_message(received)
    assert (await read_queue_snapshot(storage, hub)).message_count == 0
    # A timer or a delayed start is invisible from the start.
    await queue.send_message(control_message("order-1", "TimerFired", None), visibility_timeout=600)
    assert (await read_queue_snapshot(storage, hub)).invisible == 1


async def test_a_start_has_its_instance_id_and_function_name(
    account: RawAccount, storage: StorageSettings, hub: str
) -> None:
    messages = await send_and_list_visible_messages(
        account, storage, hub, control_message("order-1"), control_message("order/2\n##vso[", name="Ship")
    )
    assert describe_messages(messages) == [("start", "order-1", "ProcessOrder"), ("start", "order/2\n##vso[", "Ship")]


async def test_a_name_that_cannot_be_stored_is_changed_so_that_it_can(
    account: RawAccount, storage: StorageSettings, hub: str
) -> None:
    [message] = await send_and_list_visible_messages(
        account, storage, hub, control_message("a" * 300, name="half \ud800 a pair")
    )
    assert (message.instance_id, message.function_name) == ("a" * 256, "half ? a pair")


async def test_a_message_in_base64_is_read(account: RawAccount, storage: StorageSettings, hub: str) -> None:
    encoded = base64.b64encode(control_message("order-1").encode()).decode()
    assert describe_messages(await send_and_list_visible_messages(account, storage, hub, encoded)) == [
        ("start", "order-1", "ProcessOrder")
    ]


@pytest.mark.parametrize("event_type", ["ExecutionTerminated", "TaskCompleted", "TimerFired", "EventRaised"])
async def test_a_message_without_effect_on_an_ended_instance_is_not_a_start(
    account: RawAccount, storage: StorageSettings, hub: str, event_type: str
) -> None:
    assert describe_messages(
        await send_and_list_visible_messages(account, storage, hub, control_message("order-1", event_type, "go"))
    ) == [("other", "order-1", "")]


@pytest.mark.parametrize("event_type", ["GenericEvent", "ExecutionRewound", "FromTheFuture"])
async def test_a_message_that_revives_an_instance_or_is_unknown_counts_as_a_start(
    account: RawAccount, storage: StorageSettings, hub: str, event_type: str
) -> None:
    assert describe_messages(
        await send_and_list_visible_messages(account, storage, hub, control_message("order-1", event_type))
    ) == [("start", "order-1", "")]


async def test_a_message_for_an_entity_has_the_entitys_name(
    account: RawAccount, storage: StorageSettings, hub: str
) -> None:
    messages = await send_and_list_visible_messages(
        account, storage, hub, control_message("@counter@a", "EventRaised", "op")
    )
    assert describe_messages(messages) == [("entity", "@counter@a", "counter")]


@pytest.mark.parametrize(
    "body",
    [
        "start an order",
        "{}",
        "[]",
        '{"TaskMessage": null}',
        '{"TaskMessage": {"Event": 1, "OrchestrationInstance": {"InstanceId": "a"}}}',
        "{" * 5000,
        large_control_message("not a name of the provider's"),
    ],
    ids=["text", "empty", "a list", "no task", "no event", "nested", "another blob"],
)
async def test_a_message_that_cannot_be_parsed_is_unreadable(
    account: RawAccount, storage: StorageSettings, hub: str, body: str
) -> None:
    [message] = await send_and_list_visible_messages(account, storage, hub, body)
    assert message.kind is MessageKind.UNREADABLE


async def test_a_large_start_is_read_from_its_blob(account: RawAccount, storage: StorageSettings, hub: str) -> None:
    name = f"orders/1/message-{uuid.uuid4().hex}-ExecutionStarted.json.gz"
    container = account.blobs.get_container_client(f"{hub}-largemessages")
    await container.create_container()
    await container.upload_blob(name, gzip.compress(control_message("orders/1", name="Ship").encode()))
    assert describe_messages(
        await send_and_list_visible_messages(account, storage, hub, large_control_message(name))
    ) == [("start", "orders/1", "Ship")]


@pytest.mark.parametrize(
    "body",
    [None, b"not gzip", gzip.compress(b"not JSON", mtime=0), gzip.compress(b"{}", mtime=0)[:-9]],
    ids=["no blob", "not compressed", "not JSON", "cut off"],
)
async def test_a_large_start_is_known_by_the_name_of_its_blob_if_the_blob_cannot_be_read(
    account: RawAccount, storage: StorageSettings, hub: str, body: bytes | None
) -> None:
    name = f"orders/1/message-{uuid.uuid4().hex}-ExecutionStarted.json.gz"
    if body is not None:
        container = account.blobs.get_container_client(f"{hub}-largemessages")
        await container.create_container()
        await container.upload_blob(name, body)
    assert describe_messages(
        await send_and_list_visible_messages(account, storage, hub, large_control_message(name))
    ) == [("start", "orders/1", "")]


async def test_the_blob_of_a_large_event_is_not_read(account: RawAccount, storage: StorageSettings, hub: str) -> None:
    name = f"order-1/message-{uuid.uuid4().hex}-EventRaised.json.gz"
    assert describe_messages(
        await send_and_list_visible_messages(account, storage, hub, large_control_message(name))
    ) == [("other", "order-1", "")]


async def test_a_snapshot_says_if_there_are_more_messages_than_can_be_peeked(
    account: RawAccount, storage: StorageSettings, hub: str
) -> None:
    messages = [control_message(f"order-{number}", "EventRaised", "go") for number in range(33)]
    assert len(await send_and_list_visible_messages(account, storage, hub, *messages)) == 32
    snapshot = await read_queue_snapshot(storage, hub)
    assert (snapshot.message_count, snapshot.peeked_twice, snapshot.more_visible) == (33, 32, True)


async def test_without_partition_rows_the_number_of_queues_is_read_from_taskhub_json(
    account: RawAccount, storage: StorageSettings, hub: str
) -> None:
    container = account.blobs.get_container_client(f"{hub}-leases")
    await container.create_container()
    await container.upload_blob("taskhub.json", json.dumps({"TaskHubName": hub, "PartitionCount": 2}).encode())
    for number in range(2):
        await account.add_queue(f"{hub}-control-{number:02}")
    assert (await read_queue_snapshot(storage, hub)).message_count == 2
    # The same if the table exists and is empty.
    await account.tables.create_table(f"{hub}Partitions")
    assert (await read_queue_snapshot(storage, hub)).message_count == 2


async def test_a_task_hub_without_a_number_of_queues_cannot_be_read(
    account: RawAccount, storage: StorageSettings, hub: str
) -> None:
    with raises_read_failure(ReadFailure.FAILED, f"{hub}Partitions", f"{hub}-leases", CONNECTION_NAME):
        await read_queue_snapshot(storage, hub)
    container = account.blobs.get_container_client(f"{hub}-leases")
    await container.create_container()
    for body in (b"{}", b"[]", b"no JSON", b'{"PartitionCount": 17}', b'{"PartitionCount": "4"}'):
        await container.upload_blob("taskhub.json", body, overwrite=True)
        with raises_read_failure(ReadFailure.FAILED, "taskhub.json"):
            await read_queue_snapshot(storage, hub)


async def test_every_control_queue_must_exist(account: RawAccount, storage: StorageSettings, hub: str) -> None:
    await create_control_queues(account, hub, 3)
    await account.queues.delete_queue(f"{hub}-control-01")
    with raises_read_failure(ReadFailure.FAILED, f"{hub}-control-01", "another account"):
        await read_queue_snapshot(storage, hub)


async def test_a_new_owner_of_a_partition_changes_the_snapshot(
    account: RawAccount, storage: StorageSettings, hub: str
) -> None:
    await create_control_queues(account, hub)
    before = await read_queue_snapshot(storage, hub)
    assert (await read_queue_snapshot(storage, hub)).partition_owners == before.partition_owners
    table = account.tables.get_table_client(f"{hub}Partitions")
    await table.upsert_entity({"PartitionKey": "", "RowKey": f"{hub}-control-00", "CurrentOwner": "worker-2"})
    assert (await read_queue_snapshot(storage, hub)).partition_owners != before.partition_owners


async def test_a_queue_that_was_added_since_the_last_read_is_read(
    account: RawAccount, storage: StorageSettings, hub: str
) -> None:
    await create_control_queues(account, hub, 1)
    storage_account = StorageAccount(storage, CONNECTION_NAME)
    control_queues = ControlQueues(storage_account)
    assert (await control_queues.read_queue_snapshot(hub)).message_count == 0
    await account.add_partitions(hub, 2)
    await account.add_queue(f"{hub}-control-01", messages=1)
    assert (await control_queues.read_queue_snapshot(hub)).message_count == 1
    # A queue that is no longer listed need not exist.
    await account.queues.delete_queue(f"{hub}-control-00")
    await account.tables.get_table_client(f"{hub}Partitions").delete_entity("", f"{hub}-control-00")
    assert (await control_queues.read_queue_snapshot(hub)).message_count == 1
    await storage_account.close()


async def test_queues_that_were_read_before_must_still_exist(
    account: RawAccount, storage: StorageSettings, hub: str
) -> None:
    await create_control_queues(account, hub, 2)
    storage_account = StorageAccount(storage, CONNECTION_NAME)
    control_queues = ControlQueues(storage_account)
    await control_queues.read_queue_snapshot(hub)
    await account.queues.delete_queue(f"{hub}-control-01")
    with raises_read_failure(ReadFailure.FAILED, f"{hub}-control-01", "another account"):
        await control_queues.read_queue_snapshot(hub)
    await account.tables.delete_table(f"{hub}Partitions")
    with raises_read_failure(ReadFailure.FAILED, f"{hub}Partitions", f"{hub}-leases"):
        await control_queues.read_queue_snapshot(hub)
    await storage_account.close()


async def test_a_failure_to_read_queues_says_what_to_correct(
    account: RawAccount, storage: StorageSettings, hub: str
) -> None:
    await create_control_queues(account, hub)
    async with account_proxy(storage) as proxy:
        proxy.faults = {"Queue": ServiceFault(403, "AuthorizationPermissionMismatch")}
        with raises_read_failure(ReadFailure.DENIED, "Storage Queue Data Reader", "ignoreMessages", CONNECTION_NAME):
            await read_queue_snapshot(proxy.settings, hub)
        proxy.faults = {"Queue": ServiceFault(503, "ServerBusy")}
        with pytest.raises(BackendError) as caught:
            await read_queue_snapshot(proxy.settings, hub)
        assert caught.value.failure is ReadFailure.THROTTLED
        for fault in (ServiceFault(CUT_CONNECTION), ServiceFault(404), ServiceFault(200)):
            proxy.faults = {"Queue": fault}
            with pytest.raises(BackendError) as caught:
                await read_queue_snapshot(proxy.settings, hub)
            assert caught.value.failure is ReadFailure.FAILED
    nowhere = StorageSettings.model_validate({"connection_string": EmulatorPorts(*free_ports(3)).connection_string()})
    with raises_read_failure(ReadFailure.FAILED, "cannot be reached", CONNECTION_NAME):
        await read_queue_snapshot(nowhere, hub)
    assert connection_string_of(storage)


async def test_a_message_deleted_between_the_peeks_hides_no_invisible_message(
    account: RawAccount, storage: StorageSettings, hub: str
) -> None:
    await create_control_queues(account, hub, 1)
    queue = account.queues.get_queue_client(f"{hub}-control-00")
    await queue.send_message(control_message("hidden"), visibility_timeout=600)
    await queue.send_message(control_message("order-1", "EventRaised", "go"))
    peeks = 0

    async def delete_at_second_peek(method: str, path: str) -> None:
        """Delete the message at the second look at the queue, so that the two looks differ."""
        nonlocal peeks
        if "/messages" in path and method == "GET":
            peeks += 1
            if peeks == 2:
                [received] = [message async for message in queue.receive_messages()]
                await queue.delete_message(received)

    async with account_proxy(storage) as proxy:
        proxy.before_request = delete_at_second_peek
        snapshot = await read_queue_snapshot(proxy.settings, hub)
    # The count includes the deleted message, which only the first peek shows.
    assert (snapshot.message_count, snapshot.peeked_twice, len(snapshot.visible)) == (2, 0, 1)
    assert snapshot.invisible >= 1
