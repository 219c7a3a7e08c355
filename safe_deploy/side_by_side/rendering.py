"""How releases side by side look: tables for people, and the outputs of a pipeline step. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from safe_deploy.side_by_side.retirement_planner import Outcome, RetirementResult

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


RETIREMENT_COLUMNS = ("Version", "Task hub", "Outcome", "Why")


def build_retirement_rows(results: Iterable[RetirementResult]) -> Rows:
    """A row for each release that was looked at."""
    return [
        [result.release.version, result.release.task_hub, result.outcome.value, result.explanation]
        for result in results
    ]


def retirement_outputs(results: Iterable[RetirementResult]) -> dict[str, str]:
    """The versions by what became of them."""
    versions: dict[Outcome, list[str]] = {outcome: [] for outcome in Outcome}
    for result in results:
        versions[result.outcome].append(result.release.version)
    return {
        "retired": ",".join(versions[Outcome.RETIRED]),
        "kept": ",".join(versions[Outcome.KEPT]),
        "not-drained": ",".join(versions[Outcome.NOT_DRAINED]),
        "removing": ",".join(versions[Outcome.REMOVING]),
        "failed": ",".join(versions[Outcome.FAILED]),
    }


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
