"""Whether a key permits what it is needed for.

A key is tried with requests whose content every server refuses. A server checks the key before the content, so the
refusal shows whether the key permits the operation."""

from collections.abc import Callable, Mapping
from enum import StrEnum

from safe_deploy.client import Json, StateServerClient
from safe_deploy.diagnostics.results import CheckResult, CheckStatus
from safe_deploy.errors import CommandError, ExitCode, NotAllowed, ServerUnavailable

NONEXISTENT_TASK_HUB = "nothing"
"""GetTaskHub is tried with this name. The answer 404 shows that the key permits the operation."""

_INVALID_NAME = "-"
"""No version and no router has this name."""

Requests = Mapping[str, Callable[[], object]]
"""A request for each operation, by the operation's name."""


class KeyPurpose(StrEnum):
    """What a key must permit. Each purpose includes the ones before it."""

    READ = "read"
    DEPLOY = "deploy"
    ADMINISTER = "administer"


def check_key(requests: Mapping[KeyPurpose, Requests], purpose: KeyPurpose) -> CheckResult:
    """Try every operation that the purpose needs."""
    denied = []
    for operation, send_request in _select_requests(requests, purpose).items():
        try:
            send_request()
        except NotAllowed:
            denied.append(operation)
        except CommandError as error:
            # A problem document means that the server has accepted the key and refused the content. Any other error
            # does not show whether the key is good.
            if isinstance(error, ServerUnavailable) or not error.problem:
                message = f"{operation} cannot be tried: {error.message}"
                return CheckResult("key", CheckStatus.FAILED, message, error.exit_code)
    if denied:
        message = (
            f"it does not permit {', '.join(denied)}, which --for {purpose} needs. Set SAFE_DEPLOY_KEY to a key that "
            "does"
        )
        return CheckResult("key", CheckStatus.FAILED, message, ExitCode.NOT_ALLOWED)
    return CheckResult("key", CheckStatus.OK, f"it permits all operations that --for {purpose} needs")


def _select_requests(requests: Mapping[KeyPurpose, Requests], purpose: KeyPurpose) -> Requests:
    """The requests of a purpose and of those before it."""
    selected: dict[str, Callable[[], object]] = {}
    for needed in KeyPurpose:
        selected |= requests[needed]
        if needed is purpose:
            break
    return selected


def build_slot_requests(server: StateServerClient, slot: str) -> Mapping[KeyPurpose, Requests]:
    """The requests for an app with slots. Nothing can change, because their content is invalid."""
    app = server.app_path
    invalid_body: Json = {"taskHub": 0}
    return {
        KeyPurpose.READ: {
            "GetApp": server.get_app,
            "GetStagingStatus": lambda: server.get_staging_status(slot, verify="none"),
            **_build_common_reads(server),
        },
        KeyPurpose.DEPLOY: {
            "PostStaging": lambda: server.request_json("POST", f"{app}/staging", invalid_body),
            "DeleteStaging": lambda: server.request_json("DELETE", f"{app}/staging"),
            "PostSwap": lambda: server.request_json("POST", f"{app}/swap", invalid_body),
            **_build_cleanup(server),
        },
        KeyPurpose.ADMINISTER: _build_administration(server),
    }


def build_release_requests(server: StateServerClient) -> Mapping[KeyPurpose, Requests]:
    """The requests for an app with releases side by side. Nothing can change, because their content is invalid."""
    app = server.app_path
    release, router = f"{app}/releases/{_INVALID_NAME}", f"{app}/routers/{_INVALID_NAME}"
    return {
        KeyPurpose.READ: {
            "GetApp": server.get_app,
            "ListReleases": server.list_releases,
            "GetReleaseStatus": lambda: server.get_release_status(_INVALID_NAME, verify="none"),
            **_build_common_reads(server),
        },
        KeyPurpose.DEPLOY: {
            "PostRelease": lambda: server.post_release({"taskHub": 0}),
            "DeleteRelease": lambda: server.request_json("DELETE", release, query={"outcome": "?"}),
            "PutRouting": lambda: server.request_json("PUT", f"{app}/routing", {"active": 0}),
            **_build_cleanup(server),
        },
        KeyPurpose.ADMINISTER: {
            **_build_administration(server),
            "ForgetRouter": lambda: server.request_json("DELETE", router),
        },
    }


def _build_common_reads(server: StateServerClient) -> Requests:
    """Requests that a key needs for reading in any app. They change nothing."""
    return {
        "GetHistory": lambda: server.get_history(1),
        "GetTaskHub": lambda: server.get_task_hub(NONEXISTENT_TASK_HUB),
    }


def _build_cleanup(server: StateServerClient) -> Requests:
    """A request for Cleanup that a permitted key gets refused as invalid, so that it removes nothing."""
    return {"Cleanup": lambda: server.request_json("POST", f"{server.app_path}/cleanup", {"dryRun": "?"})}


def _build_administration(server: StateServerClient) -> Requests:
    """Requests of an administrator. Those that would change the app are invalid, so that they change nothing."""
    app = server.app_path
    return {
        "PutApp": lambda: server.request_json("PUT", app, {"slots": 0}),
        "PostWaiver": lambda: server.request_json("POST", f"{app}/waivers", {"taskHub": 0}),
        "ListInstances": lambda: server.list_instances(NONEXISTENT_TASK_HUB, {"top": 1}),
    }
