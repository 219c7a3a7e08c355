"""Starts on their way, through the whole server: what the control queues hold decides beside the rows."""

import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from azure.data.tables.aio import TableServiceClient
from azure.storage.queue.aio import QueueClient

from state_api.app import StateServer
from state_api.settings import Connections, Settings, StorageSettings
from tests.conftest import ShiftedClock, new_hub
from tests.http.client import codes, problem, put, stage, staging
from tests.proxy import storage_proxy
from tests.taskhubs.provider import ProviderHub, message

pytestmark = pytest.mark.anyio

SOURCE = {"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"}


class Queues:
    """A task hub in the staging slot, with its control queues and its history."""

    def __init__(self, provider: ProviderHub) -> None:
        assert provider.storage.connection_string is not None
        self._connection = provider.storage.connection_string.get_secret_value()
        self.provider = provider
        self.queue = QueueClient.from_connection_string(self._connection, f"{provider.hub}-control-01")

    async def send(self, text: str, hidden: int | None = None) -> Any:
        return await self.queue.send_message(text, visibility_timeout=hidden)

    async def create_timer(self, instance_id: str, fires_in: float) -> None:
        """What the history of an instance has of a timer that has yet to fire."""
        async with TableServiceClient.from_connection_string(self._connection) as tables:
            history = await tables.create_table_if_not_exists(f"{self.provider.hub}History")
            await history.upsert_entity(
                {
                    "PartitionKey": instance_id,
                    "RowKey": "0000000000000002",
                    "EventType": "TimerCreated",
                    "EventId": 0,
                    "ExecutionId": "e1",
                    "FireAt": datetime.now(UTC) + timedelta(seconds=fires_in),
                }
            )


@pytest.fixture
async def queues(http: httpx.AsyncClient, storage: StorageSettings, app: str, hub: str) -> AsyncIterator[Queues]:
    async with ProviderHub(storage, hub) as provider:
        await provider.create()
        await put(http, app, slots={"staging": {"taskHub": hub}}, policy={"settleSeconds": 0}, taskHubs=SOURCE)
        queues = Queues(provider)
        yield queues
        await queues.queue.close()


def messages_of(verdict: Any) -> Any:
    return verdict["evidence"]["probe"]["messages"]


async def test_a_start_that_is_only_a_message_blocks(http: httpx.AsyncClient, app: str, queues: Queues) -> None:
    assert (await staging(http, app))["ready"]
    await queues.send(message("order-7", name="Ship"))
    verdict = await staging(http, app, verify="fresh")
    assert codes(verdict) == ["StartsPending"]
    assert (verdict["ready"], verdict["hasRunning"], verdict["activeCount"]) == (False, True, 0)
    assert messages_of(verdict) == {
        "visible": 1,
        "invisible": 0,
        "explained": 0,
        "starts": [{"instanceId": "order-7", "functionName": "Ship"}],
        "checkedAt": messages_of(verdict)["checkedAt"],
    }
    assert "Ship order-7" in verdict["reasons"][0]["message"]
    assert verdict["warnings"] == []
    problem(await stage(http, app, new_hub()), 409, "StagingNotReady")
    # What was found shows without another read, too.
    known = await staging(http, app, verify="none")
    assert (codes(known), known["hasRunning"]) == (["StartsPending"], True)


async def test_a_start_that_a_dead_worker_had_taken_blocks(http: httpx.AsyncClient, app: str, queues: Queues) -> None:
    await queues.send(message("order-7"), hidden=300)
    verdict = await staging(http, app)
    assert (codes(verdict), verdict["hasRunning"]) == (["StartsPending"], True)
    assert (messages_of(verdict)["invisible"], messages_of(verdict)["explained"]) == (1, 0)
    assert "unexplainedMessages" in verdict["reasons"][0]["message"]


async def test_a_start_of_an_ignored_function_or_a_waived_instance_does_not_block(
    http: httpx.AsyncClient, app: str, queues: Queues
) -> None:
    await queues.send(message("sync-1", name="NightlySync"))
    await queues.send(message("@counter@a", "EventRaised", "op"))
    assert codes(await staging(http, app)) == ["StartsPending"]
    await put(http, app, policy={"ignoreFunctions": ["NightlySync", "counter"]})
    assert (await staging(http, app))["ready"]
    await queues.send(message("order-7"))
    assert codes(await staging(http, app, verify="fresh")) == ["StartsPending"]
    await waive(http, app, queues, instanceId="order-7")
    assert (await staging(http, app))["ready"]


async def test_an_event_for_an_instance_that_ended_does_not_block(
    http: httpx.AsyncClient, app: str, queues: Queues
) -> None:
    await queues.provider.put("order-1", "Completed")
    await queues.send(message("order-1", "EventRaised", "go"))
    verdict = await staging(http, app)
    assert (verdict["ready"], messages_of(verdict)["visible"]) == (True, 1)


