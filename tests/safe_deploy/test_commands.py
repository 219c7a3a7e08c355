"""Every command against a real server with keys: its result, and its exit code."""

import json
import re
from pathlib import Path

import pytest

from safe_deploy.errors import ExitCode
from tests.builders import event
from tests.conftest import new_hub_name
from tests.safe_deploy.app_client import RUN, AppClient
from tests.safe_deploy.ci_systems import github_environment
from tests.safe_deploy.processes import CliResult, run_safe_deploy


def table_lines(text: str) -> list[str]:
    """The lines of a table, with single spaces between the cells."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


# --- results ---


def test_status_of_an_empty_slot_is_ready(app_client: AppClient) -> None:
    app_client.register()
    result = app_client.run_cli("status", role="reader")
    assert result == CliResult(0, "Ready: slot staging (empty), by lifecycle events alone\n", "")


def test_status_shows_the_blocking_instances(app_client: AppClient) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub, "order-1"))
    result = app_client.run_cli("status", "--slot", "production")
    assert result.code == ExitCode.NOT_READY
    first, *table = table_lines(result.stdout)
    assert first.startswith(
        f"NotReady: slot production (task hub {app_client.hub}): InstancesActive: 1 orchestration instance is active"
    )
    assert table[0] == "Instance Function Status Active for Last event Known by"
    assert re.fullmatch(r"order-1 ProcessOrder Running \d+ s \d+ s event", table[2])
    warning, error = result.stderr.splitlines()
    assert warning.startswith(
        f"warning: EventsOnly: the verdict on task hub {app_client.hub} rests on lifecycle events alone"
    )
    assert error == "error: slot production is not ready: InstancesActive"


def test_status_as_json_is_the_servers_verdict(app_client: AppClient) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub))
    result = app_client.run_cli("status", "--slot", "production", "--output", "json")
    assert result.code == ExitCode.NOT_READY
    printed, verdict = result.json(), app_client.request_json("GET", "/staging?slot=production")
    assert printed.keys() == verdict.keys()
    assert printed["active"] == verdict["active"]
    assert (printed["ready"], printed["taskHub"], printed["activeCount"]) == (False, app_client.hub, 1)


def test_register_records_the_task_hub_in_production(app_client: AppClient) -> None:
    result = app_client.run_cli("register", "--create", "--task-hub", app_client.hub, "--version", "1.4.0")
    assert result.code == ExitCode.DONE
    assert table_lines(result.stdout)[0] == (
        f"slot production of app {app_client.app} holds task hub {app_client.hub}; the app is created"
    )
    assert re.fullmatch(rf"production {app_client.hub} 1\.4\.0 \d+ s", table_lines(result.stdout)[3])
    slot = app_client.request_json("GET")["slots"]["production"]
    assert (slot["taskHub"], slot["version"]) == (app_client.hub, "1.4.0")


def test_register_enables_verification(app_client: AppClient) -> None:
    options = ("--provider", "azureStorage", "--connection", "STATE_TASKHUBS_SHOP", "--require-verification")
    slot = ("--slot", "staging", "--task-hub", app_client.hub)
    result = app_client.run_cli("register", "--create", *slot, *options, "--output", "json")
    assert result.code == ExitCode.DONE
    app = result.json()
    assert app["taskHubs"]["provider"] == "azureStorage"
    assert app["policy"]["requireVerification"] is True
    assert app["slots"]["staging"]["taskHub"] == app_client.hub


def test_register_refuses_a_provider_without_a_connection_and_the_reverse(app_client: AppClient) -> None:
    for options_without_other in (("--provider", "azureStorage"), ("--connection", "STATE_TASKHUBS_SHOP")):
        result = app_client.run_cli("register", "--task-hub", app_client.hub, *options_without_other)
        assert result.code == ExitCode.USAGE
        assert "--provider and --connection belong together" in result.stderr


def test_stage_swap_and_rollback_with_outcomes_update_the_record(app_client: AppClient) -> None:
    app_client.register()
    hub = new_hub_name()
    staged = app_client.run_cli("stage", "--task-hub", hub, "--version", "2", role="deployer")
    assert staged.code == ExitCode.DONE
    assert table_lines(staged.stdout)[0] == f"task hub {hub} is staged into slot staging of app {app_client.app}"
    outcome = ("--outcome", "done")
    swapped = app_client.run_cli("swap", "--task-hub", hub, *outcome, "--output", "json", role="deployer")
    assert swapped.code == ExitCode.DONE
    assert {name: slot["taskHub"] for name, slot in swapped.json()["slots"].items()} == {
        "production": hub,
        "staging": app_client.hub,
    }
    for _ in range(2):
        back = app_client.run_cli("rollback", *outcome, role="deployer")
        assert back.code == ExitCode.DONE
        assert table_lines(back.stdout)[0] == f"task hub {app_client.hub} is in production of app {app_client.app}"


def test_an_external_swap_is_recorded_as_pending_only_once(app_client: AppClient) -> None:
    """Swapping the slots twice would bring the old version back."""
    app_client.register()
    hub = app_client.stage(new_hub_name(), run_number=1)
    begin = ("swap", "--task-hub", hub, "--outcome", "pending", "--run-url", f"{RUN}1")
    assert app_client.run_cli(*begin, role="deployer").code == ExitCode.DONE
    repeated = app_client.run_cli(*begin, role="deployer")
    assert repeated.code == ExitCode.CONFLICT
    assert "has not reported its outcome" in repeated.stderr
    assert app_client.run_cli("swap", "--task-hub", hub, "--outcome", "done", role="deployer").code == ExitCode.DONE
    after_swap = app_client.run_cli(*begin, role="deployer")
    assert after_swap.code == ExitCode.CONFLICT
    assert "do not swap the slots" in after_swap.stderr
    assert app_client.request_json("GET")["slots"]["production"]["taskHub"] == hub


@pytest.mark.parametrize("outcome", ["done", "failed", "pending"])
def test_the_outcome_of_a_rollback_does_not_end_a_pending_swap(app_client: AppClient, outcome: str) -> None:
    app_client.register()
    hub = app_client.stage(new_hub_name(), run_number=1)
    assert app_client.run_cli("swap", "--task-hub", hub, "--outcome", "pending", role="deployer").code == ExitCode.DONE
    result = app_client.run_cli("rollback", "--outcome", outcome, role="deployer")
    assert result.code == ExitCode.CONFLICT
    assert app_client.request_json("GET")["pendingSwap"]["taskHub"] == hub


def test_an_abandoned_deployment_lets_the_next_run_stage(app_client: AppClient) -> None:
    app_client.register()
    hub = app_client.stage(new_hub_name(), run_number=1)
    result = app_client.run_cli("abandon", "--task-hub", hub, "--run-url", f"{RUN}1", role="deployer")
    assert result.code == ExitCode.DONE
    assert table_lines(result.stdout)[0] == f"the deployment of task hub {hub} into app {app_client.app} is closed"
    assert app_client.request_json("GET")["deployment"] is None
    assert (
        app_client.run_cli("stage", "--task-hub", new_hub_name(), "--run-url", f"{RUN}2", role="deployer").code
        == ExitCode.DONE
    )


def test_cleanup_removes_what_its_dry_run_shows(app_client: AppClient) -> None:
    app_client.register()
    first, second = new_hub_name(), new_hub_name()
    for hub in (first, second, new_hub_name()):
        app_client.swap(app_client.stage(hub))
    dry_run_result = app_client.run_cli("cleanup", "--dry-run", role="deployer")
    assert dry_run_result.code == ExitCode.DONE
    assert [line.split()[0] for line in table_lines(dry_run_result.stdout)[2:]] == [app_client.hub, first]
    assert [task_hub["taskHub"] for task_hub in app_client.request_json("GET")["retired"]] == [app_client.hub, first]
    result = app_client.run_cli("cleanup", "--output", "json", role="deployer")
    assert result.code == ExitCode.DONE
    assert [task_hub["taskHub"] for task_hub in result.json()["taskHubs"]] == [app_client.hub, first]
    assert app_client.request_json("GET")["slots"]["staging"]["taskHub"] == second


def test_cleanup_reports_that_no_task_hub_is_retired(app_client: AppClient) -> None:
    app_client.register()
    assert app_client.run_cli("cleanup").stdout == "no task hub is retired\n"


def test_task_hubs_are_not_deleted_without_a_provider(app_client: AppClient) -> None:
    app_client.register()
    result = app_client.run_cli("cleanup", "--delete-task-hubs")
    assert result.code == ExitCode.USAGE
    assert "say where they are with safe-deploy register --provider and --connection" in result.stderr


def test_instances_shows_the_active_instances_of_the_slot_by_default(app_client: AppClient) -> None:
    app_client.register()
    ended_one = [
        event(app_client.hub, "old"),
        event(app_client.hub, "old", "Completed"),
        event(app_client.hub, "bad", "Failed"),
    ]
    app_client.publish(event(app_client.hub, "new"), *ended_one)

    def list_ids(*options: str) -> list[str]:
        """The ids that the command `instances` prints with these options, sorted."""
        result = app_client.run_cli("instances", *options, "--output", "json", role="reader")
        assert result.code == ExitCode.DONE
        return sorted(instance["instanceId"] for instance in result.json()["instances"])

    assert list_ids("--slot", "production") == ["new"]
    assert list_ids("--task-hub", app_client.hub, "--all") == ["bad", "new", "old"]
    assert list_ids("--task-hub", app_client.hub, "--status", "Failed") == ["bad"]
    table = app_client.run_cli("instances", "--task-hub", app_client.hub, "--all", "--top", "2")
    assert table_lines(table.stdout)[0] == f"2 on record for task hub {app_client.hub}, there are more"
    assert table_lines(table.stdout)[1] == "Instance Function Status Active Started Finished Known by"


def test_instances_of_an_empty_slot_is_a_usage_error(app_client: AppClient) -> None:
    app_client.register()
    result = app_client.run_cli("instances")
    assert result.code == ExitCode.USAGE
    assert f"slot staging of app {app_client.app} holds no task hub. Name a task hub with --task-hub" in result.stderr


def test_history_is_newest_first_and_limited_by_top(app_client: AppClient) -> None:
    app_client.register()
    hub = app_client.stage(new_hub_name(), run_number=7)
    table = table_lines(app_client.run_cli("history", role="reader").stdout)
    assert table[0] == "Revision Age Operation By Details"
    assert re.search(rf"^2 \d+ s PostStaging test {RUN}7 .*{hub}", table[2])
    assert re.search(r"^1 \d+ s PutApp test ", table[3])
    short = app_client.run_cli("history", "--top", "1", "--output", "json").json()
    assert [entry["operation"] for entry in short["history"]] == ["PostStaging"]
    assert short["continuationToken"]


@pytest.mark.parametrize("instance_id", ["stuck", ".", ".."])
def test_a_waived_instance_does_not_block(app_client: AppClient, instance_id: str) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub, instance_id))
    instances = app_client.run_cli("instances", "--task-hub", app_client.hub, "--output", "json").json()["instances"]
    assert [instance["instanceId"] for instance in instances] == [instance_id]
    options = ("--task-hub", app_client.hub, "--instance-id", instance_id, "--reason", "case 4711")
    result = app_client.run_cli("waive", *options, "--expires-in", "2h", "--actor", "anna")
    assert result.code == ExitCode.DONE
    first, *_ = table_lines(result.stdout)
    assert re.fullmatch(rf"waived until 20\S+Z in task hub {app_client.hub}: instance {re.escape(instance_id)}", first)
    row = rf"{app_client.hub} instance {re.escape(instance_id)} 2 h anna case 4711"
    assert re.fullmatch(row, table_lines(result.stdout)[3])
    assert app_client.run_cli("status", "--slot", "production", "--output", "json").json()["activeCount"] == 0


def test_unexplained_messages_are_waived_by_number(app_client: AppClient) -> None:
    app_client.register()
    options = ("--task-hub", app_client.hub, "--reason", "purged timers", "--actor", "anna")
    result = app_client.run_cli("waive", *options, "--unexplained-messages", "3")
    assert result.code == ExitCode.DONE
    assert table_lines(result.stdout)[0].endswith(f"in task hub {app_client.hub}: 3 unexplained messages")
    assert re.fullmatch(
        rf"{app_client.hub} 3 unexplained messages 1 d anna purged timers", table_lines(result.stdout)[3]
    )
    assert [waiver["unexplainedMessages"] for waiver in app_client.request_json("GET")["waivers"]] == [3]
    # The result lists all waivers.
    result = app_client.run_cli("waive", *options, "--instance-id", "stuck")
    assert len(table_lines(result.stdout)) == 5


@pytest.mark.parametrize("options", [(), ("--instance-id", "stuck", "--unexplained-messages", "3")])
def test_a_waiver_needs_either_an_instance_or_messages(app_client: AppClient, options: tuple[str, ...]) -> None:
    app_client.register()
    result = app_client.run_cli("waive", "--task-hub", app_client.hub, "--reason", "why", *options)
    assert result.code == ExitCode.USAGE
    assert "--unexplained-messages" in result.stderr
    assert app_client.request_json("GET")["waivers"] == []


@pytest.mark.parametrize(
    "options", [("--expires-in", "0"), ("--expires-in", "nan"), ("--expires-in", "91d"), ("--reason", "")]
)
def test_a_waiver_needs_a_valid_duration_and_a_reason(app_client: AppClient, options: tuple[str, str]) -> None:
    app_client.register()
    arguments = {"--task-hub": app_client.hub, "--instance-id": "stuck", "--reason": "why"} | {options[0]: options[1]}
    result = app_client.run_cli("waive", *(word for pair in arguments.items() for word in pair))
    assert result.code == ExitCode.USAGE
    assert app_client.request_json("GET")["waivers"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["stage", "--task-hub", "HUB"],
        ["cleanup", "--dry-run"],
        ["instances", "--slot", "production"],
        ["history"],
        ["waive", "--task-hub", "OWN", "--instance-id", "order-1", "--reason", "why"],
        ["register", "--task-hub", "OWN"],
        ["doctor"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_json_output_is_one_document_at_any_width(app_client: AppClient, arguments: list[str], tmp_path: Path) -> None:
    app_client.register(policy={"settleSeconds": 0})
    app_client.publish(event(app_client.hub, "order-1", function="ÄußerstLang" * 20))
    named = [{"HUB": new_hub_name(), "OWN": app_client.hub}.get(word, word) for word in arguments]
    narrow = {"COLUMNS": "20", "SAFE_DEPLOY_OUTPUT": "json", "PYTHONIOENCODING": "ascii"}
    result = app_client.run_cli(*named, **narrow, **github_environment(tmp_path))
    assert result.code == (ExitCode.FAILURE if "doctor" in arguments else 0)
    assert json.loads(result.stdout)
    # Failed checks of the doctor are an error.
    assert [line.startswith("::error ") for line in result.stderr.splitlines()] == [True] * ("doctor" in arguments)
    assert result.stdout.endswith(("}\n", "]\n"))


def test_a_table_in_a_log_is_not_wrapped(app_client: AppClient) -> None:
    app_client.register()
    long = "o" * 250
    app_client.publish(event(app_client.hub, long))
    for arguments in (["status", "--slot", "production"], ["instances", "--slot", "production"]):
        assert any(
            line.startswith(f" {long} ") for line in app_client.run_cli(*arguments, COLUMNS="40").stdout.splitlines()
        )


def test_characters_outside_the_encoding_of_a_log_are_escaped(app_client: AppClient) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub, "bestellung-ü"))
    result = run_safe_deploy(
        "status", "--slot", "production", variables=app_client.build_environment(PYTHONIOENCODING="ascii")
    )
    assert result.code == ExitCode.NOT_READY
    assert "bestellung-\\xfc" in result.stdout
