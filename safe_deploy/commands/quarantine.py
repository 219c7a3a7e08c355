"""The commands of the group `quarantine`: events that the server could not record."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from safe_deploy import rendering
from safe_deploy.administration import Administration
from safe_deploy.errors import UsageError
from safe_deploy.option_groups import ServerOptions, expand_option_groups
from safe_deploy.options import ContinuationTokenOption, TopOption, YesOption
from safe_deploy.paging import collect_items, list_more_notes
from safe_deploy.prompts import Prompts
from safe_deploy.questions import require_confirmation, show_before_question
from safe_deploy.session import open_session

quarantine_commands = typer.Typer(
    name="quarantine",
    help="Events that the server could not record. Needs an admin's key for all apps.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_COLUMNS = ("Received", "Code", "Message", "Event")
_PAGE_SIZE = 1000
_SHOWN_EVENTS = 20
"""Events that are shown before a question. The title has their number."""


@quarantine_commands.command("list")
@expand_option_groups
def list_quarantine(
    common: ServerOptions, *, top: TopOption = 50, continuation_token: ContinuationTokenOption = ""
) -> None:
    """Show the events in quarantine with the reasons."""
    session = open_session(common)
    administration = Administration(session.server)
    response = collect_items(administration.list_quarantine, "events", top=top, token=continuation_token)
    events = response["events"]
    session.print_result(
        response,
        _COLUMNS,
        _build_rows(events),
        "" if events else "no event is in quarantine",
        notes=list_more_notes(response),
    )


@quarantine_commands.command("purge")
@expand_option_groups
def purge_quarantine(
    common: ServerOptions,
    *,
    before: Annotated[
        str,
        typer.Option("--before", help="Day, which begins at 00:00 UTC, or RFC 3339 time, such as 2026-11-01."),
    ],
    yes: YesOption = False,
) -> None:
    """Remove the events that were received before a time. They can never be recorded then."""
    limit = _parse_time(before)
    session = open_session(common)
    administration = Administration(session.server)
    old_events = [
        event for event in _iterate_events(administration) if rendering.parse_timestamp(event["receivedAt"]) < limit
    ]
    if not old_events:
        session.print_result({"removed": 0}, (), (), f"no event in quarantine was received before {before}")
        return
    title = f"{len(old_events)} events in quarantine were received before {before}"
    title += f"; the first {_SHOWN_EVENTS}:" if len(old_events) > _SHOWN_EVENTS else ":"
    show_before_question(session, _COLUMNS, _build_rows(old_events[:_SHOWN_EVENTS]), title)
    require_confirmation(Prompts(assume_yes=yes), f"Remove these {len(old_events)} events?")
    removed = 0
    while True:
        response = administration.purge_quarantine(_format_time(limit))
        removed += response["removed"]
        if not response["hasMore"]:
            break
        session.report(f"{removed} events are removed")
    session.print_result({"removed": removed}, (), (), f"{removed} events were removed from quarantine")


def _iterate_events(administration: Administration) -> Iterator[Mapping[str, Any]]:
    """All events in quarantine, page by page."""
    token: str | None = None
    while True:
        page = administration.list_quarantine(_PAGE_SIZE, token)
        yield from page["events"]
        token = page["continuationToken"]
        if token is None:
            return


def _build_rows(events: list[Mapping[str, Any]]) -> rendering.Rows:
    """A row for each event."""
    now = rendering.current_time()
    return [
        [f"{rendering.format_age(event['receivedAt'], now)} ago", event["code"], event["message"], event["event"]]
        for event in events
    ]


def _parse_time(text: str) -> datetime:
    """The time in the value of --before. What is shown and what is removed must agree, so the server gets this time."""
    match = re.fullmatch(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2}))?", text.strip())
    try:
        moment = datetime.fromisoformat(text.strip()) if match else None
    except ValueError:
        moment = None
    if moment is None:
        raise UsageError(f"--before takes a day or an RFC 3339 time, such as 2026-11-01, and not {text!r}")
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if moment > rendering.current_time():
        raise UsageError(f"--before must not be in the future, and {text} is")
    return moment


def _format_time(moment: datetime) -> str:
    """A time as the server reads it."""
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"
