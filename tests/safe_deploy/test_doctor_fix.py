"""`safe-deploy doctor --fix` repairs what it safely can: each repair after its question, and its check again."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from safe_deploy.errors import ExitCode
from tests.builders import event
from tests.conftest import new_hub_name
from tests.durable_app.host_processes import KEY
from tests.pipelines.fake_cloud import FakeAzure
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.deployment_fixture import RESOURCE_GROUP
from tests.safe_deploy.doctor_azure import (
    SERVER_APP,
    SERVER_GROUP,
    SITE_NAMES,
    TOPIC,
    GuardedApp,
    run_guarded_app,
)
from tests.safe_deploy.in_process import run_in_process
from tests.safe_deploy.terminal import run_in_terminal


@pytest.fixture
def guarded(registered_app: AppClient, azure_on_path: FakeAzure) -> Iterator[GuardedApp]:
    with run_guarded_app(registered_app, azure_on_path) as app:
        yield app


@pytest.fixture
def unregistered(app_client: AppClient, azure_on_path: FakeAzure) -> Iterator[GuardedApp]:
    """The server does not know the app, which is set up completely in Azure."""
    with run_guarded_app(app_client, azure_on_path) as app:
        yield app


def list_changes(azure: FakeAzure) -> list[str]:
    """The calls of `az` that change something."""
    changing = {"set", "create", "put", "patch", "delete"}
    return [" ".join(call[:4]) for call in azure.calls if changing & set(call)]


def test_without_the_option_nothing_is_changed(guarded: GuardedApp) -> None:
    """The last line says how to repair."""
    guarded.set_up(production={"TASK_HUB": guarded.client.hub}, sticky=("TASK_HUB",), subscriptions=[])
    results = guarded.run()
    assert list_changes(guarded.azure) == []
    assert "3 checks can be repaired after a question: safe-deploy doctor --fix" in results.err


def test_a_complete_set_up_needs_no_repair(guarded: GuardedApp) -> None:
    results = guarded.run("--fix")
    assert results.code == ExitCode.DONE
    assert list_changes(guarded.azure) == []


def test_a_sticky_setting_is_made_movable_and_the_others_stay_sticky(guarded: GuardedApp) -> None:
    guarded.set_up(sticky=("AzureWebJobs.Nightly.Disabled", "task_hub"))
    guarded.azure.update_app(guarded.client.app, stickyConnectionStrings=["Database"])
    results = guarded.run("--fix", "--yes")
    assert results["Azure: setting"] == ("ok", "the app setting with the task hub name moves with the code")
    assert "Azure: setting: the app setting TASK_HUB moves with the code from now on" in results.err
    assert results.repaired == {"Azure: setting": "the app setting TASK_HUB moves with the code from now on"}
    app = guarded.azure.read("apps")[guarded.client.app]
    assert app["sticky"] == ["AzureWebJobs.Nightly.Disabled"]
    assert app["stickyConnectionStrings"] == ["Database"]
    assert guarded.azure.settings(guarded.client.app)["TASK_HUB"] == guarded.client.hub


def test_site_names_are_set_in_the_slots_that_lack_them(guarded: GuardedApp) -> None:
    guarded.set_up(staging=guarded.settings | {SITE_NAMES: "0"})
    results = guarded.run("--fix", "--yes")
    assert results["site names"][0] == "ok"
    assert f"set {SITE_NAMES}=1 in staging. The app restarted there" in results.err
    app = guarded.client.app
    assert (guarded.azure.count_restarts(app, "staging"), guarded.azure.count_restarts(app)) == (1, 0)


def test_the_topic_of_production_is_given_to_the_slot(guarded: GuardedApp) -> None:
    """The key becomes no argument of `az`, and is not printed."""
    guarded.set_up(staging={SITE_NAMES: "1"})
    results = guarded.run("--fix", "--yes")
    assert results["topic: staging"][0] == "ok"
    assert guarded.azure.settings(guarded.client.app, "staging") == guarded.settings


def test_an_app_without_a_topic_gets_the_only_one_of_the_server(guarded: GuardedApp) -> None:
    """Settings, subscription and test event are repaired one after the other, so that the event arrives at last."""
    guarded.set_up(production={"TASK_HUB": guarded.client.hub}, staging={}, subscriptions=[])
    results = guarded.run("--fix", "--yes")
    assert results.code == ExitCode.DONE
    for check in ("site names", "topic: production", "topic: staging", "event subscription", "test event"):
        assert results[check][0] == "ok", check
    assert guarded.azure.settings(guarded.client.app) == guarded.settings | {"TASK_HUB": guarded.client.hub}


@pytest.mark.parametrize("count", [0, 2])
def test_no_topic_is_guessed(guarded: GuardedApp, count: int) -> None:
    topic = guarded.azure.read("topics")[TOPIC]
    guarded.set_up(production={"TASK_HUB": guarded.client.hub, SITE_NAMES: "1"})
    guarded.azure.update(topics={f"topic-{number}": topic for number in range(count)})
    results = guarded.run("--fix", "--yes")
    assert results["topic: production"][0] == "warning"
    assert "Set them to an Event Grid topic" in results["topic: production"][1]
    assert list_changes(guarded.azure) == []


def test_a_missing_subscription_is_created_as_the_templates_do(guarded: GuardedApp) -> None:
    guarded.set_up(subscriptions=[])
    results = guarded.run("--fix", "--yes")
    assert (results["event subscription"][0], results["test event"][0]) == ("ok", "ok")
    (subscription,) = guarded.azure.read("topics")[TOPIC]["subscriptions"]
    assert subscription["destination"]["resourceId"].endswith(f"/{SERVER_APP}/functions/RecordLifecycleEvent")
    assert subscription["retryPolicy"] == {"eventTimeToLiveInMinutes": 1440, "maxDeliveryAttempts": 30}
    assert subscription["filter"]["includedEventTypes"] == ["orchestratorEvent"]
    dead_letters = subscription["deadLetterWithResourceIdentity"]["deadLetterDestination"]
    assert dead_letters["blobContainerName"] == "lifecycle-dead-letters"
    assert dead_letters["resourceId"].endswith("/storageAccounts/shopstate")


def test_a_subscription_without_a_known_account_has_no_dead_letters_and_the_question_says_so(
    guarded: GuardedApp,
) -> None:
    guarded.set_up(subscriptions=[])
    guarded.azure.update(storageAccounts={"first": SERVER_GROUP, "second": SERVER_GROUP})
    repair = read_repair(guarded, "event subscription")
    assert repair.endswith("and has no dead letters?")
    assert guarded.run("--fix", "--yes")["event subscription"][0] == "warning"


def read_repair(guarded: GuardedApp, check: str) -> Any:
    """The question of a repair, in the results as JSON."""
    arguments = ["doctor", "--output", "json", "--resource-group", RESOURCE_GROUP, "--no-test-event"]
    result = run_in_process(arguments, guarded.client.build_environment())
    return next(item["repair"] for item in json.loads(result.out) if item["check"] == check)


def test_a_repair_that_fails_is_part_of_the_result_and_the_other_checks_run(guarded: GuardedApp) -> None:
    guarded.set_up(subscriptions=[])
    guarded.azure.set_fault("subscription create", message="(Forbidden) no\nCode: Forbidden")
    results = guarded.run("--fix", "--yes")
    status, message = results["event subscription"]
    assert status == "failed"
    assert "It could not be repaired: az is not allowed to create a subscription of topic 'shop-topic'" in message
    assert "verification" in results


def test_a_repair_that_has_no_effect_is_not_tried_again(guarded: GuardedApp) -> None:
    guarded.set_up(sticky=("TASK_HUB",))
    guarded.azure.set_fault("rest", exit_code=None, output=json.dumps({"properties": {"appSettingNames": None}}))
    guarded.azure.set_fault("resource show", exit_code=None, output=json.dumps({"names": ["TASK_HUB"]}))
    results = guarded.run("--fix", "--yes", "--no-test-event")
    assert results["Azure: setting"][0] == "failed"
    assert sum("put" in call for call in guarded.azure.calls) == 1


def test_nothing_is_changed_in_azure_while_someone_deploys(guarded: GuardedApp) -> None:
    """`az` writes all settings at once, so the task hub name that a pipeline sets could be lost."""
    guarded.client.request_json("PUT", "", {"policy": {"settleSeconds": 0}})
    guarded.set_up(staging={}, sticky=("TASK_HUB",))
    guarded.client.publish(event(guarded.client.hub, status="Completed"))
    guarded.client.stage(new_hub_name(), run_number=7)
    results = guarded.run("--fix", "--yes")
    for check in ("Azure: setting", "site names", "topic: staging"):
        assert "--fix does not repair it now: test deploys task hub" in results[check][1]
    assert list_changes(guarded.azure) == []


# --- registration ---


def test_an_app_that_the_server_does_not_know_is_registered_as_azure_shows_it(unregistered: GuardedApp) -> None:
    """The checks of the app follow, and the settings are repaired in the same run."""
    results = unregistered.run("--fix", "--yes", role="admin")
    client = unregistered.client
    assert results["app"] == ("ok", f"production {client.hub}, staging empty")
    assert f"registered task hub {client.hub} in production of app {client.app}" in results.err
    assert results["test event"][0] == "ok"
    assert client.request_json("GET")["slots"]["production"]["taskHub"] == client.hub


def test_an_empty_production_is_registered_as_azure_shows_it(unregistered: GuardedApp) -> None:
    unregistered.client.request_json("PUT", "", {})
    results = unregistered.run("--fix", "--yes", role="admin")
    assert results["app"] == ("ok", f"production {unregistered.client.hub}, staging empty")
    assert results["Azure: production"][0] == "ok"


def test_a_mistyped_app_is_not_registered(unregistered: GuardedApp) -> None:
    """The name of the Function App is given, and is another one."""
    client = unregistered.client
    mistyped = {"SAFE_DEPLOY_APP": f"{client.app}x", "SAFE_DEPLOY_FUNCTION_APP": client.app}
    results = unregistered.run("--fix", "--yes", role="admin", **mistyped)
    assert results.failed_checks() == ["app"]
    assert "safe-deploy register" in results["app"][1]
    assert client.app not in [app["app"] for app in client.request_json("GET", "/api/apps")["apps"]]


def test_two_slots_with_one_task_hub_are_for_a_person(unregistered: GuardedApp) -> None:
    hub = {"TASK_HUB": unregistered.client.hub}
    unregistered.set_up(staging=unregistered.settings | hub)
    assert unregistered.run("--fix", "--yes", role="admin").failed_checks() == ["app"]


def test_a_key_that_may_not_register_fails_the_repair(unregistered: GuardedApp) -> None:
    results = unregistered.run("--fix", "--yes", role="deployer")
    assert results.code == ExitCode.NOT_ALLOWED or "It could not be repaired" in results["app"][1]
    assert "It could not be repaired" in results["app"][1]


def test_task_hubs_that_differ_are_not_repaired(guarded: GuardedApp) -> None:
    guarded.set_up(production=guarded.settings | {"TASK_HUB": "other1"})
    results = guarded.run("--fix", "--yes")
    assert results["Azure: production"][0] == "failed"
    assert list_changes(guarded.azure) == []


# --- questions ---


def test_without_a_terminal_the_option_yes_is_needed(guarded: GuardedApp) -> None:
    guarded.set_up(subscriptions=[])
    result = guarded.client.run_cli("doctor", "--fix", "--resource-group", RESOURCE_GROUP)
    assert result.code == ExitCode.USAGE
    assert "Create subscription state-server" in result.stderr
    assert "--yes" in result.stderr
    assert list_changes(guarded.azure) == []
    assert KEY not in result.stderr


def test_the_table_says_what_was_repaired_also_if_progress_is_not_printed(guarded: GuardedApp) -> None:
    guarded.set_up(sticky=("TASK_HUB",))
    arguments = ["doctor", "--fix", "--yes", "--quiet", "--no-test-event", "--resource-group", RESOURCE_GROUP]
    result = run_in_process(arguments, guarded.client.build_environment())
    assert (result.code, result.err) == (ExitCode.DONE, "")
    assert "moves with the code. Repaired: the app setting TASK_HUB moves with" in result.out


def test_yes_without_fix_is_refused(guarded: GuardedApp) -> None:
    result = guarded.client.run_cli("doctor", "--yes")
    assert (result.code, "Add --fix" in result.stderr) == (ExitCode.USAGE, True)


@pytest.mark.parametrize("columns", [80, 60])
def test_each_repair_is_asked_for_in_a_terminal(guarded: GuardedApp, columns: int) -> None:
    """The first is agreed to, the second is not."""
    guarded.set_up(staging=guarded.settings | {SITE_NAMES: "0"}, subscriptions=[])
    arguments = ["doctor", "--fix", "--resource-group", RESOURCE_GROUP, "--output", "json"]
    variables = guarded.client.build_environment(PATH=os.environ["PATH"])
    with run_in_terminal(arguments, variables, columns=columns, typed="y\nn\n") as run:
        assert run.wait() == ExitCode.FAILURE
        assert run.process.stdout is not None
        results = {item["check"]: item["status"] for item in json.loads(run.process.stdout.read())}
    assert (results["site names"], results["event subscription"]) == ("ok", "failed")
    output = " ".join(run.output.decode().split())
    assert f"Set {SITE_NAMES}=1 in staging? The app restarts there. [y/N]" in output
    assert f"site names: set {SITE_NAMES}=1 in staging. The app restarted there" in output
    assert "event subscription: nothing was changed" in output
    assert guarded.azure.read("topics")[TOPIC]["subscriptions"] == []


def test_in_ci_nothing_is_asked_also_with_a_terminal(guarded: GuardedApp) -> None:
    guarded.set_up(subscriptions=[])
    variables = guarded.client.build_environment(PATH=os.environ["PATH"], CI="true")
    arguments = ["doctor", "--fix", "--resource-group", RESOURCE_GROUP]
    with run_in_terminal(arguments, variables, typed="y\n") as run:
        assert run.wait() == ExitCode.USAGE
    assert b"--yes" in run.output
    assert list_changes(guarded.azure) == []
