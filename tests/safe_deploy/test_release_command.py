"""`safe-deploy release` as pipelines run it: a new release side by side is registered, deployed and checked."""

import json
from pathlib import Path

import pytest

from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.conftest import new_hub_name
from tests.safe_deploy.assertions import OTHER_RUN, assert_exit
from tests.safe_deploy.ci_systems import AZURE, github_environment, read_outputs
from tests.safe_deploy.deployment_fixture import RUN
from tests.safe_deploy.doctor_runner import PROVIDER_CONFIG, create_provider_hub
from tests.safe_deploy.processes import KEYS
from tests.safe_deploy.release_fixture import ReleaseFixture, address_of
from tests.safe_deploy.terminal import run_in_terminal


def test_a_release_is_registered_and_then_deployed(releases: ReleaseFixture) -> None:
    result = releases.run(releases.release("1.0"))
    assert_exit(result, ExitCode.DONE, "running sh", "has no taskHubs")
    assert releases.list_commands() == [["1.0", releases.task_hub_of("1.0"), address_of("1.0")]]
    assert releases.states() == {"1.0": "Staged"}
    assert "release 1.0 of app" in result.stdout


def test_a_release_that_fails_stays_staged_and_the_same_command_continues(releases: ReleaseFixture) -> None:
    failed = releases.run(releases.release("1.0", "sh", "-c", "exit 3"))
    assert_exit(failed, ExitCode.FAILURE, "the command ended with exit code 3", "stays staged", "retire --version 1.0")
    assert releases.states() == {"1.0": "Staged"}
    assert_exit(releases.run(releases.release("1.0")), ExitCode.DONE)
    assert len(releases.history("PostRelease")) == 1


def test_no_command_runs_while_another_run_deploys(releases: ReleaseFixture) -> None:
    releases.register("1.0", run_url=OTHER_RUN)
    arguments = releases.release("1.1")
    assert_exit(releases.run(arguments), ExitCode.CONFLICT, OTHER_RUN)
    assert releases.list_commands() == []
    overridden = releases.release("1.1", options=["--take-over", "--reason", "that run has died"])
    assert_exit(releases.run(overridden), ExitCode.DONE)
    assert releases.states() == {"1.0": "Staged", "1.1": "Staged"}


@pytest.mark.parametrize("used", ["version", "task hub"])
def test_a_name_that_was_used_is_refused_before_the_command_runs(releases: ReleaseFixture, used: str) -> None:
    releases.register_and_promote("1.0")
    if used == "version":
        releases.task_hubs["1.0"] = new_hub_name()
        result = releases.run(releases.release("1.0"))
        assert_exit(result, ExitCode.CONFLICT, "already has release 1.0")
    else:
        releases.task_hubs["1.1"] = releases.task_hub_of("1.0")
        assert_exit(releases.run(releases.release("1.1")), ExitCode.CONFLICT, releases.task_hub_of("1.0"))
    assert releases.list_commands() == []


def test_a_run_that_is_repeated_after_its_release_had_traffic_deploys_nothing(releases: ReleaseFixture) -> None:
    assert_exit(releases.run(releases.release("1.0")), ExitCode.DONE)
    releases.route("1.0")
    repeated = releases.run(releases.release("1.0"))
    assert_exit(repeated, ExitCode.DONE, "an earlier attempt of this run", "the command was not run")
    assert len(releases.list_commands()) == 1
    for run_url in (OTHER_RUN, None):
        by_another_run = releases.run(releases.release("1.0"), run_url=run_url)
        assert_exit(by_another_run, ExitCode.CONFLICT, "already has release 1.0")


def test_a_repeated_run_of_a_removed_release_is_refused(releases: ReleaseFixture) -> None:
    assert_exit(releases.run(releases.release("1.0")), ExitCode.DONE)
    releases.route("1.0")
    releases.register_and_promote("1.1")
    releases.let_routers_stop()
    for outcome in ("Pending", "Done"):
        releases.request("DELETE", "/releases/1.0", params={"outcome": outcome})
    assert_exit(releases.run(releases.release("1.0")), ExitCode.CONFLICT, "was used before")


