"""Parses lifecycle events, in the Event Grid schema or as CloudEvents, for the webhook and the Event Grid trigger."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from state_api.domain.instants import Instant, format_instant, parse_instant, seconds
from state_api.domain.names import MAX_INSTANCE_ID_LENGTH, is_task_hub_name
from state_api.domain.task_hubs.lifecycle import MAX_REASON_LENGTH, LifecycleEvent, RuntimeStatus, shorten_reason

EVENT_TYPE = "orchestratorEvent"

_EARLIEST_EVENT_TIME = parse_instant("2017-01-01T00:00:00Z")
"""Durable Functions did not exist before 2017; an earlier time comes from a clock that was never set."""
_MAX_CLOCK_AHEAD = seconds(5 * 60)
"""How far an event's time may be ahead of the storage's clock. Clocks differ by milliseconds (PLATFORM: Lifecycle
events 8). An end that is far ahead would hide every later start of its instance."""
_STATUSES = frozenset(RuntimeStatus)
_MAX_INTEGER_DIGITS = 1000
"""Digits from which on an integer stays text. Python refuses to parse integers of more than 4,300 digits."""
_MAX_FUNCTION_NAME_LENGTH = 256
_MAX_DESCRIBED_CHARACTERS = 80
"""Characters of an invalid value that a message shows."""
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class InvalidEvent(Exception):
    """The event cannot be parsed and goes to quarantine. `code` is one of QUARANTINE_CODES and is never renamed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


QUARANTINE_CODES = {
    "NotAnEvent": "The event is not a JSON object, or has no data object.",
    "UnknownEventType": "The event's type is not `orchestratorEvent`.",
    "UnknownStatus": "The runtime status is missing, or is not a status of Durable Functions.",
    "BadTaskHub": "The hub name is missing, or is not a valid task hub name.",
    "BadInstanceId": "The instance id is missing, longer than 256 characters, or not valid text.",
    "BadTime": "The time is missing, unreadable, before 2017, or more than five minutes ahead.",
    "UnexpectedError": "The server failed to parse the event because of a defect; its log has the details.",
    "StorageRejected": "The state storage rejects the event's row; the server's log has the error code.",
    "TaskHubCleanedUp": "The task hub was cleaned up, or its records were removed. Nothing should run there any more. "
    "While DeleteTaskHub decides, the event waits, and is recorded if the task hub stays.",
    "TooManyTaskHubs": "No app has claimed the task hub, and the server already records as many unclaimed task hubs as "
    "it may. The event is recorded when an app claims the task hub.",
}
"""The code of every reason to put an event into quarantine, and its meaning for the documentation."""


def parse_json(text: str | bytes) -> Any:
    """Parse the JSON of a publisher. A number that Python cannot represent stays text, as does NaN, so that it does not
    make the whole event unreadable. Raises ValueError and RecursionError."""
    return json.loads(text, parse_constant=str, parse_int=_parse_integer)


def _parse_integer(digits: str) -> int | str:
    """The integer in a JSON document. One with too many digits for Python stays text."""
    return int(digits) if len(digits) < _MAX_INTEGER_DIGITS else digits


def parse_event(event: Any, now: Instant) -> LifecycleEvent:
    """Parse one event. `now` is the time by the storage's clock. Raises InvalidEvent."""
    if not isinstance(event, Mapping):
        raise InvalidEvent("NotAnEvent", "the event is not a JSON object")
    is_cloud_event = "specversion" in event
    event_type = event.get("type" if is_cloud_event else "eventType")
    if event_type != EVENT_TYPE:
        raise InvalidEvent("UnknownEventType", f"the event's type is {_describe_value(event_type)}, not {EVENT_TYPE}")
    data = _parse_data(event)
    return LifecycleEvent(
        task_hub=_parse_task_hub(data.get("hubName")),
        instance_id=_parse_instance_id(data.get("instanceId")),
        function_name=_clean_text(data.get("functionName"), _MAX_FUNCTION_NAME_LENGTH),
        runtime_status=_parse_status(data.get("runtimeStatus")),
        reason=_parse_reason(data.get("reason")),
        occurred_at=_parse_time(event.get("time" if is_cloud_event else "eventTime"), now),
    )


