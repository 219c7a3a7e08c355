"""Pending starts through the whole server: the control queues decide together with the rows."""

import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from azure.data.tables.aio import TableServiceClient
from azure.storage.queue.aio import QueueClient

from harness.storage_proxy import run_storage_proxy
from state_api.app import StateServer
from state_api.settings import Settings, StorageSettings, TaskHubConnections
from tests.backends.azure_storage_task_hub import ProviderTaskHub, control_message, timer_created_row
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import assert_problem, get_staging, post_staging, put_app, reason_codes

pytestmark = pytest.mark.anyio

PROVIDER_CONFIG = {"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"}


class StagedTaskHubQueues:
    """A task hub in the staging slot, with its control queues and its history."""

    def __init__(self, provider: ProviderTaskHub) -> None:
        assert provider.storage.connection_string is not None
        self._connection = provider.storage.connection_string.get_secret_value()
        self.provider = provider
        self.queue = QueueClient.from_connection_string(self._connection, f"{provider.hub}-control-01")

    async def send(self, text: str, hidden: int | None = None) -> Any:
        return await self.queue.send_message(text, visibility_timeout=hidden)

    async def create_timer(self, instance_id: str, fires_in: float) -> None:
        """Write a pending timer into the history of an instance."""
        async with TableServiceClient.from_connection_string(self._connection) as tables:
            history = await tables.create_table_if_not_exists(f"{self.provider.hub}History")
            await history.upsert_entity(timer_created_row(instance_id, fires_in))


@pytest.fixture
async def staged_queues(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, hub: str
) -> AsyncIterator[StagedTaskHubQueues]:
    async with ProviderTaskHub(storage, hub) as provider:
        await provider.create()
        await put_app(
            http, app, slots={"staging": {"taskHub": hub}}, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG
        )
        staged_queues = StagedTaskHubQueues(provider)
        yield staged_queues
        await staged_queues.queue.close()


def message_evidence_of(verdict: Any) -> Any:
    return verdict["evidence"]["probe"]["messages"]


async def test_a_start_that_is_only_a_message_blocks(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues
) -> None:
    assert (await get_staging(http, app))["ready"]
    await staged_queues.send(control_message("order-7", name="Ship"))
    verdict = await get_staging(http, app, verify="fresh")
    assert reason_codes(verdict) == ["StartsPending"]
    assert (verdict["ready"], verdict["hasRunning"], verdict["activeCount"]) == (False, True, 0)
    assert message_evidence_of(verdict) == {
        "visible": 1,
        "invisible": 0,
        "explained": 0,
        "starts": [{"instanceId": "order-7", "functionName": "Ship"}],
        "checkedAt": message_evidence_of(verdict)["checkedAt"],
    }
    assert "Ship order-7" in verdict["reasons"][0]["message"]
    assert verdict["warnings"] == []
    assert_problem(await post_staging(http, app, new_hub_name()), 409, "StagingNotReady")
    # What was found shows without another read, too.
    known = await get_staging(http, app, verify="none")
    assert (reason_codes(known), known["hasRunning"]) == (["StartsPending"], True)


async def test_a_start_that_a_dead_worker_had_taken_blocks(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues
) -> None:
    await staged_queues.send(control_message("order-7"), hidden=300)
    verdict = await get_staging(http, app)
    assert (reason_codes(verdict), verdict["hasRunning"]) == (["StartsPending"], True)
    assert (message_evidence_of(verdict)["invisible"], message_evidence_of(verdict)["explained"]) == (1, 0)
    assert "unexplainedMessages" in verdict["reasons"][0]["message"]


async def test_a_start_of_an_ignored_function_or_a_waived_instance_does_not_block(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues
) -> None:
    await staged_queues.send(control_message("sync-1", name="NightlySync"))
    await staged_queues.send(control_message("@counter@a", "EventRaised", "op"))
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]
    await put_app(http, app, policy={"ignoreFunctions": ["NightlySync", "counter"]})
    assert (await get_staging(http, app))["ready"]
    await staged_queues.send(control_message("order-7"))
    assert reason_codes(await get_staging(http, app, verify="fresh")) == ["StartsPending"]
    await post_waiver(http, app, staged_queues, instanceId="order-7")
    assert (await get_staging(http, app))["ready"]


async def test_an_event_for_an_instance_that_ended_does_not_block(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues
) -> None:
    await staged_queues.provider.put("order-1", "Completed")
    await staged_queues.send(control_message("order-1", "EventRaised", "go"))
    verdict = await get_staging(http, app)
    assert (verdict["ready"], message_evidence_of(verdict)["visible"]) == (True, 1)


