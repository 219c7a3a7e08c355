"""The README of the sample app agrees with the app: functions, settings, options, links and JSON."""

import json
import re
import subprocess
import sys

import pytest

from tests.durable_app.functions.orchestrator_replay import app_functions
from tests.durable_app.functions.published_package import APP, ROOT

PAGE = (APP / "README.md").read_text()


def read_table_rows(heading: str) -> list[list[str]]:
    """The rows of the first table after a text."""
    after = PAGE.split(heading, 1)[1].split("|---", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in after.splitlines()[1:]]


def test_every_http_function_is_documented_with_its_request_and_no_other() -> None:
    indexed = {
        f"`{name}`": f"{function.get_trigger().methods[0].value} `{function.get_trigger().route}`"
        for name, function in app_functions("v2").items()
        if function.get_trigger().type == "httpTrigger"
    }
    assert {row[0]: row[1] for row in read_table_rows("### HTTP\n")} == indexed


def test_every_other_function_is_named() -> None:
    assert all(f"`{name}`" in PAGE for name in app_functions("v2"))


def test_every_setting_is_documented_and_no_other() -> None:
    example = json.loads((APP / "local.settings.example.json").read_text())["Values"]
    assert {row[0].strip("`") for row in read_table_rows("### Settings\n")} == set(example)


@pytest.mark.parametrize("module", ["durable_app.local.engine", "durable_app.local"])
def test_every_option_is_documented_and_no_other(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    options = set(re.findall(r"^  (--[a-z-]+)", done.stdout, re.MULTILINE)) - {"--help"}
    assert {row[0].strip("`") for row in read_table_rows(f"`python -m {module}`:")} == options


def test_every_link_leads_somewhere() -> None:
    headings = {re.sub(r"[^\w\- ]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in PAGE.splitlines()}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        file, _, anchor = target.partition("#")
        assert (APP / file).exists() if file else anchor in headings, target


def test_every_block_of_json_can_be_read() -> None:
    blocks = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    for block in blocks:
        json.loads(block)
