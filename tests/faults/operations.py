"""The operations that a crash may cut short: what each is done on, and what is left behind in the end."""

import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from state_api.app import StateServer
from state_api.settings import StorageSettings
from state_api.storage.tables import APPS, TASK_HUBS, instance_table
from tests.builders import at, event
from tests.conftest import new_hub
from tests.faults.crashes import Ask
from tests.http.client import publish, put, run, stage, swap
from tests.taskhubs.provider import Account, ProviderHub

SOURCE = {"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"}
OURS, OTHERS = run(1), run(2)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
_LAST = 10**10
_PROBED = ("result", "work")


@dataclass
class Case:
    """An app of its own, and its task hubs by what they are to it. `ask` does the operation, as the pipeline does."""

    app: str = field(default_factory=lambda: f"shop-{uuid.uuid4().hex[:12]}")
    hubs: dict[str, str] = field(default_factory=lambda: {name: new_hub() for name in ("old", "new", "next")})
    ask: Ask | None = None
    stored: bool = False
    """Whether the old hub is in the app's storage account."""

    async def done(self, http: httpx.AsyncClient) -> httpx.Response:
        assert self.ask is not None
        return await self.ask(http)

    def plain(self, content: Any) -> Any:
        """The same without what differs between two cases: names and times."""
        if isinstance(content, Mapping):
            return {self.plain(name): self.plain(value) for name, value in content.items()}
        if isinstance(content, list | tuple):
            return [self.plain(one) for one in content]
        if not isinstance(content, str):
            return content
        for name, hub in self.hubs.items():
            content = content.replace(hub, f"<{name}>")
        return _TIME.sub("<time>", content.replace(self.app, "<app>"))


@dataclass(frozen=True)
class World:
    """Where cases are made: a server without faults, and the account of the task hubs."""

    http: httpx.AsyncClient
    server: StateServer
    storage: StorageSettings
    account: Account

    async def ended(self, *hubs: str) -> None:
        """Task hubs that have worked, and have nothing more to do."""
        for hub in hubs:
            await publish(self.http, event(hub, "order-1", time=at(-60)), event(hub, "order-1", "Completed", at(-50)))


Prepare = Callable[[World], Awaitable[Case]]
Aftermath = Callable[[Case, httpx.AsyncClient], Awaitable[None]]
"""What others do after a crash, and how it must end."""


def _posted(path: str, body: Mapping[str, Any]) -> Ask:
    async def ask(http: httpx.AsyncClient) -> httpx.Response:
        return await http.post(path, json=body, headers=OURS)

    return ask


async def first_stage(world: World) -> Case:
    """The app is not known yet."""
    case = Case()
    case.ask = _posted(f"/api/apps/{case.app}/staging", {"taskHub": case.hubs["new"], "version": "2.0.0"})
    return case


async def stage_over(world: World) -> Case:
    """Over a task hub that has drained."""
    case = await first_stage(world)
    slots = {"production": {"taskHub": case.hubs["next"]}, "staging": {"taskHub": case.hubs["old"]}}
    assert (await put(world.http, case.app, slots=slots, policy={"settleSeconds": 0})).status_code == 200
    await world.ended(case.hubs["old"])
    return case


async def verified_stage(world: World) -> Case:
    """The task hub in the slot is read for it."""
    case = await stage_over(world)
    async with ProviderHub(world.storage, case.hubs["old"]) as provider:
        await provider.create()
        await provider.put("order-1", "Completed")
    assert (await put(world.http, case.app, taskHubs=SOURCE)).status_code == 200
    return case


async def take_over(world: World) -> Case:
    """From a run that is dead."""
    case = await stage_over(world)
    dead = await stage(world.http, case.app, case.hubs["next"] + "dead", OTHERS)
    assert dead.status_code == 200, dead.text
    body = {"taskHub": case.hubs["new"], "takeOver": True, "reason": "run 2 is dead"}
    case.ask = _posted(f"/api/apps/{case.app}/staging", body)
    return case


async def abandon(world: World) -> Case:
    case = await _staged(world)

    async def ask(http: httpx.AsyncClient) -> httpx.Response:
        parameters = {"taskHub": case.hubs["new"]}
        return await http.delete(f"/api/apps/{case.app}/staging", params=parameters, headers=OURS)

    case.ask = ask
    return case


async def _staged(world: World) -> Case:
    case = Case()
    slots = {"production": {"taskHub": case.hubs["old"]}}
    assert (await put(world.http, case.app, slots=slots, policy={"settleSeconds": 0})).status_code == 200
    assert (await stage(world.http, case.app, case.hubs["new"], OURS)).status_code == 200
    return case


def _swapping(case: Case, hub: str, rollback: bool, outcome: str | None) -> Ask:
    body: dict[str, Any] = {"taskHub": case.hubs[hub], "rollback": rollback}
    return _posted(f"/api/apps/{case.app}/swap", body | ({"outcome": outcome} if outcome else {}))


def _beginning(case: Case, hub: str, rollback: bool) -> Ask:
    """As safe-deploy does it: provided the app is the one that it has looked at. It looks again if it is not."""

    async def ask(http: httpx.AsyncClient) -> httpx.Response:
        body = {"taskHub": case.hubs[hub], "outcome": "Pending", "rollback": rollback}
        if not seen:
            seen.append((await http.get(f"/api/apps/{case.app}")).headers["etag"])
        while True:
            headers = {**OURS, "If-Match": seen[-1]}
            answer = await http.post(f"/api/apps/{case.app}/swap", json=body, headers=headers)
            if answer.status_code != 412:
                return answer
            seen.append((await http.get(f"/api/apps/{case.app}")).headers["etag"])
            assert len(seen) < 4, "nobody else changes the app"

    seen: list[str] = []
    return ask


