"""Verdicts of the whole server on task hubs whose control queues hold messages."""

import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from azure.data.tables.aio import TableServiceClient
from azure.storage.queue.aio import QueueClient

from harness.storage_proxy import no_delay, run_storage_proxy
from state_api.app import StateServer
from state_api.domain.readiness.messages import MAX_ABANDON_DELAY_SECONDS, VISIBILITY_MARGIN_SECONDS
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderTaskHub, control_message, timer_created_row
from tests.backends.storage_account import connection_string_of
from tests.builders import event
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import (
    PROVIDER_CONFIG,
    assert_problem,
    get_staging,
    post_events,
    post_staging,
    put_app,
    reason_codes,
)
from tests.http.server_clients import client_of_server_with

pytestmark = pytest.mark.anyio

ONE_DAY_SECONDS = 86_400
QUIET_PERIOD_SECONDS = MAX_ABANDON_DELAY_SECONDS + VISIBILITY_MARGIN_SECONDS
"""How long an unexplained message blocks without any change, under the default message visibility."""


class StagedTaskHubQueues:
    """Writes messages and history rows of the task hub in the staging slot. `queue` is one of its control queues."""

    def __init__(self, provider: ProviderTaskHub) -> None:
        """Connect to the second control queue of the task hub that is in the slot."""
        assert provider.storage.connection_string is not None
        self._connection = provider.storage.connection_string.get_secret_value()
        self.provider = provider
        self.queue = QueueClient.from_connection_string(self._connection, f"{provider.hub}-control-01")

    async def send(self, text: str, *, invisible_seconds: int | None = None) -> None:
        """Send a message, which is visible at once unless `invisible_seconds` is set."""
        await self.queue.send_message(text, visibility_timeout=invisible_seconds)

    async def write_timer(self, instance_id: str, *, due_in_seconds: float) -> None:
        """Write a pending timer into the history of an instance."""
        async with TableServiceClient.from_connection_string(self._connection) as tables:
            history = await tables.create_table_if_not_exists(f"{self.provider.hub}History")
            await history.upsert_entity(timer_created_row(instance_id, due_in_seconds))

    async def leave_timer(self, instance_id: str) -> None:
        """Leave a timer that is due in a day: in the history of the instance, and as an invisible message."""
        await self.write_timer(instance_id, due_in_seconds=ONE_DAY_SECONDS)
        await self.send(control_message(instance_id, "TimerFired", None), invisible_seconds=ONE_DAY_SECONDS)


@pytest.fixture
async def staged_queues(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, hub: str
) -> AsyncIterator[StagedTaskHubQueues]:
    """The control queues of a drained task hub, which is in the staging slot of an app without a settle window."""
    async with ProviderTaskHub(storage, hub) as provider:
        await provider.create()
        await put_app(
            http, app, slots={"staging": {"taskHub": hub}}, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG
        )
        staged_queues = StagedTaskHubQueues(provider)
        yield staged_queues
        await staged_queues.queue.close()


def message_evidence_of(verdict: Any) -> Any:
    """What the probe of the verdict has found in the control queues."""
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
    # The stored result has the same reason.
    stored_verdict = await get_staging(http, app, verify="none")
    assert (reason_codes(stored_verdict), stored_verdict["hasRunning"]) == (["StartsPending"], True)


async def test_an_invisible_message_that_a_dead_worker_had_taken_blocks(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues
) -> None:
    await staged_queues.send(control_message("order-7"), invisible_seconds=300)
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


async def test_a_message_with_an_event_for_an_instance_that_has_ended_does_not_block(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues
) -> None:
    await staged_queues.provider.put("order-1", "Completed")
    await staged_queues.send(control_message("order-1", "EventRaised", "go"))
    verdict = await get_staging(http, app)
    assert (verdict["ready"], message_evidence_of(verdict)["visible"]) == (True, 1)


