"""The workflows for releases side by side, run step by step: approvals, promotions, rollbacks, retirement, and lost
machines."""

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.pipelines.ci_machine import Machine
from tests.pipelines.github_actions_runner import WorkflowRun
from tests.pipelines.job_killer import JobKiller
from tests.pipelines.side_by_side_cloud import DEPLOYMENT_TIMEOUT_SECONDS, SideBySideCloud, deployed_app
from tests.pipelines.workflow_releases import (
    SIDE_BY_SIDE,
    SIDE_BY_SIDE_RETIRE,
    SIDE_BY_SIDE_ROLLBACK,
    ReleaseRunner,
    job_logs,
)


class SideBySideRunner:
    """Starts runs of the workflows."""

    def __init__(self, machine: Machine, cloud: SideBySideCloud) -> None:
        self._releases = ReleaseRunner(machine, cloud.pipeline_app)
        self.cloud = cloud

    def create_release(self) -> WorkflowRun:
        """A run of the workflow that deploys and promotes a release."""
        return self._releases.run(SIDE_BY_SIDE)

    def release(self) -> WorkflowRun:
        """Release and promote. Fails unless all jobs succeed."""
        return require_success(self.create_release().start())

    def create_retirement(self, **inputs: str) -> WorkflowRun:
        """A run of the workflow that removes drained releases."""
        return self._releases.run(SIDE_BY_SIDE_RETIRE, **inputs)

    def create_rollback(self, **inputs: str) -> WorkflowRun:
        """A run of the workflow that rolls back."""
        return self._releases.run(SIDE_BY_SIDE_ROLLBACK, **inputs)


def require_success(run: WorkflowRun) -> WorkflowRun:
    """The run, every job of which must have succeeded."""
    assert set(run.conclusions.values()) == {"success"}, job_logs(run)
    return run


def version_of(run: WorkflowRun, attempt: int = 1) -> str:
    """The version that the workflow names after its run and attempt."""
    return f"{run.number}.{attempt}"


def name_of(run: WorkflowRun, attempt: int = 1) -> str:
    """The name of the release's task hub, Function App and container."""
    return f"shop{run.number}x{attempt}"


@pytest.fixture
def runner(machine: Machine, side_by_side_cloud: SideBySideCloud) -> SideBySideRunner:
    """Runs the workflows for releases side by side."""
    return SideBySideRunner(machine, side_by_side_cloud)


def test_releases_are_promoted_rolled_back_promoted_again_and_retired(
    runner: SideBySideRunner, side_by_side_cloud: SideBySideCloud
) -> None:
    first = runner.create_release()
    first.builds_for_real = True
    first.unapproved_environments = {"production"}
    first.start()
    assert first.conclusions == {"build": "success", "release": "success", "promote": "waiting"}, job_logs(first)
    assert side_by_side_cloud.releases() == {version_of(first): "Staged"}
    assert side_by_side_cloud.active_version() is None

    require_success(first.approve("production"))
    assert side_by_side_cloud.active_version() == version_of(first)

    second = runner.release()
    assert side_by_side_cloud.releases() == {version_of(first): "Draining", version_of(second): "Serving"}
    first.rerun("promote")
    assert first.conclusions["promote"] == "success", job_logs(first)
    assert side_by_side_cloud.active_version() == version_of(first)
    second.rerun("promote")
    assert side_by_side_cloud.active_version() == version_of(second), job_logs(second)

    retirement = runner.create_retirement()
    assert retirement.workflow["on"]["schedule"]
    require_success(retirement.start())
    assert side_by_side_cloud.releases().keys() == {version_of(first), version_of(second)}
    side_by_side_cloud.pass_time()
    require_success(runner.create_retirement().start())
    assert side_by_side_cloud.releases() == {version_of(second): "Serving"}
    assert side_by_side_cloud.removed_versions() == [version_of(first)]
    assert side_by_side_cloud.resources() == {
        "apps": {name_of(second): deployed_app(name_of(second))},
        "plans": 1,
        "containers": [f"shopreleases/{name_of(second)}"],
    }
    first.rerun("promote")
    assert first.conclusions["promote"] == "failure"
    assert "removed" in first.jobs["promote"].log
    assert side_by_side_cloud.active_version() == version_of(second)


