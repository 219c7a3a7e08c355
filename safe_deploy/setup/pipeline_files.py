"""Fills in the templates of a pipeline: which files an app needs, and the text of each. Knows no file system."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safe_deploy.setup.pipeline_settings import DeploymentModel, PipelineSettings, format_head
from safe_deploy.setup.remotes import CiSystemName
from safe_deploy.setup.templates import read_template

ACTION_PLACEHOLDER = "your-org/safe-deploy"
WORKFLOW_FOLDER = ".github/workflows"
_AZURE_FOLDER = ".azure-pipelines"

_PLAIN_YAML = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*")
_YAML_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})

_TEMPLATES: Mapping[tuple[CiSystemName, DeploymentModel], Sequence[tuple[str, str]]] = {
    (CiSystemName.GITHUB, DeploymentModel.SLOTS): [("quickstart.yml", "safe-deploy")],
    (CiSystemName.AZURE_PIPELINES, DeploymentModel.SLOTS): [("quickstart.yml", "safe-deploy")],
    **{
        (ci, DeploymentModel.SIDE_BY_SIDE): [
            ("side-by-side.yml", "side-by-side"),
            ("side-by-side-rollback.yml", "side-by-side-rollback"),
            ("side-by-side-retire.yml", "side-by-side-retire"),
        ]
        for ci in CiSystemName
    },
}
"""The templates of each kind of pipeline, with the names that their copies get. The first one releases."""


@dataclass(frozen=True, slots=True)
class PipelineFile:
    """A file of the pipeline: its path in the repository, with slashes, and its text."""

    path: str
    text: str


def list_paths(settings: PipelineSettings) -> list[str]:
    """The paths of the files that these settings lead to."""
    folder = WORKFLOW_FOLDER if settings.ci is CiSystemName.GITHUB else _AZURE_FOLDER
    names = [name for _, name in _TEMPLATES[settings.ci, settings.model]]
    return [f"{folder}/{name}{settings.file_suffix}.yml" for name in names]


def list_environments(settings: PipelineSettings) -> list[str]:
    """The environments of the CI system that the pipeline needs."""
    if settings.model is DeploymentModel.SIDE_BY_SIDE:
        return ["release", "production", "rollback", "retire"]
    return [settings.environment] if settings.ci is CiSystemName.GITHUB else ["staging", "production"]


def build_pipeline_files(settings: PipelineSettings) -> list[PipelineFile]:
    """The files of a pipeline, in the order in which a person should read them."""
    paths = list_paths(settings)
    templates = _TEMPLATES[settings.ci, settings.model]
    folder = "github" if settings.ci is CiSystemName.GITHUB else "azure-pipelines"
    return [
        PipelineFile(path, format_head(settings) + _fill(f"{folder}/{template}", settings))
        for path, (template, _) in zip(paths, templates, strict=True)
    ]


def _fill(template: str, settings: PipelineSettings) -> str:
    """The text of a template with the values of the settings."""
    text = read_template(template)
    replacements = {
        "github/quickstart.yml": _list_quickstart_replacements,
        "github/side-by-side.yml": _list_side_by_side_replacements,
        "github/side-by-side-rollback.yml": _list_action_replacements,
        "github/side-by-side-retire.yml": _list_retire_replacements,
    }.get(template, _list_azure_replacements)(settings, text)
    for pattern, replacement in replacements:
        text, count = re.subn(pattern, lambda _, new=replacement: new, text, flags=re.MULTILINE)  # type: ignore[misc]
        assert count > 0, f"{template} has nothing that matches {pattern}"
    return text


_Replacements = list[tuple[str, str]]
"""Patterns of text in a template, each with the text that replaces all its matches."""


def _list_action_replacements(settings: PipelineSettings, _text: str) -> _Replacements:
    """The action and its commit, which GitHub's workflows name."""
    comment = f" # {settings.action_tag}" if settings.action_tag else ""
    return [(r"your-org/safe-deploy@COMMIT(?: # yours[^\n]*)?", settings.action + comment)]


def _list_quickstart_replacements(settings: PipelineSettings, text: str) -> _Replacements:
    """What `github/quickstart.yml` marks with "yours", apart from how the package is made."""
    slot = f"--resource-group {settings.resource_group} --name {settings.function_app} --slot staging"
    setting = settings.task_hub_setting
    variable = "" if setting == "TASK_HUB" else f", SAFE_DEPLOY_TASK_HUB_SETTING: {format_yaml(setting)}"
    environment = f"SAFE_DEPLOY_APP: {format_yaml(settings.app)}{variable}, SLOT: {json.dumps(slot)} }}"
    return [
        *_list_action_replacements(settings, text),
        (r"branches: \[main\]", f"branches: [{_format_branch_filter(settings.branch)}]"),
        (r"group: release,", f"group: {format_yaml(f'release-{settings.app}')},"),
        (r"SAFE_DEPLOY_APP: shop, SLOT: \"[^\"]*\" } # yours", environment),
        (r"environment: production", f"environment: {format_yaml(settings.environment)}"),
        (r"resource-group: shop # yours", f"resource-group: {format_yaml(settings.resource_group)}"),
        (r"task-hub: shop\$", f"task-hub: {settings.name_prefix}$"),
        (r"TASK_HUB=\$SAFE_DEPLOY_TASK_HUB", f"{setting}=$SAFE_DEPLOY_TASK_HUB"),
        *_list_package_replacements(settings, "zip --quiet --recurse-paths app.zip .", '"$GITHUB_WORKSPACE/app.zip"'),
    ]


