"""Expands the templates of an Azure Pipelines pipeline, as Azure Pipelines does before a run."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.state_server import ROOT
from tests.pipelines.ci_machine import load_yaml

_ROOT_KEYS = {"parameters", "trigger", "pr", "schedules", "resources", "variables", "stages"}


_TEMPLATE_KEYS = {"parameters", "steps", "stages"}


_TYPES: dict[str, type | tuple[type, ...]] = {"string": str, "boolean": bool, "number": int, "object": object}


Values = Mapping[str, Any]


class TemplateError(Exception):
    """An error that Azure Pipelines reports before a run starts."""


def expand_pipeline(file: Path, arguments: Values | None = None) -> dict[str, Any]:
    """The pipeline with all of its templates expanded. Raises TemplateError."""
    pipeline: dict[str, Any] = load_yaml(file)
    require_known_keys(pipeline, _ROOT_KEYS, file)
    aliases = {repository["repository"] for repository in pipeline["resources"]["repositories"]}
    return _expand_templates(pipeline, file, arguments or {}, aliases)


def _expand_templates(template: Values, file: Path, arguments: Values, aliases: set[str]) -> dict[str, Any]:
    """A file of a pipeline without its parameters: their values and all templates are filled in. `aliases` are the
    names of repositories that a path such as `steps/swap.yml@safe-deploy` may name."""
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
        require_known_keys(parameter, {"name", "displayName", "type", "default", "values"}, file)
        name = parameter["name"]
        if name not in arguments and "default" not in parameter:
            raise TemplateError(f"{file.name} needs the parameter {name}")
        value = arguments.get(name, parameter.get("default"))
        has_type = isinstance(value, _TYPES[parameter["type"]])
        if not has_type or (parameter["type"] == "number" and isinstance(value, bool)):
            raise TemplateError(f"{file.name}: {name} is not a {parameter['type']}: {value!r}")
        if value not in parameter.get("values", [value]):
            raise TemplateError(f"{file.name}: {name} is not one of {parameter['values']}: {value!r}")
        values[name] = value
    return values


def _expand_content(template: Any, file: Path, parameters: Values, aliases: set[str]) -> Any:
    """Fill in the parameters of a text, list or mapping, and replace each `template:` item by the steps or stages of
    that template."""
    if isinstance(template, str):
        return _substitute_expressions(template, file, parameters)
    if isinstance(template, dict):
        return {key: _expand_content(value, file, parameters, aliases) for key, value in template.items()}
    if not isinstance(template, list):
        return template
    expanded: list[Any] = []
    for item in template:
        if isinstance(item, dict) and "template" in item:
            require_known_keys(item, {"template", "parameters"}, file)
            path, _, alias = item["template"].partition("@")
            if alias and alias not in aliases:
                raise TemplateError(f"{file.name}: no repository {alias}")
            target = (ROOT / path if alias else file.parent / path).resolve()
            template = load_yaml(target)
            require_known_keys(template, _TEMPLATE_KEYS, target)
            arguments = _expand_content(item.get("parameters", {}), file, parameters, aliases)
            [steps_or_stages] = _expand_templates(template, target, arguments, aliases).values()
            expanded.extend(steps_or_stages)
        else:
            expanded.append(_expand_content(item, file, parameters, aliases))
    return expanded


def _substitute_expressions(text: str, file: Path, parameters: Values) -> Any:
    """Replace each `${{ parameters.name }}`. A text that is only one expression becomes the parameter's value, which
    need not be a string."""

    def evaluate_expression(expression: str) -> Any:
        """The value of a template expression, which may only name a parameter."""
        name = re.fullmatch(r"\s*parameters\.(\w+)\s*", expression)
        if name is None or name[1] not in parameters:
            raise TemplateError(f"{file.name}: unsupported expression ${{{{{expression}}}}}")
        return parameters[name[1]]

    if whole := re.fullmatch(r"\$\{\{([^}]*)\}\}", text):
        return evaluate_expression(whole[1])
    return re.sub(r"\$\{\{([^}]*)\}\}", lambda match: str(evaluate_expression(match[1])), text)


def require_known_keys(mapping: Values, known_keys: set[str], file: Path) -> None:
    """Raises TemplateError for a key that this runner does not support."""
    if unknown := set(mapping) - known_keys:
        raise TemplateError(f"{file.name} has keys that this runner does not support: {unknown}")
