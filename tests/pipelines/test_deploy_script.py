"""`pipelines/shell/deploy.sh`, for CI systems without a template: the same sequence and exit codes, with curl."""

import os
import signal
import time
from pathlib import Path

import pytest

from harness.processes import free_port, wait_until
from harness.state_server import ROOT
from safe_deploy.errors import ExitCode
from tests.conftest import new_hub_name
from tests.pipelines.ci_machine import KEYS, PipelineApp
from tests.pipelines.deploy_script import DEPLOY_SCRIPT, RUN, DeployScript
from tests.pipelines.shellcheck import run_shellcheck


def test_shellcheck_finds_nothing(tmp_path: Path) -> None:
    run_shellcheck(DEPLOY_SCRIPT.read_text(), tmp_path)


def test_a_release_is_staged_swapped_and_cleaned_up(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    old_hub, new_hub = staged
    deploy_script.run("swap", *deploy_script.swap_arguments(), task_hub=new_hub)
    assert deploy_script.exit_code == ExitCode.DONE, deploy_script.stderr
    assert pipeline_app.task_hubs() == (new_hub, old_hub)
    assert pipeline_app.get_app()["slots"]["production"]["version"] == "1.5.0"

    newest_hub = new_hub_name()
    deploy_script.run("status")
    assert deploy_script.exit_code == ExitCode.DONE
    deploy_script.run("stage", task_hub=newest_hub)
    deploy_script.run("swap", "--outcome", "done", task_hub=newest_hub)
    assert '"outcome": "Removed"' in deploy_script.run("cleanup")
    records = {(record["runUrl"], record["by"], record["keyName"]) for record in pipeline_app.history()[:-1]}
    assert records == {(RUN, "ada", "the-deployer")}


def test_a_slot_that_is_not_drained_is_not_ready_and_cannot_be_staged(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    old_hub, new_hub = staged
    pipeline_app.publish_event(old_hub, "Running")
    deploy_script.run("swap", *deploy_script.swap_arguments(), task_hub=new_hub)

    assert '"InstancesActive"' in deploy_script.run("status")
    assert deploy_script.exit_code == ExitCode.NOT_READY
    deploy_script.run("stage", task_hub=new_hub_name())
    assert deploy_script.exit_code == ExitCode.NOT_READY
    deploy_script.run("status", wait="true", timeout="2")
    assert deploy_script.exit_code == ExitCode.TIMED_OUT


def test_waiting_ends_when_the_slot_has_drained(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    old_hub, new_hub = staged
    pipeline_app.publish_event(old_hub, "Running")
    deploy_script.run("swap", *deploy_script.swap_arguments(), task_hub=new_hub)
    waiting = deploy_script.start("status", wait="true", timeout="60")
    assert waiting.stderr is not None
    assert "warning: EventsOnly: " in waiting.stderr.readline()
    assert "not ready" in waiting.stderr.readline()
    pipeline_app.publish_event(old_hub, "Completed")
    result, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == ExitCode.DONE
    assert '"ready": true' in result


@pytest.mark.parametrize("azure_swaps", [True, False])
def test_a_swap_whose_command_fails_stays_pending_until_the_printed_command_is_run(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str], *, azure_swaps: bool
) -> None:
    old_hub, new_hub = staged
    pipeline_app.fake_azure.set_fault("swap", call_count=1, takes_effect=azure_swaps)
    deploy_script.run("swap", *deploy_script.swap_arguments(), task_hub=new_hub)
    assert deploy_script.exit_code == ExitCode.CONFLICT
    assert pipeline_app.get_app()["pendingSwap"]["taskHub"] == new_hub

    deploy_script.run_printed_command("done" if azure_swaps else "failed", f"SAFE_DEPLOY_TASK_HUB={new_hub} ")
    assert pipeline_app.task_hubs() == ((new_hub, old_hub) if azure_swaps else (old_hub, new_hub))
    for _ in range(2):
        deploy_script.run("swap", *deploy_script.swap_arguments(), task_hub=new_hub)
        assert deploy_script.exit_code == ExitCode.DONE, deploy_script.stderr
        assert pipeline_app.task_hubs() == (new_hub, old_hub)
    assert pipeline_app.swap_count == (1 if azure_swaps else 2)


def test_the_printed_command_names_a_slot_other_than_staging(
    deploy_script: DeployScript, pipeline_app: PipelineApp
) -> None:
    old_hub, new_hub = new_hub_name(), new_hub_name()
    pipeline_app.put_app({"slots": {"production": {"taskHub": old_hub}, "blue": {"taskHub": new_hub}}})
    deploy_script.run("swap", "--", "false", task_hub=new_hub, slot="BLUE")
    assert deploy_script.exit_code == ExitCode.CONFLICT
    # A pipeline of another slot is refused too.
    deploy_script.run("swap", "--", "true", task_hub=new_hub_name())
    assert deploy_script.exit_code == ExitCode.CONFLICT
    deploy_script.run_printed_command("failed", "SAFE_DEPLOY_SLOT=blue ")
    assert pipeline_app.get_app()["slots"]["production"]["taskHub"] == old_hub


def test_a_command_that_cannot_be_started_is_refused_before_anything_is_on_record(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    _, new_hub = staged
    for program in ("no-such-program", "request", str(DEPLOY_SCRIPT.parent), str(ROOT / "README.md")):
        deploy_script.run("swap", "--", program, task_hub=new_hub)
        assert (deploy_script.exit_code, "was not found, so no swap was recorded" in deploy_script.stderr) == (
            ExitCode.USAGE,
            True,
        )
    assert pipeline_app.get_app()["pendingSwap"] is None
    assert pipeline_app.task_hubs() == staged


def test_a_server_that_fails_after_the_swap_gets_the_outcome_by_the_printed_command(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str], tmp_path: Path
) -> None:
    old_hub, new_hub = staged
    server_is_gone = tmp_path / "server-is-gone"
    # 7 is the exit code of curl if it cannot connect.
    deploy_script.replace_curl(f'[[ ! -e {server_is_gone} ]] || exit 7; exec /usr/bin/curl "$@"')
    deploy_script.run("swap", "--", "bash", "-c", f"touch {server_is_gone}", task_hub=new_hub, retry_for="1")
    assert deploy_script.exit_code == ExitCode.FAILURE
    server_is_gone.unlink()
    deploy_script.run_printed_command("done", f"SAFE_DEPLOY_TASK_HUB={new_hub} ")
    slots = pipeline_app.get_app()["slots"]
    assert (slots["production"]["taskHub"], slots["staging"]["taskHub"]) == (new_hub, old_hub)


@pytest.mark.parametrize("azure_swaps", [True, False])
def test_an_interrupted_swap_stays_pending_until_its_outcome_is_sent(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str], *, azure_swaps: bool
) -> None:
    old_hub, new_hub = staged
    pipeline_app.fake_azure.set_fault(
        "swap",
        exit_code=None,
        call_count=1,
        delay_before_seconds=0 if azure_swaps else 30,
        delay_after_seconds=30 if azure_swaps else 0,
    )
    process = deploy_script.start("swap", *deploy_script.swap_arguments(), task_hub=new_hub)
    wait_until(
        lambda: (
            pipeline_app.swap_count == 1
            and (pipeline_app.fake_azure.settings(pipeline_app.name)["TASK_HUB"] == new_hub) is azure_swaps
        ),
        "the swap has begun, and has changed Azure if `azure_swaps` is set",
    )
    # The machine goes down, which ends the script and `az`.
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert pipeline_app.get_app()["pendingSwap"]["taskHub"] == new_hub

    # A second swap could undo the first.
    deploy_script.run("swap", *deploy_script.swap_arguments(), task_hub=new_hub)
    assert deploy_script.exit_code == ExitCode.CONFLICT
    output = deploy_script.stderr
    deploy_script.run("stage", task_hub=new_hub_name())
    assert deploy_script.exit_code == ExitCode.CONFLICT
    assert pipeline_app.swap_count == 1

    deploy_script.stderr = output
    deploy_script.run_printed_command("done" if azure_swaps else "failed", f"SAFE_DEPLOY_TASK_HUB={new_hub} ")
    assert pipeline_app.task_hubs() == ((new_hub, old_hub) if azure_swaps else (old_hub, new_hub))


@pytest.mark.parametrize("outcome", ["done", "failed"])
def test_a_run_reports_no_outcome_for_the_swap_of_another_run(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str], outcome: str
) -> None:
    """The message prints the command that ends the swap of the other run, and no later one."""
    _, new_hub = staged
    other_run = "https://ci.example/pipelines/8"
    deploy_script.run("swap", "--outcome", "pending", task_hub=new_hub, run_url=other_run)
    assert deploy_script.exit_code == ExitCode.DONE, deploy_script.stderr
    pending_swap = pipeline_app.get_app()["pendingSwap"]
    deploy_script.run("swap", "--outcome", outcome, task_hub=new_hub)
    assert deploy_script.exit_code == ExitCode.CONFLICT
    assert pipeline_app.get_app()["pendingSwap"] == pending_swap
    deploy_script.run_printed_command(outcome, f"SAFE_DEPLOY_RUN_URL={other_run} ")
    assert pipeline_app.get_app()["pendingSwap"] is None