async def test_a_cancelled_timer_that_would_fire_in_days_does_not_block(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues
) -> None:
    await staged_queues.provider.put("order-1", "Completed")
    await staged_queues.create_timer("order-1", 86_400)
    await staged_queues.send(control_message("order-1", "TimerFired", None), hidden=86_400)
    verdict = await get_staging(http, app)
    assert (verdict["ready"], message_evidence_of(verdict)["invisible"], message_evidence_of(verdict)["explained"]) == (
        True,
        1,
        1,
    )
    # A second one, of an instance that ended since.
    await staged_queues.provider.put("order-2", "Terminated")
    await staged_queues.create_timer("order-2", 86_400)
    await staged_queues.send(control_message("order-2", "TimerFired", None), hidden=86_400)
    verdict = await get_staging(http, app, verify="fresh")
    assert (verdict["ready"], message_evidence_of(verdict)["explained"]) == (True, 2)
    # A hidden start beside the timers still blocks.
    await staged_queues.send(control_message("order-3"), hidden=86_400)
    verdict = await get_staging(http, app, verify="fresh")
    assert (reason_codes(verdict), message_evidence_of(verdict)["explained"]) == (["StartsPending"], 2)


async def test_an_unexplained_message_blocks_until_it_was_unchanged_for_long_enough(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues, clock: ShiftedClock
) -> None:
    await staged_queues.send(control_message("purged", "TimerFired", None), hidden=86_400)
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]
    clock.advance(620)
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]
    clock.advance(15)
    assert (await get_staging(http, app))["ready"]
    # It is remembered.
    clock.advance(500)
    assert (await get_staging(http, app, verify="fresh"))["ready"]
    # A row that is stamped is a change: what ran may have sent a message.
    await staged_queues.provider.put("order-1", "Completed")
    assert reason_codes(await get_staging(http, app, verify="fresh")) == ["StartsPending"]
    clock.advance(600)
    # So is another message, and the wait begins anew.
    await staged_queues.send(control_message("order-2"), hidden=86_400)
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]
    clock.advance(625)
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]
    clock.advance(10)
    assert (await get_staging(http, app))["ready"]


async def test_timers_remembered_of_another_account_explain_nothing(
    http: httpx.AsyncClient, server: StateServer, storage: StorageSettings, app: str, staged_queues: StagedTaskHubQueues
) -> None:
    """`taskHubs` led to another environment with a task hub of the same name that has a pending timer."""
    await staged_queues.create_timer("order-1", 86_400)
    await staged_queues.send(control_message("order-1", "TimerFired", None), hidden=86_400)
    assert (await get_staging(http, app))["ready"]
    # The same task hub by another setting; its history is gone, and a start is hidden.
    assert storage.connection_string is not None
    async with TableServiceClient.from_connection_string(storage.connection_string.get_secret_value()) as tables:
        await tables.delete_table(f"{staged_queues.provider.hub}History")
    changed = await put_app(http, app, taskHubs=PROVIDER_CONFIG | {"connection": "STATE_TASKHUBS_OTHER"})
    assert changed.status_code == 200
    assert reason_codes(await get_staging(http, app, verify="fresh")) == ["StartsPending"]


async def test_too_many_timers_to_remember_are_no_failure(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("state_api.domain.readiness.messages.MAX_REMEMBERED_TIMERS", 1)
    for number in range(3):
        await staged_queues.create_timer(f"order-{number}", 86_400)
        await staged_queues.send(control_message(f"order-{number}", "TimerFired", None), hidden=86_400)
    for _ in range(2):
        assert (await get_staging(http, app, verify="fresh"))["ready"]


async def test_the_quiet_period_is_as_long_as_a_message_visibility_above_ten_minutes(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues, clock: ShiftedClock
) -> None:
    await put_app(http, app, policy={"messageVisibilitySeconds": 1200})
    await staged_queues.send(control_message("order-1"), hidden=86_400)
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]
    clock.advance(1200)
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]
    clock.advance(31)
    assert (await get_staging(http, app))["ready"]


async def test_unexplained_messages_are_waived_by_their_number_on_record(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues
) -> None:
    await staged_queues.send(control_message("order-1"), hidden=86_400)
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]
    response = await post_waiver(http, app, staged_queues, unexplainedMessages=1)
    [waived] = response.json()["waivers"]
    assert (waived["instanceId"], waived["unexplainedMessages"]) == (None, 1)
    assert (await get_staging(http, app))["ready"]
    await staged_queues.send(control_message("order-2"), hidden=86_400)
    assert reason_codes(await get_staging(http, app, verify="fresh")) == ["StartsPending"]
    # A second waiver takes the place of the first.
    response = await post_waiver(http, app, staged_queues, unexplainedMessages=2)
    assert [waiver["unexplainedMessages"] for waiver in response.json()["waivers"]] == [2]
    assert (await get_staging(http, app))["ready"]
    address = f"/api/apps/{app}/waivers?taskHub={staged_queues.provider.hub}"
    assert_problem(await http.delete(address), 400, "InvalidRequest")
    assert_problem(await http.delete(f"{address}&unexplainedMessages=true&instanceId=a"), 400, "InvalidRequest")
    assert (await http.delete(f"{address}&unexplainedMessages=true")).json()["waivers"] == []
    assert_problem(await http.delete(f"{address}&unexplainedMessages=true"), 404, "WaiverNotFound")
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]
    history = (await http.get(f"/api/apps/{app}/history")).json()
    assert [record["details"].get("unexplainedMessages") for record in history["history"][:2]] == [0, 2]


