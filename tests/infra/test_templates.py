"""What holds for every template: no warning, no secret in an output, encrypted connections, no access by keys."""

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.functions_host import copy_deployed_app
from harness.state_server import ROOT
from tests.infra.bicep import (
    INFRA,
    TEMPLATES,
    compile_template,
    compile_templates,
    list_nested_templates,
    list_resources,
)
from tests.pipelines.shellcheck import run_shellcheck

ACCEPTED_WARNINGS: dict[str, str] = {}
"""Rules of the linter that may warn, each with the reason. None at present."""

each_template = pytest.mark.parametrize("name", TEMPLATES)


def resources_of(name: str, kind: str) -> list[dict[str, Any]]:
    """The resources of a type in a template and its modules that the template creates."""
    return [
        resource
        for template in list_nested_templates(name)
        for resource in list_resources(template)
        if resource["type"] == kind and not resource.get("existing")
    ]


@each_template
def test_the_compiler_and_its_linter_find_nothing_but_what_is_accepted(name: str) -> None:
    result = compile_templates()[name]
    assert result["success"]
    assert [finding for finding in result["diagnostics"] if finding["code"] not in ACCEPTED_WARNINGS] == []


def test_every_bicep_file_is_a_template_or_is_used_by_one() -> None:
    files = {path.relative_to(INFRA).as_posix() for path in INFRA.rglob("*.bicep")}
    used = set()
    for path in INFRA.rglob("*.bicep"):
        for target in re.findall(r"(?:module \w+|from|using) '([\w./-]+\.bicep)'", path.read_text()):
            used.add((path.parent / target).resolve().relative_to(INFRA).as_posix())
    assert files == {*TEMPLATES, *used}


@each_template
def test_no_output_has_a_secret(name: str) -> None:
    for template in list_nested_templates(name):
        for output, description in template.get("outputs", {}).items():
            value = str(description["value"])
            assert "list" not in value.lower(), output
            assert "parameters(" not in value or not is_any_parameter_secure(template, value), output
            assert "connectionstring" not in value.lower(), output


def is_any_parameter_secure(template: dict[str, Any], expression: str) -> bool:
    """Whether the expression names a secure parameter of the template."""
    names = re.findall(r"parameters\('(\w+)'\)", expression)
    return any(template["parameters"][name]["type"].lower().startswith("secure") for name in names)


@each_template
def test_every_parameter_that_takes_app_settings_or_a_key_is_secure(name: str) -> None:
    for template in list_nested_templates(name):
        for parameter, description in template.get("parameters", {}).items():
            if parameter in {"current", "owned", "topicKey"} and description["type"] != "string":
                assert description["type"].lower().startswith("secure"), parameter


@each_template
def test_storage_accounts_admit_no_keys_no_anonymous_readers_and_no_old_tls(name: str) -> None:
    for account in resources_of(name, "Microsoft.Storage/storageAccounts"):
        assert (
            account["properties"]
            | {
                "allowBlobPublicAccess": False,
                "allowSharedKeyAccess": False,
                "minimumTlsVersion": "TLS1_2",
                "supportsHttpsTrafficOnly": True,
            }
            == account["properties"]
        )


@each_template
def test_function_apps_admit_no_http_no_old_tls_no_ftp_and_no_passwords(name: str) -> None:
    """Flex Consumption has no FTP."""
    slots = resources_of(name, "Microsoft.Web/sites/slots")
    apps = resources_of(name, "Microsoft.Web/sites") + slots
    policies = [
        policy
        for kind in ("sites", "sites/slots")
        for policy in resources_of(name, f"Microsoft.Web/{kind}/basicPublishingCredentialsPolicies")
    ]
    has_ftp = name == "durable-app/slots.bicep"
    assert len(policies) == len(apps) * (2 if has_ftp else 1)
    assert all(policy["properties"] == {"allow": False} for policy in policies)
    for app in apps:
        properties = read_properties(name, app)
        assert properties["httpsOnly"] is True
        configuration = properties["siteConfig"]
        assert (configuration["minTlsVersion"], configuration["scmMinTlsVersion"]) == ("1.2", "1.2")
        assert configuration.get("ftpsState") == ("Disabled" if has_ftp else None)
        assert app["identity"]["type"] == "UserAssigned"


def read_properties(name: str, resource: dict[str, Any]) -> dict[str, Any]:
    """The properties of a resource, which may be a variable of the template."""
    properties = resource["properties"]
    if isinstance(properties, str):
        variable = re.fullmatch(r"\[variables\('(\w+)'\)\]", properties)
        assert variable is not None
        properties = compile_template(name)["variables"][variable[1]]
    assert isinstance(properties, dict)
    return properties


