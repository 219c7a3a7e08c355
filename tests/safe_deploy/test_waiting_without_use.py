"""`status --wait`, `deploy` and `retire --wait` end when only a person can help. The server's times are canned."""

from collections.abc import Iterator
from typing import Any

import pytest

from safe_deploy.errors import ExitCode
from safe_deploy.next_steps import NEXT_STEPS, RELEASE_STEPS
from tests.safe_deploy.canned_server import APP_PATH, CannedServer, run_canned_server
from tests.safe_deploy.test_dead_ends import build_verdict

WAIT = ("status", "--wait", "--timeout", "20s", "--interval", "1s")
SLOT_APP: dict[str, Any] = {
    "app": "shop",
    "model": "slots",
    "slots": {"production": {"taskHub": "v1"}, "staging": {"taskHub": "v2"}},
    "deployment": None,
    "pendingSwap": None,
}
OPEN_DEPLOYMENT = {"taskHub": "v2", "slot": "Staging", "version": None, "by": "me", "runUrl": None}


@pytest.fixture
def server() -> Iterator[CannedServer]:
    """A server that knows the app, whose slot staging holds task hub v2."""
    with run_canned_server() as canned:
        canned.answer(f"GET {APP_PATH}", SLOT_APP)
        yield canned


def verdict(at: float, *codes: str, **members: Any) -> dict[str, Any]:
    """A verdict on slot staging, made `at` seconds after the first one."""
    return build_verdict(at, *codes, **members) | {
        "app": "shop",
        "slot": "staging",
        "version": None,
        "ready": not codes,
        "status": "NotReady" if codes else "Ready",
        "hasRunning": False,
        "assurance": "verified",
        "warnings": [],
        "active": [],
        "activeCountIsLowerBound": False,
    }