def test_a_release_whose_task_hub_does_not_exist_has_not_started(
    releases: ReleaseFixture, storage: StorageSettings
) -> None:
    releases.create(taskHubs=PROVIDER_CONFIG)
    arguments = releases.release("1.0", options=["--timeout", "0"])
    stalled = releases.run(arguments)
    assert_exit(stalled, ExitCode.TIMED_OUT, "has not started within 0 s", "does not exist at its provider")
    assert releases.states() == {"1.0": "Staged"}
    create_provider_hub(storage, releases.task_hub_of("1.0"))
    assert_exit(releases.run(arguments), ExitCode.DONE, "has started")
    assert len(releases.list_commands()) == 2


def test_an_app_that_never_rests_has_started(releases: ReleaseFixture, storage: StorageSettings) -> None:
    """A timer of the app starts a short orchestration within each settle window. Between two of them nothing is active,
    and the server does not read the task hub."""
    releases.create(taskHubs=PROVIDER_CONFIG, policy={"settleSeconds": 3600})
    arguments = releases.release("1.0", options=["--timeout", "0"])
    assert_exit(releases.run(arguments), ExitCode.TIMED_OUT, "does not exist at its provider")
    create_provider_hub(storage, releases.task_hub_of("1.0"))
    releases.publish("1.0", "tick-1", "Running")
    releases.publish("1.0", "tick-1", "Completed")
    assert_exit(releases.run(arguments), ExitCode.DONE, "has started")


def test_a_release_has_not_started_without_its_task_hub_even_if_missing_task_hubs_count_as_drained(
    releases: ReleaseFixture,
) -> None:
    """With this policy the verdict is Ready while the task hub is missing, so the command does not rely on it."""
    releases.create(taskHubs=PROVIDER_CONFIG, policy={"missingTaskHubIsDrained": True})
    stalled = releases.run(releases.release("1.0", options=["--timeout", "0"]))
    assert_exit(stalled, ExitCode.TIMED_OUT, "does not exist at its provider")


def test_github_gets_the_override_token_as_a_masked_output(releases: ReleaseFixture, tmp_path: Path) -> None:
    result = releases.run(releases.release("1.0"), **github_environment(tmp_path))
    assert_exit(result, ExitCode.DONE)
    token = releases.override_token("1.0")
    assert read_outputs(tmp_path) == {
        "version": "1.0",
        "task-hub": releases.task_hub_of("1.0"),
        "address": address_of("1.0"),
        "override-token": token,
    }
    lines = [line for line in (result.stdout + result.stderr).splitlines() if token in line]
    assert lines == [f"::add-mask::{token}"]
    assert token not in (tmp_path / "summary").read_text()


def test_azure_pipelines_gets_the_override_token_as_a_secret_variable(releases: ReleaseFixture) -> None:
    result = releases.run(releases.release("1.0"), **AZURE)
    token = releases.override_token("1.0")
    lines = [line for line in (result.stdout + result.stderr).splitlines() if token in line]
    assert lines == [f"##vso[task.setvariable variable=overrideToken;isOutput=true;issecret=true]{token}"]


def test_a_log_of_another_system_never_has_the_override_token(releases: ReleaseFixture) -> None:
    result = releases.run(releases.release("1.0", options=["--output", "json"]), GITLAB_CI="true")
    assert_exit(result, ExitCode.DONE, "X-Release-Override")
    assert releases.override_token("1.0") not in result.stdout + result.stderr
    assert json.loads(result.stdout)["releases"]["1.0"]["state"] == "Staged"


def test_an_interactive_terminal_shows_how_to_look_at_the_release(releases: ReleaseFixture) -> None:
    variables = {
        "SAFE_DEPLOY_SERVER": releases.cli.url,
        "SAFE_DEPLOY_APP": releases.app,
        "SAFE_DEPLOY_KEY": KEYS["deployer"],
    }
    with run_in_terminal(releases.release("1.0"), variables) as run:
        assert run.wait() == ExitCode.DONE
    token = releases.override_token("1.0").encode()
    assert b"X-Release-Override: " + token in run.output
    assert b"release-override=" + token in run.output


def test_a_release_without_a_command_is_refused(releases: ReleaseFixture) -> None:
    result = releases.run(releases.release("1.0")[:-4])
    assert_exit(result, ExitCode.USAGE, "no command is given")
    assert releases.states() == {}


def test_a_run_is_named_in_the_audit_log(releases: ReleaseFixture) -> None:
    releases.run(releases.release("1.0"))
    entries = releases.request("GET", "/history")["history"]
    assert [entry["runUrl"] for entry in entries if entry["operation"] == "PostRelease"] == [RUN]
