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


STARTED = pb.HistoryEvent(eventId=-1, orchestratorStarted=pb.OrchestratorStartedEvent())


def scheduled(number: int, name: str = "PriceItem") -> pb.HistoryEvent:
    return pb.HistoryEvent(eventId=number, taskScheduled=pb.TaskScheduledEvent(name=name))


def timer(number: int) -> pb.HistoryEvent:
    return pb.HistoryEvent(eventId=number, timerCreated=pb.TimerCreatedEvent())


def fired(number: int) -> pb.HistoryEvent:
    return pb.HistoryEvent(eventId=-1, timerFired=pb.TimerFiredEvent(timerId=number))


def raised(name: str = "Approval") -> pb.HistoryEvent:
    return pb.HistoryEvent(eventId=-1, eventRaised=pb.EventRaisedEvent(name=name))


def published(
    actions: list[pb.OrchestratorAction],
    history: list[pb.HistoryEvent] | None = None,
    arrived: list[pb.HistoryEvent] | None = None,
) -> list[str]:
    """The runtime statuses that one episode publishes."""
    return [
        notice.runtime_status for notice in notices("ProcessOrder", "order-1", history or [], arrived or [], actions)
    ]


# What is published


@pytest.mark.parametrize(
    ("history", "actions", "expected"),
    [
        ([], [], ["Running"]),
        ([STARTED, scheduled(0)], [], []),
        ([STARTED, scheduled(0)], [ended(pb.ORCHESTRATION_STATUS_COMPLETED)], ["Completed"]),
        ([STARTED, scheduled(0)], [ended(pb.ORCHESTRATION_STATUS_FAILED, "no carrier")], ["Failed"]),
        ([STARTED, scheduled(0)], [ended(pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW)], ["Completed"]),
        ([STARTED, scheduled(0)], [ended(pb.ORCHESTRATION_STATUS_TERMINATED)], ["Terminated"]),
        ([STARTED], [pb.OrchestratorAction(scheduleTask=pb.ScheduleTaskAction(name="PriceItem"))], []),
    ],
)
def test_an_episode_publishes_the_start_and_the_end_of_its_execution(
    history: list[Any], actions: list[Any], expected: list[str]
) -> None:
    assert published(actions, history) == expected


@pytest.mark.parametrize(
    ("status", "name"), [(pb.ORCHESTRATION_STATUS_COMPLETED, "Completed"), (pb.ORCHESTRATION_STATUS_FAILED, "Failed")]
)
def test_an_orchestration_that_ends_in_its_first_step_publishes_its_end_first(status: Any, name: str) -> None:
    """The extension posts both at once, so a receiver must understand this order."""
    assert published([ended(status, "no items" if name == "Failed" else None)]) == [name, "Running"]


@pytest.mark.parametrize("status", [pb.ORCHESTRATION_STATUS_COMPLETED, pb.ORCHESTRATION_STATUS_FAILED])
def test_an_end_in_the_step_that_cancels_a_timer_is_not_published(status: Any) -> None:
    waits = [STARTED, scheduled(0), STARTED, timer(1)]
    assert published([ended(status, "rejected")], waits, [STARTED, raised()]) == []


def test_an_end_in_the_step_that_cancels_the_timer_of_an_activity_is_not_published() -> None:
    history = [STARTED, timer(0), scheduled(1)]
    assert published([ended(pb.ORCHESTRATION_STATUS_COMPLETED)], history, [STARTED]) == []


@pytest.mark.parametrize(
    ("history", "arrived"),
    [
        ([STARTED, timer(0)], [STARTED, fired(0)]),
        ([STARTED, timer(0), STARTED, raised(), scheduled(1)], [STARTED]),
        ([STARTED, timer(0), STARTED, fired(0), raised()], [STARTED, raised()]),
    ],
    ids=["the timer fired", "an activity follows", "the timer fired before"],
)
def test_an_end_that_no_cancelled_timer_comes_before_is_published(history: list[Any], arrived: list[Any]) -> None:
    assert published([ended(pb.ORCHESTRATION_STATUS_COMPLETED)], history, arrived) == ["Completed"]


def test_an_instance_that_is_terminated_while_it_waits_for_a_timer_is_published() -> None:
    assert published([ended(pb.ORCHESTRATION_STATUS_TERMINATED)], [STARTED, timer(0)]) == ["Terminated"]


def test_a_failure_because_the_code_has_changed_is_not_published() -> None:
    failure = pb.TaskFailureDetails(errorType="durabletask.task.NonDeterminismError", errorMessage="another activity")
    end = pb.CompleteOrchestrationAction(orchestrationStatus=pb.ORCHESTRATION_STATUS_FAILED, failureDetails=failure)
    assert published([pb.OrchestratorAction(completeOrchestration=end)], [STARTED, scheduled(0)]) == []


def test_a_termination_is_published_with_what_the_operator_said() -> None:
    action = ended(pb.ORCHESTRATION_STATUS_TERMINATED)
    action.completeOrchestration.result.value = '"no longer needed"'
    (notice,) = notices("ProcessOrder", "order-1", [STARTED, scheduled(0)], [], [action])
    assert (notice.runtime_status, notice.reason) == ("Terminated", "no longer needed")


def test_a_failure_is_published_with_its_reason() -> None:
    action = ended(pb.ORCHESTRATION_STATUS_FAILED, "no carrier")
    (notice,) = notices("ProcessOrder", "order-1", [STARTED, scheduled(0)], [], [action])
    assert (notice.runtime_status, notice.reason) == ("Failed", "Message: no carrier")


def test_a_failure_of_an_activity_is_published_with_the_names_of_the_activity_and_the_exception() -> None:
    cause = pb.TaskFailureDetails(errorType="orders.payment.CardDeclinedError", errorMessage="the card was declined")
    action = ended(pb.ORCHESTRATION_STATUS_FAILED, "order-1: Activity task #2 failed")
    action.completeOrchestration.failureDetails.innerFailure.CopyFrom(cause)
    failed = pb.HistoryEvent(eventId=-1, taskFailed=pb.TaskFailedEvent(taskScheduledId=2))
    history = [STARTED, scheduled(1), scheduled(2, "ChargePayment")]
    (notice,) = notices("ProcessOrder", "order-1", history, [STARTED, failed], [action])
    assert notice.reason == (
        "Message: Activity function 'ChargePayment' failed: CardDeclinedError: the card was declined"
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
        2,
        timedelta(seconds=0.5),
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
    assert slept == [10, 10, 10], "the extension waits after the last attempt too"
