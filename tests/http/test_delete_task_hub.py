"""DeleteTaskHub over HTTP: it removes the records of a drained, unclaimed task hub and closes its name."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.app import StateServer
from state_api.domain.errors import StorageUnavailable
from state_api.domain.releases.apps import Caller
from state_api.settings import Settings, StorageSettings
from state_api.storage.tables import instance_table_name
from state_api.storage.task_hubs import TaskHubStore
from tests.builders import event, timestamp
from tests.conftest import NO_EVENT_LEASE, ShiftedClock, new_hub_name
from tests.http.operations import assert_problem, post_events, post_staging, put_app, stage_and_swap
from tests.http.server_clients import client_of_second_server
from tests.http.test_unclaimed_task_hubs import events_waiting_for_claim, has_table, pass_request, server_with_limit

pytestmark = pytest.mark.anyio


async def delete_task_hub(http: httpx.AsyncClient, hub: str) -> httpx.Response:
    return await http.delete(f"/api/taskhubs/{hub}")


async def add_drained_hub(http: httpx.AsyncClient, hub: str, clock: ShiftedClock) -> None:
    """An unclaimed task hub whose only orchestration ended longer ago than the settle window."""
    await post_events(http, event(hub, time=timestamp(-60)), event(hub, status="Completed", time=timestamp(-50)))
    clock.advance(31)


async def test_delete_task_hub_removes_the_records_and_closes_the_name(
    http: httpx.AsyncClient, server: StateServer, app: str, hub: str, clock: ShiftedClock
) -> None:
    await add_drained_hub(http, hub, clock)
    deleted = await delete_task_hub(http, hub)
    assert deleted.status_code == 200, deleted.text
    body = deleted.json()
    assert (body["taskHub"], body["app"], body["closed"], body["activeCount"]) == (hub, None, True, 0)
    assert not await has_table(server, hub)
    assert await post_events(http, event(hub, "late")) == {"recorded": 0, "unchanged": 0, "quarantined": 1}
    assert not await has_table(server, hub)
    quarantined_events = (await http.get("/api/quarantine", params={"top": 30})).json()["events"]
    assert [quarantined["code"] for quarantined in quarantined_events if hub in quarantined["event"]] == [
        "TaskHubCleanedUp"
    ]
    assert_problem(await post_staging(http, app, hub), 409, "TaskHubAlreadyUsed")
    assert_problem(await put_app(http, app, slots={"production": {"taskHub": hub}}), 409, "TaskHubAlreadyUsed")
    assert (await delete_task_hub(http, hub.upper())).json() == body, "calling it again has no further effect"


async def test_a_task_hub_with_an_active_instance_is_not_deleted(
    http: httpx.AsyncClient, hub: str, clock: ShiftedClock
) -> None:
    await post_events(http, event(hub))
    clock.advance(3600)
    refused = assert_problem(await delete_task_hub(http, hub), 409, "TaskHubNotDrained")
    assert (refused["taskHub"], refused["hasRunning"], refused["activeCount"]) == (hub, True, 1)
    assert [reason["code"] for reason in refused["reasons"]] == ["InstancesActive"]
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["closed"] is False
    await post_events(http, event(hub, status="Completed"))
    assert (await delete_task_hub(http, hub)).status_code == 200


async def test_a_task_hub_with_recent_events_is_not_deleted(http: httpx.AsyncClient, hub: str) -> None:
    """No orchestration may be active between two short ones, although the task hub is in use."""
    await post_events(http, event(hub, time=timestamp(-2)), event(hub, status="Completed", time=timestamp(-1)))
    response = await delete_task_hub(http, hub)
    refused = assert_problem(response, 409, "TaskHubNotDrained")
    assert ([reason["code"] for reason in refused["reasons"]], refused["hasRunning"]) == (["Settling"], False)
    assert int(response.headers["retry-after"]) <= 31


async def test_entities_do_not_refuse_the_deletion(http: httpx.AsyncClient, hub: str) -> None:
    await post_events(http, event(hub, "@counter@basket"))
    assert (await delete_task_hub(http, hub)).status_code == 200


async def test_a_claimed_task_hub_is_not_deleted_whether_in_a_slot_retired_or_cleaned_up(
    http: httpx.AsyncClient, app: str
) -> None:
    first_hub, second_hub, third_hub = new_hub_name(), new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, first_hub, second_hub, third_hub)
    for hub in (first_hub, second_hub, third_hub):
        refused = assert_problem(await delete_task_hub(http, hub), 409, "TaskHubClaimed")
        assert (refused["taskHub"], refused["app"]) == (hub, app)
        assert "Cleanup" in refused["detail"]
    assert (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"][0]["outcome"] == "Removed"
    assert_problem(await delete_task_hub(http, first_hub), 409, "TaskHubClaimed")


async def test_an_unknown_task_hub_is_not_found(http: httpx.AsyncClient, hub: str) -> None:
    assert assert_problem(await delete_task_hub(http, hub), 404, "TaskHubNotFound")["taskHub"] == hub
    assert_problem(await delete_task_hub(http, "no"), 400, "InvalidRequest")
    assert_problem(await http.get(f"/api/taskhubs/{hub}"), 404, "TaskHubNotFound")


async def test_an_app_that_claims_the_task_hub_at_the_same_time_keeps_its_records(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str, clock: ShiftedClock
) -> None:
    await post_events(
        http, event(hub, "order-1", time=timestamp(-60)), event(hub, "order-1", "Completed", time=timestamp(-50))
    )
    clock.advance(31)
    async with run_storage_proxy(storage) as proxy:
        deleting = StateServer(Settings(storage=proxy.settings), clock, NO_EVENT_LEASE)
        transport = httpx.ASGITransport(deleting.application, raise_app_exceptions=False)

        async def claim_before_first_transaction(method: str, path: str) -> None:
            """Let an app claim the task hub just before it is closed."""
            if path.endswith("$batch"):
                proxy.before_request = pass_request
                assert (await put_app(http, app, slots={"staging": {"taskHub": hub}})).status_code == 200

        async with httpx.AsyncClient(transport=transport, base_url="http://deleting") as client:
            proxy.before_request = claim_before_first_transaction
            assert_problem(await delete_task_hub(client, hub), 409, "TaskHubClaimed")
            assert proxy.before_request is pass_request
        await deleting.close()
    body = (await http.get(f"/api/taskhubs/{hub}")).json()
    assert (body["app"], body["closed"]) == (app, False)
    assert len((await http.get(f"/api/taskhubs/{hub}/instances")).json()["instances"]) == 1


@asynccontextmanager
async def client_delayed_by(
    storage: StorageSettings,
    clock: ShiftedClock,
    is_due: Callable[[str, str], bool],
    act: Callable[[StorageProxy], Awaitable[None]],
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a second server. Before the first storage request for which `is_due` is true, it awaits `act`."""
    async with run_storage_proxy(storage) as proxy:
        deleting = StateServer(Settings(storage=proxy.settings), clock, NO_EVENT_LEASE)
        transport = httpx.ASGITransport(deleting.application, raise_app_exceptions=False)

        async def act_before_due_request(method: str, path: str) -> None:
            """Act once, just before the request that the test waits for."""
            if is_due(method, path):
                proxy.before_request = pass_request
                await act(proxy)

        proxy.before_request = act_before_due_request
        async with httpx.AsyncClient(transport=transport, base_url="http://deleting") as client:
            yield client
        assert proxy.before_request is pass_request, "it has acted"
        await deleting.close()


