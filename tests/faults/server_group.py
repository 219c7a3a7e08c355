"""Servers that can be killed and started again while others publish and ask."""

import asyncio
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.state_server import SERVER_COMMAND, ServerProcess, run_server
from state_api.settings import StorageSettings


@dataclass
class ServerGroup:
    """`addresses` has the place of each server, in order; that of one that was killed stays until it is back."""

    storage: StorageSettings
    folder: Path
    stack: ExitStack
    addresses: list[str] = field(default_factory=list)
    processes: list[ServerProcess] = field(default_factory=list)
    kills: int = 0
    peak_rss_mb: float = 0

    def add(
        self, extra_settings: Mapping[str, str] | None = None, command: Sequence[str] = SERVER_COMMAND
    ) -> ServerProcess:
        served = self.stack.enter_context(
            run_server(self.storage, self.folder, extra_settings=extra_settings, command=command)
        )
        self.addresses.append(served.url)
        self.processes.append(served)
        return served

    def kill(self, number: int) -> None:
        self.update_peak_memory()
        self.kills += 1
        self.processes[number].process.kill()
        self.processes[number].process.wait()

    async def restart(self, number: int) -> None:
        """Another process takes the place of this one. It listens elsewhere, as an instance of a cloud service does."""
        context = run_server(self.storage, self.folder)
        served = await asyncio.to_thread(self.stack.enter_context, context)
        self.processes[number], self.addresses[number] = served, served.url

    def pause(self, number: int) -> None:
        self.processes[number].process.send_signal(signal.SIGSTOP)

    def resume(self, number: int) -> None:
        self.processes[number].process.send_signal(signal.SIGCONT)

    def update_peak_memory(self) -> float:
        """The most memory that any of them has had so far, in MB."""
        for served in self.processes:
            if served.process.poll() is None:
                self.peak_rss_mb = max(self.peak_rss_mb, peak_rss_mb(served.process.pid))
        return self.peak_rss_mb


def peak_rss_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return round(int(found[1]) / 1024, 1)


@contextmanager
def run_servers(storage: StorageSettings, folder: Path, count: int = 1) -> Iterator[ServerGroup]:
    """That many servers on one storage until the block ends."""
    with ExitStack() as stack:
        group = ServerGroup(storage, folder, stack)
        for _ in range(count):
            group.add()
        try:
            yield group
        finally:
            for served in group.processes:
                if served.process.poll() is None:
                    # One that is still paused could not heed a signal to end.
                    served.process.send_signal(signal.SIGCONT)
