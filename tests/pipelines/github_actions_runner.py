"""Runs a GitHub Actions workflow on this machine: jobs, steps, expressions and attempts.

It supports what this project's workflows use. Anything else in a workflow is an error. Third-party actions are replaced
by fakes. `your-org/safe-deploy@COMMIT` is the action at the root of this repository."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.state_server import ROOT
from tests.pipelines.ci_machine import (
    KEYS,
    STABILIZATION_SECONDS,
    Cancelled,
    Machine,
    MachineLost,
    PipelineApp,
    ScriptResult,
    load_yaml,
    write_sample_app,
)
from tests.pipelines.github_expressions import Values, expand_expressions

ACTION = "your-org/safe-deploy@COMMIT"
EXIT_CODE_OF_SIGINT = 128 + 2
EXIT_CODE_OF_SIGKILL = 128 + 9
"""The exit codes that a shell reports of a program that SIGINT or SIGKILL has ended."""

_WORKFLOW_KEYS = {"name", "on", "permissions", "defaults", "concurrency", "env", "jobs"}
_JOB_KEYS = {"name", "needs", "runs-on", "timeout-minutes", "environment", "permissions", "outputs", "env", "steps"}
_STEP_KEYS = {"name", "id", "if", "uses", "with", "env", "run", "shell"}
_SHELL = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]  # `shell: bash`
_NO_SHELL = ["bash", "-e"]  # without `shell`


@dataclass
class WorkflowJob:
    """The result of a job in one attempt."""

    conclusion: str = ""
    log: str = ""
    summary: str = ""
    steps: dict[str, str] = field(default_factory=dict)
    """The conclusion of each step, by its name."""


class WorkflowRun:
    """One run of a workflow, with its attempts. `attempt` is the number of the last one, `jobs` have the last result
    of each job."""

    def __init__(
        self, file: Path, machine: Machine, pipeline_app: PipelineApp, number: int, inputs: Values | None = None
    ) -> None:
        """Prepare a run of a workflow file, with the variables and secrets of its repository."""
        self.workflow = load_yaml(file)
        self.machine = machine
        self.number = number
        self.attempt = 0
        self.jobs: dict[str, WorkflowJob] = {}
        self.outputs: dict[str, dict[str, str]] = {}
        # By default, safe-deploy is preinstalled and the job that builds the app is replaced, which saves time.
        self.installs_for_real = False
        self.builds_for_real = False
        self.unapproved_environments: set[str] = set()
        """The environments whose reviewers have not approved. A job with one of them is `waiting`."""
        self.inputs = self._check_inputs(inputs or {})
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
            "APP": pipeline_app.name,
            "LOCATION": "westeurope",
            "STORAGE_ACCOUNT": "shopreleases",
            "ROUTER_ADDRESS": "203.0.113.7/32",
        }
        self.secrets = {"STATE_KEY": KEYS["deployer"]}
        _require_known_keys(self.workflow, _WORKFLOW_KEYS, file.name)

    # --- operations on a run ---

    def start(self) -> "WorkflowRun":
        """Run all jobs to their end. Returns this run, for chained calls."""
        return self._run_attempt(set(self.workflow["jobs"]))

    def rerun_all(self) -> "WorkflowRun":
        """ "Re-run all jobs"."""
        return self.start()

    def rerun_failed(self) -> "WorkflowRun":
        """ "Re-run failed jobs": those, and what depends on them."""
        failed = {name for name, job in self.jobs.items() if job.conclusion in {"failure", "cancelled"}}
        assert failed, "no job has failed"
        return self._run_attempt(self._with_dependents(failed))

    def approve(self, environment: str) -> "WorkflowRun":
        """Approve what waits for the reviewers of an environment. The waiting jobs run, and what depends on them."""
        self.unapproved_environments.discard(environment)
        waiting = {name for name, job in self.jobs.items() if job.conclusion == "waiting"}
        return self._run_jobs(self._with_dependents(waiting))

    def rerun(self, job: str) -> "WorkflowRun":
        """Re-run one job, and the jobs that depend on it."""
        return self._run_attempt(self._with_dependents({job}))

    @property
    def conclusions(self) -> dict[str, str]:
        """The conclusion of each job in its last attempt, by its name."""
        return {name: job.conclusion for name, job in self.jobs.items()}

    @property
    def url(self) -> str:
        return f"https://github.example/acme/shop/actions/runs/{self.number}"

    # --- attempts and jobs ---

    def _with_dependents(self, jobs: set[str]) -> set[str]:
        """These jobs, and all that depend on them. A workflow of this project lists a job after those it needs."""
        for name in self.workflow["jobs"]:
            if jobs & set(self._needed_jobs(name)):
                jobs = jobs | {name}
        return jobs

    def _needed_jobs(self, job: str) -> list[str]:
        """The jobs that must succeed before this job."""
        needs = self.workflow["jobs"][job].get("needs", [])
        return [needs] if isinstance(needs, str) else list(needs)

    def _run_attempt(self, chosen_jobs: set[str]) -> "WorkflowRun":
        """Run these jobs in a new attempt. The others keep their result."""
        self.attempt += 1
        return self._run_jobs(chosen_jobs)

    def _run_jobs(self, chosen_jobs: set[str]) -> "WorkflowRun":
        """Run these jobs. A job whose needed jobs have not succeeded is skipped."""
        for name, job in self.workflow["jobs"].items():
            if name not in chosen_jobs:
                continue
            needed_conclusions = [self.jobs[other].conclusion for other in self._needed_jobs(name)]
            self.jobs[name] = (
                WorkflowJob("skipped")
                if any(conclusion != "success" for conclusion in needed_conclusions)
                else WorkflowJob("waiting")
                if job.get("environment") in self.unapproved_environments
                else self._run_job(name, job)
            )
        return self

    def _run_job(self, name: str, job: Values) -> WorkflowJob:
        """Run the steps of a job. After a failure, the other steps are skipped. `job` is its definition."""
        _require_known_keys(job, _JOB_KEYS, name)
        steps = job["steps"]
        if name == "build" and not self.builds_for_real:
            # Upload an empty package as the artifact that the job would build. Only steps with outputs run.
            package = self.artifacts / f"app-{self.attempt}"
            package.mkdir()
            (package / "app.zip").touch()
            steps = [step for step in steps if "id" in step]
        folder = self.machine.create_folder(name)
        running = _RunningJob(self, name, job, folder)
        result = WorkflowJob("success")
        for step in steps:
            _require_known_keys(step, _STEP_KEYS, name)
            label = step.get("name") or step.get("uses", "run").partition("@")[0]
            if label in result.steps:
                assert "name" not in step, f"two steps are called {label}"
                label = f"{label}, once more"
            if result.conclusion != "success" or not running.should_run(step):
                result.steps[label] = "skipped"
                continue
            try:
                script_result = running.run_step(step)
            except Cancelled as cancelled:
                script_result = ScriptResult(EXIT_CODE_OF_SIGINT, str(cancelled))
                result.conclusion = "cancelled"
            except MachineLost as lost:
                script_result = ScriptResult(EXIT_CODE_OF_SIGKILL, str(lost))
            result.log += script_result.log
            result.steps[label] = "success" if script_result.code == 0 else "failure"
            if script_result.code != 0 and result.conclusion == "success":
                result.conclusion = "failure"
        result.summary = running.read_summaries()
        if result.conclusion == "success":
            outputs = job.get("outputs", {})
            self.outputs[name] = {key: running.evaluate(value) for key, value in outputs.items()}
        return result

    def _check_inputs(self, arguments: Values) -> Values:
        """The inputs of the run: those that the workflow declares. One that is not given is empty, as in a run that the
        schedule has started."""
        declared = (self.workflow["on"].get("workflow_dispatch") or {}).get("inputs", {})
        assert set(arguments) <= set(declared), "the workflow has no such input"
        missing = [name for name in declared if name not in arguments]
        assert "schedule" in self.workflow["on"] or not any(declared[name]["required"] for name in missing)
        return {**dict.fromkeys(missing, ""), **arguments}

    def needs_context(self, job: str) -> dict[str, Any]:
        """The context `needs` of a job: the outputs of the jobs that it needs."""
        return {name: {"outputs": self.outputs.get(name, {})} for name in self._needed_jobs(job)}


class _RunningJob:
    """A running job: its folders, the outputs of its steps, and its expressions."""

    def __init__(self, run: WorkflowRun, name: str, job: Values, folder: Path) -> None:
        """Prepare a job: its folders, and the contexts and variables that its expressions read."""
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
            "needs": run.needs_context(name),
            "steps": {},
            "env": {},
        }
        self.env = self.contexts["env"] = {"SAFE_DEPLOY_STABILIZATION_WINDOW": STABILIZATION_SECONDS}
        for arguments in (run.workflow.get("env", {}), job.get("env", {})):
            self.env |= {key: self.evaluate(value) for key, value in arguments.items()}
        if not run.installs_for_real:
            # The action installs it at its first use in a job.
            programs = self.temporary / "safe-deploy" / "bin"
            shutil.copytree(run.machine.preinstalled, programs)
            (programs.parent / "installed").write_text(str(ROOT))

    def evaluate(self, template: Any) -> str:
        """The text with its `${{ }}` expressions evaluated in the contexts of this job."""
        return expand_expressions(template, self.contexts)

    def should_run(self, step: Values) -> bool:
        """Whether the condition `if` of a step holds. A step without it always runs."""
        return "if" not in step or self.evaluate(step["if"]) == "true"

    def read_summaries(self) -> str:
        """The job summary: what all steps have written to GITHUB_STEP_SUMMARY."""
        return "".join(file.read_text() for file in sorted(self.temporary.glob("summary-*")))

    def run_step(self, step: Values) -> ScriptResult:
        """Run a script, this project's action, or the fake of a third-party action."""
        self.contexts["steps"].setdefault(step.get("id", ""), {"outputs": {}})
        if "run" in step:
            assert "shell" not in step
            env = {key: self.evaluate(value) for key, value in step.get("env", {}).items()}
            script_result, outputs = self._run_script(step["run"], {**self.env, **env})
        elif step["uses"] == ACTION:
            script_result, outputs = self._run_our_action(step)
        else:
            assert "env" not in step
            return self._run_third_party_action(step)
        self.contexts["steps"][step.get("id", "")] = {"outputs": outputs}
        return script_result

    def _run_script(
        self, script: str, env: Values, action_folder: Path | None = None
    ) -> tuple[ScriptResult, dict[str, str]]:
        """Run a script of the workflow, or of the action in `action_folder`. Returns its result and its outputs."""
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
            **({"GITHUB_ACTION_PATH": str(action_folder)} if action_folder else {}),
            **env,
        }
        shell = (
            _SHELL if action_folder or self.run.workflow.get("defaults") == {"run": {"shell": "bash"}} else _NO_SHELL
        )
        script_result = self.run.machine.run([*shell, str(script_file)], arguments, self.workspace)
        return script_result, _parse_outputs(output.read_text())

    def _run_our_action(self, step: Values) -> tuple[ScriptResult, dict[str, str]]:
        """Run the steps of `action.yml`, until one fails. Returns the result and the outputs of the action."""
        action = load_yaml(ROOT / "action.yml")
        arguments = {key: self.evaluate(value) for key, value in step.get("with", {}).items()}
        unknown = set(arguments) - set(action["inputs"])
        assert not unknown, f"our action has no inputs {unknown}"
        inputs = {name: arguments.get(name, "") for name in action["inputs"]}
        assert all(inputs[name] for name, declared in action["inputs"].items() if declared.get("required"))
        action_folder = ROOT
        if self.run.installs_for_real:
            action_folder = self.temporary / "action"
            if not action_folder.exists():
                copy_safe_deploy_repository(action_folder)
        log, code = "", 0
        contexts: dict[str, Any] = {"inputs": inputs, "env": self.env, "steps": {}}
        for action_step in action["runs"]["steps"]:
            _require_known_keys(action_step, {"name", "id", "shell", "env", "run"}, "action.yml")
            assert action_step["shell"] == "bash"
            env = {key: expand_expressions(value, contexts) for key, value in action_step.get("env", {}).items()}
            script_result, outputs = self._run_script(action_step["run"], {**self.env, **env}, action_folder)
            contexts["steps"][action_step.get("id", "")] = {"outputs": outputs}
            log, code = log + script_result.log, script_result.code
            if code != 0:
                break
        outputs_by_step = {"run": {"outputs": {}}} | contexts["steps"]
        declared = {name: output["value"] for name, output in action["outputs"].items()}
        outputs = {name: expand_expressions(value, {"steps": outputs_by_step}) for name, value in declared.items()}
        assert set(outputs_by_step["run"]["outputs"]) <= set(declared), "the action hides an output of the command"
        return ScriptResult(code, log), outputs

    def _run_third_party_action(self, step: Values) -> ScriptResult:
        """Run the fake of an action, which must be pinned by commit."""
        arguments = {key: self.evaluate(value) for key, value in step.get("with", {}).items()}
        action, _, commit = step["uses"].partition("@")
        assert re.fullmatch(r"[0-9a-f]{40}", commit), "actions are pinned by commit"
        THIRD_PARTY_ACTIONS[action](self, arguments)
        return ScriptResult(0, f"{action}\n")

    # --- fakes of third-party actions ---

    def check_out_app(self, arguments: Values) -> None:
        """`actions/checkout`: write the files of the app's repository into the workspace."""
        assert arguments in ({}, {"persist-credentials": "false"})
        assert self.permissions.get("contents") == "read"
        write_sample_app(self.workspace)

    def set_up_python(self, arguments: Values) -> None:
        """`actions/setup-python`: the jobs use this process's Python."""
        assert arguments == {"python-version": "3.11"}

    def upload_artifact(self, arguments: Values) -> None:
        """`actions/upload-artifact`: each attempt has a folder of its own."""
        assert set(arguments) == {"name", "path", "if-no-files-found"}
        folder = self.run.artifacts / f"{arguments['name']}-{self.run.attempt}"
        folder.mkdir()
        shutil.copy(arguments["path"], folder)

    def download_artifact(self, arguments: Values) -> None:
        """`actions/download-artifact`: a re-run job finds what other jobs uploaded in an earlier attempt."""
        newest = max(
            self.run.artifacts.glob(f"{arguments['name']}-*"), key=lambda folder: int(folder.name.split("-")[-1])
        )
        assert set(arguments) == {"name", "path"}
        shutil.copytree(newest, arguments["path"])

    def log_in_to_azure(self, arguments: Values) -> None:
        """`azure/login`: later steps of the job have `az` on the PATH."""
        assert arguments == {"client-id": "client", "tenant-id": "tenant", "subscription-id": "subscription"}
        assert self.permissions.get("id-token") == "write"
        # The federated credential requires an environment.
        assert self.job.get("environment")
        self.logged_in = True


