"""The templates in infra/, compiled and evaluated by the real Bicep compiler.

The compiler predicts what a deployment would create: it computes parameters, variables, loops, modules and conditions.
It leaves open what only Azure knows, so `predict` puts values in place of that first.
"""

import atexit
import functools
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.platform_programs import program_path

INFRA = Path(__file__).parent.parent.parent / "infra"
TEMPLATES = (
    "main.bicep",
    "event-subscription.bicep",
    "durable-app/slots.bicep",
    "durable-app/shared.bicep",
    "durable-app/release.bicep",
    "pulumi/safe_deploy_pulumi/templates/app-settings.bicep",
    "pulumi/safe_deploy_pulumi/templates/runtime-version.bicep",
)
"""The templates that people deploy, and those that the Pulumi program deploys. All other files are modules of these."""

SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
CLIENT_ID = "client-id"
TOPIC_ENDPOINT = "https://shop-lifecycle.westeurope-1.eventgrid.azure.net/api/events"
TOPIC_KEY = "topic-key"
SCHEDULER_ENDPOINT = "https://shop-scheduler.westeurope.durabletask.io"

PRODUCTION_SETTINGS = "production-settings.json"
STAGING_SETTINGS = "staging-settings.json"
PRODUCTION_RUNTIME = "production-runtime.json"
STAGING_RUNTIME = "staging-runtime.json"

_KNOWN_TO_AZURE = {
    # The values of secure parameters are not shown.
    "@secure()\n": "",
    "environment().suffixes.storage": "'core.windows.net'",
    "environment().suffixes.keyvaultDns": "'.vault.azure.net'",
    "identity.properties.clientId": f"'{CLIENT_ID}'",
    "existingIdentity.properties.clientId": f"'{CLIENT_ID}'",
    "insights.properties.ConnectionString": "'InstrumentationKey=0;IngestionEndpoint=https://insights'",
    "${site.properties.defaultHostName}": "${site.name}.azurewebsites.net",
    "output hostName string = site.properties.defaultHostName": (
        "output hostName string = '${site.name}.azurewebsites.net'"
    ),
    "lifecycleTopic!.properties.endpoint!": f"'{TOPIC_ENDPOINT}'",
    "lifecycleTopic!.listKeys().key1": f"'{TOPIC_KEY}'",
    "${existingScheduler!.properties.endpoint!}": SCHEDULER_ENDPOINT,
    "list('${site.id}/config/appsettings', '2024-11-01').properties": f"loadJsonContent('{PRODUCTION_SETTINGS}')",
    "list('${site::slot.id}/config/appsettings', '2024-11-01').properties": f"loadJsonContent('{STAGING_SETTINGS}')",
    "list('${siteOrSlot}/config/appsettings', '2024-11-01').properties": f"loadJsonContent('{PRODUCTION_SETTINGS}')",
    "reference('${siteOrSlot}/config/web', '2024-11-01').linuxFxVersion": f"loadJsonContent('{PRODUCTION_RUNTIME}')",
    "reference('${site.id}/config/web', '2024-11-01').linuxFxVersion": f"loadJsonContent('{PRODUCTION_RUNTIME}')",
    "reference('${site::slot.id}/config/web', '2024-11-01').linuxFxVersion": f"loadJsonContent('{STAGING_RUNTIME}')",
}
"""Texts of the templates, with what stands for them in an evaluation. Every text occurs in some template."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The resources that a deployment would create or change, and its outputs."""

    resources: list[dict[str, Any]]
    outputs: dict[str, Any]

    def find_all(self, kind: str) -> list[dict[str, Any]]:
        """The resources of a type, such as `Microsoft.Web/sites`."""
        return [resource for resource in self.resources if resource["type"] == kind]

    def find(self, kind: str, name: str = "") -> dict[str, Any]:
        """The only resource of a type whose name ends with `name`."""
        (resource,) = [resource for resource in self.find_all(kind) if resource["name"].endswith(name)]
        return resource

    def app_settings(self, slot: str = "") -> dict[str, str] | None:
        """The app settings that are written to the only app, or to its slot. None if none are written."""
        kind = "Microsoft.Web/sites/slots/config" if slot else "Microsoft.Web/sites/config"
        written = [resource for resource in self.find_all(kind) if resource["name"].endswith("/appsettings")]
        assert len(written) <= 1
        return written[0]["properties"] if written else None

    def roles(self) -> set[tuple[str, str]]:
        """The ids of the assigned roles, each with the name of the resource that it is assigned on."""
        return {
            (
                assignment["properties"]["roleDefinitionId"].rpartition("/")[2],
                re.split(r"/providers/Microsoft.Authorization/|', 'Microsoft.Authorization/", assignment["id"])[
                    0
                ].rpartition("/")[2],
            )
            for assignment in self.find_all("Microsoft.Authorization/roleAssignments")
        }