async def test_a_cancelled_timer_of_days_does_not_block(http: httpx.AsyncClient, app: str, queues: Queues) -> None:
    await queues.provider.put("order-1", "Completed")
    await queues.create_timer("order-1", 86_400)
    await queues.send(message("order-1", "TimerFired", None), hidden=86_400)
    verdict = await staging(http, app)
    assert (verdict["ready"], messages_of(verdict)["invisible"], messages_of(verdict)["explained"]) == (True, 1, 1)
    # A second one, of an instance that ended since.
    await queues.provider.put("order-2", "Terminated")
    await queues.create_timer("order-2", 86_400)
    await queues.send(message("order-2", "TimerFired", None), hidden=86_400)
    verdict = await staging(http, app, verify="fresh")
    assert (verdict["ready"], messages_of(verdict)["explained"]) == (True, 2)
    # A hidden start beside the timers still blocks.
    await queues.send(message("order-3"), hidden=86_400)
    verdict = await staging(http, app, verify="fresh")
    assert (codes(verdict), messages_of(verdict)["explained"]) == (["StartsPending"], 2)


async def test_what_nothing_explains_blocks_until_it_was_there_unchanged_for_long_enough(
    http: httpx.AsyncClient, app: str, queues: Queues, clock: ShiftedClock
) -> None:
    await queues.send(message("purged", "TimerFired", None), hidden=86_400)
    assert codes(await staging(http, app)) == ["StartsPending"]
    clock.turn(620)
    assert codes(await staging(http, app)) == ["StartsPending"]
    clock.turn(15)
    assert (await staging(http, app))["ready"]
    # It is remembered.
    clock.turn(500)
    assert (await staging(http, app, verify="fresh"))["ready"]
    # A row that is stamped is a change: what ran may have sent a message.
    await queues.provider.put("order-1", "Completed")
    assert codes(await staging(http, app, verify="fresh")) == ["StartsPending"]
    clock.turn(600)
    # So is another message, and the wait begins anew.
    await queues.send(message("order-2"), hidden=86_400)
    assert codes(await staging(http, app)) == ["StartsPending"]
    clock.turn(625)
    assert codes(await staging(http, app)) == ["StartsPending"]
    clock.turn(10)
    assert (await staging(http, app))["ready"]


async def test_what_was_remembered_of_another_account_explains_nothing(
    http: httpx.AsyncClient, server: StateServer, storage: StorageSettings, app: str, queues: Queues
) -> None:
    """`taskHubs` led to another environment, where a task hub of the same name has a pending timer."""
    await queues.create_timer("order-1", 86_400)
    await queues.send(message("order-1", "TimerFired", None), hidden=86_400)
    assert (await staging(http, app))["ready"]
    # The same task hub by another setting; its history is gone, and a start is hidden.
    assert storage.connection_string is not None
    async with TableServiceClient.from_connection_string(storage.connection_string.get_secret_value()) as tables:
        await tables.delete_table(f"{queues.provider.hub}History")
    changed = await put(http, app, taskHubs=SOURCE | {"connection": "STATE_TASKHUBS_OTHER"})
    assert changed.status_code == 200
    assert codes(await staging(http, app, verify="fresh")) == ["StartsPending"]