async def test_a_timer_of_an_ended_instance_that_is_due_in_a_day_does_not_block(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues
) -> None:
    await staged_queues.provider.put("order-1", "Completed")
    await staged_queues.leave_timer("order-1")
    verdict = await get_staging(http, app)
    messages = message_evidence_of(verdict)
    assert (verdict["ready"], messages["invisible"], messages["explained"]) == (True, 1, 1)
    # An instance that has ended since the first probe leaves a second timer.
    await staged_queues.provider.put("order-2", "Terminated")
    await staged_queues.leave_timer("order-2")
    verdict = await get_staging(http, app, verify="fresh")
    assert (verdict["ready"], message_evidence_of(verdict)["explained"]) == (True, 2)
    # An invisible start beside the timers still blocks.
    await staged_queues.send(control_message("order-3"), invisible_seconds=ONE_DAY_SECONDS)
    verdict = await get_staging(http, app, verify="fresh")
    assert (reason_codes(verdict), message_evidence_of(verdict)["explained"]) == (["StartsPending"], 2)


async def test_a_timer_explains_nothing_if_it_may_have_fired_by_what_is_known_of_the_storages_clock(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues, clock: ShiftedClock
) -> None:
    await staged_queues.provider.put("order-1", "Completed")
    await staged_queues.write_timer("order-1", due_in_seconds=120)
    await staged_queues.send(control_message("order-1", "TimerFired", None), invisible_seconds=120)
    assert (await get_staging(http, app))["ready"]
    clock.uncertainty_seconds = 120
    assert reason_codes(await get_staging(http, app, verify="fresh")) == ["StartsPending"]


async def test_an_unexplained_message_blocks_until_the_quiet_period_has_passed_without_a_change(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues, clock: ShiftedClock
) -> None:
    await staged_queues.send(control_message("purged", "TimerFired", None), invisible_seconds=ONE_DAY_SECONDS)
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]
    clock.advance(QUIET_PERIOD_SECONDS - 10)
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]
    clock.advance(15)
    assert (await get_staging(http, app))["ready"]
    # The server remembers that the message was explained by the quiet period.
    clock.advance(500)
    assert (await get_staging(http, app, verify="fresh"))["ready"]
    # A row that was written since is a change, because its instance may have sent a message.
    await staged_queues.provider.put("order-1", "Completed")
    assert reason_codes(await get_staging(http, app, verify="fresh")) == ["StartsPending"]
    clock.advance(QUIET_PERIOD_SECONDS - 30)
    # Another message is a change, too, and the quiet period begins again.
    await staged_queues.send(control_message("order-2"), invisible_seconds=ONE_DAY_SECONDS)
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]
    clock.advance(QUIET_PERIOD_SECONDS - 5)
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]
    clock.advance(10)
    assert (await get_staging(http, app))["ready"]


async def test_remembered_timers_of_one_account_do_not_explain_the_messages_of_another(
    http: httpx.AsyncClient, server: StateServer, storage: StorageSettings, app: str, staged_queues: StagedTaskHubQueues
) -> None:
    """The app's `taskHubs` led to another environment, whose task hub of the same name has a pending timer."""
    await staged_queues.leave_timer("order-1")
    assert (await get_staging(http, app))["ready"]
    # The other setting leads to the same task hub. Without its history, the invisible message could be a start.
    assert storage.connection_string is not None
    async with TableServiceClient.from_connection_string(storage.connection_string.get_secret_value()) as tables:
        await tables.delete_table(f"{staged_queues.provider.hub}History")
    changed = await put_app(http, app, taskHubs=PROVIDER_CONFIG | {"connection": "STATE_TASKHUBS_OTHER"})
    assert changed.status_code == 200
    assert reason_codes(await get_staging(http, app, verify="fresh")) == ["StartsPending"]


