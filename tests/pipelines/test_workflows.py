"""The workflows for a durable app and the quickstart, run step by step: releases, failures, re-runs, rollbacks."""

from pathlib import Path

import pytest

from tests.conftest import new_hub
from tests.pipelines.harness import GROUP, PIPELINES, Machine, Shop
from tests.pipelines.releases import DURABLE, DURABLE_ROLLBACK, Release, hub_of, logs

QUICKSTART = PIPELINES / "github" / "quickstart.yml"


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
