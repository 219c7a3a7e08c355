"""`safe-deploy` for tests that call it often: every call is a fork of a process that has imported it already, with the
caller's arguments, environment, folder and streams. It gets the signals of the program that was called, and dies with
it. Starting Python and importing took most of these tests' time.
"""

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path

_PROGRAM = """#!{python} -IS
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
call = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: server.send(bytes([number])))
socket.send_fds(server, [len(call).to_bytes(4, "big")], [0, 1, 2])
server.sendall(call)
sys.exit((server.recv(1) or b"F")[0])
"""


def install(program: Path, address: Path) -> None:
    """Write a program that has its calls carried out by the process that serves at this address."""
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(_PROGRAM.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)


def main(address: str) -> None:
    """Serve at this address, until the process is ended."""
    # Once with words that it refuses, because some of what it needs is imported late.
    sys.argv[1:] = ["status", "--app", "shop", "--server", "nowhere"]
    with contextlib.suppress(SystemExit), Path(os.devnull).open("w") as sink, contextlib.redirect_stderr(sink):
        runpy.run_module("safe_deploy", run_name="__main__", alter_sys=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.draft")
        listener.listen(16)
        Path(f"{address}.draft").rename(address)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            caller, _ = listener.accept()
            if os.fork() == 0:
                break
            caller.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(caller, 4, 3)
    with caller.makefile("rb") as file:
        arguments, environment, folder = json.loads(file.read(int.from_bytes(size, "big")))
    child = os.fork()
    if child:
        os._exit(_watched(child, caller))
    caller.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    runpy.run_module("safe_deploy", run_name="__main__", alter_sys=True)


def _watched(child: int, caller: socket.socket) -> int:
    """Hand signals on until it ends, and then its exit code, as a shell has it."""
    ended = os.pidfd_open(child)
    while True:
        ready, _, _ = select.select([caller.fileno(), ended], [], [])
        if ended in ready:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            caller.sendall(bytes([code if code >= 0 else 128 - code]))
            return 0
        number = caller.recv(1)
        os.kill(child, number[0] if number else signal.SIGKILL)
        if not number:
            return 1


if __name__ == "__main__":
    main(sys.argv[1])
