"""Which ends of Python orchestrations the Durable Functions extension publishes, on the real Functions host. Each
pattern of the app in `patterns/` is run once; docs/platform.md has the results."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.data.tables import TableServiceClient

from harness.functions_host import DURABLE_TASK_KEY, run_functions_host
from harness.processes import wait_until
from state_api.settings import StorageSettings
from tests.conftest import new_hub_name
from tests.durable_app.host_processes import KEY, Topic, run_topic

PATTERNS_FOLDER = Path(__file__).parent / "patterns"
ENDED_STATUSES = ("Completed", "Failed", "Terminated")


@dataclass(frozen=True, slots=True)
class Pattern:
    """How an orchestration ends, and whether its end is published."""

    end_status: str
    publishes_end: bool
    raised_events: tuple[str, ...] = ()
    """The events to raise, each when the instance waits."""
    ends_in_first_step: bool = False
    """Whether it ends in its first step. Then its start and end are posted at the same time, in any order."""


PATTERNS = {
    # First, because its event must be raised before its timer fires.
    "EventOrTimerNoCancel": Pattern("Completed", publishes_end=True, raised_events=("go",)),
    "AtOnce": Pattern("Completed", publishes_end=True, ends_in_first_step=True),
    "FailAtOnce": Pattern("Failed", publishes_end=True, ends_in_first_step=True),
    "OneActivity": Pattern("Completed", publishes_end=True),
    "FailActivity": Pattern("Failed", publishes_end=True),
    "RetriesExhausted": Pattern("Failed", publishes_end=True),
    "AnyOfActivities": Pattern("Completed", publishes_end=True),
    "SubAtOnce": Pattern("Completed", publishes_end=True),
    "SubFails": Pattern("Failed", publishes_end=True),
    "TimerOnly": Pattern("Completed", publishes_end=True),
    "TimerWins": Pattern("Completed", publishes_end=True),
    "EventOnly": Pattern("Completed", publishes_end=True, raised_events=("go",)),
    "EventOrTimerCancelThenActivity": Pattern("Completed", publishes_end=True, raised_events=("go",)),
    "EventOrTimerCancelThenTimer": Pattern("Completed", publishes_end=True, raised_events=("go",)),
    # The last step cancels a timer.
    "EventOrTimerCancel": Pattern("Completed", publishes_end=False, raised_events=("go",)),
    "EventOrTimerCancelThenFail": Pattern("Failed", publishes_end=False, raised_events=("go",)),
    "EventOrTimerCancelThenSignal": Pattern("Completed", publishes_end=False, raised_events=("go",)),
    "ActivityThenEventOrTimerCancel": Pattern("Completed", publishes_end=False, raised_events=("go",)),
    "TwoEventsOrTimersCancel": Pattern("Completed", publishes_end=False, raised_events=("go", "go on")),
    "ActivityOrTimerCancel": Pattern("Completed", publishes_end=False),
}


class PatternsHost:
    """The app of patterns on a Functions host, with its instances' rows and events."""

    def __init__(self, api: httpx.Client, topic: Topic, instances: Any) -> None:
        self.topic = topic
        self._api = api
        self._instances = instances

    def start_instance(self, name: str) -> None:
        """Start an instance; its id is the orchestrator's name."""
        self._api.post(f"/orchestrators/{name}/{name}").raise_for_status()

    def raise_event(self, instance_id: str, event: str) -> None:
        """Send an event to an instance, once it waits for one."""
        wait_until(lambda: self.read_row(instance_id).get("CustomStatus") == '"Waits"', f"{instance_id} waits")
        self._api.post(f"/instances/{instance_id}/raiseEvent/{event}", json=True).raise_for_status()

    def terminate(self, instance_id: str, reason: str) -> None:
        self._api.post(f"/instances/{instance_id}/terminate", params={"reason": reason}).raise_for_status()

    def read_row(self, instance_id: str) -> dict[str, Any]:
        """Return the instance's row in the task hub; empty if there is none yet."""
        return next(iter(self._instances.query_entities(f"PartitionKey eq '{instance_id}'")), {})

    def wait_until_ended(self, instance_id: str) -> str:
        """Wait for the instance's end, and return its runtime status. Its events have been posted by then."""
        wait_until(
            lambda: self.read_row(instance_id).get("RuntimeStatus") in ENDED_STATUSES, f"{instance_id} has ended"
        )
        return str(self.read_row(instance_id)["RuntimeStatus"])