def test_the_outcome_of_a_swap_without_a_run_is_reported_outside_ci(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    """A run cannot prove that it began the swap, so the message says where the printed command works."""
    _, new_hub = staged
    ci_variables, deploy_script.ci_variables = deploy_script.ci_variables, {}
    deploy_script.run("swap", "--outcome", "pending", task_hub=new_hub)
    assert deploy_script.exit_code == ExitCode.DONE, deploy_script.stderr
    deploy_script.ci_variables = ci_variables
    deploy_script.run("swap", "--outcome", "done", task_hub=new_hub)
    assert deploy_script.exit_code == ExitCode.CONFLICT
    assert "Run it in a shell outside CI" in deploy_script.stderr
    assert "SAFE_DEPLOY_RUN_URL" not in deploy_script.stderr
    deploy_script.run_printed_command("done", f"SAFE_DEPLOY_TASK_HUB={new_hub} ")
    assert pipeline_app.get_app()["pendingSwap"] is None


def test_a_signal_waits_for_the_command_and_leaves_a_failure_pending(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str], tmp_path: Path
) -> None:
    old_hub, new_hub = staged
    command_runs = tmp_path / "command-runs"
    process = deploy_script.start(
        "swap", "--", "sh", "-c", f"touch {command_runs}; sleep 0.5; exit 1", task_hub=new_hub
    )
    wait_until(command_runs.exists, "the command runs")
    process.send_signal(signal.SIGTERM)
    _, output = process.communicate(timeout=30)
    assert process.returncode == ExitCode.CONFLICT
    assert "after an interrupt" in output
    assert "stays pending" in output
    assert pipeline_app.get_app()["pendingSwap"]["swappedOut"] == old_hub


