"""The commands of docs/azure.md that set up the server by templates, run with stand-ins that evaluate the templates."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.platform_programs import FOLDER_VARIABLE, platform_folder
from tests.documents.documented_environment import STATE_APP, DocumentedEnvironment, open_azure_environment
from tests.documents.markdown_page import list_section_titles
from tests.documents.page_tables import AZURE, FENCE, ROOT
from tests.documents.test_pages import SERVER_BY_HAND, SERVER_BY_TEMPLATES
from tests.infra.bicep import compile_template
from tests.infra.tools import needs_pulumi

ONLY_BY_HAND = {*SERVER_BY_HAND, "Verification", "Topic and subscription"}
"""Sections of which the templates do all."""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[DocumentedEnvironment]:
    """A subscription with a durable app, in which the stand-ins for deployments find the compiler."""
    with open_azure_environment(tmp_path) as opened:
        opened.run_preparation(f"export {FOLDER_VARIABLE}={platform_folder()}")
        yield opened


@pytest.mark.parametrize("way", ["With azd", "With az", pytest.param("With Pulumi", marks=needs_pulumi)])
def test_the_commands_of_a_way_lead_to_the_first_release(way: str, environment: DocumentedEnvironment) -> None:
    left_out = {*ONLY_BY_HAND, *SERVER_BY_TEMPLATES} - {"Templates", way}
    for title in list_section_titles(AZURE):
        if title not in left_out:
            environment.run_section(AZURE, title)


def test_a_second_azd_up_keeps_the_keys(environment: DocumentedEnvironment, tmp_path: Path) -> None:
    for title in ("Names", "Keys", "Templates", "With azd", "Store the keys"):
        environment.run_section(AZURE, title)
    environment.run_preparation("azd up --no-prompt")
    (production,) = json.loads((tmp_path / "cloud.json").read_text())["apps"][STATE_APP]["slots"].values()
    assert production["settings"]["STATE_KEYS"]["value"].endswith("/secrets/state-keys/version3)")
    environment.run_preparation(
        'curl -sS --fail "https://$HOST/api/apps" -H "x-functions-key: $OPERATOR_KEY" --output /dev/null'
    )


def documented_deployments() -> list[tuple[str, set[str]]]:
    """Every template of infra/ that a page deploys, with the names of the parameters that the page gives."""
    deployments = []
    for page in (AZURE, ROOT / "docs" / "side-by-side.md"):
        for _, body in FENCE.findall(page.read_text()):
            for call in re.findall(r"az deployment group create(?:.*\\\n)*.*", body):
                template = re.search(r"--template-file infra/(\S+)", call)
                if template:
                    names = re.findall(r"(?:^| )(\w+)=", call.partition("--parameters")[2], re.MULTILINE)
                    deployments.append((template[1], set(names)))
    return deployments


def test_the_pages_give_every_template_all_that_it_requires_and_nothing_that_it_does_not_know() -> None:
    assert {name for name, _ in documented_deployments()} == {
        "event-subscription.bicep",
        "durable-app/slots.bicep",
        "durable-app/shared.bicep",
        "durable-app/release.bicep",
    }
    for name, names in documented_deployments():
        parameters = compile_template(name)["parameters"]
        required = {parameter for parameter, description in parameters.items() if "defaultValue" not in description}
        assert required <= names <= parameters.keys(), name
