"""The Pulumi program: it asks Azure for what the Bicep templates ask for, protects what cannot be restored, keeps
secrets, and owns nothing that a swap moves."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documents.page_tables import AZURE, FENCE, ROOT, read_section
from tests.infra.bicep import INFRA, Prediction, compile_template
from tests.infra.pulumi_programs import (
    PROGRAM,
    TEMPLATES,
    ProgramFailedError,
    PulumiPrediction,
    predict_program,
    run_program,
)
from tests.infra.roles import ROLE_NAMES
from tests.infra.test_durable_app import RELEASE, new_app_with_slots, new_release
from tests.infra.test_server import SERVER, server_with_task_hubs
from tests.infra.tools import Tool, build_server_configuration, describe_options, predict_release

ADDED_BY_PULUMI = {
    "Microsoft.EventGrid/topics": {"disablelocalauth", "publicnetworkaccess"},
    "Microsoft.Insights/components": {
        "flowtype",
        "ingestionmode",
        "publicnetworkaccessforingestion",
        "publicnetworkaccessforquery",
        "requestsource",
    },
    "Microsoft.Web/sites": {"clientaffinityenabled", "hyperv", "isxenon", "scmsitealsostopped"},
    "Microsoft.Web/sites/slots": {"clientaffinityenabled", "hyperv", "isxenon", "scmsitealsostopped"},
}
"""Members that pulumi-azure-native adds with Azure's own defaults."""

ONLY_IN_BICEP = {"apiversion", "tags"}
"""Members that Pulumi adds by itself, and the tag by which azd finds the app."""

each_pair = pytest.mark.parametrize(
    "predict_with", [server_with_task_hubs, new_app_with_slots, new_release], ids=["server", "slots", "release"]
)


def describe_resources(prediction: Prediction) -> dict[tuple[str, str], dict[str, Any]]:
    """The resources by type and name, with names of members in one spelling."""
    ignored = {
        "Microsoft.Authorization/roleAssignments",  # compared by tests of roles
        "Microsoft.Resources/deployments",  # their resources are compared
        "Microsoft.Storage/storageAccounts/blobServices",  # Azure creates it with the account
    }
    described = {}
    for resource in prediction.resources:
        if resource["type"] not in ignored:
            members = {key: value for key, value in resource.items() if key not in {"id", "type", "name", "pulumi"}}
            members |= members.pop("properties", {})
            described[resource["type"], resource["name"]] = normalize(members)
    return described


def normalize(value: Any) -> Any:
    """Write the names of members as one word, and maps of identities as lists."""
    if isinstance(value, list):
        return [normalize(part) for part in value]
    if not isinstance(value, dict):
        return value
    renamed = {"supportshttpstrafficonly": "enablehttpstrafficonly"}
    members = {}
    for key, part in value.items():
        word = re.sub(r"[._]", "", key).lower() if re.fullmatch(r"[\w.]+", key) else key
        members[renamed.get(word, word)] = [*part] if word == "userassignedidentities" else normalize(part)
    return members


def find_differences(bicep: Any, pulumi: Any, path: str = "") -> list[str]:
    """Where two resources differ. What only Azure knows is not compared."""
    if isinstance(bicep, dict) and isinstance(pulumi, dict):
        return [
            difference
            for key in sorted({*bicep, *pulumi})
            for difference in find_differences(bicep.get(key), pulumi.get(key), f"{path}.{key}")
        ]
    known_to_azure = isinstance(bicep, str) and bicep.startswith("[")
    return [] if bicep == pulumi or known_to_azure else [f"{path}: {bicep!r} in Bicep, {pulumi!r} in Pulumi"]


@each_pair
def test_the_program_asks_azure_for_what_the_template_asks_for(predict_with: Any) -> None:
    bicep, pulumi = (describe_resources(predict_with(tool)) for tool in (Tool.BICEP, Tool.PULUMI))
    assert bicep.keys() == pulumi.keys()
    for (kind, name), members in bicep.items():
        expected = {key: value for key, value in members.items() if key not in ONLY_IN_BICEP}
        asked = {key: value for key, value in pulumi[kind, name].items() if key not in ONLY_IN_BICEP}
        added = ADDED_BY_PULUMI.get(kind, set())
        assert asked.keys() - expected.keys() <= added, name
        assert find_differences(expected, {key: asked[key] for key in asked if key not in added}) == [], name


@each_pair
def test_the_program_and_the_template_assign_the_same_roles(predict_with: Any) -> None:
    assert predict_with(Tool.PULUMI).roles() == predict_with(Tool.BICEP).roles()


