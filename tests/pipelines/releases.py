"""Releases with the GitHub workflows: starts their runs, and tells the task hubs and marks that these make."""

from pathlib import Path

from tests.pipelines.github import WorkflowRun
from tests.pipelines.harness import PIPELINES, Machine, Shop

DURABLE, DURABLE_ROLLBACK, BLUE_GREEN, BLUE_GREEN_ROLLBACK = COMPLETE = [
    PIPELINES / "github" / f"{name}.yml"
    for name in ("durable", "durable-rollback", "blue-green", "blue-green-rollback")
]

run_numbers = iter(range(10_000_000_000, 20_000_000_000))


class Release:
    """Starts runs of the workflows."""

    def __init__(self, machine: Machine, shop: Shop) -> None:
        self.machine = machine
        self.shop = shop

    def run(self, file: Path, **inputs: str) -> WorkflowRun:
        return WorkflowRun(file, self.machine, self.shop, next(run_numbers), inputs)

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
