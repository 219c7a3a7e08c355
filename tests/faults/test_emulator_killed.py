"""The storage is killed repeatedly during writes.

Azurite by itself is not durable: it acknowledges a write when it is in memory, and saves its tables every five seconds
(`autosaveInterval` in its LokiTableMetadataStore; LokiJS writes the whole database into `…~` and renames it). The first
test measures what Azurite loses. Azure Storage acknowledges only durable writes. So in the second test Azurite has a
journal (table_journal.cjs). It writes each change, and each transaction as a whole, to a file before it responds. A
control writer without the server checks the journal in the same run, so that any other loss is the server's.
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
    """Writes numbered rows directly to the storage, two in a transaction, and keeps the acknowledged numbers."""

    def __init__(self, storage: TableEmulator) -> None:
        """Prepare to write rows without the state server, to see what the emulator itself loses."""
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

    async def write_transactions(self, count: int = 1) -> None:
        """Write this many transactions. A failed transaction is not written again."""
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
        """Write transactions until the task is cancelled."""
        while True:
            await self.write_transactions()
            await asyncio.sleep(0.1)

    async def count_lost_and_torn(self) -> tuple[int, int]:
        """The number of acknowledged transactions without rows, and of transactions with only one row."""
        row_counts: dict[int, int] = {}
        # Azurite without a journal can lose the table itself.
        with suppress(ResourceNotFoundError):
            async for row in self._table.list_entities():
                number = int(row["RowKey"][:6])
                row_counts[number] = row_counts.get(number, 0) + 1
        lost = self.acknowledged - row_counts.keys()
        return len(lost), sum(row_count == 1 for row_count in row_counts.values())


async def test_the_emulator_without_a_journal_loses_acknowledged_writes(
    tmp_path: Path, record_figures: Callable[..., None]
) -> None:
    """When this test fails, Azurite saves every write at once, and the journal is no longer needed."""
    with run_table_emulator(tmp_path / "plain", journaled=False) as storage:
        async with ControlWriter(storage) as control:
            # Repeats until Azurite has acknowledged rows and is stopped before its next save.
            while True:
                saved_at = storage.database_file.stat().st_mtime_ns
                await control.write_transactions(10)
                storage.process.send_signal(signal.SIGSTOP)
                if storage.database_file.stat().st_mtime_ns == saved_at:
                    break
                storage.process.send_signal(signal.SIGCONT)
            storage.kill()
            storage.start()
            lost, torn = await control.count_lost_and_torn()
            record_figures(control_acknowledged=len(control.acknowledged), control_lost=lost, control_torn=torn)
            assert lost >= 10


async def test_no_acknowledged_event_is_lost_when_the_storage_is_killed(
    tmp_path: Path, record_figures: Callable[..., None]
) -> None:
    rng, hub = random.Random(71), new_hub_name()
    expected = generate_orders(hub, EVENTS, seed=71)
    with (
        run_table_emulator(tmp_path / "journal", journaled=True) as storage,
        run_servers(storage.settings, tmp_path) as group,
    ):
        publisher = Publisher(group.addresses, seed=71)
        async with ControlWriter(storage) as control, publish_in_background(publisher, expected.events):
            control_writes = asyncio.create_task(control.write_continuously())
            for share in sorted(rng.uniform(0.05, 0.95) for _ in range(KILLS)):
                await publisher.wait_for_share(share)
                storage.kill()
                await asyncio.sleep(rng.uniform(0.2, 1.5))
                await asyncio.to_thread(storage.start)
            await publisher.wait_for_share(1)
            control_writes.cancel()
            control_lost, control_torn = await control.count_lost_and_torn()
        compared = await compare_records(group.addresses[0], storage.settings, expected, publisher.acknowledged_events)
        record_figures(
            **publisher.summary(),
            kills=KILLS,
            lost=len(compared.lost),
            wrong=len(compared.differences),
            control_acknowledged=len(control.acknowledged),
            control_lost=control_lost,
            control_torn=control_torn,
            peak_rss_mb=group.update_peak_memory(),
        )
        assert (control_lost, control_torn) == (0, 0), "the journal has lost acknowledged writes"
        assert (publisher.dropped, publisher.quarantined) == ({}, 0)
        assert len(publisher.acknowledged) == len(expected.events) == EVENTS
        assert (compared.lost[:3], compared.differences[:3]) == ([], [])
        assert compared.records == len(expected.expected)