def test_the_rollback_workflow_goes_back_once_and_requires_the_name_of_the_app(
    runner: SideBySideRunner, side_by_side_cloud: SideBySideCloud
) -> None:
    first, second = side_by_side_cloud.add_active_release(), side_by_side_cloud.add_active_release()
    rollback_run = runner.create_rollback(confirm="another-app").start()
    assert rollback_run.conclusions == {"rollback": "failure"}
    assert side_by_side_cloud.active_version() == second
    app = side_by_side_cloud.pipeline_app.name
    for _ in range(2):
        require_success(runner.create_rollback(confirm=app).start())
        assert side_by_side_cloud.active_version() == first
    require_success(runner.create_rollback(confirm=app, version=second).start())
    assert side_by_side_cloud.active_version() == second


def test_a_release_that_fails_is_continued_by_its_next_attempt_and_a_rerun_of_all_jobs_is_another_release(
    runner: SideBySideRunner, side_by_side_cloud: SideBySideCloud
) -> None:
    side_by_side_cloud.add_plan_without_app()
    side_by_side_cloud.pipeline_app.fake_azure.set_fault("config-zip", call_count=1)
    run = runner.create_release().start()
    assert run.conclusions == {"build": "success", "release": "failure", "promote": "skipped"}, job_logs(run)
    require_success(run.rerun_failed())
    assert side_by_side_cloud.releases() == {version_of(run): "Serving"}
    assert side_by_side_cloud.resources()["apps"] == {name_of(run): deployed_app(name_of(run))}
    assert side_by_side_cloud.resources()["plans"] == 1
    require_success(run.rerun_all())
    assert side_by_side_cloud.releases() == {version_of(run): "Draining", version_of(run, 3): "Serving"}


def test_a_release_with_work_is_not_retired(runner: SideBySideRunner, side_by_side_cloud: SideBySideCloud) -> None:
    busy = side_by_side_cloud.add_drained_release()
    drained = side_by_side_cloud.add_drained_release()
    side_by_side_cloud.pipeline_app.publish_event(busy, "Running")
    require_success(runner.create_retirement().start())
    assert busy in side_by_side_cloud.releases()
    assert drained not in side_by_side_cloud.releases()
    assert busy in side_by_side_cloud.resources()["apps"]
    assert drained not in side_by_side_cloud.resources()["apps"]


@pytest.mark.long
def test_a_release_that_is_not_approved_is_retired_by_its_version_when_its_deployment_has_expired(
    runner: SideBySideRunner, side_by_side_cloud: SideBySideCloud
) -> None:
    run = runner.create_release()
    run.unapproved_environments = {"production"}
    run.start()
    require_success(runner.create_retirement().start())
    assert side_by_side_cloud.releases() == {version_of(run): "Staged"}
    early = runner.create_retirement(version=version_of(run)).start()
    assert early.conclusions == {"retire": "failure"}
    assert run.url in early.jobs["retire"].log
    side_by_side_cloud.server.advance_clock(DEPLOYMENT_TIMEOUT_SECONDS)
    with side_by_side_cloud.pass_time_during_removal():
        require_success(runner.create_retirement(version=version_of(run)).start())
    assert side_by_side_cloud.releases() == {}
    assert side_by_side_cloud.resources() == {"apps": {}, "plans": 0, "containers": []}
    run.approve("production")
    assert run.conclusions["promote"] == "failure"
    assert "removed" in run.jobs["promote"].log


@pytest.mark.parametrize("prefix", ["Shop", "a" * 20])
def test_a_prefix_that_makes_no_name_for_all_resources_is_refused(
    runner: SideBySideRunner, side_by_side_cloud: SideBySideCloud, prefix: str
) -> None:
    run = runner.create_release()
    [step] = [step for step in run.workflow["jobs"]["build"]["steps"] if step.get("id") == "name"]
    step["env"]["PREFIX"] = prefix
    run.start()
    assert run.conclusions == {"build": "failure", "release": "skipped", "promote": "skipped"}
    assert "::error::PREFIX" in run.jobs["build"].log
    assert side_by_side_cloud.releases() == {}


