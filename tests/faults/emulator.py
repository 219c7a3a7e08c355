"""The storage emulator's tables as a process that can be killed and started again on the same port and folder."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dev.local import free_port, stopped, until
from state_api.emulator import answers
from state_api.settings import StorageSettings, emulator_connection

HOST = "127.0.0.1"
_AZURITE = Path(__file__).parent.parent.parent / "node_modules" / "azurite" / "dist" / "src" / "table" / "main.js"
_START_SECONDS = 180
"""It reads all that it has kept; on a machine with much else to do that takes its time."""
_JOURNAL = Path(__file__).parent / "journal.cjs"


@dataclass
class Emulator:
    """`durable` says that it keeps a journal (journal.cjs), as the real service would; without, it is Azurite as it
    comes, which saves its tables every five seconds."""

    folder: Path
    durable: bool
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def settings(self) -> StorageSettings:
        return StorageSettings.model_validate({"connection_string": emulator_connection(HOST, self.port)})

    @property
    def saved(self) -> Path:
        """Where Azurite without a journal saves its tables."""
        return self.folder / "__azurite_db_table__.json"

    def start(self) -> None:
        journal = ["--require", str(_JOURNAL)] if self.durable else []
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
        until(
            lambda: answers(HOST, self.port) or self.process.poll() is not None, "the emulator listens", _START_SECONDS
        )
        assert self.process.poll() is None, "the emulator ended"

    def kill(self) -> None:
        """With SIGKILL: it can save nothing any more."""
        self.process.kill()
        self.process.wait()


@contextmanager
def emulator(folder: Path, durable: bool) -> Iterator[Emulator]:
    """Runs until the block ends."""
    folder.mkdir()
    one = Emulator(folder, durable)
    one.start()
    try:
        yield one
    finally:
        with stopped(one.process):
            pass