def test_another_runs_deployment_is_a_conflict(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    deploy_script.run("stage", task_hub=new_hub_name(), run_url="https://ci.example/pipelines/8")
    assert deploy_script.exit_code == ExitCode.CONFLICT
    deploy_script.run(
        "stage", task_hub=new_hub_name(), run_url="https://ci.example/pipelines/8", take_over="true", reason="7 is dead"
    )
    assert deploy_script.exit_code == ExitCode.DONE, deploy_script.stderr


@pytest.mark.parametrize(
    ("ci_variables", "run_url", "actor"),
    [
        (
            {"BUILDKITE_BUILD_URL": "https://buildkite.example/shop/builds/7", "BUILDKITE_BUILD_CREATOR": "ada"},
            "https://buildkite.example/shop/builds/7",
            "ada",
        ),
        (
            {"BITBUCKET_BUILD_NUMBER": "7", "BITBUCKET_REPO_FULL_NAME": "acme/shop"},
            "https://bitbucket.org/acme/shop/pipelines/results/7",
            None,
        ),
        ({"BUILD_URL": "https://jenkins.example/job/shop/7/"}, "https://jenkins.example/job/shop/7/", None),
    ],
)
def test_the_run_is_that_of_the_ci_system(
    deploy_script: DeployScript,
    pipeline_app: PipelineApp,
    ci_variables: dict[str, str],
    run_url: str,
    actor: str | None,
) -> None:
    pipeline_app.register(new_hub_name())
    deploy_script.ci_variables = ci_variables
    deploy_script.run("stage", task_hub=new_hub_name())
    assert deploy_script.exit_code == ExitCode.DONE, deploy_script.stderr
    record = pipeline_app.history()[0]
    assert record["runUrl"] == run_url
    assert actor is None or record["by"] == actor


@pytest.mark.parametrize("key", ["", "a-key-that-nobody-knows", KEYS["publisher"]])
def test_a_key_without_the_role_is_forbidden(deploy_script: DeployScript, pipeline_app: PipelineApp, key: str) -> None:
    pipeline_app.register(new_hub_name())
    deploy_script.run("status", key=key)
    assert deploy_script.exit_code == ExitCode.NOT_ALLOWED


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ([], {}),
        (["promote"], {}),
        (["status"], {"server": ""}),
        (["status"], {"app": "shop/../other"}),
        (["status"], {"slot": "staging?verify=none"}),
        (["status"], {"verify": "sometimes"}),
        (["status"], {"run_url": "https://ci.example\nX-Actor: another actor"}),
        (["stage"], {"task_hub": "9lives"}),
        (["status"], {"timeout": "soon"}),
        (["status"], {"timeout": "08"}),
        (["status"], {"retry_for": "-1"}),
        (["swap", "--outcome", "done"], {}),
        (["swap"], {"task_hub": "shop1"}),
        (["swap", "--"], {"task_hub": "shop1"}),
        (["swap", "--outcome", "perhaps"], {"task_hub": "shop1"}),
        (["swap", "--outcome", "done", "--", "true"], {"task_hub": "shop1"}),
        (["swap", "env"], {"task_hub": "shop1"}),
        (["rollback"], {}),
        (["rollback", "--outcome"], {}),
        (["rollback", "--", "true"], {"task_hub": "9lives"}),
        (["stage"], {"task_hub": "shop1", "force": "true"}),
    ],
)
def test_invalid_arguments_are_usage_errors(
    deploy_script: DeployScript, pipeline_app: PipelineApp, arguments: list[str], settings: dict[str, str]
) -> None:
    pipeline_app.register(new_hub_name())
    deploy_script.run(*arguments, **settings)
    assert deploy_script.exit_code == ExitCode.USAGE, deploy_script.stderr