def to_event_grid_event(event: LifecycleEvent) -> dict[str, Any]:
    """The event in the Event Grid schema, with only the members that `parse_event` reads."""
    return {
        "eventType": EVENT_TYPE,
        "eventTime": format_instant(event.occurred_at),
        "data": {
            "hubName": event.task_hub,
            "instanceId": event.instance_id,
            "functionName": event.function_name,
            "runtimeStatus": event.runtime_status.value,
            "reason": event.reason,
        },
    }


def _parse_data(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data of an event, also if they are encoded in Base64. Raises InvalidEvent."""
    data = event.get("data")
    if data is None and isinstance(encoded := event.get("data_base64"), str):
        try:
            data = parse_json(base64.b64decode(encoded, validate=True))
        except (binascii.Error, ValueError, RecursionError):
            data = None
    if not isinstance(data, Mapping):
        raise InvalidEvent("NotAnEvent", "the event has no data object")
    return data


def _parse_status(value: Any) -> RuntimeStatus:
    # The type is checked first, because a list or an object cannot be looked up in a set. Calling RuntimeStatus with an
    # unknown value would format the value into an error message, and a deeply nested one exceeds the recursion limit.
    if not isinstance(value, str) or value not in _STATUSES:
        raise InvalidEvent("UnknownStatus", f"the runtime status is {_describe_value(value)}")
    return RuntimeStatus(value)


def _parse_task_hub(value: Any) -> str:
    if not isinstance(value, str) or not is_task_hub_name(value):
        raise InvalidEvent("BadTaskHub", f"the hub name is {_describe_value(value)}")
    return value


def _parse_instance_id(value: Any) -> str:
    """The instance id, if it is text that the task hub could hold. Raises InvalidEvent."""
    if not isinstance(value, str) or not value:
        raise InvalidEvent("BadInstanceId", f"the instance id is {_describe_value(value)}")
    if len(value.encode("utf-16-le", "surrogatepass")) // 2 > MAX_INSTANCE_ID_LENGTH:
        raise InvalidEvent("BadInstanceId", f"the instance id has more than {MAX_INSTANCE_ID_LENGTH} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidEvent("BadInstanceId", "the instance id is not valid text") from None
    return value


def _parse_time(value: Any, now: Instant) -> Instant:
    """The time of an event. Raises InvalidEvent if it is no time, is too old, or is ahead of `now`."""
    try:
        time = parse_instant(value) if isinstance(value, str) else None
    except ValueError:
        time = None
    if time is None:
        raise InvalidEvent("BadTime", f"the time is {_describe_value(value)}")
    if not _EARLIEST_EVENT_TIME <= time <= now + _MAX_CLOCK_AHEAD:
        raise InvalidEvent("BadTime", f"the time is {format_instant(time)}; now is {format_instant(now)}")
    return time


def _parse_reason(value: Any) -> str:
    """The reason of an event, short enough to be stored; empty if it is no text."""
    return _clean_text(shorten_reason(value), MAX_REASON_LENGTH) if isinstance(value, str) else ""


def _clean_text(value: Any, max_length: int) -> str:
    """A text to show, at most `max_length` characters long. Characters that tables or terminals do not accept become
    U+FFFD. The result depends on the text only, so that duplicates of an event stay equal."""
    return _UNPRINTABLE.sub("\ufffd", value)[:max_length] if isinstance(value, str) else ""


def _describe_value(value: Any) -> str:
    """A value in a message. Objects and arrays are not shown, because they may be nested too deeply; the whole event is
    in quarantine."""
    if value is None:
        return "missing"
    if isinstance(value, Mapping):
        return "an object"
    return "an array" if isinstance(value, list) else ascii(value)[:_MAX_DESCRIBED_CHARACTERS]
