"""`safe-deploy rollout`: what it sends, prints and publishes, and how it follows a rollout through failures."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from safe_deploy.errors import ExitCode
from safe_deploy.rollouts import following
from tests.safe_deploy.assertions import assert_exit
from tests.safe_deploy.canned_server import CannedServer, run_canned_server
from tests.safe_deploy.ci_systems import github_environment, read_outputs
from tests.safe_deploy.rollout_responses import build_health, build_rollout

START = ["rollout", "start", "--version", "1.5.0", "--steps", "10@15m,50@30m"]
CONFLICT = {"status": 409, "code": "RolloutInProgress", "detail": "a rollout of release 1.5.0 is in progress"}
SECOND_STEP = {"step": 2, "weight": 50, "stepEndsAt": "2026-11-27T14:45:00.0000000Z"}
ABORTED = {
    "state": "Aborted",
    "weight": 0,
    "stepEndsAt": None,
    "waitsFor": None,
    "lastDecision": {
        "at": "2026-11-27T14:10:00.0000000Z",
        "action": "Abort",
        "code": "FailureRateHigher",
        "message": "9 of 40 failed, against 10 of 352",
    },
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[CannedServer]:
    """A server with a healthy enough rollout, which is read without pauses."""
    monkeypatch.setattr(following, "POLL_SECONDS", 0)
    with run_canned_server() as server:
        server.answer("PUT /rollout", build_rollout())
        server.answer("GET /rollout", build_rollout())
        server.answer("GET /health", build_health())
        yield server


def test_a_rollout_is_begun_and_its_steps_are_printed(server: CannedServer, tmp_path: Path) -> None:
    result = server.run(*START, **github_environment(tmp_path))
    assert_exit(result, ExitCode.DONE)
    title, *_ = result.stdout.splitlines()
    assert title == "rollout of release 1.5.0 in app shop: Running, step 1 of 2, 10 % of the traffic"
    assert "waits for StepTime: step 1 of 2 lasts 15 minutes" in result.stdout
    assert read_outputs(tmp_path) == {
        "state": "Running",
        "candidate": "1.5.0",
        "baseline": "1.4.0",
        "step": "1",
        "weight": "10",
        "decided-by": "",
    }
    assert server.requests == ["GET /api/apps/shop", "PUT /api/apps/shop/rollout"]


def test_following_prints_a_line_when_something_changes(server: CannedServer) -> None:
    server.answer(
        "GET /rollout", build_rollout(), build_rollout(), build_rollout(**SECOND_STEP), build_rollout(state="Finished")
    )
    server.answer("GET /health", *[build_health()] * 3, build_health("Healthy", "FailureRateNotHigher"))
    result = server.run(*START, "--wait")
    assert_exit(result, ExitCode.DONE)
    lines = [line.partition(" ")[2] for line in result.stderr.splitlines()]
    first, undecided, second, healthy, finished = lines
    assert first.startswith("rollout of release 1.5.0 in app shop: Running, step 1 of 2, 10 % of the traffic, until ")
    assert undecided == (
        "Undecided (EvidenceInconclusive): 1.5.0: 3 of 38 failed (7.9 %), 1.4.0: 10 of 352 failed (2.8 %); evidence of "
        "unhealthy 2.7, of healthy 0.1, needed 20"
    )
    assert "step 2 of 2, 50 %" in second
    assert healthy.startswith("Healthy (FailureRateNotHigher): ")
    assert finished == "rollout of release 1.5.0 in app shop: Finished"


def test_numbers_are_printed_now_and_then_although_nothing_changes(
    server: CannedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "HEARTBEAT_SECONDS", 0)
    server.answer("GET /rollout", build_rollout(), build_rollout(state="Finished"))
    result = server.run(*START, "--wait")
    assert result.stderr.count("3 of 38 failed") == 2


@pytest.mark.parametrize(
    ("members", "code", "message"),
    [
        (ABORTED, ExitCode.FAILURE, ": 9 of 40 failed, against 10 of 352"),
        ({"state": "Paused"}, ExitCode.NOT_READY, "is paused at 10 %. Run safe-deploy rollout resume, finish or abort"),
    ],
    ids=["aborted", "paused"],
)
def test_the_exit_code_says_how_the_rollout_has_ended(
    server: CannedServer, members: dict[str, object], code: ExitCode, message: str
) -> None:
    server.answer("GET /rollout", build_rollout(**members))
    result = server.run(*START, "--wait")
    assert_exit(result, code, message)
    assert str(members["state"]) in result.stdout


def test_a_rollout_that_takes_longer_goes_on(server: CannedServer) -> None:
    assert_exit(server.run(*START, "--wait", "--timeout", "0"), ExitCode.TIMED_OUT, "goes on", "Run the same command")


def test_ctrl_c_ends_the_command_and_not_the_rollout(server: CannedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_seconds: float) -> None:
        """Interrupt the wait, as Ctrl-C does."""
        raise KeyboardInterrupt

    monkeypatch.setattr("safe_deploy.rollouts.following.time.sleep", interrupt)
    result = server.run(*START, "--wait")
    assert_exit(result, ExitCode.INTERRUPTED, "the rollout goes on without this command", "stopped")
    assert not [request for request in server.requests if "POST" in request]


def test_an_option_out_of_range_is_named(server: CannedServer) -> None:
    errors = [{"field": "body.analysis.confidence", "message": "Input should be less than or equal to 0.9999"}]
    problem = {"status": 400, "code": "InvalidRequest", "detail": "body.analysis.confidence: …", "errors": errors}
    server.answer("PUT /rollout", problem)
    result = server.run(*START, "--confidence", "95")
    assert_exit(
        result, ExitCode.USAGE, "error: InvalidRequest: --confidence: Input should be less than or equal to 0.9999"
    )


@pytest.mark.parametrize("command", [[], ["rollout"], ["rollout", "start"], ["timeline"], ["health"]])
def test_h_shows_the_options(server: CannedServer, command: list[str]) -> None:
    result = server.run(*command, "-h")
    assert_exit(result, ExitCode.DONE)
    assert result.stdout.startswith("Usage: ")


def test_following_survives_a_server_that_cannot_answer(server: CannedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safe_deploy.client.RETRY_SECONDS", 0)
    unavailable = {"status": 503, "code": "StorageUnavailable", "detail": "the storage cannot be reached"}
    server.answer("GET /rollout", unavailable, build_rollout(state="Finished"))
    server.answer("GET /health", unavailable, build_health())
    result = server.run(*START, "--wait")
    assert_exit(result, ExitCode.DONE, "the storage cannot be reached; trying again")


def test_a_failure_that_lasts_is_printed_once(server: CannedServer) -> None:
    server.answer("GET /rollout", *[build_rollout()] * 3, build_rollout(state="Finished"))
    server.answer("GET /health", {"status": 409, "code": "WrongModel", "detail": "no versions to compare"})
    result = server.run(*START, "--wait")
    assert_exit(result, ExitCode.DONE)
    assert (
        result.stderr.count(
            "the health of the candidate is not known: WrongModel: no versions to compare; trying again"
        )
        == 1
    )


def test_starting_it_again_follows_the_rollout_that_is_in_progress(server: CannedServer) -> None:
    server.answer("PUT /rollout", CONFLICT)
    server.answer("GET /rollout", build_rollout(), build_rollout(state="Finished"))
    assert_exit(server.run(*START, "--wait"), ExitCode.DONE, "is in progress already")


def test_a_rollout_of_this_run_that_was_aborted_is_not_begun_again(server: CannedServer) -> None:
    server.answer("PUT /rollout", build_rollout(**ABORTED))
    result = server.run(*START)
    assert_exit(result, ExitCode.FAILURE, "was not begun again", "start it in another run", ": 9 of 40")


@pytest.mark.parametrize(
    "arguments",
    [
        ["rollout", "start", "--version", "1.6.0", "--steps", "10@15m,50@30m"],
        ["rollout", "start", "--version", "1.5.0", "--steps", "10@15m"],
        [*START, "--on-unhealthy", "pause"],
    ],
    ids=["version", "steps", "analysis"],
)
def test_another_rollout_is_a_conflict(server: CannedServer, arguments: list[str]) -> None:
    server.answer("PUT /rollout", CONFLICT)
    server.answer("GET /rollout", build_rollout())
    result = server.run(*arguments)
    assert_exit(result, ExitCode.CONFLICT, "a rollout of release 1.5.0 is in progress")


@pytest.mark.parametrize("action", ["pause", "resume", "abort", "finish"])
def test_a_change_is_sent_with_its_reason(server: CannedServer, action: str) -> None:
    server.answer(f"POST /rollout/{action}", build_rollout())
    result = server.run("rollout", action, "--reason", "looks odd", "--output", "json")
    assert_exit(result, ExitCode.DONE)
    assert result.json() == build_rollout()
    assert server.requests[-1] == f"POST /api/apps/shop/rollout/{action}"


def test_a_release_must_be_named(server: CannedServer) -> None:
    result = server.run("rollout", "start", "--steps", "10@15m")
    assert_exit(result, ExitCode.USAGE, "Name the candidate with --version")


def test_steps_of_another_form_are_refused_before_a_request(server: CannedServer) -> None:
    assert_exit(server.run(*START[:4], "--steps", "10"), ExitCode.USAGE, "such as 10@15m,50@30m")
    assert server.requests == []


def test_a_verdict_that_waits_for_a_rollout_says_what_to_run(server: CannedServer) -> None:
    verdict = {
        "app": "shop",
        "slot": "staging",
        "taskHub": "shop150",
        "version": "1.5.0",
        "ready": False,
        "status": "NotReady",
        "hasRunning": True,
        "activeCount": 0,
        "active": [],
        "reasons": [{"code": "RolloutInProgress", "message": "the slot takes part in a rollout"}],
        "evidence": {"probe": None},
        "assurance": "events",
    }
    server.answer("GET /staging", verdict)
    result = server.run("status")
    assert_exit(result, ExitCode.NOT_READY)
    assert result.stdout.splitlines()[-1].startswith("safe-deploy rollout status shows what is waited for")


def test_a_refusal_during_a_rollout_says_what_to_run(server: CannedServer) -> None:
    server.answer("PUT /rollout", CONFLICT)
    server.answer("GET /rollout", build_rollout(candidate="1.6.0"))
    assert_exit(server.run(*START), ExitCode.CONFLICT, "in progress. safe-deploy rollout status shows")


@pytest.mark.parametrize("arguments", [START, ["rollout", "finish"]], ids=["start", "finish"])
def test_functions_that_only_the_active_release_may_run_are_not_forgotten(
    server: CannedServer, arguments: list[str]
) -> None:
    policy = {"quiesceFunctions": ["Nightly", "SendInvoices"]}
    server.answer("GET /api/apps/shop", {"app": "shop", "model": "sideBySide", "policy": policy})
    server.answer("POST /rollout/finish", build_rollout(state="Finished"))
    result = server.run(*arguments)
    assert_exit(result, ExitCode.DONE, "warning: a rollout neither disables nor enables functions", "Nightly, Send")
    assert "run safe-deploy promote --version 1.5.0 with --resource-group" in result.stderr
