"""The operations that a crash can interrupt: how each is prepared, and the state that it leaves in the storage."""

import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from state_api.app import StateServer
from state_api.settings import StorageSettings
from state_api.storage.tables import APPS_TABLE, TASK_HUBS_TABLE, instance_table_name
from tests.backends.azure_storage_task_hub import ProviderAccount, ProviderTaskHub
from tests.builders import event, timestamp
from tests.conftest import new_hub_name
from tests.faults.crashing_server import SendRequest
from tests.http.operations import post_events, post_staging, post_swap, put_app, run_headers

PROVIDER_CONFIG = {"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"}
OUR_RUN, OTHER_RUN = run_headers(1), run_headers(2)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
_MAX_REVISION = 10**10
_TIME_DEPENDENT = ("observed",)
"""Members whose value depends on when an operation decides: the share of the starts since the last change."""


@dataclass
class CrashCase:
    """A new app, its task hubs by role, and the request of the operation as a pipeline sends it."""

    app: str = field(default_factory=lambda: f"shop-{uuid.uuid4().hex[:12]}")
    hubs: dict[str, str] = field(default_factory=lambda: {name: new_hub_name() for name in ("old", "new", "next")})
    send: SendRequest | None = None
    in_provider_account: bool = False
    """Whether the old task hub exists in the app's storage account."""

    async def perform(self, http: httpx.AsyncClient) -> httpx.Response:
        """Send the request of the operation."""
        assert self.send is not None
        return await self.send(http)

    def normalize(self, response: Any) -> Any:
        """The response with placeholders for names and times, which differ between two cases."""
        if isinstance(response, Mapping):
            return {
                self.normalize(name): "<by time>" if name in _TIME_DEPENDENT else self.normalize(value)
                for name, value in response.items()
            }
        if isinstance(response, list | tuple):
            return [self.normalize(item) for item in response]
        if not isinstance(response, str):
            return response
        for name, hub in self.hubs.items():
            response = response.replace(hub, f"<{name}>")
        return _TIME.sub("<time>", response.replace(self.app, "<app>"))


@dataclass(frozen=True)
class CaseEnvironment:
    """What cases are prepared with: a server without faults, and the storage account of the task hubs."""

    http: httpx.AsyncClient
    server: StateServer
    storage: StorageSettings
    account: ProviderAccount

    async def add_drained_hubs(self, *hubs: str) -> None:
        """Record the start and the end of an instance in each of these task hubs."""
        for hub in hubs:
            await post_events(
                self.http,
                event(hub, "order-1", time=timestamp(-60)),
                event(hub, "order-1", "Completed", time=timestamp(-50)),
            )


PrepareCase = Callable[[CaseEnvironment], Awaitable[CrashCase]]
FollowUp = Callable[[CrashCase, httpx.AsyncClient], Awaitable[None]]
"""Sends other requests after a crash and checks their results."""


def _post_request(path: str, body: Mapping[str, Any]) -> SendRequest:
    """A function that posts this body as the run of the case."""

    async def send_post(http: httpx.AsyncClient) -> httpx.Response:
        return await http.post(path, json=body, headers=OUR_RUN)

    return send_post


async def first_stage(environment: CaseEnvironment) -> CrashCase:
    """Stage a task hub of an app that is not registered."""
    case = CrashCase()
    case.send = _post_request(f"/api/apps/{case.app}/staging", {"taskHub": case.hubs["new"], "version": "2.0.0"})
    return case


async def stage_over_drained(environment: CaseEnvironment) -> CrashCase:
    """Stage over a drained task hub."""
    case = await first_stage(environment)
    slots = {"production": {"taskHub": case.hubs["next"]}, "staging": {"taskHub": case.hubs["old"]}}
    assert (await put_app(environment.http, case.app, slots=slots, policy={"settleSeconds": 0})).status_code == 200
    await environment.add_drained_hubs(case.hubs["old"])
    return case


async def verified_stage(environment: CaseEnvironment) -> CrashCase:
    """Stage over a drained task hub, which the server probes."""
    case = await stage_over_drained(environment)
    async with ProviderTaskHub(environment.storage, case.hubs["old"]) as provider:
        await provider.create()
        await provider.put("order-1", "Completed")
    assert (await put_app(environment.http, case.app, taskHubs=PROVIDER_CONFIG)).status_code == 200
    return case


async def take_over(environment: CaseEnvironment) -> CrashCase:
    """Stage with takeOver, while the deployment of another run is open."""
    case = await stage_over_drained(environment)
    dead = await post_staging(environment.http, case.app, case.hubs["next"] + "dead", OTHER_RUN)
    assert dead.status_code == 200, dead.text
    body = {"taskHub": case.hubs["new"], "takeOver": True, "reason": "run 2 is dead"}
    case.send = _post_request(f"/api/apps/{case.app}/staging", body)
    return case


