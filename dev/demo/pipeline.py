"""The demo's pipeline: `safe-deploy` as a process, or, without the guard, the deploy and swap commands alone."""

import shlex
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dev.demo.control_client import TASK_HUB_VARIABLE
from dev.demo.output import UnexpectedResult, indent, report
from dev.demo.processes import ROOT, build_environment
from harness.interruption import check_interruption
from harness.processes import stop_after, wait_until

_POLL_SECONDS = 0.05
_SWAP_COMMAND = f"{shlex.quote(sys.executable)} -m dev.demo.slot_command swap"


def _build_deploy_command(code: str) -> str:
    """The command by which the pipeline deploys code into the staging slot."""
    return f"{shlex.quote(sys.executable)} -m dev.demo.slot_command deploy staging {code}"


@dataclass(frozen=True, slots=True)
class Release:
    """A version to deploy. `code` is the version of the sample app's code, `v1` or `v2`."""

    number: int
    code: str
    task_hub: str

    @property
    def version(self) -> str:
        return f"{self.number}.0.0"

    @property
    def release_options(self) -> tuple[str, ...]:
        """The options by which `safe-deploy` names this version and its task hub."""
        return "--task-hub", self.task_hub, "--version", self.version


def build_run_url(run: int) -> str:
    """The address of a pipeline run."""
    return f"https://ci.example/runs/{run}"


class CommandProcess:
    """A running command, whose output is collected. With `live`, each line is also printed at once."""

    def __init__(
        self, arguments: list[str], variables: Mapping[str, str], displayed_command: str, *, live: bool = False
    ) -> None:
        """Start a command, show it as `displayed_command`, and keep what it prints."""
        report(f"    $ {displayed_command}")
        self._live = live
        self._process = subprocess.Popen(
            arguments,
            env=build_environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            encoding="utf-8",
            # As in Processes: Ctrl-C reaches the demo alone.
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read_lines)
        self._reader.start()

    def read_output(self) -> str:
        return "".join(self._lines)

    def wait_until(self, text: str) -> None:
        """Wait until the command has printed `text` or has ended."""
        wait_until(lambda: text in self.read_output() or not self._reader.is_alive(), f"{text!r} is printed")

    def wait_for_exit(self, expected_exit_code: int = 0) -> str:
        """Wait until the command ends. Returns its output. Raises UnexpectedResult for another exit code. If the demo
        is interrupted meanwhile, stops the command and raises KeyboardInterrupt."""
        try:
            while self._reader.is_alive():
                check_interruption()
                self._reader.join(_POLL_SECONDS)
        except KeyboardInterrupt:
            self.stop()
            raise
        if (code := self._process.wait()) != expected_exit_code:
            raise UnexpectedResult(f"exit code {expected_exit_code} was expected, not {code}:\n{self.read_output()}")
        return self.read_output()

    def wait_and_report(self, expected_exit_code: int = 0) -> str:
        """Wait as `wait_for_exit` does, and print the output."""
        output = self.wait_for_exit(expected_exit_code)
        report(indent(output) + (f"\n      (exit code {expected_exit_code})" if expected_exit_code else ""))
        return output

    def stop(self) -> None:
        with stop_after(self._process):
            pass
        self._reader.join()

    def _read_lines(self) -> None:
        """Collect the lines of the output until the command ends."""
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.append(line)
                if self._live and line.strip():
                    report(indent(line))


class Pipeline:
    """`safe-deploy` for an app. Every release is a run of its own."""

    def __init__(self, server: str, app: str, keys: Mapping[str, str], platform_variables: Mapping[str, str]) -> None:
        """Prepare the settings with which each command of the pipeline runs."""
        self._keys = keys
        self._settings = {"SAFE_DEPLOY_SERVER": server, "SAFE_DEPLOY_APP": app, "SAFE_DEPLOY_ACTOR": "pipeline"}
        self._platform_variables = dict(platform_variables)
        self._commands: list[CommandProcess] = []

    def close(self) -> None:
        """Stop the commands that still run, such as a waiting one after an unexpected result."""
        for command in self._commands:
            command.stop()

    def start_command(
        self, run: int, *arguments: str, role: str = "deployer", displayed_command: str = "", live: bool = False
    ) -> CommandProcess:
        """Start a `safe-deploy` command. `displayed_command` replaces its arguments in the demo's output."""
        variables = {"SAFE_DEPLOY_KEY": self._keys[role], "SAFE_DEPLOY_RUN_URL": build_run_url(run)}
        command = [sys.executable, "-m", "safe_deploy", *arguments]
        process = CommandProcess(
            command,
            self._settings | variables | self._platform_variables,
            f"safe-deploy {displayed_command or format_command(arguments)}",
            live=live,
        )
        self._commands.append(process)
        return process

    def run(self, run: int, *arguments: str, role: str = "deployer", expected_exit_code: int = 0) -> str:
        """Run a command and return its output. Raises UnexpectedResult for another exit code."""
        return self.start_command(run, *arguments, role=role).wait_and_report(expected_exit_code)

    def deploy(self, release: Release, interval_seconds: int = 2) -> CommandProcess:
        """Start `safe-deploy deploy`, which waits until the slot has drained."""
        commands = ["--deploy-command", _build_deploy_command(release.code), "--swap-command", _SWAP_COMMAND]
        waits = ["--timeout", "120", "--interval", str(interval_seconds)]
        arguments = ["deploy", *release.release_options]
        return self.start_command(
            release.number,
            *arguments,
            *waits,
            *commands,
            displayed_command=f"{format_command(arguments)} --deploy-command …",
        )

    def wait(self, release: Release) -> CommandProcess:
        """Start `safe-deploy status --wait`."""
        return self.start_command(release.number, "status", "--wait", "--timeout", "120", "--interval", "2")

    def deploy_in_steps(self, release: Release) -> None:
        """Deploy in single steps after a wait: stage, deploy, swap."""
        self.run(release.number, "stage", *release.release_options)
        run_command(
            _build_deploy_command(release.code), self._platform_variables | {TASK_HUB_VARIABLE: release.task_hub}
        )
        self.run(release.number, "swap", "--task-hub", release.task_hub, "--", *shlex.split(_SWAP_COMMAND))


def deploy_unguarded(release: Release, platform_variables: Mapping[str, str]) -> None:
    """Deploy without querying the state server."""
    run_command(_build_deploy_command(release.code), dict(platform_variables) | {TASK_HUB_VARIABLE: release.task_hub})
    run_command(_SWAP_COMMAND, platform_variables)


def run_command(text: str, variables: Mapping[str, str]) -> None:
    """Run a command of the platform. Raises UnexpectedResult if it fails."""
    arguments = shlex.split(text)
    CommandProcess(arguments, variables, format_command(arguments)).wait_and_report()


def format_command(arguments: Sequence[str]) -> str:
    """The command line, with `python` for the path of this interpreter."""
    return shlex.join("python" if argument == sys.executable else argument for argument in arguments)
