"""The storage is killed in the middle of writes, again and again.

Azurite as it comes cannot be asked for durability: it answers a write when it is in memory and saves all of its tables
every five seconds (`autosaveInterval` in its LokiTableMetadataStore, by LokiJS: the whole database into `…~`, then a
rename). Killed, it forgets what it acknowledged since the last save, and no client can do anything about that. The
first test measures it with rows of its own. The service that Azurite stands for acknowledges only what is durable, so
for the second test Azurite keeps a journal (journal.cjs): a write, or a transaction as a whole, is in the file before
it is answered. A control writer of raw rows, beside the server, shows in the same run that the journal keeps what it
promises, so that anything lost is the server's.
"""

import asyncio
import random
import signal
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.data.tables.aio import TableClient

from tests.conftest import new_hub_name
from tests.faults.event_stream import generate_orders
from tests.faults.publisher import Publisher, publish_in_background
from tests.faults.record_comparison import compare_records
from tests.faults.scale import scaled
from tests.faults.server_group import run_servers
from tests.faults.table_emulator import TableEmulator, run_table_emulator

pytestmark = [pytest.mark.fault, pytest.mark.anyio]

EVENTS = scaled(20_000)
KILLS = scaled(6, minimum=3)


class ControlWriter:
    """Writes numbered rows straight into the storage, two in a transaction, and remembers which were acknowledged."""

    def __init__(self, storage: TableEmulator) -> None:
        connection = storage.settings.connection_string
        assert connection is not None
        self._table = TableClient.from_connection_string(
            connection.get_secret_value(), f"Control{uuid.uuid4().hex[:8]}", retry_total=0
        )
        self._next = 0
        self.acknowledged: set[int] = set()

    async def __aenter__(self) -> "ControlWriter":
        await self._table.create_table()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._table.close()

    async def write(self, count: int = 1) -> None:
        for _ in range(count):
            number = self._next
            self._next += 1
            halves = [{"PartitionKey": "p", "RowKey": f"{number:06}{half}"} for half in "ab"]
            try:
                await self._table.submit_transaction([("create", row) for row in halves])
            except AzureError:
                await asyncio.sleep(0.1)
            else:
                self.acknowledged.add(number)

    async def write_continuously(self) -> None:
        while True:
            await self.write()
            await asyncio.sleep(0.1)

    async def count_lost_and_torn(self) -> tuple[int, int]:
        """How many acknowledged transactions are gone, and of how many only half is there."""
        kept: dict[int, int] = {}
        # Azurite as it comes can forget the table itself.
        with suppress(ResourceNotFoundError):
            async for row in self._table.list_entities():
                number = int(row["RowKey"][:6])
                kept[number] = kept.get(number, 0) + 1
        return len(self.acknowledged - kept.keys()), sum(halves == 1 for halves in kept.values())


async def test_the_emulator_as_it_comes_forgets_what_it_acknowledged(
    tmp_path: Path, record_figures: Callable[..., None]
) -> None:
    """If this fails, Azurite has learnt to save at once, and the journal can go."""
    with run_table_emulator(tmp_path / "plain", journaled=False) as storage:
        async with ControlWriter(storage) as control:
            # Rows that were acknowledged after the last save: it must not have saved again when it is stopped.
            while True:
                saved = storage.database_file.stat().st_mtime_ns
                await control.write(10)
                storage.process.send_signal(signal.SIGSTOP)
                if storage.database_file.stat().st_mtime_ns == saved:
                    break
                storage.process.send_signal(signal.SIGCONT)
            storage.kill()
            storage.start()
            lost, torn = await control.count_lost_and_torn()
            record_figures(control_acknowledged=len(control.acknowledged), control_lost=lost, control_torn=torn)
            assert lost >= 10


async def test_nothing_acknowledged_is_lost_when_the_storage_is_killed(
    tmp_path: Path, record_figures: Callable[..., None]
) -> None:
    rng, hub = random.Random(71), new_hub_name()
    truth = generate_orders(hub, EVENTS, seed=71)
    with (
        run_table_emulator(tmp_path / "journal", journaled=True) as storage,
        run_servers(storage.settings, tmp_path) as group,
    ):
        publisher = Publisher(group.addresses, seed=71)
        async with ControlWriter(storage) as control, publish_in_background(publisher, truth.events):
            writing = asyncio.create_task(control.write_continuously())
            for share in sorted(rng.uniform(0.05, 0.95) for _ in range(KILLS)):
                await publisher.wait_for_share(share)
                storage.kill()
                await asyncio.sleep(rng.uniform(0.2, 1.5))
                await asyncio.to_thread(storage.start)
            await publisher.wait_for_share(1)
            writing.cancel()
            control_lost, control_torn = await control.count_lost_and_torn()
        compared = await compare_records(group.addresses[0], storage.settings, truth, publisher.acknowledged_events)
        record_figures(
            **publisher.summary(),
            kills=KILLS,
            lost=len(compared.lost),
            wrong=len(compared.wrong),
            control_acknowledged=len(control.acknowledged),
            control_lost=control_lost,
            control_torn=control_torn,
            peak_rss_mb=group.update_peak_memory(),
        )
        assert (control_lost, control_torn) == (0, 0), "the storage itself lost what it acknowledged"
        assert (publisher.dropped, publisher.quarantined) == ({}, 0)
        assert len(publisher.acknowledged) == len(truth.events) == EVENTS
        assert (compared.lost[:3], compared.wrong[:3]) == ([], [])
        assert compared.records == len(truth.expected)
