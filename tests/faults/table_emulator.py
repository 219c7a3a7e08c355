"""The table service of the storage emulator in a process that can be killed and restarted with its port and folder."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.processes import free_port, stop_after, wait_until
from state_api.emulator import is_listening
from state_api.settings import StorageSettings, emulator_connection_string

HOST = "127.0.0.1"
_AZURITE = Path(__file__).parent.parent.parent / "node_modules" / "azurite" / "dist" / "src" / "table" / "main.js"
_START_SECONDS = 180
"""The emulator reads its journal at its start, which takes long on a busy machine."""
_JOURNAL = Path(__file__).parent / "table_journal.cjs"


@dataclass
class TableEmulator:
    """Azurite's tables. With `journaled`, every acknowledged write is durable, as in Azure Storage (table_journal.cjs).
    Without, Azurite saves its tables every five seconds."""

    folder: Path
    journaled: bool
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def settings(self) -> StorageSettings:
        return StorageSettings.model_validate({"connection_string": emulator_connection_string(HOST, self.port)})

    @property
    def database_file(self) -> Path:
        """Where Azurite without a journal saves its tables."""
        return self.folder / "__azurite_db_table__.json"

    def start(self) -> None:
        """Start the emulator on its port, with the tables of its folder, and wait until it listens."""
        journal = ["--require", str(_JOURNAL)] if self.journaled else []
        self.process = subprocess.Popen(
            [
                *("node", *journal, str(_AZURITE), "--location", str(self.folder)),
                *("--tableHost", HOST, "--tablePort", str(self.port)),
                *("--skipApiVersionCheck", "--disableTelemetry", "--silent"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(
            lambda: is_listening(HOST, self.port) or self.process.poll() is not None,
            "the emulator listens",
            _START_SECONDS,
        )
        assert self.process.poll() is None, "the emulator ended"

    def kill(self) -> None:
        """Kill the process with SIGKILL, so that it cannot save anything."""
        self.process.kill()
        self.process.wait()


@contextmanager
def run_table_emulator(folder: Path, *, journaled: bool) -> Iterator[TableEmulator]:
    """Run the emulator until the block ends."""
    folder.mkdir()
    emulator = TableEmulator(folder, journaled)
    emulator.start()
    try:
        yield emulator
    finally:
        with stop_after(emulator.process):
            pass
