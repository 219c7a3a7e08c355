"""Programs for Pulumi, run with Pulumi's mocks in `.venv-pulumi`.

What a program asks Azure for is shown as what a Bicep template would create, so that the same tests hold for both. The
templates that a program hands to Azure are evaluated by the Bicep compiler.
"""

import atexit
import functools
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.infra.bicep import (
    INFRA,
    PRODUCTION_RUNTIME,
    PRODUCTION_SETTINGS,
    STAGING_RUNTIME,
    STAGING_SETTINGS,
    Prediction,
    predict,
)

PROGRAM = INFRA / "pulumi" / "__main__.py"
TEMPLATES = "pulumi/safe_deploy_pulumi/templates"

_ROOT = INFRA.parent
_PULUMI_PYTHON = _ROOT / ".venv-pulumi" / "bin" / "python"
_RUNNER = Path(__file__).parent / "mocked_pulumi.py"


class ProgramFailedError(Exception):
    """A program ended with an error. The message has its class and its text."""


@dataclass(frozen=True, slots=True)
class PulumiPrediction(Prediction):
    """The resources of a program, and its outputs. Each resource has the member `pulumi` with its options.

    `secret_outputs` are the outputs of the program and of its components that are secrets."""

    secret_outputs: list[str]


def is_pulumi_set_up() -> bool:
    """Whether `make test` or `dev/setup pulumi` has set up `.venv-pulumi`."""
    return _PULUMI_PYTHON.exists()


def run_program(source: str, config: Mapping[str, str] | None = None) -> PulumiPrediction:
    """Run a program with the configuration of a stack. Templates that it deploys are not evaluated.

    Raises ProgramFailedError."""
    answer = _runner().run(source, config or {})
    if "error" in answer:
        raise ProgramFailedError(answer["error"])
    return PulumiPrediction(answer["resources"], answer["outputs"], answer["secretOutputs"])


def predict_program(
    source: str, config: Mapping[str, str] | None = None, state: Mapping[str, Any] | None = None
) -> PulumiPrediction:
    """Run a Pulumi program, and evaluate the templates that it deploys. `state` is what Azure has before
    the deployment, as for `bicep.predict`.

    Raises ProgramFailedError."""
    program = run_program(source, config)
    resources = [*program.resources]
    for deployment in program.find_all("Microsoft.Resources/deployments"):
        resources += _evaluate(deployment["properties"], state or {})
    return PulumiPrediction(resources, program.outputs, program.secret_outputs)


def _evaluate(deployment: Mapping[str, Any], state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What Azure writes for the deployment of a template, in a slot or in production."""
    (name,) = [
        path.stem
        for path in (INFRA / TEMPLATES).glob("*.json")
        if json.loads(path.read_text()) == deployment["template"]
    ]
    parameters = {key: parameter["value"] for key, parameter in deployment["parameters"].items()}
    settings, runtime = (
        (STAGING_SETTINGS, STAGING_RUNTIME) if parameters["slot"] else (PRODUCTION_SETTINGS, PRODUCTION_RUNTIME)
    )
    current = {PRODUCTION_SETTINGS: state.get(settings, {}), PRODUCTION_RUNTIME: state.get(runtime, "")}
    return predict(f"{TEMPLATES}/{name}.bicep", parameters, current).resources


class _Runner:
    """A process that runs programs. It starts in seconds, because it imports Pulumi, and runs each in less than one."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [_PULUMI_PYTHON, _RUNNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Pulumi prints tracebacks of a program that fails, whose error is in the answer.
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(INFRA / "pulumi")},
            text=True,
        )
        atexit.register(self._stop)

    def run(self, source: str, config: Mapping[str, str]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"source": source, "config": config}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def _stop(self) -> None:
        """End the process, which ends by itself when its input is closed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


@functools.cache
def _runner() -> _Runner:
    """The process of this test process."""
    return _Runner()
