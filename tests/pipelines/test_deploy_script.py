"""`pipelines/shell/deploy.sh`, for CI systems without a template: the same sequence and exit codes, with curl."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from harness.processes import free_port, wait_until
from harness.state_server import ROOT
from tests.conftest import new_hub_name
from tests.pipelines.ci_machine import KEYS, PIPELINES_FOLDER, RESOURCE_GROUP, Machine, PipelineApp
from tests.pipelines.shellcheck import run_shellcheck

DEPLOY_SCRIPT = PIPELINES_FOLDER / "shell" / "deploy.sh"
RUN = "https://ci.example/pipelines/7"


class DeployScript:
    """Runs the script as a job of a CI system."""

    def __init__(self, machine: Machine, pipeline_app: PipelineApp) -> None:
        self.machine = machine
        self.pipeline_app = pipeline_app
        self.exit_code = 0
        self.stderr = ""
        self.ci = {"CI_PIPELINE_URL": RUN, "GITLAB_USER_LOGIN": "ada"}

    def environment(self, **settings: str) -> dict[str, str]:
        """The environment of the script. `settings` sets SAFE_DEPLOY_ variables, such as `task_hub`."""
        environment = {
            **self.machine.environment(self.machine.folder, logged_in=True),
            "SAFE_DEPLOY_SERVER": self.pipeline_app.server,
            "SAFE_DEPLOY_APP": self.pipeline_app.name,
            "SAFE_DEPLOY_KEY": KEYS["deployer"],
            **self.ci,
        }
        return environment | {f"SAFE_DEPLOY_{name.upper()}": value for name, value in settings.items()}

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        """Start the script with these arguments, and with `settings` as SAFE_DEPLOY_ variables."""
        return subprocess.Popen(
            [DEPLOY_SCRIPT, *arguments],
            env=self.environment(**settings),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *arguments: str, **settings: str) -> str:
        """Run the script to its end, and return its stdout. `exit_code` and `stderr` keep the rest of the result."""
        process = self.start(*arguments, **settings)
        stdout, self.stderr = process.communicate(timeout=60)
        self.exit_code = process.returncode
        assert not any(key in stdout + self.stderr for key in KEYS.values())
        return stdout

    def swap_arguments(self) -> list[str]:
        """The arguments of `swap` that make the script swap the slots with `az`."""
        name = self.pipeline_app.name
        swap = ["az", "functionapp", "deployment", "slot", "swap", "--resource-group", RESOURCE_GROUP, "--name", name]
        return ["--", *swap, "--slot", "staging", "--target-slot", "production"]

    def replace_curl(self, line: str) -> None:
        """Put a program `curl` before the real one on the PATH. It runs this line of shell, which ends with `exec`."""
        program = self.machine.tools / "curl"
        program.write_text(f"#!/bin/bash\n{line}\n")
        program.chmod(0o755)

    def run_printed_command(self, outcome: str, expected_part: str) -> None:
        """Run the command that the script printed for this outcome, which must contain `expected_part`.

        No SAFE_DEPLOY_ variable except the key is set.
        """
        commands = re.findall(r"run: (.*? --outcome \w+)", self.stderr)
        [command_line] = [command for command in commands if command.endswith(outcome)]
        assert expected_part in command_line
        env = {**self.machine.environment(self.machine.folder, logged_in=True), "SAFE_DEPLOY_KEY": KEYS["deployer"]}
        process = subprocess.run(["bash", "-c", command_line], env=env, capture_output=True, check=False, text=True)
        assert process.returncode == 0, process.stderr


@pytest.fixture
def deploy_script(machine: Machine, pipeline_app: PipelineApp) -> DeployScript:
    return DeployScript(machine, pipeline_app)


@pytest.fixture
def staged(pipeline_app: PipelineApp, deploy_script: DeployScript) -> tuple[str, str]:
    """The task hubs in production and in the slot, after a release was staged over an empty slot and deployed."""
    old, new = new_hub_name(), new_hub_name()
    pipeline_app.put({"slots": {"production": {"taskHub": old}}})
    deploy_script.run("stage", task_hub=new, version="1.5.0")
    assert deploy_script.exit_code == 0, deploy_script.stderr
    pipeline_app.reset({"TASK_HUB": old}, {"TASK_HUB": new})
    return old, new


def test_shellcheck_finds_nothing(tmp_path: Path) -> None:
    run_shellcheck(DEPLOY_SCRIPT.read_text(), tmp_path)


def test_a_release_is_staged_swapped_and_cleaned_up(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    old, new = staged
    deploy_script.run("swap", *deploy_script.swap_arguments(), task_hub=new)
    assert deploy_script.exit_code == 0, deploy_script.stderr
    assert pipeline_app.task_hubs() == (new, old)
    assert pipeline_app.app()["slots"]["production"]["version"] == "1.5.0"

    newer = new_hub_name()
    deploy_script.run("status")
    assert deploy_script.exit_code == 0
    deploy_script.run("stage", task_hub=newer)
    deploy_script.run("swap", "--outcome", "done", task_hub=newer)
    assert '"outcome": "Removed"' in deploy_script.run("cleanup")
    records = {(record["runUrl"], record["by"], record["keyName"]) for record in pipeline_app.history()[:-1]}
    assert records == {(RUN, "ada", "the-deployer")}


def test_a_slot_that_is_not_drained_is_not_ready_and_cannot_be_staged(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    old, new = staged
    pipeline_app.publish_event(old, "Running")
    deploy_script.run("swap", *deploy_script.swap_arguments(), task_hub=new)

    assert '"InstancesActive"' in deploy_script.run("status")
    assert deploy_script.exit_code == 3
    deploy_script.run("stage", task_hub=new_hub_name())
    assert deploy_script.exit_code == 3
    deploy_script.run("status", wait="true", timeout="2")
    assert deploy_script.exit_code == 5


def test_waiting_ends_when_the_slot_has_drained(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    old, new = staged
    pipeline_app.publish_event(old, "Running")
    deploy_script.run("swap", *deploy_script.swap_arguments(), task_hub=new)
    waiting = deploy_script.start("status", wait="true", timeout="60")
    assert waiting.stderr is not None
    assert "warning: EventsOnly: " in waiting.stderr.readline()
    assert "not ready" in waiting.stderr.readline()
    pipeline_app.publish_event(old, "Completed")
    result, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert '"ready": true' in result


@pytest.mark.parametrize("swaps", [True, False])
def test_a_swap_whose_command_fails_stays_pending_until_the_printed_command_is_run(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str], swaps: bool
) -> None:
    old, new = staged
    pipeline_app.fake_azure.set_fault("swap", call_count=1, takes_effect=swaps)
    deploy_script.run("swap", *deploy_script.swap_arguments(), task_hub=new)
    assert deploy_script.exit_code == 6
    assert pipeline_app.app()["pendingSwap"]["taskHub"] == new

    deploy_script.run_printed_command("done" if swaps else "failed", f"SAFE_DEPLOY_TASK_HUB={new} ")
    assert pipeline_app.task_hubs() == ((new, old) if swaps else (old, new))
    for _ in range(2):
        deploy_script.run("swap", *deploy_script.swap_arguments(), task_hub=new)
        assert deploy_script.exit_code == 0, deploy_script.stderr
        assert pipeline_app.task_hubs() == (new, old)
    assert pipeline_app.swap_count == (1 if swaps else 2)


def test_the_printed_command_names_a_slot_other_than_staging(
    deploy_script: DeployScript, pipeline_app: PipelineApp
) -> None:
    old, new = new_hub_name(), new_hub_name()
    pipeline_app.put({"slots": {"production": {"taskHub": old}, "blue": {"taskHub": new}}})
    deploy_script.run("swap", "--", "false", task_hub=new, slot="BLUE")
    assert deploy_script.exit_code == 6
    # A pipeline of another slot is refused too.
    deploy_script.run("swap", "--", "true", task_hub=new_hub_name())
    assert deploy_script.exit_code == 6
    deploy_script.run_printed_command("failed", "SAFE_DEPLOY_SLOT=blue ")
    assert pipeline_app.app()["slots"]["production"]["taskHub"] == old


def test_a_command_that_cannot_be_started_is_refused_before_anything_is_on_record(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    _, new = staged
    for program in ("no-such-program", "request", str(DEPLOY_SCRIPT.parent), str(ROOT / "README.md")):
        deploy_script.run("swap", "--", program, task_hub=new)
        assert (deploy_script.exit_code, "was not found, so no swap was recorded" in deploy_script.stderr) == (2, True)
    assert pipeline_app.app()["pendingSwap"] is None
    assert pipeline_app.task_hubs() == staged


def test_a_server_that_fails_after_the_swap_gets_the_outcome_by_the_printed_command(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str], tmp_path: Path
) -> None:
    old, new = staged
    gone = tmp_path / "gone"
    deploy_script.replace_curl(f'[[ ! -e {gone} ]] || exit 7; exec /usr/bin/curl "$@"')
    deploy_script.run("swap", "--", "bash", "-c", f"touch {gone}", task_hub=new, retry_for="1")
    assert deploy_script.exit_code == 1
    gone.unlink()
    deploy_script.run_printed_command("done", f"SAFE_DEPLOY_TASK_HUB={new} ")
    slots = pipeline_app.app()["slots"]
    assert (slots["production"]["taskHub"], slots["staging"]["taskHub"]) == (new, old)


def test_a_swap_without_a_command_needs_an_outcome(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    old, new = staged
    deploy_script.run("swap", "--outcome", "pending", task_hub=new)
    assert pipeline_app.app()["pendingSwap"]["taskHub"] == new
    deploy_script.run("swap", "--outcome", "pending", task_hub=new)
    assert deploy_script.exit_code == 6, "a second swap would bring the old version back"
    deploy_script.run("rollback", "--outcome", "failed")
    assert deploy_script.exit_code == 6, "it is not a rollback that is pending"
    deploy_script.run("swap", "--outcome", "done", task_hub=new)
    deploy_script.run("swap", "--outcome", "pending", task_hub=new)
    assert (deploy_script.exit_code, "Do not swap the slots" in deploy_script.stderr) == (6, True)
    for outcome in ("pending", "failed", "pending", "done", "done"):
        deploy_script.run("rollback", "--outcome", outcome)
        assert deploy_script.exit_code == 0, deploy_script.stderr
    slots = pipeline_app.app()["slots"]
    assert (slots["production"]["taskHub"], slots["staging"]["taskHub"]) == (old, new)
    assert pipeline_app.history()[0]["details"]["rollback"] is True


@pytest.mark.parametrize("swaps", [True, False])
def test_an_interrupted_swap_stays_pending_until_its_outcome_is_sent(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str], swaps: bool
) -> None:
    old, new = staged
    pipeline_app.fake_azure.set_fault(
        "swap",
        exit_code=None,
        call_count=1,
        delay_before_seconds=0 if swaps else 30,
        delay_after_seconds=30 if swaps else 0,
    )
    process = deploy_script.start("swap", *deploy_script.swap_arguments(), task_hub=new)
    wait_until(
        lambda: (
            pipeline_app.swap_count == 1
            and (pipeline_app.fake_azure.settings(pipeline_app.name)["TASK_HUB"] == new) is swaps
        ),
        "the swap has begun, and has changed Azure if `swaps` is set",
    )
    # The machine goes down, which ends the script and `az`.
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert pipeline_app.app()["pendingSwap"]["taskHub"] == new

    # A second swap could undo the first.
    deploy_script.run("swap", *deploy_script.swap_arguments(), task_hub=new)
    assert deploy_script.exit_code == 6
    output = deploy_script.stderr
    deploy_script.run("stage", task_hub=new_hub_name())
    assert deploy_script.exit_code == 6
    assert pipeline_app.swap_count == 1

    deploy_script.stderr = output
    deploy_script.run_printed_command("done" if swaps else "failed", f"SAFE_DEPLOY_TASK_HUB={new} ")
    assert pipeline_app.task_hubs() == ((new, old) if swaps else (old, new))


def test_a_signal_waits_for_the_command_and_leaves_a_failure_pending(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str], tmp_path: Path
) -> None:
    old, new = staged
    begun = tmp_path / "begun"
    process = deploy_script.start("swap", "--", "sh", "-c", f"touch {begun}; sleep 0.5; exit 1", task_hub=new)
    wait_until(begun.exists, "the command runs")
    process.send_signal(signal.SIGTERM)
    _, output = process.communicate(timeout=30)
    assert process.returncode == 6
    assert "after an interrupt" in output
    assert "stays pending" in output
    assert pipeline_app.app()["pendingSwap"]["swappedOut"] == old


def test_a_rollback_brings_the_old_version_back_and_doing_it_twice_changes_nothing(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    old, new = staged
    deploy_script.run("swap", *deploy_script.swap_arguments(), task_hub=new)
    for _ in range(2):
        deploy_script.run("rollback", *deploy_script.swap_arguments())
        assert deploy_script.exit_code == 0, deploy_script.stderr
        assert pipeline_app.task_hubs() == (old, new)
    assert pipeline_app.swap_count == 2


@pytest.mark.long
def test_a_rollback_to_the_version_in_production_is_a_conflict_unless_a_rollback_put_it_there(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    old, new = staged
    deploy_script.run("swap", *deploy_script.swap_arguments(), task_hub=new)
    deploy_script.run("rollback", *deploy_script.swap_arguments(), task_hub=new)
    assert deploy_script.exit_code == 6
    assert "not because of a rollback" in deploy_script.stderr
    for _ in range(2):
        deploy_script.run("rollback", *deploy_script.swap_arguments(), task_hub=old, slot="Staging")
        assert deploy_script.exit_code == 0, deploy_script.stderr
    assert pipeline_app.task_hubs() == (old, new)
    assert pipeline_app.swap_count == 2


@pytest.mark.long
def test_a_rollback_finds_its_slots_last_swap_however_far_back_it_is(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    old, new = staged
    deploy_script.run("swap", "--outcome", "done", task_hub=new)
    other = new_hub_name()
    pipeline_app.put({"slots": {"blue": {"taskHub": other}}})
    deploy_script.run("swap", "--outcome", "done", task_hub=other, slot="blue")
    # The swap record of the other slot does not count for this slot.
    deploy_script.run("rollback", "--outcome", "done", slot="BLUE")
    assert pipeline_app.app()["slots"]["production"]["taskHub"] == new
    deploy_script.replace_curl('exec /usr/bin/curl "${@/top=200/top=1}"')
    for _ in range(2):
        deploy_script.run("rollback", "--outcome", "done", slot="STAGING")
        assert deploy_script.exit_code == 0, deploy_script.stderr
        assert pipeline_app.app()["slots"]["production"]["taskHub"] == old
        pipeline_app.put({"policy": {"settleSeconds": 1}})


def test_a_rollback_does_not_promote_a_version_that_was_only_staged(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    deploy_script.run("rollback", *deploy_script.swap_arguments())
    assert deploy_script.exit_code == 6
    assert "never in production" in deploy_script.stderr
    assert pipeline_app.task_hubs() == staged
    assert pipeline_app.swap_count == 0


def test_another_runs_deployment_is_a_conflict(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str]
) -> None:
    deploy_script.run("stage", task_hub=new_hub_name(), run_url="https://ci.example/pipelines/8")
    assert deploy_script.exit_code == 6
    deploy_script.run(
        "stage", task_hub=new_hub_name(), run_url="https://ci.example/pipelines/8", take_over="true", reason="7 is dead"
    )
    assert deploy_script.exit_code == 0, deploy_script.stderr


@pytest.mark.parametrize(
    ("ci", "run", "actor"),
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
    deploy_script: DeployScript, pipeline_app: PipelineApp, ci: dict[str, str], run: str, actor: str | None
) -> None:
    pipeline_app.register(new_hub_name())
    deploy_script.ci = ci
    deploy_script.run("stage", task_hub=new_hub_name())
    assert deploy_script.exit_code == 0, deploy_script.stderr
    record = pipeline_app.history()[0]
    assert record["runUrl"] == run
    assert actor is None or record["by"] == actor


@pytest.mark.parametrize("key", ["", "a-key-that-nobody-knows", KEYS["publisher"]])
def test_a_key_without_the_role_is_forbidden(deploy_script: DeployScript, pipeline_app: PipelineApp, key: str) -> None:
    pipeline_app.register(new_hub_name())
    deploy_script.run("status", key=key)
    assert deploy_script.exit_code == 4


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
    assert deploy_script.exit_code == 2, deploy_script.stderr


def test_an_unreachable_server_is_retried_until_the_timeout(deploy_script: DeployScript) -> None:
    began = time.monotonic()
    deploy_script.run("status", server=f"http://127.0.0.1:{free_port()}", retry_for="4")
    assert deploy_script.exit_code == 1
    # bash counts whole seconds, so the second pause may or may not fit.
    assert deploy_script.stderr.count("trying again") in (1, 2)
    assert time.monotonic() - began < 30


def test_the_key_is_in_no_list_of_arguments_and_the_command_does_not_get_it(
    deploy_script: DeployScript, pipeline_app: PipelineApp, staged: tuple[str, str], tmp_path: Path
) -> None:
    """The `curl` that `replace_curl` installs records what `ps` shows of itself and of its parent processes."""
    _, new = staged
    seen = tmp_path / "seen"
    deploy_script.replace_curl(f'cat /proc/$$/cmdline /proc/$PPID/cmdline >>{seen}\nexec /usr/bin/curl "$@"')
    deploy_script.run("swap", "--", "sh", "-c", "env", task_hub=new)
    assert deploy_script.exit_code == 0, deploy_script.stderr
    assert "SAFE_DEPLOY_TASK_HUB" in deploy_script.stderr
    assert "SAFE_DEPLOY_KEY" not in deploy_script.stderr
    assert b"/api/apps/" in seen.read_bytes()
    assert KEYS["deployer"].encode() not in seen.read_bytes()