async def abandon(environment: CaseEnvironment) -> CrashCase:
    """Abandon a staged task hub."""
    case = await _case_with_staged_hub(environment)

    async def send_delete(http: httpx.AsyncClient) -> httpx.Response:
        parameters = {"taskHub": case.hubs["new"]}
        return await http.delete(f"/api/apps/{case.app}/staging", params=parameters, headers=OUR_RUN)

    case.send = send_delete
    return case


async def _case_with_staged_hub(environment: CaseEnvironment) -> CrashCase:
    """A case whose run has staged the task hub `new`, while production has `old`."""
    case = CrashCase()
    slots = {"production": {"taskHub": case.hubs["old"]}}
    assert (await put_app(environment.http, case.app, slots=slots, policy={"settleSeconds": 0})).status_code == 200
    assert (await post_staging(environment.http, case.app, case.hubs["new"], OUR_RUN)).status_code == 200
    return case


def _swap_request(case: CrashCase, hub: str, *, rollback: bool, outcome: str | None) -> SendRequest:
    """PostSwap for the task hub with this name in `case.hubs`, such as `new`."""
    body: dict[str, Any] = {"taskHub": case.hubs[hub], "rollback": rollback}
    return _post_request(f"/api/apps/{case.app}/swap", body | ({"outcome": outcome} if outcome else {}))


def _begin_request_with_if_match(case: CrashCase, hub: str, *, rollback: bool) -> SendRequest:
    """A function that begins a swap as safe-deploy does: with If-Match, and again with the new ETag after a change."""

    async def send_with_if_match(http: httpx.AsyncClient) -> httpx.Response:
        """Send PostSwap with the ETag that was current before the crash. If the crashed server has changed the app,
        send it with the new one."""
        body = {"taskHub": case.hubs[hub], "outcome": "Pending", "rollback": rollback}
        if not etags:
            etags.append((await http.get(f"/api/apps/{case.app}")).headers["etag"])
        while True:
            headers = {**OUR_RUN, "If-Match": etags[-1]}
            response = await http.post(f"/api/apps/{case.app}/swap", json=body, headers=headers)
            if response.status_code != 412:
                return response
            etags.append((await http.get(f"/api/apps/{case.app}")).headers["etag"])
            assert len(etags) < 4, "only the crashed server changes the app"

    etags: list[str] = []
    return send_with_if_match


async def begin_swap(environment: CaseEnvironment) -> CrashCase:
    """Report that a swap is about to begin."""
    case = await _case_with_staged_hub(environment)
    case.send = _begin_request_with_if_match(case, "new", rollback=False)
    return case


async def _case_with_pending_swap(environment: CaseEnvironment) -> CrashCase:
    """A case whose run has reported that its swap is about to begin."""
    case = await begin_swap(environment)
    assert (await case.perform(environment.http)).status_code == 200
    return case


async def confirm_swap(environment: CaseEnvironment) -> CrashCase:
    """Report that a pending swap is done."""
    case = await _case_with_pending_swap(environment)
    case.send = _swap_request(case, "new", rollback=False, outcome="Done")
    return case


async def revert_swap(environment: CaseEnvironment) -> CrashCase:
    """Report that a pending swap has failed."""
    case = await _case_with_pending_swap(environment)
    case.send = _swap_request(case, "new", rollback=False, outcome="Failed")
    return case


async def swap_in_one_step(environment: CaseEnvironment) -> CrashCase:
    """Report a swap that was not pending."""
    case = await _case_with_staged_hub(environment)
    case.send = _swap_request(case, "new", rollback=False, outcome=None)
    return case


async def begin_rollback(environment: CaseEnvironment) -> CrashCase:
    """Report that a rollback is about to begin."""
    case = await _case_with_staged_hub(environment)
    assert (await post_swap(environment.http, case.app, case.hubs["new"], OUR_RUN)).status_code == 200
    case.send = _begin_request_with_if_match(case, "old", rollback=True)
    return case


async def confirm_rollback(environment: CaseEnvironment) -> CrashCase:
    """Report that a pending rollback is done."""
    case = await begin_rollback(environment)
    assert (await case.perform(environment.http)).status_code == 200
    case.send = _swap_request(case, "old", rollback=True, outcome="Done")
    return case


async def revert_rollback(environment: CaseEnvironment) -> CrashCase:
    """Report that a pending rollback has failed."""
    case = await begin_rollback(environment)
    assert (await case.perform(environment.http)).status_code == 200
    case.send = _swap_request(case, "old", rollback=True, outcome="Failed")
    return case


async def cleanup(environment: CaseEnvironment) -> CrashCase:
    """Clean up two retired task hubs: one with records, and one without."""
    case = CrashCase()
    slots: dict[str, Any] = {name: {"taskHub": case.hubs[hub]} for name, hub in (("staging", "old"), ("canary", "new"))}
    assert (await put_app(environment.http, case.app, slots=slots, policy={"settleSeconds": 0})).status_code == 200
    await environment.add_drained_hubs(case.hubs["old"])
    assert (await put_app(environment.http, case.app, slots=dict.fromkeys(slots))).status_code == 200
    case.send = _post_request(f"/api/apps/{case.app}/cleanup", {})
    return case