def test_the_program_and_the_templates_know_the_same_roles() -> None:
    source = "import pulumi\nfrom safe_deploy_pulumi.roles import Role\n"
    known = run_program(f"{source}pulumi.export('roles', {{role.name: str(role) for role in Role}})").outputs["roles"]
    assert {role: name.replace("_", " ").title() for name, role in known.items()} == ROLE_NAMES
    assert {*re.findall(r"'([0-9a-f-]{36})'", (INFRA / "roles.bicep").read_text())} == {*ROLE_NAMES}


@pytest.mark.parametrize("name", ["app-settings", "runtime-version"])
def test_the_template_that_the_program_deploys_is_compiled(name: str) -> None:
    """If it is not, run `bicep build` on the template."""
    compiled = (INFRA / TEMPLATES / f"{name}.json").read_text()
    assert json.loads(compiled) == compile_template(f"{TEMPLATES}/{name}.bicep")


def run_with_slots() -> PulumiPrediction:
    """The durable app with slots."""
    prediction = new_app_with_slots(Tool.PULUMI)
    assert isinstance(prediction, PulumiPrediction)
    return prediction


def test_no_resource_of_a_program_owns_settings_or_runtimes_that_others_change() -> None:
    """As a resource, settings would replace those that pipelines and swaps have set."""
    for prediction in (server_with_task_hubs(Tool.PULUMI), run_with_slots(), new_release(Tool.PULUMI)):
        asked = [resource for resource in prediction.resources if "pulumi" in resource]
        assert not [resource for resource in asked if resource["name"].endswith(("/appsettings", "/web"))]
        sites = [resource for resource in asked if resource["type"].startswith("Microsoft.Web/sites")]
        for site in sites:
            configuration = site["properties"].get("siteConfig", {})
            assert not {"appSettings", "linuxFxVersion", "netFrameworkVersion"} & configuration.keys()
            assert "enabled" not in site["properties"]


def test_a_program_ignores_no_changes_because_pulumi_would_send_old_values() -> None:
    for prediction in (server_with_task_hubs(Tool.PULUMI), run_with_slots(), new_release(Tool.PULUMI)):
        assert {
            change
            for resource in prediction.resources
            for change in resource.get("pulumi", {}).get("ignoreChanges", [])
        } == set()


def test_a_second_run_hands_azure_the_same_parameters_so_pulumi_has_nothing_to_do() -> None:
    """What pipelines and swaps have changed since is no input of the program."""

    def list_requests() -> list[dict[str, Any]]:
        asked = run_program(PROGRAM.read_text(), build_server_configuration(SERVER)).resources
        return sorted(asked, key=lambda resource: (resource["id"], resource["pulumi"]["name"]))

    assert list_requests() == list_requests()


@pytest.mark.parametrize("slot", ["shop-4711", "shop-4711-staging"])
def test_a_slot_that_is_replaced_gets_its_settings_again(slot: str) -> None:
    for part in ("settings", "runtime"):
        options = describe_options(run_with_slots(), f"{slot}-{part}")
        assert options["replaceWith"] == [slot]


def test_what_cannot_be_restored_is_protected() -> None:
    protected = {
        (resource["type"], resource["name"])
        for prediction in (server_with_task_hubs(Tool.PULUMI), run_with_slots(), new_release(Tool.PULUMI))
        for resource in prediction.resources
        if resource.get("pulumi", {}).get("protect")
    }
    assert protected == {
        ("Microsoft.Storage/storageAccounts", "shopstate4711"),
        ("Microsoft.KeyVault/vaults", "shop-state-4711"),
        ("Microsoft.Storage/storageAccounts", "shopdurable4711"),
        ("Microsoft.Web/sites", "shop-4711"),
        ("Microsoft.Web/sites/slots", "shop-4711/staging"),
    }


def test_settings_are_secrets_and_outputs_are_not() -> None:
    for prediction in (server_with_task_hubs(Tool.PULUMI), run_with_slots(), new_release(Tool.PULUMI)):
        assert isinstance(prediction, PulumiPrediction)
        assert prediction.secret_outputs == []
        settings = [
            resource["pulumi"]
            for resource in prediction.find_all("Microsoft.Resources/deployments")
            if resource["name"].endswith("-settings")
        ]
        assert settings
        assert all(options["secrets"] == ["properties"] for options in settings)


def test_a_secret_that_a_program_exports_is_seen() -> None:
    """Otherwise the test above could not fail."""
    program = "import pulumi\npulumi.export('key', pulumi.Output.secret('k'))\npulumi.export('name', 'n')\n"
    assert run_program(program).secret_outputs == ["key"]


