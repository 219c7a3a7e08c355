"""How releases side by side look: tables for people, and the outputs of a pipeline step. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]
Rows = Sequence[Sequence[str]]

RELEASE_COLUMNS = ("Version", "Task hub", "State", "Traffic", "Address")


def build_release_rows(releases: Iterable[tuple[str, Json]]) -> Rows:
    """A row for each release, by its version."""
    return [
        [version, release["taskHub"], release["state"], f"{release['traffic']} %", release["address"]]
        for version, release in releases
    ]


def build_listed_rows(response: Json) -> Rows:
    """The rows of a response of ListReleases."""
    return build_release_rows((release["version"], release) for release in response["releases"])


def release_outputs(version: str, release: Json) -> dict[str, str]:
    """Without the override token, which is a secret."""
    return {"version": version, "task-hub": release["taskHub"], "address": release["address"]}


def routing_outputs(response: Json, *, previous: str | None, behind: Iterable[str]) -> dict[str, str]:
    """The routing in a response of ListReleases. `previous` is the version that was active before the command."""
    return {
        "active-version": response["routing"]["active"] or "",
        "previous-version": previous or "",
        "routing-revision": str(response["routing"]["revision"]),
        "routers-behind": ",".join(behind),
    }
