"""What to run next, by the code of a verdict's reason or warning, or of a problem document.

The server names its own operations, and no commands. This table is the only place that leads from a code to a command.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from safe_deploy.command_words import use_command_words

_COMMAND_WITH_OPTION = re.compile(r"safe-deploy [a-z-]+ --[a-z-]+")

NO_NEXT_STEP = ""
"""The entry of a code that never reaches a person at the command line, or whose message is all there is to say."""

_RUN_AGAIN = "Run the same command again in a minute"

REASON_STEPS: Mapping[str, str] = {
    "InstancesActive": (
        "Wait with safe-deploy status --wait. safe-deploy instances lists the instances. To let one that is stuck not "
        "block: safe-deploy waive --task-hub HUB --instance-id ID --reason TEXT"
    ),
    "StartsPending": (
        "Let the app run until the starts have been taken: check that its Function App is started. If you know what "
        "the messages are, let invisible ones not block: safe-deploy waive --task-hub HUB --unexplained-messages "
        "NUMBER --reason TEXT"
    ),
    "Settling": "Wait with safe-deploy status --wait: it asks again when the time is over",
    "DeploymentInProgress": (
        "Wait for that run. If it has ended, take over with --reason TEXT and safe-deploy stage --take-over, or side "
        "by side safe-deploy release --take-over"
    ),
    "SwapPending": (
        "Wait for that run. If it has ended, run its safe-deploy deploy or swap again: it compares the slots in Azure "
        "and reports the outcome"
    ),
    "RolloutInProgress": (
        "safe-deploy rollout status shows what is waited for and until when, and safe-deploy rollout finish or abort "
        "ends a rollout that is in progress"
    ),
    "ReleaseInUse": (
        "Give its requests to another release with safe-deploy promote, or roll back. If it was adopted and gets no "
        "requests, promote the active release again"
    ),
    "RoutersBehind": (
        "Wait a minute. safe-deploy releases shows the routers, and safe-deploy forget-router removes one that is gone"
    ),
    "VerificationRequired": (
        "An administrator says where the task hubs are: safe-deploy register --provider NAME --connection SETTING"
    ),
    "ProbePending": "Run the command with --verify cached, which reads the task hub",
    "ProbeFailed": "Correct what the message names, and check it with safe-deploy doctor",
    "ProbeDenied": (
        "Give the server's identity the role that the message names, which can take some minutes to apply, and check "
        "it with safe-deploy doctor"
    ),
    "ProbeThrottled": "Wait with safe-deploy status --wait: the storage is busy, and is read again later",
    "TaskHubMissing": (
        "Start the Function App of this version, and check its task hub name with safe-deploy doctor. If the version "
        "was never started, stage the next one with safe-deploy stage --force --reason TEXT"
    ),
    "ProbeIncomplete": "Wait with safe-deploy status --wait: each request continues to read the task hub",
    "ProbeStale": "Run the command with --verify cached, which reads the task hub again if that is necessary",
}
"""The reasons of a verdict. Where a problem has the same code, the step is the same."""

_RETIRE_AGAIN = "Wait with safe-deploy retire --wait"

RELEASE_STEPS: Mapping[str, str] = {
    **REASON_STEPS,
    "InstancesActive": (
        f"{_RETIRE_AGAIN}. safe-deploy instances --release VERSION lists the instances. To let one that is stuck not "
        "block: safe-deploy waive --task-hub HUB --instance-id ID --reason TEXT"
    ),
    "Settling": _RETIRE_AGAIN,
    "ProbePending": _RETIRE_AGAIN,
    "ProbeThrottled": _RETIRE_AGAIN,
    "ProbeIncomplete": _RETIRE_AGAIN,
    "ProbeStale": _RETIRE_AGAIN,
    "TaskHubMissing": (
        "Check the task hub name of this release with safe-deploy doctor. If the release was never started, start its "
        "Function App, or let a task hub that has never existed count as drained with safe-deploy policy set "
        "missingTaskHubIsDrained=true"
    ),
}
"""The reasons of a verdict on a release side by side, to which status and stage do not apply."""

WARNING_STEPS: Mapping[str, str] = {
    "EventsOnly": (
        "An administrator says where the task hubs are: safe-deploy register --provider NAME --connection SETTING"
    ),
    "MessagesUnseen": "Keep the app running until its task hub has drained. safe-deploy doctor checks what can be read",
}

PROBLEM_STEPS: Mapping[str, str] = {
    "InvalidRequest": "Correct the command line: the command with --help explains each option",
    "Unauthorized": "Set SAFE_DEPLOY_KEY to a key of this server",
    "Forbidden": "Use a key with this role and for this app. safe-deploy doctor shows what the present one allows",
    "NotFound": "Check --server: it is the address of the state server, without a path",
    "AppNotFound": (
        "Correct --app. If the app is new, an administrator creates it and registers its task hub in production: "
        "safe-deploy register --create"
    ),
    "SlotNotFound": "Check --slot: safe-deploy show lists the slots",
    "TaskHubNotFound": "safe-deploy doctor checks whether the events of an app arrive",
    "WaiverNotFound": "Check --task-hub and --instance-id: the case of an instance id matters",
    "ReleaseNotFound": "Check --version: safe-deploy releases shows them. safe-deploy release registers a new one",
    "RouterNotFound": "Check the name of the router. safe-deploy releases shows the routers",
    "RolloutNotFound": "The command is safe-deploy rollout start",
    "MethodNotAllowed": "Update the server or this command line: they do not fit together",
    "StagingNotReady": "Wait with safe-deploy status --wait",
    "TaskHubInUse": "Deploy with a new --task-hub name",
    "TaskHubAlreadyUsed": NO_NEXT_STEP,  # its messages say which name to use
    "TaskHubClaimed": "Take the task hub out of its slot, and run safe-deploy cleanup for the app that has claimed it",
    "TaskHubNotDrained": "Wait until its instances have ended: safe-deploy instances --task-hub lists them",
    "AppNotDrained": (
        "safe-deploy instances lists the instances that are active. To let one not block: safe-deploy waive --task-hub "
        "HUB --instance-id ID --reason TEXT"
    ),
    "CleanupRequired": "Run safe-deploy cleanup until no task hub is left",
    "SwapMismatch": "safe-deploy doctor compares the task hubs on record with those in Azure",
    "WrongModel": (
        "With releases side by side the commands are release, promote, rollout, rollback and retire; with slots they "
        "are status, stage, swap, rollout, rollback and cleanup"
    ),
    "TooManyReleases": (
        "Remove drained releases with safe-deploy retire, or raise maxReleases with safe-deploy policy set"
    ),
    "ReleaseExists": "Deploy with a new --version, --task-hub and --address",
    "AddressNotAllowed": (
        "Correct --address. An administrator changes what is allowed: safe-deploy policy set addressPattern=PATTERN"
    ),
    "ReleaseNotDrained": "Wait with safe-deploy retire --wait",
    "ReleaseRemoved": "Promote another release with safe-deploy promote",
    "ReleaseNotDeployed": "Start its Function App, and run the same command again",
    "RemovalPending": "Wait for that run. If it has ended, run safe-deploy retire again: it continues the removal",
    "RolloutEnded": "safe-deploy rollout status shows how it ended, and safe-deploy rollout start begins another one",
    "WeightChanged": "Run safe-deploy rollout start again with the same options: it sets the share in Azure",
    "ProbeNotConfigured": (
        "An administrator says where the task hubs are: safe-deploy register --provider NAME --connection SETTING"
    ),
    "Conflict": "Run the same command again in a few seconds",
    "PreconditionFailed": "The app has changed meanwhile. Run the same command again to decide on its present state",
    "RequestTimeout": _RUN_AGAIN,
    "PayloadTooLarge": NO_NEXT_STEP,  # events only: no command sends a body of that size
    "UnsupportedMediaType": NO_NEXT_STEP,  # events only: safe-deploy sends JSON
    "TaskHubUnavailable": "Correct what the message names, check it with safe-deploy doctor, and run the command again",
    "StorageUnavailable": f"{_RUN_AGAIN}. If it fails again, the server's log says why",
    "SettingsInvalid": "Correct the server's setting that the message names, and restart the server",
    "KeysNotConfigured": "Make a key with safe-deploy keys new, and add its entry to the server's setting STATE_KEYS",
    "UnsupportedSchema": "Update the server to the version that wrote these rows",
    "TooManyEvents": NO_NEXT_STEP,  # events only: Event Grid sends the delivery again
    "InternalError": f"{_RUN_AGAIN}. If it fails again, find the traceId in the server's log, and report it",
}
"""The problems whose code is no reason's code too."""

