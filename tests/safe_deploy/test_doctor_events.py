"""`safe-deploy doctor` follows the events of an app from its settings to the server's records."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from safe_deploy.diagnostics import event_delivery, event_path
from safe_deploy.errors import ExitCode
from tests.durable_app.host_processes import KEY
from tests.pipelines.fake_cloud import FakeAzure
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.doctor_azure import SITE_NAMES, TOPIC, GuardedApp, complete_subscription, run_guarded_app

HOST = "127.0.0.1"


@pytest.fixture
def guarded(registered_app: AppClient, azure_on_path: FakeAzure) -> Iterator[GuardedApp]:
    with run_guarded_app(registered_app, azure_on_path) as app:
        yield app


@pytest.fixture
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doctor waits for an event for a moment only."""
    monkeypatch.setattr(event_delivery, "WAIT_SECONDS", 1.0)
    monkeypatch.setattr(event_delivery, "POLL_SECONDS", 0.1)


def test_every_check_of_the_events_passes_on_a_complete_set_up(guarded: GuardedApp) -> None:
    before = guarded.client.request_json("GET", f"/api/taskhubs/{guarded.client.hub}/instances")
    results = guarded.run()
    assert results.code == ExitCode.DONE
    assert {check: results[check] for check in list(results)[6:13]} == {
        "site names": ("ok", f"all slots have {SITE_NAMES}=1"),
        "host.json": results["host.json"],
        "topic: production": ("ok", f"production publishes to {HOST} with the key in LIFECYCLE_TOPIC_KEY"),
        "topic: staging": ("ok", f"staging publishes to {HOST} with the key in LIFECYCLE_TOPIC_KEY"),
        "event subscription": ("ok", f"subscription state-server of topic {TOPIC} delivers to the server"),
        "test event": results["test event"],
        "extension": results["extension"],
    }
    assert results["test event"][0] == "ok"
    assert results["test event"][1].startswith(f"an event of task hub {guarded.client.hub} arrived ")
    assert (results["host.json"][0], results["extension"][0]) == ("unknown", "unknown")
    (event,) = guarded.grid.topic.events
    assert event["data"]["instanceId"].startswith("@safe-deploy-doctor@")
    assert guarded.client.request_json("GET", f"/api/taskhubs/{guarded.client.hub}/instances") == before


