"""Whether the app's Durable Functions extension publishes Terminated, which older extensions never do. Pure but for the
requests that are passed in.

No interface of Azure shows the version of the extension in a deployed app: a bundle hides it. So the records count, and
the project file of a .NET app."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safe_deploy.client import Json, StateServerClient
from safe_deploy.diagnostics.host_json import HostJson, publishes_terminated
from safe_deploy.diagnostics.results import CheckResult, CheckStatus
from safe_deploy.errors import CommandError

CHECK = "extension"

_KNOWN_VERSION = (3, 19, 0)
"""The first version of which it was seen that it publishes Terminated. Versions before July 2026 do not."""

_PACKAGE = re.compile(
    r'Include="Microsoft\.Azure\.WebJobs\.Extensions\.DurableTask"'
    r'[^>]*Version="(\d+)\.(\d+)\.(\d+)[^"]*"',
    re.IGNORECASE,
)
_MAX_SIZE = 1_000_000


def check_extension(
    server: StateServerClient, task_hub: str, host: HostJson, *, is_verified: bool
) -> Iterator[CheckResult]:
    """Report whether the app publishes Terminated. A failed request is a result too."""

    def list_terminated() -> list[Json]:
        response = server.list_instances(task_hub, {"status": "Terminated", "top": 50})
        instances: list[Json] = response["instances"]
        return instances

    try:
        yield from check_terminated(host, list_terminated, is_verified=is_verified)
    except CommandError as error:
        yield CheckResult(CHECK, CheckStatus.UNKNOWN, f"not known: {error.message}")


def check_terminated(
    host: HostJson, list_terminated: Callable[[], Sequence[Mapping[str, Any]]], *, is_verified: bool
) -> Iterator[CheckResult]:
    """Report it by host.json, by the terminated instances on record, or by the project file, in this order."""
    consequence = (
        "The server finds such ends when it reads the task hub"
        if is_verified
        else "An instance that is terminated then blocks until it is waived"
    )
    if not publishes_terminated(host):
        message = f"{host.file}: publishEventTypes leaves out Terminated. {consequence}. Remove the member"
        yield CheckResult(CHECK, CheckStatus.WARNING, message)
        return
    terminated = list_terminated()
    if any(instance["source"] == "event" for instance in terminated):
        message = "it publishes Terminated: the server has received such an event"
        yield CheckResult(CHECK, CheckStatus.OK, message)
        return
    version = _find_version(host.file.parent) if host.file else None
    if version is not None and version >= _KNOWN_VERSION:
        text = ".".join(map(str, version))
        yield CheckResult(
            CHECK, CheckStatus.OK, f"version {text} in {host.file.parent if host.file else ''} publishes it"
        )
        return
    if terminated:
        message = (
            f"instance {terminated[0]['instanceId']} was terminated, and no event of that came, so the extension may "
            f"be older than July 2026. {consequence}. Update the extension or the bundle of host.json"
        )
        yield CheckResult(CHECK, CheckStatus.WARNING, message)
        return
    message = (
        "not known: its version cannot be read from a deployed app, and no instance has been terminated yet. "
        f"Extensions older than July 2026 do not publish Terminated. {consequence}"
    )
    yield CheckResult(CHECK, CheckStatus.UNKNOWN, message)


def _find_version(folder: Path) -> tuple[int, int, int] | None:
    """The version of the extension in the project files of a folder. None without one, as with a bundle."""
    versions = []
    for file in sorted(folder.glob("*.csproj")):
        if file.stat().st_size <= _MAX_SIZE:
            text = file.read_text(encoding="utf-8", errors="replace")
            versions += [(int(match[1]), int(match[2]), int(match[3])) for match in _PACKAGE.finditer(text)]
    return min(versions, default=None)
