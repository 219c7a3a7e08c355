"""The containers of Envoy and its follower, as each template in deploy/side-by-side/ describes them."""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from harness.platform_programs import program_path
from harness.state_server import ROOT

TEMPLATES = ROOT / "deploy" / "side-by-side"


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a template. `arguments` follow the entry point of the image, or `entry_point` if it is set.

    `folders` are those that it shares with the other containers, each with the name of its volume."""

    entry_point: tuple[str, ...]
    arguments: tuple[str, ...]
    variables: frozenset[str]
    folders: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RouterContainers:
    """Both containers, and the port that visitors' requests go to."""

    follower: Container
    envoy: Container
    port: int


def read_compose_file() -> RouterContainers:
    """The router's containers as the compose file describes them."""
    services = yaml.safe_load((TEMPLATES / "compose.yaml").read_text())["services"]
    containers = {
        name: Container(
            entry_point=tuple(service.get("entrypoint", ())),
            arguments=tuple(service["command"]),
            variables=frozenset(service.get("environment", ())),
            folders={folder: volume for volume, folder in (text.split(":") for text in service["volumes"])},
        )
        for name, service in services.items()
    }
    (published,) = services["envoy"]["ports"]
    return RouterContainers(**containers, port=int(published.rpartition(":")[2]))


def compile_container_app() -> dict[str, Any]:
    """Compile the Bicep template. Returns its container app, with the values of variables in place of their names.

    Fails on warnings of the linter too."""
    result = subprocess.run(
        [program_path("bicep"), "build", TEMPLATES / "container-app.bicep", "--stdout"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (result.returncode, result.stderr) == (0, "")
    template = json.loads(result.stdout)
    (resource,) = template["resources"]
    app: dict[str, Any] = _resolve(resource, template["variables"])
    return app


def read_container_app(app: Mapping[str, Any]) -> RouterContainers:
    """The router's containers as the Container App describes them."""
    properties = app["properties"]
    containers = {
        container["name"]: Container(
            entry_point=tuple(container.get("command", ())),
            arguments=tuple(container["args"]),
            variables=frozenset(variable["name"] for variable in container.get("env", ())),
            folders={mount["mountPath"]: mount["volumeName"] for mount in container["volumeMounts"]},
        )
        for container in properties["template"]["containers"]
    }
    return RouterContainers(**containers, port=properties["configuration"]["ingress"]["targetPort"])


_VARIABLE = re.compile(r"variables\('(\w+)'\)")


def _resolve(value: Any, variables: Mapping[str, Any]) -> Any:
    """Evaluate the expressions of a compiled template that use nothing but variables; others stay as they are."""
    if isinstance(value, dict):
        return {name: _resolve(member, variables) for name, member in value.items()}
    if isinstance(value, list):
        return [_resolve(item, variables) for item in value]
    if not isinstance(value, str):
        return value
    if variable := re.fullmatch(rf"\[{_VARIABLE.pattern}\]", value):
        return variables[variable[1]]
    if call := re.fullmatch(rf"\[format\('([^']*)'((?:, {_VARIABLE.pattern})+)\)\]", value):
        return call[1].format(*(variables[name] for name in _VARIABLE.findall(call[2])))
    return value


def replace_texts(words: Sequence[str], replacements: Mapping[str, str]) -> list[str]:
    """The words with each of these texts replaced. Every text must occur in some word."""
    replaced = list(words)
    for text, replacement in replacements.items():
        assert any(text in word for word in replaced), text
        replaced = [word.replace(text, replacement) for word in replaced]
    return replaced