def test_a_clock_that_is_ahead_does_not_lose_the_event(guarded: GuardedApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server would refuse an event of the future."""
    ahead = datetime.now(UTC) + timedelta(hours=1)
    monkeypatch.setattr(event_path, "current_time", lambda: ahead)
    assert guarded.run()["test event"][0] == "ok"


def test_no_event_is_published_if_the_option_says_so(guarded: GuardedApp) -> None:
    results = guarded.run("--no-test-event")
    assert "test event" not in results
    assert guarded.grid.topic.events == []


@pytest.mark.usefixtures("short_wait")
def test_an_event_that_is_lost_fails_the_check(guarded: GuardedApp) -> None:
    """The topic takes the event, and its subscription does not deliver it."""
    guarded.grid.topic.before_response = lambda event: 200
    results = guarded.run()
    assert results.failed_checks() == ["test event"]
    assert "took the event, and the server has not recorded it within 1 s" in results["test event"][1]
    assert "dead letters" in results["test event"][1]


@pytest.mark.parametrize(
    ("status", "result", "text"),
    [
        (401, "failed", "refuses the key in the app's settings (401). The app publishes nothing either"),
        (403, "unknown", "network rules do not let this machine in"),
        (404, "failed", "there is no topic at 127.0.0.1 (404)"),
        (400, "failed", "refuses the event (400). A topic for lifecycle events has the input schema EventGridSchema"),
        (429, "failed", "takes no events at the moment (429)"),
        (503, "failed", "takes no events at the moment (503)"),
    ],
)
def test_a_topic_that_refuses_the_event_says_why(guarded: GuardedApp, status: int, result: str, text: str) -> None:
    guarded.grid.topic.before_response = lambda event: status
    check_result = guarded.run()["test event"]
    assert check_result[0] == result
    assert text in check_result[1]


def test_a_key_that_the_topic_does_not_know_fails_the_check(guarded: GuardedApp) -> None:
    wrong = guarded.settings | {"TASK_HUB": guarded.client.hub, "LIFECYCLE_TOPIC_KEY": "an-old-key"}
    guarded.set_up(production=wrong)
    results = guarded.run()
    assert results.failed_checks() == ["test event"]
    assert "Set LIFECYCLE_TOPIC_KEY to a key of the topic" in results["test event"][1]
    assert "an-old-key" not in results.err


def test_a_topic_that_cannot_be_reached_fails_the_check_of_the_test_event(guarded: GuardedApp) -> None:
    endpoint = "http://127.0.0.1:9/api/events"
    guarded.set_up(production=guarded.settings | {"TASK_HUB": guarded.client.hub, "LIFECYCLE_TOPIC_ENDPOINT": endpoint})
    results = guarded.run()
    assert "cannot be reached from here (ConnectError)" in results["test event"][1]
    assert results["event subscription"][0] == "unknown"


def test_a_key_in_key_vault_is_replaced_by_one_that_az_reads(guarded: GuardedApp) -> None:
    reference = "@Microsoft.KeyVault(SecretUri=https://vault.example/secrets/key)"
    guarded.set_up(production=guarded.settings | {"TASK_HUB": guarded.client.hub, "LIFECYCLE_TOPIC_KEY": reference})
    assert guarded.run()["test event"][0] == "ok"
    assert guarded.azure.count_calls("eventgrid topic key list") == 1
    assert guarded.grid.topic.keys == {KEY}


@pytest.fixture
def publishes_with_identity(guarded: GuardedApp) -> GuardedApp:
    """The app setting EventGrid__topicEndpoint names the topic. The app publishes with its managed identity, without a
    key."""
    identity = {"TASK_HUB": guarded.client.hub, "EventGrid__topicEndpoint": guarded.grid.topic.url}
    guarded.set_up(production=identity)
    return guarded


def test_an_app_that_publishes_with_its_identity_is_checked_with_a_token(
    publishes_with_identity: GuardedApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token is sent only to hosts of Event Grid in Azure, so the host of the test's topic is declared to be one. That
    topic accepts only keys, and answers 401 to the token."""
    monkeypatch.setattr(event_path, "is_azure_endpoint", lambda endpoint: True)
    results = publishes_with_identity.run()
    assert results["topic: production"] == ("ok", "production publishes to 127.0.0.1 with its identity")
    assert "refuses the identity of az (401). Log in again" in results["test event"][1]


def test_a_token_is_sent_to_azure_only(publishes_with_identity: GuardedApp) -> None:
    results = publishes_with_identity.run()
    assert results["test event"][0] == "unknown"
    assert "neither a key nor a token is sent there" in results["test event"][1]
    assert publishes_with_identity.azure.count_calls("account get-access-token") == 0


def test_an_app_without_a_topic_is_a_warning_if_the_server_reads_the_task_hub(guarded: GuardedApp) -> None:
    guarded.set_up(production={"TASK_HUB": guarded.client.hub, SITE_NAMES: "1"})
    results = guarded.run()
    status, message = results["topic: production"]
    assert status == "warning"
    assert "production has no app setting LIFECYCLE_TOPIC_ENDPOINT and LIFECYCLE_TOPIC_KEY" in message
    assert "test event" not in results


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        ("shop-topic", "is not the URL of a topic"),
        ("http://topic.example/api/events", "is a URL with http, which would show the topic's key"),
        ("https://user:secret@topic.example/api/events", "is not the URL of a topic"),
        ("@Microsoft.KeyVault(SecretUri=https://vault.example/secrets/x)", "is a reference to Key Vault"),
    ],
)
def test_an_endpoint_that_is_no_url_of_a_topic_fails_the_check(guarded: GuardedApp, endpoint: str, text: str) -> None:
    """The key is sent nowhere, and the endpoint is not printed."""
    guarded.set_up(production=guarded.settings | {"TASK_HUB": guarded.client.hub, "LIFECYCLE_TOPIC_ENDPOINT": endpoint})
    results = guarded.run()
    assert results["topic: production"][0] == "failed"
    assert text in results["topic: production"][1]
    assert endpoint not in results.err
    assert "test event" not in results


