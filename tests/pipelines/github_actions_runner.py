"""Runs a GitHub Actions workflow on this machine: jobs, steps, expressions and attempts.

It supports what this project's workflows use. Anything else in a workflow is an error. Third-party actions are replaced
by fakes. `your-org/safe-deploy@COMMIT` is the action at the root of this repository."""

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.state_server import ROOT
from tests.pipelines.ci_machine import (
    KEYS,
    STABILIZATION_SECONDS,
    Cancelled,
    Machine,
    PipelineApp,
    ScriptResult,
    load_yaml,
    write_sample_app,
)

ACTION = "your-org/safe-deploy@COMMIT"

_WORKFLOW_KEYS = {"name", "on", "permissions", "defaults", "concurrency", "env", "jobs"}
_JOB_KEYS = {"name", "needs", "runs-on", "timeout-minutes", "environment", "permissions", "outputs", "env", "steps"}
_STEP_KEYS = {"name", "id", "if", "uses", "with", "env", "run", "shell"}
_SHELL = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]  # `shell: bash`
_NO_SHELL = ["bash", "-e"]  # without `shell`

Values = Mapping[str, Any]


@dataclass
class WorkflowJob:
    """The result of a job in one attempt."""

    conclusion: str = ""
    log: str = ""
    summary: str = ""
    steps: dict[str, str] = field(default_factory=dict)
    """The conclusion of each step, by its name."""


class WorkflowRun:
    """One run of a workflow, with its attempts."""

    def __init__(
        self, file: Path, machine: Machine, pipeline_app: PipelineApp, number: int, inputs: Values | None = None
    ) -> None:
        self.workflow = load_yaml(file)
        self.machine = machine
        self.number = number
        self.attempt = 0
        self.jobs: dict[str, WorkflowJob] = {}
        self.outputs: dict[str, dict[str, str]] = {}
        self.installs_for_real = False
        self.builds_for_real = False
        self.inputs = self._checked_inputs(inputs or {})
        self.artifacts = machine.create_folder("artifacts")
        self.variables = {
            "AZURE_CLIENT_ID": "client",
            "AZURE_TENANT_ID": "tenant",
            "AZURE_SUBSCRIPTION_ID": "subscription",
            "CLIENT": "client",
            "TENANT": "tenant",
            "SUBSCRIPTION": "subscription",
            "RESOURCE_GROUP": "shop-rg",
            "FUNCTION_APP": pipeline_app.name,
            "STATE_SERVER": pipeline_app.server,
        }
        self.secrets = {"STATE_KEY": KEYS["deployer"]}
        _require_known_keys(self.workflow, _WORKFLOW_KEYS, file.name)

    # --- operations on a run ---

    def start(self) -> "WorkflowRun":
        return self._run_attempt(set(self.workflow["jobs"]))

    def rerun_all(self) -> "WorkflowRun":
        return self.start()

    def rerun_failed(self) -> "WorkflowRun":
        """ "Re-run failed jobs": those, and what depends on them."""
        failed = {name for name, job in self.jobs.items() if job.conclusion in {"failure", "cancelled"}}
        assert failed, "no job has failed"
        return self._run_attempt(self._with_dependents(failed))

    def rerun(self, job: str) -> "WorkflowRun":
        """Re-run one job, and the jobs that depend on it."""
        return self._run_attempt(self._with_dependents({job}))

    @property
    def conclusions(self) -> dict[str, str]:
        return {name: job.conclusion for name, job in self.jobs.items()}

    @property
    def url(self) -> str:
        return f"https://github.example/acme/shop/actions/runs/{self.number}"

    # --- attempts and jobs ---

    def _with_dependents(self, chosen: set[str]) -> set[str]:
        for name in self.workflow["jobs"]:
            if chosen & set(self._needs(name)):
                chosen = chosen | {name}
        return chosen

    def _needs(self, job: str) -> list[str]:
        needs = self.workflow["jobs"][job].get("needs", [])
        return [needs] if isinstance(needs, str) else list(needs)

    def _run_attempt(self, chosen: set[str]) -> "WorkflowRun":
        self.attempt += 1
        for name, job in self.workflow["jobs"].items():
            if name not in chosen:
                continue
            needed = [self.jobs[other].conclusion for other in self._needs(name)]
            self.jobs[name] = (
                WorkflowJob("skipped") if any(job != "success" for job in needed) else self._run_job(name, job)
            )
        return self

    def _run_job(self, name: str, job: Values) -> WorkflowJob:
        _require_known_keys(job, _JOB_KEYS, name)
        if name == "build" and not self.builds_for_real:
            # Most tests leave this job out.
            package = self.artifacts / f"app-{self.attempt}"
            package.mkdir()
            (package / "app.zip").touch()
            return WorkflowJob("success")
        folder = self.machine.create_folder(name)
        running = _RunningJob(self, name, job, folder)
        result = WorkflowJob("success")
        for step in job["steps"]:
            _require_known_keys(step, _STEP_KEYS, name)
            label = step.get("name") or step.get("uses", "run").partition("@")[0]
            if label in result.steps:
                assert "name" not in step, f"two steps are called {label}"
                label = f"{label}, once more"
            if result.conclusion != "success" or not running.should_run(step):
                result.steps[label] = "skipped"
                continue
            try:
                ended = running.step(step)
            except Cancelled as cancelled:
                ended = ScriptResult(130, str(cancelled))
                result.conclusion = "cancelled"
            result.log += ended.log
            result.steps[label] = "success" if ended.code == 0 else "failure"
            if ended.code != 0 and result.conclusion == "success":
                result.conclusion = "failure"
        result.summary = running.summary()
        if result.conclusion == "success":
            outputs = job.get("outputs", {})
            self.outputs[name] = {key: running.text(value) for key, value in outputs.items()}
        return result

    def _checked_inputs(self, arguments: Values) -> Values:
        declared = (self.workflow["on"].get("workflow_dispatch") or {}).get("inputs", {})
        assert set(arguments) == set(declared), "every input is given, and no other"
        return arguments

    def needed(self, job: str) -> dict[str, Any]:
        return {name: {"outputs": self.outputs.get(name, {})} for name in self._needs(job)}