THIRD_PARTY_ACTIONS: dict[str, Callable[[_RunningJob, dict[str, str]], None]] = {
    "actions/checkout": _RunningJob.check_out_app,
    "actions/setup-python": _RunningJob.set_up_python,
    "actions/upload-artifact": _RunningJob.upload_artifact,
    "actions/download-artifact": _RunningJob.download_artifact,
    "azure/login": _RunningJob.log_in_to_azure,
}


def copy_safe_deploy_repository(folder: Path) -> None:
    """Copy the files of this repository that the installation of `safe-deploy` needs."""
    folder.mkdir()
    for name in ("action.yml", "pyproject.toml", "README.md", "LICENSE", "requirements-cli.txt"):
        shutil.copy(ROOT / name, folder)
    for name in ("safe_deploy", "pipelines", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    # The package takes its version from here.
    (folder / "state_api").mkdir()
    shutil.copy(ROOT / "state_api" / "__init__.py", folder / "state_api")


def _parse_outputs(text: str) -> dict[str, str]:
    """The outputs in a file GITHUB_OUTPUT, whose entries are `name=value` or `name<<END`, lines and `END`."""
    outputs, lines = {}, iter(text.splitlines())
    for line in lines:
        if heredoc := re.fullmatch(r"([\w-]+)<<(.+)", line):
            value_lines = []
            for value_line in lines:
                if value_line == heredoc[2]:
                    break
                value_lines.append(value_line)
            outputs[heredoc[1]] = "\n".join(value_lines)
        else:
            name, _, value_text = line.partition("=")
            outputs[name] = value_text
    return outputs


def _require_known_keys(mapping: Values, known_keys: set[str], where: str) -> None:
    """Fail for a key that the runner would ignore, because a workflow may rely on it."""
    unknown = set(mapping) - known_keys
    assert not unknown, f"{where} has keys that this runner does not support: {unknown}"
