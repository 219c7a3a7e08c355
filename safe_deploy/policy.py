"""The policy of an app on the command line: its members by name, and `NAME=VALUE` as a part of PutApp. Pure.

The server decides which values are valid.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from safe_deploy.client import Json
from safe_deploy.errors import UsageError
from safe_deploy.registration import format_value

POLICY_COLUMNS = ("Name", "Value", "Default")

DEFAULT_POLICY: Mapping[str, Any] = {
    "settleSeconds": 30,
    "freshnessSeconds": 120,
    "requireVerification": False,
    "deploymentTimeoutMinutes": 60,
    "ignoreFunctions": [],
    "retention.keepLast": 0,
    "retention.keepForHours": 0,
    "missingTaskHubIsDrained": False,
    "messageVisibilitySeconds": 300,
    "ignoreMessages": False,
    "maxReleases": None,
    "addressPattern": None,
    "stickyAfterPromotion": False,
    "quiesceFunctions": [],
    "quiesceOrder": "gap",
}
"""The policy of a new app on a server of this version, to show which members were changed."""


def flatten_policy(policy: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The members by name, those of a member such as `retention` as `retention.keepLast`."""
    flat: dict[str, Any] = {}
    for name, value in policy.items():
        flat |= flatten_policy(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def build_policy_rows(policy: Mapping[str, Any]) -> Sequence[Sequence[str]]:
    """A row for each member: name, value, and the default if it is another one."""
    return [
        [name, format_value(value), "" if _is_default(name, value) else format_value(DEFAULT_POLICY.get(name))]
        for name, value in flatten_policy(policy).items()
    ]


def describe_policy(policy: Mapping[str, Any]) -> str:
    """The members that are not the default, in a line."""
    changed = [
        f"{name} {format_value(value)}"
        for name, value in flatten_policy(policy).items()
        if not _is_default(name, value)
    ]
    return ", ".join(changed) or "the defaults"


def build_policy_request(current: Mapping[str, Any], assignments: Iterable[str], unset: Iterable[str]) -> Json:
    """The member `policy` of PutApp. Null restores the default. Raises UsageError for a name that is not in the current
    policy or is given twice, and for text without `=`."""
    request: Json = {}
    members = flatten_policy(current)
    for name, value in (*_parse_assignments(members, assignments), *((name, None) for name in unset)):
        _check_name(members, name)
        target, *path = name.split(".")
        container = request.setdefault(target, {}) if path else request
        key = path[0] if path else target
        if key in container:
            raise UsageError(f"{name} is given twice. Give it once")
        container[key] = value
    return request


def _parse_assignments(members: Mapping[str, Any], assignments: Iterable[str]) -> Iterator[tuple[str, Any]]:
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise UsageError(f"{assignment!r} is not NAME=VALUE, such as settleSeconds=60. --unset restores a default")
        _check_name(members, name)
        yield name, _parse_value(text, members[name])


def _parse_value(text: str, current: object) -> Any:
    """The value in the kind that the member has: a list of names between commas, a number, true, false, or text."""
    if isinstance(current, list) and not text.startswith("["):
        return [name.strip() for name in text.split(",") if name.strip()]
    if isinstance(current, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _check_name(members: Mapping[str, Any], name: str) -> None:
    if name in members:
        return
    by_lower_case = {member.lower(): member for member in members}
    close = [by_lower_case[match] for match in get_close_matches(name.lower(), by_lower_case)]
    advice = f"Close to it: {', '.join(close)}" if close else f"It has {', '.join(members)}"
    raise UsageError(f"the policy has no member {name!r}. {advice}")


def _is_default(name: str, value: object) -> bool:
    return name in DEFAULT_POLICY and DEFAULT_POLICY[name] == value