class _RunningJob:
    """A running job: its folders, the outputs of its steps, and its expressions."""

    def __init__(self, run: WorkflowRun, name: str, job: Values, folder: Path) -> None:
        self.run = run
        self.job = job
        # Without permissions a job would have those of the repository's settings.
        self.permissions = job.get("permissions", run.workflow["permissions"])
        self.workspace = folder / "workspace"
        self.temporary = folder / "temp"
        self.home = folder / "home"
        for runner_folder in (self.workspace, self.temporary, self.home):
            runner_folder.mkdir()
        self.logged_in = False
        self.contexts: dict[str, Any] = {
            "github": {"run_id": str(run.number), "run_attempt": str(run.attempt), "sha": "0" * 39 + "7"},
            "runner": {"temp": str(self.temporary)},
            "vars": run.variables,
            "secrets": run.secrets,
            "inputs": run.inputs,
            "needs": run.needed(name),
            "steps": {},
            "env": {},
        }
        self.env = self.contexts["env"] = {"SAFE_DEPLOY_STABILIZATION_WINDOW": STABILIZATION_SECONDS}
        for arguments in (run.workflow.get("env", {}), job.get("env", {})):
            self.env |= {key: self.text(value) for key, value in arguments.items()}
        if not run.installs_for_real:
            # The action installs it at its first use in a job.
            programs = self.temporary / "safe-deploy" / "bin"
            shutil.copytree(run.machine.preinstalled, programs)
            (programs.parent / "installed").write_text(str(ROOT))

    def text(self, template: Any) -> str:
        return expand_expressions(template, self.contexts)

    def should_run(self, step: Values) -> bool:
        return "if" not in step or self.text(step["if"]) == "true"

    def summary(self) -> str:
        return "".join(file.read_text() for file in sorted(self.temporary.glob("summary-*")))

    def step(self, step: Values) -> ScriptResult:
        self.contexts["steps"].setdefault(step.get("id", ""), {"outputs": {}})
        if "run" in step:
            assert "shell" not in step
            env = {key: self.text(value) for key, value in step.get("env", {}).items()}
            ended, outputs = self._run_script(step["run"], {**self.env, **env})
        elif step["uses"] == ACTION:
            ended, outputs = self._run_our_action(step)
        else:
            assert "env" not in step
            return self._run_third_party_action(step)
        self.contexts["steps"][step.get("id", "")] = {"outputs": outputs}
        return ended

    def _run_script(self, script: str, env: Values, action: Path | None = None) -> tuple[ScriptResult, dict[str, str]]:
        assert "${{" not in script, "an expression in a script inserts text that others may write"
        number = len(list(self.temporary.glob("script-*")))
        script_file, output, summary = (self.temporary / f"{kind}-{number}" for kind in ("script", "output", "summary"))
        script_file.write_text(script)
        output.touch()
        summary.touch()
        arguments = {
            **self.run.machine.environment(self.home, logged_in=self.logged_in),
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_REPOSITORY": "acme/shop",
            "GITHUB_RUN_ID": str(self.run.number),
            "GITHUB_RUN_ATTEMPT": str(self.run.attempt),
            "GITHUB_ACTOR": "octocat",
            "GITHUB_TRIGGERING_ACTOR": "octocat",
            "GITHUB_WORKSPACE": str(self.workspace),
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(summary),
            "RUNNER_OS": "Linux",
            "RUNNER_TEMP": str(self.temporary),
            **({"GITHUB_ACTION_PATH": str(action)} if action else {}),
            **env,
        }
        shell = _SHELL if action or self.run.workflow.get("defaults") == {"run": {"shell": "bash"}} else _NO_SHELL
        ended = self.run.machine.run([*shell, str(script_file)], arguments, self.workspace)
        return ended, _parse_outputs(output.read_text())

    def _run_our_action(self, step: Values) -> tuple[ScriptResult, dict[str, str]]:
        action = load_yaml(ROOT / "action.yml")
        arguments = {key: self.text(value) for key, value in step.get("with", {}).items()}
        unknown = set(arguments) - set(action["inputs"])
        assert not unknown, f"our action has no inputs {unknown}"
        inputs = {name: arguments.get(name, "") for name in action["inputs"]}
        assert all(inputs[name] for name, declared in action["inputs"].items() if declared.get("required"))
        path = ROOT
        if self.run.installs_for_real:
            path = self.temporary / "action"
            if not path.exists():
                check_out(path)
        log, code = "", 0
        contexts: dict[str, Any] = {"inputs": inputs, "env": self.env, "steps": {}}
        for inner in action["runs"]["steps"]:
            _require_known_keys(inner, {"name", "id", "shell", "env", "run"}, "action.yml")
            assert inner["shell"] == "bash"
            env = {key: expand_expressions(value, contexts) for key, value in inner.get("env", {}).items()}
            ended, outputs = self._run_script(inner["run"], {**self.env, **env}, path)
            contexts["steps"][inner.get("id", "")] = {"outputs": outputs}
            log, code = log + ended.log, ended.code
            if code != 0:
                break
        handed_on = {"run": {"outputs": {}}} | contexts["steps"]
        declared = {name: output["value"] for name, output in action["outputs"].items()}
        outputs = {name: expand_expressions(value, {"steps": handed_on}) for name, value in declared.items()}
        assert set(handed_on["run"]["outputs"]) <= set(declared), "the action hides an output of the command"
        return ScriptResult(code, log), outputs

    def _run_third_party_action(self, step: Values) -> ScriptResult:
        arguments = {key: self.text(value) for key, value in step.get("with", {}).items()}
        action, _, commit = step["uses"].partition("@")
        assert re.fullmatch(r"[0-9a-f]{40}", commit), "actions are pinned by commit"
        THIRD_PARTY_ACTIONS[action](self, arguments)
        return ScriptResult(0, f"{action}\n")

    # --- fakes of third-party actions ---

    def check_out(self, arguments: Values) -> None:
        assert arguments in ({}, {"persist-credentials": "false"})
        assert self.permissions.get("contents") == "read"
        write_sample_app(self.workspace)

    def set_up_python(self, arguments: Values) -> None:
        assert arguments == {"python-version": "3.11"}

    def upload(self, arguments: Values) -> None:
        assert set(arguments) == {"name", "path", "if-no-files-found"}
        folder = self.run.artifacts / f"{arguments['name']}-{self.run.attempt}"
        folder.mkdir()
        shutil.copy(arguments["path"], folder)

    def download(self, arguments: Values) -> None:
        # A re-run job finds the artifacts that other jobs uploaded in an earlier attempt.
        newest = max(
            self.run.artifacts.glob(f"{arguments['name']}-*"), key=lambda folder: int(folder.name.split("-")[-1])
        )
        assert set(arguments) == {"name", "path"}
        shutil.copytree(newest, arguments["path"])

    def log_in(self, arguments: Values) -> None:
        assert arguments == {"client-id": "client", "tenant-id": "tenant", "subscription-id": "subscription"}
        assert self.permissions.get("id-token") == "write"
        # The federated credential requires an environment.
        assert self.job.get("environment")
        self.logged_in = True


