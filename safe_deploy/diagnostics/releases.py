"""The checks of an app with releases side by side: its releases, its routers, and its status URLs."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from safe_deploy.client import Json, StateServerClient
from safe_deploy.diagnostics.deployments import check_deployment, hold_back_repairs
from safe_deploy.diagnostics.durable_sites import DurableSite
from safe_deploy.diagnostics.evidence import EvidenceHints, check_evidence
from safe_deploy.diagnostics.extension import check_extension
from safe_deploy.diagnostics.function_apps import check_function_apps
from safe_deploy.diagnostics.host_json import OVERRIDE_NAMES
from safe_deploy.diagnostics.options import CheckOptions
from safe_deploy.diagnostics.results import CheckResult, CheckStatus, ErrorFilter
from safe_deploy.diagnostics.status_urls import check_status_url
from safe_deploy.errors import CommandError
from safe_deploy.rendering import format_age, format_instant, is_older

_ROUTER_DELAY = timedelta(seconds=60)
"""How long routers may route by an older document before something is wrong with one that has not acknowledged."""

_ROUTER_SILENCE = timedelta(minutes=10)
"""Routers ask at least every 30 s, and the server records that every 5 minutes."""

_EVIDENCE_HINTS = EvidenceHints(
    configure_provider="To have the server read the app's task hubs, set taskHubs with PutApp",
    require_verification="Set requireVerification in the policy with PutApp",
)


def check_releases(server: StateServerClient, app: Json, options: CheckOptions) -> Iterator[CheckResult]:
    """Run the checks of an app with releases side by side."""
    yield from check_deployment(app)
    try:
        listed = server.list_releases()
    except CommandError as error:
        yield CheckResult("releases", CheckStatus.FAILED, error.message, error.exit_code)
        return
    yield _check_active(listed["routing"])
    yield from map(_check_release, listed["releases"])
    yield from check_function_apps(app, options.function_apps, options.task_hub_setting)
    yield from _check_routers(listed, options.now)
    yield check_status_url(options.status_url, listed["releases"], listed["removed"])
    active = next(
        (release for release in listed["releases"] if release["version"] == listed["routing"]["active"]), None
    )
    if active is None:
        yield from options.check_host_json()
        return
    is_verified = app["taskHubs"] is not None
    yield from hold_back_repairs(server, app, _check_settings(server, active, options, is_verified=is_verified))
    yield from check_extension(server, active["taskHub"], options.host_json, is_verified=is_verified)
    yield from check_evidence(
        app,
        active["taskHub"],
        lambda verify: server.get_release_status(active["version"], verify=verify),
        hints=_EVIDENCE_HINTS,
        now=options.now,
        state_server=options.state_server,
    )


def _check_settings(
    server: StateServerClient, active: Json, options: CheckOptions, *, is_verified: bool
) -> Iterator[CheckResult]:
    """Follow the events of the active release, as far as Azure may be asked and shows its Function App."""
    function_apps = options.function_apps
    function_app = None
    if function_apps is not None:
        # `check_function_apps` has reported why there is none.
        with suppress(CommandError):
            function_app = function_apps.find_by_address(active["address"])
    if function_apps is None or function_app is None:
        yield from options.check_host_json()
        return
    site = DurableSite(
        f"release {active['version']}",
        names=[*options.host_json.topic_source.setting_names, *OVERRIDE_NAMES],
        read=partial(function_apps.read_settings, function_app),
        change=partial(function_apps.change_settings, function_app),
    )
    yield from options.check_events(server, active["taskHub"], [site], ErrorFilter(), is_verified=is_verified)


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
            f"its removal was begun by {removal['by']} at {format_instant(removal['startedAt'])} and is not complete. "
            "Run safe-deploy retire"
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