def _list_side_by_side_replacements(settings: PipelineSettings, text: str) -> _Replacements:
    """What `github/side-by-side.yml` marks with "yours" and is known: not how the package is made, nor the runtime."""
    return [
        *_list_retire_replacements(settings, text),
        (r"branches: \[main\]", f"branches: [{_format_branch_filter(settings.branch)}]"),
        (r"group: release$", f"group: {format_yaml(f'release-{settings.app}')}"),
        (r"PREFIX: shop # yours", f"PREFIX: {settings.name_prefix} # yours"),
        (r"\"TASK_HUB=\$SAFE_DEPLOY_TASK_HUB\"", f'"{settings.task_hub_setting}=$SAFE_DEPLOY_TASK_HUB"'),
        *_list_package_replacements(settings, 'zip --quiet --recurse-paths "$RUNNER_TEMP/app.zip" .', ""),
    ]


def _list_retire_replacements(settings: PipelineSettings, text: str) -> _Replacements:
    """The action, and the setting with the task hub's name, which the commands check that look at a Function App."""
    setting = settings.task_hub_setting
    variable = "  SAFE_DEPLOY_RESOURCE_GROUP: ${{ vars.RESOURCE_GROUP }}"
    named = f"{variable}\n  SAFE_DEPLOY_TASK_HUB_SETTING: {format_yaml(setting)}" if setting != "TASK_HUB" else variable
    return [*_list_action_replacements(settings, text), (re.escape(variable), named)]


def _list_azure_replacements(settings: PipelineSettings, text: str) -> _Replacements:
    """What the templates of Azure Pipelines mark with "yours", apart from service connections and how the package is
    made."""
    repository, _, reference = settings.action.partition("@")
    branch = format_yaml(settings.branch)
    values = {
        "server": settings.server,
        "app": settings.app,
        "functionApp": settings.function_app,
        "resourceGroup": settings.resource_group,
        "taskHubPrefix": settings.name_prefix,
        "namePrefix": settings.name_prefix,
        "location": settings.location,
        "storageAccount": settings.storage_account,
        "routerAddress": settings.router_address,
        "APP": settings.app,
    }
    replacements = [
        (r"name: your-org/safe-deploy # yours.*$", f"name: {format_yaml(repository)}"),
        (r"ref: refs/tags/v1$", f"ref: refs/tags/{reference}"),
        (r"trigger: \[main\]", f"trigger: [{branch}]"),
        (r"    - main$", f"    - {branch}"),
    ]
    if settings.task_hub_setting != "TASK_HUB":
        parameter = f"taskHubSetting: {format_yaml(settings.task_hub_setting)}"
        replacements += [
            (r"^    key: \$\(STATE_KEY\)$", f"    key: $(STATE_KEY)\n    {parameter}"),
            (r"(?<=side-by-side-retire\.yml@safe-deploy\n            parameters:\n)", f"              {parameter}\n"),
        ]
    zip_command = 'zip --quiet --recurse-paths "$BUILD_ARTIFACTSTAGINGDIRECTORY/app.zip" .'
    replacements += _list_package_replacements(settings, zip_command, "")
    for name, value in values.items():
        replacements += [
            (rf"(?<= ){name}: [^ \n]+ # yours(?:, as all below)?$", f"{name}: {format_yaml(value)}"),
            (rf"^    {name}: shop$", f"    {name}: {format_yaml(value)}"),
            (rf"(?<= ){name}: [^ \n]+ # yours: (?:no|the addresses).*$", f"{name}: {format_yaml(value)}"),
        ]
    # A template has some of these only.
    return [(pattern, new) for pattern, new in replacements if re.search(pattern, text, re.MULTILINE)]


def _list_package_replacements(settings: PipelineSettings, command: str, package: str) -> _Replacements:
    """The commands that make the package and test the app, run in the folder of the app. `package`: where the package
    is, if its path is relative in the template."""
    if not settings.folder:
        return []
    enter = f"cd {shlex.quote(settings.folder)} && "
    packing = command.replace("app.zip .", f"{package} .") if package else command
    install = "python -m pip install --quiet -r requirements.txt -r requirements-dev.txt"
    replacements = [(re.escape(command), enter + packing)]
    return replacements if package else [*replacements, (re.escape(install), enter + install)]


def _format_branch_filter(branch: str) -> str:
    """A branch as a pattern of GitHub's branch filters, in which `+` repeats what is before it."""
    return format_yaml(branch.replace("+", r"\+"))


def format_yaml(text: str) -> str:
    """A text as a scalar of YAML: as it is where every parser reads it as this text, and in double quotes otherwise."""
    if _PLAIN_YAML.fullmatch(text) and text.lower() not in _YAML_WORDS:
        return text
    return json.dumps(text)
