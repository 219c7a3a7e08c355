"""What every command needs: the server, who asks, how to look at the platform, and where to print."""

import getpass
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live

from safe_deploy import rendering
from safe_deploy.azure import Azure, Target, target_of
from safe_deploy.ci import CiSystem, Terminal, detect, readable, warn
from safe_deploy.client import PATIENCE_SECONDS, Caller, Json, Server, is_plain, server_url
from safe_deploy.commands import Command, environment
from safe_deploy.errors import UsageError
from safe_deploy.options import Output, Verify
from safe_deploy.text import as_json, as_markdown, printable
from safe_deploy.waiting import Look, wait_until_ready

_LOG_WIDTH = 1_000_000
"""Wider than any row: see LONGEST_CELL in `text.py`."""

_SUMMARIZED = 50
"""Rows in the summary of a run: a CI system takes only so much, and drops what is longer."""


@dataclass(frozen=True)
class Session:
    """One command: the server, who asks, and where to print."""

    server: Server
    slot: str
    output: Output
    ci: CiSystem
    out: Console
    err: Console
    _warned: set[str] = field(default_factory=set)
    """The codes of the server's warnings that were printed: each is printed once."""

    def say(self, line: str) -> None:
        _print(self.err, line)

    def result(self, content: Any, columns: Sequence[str], rows: rendering.Rows, title: str = "") -> None:
        """Print a result, and put it on the page of the run."""
        if self.output is Output.JSON:
            # Not through the console: JSON must not be wrapped.
            self.out.file.write(as_json(content) + "\n")
        else:
            if title:
                _print(self.out, title)
            if rows:
                rendering.show(self.out, columns, rows)
        summary = [f"**{as_markdown(title)}**"] if title else []
        self.ci.summary("\n\n".join([*summary, *([rendering.markdown(columns, rows[:_SUMMARIZED])] if rows else [])]))

    def app(self, app: Json, task_hub: str, title: str) -> None:
        self.ci.outputs(rendering.app_outputs(app, self.slot, task_hub))
        self.result(app, rendering.APP, rendering.slots(app), title)

    def verdict(self, verdict: Json) -> None:
        self.ci.outputs(rendering.verdict_outputs(verdict))
        self.warn_of(verdict)
        rows = rendering.blockers(verdict, rendering.now())
        self.result(verdict, rendering.BLOCKERS, rows, rendering.verdict_line(verdict))

    def warn_of(self, verdict: Json) -> None:
        """Print what the server says that this verdict does not cover."""
        for warning in verdict.get("warnings", []):
            if warning["code"] not in self._warned:
                self._warned.add(warning["code"])
                warn(self.ci, sys.stderr, f"{warning['code']}: {warning['message']}")


def open_session(
    server: str,
    app: str,
    key: str,
    slot: str,
    output: Output,
    actor: str,
    run_url: str,
    patience: float = PATIENCE_SECONDS,
) -> Session:
    if not app:
        raise UsageError("name the app: --app or SAFE_DEPLOY_APP is empty")
    ci = detect(os.environ, sys.stderr)
    if not actor and ci.actor is None:
        with suppress(OSError, KeyError, ImportError):
            actor = getpass.getuser()
    caller = Caller(readable(actor) or ci.actor, run_url.strip() or ci.run_url)
    err = _console(ci, stderr=True)

    def say(line: str) -> None:
        _print(err, line)

    if key and is_plain(server_url(server)):
        warn(ci, sys.stderr, "the key travels unprotected over http; use the server's https address")
    opened = Server(server, app, key.strip(), caller, say, patience)
    return Session(opened, slot, output, ci, _console(ci, stderr=False), err)


def _console(ci: CiSystem, *, stderr: bool) -> Console:
    """Where nobody sits at a terminal lines are as long as they are: a log must not be wrapped."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() and type(ci) is Terminal else _LOG_WIDTH
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def _print(console: Console, line: str) -> None:
    console.print(printable(line), soft_wrap=True)


def azure_of(group: str, function_app: str, setting: str, session: Session, command: Command | None) -> Azure | None:
    """What looks at the platform: as the options say, or as the `az` command of the swap itself says. Raises
    UsageError where the two disagree: then it would be another app or slot that is swapped."""
    words = command.what if command else []
    if isinstance(words, str):
        try:
            words = shlex.split(words)
        except ValueError:
            words = []
    named = target_of(words, setting)
    asked = Target(group, function_app or session.server.app, setting) if group else None
    if named is not None:
        target, slot = named
        if slot.lower() != session.slot.lower():
            raise UsageError(f"the command swaps slot {slot}, but --slot is {session.slot}")
        if asked is not None and not _same_app(asked, target):
            raise UsageError(
                f"the command swaps {target.function_app} in {target.resource_group}, but the options name "
                f"{asked.function_app} in {asked.resource_group}"
            )
        return Azure(target)
    return Azure(asked) if asked else None


def _same_app(one: Target, other: Target) -> bool:
    return (one.resource_group.lower(), one.function_app.lower()) == (
        other.resource_group.lower(),
        other.function_app.lower(),
    )


def command_of(what: Sequence[str] | str | None, task_hub: str, version: str) -> Command | None:
    if not what:
        return None
    return Command(what, environment(SAFE_DEPLOY_TASK_HUB=task_hub, SAFE_DEPLOY_VERSION=version))


def reporter(session: Session, live: Live | None) -> Callable[[Look], None]:
    """Prints a line only where something is new; in a terminal a table of the blockers stays up to date below."""

    def report(look: Look) -> None:
        line = look.trouble or (rendering.verdict_line(look.verdict) if look.verdict else "")
        if look.new and line:
            session.say(f"{rendering.now():%H:%M:%S} {line}")
        if look.verdict is not None:
            session.warn_of(look.verdict)
        if live is not None and look.verdict is not None:
            rows = rendering.blockers(look.verdict, rendering.now())
            live.update(rendering.table(rendering.BLOCKERS, rows) if rows else "", refresh=True)

    return report


def wait_for_ready(session: Session, timeout: float, interval: float, verify: Verify) -> Json:
    plain = bool(os.environ.get("CI") or os.environ.get("NO_COLOR")) or session.ci.name != "terminal"
    if plain or not session.err.is_terminal:
        return wait_until_ready(session.server, session.slot, timeout, interval, verify, reporter(session, None))
    # Whoever ends it gets the terminal back as it was.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Live(console=session.err, auto_refresh=False, transient=True) as live:
        return wait_until_ready(session.server, session.slot, timeout, interval, verify, reporter(session, live))