async def test_more_timers_than_can_be_remembered_are_no_failure(
    http: httpx.AsyncClient, app: str, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("state_api.domain.messages.MAX_REMEMBERED_TIMERS", 1)
    for number in range(3):
        await queues.create_timer(f"order-{number}", 86_400)
        await queues.send(message(f"order-{number}", "TimerFired", None), hidden=86_400)
    for _ in range(2):
        assert (await staging(http, app, verify="fresh"))["ready"]


async def test_a_message_visibility_above_ten_minutes_is_waited_for(
    http: httpx.AsyncClient, app: str, queues: Queues, clock: ShiftedClock
) -> None:
    await put(http, app, policy={"messageVisibilitySeconds": 1200})
    await queues.send(message("order-1"), hidden=86_400)
    assert codes(await staging(http, app)) == ["StartsPending"]
    clock.turn(1200)
    assert codes(await staging(http, app)) == ["StartsPending"]
    clock.turn(31)
    assert (await staging(http, app))["ready"]


async def test_unexplained_messages_are_waived_by_their_number_on_record(
    http: httpx.AsyncClient, app: str, queues: Queues
) -> None:
    await queues.send(message("order-1"), hidden=86_400)
    assert codes(await staging(http, app)) == ["StartsPending"]
    answer = await waive(http, app, queues, unexplainedMessages=1)
    [waived] = answer.json()["waivers"]
    assert (waived["instanceId"], waived["unexplainedMessages"]) == (None, 1)
    assert (await staging(http, app))["ready"]
    await queues.send(message("order-2"), hidden=86_400)
    assert codes(await staging(http, app, verify="fresh")) == ["StartsPending"]
    # A second waiver takes the place of the first.
    answer = await waive(http, app, queues, unexplainedMessages=2)
    assert [one["unexplainedMessages"] for one in answer.json()["waivers"]] == [2]
    assert (await staging(http, app))["ready"]
    address = f"/api/apps/{app}/waivers?taskHub={queues.provider.hub}"
    problem(await http.delete(address), 400, "InvalidRequest")
    problem(await http.delete(f"{address}&unexplainedMessages=true&instanceId=a"), 400, "InvalidRequest")
    assert (await http.delete(f"{address}&unexplainedMessages=true")).json()["waivers"] == []
    problem(await http.delete(f"{address}&unexplainedMessages=true"), 404, "WaiverNotFound")
    assert codes(await staging(http, app)) == ["StartsPending"]
    history = (await http.get(f"/api/apps/{app}/history")).json()
    assert [one["details"].get("unexplainedMessages") for one in history["history"][:2]] == [0, 2]


async def waive(http: httpx.AsyncClient, app: str, queues: Queues, **what: Any) -> httpx.Response:
    expires = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    body = {"taskHub": queues.provider.hub, "reason": "looked at it", "expiresAt": expires, **what}
    answer = await http.post(f"/api/apps/{app}/waivers", json=body)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("what", [{}, {"instanceId": "a", "unexplainedMessages": 1}, {"unexplainedMessages": 0}])
async def test_a_waiver_is_for_one_thing(
    http: httpx.AsyncClient, app: str, queues: Queues, what: dict[str, Any]
) -> None:
    body = {"taskHub": queues.provider.hub, "reason": "why", "expiresAt": "2027-01-31T12:00:00Z", **what}
    problem(await http.post(f"/api/apps/{app}/waivers", json=body), 400, "InvalidRequest")


async def test_a_control_queue_that_does_not_exist_is_no_empty_one(
    http: httpx.AsyncClient, app: str, queues: Queues
) -> None:
    await queues.queue.delete_queue()
    verdict = await staging(http, app)
    assert codes(verdict) == ["ProbeFailed"]
    assert f"{queues.provider.hub}-control-01" in verdict["reasons"][0]["message"]


async def test_messages_that_the_policy_ignores_are_a_warning(
    http: httpx.AsyncClient, app: str, queues: Queues
) -> None:
    await put(http, app, policy={"ignoreMessages": True})
    await queues.send(message("order-7"))
    verdict = await staging(http, app)
    assert (verdict["ready"], verdict["assurance"], messages_of(verdict)) == (True, "verified", None)
    assert [one["code"] for one in verdict["warnings"]] == ["MessagesUnseen"]
    # A result that was read without the messages does not answer once they count.
    await put(http, app, policy={"ignoreMessages": False})
    assert codes(await staging(http, app)) == ["StartsPending"]


async def test_what_changed_since_the_queues_were_read_is_not_missed(
    storage: StorageSettings, app: str, hub: str
) -> None:
    """A worker takes a message between the look at the queues and the pass over the rows: the instance, or entity, that
    it was for sends a start, writes its row and has ended."""
    for sender in ("order-1", "@counter@a"):
        task_hub = f"{hub}{'e' if sender.startswith('@') else 'o'}"
        async with storage_proxy(storage) as proxy, ProviderHub(storage, task_hub) as provider:
            await provider.create()
            queues = Queues(provider)
            moved = False

            async def move(method: str, path: str, queues: Queues = queues, sender: str = sender) -> None:
                nonlocal moved
                if f"{queues.provider.hub}Instances" in path and "PartitionKey" not in path and not moved:
                    moved = True
                    await queues.send(message("launched"))
                    await queues.provider.put(sender, "Running" if sender.startswith("@") else "Completed")

            connection = proxy.settings.connection_string
            assert connection is not None
            connections = Connections({"STATE_TASKHUBS_SHOP": connection.get_secret_value()})
            server = StateServer(Settings(storage=storage, connections=connections))
            transport = httpx.ASGITransport(server.application)
            async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=100) as http:
                name = f"{app}-{task_hub[-1]}"
                content = {"slots": {"staging": {"taskHub": task_hub}}, "policy": {"settleSeconds": 0}}
                await put(http, name, **content, taskHubs=SOURCE)
                proxy.before = move
                verdict = await staging(http, name, verify="fresh")
                assert moved
                assert codes(verdict) == ["StartsPending"], json.dumps(verdict)
            await queues.queue.close()
            await server.close()


async def test_an_unconfirmed_start_ends_when_nothing_is_on_its_way(
    http: httpx.AsyncClient, app: str, queues: Queues, clock: ShiftedClock
) -> None:
    """Events told of a start that was purged, its end is lost, and a timer of days stays in a control queue: its
    history is gone."""
    from tests.builders import event  # noqa: PLC0415

    hub, order = queues.provider.hub, uuid.uuid4().hex
    await queues.provider.put("known", "Completed")
    body = [event(hub, "known"), event(hub, "known", "Completed"), event(hub, order)]
    assert (await http.post("/api/events", json=body)).status_code == 200
    await queues.send(message(order, "TimerFired", None), hidden=86_400)
    assert codes(await staging(http, app, wait=7)) == ["InstancesActive", "StartsPending"]
    # A waiver of messages does not deny a start that events told of.
    await waive(http, app, queues, unexplainedMessages=1)
    assert codes(await staging(http, app, wait=7)) == ["InstancesActive"]
    clock.turn(635)
    address = f"/api/apps/{app}/waivers?taskHub={queues.provider.hub}&unexplainedMessages=true"
    assert (await http.delete(address)).status_code == 200
    assert (await staging(http, app, wait=7))["ready"]
