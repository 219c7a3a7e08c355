"""Lifecycle events of the development host: which events an episode publishes, and how failures are handled."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from durable_app.local.lifecycle_events import NotificationSettings, Publisher, StatusChange, build_event
from durable_app.local.task_hub_engine import find_published_changes
from durable_app.local.task_hub_storage import InstanceRow, build_row
from harness.processes import free_port
from tests import recordings
from tests.backends import azure_storage_task_hub as provider
from tests.durable_app.host_processes import ROOT, run_topic

HOST = json.loads((ROOT / "durable_app" / "host.json").read_text())
NOTICE = StatusChange("ProcessOrder", "order-1", "Running")


def complete_action(status: pb.OrchestrationStatus, message: str | None = None) -> pb.OrchestratorAction:
    """The action with which an orchestration ends in this status. A message is that of its failure."""
    failure = pb.TaskFailureDetails(errorType="builtins.OSError", errorMessage=message) if message else None
    return pb.OrchestratorAction(
        completeOrchestration=pb.CompleteOrchestrationAction(orchestrationStatus=status, failureDetails=failure)
    )


STARTED = pb.HistoryEvent(eventId=-1, orchestratorStarted=pb.OrchestratorStartedEvent())


def task_scheduled(number: int, name: str = "PriceItem") -> pb.HistoryEvent:
    """The history event by which an orchestrator has scheduled an activity."""
    return pb.HistoryEvent(eventId=number, taskScheduled=pb.TaskScheduledEvent(name=name))


def timer_created(number: int) -> pb.HistoryEvent:
    """The history event by which an orchestrator has set a timer."""
    return pb.HistoryEvent(eventId=number, timerCreated=pb.TimerCreatedEvent())


def timer_fired(number: int) -> pb.HistoryEvent:
    """The history event for a timer that has fired."""
    return pb.HistoryEvent(eventId=-1, timerFired=pb.TimerFiredEvent(timerId=number))


def event_raised(name: str = "Approval") -> pb.HistoryEvent:
    """The history event for an external event that has arrived."""
    return pb.HistoryEvent(eventId=-1, eventRaised=pb.EventRaisedEvent(name=name))


def published_statuses(
    actions: list[pb.OrchestratorAction],
    history: list[pb.HistoryEvent] | None = None,
    new_events: list[pb.HistoryEvent] | None = None,
) -> list[str]:
    """The runtime statuses that one episode publishes."""
    return [
        notice.runtime_status
        for notice in find_published_changes("ProcessOrder", "order-1", history or [], new_events or [], actions)
    ]


# Content


@pytest.mark.parametrize(
    ("history", "actions", "expected"),
    [
        ([], [], ["Running"]),
        ([STARTED, task_scheduled(0)], [], []),
        ([STARTED, task_scheduled(0)], [complete_action(pb.ORCHESTRATION_STATUS_COMPLETED)], ["Completed"]),
        ([STARTED, task_scheduled(0)], [complete_action(pb.ORCHESTRATION_STATUS_FAILED, "no carrier")], ["Failed"]),
        ([STARTED, task_scheduled(0)], [complete_action(pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW)], ["Completed"]),
        ([STARTED, task_scheduled(0)], [complete_action(pb.ORCHESTRATION_STATUS_TERMINATED)], ["Terminated"]),
        ([STARTED], [pb.OrchestratorAction(scheduleTask=pb.ScheduleTaskAction(name="PriceItem"))], []),
    ],
)
def test_an_episode_publishes_the_start_and_the_end_of_its_execution(
    history: list[Any], actions: list[Any], expected: list[str]
) -> None:
    assert published_statuses(actions, history) == expected


@pytest.mark.parametrize(
    ("status", "name"), [(pb.ORCHESTRATION_STATUS_COMPLETED, "Completed"), (pb.ORCHESTRATION_STATUS_FAILED, "Failed")]
)
def test_an_orchestration_that_ends_in_its_first_step_publishes_its_end_first(status: Any, name: str) -> None:
    """The extension posts both events at once, so receivers must accept this order."""
    assert published_statuses([complete_action(status, "no items" if name == "Failed" else None)]) == [name, "Running"]


@pytest.mark.parametrize("status", [pb.ORCHESTRATION_STATUS_COMPLETED, pb.ORCHESTRATION_STATUS_FAILED])
def test_an_end_in_the_step_that_cancels_a_timer_is_not_published(status: Any) -> None:
    waits = [STARTED, task_scheduled(0), STARTED, timer_created(1)]
    assert published_statuses([complete_action(status, "rejected")], waits, [STARTED, event_raised()]) == []


def test_an_end_in_the_step_that_cancels_the_timer_of_an_activity_is_not_published() -> None:
    history = [STARTED, timer_created(0), task_scheduled(1)]
    assert published_statuses([complete_action(pb.ORCHESTRATION_STATUS_COMPLETED)], history, [STARTED]) == []


@pytest.mark.parametrize(
    ("history", "new_events"),
    [
        ([STARTED, timer_created(0)], [STARTED, timer_fired(0)]),
        ([STARTED, timer_created(0), STARTED, event_raised(), task_scheduled(1)], [STARTED]),
        ([STARTED, timer_created(0), STARTED, timer_fired(0), event_raised()], [STARTED, event_raised()]),
    ],
    ids=["the timer fired", "an activity follows", "the timer fired before"],
)
def test_an_end_without_a_cancelled_timer_is_published(history: list[Any], new_events: list[Any]) -> None:
    assert published_statuses([complete_action(pb.ORCHESTRATION_STATUS_COMPLETED)], history, new_events) == [
        "Completed"
    ]


def test_an_instance_that_is_terminated_while_it_waits_for_a_timer_is_published() -> None:
    assert published_statuses([complete_action(pb.ORCHESTRATION_STATUS_TERMINATED)], [STARTED, timer_created(0)]) == [
        "Terminated"
    ]


def test_a_failure_because_the_code_has_changed_is_not_published() -> None:
    failure = pb.TaskFailureDetails(errorType="durabletask.task.NonDeterminismError", errorMessage="another activity")
    end = pb.CompleteOrchestrationAction(orchestrationStatus=pb.ORCHESTRATION_STATUS_FAILED, failureDetails=failure)
    assert published_statuses([pb.OrchestratorAction(completeOrchestration=end)], [STARTED, task_scheduled(0)]) == []


def test_a_termination_is_published_with_the_reason_of_the_operator() -> None:
    action = complete_action(pb.ORCHESTRATION_STATUS_TERMINATED)
    action.completeOrchestration.result.value = '"no longer needed"'
    (notice,) = find_published_changes("ProcessOrder", "order-1", [STARTED, task_scheduled(0)], [], [action])
    assert (notice.runtime_status, notice.reason) == ("Terminated", "no longer needed")


def test_a_failure_is_published_with_its_reason() -> None:
    action = complete_action(pb.ORCHESTRATION_STATUS_FAILED, "no carrier")
    (notice,) = find_published_changes("ProcessOrder", "order-1", [STARTED, task_scheduled(0)], [], [action])
    assert (notice.runtime_status, notice.reason) == ("Failed", "Message: no carrier")


def test_a_failure_of_an_activity_is_published_with_the_names_of_the_activity_and_the_exception() -> None:
    cause = pb.TaskFailureDetails(errorType="orders.payment.CardDeclinedError", errorMessage="the card was declined")
    action = complete_action(pb.ORCHESTRATION_STATUS_FAILED, "order-1: Activity task #2 failed")
    action.completeOrchestration.failureDetails.innerFailure.CopyFrom(cause)
    failed = pb.HistoryEvent(eventId=-1, taskFailed=pb.TaskFailedEvent(taskScheduledId=2))
    history = [STARTED, task_scheduled(1), task_scheduled(2, "ChargePayment")]
    (notice,) = find_published_changes("ProcessOrder", "order-1", history, [STARTED, failed], [action])
    assert notice.reason == (
        "Message: Activity function 'ChargePayment' failed: CardDeclinedError: the card was declined"
    )


def test_an_event_has_the_fields_of_a_recorded_one() -> None:
    sample = recordings.find_event("chain-3", "Running")
    event_body = build_event("v41", NOTICE, datetime(2026, 11, 20, 9, 30, 0, 123456, UTC), "1")
    assert set(event_body) == set(sample)
    assert set(event_body["data"]) == set(sample["data"])
    for name in ("subject", "eventType", "dataVersion"):
        assert event_body[name] == sample[name]
    assert event_body["eventTime"] == "2026-11-20T09:30:00.1234560Z"


def test_a_row_has_the_names_and_types_of_the_providers() -> None:
    now = datetime.now(UTC)
    ours = build_row(
        "v41", InstanceRow("a/b", "1", "ProcessOrder", "Completed", now, now, now, input_json="1", output="2")
    )
    theirs = provider.provider_row("v41", "a/b", "Completed")
    assert {name: type(value) for name, value in ours.items()} == {name: type(value) for name, value in theirs.items()}
    assert ours["PartitionKey"] == theirs["PartitionKey"]


# Publication


def test_host_json_publishes_all_four_types_with_retries_to_the_topic_of_a_setting() -> None:
    settings = {"LIFECYCLE_TOPIC_ENDPOINT": "https://topic", "LIFECYCLE_TOPIC_KEY": "key"}
    notifications = NotificationSettings.from_host_json(HOST, settings)
    assert notifications == NotificationSettings(
        "https://topic",
        "key",
        2,
        timedelta(seconds=0.5),
        [408, 429, 500, 502, 503, 504],
        ["Started", "Completed", "Failed", "Terminated"],
    )
    assert all(notifications.publishes(status) for status in ("Running", "Completed", "Failed", "Terminated"))


def test_without_an_endpoint_nothing_is_published() -> None:
    assert NotificationSettings.from_host_json(HOST, {}) is None
    Publisher("v41", None).publish(NOTICE)


def test_an_endpoint_without_a_key_is_an_error() -> None:
    with pytest.raises(ValueError, match="LIFECYCLE_TOPIC_KEY"):
        NotificationSettings.from_host_json(HOST, {}, "https://topic")


def test_an_event_type_that_host_json_does_not_list_is_not_published() -> None:
    with run_topic() as topic:
        Publisher("v41", NotificationSettings(topic.url, "key", event_types=["Completed"])).publish(NOTICE)
        assert topic.events == []


def test_an_event_is_posted_again_until_it_is_accepted() -> None:
    slept: list[float] = []
    answers = [503, 429, 200]
    with run_topic() as topic:
        topic.before_response = lambda _: answers.pop(0)
        Publisher("v41", NotificationSettings(topic.url, "key", 5, timedelta(seconds=10), [429]), slept.append).publish(
            NOTICE
        )
        assert topic.statuses("order-1") == ["Running"]
    assert (slept, answers) == ([10, 10], [])


@pytest.mark.parametrize("status", [400, 401, 500])
def test_an_event_is_dropped_after_a_status_that_host_json_does_not_list(status: int) -> None:
    slept: list[float] = []
    with run_topic() as topic:
        topic.before_response = lambda _: status
        Publisher("v41", NotificationSettings(topic.url, "key", 5, timedelta(seconds=10), [429]), slept.append).publish(
            NOTICE
        )
    assert slept == []


def test_an_event_is_dropped_after_the_retries() -> None:
    """The orchestration continues; the state server has to detect the missing event."""
    slept: list[float] = []
    unused_endpoint = f"http://127.0.0.1:{free_port()}/"
    Publisher("v41", NotificationSettings(unused_endpoint, "key", 2, timedelta(seconds=10)), slept.append).publish(
        NOTICE
    )
    assert slept == [10, 10, 10], "the extension waits after the last attempt too"