async def test_more_timers_than_the_server_remembers_do_not_block(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("state_api.domain.readiness.messages.MAX_REMEMBERED_TIMERS", 1)
    for number in range(3):
        await staged_queues.leave_timer(f"order-{number}")
    for _ in range(2):
        assert (await get_staging(http, app, verify="fresh"))["ready"]


async def test_the_quiet_period_is_as_long_as_a_message_visibility_above_ten_minutes(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues, clock: ShiftedClock
) -> None:
    message_visibility_seconds = 1200
    await put_app(http, app, policy={"messageVisibilitySeconds": message_visibility_seconds})
    await staged_queues.send(control_message("order-1"), invisible_seconds=ONE_DAY_SECONDS)
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]
    clock.advance(message_visibility_seconds)
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]
    clock.advance(VISIBILITY_MARGIN_SECONDS + 1)
    assert (await get_staging(http, app))["ready"]


async def test_a_waiver_covers_a_number_of_unexplained_messages_and_is_on_record(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues
) -> None:
    await staged_queues.send(control_message("order-1"), invisible_seconds=ONE_DAY_SECONDS)
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]
    response = await post_waiver(http, app, staged_queues, unexplainedMessages=1)
    [waived] = response.json()["waivers"]
    assert (waived["instanceId"], waived["unexplainedMessages"]) == (None, 1)
    assert (await get_staging(http, app))["ready"]
    await staged_queues.send(control_message("order-2"), invisible_seconds=ONE_DAY_SECONDS)
    assert reason_codes(await get_staging(http, app, verify="fresh")) == ["StartsPending"]
    # The second waiver replaces the first.
    response = await post_waiver(http, app, staged_queues, unexplainedMessages=2)
    assert [waiver["unexplainedMessages"] for waiver in response.json()["waivers"]] == [2]
    assert (await get_staging(http, app))["ready"]
    waivers_url = f"/api/apps/{app}/waivers?taskHub={staged_queues.provider.hub}"
    assert_problem(await http.delete(waivers_url), 400, "InvalidRequest")
    assert_problem(await http.delete(f"{waivers_url}&unexplainedMessages=true&instanceId=a"), 400, "InvalidRequest")
    assert (await http.delete(f"{waivers_url}&unexplainedMessages=true")).json()["waivers"] == []
    assert_problem(await http.delete(f"{waivers_url}&unexplainedMessages=true"), 404, "WaiverNotFound")
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]
    history = (await http.get(f"/api/apps/{app}/history")).json()
    assert [record["details"].get("unexplainedMessages") for record in history["history"][:2]] == [0, 2]


async def post_waiver(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues, **waived: Any
) -> httpx.Response:
    """Waive an instance (`instanceId`) or a number of messages (`unexplainedMessages`) for a day."""
    expires_at = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    body = {"taskHub": staged_queues.provider.hub, "reason": "looked at it", "expiresAt": expires_at, **waived}
    response = await http.post(f"/api/apps/{app}/waivers", json=body)
    assert response.status_code == 200, response.text
    return response


@pytest.mark.parametrize("waived", [{}, {"instanceId": "a", "unexplainedMessages": 1}, {"unexplainedMessages": 0}])
async def test_a_waiver_names_either_an_instance_or_a_positive_number_of_messages(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues, waived: dict[str, Any]
) -> None:
    body = {"taskHub": staged_queues.provider.hub, "reason": "why", "expiresAt": "2027-01-31T12:00:00Z", **waived}
    assert_problem(await http.post(f"/api/apps/{app}/waivers", json=body), 400, "InvalidRequest")


async def test_a_missing_control_queue_does_not_count_as_empty(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues
) -> None:
    await staged_queues.queue.delete_queue()
    verdict = await get_staging(http, app)
    assert reason_codes(verdict) == ["ProbeFailed"]
    assert f"{staged_queues.provider.hub}-control-01" in verdict["reasons"][0]["message"]


async def test_a_policy_that_ignores_messages_adds_a_warning_to_the_verdict(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues
) -> None:
    await put_app(http, app, policy={"ignoreMessages": True})
    await staged_queues.send(control_message("order-7"))
    verdict = await get_staging(http, app)
    assert (verdict["ready"], verdict["assurance"], message_evidence_of(verdict)) == (True, "verified", None)
    assert [warning["code"] for warning in verdict["warnings"]] == ["MessagesUnseen"]
    # A result without the messages is not used again under a policy that counts them.
    await put_app(http, app, policy={"ignoreMessages": False})
    assert reason_codes(await get_staging(http, app)) == ["StartsPending"]


