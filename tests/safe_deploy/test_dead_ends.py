"""When waiting for Ready is of no use: decided from verdicts and their times alone."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from safe_deploy.dead_ends import extend_streaks, find_dead_end

BEGIN = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
START = {"instanceId": "order-7", "functionName": "ProcessOrder"}
PROBE_CODES = ("ProbeDenied", "TaskHubMissing")


def build_time(seconds: float) -> str:
    """A time as the server writes it, so many seconds after the wait has begun."""
    return f"{BEGIN + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S.%f}0Z"


def build_verdict(
    at: float, *codes: str, read_at: float | None = None, messages: dict[str, Any] | None = None, **members: Any
) -> dict[str, Any]:
    """A verdict with these reasons, made `at` seconds after the wait has begun. `read_at`: when the task hub was read
    for it, by default then too."""
    read_time = build_time(at if read_at is None else read_at)
    if messages is not None:
        messages = {"visible": 1, "invisible": 0, "explained": 0, "starts": [START], "checkedAt": read_time} | messages
    probe = {"status": "Complete", "beganAt": read_time, "endedAt": read_time, "messages": messages}
    return {
        "taskHub": "v2",
        "reasons": [{"code": code, "message": code} for code in codes],
        "activeCount": 0,
        "checkedAt": build_time(at),
        "evidence": {"lastRecordedAt": None, "probe": probe},
    } | members


def find_end(verdicts: Iterable[dict[str, Any] | None]) -> tuple[str, str] | None:
    """The code by which the wait ends, and the time of the verdict at which it does; None if it does not end."""
    streaks = extend_streaks({}, None)
    for verdict in verdicts:
        streaks = extend_streaks(streaks, verdict)
        if verdict is not None and (code := find_dead_end(streaks, verdict)):
            return code, verdict["checkedAt"]
    return None


@pytest.mark.parametrize("code", ["VerificationRequired", *PROBE_CODES])
def test_a_reason_that_lasts_for_a_minute_ends_the_wait_and_not_sooner(code: str) -> None:
    verdicts = [build_verdict(seconds, code) for seconds in (0, 1, 31, 59.9, 60, 90)]
    assert find_end(verdicts) == (code, build_time(60))
    assert find_end(verdicts[:4]) is None


@pytest.mark.parametrize("code", ["VerificationRequired", *PROBE_CODES])
@pytest.mark.parametrize("others", [["InstancesActive"], ["Settling"], ["ProbeThrottled"], []], ids=str)
def test_an_interruption_begins_the_minute_again(code: str, others: list[str]) -> None:
    verdicts = [build_verdict(seconds, code) for seconds in (0, 50)]
    verdicts += [build_verdict(55, *others)]
    verdicts += [build_verdict(seconds, code) for seconds in (58, 90, 117)]
    assert find_end(verdicts) is None
    assert find_end([*verdicts, build_verdict(118, code)]) == (code, build_time(118))


def test_a_request_that_failed_begins_the_minute_again() -> None:
    """What was true then is unknown."""
    verdicts = [
        build_verdict(0, "ProbeDenied"),
        None,
        build_verdict(61, "ProbeDenied"),
        build_verdict(120, "ProbeDenied"),
    ]
    assert find_end(verdicts) is None


@pytest.mark.parametrize("code", PROBE_CODES)
def test_a_read_that_is_repeated_from_the_records_is_no_evidence(code: str) -> None:
    """With `--verify none` the server may show the same old read for hours."""
    assert find_end(build_verdict(seconds, code, read_at=-600) for seconds in range(0, 7200, 30)) is None


@pytest.mark.parametrize("code", PROBE_CODES)
def test_a_read_before_the_wait_does_not_shorten_the_minute(code: str) -> None:
    """A role may have been assigned since."""
    verdicts = [build_verdict(0, code, read_at=-600), build_verdict(5, code), build_verdict(59, code)]
    assert find_end(verdicts) is None


@pytest.mark.parametrize("code", PROBE_CODES)
def test_the_time_that_a_request_waits_at_the_server_counts(code: str) -> None:
    assert find_end([build_verdict(0, code), build_verdict(120, code)]) == (code, build_time(120))


def test_a_verdict_without_a_probe_ends_nothing() -> None:
    verdicts = [build_verdict(seconds, "ProbeDenied") for seconds in (0, 120)]
    for verdict in verdicts:
        verdict["evidence"]["probe"] = None
    assert find_end(verdicts) is None


@pytest.mark.parametrize("code", ["InstancesActive", "Settling", "ProbeFailed", "ProbeThrottled", "RoutersBehind"])
def test_a_reason_that_waiting_can_end_is_waited_for(code: str) -> None:
    assert find_end(build_verdict(seconds, code) for seconds in range(0, 7200, 30)) is None


@pytest.mark.parametrize("other", ["DeploymentInProgress", "SwapPending", "RolloutInProgress"])
def test_while_another_run_works_its_app_may_still_start(other: str) -> None:
    """After that, the minute begins."""
    verdicts = [build_verdict(seconds, other, "TaskHubMissing") for seconds in range(0, 600, 30)]
    verdicts += [build_verdict(seconds, "TaskHubMissing") for seconds in (600, 659)]
    assert find_end(verdicts) is None
    assert find_end([*verdicts, build_verdict(660, "TaskHubMissing")]) == ("TaskHubMissing", build_time(660))


@pytest.mark.parametrize("other", ["DeploymentInProgress", "SwapPending", "RolloutInProgress"])
def test_another_run_does_not_give_the_server_a_role(other: str) -> None:
    verdicts = [build_verdict(seconds, other, "ProbeDenied") for seconds in (0, 60)]
    assert find_end(verdicts) == ("ProbeDenied", build_time(60))


def test_another_task_hub_begins_the_minute_again() -> None:
    verdicts = [build_verdict(0, "TaskHubMissing"), build_verdict(60, "TaskHubMissing", taskHub="v3")]
    assert find_end(verdicts) is None


# --- starts that no worker takes ---


def test_starts_that_stay_visible_for_five_minutes_end_the_wait() -> None:
    """A worker that replaces a killed one, or an app that is started by the message, needs more than a minute."""
    verdicts = [build_verdict(seconds, "StartsPending", messages={"visible": 1}) for seconds in (0, 60, 299, 300)]
    assert find_end(verdicts[:-1]) is None
    assert find_end(verdicts) == ("StartsPending", build_time(300))


@pytest.mark.parametrize(
    "change",
    [
        {"messages": {"visible": 2}},
        {"messages": {"invisible": 1}},
        {"messages": {"starts": [START | {"instanceId": "order-8"}]}},
        {"messages": {"visible": 1}, "activeCount": 1},
        {"messages": {"visible": 1}, "evidence.lastRecordedAt": build_time(25)},
    ],
    ids=str,
)
def test_any_sign_of_a_worker_begins_the_time_again(change: dict[str, Any]) -> None:
    """A worker takes a message, an instance is active, or an event is recorded."""
    recorded_at = change.pop("evidence.lastRecordedAt", None)
    change.setdefault("messages", {})
    verdicts = [build_verdict(0, "StartsPending", messages={"visible": 1})]
    verdicts += [build_verdict(seconds, "StartsPending", **change) for seconds in (30, 300, 329, 330)]
    for verdict in verdicts[1:]:
        verdict["evidence"]["lastRecordedAt"] = recorded_at
    assert find_end(verdicts[:-1]) is None
    assert find_end(verdicts) == ("StartsPending", build_time(330))


def test_invisible_messages_stop_to_block_by_themselves() -> None:
    quiet = {"visible": 0, "invisible": 2, "starts": []}
    assert find_end(build_verdict(at, "StartsPending", messages=quiet) for at in range(0, 900, 30)) is None


def test_a_visible_message_that_starts_nothing_does_not_end_the_wait_for_unexplained_messages() -> None:
    """An app is stopped. An event for an instance that has ended is visible, and the timer of a purged one is not. Only
    the timer blocks, and only for some minutes."""
    counts = {"visible": 1, "invisible": 2, "starts": []}
    unexplained = [build_verdict(at, "StartsPending", messages=counts | {"explained": 1}) for at in range(0, 900, 30)]
    assert find_end(unexplained) is None
    # All are explained, so more messages may be visible than a peek returns.
    explained = [build_verdict(at, "StartsPending", messages=counts | {"explained": 2}) for at in range(0, 900, 30)]
    assert find_end(explained) == ("StartsPending", build_time(300))


def test_unexplained_messages_do_not_prolong_the_wait_for_a_visible_start() -> None:
    counts = {"visible": 1, "invisible": 1, "explained": 0}
    verdicts = [build_verdict(at, "StartsPending", messages=counts) for at in range(0, 900, 30)]
    assert find_end(verdicts) == ("StartsPending", build_time(300))


def test_queues_that_were_not_read_again_are_no_evidence() -> None:
    verdicts = [build_verdict(at, "StartsPending", read_at=0, messages={"visible": 1}) for at in (0, 30, 300)]
    assert find_end(verdicts) is None


def test_starts_are_waited_for_while_another_run_deploys() -> None:
    codes = ("DeploymentInProgress", "StartsPending")
    assert find_end(build_verdict(at, *codes, messages={"visible": 1}) for at in range(0, 900, 30)) is None
