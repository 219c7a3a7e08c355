"""Is everything set up so that a deployment can rely on it? Asks the server and, where it can, the platform; changes
nothing. A key is tried with requests that every server refuses for their content, after it has looked at the key."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from safe_deploy.azure import Azure, AzureUnavailable
from safe_deploy.client import Json, Server
from safe_deploy.errors import CommandError, ExitCode, NotAllowed, Unreachable
from safe_deploy.rendering import age
from safe_deploy.swaps import Record, cut_off, same

PATIENCE_SECONDS = 15
"""How long the doctor tries one request again: it is there to say what does not work."""

_WRONG_EVIDENCE = frozenset({"ProbeFailed", "ProbeDenied", "TaskHubMissing", "VerificationRequired"})

_NO_HUB = "nothing"
"""A key is tried with this name of a task hub: the answer that there is none shows it to be good."""


class Purpose(StrEnum):
    """What a key must be good for."""

    READ = "read"
    DEPLOY = "deploy"
    OPERATE = "operate"


class Standing(StrEnum):
    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """What the doctor found out about one question."""

    question: str
    standing: Standing
    said: str
    exit_code: ExitCode = ExitCode.FAILURE

    def as_json(self) -> Json:
        return {"question": self.question, "standing": self.standing.value, "finding": self.said}


def examine(server: Server, slot: str, azure: Azure | None, purpose: Purpose, now: datetime) -> list[Finding]:
    """All findings; after one that makes the others impossible, no more."""
    findings = [_reachable(server)]
    if findings[0].standing is Standing.WRONG:
        return findings
    findings.append(_key(server, slot, purpose))
    try:
        app, _ = server.get_app()
    except CommandError as error:
        return [*findings, Finding("app", Standing.WRONG, _advice(error), error.exit_code)]
    record = Record.of(app, slot)
    findings += [_app(app, record), *_deploying(app, record)]
    findings += _platform(record, azure) if azure else [_unseen()]
    if record.production is not None:
        findings += _evidence(server, app, record.production, now)
    return findings


def _reachable(server: Server) -> Finding:
    try:
        server.ask("GET", "/api/health")
        server.ask("GET", "/api/health/ready")
    except CommandError as error:
        return Finding("server", Standing.WRONG, error.message, error.exit_code)
    return Finding("server", Standing.OK, f"{server.url} and its storage answer")


def _key(server: Server, slot: str, purpose: Purpose) -> Finding:
    app = server.app_path
    read: dict[str, Callable[[], object]] = {
        "GetApp": server.get_app,
        "GetStagingStatus": lambda: server.staging_status(slot, 0, "none"),
        "GetHistory": lambda: server.history(1),
        "GetTaskHub": lambda: server.task_hub(_NO_HUB),
    }
    # Each breaks the contract, so nothing can come of it but the answer of the lock.
    broken: Json = {"taskHub": 0}
    change: dict[str, Callable[[], object]] = {
        "PostStaging": lambda: server.ask("POST", f"{app}/staging", broken),
        "DeleteStaging": lambda: server.ask("DELETE", f"{app}/staging"),
        "PostSwap": lambda: server.ask("POST", f"{app}/swap", broken),
        "Cleanup": lambda: server.ask("POST", f"{app}/cleanup", {"dryRun": "?"}),
    }
    administer: dict[str, Callable[[], object]] = {
        "PutApp": lambda: server.ask("PUT", app, {"slots": 0}),
        "PostWaiver": lambda: server.ask("POST", f"{app}/waivers", broken),
        "ListInstances": lambda: server.instances(_NO_HUB, {"top": 1}),
    }
    tried = {
        Purpose.READ: read,
        Purpose.DEPLOY: read | change,
        Purpose.OPERATE: read | change | administer,
    }[purpose]
    refused = []
    for name, ask in tried.items():
        try:
            ask()
        except NotAllowed:
            refused.append(name)
        except CommandError as error:
            # Refused for its content by the server itself: the key was good. Anything else says nothing about it.
            if isinstance(error, Unreachable) or not error.problem:
                return Finding("key", Standing.WRONG, f"{name} cannot be tried: {error.message}", error.exit_code)
    if refused:
        said = f"it may not do {', '.join(refused)}; a key to {purpose} must. Set SAFE_DEPLOY_KEY to one that may"
        return Finding("key", Standing.WRONG, said, ExitCode.NOT_ALLOWED)
    return Finding("key", Standing.OK, f"it may do all that it takes to {purpose}")


def _app(app: Json, record: Record) -> Finding:
    if record.production is None:
        said = "the server knows nothing in production, and takes it for empty: safe-deploy register"
        return Finding("app", Standing.WRONG, said)
    held = ", ".join(f"{name} {(content or {}).get('taskHub', 'empty')}" for name, content in app["slots"].items())
    return Finding("app", Standing.OK, held)


def _deploying(app: Json, record: Record) -> Iterator[Finding]:
    if record.pending is not None:
        yield Finding("swap", Standing.WRONG, cut_off(record, record.pending), ExitCode.CONFLICT)
    deployment = app["deployment"]
    if deployment is not None:
        run = f", run {deployment['runUrl']}" if deployment["runUrl"] else ""
        said = f"{deployment['by']}{run} deploys task hub {deployment['taskHub']} since {deployment['startedAt']}"
        yield Finding("deployment", Standing.WARNING, said)


def _unseen() -> Finding:
    said = "not looked at; --resource-group lets the doctor compare what the slots in Azure carry"
    return Finding("Azure", Standing.WARNING, said)


def _platform(record: Record, azure: Azure) -> Iterator[Finding]:
    complaints: set[str] = set()

    def unavailable(question: str, error: AzureUnavailable) -> Iterator[Finding]:
        # What keeps az from looking at all is said once.
        if error.message not in complaints:
            complaints.add(error.message)
            yield Finding(question, Standing.WRONG, error.message)

    for slot, believed in (("production", record.production), (record.slot_name, record.slot)):
        question = f"Azure: {slot}"
        try:
            carried = azure.task_hub(slot)
        except AzureUnavailable as error:
            yield from unavailable(question, error)
            continue
        if same(carried, believed) or (carried is None and believed is None):
            yield Finding(question, Standing.OK, f"carries {carried or 'no task hub'}, as the server believes")
        else:
            said = f"carries {carried or 'no task hub'}, but the server believes {believed or 'it is empty'}"
            yield Finding(question, Standing.WRONG, said, ExitCode.CONFLICT)
    try:
        sticky = azure.is_sticky()
    except AzureUnavailable as error:
        yield from unavailable("Azure: setting", error)
        return
    if sticky:
        said = "the setting with the task hub name is slot-sticky: hubs stay with their slots at a swap. Set it anew "
        yield Finding("Azure: setting", Standing.WRONG, f"{said}with --settings, not --slot-settings")
    else:
        yield Finding("Azure: setting", Standing.OK, "the setting with the task hub name travels with the code")


def _evidence(server: Server, app: Json, production: str, now: datetime) -> Iterator[Finding]:
    """Whether the server hears and sees what happens in production."""
    try:
        verdict = server.staging_status("production")
    except CommandError as error:
        yield Finding("events", Standing.WRONG, error.message, error.exit_code)
        return
    yield _events(verdict, production, app["taskHubs"] is not None, now)
    yield _verification(app, verdict)
    messages = _warning(verdict, "MessagesUnseen")
    if messages is not None:
        yield Finding("messages", Standing.WARNING, messages)


def _events(verdict: Mapping[str, Any], production: str, verified: bool, now: datetime) -> Finding:
    last = verdict["evidence"]["lastEventAt"]
    if last is not None:
        return Finding("events", Standing.OK, f"the last one of task hub {production} is {age(last, now)} old")
    said = (
        f"none ever came of task hub {production}: look at the topic's settings of the app, the event subscription and "
        "its dead letters"
    )
    return Finding("events", Standing.WARNING if verified else Standing.WRONG, said)


def _verification(app: Json, verdict: Mapping[str, Any]) -> Finding:
    question = "verification"
    said = "; ".join(reason["message"] for reason in verdict["reasons"])
    if any(reason["code"] in _WRONG_EVIDENCE for reason in verdict["reasons"]):
        return Finding(question, Standing.WRONG, said)
    if app["taskHubs"] is None:
        why = _warning(verdict, "EventsOnly") or "off: verdicts rest on lifecycle events alone, and events get lost"
        return Finding(question, Standing.WRONG, f"{why.rstrip('.')}. {_CONFIGURE}")
    provider = app["taskHubs"]["provider"]
    if verdict["assurance"] != "verified":
        return Finding(question, Standing.WARNING, f"{provider}; it was not tried through just now: {said}")
    if not app["policy"]["requireVerification"]:
        said = f"{provider}; the policy does not require it, so it can be switched off unnoticed"
        return Finding(question, Standing.WARNING, said)
    return Finding(question, Standing.OK, f"{provider}, and the policy requires it")


def _warning(verdict: Mapping[str, Any], code: str) -> str | None:
    """What the server says that its verdict does not cover, if it says this."""
    return next((str(one["message"]) for one in verdict.get("warnings", []) if one["code"] == code), None)


_CONFIGURE = (
    "To have the server read the app's task hubs (PutApp, taskHubs), type: safe-deploy register --task-hub HUB "
    "--provider azureStorage --connection SETTING"
)
"""What to do about an app whose task hubs nobody reads."""


def _advice(error: CommandError) -> str:
    unknown = error.problem.get("code") == "AppNotFound"
    return f"{error.message}. Tell it what is in production now: safe-deploy register" if unknown else error.message
