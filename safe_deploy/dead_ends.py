"""Decides from verdicts whether it is of no use to wait for Ready, because only a person can end the reason. Pure.

All times are the server's: when it made the verdict, and when it read the task hub for it. So a verdict that repeats an
old read counts for nothing, and a request that waits at the server counts as long as it took there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from safe_deploy.rendering import list_pending_starts, parse_timestamp

DEAD_END_AFTER = timedelta(minutes=1)
"""How long a reason must have been there without interruption. A role that was just assigned, or an app that is
starting, often needs some seconds."""

_STARTS_DEAD_END_AFTER = timedelta(minutes=5)
"""The same for starts that no worker takes. A worker that was killed keeps its leases for up to a minute, its successor
then starts for up to a minute and polls every 30 s. An app without instances is started some minutes after a message
has come."""

_OTHER_RUN_CODES = frozenset({"DeploymentInProgress", "SwapPending", "RolloutInProgress"})
"""Reasons by which another run is at work, which may still start the app."""

Verdict = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Streak:
    """Verdicts in a row with the same reason. `since`: when the first of them was made. `state`: what must not change
    meanwhile, as `_PersistenceRule` says."""

    since: datetime
    state: object


Streaks = Mapping[str, Streak]
"""The streaks that go on, by the reason's code."""


@dataclass(frozen=True, slots=True)
class _PersistenceRule:
    """How verdicts show that a reason persists.

    - `confirmed_at`: when the server read last what the reason rests on, None if it never has.
    - `state`: what must not change while the reason lasts, None if time alone may end it.
    - `needs_app`: the reason ends when the app starts.
    - `period`: how long the reason must have been there.
    """

    confirmed_at: Callable[[Verdict], datetime | None]
    state: Callable[[Verdict], object] = lambda verdict: verdict["taskHub"]
    needs_app: bool = False
    period: timedelta = DEAD_END_AFTER


def extend_streaks(streaks: Streaks, verdict: Verdict | None) -> Streaks:
    """The streaks after another verdict. None, for a request that was not answered, ends all of them: what
    was true then is unknown."""
    if verdict is None:
        return {}
    codes = {reason["code"] for reason in verdict["reasons"]}
    extended: dict[str, Streak] = {}
    for code, rule in _RULES.items():
        if code not in codes or (rule.needs_app and codes & _OTHER_RUN_CODES):
            continue
        state = rule.state(verdict)
        if state is None:
            continue
        previous = streaks.get(code)
        is_same = previous is not None and previous.state == state
        extended[code] = previous if previous and is_same else Streak(parse_timestamp(verdict["checkedAt"]), state)
    return extended


def find_dead_end(streaks: Streaks, verdict: Verdict) -> str | None:
    """The code of the reason by which waiting is of no use; None if waiting may help. `verdict` is the last one of the
    streaks."""
    for code, streak in streaks.items():
        rule = _RULES[code]
        confirmed_at = rule.confirmed_at(verdict)
        if confirmed_at is not None and confirmed_at - streak.since >= rule.period:
            return code
    return None


def find_period(code: str) -> timedelta:
    """How long the reason must have been there before it ends a wait."""
    return _RULES[code].period


def needs_app(code: str) -> bool:
    """Whether the reason ends when the app starts, so that an open deployment may end it."""
    return _RULES[code].needs_app


def _find_check_time(verdict: Verdict) -> datetime | None:
    """When the verdict was made, for a reason that rests on the server's records."""
    return parse_timestamp(verdict["checkedAt"])


def _find_probe_time(verdict: Verdict) -> datetime | None:
    """When the task hub was read last."""
    probe = verdict["evidence"]["probe"]
    return parse_timestamp(probe["endedAt"] or probe["beganAt"]) if probe else None


def _find_queue_time(verdict: Verdict) -> datetime | None:
    """When the control queues were read last."""
    messages = (verdict["evidence"]["probe"] or {}).get("messages")
    return parse_timestamp(messages["checkedAt"]) if messages else None


def _describe_waiting_messages(verdict: Verdict) -> object:
    """What a worker would change: it takes visible messages, which become invisible or disappear, and events and rows
    follow. None if time alone may end the reason: no message is visible, or no visible one starts work and some
    invisible message is unexplained.

    A worker polls its control queues at least every 30 s, unless `maxQueuePollingInterval` of host.json says otherwise.
    """
    messages = (verdict["evidence"]["probe"] or {}).get("messages")
    if not messages or not messages["visible"]:
        return None
    starts = [(start["instanceId"], start["functionName"]) for start in list_pending_starts(verdict)]
    if not starts and messages["invisible"] > messages["explained"]:
        return None
    counts = (messages["visible"], messages["invisible"], verdict["activeCount"])
    return verdict["taskHub"], counts, starts, verdict["evidence"]["lastRecordedAt"]


_RULES: Mapping[str, _PersistenceRule] = {
    "VerificationRequired": _PersistenceRule(_find_check_time),
    "ProbeDenied": _PersistenceRule(_find_probe_time),
    "TaskHubMissing": _PersistenceRule(_find_probe_time, needs_app=True),
    "StartsPending": _PersistenceRule(
        _find_queue_time, state=_describe_waiting_messages, needs_app=True, period=_STARTS_DEAD_END_AFTER
    ),
}
