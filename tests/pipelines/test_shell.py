"""`deploy.sh`, for CI systems without a template of their own: the same sequence and exit codes, by curl."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from dev.local import free_port, until
from tests.conftest import new_hub
from tests.pipelines.harness import GROUP, KEYS, PIPELINES, Machine, Shop
from tests.pipelines.shells import shellcheck
from tests.server.processes import ROOT

SCRIPT = PIPELINES / "shell" / "deploy.sh"
RUN = "https://ci.example/pipelines/7"


class Deploy:
    """Calls the script as a job of some CI system would."""

    def __init__(self, machine: Machine, shop: Shop) -> None:
        self.machine = machine
        self.shop = shop
        self.code = 0
        self.said = ""
        self.ci = {"CI_PIPELINE_URL": RUN, "GITLAB_USER_LOGIN": "ada"}

    def environment(self, **more: str) -> dict[str, str]:
        known = {
            **self.machine.environment(self.machine.folder, logged_in=True),
            "SAFE_DEPLOY_SERVER": self.shop.server,
            "SAFE_DEPLOY_APP": self.shop.name,
            "SAFE_DEPLOY_KEY": KEYS["deployer"],
            **self.ci,
        }
        return known | {f"SAFE_DEPLOY_{name.upper()}": value for name, value in more.items()}

    def begin(self, *words: str, **more: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        env = self.environment(**more)
        return subprocess.Popen(
            [SCRIPT, *words],
            env=env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
        )

    def __call__(self, *words: str, **more: str) -> str:
        """What it printed as its result; `code` and `said` have the rest."""
        process = self.begin(*words, **more)
        result, self.said = process.communicate(timeout=60)
        self.code = process.returncode
        assert not any(key in result + self.said for key in KEYS.values())
        return result

    def swap_command(self) -> list[str]:
        name = self.shop.name
        swap = ["az", "functionapp", "deployment", "slot", "swap", "--resource-group", GROUP, "--name", name]
        return ["--", *swap, "--slot", "staging", "--target-slot", "production"]

    def curl(self, line: str) -> None:
        """Put a `curl` in front of the real one: it runs this line of shell, and should go on with `exec`."""
        program = self.machine.tools / "curl"
        program.write_text(f"#!/bin/bash\n{line}\n")
        program.chmod(0o755)

    def typed(self, outcome: str, whole: str) -> None:
        """Type what was said for this outcome, and be sure that it is complete: nothing else is set."""
        commands = re.findall(r"type: (.*? --outcome \w+)", self.said)
        [words] = [command for command in commands if command.endswith(outcome)]
        assert whole in words
        env = {**self.machine.environment(self.machine.folder, logged_in=True), "SAFE_DEPLOY_KEY": KEYS["deployer"]}
        ended = subprocess.run(["bash", "-c", words], env=env, capture_output=True, check=False, text=True)
        assert ended.returncode == 0, ended.stderr


@pytest.fixture
def deploy(machine: Machine, shop: Shop) -> Deploy:
    return Deploy(machine, shop)


@pytest.fixture
def staged(shop: Shop, deploy: Deploy) -> tuple[str, str]:
    """What is in production, and what was staged and deployed over an empty slot."""
    old, new = new_hub(), new_hub()
    shop.put({"slots": {"production": {"taskHub": old}}})
    deploy("stage", task_hub=new, version="1.5.0")
    assert deploy.code == 0, deploy.said
    shop.make({"TASK_HUB": old}, {"TASK_HUB": new})
    return old, new


def test_shellcheck_finds_nothing(tmp_path: Path) -> None:
    shellcheck(SCRIPT.read_text(), tmp_path)


def test_a_release_is_staged_swapped_and_cleaned_up(deploy: Deploy, shop: Shop, staged: tuple[str, str]) -> None:
    old, new = staged
    deploy("swap", *deploy.swap_command(), task_hub=new)
    assert deploy.code == 0, deploy.said
    assert shop.hubs() == (new, old)
    assert shop.app()["slots"]["production"]["version"] == "1.5.0"

    newer = new_hub()
    deploy("status")
    assert deploy.code == 0
    deploy("stage", task_hub=newer)
    deploy("swap", "--outcome", "done", task_hub=newer)
    assert '"outcome": "Removed"' in deploy("cleanup")
    records = {(record["runUrl"], record["by"], record["keyName"]) for record in shop.history()[:-1]}
    assert records == {(RUN, "ada", "the-deployer")}


def test_a_slot_that_is_not_drained_is_not_ready_and_cannot_be_staged(
    deploy: Deploy, shop: Shop, staged: tuple[str, str]
) -> None:
    old, new = staged
    shop.orchestration(old, "Running")
    deploy("swap", *deploy.swap_command(), task_hub=new)

    assert '"InstancesActive"' in deploy("status")
    assert deploy.code == 3
    deploy("stage", task_hub=new_hub())
    assert deploy.code == 3
    deploy("status", wait="true", timeout="2")
    assert deploy.code == 5


def test_waiting_ends_when_the_slot_has_drained(deploy: Deploy, shop: Shop, staged: tuple[str, str]) -> None:
    old, new = staged
    shop.orchestration(old, "Running")
    deploy("swap", *deploy.swap_command(), task_hub=new)
    waiting = deploy.begin("status", wait="true", timeout="60")
    assert waiting.stderr is not None
    assert "warning: EventsOnly: " in waiting.stderr.readline()
    assert "not ready" in waiting.stderr.readline()
    shop.orchestration(old, "Completed")
    result, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert '"ready": true' in result


@pytest.mark.parametrize("happened", [True, False])
def test_a_swap_whose_command_fails_stays_pending_until_somebody_types_what_is_said(
    deploy: Deploy, shop: Shop, staged: tuple[str, str], happened: bool
) -> None:
    old, new = staged
    shop.cloud.fault("swap", times=1, done=happened)
    deploy("swap", *deploy.swap_command(), task_hub=new)
    assert deploy.code == 6
    assert shop.app()["pendingSwap"]["taskHub"] == new

    deploy.typed("done" if happened else "failed", f"SAFE_DEPLOY_TASK_HUB={new} ")
    assert shop.hubs() == ((new, old) if happened else (old, new))
    for _ in range(2):
        deploy("swap", *deploy.swap_command(), task_hub=new)
        assert deploy.code == 0, deploy.said
        assert shop.hubs() == (new, old)
    assert shop.swaps == (1 if happened else 2)


def test_what_is_to_be_typed_names_a_slot_that_is_not_staging(deploy: Deploy, shop: Shop) -> None:
    old, new = new_hub(), new_hub()
    shop.put({"slots": {"production": {"taskHub": old}, "blue": {"taskHub": new}}})
    deploy("swap", "--", "false", task_hub=new, slot="BLUE")
    assert deploy.code == 6
    # From another slot's pipeline, too.
    deploy("swap", "--", "true", task_hub=new_hub())
    assert deploy.code == 6
    deploy.typed("failed", "SAFE_DEPLOY_SLOT=blue ")
    assert shop.app()["slots"]["production"]["taskHub"] == old


def test_a_command_that_cannot_be_started_is_refused_before_anything_is_on_record(
    deploy: Deploy, shop: Shop, staged: tuple[str, str]
) -> None:
    _, new = staged
    for program in ("no-such-program", "ask", str(SCRIPT.parent), str(ROOT / "README.md")):
        deploy("swap", "--", program, task_hub=new)
        assert (deploy.code, "there is no program" in deploy.said) == (2, True)
    assert shop.app()["pendingSwap"] is None
    assert shop.hubs() == staged


def test_a_server_that_is_gone_after_the_command_is_told_by_hand(
    deploy: Deploy, shop: Shop, staged: tuple[str, str], tmp_path: Path
) -> None:
    old, new = staged
    gone = tmp_path / "gone"
    deploy.curl(f'[[ ! -e {gone} ]] || exit 7; exec /usr/bin/curl "$@"')
    deploy("swap", "--", "bash", "-c", f"touch {gone}", task_hub=new, patience="1")
    assert deploy.code == 1
    gone.unlink()
    deploy.typed("done", f"SAFE_DEPLOY_TASK_HUB={new} ")
    slots = shop.app()["slots"]
    assert (slots["production"]["taskHub"], slots["staging"]["taskHub"]) == (new, old)


def test_whoever_swaps_without_a_command_says_how_it_stands(
    deploy: Deploy, shop: Shop, staged: tuple[str, str]
) -> None:
    old, new = staged
    deploy("swap", "--outcome", "pending", task_hub=new)
    assert shop.app()["pendingSwap"]["taskHub"] == new
    deploy("swap", "--outcome", "pending", task_hub=new)
    assert deploy.code == 6, "whoever swaps twice brings the old version back"
    deploy("rollback", "--outcome", "failed")
    assert deploy.code == 6, "it is not a rollback that is pending"
    deploy("swap", "--outcome", "done", task_hub=new)
    deploy("swap", "--outcome", "pending", task_hub=new)
    assert (deploy.code, "do not swap the slots" in deploy.said) == (6, True)
    for outcome in ("pending", "failed", "pending", "done", "done"):
        deploy("rollback", "--outcome", outcome)
        assert deploy.code == 0, deploy.said
    slots = shop.app()["slots"]
    assert (slots["production"]["taskHub"], slots["staging"]["taskHub"]) == (old, new)
    assert shop.history()[0]["details"]["rollback"] is True


@pytest.mark.parametrize("happened", [True, False])
def test_a_swap_that_was_cut_off_stays_pending_until_somebody_has_looked(
    deploy: Deploy, shop: Shop, staged: tuple[str, str], happened: bool
) -> None:
    old, new = staged
    shop.cloud.fault("swap", code=None, times=1, delay=0 if happened else 30, delay_after=30 if happened else 0)
    process = deploy.begin("swap", *deploy.swap_command(), task_hub=new)
    until(lambda: shop.swaps == 1 and (shop.cloud.settings(shop.name)["TASK_HUB"] == new) is happened, "it has begun")
    # As when a machine goes down: the script and `az` with it.
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert shop.app()["pendingSwap"]["taskHub"] == new

    # To swap once more could undo it.
    deploy("swap", *deploy.swap_command(), task_hub=new)
    assert deploy.code == 6
    said = deploy.said
    deploy("stage", task_hub=new_hub())
    assert deploy.code == 6
    assert shop.swaps == 1

    deploy.said = said
    deploy.typed("done" if happened else "failed", f"SAFE_DEPLOY_TASK_HUB={new} ")
    assert shop.hubs() == ((new, old) if happened else (old, new))


def test_a_signal_waits_for_the_command_and_leaves_a_failure_pending(
    deploy: Deploy, shop: Shop, staged: tuple[str, str], tmp_path: Path
) -> None:
    old, new = staged
    begun = tmp_path / "begun"
    process = deploy.begin("swap", "--", "sh", "-c", f"touch {begun}; sleep 0.5; exit 1", task_hub=new)
    until(begun.exists, "the command runs")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 6
    assert "when it was interrupted" in said
    assert "stays pending" in said
    assert shop.app()["pendingSwap"]["swappedOut"] == old


def test_a_rollback_brings_the_old_version_back_and_doing_it_twice_changes_nothing(
    deploy: Deploy, shop: Shop, staged: tuple[str, str]
) -> None:
    old, new = staged
    deploy("swap", *deploy.swap_command(), task_hub=new)
    for _ in range(2):
        deploy("rollback", *deploy.swap_command())
        assert deploy.code == 0, deploy.said
        assert shop.hubs() == (old, new)
    assert shop.swaps == 2


@pytest.mark.long
def test_a_rollback_to_what_is_in_production_is_a_conflict_unless_a_rollback_brought_it_there(
    deploy: Deploy, shop: Shop, staged: tuple[str, str]
) -> None:
    old, new = staged
    deploy("swap", *deploy.swap_command(), task_hub=new)
    deploy("rollback", *deploy.swap_command(), task_hub=new)
    assert deploy.code == 6
    assert "no rollback brought it there" in deploy.said
    for _ in range(2):
        deploy("rollback", *deploy.swap_command(), task_hub=old, slot="Staging")
        assert deploy.code == 0, deploy.said
    assert shop.hubs() == (old, new)
    assert shop.swaps == 2


@pytest.mark.long
def test_a_rollback_finds_its_slots_last_swap_however_far_back_it_is(
    deploy: Deploy, shop: Shop, staged: tuple[str, str]
) -> None:
    old, new = staged
    deploy("swap", "--outcome", "done", task_hub=new)
    other = new_hub()
    shop.put({"slots": {"blue": {"taskHub": other}}})
    deploy("swap", "--outcome", "done", task_hub=other, slot="blue")
    # That of the other slot is a rollback to what is in production, and says nothing about this one.
    deploy("rollback", "--outcome", "done", slot="BLUE")
    assert shop.app()["slots"]["production"]["taskHub"] == new
    deploy.curl('exec /usr/bin/curl "${@/top=200/top=1}"')
    for _ in range(2):
        deploy("rollback", "--outcome", "done", slot="STAGING")
        assert deploy.code == 0, deploy.said
        assert shop.app()["slots"]["production"]["taskHub"] == old
        shop.put({"policy": {"settleSeconds": 1}})


def test_a_rollback_does_not_promote_what_was_only_staged(deploy: Deploy, shop: Shop, staged: tuple[str, str]) -> None:
    deploy("rollback", *deploy.swap_command())
    assert deploy.code == 6
    assert "never in production" in deploy.said
    assert shop.hubs() == staged
    assert shop.swaps == 0


def test_another_runs_deployment_is_a_conflict(deploy: Deploy, shop: Shop, staged: tuple[str, str]) -> None:
    deploy("stage", task_hub=new_hub(), run_url="https://ci.example/pipelines/8")
    assert deploy.code == 6
    deploy("stage", task_hub=new_hub(), run_url="https://ci.example/pipelines/8", take_over="true", reason="7 is dead")
    assert deploy.code == 0, deploy.said


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
    deploy: Deploy, shop: Shop, ci: dict[str, str], run: str, actor: str | None
) -> None:
    shop.register(new_hub())
    deploy.ci = ci
    deploy("stage", task_hub=new_hub())
    assert deploy.code == 0, deploy.said
    record = shop.history()[0]
    assert record["runUrl"] == run
    assert actor is None or record["by"] == actor


@pytest.mark.parametrize("key", ["", "a-key-that-nobody-knows", KEYS["publisher"]])
def test_a_key_that_is_not_good_for_it_is_not_allowed(deploy: Deploy, shop: Shop, key: str) -> None:
    shop.register(new_hub())
    deploy("status", key=key)
    assert deploy.code == 4


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ([], {}),
        (["promote"], {}),
        (["status"], {"server": ""}),
        (["status"], {"app": "shop/../other"}),
        (["status"], {"slot": "staging?verify=none"}),
        (["status"], {"verify": "sometimes"}),
        (["status"], {"run_url": "https://ci.example\nX-Actor: somebody else"}),
        (["stage"], {"task_hub": "9lives"}),
        (["status"], {"timeout": "soon"}),
        (["status"], {"timeout": "08"}),
        (["status"], {"patience": "-1"}),
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
def test_what_makes_no_sense_is_a_matter_of_usage(
    deploy: Deploy, shop: Shop, words: list[str], more: dict[str, str]
) -> None:
    shop.register(new_hub())
    deploy(*words, **more)
    assert deploy.code == 2, deploy.said


def test_a_server_that_is_away_is_asked_again_and_then_given_up(deploy: Deploy) -> None:
    began = time.monotonic()
    deploy("status", server=f"http://127.0.0.1:{free_port()}", patience="4")
    assert deploy.code == 1
    # bash counts whole seconds, so the second pause may or may not fit in.
    assert deploy.said.count("trying again") in (1, 2)
    assert time.monotonic() - began < 30


def test_the_key_is_in_no_list_of_arguments_and_the_command_does_not_get_it(
    deploy: Deploy, shop: Shop, staged: tuple[str, str], tmp_path: Path
) -> None:
    """A `curl` in front of the real one writes down what `ps` would show, of itself and of all that called it."""
    _, new = staged
    seen = tmp_path / "seen"
    deploy.curl(f'cat /proc/$$/cmdline /proc/$PPID/cmdline >>{seen}\nexec /usr/bin/curl "$@"')
    deploy("swap", "--", "sh", "-c", "env", task_hub=new)
    assert deploy.code == 0, deploy.said
    assert "SAFE_DEPLOY_TASK_HUB" in deploy.said
    assert "SAFE_DEPLOY_KEY" not in deploy.said
    assert b"/api/apps/" in seen.read_bytes()
    assert KEYS["deployer"].encode() not in seen.read_bytes()
