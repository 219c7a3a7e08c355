"""Every command of the pages, run in the order of the page, and its stated output compared with the real one."""

from pathlib import Path

import httpx
import pytest

from tests.builders import event
from tests.documents.documented_environment import OPERATOR_KEY, open_azure_environment, open_local_environment
from tests.documents.fake_programs import ROOT
from tests.documents.markdown_page import find_command_blocks, list_section_titles

DOCS = ROOT / "docs"
SIDE_BY_SIDE = DOCS / "side-by-side.md"
ROLLOUTS = DOCS / "rollouts.md"
AZURE = DOCS / "azure.md"
SERVER_BY_TEMPLATES = ("Templates", "With azd", "With az", "With Pulumi")
SERVER_BY_HAND = ("Storage and Function App", "Identity and settings", "Key vault", "Code")
"""The sections of docs/azure.md that only some of its ways have. Ways by templates run in tests/infra."""

LOCAL_PAGES = {
    ROOT / "README.md": "",
    DOCS / "curl-walkthrough.md": "make run",
    DOCS / "orchestration-versioning.md": """
        make run
        export SAFE_DEPLOY_SERVER="$STATE_SERVER_URL"
        .venv/bin/python -m dev.task_hub v42 order-1001 Running --version 1.0""",
}
AZURE_PAGES_AFTER_SET_UP = {
    DOCS / "github-actions.md": 'az group create --name "$DURABLE_RG" --location "$LOCATION"',
    DOCS / "azure-pipelines.md": "",
    DOCS / "pipelines.md": "",
    DOCS / "operations.md": 'STATE_STORAGE="$EMULATOR" .venv/bin/python -m dev.task_hub v40 order-1001 Running',
}
"""Each page, with the commands that come before those of the page."""

PAGES_NOT_RUN = {
    DOCS
    / "http-api.md": "requests by themselves, each checked against OpenAPI in tests/documents/test_http_api_page.py",
    SIDE_BY_SIDE: "sections run below; routers run in tests/routers, on a real Envoy and compiled policies",
    ROLLOUTS: "sections run below, with orchestrations that start and end between them",
    DOCS / "settings.md": "keys are made in tests/safe_deploy/test_keys.py, the server is started in tests/server",
    DOCS / "first-hour.md": "played in tests/platform/first_hour on the real programs",
    DOCS / "performance.md": "make bench takes minutes",
    DOCS / "reliability.md": "make test-faults takes minutes",
    DOCS / "releasing.md": "commits, tags and publishes; the check of the wheel is tested in tests/test_release.py",
}
"""Each page, with the reason."""

SIDE_BY_SIDE_FROM_NOTHING = (
    (AZURE, ("Names", "Keys", *SERVER_BY_HAND, "Store the keys")),
    (SIDE_BY_SIDE, ("Prepare",)),
    (AZURE, ("Verification",)),
    (SIDE_BY_SIDE, ("Set up the app", "Routers", "Release, promote, roll back, retire")),
)
"""The sections that docs/side-by-side.md leads through, from nothing to the first promotion and on."""

SIDE_BY_SIDE_APP = """
for release in 140 150; do
  az functionapp create --resource-group "$DURABLE_RG" --name "shop-$release" --storage-account "$DURABLE_STORAGE" \\
    --flexconsumption-location "$LOCATION" --runtime python --runtime-version 3.13 --output none
done
curl -sS -X PUT "https://$HOST/api/apps/$DURABLE_APP" -H "x-functions-key: $OPERATOR_KEY" \\
  -H "Content-Type: application/json" -d '{"model": "sideBySide", "releases": {
  "1.4.0": {"taskHub": "shop140", "address": "https://shop-140.azurewebsites.net"},
  "1.5.0": {"taskHub": "shop150", "address": "https://shop-150.azurewebsites.net"}}}' --fail --output /dev/null
curl -sS -X PUT "https://$HOST/api/apps/$DURABLE_APP/routing" -H "x-functions-key: $OPERATOR_KEY" \\
  -H "Content-Type: application/json" -d '{"active": "1.5.0"}' --fail --output /dev/null
"""
"""An app with two releases, of which 1.5.0 is active, and their Function Apps."""


ROUTE_TO_BASELINE = """
curl -sS -X PUT "https://$HOST/api/apps/$DURABLE_APP/routing" -H "x-functions-key: $OPERATOR_KEY" \\
  -H "Content-Type: application/json" -d '{"active": "1.4.0"}' --fail --output /dev/null
"""
"""Makes release 1.4.0 of SIDE_BY_SIDE_APP the active one, so that 1.5.0 can be rolled out."""


