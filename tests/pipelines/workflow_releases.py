"""Releases with the GitHub workflows: starts runs, and computes the task hub and release names that they use."""

from pathlib import Path

from tests.pipelines.ci_machine import PIPELINES_FOLDER, Machine, PipelineApp
from tests.pipelines.github_actions_runner import WorkflowRun

(
    DURABLE,
    DURABLE_ROLLBACK,
    BLUE_GREEN,
    BLUE_GREEN_ROLLBACK,
    SIDE_BY_SIDE,
    SIDE_BY_SIDE_ROLLBACK,
    SIDE_BY_SIDE_RETIRE,
) = COMPLETE_WORKFLOWS = [
    PIPELINES_FOLDER / "github" / f"{name}.yml"
    for name in (
        "durable",
        "durable-rollback",
        "blue-green",
        "blue-green-rollback",
        "side-by-side",
        "side-by-side-rollback",
        "side-by-side-retire",
    )
]

run_numbers = iter(range(10_000_000_000, 20_000_000_000))


class ReleaseRunner:
    """Starts runs of the workflows."""

    def __init__(self, machine: Machine, pipeline_app: PipelineApp) -> None:
        self.machine = machine
        self.pipeline_app = pipeline_app

    def run(self, file: Path, **inputs: str) -> WorkflowRun:
        return WorkflowRun(file, self.machine, self.pipeline_app, next(run_numbers), inputs)

    def durable(self) -> WorkflowRun:
        """Run the workflow for an app with durable functions. Fails unless all jobs succeed."""
        run = self.run(DURABLE).start()
        assert set(run.conclusions.values()) == {"success"}, job_logs(run)
        return run

    def blue_green(self) -> WorkflowRun:
        """Run the blue-green workflow. Fails unless all jobs succeed."""
        run = self.run(BLUE_GREEN).start()
        assert set(run.conclusions.values()) == {"success"}, job_logs(run)
        return run

    def deployed_releases(self) -> tuple[str | None, str | None]:
        """The releases in production and in the slot."""
        fake_azure, name = self.pipeline_app.fake_azure, self.pipeline_app.name
        return fake_azure.settings(name).get("RELEASE"), fake_azure.settings(name, "staging").get("RELEASE")


def job_logs(run: WorkflowRun) -> str:
    """The logs of all jobs, for the message of a failed test."""
    return "\n".join(f"--- {name}: {job.conclusion}\n{job.log}" for name, job in run.jobs.items())


def hub_of_run(run: WorkflowRun, attempt: int = 1) -> str:
    """The task hub that the workflow names after its run and attempt."""
    return f"shop{run.number}x{attempt}"


def release_of(run: WorkflowRun, attempt: int = 1) -> str:
    """The version that the workflow names after its run and attempt."""
    return f"{run.number}x{attempt}"
