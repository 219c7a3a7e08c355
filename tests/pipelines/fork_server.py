"""`safe-deploy` for tests that call it often: every call is a fork of a process that has already imported it.

The fork has the caller's arguments, environment, folder and streams. It gets the signals of the calling program, and
ends with it. Without forks, starting Python takes most of the time of these tests."""

import contextlib
import gc
import marshal
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path

from safe_deploy import cli, client
from safe_deploy.rollouts import following, slot_share

_PROGRAM = """#!{python} -IS
# The bare modules: those around them take longer to import than all of this to run.
import _signal, _socket, marshal, os, sys
server = _socket.socket(_socket.AF_UNIX)
server.connect({address!r})
call = marshal.dumps([sys.argv[1:], dict(os.environ), os.getcwd()])
for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
    _signal.signal(number, lambda number, _: server.send(bytes([number])))
streams = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2))
server.sendmsg([len(call).to_bytes(4, "big")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
server.sendall(call)
sys.exit((server.recv(1) or b"F")[0])
"""


def install_forking_program(program: Path, address: Path) -> None:
    """Write a program that sends its calls to the process at this address."""
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(_PROGRAM.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)


def import_everything() -> None:
    """Import everything that a call needs. Sending a request imports half of it, so send one to a closed port."""
    retry_seconds = client.RETRY_SECONDS
    client.RETRY_SECONDS = 0
    sys.argv[1:] = ["stage", "--task-hub", "v41", "--app", "shop", "--server", "http://127.0.0.1:9"]
    with contextlib.suppress(SystemExit), Path(os.devnull).open("w") as sink, contextlib.redirect_stderr(sink):
        cli.main()
    client.RETRY_SECONDS = retry_seconds
    # Frozen objects are not scanned by the garbage collector of each fork, so their memory is not copied.
    gc.collect()
    gc.freeze()


def main(address: str) -> None:
    """Serve at this address until the process is stopped."""
    import_everything()
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
        arguments, environment, folder = marshal.loads(file.read(int.from_bytes(size, "big")))  # noqa: S302  # written by the program of this module
    child = os.fork()
    if child:
        os._exit(_forward_signals(child, caller))
    caller.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    runpy.run_module("safe_deploy", run_name="__main__", alter_sys=True)


def _forward_signals(child: int, caller: socket.socket) -> int:
    """Forward signals to a fork until it ends. Returns its exit code, as a shell has it."""
    ended = os.pidfd_open(child)
    while True:
        ready, _, _ = select.select([caller.fileno(), ended], [], [])
        if ended in ready:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            with contextlib.suppress(BrokenPipeError):  # a test has killed the caller, too
                caller.sendall(bytes([code if code >= 0 else 128 - code]))
            return 0
        number = caller.recv(1)
        os.kill(child, number[0] if number else signal.SIGKILL)
        if not number:
            return 1


if __name__ == "__main__":
    # The fake `az` makes a change at once, so nothing has to be watched for late ones.
    following.POLL_SECONDS, slot_share.CLEARED_SECONDS = 1, 0
    main(sys.argv[1])