@pytest.mark.parametrize("page", LOCAL_PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_for_this_machine_do_what_it_says(page: Path, tmp_path: Path) -> None:
    with open_local_environment(tmp_path) as environment:
        environment.run_preparation(LOCAL_PAGES[page])
        environment.run_page(page)


def test_the_commands_that_set_up_azure_do_what_the_page_says(tmp_path: Path) -> None:
    with open_azure_environment(tmp_path) as environment:
        for title in list_section_titles(AZURE):
            if title not in SERVER_BY_TEMPLATES:
                environment.run_section(AZURE, title)


@pytest.mark.parametrize("page", AZURE_PAGES_AFTER_SET_UP, ids=lambda page: page.name)
def test_the_commands_of_a_guide_do_what_it_says_after_azure_is_set_up(page: Path, tmp_path: Path) -> None:
    with open_azure_environment(tmp_path, with_state_server=True) as environment:
        environment.run_preparation(AZURE_PAGES_AFTER_SET_UP[page])
        environment.run_page(page)


def test_the_commands_that_lead_from_nothing_to_a_release_side_by_side_do_what_they_say(tmp_path: Path) -> None:
    with open_azure_environment(tmp_path) as environment:
        for page, titles in SIDE_BY_SIDE_FROM_NOTHING:
            for title in titles:
                environment.run_section(page, title)


def test_the_commands_that_adopt_a_function_app_do_what_they_say(tmp_path: Path) -> None:
    with open_azure_environment(tmp_path, with_state_server=True, with_slots=False) as environment:
        environment.run_preparation(
            'STATE_STORAGE="$EMULATOR" .venv/bin/python -m dev.task_hub shop140 order-1001 Running'
        )
        environment.run_section(SIDE_BY_SIDE, "Set up the app")
        environment.run_section(SIDE_BY_SIDE, "Adopt a Function App that exists")


def test_the_commands_that_move_an_app_from_slots_do_what_they_say(tmp_path: Path) -> None:
    with open_azure_environment(tmp_path, with_state_server=True) as environment:
        environment.run_section(SIDE_BY_SIDE, "Move from slots to Flex Consumption")


@pytest.mark.parametrize("title", ["Functions that start work by themselves", "Durable Task Scheduler"])
def test_the_commands_of_a_section_about_releases_do_what_it_says(title: str, tmp_path: Path) -> None:
    with open_azure_environment(tmp_path, with_state_server=True, with_slots=False) as environment:
        environment.run_preparation(SIDE_BY_SIDE_APP)
        environment.run_section(SIDE_BY_SIDE, title)


def test_the_commands_of_a_rollout_do_what_the_page_says(tmp_path: Path) -> None:
    with open_azure_environment(tmp_path, with_state_server=True, with_slots=False) as environment:
        environment.run_preparation(SIDE_BY_SIDE_APP + ROUTE_TO_BASELINE)
        environment.run_section(ROLLOUTS, "Before the first rollout")
        environment.run_section(ROLLOUTS, "Begin a rollout")
        publish_instances(environment.server_url, "shop150", completed=35, failed=3, active=2)
        publish_instances(environment.server_url, "shop140", completed=342, failed=10, active=8)
        for title in ("Watch it", "Pause, resume, finish", "What an abort does"):
            environment.run_section(ROLLOUTS, title)


def publish_instances(server_url: str, task_hub: str, **outcomes: int) -> None:
    """Publish the events of instances that start now. `outcomes` are how many complete, fail and stay active."""
    numbers = iter(range(sum(outcomes.values())))
    ends = [outcome.capitalize() for outcome, count in outcomes.items() for _ in range(count)]
    events = [
        event(task_hub, f"order-{number}", status)
        for number, end in zip(numbers, ends, strict=True)
        for status in ("Running", *([end] if end != "Active" else []))
    ]
    headers = {"x-functions-key": OPERATOR_KEY}
    for first in range(0, len(events), 100):
        part = events[first : first + 100]
        response = httpx.post(f"{server_url}/api/events", json=part, headers=headers, timeout=60)
        assert response.json()["quarantined"] == 0, response.text


def test_no_page_has_commands_that_no_test_runs() -> None:
    pages = {page for page in [ROOT / "README.md", *DOCS.glob("*.md")] if any(find_command_blocks(page))}
    assert pages == {*LOCAL_PAGES, *AZURE_PAGES_AFTER_SET_UP, AZURE, *PAGES_NOT_RUN}