@functools.cache
def compile_templates() -> dict[str, dict[str, Any]]:
    """Compile the templates of infra/. Returns what the compiler says of each: `contents` and `diagnostics`, which are
    errors, warnings and findings of the linter."""
    return {name: _compiler().call("bicep/compile", path=str(INFRA / name)) for name in TEMPLATES}


def compile_template(name: str) -> dict[str, Any]:
    """A template of infra/ as Azure Resource Manager gets it."""
    template: dict[str, Any] = json.loads(compile_templates()[name]["contents"])
    return template


def list_nested_templates(name: str) -> list[dict[str, Any]]:
    """A template of infra/ and those of its modules."""
    return list(_nested_templates(compile_template(name)))


def predict(
    name: str, parameters: Mapping[str, Any], state: Mapping[str, Any] | None = None, *, resource_group: str = "shop"
) -> Prediction:
    """Evaluate a template of infra/ with these parameters, for a deployment to this resource group.

    `state` is what Azure has now, by the names of files above. What is not in it is empty, as for an app that is new.
    Raises AssertionError with the compiler's message if the evaluation fails."""
    values = "".join(f"param {key} = json('''{json.dumps(value)}''')\n" for key, value in parameters.items())
    with _evaluated_folder(state) as folder:
        (folder / "test.bicepparam").write_text(f"using '{name}'\n{values}")
        return _predict(folder / "test.bicepparam", folder / name, resource_group)


def predict_with_parameter_file(name: str, state: Mapping[str, Any] | None = None) -> Prediction:
    """As `predict`, with the parameters of a file of infra/. It may read the environment variables of this process."""
    with _evaluated_folder(state) as folder:
        return _predict(folder / name, (folder / name).with_suffix(".bicep"))


@contextmanager
def _evaluated_folder(state: Mapping[str, Any] | None) -> Iterator[Path]:
    """A copy of infra/ with values in place of what only Azure knows."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "infra"
        # Pulumi makes an environment with thousands of files beside its program.
        shutil.copytree(INFRA, folder, ignore=shutil.ignore_patterns(".venv*"))
        _replace_what_only_azure_knows(folder)
        empty = {PRODUCTION_SETTINGS: {}, STAGING_SETTINGS: {}, PRODUCTION_RUNTIME: "", STAGING_RUNTIME: ""}
        for file, value in {**empty, **(state or {})}.items():
            for template in TEMPLATES:
                (folder / template).with_name(file).write_text(json.dumps(value))
        yield folder


def _predict(parameter_file: Path, template: Path, resource_group: str = "shop") -> Prediction:
    """Let the compiler predict what a deployment would create."""
    scope = {"tenantId": SUBSCRIPTION, "subscriptionId": SUBSCRIPTION, "location": "westeurope"}
    scope |= {} if "targetScope = 'subscription'" in template.read_text() else {"resourceGroup": resource_group}
    result = _compiler().call("bicep/getSnapshot", path=str(parameter_file), metadata=scope)
    snapshot = json.loads(result["snapshot"])
    assert snapshot["diagnostics"] == []
    return Prediction(snapshot["predictedResources"], snapshot["outputs"])


class _Compiler:
    """A process of the compiler that answers calls by JSON-RPC. Its start takes seconds, a call less than one."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [program_path("bicep"), "jsonrpc", "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._last_id = 0
        atexit.register(self._stop)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and return its result. Raises AssertionError with the compiler's message if it fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._last_id += 1
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": parameters}
        body = json.dumps(request).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self._process.stdin.flush()
        length = 0
        while header := self._process.stdout.readline().strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        response = json.loads(self._process.stdout.read(length))
        assert "result" in response, response["error"]["message"]
        result: dict[str, Any] = response["result"]
        return result

    def _stop(self) -> None:
        """End the process, which ends by itself when its input is closed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


@functools.cache
def _compiler() -> _Compiler:
    """The compiler of this test process."""
    return _Compiler()


def _replace_what_only_azure_knows(folder: Path) -> None:
    """Replace texts of templates by values of the evaluation. Raises AssertionError if a text is not found."""
    missing = set(_KNOWN_TO_AZURE)
    for file in folder.rglob("*.bicep"):
        source = file.read_text()
        for text, value in sorted(_KNOWN_TO_AZURE.items(), key=lambda item: -len(item[0])):
            if text in source:
                missing.discard(text)
                source = source.replace(text, value)
        file.write_text(source)
    assert not missing, f"no template contains {missing}"


def _nested_templates(template: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield template
    for resource in list_resources(template):
        if resource["type"] == "Microsoft.Resources/deployments":
            yield from _nested_templates(resource["properties"]["template"])


def list_resources(template: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The resources of a compiled template, which are a list or have symbolic names."""
    resources = template["resources"]
    return list(resources.values()) if isinstance(resources, dict) else resources