async def delete_task_hubs(environment: CaseEnvironment) -> CrashCase:
    """Clean up a retired task hub, and delete its artifacts in the app's storage account."""
    case = CrashCase()
    await _create_small_task_hub(environment, case.hubs["old"])
    case.in_provider_account = True
    slots: dict[str, Any] = {"staging": {"taskHub": case.hubs["old"]}}
    body = {"slots": slots, "policy": {"settleSeconds": 0}}
    assert (await put_app(environment.http, case.app, **body)).status_code == 200
    await environment.add_drained_hubs(case.hubs["old"])
    assert (await put_app(environment.http, case.app, slots=dict.fromkeys(slots))).status_code == 200
    adopted = await put_app(environment.http, case.app, taskHubs=PROVIDER_CONFIG, adoptTaskHubs=[case.hubs["old"]])
    assert adopted.status_code == 200
    case.send = _post_request(f"/api/apps/{case.app}/cleanup", {"deleteTaskHubs": True})
    return case


async def _create_small_task_hub(environment: CaseEnvironment, hub: str) -> None:
    """Create the three tables of a task hub, a queue and a container."""
    for name in ("History", "Partitions"):
        await environment.account._tables.create_table(f"{hub}{name}")
    async with ProviderTaskHub(environment.storage, hub) as provider:
        await provider.create()
        await provider.put("order-1", "Completed")
    await environment.account._queues.create_queue(f"{hub}-workitems")
    await environment.account._blobs.create_container(f"{hub}-leases")


async def stored_state(environment: CaseEnvironment, case: CrashCase, http: httpx.AsyncClient) -> dict[str, Any]:
    """What an operation has left behind: the app, its audit log, and its rows and tables."""
    app = await http.get(f"/api/apps/{case.app}")
    assert app.status_code == 200, app.text
    history = await http.get(f"/api/apps/{case.app}/history", params={"top": 1000})
    assert history.status_code == 200, history.text
    audit = history.json()["history"]
    revision = int(app.headers["etag"].strip('"'))
    assert [record["revision"] for record in audit] == list(range(revision, 0, -1)), "each change is on record once"
    all_keys = await _row_keys(environment.server, APPS_TABLE, case.app.lower())
    keys = [key for key in all_keys if not key.startswith("version|")]
    assert keys == ["app", *sorted(f"audit|{_MAX_REVISION - number:010d}" for number in range(1, revision + 1))]
    hub_rows = await _registry_rows(environment.server, "hub", case.hubs.values())
    hubs_with_tables = await _hubs_with_tables(environment.server, case.hubs.values())
    hub_rows_in_tables = {
        f"{hub} {key}": row
        for hub in hubs_with_tables
        for key, row in (await _read_hub_rows(environment.server, hub)).items()
    }
    return {
        "app": case.normalize(app.json()),
        "etag": app.headers["etag"],
        "history": case.normalize(audit),
        "versions": [key for key in all_keys if key not in keys],
        "registered": case.normalize(hub_rows),
        "states": case.normalize({key: row for key, row in hub_rows_in_tables.items() if key.endswith("hub")}),
        "probed": sorted(case.normalize(list(hub_rows_in_tables))),
        "leased": sorted(case.normalize([key for key, row in hub_rows_in_tables.items() if "LeasedUntil" in row])),
        "records": sorted(case.normalize(hubs_with_tables)),
        "artifacts": case.normalize(
            await environment.account.list_artifacts(case.hubs["old"]) if case.in_provider_account else []
        ),
    }


async def _registry_rows(server: StateServer, partition: str, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The rows with these keys in a partition of the registry, by key."""
    condition = " or ".join(f"RowKey eq '{key}'" for key in keys)
    rows = server.tables.client(TASK_HUBS_TABLE).query_entities(f"PartitionKey eq '{partition}' and ({condition})")
    return {row["RowKey"]: dict(row) async for row in rows}


async def _read_hub_rows(server: StateServer, hub: str) -> dict[str, dict[str, Any]]:
    """The state and the probes in the task hub's instance table, by key. Their messages differ between runs."""
    rows = server.tables.client(instance_table_name(hub)).query_entities("RowKey ge '0|' and RowKey lt '0}'")
    return {row["RowKey"]: dict(row) async for row in rows if row["RowKey"] != "0|messages"}


async def _row_keys(server: StateServer, table: str, partition: str) -> list[str]:
    """The sorted row keys of a partition."""
    rows = server.tables.client(table).query_entities("PartitionKey eq @p", parameters={"p": partition})
    return sorted([row["RowKey"] async for row in rows])


async def _hubs_with_tables(server: StateServer, hubs: Iterable[str]) -> list[str]:
    """The task hubs that have an instance table."""
    names = {instance_table_name(hub): hub for hub in hubs}
    tables = server.tables._service.query_tables(" or ".join(f"TableName eq '{name}'" for name in names))
    return sorted([names[table.name] async for table in tables])