@contextmanager
def run_patterns_host(storage: StorageSettings, folder: Path) -> Iterator[PatternsHost]:
    """The patterns app on the Functions host, with a task hub of its own and a topic that keeps its events."""
    assert storage.connection_string is not None
    connection, hub = storage.connection_string.get_secret_value(), new_hub_name()
    with run_topic() as topic, TableServiceClient.from_connection_string(connection) as tables:
        settings = {
            "AzureWebJobsStorage": connection,
            "TASK_HUB": hub,
            "LIFECYCLE_TOPIC_ENDPOINT": topic.url,
            "LIFECYCLE_TOPIC_KEY": KEY,
        }
        with run_functions_host(PATTERNS_FOLDER, folder, settings) as host:
            api = f"{host.url}/runtime/webhooks/durabletask"
            with httpx.Client(base_url=api, params={"code": DURABLE_TASK_KEY}, timeout=60) as client:
                yield PatternsHost(client, topic, tables.get_table_client(f"{hub}Instances"))


@pytest.fixture(scope="module")
def host(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PatternsHost]:
    """The patterns app on the Functions host."""
    with run_patterns_host(storage, tmp_path_factory.mktemp("patterns")) as host:
        yield host


def list_expected_statuses(pattern: Pattern) -> list[str]:
    """The statuses of the events that an instance of the pattern publishes, in the order of their comparison."""
    statuses = ["Running", pattern.end_status] if pattern.publishes_end else ["Running"]
    return sorted(statuses) if pattern.ends_in_first_step else statuses


def test_the_end_of_each_pattern_is_published_unless_its_last_step_cancels_a_timer(host: PatternsHost) -> None:
    for name, pattern in PATTERNS.items():
        host.start_instance(name)
        for event in pattern.raised_events:
            host.raise_event(name, event)
    end_status = {name: host.wait_until_ended(name) for name in PATTERNS}
    assert end_status == {name: pattern.end_status for name, pattern in PATTERNS.items()}

    def list_published_statuses(name: str, pattern: Pattern) -> list[str]:
        """The published statuses in order. If both are published at the same moment, their order is not defined."""
        statuses = host.topic.statuses(name)
        return sorted(statuses) if pattern.ends_in_first_step else statuses

    assert {name: list_published_statuses(name, pattern) for name, pattern in PATTERNS.items()} == {
        name: list_expected_statuses(pattern) for name, pattern in PATTERNS.items()
    }
    assert host.topic.keys == {KEY}


def test_a_terminated_instance_publishes_the_operators_reason(host: PatternsHost) -> None:
    host.start_instance("Quiet")
    wait_until(lambda: host.read_row("Quiet").get("CustomStatus") == '"Waits"', "Quiet waits")
    host.terminate("Quiet", "no longer needed")
    assert host.wait_until_ended("Quiet") == "Terminated"
    assert host.topic.statuses("Quiet") == ["Running", "Terminated"]
    assert host.topic.events[-1]["data"]["reason"] == "no longer needed"


def test_an_instance_that_cancels_a_timer_and_continues_as_new_receives_the_same_event_again(
    host: PatternsHost,
) -> None:
    """The extension acts as if the timer had ended the wait, and delivers the event to the next generation again.

    An orchestration that never stops continuing like this cannot even be terminated."""
    name = "CancelThenContinue"
    host.start_instance(name)
    host.raise_event(name, "go")
    assert host.wait_until_ended(name) == "Completed", "one event has ended all six generations"
    statuses = host.topic.statuses(name)
    assert (statuses.count("Running"), statuses.count("Completed")) == (6, 5), "the last end is not published"