def test_an_unreachable_server_is_retried_until_the_timeout(deploy_script: DeployScript) -> None:
    began = time.monotonic()
    deploy_script.run("status", server=f"http://127.0.0.1:{free_port()}", retry_for="4")
    assert deploy_script.exit_code == ExitCode.FAILURE
    # bash counts whole seconds, so the second pause may or may not fit.
    assert deploy_script.stderr.count("trying again") in (1, 2)
    assert time.monotonic() - began < 30


def test_the_key_is_in_no_list_of_arguments_and_the_command_does_not_get_it(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str], tmp_path: Path
) -> None:
    """The `curl` that `replace_curl` installs records what `ps` shows of itself and of its parent processes."""
    _, new_hub = staged
    command_lines = tmp_path / "command-lines"
    deploy_script.replace_curl(f'cat /proc/$$/cmdline /proc/$PPID/cmdline >>{command_lines}\nexec /usr/bin/curl "$@"')
    deploy_script.run("swap", "--", "sh", "-c", "env", task_hub=new_hub)
    assert deploy_script.exit_code == ExitCode.DONE, deploy_script.stderr
    assert "SAFE_DEPLOY_TASK_HUB" in deploy_script.stderr
    assert "SAFE_DEPLOY_KEY" not in deploy_script.stderr
    assert b"/api/apps/" in command_lines.read_bytes()
    assert KEYS["deployer"].encode() not in command_lines.read_bytes()