@pytest.mark.parametrize(("sender", "status"), [("order-1", "Completed"), ("@counter@a", "Running")])
async def test_a_start_that_is_sent_between_the_reads_of_the_queues_and_of_the_rows_blocks(
    *, storage: StorageSettings, clock: ShiftedClock, app: str, hub: str, sender: str, status: str
) -> None:
    """An instance or an entity sends the start and writes its own row, after the server has read the queues."""
    async with run_storage_proxy(storage) as proxy, ProviderTaskHub(storage, hub) as provider:
        await provider.create()
        staged_queues = StagedTaskHubQueues(provider)
        start_was_sent = False

        async def send_start_before_row_read(method: str, path: str) -> None:
            """Send a start message, and change the row of its sender, just before the rows are read."""
            nonlocal start_was_sent
            if f"{hub}Instances" in path and "PartitionKey" not in path and not start_was_sent:
                start_was_sent = True
                await staged_queues.send(control_message("launched"))
                await provider.put(sender, status)

        settings = {"STATE_TASKHUBS_SHOP": connection_string_of(proxy.settings)}
        async with client_of_server_with(storage, clock, settings) as http:
            slots = {"staging": {"taskHub": hub}}
            await put_app(http, app, slots=slots, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
            proxy.before_request = send_start_before_row_read
            verdict = await get_staging(http, app, verify="fresh")
            assert start_was_sent
            assert reason_codes(verdict) == ["StartsPending"], json.dumps(verdict)
        await staged_queues.queue.close()


async def test_time_in_which_the_machine_was_suspended_does_not_count_for_the_quiet_period(
    storage: StorageSettings, clock: ShiftedClock, app: str, hub: str
) -> None:
    """The machine is suspended while it scans. The next response of the state storage shows that."""
    async with run_storage_proxy(storage) as proxy, ProviderTaskHub(storage, hub) as provider:
        await provider.create()
        staged_queues = StagedTaskHubQueues(provider)
        was_suspended = False

        async def suspend_before_row_read(method: str, path: str) -> None:
            """Suspend the machine when the rows are read."""
            nonlocal was_suspended
            was_suspended = was_suspended or f"{hub}Instances" in path

        async def show_the_time(method: str, path: str) -> None:
            """Let the clock go on with the first request to the state storage after the suspension."""
            nonlocal was_suspended
            if was_suspended:
                was_suspended = False
                clock.advance(QUIET_PERIOD_SECONDS + 5)

        async with run_storage_proxy(storage) as state_proxy:
            settings = {"STATE_TASKHUBS_SHOP": connection_string_of(proxy.settings)}
            async with client_of_server_with(state_proxy.settings, clock, settings) as http:
                slots = {"staging": {"taskHub": hub}}
                await put_app(http, app, slots=slots, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
                assert (await get_staging(http, app))["ready"]
                await staged_queues.send(control_message("order-1"), invisible_seconds=ONE_DAY_SECONDS)
                proxy.before_request, state_proxy.before_request = suspend_before_row_read, show_the_time
                # The probe is as old as the suspension is long.
                assert reason_codes(await get_staging(http, app, verify="fresh")) == ["ProbeStale"]
                proxy.before_request = state_proxy.before_request = no_delay
                verdict = await get_staging(http, app, verify="fresh")
                assert reason_codes(verdict) == ["StartsPending"], json.dumps(verdict)
                clock.advance(QUIET_PERIOD_SECONDS + 5)
                assert (await get_staging(http, app, verify="fresh"))["ready"]
        await staged_queues.queue.close()


async def test_a_complete_scan_whose_request_fails_is_not_resumed(
    storage: StorageSettings, clock: ShiftedClock, monkeypatch: pytest.MonkeyPatch, app: str, hub: str
) -> None:
    """A quiet period begins, and the records cannot be read once more. All reads of this scan are before the next
    request."""
    monkeypatch.setattr("state_api.services.task_hub_reader._SECONDS_WITHOUT_LEASE", -1)
    async with (
        run_storage_proxy(storage) as proxy,
        run_storage_proxy(storage) as state_proxy,
        ProviderTaskHub(storage, hub) as provider,
    ):
        await provider.create()
        staged_queues = StagedTaskHubQueues(provider)
        settings = {"STATE_TASKHUBS_SHOP": connection_string_of(proxy.settings)}
        async with client_of_server_with(state_proxy.settings, clock, settings) as http:
            slots = {"staging": {"taskHub": hub}}
            await put_app(http, app, slots=slots, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
            assert (await get_staging(http, app))["ready"]
            # That result is too old for the next requests.
            clock.advance(ONE_DAY_SECONDS)
            proxy.forwarded.clear()
            await staged_queues.send(control_message("order-1"), invisible_seconds=ONE_DAY_SECONDS)

            def fail_reads_after_the_scan(method: str, path: str) -> int | None:
                """Fail each read of the state storage once the rows of the task hub were read."""
                has_scanned = any(f"{hub}Instances" in request.path for request in proxy.forwarded)
                return 503 if method == "GET" and has_scanned else None

            state_proxy.failure_status = fail_reads_after_the_scan
            assert_problem(await http.get(f"/api/apps/{app}/staging?verify=fresh"), 503, "StorageUnavailable")
            state_proxy.failure_status = lambda method, path: None
            await provider.put("order-2", "Running")
            assert reason_codes(await get_staging(http, app, verify="cached"))[0] == "InstancesActive"
        await staged_queues.queue.close()


@pytest.mark.parametrize("is_waiver_removed", [True, False], ids=["without the waiver", "with the waiver"])
async def test_a_reported_start_without_a_row_is_recorded_as_ended_once_no_start_can_be_pending(
    *,
    http: httpx.AsyncClient,
    app: str,
    staged_queues: StagedTaskHubQueues,
    clock: ShiftedClock,
    is_waiver_removed: bool,
) -> None:
    """An instance was purged and its end event was lost, and a message of its timer stays in a control queue."""
    hub, purged_id = staged_queues.provider.hub, uuid.uuid4().hex
    await staged_queues.provider.put("known", "Completed")
    await post_events(http, event(hub, "known"), event(hub, "known", "Completed"), event(hub, purged_id))
    await staged_queues.send(control_message(purged_id, "TimerFired", None), invisible_seconds=ONE_DAY_SECONDS)
    assert reason_codes(await get_staging(http, app, wait=7)) == ["InstancesActive", "StartsPending"]
    # A waiver of messages does not cover a start that events have reported.
    await post_waiver(http, app, staged_queues, unexplainedMessages=1)
    assert reason_codes(await get_staging(http, app, wait=7)) == ["InstancesActive"]
    if is_waiver_removed:
        waiver_url = f"/api/apps/{app}/waivers?taskHub={hub}&unexplainedMessages=true"
        assert (await http.delete(waiver_url)).status_code == 200
    # The time rule explains the message, with the waiver or without it.
    clock.advance(QUIET_PERIOD_SECONDS + 5)
    assert (await get_staging(http, app, wait=7))["ready"]


async def test_a_timer_explains_its_message_also_under_a_waiver(
    http: httpx.AsyncClient, app: str, staged_queues: StagedTaskHubQueues
) -> None:
    """The waiver would cover the message, but only an explained message lets the server close a start that events have
    reported. Without the waiver, the verdict is Ready at once."""
    hub, purged_id = staged_queues.provider.hub, uuid.uuid4().hex
    await staged_queues.provider.put("known", "Completed")
    await post_events(http, event(hub, "known"), event(hub, "known", "Completed"), event(hub, purged_id))
    await staged_queues.leave_timer("known")
    await post_waiver(http, app, staged_queues, unexplainedMessages=1)
    assert (await get_staging(http, app, wait=7))["ready"]
