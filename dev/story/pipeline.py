"""What deploys: `safe-deploy` as a process, as a pipeline runs it, or, without the guard, the deploy and the swap
command alone."""

import shlex
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dev.local import stopped, until
from dev.story.processes import ROOT, environment
from dev.story.slot import TASK_HUB
from dev.story.telling import Unexpected, indented, say

_SWAP = f"{shlex.quote(sys.executable)} -m dev.story.slot swap"


def _deploy(code: str) -> str:
    return f"{shlex.quote(sys.executable)} -m dev.story.slot deploy staging {code}"


@dataclass(frozen=True, slots=True)
class Release:
    """A version to deploy. `code` says which of the sample app's two versions of its code it has."""

    number: int
    code: str
    task_hub: str

    @property
    def version(self) -> str:
        return f"{self.number}.0.0"

    @property
    def hub_and_version(self) -> tuple[str, ...]:
        return "--task-hub", self.task_hub, "--version", self.version


class Call:
    """A command that runs; what it prints is gathered."""

    def __init__(self, words: list[str], given: Mapping[str, str], shown: str) -> None:
        say(f"    $ {shown}")
        self._process = subprocess.Popen(
            words,
            env=environment(given),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            encoding="utf-8",
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def printed(self) -> str:
        return "".join(self._lines)

    def until(self, text: str) -> None:
        """Wait until it has printed that, or has ended."""
        until(lambda: text in self.printed() or not self._reader.is_alive(), f"{text!r} is printed")

    def end(self, expect: int = 0) -> str:
        """Wait for its end; what it printed. Raises Unexpected on another exit code than this one."""
        self._reader.join()
        if (code := self._process.wait()) != expect:
            raise Unexpected(f"exit code {expect} was expected, not {code}:\n{self.printed()}")
        return self.printed()

    def show(self, expect: int = 0) -> str:
        """Like `end`, and tells of it."""
        printed = self.end(expect)
        say(indented(printed) + (f"\n      (exit code {expect})" if expect else ""))
        return printed

    def stop(self) -> None:
        with stopped(self._process):
            pass
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.append(line)


class Pipeline:
    """`safe-deploy` for an app. Every release is a run of its own."""

    def __init__(self, server: str, app: str, keys: Mapping[str, str], platform: Mapping[str, str]) -> None:
        self._keys = keys
        self._settings = {"SAFE_DEPLOY_SERVER": server, "SAFE_DEPLOY_APP": app, "SAFE_DEPLOY_ACTOR": "pipeline"}
        self._platform = dict(platform)
        self._calls: list[Call] = []

    def close(self) -> None:
        """End what still runs: a call that waits, when a story has gone wrong."""
        for call in self._calls:
            call.stop()

    def begin(self, run: int, *words: str, role: str = "deployer", shown: str = "") -> Call:
        """Start a command; `shown` is what is told of it."""
        given = {"SAFE_DEPLOY_KEY": self._keys[role], "SAFE_DEPLOY_RUN_URL": f"https://ci.example/runs/{run}"}
        command = [sys.executable, "-m", "safe_deploy", *words]
        begun = Call(command, self._settings | given | self._platform, f"safe-deploy {shown or typed(words)}")
        self._calls.append(begun)
        return begun

    def run(self, run: int, *words: str, role: str = "deployer", expect: int = 0) -> str:
        """A command to its end; what it printed. Raises Unexpected on another exit code than this one."""
        return self.begin(run, *words, role=role).show(expect)

    def deploy(self, release: Release, interval: int = 2) -> Call:
        """Begin to deploy, in one command that waits as long as it must."""
        commands = ["--deploy-command", _deploy(release.code), "--swap-command", _SWAP]
        waits = ["--timeout", "120", "--interval", str(interval)]
        words = ["deploy", *release.hub_and_version]
        return self.begin(release.number, *words, *waits, *commands, shown=f"{typed(words)} --deploy-command …")

    def wait(self, release: Release) -> Call:
        """Begin to wait until the slot may be overwritten."""
        return self.begin(release.number, "status", "--wait", "--timeout", "120", "--interval", "2")

    def step_by_step(self, release: Release) -> None:
        """Deploy in the steps that a pipeline can have once it has waited: stage, deploy, swap."""
        self.run(release.number, "stage", *release.hub_and_version)
        run_command(_deploy(release.code), self._platform | {TASK_HUB: release.task_hub})
        self.run(release.number, "swap", "--task-hub", release.task_hub, "--", *shlex.split(_SWAP))


def unguarded(release: Release, platform: Mapping[str, str]) -> None:
    """Deploy without asking anybody."""
    run_command(_deploy(release.code), dict(platform) | {TASK_HUB: release.task_hub})
    run_command(_SWAP, platform)


def run_command(text: str, given: Mapping[str, str]) -> None:
    """One of the platform's commands. Raises Unexpected if it fails."""
    words = shlex.split(text)
    Call(words, given, typed(words)).show()


def typed(words: Sequence[str]) -> str:
    """The words as one would type them."""
    return shlex.join("python" if word == sys.executable else word for word in words)