async def begin_swap(world: World) -> Case:
    case = await _staged(world)
    case.ask = _beginning(case, "new", rollback=False)
    return case


async def _begun(world: World) -> Case:
    case = await begin_swap(world)
    assert (await case.done(world.http)).status_code == 200
    return case


async def confirm_swap(world: World) -> Case:
    case = await _begun(world)
    case.ask = _swapping(case, "new", rollback=False, outcome="Done")
    return case


async def take_swap_back(world: World) -> Case:
    case = await _begun(world)
    case.ask = _swapping(case, "new", rollback=False, outcome="Failed")
    return case


async def swap_at_once(world: World) -> Case:
    case = await _staged(world)
    case.ask = _swapping(case, "new", rollback=False, outcome=None)
    return case


async def begin_rollback(world: World) -> Case:
    case = await _staged(world)
    assert (await swap(world.http, case.app, case.hubs["new"], OURS)).status_code == 200
    case.ask = _beginning(case, "old", rollback=True)
    return case


async def confirm_rollback(world: World) -> Case:
    case = await begin_rollback(world)
    assert (await case.done(world.http)).status_code == 200
    case.ask = _swapping(case, "old", rollback=True, outcome="Done")
    return case


async def take_rollback_back(world: World) -> Case:
    case = await begin_rollback(world)
    assert (await case.done(world.http)).status_code == 200
    case.ask = _swapping(case, "old", rollback=True, outcome="Failed")
    return case


async def cleanup(world: World) -> Case:
    """Of two retired task hubs, one with records and one that nothing was ever heard of."""
    case = Case()
    slots: dict[str, Any] = {name: {"taskHub": case.hubs[hub]} for name, hub in (("staging", "old"), ("canary", "new"))}
    assert (await put(world.http, case.app, slots=slots, policy={"settleSeconds": 0})).status_code == 200
    await world.ended(case.hubs["old"])
    assert (await put(world.http, case.app, slots=dict.fromkeys(slots))).status_code == 200
    case.ask = _posted(f"/api/apps/{case.app}/cleanup", {})
    return case


async def delete_task_hubs(world: World) -> Case:
    """Of a retired task hub, with all that it left in the app's storage account."""
    case = Case()
    await _small_task_hub(world, case.hubs["old"])
    case.stored = True
    slots: dict[str, Any] = {"staging": {"taskHub": case.hubs["old"]}}
    body = {"slots": slots, "policy": {"settleSeconds": 0}}
    assert (await put(world.http, case.app, **body)).status_code == 200
    await world.ended(case.hubs["old"])
    assert (await put(world.http, case.app, slots=dict.fromkeys(slots))).status_code == 200
    adopted = await put(world.http, case.app, taskHubs=SOURCE, adoptTaskHubs=[case.hubs["old"]])
    assert adopted.status_code == 200
    case.ask = _posted(f"/api/apps/{case.app}/cleanup", {"deleteTaskHubs": True})
    return case


async def _small_task_hub(world: World, hub: str) -> None:
    """One of each kind that a task hub has, and its three tables."""
    for name in ("History", "Partitions"):
        await world.account._tables.create_table(f"{hub}{name}")
    async with ProviderHub(world.storage, hub) as provider:
        await provider.create()
        await provider.put("order-1", "Completed")
    await world.account._queues.create_queue(f"{hub}-workitems")
    await world.account._blobs.create_container(f"{hub}-leases")


async def left_behind(world: World, case: Case, http: httpx.AsyncClient) -> dict[str, Any]:
    """All that a case has left: what the app looks like, its audit log, and the rows and tables beneath."""
    shown = await http.get(f"/api/apps/{case.app}")
    assert shown.status_code == 200, shown.text
    history = await http.get(f"/api/apps/{case.app}/history", params={"top": 1000})
    assert history.status_code == 200, history.text
    audit = history.json()["history"]
    revision = int(shown.headers["etag"].strip('"'))
    assert [one["revision"] for one in audit] == list(range(revision, 0, -1)), "each change is on record once"
    keys = await _keys(world.server, APPS, case.app.lower())
    assert keys == ["app", *sorted(f"audit|{_LAST - number:010d}" for number in range(1, revision + 1))]
    registered = await _rows(world.server, "hub", case.hubs.values())
    probed = await _rows(world.server, "probe", [f"{hub}|{kind}" for hub in case.hubs.values() for kind in _PROBED])
    made = await _tables(world.server, case.hubs.values())
    return {
        "app": case.plain(shown.json()),
        "etag": shown.headers["etag"],
        "history": case.plain(audit),
        "registered": case.plain(registered),
        "probed": case.plain(sorted(probed)),
        "leased": case.plain(sorted(key for key, row in probed.items() if "LeasedUntil" in row)),
        "records": case.plain(made),
        "artifacts": case.plain(await world.account.artifacts(case.hubs["old"]) if case.stored else []),
    }


async def _rows(server: StateServer, partition: str, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Those of these rows of the registry that are there, by key."""
    either = " or ".join(f"RowKey eq '{key}'" for key in keys)
    found = server.tables.client(TASK_HUBS).query_entities(f"PartitionKey eq '{partition}' and ({either})")
    return {row["RowKey"]: dict(row) async for row in found}


async def _keys(server: StateServer, table: str, partition: str) -> list[str]:
    rows = server.tables.client(table).query_entities("PartitionKey eq @p", parameters={"p": partition})
    return sorted([row["RowKey"] async for row in rows])


async def _tables(server: StateServer, hubs: Iterable[str]) -> list[str]:
    """The hubs that have a table of records."""
    names = {instance_table(hub): hub for hub in hubs}
    found = server.tables._service.query_tables(" or ".join(f"TableName eq '{name}'" for name in names))
    return sorted([names[table.name] async for table in found])