# --- lost machines ---


EVERY_EIGHTH_PLACE = pytest.param(8, False, id="every eighth place")
"""Before the requests 1, 9, 17 and so on, and after the requests 5, 13, 21 and so on."""
EVERY_PLACE = pytest.param(1, True, id="every place", marks=pytest.mark.long)

PLACES = pytest.mark.parametrize(("stride", "is_complete"), [EVERY_EIGHTH_PLACE, EVERY_PLACE])


def list_places(stride: int, *, is_complete: bool) -> Iterator[tuple[int, bool]]:
    """The number of a request at which a job is killed, and whether this is after its effect."""
    for number in itertools.count(1, stride):
        yield number, False
        yield (number if is_complete else number + stride // 2), True


@PLACES
def test_a_release_whose_machine_is_lost_again_and_again_ends_as_one_that_was_never_interrupted(
    runner: SideBySideRunner,
    side_by_side_cloud: SideBySideCloud,
    job_killer: JobKiller,
    *,
    stride: int,
    is_complete: bool,
) -> None:
    """Each attempt of a job is killed later than the one before it, until one ends before that."""
    before = side_by_side_cloud.add_active_release()
    side_by_side_cloud.pipeline_app.put_app({"policy": {"settleSeconds": 0, "quiesceFunctions": ["Nightly"]}})
    run = runner.create_release()
    run.workflow["jobs"]["release"]["env"]["APP_SETTINGS"] = '{"AzureWebJobs.Nightly.Disabled": "true"}'
    run.unapproved_environments = {"production"}

    def count_kills(job: str, start: Callable[[], WorkflowRun]) -> int:
        """Run a job, and run it again after each kill, until it succeeds. Returns how often it was killed."""
        for kill_count, (number, after_effect) in enumerate(list_places(stride, is_complete=is_complete)):
            with job_killer.kill_at(number, after_effect=after_effect) as is_killed:
                start() if kill_count == 0 else run.rerun_failed()
            if not is_killed():
                assert run.conclusions[job] == "success", job_logs(run)
                return kill_count
            assert run.conclusions[job] == "failure", job_logs(run)
        raise AssertionError("the places have no end")

    assert count_kills("release", run.start) >= 16 // stride
    assert count_kills("promote", lambda: run.approve("production")) >= 12 // stride
    require_success(run)
    assert side_by_side_cloud.releases() == {before: "Draining", version_of(run): "Serving"}
    assert side_by_side_cloud.pipeline_app.get_app()["deployment"] is None
    assert side_by_side_cloud.is_disabled(before, "Nightly")
    assert not side_by_side_cloud.is_disabled(name_of(run), "Nightly")
    resources = side_by_side_cloud.resources()
    assert resources["apps"].keys() == {before, name_of(run)}
    assert resources["apps"][name_of(run)] == deployed_app(name_of(run))
    assert resources["plans"] == 2
    assert resources["containers"] == sorted(f"shopreleases/{name}" for name in (before, name_of(run)))


@PLACES
def test_a_retirement_whose_machine_is_lost_is_completed_by_its_next_attempt(
    runner: SideBySideRunner,
    side_by_side_cloud: SideBySideCloud,
    job_killer: JobKiller,
    *,
    stride: int,
    is_complete: bool,
) -> None:
    kill_count = 0
    for number, after_effect in list_places(stride, is_complete=is_complete):
        name = side_by_side_cloud.add_drained_release()
        run = runner.create_retirement(version=name)
        with job_killer.kill_at(number, after_effect=after_effect) as is_killed:
            run.start()
        if is_killed():
            kill_count += 1
            assert run.conclusions == {"retire": "failure"}, job_logs(run)
            run.rerun_failed()
        require_success(run)
        assert name not in side_by_side_cloud.releases()
        assert name not in side_by_side_cloud.resources()["apps"]
        assert f"shopreleases/{name}" not in side_by_side_cloud.resources()["containers"]
        if not is_killed():
            break
    assert kill_count >= 8 // stride
