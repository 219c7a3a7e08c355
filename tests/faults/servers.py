"""Servers that can be killed and started again while others publish and ask."""

import asyncio
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from state_api.settings import StorageSettings
from tests.server.processes import COMMAND, Served, serving


@dataclass
class Servers:
    """`addresses` has the place of each server, in order; that of one that was killed stays until it is back."""

    storage: StorageSettings
    folder: Path
    stack: ExitStack
    addresses: list[str] = field(default_factory=list)
    running: list[Served] = field(default_factory=list)
    kills: int = 0
    peak_rss_mb: float = 0

    def add(self, more: Mapping[str, str] | None = None, command: Sequence[str] = COMMAND) -> Served:
        served = self.stack.enter_context(serving(self.storage, self.folder, more=more, command=command))
        self.addresses.append(served.url)
        self.running.append(served)
        return served

    def kill(self, number: int) -> None:
        self.note_memory()
        self.kills += 1
        self.running[number].process.kill()
        self.running[number].process.wait()

    async def restart(self, number: int) -> None:
        """Another process takes the place of this one. It listens elsewhere, as an instance of a cloud service does."""
        context = serving(self.storage, self.folder)
        served = await asyncio.to_thread(self.stack.enter_context, context)
        self.running[number], self.addresses[number] = served, served.url

    def pause(self, number: int) -> None:
        self.running[number].process.send_signal(signal.SIGSTOP)

    def resume(self, number: int) -> None:
        self.running[number].process.send_signal(signal.SIGCONT)

    def note_memory(self) -> float:
        """The most memory that any of them has had so far, in MB."""
        for served in self.running:
            if served.process.poll() is None:
                self.peak_rss_mb = max(self.peak_rss_mb, peak_rss_mb(served.process.pid))
        return self.peak_rss_mb


def peak_rss_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return round(int(found[1]) / 1024, 1)


@contextmanager
def servers(storage: StorageSettings, folder: Path, count: int = 1) -> Iterator[Servers]:
    """That many servers on one storage until the block ends."""
    with ExitStack() as stack:
        group = Servers(storage, folder, stack)
        for _ in range(count):
            group.add()
        try:
            yield group
        finally:
            for served in group.running:
                if served.process.poll() is None:
                    # One that is still paused could not heed a signal to end.
                    served.process.send_signal(signal.SIGCONT)
