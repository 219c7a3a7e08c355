"""Runs an Azure Pipelines pipeline on this machine: stages, jobs, attempts, variables, logging commands.

It supports what this project's templates use. Anything else in a file is an error."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.pipelines.azure_pipelines_templates import Values, expand_pipeline, require_known_keys
from tests.pipelines.ci_machine import KEYS, Cancelled, Machine, MachineLost, ScriptResult, write_sample_app
from tests.pipelines.github_actions_runner import copy_safe_deploy_repository

PROJECT = "6ce954b1-ce1f-45d1-b94d-e6bf2464ba2c"

_STAGE_KEYS = {"stage", "displayName", "dependsOn", "variables", "jobs"}
_JOB_KEYS = {"displayName", "dependsOn", "pool", "timeoutInMinutes", "variables"}
_STEP_KEYS = {"displayName", "name", "env"}

_COMMAND = re.compile(r"##vso\[(?P<area>[\w.]+)(?: (?P<properties>[^\]]*))?\](?P<data>.*)")


@dataclass
class PipelineJob:
    """The result of the last attempt of a job."""

    result: str = ""
    log: str = ""
    issues: list[str] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    """Output variables, by `step.variable`."""


class PipelineRun:
    """One run of a pipeline. `secrets` are the variables of the variable group."""

    def __init__(self, file: Path, machine: Machine, number: int, arguments: Values | None = None) -> None:
        """Expand the templates of the pipeline in `file`. `number` is the build id, `arguments` are its parameters."""
        pipeline = expand_pipeline(file, arguments)
        self.machine = machine
        self.number = number
        self.stages: dict[str, dict[str, Any]] = {stage["stage"]: stage for stage in pipeline["stages"]}
        self.jobs: dict[str, dict[str, PipelineJob]] = {name: {} for name in self.stages}
        self.attempts = dict.fromkeys(self.stages, 0)
        # By default, safe-deploy is preinstalled and the job that builds the app is replaced, which saves time.
        self.installs_for_real = False
        self.builds_for_real = False
        self.unapproved_environments: set[str] = set()
        """The environments whose approvers have not approved. A stage with one of them is `waiting`."""
        self.artifacts = machine.create_folder("artifacts")
        assert pipeline["variables"] == [{"group": "safe-deploy"}]
        self.secrets = {"STATE_KEY": KEYS["deployer"]}
        for stage in self.stages.values():
            require_known_keys(stage, _STAGE_KEYS, file)

    def start(self) -> "PipelineRun":
        """Run all stages to their end. Returns this run, for chained calls."""
        return self._run_stages(dict.fromkeys(self.stages, frozenset[str]()))

    def rerun_failed(self) -> "PipelineRun":
        """ "Rerun failed jobs", and what depends on them."""
        [stage] = [name for name in self.stages if self.result(name) in {"failed", "canceled"}]
        succeeded_jobs = frozenset(name for name, job in self.jobs[stage].items() if job.result == "succeeded")
        return self._run_stages(
            {stage: succeeded_jobs} | {name: frozenset[str]() for name in self._stages_after(stage)}
        )

    def approve(self, environment: str) -> "PipelineRun":
        """Approve what waits for the approvers of an environment. The waiting stages run, and what depends on them."""
        self.unapproved_environments.discard(environment)
        [stage] = [name for name in self.stages if self.result(name) == "waiting"]
        stages = {name: frozenset[str]() for name in [stage, *self._stages_after(stage)]}
        return self._run_stages(stages, is_new_attempt=False)

    def rerun(self, stage: str) -> "PipelineRun":
        """Run a whole stage again, and the stages that depend on it."""
        return self._run_stages({name: frozenset[str]() for name in [stage, *self._stages_after(stage)]})

    def result(self, stage: str) -> str:
        """The result of a stage: the worst result of its jobs."""
        results = [job.result for job in self.jobs[stage].values()]
        worse_results = ("failed", "canceled", "skipped", "waiting")
        return next((result for result in worse_results if result in results), "succeeded")

    @property
    def results(self) -> dict[str, str]:
        """The result of each stage, by its name."""
        return {stage: self.result(stage) for stage in self.stages}

    @property
    def log(self) -> str:
        """The logs of the last attempt of every job, for messages of assertions."""
        return "\n".join(
            f"--- {stage}.{name}: {job.result}\n{job.log}"
            for stage, jobs in self.jobs.items()
            for name, job in jobs.items()
        )

    def _stages_after(self, stage: str) -> list[str]:
        """All later stages. In this project's pipelines each stage depends on the one before it."""
        names = list(self.stages)
        return names[names.index(stage) + 1 :]

    def _needed_stages(self, name: str) -> list[str]:
        """The stages that must succeed before this stage. By default that is the stage before it."""
        if needed := _as_list(self.stages[name].get("dependsOn")):
            return needed
        names = list(self.stages)
        return names[: names.index(name)][-1:]

    def _run_stages(
        self, kept_jobs_by_stage: Mapping[str, frozenset[str]], *, is_new_attempt: bool = True
    ) -> "PipelineRun":
        """Run these stages in their order. The jobs given with a stage keep their result and are not run again."""
        for name, kept_jobs in kept_jobs_by_stage.items():
            self.attempts[name] += is_new_attempt
            results_of_needed_stages = [self.result(other) for other in self._needed_stages(name)]
            for job in self.stages[name]["jobs"]:
                label = job.get("job") or job["deployment"]
                if label in kept_jobs:
                    continue
                results_of_needed_jobs = [self.jobs[name][other].result for other in _as_list(job.get("dependsOn"))]
                if any(result != "succeeded" for result in [*results_of_needed_stages, *results_of_needed_jobs]):
                    self.jobs[name][label] = PipelineJob("skipped")
                elif job.get("environment") in self.unapproved_environments:
                    self.jobs[name][label] = PipelineJob("waiting")
                else:
                    self.jobs[name][label] = self._run_job(name, label, job)
        return self

    def _run_job(self, stage: str, label: str, job: Values) -> PipelineJob:
        """Run the steps of a job, until one fails. `job` is its definition in the stage."""
        if label == "Build" and not self.builds_for_real:
            # Publish an empty package as the artifact that the job would build.
            (self.artifacts / "app").mkdir(exist_ok=True)
            (self.artifacts / "app" / "app.zip").touch()
            return PipelineJob("succeeded")
        if "deployment" in job:
            require_known_keys(job, _JOB_KEYS | {"deployment", "environment", "strategy"}, Path(label))
            [(kind, [(hook, body)])] = [(kind, list(hooks.items())) for kind, hooks in job["strategy"].items()]
            assert (kind, hook, list(body)) == ("runOnce", "deploy", ["steps"])
            steps = body["steps"]
            # By default a deployment job downloads all artifacts.
            assert "download" in steps[0]
        else:
            require_known_keys(job, _JOB_KEYS | {"job", "steps"}, Path(label))
            steps = job["steps"]
            # By default a job checks out the pipeline's own repository.
            assert any("checkout" in step for step in steps) or label == "Build"
        running = _RunningJob(self, stage, job, self.machine.create_folder(f"{stage}-{label}"))
        if label == "Build" and not any("checkout" in step for step in steps):
            write_sample_app(running.sources)
        for step in steps:
            try:
                script_result = running.run_step(step)
            except Cancelled as cancelled:
                running.job.log += str(cancelled)
                running.job.result = "canceled"
                return running.job
            except MachineLost as lost:
                running.job.log += str(lost)
                running.job.result = "failed"
                return running.job
            running.job.log += script_result.log
            if script_result.code != 0:
                running.job.result = "failed"
                return running.job
        running.job.result = "succeeded"
        return running.job