NEXT_STEPS: Mapping[str, str] = {**REASON_STEPS, **WARNING_STEPS, **PROBLEM_STEPS}


def find_next_step(code: str | None) -> str:
    """What to run next, as sentences without the last period; empty if nothing is known or necessary."""
    return NEXT_STEPS.get(code or "", NO_NEXT_STEP)


def list_next_steps(reasons: Sequence[Mapping[str, Any]], steps: Mapping[str, str] = NEXT_STEPS) -> list[str]:
    """What to run next, for each reason of a verdict that has a step in `steps`. The same step is listed once."""
    return list(dict.fromkeys(step for reason in reasons if (step := steps.get(str(reason.get("code"))))))


def format_reason(reason: Mapping[str, Any]) -> str:
    """A reason, a warning or a decision of the server as `CODE: text`, in the words of the command line."""
    return f"{reason['code']}: {use_command_words(str(reason['message']))}"


def format_reasons(reasons: Sequence[Mapping[str, Any]]) -> str:
    """The reasons of a verdict in one line."""
    return "; ".join(map(format_reason, reasons))


def append_next_step(message: str, code: str | None) -> str:
    """The message, ending with what to run next, unless it names the same commands with the same options already."""
    step = find_next_step(code)
    commands = set(_COMMAND_WITH_OPTION.findall(step))
    if not step or (commands and commands <= set(_COMMAND_WITH_OPTION.findall(message))):
        return message
    return f"{message.rstrip('.')}. {step}"
