"""What the host.json of a durable app says about lifecycle events: the topic, the retries, and which events are
published. A deployed host.json cannot be read from outside, so it is that of a folder, or what app settings override.

The functions that assess are pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safe_deploy.diagnostics.event_settings import TopicSource
from safe_deploy.diagnostics.results import CheckResult, CheckStatus
from safe_deploy.errors import UsageError
from safe_deploy.setup.json_text import JsonTextError, find_value

CHECK = "host.json"

_FILE_NAME = "host.json"
_MAX_DELAY_SECONDS = 5.0
"""How long a topic that cannot be reached may delay an orchestration. The extension publishes on its path."""

_DURABLE_TASK = ("extensions", "durableTask")
_EVENT_GRID = (*_DURABLE_TASK, "notifications", "eventGrid")
_OVERRIDE_PREFIX = "AzureFunctionsJobHost"
_DEFAULT_INTERVAL_SECONDS = 300.0
"""The extension's own default of publishRetryInterval."""

_OVERRIDABLE = {
    name: "__".join((_OVERRIDE_PREFIX, *_EVENT_GRID, name))
    for name in ("topicEndpoint", "keySettingName", "publishRetryCount", "publishRetryInterval")
}

OVERRIDE_NAMES: Sequence[str] = tuple(_OVERRIDABLE.values())
"""App settings that the Functions host reads in place of members of host.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostJson:
    """The members that the checks are about. `file` is where they were read, None if there is no file."""

    file: Path | None = None
    hub_name: str | None = None
    event_grid: Mapping[str, Any] | None = None

    def with_overrides(self, settings: Mapping[str, str]) -> "HostJson":
        """A copy in which the values of app settings replace the members of host.json that they override."""
        overrides = {name: settings[setting] for name, setting in _OVERRIDABLE.items() if setting in settings}
        if not overrides:
            return self
        event_grid = {**(self.event_grid or {}), **overrides}
        return HostJson(file=self.file, hub_name=self.hub_name, event_grid=event_grid)

    @property
    def topic_source(self) -> TopicSource:
        """Where the app takes its topic from, by the names of docs/azure.md if host.json does not say."""
        default = TopicSource()
        event_grid = self.event_grid or {}
        return TopicSource(
            endpoint=_text(event_grid, "topicEndpoint") or default.endpoint,
            key_setting=_text(event_grid, "keySettingName") or default.key_setting,
        )


def read_host_json(folder: Path | None) -> HostJson:
    """The host.json in a folder, or in the current one if `folder` is None. Raises UsageError if the folder that was
    given has none, and for a file that the Functions host could not read.

    The current folder may be that of another app: its host.json counts only if it is about Durable Functions."""
    file = (folder or Path.cwd()) / _FILE_NAME
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        if folder is None and isinstance(error, FileNotFoundError):
            return HostJson()
        raise UsageError(f"{file} cannot be read. Give --project the folder of the durable app") from None
    try:
        if folder is None and find_value(text, _DURABLE_TASK) is None:
            return HostJson()
        event_grid = find_value(text, _EVENT_GRID)
        hub_name = find_value(text, (*_DURABLE_TASK, "hubName"))
    except JsonTextError as error:
        raise UsageError(f"{file} is not valid: {error}") from None
    return HostJson(
        file=file,
        hub_name=hub_name if isinstance(hub_name, str) else None,
        event_grid=event_grid if isinstance(event_grid, dict) else None,
    )


def assess_host_json(host: HostJson, *, task_hub_setting: str) -> list[CheckResult]:
    """What the file says about the task hub and about retries."""
    if host.file is None:
        message = (
            "the deployed file cannot be read from here, and the current folder has none of a durable app. Add "
            "--project with the folder of the durable app"
        )
        return [CheckResult(CHECK, CheckStatus.UNKNOWN, message)]
    problems = [
        problem for problem in (_find_hub_problem(host, task_hub_setting), _find_topic_problem(host)) if problem
    ]
    if problems:
        return [CheckResult(CHECK, CheckStatus.FAILED, f"{host.file}: {'; '.join(problems)}")]
    if problem := _find_retry_problem(host.event_grid or {}):
        return [CheckResult(CHECK, CheckStatus.WARNING, f"{host.file}: {problem}")]
    event_grid = host.event_grid or {}
    message = f"{host.file}: publishes with {_number(event_grid, 'publishRetryCount')} retries"
    return [CheckResult(CHECK, CheckStatus.OK, message)]


def publishes_terminated(host: HostJson) -> bool:
    """Whether host.json lets the extension publish the event Terminated. Without a list it publishes all."""
    types = _find_member(host.event_grid or {}, "publishEventTypes")
    if not isinstance(types, list) or not types:
        return True
    return "terminated" in {str(item).lower() for item in types}


def _find_hub_problem(host: HostJson, task_hub_setting: str) -> str | None:
    """What is wrong with the name of the task hub in host.json."""
    if task_hub_setting.lower().startswith(_OVERRIDE_PREFIX.lower()):
        return None
    if host.hub_name is not None and host.hub_name.lower() == f"%{task_hub_setting}%".lower():
        return None
    named = f"is {host.hub_name}" if host.hub_name else "is missing"
    return (
        f"hubName {named}, so the task hub does not come from the app setting {task_hub_setting}. Set it to "
        f"%{task_hub_setting}% (safe-deploy init does), or give --task-hub-setting"
    )


def _find_topic_problem(host: HostJson) -> str | None:
    """What is missing for publishing at all."""
    event_grid = host.event_grid
    if event_grid is None:
        return "it has no notifications.eventGrid, so the app publishes no lifecycle events. Run safe-deploy init"
    if not _text(event_grid, "topicEndpoint"):
        return "notifications.eventGrid has no topicEndpoint, so the app publishes no events. Run safe-deploy init"
    return None


def _find_retry_problem(event_grid: Mapping[str, Any]) -> str | None:
    """What is wrong with the retries: too few lose events, too many stop the orchestrations while the topic is down."""
    count = _number(event_grid, "publishRetryCount")
    interval = _find_member(event_grid, "publishRetryInterval")
    seconds = _DEFAULT_INTERVAL_SECONDS if interval is None else _parse_time_span(str(interval))
    if count < 1:
        return "publishRetryCount is 0, so an event whose first attempt fails is lost. Set it to 2"
    if seconds is None:
        return "publishRetryInterval is not a time such as 00:00:00.500"
    if count * seconds > _MAX_DELAY_SECONDS:
        return (
            f"{count} retries every {seconds:g} s stop each orchestration for {count * seconds:g} s at every event "
            "while the topic cannot be reached. Set publishRetryInterval to 00:00:00.500"
        )
    if not _find_member(event_grid, "publishRetryHttpStatus"):
        return (
            "without publishRetryHttpStatus the extension repeats only after a failed connection and after 503. Set it "
            "to [408, 429, 500, 502, 503, 504]"
        )
    return None


def _find_member(members: Mapping[str, Any], name: str) -> Any:
    """A member whose name is compared without case, as the Functions host does."""
    return next((value for key, value in members.items() if key.lower() == name.lower()), None)


def _text(members: Mapping[str, Any], name: str) -> str:
    value = _find_member(members, name)
    return value if isinstance(value, str) else ""


def _number(members: Mapping[str, Any], name: str) -> int:
    """A whole number, also as the text of an app setting; 0 for anything else."""
    text = str(_find_member(members, name))
    return int(text) if text.isascii() and text.isdigit() else 0


def _parse_time_span(text: str) -> float | None:
    """The seconds of a .NET time span such as 00:00:00.500; None for another text."""
    parts = text.strip().split(":")
    try:
        hours, minutes, seconds = int(parts[0]), int(parts[1]), float(parts[2])
    except (IndexError, ValueError):
        return None
    return hours * 3600 + minutes * 60 + seconds if len(parts) == 3 else None
