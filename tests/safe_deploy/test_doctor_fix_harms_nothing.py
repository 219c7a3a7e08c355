"""`safe-deploy doctor --fix` leaves alone what is not its own: other subscriptions, settings that exist, and
deployments that begin while it asks."""

from collections.abc import Iterator

import pytest

from safe_deploy.prompts import Prompts
from tests.builders import event
from tests.conftest import new_hub_name
from tests.pipelines.fake_az_event_grid import build_subscription
from tests.pipelines.fake_cloud import FakeAzure
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.doctor_azure import SITE_NAMES, TOPIC, GuardedApp, run_guarded_app

KEY_REFERENCE = "@Microsoft.KeyVault(SecretUri=https://shop.vault.azure.net/secrets/topic)"


@pytest.fixture
def guarded(registered_app: AppClient, azure_on_path: FakeAzure) -> Iterator[GuardedApp]:
    with run_guarded_app(registered_app, azure_on_path) as app:
        yield app


def test_the_subscription_of_another_server_is_not_overwritten(guarded: GuardedApp) -> None:
    """`az` replaces a subscription that has the name already, and the other server would get no events any more."""
    other = build_subscription("State-Server", "/subscriptions/1/sites/other-state/functions/RecordLifecycleEvent")
    guarded.set_up(subscriptions=[other])
    results = guarded.run("--fix", "--yes")
    assert (results["event subscription"][0], results["test event"][0]) == ("ok", "ok")
    subscriptions = guarded.azure.read("topics")[TOPIC]["subscriptions"]
    assert [item["name"] for item in subscriptions] == ["State-Server", "state-server-2"]
    assert subscriptions[0] == other


def test_a_key_that_is_a_reference_is_kept(guarded: GuardedApp) -> None:
    """The question names only what is missing, so nothing else is set."""
    guarded.set_up(staging={"LIFECYCLE_TOPIC_KEY": KEY_REFERENCE, SITE_NAMES: "1"})
    results = guarded.run("--fix", "--yes")
    assert results["topic: staging"][0] == "ok"
    settings = guarded.azure.settings(guarded.client.app, "staging")
    assert settings == guarded.settings | {"LIFECYCLE_TOPIC_KEY": KEY_REFERENCE}


def test_nothing_is_changed_in_azure_if_someone_begins_to_deploy_before_the_answer(
    guarded: GuardedApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question may wait for hours."""
    guarded.client.request_json("PUT", "", {"policy": {"settleSeconds": 0}})
    guarded.client.publish(event(guarded.client.hub, status="Completed"))
    guarded.set_up(staging={}, sticky=("TASK_HUB",))
    hub = new_hub_name()

    def deploy_and_confirm(prompts: Prompts, question: str) -> bool:
        if guarded.client.request_json("GET")["deployment"] is None:
            guarded.client.stage(hub, run_number=7)
        return True

    monkeypatch.setattr(Prompts, "confirm", deploy_and_confirm)
    results = guarded.run("--fix")
    assert not any({"set", "put"} & set(call) for call in guarded.azure.calls)
    for check in ("Azure: setting", "site names", "topic: staging"):
        assert f"It could not be repaired: test deploys task hub {hub}" in results[check][1]


def test_no_key_is_sent_to_an_address_that_is_no_event_grid_topic(guarded: GuardedApp) -> None:
    """host.json names the app setting that holds the key, and the address. An attacker may have written it, and could
    otherwise have any app setting sent to any address."""
    endpoint = "https://topics.example/api/events"
    guarded.set_up(production=guarded.settings | {"TASK_HUB": guarded.client.hub, "LIFECYCLE_TOPIC_ENDPOINT": endpoint})
    guarded.azure.update(topics={})
    results = guarded.run()
    status, message = results["test event"]
    assert status == "unknown"
    assert "Nothing was published" in message


def test_a_task_hub_that_production_has_no_more_is_not_registered(
    app_client: AppClient, azure_on_path: FakeAzure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slots were swapped while the question waited."""
    with run_guarded_app(app_client, azure_on_path) as unregistered:

        def swap_and_confirm(prompts: Prompts, question: str) -> bool:
            unregistered.set_up(production=unregistered.settings | {"TASK_HUB": new_hub_name()})
            return True

        monkeypatch.setattr(Prompts, "confirm", swap_and_confirm)
        results = unregistered.run("--fix", role="admin")
        assert "It could not be repaired: Azure shows another task hub in production by now" in results["app"][1]
        apps = app_client.request_json("GET", "/api/apps")["apps"]
        assert app_client.app not in [app["app"] for app in apps]
