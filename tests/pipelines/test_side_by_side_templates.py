"""The Azure Pipelines for releases side by side, run step by step: approvals, promotions, rollbacks, retirement, lost
agents."""

import itertools
import re
from pathlib import Path

import pytest

from tests.pipelines.azure_pipelines_runner import PipelineRun
from tests.pipelines.ci_machine import PIPELINES_FOLDER, RESOURCE_GROUP, Machine, load_yaml
from tests.pipelines.job_killer import JobKiller
from tests.pipelines.side_by_side_cloud import SideBySideCloud, deployed_app

SIDE_BY_SIDE, ROLLBACK, RETIRE = (
    PIPELINES_FOLDER / "azure-pipelines" / f"{name}.yml"
    for name in ("side-by-side", "side-by-side-rollback", "side-by-side-retire")
)

_run_numbers = iter(range(3_000_000, 4_000_000))


class PipelineRunner:
    """Creates runs of the pipelines, with the placeholders filled in."""

    def __init__(self, machine: Machine, cloud: SideBySideCloud, folder: Path) -> None:
        self.machine, self.cloud, self.folder = machine, cloud, folder

    def create(self, file: Path, **parameters: str) -> PipelineRun:
        """A run of a sample pipeline, whose placeholders are replaced by the app and the server of the test."""
        pipeline_app = self.cloud.pipeline_app
        text = file.read_text()
        for placeholder, value in {
            "server: https://shop-state.azurewebsites.net": f"server: {pipeline_app.server}",
            "app: shop ": f"app: {pipeline_app.name} ",
            "resourceGroup: shop ": f"resourceGroup: {RESOURCE_GROUP} ",
            "APP: shop ": f"APP: {pipeline_app.name} ",
        }.items():
            text, count = re.subn(rf"(?m)^(\s*){re.escape(placeholder)}", rf"\g<1>{value}", text)
            assert count == 1 or (count == 0 and placeholder.startswith("APP"))
        copy = self.folder / file.name
        copy.write_text(text)
        return PipelineRun(copy, self.machine, next(_run_numbers), parameters)

    def release(self) -> PipelineRun:
        """Release and promote. Fails unless all stages succeed."""
        return require_success(self.create(SIDE_BY_SIDE).start())


def require_success(run: PipelineRun) -> PipelineRun:
    """The run, every job of which must have succeeded."""
    assert set(run.results.values()) == {"succeeded"}, run.log
    return run


def version_of(run: PipelineRun, attempt: int = 1) -> str:
    """The version that the pipeline names after its run and attempt."""
    return f"{run.number}.{attempt}"


def name_of(run: PipelineRun, attempt: int = 1) -> str:
    """The name of the release's task hub, Function App and container."""
    return f"shop{run.number}x{attempt}"


@pytest.fixture
def runner(machine: Machine, side_by_side_cloud: SideBySideCloud, tmp_path: Path) -> PipelineRunner:
    """Runs the pipelines for releases side by side."""
    return PipelineRunner(machine, side_by_side_cloud, tmp_path)


def test_pipelines_promote_roll_back_promote_again_and_retire(
    runner: PipelineRunner, side_by_side_cloud: SideBySideCloud
) -> None:
    first = runner.create(SIDE_BY_SIDE)
    first.builds_for_real = True
    first.unapproved_environments = {"production"}
    first.start()
    assert first.results == {"Build": "succeeded", "Release": "succeeded", "Promote": "waiting"}, first.log
    assert side_by_side_cloud.releases() == {version_of(first): "Staged"}
    assert side_by_side_cloud.active_version() is None
    require_success(first.approve("production"))
    assert side_by_side_cloud.active_version() == version_of(first)

    second = runner.release()
    require_success(first.rerun("Promote"))
    assert side_by_side_cloud.active_version() == version_of(first)
    require_success(second.rerun("Promote"))
    assert side_by_side_cloud.active_version() == version_of(second)

    side_by_side_cloud.pass_time()
    assert load_yaml(RETIRE)["schedules"][0]["always"]
    require_success(runner.create(RETIRE).start())
    assert side_by_side_cloud.releases() == {version_of(second): "Serving"}
    assert side_by_side_cloud.resources() == {
        "apps": {name_of(second): deployed_app(name_of(second))},
        "plans": 1,
        "containers": [f"shopreleases/{name_of(second)}"],
    }
    first.rerun("Promote")
    assert first.results["Promote"] == "failed"
    assert any("removed" in issue for issue in first.jobs["Promote"]["Promote"].issues)
    assert side_by_side_cloud.active_version() == version_of(second)