class _RunningJob:
    """A running job: its folders and variables."""

    def __init__(self, run: PipelineRun, stage: str, job: Values, folder: Path) -> None:
        """Create the folders of the agent, and evaluate the variables of the job. `job` is its definition."""
        self.run, self.stage, self.job = run, stage, PipelineJob()
        self.folder = folder
        self.sources, self.temporary, self.staging = (folder / name for name in ("s", "temp", "a"))
        for agent_folder in (self.sources, self.temporary, self.staging):
            agent_folder.mkdir()
        self.path: list[Path] = []
        self.system = {
            "Build.BuildId": str(run.number),
            "Build.SourceVersion": "0" * 39 + "7",
            "Build.RequestedFor": "Ada Lovelace",
            "Build.ArtifactStagingDirectory": str(self.staging),
            "Build.SourcesDirectory": str(self.sources),
            "Pipeline.Workspace": str(folder),
            "Agent.TempDirectory": str(self.temporary),
            "System.CollectionUri": "https://dev.azure.example/acme/",
            "System.TeamProject": "Größe & Web Shop",
            "System.TeamProjectId": PROJECT,
            "System.StageAttempt": str(run.attempts[stage]),
            "System.JobAttempt": str(run.attempts[stage]),
            "TF_BUILD": "True",
        }
        arguments = {**run.stages[stage].get("variables", {}), **job.get("variables", {})}
        self.variables = {name: self._evaluate_runtime_expression(value) for name, value in arguments.items()}

    def _evaluate_runtime_expression(self, value: str) -> str:
        """Evaluate `$[ ... ]`, which Azure does when the job starts."""
        output_of_same_stage = re.fullmatch(r"\$\[ dependencies\.(\w+)\.outputs\['(\w+\.\w+)'\] \]", value)
        output_of_other_stage = re.fullmatch(r"\$\[ stageDependencies\.(\w+)\.(\w+)\.outputs\['(\w+\.\w+)'\] \]", value)
        if output_of_same_stage:
            stage, (job, output) = self.stage, output_of_same_stage.groups()
        else:
            assert output_of_other_stage, f"unsupported expression: {value}"
            stage, job, output = output_of_other_stage.groups()
        return self.run.jobs[stage][job].outputs[output]

    def _expand_macros(self, value: Any) -> str:
        """Expand `$(name)`, which Azure does right before a step. An unknown name is an error here; Azure leaves it as
        it is."""
        known = {**self.system, **self.variables, **self.run.secrets}
        return re.sub(r"\$\(([\w.]+)\)", lambda match: known[match[1]], str(value))

    def run_step(self, step: Values) -> ScriptResult:
        """Run a step by its kind, which is the one of its keys that is listed here."""
        [kind] = set(step) & {"checkout", "bash", "task", "publish", "download"}
        return {
            "checkout": self._run_checkout,
            "bash": self._run_bash,
            "task": self._run_task,
            "publish": self._run_publish,
            "download": self._run_download,
        }[kind](step)

    def _run_checkout(self, step: Values) -> ScriptResult:
        """Check out the app's repository (`self`), or this project's repository (`safe-deploy`)."""
        if step["checkout"] == "self":
            write_sample_app(self.sources)
        elif step["checkout"] != "none":
            require_known_keys(step, {"checkout", "displayName", "path", "fetchDepth"}, Path("checkout"))
            assert step["checkout"] == "safe-deploy"
            if self.run.installs_for_real:
                copy_safe_deploy_repository(self.folder / step["path"])
        return ScriptResult(0, "")

    def _run_bash(self, step: Values) -> ScriptResult:
        """Run a script without access to Azure. The installation of safe-deploy is replaced by a program on the PATH,
        unless the run installs for real."""
        require_known_keys(step, _STEP_KEYS | {"bash"}, Path("bash"))
        if step.get("displayName") == "Install safe-deploy" and not self.run.installs_for_real:
            self.path.insert(0, self.run.machine.preinstalled)
            return ScriptResult(0, "")
        return self._run_script(step["bash"], step, logged_in=False)

    def _run_task(self, step: Values) -> ScriptResult:
        """Run a built-in task: `AzureCLI@2` runs a script that is logged in to Azure."""
        require_known_keys(step, _STEP_KEYS | {"task", "inputs"}, Path("task"))
        inputs = dict(step["inputs"])
        if step["task"] == "UsePythonVersion@0":
            assert inputs == {"versionSpec": "3.11"}
            return ScriptResult(0, "")
        assert step["task"] == "AzureCLI@2"
        script = inputs.pop("inlineScript")
        assert inputs.pop("keepAzSessionActive", True) is True
        assert inputs == {"azureSubscription": "azure", "scriptType": "bash", "scriptLocation": "inlineScript"}
        return self._run_script(script, step, logged_in=True)

    def _run_publish(self, step: Values) -> ScriptResult:
        """Copy a folder to the artifacts of the run."""
        require_known_keys(step, {"publish", "artifact"}, Path("publish"))
        shutil.copytree(self._expand_macros(step["publish"]), self.run.artifacts / step["artifact"])
        return ScriptResult(0, "")

    def _run_download(self, step: Values) -> ScriptResult:
        """Copy an artifact of this run into the folder of the job."""
        if step["download"] != "none":
            require_known_keys(step, {"download", "artifact"}, Path("download"))
            assert step["download"] == "current"
            shutil.copytree(self.run.artifacts / step["artifact"], self.folder / step["artifact"])
        return ScriptResult(0, "")

    def _run_script(self, script: str, step: Values, *, logged_in: bool) -> ScriptResult:
        """Run a script with the variables of the job, and carry out the logging commands in its output. With
        `logged_in`, `az` is on the PATH."""
        known = {**self.system, **self.variables, **self.run.secrets}
        assert not [name for name in re.findall(r"\$\(([\w.]+)\)", script) if name in known], "a macro in a script"
        file = self.temporary / f"script-{len(list(self.temporary.glob('script-*')))}.sh"
        file.write_text(script)
        # The environment of every script has all variables except secrets, which a step must map.
        public = {name.upper().replace(".", "_"): value for name, value in {**self.system, **self.variables}.items()}
        env = {
            **self.run.machine.environment(self.folder, logged_in=logged_in, first_on_path=self.path),
            **public,
            **{name: self._expand_macros(value) for name, value in step.get("env", {}).items()},
        }
        script_result = self.run.machine.run(["bash", "--noprofile", "--norc", str(file)], env, self.sources)
        for line in script_result.log.splitlines():
            if match := _COMMAND.search(line):
                self._run_logging_command(match, step)
        return script_result

    def _run_logging_command(self, match: re.Match[str], step: Values) -> None:
        """Carry out a command `##vso[area properties]data` that a step has printed."""
        pairs = (pair.partition("=") for pair in (match["properties"] or "").split(";") if pair)
        properties = {name.strip(): value for name, _, value in pairs}
        data = match["data"].replace("%0D", "\r").replace("%0A", "\n").replace("%AZP25", "%")
        match match["area"]:
            case "task.setvariable":
                assert properties["isOutput"] == "true"
                self.job.outputs[f"{step['name']}.{properties['variable']}"] = data
            case "task.prependpath":
                self.path.insert(0, Path(data))
            case "task.logissue":
                self.job.issues.append(data)
            case "task.uploadsummary":
                assert Path(data).is_file()
            case area:
                raise AssertionError(f"unsupported command: {area}")


def _as_list(value: Any) -> list[str]:
    """A member of a pipeline that may be a string, a list of strings, or missing."""
    return [value] if isinstance(value, str) else list(value or [])
