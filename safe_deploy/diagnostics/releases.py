"""The checks of an app with releases side by side: its releases, its routers, and its status URLs."""

import functools
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from safe_deploy.azure_function_apps import FunctionApps
from safe_deploy.client import Json, StateServerClient
from safe_deploy.diagnostics.deployments import check_deployment
from safe_deploy.diagnostics.evidence import EvidenceHints, check_evidence
from safe_deploy.diagnostics.function_apps import check_function_apps
from safe_deploy.diagnostics.results import CheckResult, CheckStatus
from safe_deploy.diagnostics.status_urls import StatusUrl, check_status_url
from safe_deploy.errors import CommandError
from safe_deploy.rendering import format_age, is_older

_ROUTER_DELAY = timedelta(seconds=60)
"""How long routers may route by an older document before something is wrong with one that has not acknowledged."""

_ROUTER_SILENCE = timedelta(minutes=10)
"""Routers ask at least every 30 s, and the server records that every 5 minutes."""

_EVIDENCE_HINTS = EvidenceHints(
    configure_provider="To have the server read the app's task hubs, set taskHubs with PutApp",
    require_verification="Set requireVerification in the policy with PutApp",
)


def check_releases(
    server: StateServerClient,
    app: Json,
    *,
    function_apps: FunctionApps | None,
    task_hub_setting: str,
    status_url: StatusUrl | None,
    now: datetime,
) -> Iterator[CheckResult]:
    """Run the checks of an app with releases side by side, those of Azure only with `function_apps`."""
    yield from check_deployment(app)
    try:
        listed = server.list_releases()
    except CommandError as error:
        yield CheckResult("releases", CheckStatus.FAILED, error.message, error.exit_code)
        return
    yield _check_active(listed["routing"])
    yield from map(_check_release, listed["releases"])
    yield from check_function_apps(app, function_apps, task_hub_setting)
    yield from _check_routers(listed, now)
    yield check_status_url(status_url, listed["releases"], listed["removed"])
    active = next(
        (release for release in listed["releases"] if release["version"] == listed["routing"]["active"]), None
    )
    if active is not None:
        get_verdict = functools.partial(server.get_release_status, active["version"])
        yield from check_evidence(app, active["taskHub"], get_verdict, hints=_EVIDENCE_HINTS, now=now)


def _check_active(routing: Mapping[str, Any]) -> CheckResult:
    """Whether requests get an answer."""
    if routing["active"] is None:
        message = "no release is active, so routers answer 503. Promote one: safe-deploy promote"
        return CheckResult("app", CheckStatus.FAILED, message)
    shares = routing["split"] or {routing["active"]: 100}
    message = ", ".join(f"{version} gets {share} %" for version, share in shares.items())
    return CheckResult("app", CheckStatus.OK, f"releases side by side; {message} of the requests")


def _check_release(release: Json) -> CheckResult:
    """The state of a release, with a warning if its removal was begun and not finished."""
    check = f"release {release['version']}"
    removal = release["removal"]
    if removal is not None:
        message = (
            f"its removal was begun by {removal['by']} at {removal['startedAt']} and is not complete. Run safe-deploy "
            "retire"
        )
        return CheckResult(check, CheckStatus.WARNING, message)
    hint = ", so it can be removed: safe-deploy retire" if release["state"] == "Drained" else ""
    message = f"{release['state']}, task hub {release['taskHub']}, {release['address']}{hint}"
    return CheckResult(check, CheckStatus.OK, message)


def _check_routers(listed: Json, now: datetime) -> Iterator[CheckResult]:
    """Whether every router that asks under a name routes by the last document."""
    routing = listed["routing"]
    if not listed["routers"]:
        message = (
            "none has acknowledged a document. API Management never does, and Envoy does while it and safe-deploy "
            "router run"
        )
        yield CheckResult("routers", CheckStatus.WARNING, message)
    for router in listed["routers"]:
        yield _check_router(router, routing, now)


def _check_router(router: Mapping[str, Any], routing: Mapping[str, Any], now: datetime) -> CheckResult:
    """Whether a router still asks for the routing, and has put the last revision into effect."""
    check = f"router {router['router']}"
    forget = (
        "If it is gone, an administrator forgets it with ForgetRouter; until then no release is removed that it may use"
    )
    if is_older(router["seenAt"], now, _ROUTER_SILENCE):
        message = f"has not asked for {format_age(router['seenAt'], now)}. {forget}"
        return CheckResult(check, CheckStatus.FAILED, message)
    if router["revision"] >= routing["revision"]:
        return CheckResult(check, CheckStatus.OK, f"routes by revision {router['revision']}, the last one")
    age = format_age(routing["updatedAt"], now)
    message = f"routes by revision {router['revision']}, and revision {routing['revision']} is {age} old"
    if not is_older(routing["updatedAt"], now, _ROUTER_DELAY):
        return CheckResult(check, CheckStatus.WARNING, message)
    return CheckResult(check, CheckStatus.FAILED, f"{message}. Read its log. {forget}")