async def test_an_event_recorded_between_the_check_and_the_closing_refuses_the_deletion(
    storage: StorageSettings, http: httpx.AsyncClient, hub: str, clock: ShiftedClock
) -> None:
    await add_drained_hub(http, hub, clock)

    async def record_another_start(proxy: StorageProxy) -> None:
        assert (await post_events(http, event(hub, "order-2")))["recorded"] == 1

    async with client_delayed_by(
        storage, clock, lambda method, path: path.endswith("$batch"), record_another_start
    ) as deleting:
        refused = assert_problem(await delete_task_hub(deleting, hub), 409, "TaskHubNotDrained")
        assert refused["activeCount"] == 1
    body = (await http.get(f"/api/taskhubs/{hub}")).json()
    assert (body["closed"], body["activeCount"]) == (False, 1)
    assert (await post_events(http, event(hub, "order-2", "Completed")))["recorded"] == 1


async def test_an_event_that_arrives_while_the_records_are_removed_goes_to_quarantine(
    storage: StorageSettings, server: StateServer, http: httpx.AsyncClient, hub: str, clock: ShiftedClock
) -> None:
    """Its server has the task hub cached as open, and the table still exists."""
    await add_drained_hub(http, hub, clock)
    late: list[dict[str, int]] = []

    async def record_another_start(proxy: StorageProxy) -> None:
        late.append(await post_events(http, event(hub, "order-2"), event(hub, "order-3")))

    async with client_delayed_by(
        storage, clock, lambda method, path: method == "DELETE", record_another_start
    ) as deleting:
        assert (await delete_task_hub(deleting, hub)).status_code == 200
    assert late == [{"recorded": 0, "unchanged": 0, "quarantined": 2}]
    assert not await has_table(server, hub)
    quarantined_events = (await http.get("/api/quarantine", params={"top": 30})).json()["events"]
    assert [quarantined["code"] for quarantined in quarantined_events if hub in quarantined["event"]] == [
        "TaskHubCleanedUp"
    ] * 2
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["closed"]


