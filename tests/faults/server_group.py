"""Servers that can be killed, paused and restarted during a test."""

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
    """Server processes on one storage.

    `addresses` has the URL of each server, in order. A killed server keeps its URL until it is restarted at another.
    """

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
        """Start another server on the same storage."""
        server = self.stack.enter_context(
            run_server(self.storage, self.folder, extra_settings=extra_settings, command=command)
        )
        self.addresses.append(server.url)
        self.processes.append(server)
        return server

    def kill(self, index: int) -> None:
        """Kill a server with SIGKILL."""
        self.update_peak_memory()
        self.kills += 1
        self.processes[index].process.kill()
        self.processes[index].process.wait()

    async def restart(self, index: int) -> None:
        """Start a new process in place of this one, at another port, as a new instance in the cloud has."""
        context = run_server(self.storage, self.folder)
        server = await asyncio.to_thread(self.stack.enter_context, context)
        self.processes[index], self.addresses[index] = server, server.url

    def pause(self, index: int) -> None:
        """Stop a server with SIGSTOP until `resume`."""
        self.processes[index].process.send_signal(signal.SIGSTOP)

    def resume(self, index: int) -> None:
        """Let a paused server continue."""
        self.processes[index].process.send_signal(signal.SIGCONT)

    def update_peak_memory(self) -> float:
        """The peak memory of any of the processes so far, in MB."""
        for server in self.processes:
            if server.process.poll() is None:
                self.peak_rss_mb = max(self.peak_rss_mb, peak_rss_mb(server.process.pid))
        return self.peak_rss_mb


def peak_rss_mb(process_id: int) -> float:
    """The peak memory of a process so far, in MB."""
    status = Path(f"/proc/{process_id}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match is not None
    return round(int(match[1]) / 1024, 1)


@contextmanager
def run_servers(storage: StorageSettings, folder: Path, count: int = 1) -> Iterator[ServerGroup]:
    """Run `count` servers on one storage until the block ends."""
    with ExitStack() as stack:
        group = ServerGroup(storage, folder, stack)
        for _ in range(count):
            group.add()
        try:
            yield group
        finally:
            for server in group.processes:
                if server.process.poll() is None:
                    # A paused process does not react to a signal to end.
                    server.process.send_signal(signal.SIGCONT)
