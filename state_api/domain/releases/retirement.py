"""Retired task hubs: which of them Cleanup leaves alone, and how the others are forgotten."""

from dataclasses import replace
from typing import Any

from state_api.domain.instants import Instant, seconds
from state_api.domain.names import hub_key
from state_api.domain.releases.apps import App, Transition
from state_api.domain.releases.commands import RemoveRetiredHubsCommand


def find_hubs_kept_by_retention(app: App, now: Instant) -> frozenset[str]:
    """The names of the retired task hubs that the policy keeps: the last ones, and those retired recently."""
    retention = app.policy.retention
    newest_first = sorted(app.retired, key=lambda retired: retired.retired_at, reverse=True)
    period = seconds(3600 * retention.keep_for_hours)
    # Servers agree on the time to a second, so an age can be negative. With a period of 0, no age is recent.
    recent = {retired.task_hub for retired in app.retired if period and now - retired.retired_at < period}
    return frozenset(recent | {retired.task_hub for retired in newest_first[: retention.keep_last]})


def remove_retired_hubs(app: App, command: RemoveRetiredHubsCommand) -> Transition:
    """Forget retired task hubs and their waivers. The audit log names those that still exist at their provider."""
    not_owned_keys = {hub_key(task_hub) for task_hub in command.not_owned}
    forgotten_keys = {hub_key(task_hub) for task_hub in command.removed} | not_owned_keys
    forgotten = [retired.task_hub for retired in app.retired if hub_key(retired.task_hub) in forgotten_keys]
    details: dict[str, Any] = {"removed": forgotten}
    if not_owned := [task_hub for task_hub in forgotten if hub_key(task_hub) in not_owned_keys]:
        details["notOwned"] = not_owned
    updated_app = replace(
        app,
        retired=tuple(retired for retired in app.retired if hub_key(retired.task_hub) not in forgotten_keys),
        waivers=tuple(waiver for waiver in app.waivers if hub_key(waiver.task_hub) not in forgotten_keys),
    )
    return Transition(updated_app, "Cleanup", details, changed=bool(forgotten))