def test_topic_and_vault_admit_no_old_tls_and_no_access_policies() -> None:
    (topic,) = resources_of("main.bicep", "Microsoft.EventGrid/topics")
    assert topic["properties"]["minimumTlsVersionAllowed"] == "1.2"
    (vault,) = resources_of("main.bicep", "Microsoft.KeyVault/vaults")
    assert vault["properties"]["enableRbacAuthorization"] is True
    (insights,) = resources_of("main.bicep", "Microsoft.Insights/components")
    assert insights["properties"]["DisableLocalAuth"] is True


def test_azd_deploys_the_app_of_the_service_between_its_keys_and_its_subscription() -> None:
    configuration = yaml.safe_load((ROOT / "azure.yaml").read_text())
    ((service, description),) = configuration["services"].items()
    (site,) = resources_of("main.bicep", "Microsoft.Web/sites")
    assert site["tags"] == {"azd-service-name": service}
    assert description["host"] == "function"
    hooks = {hook: command["run"] for hook, command in configuration["hooks"].items()}
    assert hooks == {"postprovision": "infra/create-keys.sh", "postdeploy": "infra/subscribe.sh"}
    assert all((ROOT / script).stat().st_mode & 0o111 for script in hooks.values())


def test_the_published_package_has_no_templates(tmp_path: Path) -> None:
    package = copy_deployed_app(ROOT, tmp_path / "package")
    assert not {"infra", "azure.yaml"} & {path.name for path in package.iterdir()}


@pytest.mark.parametrize("script", ["subscribe.sh", "create-keys.sh"])
def test_shellcheck_finds_nothing_in_a_hook(script: str, tmp_path: Path) -> None:
    run_shellcheck((INFRA / script).read_text(), tmp_path)


def run_hook(script: str, folder: Path, az: str) -> "subprocess.CompletedProcess[str]":
    """Run a hook in a folder with this script as `az`. It does not wait between attempts."""
    for program, text in {"az": az, "sleep": 'echo "$*" >> waits'}.items():
        (folder / program).write_text(f"#!/bin/sh\n{text}\n")
        (folder / program).chmod(0o755)
    variables = {
        "PATH": f"{folder}:/usr/bin:/bin",
        "AZURE_RESOURCE_GROUP": "shop-state",
        "STATE_APP": "shop-state-4711",
        "TOPIC": "shop-lifecycle-4711",
        "STORAGE": "shopstate4711",
        "VAULT": "shop-vault-4711",
    }
    command = [INFRA / script]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=60)


def test_the_subscription_is_repeated_until_azure_knows_the_function(tmp_path: Path) -> None:
    fails_twice = 'echo "$*" >> calls; [ "$(wc -l < calls)" -gt 2 ]'
    ended = run_hook("subscribe.sh", tmp_path, fails_twice)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "Lifecycle events are sent to shop-state-4711.\n"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 3
    assert "--template-file infra/event-subscription.bicep" in calls[0]
    names = set(re.findall(r"(\w+)=\S+", calls[0]))
    assert names == set(compile_template("event-subscription.bicep")["parameters"])


@pytest.mark.parametrize(("script", "hook"), [("subscribe.sh", "postdeploy"), ("create-keys.sh", "postprovision")])
def test_a_hook_gives_up_and_says_what_to_do(script: str, hook: str, tmp_path: Path) -> None:
    ended = run_hook(script, tmp_path, "exit 1")
    assert ended.returncode == 1
    assert f"azd hooks run {hook}" in ended.stderr
    assert len((tmp_path / "waits").read_text().splitlines()) == 9


_VAULT = """
echo "$*" >> calls
case "$*" in
  *"secret list"*) [ "$(grep -c 'secret list' calls)" -gt 2 ];;
  *"secret set"*) while [ "$1" != --file ]; do shift; done; cp "$2" .; echo https://vault/secrets/state-keys/1;;
esac
"""
"""A vault whose role takes effect at the third attempt."""


def test_the_first_key_is_stored_when_the_role_is_in_effect(tmp_path: Path) -> None:
    """The server gets the SHA-256, and no call has the key in its arguments."""
    ended = run_hook("create-keys.sh", tmp_path, _VAULT)
    assert ended.returncode == 0, ended.stderr
    key = (tmp_path / "operator-key").read_text()
    assert re.fullmatch("[0-9a-f]{64}", key)
    assert json.loads((tmp_path / "state-keys").read_text()) == [
        {"name": "operators", "role": "admin", "sha256": hashlib.sha256(key.encode()).hexdigest()}
    ]
    calls = (tmp_path / "calls").read_text()
    assert "--settings STATE_KEYS=@Microsoft.KeyVault(SecretUri=https://vault/secrets/state-keys/1)" in calls
    assert key not in calls + ended.stdout + ended.stderr
    assert len((tmp_path / "waits").read_text().splitlines()) == 2


def test_keys_that_exist_are_kept(tmp_path: Path) -> None:
    ended = run_hook("create-keys.sh", tmp_path, 'echo "$*" >> calls; echo state-keys')
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