async def post_waiver(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues, **subject: Any
) -> httpx.Response:
    expires = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    body = {"taskHub": staged_queues.provider.hub, "reason": "looked at it", "expiresAt": expires, **subject}
    response = await http.post(f"/api/apps/{app}/waivers", json=body)
    assert response.status_code == 200, response.text
    return response


@pytest.mark.parametrize("subject", [{}, {"instanceId": "a", "unexplainedMessages": 1}, {"unexplainedMessages": 0}])
async def test_a_waiver_is_for_an_instance_or_for_messages_and_not_both(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues, subject: dict[str, Any]
) -> None:
    body = {"taskHub": staged_queues.provider.hub, "reason": "why", "expiresAt": "2027-01-31T12:00:00Z", **subject}
    assert_problem(await http.post(f"/api/apps/{app}/waivers", json=body), 400, "InvalidRequest")


async def test_a_missing_control_queue_does_not_count_as_empty(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues
) -> None:
    await staged_queues.queue.delete_queue()
    verdict = await get_staging(http, app)
    assert reason_codes(verdict) == ["ProbeFailed"]
    assert f"{staged_queues.provider.hub}-control-01" in verdict["reasons"][0]["message"]


async def test_messages_that_the_policy_ignores_are_a_warning(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues
) -> None:
    await put_app(http, app, policy={"ignoreMessages": True})
    await staged_queues.send(control_message("order-7"))
    verdict = await get_staging(http, app)
    assert (verdict["ready"], verdict["assurance"], message_evidence_of(verdict)) == (True, "verified", None)
    assert [warning["code"] for warning in verdict["warnings"]] == ["MessagesUnseen"]
    # A result that was read without the messages does not answer once they count.
    await put_app(http, app, policy={"ignoreMessages": False})
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]


async def test_a_change_since_the_queues_were_read_is_not_missed(storage: StorageSettings, app: str, hub: str) -> None:
    """A worker takes a message between the look at the queues and the pass over the rows. The receiver is an instance
    or an entity. It sends a start, writes its row and has ended."""
    for sender in ("order-1", "@counter@a"):
        task_hub = f"{hub}{'e' if sender.startswith('@') else 'o'}"
        async with run_storage_proxy(storage) as proxy, ProviderTaskHub(storage, task_hub) as provider:
            await provider.create()
            staged_queues = StagedTaskHubQueues(provider)
            moved = False

            async def move(
                method: str, path: str, staged_queues: StagedTaskHubQueues = staged_queues, sender: str = sender
            ) -> None:
                nonlocal moved
                if f"{staged_queues.provider.hub}Instances" in path and "PartitionKey" not in path and not moved:
                    moved = True
                    await staged_queues.send(control_message("launched"))
                    await staged_queues.provider.put(sender, "Running" if sender.startswith("@") else "Completed")

            connection = proxy.settings.connection_string
            assert connection is not None
            connections = TaskHubConnections({"STATE_TASKHUBS_SHOP": connection.get_secret_value()})
            server = StateServer(Settings(storage=storage, connections=connections))
            transport = httpx.ASGITransport(server.application)
            async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=100) as http:
                name = f"{app}-{task_hub[-1]}"
                registration = {"slots": {"staging": {"taskHub": task_hub}}, "policy": {"settleSeconds": 0}}
                await put_app(http, name, **registration, taskHubs=PROVIDER_CONFIG)
                proxy.before_request = move
                verdict = await get_staging(http, name, verify="fresh")
                assert moved
                assert reason_codes(verdict) == ["StartsPending"], json.dumps(verdict)
            await staged_queues.queue.close()
            await server.close()


async def test_an_unconfirmed_start_is_closed_when_no_start_is_pending(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues, clock: ShiftedClock
) -> None:
    """Events reported a start that was purged, its end is lost, and a timer of days stays in a control queue: its
    history is gone."""
    from tests.builders import event  # noqa: PLC0415

    hub, order = staged_queues.provider.hub, uuid.uuid4().hex
    await staged_queues.provider.put("known", "Completed")
    body = [event(hub, "known"), event(hub, "known", "Completed"), event(hub, order)]
    assert (await http.post("/api/events", json=body)).status_code == 200
    await staged_queues.send(control_message(order, "TimerFired", None), hidden=86_400)
    assert reason_codes(await get_staging(http, app, wait=7)) == ["InstancesActive", "StartsPending"]
    # A waiver of messages does not deny a start that events reported.
    await post_waiver(http, app, staged_queues, unexplainedMessages=1)
    assert reason_codes(await get_staging(http, app, wait=7)) == ["InstancesActive"]
    clock.advance(635)
    address = f"/api/apps/{app}/waivers?taskHub={staged_queues.provider.hub}&unexplainedMessages=true"
    assert (await http.delete(address)).status_code == 200
    assert (await get_staging(http, app, wait=7))["ready"]
