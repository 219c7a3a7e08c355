"""Runs an Azure Pipelines pipeline on this machine: templates, stages, jobs, attempts, variables, logging commands.

It supports what this project's templates use. Anything else in a file is an error."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.state_server import ROOT
from tests.pipelines.ci_machine import KEYS, Cancelled, Machine, ScriptResult, load_yaml, write_sample_app
from tests.pipelines.github_actions_runner import check_out

PROJECT = "6ce954b1-ce1f-45d1-b94d-e6bf2464ba2c"

_ROOT_KEYS = {"parameters", "trigger", "pr", "resources", "variables", "stages"}
_TEMPLATE_KEYS = {"parameters", "steps", "stages"}
_STAGE_KEYS = {"stage", "displayName", "dependsOn", "variables", "jobs"}
_JOB_KEYS = {"displayName", "dependsOn", "pool", "timeoutInMinutes", "variables"}
_STEP_KEYS = {"displayName", "name", "env"}

_TYPES: dict[str, type | tuple[type, ...]] = {"string": str, "boolean": bool, "number": int, "object": object}
_COMMAND = re.compile(r"##vso\[(?P<area>[\w.]+)(?: (?P<properties>[^\]]*))?\](?P<data>.*)")

Values = Mapping[str, Any]


class TemplateError(Exception):
    """An error that Azure Pipelines reports before a run starts."""


# --- templates, before a run ---


def expand_pipeline(file: Path, arguments: Values | None = None) -> dict[str, Any]:
    """The pipeline with all of its templates expanded. Raises TemplateError."""
    pipeline: dict[str, Any] = load_yaml(file)
    _require_known_keys(pipeline, _ROOT_KEYS, file)
    aliases = {repository["repository"] for repository in pipeline["resources"]["repositories"]}
    return _expand_templates(pipeline, file, arguments or {}, aliases)


def _expand_templates(template: Values, file: Path, arguments: Values, aliases: set[str]) -> dict[str, Any]:
    parameters = bind_parameters(template.get("parameters", []), arguments, file)
    body = {key: value for key, value in template.items() if key != "parameters"}
    result: dict[str, Any] = _expand_content(body, file, parameters, aliases)
    return result


def bind_parameters(declared: list[Values], arguments: Values, file: Path) -> dict[str, Any]:
    """The value of every parameter. Raises TemplateError for an unknown or missing one, or one of another type."""
    unknown = set(arguments) - {parameter["name"] for parameter in declared}
    if unknown:
        raise TemplateError(f"{file.name} has no parameters {unknown}")
    values: dict[str, Any] = {}
    for parameter in declared:
        _require_known_keys(parameter, {"name", "displayName", "type", "default", "values"}, file)
        name = parameter["name"]
        if name not in arguments and "default" not in parameter:
            raise TemplateError(f"{file.name} needs the parameter {name}")
        value = arguments.get(name, parameter.get("default"))
        right = isinstance(value, _TYPES[parameter["type"]])
        if not right or (parameter["type"] == "number" and isinstance(value, bool)):
            raise TemplateError(f"{file.name}: {name} is not a {parameter['type']}: {value!r}")
        if value not in parameter.get("values", [value]):
            raise TemplateError(f"{file.name}: {name} is not one of {parameter['values']}: {value!r}")
        values[name] = value
    return values


def _expand_content(template: Any, file: Path, parameters: Values, aliases: set[str]) -> Any:
    if isinstance(template, str):
        return _substitute_expressions(template, file, parameters)
    if isinstance(template, dict):
        return {key: _expand_content(value, file, parameters, aliases) for key, value in template.items()}
    if not isinstance(template, list):
        return template
    expanded: list[Any] = []
    for item in template:
        if isinstance(item, dict) and "template" in item:
            _require_known_keys(item, {"template", "parameters"}, file)
            path, _, alias = item["template"].partition("@")
            if alias and alias not in aliases:
                raise TemplateError(f"{file.name}: no repository {alias}")
            target = (ROOT / path if alias else file.parent / path).resolve()
            template = load_yaml(target)
            _require_known_keys(template, _TEMPLATE_KEYS, target)
            handed = _expand_content(item.get("parameters", {}), file, parameters, aliases)
            [inner] = [value for key, value in _expand_templates(template, target, handed, aliases).items()]
            expanded.extend(inner)
        else:
            expanded.append(_expand_content(item, file, parameters, aliases))
    return expanded


def _substitute_expressions(text: str, file: Path, parameters: Values) -> Any:
    def value(expression: str) -> Any:
        name = re.fullmatch(r"\s*parameters\.(\w+)\s*", expression)
        if name is None or name[1] not in parameters:
            raise TemplateError(f"{file.name}: unsupported expression ${{{{{expression}}}}}")
        return parameters[name[1]]

    if whole := re.fullmatch(r"\$\{\{([^}]*)\}\}", text):
        return value(whole[1])
    return re.sub(r"\$\{\{([^}]*)\}\}", lambda match: str(value(match[1])), text)


# --- a run ---


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
        pipeline = expand_pipeline(file, arguments)
        self.machine = machine
        self.number = number
        self.stages: dict[str, dict[str, Any]] = {stage["stage"]: stage for stage in pipeline["stages"]}
        self.jobs: dict[str, dict[str, PipelineJob]] = {name: {} for name in self.stages}
        self.attempts = dict.fromkeys(self.stages, 0)
        self.installs_for_real = False
        self.builds_for_real = False
        self.artifacts = machine.create_folder("artifacts")
        assert pipeline["variables"] == [{"group": "safe-deploy"}]
        self.secrets = {"STATE_KEY": KEYS["deployer"]}
        for stage in self.stages.values():
            _require_known_keys(stage, _STAGE_KEYS, file)

    def start(self) -> "PipelineRun":
        return self._run_stages(dict.fromkeys(self.stages, frozenset[str]()))

    def rerun_failed(self) -> "PipelineRun":
        """ "Rerun failed jobs", and what depends on them."""
        [stage] = [name for name in self.stages if self.result(name) in {"failed", "canceled"}]
        kept = frozenset(name for name, job in self.jobs[stage].items() if job.result == "succeeded")
        return self._run_stages({stage: kept} | {name: frozenset[str]() for name in self._stages_after(stage)})

    def rerun(self, stage: str) -> "PipelineRun":
        """Run a whole stage again, and the stages that depend on it."""
        return self._run_stages({name: frozenset[str]() for name in [stage, *self._stages_after(stage)]})

    def result(self, stage: str) -> str:
        results = [job.result for job in self.jobs[stage].values()]
        return next((result for result in ("failed", "canceled", "skipped") if result in results), "succeeded")

    @property
    def results(self) -> dict[str, str]:
        return {stage: self.result(stage) for stage in self.stages}

    @property
    def log(self) -> str:
        return "\n".join(
            f"--- {stage}.{name}: {job.result}\n{job.log}"
            for stage, jobs in self.jobs.items()
            for name, job in jobs.items()
        )

    def _stages_after(self, stage: str) -> list[str]:
        names = list(self.stages)
        return names[names.index(stage) + 1 :]

    def _needs(self, name: str) -> list[str]:
        stage = self.stages[name]
        if needs := _as_list(stage.get("dependsOn")):
            return needs
        # By default a stage depends on the stage before it.
        names = list(self.stages)
        return names[: names.index(name)][-1:]

    def _run_stages(self, chosen: Mapping[str, frozenset[str]]) -> "PipelineRun":
        for name, kept in chosen.items():
            self.attempts[name] += 1
            needed = [self.result(other) for other in self._needs(name)]
            for job in self.stages[name]["jobs"]:
                label = job.get("job") or job["deployment"]
                if label in kept:
                    continue
                before = [self.jobs[name][other].result for other in _as_list(job.get("dependsOn"))]
                if any(stage != "succeeded" for stage in [*needed, *before]):
                    self.jobs[name][label] = PipelineJob("skipped")
                else:
                    self.jobs[name][label] = self._run_job(name, label, job)
        return self

    def _run_job(self, stage: str, label: str, job: Values) -> PipelineJob:
        if label == "Build" and not self.builds_for_real:
            # Most tests leave this job out.
            (self.artifacts / "app").mkdir(exist_ok=True)
            (self.artifacts / "app" / "app.zip").touch()
            return PipelineJob("succeeded")
        if "deployment" in job:
            _require_known_keys(job, _JOB_KEYS | {"deployment", "environment", "strategy"}, Path(label))
            [(kind, [(hook, body)])] = [(kind, list(hooks.items())) for kind, hooks in job["strategy"].items()]
            assert (kind, hook, list(body)) == ("runOnce", "deploy", ["steps"])
            steps = body["steps"]
            # By default a deployment job downloads all artifacts.
            assert "download" in steps[0]
        else:
            _require_known_keys(job, _JOB_KEYS | {"job", "steps"}, Path(label))
            steps = job["steps"]
            # By default a job checks out the pipeline's own repository.
            assert any("checkout" in step for step in steps) or label == "Build"
        running = _RunningJob(self, stage, job, self.machine.create_folder(f"{stage}-{label}"))
        if label == "Build" and not any("checkout" in step for step in steps):
            write_sample_app(running.sources)
        for step in steps:
            try:
                ended = running.step(step)
            except Cancelled as cancelled:
                running.job.log += str(cancelled)
                running.job.result = "canceled"
                return running.job
            running.job.log += ended.log
            if ended.code != 0:
                running.job.result = "failed"
                return running.job
        running.job.result = "succeeded"
        return running.job


class _RunningJob:
    """A running job: its folders and variables."""

    def __init__(self, run: PipelineRun, stage: str, job: Values, folder: Path) -> None:
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
        same = re.fullmatch(r"\$\[ dependencies\.(\w+)\.outputs\['(\w+\.\w+)'\] \]", value)
        other = re.fullmatch(r"\$\[ stageDependencies\.(\w+)\.(\w+)\.outputs\['(\w+\.\w+)'\] \]", value)
        assert same or other, f"unsupported expression: {value}"
        stage, job, output = (self.stage, same[1], same[2]) if same else other.groups()  # type: ignore[union-attr]
        return self.run.jobs[stage][job].outputs[output]

    def _expand_macros(self, value: Any) -> str:
        """Expand `$(name)`, which Azure does right before a step. An unknown name is an error here; Azure leaves it as
        it is."""
        known = {**self.system, **self.variables, **self.run.secrets}
        return re.sub(r"\$\(([\w.]+)\)", lambda match: known[match[1]], str(value))

    def step(self, step: Values) -> ScriptResult:
        [kind] = set(step) & {"checkout", "bash", "task", "publish", "download"}
        return {
            "checkout": self._run_checkout,
            "bash": self._run_bash,
            "task": self._run_task,
            "publish": self._run_publish,
            "download": self._run_download,
        }[kind](step)

    def _run_checkout(self, step: Values) -> ScriptResult:
        if step["checkout"] == "self":
            write_sample_app(self.sources)
        elif step["checkout"] != "none":
            _require_known_keys(step, {"checkout", "displayName", "path", "fetchDepth"}, Path("checkout"))
            assert step["checkout"] == "safe-deploy"
            if self.run.installs_for_real:
                check_out(self.folder / step["path"])
        return ScriptResult(0, "")

    def _run_bash(self, step: Values) -> ScriptResult:
        _require_known_keys(step, _STEP_KEYS | {"bash"}, Path("bash"))
        if step.get("displayName") == "Install safe-deploy" and not self.run.installs_for_real:
            self.path.insert(0, self.run.machine.preinstalled)
            return ScriptResult(0, "")
        return self._run_script(step["bash"], step, logged_in=False)

    def _run_task(self, step: Values) -> ScriptResult:
        _require_known_keys(step, _STEP_KEYS | {"task", "inputs"}, Path("task"))
        inputs = dict(step["inputs"])
        if step["task"] == "UsePythonVersion@0":
            assert inputs == {"versionSpec": "3.11"}
            return ScriptResult(0, "")
        assert step["task"] == "AzureCLI@2"
        script = inputs.pop("inlineScript")
        assert inputs == {"azureSubscription": "azure", "scriptType": "bash", "scriptLocation": "inlineScript"}
        return self._run_script(script, step, logged_in=True)

    def _run_publish(self, step: Values) -> ScriptResult:
        _require_known_keys(step, {"publish", "artifact"}, Path("publish"))
        shutil.copytree(self._expand_macros(step["publish"]), self.run.artifacts / step["artifact"])
        return ScriptResult(0, "")

    def _run_download(self, step: Values) -> ScriptResult:
        if step["download"] != "none":
            _require_known_keys(step, {"download", "artifact"}, Path("download"))
            assert step["download"] == "current"
            shutil.copytree(self.run.artifacts / step["artifact"], self.folder / step["artifact"])
        return ScriptResult(0, "")

    def _run_script(self, script: str, step: Values, *, logged_in: bool) -> ScriptResult:
        known = {**self.system, **self.variables, **self.run.secrets}
        assert not [name for name in re.findall(r"\$\(([\w.]+)\)", script) if name in known], "a macro in a script"
        file = self.temporary / f"script-{len(list(self.temporary.glob('script-*')))}.sh"
        file.write_text(script)
        # The environment of every script has all variables except secrets, which a step must map.
        public = {name.upper().replace(".", "_"): value for name, value in {**self.system, **self.variables}.items()}
        env = {
            **self.run.machine.environment(self.folder, logged_in=logged_in, first=self.path),
            **public,
            **{name: self._expand_macros(value) for name, value in step.get("env", {}).items()},
        }
        ended = self.run.machine.run(["bash", "--noprofile", "--norc", str(file)], env, self.sources)
        for line in ended.log.splitlines():
            if match := _COMMAND.search(line):
                self._run_logging_command(match, step)
        return ended

    def _run_logging_command(self, match: re.Match[str], step: Values) -> None:
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
    return [value] if isinstance(value, str) else list(value or [])


def _require_known_keys(value: Values, known: set[str], file: Path) -> None:
    if unknown := set(value) - known:
        raise TemplateError(f"{file.name} has what this does not know: {unknown}")