def test_the_subscription_is_created_once_the_code_is_published() -> None:
    kind = "Microsoft.EventGrid/topics/eventSubscriptions"
    configuration = build_server_configuration(SERVER)
    assert not run_program(PROGRAM.read_text(), configuration).find_all(kind)
    published = run_program(PROGRAM.read_text(), {**configuration, "codeIsPublished": "true"})
    assert published.find(kind)["name"] == "shop-lifecycle-4711/state-server"


def test_the_host_starts_when_its_identity_has_its_roles() -> None:
    server = describe_options(server_with_task_hubs(Tool.PULUMI), "shop-state-4711-settings")
    assert "shop-state-4711" in server["dependencies"]
    (site,) = (resource["pulumi"] for resource in server_with_task_hubs(Tool.PULUMI).find_all("Microsoft.Web/sites"))
    assert {
        "shop-state-4711-storage-storage-blob-data-owner",
        "shop-state-4711-storage-storage-table-data-contributor",
        "shop-state-4711-vault-key-vault-secrets-user",
    } <= {*site["dependencies"]}


def test_the_program_exports_the_names_that_the_page_uses() -> None:
    outputs = run_program(PROGRAM.read_text(), build_server_configuration(SERVER)).outputs
    assert outputs == {
        "RG": "shop-state",
        "STATE_APP": "shop-state-4711",
        "STORAGE": "shopstate4711",
        "VAULT": "shop-state-4711",
        "TOPIC": "shop-lifecycle-4711",
        "HOST": "shop-state-4711.azurewebsites.net",
        "PRINCIPAL": "principal-of-shop-state-4711",
    }


def test_the_project_declares_what_the_program_reads() -> None:
    declared = yaml.safe_load((INFRA / "pulumi" / "Pulumi.yaml").read_text())["config"]
    read = re.findall(r'config\.(?:require|get|get_bool)\("(\w+)"', PROGRAM.read_text())
    assert [*declared] == read
    required = {key for key, description in declared.items() if "default" not in description}
    assert required == {*re.findall(r'config\.require\("(\w+)"', PROGRAM.read_text())}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "shop-" + "1" * 30}, "longer than 32 characters"),
        ({"routerAddresses": []}, "no router could call the release"),
    ],
)
def test_a_release_that_could_not_work_is_refused(change: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ProgramFailedError, match=message):
        predict_release(Tool.PULUMI, {**RELEASE, **change})


def read_programs(page: Path) -> list[str]:
    """The Pulumi programs of a page."""
    return [body for language, body in FENCE.findall(page.read_text()) if language == "python" and "pulumi" in body]


def test_the_program_of_the_page_creates_the_app_of_the_page() -> None:
    (program,) = read_programs(AZURE)
    documented = predict_program(program)
    assert describe_resources(documented) == describe_resources(run_with_slots())
    assert documented.roles() == run_with_slots().roles()
    assert documented.outputs == {"host": "shop-4711.azurewebsites.net"}


def test_the_program_of_a_release_gets_its_task_hub_from_the_configuration() -> None:
    (program,) = read_programs(ROOT / "docs" / "side-by-side.md")
    prediction = predict_program(program, {"taskHub": "shop150"})
    assert prediction.outputs == {"address": "https://test.azurewebsites.net"}
    settings = prediction.app_settings()
    assert settings is not None
    assert settings["TASK_HUB"] == "shop150"
    assert settings["AzureWebJobs.SendInvoices.Disabled"] == "true"


def test_the_page_sets_what_the_program_requires_and_nothing_that_it_does_not_know() -> None:
    declared = yaml.safe_load((INFRA / "pulumi" / "Pulumi.yaml").read_text())["config"]
    required = {key for key, description in declared.items() if "default" not in description}
    set_by_page = {*re.findall(r"^pulumi config set (\w+)", read_section(AZURE, "With Pulumi"), re.MULTILINE)}
    assert required <= set_by_page <= declared.keys()
    explained = {*re.findall(r"`(\w+)`", read_section(AZURE, "With Pulumi"))}
    assert declared.keys() - set_by_page - explained == {"pythonVersion"}


def test_an_unknown_provider_is_refused() -> None:
    configuration = build_server_configuration({**SERVER, "guardedTaskHubs": [{"provider": "netherite"}]})
    with pytest.raises(ProgramFailedError, match="provider netherite: must be one of azureStorage, scheduler"):
        run_program(PROGRAM.read_text(), configuration)