@pytest.mark.long
def test_a_stage_release_that_failed_is_continued_and_one_that_is_run_again_is_another_release(
    runner: PipelineRunner, side_by_side_cloud: SideBySideCloud
) -> None:
    side_by_side_cloud.pipeline_app.fake_azure.set_fault("config-zip", call_count=1)
    run = runner.create(SIDE_BY_SIDE).start()
    assert run.results["Release"] == "failed", run.log
    require_success(run.rerun_failed())
    assert side_by_side_cloud.releases() == {version_of(run): "Serving"}
    require_success(run.rerun("Release"))
    assert side_by_side_cloud.active_version() == version_of(run, 3)


def test_the_rollback_pipeline_goes_back_once_and_requires_the_name_of_the_app(
    runner: PipelineRunner, side_by_side_cloud: SideBySideCloud
) -> None:
    first, second = side_by_side_cloud.add_active_release(), side_by_side_cloud.add_active_release()
    assert runner.create(ROLLBACK, confirm="another-app").start().results == {"RollBack": "failed"}
    app = side_by_side_cloud.pipeline_app.name
    for _ in range(2):
        require_success(runner.create(ROLLBACK, confirm=app).start())
        assert side_by_side_cloud.active_version() == first
    require_success(runner.create(ROLLBACK, confirm=app, version=second).start())
    assert side_by_side_cloud.active_version() == second


@pytest.mark.long
def test_stages_and_a_retirement_whose_agents_are_lost_again_and_again_end_as_if_never_interrupted(
    runner: PipelineRunner, side_by_side_cloud: SideBySideCloud, job_killer: JobKiller
) -> None:
    """Each attempt is killed later than the one before it, until one ends before that."""

    def run_with_kills(run: PipelineRun) -> int:
        """Returns how often the run was killed."""
        for kill_count in itertools.count():
            with job_killer.kill_at(1 + 2 * kill_count, after_effect=kill_count % 2 == 1) as is_killed:
                run.start() if kill_count == 0 else run.rerun_failed()
            if not is_killed():
                require_success(run)
                return kill_count
        raise AssertionError("the attempts have no end")

    before = side_by_side_cloud.add_active_release()
    run = runner.create(SIDE_BY_SIDE)
    assert run_with_kills(run) >= 5
    assert side_by_side_cloud.releases() == {before: "Draining", version_of(run): "Serving"}
    side_by_side_cloud.pass_time()
    assert run_with_kills(runner.create(RETIRE)) >= 3
    assert side_by_side_cloud.releases() == {version_of(run): "Serving"}
    assert side_by_side_cloud.resources() == {
        "apps": {name_of(run): deployed_app(name_of(run))},
        "plans": 1,
        "containers": [f"shopreleases/{name_of(run)}"],
    }


@pytest.mark.parametrize("prefix", ["9lives", "shop-"])
def test_a_prefix_that_makes_no_name_for_all_resources_is_refused(
    runner: PipelineRunner, side_by_side_cloud: SideBySideCloud, prefix: str
) -> None:
    run = runner.create(SIDE_BY_SIDE)
    [step] = [step for step in run.stages["Release"]["jobs"][0]["steps"] if "bash" in step]
    step["env"]["PREFIX"] = prefix
    run.start()
    assert run.results["Release"] == "failed"
    assert run.jobs["Release"]["Name"].issues
    assert side_by_side_cloud.releases() == {}
