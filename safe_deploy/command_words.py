"""Says in commands and options what the server says in operations and members of its API.

The server's messages name the next step in its own words, for everyone who uses the API. At the command line the same
sentence names the command. A test applies this module to every message of the server.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

_PHRASES: Mapping[str, str] = {
    "send PostSwap for it with the outcome Done, otherwise with the outcome Failed, and with the ETag of GetApp in "
    "If-Match": ("run safe-deploy swap for it with --outcome done, otherwise with --outcome failed"),
    "the key is missing or unknown: send a key that this server knows in the header x-functions-key": (
        "the key is missing or unknown"
    ),
    "send PostSwap for it without an outcome": (
        "run safe-deploy swap for it with the command that swaps, which is not run if Azure has swapped"
    ),
    "send PostSwap with rollback and the outcome Done": "run safe-deploy rollback with --outcome done",
    "send PostSwap without rollback": "run safe-deploy swap",
    "as announced with PostSwap": "as the command that follows the rollout does",
    "stage with takeOver and a reason": "stage with safe-deploy stage --take-over --reason TEXT",
    "register with takeOver and a reason": "run safe-deploy release --take-over --reason TEXT",
    "send its X-Run-Url": "name it in --run-url",
    "PostWaiver (unexplainedMessages)": "safe-deploy waive --unexplained-messages",
    "abort it with PostRollout": "abort it with safe-deploy rollout abort",
    "confirmed with PostRollout": "confirmed, as the command that follows the rollout does",
    "the action confirm of PostRollout": "rollouts into a slot",
    "send DeleteRelease with the outcome Done or Failed": "run safe-deploy retire again, which finds out",
    "any run can continue the removal with the outcome Pending": "any run can continue the removal",
    "send DeleteRelease with the outcome Failed, and retry": (
        "end the removal with the outcome Failed (operation DeleteRelease of the API), and run the command again"
    ),
    "Retry once GetReleaseStatus says Ready": "safe-deploy retire --wait waits until it may be removed",
    "Retry DeleteTaskHub once": "Run safe-deploy task-hub delete again once",
    "Retry DeleteApp once": "Run safe-deploy unregister again once",
    "Call Cleanup until GetApp lists none of them": "Run safe-deploy cleanup until it lists none of them",
    "call Cleanup": "run safe-deploy cleanup",
    "Call Cleanup": "Run safe-deploy cleanup",
    "configure taskHubs": "say where they are with safe-deploy register --provider and --connection",
    "Configure taskHubs": "Say where they are with safe-deploy register --provider and --connection",
    "Set taskHubs of its app with PutApp": "Say where it is with safe-deploy register --provider and --connection",
    "set taskHubs with PutApp": "say where they are with safe-deploy register --provider and --connection",
    "set `taskHubs` with PutApp": "say where they are with safe-deploy register --provider and --connection",
    "set missingTaskHubIsDrained in the app's policy": (
        "an administrator runs safe-deploy policy set missingTaskHubIsDrained=true"
    ),
    "set requireVerification to false": "run safe-deploy policy set requireVerification=false",
    "set freshnessSeconds well above that": "set freshnessSeconds well above that with safe-deploy policy set",
    "set ignoreMessages in the app's policy": "an administrator runs safe-deploy policy set ignoreMessages=true",
    "change addressPattern with PutApp": "change addressPattern with safe-deploy policy set",
    "PutApp with adoptTaskHubs": "safe-deploy adopt",
    "stage with force and a reason": "stage with safe-deploy stage --force --reason TEXT",
    "force or takeOver": "--force or --take-over",
    "set either instanceId or unexplainedMessages=true": "give either --instance-id or --unexplained-messages",
}
"""Sentences and parts of them for which exchanging single words would not be enough."""

_COMMANDS: Mapping[str, str] = {
    "PutApp": "safe-deploy register",
    "GetStagingStatus": "safe-deploy status",
    "PostStaging": "safe-deploy stage",
    "DeleteStaging": "safe-deploy abandon",
    "PostSwap": "safe-deploy swap",
    "Cleanup": "safe-deploy cleanup",
    "GetHistory": "safe-deploy history",
    "ListInstances": "safe-deploy instances",
    "PostWaiver": "safe-deploy waive",
    "PostRelease": "safe-deploy release",
    "DeleteRelease": "safe-deploy retire",
    "PutRouting": "safe-deploy promote",
    "GetTimeline": "safe-deploy timeline",
    "GetRolloutHealth": "safe-deploy health",
    "GetRollout": "safe-deploy rollout status",
    "PutRollout": "safe-deploy rollout start",
    "PostRollout": "safe-deploy rollout",
    "GetApp": "safe-deploy show",
    "ListApps": "safe-deploy apps",
    "DeleteApp": "safe-deploy unregister",
    "ListReleases": "safe-deploy releases",
    "ForgetRouter": "safe-deploy forget-router",
    "GetVersions": "safe-deploy versions",
    "DeleteWaiver": "safe-deploy unwaive",
    "GetTaskHub": "safe-deploy task-hub show",
    "DeleteTaskHub": "safe-deploy task-hub delete",
    "ListQuarantine": "safe-deploy quarantine list",
    "PurgeQuarantine": "safe-deploy quarantine purge",
}
"""The command that does what an operation does. An operation that is missing here has none, and keeps its name."""

_OPTIONS: Mapping[str, str] = {
    "taskHub": "--task-hub",
    "version": "--version",
    "slot": "--slot",
    "force": "--force",
    "takeOver": "--take-over",
    "reason": "--reason",
    "address": "--address",
    "instanceId": "--instance-id",
    "unexplainedMessages": "--unexplained-messages",
    "expiresAt": "--expires-in",
    "deleteTaskHubs": "--delete-task-hubs",
    "dryRun": "--dry-run",
    "verify": "--verify",
    "top": "--top",
    "status": "--status",
    "candidate": "--candidate",
    "baseline": "--baseline",
    "since": "--since",
    "from": "--since",
    "step": "--step",
    "functionName": "--function",
    "outcome": "--outcome",
    "provider": "--provider",
    "connection": "--connection",
    "missingTaskHubIsDrained": "--missing-task-hub-is-drained",
    "app": "--app",
}
"""The option whose value a member of a request has."""

_FIELDS = {**_OPTIONS, "slots": "--slot", "taskHubs": "--provider and --connection"}

_EVERYDAY_WORDS = frozenset(name for name in _OPTIONS if name.islower())
"""Members that are also words of a sentence, so only the name of a field is one for sure."""

_WORDS = {**_COMMANDS, **{name: option for name, option in _OPTIONS.items() if name not in _EVERYDAY_WORDS}}
_ALL = {**_PHRASES, **_WORDS}


_BEFORE_NAMES = ("task hub ", "app ", "slot ", "release ", "instance ", "function ", "router ", "the oldest, ")
"""What stands before a name of the user's, which may be the name of an operation too, such as a function `Cleanup`."""

