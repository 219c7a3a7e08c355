"""The pipeline's commands in the demo: deploy a release, promote it, roll back, retire."""

import sys
from dataclasses import dataclass

from dev.demo.pipeline import CommandProcess, Pipeline

_APP_COMMAND = (sys.executable, "-m", "dev.demo_side_by_side.app_command")
_RETIREMENT_RUN = 4


@dataclass(frozen=True, slots=True)
class Release:
    """A release of the demo, which pipeline run `run` deploys. `code` is the version of the sample app's code, `v1` or
    `v2`, which runs with these app settings, `NAME=VALUE`."""

    run: int
    version: str
    task_hub: str
    code: str
    address: str
    settings: tuple[str, ...] = ()


class ReleaseCommands:
    """Runs `safe-deploy` as a pipeline does. Each method raises UnexpectedResult if the command fails."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def release(self, release: Release) -> None:
        """Register a release, and create its Function App."""
        options = ("--version", release.version, "--task-hub", release.task_hub, "--address", release.address)
        settings = [argument for setting in release.settings for argument in ("--setting", setting)]
        self._pipeline.run(release.run, "release", *options, "--", *_APP_COMMAND, "create", release.code, *settings)

    def promote(self, release: Release) -> None:
        """Give all requests to a release. Returns when Envoy routes by it."""
        self._pipeline.run(release.run, "promote", "--version", release.version)

    def roll_back(self, release: Release) -> None:
        """Give all requests back to the release that was active before this one."""
        self._pipeline.run(release.run, "rollback")

    def start_retirement(self, release: Release) -> CommandProcess:
        """Start the command that waits until the release has drained, deletes its Function App and removes it."""
        options = ("--version", release.version, "--wait")
        return self._pipeline.start_command(
            _RETIREMENT_RUN, "retire", *options, "--", *_APP_COMMAND, "delete", live=True
        )
