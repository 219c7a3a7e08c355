"""Lifecycle events of the development host: what is published about an episode, and what happens if it cannot be."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from dev.local import free_port
from durable_app.local.hub import notices
from durable_app.local.lifecycle import Notice, Notifications, Publisher, event
from durable_app.local.rows import Instance, row
from tests import recordings
from tests.durable_app.processes import ROOT, topic
from tests.taskhubs import provider

HOST = json.loads((ROOT / "durable_app" / "host.json").read_text())
NOTICE = Notice("ProcessOrder", "order-1", "Running")


def ended(status: pb.OrchestrationStatus, message: str | None = None) -> pb.OrchestratorAction:
    failure = pb.TaskFailureDetails(errorType="builtins.OSError", errorMessage=message) if message else None
    return pb.OrchestratorAction(
        completeOrchestration=pb.CompleteOrchestrationAction(orchestrationStatus=status, failureDetails=failure)
    )


# What is published


@pytest.mark.parametrize(
    ("first", "actions", "told"),
    [
        (True, [], ["Running"]),
        (False, [], []),
        (True, [ended(pb.ORCHESTRATION_STATUS_COMPLETED)], ["Running", "Completed"]),
        (False, [ended(pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW)], ["Completed"]),
        (False, [ended(pb.ORCHESTRATION_STATUS_TERMINATED)], ["Terminated"]),
        (False, [pb.OrchestratorAction(scheduleTask=pb.ScheduleTaskAction(name="PriceItem"))], []),
    ],
)
def test_an_episode_is_told_by_its_beginning_and_its_end(first: bool, actions: list[Any], told: list[str]) -> None:
    assert [one.runtime_status for one in notices("ProcessOrder", "order-1", first, actions)] == told


def test_a_failure_is_told_with_its_reason() -> None:
    (one,) = notices("ProcessOrder", "order-1", False, [ended(pb.ORCHESTRATION_STATUS_FAILED, "no carrier")])
    assert (one.runtime_status, one.reason) == (
        "Failed",
        "Orchestrator function 'ProcessOrder' failed: OSError: no carrier",
    )


def test_an_event_has_the_fields_of_a_recorded_one() -> None:
    sample = recordings.event("chain-3", "Running")
    made = event("v41", NOTICE, datetime(2026, 11, 20, 9, 30, 0, 123456, UTC), "1")
    assert set(made) == set(sample)
    assert set(made["data"]) == set(sample["data"])
    for name in ("subject", "eventType", "dataVersion"):
        assert made[name] == sample[name]
    assert made["eventTime"] == "2026-11-20T09:30:00.1234560Z"


def test_a_row_has_the_names_and_types_of_the_providers() -> None:
    now = datetime.now(UTC)
    ours = row("v41", Instance("a/b", "1", "ProcessOrder", "Completed", now, now, now, given="1", output="2"))
    theirs = provider.row("v41", "a/b", "Completed")
    assert {name: type(value) for name, value in ours.items()} == {name: type(value) for name, value in theirs.items()}
    assert ours["PartitionKey"] == theirs["PartitionKey"]


# How it is published


def test_host_json_publishes_all_four_types_with_retries_to_the_topic_of_a_setting() -> None:
    settings = {"LIFECYCLE_TOPIC_ENDPOINT": "https://topic", "LIFECYCLE_TOPIC_KEY": "key"}
    found = Notifications.of(HOST, settings)
    assert found == Notifications(
        "https://topic",
        "key",
        5,
        timedelta(seconds=10),
        [408, 429, 500, 502, 503, 504],
        ["Started", "Completed", "Failed", "Terminated"],
    )
    assert all(found.wants(one) for one in ("Running", "Completed", "Failed", "Terminated"))


def test_without_an_endpoint_nothing_is_published() -> None:
    assert Notifications.of(HOST, {}) is None
    Publisher("v41", None).publish(NOTICE)


def test_an_endpoint_without_a_key_is_an_error() -> None:
    with pytest.raises(ValueError, match="LIFECYCLE_TOPIC_KEY"):
        Notifications.of(HOST, {}, "https://topic")


def test_a_type_that_is_not_wanted_is_not_published() -> None:
    with topic() as to:
        Publisher("v41", Notifications(to.url, "key", event_types=["Completed"])).publish(NOTICE)
        assert to.events == []


def test_an_event_is_posted_again_until_it_is_taken() -> None:
    slept: list[float] = []
    answers = [503, 429, 200]
    with topic() as to:
        to.meanwhile = lambda _: answers.pop(0)
        Publisher("v41", Notifications(to.url, "key", 5, timedelta(seconds=10), [429]), slept.append).publish(NOTICE)
        assert to.statuses("order-1") == ["Running"]
    assert (slept, answers) == ([10, 10], [])


@pytest.mark.parametrize("status", [400, 401, 500])
def test_an_event_is_given_up_at_once_after_an_answer_that_host_json_does_not_name(status: int) -> None:
    slept: list[float] = []
    with topic() as to:
        to.meanwhile = lambda _: status
        Publisher("v41", Notifications(to.url, "key", 5, timedelta(seconds=10), [429]), slept.append).publish(NOTICE)
    assert slept == []


def test_an_event_is_given_up_after_the_retries() -> None:
    """The orchestration goes on; that the event is missing is for the state server to find out."""
    slept: list[float] = []
    nobody = f"http://127.0.0.1:{free_port()}/"
    Publisher("v41", Notifications(nobody, "key", 2, timedelta(seconds=10)), slept.append).publish(NOTICE)
    assert slept == [10, 10]