_FRACTION = re.compile(r"(?<=T\d\d:\d\d:\d\d)\.\d+(?=Z)")
"""The fraction of a second in a time, which makes a sentence hard to read."""


def _build_pattern(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern for any of these texts as whole words that are no names, the longest first."""
    alternatives = "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))
    no_name = "".join(f"(?<!{re.escape(word)})" for word in _BEFORE_NAMES)
    return re.compile(rf"{no_name}(?<![\w-])(?:{alternatives})(?![\w-])")


_PATTERN = _build_pattern(_ALL)


def use_command_words(text: str) -> str:
    """A message of the server, with commands and options in place of operations and members of requests, and with
    times in whole seconds."""
    return _FRACTION.sub("", _PATTERN.sub(lambda match: _ALL[match[0]], text))


def name_field(field: str) -> str:
    """The option that a field of a refused request stands for, such as `--task-hub` for `body.taskHub`. A field without
    an option keeps its name."""
    return next((_FIELDS[part] for part in reversed(field.split(".")) if part in _FIELDS), field)


def describe_problem(problem: Mapping[str, Any]) -> str:
    """What a problem document says, in the words of the command line and without its code; empty if it says nothing."""
    errors = problem.get("errors")
    if isinstance(errors, list) and errors and all(_is_field_error(error) for error in errors):
        return "; ".join(f"{name_field(error['field'])}: {use_command_words(error['message'])}" for error in errors)
    detail = str(problem.get("detail") or "")
    for reason in list_reasons(problem):
        detail = detail.replace(reason["message"], f"{reason['code']}: {reason['message']}", 1)
    return use_command_words(detail)


def list_reasons(problem: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """The reasons in a problem document, such as StagingNotReady, as far as they have the documented form."""
    reasons = problem.get("reasons")
    return [
        reason
        for reason in (reasons if isinstance(reasons, list) else [])
        if isinstance(reason, dict) and isinstance(reason.get("code"), str) and reason.get("message")
    ]


def _is_field_error(error: object) -> bool:
    """Whether an entry of `errors` has the form that the server documents."""
    return isinstance(error, dict) and isinstance(error.get("field"), str) and isinstance(error.get("message"), str)