@pytest.mark.parametrize("code", ["TaskHubMissing", "ProbeDenied", "VerificationRequired", "StartsPending"])
def test_a_wait_that_is_of_no_use_ends_with_the_reason_and_what_to_do(server: CannedServer, code: str) -> None:
    messages = {"visible": 1} if code == "StartsPending" else None
    minutes = 5 if messages else 1
    server.answer("GET /staging", *(verdict(at, code, messages=messages) for at in (0, 30, 60 * minutes)))
    result = server.run(*WAIT)
    assert result.code == ExitCode.NOT_READY
    (error,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    begin = f"error: slot staging of app shop does not become ready by waiting, unchanged for {minutes} min. "
    assert error.startswith(begin)
    assert f"{code}: {code}. {NEXT_STEPS[code]}" in error
    assert result.stdout.startswith(f"NotReady: slot staging (task hub v2): {code}: {code}\n")


def test_the_reason_is_in_the_outputs_and_the_annotation_of_a_ci_system(server: CannedServer, tmp_path: Any) -> None:
    server.answer("GET /staging", *(verdict(at, "ProbeDenied") for at in (0, 60)))
    files = {"GITHUB_OUTPUT": str(tmp_path / "output"), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
    result = server.run(*WAIT, GITHUB_ACTIONS="true", CI="true", **files)
    assert result.code == ExitCode.NOT_READY
    assert "reasons=ProbeDenied" in (tmp_path / "output").read_text()
    assert "ProbeDenied\\: ProbeDenied" in (tmp_path / "summary").read_text()
    (annotation,) = (line for line in result.stderr.splitlines() if line.startswith("::error "))
    assert "ProbeDenied" in annotation
    assert "safe-deploy doctor" in annotation


def test_a_role_that_applies_after_some_time_does_not_end_the_wait(server: CannedServer) -> None:
    """Some of the server's reads are denied and others are not, while the role is propagated."""
    codes = [["ProbeDenied"], ["ProbeDenied"], ["InstancesActive"], ["ProbeDenied"], ["ProbeDenied"], []]
    server.answer("GET /staging", *(verdict(30 * number, *reasons) for number, reasons in enumerate(codes)))
    assert server.run(*WAIT).code == ExitCode.DONE


@pytest.mark.parametrize("code", ["TaskHubMissing", "StartsPending"])
def test_an_app_that_an_open_deployment_may_start_is_waited_for(server: CannedServer, code: str) -> None:
    """A verdict does not show the deployment of the run that asks."""
    server.answer(f"GET {APP_PATH}", SLOT_APP | {"deployment": OPEN_DEPLOYMENT})
    messages = {"visible": 1} if code == "StartsPending" else None
    waiting = (verdict(at, code, messages=messages) for at in (0, 60, 90, 600))
    server.answer("GET /staging", *waiting, verdict(630))
    assert server.run(*WAIT).code == ExitCode.DONE


def test_a_deployment_into_another_slot_starts_nothing_here(server: CannedServer) -> None:
    server.answer(f"GET {APP_PATH}", SLOT_APP | {"deployment": OPEN_DEPLOYMENT | {"slot": "canary"}})
    server.answer("GET /staging", *(verdict(at, "TaskHubMissing") for at in (0, 60)))
    assert server.run(*WAIT).code == ExitCode.NOT_READY


def test_a_deployment_does_not_give_the_server_a_role(server: CannedServer) -> None:
    server.answer(f"GET {APP_PATH}", SLOT_APP | {"deployment": OPEN_DEPLOYMENT})
    server.answer("GET /staging", *(verdict(at, "ProbeDenied") for at in (0, 60)))
    assert server.run(*WAIT).code == ExitCode.NOT_READY


def test_an_app_that_cannot_be_read_ends_nothing(server: CannedServer) -> None:
    server.answer(f"GET {APP_PATH}", {"status": 503, "code": "StorageUnavailable", "detail": "busy"})
    server.answer("GET /staging", *(verdict(at, "TaskHubMissing") for at in (0, 60, 90)), verdict(100))
    assert server.run(*WAIT).code == ExitCode.DONE


def test_a_deployment_is_not_begun_after_a_wait_that_is_of_no_use(server: CannedServer) -> None:
    server.answer("GET /history", {"app": "shop", "history": [], "continuationToken": None})
    server.answer("GET /staging", *(verdict(at, "TaskHubMissing") for at in (0, 60)))
    commands = ["--deploy-command", "echo deployed", "--swap-command", "echo swapped"]
    result = server.run("deploy", "--task-hub", "v3", "--timeout", "20s", "--interval", "1s", *commands)
    assert result.code == ExitCode.NOT_READY
    assert "TaskHubMissing" in result.stderr
    assert "deployed" not in result.stderr
    assert not [request for request in server.requests if request.startswith("POST")]


# --- releases side by side ---

RELEASE = {
    "taskHub": "v2",
    "address": "https://shop-2.example",
    "state": "Draining",
    "registeredAt": "2026-11-27T11:00:00.0000000Z",
    "firstTrafficAt": "2026-11-27T11:10:00.0000000Z",
    "lastTrafficAt": "2026-11-27T11:20:00.0000000Z",
    "removal": None,
}


@pytest.mark.parametrize("code", ["TaskHubMissing", "ProbeDenied"])
def test_retire_ends_when_no_release_can_drain(server: CannedServer, code: str) -> None:
    app: dict[str, Any] = {
        "app": "shop",
        "model": "sideBySide",
        "releases": {"1.0": RELEASE},
        "removedReleases": [],
        "routing": {"revision": 2, "active": None, "split": None},
        "policy": {"quiesceFunctions": [], "quiesceOrder": "gap"},
        "taskHubs": None,
    }
    server.answer(f"GET {APP_PATH}", app)
    status = {"state": "Draining", "kept": False, "keptUntil": None}
    server.answer("GET /releases/1.0/status", *(verdict(at, code) | status for at in (0, 30, 30, 60)))
    result = server.run("retire", "--wait", "--timeout", "60s", "--", "echo", "deleted")
    assert result.code == ExitCode.NOT_READY
    message = f"unchanged for at least 1 min: release 1.0: {code}: {code}. {RELEASE_STEPS[code]}"
    assert f"waiting does not help: {message}" in result.stderr
    assert "waiting until release 1.0 of app shop may be removed, for at most 1 min" in result.stderr
    assert "deleted" not in result.stderr