async def test_an_event_that_is_sent_again_while_the_records_are_removed_goes_to_quarantine(
    *,
    storage: StorageSettings,
    http: httpx.AsyncClient,
    hub: str,
    clock: ShiftedClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first delivery wrote the event and was not answered, so the second one changes nothing in the table, which is
    deleted with the event."""
    await add_drained_hub(http, hub, clock)
    outcomes: list[int | dict[str, int]] = []
    started = event(hub, "order-2")

    async def fail_to_read_registry(store: TaskHubStore, task_hub: str) -> bool:
        raise StorageUnavailable("the storage does not answer")

    async def send_refused_event_twice(proxy: StorageProxy) -> None:
        """Send an event that cannot be acknowledged, because the registry cannot be read, and send it again."""
        with monkeypatch.context() as patched:
            patched.setattr(TaskHubStore, "takes_events", fail_to_read_registry)
            outcomes.append((await http.post("/api/events", json=[started])).status_code)
        outcomes.append(await post_events(http, started))

    async with client_delayed_by(
        storage, clock, lambda method, path: method == "DELETE", send_refused_event_twice
    ) as deleting:
        assert (await delete_task_hub(deleting, hub)).status_code == 200
    assert outcomes == [503, {"recorded": 0, "unchanged": 0, "quarantined": 1}]


async def test_a_repeated_deletion_checks_again_what_a_cut_off_one_had_not_checked(
    storage: StorageSettings, http: httpx.AsyncClient, hub: str, clock: ShiftedClock
) -> None:
    await add_drained_hub(http, hub, clock)

    async def record_start_and_fail_from_then_on(proxy: StorageProxy) -> None:
        """Record a start, and let every later request to the task hub's table fail."""
        await post_events(http, event(hub, "order-2"))
        proxy.failure_status = lambda method, path: 500 if instance_table_name(hub) in path else None

    async with client_delayed_by(
        storage, clock, lambda method, path: path.endswith("$batch"), record_start_and_fail_from_then_on
    ) as dying:
        assert_problem(await delete_task_hub(dying, hub), 503, "StorageUnavailable")
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["closed"]
    assert_problem(await delete_task_hub(http, hub), 409, "TaskHubNotDrained")
    assert (await post_events(http, event(hub, "order-2", "Completed")))["recorded"] == 1
    clock.advance(31)
    assert (await delete_task_hub(http, hub)).status_code == 200


async def test_the_next_call_finishes_a_deletion_that_was_cut_off(
    storage: StorageSettings, server: StateServer, http: httpx.AsyncClient, hub: str
) -> None:
    await post_events(http, event(hub, "@counter@basket"))
    async with run_storage_proxy(storage) as proxy, client_of_second_server(proxy.settings) as dying:
        proxy.failure_status = lambda method, path: 500 if method == "DELETE" else None
        assert_problem(await delete_task_hub(dying, hub), 503, "StorageUnavailable")
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["closed"]
    assert await has_table(server, hub)
    assert (await delete_task_hub(http, hub)).status_code == 200
    assert not await has_table(server, hub)


async def test_events_that_wait_in_quarantine_refuse_the_deletion(
    storage: StorageSettings, server: StateServer, clock: ShiftedClock, hub: str
) -> None:
    """DeleteTaskHub sees an active instance whose events wait in quarantine because of the limit on task hubs."""
    started, ended = event(hub, time=timestamp(-60)), event(hub, status="Completed", time=timestamp(-50))
    async with server_with_limit(storage, 0) as (state, http):
        await post_events(http, started)
        assert (await server.services.task_hub_queries.get_task_hub(hub)).has_waiting_events
        refused = assert_problem(await delete_task_hub(http, hub), 409, "TaskHubNotDrained")
        assert refused["activeCount"] == 1
        # The task hub is registered now, so its events are recorded.
        assert (await post_events(http, ended))["recorded"] == 1
        assert await events_waiting_for_claim(state, hub) == []
    state = StateServer(Settings(storage=storage, max_unclaimed_task_hubs=0), clock, NO_EVENT_LEASE)
    clock.advance(31)
    await state.services.task_hub_deletion.delete_task_hub(hub, Caller("anna"))
    assert not await has_table(server, hub)
    await state.close()


async def test_the_table_of_another_task_hub_with_the_same_prefix_stays(
    http: httpx.AsyncClient, server: StateServer, hub: str
) -> None:
    short, long = hub[:12], f"{hub[:12]}x"
    await post_events(http, event(short, "@counter@basket"), event(long))
    assert (await delete_task_hub(http, short)).status_code == 200
    assert instance_table_name(short) != instance_table_name(long)
    assert (await http.get(f"/api/taskhubs/{long}")).json()["activeCount"] == 1