@pytest.mark.parametrize(
    ("subscriptions", "status", "text"),
    [
        ([], "failed", "has no subscription that delivers to the server, so no event arrives"),
        (
            [
                complete_subscription(
                    destination={"endpointType": "WebHook", "endpointBaseUrl": "https://other.example/x"}
                )
            ],
            "failed",
            "no event arrives. It has 1 for other places",
        ),
        (
            [complete_subscription(destination={"endpointType": "WebHook", "endpointBaseUrl": "https://127.0.0.1/x"})],
            "ok",
            "delivers to the server",
        ),
        ([complete_subscription(filter={"includedEventTypes": ["other"]})], "failed", "leaves out events of the type"),
        ([complete_subscription(provisioningState="AwaitingManualAction")], "failed", "is AwaitingManualAction"),
        ([complete_subscription(deadLetterWithResourceIdentity=None)], "warning", "has no dead-letter container"),
        (
            [complete_subscription(retryPolicy={"maxDeliveryAttempts": 3, "eventTimeToLiveInMinutes": 10})],
            "warning",
            "gives up after 3 attempts and gives up after 10 minutes",
        ),
    ],
)
def test_the_subscription_delivers_with_retries_and_dead_letters(
    guarded: GuardedApp, subscriptions: list[dict[str, Any]], status: str, text: str
) -> None:
    guarded.set_up(subscriptions=subscriptions)
    results = guarded.run("--no-test-event")
    assert results["event subscription"][0] == status
    assert text in results["event subscription"][1]


def test_without_a_subscription_no_event_is_published(guarded: GuardedApp) -> None:
    guarded.set_up(subscriptions=[])
    results = guarded.run()
    assert results["test event"] == ("failed", "no event was published, because no subscription delivers to the server")
    assert guarded.grid.topic.events == []


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (
            {"message": "(AuthorizationFailed) no\nCode: AuthorizationFailed"},
            "az is not allowed to list the Event Grid",
        ),
        ({"message": "(TooManyRequests) later\nCode: TooManyRequests"}, "az failed with exit code 1 TooManyRequests"),
        ({"message": "'eventgrid' is misspelled", "exit_code": 2}, "az failed with exit code 2"),
        ({"exit_code": None, "output": "[]"}, "az did not print a JSON object"),
        ({"exit_code": None, "output": '{"topics": [{"id": 1}]}'}, "unexpected JSON"),
    ],
)
def test_an_az_that_cannot_list_topics_is_reported_and_the_event_still_published(
    guarded: GuardedApp, fault: dict[str, Any], text: str
) -> None:
    guarded.azure.set_fault("topic list", **fault)
    results = guarded.run()
    assert results["event subscription"][0] == "failed"
    assert text in results["event subscription"][1]
    assert results["test event"][0] == "ok"


def test_host_json_of_the_project_names_the_settings_and_the_retries(guarded: GuardedApp, tmp_path: Path) -> None:
    names = {"MY_TOPIC": guarded.grid.topic.url, "MY_KEY": KEY, SITE_NAMES: "1"}
    guarded.set_up(production=names | {"TASK_HUB": guarded.client.hub}, staging=names)
    (tmp_path / "host.json").write_text("""{
        // a comment, as the Functions host allows
        "version": "2.0",
        "extensions": {"durableTask": {"hubName": "%TASK_HUB%", "notifications": {"eventGrid": {
            "topicEndpoint": "%MY_TOPIC%", "keySettingName": "MY_KEY", "publishRetryCount": 2,
            "publishRetryInterval": "00:00:00.500", "publishRetryHttpStatus": [503]}}}}}""")
    results = guarded.run("--project", str(tmp_path))
    assert results["host.json"] == ("ok", f"{tmp_path}/host.json: publishes with 2 retries")
    assert results["test event"][0] == "ok"
    assert results.code == ExitCode.DONE


def test_a_project_without_host_json_is_refused(guarded: GuardedApp, tmp_path: Path) -> None:
    result = guarded.client.run_cli("doctor", "--project", str(tmp_path / "missing"))
    assert result.code == ExitCode.USAGE
    assert "Give --project the folder of the durable app" in result.stderr