THIRD_PARTY_ACTIONS: dict[str, Callable[[_RunningJob, dict[str, str]], None]] = {
    "actions/checkout": _RunningJob.check_out,
    "actions/setup-python": _RunningJob.set_up_python,
    "actions/upload-artifact": _RunningJob.upload,
    "actions/download-artifact": _RunningJob.download,
    "azure/login": _RunningJob.log_in,
}


def check_out(folder: Path) -> None:
    """Copy the files of this repository that the installation of `safe-deploy` needs."""
    folder.mkdir()
    for name in ("action.yml", "pyproject.toml", "README.md", "LICENSE", "requirements-cli.txt"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "safe_deploy", folder / "safe_deploy", ignore=shutil.ignore_patterns("__pycache__"))
    # The package takes its version from here.
    (folder / "state_api").mkdir()
    shutil.copy(ROOT / "state_api" / "__init__.py", folder / "state_api")


def expand_expressions(template: Any, contexts: Values) -> str:
    """The text with its expressions evaluated. Raises ValueError for an unsupported expression."""
    if isinstance(template, bool):
        return str(template).lower()
    return re.sub(r"\$\{\{(.*?)\}\}", lambda match: _evaluate(match[1].strip(), contexts), str(template))


def _evaluate(expression: str, contexts: Values) -> str:
    if " || " in expression:
        values = (_evaluate(part.strip(), contexts) for part in expression.split(" || "))
        return next((value for value in values if value), "")
    for operator in (" == ", " != "):
        if operator in expression:
            left, right = (_evaluate(part.strip(), contexts) for part in expression.split(operator))
            return str((left == right) is (operator == " == ")).lower()
    if not re.fullmatch(r"[a-z]+(\.[A-Za-z_][\w-]*)+", expression):
        raise ValueError(f"unsupported expression: {expression}")
    context, *path = expression.split(".")
    value: Any = contexts.get(context)
    if value is None:
        raise ValueError(f"{context} is not known here: {expression}")
    for depth, name in enumerate(path):
        if name not in value:
            # On GitHub unknown values are empty. Here only optional values may be unknown.
            if context == "env" or (context in {"steps", "needs"} and depth == 2):
                return ""
            raise ValueError(f"nothing has set {expression}")
        value = value[name]
    return str(value)


def _parse_outputs(text: str) -> dict[str, str]:
    outputs, lines = {}, iter(text.splitlines())
    for line in lines:
        if heredoc := re.fullmatch(r"([\w-]+)<<(.+)", line):
            value = []
            for inner in lines:
                if inner == heredoc[2]:
                    break
                value.append(inner)
            outputs[heredoc[1]] = "\n".join(value)
        else:
            name, _, value_text = line.partition("=")
            outputs[name] = value_text
    return outputs


def _require_known_keys(value: Values, known: set[str], where: str) -> None:
    assert set(value) <= known, f"{where} has what this does not know: {set(value) - known}"
